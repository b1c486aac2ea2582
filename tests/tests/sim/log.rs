//! The peer log: kept until every member has what it says, and not a moment longer.

use std::time::Duration;

use starling_schema::models::Tag;
use starling_tests::check;
use starling_tests::sim::{Cluster, FakeMember, Node};

use crate::{LATER, SOON};

#[test]
fn a_hundred_changes_that_all_acked_leave_the_log_empty() {
    Cluster::run(501, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        for node in [&a, &b, &c] {
            for number in 0..100 {
                node.add_tag(&format!("{} {number}", node.name())).await;
            }
        }
        cluster.settle(SOON).await;
        cluster.until_pruned(LATER).await;
        assert_eq!(a.count::<Tag>().await, 300);
    });
}

#[test]
fn a_hundred_changes_that_one_member_lacks_stay_in_every_log() {
    Cluster::run(502, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        cluster.until_pruned(LATER).await;
        c.stop().await;
        for number in 0..100 {
            a.add_tag(&number.to_string()).await;
        }
        cluster.settle(SOON).await;
        cluster.skip(Duration::from_hours(24));
        cluster.pass(LATER).await;
        for node in [&a, &b] {
            assert_eq!(node.status().await.log.entries, 100);
        }
        c.start().await;
        cluster.settle(LATER).await;
        cluster.until_pruned(LATER).await;
        assert_eq!(c.count::<Tag>().await, 100);
    });
}

#[test]
fn nothing_is_pruned_that_a_member_which_never_acked_lacks() {
    Cluster::run(503, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        cluster.until_pruned(LATER).await;
        let c = cluster.device("c").await;
        cluster.cut(&a, &c).await;
        cluster.cut(&b, &c).await;
        c.stop().await;
        let ticket = a.ticket(Duration::from_mins(10)).await;
        cluster.heal().await;
        c.start().await;
        c.join_with(&ticket).await.unwrap();
        c.stop().await;
        a.add_tags(10).await;
        cluster.settle(SOON).await;
        cluster.pass(Duration::from_hours(1)).await;
        assert_eq!((a.status().await.log.entries, b.status().await.log.entries), (10, 10));
        c.start().await;
        cluster.settle(LATER).await;
        cluster.until_pruned(LATER).await;
    });
}

#[test]
fn nothing_is_pruned_that_a_member_which_joined_by_snapshot_and_left_lacks() {
    Cluster::run(509, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        a.add_tags(10).await;
        cluster.settle(SOON).await;
        cluster.until_pruned(LATER).await;
        let c = cluster.device("c").await;
        c.join(&a).await;
        cluster.settle(LATER).await;
        assert!(cluster.report().await.tally(c.number()).requests_of("snapshot_request") > 0);
        cluster.until_pruned(LATER).await;
        c.stop().await;
        b.add_tags(10).await;
        cluster.settle(SOON).await;
        cluster.skip(Duration::from_hours(24));
        cluster.pass(Duration::from_hours(1)).await;
        assert_eq!((a.status().await.log.entries, b.status().await.log.entries), (10, 10));
        cluster.unplug(&b).await;
        c.start().await;
        cluster
            .until("c has what b made, from a", LATER, async || {
                let count = c.count::<Tag>().await;
                (count < 20).then(|| count.to_string())
            })
            .await;
        cluster.heal().await;
        cluster.settle(LATER).await;
        cluster.until_pruned(LATER).await;
    });
}

#[test]
fn a_member_that_is_silent_holds_the_log_for_a_month_and_no_longer() {
    Cluster::run(504, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        c.stop().await;
        a.add_tags(10).await;
        cluster.settle(SOON).await;
        cluster.skip(Duration::from_hours(29 * 24));
        cluster.pass(LATER).await;
        a.add_tag("wake up").await;
        cluster.settle(SOON).await;
        cluster.pass(LATER).await;
        assert_eq!((a.status().await.log.entries, b.status().await.log.entries), (11, 11));
        cluster.skip(Duration::from_hours(2 * 24));
        cluster.pass(LATER).await;
        a.add_tag("wake up again").await;
        cluster.settle(SOON).await;
        cluster.until_pruned(LATER).await;
        c.start().await;
        cluster.settle(LATER).await;
        check::assert_equal(&[&a, &b, &c]).await;
        assert_eq!(c.count::<Tag>().await, 12);
    });
}

#[test]
fn a_member_that_is_removed_while_it_is_away_holds_the_log_no_longer() {
    Cluster::run(510, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        cluster.until_pruned(LATER).await;
        let away = c.id();
        c.stop().await;
        a.add_tags(10).await;
        cluster.settle(SOON).await;
        cluster.pass(LATER).await;
        assert_eq!((a.status().await.log.entries, b.status().await.log.entries), (10, 10));
        b.peer().remove_device(away).await.unwrap();
        cluster.until_pruned(LATER).await;
        check::assert_equal(&[&a, &b]).await;
    });
}

#[test]
fn entries_that_a_snapshot_stands_for_do_not_stay_in_the_log_of_a_device_that_returns() {
    Cluster::run(509, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        cluster.until_pruned(LATER).await;
        b.add_tag("seen").await;
        cluster.pass(Duration::from_millis(300)).await;
        c.stop().await;
        b.add_tag("missed").await;
        cluster.settle(SOON).await;
        cluster.skip(Duration::from_hours(31 * 24));
        cluster.until_pruned(LATER).await;
        c.start().await;
        cluster.settle(LATER).await;
        cluster.until_pruned(LATER).await;
        assert_eq!((a.count::<Tag>().await, c.count::<Tag>().await), (2, 2));
    });
}

#[test]
fn the_silence_of_a_member_that_was_never_heard_counts_through_restarts() {
    Cluster::run(509, async |cluster| {
        let a = cluster.device("a").await;
        let (never_heard, _) = FakeMember::join(cluster, &a, 1).await;
        never_heard.close().await;
        a.add_tags(10).await;
        cluster.pass(SOON).await;
        a.restart().await;
        for (days, entries) in [(20, 10), (11, 0)] {
            cluster.skip(Duration::from_hours(days * 24));
            a.restart().await;
            cluster.pass(SOON).await;
            assert_eq!(a.status().await.log.entries, entries, "{days} days later");
        }
    });
}

#[test]
fn joined_by_log_and_joined_by_snapshot_are_equal() {
    Cluster::run(505, async |cluster| {
        let [a, away] = cluster.library(["a", "away"]).await;
        away.stop().await;
        let tags = a.add_tags(50).await;
        for tag in &tags[..25] {
            a.set::<Tag>(*tag, Tag::NAME, "renamed").await;
        }
        a.delete::<Tag>(tags[49]).await;
        let by_log = cluster.device("by log").await;
        by_log.join(&a).await;
        cluster.settle(LATER).await;
        // Two edits that did not see each other leave a loser, which a snapshot has to carry too.
        cluster.partition(&[&[&a], &[&by_log]]).await;
        a.set::<Tag>(tags[30], Tag::NAME, "one").await;
        by_log.set::<Tag>(tags[30], Tag::NAME, "other").await;
        cluster.heal().await;
        cluster.settle(LATER).await;
        let snapshots = async |node: &Node| cluster.report().await.tally(node.number()).requests_of("snapshot_request");
        assert_eq!(snapshots(&by_log).await, 0);
        away.start().await;
        cluster.settle(LATER).await;
        cluster.until_pruned(LATER).await;
        let by_snapshot = cluster.device("by snapshot").await;
        by_snapshot.join(&a).await;
        cluster.settle(LATER).await;
        assert!(snapshots(&by_snapshot).await > 0);
        check::assert_equal(&[&a, &by_snapshot, &by_log]).await;
        assert_eq!((by_log.count::<Tag>().await, by_snapshot.conflicts().await.len()), (49, 1));
    });
}

#[test]
fn a_tag_deleted_and_pruned_while_d_was_away_and_edited_it_is_nowhere_half_there() {
    Cluster::run(506, async |cluster| {
        let [a, b, d] = cluster.library(["a", "b", "d"]).await;
        let [doomed, other] = [a.add_tag("doomed").await, a.add_tag("other").await];
        cluster.settle(SOON).await;
        cluster.unplug(&d).await;
        a.delete::<Tag>(doomed).await;
        d.set::<Tag>(doomed, Tag::COLOR, "#123456").await;
        d.set::<Tag>(other, Tag::COLOR, "#654321").await;
        cluster.skip(Duration::from_hours(31 * 24));
        cluster.pass(LATER).await;
        a.add_tag("meanwhile").await;
        cluster.pass(LATER).await;
        assert_eq!(a.status().await.log.entries, 0);
        cluster.heal().await;
        cluster.settle(LATER).await;
        for node in [&a, &b, &d] {
            assert_eq!(node.get::<Tag>(doomed).await, None);
            assert_eq!(node.get::<Tag>(other).await.unwrap().color.unwrap(), "#654321");
            assert_eq!(node.count::<Tag>().await, 2);
        }
    });
}

#[test]
fn a_tag_deleted_and_pruned_while_two_were_away_together_and_shared_an_edit_of_it_is_nowhere_half_there() {
    Cluster::run(511, async |cluster| {
        let [a, b, d, e] = cluster.library(["a", "b", "d", "e"]).await;
        let [doomed, other] = [a.add_tag("doomed").await, a.add_tag("other").await];
        cluster.settle(SOON).await;
        cluster.partition(&[&[&a, &b], &[&d, &e]]).await;
        a.delete::<Tag>(doomed).await;
        d.set::<Tag>(doomed, Tag::COLOR, "#123456").await;
        d.set::<Tag>(other, Tag::COLOR, "#654321").await;
        cluster.pass(SOON).await;
        assert_eq!(e.get::<Tag>(doomed).await.unwrap().color.unwrap(), "#123456");
        e.set::<Tag>(doomed, Tag::NAME, "still doomed").await;
        e.set::<Tag>(other, Tag::NAME, "renamed by e").await;
        cluster.pass(SOON).await;
        cluster.skip(Duration::from_hours(31 * 24));
        cluster.pass(LATER).await;
        for node in [&a, &d] {
            node.add_tag("meanwhile").await;
        }
        cluster.pass(LATER).await;
        // Either side has forgotten the other: both logs are gone.
        for node in [&a, &b, &d, &e] {
            assert_eq!(node.status().await.log.entries, 0, "{}", node.name());
        }
        // E comes back alone at first, and brings what it has of d.
        d.stop().await;
        cluster.heal().await;
        cluster.settle(LATER).await;
        d.start().await;
        cluster.settle(LATER).await;
        for node in [&a, &b, &d, &e] {
            assert_eq!(node.get::<Tag>(doomed).await, None);
            let other = node.get::<Tag>(other).await.unwrap();
            assert_eq!((other.name.unwrap().as_str(), other.color.unwrap().as_str()), ("renamed by e", "#654321"));
            assert_eq!(node.count::<Tag>().await, 3);
        }
        cluster.until_pruned(LATER).await;
    });
}
