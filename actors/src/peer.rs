//! The peer actor: one device's tree of actors. It starts them in order, stops them in the reverse, and changes the
//! library when the device joins another.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix::prelude::*;
use futures::channel::oneshot;
use parking_lot::RwLock;
use starling_schema::ids::LibraryId;
use starling_schema::key::{DeviceKey, DeviceSecret};
use starling_schema::model::Syncable;
use starling_schema::models::Device;
use starling_schema::stream::Watermarks;

use crate::address_book::{AddressBook, BOOK_SETTING};
use crate::backfill_buffer::BackfillBuffer;
use crate::engine::Engine;
use crate::environment::{Environment, Placement};
use crate::events::Events;
use crate::heartbeats::{Heartbeats, HeartbeatsStart, PublishTo};
use crate::identity::{Identity, IdentityError};
use crate::links::{Halt, Links};
use crate::network::{self, Network, NetworkAddress, NetworkEvent, NetworkOptions};
use crate::proto::membership::Membership;
use crate::proto::pairing::{IssuedTicket, Tickets};
use crate::reader::{Reader, Readers};
use crate::retry_queue::RetryQueue;
use crate::roster::{Roster, Wire};
use crate::store::ledger::{self, Note};
use crate::store::open::{open_reader, open_writer};
use crate::store::tables::Tables;
use crate::store::{OpenError, Registry};
use crate::transactions::{Close, Commit, Listen, Transactions};

/// Makes the network of a peer from its key, its library, and where events go; called again after a join.
pub type NetworkFactory =
    Arc<dyn Fn(DeviceKey, LibraryId, Recipient<NetworkEvent>) -> NetworkAddress + Send + std::marker::Sync>;

/// How a peer reaches others.
#[derive(Clone)]
pub enum NetworkChoice {
    /// libp2p.
    Libp2p {
        /// Multiaddresses to listen on; none: any port on all interfaces.
        listen: Vec<String>,
        /// Whether to look for members on the local network.
        mdns: bool,
    },
    /// Whatever this makes: a simulated network.
    Given(NetworkFactory),
}

impl std::fmt::Debug for NetworkChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Libp2p { listen, mdns } => {
                f.debug_struct("Libp2p").field("listen", listen).field("mdns", mdns).finish()
            }
            Self::Given(_) => f.write_str("Given"),
        }
    }
}

/// What a peer is started with.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// Where the key, the database and the lock live. Made if missing.
    pub data: PathBuf,
    /// This device's name; none keeps the one it has.
    pub name: Option<String>,
    /// How it reaches others.
    pub network: NetworkChoice,
    /// Time, randomness, placement.
    pub environment: Environment,
    /// The models of the library.
    pub registry: Registry,
}

/// Why a peer could not be started. Nothing was left half made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another process holds the data directory.
    #[error("another peer is running on {0}")]
    Locked(PathBuf),
    /// The data directory or the key cannot be used.
    #[error("{0}")]
    Identity(String),
    /// The database is corrupt, newer, or cannot be opened.
    #[error("{0}")]
    Store(String),
    /// An address is taken or malformed.
    #[error("{0}")]
    Network(String),
}

impl From<IdentityError> for StartError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Locked(data) => Self::Locked(data),
            other => Self::Identity(other.to_string()),
        }
    }
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        Self::Store(error.to_string())
    }
}

fn store_error(error: impl std::fmt::Display) -> StartError {
    StartError::Store(error.to_string())
}

/// The running actors of one library.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) links: Links,
    pub(crate) roster: Addr<Roster>,
    libp2p: Option<Addr<Network>>,
    readers: Vec<Addr<Reader>>,
}

/// The threads that actors live on: the one place that decides it.
struct Threads {
    store: ArbiterHandle,
    readers: Vec<ArbiterHandle>,
    protocol: ArbiterHandle,
    network: ArbiterHandle,
    own: Vec<Arbiter>,
}

impl Threads {
    fn new(placement: Placement) -> Self {
        match placement {
            Placement::OneThread => {
                let here = Arbiter::current();
                let readers = vec![here.clone()];
                Self { store: here.clone(), readers, protocol: here.clone(), network: here, own: Vec::new() }
            }
            Placement::Threads { readers } => {
                let own: Vec<Arbiter> = (0..3 + readers.max(1)).map(|_| Arbiter::new()).collect();
                let mut handles = own.iter().map(Arbiter::handle);
                let mut next = || handles.next().unwrap_or_else(Arbiter::current);
                let (store, protocol, network) = (next(), next(), next());
                Self { store, protocol, network, readers: own.iter().skip(3).map(Arbiter::handle).collect(), own }
            }
        }
    }
}

/// What is read from the database before the actors start.
struct Stored {
    membership: Membership,
    tickets: Tickets,
    book: AddressBook,
    marks: Watermarks,
    beacons: Vec<(starling_schema::signed::Signed, u64)>,
    retries: (Vec<ledger::StoredRetry>, Vec<ledger::StoredLetter>),
    device_name: Option<String>,
}

/// Reads what the actors start from; founds a library in a new database.
fn read_stored(
    c: &mut diesel::sqlite::SqliteConnection,
    secret: &DeviceSecret,
    options: &PeerOptions,
) -> Result<Stored, StartError> {
    let statements = ledger::statements(c).map_err(store_error)?;
    let membership = if statements.is_empty() {
        let name = options.name.clone().unwrap_or_else(host_name);
        let (nonce, at_ms) = (options.environment.random_bytes(), options.environment.wall_ms());
        let title = format!("{name}'s library");
        let (library, membership) = Membership::found(&title, &name, nonce, at_ms, secret).map_err(store_error)?;
        found(c, library, &membership)?;
        membership
    } else {
        let library = ledger::setting(c, LIBRARY_SETTING)
            .map_err(store_error)?
            .and_then(|bytes| LibraryId::from_slice(&bytes))
            .ok_or_else(|| store_error("the database does not say which library it holds: it is damaged"))?;
        let mut membership = Membership::new(library);
        membership.insert_all(statements);
        membership
    };
    let tickets =
        ledger::tickets(c).map_err(store_error)?.into_iter().filter_map(|(_, secret, expires_at_ms, used)| {
            let used_by = used.and_then(|key| key.try_into().ok()).map(DeviceKey);
            Some(IssuedTicket { secret: secret.try_into().ok()?, expires_at_ms, used_by })
        });
    let tickets = Tickets::restore(tickets);
    let book = ledger::setting(c, BOOK_SETTING).map_err(store_error)?;
    let own: Option<Device> = crate::records::get(c, secret.device().record()).map_err(store_error)?;
    Ok(Stored {
        membership,
        tickets,
        book: AddressBook::restore(book.as_deref()),
        marks: ledger::streams(c).map_err(store_error)?.0,
        beacons: ledger::beacons(c).map_err(store_error)?,
        retries: (ledger::retries(c).map_err(store_error)?, ledger::dead_letters(c).map_err(store_error)?),
        device_name: own.and_then(|device| device.name),
    })
}

/// The setting that names the library.
pub(crate) const LIBRARY_SETTING: &str = "library";

/// Writes a library's identity into an empty database.
pub(crate) fn found(
    c: &mut diesel::sqlite::SqliteConnection,
    library: LibraryId,
    membership: &Membership,
) -> Result<(), StartError> {
    use diesel::Connection;
    c.transaction(|c| {
        for statement in membership.statements() {
            ledger::keep(c, &Note::Statement(statement.clone()))?;
        }
        ledger::set_setting(c, LIBRARY_SETTING, library.0.as_bytes())
    })
    .map_err(store_error)
}

fn host_name() -> String {
    let named =
        std::fs::read_to_string("/etc/hostname").or_else(|_| std::env::var("HOSTNAME").map_err(std::io::Error::other));
    named.ok().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "device".to_owned())
}

impl Tree {
    /// Starts everything over the database of a data directory.
    async fn start(identity: &Identity, options: &PeerOptions, threads: &Threads) -> Result<Self, StartError> {
        let (environment, registry) = (options.environment.clone(), &options.registry);
        let path = identity.database();
        let mut writer = open_writer(&path)?;
        let secret = identity.secret.clone();
        let stored = read_stored(&mut writer, &secret, options)?;
        let library = stored.membership.library();
        let events = Events::start_in_arbiter(&threads.protocol, |_| Events::default());
        let transactions = start_store(writer, &secret, &threads.store, &events, &environment, registry).await?;
        let readers = start_readers(&path, &threads.readers, registry)?;
        let device = secret.device();
        let buffer = {
            let (transactions, environment, marks) = (transactions.clone(), environment.clone(), stored.marks.clone());
            BackfillBuffer::start_in_arbiter(&threads.protocol, move |_| {
                BackfillBuffer::new(device, marks, transactions, environment)
            })
        };
        let retry = {
            let (transactions, environment, marks) = (transactions.clone(), environment.clone(), stored.marks.clone());
            let retries = stored.retries;
            RetryQueue::start_in_arbiter(&threads.protocol, move |_| {
                RetryQueue::new(device, &marks, retries, transactions, environment)
            })
        };
        let start = HeartbeatsStart {
            secret: secret.clone(),
            environment: environment.clone(),
            transactions: transactions.clone(),
            retry: retry.clone(),
            buffer: buffer.clone(),
            membership: stored.membership.clone(),
            stored: stored.beacons,
        };
        let heartbeats = Heartbeats::start_in_arbiter(&threads.protocol, move |_| Heartbeats::new(start));
        let (membership, tickets, book) = (stored.membership, stored.tickets, stored.book);
        let roster_secret = secret.clone();
        let roster =
            Roster::start_in_arbiter(&threads.protocol, move |_| Roster::new(roster_secret, membership, tickets, book));
        let network = start_network(options, &secret, library, &roster, &threads.network).await;
        let (network, libp2p) = match network {
            Ok(started) => started,
            Err(error) => {
                let halted = [
                    roster.send(Halt).await,
                    heartbeats.send(Halt).await,
                    retry.send(Halt).await,
                    buffer.send(Halt).await,
                ];
                tracing::debug!(?halted, "stopped again");
                close(&transactions).await;
                return Err(error);
            }
        };
        let links = Links {
            device,
            secret,
            library,
            environment,
            network,
            readers: Readers::new(readers.clone()),
            transactions,
            buffer,
            retry,
            heartbeats,
            events,
        };
        let tree = Self { links, roster, libp2p, readers };
        tree.wire(options, stored.device_name).await?;
        Ok(tree)
    }

    /// Makes the actors known to each other and writes this device's own record.
    async fn wire(&self, options: &PeerOptions, known_name: Option<String>) -> Result<(), StartError> {
        let Links { transactions, buffer, retry, heartbeats, network, device, .. } = &self.links;
        let listeners = [
            buffer.clone().recipient(),
            retry.clone().recipient(),
            heartbeats.clone().recipient(),
            self.roster.clone().recipient(),
        ];
        for listener in listeners {
            transactions.send(Listen(listener)).await.map_err(store_error)?;
        }
        heartbeats.send(PublishTo(network.publish.clone())).await.map_err(store_error)?;
        self.roster.send(Wire(self.links.clone())).await.map_err(store_error)?;
        let mut own = Device::new(device.record());
        own.name = Some(options.name.clone().or(known_name).unwrap_or_else(host_name));
        own.os = Some(std::env::consts::OS.to_owned());
        own.hardware = Some(std::env::consts::ARCH.to_owned());
        own.app_version = Some(env!("CARGO_PKG_VERSION").to_owned());
        transactions.send(Commit(vec![own.put()])).await.map_err(store_error)?.map_err(store_error)?;
        Ok(())
    }

    /// Stops everything: the network first, the store last.
    async fn stop(&self) {
        if let Some(libp2p) = &self.libp2p
            && libp2p.send(network::Stop).await.is_err()
        {
            tracing::debug!("the network had stopped already");
        }
        let Links { buffer, retry, heartbeats, transactions, .. } = &self.links;
        let halted = [
            self.roster.send(Halt).await,
            heartbeats.send(Halt).await,
            retry.send(Halt).await,
            buffer.send(Halt).await,
        ];
        tracing::debug!(?halted, "the protocol has stopped");
        for reader in &self.readers {
            if reader.send(Halt).await.is_err() {
                tracing::debug!("a reader had stopped already");
            }
        }
        close(transactions).await;
        if self.links.events.send(Halt).await.is_err() {
            tracing::debug!("events had stopped already");
        }
    }
}

async fn close(transactions: &Addr<Transactions>) {
    if transactions.send(Close).await.is_err() {
        tracing::debug!("the store had stopped already");
    }
}

async fn start_store(
    writer: diesel::sqlite::SqliteConnection,
    secret: &DeviceSecret,
    thread: &ArbiterHandle,
    events: &Addr<Events>,
    environment: &Environment,
    registry: &Registry,
) -> Result<Addr<Transactions>, StartError> {
    let (started, waiting) = oneshot::channel();
    let (device, events) = (secret.device(), events.clone().recipient());
    let (environment, registry) = (environment.clone(), registry.clone());
    thread.spawn_fn(move || {
        let engine = Engine::start(writer, device, Tables::new(&registry), environment.clone());
        let store = engine.map(|engine| Transactions::new(engine, events, environment).start());
        // Whoever gave up waiting drops the store with it.
        let _gone: Result<(), _> = started.send(store);
    });
    waiting.await.map_err(store_error)?.map_err(store_error)
}

fn start_readers(path: &Path, threads: &[ArbiterHandle], registry: &Registry) -> Result<Vec<Addr<Reader>>, StartError> {
    threads
        .iter()
        .map(|thread| {
            let connection = open_reader(path)?;
            let registry = registry.clone();
            Ok(Reader::start_in_arbiter(thread, move |_| Reader::new(connection, &registry)))
        })
        .collect()
}

async fn start_network(
    options: &PeerOptions,
    secret: &DeviceSecret,
    library: LibraryId,
    roster: &Addr<Roster>,
    thread: &ArbiterHandle,
) -> Result<(NetworkAddress, Option<Addr<Network>>), StartError> {
    let events = roster.clone().recipient();
    match &options.network {
        NetworkChoice::Given(make) => Ok((make(secret.public(), library, events), None)),
        NetworkChoice::Libp2p { listen, mdns } => {
            let network = NetworkOptions { secret: secret.clone(), library, listen: listen.clone(), mdns: *mdns };
            let started = Network::start(network, events, thread)
                .await
                .map_err(|error| StartError::Network(error.to_string()))?;
            for address in started.listening {
                let event = NetworkEvent::Listening { address };
                roster.send(event).await.map_err(|error| StartError::Network(error.to_string()))?;
            }
            Ok((started.address, Some(started.actor)))
        }
    }
}

/// Owns the data directory, the threads and the tree.
pub(crate) struct Peer {
    parts: Option<Parts>,
    tree: Arc<RwLock<Tree>>,
    stopped: Vec<oneshot::Sender<()>>,
}

/// What must outlive any one tree.
struct Parts {
    identity: Identity,
    options: PeerOptions,
    threads: Threads,
}

impl Peer {
    /// Starts a peer; gives its address and its tree, which changes when it joins another library.
    pub(crate) async fn run(options: PeerOptions) -> Result<(Addr<Self>, Arc<RwLock<Tree>>), StartError> {
        let identity = Identity::open(&options.data, &options.environment)?;
        let threads = Threads::new(options.environment.placement);
        let tree = Arc::new(RwLock::new(Tree::start(&identity, &options, &threads).await?));
        let parts = Some(Parts { identity, options, threads });
        let peer = Self { parts, tree: tree.clone(), stopped: Vec::new() };
        Ok((peer.start(), tree))
    }
}

impl Actor for Peer {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        for waiting in self.stopped.drain(..) {
            // Who stopped waiting needs no word.
            let _gone: Result<(), ()> = waiting.send(());
        }
    }
}

/// End the peer in order; answered when everything is closed.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct StopPeer;

impl Handler<StopPeer> for Peer {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: StopPeer, _: &mut Self::Context) -> Self::Result {
        let (parts, tree) = (self.parts.take(), self.tree.read().clone());
        let stop = async move {
            if let Some(parts) = parts {
                tree.stop().await;
                for arbiter in &parts.threads.own {
                    arbiter.stop();
                }
                for arbiter in parts.threads.own {
                    if arbiter.join().is_err() {
                        tracing::error!("a thread of the peer had panicked");
                    }
                }
            }
        };
        Box::pin(stop.into_actor(self).map(|(), _, ctx| ctx.stop()))
    }
}

/// Tell when the peer has stopped.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct WhenStopped(pub(crate) oneshot::Sender<()>);

impl Handler<WhenStopped> for Peer {
    type Result = ();

    fn handle(&mut self, WhenStopped(waiting): WhenStopped, _: &mut Self::Context) {
        self.stopped.push(waiting);
    }
}

/// Put another library in the place of this one; the old file is kept when it holds data.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), StartError>")]
pub(crate) struct ChangeLibrary {
    pub(crate) membership: Membership,
    pub(crate) inviter: DeviceKey,
    pub(crate) addresses: Vec<String>,
    pub(crate) keep_old: bool,
}

impl Handler<ChangeLibrary> for Peer {
    type Result = ResponseActFuture<Self, Result<(), StartError>>;

    fn handle(&mut self, change: ChangeLibrary, _: &mut Self::Context) -> Self::Result {
        let (parts, tree) = (self.parts.take(), self.tree.read().clone());
        let work = async move {
            let Some(mut parts) = parts else { return (None, Err(store_error("the peer is stopping"))) };
            tree.stop().await;
            let swapped = swap(&parts.identity, &change);
            // A listener's port may be free only a moment after the old network ended.
            parts.options.name.get_or_insert_with(|| own_name(&tree));
            let started = match Tree::start(&parts.identity, &parts.options, &parts.threads).await {
                Err(StartError::Network(_)) => {
                    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                    Tree::start(&parts.identity, &parts.options, &parts.threads).await
                }
                other => other,
            };
            (Some(parts), swapped.and(started.map(Some)).map(|tree| tree))
        };
        Box::pin(work.into_actor(self).map(|(parts, started), actor, ctx| {
            actor.parts = parts;
            match started {
                Ok(tree) => {
                    if let Some(tree) = tree {
                        *actor.tree.write() = tree;
                    }
                    Ok(())
                }
                Err(error) => {
                    ctx.stop();
                    Err(error)
                }
            }
        }))
    }
}

fn own_name(tree: &Tree) -> String {
    tree.links.device.to_string()
}

/// Builds the joined library's file beside the old one and renames it into place.
fn swap(identity: &Identity, change: &ChangeLibrary) -> Result<(), StartError> {
    let (current, fresh) = (identity.database(), identity.data.join("joining.sqlite"));
    remove_database(&fresh)?;
    {
        let mut c = open_writer(&fresh)?;
        found(&mut c, change.membership.library(), &change.membership)?;
        let book = AddressBook::of(change.inviter.device(), change.addresses.clone());
        ledger::keep(&mut c, &book.note()).map_err(store_error)?;
        crate::store::sql::run(&mut c, "PRAGMA wal_checkpoint(TRUNCATE)").map_err(store_error)?;
    }
    if change.keep_old {
        let kept = identity.data.join(format!("left-{}.sqlite", current_stamp(identity)));
        remove_database(&kept)?;
        std::fs::rename(&current, &kept).map_err(store_error)?;
    }
    remove_database(&current)?;
    std::fs::rename(&fresh, &current).map_err(store_error)
}

/// How many libraries were left behind before: the next one's number.
fn current_stamp(identity: &Identity) -> usize {
    (1..).find(|n| !identity.data.join(format!("left-{n}.sqlite")).exists()).unwrap_or(1)
}

fn remove_database(path: &Path) -> Result<(), StartError> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(store_error(error)),
            _ => {}
        }
    }
    Ok(())
}
