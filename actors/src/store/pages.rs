//! Pages: what follows a watermark in a stream, and what follows a key in a snapshot. Each is read in one read
//! transaction together with the watermark that it claims.

use diesel::prelude::*;
use diesel::result::QueryResult;
use diesel::sqlite::SqliteConnection;
use starling_schema::change::{Batch, Items, SharedItem, StateRow};
use starling_schema::ids::{DeviceId, ModelId, RecordId};
use starling_schema::stream::{Stream, StreamKind, Watermarks};
use starling_schema::tables;
use starling_schema::value::Fields;
use starling_schema::wire::{Cursor, PageResponse, SnapshotItems, SnapshotResponse, SnapshotScope};

use super::ledger;
use super::sql::{Bind, Statement, snapshot, to_sql};
use super::tables::Tables;
use crate::planted::{self, Bug};

/// The most rows of one page: about 1 MiB of entries, the size at which the transport is fastest.
pub(crate) const PAGE_ROWS_MAX: usize = 8_192;

/// A page ends after this many bytes: with the largest commit behind it, it stays well within a response.
pub(crate) const PAGE_BYTES: usize = 1024 * 1024;

/// How large a page may be; one row or commit more than `bytes` is always taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

/// What follows `after` in a stream.
pub(crate) fn page(
    c: &mut SqliteConnection,
    tables: &Tables,
    stream: Stream,
    after: u64,
    room: Room,
) -> QueryResult<PageResponse> {
    snapshot(c, |c| {
        let (head, floor) = ledger::stream(c, stream)?;
        if after >= head {
            return Ok(PageResponse::UpToDate { head });
        }
        let pruned = match stream.kind {
            StreamKind::State => 0 < after && after < floor,
            StreamKind::Shared => after < floor,
        };
        if pruned {
            return Ok(PageResponse::TakeSnapshot { floor });
        }
        let batch = match stream.kind {
            StreamKind::State => state_batch(c, tables, stream, (after, head), room)?,
            StreamKind::Shared => shared_batch(c, stream, (after, head), room)?,
        };
        Ok(PageResponse::Page { batch, head, floor })
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
        rows.extend(table.page_by_version(c, stream.origin, range, room.rows)?);
    }
    rows.sort_by_key(|row| row.version);
    let fit = fitting(rows.iter().map(|row| row.fields.as_ref().map_or(0, weight)), room);
    // A table that gave as many rows as it may has more: the page speaks for no more than its last row.
    let is_cut = fit < rows.len() || rows.len() >= room.rows;
    let last = if planted::is(Bug::PageLosesRow) { fit.min(rows.len().saturating_sub(1)) } else { fit - 1 };
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

/// Log entries in (after, head], as many whole commits as fit a page. A hole in the numbers is a page of its own.
fn shared_batch(c: &mut SqliteConnection, stream: Stream, (after, head): (u64, u64), room: Room) -> QueryResult<Batch> {
    let changes = ledger::log_page(c, stream.origin, after, room.bytes)?;
    let through = match (changes.first(), changes.last()) {
        (Some(first), _) if first.seq > after + 1 => {
            let through = first.seq - 1;
            return Ok(Batch { stream, after, through, items: Items::Shared(Vec::new()) });
        }
        (_, Some(last)) => last.seq,
        (_, None) => head,
    };
    Ok(Batch { stream, after, through, items: Items::Shared(changes) })
}

/// About how many bytes a record's values take.
pub(crate) fn weight(fields: &Fields) -> usize {
    fields.iter().map(|(_, value)| value.len() + 4).sum()
}

/// How many of the items, one at least, fit a page.
fn fitting(weights: impl Iterator<Item = usize>, room: Room) -> usize {
    let (mut count, mut bytes) = (0, 0);
    for weight in weights.take(room.rows) {
        count += 1;
        bytes += weight + 24;
        if bytes >= room.bytes {
            break;
        }
    }
    count
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
    for table in tables.all(c, true)? {
        let Some(from) = start(after, table.model) else { continue };
        items.extend(table.shared_by_key(c, from, room.rows)?);
        let fit = fitting(items.iter().map(|item: &SharedItem| weight(&item.state.fields) * 2), room);
        if fit < items.len() || items.len() >= room.rows {
            items.truncate(fit);
            let through = items.last().map(|item| (item.model, item.record));
            return Ok((items, through));
        }
    }
    Ok((items, None))
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
        rows.extend(table.owned_by_key(c, owner, from, room.rows)?);
        let fit = fitting(rows.iter().map(|row: &StateRow| row.fields.as_ref().map_or(0, weight)), room);
        if fit < rows.len() || rows.len() >= room.rows {
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
pub(crate) fn counts(
    c: &mut SqliteConnection,
    tables: &Tables,
) -> QueryResult<std::collections::BTreeMap<String, u64>> {
    let mut counts = std::collections::BTreeMap::new();
    for spec in tables.registry.iter() {
        let live = if spec.ownership.is_shared() { " WHERE alive" } else { "" };
        let row = Statement::new(&format!("SELECT count(*) FROM {}{live}", spec.name)).first(c, &[] as &[Bind<'_>])?;
        counts.insert(spec.name.to_owned(), row.map_or(0, |row| row.0[0].number()));
    }
    Ok(counts)
}
