//! The tables of all models together: which table a model's records are in, known or not.

use std::collections::BTreeMap;
use std::rc::Rc;

use diesel::result::QueryResult;
use diesel::sqlite::SqliteConnection;
use starling_schema::ids::{ModelId, RecordId};

use super::Registry;
use super::sql::{self, Statement};
use super::table::ModelTable;

/// The tables of the models that this build knows; those of others are made when they are met.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) registry: Registry,
    known: BTreeMap<ModelId, Rc<ModelTable>>,
    unknown_owned: Statement,
    unknown_shared: Statement,
}

impl Tables {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            registry: registry.clone(),
            known: registry.iter().map(|spec| (spec.id, Rc::new(ModelTable::of(spec)))).collect(),
            unknown_owned: Statement::new("SELECT DISTINCT model FROM unknown_owned ORDER BY model"),
            unknown_shared: Statement::new("SELECT DISTINCT model FROM unknown_shared ORDER BY model"),
        }
    }

    /// Where the records of a model are that come by streams of this kind. A known model that comes by the wrong
    /// kind of stream is kept apart, raw, like one that is not known.
    pub(crate) fn of(&self, model: ModelId, shared: bool) -> Rc<ModelTable> {
        match self.known.get(&model) {
            Some(table) if table.shared == shared => table.clone(),
            _ => Rc::new(ModelTable::unknown(model, shared)),
        }
    }

    /// Every table that may hold records of this kind, by model.
    pub(crate) fn all(&self, c: &mut SqliteConnection, shared: bool) -> QueryResult<Vec<Rc<ModelTable>>> {
        let mut tables: BTreeMap<(ModelId, bool), Rc<ModelTable>> = self
            .known
            .values()
            .filter(|table| table.shared == shared)
            .map(|table| ((table.model, false), table.clone()))
            .collect();
        let unknown = if shared { &self.unknown_shared } else { &self.unknown_owned };
        for row in unknown.rows(c, &[])? {
            let model = row.0.first().map_or(0, sql::Cell::number);
            if let Ok(model) = ModelId::try_from(model) {
                tables.insert((model, true), Rc::new(ModelTable::unknown(model, shared)));
            }
        }
        Ok(tables.into_values().collect())
    }

    /// Moves records that were kept for a later version into their model's own table, now that it is known.
    pub(crate) fn adopt(&self, c: &mut SqliteConnection) -> QueryResult<usize> {
        let mut moved = 0;
        let ends = (RecordId::MIN, RecordId(uuid::Uuid::max()));
        for table in self.known.values() {
            let waiting = ModelTable::unknown(table.model, table.shared);
            if table.shared {
                for (id, record) in waiting.shared_range(c, ends.0, ends.1)? {
                    table.put_shared(c, id, &record)?;
                    moved += 1;
                }
            } else {
                for (id, row) in waiting.owned_range(c, ends.0, ends.1)? {
                    table.put_owned(c, row.owner, row.version, id, &row.fields)?;
                    moved += 1;
                }
            }
            let from = if table.shared { "unknown_shared" } else { "unknown_owned" };
            sql::run(c, &format!("DELETE FROM {from} WHERE model = {}", table.model))?;
        }
        Ok(moved)
    }
}
