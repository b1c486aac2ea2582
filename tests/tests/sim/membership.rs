//! Membership: who gets in, and what those who are not in get.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use starling::JoinError;
use starling::network::NetworkError;
use starling::rig::Fault;
use starling_schema::models::{Location, Tag};
use starling_schema::signed::{Beacon, Signed, Statement, StatementBody};
use starling_schema::stream::{Stream, Watermarks};
use starling_schema::wire::{Heartbeat, RefusalKind, SyncPayload};
use starling_tests::check;
use starling_tests::rig::{Interference, Limits};
use starling_tests::sim::{Cluster, FakeMember, Node};

use crate::{LATER, SOON};

const HOUR: Duration = Duration::from_hours(1);

#[test]
fn a_stranger_gets_no_byte_while_no_ticket_is_open() {
    Cluster::run(707, async |cluster| {
        let [a, _b] = cluster.library(["a", "b"]).await;
        cluster.pass(Duration::from_mins(11)).await;
        let key = a.key();
        let stranger = FakeMember::stranger(cluster, a.peer().library(), 9).await;
        let refused = stranger.dial(a.number(), key).await;
        assert_eq!(refused, Err(NetworkError::Failed("the connection was refused".to_owned())));
        a.add_tag("secret").await;
        cluster.pass(LATER).await;
        assert_eq!((stranger.heard().bytes, stranger.heard().connected), (0, 0));
    });
}

#[test]
fn a_stranger_gets_nothing_but_refusals_while_a_ticket_is_open() {
    Cluster::run(708, async |cluster| {
        let [a, _b] = cluster.library(["a", "b"]).await;
        a.ticket(HOUR).await;
        let key = a.key();
        let stranger = FakeMember::stranger(cluster, a.peer().library(), 9).await;
        stranger.dial(a.number(), key).await.unwrap();
        let answer = stranger.ask_refused(key, SyncPayload::Hello(stranger.hello())).await;
        assert_eq!(answer, RefusalKind::NotAMember);
        a.add_tag("secret").await;
        cluster.pass(SOON).await;
        assert_eq!((stranger.heard().bytes, stranger.heard().connected), (0, 1));
    });
}

#[test]
fn a_member_of_another_library_cannot_connect() {
    Cluster::run(709, async |cluster| {
        let [a, _b] = cluster.library(["a", "b"]).await;
        let other = cluster.device("other").await;
        other.add_tag("theirs").await;
        a.add_tag("ours").await;
        cluster.pass(Duration::from_mins(15)).await;
        assert_eq!(cluster.report().await.connections, [(0, 1)].into());
        assert_eq!((other.count::<Tag>().await, a.count::<Tag>().await), (1, 1));
    });
}

#[test]
fn a_forged_beacon_does_not_get_anything_pruned() {
    Cluster::run(710, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let (fake, key) = FakeMember::join(cluster, &a, 1).await;
        cluster.unplug(&b).await;
        a.add_tags(3).await;
        let library = a.peer().library();
        let durable = Watermarks::from_iter([(Stream::shared(a.id()), 1_000)]);
        let beacon = Beacon { library, author: fake.key(), number: u64::MAX, since: None, durable };
        let own = Signed::new(&beacon, &fake.secret()).unwrap();
        // The same words in b's name, with a signature that is not b's.
        let in_bs_name = Beacon { author: b.key(), ..beacon };
        let bytes = starling_schema::codec::encode(&in_bs_name, 1 << 16).unwrap();
        let forged = Signed { bytes, signature: own.signature };
        let heartbeat = Heartbeat { beacons: vec![own, forged], lacks: Vec::new(), membership: [0; 32] };
        let before = crate::refused(&a).await;
        assert_eq!(fake.ask(&a, key, SyncPayload::Heartbeat(heartbeat)).await, SyncPayload::Done);
        cluster.pass(LATER).await;
        assert_eq!(a.status().await.log.entries, 3);
        assert_eq!(crate::refused(&a).await - before, 1);
    });
}

#[test]
fn a_forged_membership_statement_changes_nothing_on_any_path() {
    Cluster::run(711, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let (fake, key) = FakeMember::join(cluster, &a, 1).await;
        let stranger = FakeMember::stranger(cluster, a.peer().library(), 9).await;
        let body = StatementBody::Admit { key: stranger.key(), name: "stranger".to_owned() };
        let library = a.peer().library();
        let forged = Statement { library, author: stranger.key(), at_ms: 0, seen: Vec::new(), body };
        let by_stranger = Signed::new(&forged, &stranger.secret()).unwrap();
        let bytes = starling_schema::codec::encode(&Statement { author: b.key(), ..forged }, 1 << 16).unwrap();
        let in_bs_name = Signed { bytes, signature: by_stranger.signature };
        let mut hello = fake.hello();
        hello.statements.extend([by_stranger, in_bs_name]);
        let before = crate::refused(&a).await;
        fake.ask(&a, key, SyncPayload::Hello(hello)).await;
        cluster.pass(LATER).await;
        // The stranger's own is a sound statement that makes nobody a member; the other is a forgery.
        assert_eq!(crate::refused(&a).await - before, 1);
        for node in [&a, &b] {
            assert_eq!(node.peer().members().await.unwrap().len(), 3);
        }
    });
}

#[test]
fn a_broadcast_in_anothers_name_is_refused() {
    Cluster::run(712, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let (fake, _) = FakeMember::join(cluster, &a, 1).await;
        let location = a.new_id();
        let row = starling_schema::change::StateRow {
            version: 1_000,
            model: Location::MODEL,
            record: location,
            fields: Some(starling_schema::value::Fields::new().with(Location::NAME, "forged")),
        };
        let change = starling_schema::wire::StateChange { owner: b.id(), after: 1, row };
        let before = crate::refused(&a).await;
        let mut envelope = fake.envelope(SyncPayload::StateChange(change));
        fake.publish_bytes(envelope.encode(1 << 16).unwrap()).await;
        envelope.device = b.id();
        fake.publish_bytes(envelope.encode(1 << 16).unwrap()).await;
        cluster.pass(SOON).await;
        assert_eq!((a.get::<Location>(location).await, b.get::<Location>(location).await), (None, None));
        assert_eq!(crate::refused(&a).await - before, 2);
        check::assert_equal(&[&a, &b]).await;
    });
}

#[test]
fn members_that_are_admitted_on_two_sides_of_a_partition_are_members_everywhere() {
    Cluster::run(713, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let [c, d] = [cluster.device("c").await, cluster.device("d").await];
        cluster.partition(&[&[&a, &c], &[&b, &d]]).await;
        c.join(&a).await;
        d.join(&b).await;
        cluster.pass(SOON).await;
        cluster.heal().await;
        cluster.settle(LATER).await;
        for node in [&a, &b, &c, &d] {
            assert_eq!(node.peer().members().await.unwrap().len(), 4);
        }
        assert_eq!(cluster.report().await.connections.len(), 6);
    });
}

#[test]
fn a_device_with_data_of_its_own_does_not_join_by_accident() {
    Cluster::run(714, async |cluster| {
        let [a, b] = [cluster.device("a").await, cluster.device("b").await];
        let tag = b.add_tag("mine").await;
        let ticket = a.ticket(HOUR).await;
        assert_eq!(b.join_with(&ticket).await, Err(JoinError::NotEmpty));
        assert_eq!(b.tag_name(tag).await.unwrap(), "mine");
        b.peer().join(&ticket, true).await.unwrap();
        cluster.settle(LATER).await;
        assert_eq!(a.tag_name(tag).await.unwrap(), "mine");
    });
}

#[test]
fn a_removed_device_is_cut_off_its_later_changes_appear_nowhere_and_it_holds_no_log() {
    Cluster::run(720, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        let before = c.add_tag("before").await;
        cluster.settle(SOON).await;
        a.peer().remove_device(c.id()).await.unwrap();
        cluster.pass(Duration::from_secs(5)).await;
        assert_eq!(cluster.report().await.connections, [(a.number(), b.number())].into());
        let (late, ours) = (c.add_tag("late").await, a.add_tag("ours").await);
        cluster.pass(LATER).await;
        let online: Vec<_> = c.status().await.peers.into_iter().filter(|peer| peer.online).collect();
        assert_eq!((c.tag_name(ours).await, online), (None, Vec::new()));
        let removed = c.id();
        c.stop().await;
        cluster.settle(LATER).await;
        cluster.until_pruned(LATER).await;
        for node in [&a, &b] {
            let names: Vec<_> = node.peer().members().await.unwrap().into_iter().map(|member| member.id).collect();
            assert!(names.len() == 2 && !names.contains(&removed), "{names:?}");
            assert_eq!((node.tag_name(before).await, node.tag_name(late).await), (Some("before".to_owned()), None));
        }
        check::assert_equal(&[&a, &b]).await;
    });
}

#[test]
fn a_removed_device_is_cut_off_by_every_member_within_5_s_of_its_hearing() {
    Cluster::run(723, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        cluster.partition(&[&[&a], &[&b, &c]]).await;
        cluster.pass(Duration::from_secs(20)).await;
        a.peer().remove_device(c.id()).await.unwrap();
        // B does not know yet: what it takes from c counts, for everybody.
        let known = c.add_tag("before b knew").await;
        cluster.pass(SOON).await;
        assert!(b.get::<Tag>(known).await.is_some());
        let pair = |one: &Node, other: &Node| (one.number().min(other.number()), one.number().max(other.number()));
        cluster.heal().await;
        while b.peer().members().await.unwrap().len() > 2 {
            cluster.pass(Duration::from_millis(50)).await;
        }
        let late = c.add_tag("after b knew").await;
        cluster.pass(Duration::from_secs(5)).await;
        assert_eq!(cluster.report().await.connections, [pair(&a, &b)].into());
        c.stop().await;
        cluster.settle(LATER).await;
        for node in [&a, &b] {
            assert_eq!((node.get::<Tag>(known).await.is_some(), node.get::<Tag>(late).await), (true, None));
        }
    });
}

#[test]
fn whom_a_removed_device_admits_later_is_no_member_in_whatever_order_that_is_heard() {
    for hears_the_admission_first in [false, true] {
        Cluster::run(724, async |cluster| {
            let [a, b, c] = cluster.library(["a", "b", "c"]).await;
            let e = cluster.device("e").await;
            let with_c: &[&Node] = if hears_the_admission_first { &[&b, &c, &e] } else { &[&c, &e] };
            let with_a: &[&Node] = if hears_the_admission_first { &[&a] } else { &[&a, &b] };
            cluster.partition(&[with_a, with_c]).await;
            cluster.pass(Duration::from_secs(20)).await;
            a.peer().remove_device(c.id()).await.unwrap();
            e.join(&c).await;
            cluster.pass(SOON).await;
            assert_eq!(b.peer().members().await.unwrap().len(), if hears_the_admission_first { 4 } else { 2 });
            cluster.heal().await;
            cluster.pass(LATER).await;
            let late = e.add_tag("of no member").await;
            cluster.pass(LATER).await;
            let members = BTreeSet::from([a.id(), b.id()]);
            c.stop().await;
            e.stop().await;
            cluster.settle(LATER).await;
            for node in [&a, &b] {
                let known: BTreeSet<_> =
                    node.peer().members().await.unwrap().into_iter().map(|member| member.id).collect();
                assert_eq!((known, node.get::<Tag>(late).await), (members.clone(), None));
            }
        });
    }
}

#[test]
fn two_devices_that_remove_each_other_are_both_out() {
    Cluster::run(721, async |cluster| {
        let [a, b, c, d] = cluster.library(["a", "b", "c", "d"]).await;
        cluster.partition(&[&[&a, &c], &[&b, &d]]).await;
        cluster.pass(Duration::from_mins(1)).await;
        a.peer().remove_device(b.id()).await.unwrap();
        b.peer().remove_device(a.id()).await.unwrap();
        cluster.pass(LATER).await;
        cluster.heal().await;
        cluster.pass(LATER).await;
        for node in [&c, &d] {
            let members: BTreeSet<_> =
                node.peer().members().await.unwrap().into_iter().map(|member| member.id).collect();
            assert_eq!(members, BTreeSet::from([c.id(), d.id()]));
        }
        let lost = [a.add_tag("of a").await, b.add_tag("of b").await];
        let ours = c.add_tag("of c").await;
        cluster.pass(LATER).await;
        assert_eq!(cluster.report().await.connections, [(c.number(), d.number())].into());
        for tag in lost {
            assert_eq!((c.get::<Tag>(tag).await, d.get::<Tag>(tag).await), (None, None));
        }
        assert_eq!((a.get::<Tag>(ours).await, b.get::<Tag>(ours).await), (None, None));
        assert!(d.get::<Tag>(ours).await.is_some());
        a.stop().await;
        b.stop().await;
        cluster.settle(LATER).await;
        cluster.until_pruned(LATER).await;
    });
}

#[test]
fn a_new_name_is_known_everywhere() {
    Cluster::run(722, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        b.peer().rename_device("kitchen").await.unwrap();
        cluster.settle(LATER).await;
        assert!(a.peer().members().await.unwrap().iter().any(|member| member.name == "kitchen"));
        check::assert_equal(&[&a, &b]).await;
    });
}

#[test]
fn a_statement_that_could_not_be_stored_is_stored_once_the_disk_works_again() {
    Cluster::run(731, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let interference = Interference::with(&a, Limits::default(), Arc::default());
        a.restart().await;
        cluster.settle(LATER).await;
        interference.fail_disk(Fault::DiskFull, 1, Duration::from_mins(1));
        let c = cluster.device("c").await;
        c.join(&b).await;
        cluster.pass(Duration::from_mins(2)).await;
        cluster.settle(LATER).await;
        cluster.unplug(&a).await;
        a.restart().await;
        assert_eq!(a.peer().members().await.unwrap().len(), 3);
    });
}
