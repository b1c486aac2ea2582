//! How concurrent changes of one shared record become one record: a join semilattice of stamped fields.
//!
//! Every change is a small record (`Op::into_delta`), and applying it is joining it. The join is associative,
//! commutative and idempotent, so winner, losers and life are functions of the set of changes, not of their order.
//! Per field it is last-writer-wins with a dotted version vector (Preguiça et al., 2012) that tells which losers
//! nobody had seen.

use starling_schema::change::{ENTRY_BYTES_MAX, FieldWrite, Op};
use starling_schema::hlc::Hlc;
use starling_schema::ids::FieldNo;
use starling_schema::record::{Deletion, Seen, SharedRecord, Stamp};
use starling_schema::value::{Fields, Value};

use crate::planted::{self, Bug};

/// Merges `delta` into `record`.
pub fn join(record: &mut SharedRecord, delta: SharedRecord) {
    let SharedRecord { mut fields, stamps } = delta;
    record.stamps.restored = record.stamps.restored.max(stamps.restored);
    join_deletion(&mut record.stamps.deleted, stamps.deleted);
    if planted::is(Bug::EditRevives) {
        record.stamps.restored = record.stamps.restored.max(stamps.fields.iter().map(|(_, stamp)| stamp.hlc).max());
    }
    if stamps.life > record.stamps.life {
        record.stamps.life = stamps.life;
        record.fields = fields;
        record.stamps.fields = stamps.fields;
    } else if stamps.life == record.stamps.life || planted::is(Bug::OldLifeMerges) {
        for (field, stamp) in stamps.fields {
            let value = fields.remove(field).unwrap_or(Value::Null);
            join_field(record, field, value, stamp);
        }
    }
}

/// The newest delete stands, and what any of those who deleted knew counts as known.
fn join_deletion(ours: &mut Option<Deletion>, theirs: Option<Deletion>) {
    match (ours.as_mut(), theirs) {
        (Some(ours), Some(theirs)) => {
            ours.hlc = ours.hlc.max(theirs.hlc);
            ours.seen.join(&theirs.seen);
        }
        (None, theirs) => *ours = theirs,
        (Some(_), None) => {}
    }
}

fn join_field(record: &mut SharedRecord, field: FieldNo, value: Value, stamp: Stamp) {
    let at = match record.stamps.fields.binary_search_by_key(&field, |(no, _)| *no) {
        Ok(at) => at,
        Err(at) => {
            record.fields.set(field, value);
            record.stamps.fields.insert(at, (field, stamp));
            return;
        }
    };
    let ours = &mut record.stamps.fields[at].1;
    if !planted::is(Bug::SeenNotJoined) {
        ours.seen.join(&stamp.seen);
    }
    let mut writes = std::mem::take(&mut ours.losers);
    writes.extend(stamp.losers);
    let tie = planted::is(Bug::TieByArrival) && stamp.hlc.time == ours.hlc.time;
    if stamp.hlc > ours.hlc || tie {
        let beaten = record.fields.set(field, value).unwrap_or(Value::Null);
        if !planted::is(Bug::LoserDropped) {
            writes.push((ours.hlc, beaten));
        }
        ours.hlc = stamp.hlc;
    } else if stamp.hlc < ours.hlc {
        writes.push((stamp.hlc, value));
    } else if record.fields.get(field).is_none_or(|held| held.rank() < value.rank()) {
        // One write has one value. Where a disk or a program changed it, all must still end with the same.
        record.fields.set(field, value);
    }
    ours.losers = writes;
    ours.settle();
}

/// What an author who sees `record` has seen of one field.
fn seen_of(record: &SharedRecord, field: FieldNo) -> Seen {
    let mut seen = Seen::new();
    if let Some(stamp) = record.stamps.field(field) {
        seen.join(&stamp.seen);
        seen.add(stamp.hlc);
        for (hlc, _) in &stamp.losers {
            seen.add(*hlc);
        }
    }
    seen
}

/// The change that gives fields new values; none when they have them already and nothing lost against them.
#[must_use]
pub fn set(record: &SharedRecord, fields: Fields) -> Option<Op> {
    let writes: Vec<FieldWrite> = fields
        .into_iter()
        .filter(|(field, value)| {
            let settled = record.stamps.field(*field).is_some_and(|stamp| stamp.losers.is_empty());
            !settled || record.fields.get(*field) != Some(value)
        })
        .map(|(field, value)| FieldWrite { field, value, seen: seen_of(record, field) })
        .collect();
    (!writes.is_empty()).then_some(Op::Set { life: record.stamps.life, fields: writes })
}

/// The change that makes a record with a derived id, stamped `hlc`: a restore, so that making it anew after a
/// delete works by HLC.
#[must_use]
pub fn create(record: &SharedRecord, hlc: Hlc, fields: Fields) -> Op {
    let life = record.stamps.deleted.as_ref().map(|deleted| deleted.hlc);
    // What its author knew of an earlier life counts as seen when somebody else brings that life back.
    let stamp = |field| Stamp { hlc, seen: seen_of(record, field), losers: Vec::new() };
    let stamps = fields.iter().map(|(field, _)| (field, stamp(field))).collect();
    Op::Restore { life, fields, stamps }
}

/// The change that deletes the record; none when it is not alive.
#[must_use]
pub fn delete(record: &SharedRecord) -> Option<Op> {
    record.stamps.is_alive().then(|| Op::Delete { seen: record.stamps.known() })
}

/// The changes that bring a deleted record back with all it held; none when it is alive. What does not fit one is parted:
/// all start the same life, and what they hold is joined.
#[must_use]
pub fn restore(record: &SharedRecord) -> Vec<Op> {
    let Some(deleted) = record.stamps.deleted.as_ref().filter(|_| !record.stamps.is_alive()) else { return Vec::new() };
    let mut parts = vec![Part::default()];
    for (field, stamp) in &record.stamps.fields {
        let winner = record.fields.get(*field).cloned().unwrap_or(Value::Null);
        // From the newest, so that each write is listed as a loser of one before it where that is in the same part.
        let losers = stamp.losers.iter().rev().map(|(hlc, value)| (*hlc, value.clone(), Seen::new()));
        for write in [(stamp.hlc, winner, stamp.seen.clone())].into_iter().chain(losers) {
            let bytes = write.1.len() + WRITE_BYTES + write.2.len() * SEEN_BYTES;
            if parts.last().is_some_and(|part| part.bytes + bytes > ENTRY_BYTES_MAX - Part::BYTES && part.bytes > 0) {
                parts.push(Part::default());
            }
            if let Some(part) = parts.last_mut() {
                part.bytes += bytes;
                part.add(*field, write);
            }
        }
    }
    let restored = |part: Part| Op::Restore { life: Some(deleted.hlc), fields: part.fields, stamps: part.stamps };
    parts.into_iter().map(restored).collect()
}

/// More than a write takes besides its value, and than each device takes that its author had seen, in bytes.
const WRITE_BYTES: usize = 64;
const SEEN_BYTES: usize = 32;

/// What one change of a restore holds.
#[derive(Default)]
struct Part {
    fields: Fields,
    stamps: Vec<(FieldNo, Stamp)>,
    bytes: usize,
}

impl Part {
    /// More than a change takes besides its writes, in bytes.
    const BYTES: usize = 512;

    /// Adds a write: as a loser of the one of the same field that is there, which is newer.
    fn add(&mut self, field: FieldNo, (hlc, value, seen): (Hlc, Value, Seen)) {
        match self.stamps.last_mut() {
            Some((last, stamp)) if *last == field => stamp.losers.push((hlc, value)),
            _ => {
                self.fields.set(field, value);
                self.stamps.push((field, Stamp { hlc, seen, losers: Vec::new() }));
            }
        }
    }
}

/// A value that lost without having been seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Loser {
    /// Which field.
    pub field: FieldNo,
    /// The write that lost.
    pub hlc: Hlc,
    /// Its value.
    pub value: Value,
    /// Whether it lost to a delete of the record instead of to another value.
    pub deleted: bool,
}

/// What people should hear of: values that lost unseen and differ from the winner; of a deleted record the edits
/// that those who deleted it did not know.
#[must_use]
pub fn losers(record: &SharedRecord) -> Vec<Loser> {
    let mut found = Vec::new();
    let deletion = record.stamps.deleted.as_ref().filter(|_| !record.stamps.is_alive());
    for (field, stamp) in &record.stamps.fields {
        let winner = record.fields.get(*field).unwrap_or(&Value::Null);
        let lost = stamp.losers.iter().map(|(hlc, value)| (*hlc, value));
        let mut found_one = |hlc: Hlc, value: &Value| {
            found.push(Loser { field: *field, hlc, value: value.clone(), deleted: deletion.is_some() });
        };
        if let Some(deletion) = deletion {
            // What the field shows lost to the delete like the others; what says the same is not listed twice.
            let is_unseen = |hlc: Hlc| !deletion.seen.covers(hlc);
            let says_more = |value: &Value| !is_unseen(stamp.hlc) || value != winner;
            lost.filter(|(_, value)| says_more(value))
                .chain([(stamp.hlc, winner)])
                .filter(|(hlc, _)| is_unseen(*hlc))
                .for_each(|(hlc, value)| found_one(hlc, value));
        } else {
            lost.filter(|(_, value)| *value != winner).for_each(|(hlc, value)| found_one(hlc, value));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use starling_schema::ids::DeviceId;
    use uuid::Uuid;

    use super::*;

    fn hlc(time: u64, device: u128) -> Hlc {
        Hlc { time, device: DeviceId(Uuid::from_u128(device)) }
    }

    /// A change that gives field 1 a value, by an author who sees `record`.
    fn edit(record: &SharedRecord, at: Hlc, value: i64) -> SharedRecord {
        set(record, Fields::new().with(1, value)).unwrap().into_delta(at)
    }

    fn all(deltas: &[SharedRecord]) -> SharedRecord {
        deltas.iter().cloned().fold(SharedRecord::default(), |mut all, delta| {
            join(&mut all, delta);
            all
        })
    }

    #[test]
    fn concurrent_writes_of_one_field_show_the_higher_stamp_and_keep_the_other() {
        let base = SharedRecord::default();
        let record = all(&[edit(&base, hlc(1, 2), 20), edit(&base, hlc(1, 1), 10)]);
        assert_eq!(record.fields.get(1), Some(&Value::Int(20)));
        assert_eq!(losers(&record), [Loser { field: 1, hlc: hlc(1, 1), value: Value::Int(10), deleted: false }]);
    }

    #[test]
    fn a_write_that_saw_the_one_before_leaves_no_conflict_in_either_order() {
        let first = edit(&SharedRecord::default(), hlc(1, 1), 10);
        let second = edit(&first, hlc(2, 2), 20);
        let (forward, backward) = (all(&[first.clone(), second.clone()]), all(&[second, first]));
        assert_eq!(forward, backward);
        assert_eq!(losers(&forward), []);
    }

    #[test]
    fn a_write_that_saw_only_the_winner_leaves_the_unseen_loser_listed() {
        let base = SharedRecord::default();
        let (a, b) = (edit(&base, hlc(1, 1), 1), edit(&base, hlc(2, 2), 2));
        let c = edit(&b, hlc(3, 3), 3);
        assert_eq!(losers(&all(&[c, a, b])).iter().map(|l| l.hlc).collect::<Vec<_>>(), [hlc(1, 1)]);
    }

    #[test]
    fn writing_the_losers_value_again_settles_the_conflict() {
        let base = SharedRecord::default();
        let both = all(&[edit(&base, hlc(1, 1), 1), edit(&base, hlc(2, 2), 2)]);
        let settled = all(&[both.clone(), edit(&both, hlc(3, 1), 1)]);
        assert_eq!(settled.fields.get(1), Some(&Value::Int(1)));
        assert_eq!(losers(&settled), []);
    }

    #[test]
    fn an_edit_concurrent_with_a_delete_is_listed_and_comes_back_with_a_restore() {
        let base = edit(&SharedRecord::default(), hlc(1, 1), 1);
        let gone = delete(&base).unwrap().into_delta(hlc(3, 1));
        let mut record = all(&[base.clone(), edit(&base, hlc(2, 2), 2), gone]);
        assert!(!record.stamps.is_alive());
        assert_eq!(losers(&record), [Loser { field: 1, hlc: hlc(2, 2), value: Value::Int(2), deleted: true }]);
        let back = restore(&record).remove(0).into_delta(hlc(4, 1));
        join(&mut record, back);
        assert!(record.stamps.is_alive());
        assert_eq!(record.fields.get(1), Some(&Value::Int(2)));
        assert_eq!(losers(&record), []);
    }

    #[test]
    fn of_edits_that_a_delete_did_not_know_those_that_say_the_same_are_listed_once() {
        let base = SharedRecord::default();
        let (left, right) = (edit(&base, hlc(1, 1), 1), edit(&base, hlc(2, 2), 1));
        let delete_of = |known: &SharedRecord| delete(known).unwrap().into_delta(hlc(3, 3));
        let listed = |record: &SharedRecord| losers(record).iter().map(|loser| loser.hlc).collect::<Vec<_>>();
        let unaware = all(&[left.clone(), right.clone(), delete_of(&base)]);
        assert_eq!(listed(&unaware), [hlc(2, 2)]);
        let knew_one = all(&[left, right.clone(), delete_of(&right)]);
        assert_eq!(listed(&knew_one), [hlc(1, 1)]);
    }

    #[test]
    fn what_does_not_fit_one_change_is_restored_by_several_in_any_order() {
        let base = edit(&SharedRecord::default(), hlc(1, 1), 0);
        let long = |letter: &str| Value::from(letter.repeat(30_000));
        let write = |time, device: u128, field, letter: &str| {
            let change = set(&base, Fields::new().with(field, long(letter))).unwrap();
            change.into_delta(hlc(time, device))
        };
        let writes = [write(2, 1, 1, "a"), write(3, 2, 1, "b"), write(4, 3, 1, "c"), write(5, 1, 2, "d")];
        let alive = all(&[&[base.clone()][..], &writes].concat());
        let gone = all(&[alive.clone(), delete(&alive).unwrap().into_delta(hlc(9, 1))]);
        let ops = restore(&gone);
        assert_eq!(ops.len(), 4);
        let mut deltas = Vec::new();
        for (time, op) in (10..).zip(ops) {
            assert!(starling_schema::codec::encode(&op, ENTRY_BYTES_MAX).is_ok());
            deltas.push(op.into_delta(hlc(time, 1)));
        }
        for turn in 0..deltas.len() {
            deltas.rotate_left(turn);
            let back = all(&[&[gone.clone()][..], &deltas].concat());
            assert!(back.stamps.is_alive());
            assert_eq!((&back.fields, losers(&back)), (&alive.fields, losers(&alive)), "{turn}");
            let elsewhere = all(&deltas);
            assert_eq!((&elsewhere.fields, losers(&elsewhere)), (&alive.fields, losers(&alive)));
        }
    }

    #[test]
    fn who_makes_a_deleted_record_anew_has_seen_what_it_held() {
        let base = edit(&SharedRecord::default(), hlc(1, 1), 1);
        let gone = all(&[base.clone(), delete(&base).unwrap().into_delta(hlc(2, 1))]);
        let anew = create(&gone, hlc(4, 2), Fields::new().with(1, 2_i64)).into_delta(hlc(4, 2));
        let back = restore(&gone).remove(0).into_delta(hlc(3, 3));
        let both = all(&[gone, anew, back]);
        assert_eq!((both.fields.get(1), losers(&both)), (Some(&Value::Int(2)), vec![]));
    }

    #[test]
    fn an_edit_of_an_old_life_never_merges_into_the_new_one() {
        let base = edit(&SharedRecord::default(), hlc(1, 1), 1);
        let stale = edit(&base, hlc(9, 2), 9);
        let gone = all(&[base.clone(), delete(&base).unwrap().into_delta(hlc(2, 1))]);
        let back = restore(&gone).remove(0).into_delta(hlc(3, 1));
        let before = all(&[gone.clone(), back.clone()]);
        assert_eq!(all(&[gone.clone(), back.clone(), stale.clone()]).fields, before.fields);
        assert_eq!(all(&[gone.clone(), stale.clone(), back.clone()]), all(&[back, stale, gone]));
    }

    #[test]
    fn a_device_that_writes_without_looking_leaves_one_loser_at_most() {
        let base = SharedRecord::default();
        let blind: Vec<_> = (1..100).map(|time| edit(&base, hlc(time, 1), i64::try_from(time).unwrap())).collect();
        let with_winner = [blind, vec![edit(&base, hlc(1_000, 2), -1)]].concat();
        let (record, backward) = (all(&with_winner), all(&with_winner.iter().rev().cloned().collect::<Vec<_>>()));
        assert_eq!(losers(&record).iter().map(|loser| loser.hlc).collect::<Vec<_>>(), [hlc(99, 1)]);
        assert_eq!(record, backward);
    }

    /// Three replicas that write, delete, restore and exchange at random; returns every change that was made.
    fn history(steps: &[(u8, u8, u8)]) -> Vec<SharedRecord> {
        let mut replicas = vec![SharedRecord::default(); 3];
        let mut changes = Vec::new();
        for (time, (replica, action, arg)) in steps.iter().enumerate() {
            let who = usize::from(replica % 3);
            let at = hlc(time as u64 + 1, who as u128 + 1);
            let alive = replicas[who].stamps.is_alive();
            let op = match action % 6 {
                0..=2 if alive => set(&replicas[who], Fields::new().with(u16::from(arg % 2), i64::from(*arg))),
                3 => delete(&replicas[who]),
                4 => restore(&replicas[who]).pop(),
                5 => {
                    let other = replicas[usize::from(arg % 3)].clone();
                    join(&mut replicas[who], other);
                    None
                }
                _ => None,
            };
            if let Some(op) = op {
                let delta = op.into_delta(at);
                join(&mut replicas[who], delta.clone());
                changes.push(delta);
            }
        }
        changes
    }

    proptest! {
        #[test]
        fn the_result_does_not_depend_on_the_order_or_on_repetition(
            (changes, shuffled) in proptest::collection::vec(any::<(u8, u8, u8)>(), 1..24).prop_flat_map(|steps| {
                let changes = history(&steps);
                let repeated: Vec<_> = changes.iter().chain(changes.iter().take(3)).cloned().collect();
                (Just(changes), Just(repeated).prop_shuffle())
            }),
        ) {
            prop_assert_eq!(all(&changes), all(&shuffled));
        }

        #[test]
        fn joining_halves_is_joining_the_whole(steps in proptest::collection::vec(any::<(u8, u8, u8)>(), 1..24)) {
            let changes = history(&steps);
            let (left, right) = changes.split_at(changes.len() / 2);
            prop_assert_eq!(all(&[all(left), all(right)]), all(&changes));
        }
    }
}
