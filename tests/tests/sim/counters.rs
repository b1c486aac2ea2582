//! What a peer counts is what happened: compared with what the test and the network counted.

use starling::status::Counts;
use starling_schema::models::Tag;
use starling_tests::sim::{Cluster, Node};

use crate::{LATER, SOON};

/// What the network counted at a device: broadcasts that it sent, and those that reached it.
async fn broadcasts(cluster: &Cluster, node: &Node) -> (u64, u64) {
    let report = cluster.report().await;
    let tally = report.tallies.get(&node.number()).cloned().unwrap_or_default();
    (tally.published, tally.gossip_heard)
}

#[test]
fn counters_begin_at_zero_and_equal_what_was_counted_independently() {
    Cluster::run(1001, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        for node in [&a, &b] {
            node.stop().await;
        }
        let heads = [broadcasts(cluster, &a).await, broadcasts(cluster, &b).await];
        for node in [&a, &b] {
            node.start().await;
            assert_eq!(node.status().await.counters, Counts::default(), "{}", node.name());
        }
        cluster.pass(SOON).await;
        let location = a.add_location("photos").await;
        a.add_entries(location, None, 20).await;
        let tags = a.add_tags(30).await;
        cluster.settle(SOON).await;
        for tag in &tags[..5] {
            b.set::<Tag>(*tag, Tag::COLOR, "#ff0000").await;
            cluster.settle(SOON).await;
        }
        a.delete::<Tag>(tags[29]).await;
        cluster.settle(LATER).await;
        // A location with its root, 20 entries, 30 tags and a deletion; five colours the other way.
        for (node, before, commits, changes_applied) in [(&a, heads[0], 4, 5), (&b, heads[1], 5, 2 + 20 + 30 + 1)] {
            let (published, heard) = broadcasts(cluster, node).await;
            let (gossip_out, gossip_in) = (published - before.0, heard - before.1);
            let expected = Counts { commits, changes_applied, gossip_out, gossip_in, ..Counts::default() };
            assert_eq!(node.status().await.counters, expected, "{}", node.name());
            assert!(gossip_out > 0 && gossip_in > 0);
        }
    });
}
