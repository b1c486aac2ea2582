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

#[cfg(test)]
mod tests {
    use starling_schema::model::ColumnKind;

    use super::*;
    use crate::store::open::open_writer;
    use crate::store::sql::Cell;

    #[test]
    fn every_models_columns_are_those_of_its_migrated_table() {
        let dir = tempfile::tempdir().unwrap();
        let mut c = open_writer(&dir.path().join("library.sqlite")).unwrap();
        for spec in Registry::default().iter() {
            let rows = Statement::new(&format!("SELECT name, type FROM pragma_table_info('{}')", spec.name));
            let found: Vec<(Cell, Cell)> =
                rows.rows(&mut c, &[]).unwrap().into_iter().map(|row| (row.0[0].clone(), row.0[1].clone())).collect();
            let text = |name: &str, kind: &str| (Cell::Text(name.to_owned()), Cell::Text(kind.to_owned()));
            let kind = |kind| match kind {
                ColumnKind::Bool => "BOOLEAN",
                ColumnKind::Int => "BIGINT",
                ColumnKind::Real => "DOUBLE",
                ColumnKind::Text => "TEXT",
                ColumnKind::Bytes | ColumnKind::Id => "BLOB",
            };
            let mut expected = vec![text("id", "BLOB")];
            if !spec.ownership.is_shared() {
                expected.extend([text("owner", "BLOB"), text("version", "BIGINT")]);
            }
            expected.extend(spec.columns.iter().map(|column| text(column.name, kind(column.kind))));
            expected.push(text("extra", "BLOB"));
            if spec.ownership.is_shared() {
                expected.extend([text("stamps", "BLOB"), text("alive", "BOOLEAN")]);
            }
            assert_eq!(found, expected, "{}", spec.name);
        }
    }
}
