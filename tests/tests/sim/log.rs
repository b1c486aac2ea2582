//! The peer log: kept until every member has what it says, and not a moment longer.

use std::time::Duration;

use starling_schema::change::Write;
use starling_schema::models::{Entry, Tag};
use starling_tests::check;
use starling_tests::sim::Cluster;

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
fn a_member_that_is_silent_for_longer_than_a_month_no_longer_holds_the_log() {
    Cluster::run(504, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        c.stop().await;
        a.add_tags(10).await;
        cluster.settle(SOON).await;
        cluster.skip(Duration::from_hours(31 * 24));
        cluster.pass(LATER).await;
        a.add_tag("wake up").await;
        cluster.settle(SOON).await;
        cluster.until_pruned(LATER).await;
        c.start().await;
        cluster.settle(LATER).await;
        check::assert_equal(&[&a, &b, &c]).await;
        assert_eq!(c.count::<Tag>().await, 11);
    });
}

#[test]
fn joined_by_log_and_joined_by_snapshot_are_equal() {
    Cluster::run(505, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let tags = a.add_tags(50).await;
        cluster.settle(SOON).await;
        cluster.until_pruned(LATER).await;
        let by_snapshot = cluster.device("c").await;
        by_snapshot.join(&a).await;
        cluster.settle(LATER).await;
        b.stop().await;
        for tag in &tags[..25] {
            a.set::<Tag>(*tag, Tag::NAME, "renamed").await;
        }
        a.delete::<Tag>(tags[49]).await;
        let by_log = cluster.device("d").await;
        by_log.join(&a).await;
        cluster.settle(LATER).await;
        check::assert_equal(&[&a, &by_snapshot, &by_log]).await;
        assert_eq!(by_log.count::<Tag>().await, 49);
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
fn a_snapshot_of_many_pages_is_whole_though_edits_go_on_and_the_joiner_crashes() {
    Cluster::run(507, async |cluster| {
        let a = cluster.device("a").await;
        let tags = a.add_tags(30_000).await;
        cluster.pass(SOON).await;
        assert_eq!(a.status().await.log.entries, 0);
        let b = cluster.device("b").await;
        b.join(&a).await;
        for round in 0..20 {
            a.set::<Tag>(tags[round * 1_000], Tag::NAME, "edited").await;
            a.delete::<Tag>(tags[29_999 - round]).await;
            if round == 10 {
                b.kill().await;
                b.start().await;
            }
            cluster.pass(Duration::from_millis(3)).await;
        }
        cluster.settle(LATER).await;
        assert_eq!(b.count::<Tag>().await, 29_980);
        assert_eq!(b.tag_name(tags[19_000]).await.unwrap(), "edited");
    });
}

#[test]
fn rows_of_many_pages_that_were_deleted_long_ago_are_gone_after_a_snapshot_of_the_rest() {
    Cluster::run(508, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let location = a.add_location("photos").await;
        let files = a.add_entries(location, None, 30_000).await;
        cluster.settle(LATER).await;
        b.stop().await;
        cluster.skip(Duration::from_hours(35 * 24));
        for chunk in files.chunks(2_000) {
            let every_other = chunk.iter().step_by(2);
            a.commit(every_other.map(|id| Write::delete(Entry::MODEL, *id)).collect()).await;
        }
        cluster.pass(LATER).await;
        b.start().await;
        cluster.settle(LATER).await;
        assert_eq!(b.count::<Entry>().await, 15_001);
    });
}
