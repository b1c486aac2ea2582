//! What one device's user does: makes and edits tags, collections and notes, one after the other, at a rate.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Value as Json, json};
use starling_schema::ids::RecordId;
use starling_schema::models::{CollectionEntry, TagAssignment, Target, UserMetadata};
use tokio::time::MissedTickBehavior;

use super::control::{Control, Failure};
use super::ledger::{Key, LIFE, Written};
use super::run::Run;

/// How soon a peer that does not answer is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// What all writers edit.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// Tags.
    pub(crate) tags: Vec<String>,
    /// Indexed files of all devices.
    pub(crate) entries: Vec<String>,
}

/// The user of one device.
#[derive(Debug)]
pub(crate) struct Writer {
    device: usize,
    data: PathBuf,
    run: Arc<Run>,
    shared: Shared,
    rng: ChaCha8Rng,
    number: u64,
    tags: Vec<String>,
    collections: Vec<String>,
    /// Tags on entries, each pair once.
    assigned: Vec<(String, String, String)>,
}

/// A request and what it writes.
struct Write {
    route: &'static str,
    request: Json,
    /// What it writes where, when that is known before.
    known: Option<(Key, Json)>,
    made: Made,
}

/// What a write makes, beside the field that it sets.
enum Made {
    Nothing,
    Tag(Json),
    Collection(Json),
}

fn key(model: &'static str, id: &str, field: &'static str) -> Key {
    Key { model, id: id.to_owned(), field }
}

fn record(id: &str) -> Option<RecordId> {
    serde_json::from_value(json!(id)).ok()
}

fn target(id: &str) -> Json {
    json!({ "text": id, "path": null })
}

impl Writer {
    pub(crate) fn new(device: usize, data: PathBuf, run: Arc<Run>, shared: Shared, seed: u64) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed ^ (u64::try_from(device).unwrap_or_default() + 1).rotate_left(32));
        let (tags, collections, assigned) = (Vec::new(), Vec::new(), Vec::new());
        Self { device, data, run, shared, rng, number: 0, tags, collections, assigned }
    }

    /// Writes until the run is over.
    pub(crate) async fn write(mut self, every: Duration) {
        let mut tick = tokio::time::interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut connection: Option<Control> = None;
        while !self.run.is_over() {
            tick.tick().await;
            let open = match connection.take() {
                Some(control) => Ok(control),
                None => Control::connect(&self.data).await,
            };
            let Ok(mut control) = open else {
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            let write = self.next();
            let sent = self.run.elapsed();
            match control.call(write.route, &write.request).await {
                Ok(reply) => {
                    self.acknowledged(write, sent, &reply);
                    connection = Some(control);
                }
                Err(Failure::Refused(why)) => {
                    self.run.refused(format!("device {}: {}: {why}", self.device, write.route));
                    self.in_doubt(write, sent);
                    connection = Some(control);
                }
                Err(Failure::Unasked(_)) => {}
                Err(Failure::CutOff(_)) => self.in_doubt(write, sent),
            }
        }
    }

    /// A value that no other write has.
    fn value(&mut self) -> Json {
        self.number += 1;
        json!(format!("{}.{}", self.device, self.number))
    }

    fn next(&mut self) -> Write {
        let choice = self.rng.random_range(0..100);
        match choice {
            40..55 => self.edit_own(),
            55..65 => self.edit_shared(),
            65..75 => self.annotate(),
            75..87 => self.assign(),
            87..90 => self.take_off(),
            90..92 => self.delete(),
            92..95 => Some(self.new_collection()),
            95..100 => self.collect(),
            _ => Some(self.new_tag()),
        }
        // Nothing to edit yet.
        .unwrap_or_else(|| self.new_tag())
    }

    fn new_tag(&mut self) -> Write {
        let name = self.value();
        Write {
            route: "/v1/tags/new",
            request: json!({ "fields": { "name": name } }),
            known: None,
            made: Made::Tag(name),
        }
    }

    fn new_collection(&mut self) -> Write {
        let name = self.value();
        let request = json!({ "fields": { "name": name } });
        Write { route: "/v1/collections/new", request, known: None, made: Made::Collection(name) }
    }

    fn edit_own(&mut self) -> Option<Write> {
        let tag = self.tags.choose(&mut self.rng)?.clone();
        Some(self.describe(&tag))
    }

    fn edit_shared(&mut self) -> Option<Write> {
        let tag = self.shared.tags.choose(&mut self.rng)?.clone();
        Some(self.describe(&tag))
    }

    fn describe(&mut self, tag: &str) -> Write {
        let text = self.value();
        let request = json!({ "tag": tag, "fields": { "description": text } });
        let known = Some((key("tag", tag, "description"), text));
        Write { route: "/v1/tags/edit", request, known, made: Made::Nothing }
    }

    fn annotate(&mut self) -> Option<Write> {
        let entry = self.shared.entries.choose(&mut self.rng)?.clone();
        let note = self.value();
        let id = UserMetadata::of(record(&entry)?).id.to_string();
        let request = json!({ "target": target(&entry), "remark": { "note": note } });
        let known = Some((key("user_metadata", &id, "notes"), note));
        Some(Write { route: "/v1/metadata", request, known, made: Made::Nothing })
    }

    fn assign(&mut self) -> Option<Write> {
        let tag = self.tags.choose(&mut self.rng)?.clone();
        let entry = self.shared.entries.choose(&mut self.rng)?.clone();
        let id = TagAssignment::of(record(&tag)?, &Target::Entry(record(&entry)?)).id.to_string();
        if self.assigned.iter().any(|(_, _, assignment)| *assignment == id) {
            return None;
        }
        let request = json!({ "tag": tag, "targets": [target(&entry)], "content": false, "on": true });
        let known = Some((key("tag_assignment", &id, LIFE), json!(true)));
        self.assigned.push((tag, entry, id));
        Some(Write { route: "/v1/tags/assign", request, known, made: Made::Nothing })
    }

    fn take_off(&mut self) -> Option<Write> {
        let index = self.rng.random_range(0..self.assigned.len().max(1));
        let (tag, entry, id) = self.assigned.get(index)?.clone();
        if !self.tags.contains(&tag) {
            return None;
        }
        let request = json!({ "tag": tag, "targets": [target(&entry)], "content": false, "on": false });
        let known = Some((key("tag_assignment", &id, LIFE), json!(false)));
        Some(Write { route: "/v1/tags/assign", request, known, made: Made::Nothing })
    }

    fn delete(&mut self) -> Option<Write> {
        if self.tags.is_empty() {
            return None;
        }
        let index = self.rng.random_range(0..self.tags.len());
        let tag = self.tags.swap_remove(index);
        let known = Some((key("tag", &tag, LIFE), json!(false)));
        Some(Write { route: "/v1/tags/delete", request: json!({ "tag": tag }), known, made: Made::Nothing })
    }

    fn collect(&mut self) -> Option<Write> {
        let collection = self.collections.choose(&mut self.rng)?.clone();
        let entry = self.shared.entries.choose(&mut self.rng)?.clone();
        let id = CollectionEntry::of(record(&collection)?, record(&entry)?).id.to_string();
        let request = json!({ "collection": collection, "targets": [target(&entry)], "on": true });
        let known = Some((key("collection_entry", &id, LIFE), json!(true)));
        Some(Write { route: "/v1/collections/collect", request, known, made: Made::Nothing })
    }

    fn acknowledged(&mut self, write: Write, sent: Duration, reply: &Json) {
        let acked = self.run.elapsed();
        let id = reply["id"].as_str().unwrap_or_default().to_owned();
        let note = |key: Key, value: Json| {
            self.run.ledger.lock().note(key, Written { device: self.device, value, sent, acked: Some(acked) });
        };
        if let Some((key, value)) = write.known {
            note(key, value);
        }
        match write.made {
            Made::Nothing => {}
            Made::Tag(name) => {
                note(key("tag", &id, "name"), name);
                self.run.lag.lock().committed(&id, self.device, acked);
                self.tags.push(id);
            }
            Made::Collection(name) => {
                note(key("collection", &id, "name"), name);
                self.run.lag.lock().committed(&id, self.device, acked);
                self.collections.push(id);
            }
        }
    }

    /// What got no answer may be done, and what was refused may have been done before. A record whose id is not known
    /// is left alone from then on.
    fn in_doubt(&mut self, write: Write, sent: Duration) {
        if let Some((key, value)) = write.known {
            self.run.ledger.lock().note(key, Written { device: self.device, value, sent, acked: None });
        }
    }
}
