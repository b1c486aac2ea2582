//! What is left of deleted device-owned rows until every member has the deletion.

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use starling_schema::ids::{DeviceId, ModelId, RecordId};
use starling_schema::tables;

use super::sql::to_sql;
use crate::planted::{self, Bug};

/// Takes a tombstone away for a newer row. Says no when the tombstone is the newer one.
pub(crate) fn unbury(
    c: &mut SqliteConnection,
    model: ModelId,
    record: RecordId,
    owner: DeviceId,
    version: u64,
) -> QueryResult<bool> {
    use tables::tombstone::dsl;
    let at = dsl::tombstone.find((i32::from(model), record));
    let found: Option<(DeviceId, i64)> = at.select((dsl::owner, dsl::version)).first(c).optional()?;
    match found {
        Some((who, newest)) if who == owner && newest > to_sql(version) => Ok(false),
        Some(_) => diesel::delete(at).execute(c).map(|_| true),
        None => Ok(true),
    }
}

/// Leaves a tombstone.
pub(crate) fn bury(
    c: &mut SqliteConnection,
    model: ModelId,
    record: RecordId,
    owner: DeviceId,
    version: u64,
) -> QueryResult<()> {
    use tables::tombstone::dsl;
    if planted::is(Bug::TombstoneNotKept) {
        return Ok(());
    }
    let row =
        (dsl::model.eq(i32::from(model)), dsl::id.eq(record), dsl::owner.eq(owner), dsl::version.eq(to_sql(version)));
    diesel::replace_into(dsl::tombstone).values(row).execute(c)?;
    Ok(())
}

/// Whether anything of an owner was deleted that some member may not know yet.
pub(crate) fn has_tombstones(c: &mut SqliteConnection, owner: DeviceId) -> QueryResult<bool> {
    use tables::tombstone::dsl;
    diesel::select(diesel::dsl::exists(dsl::tombstone.filter(dsl::owner.eq(owner)))).get_result(c)
}
