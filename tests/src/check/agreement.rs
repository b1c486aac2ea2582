//! Agreement with the reference: a device holds of shared data exactly what follows by definition from the changes up
//! to its watermarks. A change that was lost, applied twice, or merged wrongly shows, and so does a deleted record
//! that comes back to life.
//!
//! Not verified here: device-owned rows (`holes`), devices in the midst of a snapshot, which hold more than their
//! watermarks say, and records of which a snapshot item with a stamp from far in the future is parked.

use std::collections::{BTreeMap, BTreeSet};

use starling::Conflict;
use starling::proto::purge::UNDELETE_MS;
use starling_schema::ids::DeviceId;
use starling_schema::stream::StreamKind;

use super::{Held, Violation};
use crate::reference::Reference;

/// How much of a line is shown.
const SHOWN_MAX: usize = 2_000;

/// Judges the shared records of a device by the changes that it has.
///
/// # Errors
/// The first line that differs.
pub fn agrees_so_far(held: &Held, reference: &Reference) -> Result<(), Violation> {
    let shared = held.sample.marks.iter().filter(|(stream, _)| stream.kind == StreamKind::Shared);
    let marks: BTreeMap<DeviceId, u64> = shared.map(|(stream, through)| (stream.origin, through)).collect();
    compare(held, &reference.through(&marks))
}

/// Lines but those of records that are not complete.
fn complete<'a>(held: &Held, lines: &'a [String]) -> Vec<&'a str> {
    let incomplete: BTreeSet<String> = held.sample.incomplete.iter().map(|id| format!("\"id\":\"{id}\"")).collect();
    let is_complete = |line: &&str| incomplete.iter().all(|id| !line.contains(id.as_str()));
    lines.iter().map(String::as_str).filter(is_complete).collect()
}

/// Judges the list of conflicts of a device whose clock shows `wall_ms`, in milliseconds since 1970. Of a record that
/// was deleted too long ago to be restored it may list all or, once it was purged, nothing.
///
/// # Errors
/// When it is not what the reference lists.
pub fn conflicts_agree(name: &str, listed: &[Conflict], reference: &Reference, wall_ms: u64) -> Result<(), Violation> {
    let (mut expected, of) = (reference.conflicts(), |conflict: &Conflict| (conflict.model, conflict.record));
    let has: BTreeSet<_> = listed.iter().map(of).collect();
    expected.retain(|conflict| {
        let deleted = reference.deleted(conflict.model, conflict.record);
        has.contains(&of(conflict)) || deleted.is_none_or(|hlc| hlc.wall_ms() + UNDELETE_MS > wall_ms)
    });
    if listed == expected.as_slice() {
        return Ok(());
    }
    let only = |some: &[Conflict], others: &[Conflict]| {
        some.iter().find(|conflict| !others.contains(conflict)).map(|conflict| {
            let writes = reference.about(conflict.model, conflict.record);
            format!("{conflict:?} of the writes {writes:#?}")
        })
    };
    let detail = format!(
        "{name} lists {}, the reference {}\nlisted only: {:?}\nnot listed: {}",
        listed.len(),
        expected.len(),
        only(listed, &expected),
        only(&expected, listed).unwrap_or_else(|| "all".to_owned())
    );
    Err(Violation::new("conflicts", detail))
}

fn compare(held: &Held, reference: &Reference) -> Result<(), Violation> {
    let lines = reference.lines();
    let [has, expected] = [complete(held, &held.shared), complete(held, &lines)];
    let at = has.iter().zip(&expected).position(|(has, expected)| has != expected);
    let at = at.or_else(|| (has.len() != expected.len()).then_some(has.len().min(expected.len())));
    let Some(at) = at else { return Ok(()) };
    let differs = [has.get(at), expected.get(at)].into_iter().flatten().min_by_key(|line| line.split_once("\"id\":"));
    let writes = differs.map(|line| reference.history_of(line)).unwrap_or_default();
    let shown = |lines: &[&str]| {
        lines.get(at).map_or_else(|| "nothing".to_owned(), |line| line.chars().take(SHOWN_MAX).collect())
    };
    let [has, should] = [shown(&has), shown(&expected)];
    let alive = |line: &str| !line.contains("\"deleted\"") && line != "nothing";
    let checker = if alive(&has) && !alive(&should) { "resurrection" } else { "agreement" };
    let detail = format!("{} has:       {has}\nreference: {should}\nof the writes\n{writes}", held.name);
    Err(Violation::new(checker, detail))
}

#[cfg(test)]
mod tests {
    use starling_schema::change::{FieldWrite, Op, SharedChange};
    use starling_schema::hlc::Hlc;
    use starling_schema::ids::RecordId;
    use starling_schema::record::Seen;
    use starling_schema::stream::Stream;
    use starling_schema::value::Value;
    use uuid::Uuid;

    use super::super::Sample;
    use super::*;

    const A: DeviceId = DeviceId(Uuid::from_u128(1));

    fn change(seq: u64, op: Op) -> SharedChange {
        SharedChange { seq, hlc: Hlc { time: seq, device: A }, model: 5, record: RecordId::MIN, op, ends_commit: true }
    }

    fn held(through: u64, shared: Vec<String>) -> Held {
        let sample = Sample::of(A, &[(Stream::shared(A), through)]);
        let (owned, membership, log) = (Vec::new(), Vec::new(), Vec::new());
        Held { device: A, name: "a".to_owned(), sample, owned, shared, membership, log, deleted: Vec::new() }
    }

    #[test]
    fn a_change_that_is_missing_and_a_record_that_came_back_are_found() {
        let named = FieldWrite { field: 1, value: Value::from("x"), seen: Seen::new() };
        let made = change(1, Op::Set { life: None, fields: vec![named] });
        let mut seen = Seen::new();
        seen.add(made.hlc);
        let mut reference = Reference::new();
        reference.observe(A, &[made]).unwrap();
        let alive = reference.lines();
        reference.observe(A, &[change(2, Op::Delete { seen })]).unwrap();
        let gone = reference.lines();
        agrees_so_far(&held(1, alive.clone()), &reference).unwrap();
        agrees_so_far(&held(2, gone.clone()), &reference).unwrap();
        let checker = |held: Held| agrees_so_far(&held, &reference).unwrap_err().checker;
        assert_eq!(checker(held(2, alive)), "resurrection");
        assert_eq!(checker(held(1, gone)), "agreement");
        assert_eq!(checker(held(1, Vec::new())), "agreement");
    }
}
