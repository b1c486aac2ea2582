//! The tables of all models together: which table a model's records are in, known or not.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use diesel::result::QueryResult;
use diesel::sqlite::SqliteConnection;
use starling_schema::ids::{ModelId, RecordId};

use super::Registry;
use super::ledger;
use super::sql::{self, Statement};
use super::table::ModelTable;
use crate::proto::equality::{Entry, KeyRange};

/// Where it is noted which columns were known when fields were last moved into them.
const COLUMNS_SETTING: &str = "columns";

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

    /// The records of a model in a key range as far as equality goes, by key, and how far the list speaks: not to the
    /// end when there are more than `records_max`. Records that are kept raw, because the model is not known or came
    /// by the wrong kind of stream, are among them.
    pub(crate) fn entries(
        &self,
        c: &mut SqliteConnection,
        model: ModelId,
        range: KeyRange,
        records_max: usize,
    ) -> QueryResult<(Vec<Entry>, RecordId)> {
        let (mut entries, mut through) = (Vec::new(), range.1);
        for shared in [true, false] {
            let found = self.of(model, shared).entries(c, range, records_max)?;
            if let Some(last) = found.last().filter(|_| found.len() >= records_max) {
                through = through.min(last.record);
            }
            entries.extend(found);
        }
        entries.retain(|entry| entry.record <= through);
        entries.sort_unstable();
        Ok((entries, through))
    }

    /// Every model that is known, or of which records are held.
    pub(crate) fn models(&self, c: &mut SqliteConnection) -> QueryResult<BTreeSet<ModelId>> {
        let mut models = BTreeSet::new();
        for shared in [true, false] {
            models.extend(self.all(c, shared)?.iter().map(|table| table.model));
        }
        Ok(models)
    }

    /// Moves what was kept for a later version to where it belongs in this one: records of models that are known now
    /// into their tables, fields that are known now into their columns. All of it or, after a crash, nothing.
    pub(crate) fn adopt(&self, c: &mut SqliteConnection) -> QueryResult<usize> {
        c.immediate_transaction(|c| {
            let moved = self.adopt_models(c)?;
            let columns = self.columns_digest();
            // Looking for such fields means to read everything, so it is done only when the columns are others.
            if ledger::setting(c, COLUMNS_SETTING)?.as_deref() == Some(columns.as_slice()) {
                return Ok(moved);
            }
            for table in self.known.values() {
                table.settle_extra(c)?;
            }
            ledger::set_setting(c, COLUMNS_SETTING, &columns)?;
            Ok(moved)
        })
    }

    /// A hash of which fields of which models have columns.
    fn columns_digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for spec in self.registry.iter() {
            hasher.update(format!("{}:", spec.id).as_bytes());
            for column in spec.columns {
                hasher.update(format!("{} {} {:?},", column.field, column.name, column.kind).as_bytes());
            }
        }
        *hasher.finalize().as_bytes()
    }

    fn adopt_models(&self, c: &mut SqliteConnection) -> QueryResult<usize> {
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
    use starling_schema::hlc::Hlc;
    use starling_schema::ids::DeviceId;
    use starling_schema::model::ColumnKind;
    use starling_schema::record::{Seen, SharedRecord, Stamp, Stamps};
    use starling_schema::value::{Fields, Value};

    use super::*;
    use crate::proto::equality::ALL_KEYS;
    use crate::store::open::open_writer;
    use crate::store::sql::Cell;

    /// A database where only the device model is known, and one where all are.
    fn of_two_versions() -> [(tempfile::TempDir, SqliteConnection, Tables); 2] {
        let older = Registry(BTreeMap::new()).with::<starling_schema::models::Device>();
        [older, Registry::default()].map(|registry| {
            let dir = tempfile::tempdir().unwrap();
            let c = open_writer(&dir.path().join("library.sqlite")).unwrap();
            (dir, c, Tables::new(&registry))
        })
    }

    #[test]
    fn records_of_a_model_that_one_version_does_not_know_are_equal_on_both() {
        let owner = DeviceId(uuid::Uuid::from_u128(1));
        let hlc = Hlc { time: 7, device: owner };
        let stamp = |field| (field, Stamp { hlc, seen: Seen::new(), losers: Vec::new() });
        // A field that nobody knows, one of another kind than its column, a null, and numbers that SQLite changes.
        let position = starling_schema::models::CollectionEntry::POSITION;
        let fields = Fields::new().with(position, -0.0).with(900, "later").with(1, 5).with(2, Value::Null);
        let stamps = Stamps { fields: [1, 2, position, 900].map(stamp).to_vec(), ..Stamps::default() };
        let shared = SharedRecord { fields: fields.clone(), stamps };
        let (entry, collected) =
            (starling_schema::models::Entry::MODEL, starling_schema::models::CollectionEntry::MODEL);
        let seen = of_two_versions().map(|(_dir, mut c, tables)| {
            for number in 1..=3 {
                let id = RecordId(uuid::Uuid::from_u128(number));
                tables.of(entry, false).put_owned(&mut c, owner, 4, id, &fields).unwrap();
                tables.of(collected, true).put_shared(&mut c, id, &shared).unwrap();
            }
            let of = |c: &mut _, model| tables.entries(c, model, ALL_KEYS, 2).unwrap();
            (tables.models(&mut c).unwrap().contains(&entry), of(&mut c, entry), of(&mut c, collected))
        });
        assert_eq!(seen[0], seen[1]);
        let (entries, through) = &seen[0].1;
        assert_eq!((entries.len(), *through), (2, RecordId(uuid::Uuid::from_u128(2))));
    }

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
