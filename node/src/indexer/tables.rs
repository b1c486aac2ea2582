//! The tables as the indexer reads them: rows in their compact form, and the way between paths and entries.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use starling::QueryError;
use starling_schema::ids::{DeviceId, RecordId};
use starling_schema::models::EntryKind;
use starling_schema::stream::StreamKind;

use super::catalogue::OwnLocation;
use super::facts::Facts;
use super::known::{DEPTH_MAX, Known};
use super::names;
use super::rows::Totals;

diesel::table! {
    /// The columns that the indexer reads of the locations.
    location (id) {
        id -> Binary,
        owner -> Binary,
        volume -> Nullable<Binary>,
        root -> Nullable<Binary>,
        path -> Nullable<Text>,
        entry_count -> Nullable<BigInt>,
        byte_size -> Nullable<BigInt>,
        last_scan_at -> Nullable<BigInt>,
        raw_path -> Nullable<Binary>,
    }
}
diesel::table! {
    /// How far each stream is.
    stream (kind, origin) {
        kind -> Integer,
        origin -> Binary,
        watermark -> BigInt,
    }
}
diesel::table! {
    /// The columns that the indexer reads of the entries.
    entry (id) {
        /// The database's own number: reading by ranges of it bounds every query, whatever else the table holds.
        rowid -> BigInt,
        id -> Binary,
        owner -> Binary,
        location -> Nullable<Binary>,
        parent -> Nullable<Binary>,
        name -> Nullable<Text>,
        kind -> Nullable<BigInt>,
        size -> Nullable<BigInt>,
        created_at -> Nullable<BigInt>,
        modified_at -> Nullable<BigInt>,
        mode -> Nullable<BigInt>,
        inode -> Nullable<BigInt>,
        content_hash -> Nullable<Binary>,
        raw_name -> Nullable<Binary>,
    }
}

/// A location as its row holds it.
#[derive(Queryable, Selectable)]
#[diesel(table_name = location)]
pub(crate) struct LocationRow {
    pub(crate) id: RecordId,
    volume: Option<RecordId>,
    root: Option<RecordId>,
    path: Option<String>,
    entry_count: Option<i64>,
    byte_size: Option<i64>,
    last_scan_at: Option<i64>,
    raw_path: Option<Vec<u8>>,
}

impl LocationRow {
    /// The location; none if the row lacks what we always write.
    pub(crate) fn read(self) -> Option<OwnLocation> {
        let bytes = self.raw_path.or(self.path.map(String::into_bytes))?;
        Some(OwnLocation {
            id: self.id,
            root: self.root?,
            volume: self.volume?,
            path: names::os_name(&bytes)?.into(),
            totals: Totals { entries: self.entry_count.unwrap_or(0), bytes: self.byte_size.unwrap_or(0) },
            scanned: self.last_scan_at.is_some(),
        })
    }
}

/// An entry as its row holds it.
#[derive(Queryable, Selectable)]
#[diesel(table_name = entry)]
pub(crate) struct EntryRow {
    pub(crate) rowid: i64,
    pub(crate) id: RecordId,
    parent: Option<RecordId>,
    name: Option<String>,
    kind: Option<i64>,
    size: Option<i64>,
    created_at: Option<i64>,
    modified_at: Option<i64>,
    mode: Option<i64>,
    inode: Option<i64>,
    content_hash: Option<Vec<u8>>,
    raw_name: Option<Vec<u8>>,
}

impl EntryRow {
    /// The entry; none if the row lacks what we always write.
    pub(crate) fn read(self) -> Option<Known> {
        Some(Known {
            id: self.id,
            parent: self.parent,
            name: self.raw_name.or(self.name.map(String::into_bytes))?.into_boxed_slice(),
            facts: Facts {
                kind: EntryKind::from_code(self.kind?)?,
                size: self.size,
                created_ms: self.created_at,
                modified_ms: self.modified_at,
                mode: self.mode,
                inode: self.inode,
            },
            hash: self.content_hash.map(Vec::into_boxed_slice),
        })
    }
}

/// The number of the newest row of an owner.
pub(crate) fn head(connection: &mut SqliteConnection, owner: DeviceId) -> QueryResult<i64> {
    let own = stream::table.filter(stream::kind.eq(StreamKind::State.code()).and(stream::origin.eq(owner)));
    Ok(own.select(stream::watermark).first(connection).optional()?.unwrap_or(0))
}

/// What a directory holds.
pub(crate) fn children(
    connection: &mut SqliteConnection,
    owner: DeviceId,
    parent: RecordId,
) -> Result<Vec<Known>, QueryError> {
    let rows: Vec<EntryRow> = entry::table
        .filter(entry::parent.eq(parent).and(entry::owner.eq(owner)))
        .select(EntryRow::as_select())
        .load(connection)?;
    Ok(rows.into_iter().filter_map(EntryRow::read).collect())
}

/// The directory at a path, found name by name from the location's root. `seen` spares the names that paths share.
pub(crate) fn directory_at(
    connection: &mut SqliteConnection,
    owner: DeviceId,
    at: &OwnLocation,
    path: &Path,
    seen: &mut HashMap<PathBuf, Option<Known>>,
) -> Result<Option<Known>, QueryError> {
    let Ok(below) = path.strip_prefix(&at.path) else { return Ok(None) };
    let mut here = at.path.clone();
    let mut row = by_id(connection, owner, at.root)?;
    for name in below.components() {
        here.push(name);
        if let Some(before) = seen.get(&here) {
            row.clone_from(before);
            continue;
        }
        let Some(parent) = row else { return Ok(None) };
        let (shown, raw_name) = names::shown(names::name_bytes(name.as_os_str()));
        let rows: Vec<EntryRow> = entry::table
            .filter(entry::parent.eq(parent.id).and(entry::owner.eq(owner)))
            .filter(entry::name.eq(shown).and(entry::kind.eq(EntryKind::Directory.code())))
            .select(EntryRow::as_select())
            .load(connection)?;
        row = rows.into_iter().find(|row| row.raw_name == raw_name).and_then(EntryRow::read);
        seen.insert(here.clone(), row.clone());
    }
    Ok(row)
}

fn by_id(connection: &mut SqliteConnection, owner: DeviceId, id: RecordId) -> Result<Option<Known>, QueryError> {
    let row = entry::table.filter(entry::id.eq(id).and(entry::owner.eq(owner))).select(EntryRow::as_select());
    Ok(row.first(connection).optional()?.and_then(EntryRow::read))
}

/// The path of a directory, found upward until one that `paths` holds; all on the way are added to it.
pub(crate) fn path_of(
    connection: &mut SqliteConnection,
    directory: RecordId,
    paths: &mut HashMap<RecordId, PathBuf>,
) -> Result<Option<PathBuf>, QueryError> {
    let mut upward = Vec::new();
    let mut id = directory;
    while !paths.contains_key(&id) {
        let row: Option<EntryRow> =
            entry::table.filter(entry::id.eq(id)).select(EntryRow::as_select()).first(connection).optional()?;
        let Some(Known { parent: Some(parent), name, .. }) = row.and_then(EntryRow::read) else { return Ok(None) };
        let Some(name) = names::os_name(&name) else { return Ok(None) };
        upward.push((id, name));
        if upward.len() > DEPTH_MAX {
            return Ok(None);
        }
        id = parent;
    }
    let mut path = paths.get(&id).cloned().unwrap_or_default();
    for (id, name) in upward.into_iter().rev() {
        path.push(name);
        paths.insert(id, path.clone());
    }
    Ok(Some(path))
}
