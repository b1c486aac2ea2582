//! A model's table: the statements that read and write its rows, built once from the model's declaration.
//!
//! A model that this version does not know has its rows in one of two generic tables, with every field in `extra`;
//! they are read and written by the same code.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use diesel::result::QueryResult;
use diesel::sqlite::SqliteConnection;
use starling_schema::change::{SharedItem, StateRow};
use starling_schema::codec;
use starling_schema::ids::{DeviceId, FieldNo, ModelId, RecordId};
use starling_schema::model::{Column, ModelSpec};
use starling_schema::record::{SharedRecord, Stamps};
use starling_schema::value::{Fields, Value};
use starling_schema::wire::UNPACKED_BYTES_MAX;

use super::pages::{Room, item_weight, row_weight};
use super::sql::{Bind, Cell, Row, Statement};
use crate::planted::{self, Bug};
use crate::proto::equality::{Entry, KeyRange, owned_entry, shared_entry};

/// How many rows are read at a time when columns are new: a few hundred kilobytes.
const SETTLED_AT_ONCE: usize = 2_000;

/// The statements of one model's table.
#[derive(Debug)]
pub(crate) struct ModelTable {
    pub(crate) model: ModelId,
    pub(crate) name: &'static str,
    pub(crate) shared: bool,
    columns: &'static [Column],
    unknown: bool,
    get: Statement,
    upsert: Statement,
    delete: Statement,
    last_key: Statement,
    by_key: Statement,
    range: Statement,
    keys_of_owner: Statement,
    after_key: Statement,
    by_version: Statement,
}

/// A device-owned row as it is stored.
#[derive(Debug)]
pub(crate) struct OwnedRow {
    pub(crate) owner: DeviceId,
    pub(crate) version: u64,
    pub(crate) fields: Fields,
}

impl ModelTable {
    /// The table of a model that this build knows.
    pub(crate) fn of(spec: &ModelSpec) -> Self {
        Self::build(spec.id, spec.name, spec.ownership.is_shared(), spec.columns, false)
    }

    /// Where the records of a model that this build does not know are kept.
    pub(crate) fn unknown(model: ModelId, shared: bool) -> Self {
        Self::build(model, if shared { "unknown_shared" } else { "unknown_owned" }, shared, &[], true)
    }

    fn build(model: ModelId, name: &'static str, shared: bool, columns: &'static [Column], unknown: bool) -> Self {
        let bookkeeping: &[&str] = if shared { &["stamps", "alive"] } else { &["owner", "version"] };
        let names: Vec<&str> =
            bookkeeping.iter().copied().chain(columns.iter().map(|c| c.name)).chain(["extra"]).collect();
        let selected = format!("id, {}", names.join(", "));
        let (which, key, inserted) = if unknown {
            ("model = ? AND ", "model, id", format!("model, {selected}"))
        } else {
            ("", "id", selected.clone())
        };
        let count = 1 + names.len() + usize::from(unknown);
        let updates: Vec<String> = names.iter().map(|name| format!("{name} = excluded.{name}")).collect();
        let updates = updates.join(", ");
        // The guards keep another device's row, and a newer version of this one, as they are.
        let guard = if shared || planted::is(Bug::OldVersionOverwrites) || planted::is(Bug::OwnerUnchecked) {
            String::new()
        } else {
            format!(" WHERE {name}.owner = excluded.owner AND {name}.version < excluded.version")
        };
        let owned = |text: String| Statement::new(if shared { "SELECT 1" } else { &text });
        let by_owner = if shared { "" } else { " AND owner = ?" };
        Self {
            model,
            name,
            shared,
            columns,
            unknown,
            get: Statement::new(&format!("SELECT {selected} FROM {name} WHERE {which}id = ?")),
            upsert: Statement::new(&format!(
                "INSERT INTO {name} ({inserted}) VALUES ({}) ON CONFLICT ({key}) DO UPDATE SET {updates}{guard}",
                vec!["?"; count].join(", ")
            )),
            delete: owned(format!("DELETE FROM {name} WHERE {which}id = ? AND owner = ? AND version < ?")),
            last_key: owned(format!("SELECT id FROM {name} WHERE {which}id > ? ORDER BY id DESC LIMIT 1")),
            by_key: Statement::new(&format!(
                "SELECT {selected} FROM {name} WHERE {which}id > ?{by_owner} ORDER BY id LIMIT ?"
            )),
            range: Statement::new(&format!(
                "SELECT {selected} FROM {name} WHERE {which}id >= ? AND id <= ? ORDER BY id LIMIT ?"
            )),
            keys_of_owner: owned(format!(
                "SELECT id FROM {name} WHERE {which}id >= ? AND id <= ? AND owner = ? AND version <= ?"
            )),
            after_key: Statement::new(&format!(
                "SELECT {selected} FROM {name} WHERE {which}id > ? ORDER BY id LIMIT ?"
            )),
            by_version: owned(format!(
                "SELECT {selected} FROM {name} WHERE {which}owner = ? AND version > ? AND version <= ? \
                 ORDER BY version LIMIT ?"
            )),
        }
    }

    fn binds<'a>(&self, rest: &[Bind<'a>]) -> Vec<Bind<'a>> {
        let model = self.unknown.then(|| Bind::model(self.model));
        model.into_iter().chain(rest.iter().copied()).collect()
    }

    /// What the columns cannot hold, encoded.
    fn extra(&self, fields: &Fields) -> Option<Vec<u8>> {
        let extra: Fields = fields
            .iter()
            .filter(|(no, value)| !self.column(*no).is_some_and(|column| column.kind.holds(value)))
            .map(|(no, value)| (no, value.clone()))
            .collect();
        if extra.is_empty() { None } else { codec::encode(&extra, UNPACKED_BYTES_MAX).ok() }
    }

    fn column(&self, field: FieldNo) -> Option<&Column> {
        self.columns.iter().find(|column| column.field == field)
    }

    /// How many fields have a value of another kind than their column.
    pub(crate) fn misfits(&self, fields: &Fields) -> usize {
        fields.iter().filter(|(no, value)| self.column(*no).is_some_and(|column| !column.kind.holds(value))).count()
    }

    fn values<'a>(&'a self, fields: &'a Fields) -> impl Iterator<Item = Bind<'a>> {
        self.columns.iter().map(|column| Bind::column(column.kind, fields.get(column.field)))
    }

    fn read_fields(&self, cells: &mut std::vec::IntoIter<Cell>) -> Fields {
        let mut fields = Fields::new();
        for column in self.columns {
            if let Some(value) = cells.next().and_then(|cell| cell.into_value(column.kind)) {
                fields.set(column.field, value);
            }
        }
        if let Some(Cell::Blob(extra)) = cells.next()
            && let Ok(extra) = codec::decode::<Fields, UNPACKED_BYTES_MAX>(&extra)
        {
            for (field, value) in extra {
                fields.set(field, value);
            }
        }
        fields
    }

    fn read_owned(&self, row: Row) -> QueryResult<(RecordId, OwnedRow)> {
        let mut cells = row.0.into_iter();
        let (id, owner, version) = (cells.next(), cells.next(), cells.next().map_or(0, |v| v.number()));
        let id = id.and_then(|id| RecordId::from_slice(id.bytes())).ok_or_else(|| corrupt(self.name))?;
        let owner = owner.and_then(|o| DeviceId::from_slice(o.bytes())).ok_or_else(|| corrupt(self.name))?;
        Ok((id, OwnedRow { owner, version, fields: self.read_fields(&mut cells) }))
    }

    fn read_shared(&self, row: Row) -> QueryResult<(RecordId, SharedRecord)> {
        let mut cells = row.0.into_iter();
        let (id, stamps, _alive) = (cells.next(), cells.next(), cells.next());
        let id = id.and_then(|id| RecordId::from_slice(id.bytes())).ok_or_else(|| corrupt(self.name))?;
        let stamps: Stamps = stamps
            .and_then(|stamps| codec::decode::<Stamps, UNPACKED_BYTES_MAX>(stamps.bytes()).ok())
            .ok_or_else(|| corrupt(self.name))?;
        let mut fields = self.read_fields(&mut cells);
        for (field, _) in &stamps.fields {
            if fields.get(*field).is_none() {
                fields.set(*field, Value::Null);
            }
        }
        Ok((id, SharedRecord { fields, stamps }))
    }

    /// One device-owned row.
    pub(crate) fn owned(&self, c: &mut SqliteConnection, id: RecordId) -> QueryResult<Option<OwnedRow>> {
        let row = self.get.first(c, &self.binds(&[Bind::blob(id.as_bytes())]))?;
        row.map(|row| self.read_owned(row).map(|(_, row)| row)).transpose()
    }

    /// The highest key of all device-owned rows, if there are any.
    pub(crate) fn last_key(&self, c: &mut SqliteConnection) -> QueryResult<Option<RecordId>> {
        let row = self.last_key.first(c, &self.binds(&[Bind::blob(RecordId::MIN.as_bytes())]))?;
        Ok(row.and_then(|row| row.0.first().and_then(|id| RecordId::from_slice(id.bytes()))))
    }

    /// Writes a device-owned row unless a newer version or another device's row is there. Says whether it did.
    pub(crate) fn put_owned(
        &self,
        c: &mut SqliteConnection,
        owner: DeviceId,
        version: u64,
        id: RecordId,
        fields: &Fields,
    ) -> QueryResult<bool> {
        let extra = self.extra(fields);
        let mut binds = Vec::with_capacity(5 + self.columns.len());
        binds.extend(self.unknown.then(|| Bind::model(self.model)));
        binds.extend([Bind::blob(id.as_bytes()), Bind::blob(owner.0.as_bytes()), Bind::int(version)]);
        binds.extend(self.values(fields));
        binds.push(Bind::Blob(extra.as_deref()));
        Ok(self.upsert.execute(c, &binds)? > 0)
    }

    /// Deletes a device-owned row of that owner that is older than `version`. Says whether there was one.
    pub(crate) fn delete_owned(
        &self,
        c: &mut SqliteConnection,
        owner: DeviceId,
        version: u64,
        id: RecordId,
    ) -> QueryResult<bool> {
        let binds = self.binds(&[Bind::blob(id.as_bytes()), Bind::blob(owner.0.as_bytes()), Bind::int(version)]);
        Ok(self.delete.execute(c, &binds)? > 0)
    }

    /// The rows of an owner with a version in (after, through], by version.
    pub(crate) fn page_by_version(
        &self,
        c: &mut SqliteConnection,
        owner: DeviceId,
        (after, through): (u64, u64),
        room: Room,
    ) -> QueryResult<Vec<StateRow>> {
        let binds = self.binds(&[
            Bind::blob(owner.0.as_bytes()),
            Bind::int(after),
            Bind::int(through),
            Bind::int(room.rows as u64),
        ]);
        self.state_rows(c, &self.by_version, &binds, room)
    }

    /// The rows of an owner that follow a key, by key.
    pub(crate) fn owned_by_key(
        &self,
        c: &mut SqliteConnection,
        owner: DeviceId,
        after: RecordId,
        room: Room,
    ) -> QueryResult<Vec<StateRow>> {
        let binds =
            self.binds(&[Bind::blob(after.as_bytes()), Bind::blob(owner.0.as_bytes()), Bind::int(room.rows as u64)]);
        self.state_rows(c, &self.by_key, &binds, room)
    }

    /// The first rows that a statement gives, until a page is full: what is behind is not even read.
    fn state_rows(
        &self,
        c: &mut SqliteConnection,
        statement: &Statement,
        binds: &[Bind<'_>],
        room: Room,
    ) -> QueryResult<Vec<StateRow>> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        statement.each(c, binds, |row| {
            let (record, row) = self.read_owned(row)?;
            let row = StateRow { version: row.version, model: self.model, record, fields: Some(row.fields) };
            bytes += row_weight(&row);
            found.push(row);
            Ok(if bytes >= room.bytes { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(found)
    }

    /// Deletes the rows of an owner within a key range that a complete page of a snapshot lacks.
    pub(crate) fn sweep(
        &self,
        c: &mut SqliteConnection,
        owner: DeviceId,
        (from, through): (RecordId, RecordId),
        version_max: u64,
        present: &BTreeSet<RecordId>,
    ) -> QueryResult<Vec<RecordId>> {
        let mut gone = Vec::new();
        if planted::is(Bug::SweepLeftOut) {
            return Ok(gone);
        }
        let binds = self.binds(&[
            Bind::blob(from.as_bytes()),
            Bind::blob(through.as_bytes()),
            Bind::blob(owner.0.as_bytes()),
            Bind::int(version_max),
        ]);
        self.keys_of_owner.each(c, &binds, |row| {
            let id = row.0.first().and_then(|id| RecordId::from_slice(id.bytes())).ok_or_else(|| corrupt(self.name))?;
            if !present.contains(&id) {
                gone.push(id);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        for id in &gone {
            self.delete_owned(c, owner, version_max.saturating_add(1), *id)?;
        }
        Ok(gone)
    }

    /// All device-owned rows of a key range, by key.
    pub(crate) fn owned_range(
        &self,
        c: &mut SqliteConnection,
        from: RecordId,
        through: RecordId,
    ) -> QueryResult<Vec<(RecordId, OwnedRow)>> {
        let binds = self.binds(&[Bind::blob(from.as_bytes()), Bind::blob(through.as_bytes()), Bind::int(u64::MAX)]);
        self.range.rows(c, &binds)?.into_iter().map(|row| self.read_owned(row)).collect()
    }

    /// The first records of a key range as far as equality goes, by key.
    pub(crate) fn entries(
        &self,
        c: &mut SqliteConnection,
        (from, through): KeyRange,
        records_max: usize,
    ) -> QueryResult<Vec<Entry>> {
        let max = Bind::int(records_max as u64);
        let binds = self.binds(&[Bind::blob(from.as_bytes()), Bind::blob(through.as_bytes()), max]);
        let mut entries = Vec::new();
        self.range.each(c, &binds, |row| {
            entries.push(if self.shared {
                let (id, record) = self.read_shared(row)?;
                shared_entry(id, &record)
            } else {
                let (id, row) = self.read_owned(row)?;
                owned_entry(id, row.owner, row.version, &row.fields)
            });
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(entries)
    }

    /// Makes a row of an owner be as its owner has it; gone when that has none. Another device's row stays.
    pub(crate) fn replace_owned(&self, c: &mut SqliteConnection, owner: DeviceId, row: &StateRow) -> QueryResult<bool> {
        let gone = self.delete_owned(c, owner, u64::MAX, row.record)?;
        match &row.fields {
            Some(fields) => self.put_owned(c, owner, row.version, row.record, fields),
            None => Ok(gone),
        }
    }

    /// The device-owned rows of any owner that follow a key, by key.
    pub(crate) fn owned_after(
        &self,
        c: &mut SqliteConnection,
        after: RecordId,
        rows_max: usize,
    ) -> QueryResult<Vec<(RecordId, OwnedRow)>> {
        let binds = self.binds(&[Bind::blob(after.as_bytes()), Bind::int(rows_max as u64)]);
        self.after_key.rows(c, &binds)?.into_iter().map(|row| self.read_owned(row)).collect()
    }

    /// One shared record, deleted ones too.
    pub(crate) fn shared(&self, c: &mut SqliteConnection, id: RecordId) -> QueryResult<Option<SharedRecord>> {
        let row = self.get.first(c, &self.binds(&[Bind::blob(id.as_bytes())]))?;
        row.map(|row| self.read_shared(row).map(|(_, record)| record)).transpose()
    }

    /// Writes a shared record as it is.
    pub(crate) fn put_shared(&self, c: &mut SqliteConnection, id: RecordId, record: &SharedRecord) -> QueryResult<()> {
        let stamps = codec::encode(&record.stamps, UNPACKED_BYTES_MAX).map_err(encoding)?;
        let extra = self.extra(&record.fields);
        let mut binds = Vec::with_capacity(5 + self.columns.len());
        binds.extend(self.unknown.then(|| Bind::model(self.model)));
        binds.extend([Bind::blob(id.as_bytes()), Bind::blob(&stamps), Bind::Bool(Some(record.stamps.is_alive()))]);
        binds.extend(self.values(&record.fields));
        binds.push(Bind::Blob(extra.as_deref()));
        self.upsert.execute(c, &binds)?;
        Ok(())
    }

    /// Moves the fields that wait in `extra` into their columns, where there are such now. Says in how many rows it
    /// looked.
    pub(crate) fn settle_extra(&self, c: &mut SqliteConnection) -> QueryResult<usize> {
        let names: Vec<&str> = self.columns.iter().map(|column| column.name).chain(["extra"]).collect();
        let (name, selected, set) = (self.name, names.join(", "), names.join(" = ?, "));
        let waiting = Statement::new(&format!(
            "SELECT id, {selected} FROM {name} WHERE id > ? AND extra IS NOT NULL ORDER BY id LIMIT {SETTLED_AT_ONCE}"
        ));
        let settle = Statement::new(&format!("UPDATE {name} SET {set} = ? WHERE id = ?"));
        let (mut last, mut settled) = (RecordId::MIN, 0);
        loop {
            let rows = waiting.rows(c, &[Bind::blob(last.as_bytes())])?;
            for row in &rows {
                let mut cells = row.0.clone().into_iter();
                last = cells.next().and_then(|id| RecordId::from_slice(id.bytes())).ok_or_else(|| corrupt(name))?;
                let fields = self.read_fields(&mut cells);
                let extra = self.extra(&fields);
                let mut binds: Vec<Bind<'_>> = self.values(&fields).collect();
                binds.extend([Bind::Blob(extra.as_deref()), Bind::blob(last.as_bytes())]);
                settle.execute(c, &binds)?;
            }
            settled += rows.len();
            if rows.len() < SETTLED_AT_ONCE {
                return Ok(settled);
            }
        }
    }

    /// The shared records that follow a key, by key, deleted ones too.
    pub(crate) fn shared_by_key(
        &self,
        c: &mut SqliteConnection,
        after: RecordId,
        room: Room,
    ) -> QueryResult<Vec<SharedItem>> {
        let binds = self.binds(&[Bind::blob(after.as_bytes()), Bind::int(room.rows as u64)]);
        let (mut found, mut bytes) = (Vec::new(), 0);
        self.by_key.each(c, &binds, |row| {
            let (record, state) = self.read_shared(row)?;
            let item = SharedItem { model: self.model, record, state };
            bytes += item_weight(&item);
            found.push(item);
            Ok(if bytes >= room.bytes { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(found)
    }

    /// All shared records of a key range, by key.
    pub(crate) fn shared_range(
        &self,
        c: &mut SqliteConnection,
        from: RecordId,
        through: RecordId,
    ) -> QueryResult<Vec<(RecordId, SharedRecord)>> {
        let binds = self.binds(&[Bind::blob(from.as_bytes()), Bind::blob(through.as_bytes()), Bind::int(u64::MAX)]);
        self.range.rows(c, &binds)?.into_iter().map(|row| self.read_shared(row)).collect()
    }
}

fn corrupt(table: &str) -> diesel::result::Error {
    diesel::result::Error::DeserializationError(format!("a row of {table} is corrupt").into())
}

fn encoding(error: codec::CodecError) -> diesel::result::Error {
    diesel::result::Error::SerializationError(Box::new(error))
}
