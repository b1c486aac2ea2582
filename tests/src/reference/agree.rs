//! Whether a device holds what the reference says.

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use starling::{Conflict, QueryError, Registry, canonical};
use starling_schema::ids::DeviceId;
use starling_schema::stream::StreamKind;
use starling_schema::tables::stream::dsl;

use super::Reference;
use crate::sim::Node;

/// What a device holds of shared data, and how far it is along each origin's shared stream, at one instant.
struct Held {
    lines: Vec<String>,
    watermarks: BTreeMap<DeviceId, u64>,
}

/// Asserts that a device holds exactly what follows from all changes, and lists exactly those conflicts.
///
/// # Panics
/// When it does not; shows the first thing that differs.
pub async fn agree(node: &Node, reference: &Reference) {
    compare(node.name(), &held(node).await.lines, reference);
    let (listed, expected) = (node.conflicts().await, reference.conflicts());
    let only_one_lists =
        |one: &[Conflict], other: &[Conflict]| one.iter().find(|of_one| !other.contains(of_one)).cloned();
    let differs = only_one_lists(&listed, &expected).or_else(|| only_one_lists(&expected, &listed));
    let history = differs.map(|conflict| reference.history((conflict.model, conflict.record)));
    let (name, history) = (node.name(), history.unwrap_or_default());
    assert_eq!(listed, expected, "conflicts of {name} (left) and of the reference (right) after\n{history}");
}

/// Asserts that a device holds exactly what follows from the changes that it has, which need not be all.
///
/// # Panics
/// When it does not; shows the first line that differs.
pub async fn agree_so_far(node: &Node, reference: &Reference) {
    let held = held(node).await;
    compare(node.name(), &held.lines, &reference.through(&held.watermarks));
}

fn compare(name: &str, held: &[String], reference: &Reference) {
    let expected = reference.lines();
    for ((held, expected), record) in held.iter().zip(&expected).zip(reference.records().into_keys()) {
        assert_eq!(held, expected, "{name} (left) and the reference (right) after\n{}", reference.history(record));
    }
    assert_eq!(held.len(), expected.len(), "lines of {name} and of the reference");
}

async fn held(node: &Node) -> Held {
    let read = |c: &mut SqliteConnection| {
        let of_kind = dsl::stream.filter(dsl::kind.eq(StreamKind::Shared.code()));
        let watermarks: Vec<(DeviceId, i64)> = of_kind.select((dsl::origin, dsl::watermark)).load(c)?;
        let mut lines = Vec::new();
        canonical::dump(c, &Registry::default(), &mut |model, line| {
            if is_shared(model, line) {
                lines.push(line.to_owned());
            }
        })?;
        let watermarks = watermarks.into_iter().map(|(origin, through)| (origin, through.unsigned_abs())).collect();
        Ok::<_, QueryError>(Held { lines, watermarks })
    };
    node.peer().query(read).await.unwrap_or_else(|error| panic!("{}: {error}", node.name()))
}

/// Whether a line of the dump is of a shared record: those of device-owned ones name the owner.
fn is_shared(model: &str, line: &str) -> bool {
    let line: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
    model != "membership" && line.get("owner").is_none()
}
