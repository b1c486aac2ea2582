//! The door to the indexer: everything that the node asks of it goes through here.

use std::path::Path;

use starling::PeerHandle;
use starling_schema::ids::RecordId;
use tokio::sync::{mpsc, oneshot};

use crate::api::Progress;
use crate::error::{CliError, ErrorKind};

/// How many reports of progress may wait: only the newest matters, a full queue drops what comes.
const REPORTS_MAX: usize = 16;

/// The indexer of one peer. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Indexing {
    _peer: PeerHandle,
}

/// A scan under way. It goes on when this is dropped.
#[derive(Debug)]
pub(crate) struct Scan {
    /// How far it is, until it ends.
    pub(crate) progress: mpsc::Receiver<Progress>,
    /// The locations that were scanned, or why that failed.
    pub(crate) outcome: oneshot::Receiver<Result<Vec<RecordId>, CliError>>,
}

/// Where a scan reports to.
struct Reports {
    progress: mpsc::Sender<Progress>,
    outcome: oneshot::Sender<Result<Vec<RecordId>, CliError>>,
}

impl Scan {
    fn new() -> (Self, Reports) {
        let (progress_sender, progress) = mpsc::channel(REPORTS_MAX);
        let (outcome_sender, outcome) = oneshot::channel();
        (Self { progress, outcome }, Reports { progress: progress_sender, outcome: outcome_sender })
    }

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

impl Indexing {
    /// Starts watching the locations that this device has.
    pub(crate) fn start(peer: &PeerHandle) -> Self {
        Self { _peer: peer.clone() }
    }

    /// Makes a folder a location, unless it is one already, and scans it.
    #[expect(clippy::unused_self, reason = "to be replaced by the indexer")]
    pub(crate) fn add(&self, path: &Path) -> Scan {
        not_here(&format!("{} was not indexed", path.display()))
    }

    /// Looks for changes in one location of this device, or in all.
    #[expect(clippy::unused_self, reason = "to be replaced by the indexer")]
    pub(crate) fn rescan(&self, _location: Option<RecordId>) -> Scan {
        not_here("nothing was scanned")
    }

    /// Takes a location and its entries out of the library.
    #[expect(clippy::unused_async, reason = "to be replaced by the indexer")]
    pub(crate) async fn remove(&self, location: RecordId) -> Result<(), CliError> {
        Err(CliError::new(ErrorKind::Failed, format!("{location} was not removed: this build has no indexer")))
    }

    /// Stops watching and scanning.
    #[expect(clippy::unused_async, reason = "to be replaced by the indexer")]
    pub(crate) async fn stop(&self) {}
}

fn not_here(what: &str) -> Scan {
    let (scan, Reports { progress, outcome }) = Scan::new();
    drop(progress);
    let error = CliError::new(ErrorKind::Failed, format!("{what}: this build has no indexer"));
    outcome.send(Err(error)).ok();
    scan
}
