//! The bookkeeping tables: settings, streams, log, statements, beacons, tickets, retries, dead letters.

use diesel::prelude::*;
use diesel::result::QueryResult;
use diesel::sqlite::SqliteConnection;
use starling_schema::change::{COMMIT_BYTES_MAX, SharedChange};
use starling_schema::codec;
use starling_schema::ids::DeviceId;
use starling_schema::signed::Signed;
use starling_schema::stream::{Stream, StreamKind, Watermarks};
use starling_schema::tables;
use starling_schema::wire::{Cursor, SnapshotScope, UNPACKED_BYTES_MAX};

use super::parked;
use super::sql::to_sql;
use crate::planted::{self, Bug};
use crate::proto::clean::Clean;
use crate::proto::snapshots::BegunSnapshot;

/// The setting that keeps up to where records may be ahead of the watermarks.
const AHEAD_SETTING: &str = "ahead";

fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Reads a local setting.
pub(crate) fn setting(c: &mut SqliteConnection, key: &str) -> QueryResult<Option<Vec<u8>>> {
    tables::setting::table.find(key).select(tables::setting::value).first(c).optional()
}

/// Writes a local setting.
pub(crate) fn set_setting(c: &mut SqliteConnection, key: &str, value: &[u8]) -> QueryResult<()> {
    diesel::replace_into(tables::setting::table)
        .values((tables::setting::key.eq(key), tables::setting::value.eq(value)))
        .execute(c)?;
    Ok(())
}

/// The setting that keeps the snapshots that are under way.
const SNAPSHOTS_SETTING: &str = "snapshots";

/// Snapshots of which some pages are merged.
pub(crate) fn snapshots(c: &mut SqliteConnection) -> QueryResult<Vec<BegunSnapshot>> {
    let Some(bytes) = setting(c, SNAPSHOTS_SETTING)? else { return Ok(Vec::new()) };
    codec::decode::<_, UNPACKED_BYTES_MAX>(&bytes).map_err(|e| diesel::result::Error::DeserializationError(Box::new(e)))
}

/// Notes how far a snapshot is and what it stands for; none when it is complete.
pub(crate) fn note_snapshot(
    c: &mut SqliteConnection,
    scope: SnapshotScope,
    progress: Option<(Cursor, Watermarks)>,
) -> QueryResult<()> {
    let mut begun = snapshots(c)?;
    begun.retain(|(of, ..)| *of != scope);
    begun.extend(progress.map(|(through, claim)| (scope, through, claim)));
    let bytes = codec::encode(&begun, UNPACKED_BYTES_MAX)
        .map_err(|e| diesel::result::Error::SerializationError(Box::new(e)))?;
    set_setting(c, SNAPSHOTS_SETTING, &bytes)
}

/// How far every stream is applied, and below which number entries or tombstones may be lacking.
pub(crate) fn streams(c: &mut SqliteConnection) -> QueryResult<(Watermarks, Watermarks)> {
    use tables::stream::dsl;
    let columns = (dsl::kind, dsl::origin, dsl::watermark, dsl::floor);
    let rows: Vec<(i32, DeviceId, i64, i64)> = dsl::stream.order(dsl::kind).select(columns).load(c)?;
    let (mut marks, mut floors) = (Watermarks::new(), Watermarks::new());
    for (kind, origin, watermark, floor) in rows {
        let Some(kind) = StreamKind::from_code(kind) else { continue };
        marks.raise(Stream { kind, origin }, from_sql(watermark));
        floors.raise(Stream { kind, origin }, from_sql(floor));
    }
    Ok((marks, floors))
}

/// Notes that records may be ahead of the watermarks, up to these: pages of a snapshot are merged before the whole of
/// it is claimed.
pub(crate) fn note_ahead(c: &mut SqliteConnection, page: &Watermarks) -> QueryResult<()> {
    let mut ahead = ahead(c)?;
    if ahead.covers(page) {
        return Ok(());
    }
    ahead.join(page);
    let bytes = codec::encode(&ahead, UNPACKED_BYTES_MAX)
        .map_err(|e| diesel::result::Error::SerializationError(Box::new(e)))?;
    set_setting(c, AHEAD_SETTING, &bytes)
}

/// How far records are ahead of the watermarks, in the midst of a snapshot.
pub(crate) fn ahead(c: &mut SqliteConnection) -> QueryResult<Watermarks> {
    let ahead = setting(c, AHEAD_SETTING)?;
    Ok(ahead.and_then(|bytes| codec::decode::<_, UNPACKED_BYTES_MAX>(&bytes).ok()).unwrap_or_default())
}

/// How far every stream is applied, when the records are exactly of that point; otherwise they cannot be compared. While
/// items of a snapshot are parked they are not: the watermarks stand for those, too.
pub(crate) fn comparable(c: &mut SqliteConnection) -> QueryResult<Option<Watermarks>> {
    let (marks, _) = streams(c)?;
    if parked::items(c)?.due_at_ms.is_some() {
        return Ok(None);
    }
    Ok(marks.covers(&ahead(c)?).then_some(marks))
}

/// Up to which numbers nothing is held that was deleted.
pub(crate) fn clean(c: &mut SqliteConnection) -> QueryResult<Clean> {
    use tables::stream::dsl;
    let rows: Vec<(i32, DeviceId, Option<i64>)> = dsl::stream.select((dsl::kind, dsl::origin, dsl::clean)).load(c)?;
    let stream = |kind, origin| Some(Stream { kind: StreamKind::from_code(kind)?, origin });
    Ok(rows.into_iter().filter_map(|(kind, origin, clean)| Some((stream(kind, origin)?, from_sql(clean?)))).collect())
}

/// How far one stream is applied, its floor, and how far it is clean.
pub(crate) fn stream(c: &mut SqliteConnection, stream: Stream) -> QueryResult<(u64, u64, u64)> {
    use tables::stream::dsl;
    let row: Option<(i64, i64, Option<i64>)> = dsl::stream
        .find((stream.kind.code(), stream.origin))
        .select((dsl::watermark, dsl::floor, dsl::clean))
        .first(c)
        .optional()?;
    let (watermark, floor, clean) = row.unwrap_or_default();
    let clean: Clean = clean.map(|clean| (stream, from_sql(clean))).into_iter().collect();
    Ok((from_sql(watermark), from_sql(floor), clean.of(stream, from_sql(watermark))))
}

/// Raises a stream's floor.
pub(crate) fn set_floor(c: &mut SqliteConnection, stream: Stream, floor: u64) -> QueryResult<()> {
    use tables::stream::dsl;
    diesel::update(dsl::stream.find((stream.kind.code(), stream.origin)).filter(dsl::floor.lt(to_sql(floor))))
        .set(dsl::floor.eq(to_sql(floor)))
        .execute(c)?;
    Ok(())
}

/// Writes how far a stream is applied, its floor, and how far it is clean beyond its watermark.
pub(crate) fn set_stream(
    c: &mut SqliteConnection,
    stream: Stream,
    (watermark, floor): (u64, u64),
    clean: Option<u64>,
) -> QueryResult<()> {
    use tables::stream::dsl;
    diesel::replace_into(dsl::stream)
        .values((
            dsl::kind.eq(stream.kind.code()),
            dsl::origin.eq(stream.origin),
            dsl::watermark.eq(to_sql(watermark)),
            dsl::floor.eq(to_sql(floor)),
            dsl::clean.eq(clean.map(to_sql)),
        ))
        .execute(c)?;
    Ok(())
}

/// Appends entries to the peer log.
pub(crate) fn append_log(c: &mut SqliteConnection, changes: &[SharedChange]) -> QueryResult<()> {
    use tables::log::dsl;
    let skipped = usize::from(planted::is(Bug::LogEntryMissing) && changes.len() > 1);
    for change in &changes[skipped..] {
        let entry = codec::encode(change, UNPACKED_BYTES_MAX)
            .map_err(|e| diesel::result::Error::SerializationError(Box::new(e)))?;
        diesel::insert_or_ignore_into(dsl::log)
            .values((
                dsl::origin.eq(change.hlc.device),
                dsl::seq.eq(to_sql(change.seq)),
                dsl::ends_commit.eq(change.ends_commit),
                dsl::entry.eq(entry),
            ))
            .execute(c)?;
    }
    Ok(())
}

/// Log entries after a number, ending with a whole commit once `bytes_max` is reached.
pub(crate) fn log_page(
    c: &mut SqliteConnection,
    origin: DeviceId,
    after: u64,
    bytes_max: usize,
) -> QueryResult<Vec<SharedChange>> {
    use tables::log::dsl;
    let (mut changes, mut bytes) = (Vec::new(), 0);
    let rows = dsl::log
        .filter(dsl::origin.eq(origin).and(dsl::seq.gt(to_sql(after))))
        .order(dsl::seq)
        .select((dsl::ends_commit, dsl::entry))
        .load_iter::<(bool, Vec<u8>), diesel::connection::DefaultLoadingMode>(c)?;
    for row in rows {
        let (ends_commit, entry) = row?;
        bytes += entry.len();
        changes.push(decoded(&entry)?);
        // A commit that never ends must not fill the memory.
        if bytes >= bytes_max && (ends_commit || bytes >= bytes_max + COMMIT_BYTES_MAX) {
            break;
        }
    }
    Ok(changes)
}

fn decoded(entry: &[u8]) -> QueryResult<SharedChange> {
    codec::decode::<_, UNPACKED_BYTES_MAX>(entry).map_err(|e| diesel::result::Error::DeserializationError(Box::new(e)))
}

/// Removes the entries of an origin up to a number.
pub(crate) fn prune_log(c: &mut SqliteConnection, origin: DeviceId, through: u64) -> QueryResult<usize> {
    use tables::log::dsl;
    diesel::delete(dsl::log.filter(dsl::origin.eq(origin).and(dsl::seq.le(to_sql(through))))).execute(c)
}

/// Removes the tombstones of an owner up to a version. Says how many there were, and the version of the last.
pub(crate) fn prune_tombstones(
    c: &mut SqliteConnection,
    owner: DeviceId,
    through: u64,
) -> QueryResult<(usize, Option<u64>)> {
    use tables::tombstone::dsl;
    let gone = || dsl::tombstone.filter(dsl::owner.eq(owner).and(dsl::version.le(to_sql(through))));
    let last: Option<i64> = gone().select(diesel::dsl::max(dsl::version)).first(c)?;
    Ok((diesel::delete(gone()).execute(c)?, last.map(from_sql)))
}

/// How many entries the peer log holds.
pub(crate) fn log_len(c: &mut SqliteConnection) -> QueryResult<u64> {
    tables::log::table.count().get_result::<i64>(c).map(from_sql)
}

/// Every membership statement.
pub(crate) fn statements(c: &mut SqliteConnection) -> QueryResult<Vec<Signed>> {
    use tables::statement::dsl;
    let rows: Vec<(Vec<u8>, Vec<u8>)> = dsl::statement.order(dsl::id).select((dsl::bytes, dsl::signature)).load(c)?;
    Ok(rows.into_iter().filter_map(|(bytes, signature)| signed(bytes, &signature)).collect())
}

fn signed(bytes: Vec<u8>, signature: &[u8]) -> Option<Signed> {
    Some(Signed { bytes, signature: signature.try_into().ok()? })
}

/// The newest beacons of each member, the whole one first, and when they were heard, in milliseconds since 1970.
pub(crate) fn beacons(c: &mut SqliteConnection) -> QueryResult<Vec<(Signed, u64)>> {
    use tables::beacon::dsl;
    let rows: Vec<(Vec<u8>, Vec<u8>, i64)> = dsl::beacon
        .order((dsl::member, dsl::is_whole.desc()))
        .select((dsl::bytes, dsl::signature, dsl::heard_at_ms))
        .load(c)?;
    Ok(rows.into_iter().filter_map(|(b, s, at)| Some((signed(b, &s)?, from_sql(at)))).collect())
}

/// One thing to keep that is not part of the library's data.
#[derive(Clone, Debug)]
pub(crate) enum Note {
    /// A local setting.
    Setting(&'static str, Vec<u8>),
    /// A membership statement.
    Statement(Signed),
    /// What a member last said of how far it is: all of it, or what is further since.
    Beacon { member: DeviceId, is_whole: bool, signed: Signed, heard_at_ms: u64 },
    /// A ticket, by the hash of its secret.
    Ticket { id: Vec<u8>, secret: Vec<u8>, expires_at_ms: u64, used_by: Option<Vec<u8>> },
    /// A ticket that expired.
    TicketGone(Vec<u8>),
    /// A send that waits for its ack.
    Retry { peer: DeviceId, kind: StreamKind, attempts: u32, due_at_ms: u64, error: String },
    /// A send that waits no more.
    RetryDone { peer: DeviceId, kind: StreamKind },
    /// A send that was given up.
    DeadLetter { peer: DeviceId, kind: StreamKind, through: u64, attempts: u32, error: String, at_ms: u64 },
    /// A dead letter that is none any more.
    DeadLetterGone { peer: DeviceId, kind: StreamKind },
}

/// Writes one note.
pub(crate) fn keep(c: &mut SqliteConnection, note: &Note) -> QueryResult<()> {
    match note {
        Note::Setting(key, value) => set_setting(c, key, value)?,
        Note::Statement(signed) => {
            use tables::statement::dsl;
            let id = signed.id().0.to_vec();
            let row = (dsl::id.eq(id), dsl::bytes.eq(&signed.bytes), dsl::signature.eq(&signed.signature[..]));
            diesel::insert_or_ignore_into(dsl::statement).values(row).execute(c)?;
        }
        Note::Beacon { member, is_whole, signed, heard_at_ms } => {
            use tables::beacon::dsl;
            let row = (
                dsl::member.eq(*member),
                dsl::is_whole.eq(*is_whole),
                dsl::bytes.eq(&signed.bytes),
                dsl::signature.eq(&signed.signature[..]),
                dsl::heard_at_ms.eq(to_sql(*heard_at_ms)),
            );
            diesel::replace_into(dsl::beacon).values(row).execute(c)?;
        }
        Note::Ticket { id, secret, expires_at_ms, used_by } => {
            use tables::ticket::dsl;
            let row = (
                dsl::id.eq(id),
                dsl::secret.eq(secret),
                dsl::expires_at_ms.eq(to_sql(*expires_at_ms)),
                dsl::used_by.eq(used_by),
            );
            diesel::replace_into(dsl::ticket).values(row).execute(c)?;
        }
        Note::TicketGone(id) => {
            diesel::delete(tables::ticket::table.find(id)).execute(c)?;
        }
        Note::Retry { peer, kind, attempts, due_at_ms, error } => {
            use tables::retry::dsl;
            let row = (
                dsl::peer.eq(*peer),
                dsl::kind.eq(kind.code()),
                dsl::attempts.eq(i32::try_from(*attempts).unwrap_or(i32::MAX)),
                dsl::due_at_ms.eq(to_sql(*due_at_ms)),
                dsl::error.eq(error),
            );
            diesel::replace_into(dsl::retry).values(row).execute(c)?;
        }
        Note::RetryDone { peer, kind } => {
            diesel::delete(tables::retry::table.find((*peer, kind.code()))).execute(c)?;
        }
        Note::DeadLetter { peer, kind, through, attempts, error, at_ms } => {
            use tables::dead_letter::dsl;
            let row = (
                dsl::peer.eq(*peer),
                dsl::kind.eq(kind.code()),
                dsl::through.eq(to_sql(*through)),
                dsl::attempts.eq(i32::try_from(*attempts).unwrap_or(i32::MAX)),
                dsl::error.eq(error),
                dsl::at_ms.eq(to_sql(*at_ms)),
            );
            diesel::replace_into(dsl::dead_letter).values(row).execute(c)?;
        }
        Note::DeadLetterGone { peer, kind } => {
            diesel::delete(tables::dead_letter::table.find((*peer, kind.code()))).execute(c)?;
        }
    }
    Ok(())
}

/// A send that waited for an ack: peer, kind, attempts, when due in milliseconds since 1970, last error.
pub(crate) type StoredRetry = (DeviceId, StreamKind, u32, u64, String);

/// A send that was given up: peer, kind, through, attempts, last error, when in milliseconds since 1970.
pub(crate) type StoredLetter = (DeviceId, StreamKind, u64, u32, String, u64);

/// The sends that waited for an ack.
pub(crate) fn retries(c: &mut SqliteConnection) -> QueryResult<Vec<StoredRetry>> {
    let rows: Vec<(DeviceId, i32, i32, i64, String)> = tables::retry::table.load(c)?;
    Ok(rows
        .into_iter()
        .filter_map(|(peer, kind, attempts, due, error)| {
            Some((peer, StreamKind::from_code(kind)?, u32::try_from(attempts).unwrap_or(0), from_sql(due), error))
        })
        .collect())
}

/// The sends that were given up.
pub(crate) fn dead_letters(c: &mut SqliteConnection) -> QueryResult<Vec<StoredLetter>> {
    let rows: Vec<(DeviceId, i32, i64, i32, String, i64)> = tables::dead_letter::table.load(c)?;
    Ok(rows
        .into_iter()
        .filter_map(|(peer, kind, through, attempts, error, at)| {
            let attempts = u32::try_from(attempts).unwrap_or(0);
            Some((peer, StreamKind::from_code(kind)?, from_sql(through), attempts, error, from_sql(at)))
        })
        .collect())
}

/// The tickets that we issued: id, secret, when they expire, who used them.
#[allow(clippy::type_complexity, reason = "one row as it is")]
pub(crate) fn tickets(c: &mut SqliteConnection) -> QueryResult<Vec<(Vec<u8>, Vec<u8>, u64, Option<Vec<u8>>)>> {
    let rows: Vec<(Vec<u8>, Vec<u8>, i64, Option<Vec<u8>>)> = tables::ticket::table.load(c)?;
    Ok(rows.into_iter().map(|(id, secret, expires, used_by)| (id, secret, from_sql(expires), used_by)).collect())
}
