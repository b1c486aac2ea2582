//! Runs scans: walks a location, compares, and commits what differs in bounded batches.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use starling::environment::Environment;
use starling_schema::change::{Action, Write};
use starling_schema::ids::RecordId;
use starling_schema::models::{Entry, EntryKind};
use starling_schema::value::Value;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::task::JoinHandle;

use super::IndexOptions;
use super::catalogue::{Catalogue, OwnLocation};
use super::diff::{Diff, Frame, Gone, Settled, World};
use super::error::IndexError;
use super::facts::Facts;
use super::fingerprint::{Fingerprint, Fingerprints};
use super::folders::{Folders, Scope};
use super::known::{Known, KnownSet};
use super::names;
use super::presence::{self, Presence};
use super::progress::{Board, Phase, ScanReport, TROUBLES_LISTED_MAX};
use super::rows::{self, Totals};
use super::stop::Stop;
use super::walk::{self, BATCHES_WAITING_MAX, Found, Trouble, WalkBatch, WalkPlan};

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
    /// What its directories held when they were last looked at.
    pub(crate) folders: Folders,
    /// What to pass over.
    pub(crate) options: Arc<IndexOptions>,
    /// Where progress is shown.
    pub(crate) board: Board,
    /// Whose turn it is to scan.
    pub(crate) turns: Arc<Semaphore>,
    /// Ends the scan.
    pub(crate) stop: Stop,
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
        let frame = Self::frame(at, presence, false);
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
        let settled = run.settle(&mut diff);
        run.push_all(settled.writes).await?;
        run.delete(settled.gone).await?;
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
        run.finish(&diff, true).await?;
        Ok(report)
    }

    /// Waits for a turn to scan.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, IndexError> {
        tokio::select! {
            () = self.stop.wait() => Err(IndexError::Stopped),
            turn = self.turns.acquire() => turn.map_err(|_| IndexError::Stopped),
        }
    }

    /// Whether the location is there.
    pub(super) async fn presence(&self, at: &OwnLocation) -> Result<Presence, IndexError> {
        let device = self.catalogue.device();
        self.blocking(at, move |at| Presence::of(&at, device)).await?
    }

    /// Asks the file system on a thread that may wait.
    pub(super) async fn blocking<T: Send + 'static>(
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

    /// Does something with what is kept of directories, on a thread that may wait.
    pub(super) async fn with_folders<T: Send + 'static>(
        &self,
        at: &OwnLocation,
        work: impl FnOnce(&Folders, &OwnLocation) -> Result<T, String> + Send + 'static,
    ) -> Result<T, IndexError> {
        let folders = self.folders.clone();
        self.blocking(at, move |at| work(&folders, &at)).await?.map_err(|reason| IndexError::Kept { reason })
    }

    /// What a comparison is told of the location.
    pub(super) fn frame(at: &OwnLocation, presence: Presence, targeted: bool) -> Frame {
        Frame { location: at.id, root_id: at.root, root: at.path.clone(), device: presence.device_number, targeted }
    }

    /// How to walk.
    pub(super) fn plan(&self, root: &Path, depth_max: Option<usize>) -> WalkPlan {
        WalkPlan {
            root: root.to_owned(),
            depth_max,
            respect_ignore: self.options.respect_ignore,
            skip_hidden: self.options.skip_hidden,
            exclude: self.options.data.clone(),
        }
    }

    /// A scan that has done nothing yet.
    pub(super) fn run<'a>(&'a self, at: &OwnLocation) -> Run<'a> {
        Run {
            scanner: self,
            at: at.clone(),
            ids: IdPool { environment: self.catalogue.environment().clone(), drawn: Vec::new().into_iter() },
            pending: Vec::new(),
            under_way: None,
            holds_back: false,
            overfull: false,
            skipped: 0,
            errors: 0,
            troubles: Vec::new(),
            directories: Fingerprints::new(),
            unread: Vec::new(),
            was_known: None,
        }
    }
}

/// One scan under way: what it has yet to commit and what it could not read.
pub(super) struct Run<'a> {
    scanner: &'a Scanner,
    at: OwnLocation,
    ids: IdPool,
    pending: Vec<Write>,
    /// The commit that runs while a walk goes on, and how many writes it has.
    under_way: Option<(u64, JoinHandle<Result<(), IndexError>>)>,
    /// Nothing may be committed yet: what was found so far may turn out to be half of a move.
    pub(super) holds_back: bool,
    /// More is held back than one commit takes.
    pub(super) overfull: bool,
    skipped: u64,
    errors: u64,
    troubles: Vec<String>,
    /// What the directories held that were walked.
    directories: Fingerprints,
    /// What could not be read.
    unread: Vec<PathBuf>,
    /// Whether the location's directories were known when the first row was written.
    was_known: Option<bool>,
}

impl Run<'_> {
    /// Walks and compares; commits what is found meanwhile, one commit behind. When it returns none is under way.
    pub(super) async fn compare(&mut self, plan: WalkPlan, diff: &mut Diff) -> Result<(), IndexError> {
        let compared = self.walk(plan, diff).await;
        // However it ended: what comes next must find in the library what was handed over.
        let landed = self.landed().await;
        compared.and(landed)
    }

    /// Walks and compares. The walk waits while the commits are behind: the channel between them is bounded.
    async fn walk(&mut self, plan: WalkPlan, diff: &mut Diff) -> Result<(), IndexError> {
        let stop = self.scanner.stop.clone();
        let (root, goes_down) = (plan.root.clone(), plan.depth_max.is_none());
        self.directories.insert(root.clone(), Fingerprint::default());
        let (batches, mut inbox) = mpsc::channel(BATCHES_WAITING_MAX);
        let walker_stop = stop.clone();
        let walker = tokio::task::spawn_blocking(move || walk::walk(&plan, &batches, &walker_stop));
        loop {
            let batch = tokio::select! {
                () = stop.wait() => return Err(IndexError::Stopped),
                batch = inbox.recv() => batch,
            };
            let Some(batch) = batch else { break };
            for found in &batch.found {
                self.note(found, &root, goes_down);
            }
            self.take(batch, diff).await?;
            if self.overfull {
                break;
            }
        }
        // The walk ends when nobody receives.
        drop(inbox);
        walker.await.map_err(|_| IndexError::CutShort(self.at.path.clone()))?;
        // A walk that was told to stop ends like one that is done.
        if stop.is_set() { Err(IndexError::Stopped) } else { Ok(()) }
    }

    /// Notes that something lies in its directory, found by a walk from `root`.
    fn note(&mut self, found: &Found, root: &Path, goes_down: bool) {
        if found.path == self.at.path {
            self.directories.entry(found.path.clone()).or_default().add_root(&found.facts);
        }
        if found.path == root {
            return;
        }
        if let Some(print) = found.path.parent().and_then(|parent| self.directories.get_mut(parent)) {
            print.add(names::last_name(&found.path), &found.facts);
        }
        if goes_down && found.facts.kind == EntryKind::Directory {
            self.directories.insert(found.path.clone(), Fingerprint::default());
        }
    }

    async fn take(&mut self, batch: WalkBatch, diff: &mut Diff) -> Result<(), IndexError> {
        self.skipped += batch.skipped;
        for trouble in batch.troubles {
            self.errors += 1;
            if self.troubles.len() < TROUBLES_LISTED_MAX {
                self.troubles.push(trouble.to_string());
            }
            self.note_trouble(trouble, diff);
        }
        for found in batch.found {
            let ids = &mut self.ids;
            let mut fresh = || ids.next();
            let write = diff.take(found, &mut World { fresh: &mut fresh, inode_at: &inode_at });
            if write.is_some_and(|write| self.gather(write)) {
                self.hand_over().await?;
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

    /// Notes what could not be read.
    pub(super) fn note_trouble(&mut self, trouble: Trouble, diff: &mut Diff) {
        self.unread.extend(trouble.path.clone());
        diff.note_trouble(trouble);
    }

    /// Decides what had to wait for the end of the walks.
    pub(super) fn settle(&mut self, diff: &mut Diff) -> Settled {
        diff.settle(&mut || self.ids.next())
    }

    /// Puts writes into the next commits.
    pub(super) async fn push_all(&mut self, writes: Vec<Write>) -> Result<(), IndexError> {
        for write in writes {
            self.push(write).await?;
        }
        Ok(())
    }

    /// Puts deletions into the next commits.
    pub(super) async fn delete(&mut self, gone: Vec<Gone>) -> Result<(), IndexError> {
        for gone in gone {
            self.push(Write::delete(Entry::MODEL, gone.id)).await?;
        }
        Ok(())
    }

    /// Puts a write into the next commit.
    pub(super) async fn push(&mut self, write: Write) -> Result<(), IndexError> {
        if self.gather(write) { self.flush().await } else { Ok(()) }
    }

    /// Puts a write into the next commit; whether that is full and may go.
    fn gather(&mut self, write: Write) -> bool {
        self.pending.push(write);
        let is_full = self.pending.len() >= COMMIT_ROWS_MAX;
        self.overfull |= is_full && self.holds_back;
        is_full && !self.holds_back
    }

    /// Commits what waits.
    pub(super) async fn flush(&mut self) -> Result<(), IndexError> {
        self.hand_over().await?;
        self.landed().await
    }

    /// Begins to commit what waits, once the commit before has landed.
    async fn hand_over(&mut self) -> Result<(), IndexError> {
        let writes = std::mem::take(&mut self.pending);
        if writes.is_empty() {
            return Ok(());
        }
        if self.was_known.is_none() {
            let was_known = self.scanner.with_folders(&self.at, |folders, at| folders.begin(at.id)).await?;
            self.was_known = Some(was_known);
        }
        self.landed().await?;
        let (catalogue, path, stop) = (self.scanner.catalogue.clone(), self.at.path.clone(), self.scanner.stop.clone());
        let count = writes.len() as u64;
        let commit = tokio::spawn(async move { catalogue.commit(&path, writes, &stop).await });
        self.under_way = Some((count, commit));
        // On a runtime of one thread it begins when this one waits, and a walk that is ahead would not let it.
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Waits until the commit under way is done.
    async fn landed(&mut self) -> Result<(), IndexError> {
        let Some((count, commit)) = self.under_way.take() else { return Ok(()) };
        commit.await.map_err(|_| IndexError::CutShort(self.at.path.clone()))??;
        self.scanner.board.update(self.at.id, |progress| progress.committed += count);
        Ok(())
    }

    /// Notes what the walked directories hold, now that all of that is in the library: all of them, or some.
    pub(super) async fn finish(&mut self, diff: &Diff, whole: bool) -> Result<(), IndexError> {
        if diff.is_blind() {
            return Ok(());
        }
        let read = std::mem::take(&mut self.directories);
        let mut found: HashMap<PathBuf, Option<Fingerprint>> =
            read.into_iter().map(|(path, print)| (path, Some(print))).collect();
        for path in std::mem::take(&mut self.unread) {
            // What could not be looked at is missing in the number of the directory that it lies in.
            found.extend(path.parent().map(|parent| (parent.to_owned(), None)));
            found.insert(path, None);
        }
        let head = self.scanner.catalogue.head(&self.at.path, &self.scanner.stop).await?;
        let scope = if whole { Scope::Whole } else { Scope::Part { was_known: self.was_known } };
        self.scanner.with_folders(&self.at, move |folders, at| folders.finish(at.id, head, &found, scope)).await
    }

    /// The files among what waits for the next commit whose content hash is not known.
    pub(super) fn unhashed(&self) -> Vec<RecordId> {
        let file = Value::Int(EntryKind::File.code());
        let needs_hash = |write: &&Write| match &write.action {
            Action::Put(fields) => fields.get(Entry::KIND) == Some(&file) && fields.get(Entry::CONTENT_HASH).is_none(),
            _ => false,
        };
        self.pending.iter().filter(needs_hash).map(|write| write.record).collect()
    }

    /// What was done, and what could not be read.
    pub(super) fn report(&self, diff: &Diff) -> ScanReport {
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
