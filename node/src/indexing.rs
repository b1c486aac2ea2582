//! The door to the indexer: everything that the node asks of it goes through here. It starts the indexer again when
//! the peer joins another library.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use starling::PeerHandle;
use starling_schema::ids::RecordId;
use starling_schema::models::Location;
use tokio::sync::{RwLock, mpsc, oneshot};

use crate::api::Progress;
use crate::error::{CliError, ErrorKind};
use crate::indexer::{IndexError, IndexOptions, Indexer, Overlap, Phase};

/// How many reports of progress may wait: only the newest matters, a full queue drops what comes.
const REPORTS_MAX: usize = 16;

/// The indexer of one peer, on the system's own thread. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Indexing {
    peer: PeerHandle,
    options: IndexOptions,
    running: Arc<RwLock<Indexer>>,
}

impl std::fmt::Debug for Indexing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Indexing").field("options", &self.options).finish_non_exhaustive()
    }
}

/// A scan under way. It goes on when this is dropped.
#[derive(Debug)]
pub(crate) struct Scan {
    /// How far it is, until it ends.
    pub(crate) progress: mpsc::Receiver<Progress>,
    /// The locations that were scanned, or why that failed.
    pub(crate) outcome: oneshot::Receiver<Result<Vec<RecordId>, CliError>>,
}

/// What a scan under way needs.
struct Scanning {
    indexer: Indexer,
    peer: PeerHandle,
    reports: mpsc::Sender<Progress>,
}

impl Scan {
    /// Waits for the end of the scan and passes on how far it is meanwhile.
    pub(crate) async fn finish(mut self, mut report: impl AsyncFnMut(Progress)) -> Result<Vec<RecordId>, CliError> {
        while let Some(progress) = self.progress.recv().await {
            report(progress).await;
        }
        self.outcome
            .await
            .unwrap_or_else(|_| Err(CliError::new(ErrorKind::Failed, "the scan was cut short: the peer stops")))
    }
}

impl From<IndexError> for CliError {
    fn from(error: IndexError) -> Self {
        let message = error.to_string();
        let kind = match error {
            IndexError::Missing(_) | IndexError::UnknownLocation(_) => ErrorKind::NotFound,
            IndexError::Commit { .. } | IndexError::Query { .. } => ErrorKind::Storage,
            IndexError::Busy(_) => ErrorKind::Busy,
            IndexError::NotADirectory(_) | IndexError::Overlaps { .. } | IndexError::OwnData { .. } => {
                ErrorKind::Invalid
            }
            _ => ErrorKind::Failed,
        };
        Self::new(kind, message)
    }
}

impl Indexing {
    /// Starts indexing and watching the locations that this device has.
    pub(crate) async fn start(peer: &PeerHandle, data: &Path) -> Result<Self, CliError> {
        let options = IndexOptions { data: Some(data.to_owned()), ..IndexOptions::default() };
        let indexer = Indexer::start(peer.clone(), options.clone()).await?;
        Ok(Self { peer: peer.clone(), options, running: Arc::new(RwLock::new(indexer)) })
    }

    /// Starts over with the locations of the library that the peer now has.
    pub(crate) async fn restart(&self) -> Result<(), CliError> {
        let mut running = self.running.write().await;
        running.stop().await;
        let (peer, options) = (self.peer.clone(), self.options.clone());
        let (tell, told) = oneshot::channel();
        // The caller's thread may end with the connection that it serves.
        actix::System::current().arbiter().spawn_fn(move || {
            drop(actix::spawn(async move {
                if tell.send(Indexer::start(peer, options).await).is_err() {
                    tracing::debug!("nobody waits for the indexer any more");
                }
            }));
        });
        *running = told.await.unwrap_or(Err(IndexError::Stopped))?;
        Ok(())
    }

    /// Makes a folder a location, unless it is one already, and scans it.
    pub(crate) fn add(&self, path: &Path) -> Scan {
        let path: PathBuf = path.to_owned();
        self.scan(async move |scanning: Scanning| {
            let location = match scanning.indexer.add(&path).await {
                Err(IndexError::Overlaps { overlap: Overlap::Same, location, .. }) => {
                    return scanning.rescan(vec![location]).await;
                }
                other => other?,
            };
            scanning.follow(location, scanning.indexer.settled(location)).await?;
            Ok(vec![location])
        })
    }

    /// Looks for changes in one location of this device, or in all.
    pub(crate) fn rescan(&self, location: Option<RecordId>) -> Scan {
        self.scan(async move |scanning: Scanning| {
            let all = scanning.indexer.progress().borrow().keys().copied().collect();
            scanning.rescan(location.map_or(all, |one| vec![one])).await
        })
    }

    /// Takes a location and its entries out of the library.
    pub(crate) async fn remove(&self, location: RecordId) -> Result<(), CliError> {
        let indexer = self.running.read().await.clone();
        indexer.remove(location).await?;
        Ok(())
    }

    /// Stops watching and scanning.
    pub(crate) async fn stop(&self) {
        let indexer = self.running.read().await.clone();
        indexer.stop().await;
    }

    /// Runs a scan beside everything else.
    fn scan<F, Fut>(&self, run: F) -> Scan
    where
        F: FnOnce(Scanning) -> Fut + 'static,
        Fut: Future<Output = Result<Vec<RecordId>, CliError>> + 'static,
    {
        let (reports, progress) = mpsc::channel(REPORTS_MAX);
        let (tell, outcome) = oneshot::channel();
        let (running, peer) = (self.running.clone(), self.peer.clone());
        drop(actix::spawn(async move {
            let indexer = running.read().await.clone();
            let result = run(Scanning { indexer, peer, reports }).await;
            if tell.send(result).is_err() {
                tracing::debug!("nobody waits for this scan any more");
            }
        }));
        Scan { progress, outcome }
    }
}

impl Scanning {
    async fn rescan(&self, locations: Vec<RecordId>) -> Result<Vec<RecordId>, CliError> {
        for location in &locations {
            self.follow(*location, self.indexer.rescan(*location)).await?;
        }
        Ok(locations)
    }

    /// What people call a location.
    async fn path_of(&self, location: RecordId) -> String {
        let found = self.peer.query(move |c| starling::records::get::<Location>(c, location)).await;
        found.ok().flatten().and_then(|location| location.path).unwrap_or_else(|| location.to_string())
    }

    /// Waits for a scan and reports how far it is meanwhile.
    async fn follow<T>(
        &self,
        location: RecordId,
        scan: impl Future<Output = Result<T, IndexError>>,
    ) -> Result<T, CliError> {
        let Self { indexer, reports, .. } = self;
        let path = self.path_of(location).await;
        let mut board = indexer.progress();
        let mut scan = std::pin::pin!(scan);
        loop {
            tokio::select! {
                done = &mut scan => return Ok(done?),
                changed = board.changed() => {
                    let now = board.borrow_and_update().get(&location).cloned();
                    if let Some(now) = now {
                        let report = Progress {
                            path: path.clone(),
                            phase: word(now.phase).to_owned(),
                            seen: now.files_seen,
                            expected: (now.expected > 0).then_some(now.expected),
                            hashed: now.hashed,
                        };
                        // Only the newest matters: a report that does not fit is followed by another.
                        let _full: Result<(), _> = reports.try_send(report);
                    }
                    if changed.is_err() {
                        return Ok(scan.await?);
                    }
                }
            }
        }
    }
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Waiting => "waiting",
        Phase::Scanning => "scanning",
        Phase::Settling => "settling",
        Phase::Hashing => "hashing",
        Phase::Idle => "done",
        Phase::Absent => "absent",
        Phase::Failed => "failed",
        Phase::Removing => "removing",
    }
}
