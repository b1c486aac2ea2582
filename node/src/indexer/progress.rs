//! How far the indexer is with each location: what a progress bar and a status page show.

use std::collections::BTreeMap;

use starling_schema::ids::RecordId;
use tokio::sync::watch;

use super::error::IndexError;

/// The most troubles of one scan that are listed by path; the others are only counted.
pub(crate) const TROUBLES_LISTED_MAX: usize = 100;

/// What a location is doing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Phase {
    /// Its turn to scan has not come yet.
    #[default]
    Waiting,
    /// The known entries are read and the folder is walked.
    Scanning,
    /// The walk is done; moves and deletions are committed.
    Settling,
    /// The scan is done and file contents are being hashed.
    Hashing,
    /// Nothing is to be done until something changes.
    Idle,
    /// The folder or its volume is not there; the rows are kept.
    Absent,
    /// The last scan failed; it is tried again later.
    Failed,
    /// The location and its entries are being deleted.
    Removing,
}

/// How far one location is. Counts are of the scan under way, or of the last one.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Progress {
    /// What it is doing.
    pub(crate) phase: Phase,
    /// How many entries the last scan left: what a rescan can expect to see. 0 at the first scan.
    pub(crate) expected: u64,
    /// How many files, directories and links were seen.
    pub(crate) files_seen: u64,
    /// How many rows were committed.
    pub(crate) committed: u64,
    /// How many paths could not be read.
    pub(crate) errors: u64,
    /// How many sockets, pipes and devices were passed over.
    pub(crate) skipped: u64,
    /// How many files were hashed since the indexer started.
    pub(crate) hashed: u64,
    /// What a person should know: why it is absent, failed, or not watched.
    pub(crate) problem: Option<String>,
}

/// What one scan did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct ScanReport {
    /// How many files, directories and links were seen.
    pub(crate) seen: u64,
    /// How many were new.
    pub(crate) created: u64,
    /// How many had changed in place.
    pub(crate) changed: u64,
    /// How many had moved or been renamed.
    pub(crate) moved: u64,
    /// How many were gone.
    pub(crate) deleted: u64,
    /// How many were kept because the directory that they lie in could not be read.
    pub(crate) kept: u64,
    /// How many sockets, pipes and devices were passed over.
    pub(crate) skipped: u64,
    /// How many paths could not be read.
    pub(crate) errors: u64,
    /// The first [`TROUBLES_LISTED_MAX`] of them, each with its reason.
    pub(crate) troubles: Vec<String>,
}

impl ScanReport {
    /// Takes in what one more look at some directories did.
    pub(crate) fn add(&mut self, other: &Self) {
        self.created += other.created;
        self.changed += other.changed;
        self.moved += other.moved;
        self.deleted += other.deleted;
        self.kept += other.kept;
    }

    /// Whether the scan wrote any entry.
    pub(crate) fn wrote(&self) -> bool {
        self.created + self.changed + self.moved + self.deleted > 0
    }
}

/// The progress of every location by its id.
pub(crate) type Snapshot = BTreeMap<RecordId, Progress>;

/// Where the tasks of the indexer write how far they are; readers see the newest state.
#[derive(Clone, Debug)]
pub(crate) struct Board(watch::Sender<Snapshot>);

impl Board {
    /// An empty board.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Snapshot::new()))
    }

    /// A view that is told of every change, newest state only.
    pub(crate) fn view(&self) -> watch::Receiver<Snapshot> {
        self.0.subscribe()
    }

    /// Puts a location up, or begins anew with one that is there.
    pub(crate) fn put_up(&self, location: RecordId) {
        self.0.send_modify(|snapshot| drop(snapshot.insert(location, Progress::default())));
    }

    /// Changes a location's progress. One that was taken off stays off: late news of it are no news.
    pub(crate) fn update(&self, location: RecordId, change: impl FnOnce(&mut Progress)) {
        self.0.send_if_modified(|snapshot| snapshot.get_mut(&location).map(change).is_some());
    }

    /// Notes that nothing of a location is left to hash.
    pub(crate) fn end_hashing(&self, location: RecordId) {
        self.update(location, |progress| {
            if progress.phase == Phase::Hashing {
                progress.phase = Phase::Idle;
            }
        });
    }

    /// Starts the counts of a new scan.
    pub(crate) fn begin(&self, location: RecordId, expected: u64) {
        self.update(location, |progress| {
            *progress = Progress { phase: Phase::Scanning, expected, hashed: progress.hashed, ..Progress::default() };
        });
    }

    /// Notes how a scan ended.
    pub(crate) fn end(&self, location: RecordId, result: &Result<ScanReport, IndexError>) {
        self.update(location, |progress| match result {
            Ok(_) => progress.phase = Phase::Idle,
            Err(error) => {
                progress.phase = if matches!(error, IndexError::Absent { .. }) { Phase::Absent } else { Phase::Failed };
                progress.problem = Some(error.to_string());
            }
        });
    }

    /// Takes a location off.
    pub(crate) fn remove(&self, location: RecordId) {
        self.0.send_modify(|snapshot| drop(snapshot.remove(&location)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_scan_starts_its_counts_anew_but_keeps_what_was_hashed() {
        let board = Board::new();
        let location = RecordId::MIN;
        board.put_up(location);
        board.update(location, |progress| {
            progress.files_seen = 7;
            progress.hashed = 3;
        });
        board.begin(location, 7);
        let expected = Progress { phase: Phase::Scanning, expected: 7, hashed: 3, ..Progress::default() };
        assert_eq!(board.view().borrow().get(&location), Some(&expected));
    }

    #[test]
    fn an_absent_location_says_why() {
        let board = Board::new();
        board.put_up(RecordId::MIN);
        let error = IndexError::Absent { path: "/mnt/a".into(), reason: "nothing is mounted".to_owned() };
        board.end(RecordId::MIN, &Err(error));
        let snapshot = board.view().borrow().clone();
        let progress = &snapshot[&RecordId::MIN];
        assert_eq!(progress.phase, Phase::Absent);
        assert_eq!(progress.problem.as_deref(), Some("the location /mnt/a is not there: nothing is mounted"));
    }

    #[test]
    fn late_news_of_a_removed_location_do_not_bring_it_back() {
        let board = Board::new();
        board.put_up(RecordId::MIN);
        board.remove(RecordId::MIN);
        board.update(RecordId::MIN, |progress| progress.hashed = 1);
        assert!(board.view().borrow().is_empty());
    }
}
