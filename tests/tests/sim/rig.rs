//! The rig itself: the simulated network keeps libp2p's rules, and a seed decides everything.

use std::time::Duration;

use starling::network::NetworkError;
use starling_schema::ids::LibraryId;
use starling_tests::sim::{Cluster, FakeMember, Link, Node};
use tokio::time::Instant;

use crate::{LATER, SOON};

/// Played devices that are members to each other, connected as a chain.
async fn chain<const N: usize>(cluster: &Cluster) -> [FakeMember; N] {
    let mut fakes = Vec::new();
    for seed in 1..=u8::try_from(N).unwrap() {
        fakes.push(FakeMember::stranger(cluster, LibraryId::MIN, seed).await);
    }
    let keys: Vec<_> = fakes.iter().map(FakeMember::key).collect();
    for fake in &fakes {
        fake.admit(keys.clone()).await;
    }
    for pair in fakes.windows(2) {
        pair[0].dial(pair[1].number(), pair[1].key()).await.unwrap();
    }
    fakes.try_into().unwrap()
}

#[test]
fn a_dial_connects_both_sides() {
    Cluster::run(1, async |cluster| {
        let [a, b] = chain(cluster).await;
        assert_eq!(cluster.report().await.connections, [(a.number(), b.number())].into());
        cluster.pass(Duration::from_secs(1)).await;
        assert_eq!((a.heard().connected, b.heard().connected), (1, 1));
    });
}

#[test]
fn a_lost_request_times_out_after_30_seconds() {
    Cluster::run(2, async |cluster| {
        let [a, b] = chain(cluster).await;
        let lossy = Link { loss: 1.0, ..Link::default() };
        cluster.network().change(|conditions| conditions.link = lossy).await;
        let begun = Instant::now();
        assert_eq!(a.ask_bytes(b.key(), vec![1]).await, Err(NetworkError::Timeout));
        assert_eq!(begun.elapsed(), Duration::from_secs(30));
    });
}

#[test]
fn a_partition_ends_connections_after_10_seconds_and_healing_lets_them_be_dialled() {
    Cluster::run(3, async |cluster| {
        let [a, b] = chain(cluster).await;
        let groups = [a.number(), b.number()];
        cluster.network().change(move |conditions| conditions.partition(&[&groups[..1], &groups[1..]])).await;
        cluster.pass(Duration::from_millis(9_900)).await;
        assert_eq!(cluster.report().await.connections.len(), 1);
        cluster.pass(Duration::from_millis(200)).await;
        assert_eq!(cluster.report().await.connections.len(), 0);
        assert_eq!(a.ask_bytes(b.key(), vec![1]).await, Err(NetworkError::NotConnected));
        cluster.heal().await;
        assert_eq!(a.dial(b.number(), b.key()).await, Ok(()));
    });
}

#[test]
fn a_short_partition_leaves_connections_up() {
    Cluster::run(4, async |cluster| {
        let [a, b] = chain(cluster).await;
        for _ in 0..3 {
            let cut = (a.number(), b.number());
            cluster.network().change(move |conditions| drop(conditions.cuts.insert(cut))).await;
            cluster.pass(Duration::from_secs(9)).await;
            cluster.heal().await;
            cluster.pass(Duration::from_secs(2)).await;
        }
        assert_eq!((cluster.report().await.connections.len(), a.heard().connected), (1, 1));
    });
}

#[test]
fn a_broadcast_goes_from_neighbour_to_neighbour_and_reaches_each_once() {
    Cluster::run(5, async |cluster| {
        let [a, b, c] = chain(cluster).await;
        let twice = Link { duplication: 1.0, ..Link::default() };
        cluster.network().change(|conditions| conditions.link = twice).await;
        a.publish_bytes(vec![7; 100]).await;
        cluster.pass(Duration::from_secs(1)).await;
        let heard = cluster.report().await.tallies;
        assert_eq!([&a, &b, &c].map(|fake| heard[&fake.number()].gossip_heard), [0, 1, 1]);
    });
}

#[test]
fn nobody_connects_unless_both_admit() {
    Cluster::run(6, async |cluster| {
        let [a, b] = chain(cluster).await;
        let c = FakeMember::stranger(cluster, LibraryId::MIN, 9).await;
        c.close().await;
        let refused = a.dial(c.number(), c.key()).await;
        assert_eq!(refused, Err(NetworkError::Failed("the connection was refused".to_owned())));
        b.close().await;
        assert_eq!(cluster.report().await.connections.len(), 0);
    });
}

/// A day in the life of three devices on bad links, ending with the hash of all that was delivered.
fn workload(seed: u64) -> (blake3::Hash, u64) {
    Cluster::run(seed, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        let bad = Link { delay_ms: 1..=400, loss: 0.1, duplication: 0.1 };
        cluster.network().change(|conditions| conditions.link = bad).await;
        for node in [&a, &b, &c] {
            busy(node).await;
        }
        cluster.partition(&[&[&a, &b], &[&c]]).await;
        for node in [&c, &b, &a] {
            busy(node).await;
        }
        b.kill().await;
        b.start().await;
        cluster.pass(Duration::from_mins(1)).await;
        cluster.heal().await;
        cluster.network().change(|conditions| conditions.link = Link::default()).await;
        cluster.settle(LATER).await;
        let report = cluster.report().await;
        (report.trace, report.events)
    })
}

async fn busy(node: &Node) {
    let location = node.add_location("folder").await;
    let entries = node.add_entries(location, None, 30).await;
    let tag = node.add_tag("busy").await;
    for entry in &entries[..10] {
        node.note(*entry, node.name()).await;
        node.nest(tag, *entry).await;
    }
    node.delete::<starling_schema::models::Entry>(entries[29]).await;
}

#[test]
fn the_same_seed_gives_the_same_trace_twice() {
    assert_eq!(workload(7), workload(7));
}

#[test]
fn another_seed_gives_another_trace() {
    assert_ne!(workload(7).0, workload(8).0);
}

#[test]
fn an_idle_hour_ends_with_the_next_edit() {
    Cluster::run(9, async |cluster| {
        let [a, _] = cluster.library(["a", "b"]).await;
        cluster.pass(Duration::from_hours(1)).await;
        a.add_tag("the next day").await;
        cluster.settle(SOON).await;
    });
}
