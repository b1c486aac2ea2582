//! The merge against the reference model: whatever devices write apart, and however it meets, every device holds what
//! follows from the set of writes by definition.

use std::time::Duration;

use proptest::prelude::*;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use starling::CommitError;
use starling_schema::change::Write;
use starling_schema::ids::{FieldNo, ModelId, RecordId};
use starling_schema::models::{CollectionEntry, Tag, TagAssignment, Target, UserMetadata};
use starling_schema::value::{Fields, Value};
use starling_tests::reference::{Reference, agree, agree_so_far, audit, collect};
use starling_tests::sim::{Cluster, Node};

use crate::LATER;

/// Steps of one history: enough for several partitions, few enough that a case takes a fraction of a second.
const STEPS: usize = 40;

/// What the devices write: few records and few values, so that they get into each other's way.
fn records(node: &Node) -> Vec<(ModelId, RecordId, [FieldNo; 2])> {
    let entry = RecordId(uuid::Uuid::from_u128(1));
    let tag = node.new_id();
    let assignment = TagAssignment::of(tag, &Target::Entry(entry));
    vec![
        (Tag::MODEL, tag, [Tag::NAME, Tag::COLOR]),
        (Tag::MODEL, Tag::built_in("favourite"), [Tag::NAME, Tag::COLOR]),
        (TagAssignment::MODEL, assignment.id, [TagAssignment::TAG, TagAssignment::ENTRY]),
        (CollectionEntry::MODEL, node.new_id(), [CollectionEntry::POSITION, CollectionEntry::ENTRY]),
        (UserMetadata::MODEL, UserMetadata::of(entry).id, [UserMetadata::NOTES, UserMetadata::RATING]),
    ]
}

/// A value that the field's column holds, one of three, or nothing.
fn value(model: ModelId, field: FieldNo, random: &mut ChaCha8Rng) -> Value {
    let choice = random.random_range(0..4_u8);
    let id = Value::Id(RecordId(uuid::Uuid::from_u128(choice.into())));
    match (model, field) {
        _ if choice == 3 => Value::Null,
        (Tag::MODEL, _) | (UserMetadata::MODEL, UserMetadata::NOTES) => {
            Value::from(["one", "two", "three"][usize::from(choice)])
        }
        (CollectionEntry::MODEL, CollectionEntry::POSITION) => Value::Real(choice.into()),
        (UserMetadata::MODEL, _) => Value::Int(choice.into()),
        _ => id,
    }
}

fn write(records: &[(ModelId, RecordId, [FieldNo; 2])], random: &mut ChaCha8Rng) -> Write {
    let (model, record, columns) = *records.choose(random).unwrap();
    let mut fields = Fields::new();
    for field in columns {
        if random.random_bool(0.6) {
            fields.set(field, value(model, field, random));
        }
    }
    match random.random_range(0..10) {
        0 | 1 => Write::delete(model, record),
        2 | 3 => Write::restore(model, record),
        4..=6 => Write::put(model, record, fields),
        _ => Write::patch(model, record, fields),
    }
}

/// Writes on random devices in random partitions; each device is compared on the way and at the end.
fn history(seed: u64) {
    Cluster::run(seed, async |cluster| {
        let mut random = ChaCha8Rng::seed_from_u64(cluster.seed());
        let nodes = cluster.library(["a", "b", "c"]).await;
        let records = records(&nodes[0]);
        let mut reference = Reference::new();
        for _ in 0..STEPS {
            let node = nodes.choose(&mut random).unwrap();
            let writes = (0..random.random_range(1..4)).map(|_| write(&records, &mut random)).collect();
            match node.try_commit(writes).await {
                Ok(_) | Err(CommitError::Deleted { .. } | CommitError::Purged { .. }) => {}
                Err(error) => panic!("{}: {error}", node.name()),
            }
            collect(node, &mut reference).await;
            match random.random_range(0..6) {
                0 => cluster.heal().await,
                1 => {
                    let (left, right): (Vec<&Node>, Vec<&Node>) = nodes.iter().partition(|_| random.random_bool(0.5));
                    cluster.partition(&[&left, &right]).await;
                }
                2 => node.skew_ms(random.random_range(-100_000..100_000)),
                _ => {}
            }
            cluster.pass(Duration::from_millis(random.random_range(0..4_000))).await;
            agree_so_far(nodes.choose(&mut random).unwrap(), &reference).await;
        }
        for node in &nodes {
            audit(node, &mut reference).await;
        }
        cluster.heal().await;
        cluster.settle(LATER).await;
        for node in &nodes {
            agree(node, &reference).await;
        }
    });
}

proptest! {
    #![proptest_config(crate::cases(6))]

    #[test]
    fn after_any_history_every_device_holds_what_the_set_of_writes_says(seed: u64) {
        history(seed);
    }
}

#[test]
fn after_known_histories_every_device_holds_what_the_set_of_writes_says() {
    for seed in 1..=6 {
        history(seed);
    }
}
