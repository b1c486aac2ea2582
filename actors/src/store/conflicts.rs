//! The list of conflicts: derived from the stamps of the records, for people to look through.

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use starling_schema::codec;
use starling_schema::hlc::Hlc;
use starling_schema::ids::{FieldNo, ModelId, RecordId};
use starling_schema::tables;
use starling_schema::value::Value;
use starling_schema::wire::UNPACKED_BYTES_MAX;

use crate::proto::merge::Loser;

/// Lists what lost in one record, in the place of what was listed.
pub(crate) fn list_conflicts(
    c: &mut SqliteConnection,
    model: ModelId,
    record: RecordId,
    losers: &[Loser],
) -> QueryResult<()> {
    use tables::conflict::dsl;
    let old = dsl::conflict.filter(dsl::model.eq(i32::from(model)).and(dsl::record.eq(record)));
    diesel::delete(old).execute(c)?;
    for Loser { field, hlc, value, deleted } in losers {
        let value = codec::encode(value, UNPACKED_BYTES_MAX)
            .map_err(|e| diesel::result::Error::SerializationError(Box::new(e)))?;
        let row = (
            dsl::model.eq(i32::from(model)),
            dsl::record.eq(record),
            dsl::field.eq(i32::from(*field)),
            dsl::hlc.eq(*hlc),
            dsl::deleted.eq(*deleted),
            dsl::value.eq(value),
        );
        diesel::insert_into(dsl::conflict).values(row).execute(c)?;
    }
    Ok(())
}

/// A kept loser, as it is listed.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// Its model.
    pub model: ModelId,
    /// Its record.
    pub record: RecordId,
    /// Its field.
    pub field: FieldNo,
    /// The losing write.
    pub hlc: Hlc,
    /// The losing value.
    pub value: Value,
    /// Whether it lost to a delete of the record instead of to another value.
    pub deleted: bool,
}

/// Every kept loser, by record.
pub(crate) fn conflicts(c: &mut SqliteConnection) -> QueryResult<Vec<Conflict>> {
    use tables::conflict::dsl;
    let rows: Vec<(i32, RecordId, i32, Hlc, bool, Vec<u8>)> =
        dsl::conflict.order((dsl::model, dsl::record, dsl::field, dsl::hlc)).load(c)?;
    Ok(rows
        .into_iter()
        .filter_map(|(model, record, field, hlc, deleted, value)| {
            let value = codec::decode::<Value, UNPACKED_BYTES_MAX>(&value).ok()?;
            let (model, field) = (ModelId::try_from(model).ok()?, FieldNo::try_from(field).ok()?);
            Some(Conflict { model, record, field, hlc, value, deleted })
        })
        .collect())
}
