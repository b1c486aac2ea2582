//! The entries of a location that the library knows, found by place, by inode and by id.

use std::collections::HashMap;
use std::path::PathBuf;

use starling_schema::ids::RecordId;
use starling_schema::models::EntryKind;

use super::facts::Facts;
use super::names;

/// The deepest nesting that is followed upward: far over what paths reach, and an end if rows should form a ring.
pub(crate) const DEPTH_MAX: usize = 4_096;

/// What the library knows of one entry: about 200 bytes with its name and hash, so 100,000 stay near 20 MiB.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Known {
    /// Which record.
    pub(crate) id: RecordId,
    /// The directory that it lies in; none for the location's root.
    pub(crate) parent: Option<RecordId>,
    /// Its name as the file system spells it.
    pub(crate) name: Box<[u8]>,
    /// What the file system said of it.
    pub(crate) facts: Facts,
    /// BLAKE3 of its bytes, once known.
    pub(crate) hash: Option<Box<[u8]>>,
}

/// Known entries with their indexes. A position is a row's place in this set and never changes.
#[derive(Debug, Default)]
pub(crate) struct KnownSet {
    /// Sorted by parent and name: a place is found by bisection, without a second copy of the names.
    rows: Vec<Known>,
    by_inode: Vec<(i64, usize)>,
    directories: HashMap<RecordId, usize>,
}

impl KnownSet {
    /// Sorts and indexes.
    pub(crate) fn new(mut rows: Vec<Known>) -> Self {
        rows.sort_unstable_by(|one, two| (one.parent, &one.name).cmp(&(two.parent, &two.name)));
        let mut by_inode: Vec<(i64, usize)> =
            rows.iter().enumerate().filter_map(|(at, row)| Some((row.facts.inode?, at))).collect();
        by_inode.sort_unstable();
        let directories = rows
            .iter()
            .enumerate()
            .filter(|(_, row)| row.facts.kind == EntryKind::Directory)
            .map(|(at, row)| (row.id, at))
            .collect();
        Self { rows, by_inode, directories }
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The row at a position.
    pub(crate) fn row(&self, at: usize) -> &Known {
        &self.rows[at]
    }

    /// All rows by position.
    pub(crate) fn rows(&self) -> &[Known] {
        &self.rows
    }

    /// The position of a directory.
    pub(crate) fn directory(&self, id: RecordId) -> Option<usize> {
        self.directories.get(&id).copied()
    }

    /// The positions of what lies at a place: one, unless a crash between two scans left a double.
    pub(crate) fn at_place(&self, parent: RecordId, name: &[u8]) -> impl Iterator<Item = usize> + use<> {
        let place = (Some(parent), name);
        let from = self.rows.partition_point(|row| (row.parent, &*row.name) < place);
        let count = self.rows[from..].iter().take_while(|row| (row.parent, &*row.name) == place).count();
        from..from + count
    }

    /// The positions of the rows with an inode.
    pub(crate) fn with_inode(&self, inode: i64) -> impl Iterator<Item = usize> {
        let from = self.by_inode.partition_point(|(number, _)| *number < inode);
        self.by_inode[from..].iter().take_while(move |(number, _)| *number == inode).map(|(_, at)| *at)
    }

    /// Where a row was when the library last heard of it, counted from directories whose paths are given; none when
    /// none of them lies above it.
    pub(crate) fn path(&self, at: usize, anchors: &HashMap<RecordId, PathBuf>) -> Option<PathBuf> {
        let mut upward = Vec::new();
        let mut row = self.row(at);
        for _ in 0..DEPTH_MAX {
            upward.push(names::os_name(&row.name)?);
            let parent = row.parent?;
            if let Some(anchor) = anchors.get(&parent) {
                let mut path = anchor.clone();
                path.extend(upward.into_iter().rev());
                return Some(path);
            }
            row = self.row(self.directory(parent)?);
        }
        None
    }
}
