use starling_schema::change::{FieldWrite, Op};
use starling_schema::hlc::Hlc;
use starling_schema::models::Tag;
use starling_schema::record::{Seen, Stamp};
use starling_schema::value::{Fields, Value};
use uuid::Uuid;

use super::*;

const RECORD: RecordId = RecordId(Uuid::from_u128(7));

fn at(time: u64, device: u128) -> Hlc {
    Hlc { time, device: DeviceId(Uuid::from_u128(device)) }
}

fn seen(writes: &[Hlc]) -> Seen {
    let mut seen = Seen::new();
    for hlc in writes {
        seen.add(*hlc);
    }
    seen
}

fn set(life: Option<Hlc>, value: &str, knew: &[Hlc]) -> Op {
    Op::Set { life, fields: vec![FieldWrite { field: Tag::NAME, value: value.into(), seen: seen(knew) }] }
}

fn restore(life: Option<Hlc>, value: &str, hlc: Hlc, losers: &[(Hlc, &str)]) -> Op {
    let losers = losers.iter().map(|(hlc, value)| (*hlc, Value::from(*value))).collect();
    let stamps = vec![(Tag::NAME, Stamp { hlc, seen: seen(&[]), losers })];
    Op::Restore { life, fields: Fields::new().with(Tag::NAME, value), stamps }
}

/// The reference after these changes of one tag, numbered per device in the order of their stamps.
fn after(ops: &[(Hlc, Op)]) -> Reference {
    let mut reference = Reference::new();
    let mut ops = ops.to_vec();
    ops.sort_by_key(|(hlc, _)| *hlc);
    for (hlc, op) in ops {
        let seq = reference.head(hlc.device) + 1;
        let change = SharedChange { seq, hlc, model: Tag::MODEL, record: RECORD, op, ends_commit: true };
        reference.observe(hlc.device, &[change]).unwrap();
    }
    reference
}

/// The name that the tag shows, none when it is deleted, and what is listed as lost, each with whether to a delete.
fn told(reference: &Reference) -> (Option<String>, Vec<(Value, bool)>) {
    let lines = reference.lines();
    assert_eq!(lines.len(), 1);
    let line: Json = serde_json::from_str(&lines[0]).unwrap();
    let name = line["fields"]["name"]["value"].as_str().map(str::to_owned);
    assert_eq!(name.is_none(), line.get("deleted").is_some());
    (name, reference.conflicts().into_iter().map(|conflict| (conflict.value, conflict.deleted)).collect())
}

fn shows(name: &str, lost: &[&str]) -> (Option<String>, Vec<(Value, bool)>) {
    (Some(name.to_owned()), lost.iter().map(|value| (Value::from(*value), false)).collect())
}

fn is_deleted(lost: &[&str]) -> (Option<String>, Vec<(Value, bool)>) {
    (None, lost.iter().map(|value| (Value::from(*value), true)).collect())
}

#[test]
fn the_higher_stamp_wins_and_only_what_nobody_saw_is_listed() {
    let [first, left, right, last] = [at(1, 1), at(2, 1), at(2, 2), at(3, 3)];
    let apart =
        [(first, set(None, "first", &[])), (left, set(None, "left", &[first])), (right, set(None, "right", &[first]))];
    assert_eq!(told(&after(&apart)), shows("right", &["left"]));
    let after_one = [&apart[..], &[(last, set(None, "last", &[first, right]))]].concat();
    assert_eq!(told(&after(&after_one)), shows("last", &["left"]));
    let after_both = [&apart[..], &[(last, set(None, "last", &[left, right]))]].concat();
    assert_eq!(told(&after(&after_both)), shows("last", &[]));
}

#[test]
fn a_loser_that_says_what_the_winner_says_is_listed_only_once_something_else_wins() {
    let same = [(at(2, 1), set(None, "same", &[])), (at(2, 2), set(None, "same", &[]))];
    assert_eq!(told(&after(&same)), shows("same", &[]));
    let other = [&same[..], &[(at(3, 3), set(None, "other", &[at(2, 2)]))]].concat();
    assert_eq!(told(&after(&other)), shows("other", &["same"]));
}

#[test]
fn an_edit_that_a_delete_had_not_seen_is_listed_and_does_not_bring_the_record_back() {
    let [made, edit, delete] = [at(1, 1), at(5, 2), at(4, 1)];
    let writes = [
        (made, set(None, "made", &[])),
        (edit, set(None, "edit", &[made])),
        (delete, Op::Delete { seen: seen(&[made]) }),
    ];
    assert_eq!(told(&after(&writes)), is_deleted(&["edit"]));
    let back = [&writes[..], &[(at(6, 1), restore(Some(delete), "edit", edit, &[]))]].concat();
    assert_eq!(told(&after(&back)), shows("edit", &[]));
}

#[test]
fn an_edit_that_a_delete_had_not_seen_is_listed_though_the_deleted_value_was_the_same() {
    let [left, right, delete] = [at(1, 1), at(2, 2), at(3, 3)];
    let same = [(left, set(None, "same", &[])), (right, set(None, "same", &[]))];
    let after_one = [&same[..], &[(delete, Op::Delete { seen: seen(&[right]) })]].concat();
    assert_eq!(told(&after(&after_one)), is_deleted(&["same"]));
    let unaware = [&same[..], &[(delete, Op::Delete { seen: seen(&[]) })]].concat();
    assert_eq!(told(&after(&unaware)), is_deleted(&["same"]));
}

#[test]
fn a_write_of_a_lower_life_counts_for_nothing_whatever_its_stamp() {
    let [made, delete] = [at(2, 1), at(3, 1)];
    let writes = [
        (made, set(None, "made", &[])),
        (delete, Op::Delete { seen: seen(&[made]) }),
        (at(4, 1), restore(Some(delete), "made", made, &[(at(1, 3), "lost")])),
        (at(9, 2), set(None, "of the old life", &[made])),
    ];
    assert_eq!(told(&after(&writes)), shows("made", &["lost"]));
    let edited = [&writes[..], &[(at(5, 4), set(Some(delete), "edited", &[made]))]].concat();
    assert_eq!(told(&after(&edited)), shows("edited", &["lost"]));
}

#[test]
fn deletes_and_restores_are_ordered_by_their_stamps_alone() {
    let [delete, again] = [at(2, 1), at(5, 2)];
    let writes = [
        (at(1, 1), set(None, "made", &[])),
        (delete, Op::Delete { seen: seen(&[at(1, 1)]) }),
        (at(4, 1), restore(Some(delete), "made", at(1, 1), &[])),
    ];
    let deleted_apart = [&writes[..], &[(again, Op::Delete { seen: seen(&[at(1, 1)]) })]].concat();
    assert_eq!(told(&after(&deleted_apart)), is_deleted(&[]));
    let restored_later = [&deleted_apart[..], &[(at(6, 1), restore(Some(delete), "made", at(1, 1), &[]))]].concat();
    assert_eq!(told(&after(&restored_later)), shows("made", &[]));
}

#[test]
fn a_number_that_stands_for_two_changes_is_named_with_both() {
    let origin = at(1, 1).device;
    let change = |value| {
        let op = set(None, value, &[]);
        SharedChange { seq: 1, hlc: at(1, 1), model: Tag::MODEL, record: RECORD, op, ends_commit: true }
    };
    let mut reference = Reference::new();
    assert_eq!(reference.observe(origin, &[change("one"), change("one")]), Ok(()));
    let reused = reference.observe(origin, &[change("two")]).unwrap_err();
    assert_eq!((*reused.first, *reused.second), (change("one"), change("two")));
    assert_eq!(reference.len(), 1);
}
