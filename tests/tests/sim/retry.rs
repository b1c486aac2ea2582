//! Making sure: what a connected peer does not take is sent again a few times, then given up where people can see it.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::{Binary, Integer, Text};
use starling::QueryError;
use starling_schema::change::Items;
use starling_schema::ids::DeviceId;
use starling_schema::models::{Entry, Tag};
use starling_schema::stream::{Stream, StreamKind};
use starling_tests::check;
use starling_tests::sim::{Cluster, Conditions, FakeMember, Link, Node};
use tokio::time::Instant;

use crate::LATER;

/// How long after a commit it is sent directly, and how long after each failure again, in milliseconds.
const WAITS_MS: [u64; 6] = [1_000, 1_000, 2_000, 4_000, 8_000, 16_000];

/// How much later than its time a send may come: the queue looks that often, and a message takes a few milliseconds.
const LATE_MS: u64 = 260;

#[derive(QueryableByName)]
struct Letter {
    #[diesel(sql_type = Binary)]
    peer: Vec<u8>,
    #[diesel(sql_type = Text)]
    error: String,
}

/// The stored dead letters of a device's shared changes: for whom, and why.
async fn letters(node: &Node) -> Vec<(DeviceId, String)> {
    let read = |c: &mut SqliteConnection| {
        let letters = diesel::sql_query("SELECT peer, error FROM dead_letter WHERE kind = ? ORDER BY peer");
        letters.bind::<Integer, _>(StreamKind::Shared.code()).load(c).map_err(QueryError::from)
    };
    let letters: Vec<Letter> = node.peer().query(read).await.unwrap();
    let letter = |letter: Letter| (DeviceId(uuid::Uuid::from_slice(&letter.peer).unwrap()), letter.error);
    letters.into_iter().map(letter).collect()
}

#[test]
fn a_refused_send_is_made_again_after_1_2_4_8_and_16_s_then_a_dead_letter_names_the_error_and_others_are_current() {
    Cluster::run(416, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let (fake, _) = FakeMember::join(cluster, &a, 1).await;
        fake.refuse_batches(Some("no room here"));
        cluster.pass(LATER).await;
        let mut last = Instant::now();
        a.add_tag("refused").await;
        for _ in 0..120 {
            let tag = a.add_tag("meanwhile").await;
            cluster.pass(Duration::from_secs(1)).await;
            assert_eq!(b.tag_name(tag).await.unwrap(), "meanwhile");
        }
        let sends = fake.heard().batches_of(Stream::shared(a.id()));
        assert_eq!(sends.len(), WAITS_MS.len());
        for ((at, _), wait_ms) in sends.into_iter().zip(WAITS_MS) {
            let waited_ms = u64::try_from(at.duration_since(last).as_millis()).unwrap();
            // Each wait is drawn between three and five quarters of what it is in the mean.
            assert!((wait_ms * 3 / 4..=wait_ms * 5 / 4 + LATE_MS).contains(&waited_ms), "{waited_ms} for {wait_ms}");
            last = at;
        }
        let queues = a.status().await.queues;
        assert_eq!((queues.dead_letters, queues.retry), (1, 0));
        let refused = letters(&a).await;
        assert!(refused.len() == 1 && refused[0].0 == fake.key().device(), "{refused:?}");
        assert!(refused[0].1.contains("no room here"), "{refused:?}");
        check::assert_equal(&[&a, &b]).await;
    });
}

#[test]
fn a_send_that_is_acked_at_last_is_removed_and_not_made_again() {
    Cluster::run(419, async |cluster| {
        let a = cluster.device("a").await;
        let (fake, _) = FakeMember::join(cluster, &a, 1).await;
        cluster.pass(LATER).await;
        fake.refuse_batches(Some("busy"));
        a.add_tag("refused at first").await;
        let sends = || fake.heard().batches_of(Stream::shared(a.id())).len();
        while sends() < 3 {
            cluster.pass(Duration::from_millis(100)).await;
        }
        assert_eq!(a.status().await.queues.retry, 1);
        fake.refuse_batches(None);
        cluster.pass(LATER).await;
        let queues = a.status().await.queues;
        assert_eq!((sends(), queues.retry, queues.dead_letters), (4, 0, 0));
    });
}

#[test]
fn the_attempts_of_a_send_go_on_counting_after_a_restart_and_its_dead_letter_survives_one() {
    Cluster::run(420, async |cluster| {
        let a = cluster.device("a").await;
        let (fake, key) = FakeMember::join(cluster, &a, 1).await;
        cluster.pass(LATER).await;
        fake.refuse_batches(Some("no room here"));
        let stream = Stream::shared(a.id());
        a.add_tag("refused").await;
        while fake.heard().batches_of(stream).len() < 3 {
            cluster.pass(Duration::from_millis(100)).await;
        }
        cluster.pass(Duration::from_millis(500)).await;
        a.kill().await;
        a.start().await;
        cluster.pass(Duration::from_secs(12)).await;
        fake.dial(a.number(), key).await.ok();
        cluster.pass(LATER).await;
        assert_eq!(fake.heard().batches_of(stream).len(), 6);
        // The device's own row, which a start writes, is another send.
        assert_eq!((a.status().await.queues.dead_letters, letters(&a).await.len()), (2, 1));
        fake.close().await;
        fake.disconnect(key).await;
        a.restart().await;
        assert_eq!((a.status().await.queues.dead_letters, letters(&a).await.len()), (2, 1));
    });
}

#[test]
fn a_dead_letter_whose_peer_comes_back_and_acks_is_gone_for_good() {
    Cluster::run(417, async |cluster| {
        let a = cluster.device("a").await;
        let (fake, key) = FakeMember::join(cluster, &a, 1).await;
        cluster.pass(LATER).await;
        fake.refuse_batches(Some("no room here"));
        a.add_tag("refused").await;
        cluster.pass(Duration::from_mins(2)).await;
        assert_eq!(a.status().await.queues.dead_letters, 1);
        fake.refuse_batches(None);
        fake.disconnect(key).await;
        cluster.pass(LATER).await;
        let queues = a.status().await.queues;
        assert_eq!((queues.dead_letters, queues.retry), (0, 0));
        fake.close().await;
        fake.disconnect(key).await;
        a.restart().await;
        assert_eq!((a.status().await.queues.dead_letters, letters(&a).await.len()), (0, 0));
    });
}

#[test]
fn the_dead_letters_of_a_device_that_is_removed_go_with_it() {
    Cluster::run(423, async |cluster| {
        let a = cluster.device("a").await;
        let (fake, _) = FakeMember::join(cluster, &a, 1).await;
        cluster.pass(LATER).await;
        fake.refuse_batches(Some("no room here"));
        a.add_tag("refused").await;
        cluster.pass(Duration::from_mins(2)).await;
        assert_eq!(a.status().await.queues.dead_letters, 1);
        a.peer().remove_device(fake.key().device()).await.unwrap();
        cluster.pass(LATER).await;
        let queues = a.status().await.queues;
        assert_eq!((queues.dead_letters, queues.retry, letters(&a).await.len()), (0, 0, 0));
    });
}

#[test]
fn a_send_that_is_made_again_carries_the_newest_version_of_a_row_and_no_older_one() {
    Cluster::run(421, async |cluster| {
        let a = cluster.device("a").await;
        let file = a.add_file().await;
        let (fake, _) = FakeMember::join(cluster, &a, 1).await;
        cluster.pass(LATER).await;
        fake.refuse_batches(Some("busy"));
        let stream = Stream::state(a.id());
        let before = fake.heard().batches_of(stream).len();
        for size in 1..=5 {
            a.set::<Entry>(file, Entry::SIZE, size).await;
            cluster.pass(Duration::from_secs(2)).await;
        }
        fake.refuse_batches(None);
        cluster.pass(LATER).await;
        let sends = fake.heard().batches_of(stream).split_off(before);
        assert!(sends.len() > 2, "{sends:?}");
        let mut newest = 0;
        for (_, batch) in &sends {
            let Items::State(rows) = &batch.items else { panic!("{batch:?}") };
            let versions: Vec<_> = rows.iter().filter(|row| row.record == file).map(|row| row.version).collect();
            assert!(versions.len() <= 1 && versions.iter().all(|version| *version >= newest), "{sends:?}");
            newest = versions.into_iter().chain([newest]).max().unwrap();
        }
        assert_eq!(newest, a.peer().heads().await.unwrap().state_head);
    });
}

#[test]
fn a_send_that_outlived_a_restart_is_done_once_the_peer_acks_by_way_of_another() {
    Cluster::run(418, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        let (from, to) = (a.number(), c.number());
        cluster.unplug(&b).await;
        let deafen = move |conditions: &mut Conditions| {
            conditions.links.insert((from, to), Link { loss: 1.0, ..Link::default() });
        };
        cluster.network().change(deafen).await;
        let tag = a.add_tag("by way of b").await;
        cluster.pass(Duration::from_mins(1)).await;
        a.kill().await;
        let unlink = move |conditions: &mut Conditions| {
            conditions.unlinked.insert((from, to));
        };
        cluster.network().change(unlink).await;
        cluster.heal().await;
        a.start().await;
        cluster.settle(LATER).await;
        cluster.until_pruned(LATER).await;
        assert_eq!(c.get::<Tag>(tag).await.unwrap().name.unwrap(), "by way of b");
        let queues = a.status().await.queues;
        assert_eq!((queues.retry, queues.dead_letters), (0, 0));
    });
}
