//! Compares what a walk finds with what the library knows and says what to write. Arithmetic on values: no I/O.
//!
//! The rules, for each finding in turn:
//! - The same kind at the same place is the same entry, whatever else changed: an editor that saves by renaming over
//!   the old file keeps the entry with its tags.
//! - Else a directory whose inode is known, and whose old place no longer holds it, has moved. That is decided at
//!   once, because what it holds is found next and must be recognised below it.
//! - Else a file or link whose inode, size and time are known waits for the end of the walk: only if the known entry
//!   was seen nowhere has it moved; otherwise it is one more hard link, and new.
//! - What remains is new. What was known and is unseen at the end is deleted, unless a directory above it could not
//!   be read.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use starling_schema::change::Write;
use starling_schema::ids::RecordId;
use starling_schema::models::EntryKind;

use super::known::{DEPTH_MAX, Known, KnownSet};
use super::names;
use super::progress::ScanReport;
use super::rows::{self, Totals};
use super::walk::{Found, Trouble};

/// What the comparison must be told of the location.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// Which location.
    pub(crate) location: RecordId,
    /// The entry of its folder.
    pub(crate) root_id: RecordId,
    /// Its folder.
    pub(crate) root: PathBuf,
    /// The file system of its folder. Inodes on others say nothing about moves.
    pub(crate) device: u64,
    /// Whether only some directories are walked, one level deep: then new ones are listed for a walk of their own.
    pub(crate) targeted: bool,
}

/// What the comparison must ask the world.
pub(crate) struct World<'a> {
    /// Draws the id of a new record.
    pub(crate) fresh: &'a mut dyn FnMut() -> RecordId,
    /// The inode of what lies at a path now.
    pub(crate) inode_at: &'a dyn Fn(&Path) -> Option<i64>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Unseen,
    /// Seen where it was.
    Seen,
    /// Seen elsewhere: what is at its old place now is another.
    Moved,
    /// Not seen, but perhaps there.
    Kept,
}

impl Fate {
    fn is_seen(self) -> bool {
        matches!(self, Self::Seen | Self::Moved)
    }
}

/// A comparison under way.
///
/// Invariant: a known entry is given to at most one finding.
#[derive(Debug)]
pub(crate) struct Diff {
    frame: Frame,
    known: KnownSet,
    fates: Vec<Fate>,
    /// The directories of this walk by their path of now.
    directories: HashMap<PathBuf, RecordId>,
    /// The directories that were given with their paths, by id: where old paths are counted from.
    anchors: HashMap<RecordId, PathBuf>,
    waiting: Vec<(RecordId, Found)>,
    /// What was at no known place, where a directory may be walked twice.
    taken: HashSet<PathBuf>,
    unread: Vec<PathBuf>,
    /// Something could not be read and we do not know what: then nothing counts as gone.
    blind: bool,
    fresh_directories: Vec<PathBuf>,
    moved_directories: Vec<RecordId>,
    growth: Totals,
    report: ScanReport,
}

/// What a comparison comes to.
#[derive(Debug)]
pub(crate) struct Settled {
    /// Moves and late newcomers.
    pub(crate) writes: Vec<Write>,
    /// Known entries that are gone.
    pub(crate) gone: Vec<Gone>,
}

/// A known entry that is gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Gone {
    /// Which.
    pub(crate) id: RecordId,
    /// Whether it was a directory: then what it held is gone too, known to this comparison or not.
    pub(crate) is_directory: bool,
}

impl Diff {
    /// A comparison with these known entries.
    pub(crate) fn new(frame: Frame, known: KnownSet) -> Self {
        Self {
            fates: vec![Fate::Unseen; known.len()],
            anchors: HashMap::from([(frame.root_id, frame.root.clone())]),
            frame,
            known,
            directories: HashMap::new(),
            waiting: Vec::new(),
            taken: HashSet::new(),
            unread: Vec::new(),
            blind: false,
            fresh_directories: Vec::new(),
            moved_directories: Vec::new(),
            growth: Totals::default(),
            report: ScanReport::default(),
        }
    }

    /// Says which entry a directory is before the walk reports it, so that what it holds finds its parent.
    pub(crate) fn place_directory(&mut self, path: PathBuf, id: RecordId) {
        self.anchors.insert(id, path.clone());
        self.directories.insert(path, id);
    }

    /// Directories that moved. What they hold may have changed on the way, and is to be known to the comparison.
    pub(crate) fn moved_directories(&self) -> &[RecordId] {
        &self.moved_directories
    }

    /// Directories that were new or moved since the last call, for a walk that did not enter them.
    pub(crate) fn take_fresh_directories(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.fresh_directories)
    }

    /// By how much the location has grown or shrunk so far.
    pub(crate) fn growth(&self) -> Totals {
        self.growth
    }

    /// What was done so far.
    pub(crate) fn report(&self) -> &ScanReport {
        &self.report
    }

    /// Whether a known directory was found again so far.
    pub(crate) fn has_seen(&self, directory: RecordId) -> bool {
        self.known.directory(directory).is_some_and(|at| self.fates[at].is_seen())
    }

    /// The known entries that are not gone.
    pub(crate) fn surviving(&self) -> HashSet<RecordId> {
        let rows = self.known.rows().iter().zip(&self.fates);
        rows.filter(|(_, fate)| **fate != Fate::Unseen).map(|(row, _)| row.id).collect()
    }

    /// Whether something could not be read and nobody knows what.
    pub(crate) fn is_blind(&self) -> bool {
        self.blind
    }

    /// Notes what could not be read: what is known below it will be kept.
    pub(crate) fn note_trouble(&mut self, trouble: Trouble) {
        match trouble.path {
            Some(path) => self.unread.push(path),
            None => self.blind = true,
        }
    }

    /// Compares one finding. Directories must come before what they hold.
    pub(crate) fn take(&mut self, found: Found, world: &mut World<'_>) -> Option<Write> {
        if found.path == self.frame.root {
            return self.take_root(&found);
        }
        let Some(parent) = found.path.parent().and_then(|path| self.directories.get(path)).copied() else {
            // Only a directory that vanished and came back while we looked gets here. Let nothing count as gone.
            self.blind = true;
            return None;
        };
        let is_directory = found.facts.kind == EntryKind::Directory;
        let place = self.at_place(parent, &found);
        let taken_before = match place {
            Some(at) => self.fates[at] == Fate::Seen,
            None if is_directory => self.directories.contains_key(&found.path),
            None => self.frame.targeted && !self.taken.insert(found.path.clone()),
        };
        if taken_before {
            return None;
        }
        self.report.seen += 1;
        if let Some(at) = place {
            return self.take_known(at, parent, &found);
        }
        if let Some(at) = self.moved_directory(&found, world.inode_at) {
            self.report.moved += 1;
            if self.frame.targeted {
                if let Some(old_path) = self.known.path(at, &self.anchors) {
                    self.directories.retain(|path, _| !path.starts_with(&old_path));
                }
                self.moved_directories.push(self.known.row(at).id);
                self.fresh_directories.push(found.path.clone());
            }
            return Some(self.write_over(at, Some(parent), &found, Fate::Moved));
        }
        if !is_directory && self.candidates(&found).next().is_some() {
            self.waiting.push((parent, found));
            return None;
        }
        Some(self.newcomer((world.fresh)(), Some(parent), &found))
    }

    /// Decides what had to wait for the end of the walk.
    pub(crate) fn settle(&mut self, fresh: &mut dyn FnMut() -> RecordId) -> Settled {
        self.keep_below_unread();
        let mut writes = Vec::with_capacity(self.waiting.len());
        for (parent, found) in std::mem::take(&mut self.waiting) {
            let origin = if self.blind { None } else { self.candidates(&found).next() };
            if let Some(at) = origin {
                self.report.moved += 1;
                writes.push(self.write_over(at, Some(parent), &found, Fate::Moved));
            } else {
                writes.push(self.newcomer(fresh(), Some(parent), &found));
            }
        }
        let mut gone = Vec::new();
        for at in 0..self.known.len() {
            let row = self.known.row(at);
            match self.fates[at] {
                Fate::Unseen if !self.blind && row.id != self.frame.root_id => {
                    gone.push(Gone { id: row.id, is_directory: row.facts.kind == EntryKind::Directory });
                    self.growth += Totals { entries: -1, bytes: -row.facts.bytes() };
                    self.report.deleted += 1;
                }
                Fate::Seen | Fate::Moved => {}
                Fate::Unseen | Fate::Kept => self.report.kept += 1,
            }
        }
        Settled { writes, gone }
    }

    /// Notes entries that are gone with a directory, beyond those that this comparison knew.
    pub(crate) fn note_gone(&mut self, bytes: i64) {
        self.growth += Totals { entries: -1, bytes: bytes.saturating_neg() };
        self.report.deleted += 1;
    }

    fn take_root(&mut self, found: &Found) -> Option<Write> {
        let first = self.directories.insert(found.path.clone(), self.frame.root_id).is_none();
        let at = self.known.directory(self.frame.root_id);
        if at.is_none_or(|at| self.fates[at] == Fate::Unseen) {
            self.report.seen += 1;
        }
        match at {
            Some(at) if self.fates[at] != Fate::Unseen => None,
            Some(at) => self.update(at, None, found),
            None if first => Some(self.newcomer(self.frame.root_id, None, found)),
            None => None,
        }
    }

    /// The known entry of the same kind at the finding's place.
    fn at_place(&self, parent: RecordId, found: &Found) -> Option<usize> {
        self.known
            .at_place(parent, names::last_name(&found.path))
            .find(|at| self.known.row(*at).facts.kind == found.facts.kind && self.fates[*at] != Fate::Moved)
    }

    fn take_known(&mut self, at: usize, parent: RecordId, found: &Found) -> Option<Write> {
        if found.facts.kind == EntryKind::Directory {
            self.directories.insert(found.path.clone(), self.known.row(at).id);
        }
        self.update(at, Some(parent), found)
    }

    /// Writes a known entry anew if anything is different.
    fn update(&mut self, at: usize, parent: Option<RecordId>, found: &Found) -> Option<Write> {
        let row = self.known.row(at);
        if row.facts == found.facts && row.parent == parent {
            self.fates[at] = Fate::Seen;
            return None;
        }
        self.report.changed += 1;
        Some(self.write_over(at, parent, found, Fate::Seen))
    }

    /// Known entries seen nowhere so far that can be the found one. Their inode must be of the root's file system.
    fn candidates(&self, found: &Found) -> impl Iterator<Item = usize> {
        let inode = if found.device == self.frame.device { found.facts.inode } else { None };
        inode
            .into_iter()
            .flat_map(|inode| self.known.with_inode(inode))
            .filter(|at| self.fates[*at] == Fate::Unseen && self.known.row(*at).facts.same_file(&found.facts))
    }

    /// The directory that the found one was, if its old place no longer holds it: a mount may show one twice.
    fn moved_directory(&self, found: &Found, inode_at: &dyn Fn(&Path) -> Option<i64>) -> Option<usize> {
        if found.facts.kind != EntryKind::Directory {
            return None;
        }
        self.candidates(found).find(|at| {
            let old_path = self.known.path(*at, &self.anchors);
            self.known.row(*at).id != self.frame.root_id
                && old_path.is_some_and(|path| inode_at(&path) != found.facts.inode)
        })
    }

    fn write_over(&mut self, at: usize, parent: Option<RecordId>, found: &Found, fate: Fate) -> Write {
        self.fates[at] = fate;
        let row = self.known.row(at);
        if found.facts.kind == EntryKind::Directory {
            self.directories.insert(found.path.clone(), row.id);
        }
        self.growth += Totals { entries: 0, bytes: found.facts.bytes().saturating_sub(row.facts.bytes()) };
        let hash = if row.facts.content_differs(&found.facts) { None } else { row.hash.as_deref() };
        let name = names::last_name(&found.path);
        rows::entry(self.frame.location, row.id, parent, name, &found.facts, hash)
    }

    fn newcomer(&mut self, id: RecordId, parent: Option<RecordId>, found: &Found) -> Write {
        if found.facts.kind == EntryKind::Directory {
            self.directories.insert(found.path.clone(), id);
            if self.frame.targeted {
                self.fresh_directories.push(found.path.clone());
            }
        }
        self.report.created += 1;
        self.growth += Totals { entries: 1, bytes: found.facts.bytes() };
        rows::entry(self.frame.location, id, parent, names::last_name(&found.path), &found.facts, None)
    }

    /// What is known at or below an unreadable path may well be there still.
    fn keep_below_unread(&mut self) {
        let mut unread: HashSet<RecordId> = HashSet::new();
        for path in std::mem::take(&mut self.unread) {
            if let Some(id) = self.directories.get(&path) {
                unread.insert(*id);
                continue;
            }
            let Some(parent) = path.parent().and_then(|path| self.directories.get(path)).copied() else {
                self.blind = true;
                continue;
            };
            for at in self.known.at_place(parent, names::last_name(&path)) {
                if self.fates[at] == Fate::Unseen {
                    self.fates[at] = Fate::Kept;
                    unread.insert(self.known.row(at).id);
                }
            }
        }
        if unread.is_empty() {
            return;
        }
        for at in 0..self.known.len() {
            let row = self.known.row(at);
            if self.fates[at] == Fate::Unseen && (unread.contains(&row.id) || self.lies_below(row, &unread)) {
                self.fates[at] = Fate::Kept;
            }
        }
    }

    /// Whether one of the directories lies above a row. A directory that was seen and read ends the search: what it
    /// does not hold is gone.
    fn lies_below(&self, row: &Known, directories: &HashSet<RecordId>) -> bool {
        let mut parent = row.parent;
        for _ in 0..DEPTH_MAX {
            let Some(id) = parent else { return false };
            if directories.contains(&id) {
                return true;
            }
            match self.known.directory(id) {
                Some(at) if !self.fates[at].is_seen() => parent = self.known.row(at).parent,
                _ => return false,
            }
        }
        false
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
