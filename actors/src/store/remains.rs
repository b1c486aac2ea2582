//! Which deleted shared records still have their fields, and since when they are deleted: what may be purged one day.

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use starling_schema::ids::{ModelId, RecordId};
use starling_schema::record::SharedRecord;
use starling_schema::tables::remains::dsl;

use super::sql::to_sql;
use crate::proto::purge::Remains;

/// Notes a record that was just written: whether it is deleted and has fields.
pub(crate) fn note(c: &mut SqliteConnection, model: ModelId, id: RecordId, record: &SharedRecord) -> QueryResult<()> {
    let stamps = &record.stamps;
    let deleted = stamps.deleted.as_ref().filter(|_| !stamps.is_alive() && !stamps.fields.is_empty());
    match deleted {
        Some(deleted) => {
            let since_ms = to_sql(deleted.hlc.wall_ms());
            let row = (dsl::model.eq(i32::from(model)), dsl::record.eq(id), dsl::deleted_at_ms.eq(since_ms));
            diesel::replace_into(dsl::remains).values(row).execute(c)?;
        }
        None if stamps.deleted.is_some() => forget(c, model, id)?,
        None => {}
    }
    Ok(())
}

/// Nothing is left of it, or it is no longer deleted.
pub(crate) fn forget(c: &mut SqliteConnection, model: ModelId, id: RecordId) -> QueryResult<()> {
    diesel::delete(dsl::remains.find((i32::from(model), id))).execute(c)?;
    Ok(())
}

/// Records that were deleted before a time, in milliseconds since 1970; the oldest first.
pub(crate) fn older_than(c: &mut SqliteConnection, before_ms: u64, records_max: usize) -> QueryResult<Vec<Remains>> {
    let rows: Vec<(i32, RecordId, i64)> = dsl::remains
        .filter(dsl::deleted_at_ms.le(to_sql(before_ms)))
        .order((dsl::deleted_at_ms, dsl::model, dsl::record))
        .limit(to_sql(records_max as u64))
        .select((dsl::model, dsl::record, dsl::deleted_at_ms))
        .load(c)?;
    let remains = |(model, record, at_ms): (i32, RecordId, i64)| {
        Some(Remains { model: ModelId::try_from(model).ok()?, record, deleted_at_ms: at_ms.unsigned_abs() })
    };
    Ok(rows.into_iter().filter_map(remains).collect())
}
