//! Runs scans: walks a location, compares, and commits what differs in bounded batches.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use starling::environment::Environment;
use starling_schema::change::Write;
use starling_schema::ids::RecordId;
use starling_schema::models::Entry;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use super::IndexOptions;
use super::catalogue::{Catalogue, OwnLocation};
use super::diff::{Diff, Frame, World};
use super::error::IndexError;
use super::facts::Facts;
use super::known::{Known, KnownSet};
use super::presence::{self, Presence};
use super::progress::{Board, Phase, ScanReport, TROUBLES_LISTED_MAX};
use super::rows::{self, Totals};
use super::stop::Stop;
use super::walk::{self, BATCHES_WAITING_MAX, WalkBatch, WalkPlan};

/// The most rows of one commit: a commit costs one disk flush, and other writers wait for it about 50 ms at most.
pub(crate) const COMMIT_ROWS_MAX: usize = 4_000;

/// How many ids are drawn at once: in order within a draw, which is what keeps inserts fast.
const IDS_DRAWN: usize = 1_000;

/// How many scans run at once: each may hold a location's known entries in memory, and disks gain nothing from more.
pub(crate) const SCANS_MAX: usize = 2;

/// What scans of all locations share.
#[derive(Clone, Debug)]
pub(crate) struct Scanner {
    /// The library.
    pub(crate) catalogue: Catalogue,
    /// What to pass over.
    pub(crate) options: Arc<IndexOptions>,
    /// Where progress is shown.
    pub(crate) board: Board,
    /// Whose turn it is to scan.
    pub(crate) turns: Arc<Semaphore>,
    /// Ends the scan.
    pub(crate) stop: Stop,
}

/// What a scan of some directories came to.
#[derive(Debug)]
pub(crate) enum Targeted {
    /// Done, except for these paths: they make sense only now that the rest is committed.
    Done(ScanReport, Vec<PathBuf>),
    /// The library does not know the location's root yet: scan all of it.
    NeedsFullScan,
}

impl Scanner {
    /// Compares a whole location with its folder. The totals of `at` follow what was committed.
    ///
    /// # Errors
    /// What was committed before stays, nothing counts as deleted, and the next scan does the rest.
    pub(crate) async fn full(&self, at: &mut OwnLocation) -> Result<ScanReport, IndexError> {
        let _turn = self.turn().await?;
        self.board.begin(at.id, u64::try_from(at.totals.entries).unwrap_or(0));
        let presence = self.presence(at).await?;
        let known = self.catalogue.known(at, &self.stop).await?;
        presence.check_not_emptied(at, &known)?;
        let before = totals_of(&known);
        let frame = self.frame(at, presence, false);
        let mut diff = tokio::task::spawn_blocking(move || Diff::new(frame, KnownSet::new(known)))
            .await
            .map_err(|_| IndexError::CutShort(at.path.clone()))?;
        let mut run = self.run(at);
        run.compare(self.plan(&at.path, None), &mut diff).await?;
        // The folder may have been unmounted while we looked: then what we did not see is not gone.
        if self.presence(at).await? != presence {
            return Err(IndexError::Absent { path: at.path.clone(), reason: presence::REPLACED.to_owned() });
        }
        self.board.update(at.id, |progress| progress.phase = Phase::Settling);
        run.settle(&mut diff).await?;
        let report = run.report(&diff);
        let mut after = before;
        after += diff.growth();
        // An unchanged location is not written, not even the time of the scan: that would travel to every device.
        if report.wrote() || after != at.totals || !at.scanned {
            run.push(rows::totals(at.id, after, self.catalogue.environment().wall_ms())).await?;
        }
        run.flush().await?;
        at.totals = after;
        at.scanned = true;
        Ok(report)
    }

    /// Compares some directories of a location, one level deep, and all of those that turn out to be new.
    ///
    /// # Errors
    /// As for [`Scanner::full`].
    pub(crate) async fn targeted(&self, at: &mut OwnLocation, touched: Vec<PathBuf>) -> Result<Targeted, IndexError> {
        let _turn = self.turn().await?;
        let presence = self.presence(at).await?;
        let existing = self.blocking(at, move |at| presence::existing_directories(&at.path, touched)).await?;
        let near = self.catalogue.neighbourhood(at, existing, &self.stop).await?;
        if near.directories.is_empty() {
            return Ok(Targeted::NeedsFullScan);
        }
        presence.check_not_emptied(at, near.directories.iter().map(|directory| &directory.row).chain(&near.children))?;
        let mut diff = Diff::new(self.frame(at, presence, true), known_once(&near.directories, near.children));
        for directory in &near.directories {
            if let (Some(above), Some(parent)) = (directory.path.parent(), directory.row.parent) {
                diff.place_directory(above.to_owned(), parent);
            }
            diff.place_directory(directory.path.clone(), directory.row.id);
        }
        let mut run = self.run(at);
        let mut later = Vec::new();
        for directory in &near.directories {
            run.compare(self.plan(&directory.path, Some(1)), &mut diff).await?;
            if !diff.has_seen(directory.row.id) {
                // It went while we looked, perhaps to another name. What holds it knows more.
                diff.note_trouble(walk::Trouble { path: Some(directory.path.clone()), reason: String::new() });
                later.extend(directory.path.parent().map(Path::to_owned));
            }
        }
        let walked = run.enter_fresh(&mut diff).await?;
        later.extend(near.unknown.into_iter().filter(|path| !path.ancestors().any(|above| walked.contains(above))));
        if self.presence(at).await? != presence {
            return Err(IndexError::Absent { path: at.path.clone(), reason: presence::REPLACED.to_owned() });
        }
        run.settle(&mut diff).await?;
        let report = run.report(&diff);
        let mut after = at.totals;
        after += diff.growth();
        if report.wrote() {
            run.push(rows::totals(at.id, after, self.catalogue.environment().wall_ms())).await?;
        }
        run.flush().await?;
        at.totals = after;
        Ok(Targeted::Done(report, later))
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, IndexError> {
        tokio::select! {
            () = self.stop.wait() => Err(IndexError::Stopped),
            turn = self.turns.acquire() => turn.map_err(|_| IndexError::Stopped),
        }
    }

    async fn presence(&self, at: &OwnLocation) -> Result<Presence, IndexError> {
        let device = self.catalogue.device();
        self.blocking(at, move |at| Presence::of(&at, device)).await?
    }

    /// Asks the file system on a thread that may wait.
    async fn blocking<T: Send + 'static>(
        &self,
        at: &OwnLocation,
        ask: impl FnOnce(OwnLocation) -> T + Send + 'static,
    ) -> Result<T, IndexError> {
        let copy = at.clone();
        tokio::select! {
            () = self.stop.wait() => Err(IndexError::Stopped),
            answer = tokio::task::spawn_blocking(move || ask(copy)) => {
                answer.map_err(|_| IndexError::CutShort(at.path.clone()))
            }
        }
    }

    fn frame(&self, at: &OwnLocation, presence: Presence, targeted: bool) -> Frame {
        Frame {
            location: at.id,
            root_id: at.root,
            root: at.path.clone(),
            device: presence.device_number,
            targeted,
        }
    }

    fn plan(&self, root: &Path, depth_max: Option<usize>) -> WalkPlan {
        WalkPlan {
            root: root.to_owned(),
            depth_max,
            respect_ignore: self.options.respect_ignore,
            skip_hidden: self.options.skip_hidden,
            exclude: self.options.data.clone(),
        }
    }

    fn run<'a>(&'a self, at: &OwnLocation) -> Run<'a> {
        Run {
            scanner: self,
            at: at.clone(),
            ids: IdPool { environment: self.catalogue.environment().clone(), drawn: Vec::new().into_iter() },
            pending: Vec::with_capacity(COMMIT_ROWS_MAX),
            skipped: 0,
            errors: 0,
            troubles: Vec::new(),
        }
    }
}

/// One scan under way: what it has yet to commit and what it could not read.
struct Run<'a> {
    scanner: &'a Scanner,
    at: OwnLocation,
    ids: IdPool,
    pending: Vec<Write>,
    skipped: u64,
    errors: u64,
    troubles: Vec<String>,
}

impl Run<'_> {
    /// Walks and compares. The walk waits while a commit is under way: the channel between them is bounded.
    async fn compare(&mut self, plan: WalkPlan, diff: &mut Diff) -> Result<(), IndexError> {
        let stop = self.scanner.stop.clone();
        let (batches, mut inbox) = mpsc::channel(BATCHES_WAITING_MAX);
        let walker_stop = stop.clone();
        let walker = tokio::task::spawn_blocking(move || walk::walk(&plan, &batches, &walker_stop));
        loop {
            let batch = tokio::select! {
                () = stop.wait() => return Err(IndexError::Stopped),
                batch = inbox.recv() => batch,
            };
            let Some(batch) = batch else { break };
            self.take(batch, diff).await?;
        }
        walker.await.map_err(|_| IndexError::CutShort(self.at.path.clone()))?;
        // A walk that was told to stop ends like one that is done.
        if stop.is_set() { Err(IndexError::Stopped) } else { Ok(()) }
    }

    async fn take(&mut self, batch: WalkBatch, diff: &mut Diff) -> Result<(), IndexError> {
        self.skipped += batch.skipped;
        for trouble in batch.troubles {
            self.errors += 1;
            if self.troubles.len() < TROUBLES_LISTED_MAX {
                let path = trouble.path.as_deref().unwrap_or(&self.at.path);
                self.troubles.push(format!("{}: {}", path.display(), trouble.reason));
            }
            diff.note_trouble(trouble);
        }
        for found in batch.found {
            let ids = &mut self.ids;
            let mut fresh = || ids.next();
            let write = diff.take(found, &mut World { fresh: &mut fresh, inode_at: &inode_at });
            if let Some(write) = write {
                self.push(write).await?;
            }
        }
        let (seen, errors, skipped) = (diff.report().seen, self.errors, self.skipped);
        self.scanner.board.update(self.at.id, |progress| {
            progress.files_seen = seen;
            progress.errors = errors;
            progress.skipped = skipped;
        });
        Ok(())
    }

    /// Walks the directories that were new, and what they hold, to the bottom. Returns where it has been.
    async fn enter_fresh(&mut self, diff: &mut Diff) -> Result<HashSet<PathBuf>, IndexError> {
        let mut walked = HashSet::new();
        loop {
            let fresh = diff.take_fresh_directories();
            if fresh.is_empty() {
                return Ok(walked);
            }
            for path in fresh {
                // What such a walk finds is new as well, but has been walked with it.
                if !path.ancestors().any(|above| walked.contains(above)) {
                    walked.insert(path.clone());
                    self.compare(self.scanner.plan(&path, None), diff).await?;
                }
            }
        }
    }

    /// Commits moves and deletions; what was in a directory that is gone goes with it, known to the diff or not.
    async fn settle(&mut self, diff: &mut Diff) -> Result<(), IndexError> {
        let ids = &mut self.ids;
        let settled = diff.settle(&mut || ids.next());
        for write in settled.writes {
            self.push(write).await?;
        }
        if diff.is_targeted() {
            let directories = settled.gone.iter().filter(|gone| gone.is_directory).map(|gone| gone.id).collect();
            let below = self.scanner.catalogue.below(&self.at, directories, &self.scanner.stop).await?;
            let mut spared = diff.surviving();
            spared.extend(settled.gone.iter().map(|gone| gone.id));
            for row in below {
                if spared.insert(row.id) {
                    diff.note_gone(row.facts.bytes());
                    self.push(Write::delete(Entry::MODEL, row.id)).await?;
                }
            }
        }
        for gone in settled.gone {
            self.push(Write::delete(Entry::MODEL, gone.id)).await?;
        }
        Ok(())
    }

    async fn push(&mut self, write: Write) -> Result<(), IndexError> {
        self.pending.push(write);
        if self.pending.len() >= COMMIT_ROWS_MAX { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), IndexError> {
        let writes = std::mem::take(&mut self.pending);
        let count = writes.len() as u64;
        self.scanner.catalogue.commit(&self.at.path, writes, &self.scanner.stop).await?;
        self.scanner.board.update(self.at.id, |progress| progress.committed += count);
        Ok(())
    }

    fn report(&self, diff: &Diff) -> ScanReport {
        ScanReport {
            skipped: self.skipped,
            errors: self.errors,
            troubles: self.troubles.clone(),
            ..diff.report().clone()
        }
    }
}

/// Ids drawn in bulk.
struct IdPool {
    environment: Environment,
    drawn: std::vec::IntoIter<RecordId>,
}

impl IdPool {
    fn next(&mut self) -> RecordId {
        if let Some(id) = self.drawn.next() {
            return id;
        }
        self.drawn = self.environment.new_ids(IDS_DRAWN).into_iter();
        self.drawn.next().unwrap_or_else(|| self.environment.new_id())
    }
}

/// One look at one path, and only where a directory may have moved: not worth a thread.
fn inode_at(path: &Path) -> Option<i64> {
    path.symlink_metadata().ok().and_then(|metadata| Facts::of(&metadata)).and_then(|facts| facts.inode)
}

fn totals_of(known: &[Known]) -> Totals {
    let mut totals = Totals::default();
    for row in known {
        totals += Totals { entries: 1, bytes: row.facts.bytes() };
    }
    totals
}

/// The directories and what they hold, each once: a touched directory may lie in another.
fn known_once(directories: &[super::catalogue::TouchedDirectory], children: Vec<Known>) -> KnownSet {
    let mut taken = HashSet::new();
    let rows = directories.iter().map(|directory| directory.row.clone()).chain(children);
    KnownSet::new(rows.filter(|row| taken.insert(row.id)).collect())
}
