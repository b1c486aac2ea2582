//! A disk that is full or broken: what cannot be written is refused with the reason and not acknowledged, reading goes
//! on, and everything works again when there is room.

use std::time::Duration;

use starling::CommitError;
use starling::rig::{Fault, Point};
use starling_schema::change::Write;
use starling_schema::models::{Location, Tag};
use starling_schema::value::Fields;
use starling_tests::check;
use starling_tests::sim::{Cluster, Node};

use crate::{LATER, SOON};

/// What cannot be written now: a tag or a location. It must be refused with the disk's own words.
async fn refused(node: &Node, writes: Vec<Write>, words: &str) {
    match node.try_commit(writes).await {
        Err(CommitError::Storage(error)) => assert!(error.to_string().contains(words), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_commit_that_the_disk_refuses_is_not_acknowledged_reading_goes_on_and_it_works_again_when_there_is_room() {
    for (point, fault, words) in [
        (Point::BeforeBegin, Fault::DiskFull, "full"),
        (Point::AfterBegin, Fault::IoError, "I/O"),
        (Point::BetweenRowsAndLog, Fault::DiskFull, "full"),
        (Point::BeforeCommit, Fault::DiskFull, "full"),
        (Point::BeforeCommit, Fault::IoError, "I/O"),
    ] {
        Cluster::run(630, async |cluster| {
            let [a, b] = cluster.library(["a", "b"]).await;
            let before = a.add_tag("before").await;
            let place = a.add_location("before").await;
            cluster.settle(SOON).await;
            let heads = a.peer().heads().await.unwrap();
            a.interference().fail_at(Some((point, fault)));
            for _ in 0..3 {
                let [tag, location] = [a.new_id(), a.new_id()];
                let tagged = Write::put(Tag::MODEL, tag, Fields::new().with(Tag::NAME, "refused"));
                refused(&a, vec![tagged.clone()], words).await;
                let located = Write::put(Location::MODEL, location, Fields::new().with(Location::NAME, "refused"));
                // Device-owned rows have no log, so nothing happens between the two.
                if point != Point::BetweenRowsAndLog {
                    refused(&a, vec![located.clone()], words).await;
                }
                refused(&a, vec![tagged, located], words).await;
            }
            let theirs = b.add_tag("theirs").await;
            cluster.pass(SOON).await;
            assert_eq!(a.peer().heads().await.unwrap(), heads);
            assert_eq!((a.tag_name(before).await.unwrap(), a.count::<Tag>().await), ("before".to_owned(), 1));
            assert_eq!(
                (a.get::<Location>(place).await.unwrap().name.unwrap(), a.tag_name(theirs).await),
                ("before".to_owned(), None)
            );
            check::intact(&a).await;
            a.interference().fail_at(None);
            let after = a.add_tag("after").await;
            cluster.settle(LATER).await;
            assert_eq!(
                (b.tag_name(after).await.unwrap(), a.tag_name(theirs).await.unwrap()),
                ("after".to_owned(), "theirs".to_owned())
            );
            assert_eq!((b.count::<Tag>().await, b.count::<Location>().await), (3, 1));
            cluster.until_pruned(LATER).await;
        });
    }
}

#[test]
fn what_a_full_disk_kept_out_is_not_acked_and_arrives_when_there_is_room() {
    for point in [Point::AfterBegin, Point::BetweenRowsAndLog, Point::BeforeCommit] {
        Cluster::run(631, async |cluster| {
            let [a, b] = cluster.library(["a", "b"]).await;
            cluster.until_pruned(LATER).await;
            b.interference().fail_at(Some((point, Fault::DiskFull)));
            a.add_tags(10).await;
            cluster.pass(Duration::from_mins(2)).await;
            assert_eq!((b.count::<Tag>().await, a.status().await.log.entries), (0, 10));
            b.interference().fail_at(None);
            cluster.settle(LATER).await;
            cluster.until_pruned(LATER).await;
            assert_eq!(b.count::<Tag>().await, 10);
        });
    }
}

#[test]
fn a_start_that_the_disk_refuses_leaves_nothing_running_and_the_next_one_works() {
    Cluster::run(632, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let before = a.add_tag("before").await;
        cluster.settle(SOON).await;
        b.stop().await;
        b.interference().fail_at(Some((Point::BeforeCommit, Fault::DiskFull)));
        for _ in 0..3 {
            let refused = b.try_start().await.unwrap_err();
            assert!(refused.to_string().contains("full"), "{refused}");
            // Whoever still ran would hold connections open, and with them the files that go with an open database.
            let log = b.data().join("library.sqlite-wal");
            assert!(!log.exists() || log.metadata().unwrap().len() == 0, "the database is still open");
            cluster.pass(LATER).await;
        }
        b.interference().fail_at(None);
        b.start().await;
        let after = a.add_tag("after").await;
        cluster.settle(LATER).await;
        assert_eq!(b.tag_name(before).await.as_deref(), Some("before"));
        assert_eq!(b.tag_name(after).await.as_deref(), Some("after"));
    });
}

#[test]
fn what_waited_for_a_member_that_was_removed_while_the_disk_failed_does_not_come_back() {
    Cluster::run(633, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        cluster.settle(SOON).await;
        c.interference().fail_at(Some((Point::BeforeCommit, Fault::DiskFull)));
        for number in 0..3 {
            a.add_tag(&format!("tag {number}")).await;
            cluster.pass(Duration::from_secs(20)).await;
        }
        let gone = c.id();
        c.stop().await;
        a.interference().fail_at(Some((Point::BeforeCommit, Fault::IoError)));
        b.peer().remove_device(gone).await.unwrap();
        cluster.pass(SOON).await;
        a.stop().await;
        a.interference().fail_at(None);
        a.start().await;
        cluster.settle(LATER).await;
        let queues = a.status().await.queues;
        assert_eq!((queues.retry, queues.dead_letters), (0, 0), "{queues:?}");
    });
}
