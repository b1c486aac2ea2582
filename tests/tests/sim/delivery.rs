//! Delivery: whatever is lost, late, doubled or cut off, every device ends with everything.

use std::time::Duration;

use starling_schema::change::Write;
use starling_schema::models::{Entry, Tag};
use starling_schema::stream::Stream;
use starling_schema::value::Fields;
use starling_schema::wire::GOSSIP_BYTES_MAX;
use starling_tests::check;
use starling_tests::sim::{Cluster, FakeMember, Link, Node};
use tokio::time::Instant;

use crate::{LATER, SOON};

#[test]
fn a_lost_change_is_fetched_when_a_later_one_arrives_and_nothing_is_pruned_before() {
    Cluster::run(401, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        cluster.until_pruned(LATER).await;
        cluster.cut(&a, &b).await;
        let first = a.add_tag("first").await;
        cluster.pass(Duration::from_secs(5)).await;
        assert_eq!((b.tag_name(first).await, a.status().await.log.entries), (None, 1));
        cluster.heal().await;
        let second = a.add_tag("second").await;
        cluster.settle(SOON).await;
        assert_eq!(b.tag_name(first).await.unwrap(), "first");
        assert_eq!(b.tag_name(second).await.unwrap(), "second");
        cluster.until_pruned(LATER).await;
    });
}

#[test]
fn offline_edits_older_than_everything_b_has_seen_arrive() {
    Cluster::run(402, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        cluster.unplug(&c).await;
        c.skew_ms(-240_000);
        let old = c.add_tags(50).await;
        cluster.pass(SOON).await;
        a.add_tags(50).await;
        cluster.pass(SOON).await;
        let number = a.number();
        cluster.network().change(move |conditions| conditions.down = [number].into()).await;
        cluster.pass(LATER).await;
        for tag in old {
            assert!(b.get::<Tag>(tag).await.is_some());
        }
        cluster.heal().await;
        cluster.settle(LATER).await;
    });
}

#[test]
fn a_live_change_right_after_a_restart_does_not_hide_what_came_while_offline() {
    Cluster::run(403, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        b.stop().await;
        a.add_tags(100).await;
        a.add_location("offline").await;
        b.start().await;
        while cluster.report().await.connections.is_empty() {
            cluster.pass(Duration::from_millis(1)).await;
        }
        a.add_tag("live").await;
        a.add_location("live").await;
        cluster.settle(SOON).await;
        assert_eq!(b.count::<Tag>().await, 101);
    });
}

#[test]
fn a_backfill_that_is_cut_goes_on_where_it_was_without_duplicate_or_hole() {
    Cluster::run(404, async |cluster| {
        let a = cluster.device("a").await;
        let location = a.add_location("photos").await;
        a.add_entries(location, None, 40_000).await;
        let b = cluster.device("b").await;
        b.join(&a).await;
        cluster.unplug(&b).await;
        cluster.pass(SOON).await;
        cluster.heal().await;
        for part in [8_000, 16_000, 24_000] {
            while b.count::<Entry>().await < part {
                cluster.pass(Duration::from_millis(1)).await;
            }
            b.kill().await;
            b.start().await;
        }
        cluster.settle(LATER).await;
        assert_eq!(b.count::<Entry>().await, 40_001);
        // Five pages hold everything. Each crash may cost the one or two that were under way.
        let asked = cluster.report().await.tally(b.number()).requests_of("state_request");
        assert!(asked <= 5 + 3 * 2, "{asked}");
    });
}

#[test]
fn a_thousand_changes_that_are_cut_at_half_arrive_in_order_and_once() {
    Cluster::run(405, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let tag = a.add_tag("counter").await;
        cluster.settle(SOON).await;
        for round in 0..1_000 {
            if round == 500 {
                cluster.unplug(&b).await;
            }
            a.set::<Tag>(tag, Tag::NAME, format!("{round}")).await;
            cluster.pass(Duration::from_millis(20)).await;
        }
        let seen: u32 = b.tag_name(tag).await.unwrap().parse().unwrap();
        assert_eq!(seen, 499);
        b.kill().await;
        b.start().await;
        cluster.heal().await;
        cluster.settle(LATER).await;
        // From the 501st on, each once.
        assert_eq!(b.status().await.counters.changes_applied, 500);
        assert_eq!((b.tag_name(tag).await.unwrap(), b.conflicts().await), ("999".to_owned(), vec![]));
    });
}

#[test]
fn another_peer_goes_on_when_the_one_that_serves_dies() {
    Cluster::run(406, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let location = a.add_location("photos").await;
        a.add_entries(location, None, 30_000).await;
        cluster.settle(LATER).await;
        let c = cluster.device("c").await;
        let apart = (b.number(), c.number());
        cluster.network().change(move |conditions| conditions.unlinked = [apart].into()).await;
        c.join(&a).await;
        while c.count::<Entry>().await < 12_000 {
            cluster.pass(Duration::from_millis(1)).await;
        }
        assert!(c.count::<Entry>().await < 30_001);
        cluster.unplug(&a).await;
        cluster.network().change(|conditions| conditions.unlinked.clear()).await;
        cluster
            .until("c has all entries", LATER, async || {
                let count = c.count::<Entry>().await;
                (count < 30_001).then(|| count.to_string())
            })
            .await;
        check::assert_equal(&[&b, &c]).await;
        // Four pages hold everything, and b was asked only for what was left: not for what a had given.
        let asked = cluster.report().await.tally(c.number()).requests_of("state_request");
        assert!(asked <= 4 + 2 + 3, "{asked}");
    });
}

#[test]
fn devices_in_a_line_are_equal_and_prune_though_the_ends_never_meet() {
    Cluster::run(407, async |cluster| {
        cluster.network().change(|conditions| conditions.line(&[0, 1, 2])).await;
        let a = cluster.device("a").await;
        let [b, c] = [cluster.device("b").await, cluster.device("c").await];
        b.join(&a).await;
        c.join(&b).await;
        for node in [&a, &b, &c] {
            let location = node.add_location(node.name()).await;
            node.add_entries(location, None, 10).await;
            node.add_tags(10).await;
        }
        cluster.settle(LATER).await;
        cluster.until_pruned(LATER).await;
        assert_eq!(cluster.report().await.connections, [(0, 1), (1, 2)].into());
        assert_eq!((a.count::<Tag>().await, c.count::<Tag>().await), (30, 30));
    });
}

#[test]
fn a_dead_and_a_stopped_peer_hold_up_nobody() {
    Cluster::run(408, async |cluster| {
        let [a, b, dead, stopped] = cluster.library(["a", "b", "dead", "stopped"]).await;
        cluster.unplug(&dead).await;
        stopped.stop().await;
        for round in 0..30 {
            let begun = Instant::now();
            let tag = a.add_tag(&round.to_string()).await;
            a.status().await;
            assert!(begun.elapsed() < Duration::from_secs(1));
            cluster.pass(Duration::from_secs(1)).await;
            assert_eq!(b.tag_name(tag).await.unwrap(), round.to_string());
        }
        cluster.heal().await;
        stopped.start().await;
        cluster.settle(LATER).await;
    });
}

async fn work(nodes: &[&Node]) {
    for node in nodes {
        node.add_tag(node.name()).await;
        node.add_file().await;
    }
}

#[test]
fn after_a_partition_with_edits_on_both_sides_all_are_equal() {
    Cluster::run(409, async |cluster| {
        let [a, b, c, d] = cluster.library(["a", "b", "c", "d"]).await;
        cluster.partition(&[&[&a, &b], &[&c, &d]]).await;
        for _ in 0..10 {
            work(&[&a, &b, &c, &d]).await;
            cluster.pass(Duration::from_secs(7)).await;
        }
        cluster.heal().await;
        cluster.settle(LATER).await;
        assert_eq!(d.count::<Tag>().await, 40);
        cluster.until_pruned(LATER).await;
    });
}

#[test]
fn after_flapping_links_all_are_equal() {
    Cluster::run(410, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        for round in 0..40 {
            match round % 4 {
                0 => cluster.partition(&[&[&a], &[&b, &c]]).await,
                1 => cluster.partition(&[&[&a, &c], &[&b]]).await,
                2 => cluster.unplug(&c).await,
                _ => cluster.heal().await,
            }
            work(&[&a, &b, &c]).await;
            cluster.pass(Duration::from_millis(700 * (round % 11))).await;
        }
        cluster.heal().await;
        cluster.settle(LATER).await;
        assert_eq!(c.count::<Tag>().await, 120);
    });
}

#[test]
fn after_links_that_pass_one_way_only_all_are_equal() {
    Cluster::run(411, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        cluster.cut(&a, &b).await;
        cluster.cut(&b, &c).await;
        cluster.cut(&c, &a).await;
        for _ in 0..10 {
            work(&[&a, &b, &c]).await;
            cluster.pass(Duration::from_secs(4)).await;
        }
        cluster.heal().await;
        cluster.settle(LATER).await;
        assert_eq!(a.count::<Tag>().await, 30);
    });
}

#[test]
fn one_cut_direction_is_routed_around_through_a_third() {
    Cluster::run(412, async |cluster| {
        let [a, b, _c] = cluster.library(["a", "b", "c"]).await;
        cluster.cut(&a, &b).await;
        work(&[&a, &b]).await;
        cluster.settle(LATER).await;
        assert_eq!(b.count::<Tag>().await, 2);
    });
}

#[test]
fn with_three_in_ten_messages_lost_doubled_and_reordered_all_are_equal_in_bounded_time() {
    for seed in [413, 1_413, 2_413] {
        Cluster::run(seed, async |cluster| {
            let [a, b, c] = cluster.library(["a", "b", "c"]).await;
            let bad = Link { delay_ms: 1..=2_000, loss: 0.3, duplication: 0.3 };
            cluster.network().change(|conditions| conditions.link = bad).await;
            for _ in 0..20 {
                work(&[&a, &b, &c]).await;
                cluster.pass(Duration::from_secs(1)).await;
            }
            cluster.settle(Duration::from_mins(10)).await;
            assert_eq!(a.count::<Tag>().await, 60);
        });
    }
}

#[test]
fn a_commit_of_a_hundred_thousand_rows_is_pulled_and_no_gossip_message_exceeds_its_cap() {
    Cluster::run(414, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        let ids = a.peer().environment().new_ids(100_000);
        let fields = Fields::new().with(Entry::NAME, "one of many").with(Entry::SIZE, 1);
        a.commit(ids.into_iter().map(|id| Write::put(Entry::MODEL, id, fields.clone())).collect()).await;
        cluster.settle(LATER).await;
        assert_eq!((b.count::<Entry>().await, c.count::<Entry>().await), (100_000, 100_000));
        for node in [&b, &c] {
            assert!(cluster.report().await.tally(node.number()).requests_of("state_request") > 0);
        }
        for (_, tally) in cluster.report().await.tallies {
            assert!(tally.gossip_bytes_max <= GOSSIP_BYTES_MAX && tally.oversized == 0);
        }
    });
}

#[test]
fn with_no_gossip_at_all_everything_arrives_by_heartbeat_and_pull() {
    Cluster::run(415, async |cluster| {
        cluster.network().change(|conditions| conditions.gossip = false).await;
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        work(&[&a, &b, &c]).await;
        a.add_tags(500).await;
        cluster.settle(SOON).await;
        cluster.until_pruned(LATER).await;
        let heard = cluster.report().await.tallies;
        assert_eq!([&a, &b, &c].map(|node| heard[&node.number()].gossip_heard), [0, 0, 0]);
        assert_eq!(b.count::<Tag>().await, 503);
    });
}

#[test]
fn a_session_that_ends_late_does_not_hide_the_new_one_with_the_same_member() {
    Cluster::run(422, async |cluster| {
        let a = cluster.device("a").await;
        let (fake, key) = FakeMember::join(cluster, &a, 1).await;
        for round in 1..=10 {
            fake.disconnect(key).await;
            fake.dial(a.number(), key).await.ok();
            cluster.pass(Duration::from_millis(round * 3)).await;
            fake.dial(a.number(), key).await.ok();
            let stream = Stream::shared(a.id());
            let before = fake.heard().batches_of(stream).len();
            a.add_tag("new").await;
            cluster.pass(SOON).await;
            assert!(fake.heard().batches_of(stream).len() > before, "round {round}: nothing is sent to it");
            assert!(a.status().await.peers.iter().all(|peer| peer.online), "round {round}");
        }
    });
}

#[test]
fn what_waits_behind_a_gap_that_only_a_removed_device_could_fill_is_dropped() {
    Cluster::run(427, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        let chain = [b.number(), a.number(), c.number()];
        cluster.network().change(move |conditions| conditions.line(&chain)).await;
        cluster.pass(LATER).await;
        // What b broadcasts first is lost; of the next a and c hear, and a cannot ask for what is before it.
        cluster.cut(&b, &a).await;
        cluster.cut(&a, &b).await;
        b.add_tag("lost").await;
        cluster.pass(Duration::from_millis(100)).await;
        let heard = (b.number(), a.number());
        cluster
            .network()
            .change(move |conditions| {
                conditions.cuts.remove(&heard);
            })
            .await;
        b.add_tag("heard").await;
        cluster.pass(Duration::from_millis(100)).await;
        assert_eq!((a.status().await.queues.buffered, c.status().await.queues.buffered), (1, 1));
        let gone = b.id();
        b.kill().await;
        a.peer().remove_device(gone).await.unwrap();
        cluster.pass(Duration::from_mins(1)).await;
        assert_eq!((a.status().await.queues.buffered, c.status().await.queues.buffered), (0, 0));
        check::assert_equal(&[&a, &c]).await;
    });
}
