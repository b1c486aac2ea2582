//! Pages: what follows a watermark in a stream, and what follows a key in a snapshot. Each is read in one read
//! transaction together with the watermark that it claims.

use std::collections::BTreeMap;
use std::rc::Rc;

use diesel::prelude::*;
use diesel::result::QueryResult;
use diesel::sqlite::SqliteConnection;
use starling_schema::change::{Batch, Items, SharedItem, StateRow};
use starling_schema::ids::{DeviceId, ModelId, RecordId};
use starling_schema::record::SharedRecord;
use starling_schema::stream::{Stream, StreamKind, Watermarks};
use starling_schema::tables;
use starling_schema::value::Fields;
use starling_schema::wire::{Cursor, PageResponse, SnapshotItems, SnapshotResponse, SnapshotScope};

use super::sql::{Bind, Statement, snapshot, to_sql};
use super::table::ModelTable;
use super::tables::Tables;
use super::{ledger, parked};
use crate::planted::{self, Bug};
use crate::proto::merge;

/// The most rows of one page: about 1 MiB of entries, the size at which the transport is fastest.
pub(crate) const PAGE_ROWS_MAX: usize = 8_192;

/// A page ends after this many bytes: with the largest commit behind it, it stays well within a response.
pub(crate) const PAGE_BYTES: usize = 1024 * 1024;

/// What a row or an item takes besides its values.
const ITEM_BYTES: usize = 24;

/// How large a page may be; one row or commit more than `bytes` is always taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

/// What follows `after` in a stream, for somebody who holds nothing that was deleted up to `asker_clean`.
pub(crate) fn page(
    c: &mut SqliteConnection,
    tables: &Tables,
    stream: Stream,
    (after, asker_clean): (u64, u64),
    room: Room,
) -> QueryResult<PageResponse> {
    snapshot(c, |c| {
        let (head, floor, clean) = ledger::stream(c, stream)?;
        if after >= head {
            return Ok(PageResponse::UpToDate { head });
        }
        let pruned = match stream.kind {
            // The tombstones that are gone concern nothing that such an asker holds.
            StreamKind::State => after < floor && asker_clean < floor,
            StreamKind::Shared => after < floor,
        };
        if pruned {
            return Ok(PageResponse::TakeSnapshot { floor });
        }
        let batch = match stream.kind {
            StreamKind::State => state_batch(c, tables, stream, (after, head), room)?,
            StreamKind::Shared => match shared_batch(c, stream, after, room)? {
                Ok(batch) => batch,
                Err(lost) => return Ok(PageResponse::TakeSnapshot { floor: lost }),
            },
        };
        Ok(PageResponse::Page { batch, head, floor, clean })
    })
}

/// Rows and tombstones of an owner in (after, head], as many as fit a page.
fn state_batch(
    c: &mut SqliteConnection,
    tables: &Tables,
    stream: Stream,
    range: (u64, u64),
    room: Room,
) -> QueryResult<Batch> {
    let (after, head) = range;
    let mut rows = tombstones(c, stream.origin, range, room)?;
    for table in tables.all(c, false)? {
        rows.extend(table.page_by_version(c, stream.origin, range, room)?);
    }
    rows.sort_by_key(|row| row.version);
    let (fit, is_full) = fitting(rows.iter().map(row_weight), room);
    // A table that gave as much as it may has more: the page speaks for no more than its last row.
    let is_cut = is_full || fit < rows.len() || rows.len() >= room.rows;
    let last =
        if planted::is(Bug::PageLosesRow) { fit.min(rows.len().saturating_sub(1)) } else { fit.saturating_sub(1) };
    let through = if is_cut && !planted::is(Bug::PageClaimsHead) { rows[last].version } else { head };
    rows.truncate(fit);
    Ok(Batch { stream, after, through, items: Items::State(rows) })
}

fn tombstones(c: &mut SqliteConnection, owner: DeviceId, range: (u64, u64), room: Room) -> QueryResult<Vec<StateRow>> {
    use tables::tombstone::dsl;
    let rows: Vec<(i32, RecordId, i64)> = dsl::tombstone
        .filter(dsl::owner.eq(owner).and(dsl::version.gt(to_sql(range.0))).and(dsl::version.le(to_sql(range.1))))
        .order(dsl::version)
        .limit(to_sql(room.rows as u64))
        .select((dsl::model, dsl::id, dsl::version))
        .load(c)?;
    Ok(rows
        .into_iter()
        .filter_map(|(model, record, version)| {
            let (model, version) = (ModelId::try_from(model).ok()?, u64::try_from(version).ok()?);
            Some(StateRow { version, model, record, fields: None })
        })
        .collect())
}

/// The log entries after a number, as many whole commits as fit a page. Numbers have no holes: when entries are lacking
/// that should be here, the log is damaged and gives the last number that it lost; a snapshot has what they said.
fn shared_batch(c: &mut SqliteConnection, stream: Stream, after: u64, room: Room) -> QueryResult<Result<Batch, u64>> {
    let changes = ledger::log_page(c, stream.origin, after, room.bytes)?;
    let dense = changes.iter().zip(after + 1..).take_while(|(change, seq)| change.seq == *seq).count();
    Ok(match changes.get(dense) {
        None if dense > 0 => Ok(Batch { stream, after, through: after + dense as u64, items: Items::Shared(changes) }),
        first => Err(first.map_or(after + 1, |change| change.seq - 1)),
    })
}

/// About how many bytes a record's values take.
pub(crate) fn weight(fields: &Fields) -> usize {
    fields.iter().map(|(_, value)| value.len() + 4).sum()
}

/// About how many bytes a shared record takes with its stamps and losers.
fn record_weight(record: &SharedRecord) -> usize {
    /// A device's id and a time.
    const STAMP_BYTES: usize = 26;
    let deletion = record.stamps.deleted.iter().map(|deletion| deletion.seen.len() + 1);
    let seen = record.stamps.fields.iter().map(|(_, stamp)| stamp.seen.len() + stamp.losers.len() + 1);
    let losers = record.stamps.fields.iter().flat_map(|(_, stamp)| &stamp.losers).map(|(_, value)| value.len() + 4);
    weight(&record.fields) + deletion.chain(seen).sum::<usize>() * STAMP_BYTES + losers.sum::<usize>()
}

/// About how many bytes a row takes.
pub(crate) fn row_weight(row: &StateRow) -> usize {
    row.fields.as_ref().map_or(0, weight) + ITEM_BYTES
}

/// About how many bytes an item of a snapshot takes.
pub(crate) fn item_weight(item: &SharedItem) -> usize {
    record_weight(&item.state) + ITEM_BYTES
}

/// How many of the items, one at least, fit a page, and whether they fill it.
fn fitting(weights: impl Iterator<Item = usize>, room: Room) -> (usize, bool) {
    let (mut count, mut bytes) = (0, 0);
    for weight in weights.take(room.rows) {
        count += 1;
        bytes += weight;
        if bytes >= room.bytes {
            return (count, true);
        }
    }
    (count, false)
}

/// What follows a key in a snapshot.
pub(crate) fn snapshot_page(
    c: &mut SqliteConnection,
    tables: &Tables,
    scope: SnapshotScope,
    after: Option<Cursor>,
    room: Room,
) -> QueryResult<SnapshotResponse> {
    snapshot(c, |c| {
        let watermarks = match scope {
            SnapshotScope::Shared => ledger::streams(c)?.0.of_kind(StreamKind::Shared),
            SnapshotScope::State(owner) => {
                let stream = Stream::state(owner);
                Watermarks::from_iter([(stream, ledger::stream(c, stream)?.0)])
            }
        };
        let (items, through) = match scope {
            SnapshotScope::Shared => {
                let (items, through) = shared_items(c, tables, after, room)?;
                (SnapshotItems::Shared(items), through)
            }
            SnapshotScope::State(owner) => {
                let (rows, through) = owned_items(c, tables, owner, after, room)?;
                (SnapshotItems::State(rows), through)
            }
        };
        Ok(SnapshotResponse { scope, after, through, watermarks, items })
    })
}

fn shared_items(
    c: &mut SqliteConnection,
    tables: &Tables,
    after: Option<Cursor>,
    room: Room,
) -> QueryResult<(Vec<SharedItem>, Option<Cursor>)> {
    let mut items = Vec::new();
    for table in with_parked_models(c, tables)? {
        let Some(from) = start(after, table.model) else { continue };
        let (found, is_cut) = items_by_key(c, &table, from, room)?;
        items.extend(found);
        let (fit, is_full) = fitting(items.iter().map(item_weight), room);
        if is_cut || is_full || fit < items.len() || items.len() >= room.rows {
            items.truncate(fit);
            let through = items.last().map(|item| (item.model, item.record));
            return Ok((items, through));
        }
    }
    Ok((items, None))
}

/// The tables of all models of which shared records are held, merged or parked, by model.
fn with_parked_models(c: &mut SqliteConnection, tables: &Tables) -> QueryResult<Vec<Rc<ModelTable>>> {
    let mut all: BTreeMap<ModelId, Vec<Rc<ModelTable>>> = BTreeMap::new();
    for table in tables.all(c, true)? {
        all.entry(table.model).or_default().push(table);
    }
    for model in parked::item_models(c)? {
        all.entry(model).or_insert_with(|| vec![tables.of(model, true)]);
    }
    Ok(all.into_values().flatten().collect())
}

/// The records that follow a key, as many as a page holds at most, each joined with what is parked of it: a snapshot is
/// complete, whatever our wall clock makes of its stamps. Says whether there may be more of the table.
fn items_by_key(
    c: &mut SqliteConnection,
    table: &ModelTable,
    from: RecordId,
    room: Room,
) -> QueryResult<(Vec<SharedItem>, bool)> {
    let items = table.shared_by_key(c, from, room)?;
    let mut waiting = parked::items_by_key(c, table.model, from, room.rows)?;
    let (fit, is_full) = fitting(items.iter().map(item_weight), room);
    let is_cut = is_full || fit >= room.rows || waiting.len() >= room.rows;
    if waiting.is_empty() {
        return Ok((items, is_cut));
    }
    // What lies beyond the end of either list comes with the next page.
    if is_full && let Some(last) = items.last().map(|item| item.record) {
        waiting.retain(|item| item.record <= last);
    }
    let mut records: BTreeMap<RecordId, SharedRecord> =
        items.into_iter().map(|item| (item.record, item.state)).collect();
    for item in waiting {
        merge::join(records.entry(item.record).or_default(), item.state);
    }
    let model = table.model;
    let items = records.into_iter().map(|(record, state)| SharedItem { model, record, state });
    Ok((items.take(room.rows).collect(), is_cut))
}

fn owned_items(
    c: &mut SqliteConnection,
    tables: &Tables,
    owner: DeviceId,
    after: Option<Cursor>,
    room: Room,
) -> QueryResult<(Vec<StateRow>, Option<Cursor>)> {
    let mut rows = Vec::new();
    for table in tables.all(c, false)? {
        let Some(from) = start(after, table.model) else { continue };
        rows.extend(table.owned_by_key(c, owner, from, room)?);
        let (fit, is_full) = fitting(rows.iter().map(row_weight), room);
        if is_full || fit < rows.len() || rows.len() >= room.rows {
            rows.truncate(fit);
            let through = rows.last().map(|row| (row.model, row.record));
            return Ok((rows, through));
        }
    }
    Ok((rows, None))
}

/// Where to go on within a model's table; none when the cursor is past it.
fn start(after: Option<Cursor>, model: ModelId) -> Option<RecordId> {
    match after {
        Some((at, record)) if at == model => Some(record),
        Some((at, _)) if at > model => None,
        _ => Some(RecordId::MIN),
    }
}

/// Live records per model, by name.
pub(crate) fn counts(c: &mut SqliteConnection, tables: &Tables) -> QueryResult<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for spec in tables.registry.iter() {
        let live = if spec.ownership.is_shared() { " WHERE alive" } else { "" };
        let row = Statement::new(&format!("SELECT count(*) FROM {}{live}", spec.name)).first(c, &[] as &[Bind<'_>])?;
        counts.insert(spec.name.to_owned(), row.map_or(0, |row| row.0[0].number()));
    }
    Ok(counts)
}
