//! What shared data must be, worked out by definition from the set of all writes: plain, slow, and written from the
//! specification alone, so that it does not repeat a mistake of what it judges.
//!
//! A test hands every change that anybody made to [`Reference::observe`], in any order, and compares what a quiet
//! device holds with [`agree`]. Nothing is kept but the changes themselves: each answer is computed anew.

mod agree;
mod collect;
mod record;

use std::collections::BTreeMap;
use std::fmt;

use record::Writes;
use serde_json::{Map, Value as Json, json};
use starling::canonical::json_value;
use starling::{Conflict, Registry};
use starling_schema::change::SharedChange;
use starling_schema::hlc::Hlc;
use starling_schema::ids::{DeviceId, FieldNo, ModelId, RecordId};
use starling_schema::model::ModelSpec;

pub use agree::{agree, agree_so_far};
pub use collect::{audit, collect};

/// One number of one origin's shared stream stood for two different changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Reused {
    /// Whose number.
    pub origin: DeviceId,
    /// The change that was observed first.
    pub first: Box<SharedChange>,
    /// The other change of the same number.
    pub second: Box<SharedChange>,
}

impl fmt::Display for Reused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, first, second } = self;
        write!(f, "{origin} used number {} for two changes:\n{first:?}\n{second:?}", first.seq)
    }
}

impl std::error::Error for Reused {}

/// The set of all shared changes that were ever made in a library.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    /// The models and fields whose names the lines use.
    registry: Registry,
    changes: BTreeMap<(DeviceId, u64), SharedChange>,
}

impl Reference {
    /// No change so far, seen by a build that knows the models of this tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds changes of an origin, in any order; those that were observed before change nothing.
    ///
    /// # Errors
    /// When a number stands for another change than before; nothing after it was added.
    pub fn observe(&mut self, origin: DeviceId, changes: &[SharedChange]) -> Result<(), Reused> {
        for change in changes {
            let first = self.changes.entry((origin, change.seq)).or_insert_with(|| change.clone());
            if first != change {
                return Err(Reused { origin, first: Box::new(first.clone()), second: Box::new(change.clone()) });
            }
        }
        Ok(())
    }

    /// The highest number of an origin that was observed; 0 for none.
    #[must_use]
    pub fn head(&self, origin: DeviceId) -> u64 {
        self.changes.range((origin, 0)..=(origin, u64::MAX)).next_back().map_or(0, |((_, seq), _)| *seq)
    }

    /// How many changes were observed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether none was observed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes that a device has which is so far along each origin's stream.
    #[must_use]
    pub fn through(&self, watermarks: &BTreeMap<DeviceId, u64>) -> Self {
        let applied = |origin: &DeviceId, seq: u64| watermarks.get(origin).is_some_and(|watermark| seq <= *watermark);
        let changes = self.changes.iter().filter(|((origin, seq), _)| applied(origin, *seq));
        Self { registry: self.registry.clone(), changes: changes.map(|(key, change)| (*key, change.clone())).collect() }
    }

    /// Every change of one record, by origin and number.
    #[must_use]
    pub fn about(&self, model: ModelId, record: RecordId) -> Vec<&SharedChange> {
        self.changes.values().filter(|change| (change.model, change.record) == (model, record)).collect()
    }

    /// When a record was last deleted; none when it is not.
    #[must_use]
    pub fn deleted(&self, model: ModelId, record: RecordId) -> Option<Hlc> {
        self.records().get(&(model, record)).and_then(Writes::deleted)
    }

    /// The lines of shared records in a canonical dump: by model, then by record.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.records().iter().map(|((model, record), writes)| self.line(*model, *record, writes)).collect()
    }

    /// What [`starling::PeerHandle::conflicts`] lists: by model, record, field and stamp. The fields of deleted
    /// records are taken to be kept.
    #[must_use]
    pub fn conflicts(&self) -> Vec<Conflict> {
        let mut listed = Vec::new();
        for ((model, record), writes) in self.records() {
            let deleted = writes.deleted().is_some();
            let lost = if deleted { writes.unseen_by_deletes() } else { writes.losers() };
            listed.extend(lost.into_iter().map(|lost| Conflict {
                model,
                record,
                field: lost.field,
                hlc: lost.hlc,
                value: lost.value.clone(),
                deleted,
            }));
        }
        listed
    }

    /// All changes of the record that a line of a canonical dump is about, by stamp, one a line, for a message.
    #[must_use]
    pub fn history_of(&self, line: &str) -> String {
        let about = |key: &&(ModelId, RecordId)| line.contains(&format!("\"id\":\"{}\"", key.1));
        let keys: Vec<_> = self.changes.values().map(|change| (change.model, change.record)).collect();
        keys.iter().find(about).map(|key| self.history(*key)).unwrap_or_default()
    }

    /// All changes of a record by stamp, one a line, for a message.
    fn history(&self, key: (ModelId, RecordId)) -> String {
        let mut changes: Vec<_> = self.changes.values().filter(|change| (change.model, change.record) == key).collect();
        changes.sort_by_key(|change| change.hlc);
        let lines: Vec<_> =
            changes.iter().map(|change| format!("{} {}: {:?}", change.hlc, change.seq, change.op)).collect();
        lines.join("\n")
    }

    /// The writes of each record.
    fn records(&self) -> BTreeMap<(ModelId, RecordId), Writes<'_>> {
        let mut records: BTreeMap<_, Writes<'_>> = BTreeMap::new();
        for change in self.changes.values() {
            records.entry((change.model, change.record)).or_default().add(change);
        }
        records
    }

    fn line(&self, model: ModelId, id: RecordId, writes: &Writes<'_>) -> String {
        let name = self.registry.name(model);
        if let Some(deleted) = writes.deleted() {
            return json!({ "model": name, "id": id, "deleted": deleted.to_string() }).to_string();
        }
        let spec = self.registry.get(model).filter(|spec| spec.ownership.is_shared());
        let fields: Map<String, Json> = writes
            .fields()
            .iter()
            .map(|(field, writes)| {
                let (hlc, value) = writes.winner();
                (field_name(spec, *field), json!({ "value": json_value(value), "hlc": hlc.to_string() }))
            })
            .collect();
        let losers: Vec<Json> = writes
            .losers()
            .iter()
            .map(|lost| {
                let (field, value) = (field_name(spec, lost.field), json_value(lost.value));
                json!({ "field": field, "hlc": lost.hlc.to_string(), "value": value })
            })
            .collect();
        let life = writes.life().map(|life| life.to_string());
        json!({ "model": name, "id": id, "life": life, "fields": fields, "losers": losers }).to_string()
    }
}

fn field_name(spec: Option<&ModelSpec>, field: FieldNo) -> String {
    let column = spec.and_then(|spec| spec.columns.iter().find(|column| column.field == field));
    column.map_or_else(|| format!("#{field}"), |column| column.name.to_owned())
}

#[cfg(test)]
mod tests;
