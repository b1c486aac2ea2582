//! Durability: what was acknowledged outlives a crash at any moment, and no number stands for two changes.

use std::time::Duration;

use proptest::prelude::*;
use starling::CommitError;
use starling_schema::model::Syncable;
use starling_schema::models::{Entry, Tag};
use starling_tests::check;
use starling_tests::sim::Cluster;

use crate::{LATER, SOON};

#[test]
fn an_acknowledged_commit_survives_a_crash() {
    Cluster::run(601, async |cluster| {
        let a = cluster.device("a").await;
        for round in 0..20 {
            let tag = a.add_tag(&round.to_string()).await;
            let location = a.add_location(&round.to_string()).await;
            let files = a.add_entries(location, None, 3).await;
            a.kill().await;
            a.start().await;
            assert_eq!(a.tag_name(tag).await.unwrap(), round.to_string());
            assert_eq!(a.path_of(files[2]).await.unwrap(), format!("{round}/file 2"));
        }
        check::intact(&a).await;
    });
}

#[test]
fn a_crash_leaves_both_the_rows_and_their_log_entries_or_neither() {
    Cluster::run(602, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        cluster.until_pruned(LATER).await;
        cluster.unplug(&b).await;
        for round in 1..=20 {
            let commit = a.add_tags(100);
            let crash = async {
                // A commit takes no virtual time: yield in the midst of its steps instead.
                for _ in 0..round * 3 {
                    tokio::task::yield_now().await;
                }
                a.copy()
            };
            let (_, copy) = futures::join!(commit, crash);
            a.die_to(&copy).await;
            a.start().await;
            let head = a.peer().heads().await.unwrap().shared_head;
            assert_eq!((a.count::<Tag>().await, a.status().await.log.entries), (head, head));
            assert_eq!(head % 100, 0);
        }
        cluster.heal().await;
        cluster.settle(LATER).await;
    });
}

proptest! {
    #![proptest_config(crate::cases(12))]

    #[test]
    fn devices_that_crash_at_any_moment_of_a_sync_end_equal(seed in 0_u64..1_000_000, moments_ms in [0_u64..60, 0..600, 0..3_000]) {
        Cluster::run(seed, async |cluster| {
            let [a, b] = cluster.library(["a", "b"]).await;
            for moment_ms in moments_ms {
                let location = a.add_location("photos").await;
                a.add_entries(location, None, 500).await;
                b.add_tags(200).await;
                a.add_tags(20).await;
                cluster.pass(Duration::from_millis(moment_ms)).await;
                for node in [&a, &b] {
                    node.kill().await;
                    node.start().await;
                    check::intact(node).await;
                }
            }
            cluster.settle(LATER).await;
            assert_eq!((b.count::<Entry>().await, a.count::<Tag>().await), (1_503, 660));
        });
    }
}

#[test]
fn a_database_restored_from_an_older_copy_takes_its_own_lost_changes_back() {
    Cluster::run(603, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        a.add_tags(10).await;
        cluster.settle(SOON).await;
        let old = a.copy();
        let lost = a.add_tag("lost").await;
        let location = a.add_location("lost").await;
        let files = a.add_entries(location, None, 20).await;
        cluster.settle(SOON).await;
        a.stop().await;
        a.restore_database(&old);
        a.start().await;
        cluster.settle(LATER).await;
        assert_eq!(a.tag_name(lost).await.unwrap(), "lost");
        assert_eq!(a.path_of(files[19]).await.unwrap(), "lost/file 19");
        let new = a.add_tag("new").await;
        cluster.settle(LATER).await;
        assert_eq!(b.tag_name(new).await.unwrap(), "new");
    });
}

#[test]
fn a_device_that_lost_its_database_and_joins_again_goes_on_with_its_numbers() {
    Cluster::run(605, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let before = b.add_tags(5).await;
        let location = b.add_location("kept").await;
        cluster.settle(SOON).await;
        b.stop().await;
        b.lose_database();
        b.start().await;
        b.join(&a).await;
        cluster.settle(LATER).await;
        let after = b.add_tags(5).await;
        cluster.settle(LATER).await;
        for tag in before.iter().chain(&after) {
            assert!(a.get::<Tag>(*tag).await.is_some() && b.get::<Tag>(*tag).await.is_some());
        }
        assert_eq!(b.owner::<starling_schema::models::Location>(location).await, Some(b.id()));
    });
}

#[test]
fn a_restored_database_takes_no_write_before_it_has_its_lost_changes_back_so_no_number_is_used_twice() {
    Cluster::run(604, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let old = a.copy();
        let lost = a.add_tags(5).await;
        cluster.settle(SOON).await;
        a.stop().await;
        a.restore_database(&old);
        cluster.unplug(&a).await;
        a.start().await;
        let refused = a.try_commit(vec![Tag::new(a.new_id()).put()]).await;
        assert_eq!(refused, Err(CommitError::Behind { changes: 5 }));
        cluster.heal().await;
        cluster.settle(LATER).await;
        let new = a.add_tags(5).await;
        let location = a.add_location("new").await;
        cluster.settle(LATER).await;
        for tag in lost.iter().chain(&new) {
            assert!(a.get::<Tag>(*tag).await.is_some() && b.get::<Tag>(*tag).await.is_some());
        }
        assert_eq!(b.owner::<starling_schema::models::Location>(location).await, Some(a.id()));
    });
}

#[test]
fn a_device_restored_from_a_time_when_its_clock_was_behind_is_listened_to_at_once() {
    const DAY_MS: i64 = 86_400_000;
    Cluster::run(606, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let old = b.copy();
        b.skew_ms(DAY_MS);
        a.add_tags(5).await;
        cluster.settle(SOON).await;
        cluster.until_pruned(LATER).await;
        b.stop().await;
        b.restore_database(&old);
        b.skew_ms(0);
        b.start().await;
        cluster.settle(LATER).await;
        a.add_tags(5).await;
        cluster.settle(SOON).await;
        cluster.until_pruned(LATER).await;
    });
}
