//! The whole system: random work on random links with crashes, until all is quiet; then everything is equal.

use std::time::Duration;

use proptest::prelude::*;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use starling::CommitError;
use starling::status::Queues;
use starling_schema::change::Write;
use starling_schema::ids::RecordId;
use starling_schema::model::Syncable;
use starling_schema::models::{
    Collection, CollectionEntry, Entry, Tag, TagAssignment, TagRelationship, Target, UserMetadata,
};
use starling_schema::value::Fields;
use starling_tests::check;
use starling_tests::sim::{Cluster, Link, Node};

use crate::LATER;

/// What the work is done on: few of each, so that devices get into each other's way.
struct Things {
    tags: Vec<RecordId>,
    collections: Vec<RecordId>,
    files: Vec<RecordId>,
}

impl Things {
    async fn new(cluster: &Cluster, node: &Node) -> Self {
        let location = node.add_location("shared").await;
        let files = node.add_entries(location, None, 5).await;
        let [mut tags, mut collections] = [Vec::new(), Vec::new()];
        for name in ["one", "two", "three"] {
            tags.push(node.add_tag(name).await);
            collections.push(node.add_collection(name).await);
        }
        cluster.settle(LATER).await;
        Self { tags, collections, files }
    }

    /// One write of a shared record, any of all there are.
    fn write(&self, random: &mut ChaCha8Rng, value: &str) -> Write {
        let tag = *self.tags.choose(random).unwrap();
        let other = *self.tags.choose(random).unwrap();
        let collection = *self.collections.choose(random).unwrap();
        let file = *self.files.choose(random).unwrap();
        let assignment = TagAssignment::of(tag, &Target::Entry(file));
        match random.random_range(0..14) {
            0 | 1 => Write::patch(Tag::MODEL, tag, Fields::new().with(Tag::NAME, value)),
            2 => Write::patch(Tag::MODEL, tag, Fields::new().with(Tag::COLOR, value)),
            3 => Write::delete(Tag::MODEL, tag),
            4 => Write::restore(Tag::MODEL, tag),
            5 => Write::patch(Collection::MODEL, collection, Fields::new().with(Collection::NAME, value)),
            6 => Write::delete(Collection::MODEL, collection),
            7 => Write::restore(Collection::MODEL, collection),
            8 => assignment.put(),
            9 => Write::delete(TagAssignment::MODEL, assignment.id),
            10 => TagRelationship::between(tag, other).put(),
            11 => CollectionEntry::of(collection, file).put(),
            12 => Write::delete(CollectionEntry::MODEL, CollectionEntry::of(collection, file).id),
            _ => {
                let mut metadata = UserMetadata::of(file);
                metadata.notes = Some(value.to_owned());
                metadata.put()
            }
        }
    }
}

/// Makes a few commits on a device.
async fn work(node: &Node, things: &Things, random: &mut ChaCha8Rng, value: &str) {
    for _ in 0..random.random_range(1..4) {
        let writes = (0..random.random_range(1..4)).map(|_| things.write(random, value)).collect();
        match node.try_commit(writes).await {
            Ok(_) | Err(CommitError::Deleted { .. }) => {}
            Err(error) => panic!("{}: {error}", node.name()),
        }
    }
    if random.random_bool(0.3) {
        let location = node.add_location(value).await;
        let files = node.add_entries(location, None, random.random_range(1..50)).await;
        node.delete::<Entry>(*files.choose(random).unwrap()).await;
    }
}

/// Something happens to the devices or their links.
async fn trouble(cluster: &Cluster, nodes: &[Node], random: &mut ChaCha8Rng) {
    let [one, two] = [nodes.choose(random).unwrap(), nodes.choose(random).unwrap()];
    match random.random_range(0..9) {
        0 => {
            let (left, right): (Vec<&Node>, Vec<&Node>) = nodes.iter().partition(|_| random.random_bool(0.5));
            cluster.partition(&[&left, &right]).await;
        }
        1 => cluster.cut(one, two).await,
        2 => cluster.unplug(one).await,
        3 | 4 => cluster.heal().await,
        5 if one.is_running() => {
            one.kill().await;
            one.start().await;
        }
        6 if one.is_running() => one.stop().await,
        7 if !one.is_running() => one.start().await,
        _ => {
            let loss = random.random_range(0.0..0.4);
            let link = Link { delay_ms: 1..=random.random_range(2..800), loss, duplication: loss };
            cluster.network().change(move |conditions| conditions.link = link).await;
            one.skew_ms(random.random_range(-100_000..100_000));
        }
    }
}

/// Runs all of it and gives the hash over what was delivered.
fn minutes_of_trouble(seed: u64) -> blake3::Hash {
    Cluster::run(seed, async |cluster| {
        let mut random = ChaCha8Rng::seed_from_u64(cluster.seed());
        let nodes = cluster.library(["a", "b", "c", "d"]).await;
        let things = Things::new(cluster, &nodes[0]).await;
        for step in 0..60 {
            let running = cluster.running();
            if let Some(node) = running.choose(&mut random) {
                work(node, &things, &mut random, &format!("step {step}")).await;
            }
            if random.random_bool(0.4) {
                trouble(cluster, &nodes, &mut random).await;
            }
            cluster.pass(Duration::from_millis(random.random_range(0..5_000))).await;
        }
        cluster.heal().await;
        cluster.network().change(|conditions| conditions.link = Link::default()).await;
        for node in &nodes {
            node.skew_ms(0);
            if !node.is_running() {
                node.start().await;
            }
        }
        cluster.settle(LATER).await;
        cluster.until_pruned(LATER).await;
        check::assert_equal(&nodes.each_ref()).await;
        cluster
            .until("all queues are empty", LATER, async || {
                for node in &nodes {
                    let queues = node.status().await.queues;
                    if queues != Queues::default() {
                        return Some(format!("{}: {queues:?}", node.name()));
                    }
                }
                None
            })
            .await;
        cluster.report().await.trace
    })
}

proptest! {
    #![proptest_config(crate::cases(16))]

    #[test]
    fn after_any_trouble_all_are_equal_the_queues_empty_and_the_logs_pruned(seed: u64) {
        minutes_of_trouble(seed);
    }
}

#[test]
fn after_known_troubles_all_are_equal_the_queues_empty_and_the_logs_pruned() {
    for seed in 1..=8 {
        minutes_of_trouble(seed);
    }
}

#[test]
fn the_same_trouble_gives_the_same_trace_twice() {
    assert_eq!(minutes_of_trouble(42), minutes_of_trouble(42));
}
