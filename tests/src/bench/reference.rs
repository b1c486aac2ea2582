//! The references: the same rows and files handled by the simplest program that does it.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use ignore::{WalkBuilder, WalkState};
use starling_schema::ids::{DeviceId, RecordId};
use starling_schema::models::Entry;

use super::rows;
use super::stopwatch::{now, seconds_since};

/// Where the database of a reference lies.
pub(super) const FOLDER: &str = "reference";

/// Rows of one transaction of the raw insert.
const ROWS_PER_TRANSACTION: usize = 10_000;

diesel::table! {
    entry (id) {
        id -> Binary,
        owner -> Binary,
        version -> BigInt,
        location -> Nullable<Binary>,
        parent -> Nullable<Binary>,
        name -> Nullable<Text>,
        kind -> Nullable<BigInt>,
        extension -> Nullable<Text>,
        size -> Nullable<BigInt>,
        created_at -> Nullable<BigInt>,
        modified_at -> Nullable<BigInt>,
        mode -> Nullable<BigInt>,
        inode -> Nullable<BigInt>,
    }
}

diesel::table! {
    tag (id) {
        id -> Binary,
        name -> Nullable<Text>,
        description -> Nullable<Text>,
        stamps -> Binary,
        alive -> Bool,
    }
}

/// A new database with the tables, indexes and pragmas of a peer's.
fn database(place: &Path, synchronous: &str) -> anyhow::Result<SqliteConnection> {
    let folder = place.join(FOLDER);
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("reference.sqlite");
    let mut connection = SqliteConnection::establish(path.to_str().context("a path that is not UTF-8")?)?;
    connection.batch_execute(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA temp_store = MEMORY; \
         PRAGMA cache_size = -16384; PRAGMA wal_autocheckpoint = 4000;"
    ))?;
    starling_migrations::migrate(&mut connection)?;
    Ok(connection)
}

/// Seconds to insert so many entries by a prepared statement in transactions of 10,000.
pub(super) fn insert_entries(place: &Path, count: usize) -> anyhow::Result<f64> {
    let ids = starling::environment::Environment::system().new_ids(count);
    let owner = DeviceId(RecordId::MIN.0);
    let rows: Vec<Entry> = ids.into_iter().enumerate().map(|(index, id)| rows::entry(index, id)).collect();
    let mut connection = database(place, "NORMAL")?;
    let start = now();
    let mut version = 0_i64;
    for chunk in rows.chunks(ROWS_PER_TRANSACTION) {
        connection.transaction(|c| {
            chunk.iter().try_for_each(|row| {
                version += 1;
                insert_entry(c, owner, version, row)
            })
        })?;
    }
    Ok(seconds_since(start))
}

fn insert_entry(c: &mut SqliteConnection, owner: DeviceId, version: i64, row: &Entry) -> QueryResult<()> {
    let values = (
        entry::id.eq(row.id),
        entry::owner.eq(owner),
        entry::version.eq(version),
        entry::location.eq(row.location),
        entry::parent.eq(row.parent),
        entry::name.eq(row.name.as_deref()),
        entry::kind.eq(row.kind),
        entry::extension.eq(row.extension.as_deref()),
        entry::size.eq(row.size),
        entry::created_at.eq(row.created_at),
        entry::modified_at.eq(row.modified_at),
        entry::mode.eq(row.mode),
        entry::inode.eq(row.inode),
    );
    diesel::insert_into(entry::table).values(values).execute(c).map(|_| ())
}

/// Seconds to insert so many tags by a prepared statement in transactions of 10,000.
pub(super) fn insert_tags(place: &Path, count: usize) -> anyhow::Result<f64> {
    let mut connection = database(place, "NORMAL")?;
    let ids = starling::environment::Environment::system().new_ids(count);
    let start = now();
    for chunk in ids.chunks(ROWS_PER_TRANSACTION) {
        connection.transaction(|c| chunk.iter().enumerate().try_for_each(|(index, id)| insert_tag(c, *id, index)))?;
    }
    Ok(seconds_since(start))
}

fn insert_tag(c: &mut SqliteConnection, id: RecordId, index: usize) -> QueryResult<()> {
    let values = (
        tag::id.eq(id),
        tag::name.eq(format!("tag {index}")),
        tag::description.eq(index.to_string()),
        tag::stamps.eq(vec![0_u8; 60]),
        tag::alive.eq(true),
    );
    diesel::insert_into(tag::table).values(values).execute(c).map(|_| ())
}

/// Seconds to change one field of the rows `turns`, all of them among `ids`, in durable transactions of
/// `per_transaction`.
pub(super) fn update_tags(
    place: &Path,
    ids: &[RecordId],
    turns: &[RecordId],
    per_transaction: usize,
) -> anyhow::Result<f64> {
    let mut connection = database(place, "FULL")?;
    connection.transaction(|c| {
        ids.iter().try_for_each(|id| {
            let values =
                (tag::id.eq(*id), tag::description.eq("before"), tag::stamps.eq(vec![0_u8; 60]), tag::alive.eq(true));
            diesel::insert_into(tag::table).values(values).execute(c).map(|_| ())
        })
    })?;
    let start = now();
    // SQLite writes nothing for a row that stays the same, so each turn has a value of its own.
    let mut turn = 0;
    for chunk in turns.chunks(per_transaction) {
        connection.transaction(|c| {
            chunk.iter().try_for_each(|id| {
                turn += 1;
                let values = (tag::description.eq(turn.to_string()), tag::stamps.eq(vec![1_u8; 60]));
                diesel::update(tag::table.find(*id)).set(values).execute(c).map(|_| ())
            })
        })?;
    }
    Ok(seconds_since(start))
}

/// Seconds to walk a folder on all cores and `stat` everything in it, and how many files there are.
pub(super) fn walk(folder: &Path) -> anyhow::Result<(f64, usize)> {
    let cores = std::thread::available_parallelism()?.get();
    let files = AtomicUsize::new(0);
    let start = now();
    WalkBuilder::new(folder).standard_filters(false).threads(cores).build_parallel().run(|| {
        Box::new(|found| {
            if found.ok().and_then(|found| found.metadata().ok()).is_some_and(|metadata| metadata.is_file()) {
                files.fetch_add(1, Ordering::Relaxed);
            }
            WalkState::Continue
        })
    });
    Ok((seconds_since(start), files.into_inner()))
}
