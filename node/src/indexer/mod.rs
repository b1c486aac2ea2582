//! The indexer: keeps the rows of this device's folders equal to what lies in them.
//!
//! A *location* is a folder that its person asked to index. Each has a keeper, a task that alone writes the
//! location's rows: it scans ([`scan`]: [`walk`] finds, [`diff`] compares, the catalogue commits), looks at what a
//! [`watch`] saw happen, and commits the content hashes that one thread for all locations makes ([`hash`]).
//!
//! What never happens: rows deleted because a volume is not mounted or a directory cannot be read; a symbolic link
//! followed; memory that grows with the folder, beyond the known entries of the locations being scanned.

#[cfg(test)]
mod bench;
mod catalogue;
mod diff;
mod error;
mod facts;
mod fingerprint;
mod folders;
mod glance;
mod hash;
mod here;
mod keeper;
mod known;
mod names;
mod presence;
mod progress;
mod rows;
mod scan;
mod service;
mod stop;
mod tables;
mod targeted;
mod volume;
mod walk;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use starling::PeerHandle;
use starling_schema::ids::RecordId;
use tokio::sync::{mpsc, oneshot, watch as channel};

pub(crate) use self::error::{IndexError, Overlap};
pub(crate) use self::progress::{Phase, ScanReport, Snapshot};

use self::catalogue::Catalogue;
use self::keeper::Order;
use self::progress::Board;
use self::service::{Command, Service};
use self::stop::StopSource;

/// How many commands may wait for the coordinator; more callers wait in line before it.
const COMMANDS_WAITING_MAX: usize = 16;

/// How folders are indexed. The default takes everything, hashes and watches.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "four switches that have nothing to do with each other")]
pub(crate) struct IndexOptions {
    /// Whether `.gitignore` and `.ignore` files are obeyed.
    pub(crate) respect_ignore: bool,
    /// Whether names that start with a dot are passed over.
    pub(crate) skip_hidden: bool,
    /// Whether file contents are hashed in the background.
    pub(crate) hash: bool,
    /// Whether folders are watched. If not, only orders and starts scan.
    pub(crate) watch: bool,
    /// The peer's own data directory, absolute and without symbolic links: never indexed.
    pub(crate) data: Option<PathBuf>,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self { respect_ignore: false, skip_hidden: false, hash: true, watch: true, data: None }
    }
}

/// A running indexer. Cheap to clone, usable from any thread; it ends with [`Indexer::stop`] or its last clone.
#[derive(Clone, Debug)]
pub(crate) struct Indexer {
    commands: mpsc::Sender<Command>,
    board: Board,
    stop: Arc<StopSource>,
}

impl Indexer {
    /// Starts indexing what this device has indexed so far: every location is rescanned. Must be called within an
    /// actix system, on whose thread the indexer then lives.
    ///
    /// # Errors
    /// The library could not be read. Nothing was started.
    pub(crate) async fn start(peer: PeerHandle, options: IndexOptions) -> Result<Self, IndexError> {
        Self::start_on(Catalogue::Peer(peer), options).await
    }

    async fn start_on(catalogue: Catalogue, mut options: IndexOptions) -> Result<Self, IndexError> {
        // Paths are compared as the walk spells them. A directory that is not there cannot be walked into either.
        options.data = options.data.map(|data| data.canonicalize().unwrap_or(data));
        let (source, stop) = StopSource::new();
        let board = Board::new();
        let service = Service::start(catalogue, options, board.clone(), stop).await?;
        let (commands, inbox) = mpsc::channel(COMMANDS_WAITING_MAX);
        drop(actix::spawn(service.run(inbox)));
        Ok(Self { commands, board, stop: Arc::new(source) })
    }

    /// Makes a folder a location. Returns once the location is committed; its first scan then runs in the background:
    /// [`Indexer::settled`] waits for it, [`Indexer::progress`] shows it.
    ///
    /// # Errors
    /// Typed by what is wrong with the path: missing, not a directory, unreadable, already indexed. Nothing was changed.
    pub(crate) async fn add(&self, path: &Path) -> Result<RecordId, IndexError> {
        self.ask(|reply| Command::Add(path.to_owned(), reply)).await
    }

    /// Scans a location and says what that did.
    ///
    /// # Errors
    /// The location is unknown or absent, or the library cannot be written.
    pub(crate) async fn rescan(&self, location: RecordId) -> Result<ScanReport, IndexError> {
        self.order(location, Order::Rescan).await
    }

    /// Waits until no scan of a location is under way and says how the last one ended.
    ///
    /// # Errors
    /// The last scan's, or the location is unknown.
    pub(crate) async fn settled(&self, location: RecordId) -> Result<ScanReport, IndexError> {
        self.order(location, Order::Settled).await
    }

    /// Deletes a location and all of its entries, and says how many those were. The files stay.
    ///
    /// # Errors
    /// The location is unknown, or the library cannot be written: then the location stays and is scanned again.
    pub(crate) async fn remove(&self, location: RecordId) -> Result<u64, IndexError> {
        self.ask(|reply| Command::Remove(location, reply)).await
    }

    /// How far each location is; the receiver is told of changes and sees the newest state.
    pub(crate) fn progress(&self) -> channel::Receiver<Snapshot> {
        self.board.view()
    }

    /// Ends all scans, watches and hashing, also in the middle; returns when they have ended, under a second.
    pub(crate) async fn stop(&self) {
        self.stop.stop();
        self.commands.closed().await;
    }

    async fn order<T>(
        &self,
        location: RecordId,
        order: impl FnOnce(oneshot::Sender<Result<T, IndexError>>) -> Order,
    ) -> Result<T, IndexError> {
        let (path, orders) = self.ask(|reply| Command::Find(location, reply)).await?;
        let (reply, answer) = oneshot::channel();
        match orders.try_send(order(reply)) {
            Ok(()) => answer.await.unwrap_or(Err(IndexError::Stopped)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(IndexError::Busy(path)),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(IndexError::Stopped),
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, IndexError>>) -> Command,
    ) -> Result<T, IndexError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| IndexError::Stopped)?;
        answer.await.unwrap_or(Err(IndexError::Stopped))
    }
}

#[cfg(test)]
mod tests;
