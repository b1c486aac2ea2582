//! How findings are written as records.

use std::path::Path;

use starling_schema::change::Write;
use starling_schema::ids::RecordId;
use starling_schema::model::Syncable;
use starling_schema::models::{Entry, EntryKind, Location};
use starling_schema::value::Fields;

use super::facts::Facts;
use super::names;

/// The whole row of an entry, as one write. The location's root has no parent.
pub(crate) fn entry(
    location: RecordId,
    id: RecordId,
    parent: Option<RecordId>,
    name: &[u8],
    facts: &Facts,
    hash: Option<&[u8]>,
) -> Write {
    let (shown, raw_name) = names::shown(name);
    let extension = if facts.kind == EntryKind::File { names::extension(&shown) } else { None };
    Entry {
        location: Some(location),
        parent,
        name: Some(shown),
        kind: Some(facts.kind.code()),
        extension,
        size: facts.size,
        created_at: facts.created_ms,
        modified_at: facts.modified_ms,
        mode: facts.mode,
        inode: facts.inode,
        content_hash: hash.map(<[u8]>::to_vec),
        raw_name,
        ..Entry::new(id)
    }
    .put()
}

/// The row of a new location, before its first scan.
pub(crate) fn location(id: RecordId, root: RecordId, volume: RecordId, path: &Path) -> Write {
    let (shown_path, raw_path) = names::shown(names::name_bytes(path.as_os_str()));
    Location {
        volume: Some(volume),
        root: Some(root),
        name: Some(names::shown(names::last_name(path)).0),
        path: Some(shown_path),
        entry_count: Some(0),
        byte_size: Some(0),
        raw_path,
        ..Location::new(id)
    }
    .put()
}

/// What a scan says of its location.
pub(crate) fn totals(id: RecordId, totals: Totals, scanned_at_ms: u64) -> Write {
    let fields = Fields::new()
        .with(Location::ENTRY_COUNT, totals.entries)
        .with(Location::BYTE_SIZE, totals.bytes)
        .with(Location::LAST_SCAN_AT, i64::try_from(scanned_at_ms).unwrap_or(i64::MAX));
    Write::patch(Location::MODEL, id, fields)
}

/// The content hash of a file, and nothing else of its row.
pub(crate) fn content_hash(id: RecordId, hash: &[u8; 32]) -> Write {
    Write::patch(Entry::MODEL, id, Fields::new().with(Entry::CONTENT_HASH, hash.to_vec()))
}

/// What a location holds: its entries, the root among them, and the bytes of its files.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Totals {
    /// How many entries.
    pub(crate) entries: i64,
    /// How many bytes.
    pub(crate) bytes: i64,
}

impl std::ops::AddAssign for Totals {
    /// Saturates: sizes come from file systems, and sparse files lie without shame.
    fn add_assign(&mut self, other: Self) {
        self.entries = self.entries.saturating_add(other.entries);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}
