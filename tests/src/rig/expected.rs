//! What devices wrote of their own rows, by what was acknowledged: what every device must hold of them in the end.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;
use starling::{Registry, canonical};
use starling_schema::change::{Action, Write};
use starling_schema::ids::{DeviceId, ModelId, RecordId};
use starling_schema::model::Syncable;
use starling_schema::models::Device;
use starling_schema::value::Fields;

use crate::check::{Held, Violation};

type Key = (ModelId, RecordId);

/// The rows of every device.
#[derive(Clone, Debug, Default)]
pub(super) struct Expected {
    registry: Registry,
    rows: BTreeMap<DeviceId, BTreeMap<Key, Fields>>,
    /// Rows of commits that were never answered: they may be there or not.
    unsure: BTreeSet<Key>,
}

impl Expected {
    fn owned<'a>(&self, writes: &'a [Write]) -> Vec<&'a Write> {
        let is_owned = |model| self.registry.get(model).is_some_and(|spec| !spec.ownership.is_shared());
        // A device's own record is written by the peer itself too.
        writes.iter().filter(|write| write.model != Device::MODEL && is_owned(write.model)).collect()
    }

    /// A commit of a device was acknowledged.
    pub(super) fn acked(&mut self, device: DeviceId, writes: &[Write]) {
        let owned: Vec<Write> = self.owned(writes).into_iter().cloned().collect();
        let rows = self.rows.entry(device).or_default();
        for Write { model, record, action } in owned {
            let key = (model, record);
            match action {
                Action::Put(fields) => {
                    self.unsure.remove(&key);
                    rows.insert(key, fields);
                }
                Action::Patch(fields) => {
                    if let Some(row) = rows.get_mut(&key) {
                        for (field, value) in fields {
                            row.set(field, value);
                        }
                    }
                }
                Action::Delete => {
                    self.unsure.remove(&key);
                    rows.remove(&key);
                }
                Action::Restore => {}
            }
        }
    }

    /// A commit of a device was never answered.
    pub(super) fn unanswered(&mut self, writes: &[Write]) {
        let keys: Vec<Key> = self.owned(writes).into_iter().map(|write| (write.model, write.record)).collect();
        self.unsure.extend(keys);
    }

    /// Judges what a device holds of the rows of another one.
    ///
    /// # Errors
    /// The first row that is not as it was acknowledged.
    pub(super) fn judge(&self, owner: DeviceId, held: &Held) -> Result<(), Violation> {
        let none = BTreeMap::new();
        let mut expected = self.lines(self.rows.get(&owner).unwrap_or(&none));
        let owner_text = owner.to_string();
        let unsure: BTreeSet<String> = self.unsure.iter().map(|(_, record)| record.to_string()).collect();
        for line in held.owned.iter().filter(|line| line.contains(&owner_text)) {
            let json: Json = serde_json::from_str(line).unwrap_or_default();
            let text = |key: &str| json.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
            let (model, id) = (text("model"), text("id"));
            if text("owner") != owner_text || model == Device::SPEC.name || unsure.contains(&id) {
                continue;
            }
            let should = expected.remove(&(model, id));
            if should.as_ref() != json.get("fields") {
                let detail = format!("{} has {line}\nacknowledged was {should:?}", held.name);
                return Err(Violation::new("ownership", detail));
            }
        }
        match expected.into_iter().find(|((_, id), _)| !unsure.contains(id)) {
            None => Ok(()),
            Some(((model, id), fields)) => {
                let detail = format!("{} lacks {model} {id} of {owner}, acknowledged with {fields}", held.name);
                Err(Violation::new("acked", detail))
            }
        }
    }

    fn lines(&self, rows: &BTreeMap<Key, Fields>) -> BTreeMap<(String, String), Json> {
        let field_name = |model: ModelId, field| {
            let column = self.registry.get(model).and_then(|spec| spec.column(field));
            column.map_or_else(|| format!("#{field}"), |column| column.name.to_owned())
        };
        let line = |((model, record), fields): (&Key, &Fields)| {
            let values = fields.iter().map(|(field, value)| (field_name(*model, field), canonical::json_value(value)));
            ((self.registry.name(*model), record.to_string()), Json::Object(values.collect()))
        };
        rows.iter().map(line).collect()
    }
}
