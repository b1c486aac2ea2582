//! What was written and what was acknowledged, and whether all of it is in the end.
//!
//! Every value is written once in a run, so what a field shows in the end names the write that put it there. A write
//! that was acknowledged may be missing only where a later one of the same field stands: later on its own device, or
//! elsewhere at a time that cannot have been before, whatever the clocks showed.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::{Value as Json, json};

/// What a clock reads beside its skew: commits that share a transaction, stamps that share a millisecond.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

/// The field of whether a record is there.
pub(crate) const LIFE: &str = "(life)";

/// A field of a record.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Key {
    pub(crate) model: &'static str,
    pub(crate) id: String,
    pub(crate) field: &'static str,
}

/// One write as its writer saw it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Written {
    pub(crate) device: usize,
    pub(crate) value: Json,
    pub(crate) sent: Duration,
    /// None when no answer came: it may be done or not.
    pub(crate) acked: Option<Duration>,
}

/// An acknowledged write that is missing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lost {
    pub(crate) key: Key,
    pub(crate) written: Written,
    pub(crate) shows: Json,
}

impl Lost {
    /// As a report lists it.
    pub(crate) fn json(&self) -> Json {
        let Self { key, written, shows } = self;
        json!({
            "model": key.model, "id": key.id, "field": key.field, "device": written.device, "value": written.value,
            "sent_s": written.sent.as_secs_f64(), "acked_s": written.acked.map(|at| at.as_secs_f64()), "shows": shows,
        })
    }
}

/// All writes of a run, by field, each in the order in which its device made them.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    writes: BTreeMap<Key, Vec<Written>>,
}

impl Ledger {
    /// Notes a write.
    pub(crate) fn note(&mut self, key: Key, written: Written) {
        self.writes.entry(key).or_default().push(written);
    }

    /// How many were acknowledged.
    pub(crate) fn acked(&self) -> usize {
        self.all_acked().count()
    }

    /// Those that were acknowledged.
    pub(crate) fn all_acked(&self) -> impl Iterator<Item = (&Key, &Written)> {
        let all = self.writes.iter().flat_map(|(key, writes)| writes.iter().map(move |write| (key, write)));
        all.filter(|(_, write)| write.acked.is_some())
    }

    /// How many got no answer.
    pub(crate) fn unanswered(&self) -> usize {
        self.writes.values().flatten().filter(|write| write.acked.is_none()).count()
    }

    /// The acknowledged writes that the library lacks, where clocks were at most `skew` from the truth.
    pub(crate) fn lost(&self, library: &Library, skew: Duration) -> Vec<Lost> {
        let mut lost = Vec::new();
        for (key, writes) in &self.writes {
            if key.field != LIFE && library.is_deleted(key) && self.deletes(key) {
                continue;
            }
            let value = library.value(key).or_else(|| Self::never_was(key, writes));
            let top = writes.iter().rposition(|write| Some(&write.value) == value.as_ref());
            let stands = |index: usize| top.is_some_and(|top| superseded(writes, top, index, skew));
            let missing = (0..writes.len()).filter(|index| writes[*index].acked.is_some() && !stands(*index));
            let shows = value.clone().unwrap_or(Json::Null);
            lost.extend(missing.map(|index| Lost {
                key: key.clone(),
                written: writes[index].clone(),
                shows: shows.clone(),
            }));
        }
        lost
    }

    /// The life of a record that is not there and that nobody was told is there: deleting it left nothing.
    fn never_was(key: &Key, writes: &[Written]) -> Option<Json> {
        let made = writes.iter().any(|write| write.acked.is_some() && write.value == Json::Bool(true));
        (key.field == LIFE && !made).then_some(Json::Bool(false))
    }

    /// Whether somebody deleted the record of a field, acknowledged or not.
    fn deletes(&self, key: &Key) -> bool {
        let life = self.writes.get(&Key { field: LIFE, ..key.clone() });
        life.is_some_and(|writes| writes.iter().any(|write| write.value == Json::Bool(false)))
    }
}

/// Whether a write is the one that is shown, that at `top`, or may rightly be covered by it.
fn superseded(writes: &[Written], top: usize, index: usize, skew: Duration) -> bool {
    let (write, shown) = (&writes[index], &writes[top]);
    if write.device == shown.device {
        return index <= top;
    }
    shown.acked.is_none_or(|acked| write.sent <= acked + skew * 2 + CLOCK_SLACK)
}

/// What a device holds in the end.
#[derive(Debug, Default)]
pub(crate) struct Library(HashMap<(String, String), Json>);

impl Library {
    /// From the lines of a canonical dump.
    pub(crate) fn of(lines: Vec<Json>) -> Self {
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        Self(lines.into_iter().map(|line| ((text(&line["model"]), text(&line["id"])), line)).collect())
    }

    /// The value of a field; null when it has none, nothing when there is no such record.
    fn value(&self, key: &Key) -> Option<Json> {
        let line = self.0.get(&(key.model.to_owned(), key.id.clone()))?;
        let deleted = !line["deleted"].is_null();
        match key.field {
            LIFE => Some(Json::Bool(!deleted)),
            // Its life says whether that is right.
            _ if deleted => None,
            field => Some(line["fields"][field]["value"].clone()),
        }
    }

    fn is_deleted(&self, key: &Key) -> bool {
        self.value(&Key { field: LIFE, ..key.clone() }) == Some(Json::Bool(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(field: &'static str) -> Key {
        Key { model: "tag", id: "1".to_owned(), field }
    }

    fn written(device: usize, value: &str, sent: u64, acked: Option<u64>) -> Written {
        let (sent, acked) = (Duration::from_secs(sent), acked.map(Duration::from_secs));
        Written { device, value: json!(value), sent, acked }
    }

    fn library(name: &str) -> Library {
        Library::of(vec![json!({ "model": "tag", "id": "1", "fields": { "name": { "value": name, "hlc": "" } } })])
    }

    /// The values that are missing where the field shows `shows`.
    fn lost(writes: &[Written], shows: &str) -> Vec<Json> {
        let mut ledger = Ledger::default();
        for write in writes {
            ledger.note(key("name"), write.clone());
        }
        ledger.lost(&library(shows), Duration::from_secs(2)).into_iter().map(|lost| lost.written.value).collect()
    }

    #[test]
    fn the_last_acknowledged_write_of_a_device_stands_unless_an_unanswered_one_came_after_it() {
        let writes = [written(0, "a", 1, Some(2)), written(0, "b", 3, Some(4)), written(0, "c", 5, None)];
        assert_eq!(lost(&writes, "b"), Vec::<Json>::new());
        assert_eq!(lost(&writes, "c"), Vec::<Json>::new());
        assert_eq!(lost(&writes, "a"), [json!("b")]);
        assert_eq!(lost(&writes, "other"), [json!("a"), json!("b")]);
    }

    #[test]
    fn a_write_of_another_device_may_cover_only_what_its_clock_could_have_preceded() {
        let close = [written(0, "a", 1, Some(2)), written(1, "b", 7, Some(8))];
        assert_eq!(lost(&close, "a"), Vec::<Json>::new());
        assert_eq!(lost(&close, "b"), Vec::<Json>::new());
        let far = [written(0, "a", 1, Some(2)), written(1, "b", 8, Some(9))];
        assert_eq!(lost(&far, "a"), [json!("b")]);
        let unanswered = [written(0, "a", 1, None), written(1, "b", 8, Some(9))];
        assert_eq!(lost(&unanswered, "a"), Vec::<Json>::new());
    }

    #[test]
    fn a_deleted_record_needs_somebody_who_deleted_it() {
        let deleted = || Library::of(vec![json!({ "model": "tag", "id": "1", "deleted": "stamp" })]);
        let mut ledger = Ledger::default();
        ledger.note(key("name"), written(0, "a", 1, Some(2)));
        assert_eq!(ledger.lost(&deleted(), Duration::ZERO).len(), 1);
        ledger.note(key(LIFE), Written { value: json!(false), ..written(0, "", 3, None) });
        assert_eq!(ledger.lost(&deleted(), Duration::ZERO), []);
    }

    #[test]
    fn a_record_that_is_not_there_has_lost_everything() {
        let mut ledger = Ledger::default();
        ledger.note(key("name"), written(0, "a", 1, Some(2)));
        ledger.note(key(LIFE), Written { value: json!(true), ..written(0, "", 1, Some(2)) });
        assert_eq!(ledger.lost(&Library::default(), Duration::ZERO).len(), 2);
        assert_eq!(ledger.lost(&library("a"), Duration::ZERO), []);
    }

    #[test]
    fn deleting_what_was_made_without_an_answer_and_is_not_there_loses_nothing_but_what_was_answered_is_lost() {
        let life = |value: bool, acked: Option<u64>| Written { value: json!(value), ..written(1, "", 1, acked) };
        let lost = |made: Option<u64>| {
            let mut ledger = Ledger::default();
            ledger.note(key(LIFE), life(true, made));
            ledger.note(key(LIFE), life(false, Some(3)));
            ledger.lost(&Library::default(), Duration::from_secs(2)).len()
        };
        assert_eq!((lost(None), lost(Some(2))), (0, 2));
    }
}
