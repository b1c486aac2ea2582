//! The indexer's coordinator: owns the list of this device's locations, and starts and ends their keepers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use starling_schema::change::Write;
use starling_schema::ids::RecordId;
use starling_schema::models::{Entry, Location, Volume};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::IndexOptions;
use super::catalogue::{Catalogue, OwnLocation};
use super::error::IndexError;
use super::folders::Folders;
use super::hash::{self, HashRequest, REQUESTS_WAITING_MAX};
use super::keeper::{Keeper, Order};
use super::presence;
use super::progress::{Board, Phase};
use super::rows::{self, Totals};
use super::scan::{COMMIT_ROWS_MAX, SCANS_MAX, Scanner};
use super::stop::{Stop, StopSource};
use super::volume::MountedVolume;

/// What the coordinator is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Index a folder.
    Add(PathBuf, oneshot::Sender<Result<RecordId, IndexError>>),
    /// Forget a location and its entries.
    Remove(RecordId, oneshot::Sender<Result<u64, IndexError>>),
    /// Say where a location takes its orders.
    Find(RecordId, oneshot::Sender<Result<(PathBuf, mpsc::Sender<Order>), IndexError>>),
}

/// A location and its keeper.
#[derive(Debug)]
struct Kept {
    at: OwnLocation,
    orders: mpsc::Sender<Order>,
    stop: StopSource,
    task: JoinHandle<()>,
}

/// The coordinator.
#[derive(Debug)]
pub(crate) struct Service {
    catalogue: Catalogue,
    options: Arc<IndexOptions>,
    board: Board,
    turns: Arc<Semaphore>,
    folders: Folders,
    locations: BTreeMap<RecordId, Kept>,
    hasher: Option<(mpsc::Sender<HashRequest>, JoinHandle<()>)>,
    stop: Stop,
}

impl Service {
    /// Reads the list of locations and starts a keeper for each: the start-up rescan.
    ///
    /// # Errors
    /// The library could not be read. Nothing was started.
    pub(crate) async fn start(
        catalogue: Catalogue,
        options: IndexOptions,
        board: Board,
        stop: Stop,
    ) -> Result<Self, IndexError> {
        let locations = catalogue.locations(&stop).await?;
        let hasher = options.hash.then(|| {
            let (requests, inbox) = mpsc::channel(REQUESTS_WAITING_MAX);
            (requests, actix::spawn(hash::run(catalogue.clone(), board.clone(), inbox, stop.clone())))
        });
        let folders = Folders::new(options.data.clone(), catalogue.library());
        let mut service = Self {
            folders,
            catalogue,
            options: Arc::new(options),
            board,
            turns: Arc::new(Semaphore::new(SCANS_MAX)),
            locations: BTreeMap::new(),
            hasher,
            stop,
        };
        for at in locations {
            service.keep(at);
        }
        Ok(service)
    }

    /// Follows commands until told to stop or until nobody can give any; then ends all that it started.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let command = tokio::select! {
                () = self.stop.wait() => break,
                command = commands.recv() => command,
            };
            match command {
                None => break,
                // Whoever asked may have gone in the meantime.
                Some(Command::Add(path, reply)) => if reply.send(self.add(path).await).is_err() {},
                Some(Command::Remove(id, reply)) => if reply.send(self.remove(id).await).is_err() {},
                Some(Command::Find(id, reply)) => if reply.send(self.find(id)).is_err() {},
            }
        }
        self.locations.values().for_each(|kept| kept.stop.stop());
        for kept in std::mem::take(&mut self.locations).into_values() {
            ended(kept.task).await;
        }
        if let Some((requests, task)) = self.hasher.take() {
            drop(requests);
            ended(task).await;
        }
    }

    fn keep(&mut self, at: OwnLocation) {
        let (stop_source, stop) = StopSource::new();
        self.board.put_up(at.id);
        let scanner = Scanner {
            catalogue: self.catalogue.clone(),
            folders: self.folders.clone(),
            options: self.options.clone(),
            board: self.board.clone(),
            turns: self.turns.clone(),
            stop,
        };
        let hasher = self.hasher.as_ref().map(|(requests, _)| requests.clone());
        let (keeper, orders) = Keeper::new(at.clone(), scanner, hasher);
        let task = actix::spawn(keeper.run());
        self.locations.insert(at.id, Kept { at, orders, stop: stop_source, task });
    }

    fn find(&self, id: RecordId) -> Result<(PathBuf, mpsc::Sender<Order>), IndexError> {
        let kept = self.locations.get(&id).ok_or(IndexError::UnknownLocation(id))?;
        Ok((kept.at.path.clone(), kept.orders.clone()))
    }

    async fn add(&mut self, path: PathBuf) -> Result<RecordId, IndexError> {
        let there: Vec<OwnLocation> = self.locations.values().map(|kept| kept.at.clone()).collect();
        let data = self.options.data.clone();
        let asked = path.clone();
        let looked = tokio::task::spawn_blocking(move || look(&asked, data.as_deref(), &there));
        let (folder, volume) = looked.await.map_err(|_| IndexError::CutShort(path))??;
        let environment = self.catalogue.environment();
        let at = OwnLocation {
            id: environment.new_id(),
            root: environment.new_id(),
            volume: volume.id(self.catalogue.device()),
            path: folder,
            totals: Totals::default(),
            scanned: false,
        };
        let location = rows::location(at.id, at.root, at.volume, &at.path);
        let writes = vec![volume.row(self.catalogue.device()), location];
        self.catalogue.commit(&at.path, writes, &self.stop).await?;
        let id = at.id;
        self.keep(at);
        Ok(id)
    }

    /// Ends the keeper, then deletes the entries, then the location: cut short, it can be removed again.
    async fn remove(&mut self, id: RecordId) -> Result<u64, IndexError> {
        let kept = self.locations.remove(&id).ok_or(IndexError::UnknownLocation(id))?;
        kept.stop.stop();
        ended(kept.task).await;
        self.board.update(id, |progress| progress.phase = Phase::Removing);
        let deleted = match self.forget(&kept.at).await {
            Ok(()) => self.delete_rows(&kept.at).await,
            Err(error) => Err(error),
        };
        match deleted {
            Ok(_) => self.board.remove(id),
            Err(_) => self.keep(kept.at),
        }
        deleted
    }

    /// Forgets what its directories hold: its rows are about to go.
    async fn forget(&self, at: &OwnLocation) -> Result<(), IndexError> {
        let (folders, id) = (self.folders.clone(), at.id);
        let forgotten = tokio::task::spawn_blocking(move || folders.remove(id)).await;
        forgotten.map_err(|_| IndexError::CutShort(at.path.clone()))?.map_err(|reason| IndexError::Kept { reason })
    }

    async fn delete_rows(&self, at: &OwnLocation) -> Result<u64, IndexError> {
        let entries = self.catalogue.entry_ids(at, &self.stop).await?;
        self.board.update(at.id, |progress| progress.committed = 0);
        for batch in entries.chunks(COMMIT_ROWS_MAX) {
            if self.stop.is_set() {
                return Err(IndexError::Stopped);
            }
            let writes = batch.iter().map(|id| Write::delete(Entry::MODEL, *id)).collect();
            self.catalogue.commit(&at.path, writes, &self.stop).await?;
            self.board.update(at.id, |progress| progress.committed += batch.len() as u64);
        }
        let mut last = vec![Write::delete(Location::MODEL, at.id)];
        if !self.locations.values().any(|kept| kept.at.volume == at.volume) {
            last.push(Write::delete(Volume::MODEL, at.volume));
        }
        self.catalogue.commit(&at.path, last, &self.stop).await?;
        Ok(entries.len() as u64)
    }
}

/// Waits for a task that was told to stop. One that panicked has ended too.
async fn ended(task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(%error, "a task of the indexer failed");
    }
}

fn look(path: &Path, data: Option<&Path>, there: &[OwnLocation]) -> Result<(PathBuf, MountedVolume), IndexError> {
    let folder = presence::resolve(path, data, there)?;
    match MountedVolume::of(&folder) {
        Ok(volume) => Ok((folder, volume)),
        Err(error) => Err(IndexError::Unreadable { path: folder, reason: error.to_string() }),
    }
}
