//! Keeps one location: the only one that writes its rows, so scans, watch events and hashes never race.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::catalogue::{OwnLocation, UnhashedPlace};
use super::error::IndexError;
use super::glance::Glance;
use super::hash::{HashRequest, HashedFile};
use super::progress::{Phase, ScanReport};
use super::rows;
use super::scan::Scanner;
use super::targeted::Targeted;
use super::watch::{DEBOUNCE, Touched, TouchedSet, Watch};

/// How often a location that cannot be watched is scanned: changes show within minutes, and the disk mostly rests.
const RESCAN_EVERY: Duration = Duration::from_mins(5);

/// How often we look whether an absent folder is back: soon after a disk is plugged in.
const LOOK_FOR_ABSENT_EVERY: Duration = Duration::from_secs(15);

/// How often touched directories are looked at again that could not be placed, before all of the location is scanned.
const PASSES_MAX: usize = 3;

/// How many orders may wait for a location.
pub(crate) const ORDERS_WAITING_MAX: usize = 16;

/// How a scan ended.
pub(crate) type ScanResult = Result<ScanReport, IndexError>;

/// What a location is asked to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Scan all of it and say how that ended.
    Rescan(oneshot::Sender<ScanResult>),
    /// Say how the last full scan ended, once none is under way.
    Settled(oneshot::Sender<ScanResult>),
    /// Commit these hashes, as far as the files are still as they were, and say when that is done.
    Hashed(Vec<HashedFile>, oneshot::Sender<()>),
}

/// One location's keeper.
#[derive(Debug)]
pub(crate) struct Keeper {
    at: OwnLocation,
    scanner: Scanner,
    orders: mpsc::Receiver<Order>,
    /// For the hasher: hashes come back as orders.
    own_orders: mpsc::WeakSender<Order>,
    /// None when contents are not to be hashed.
    hasher: Option<mpsc::Sender<HashRequest>>,
    touched: Touched,
    watch: Option<Watch>,
    /// When to begin to watch.
    next_watch: Option<Instant>,
    /// Why there is no watch though there should be.
    unwatched: Option<String>,
    last: ScanResult,
    next_scan: Option<Instant>,
}

impl Keeper {
    /// A keeper that has not begun, and where it takes orders.
    pub(crate) fn new(
        at: OwnLocation,
        scanner: Scanner,
        hasher: Option<mpsc::Sender<HashRequest>>,
    ) -> (Self, mpsc::Sender<Order>) {
        let (sender, orders) = mpsc::channel(ORDERS_WAITING_MAX);
        let keeper = Self {
            at,
            scanner,
            orders,
            own_orders: sender.downgrade(),
            hasher,
            touched: Touched::new(),
            watch: None,
            next_watch: None,
            unwatched: None,
            last: Err(IndexError::Stopped),
            next_scan: None,
        };
        (keeper, sender)
    }

    /// Scans, then follows orders and what the watch sees, until told to stop or until nobody can give orders.
    pub(crate) async fn run(mut self) {
        let stop = self.scanner.stop.clone();
        self.scan().await;
        while !stop.is_set() {
            let (next_scan, next_watch) = (self.next_scan, self.next_watch);
            tokio::select! {
                () = stop.wait() => break,
                order = self.orders.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => break,
                },
                () = self.touched.some() => self.look_at_touched().await,
                () = sleep_until(next_watch) => self.begin_to_watch().await,
                () = sleep_until(next_scan) => self.scan().await,
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Rescan(reply) => {
                self.scan().await;
                // Whoever asked may have gone in the meantime.
                if reply.send(self.last.clone()).is_err() {}
            }
            Order::Settled(reply) => if reply.send(self.last.clone()).is_err() {},
            Order::Hashed(files, done) => {
                if let Err(error) = self.commit_hashes(files).await {
                    self.report(&error, "hashes not committed");
                }
                if done.send(()).is_err() {}
            }
        }
    }

    /// Scans all. A watch that is not there yet begins afterwards: telling the system of every directory takes longer
    /// than looking at them all.
    pub(super) async fn scan(&mut self) {
        self.touched.take();
        let result = self.scan_what_changed().await;
        let before = std::mem::replace(&mut self.last, result);
        self.scanner.board.end(self.at.id, &self.last);
        let now = Instant::now();
        (self.next_scan, self.next_watch) = match &self.last {
            Ok(_) if self.watch.is_some() || !self.scanner.options.watch => (None, None),
            Ok(_) => (None, Some(now + DEBOUNCE)),
            Err(IndexError::Absent { .. }) => (Some(now + LOOK_FOR_ABSENT_EVERY), None),
            Err(_) => (Some(now + RESCAN_EVERY), None),
        };
        match &self.last {
            Ok(report) => {
                self.scanner.board.update(self.at.id, |progress| progress.problem.clone_from(&self.unwatched));
                if report.errors > 0 {
                    tracing::warn!(path = %self.at.path.display(), errors = report.errors, "some paths cannot be read");
                }
                // After the first scan, for what an earlier run left; then only when there is something new.
                if before.is_err() || report.created + report.changed > 0 {
                    self.ask_for_hashes(UnhashedPlace::After(0));
                }
            }
            Err(error) => {
                // A watch on a folder that is gone sees nothing when it comes back.
                self.watch = None;
                if before != self.last {
                    self.report(error, "scan failed");
                }
            }
        }
    }

    /// Watches from now on, if that can be; otherwise the next scan is due in some minutes.
    async fn begin_to_watch(&mut self) {
        self.next_watch = None;
        self.start_watch().await;
        self.scanner.board.update(self.at.id, |progress| progress.problem.clone_from(&self.unwatched));
        if self.watch.is_some() {
            self.look_again().await;
        } else {
            self.next_scan = Some(Instant::now() + RESCAN_EVERY);
        }
    }

    /// Looks whether anything happened that neither the last scan nor the watch saw.
    pub(super) async fn look_again(&mut self) {
        // Of a move that is under way the other half is told by the watch.
        let late = self.touched.clone();
        let seen = match self.scanner.glance(&self.at).await {
            Ok(Glance::Changed(directories, _)) => self.look_at(directories, Some(&late)).await,
            Ok(Glance::Unknown) => Ok(None),
            Err(error) => Err(error),
        };
        match seen {
            Ok(Some(_)) | Err(IndexError::Stopped) => {}
            // After an error a scan says whether the folder is gone, and when to try again.
            Ok(None) | Err(_) => self.scan().await,
        }
    }

    /// Looks at the directories that changed since the last scan; at everything where that cannot be told.
    async fn scan_what_changed(&mut self) -> ScanResult {
        let (board, id) = (self.scanner.board.clone(), self.at.id);
        board.begin(id, u64::try_from(self.at.totals.entries).unwrap_or(0));
        let glance = self.scanner.glance(&self.at).await?;
        if let Glance::Changed(_, seen) = &glance {
            board.update(id, |progress| {
                progress.files_seen = seen.seen;
                progress.errors = seen.errors;
                progress.skipped = seen.skipped;
            });
        }
        if let Glance::Changed(directories, seen) = glance
            && let Some(done) = self.look_at(directories, None).await?
        {
            return Ok(ScanReport {
                seen: seen.seen,
                skipped: seen.skipped,
                errors: seen.errors,
                troubles: seen.troubles,
                ..done
            });
        }
        self.scanner.full(&mut self.at).await
    }

    /// Looks at the touched directories.
    async fn look_at_touched(&mut self) {
        let TouchedSet { directories, everything } = self.touched.take();
        if !everything {
            let late = self.touched.clone();
            match self.look_at(directories.into_iter().collect(), Some(&late)).await {
                Ok(Some(_)) | Err(IndexError::Stopped) => return,
                // After an error a scan says whether the folder is gone, and when to try again.
                Ok(None) | Err(_) => {}
            }
        }
        self.scan().await;
    }

    /// Looks at some directories, and again at those that only then can be placed; none when all must be scanned.
    async fn look_at(
        &mut self,
        mut directories: Vec<PathBuf>,
        late: Option<&Touched>,
    ) -> Result<Option<ScanReport>, IndexError> {
        let mut all = ScanReport::default();
        for _ in 0..PASSES_MAX {
            if directories.is_empty() {
                break;
            }
            match self.scanner.targeted(&mut self.at, directories, late).await? {
                Targeted::Done { report, unhashed, later } => {
                    if !unhashed.is_empty() {
                        self.ask_for_hashes(UnhashedPlace::These(unhashed));
                    }
                    all.add(&report);
                    directories = later;
                }
                Targeted::NeedsFullScan => return Ok(None),
            }
        }
        Ok(directories.is_empty().then_some(all))
    }

    async fn start_watch(&mut self) {
        let (root, exclude, touched) = (self.at.path.clone(), self.scanner.options.data.clone(), self.touched.clone());
        let start = tokio::task::spawn_blocking(move || Watch::start(&root, exclude, touched));
        let started = tokio::select! {
            () = self.scanner.stop.wait() => return,
            started = start => started,
        };
        match started {
            Ok(Ok(watch)) => {
                self.watch = Some(watch);
                self.unwatched = None;
            }
            Ok(Err(problem)) => {
                // Of a folder that is not there, the scan says so.
                if self.unwatched.as_ref() != Some(&problem) && self.at.path.is_dir() {
                    tracing::warn!("{problem}");
                }
                self.unwatched = Some(problem);
            }
            // The runtime is shutting down.
            Err(_) => {}
        }
    }

    fn ask_for_hashes(&self, place: UnhashedPlace) {
        if let (Some(hasher), Some(orders)) = (&self.hasher, self.own_orders.upgrade()) {
            // With no room, the next scan asks again.
            if hasher.try_send(HashRequest { at: self.at.clone(), place, orders }).is_ok() {
                self.scanner.board.update(self.at.id, |progress| progress.phase = Phase::Hashing);
            }
        }
    }

    async fn commit_hashes(&mut self, files: Vec<HashedFile>) -> Result<(), IndexError> {
        let (catalogue, stop) = (&self.scanner.catalogue, &self.scanner.stop);
        let asked = files.iter().map(|file| (file.id, file.size, file.modified_ms)).collect();
        let same = catalogue.still_as(&self.at, asked, stop).await?;
        let current = files.iter().filter(|file| same.contains(&file.id));
        let writes: Vec<_> = current.map(|file| rows::content_hash(file.id, &file.hash)).collect();
        let count = writes.len() as u64;
        catalogue.commit(&self.at.path, writes, stop).await?;
        self.scanner.board.update(self.at.id, |progress| progress.hashed += count);
        Ok(())
    }

    fn report(&self, error: &IndexError, what: &'static str) {
        if *error != IndexError::Stopped {
            tracing::warn!(location = %self.at.id, %error, "{what}");
        }
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
