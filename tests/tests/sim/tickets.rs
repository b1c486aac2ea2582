//! Tickets: each lets one device in, once, while it lasts, and nobody who does not hold it.

use std::time::Duration;

use starling::JoinError;
use starling::proto::pairing::Ticket;
use starling_schema::wire::{JoinRefusal, JoinResponse, SyncPayload};
use starling_tests::sim::{Cluster, FakeMember, Node};

use crate::{LATER, SOON};

const HOUR: Duration = Duration::from_hours(1);

#[test]
fn a_ticket_admits_one_device_once() {
    Cluster::run(701, async |cluster| {
        let [a, b, c] = [cluster.device("a").await, cluster.device("b").await, cluster.device("c").await];
        let ticket = a.ticket(HOUR).await;
        assert_eq!(b.join_with(&ticket).await, Ok(()));
        let alone = c.peer().library();
        assert_eq!(c.join_with(&ticket).await, Err(JoinError::Refused(JoinRefusal::Used.to_string())));
        assert_eq!((c.peer().library(), c.peer().members().await.unwrap().len()), (alone, 1));
        cluster.pass(SOON).await;
        for node in [&a, &b] {
            let names: Vec<_> = node.peer().members().await.unwrap().into_iter().map(|member| member.name).collect();
            assert_eq!(names.len(), 2, "{names:?}");
        }
    });
}

#[test]
fn two_devices_that_show_one_ticket_at_once_get_in_once() {
    Cluster::run(702, async |cluster| {
        let [a, b, c] = [cluster.device("a").await, cluster.device("b").await, cluster.device("c").await];
        let ticket = a.ticket(HOUR).await;
        let (one, two) = futures::join!(b.join_with(&ticket), c.join_with(&ticket));
        assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
        assert_eq!(a.peer().members().await.unwrap().len(), 2);
    });
}

#[test]
fn a_ticket_is_refused_after_its_expiry() {
    Cluster::run(703, async |cluster| {
        let [a, b] = [cluster.device("a").await, cluster.device("b").await];
        let ticket = a.ticket(Duration::from_mins(1)).await;
        cluster.pass(Duration::from_secs(61)).await;
        assert!(matches!(b.join_with(&ticket).await, Err(JoinError::Refused(_))));
        assert_eq!(a.peer().members().await.unwrap().len(), 1);
    });
}

#[test]
fn an_altered_ticket_is_refused_before_anybody_is_asked() {
    Cluster::run(704, async |cluster| {
        let [a, b] = [cluster.device("a").await, cluster.device("b").await];
        let ticket = a.ticket(HOUR).await;
        for at in [9, ticket.len() / 2, ticket.len() - 1] {
            let mut altered: Vec<char> = ticket.chars().collect();
            altered[at] = if altered[at] == 'a' { 'b' } else { 'a' };
            let altered: String = altered.into_iter().collect();
            assert!(matches!(b.join_with(&altered).await, Err(JoinError::Ticket(_))));
        }
        assert!(b.join_with(&ticket[..ticket.len() - 2]).await.is_err());
        assert_eq!(cluster.report().await.tally(b.number()).requests.len(), 0);
        assert_eq!(b.join_with(&ticket).await, Ok(()));
    });
}

#[test]
fn a_ticket_survives_a_restart_of_its_inviter() {
    Cluster::run(705, async |cluster| {
        let [a, b] = [cluster.device("a").await, cluster.device("b").await];
        let ticket = a.ticket(HOUR).await;
        cluster.pass(SOON).await;
        a.kill().await;
        a.start().await;
        assert_eq!(b.join_with(&ticket).await, Ok(()));
        cluster.settle(SOON).await;
    });
}

#[test]
fn a_joiner_whose_admission_was_lost_on_the_way_gets_the_same_answer_again() {
    Cluster::run(706, async |cluster| {
        let [a, b] = [cluster.device("a").await, cluster.device("b").await];
        let ticket = a.ticket(HOUR).await;
        let join = b.join_with(&ticket);
        let lose = async {
            while cluster.report().await.connections.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            cluster.cut(&a, &b).await;
            cluster.pass(Duration::from_secs(5)).await;
            cluster.heal().await;
        };
        let (joined, ()) = futures::join!(join, lose);
        assert_eq!(joined, Ok(()));
        cluster.settle(LATER).await;
        assert_eq!(a.peer().members().await.unwrap().len(), 2);
    });
}

/// Whether a device lets a played one in, which shows it a ticket.
async fn answer(node: &Node, joiner: &FakeMember, ticket: &Ticket) -> Result<usize, JoinRefusal> {
    joiner.admit(vec![ticket.inviter]).await;
    joiner.dial(node.number(), ticket.inviter).await.unwrap();
    match joiner.answer_to(ticket.inviter, joiner.join_request(ticket)).await {
        SyncPayload::JoinResponse(JoinResponse::Admitted { statements, .. }) => Ok(statements.len()),
        SyncPayload::JoinResponse(JoinResponse::Refused(refusal)) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_secret_that_is_wrong_in_any_bit_is_refused_and_counted_and_the_ticket_stays_good() {
    Cluster::run(715, async |cluster| {
        let a = cluster.device("a").await;
        let ticket: Ticket = a.ticket(HOUR).await.parse().unwrap();
        let joiner = FakeMember::stranger(cluster, ticket.library, 9).await;
        for bit in 0..128 {
            let mut wrong = ticket.clone();
            wrong.secret[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(answer(&a, &joiner, &wrong).await, Err(JoinRefusal::Unknown));
        }
        assert_eq!((a.status().await.counters.messages_refused, a.peer().members().await.unwrap().len()), (128, 1));
        assert_eq!(answer(&a, &joiner, &ticket).await, Ok(2));
    });
}

#[test]
fn an_answer_that_was_lost_is_given_again_until_the_ticket_expires_and_to_the_same_device_only() {
    Cluster::run(716, async |cluster| {
        let a = cluster.device("a").await;
        // Another ticket is open all the time: strangers may ask.
        a.ticket(HOUR).await;
        let ticket: Ticket = a.ticket(Duration::from_mins(2)).await.parse().unwrap();
        let joiner = FakeMember::stranger(cluster, ticket.library, 9).await;
        let thief = FakeMember::stranger(cluster, ticket.library, 10).await;
        assert_eq!(answer(&a, &joiner, &ticket).await, Ok(2));
        cluster.pass(Duration::from_mins(1)).await;
        assert_eq!(answer(&a, &joiner, &ticket).await, Ok(2));
        assert_eq!(answer(&a, &thief, &ticket).await, Err(JoinRefusal::Used));
        a.kill().await;
        a.start().await;
        assert_eq!(answer(&a, &joiner, &ticket).await, Ok(2));
        cluster.pass(Duration::from_mins(1)).await;
        assert_eq!(answer(&a, &joiner, &ticket).await, Err(JoinRefusal::Expired));
        assert_eq!(answer(&a, &thief, &ticket).await, Err(JoinRefusal::Used));
        assert_eq!(a.peer().members().await.unwrap().len(), 2);
    });
}

#[test]
fn a_ticket_that_was_issued_survives_a_crash_at_once() {
    Cluster::run(717, async |cluster| {
        let [a, b] = [cluster.device("a").await, cluster.device("b").await];
        let ticket = a.ticket(HOUR).await;
        a.kill().await;
        a.start().await;
        assert_eq!(b.join_with(&ticket).await, Ok(()));
        cluster.settle(LATER).await;
    });
}
