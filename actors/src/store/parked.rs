//! What is stamped too far ahead: log entries and snapshot items that are kept on disk until their time comes.

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use starling_schema::change::{SharedChange, SharedItem};
use starling_schema::codec;
use starling_schema::hlc::Hlc;
use starling_schema::ids::{DeviceId, ModelId, RecordId};
use starling_schema::record::{SharedRecord, Stamps};
use starling_schema::tables;
use starling_schema::wire::UNPACKED_BYTES_MAX;

use super::sql::to_sql;
use crate::proto::clock::when_within_drift;
use crate::proto::merge;

/// The most entries that are parked of one origin: ten of the largest commits. What follows stays with the peers.
pub(crate) const ENTRIES_MAX: u64 = 10_000;

/// The most bytes of them: they are loaded together when their time comes.
pub(crate) const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What is parked of one origin's log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Parked {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    /// The number of the last entry.
    pub(crate) through: u64,
    /// When the first commit may be applied, in milliseconds since 1970.
    pub(crate) due_at_ms: u64,
    /// Whether the end of the first commit was met.
    first_ended: bool,
}

impl Parked {
    fn with(self, change: &SharedChange, bytes: u64) -> Self {
        let due_at_ms = if self.first_ended { 0 } else { when_within_drift(change.hlc) };
        Self {
            count: self.count + 1,
            bytes: self.bytes + bytes,
            through: change.seq,
            due_at_ms: self.due_at_ms.max(due_at_ms),
            first_ended: self.first_ended || change.ends_commit,
        }
    }

    fn has_room(&self, count: usize, bytes: usize) -> bool {
        self.count + count as u64 <= ENTRIES_MAX && self.bytes + bytes as u64 <= BYTES_MAX
    }
}

/// Parks entries of one origin behind what is parked of it, as many whole commits as there is room for. Says whether
/// that was all.
pub(crate) fn park(c: &mut SqliteConnection, held: &mut Parked, changes: &[SharedChange]) -> QueryResult<bool> {
    use tables::parked::dsl;
    for commit in changes.split_inclusive(|change| change.ends_commit) {
        let encoded = |change: &SharedChange| codec::encode(change, UNPACKED_BYTES_MAX).map_err(encoding);
        let entries: Vec<Vec<u8>> = commit.iter().map(encoded).collect::<QueryResult<_>>()?;
        if !held.has_room(entries.len(), entries.iter().map(Vec::len).sum()) {
            return Ok(false);
        }
        for (change, entry) in commit.iter().zip(entries) {
            *held = held.with(change, entry.len() as u64);
            let row = (
                dsl::origin.eq(change.hlc.device),
                dsl::seq.eq(to_sql(change.seq)),
                dsl::hlc.eq(change.hlc),
                dsl::entry.eq(entry),
            );
            diesel::replace_into(dsl::parked).values(row).execute(c)?;
        }
    }
    Ok(true)
}

/// What is parked of every origin's log.
pub(crate) fn streams(c: &mut SqliteConnection) -> QueryResult<BTreeMap<DeviceId, Parked>> {
    use tables::parked::dsl;
    let rows = dsl::parked
        .order((dsl::origin, dsl::seq))
        .select((dsl::origin, dsl::entry))
        .load_iter::<(DeviceId, Vec<u8>), diesel::connection::DefaultLoadingMode>(c)?;
    let mut parked: BTreeMap<DeviceId, Parked> = BTreeMap::new();
    for row in rows {
        let (origin, entry) = row?;
        let held = parked.entry(origin).or_default();
        *held = held.with(&decoded(&entry)?, entry.len() as u64);
    }
    Ok(parked)
}

/// The parked entries of one origin, in order.
pub(crate) fn entries(c: &mut SqliteConnection, origin: DeviceId) -> QueryResult<Vec<SharedChange>> {
    use tables::parked::dsl;
    let rows: Vec<Vec<u8>> = dsl::parked.filter(dsl::origin.eq(origin)).order(dsl::seq).select(dsl::entry).load(c)?;
    rows.iter().map(|entry| decoded(entry)).collect()
}

/// Forgets the parked entries of an origin up to a number: what they say is merged, or parked as items.
pub(crate) fn unpark(c: &mut SqliteConnection, origin: DeviceId, through: u64) -> QueryResult<usize> {
    use tables::parked::dsl;
    diesel::delete(dsl::parked.filter(dsl::origin.eq(origin).and(dsl::seq.le(to_sql(through))))).execute(c)
}

/// What is parked of snapshots.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Items {
    /// When the first may be merged, in milliseconds since 1970.
    pub(crate) due_at_ms: Option<u64>,
    /// How many, by the device whose clock is ahead.
    pub(crate) by_origin: BTreeMap<DeviceId, u64>,
}

/// The newest stamp of a record.
pub(crate) fn newest(stamps: &Stamps) -> Option<Hlc> {
    let losers = stamps.fields.iter().flat_map(|(_, stamp)| stamp.losers.iter().map(|(hlc, _)| *hlc));
    let fields = stamps.fields.iter().map(|(_, stamp)| stamp.hlc);
    let deleted = stamps.deleted.iter().map(|deleted| deleted.hlc);
    losers.chain(fields).chain(deleted).chain(stamps.restored).chain(stamps.life).max()
}

/// Parks an item of a snapshot, joined with what is parked of the same record.
pub(crate) fn park_item(c: &mut SqliteConnection, item: SharedItem) -> QueryResult<()> {
    use tables::parked_item::dsl;
    let SharedItem { model, record, state } = item;
    let at = dsl::parked_item.find((i32::from(model), record));
    let before: Option<Vec<u8>> = at.select(dsl::item).first(c).optional()?;
    let mut item = match before {
        Some(bytes) => decoded(&bytes)?,
        None => SharedItem { model, record, state: SharedRecord::default() },
    };
    merge::join(&mut item.state, state);
    let Some(newest) = newest(&item.state.stamps) else { return Ok(()) };
    let row = (
        dsl::model.eq(i32::from(model)),
        dsl::id.eq(record),
        dsl::origin.eq(newest.device),
        dsl::due_at_ms.eq(to_sql(when_within_drift(newest))),
        dsl::item.eq(codec::encode(&item, UNPACKED_BYTES_MAX).map_err(encoding)?),
    );
    diesel::replace_into(dsl::parked_item).values(row).execute(c)?;
    Ok(())
}

/// How many items are parked, and until when.
pub(crate) fn items(c: &mut SqliteConnection) -> QueryResult<Items> {
    use tables::parked_item::dsl;
    let due: Option<i64> = dsl::parked_item.select(diesel::dsl::min(dsl::due_at_ms)).first(c)?;
    let counted: Vec<(DeviceId, i64)> =
        dsl::parked_item.group_by(dsl::origin).select((dsl::origin, diesel::dsl::count_star())).load(c)?;
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(Items {
        due_at_ms: due.map(number),
        by_origin: counted.into_iter().map(|(origin, count)| (origin, number(count))).collect(),
    })
}

/// Takes items out whose time has come, so many at most.
pub(crate) fn take_due_items(c: &mut SqliteConnection, wall_ms: u64, items_max: i64) -> QueryResult<Vec<SharedItem>> {
    use tables::parked_item::dsl;
    let rows: Vec<Vec<u8>> = dsl::parked_item
        .filter(dsl::due_at_ms.le(to_sql(wall_ms)))
        .order((dsl::model, dsl::id))
        .limit(items_max)
        .select(dsl::item)
        .load(c)?;
    let items: Vec<SharedItem> = rows.iter().map(|item| decoded(item)).collect::<QueryResult<_>>()?;
    for item in &items {
        diesel::delete(dsl::parked_item.find((i32::from(item.model), item.record))).execute(c)?;
    }
    Ok(items)
}

/// The parked items of a model that follow a key, by key.
pub(crate) fn items_by_key(
    c: &mut SqliteConnection,
    model: ModelId,
    after: RecordId,
    rows_max: usize,
) -> QueryResult<Vec<SharedItem>> {
    use tables::parked_item::dsl;
    let rows: Vec<Vec<u8>> = dsl::parked_item
        .filter(dsl::model.eq(i32::from(model)).and(dsl::id.gt(after)))
        .order(dsl::id)
        .limit(to_sql(rows_max as u64))
        .select(dsl::item)
        .load(c)?;
    rows.iter().map(|item| decoded(item)).collect()
}

/// The models of which items are parked.
pub(crate) fn item_models(c: &mut SqliteConnection) -> QueryResult<Vec<ModelId>> {
    use tables::parked_item::dsl;
    let models: Vec<i32> = dsl::parked_item.select(dsl::model).distinct().order(dsl::model).load(c)?;
    Ok(models.into_iter().filter_map(|model| ModelId::try_from(model).ok()).collect())
}

/// Whether an item of this record is parked.
pub(crate) fn is_item_parked(c: &mut SqliteConnection, model: ModelId, record: RecordId) -> QueryResult<bool> {
    use tables::parked_item::dsl;
    diesel::select(diesel::dsl::exists(dsl::parked_item.find((i32::from(model), record)))).get_result(c)
}

fn decoded<T: bincode::Decode<()>>(bytes: &[u8]) -> QueryResult<T> {
    codec::decode::<T, UNPACKED_BYTES_MAX>(bytes)
        .map_err(|error| diesel::result::Error::DeserializationError(Box::new(error)))
}

fn encoding(error: codec::CodecError) -> diesel::result::Error {
    diesel::result::Error::SerializationError(Box::new(error))
}
