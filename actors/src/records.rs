//! Reads of typed records, on the connection that `PeerHandle::query` hands out.

use diesel::sqlite::SqliteConnection;
use starling_schema::ids::{DeviceId, FieldNo, RecordId};
use starling_schema::model::Syncable;
use starling_schema::record::Stamps;
use starling_schema::value::Value;

use crate::reader::QueryError;
use crate::store::sql::{Bind, Cell, Statement};
use crate::store::table::ModelTable;

/// One live record.
///
/// # Errors
/// When the database cannot be read.
pub fn get<M: Syncable>(c: &mut SqliteConnection, id: RecordId) -> Result<Option<M>, QueryError> {
    let table = ModelTable::of(&M::SPEC);
    let fields = if M::SPEC.ownership.is_shared() {
        table.shared(c, id)?.filter(|record| record.stamps.is_alive()).map(|record| record.fields)
    } else {
        table.owned(c, id)?.map(|row| row.fields)
    };
    Ok(fields.map(|fields| M::from_fields(id, &fields)))
}

/// All live records of a model, by id.
///
/// # Errors
/// When the database cannot be read.
pub fn all<M: Syncable>(c: &mut SqliteConnection) -> Result<Vec<M>, QueryError> {
    let live = if M::SPEC.ownership.is_shared() { " WHERE alive" } else { "" };
    found(c, &format!("SELECT id FROM {}{live} ORDER BY id", M::SPEC.name), &[])
}

/// All live records of a model whose field has this value, by id.
///
/// # Errors
/// When the database cannot be read, or the model has no such field.
pub fn all_where<M: Syncable>(c: &mut SqliteConnection, field: FieldNo, value: &Value) -> Result<Vec<M>, QueryError> {
    let column =
        M::SPEC.column(field).ok_or_else(|| QueryError::Storage(format!("{} has no field {field}", M::SPEC.name)))?;
    let live = if M::SPEC.ownership.is_shared() { " AND alive" } else { "" };
    let text = format!("SELECT id FROM {} WHERE {} = ?{live} ORDER BY id", M::SPEC.name, column.name);
    found(c, &text, &[Bind::column(column.kind, Some(value))])
}

fn found<M: Syncable>(c: &mut SqliteConnection, text: &str, binds: &[Bind<'_>]) -> Result<Vec<M>, QueryError> {
    let table = ModelTable::of(&M::SPEC);
    let rows = Statement::new(text).rows(c, binds)?;
    let mut records = Vec::with_capacity(rows.len());
    for id in rows.iter().filter_map(|row| row.0.first()).filter_map(|cell| RecordId::from_slice(Cell::bytes(cell))) {
        let fields = if M::SPEC.ownership.is_shared() {
            table.shared(c, id)?.map(|record| record.fields)
        } else {
            table.owned(c, id)?.map(|row| row.fields)
        };
        records.extend(fields.map(|fields| M::from_fields(id, &fields)));
    }
    Ok(records)
}

/// Who owns a device-owned record.
///
/// # Errors
/// When the database cannot be read.
pub fn owner<M: Syncable>(c: &mut SqliteConnection, id: RecordId) -> Result<Option<DeviceId>, QueryError> {
    Ok(ModelTable::of(&M::SPEC).owned(c, id)?.map(|row| row.owner))
}

/// The stamps of a shared record, deleted ones too.
///
/// # Errors
/// When the database cannot be read.
pub fn stamps<M: Syncable>(c: &mut SqliteConnection, id: RecordId) -> Result<Option<Stamps>, QueryError> {
    Ok(ModelTable::of(&M::SPEC).shared(c, id)?.map(|record| record.stamps))
}
