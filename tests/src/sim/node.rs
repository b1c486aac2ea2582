//! One simulated device: a real peer with a data directory and a wall clock of its own, which starts, stops and dies.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use starling::environment::{Environment, WallClock};
use starling::rig::Injector;
use starling::status::Status;
use starling::{Conflict, JoinError, NetworkChoice, PeerHandle, PeerOptions, Registry, StartError};
use starling_schema::ids::DeviceId;
use starling_schema::key::{DeviceKey, DeviceSecret};
use tempfile::TempDir;
use tokio::time::Instant;

use super::{Interference, Network, NodeNo};

/// When every simulation begins, in milliseconds since 1970: the first second of 2026.
const BEGIN_MS: u64 = 1_767_225_600_000;

/// How long a ticket of a test is valid.
const TICKET_TIME: Duration = Duration::from_mins(10);

/// A simulated device. Clones are the same device.
#[derive(Clone, Debug)]
pub struct Node(Rc<Inner>);

struct Inner {
    number: NodeNo,
    name: String,
    data: PathBuf,
    seed: u64,
    epoch: Instant,
    skew_ms: Arc<AtomicI64>,
    /// The latest that the wall clock showed before it was last set.
    latest_ms: Cell<u64>,
    starts: Cell<u64>,
    network: Network,
    interference: Arc<Interference>,
    registry: RefCell<Registry>,
    peer: RefCell<Option<PeerHandle>>,
    injector: RefCell<Option<Arc<dyn Injector>>>,
    dead: Arc<AtomicBool>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("name", &self.name).field("data", &self.data).finish_non_exhaustive()
    }
}

/// A copy of a device's data directory as it was.
#[derive(Debug)]
pub struct Backup(TempDir);

impl Backup {
    /// Copies a data directory as a crash at this instant would leave it.
    #[must_use]
    pub fn of(data: &Path) -> Self {
        Self(copy_files(data))
    }
}

impl Node {
    pub(super) fn new(number: NodeNo, name: &str, data: PathBuf, seed: u64, epoch: Instant, network: Network) -> Self {
        Self(Rc::new(Inner {
            number,
            name: name.to_owned(),
            interference: Arc::new(Interference::new(number, data.clone(), network.clone())),
            data,
            seed,
            epoch,
            skew_ms: Arc::default(),
            latest_ms: Cell::default(),
            starts: Cell::new(0),
            network,
            registry: RefCell::default(),
            peer: RefCell::new(None),
            injector: RefCell::new(None),
            dead: Arc::default(),
        }))
    }

    /// Its number on the network.
    #[must_use]
    pub fn number(&self) -> NodeNo {
        self.0.number
    }

    /// What the test calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Where its key and database are.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.0.data
    }

    /// What interferes with it.
    #[must_use]
    pub fn interference(&self) -> &Interference {
        &self.0.interference
    }

    /// Its device id.
    #[must_use]
    pub fn id(&self) -> DeviceId {
        self.peer().device()
    }

    /// Its key.
    ///
    /// # Panics
    /// When it has none yet.
    #[must_use]
    pub fn key(&self) -> DeviceKey {
        let text = fs::read_to_string(self.0.data.join("device.key")).expect("a device that was started has a key");
        let bytes: [u8; 32] = hex::decode(text.trim()).expect("a key is hex").try_into().expect("a key has 32 bytes");
        DeviceSecret::from_bytes(&bytes).public()
    }

    /// The running peer.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn peer(&self) -> PeerHandle {
        self.0.peer.borrow().clone().unwrap_or_else(|| panic!("{} does not run", self.0.name))
    }

    /// Has somebody interfere with the peer from its next start on.
    pub fn interfere(&self, injector: Arc<dyn Injector>) {
        *self.0.injector.borrow_mut() = Some(injector);
    }

    /// Set it, and what the peer says from that instant on reaches nobody, as if it had crashed; its next start clears
    /// it.
    #[must_use]
    pub fn dead(&self) -> Arc<AtomicBool> {
        self.0.dead.clone()
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.0.peer.borrow().is_some()
    }

    /// Starts the peer on its data directory.
    ///
    /// # Panics
    /// When it runs already or does not start.
    pub async fn start(&self) {
        self.try_start().await.unwrap_or_else(|error| panic!("{}: {error}", self.0.name));
    }

    /// Starts the peer on its data directory.
    ///
    /// # Errors
    /// As [`PeerHandle::start`].
    ///
    /// # Panics
    /// When it runs already.
    pub async fn try_start(&self) -> Result<(), StartError> {
        assert!(!self.is_running(), "{} runs already", self.0.name);
        self.0.dead.store(false, Ordering::Relaxed);
        let options = PeerOptions {
            data: self.0.data.clone(),
            name: Some(self.0.name.clone()),
            network: NetworkChoice::Given(self.0.network.factory(self.0.number, self.0.dead.clone())),
            environment: self.environment(),
            registry: self.0.registry.borrow().clone(),
        };
        let peer = PeerHandle::start(options).await?;
        *self.0.peer.borrow_mut() = Some(peer);
        Ok(())
    }

    /// Chance that no other node and no earlier life of this one had, and a clock that is off by its skew.
    fn environment(&self) -> Environment {
        self.0.starts.set(self.0.starts.get() + 1);
        let words = [self.0.seed, self.0.number as u64, self.0.starts.get()].map(u64::to_le_bytes).concat();
        let hash = blake3::derive_key("starling simulation", &words);
        let seed = u64::from_le_bytes(std::array::from_fn(|at| hash[at]));
        let (epoch, skew_ms) = (self.0.epoch, self.0.skew_ms.clone());
        let wall: WallClock = Arc::new(move || wall_ms(epoch, &skew_ms));
        let injector = self.0.injector.borrow().clone();
        Environment::simulated(seed, wall).with_injector(injector.unwrap_or_else(|| self.0.interference.clone()))
    }

    /// Ends the peer in order.
    pub async fn stop(&self) {
        let peer = self.0.peer.borrow_mut().take();
        if let Some(peer) = peer {
            peer.stop().await;
        }
    }

    /// Ends the peer in order and starts it again.
    pub async fn restart(&self) {
        self.stop().await;
        self.start().await;
    }

    /// Ends the peer in order and starts it as a build that knows these models: an older or a newer one.
    pub async fn rebuild(&self, registry: Registry) {
        self.stop().await;
        *self.0.registry.borrow_mut() = registry;
        self.start().await;
    }

    /// Kills the peer: of what it did, only what the file system had at this instant is left, and it says nothing more.
    pub async fn kill(&self) {
        let copy = self.copy();
        self.die_to(&copy).await;
    }

    /// Copies the data directory as a crash at this instant would leave it.
    #[must_use]
    pub fn copy(&self) -> Backup {
        Backup::of(&self.0.data)
    }

    /// Kills the peer as if it had been at the instant of the copy.
    pub async fn die_to(&self, copy: &Backup) {
        let number = self.0.number;
        self.0
            .network
            .change(move |conditions| {
                conditions.dead.insert(number);
            })
            .await;
        self.stop().await;
        put_files(copy.0.path(), &self.0.data);
        self.0
            .network
            .change(move |conditions| {
                conditions.dead.remove(&number);
                conditions.mute.remove(&number);
            })
            .await;
    }

    /// Sets the wall clock off by so many milliseconds.
    pub fn skew_ms(&self, skew_ms: i64) {
        self.0.latest_ms.set(self.latest_wall_ms());
        self.0.skew_ms.store(skew_ms, Ordering::Relaxed);
    }

    /// The latest that its wall clock ever showed, in milliseconds since 1970.
    #[must_use]
    pub fn latest_wall_ms(&self) -> u64 {
        self.0.latest_ms.get().max(wall_ms(self.0.epoch, &self.0.skew_ms))
    }

    pub(super) fn shift_clock(&self, time: Duration) {
        let ms = i64::try_from(time.as_millis()).expect("a few years at most");
        self.0.latest_ms.set(self.latest_wall_ms());
        self.0.skew_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Puts an older copy of the database in place; key and other files stay. The peer must not run.
    ///
    /// # Panics
    /// When it runs.
    pub fn restore_database(&self, backup: &Backup) {
        self.lose_database();
        for file in files(backup.0.path()).into_iter().filter(|file| is_database(file)) {
            copy_into(&file, &self.0.data);
        }
    }

    /// Loses everything, its key too: it starts as another device.
    ///
    /// # Panics
    /// When the peer runs.
    pub fn wipe(&self) {
        assert!(!self.is_running(), "{} runs", self.0.name);
        fs::remove_dir_all(&self.0.data).expect("a directory can be removed");
    }

    /// Loses the database and keeps the key.
    ///
    /// # Panics
    /// When the peer runs.
    pub fn lose_database(&self) {
        assert!(!self.is_running(), "{} runs", self.0.name);
        for file in files(&self.0.data).into_iter().filter(|file| is_database(file)) {
            fs::remove_file(file).expect("a file can be removed");
        }
    }

    /// Loses its whole data directory, the key too: when it starts again it is another device.
    ///
    /// # Panics
    /// When the peer runs.
    pub fn lose_everything(&self) {
        assert!(!self.is_running(), "{} runs", self.0.name);
        fs::remove_dir_all(&self.0.data).expect("a directory can be removed");
    }

    /// Joins the library of `inviter`, which must not hold data of this device's own.
    pub async fn join(&self, inviter: &Self) {
        let ticket = inviter.ticket(TICKET_TIME).await;
        self.join_with(&ticket).await.unwrap_or_else(|error| panic!("{} cannot join: {error}", self.0.name));
    }

    /// Issues a ticket.
    pub async fn ticket(&self, expires: Duration) -> String {
        self.peer().invite(expires).await.expect("a ticket is issued").ticket
    }

    /// Joins with a ticket.
    ///
    /// # Errors
    /// As [`PeerHandle::join`].
    pub async fn join_with(&self, ticket: &str) -> Result<(), JoinError> {
        self.peer().join(ticket, false).await.map(drop)
    }

    /// What it says of itself.
    pub async fn status(&self) -> Status {
        self.peer().status().await.unwrap_or_else(|error| panic!("{}: {error}", self.0.name))
    }

    /// Its kept losers.
    pub async fn conflicts(&self) -> Vec<Conflict> {
        self.peer().conflicts().await.unwrap_or_else(|error| panic!("{}: {error}", self.0.name))
    }
}

fn wall_ms(epoch: Instant, skew_ms: &AtomicI64) -> u64 {
    let since_ms = u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
    (BEGIN_MS + since_ms).saturating_add_signed(skew_ms.load(Ordering::Relaxed))
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a data directory can be read");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry can be read").path()).collect();
    files.retain(|file| file.is_file() && !file.to_string_lossy().ends_with("-shm"));
    files.sort();
    files
}

fn is_database(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".sqlite") || name.ends_with(".sqlite-wal")
}

fn copy_into(file: &Path, directory: &Path) {
    let name = file.file_name().expect("a file has a name");
    fs::copy(file, directory.join(name)).expect("a file can be copied");
}

fn copy_files(directory: &Path) -> TempDir {
    let copy = scratch("starling-copy");
    for file in files(directory) {
        copy_into(&file, copy.path());
    }
    copy
}

/// A directory that goes with its owner, in memory where there is such a place: a simulated disk need not be slow.
pub(super) fn scratch(prefix: &str) -> TempDir {
    let memory = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    let made = if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() };
    made.expect("a directory can be made")
}

fn put_files(from: &Path, into: &Path) {
    fs::remove_dir_all(into).expect("a directory can be removed");
    fs::create_dir(into).expect("a directory can be made");
    for file in files(from) {
        copy_into(&file, into);
    }
}
