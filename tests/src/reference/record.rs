//! One record by definition: what its life is, whether it is deleted, and for each field who won and who lost unseen.

use std::collections::BTreeMap;

use starling_schema::change::{FieldWrite, Op, SharedChange};
use starling_schema::hlc::Hlc;
use starling_schema::ids::FieldNo;
use starling_schema::record::{Seen, Stamp};
use starling_schema::value::{Fields, Value};

/// A write that lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Lost<'a> {
    pub(super) field: FieldNo,
    pub(super) hlc: Hlc,
    pub(super) value: &'a Value,
}

/// All writes of one record, as they were made.
#[derive(Clone, Debug, Default)]
pub(super) struct Writes<'a> {
    /// Each with its life.
    sets: Vec<(Hlc, Option<Hlc>, &'a [FieldWrite])>,
    /// Each with what its author had seen.
    deletes: Vec<(Hlc, &'a Seen)>,
    restores: Vec<Restored<'a>>,
}

/// A restore: the life that it starts, and what it carries.
#[derive(Clone, Copy, Debug)]
struct Restored<'a> {
    hlc: Hlc,
    life: Option<Hlc>,
    values: &'a Fields,
    stamps: &'a [(FieldNo, Stamp)],
}

impl<'a> Writes<'a> {
    pub(super) fn add(&mut self, change: &'a SharedChange) {
        match &change.op {
            Op::Set { life, fields } => self.sets.push((change.hlc, *life, fields)),
            Op::Delete { seen } => self.deletes.push((change.hlc, seen)),
            Op::Restore { life, fields, stamps } => {
                self.restores.push(Restored { hlc: change.hlc, life: *life, values: fields, stamps });
            }
        }
    }

    /// The record's life: the highest that a restore started. The author of a set had seen its life started, so a set
    /// whose restore is not among the writes (yet) tells as much.
    pub(super) fn life(&self) -> Option<Hlc> {
        let started = self.restores.iter().map(|restored| restored.life);
        let seen_started = self.sets.iter().map(|(_, life, _)| *life);
        started.chain(seen_started).max().flatten()
    }

    /// The newest delete, if no restore is newer: these two are ordered between each other only.
    pub(super) fn deleted(&self) -> Option<Hlc> {
        let deleted = self.deletes.iter().map(|(hlc, _)| *hlc).max()?;
        let restored = self.restores.iter().map(|restored| restored.hlc).max();
        (restored < Some(deleted)).then_some(deleted)
    }

    /// The writes of each field that belong to the record's life. Those of a lower life never count.
    pub(super) fn fields(&self) -> BTreeMap<FieldNo, FieldWrites<'a>> {
        let life = self.life();
        let mut fields: BTreeMap<FieldNo, FieldWrites<'a>> = BTreeMap::new();
        for (hlc, _, writes) in self.sets.iter().filter(|(_, of, _)| *of == life) {
            for FieldWrite { field, value, seen } in *writes {
                let written = fields.entry(*field).or_default();
                written.values.insert(*hlc, value);
                written.seen.push(seen);
            }
        }
        for Restored { values, stamps, .. } in self.restores.iter().filter(|restored| restored.life == life) {
            for (field, stamp) in *stamps {
                let written = fields.entry(*field).or_default();
                written.values.insert(stamp.hlc, values.get(*field).unwrap_or(&Value::Null));
                written.values.extend(stamp.losers.iter().map(|(hlc, value)| (*hlc, value)));
                written.seen.push(&stamp.seen);
            }
        }
        fields
    }

    /// What lost to another value without having been seen, by field and stamp. What says the same as the winner is no
    /// conflict.
    pub(super) fn losers(&self) -> Vec<Lost<'a>> {
        self.unseen(|field, (_, value)| value != field.winner().1)
    }

    /// What a deleted record lists: the edits that nobody who deleted it had seen, by field and stamp. They lost to the
    /// delete, so what the field shows matters only if it is such an edit itself.
    pub(super) fn unseen_by_deletes(&self) -> Vec<Lost<'a>> {
        let is_unseen = |hlc: Hlc| !self.deletes.iter().any(|(_, seen)| seen.covers(hlc));
        self.unseen(|field, (hlc, value)| {
            let (winner, shown) = field.winner();
            is_unseen(hlc) && (hlc == winner || value != shown || !is_unseen(winner))
        })
    }

    /// The writes of each field that no other write had seen, of those that count.
    fn unseen(&self, counts: impl Fn(&FieldWrites<'a>, (Hlc, &'a Value)) -> bool) -> Vec<Lost<'a>> {
        let mut lost = Vec::new();
        for (field, writes) in self.fields() {
            let unseen = writes.unseen().filter(|write| counts(&writes, *write));
            lost.extend(unseen.map(|(hlc, value)| Lost { field, hlc, value }));
        }
        lost
    }
}

/// The writes of one field in the record's life.
#[derive(Clone, Debug, Default)]
pub(super) struct FieldWrites<'a> {
    values: BTreeMap<Hlc, &'a Value>,
    seen: Vec<&'a Seen>,
}

impl<'a> FieldWrites<'a> {
    /// The write with the highest stamp.
    pub(super) fn winner(&self) -> (Hlc, &'a Value) {
        let (hlc, value) = self.values.last_key_value().expect("a field is listed because it was written");
        (*hlc, *value)
    }

    /// The writes that no other write had seen, by stamp. Every author had seen what it wrote itself before.
    fn unseen(&self) -> impl Iterator<Item = (Hlc, &'a Value)> + '_ {
        let is_older = |hlc: Hlc| self.values.keys().any(|other| other.device == hlc.device && *other > hlc);
        let was_seen = move |hlc: Hlc| is_older(hlc) || self.seen.iter().any(|seen| seen.covers(hlc));
        self.values.iter().map(|(hlc, value)| (*hlc, *value)).filter(move |(hlc, _)| !was_seen(*hlc))
    }
}
