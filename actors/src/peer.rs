//! The peer actor: one device's tree of actors. It starts them in order, stops them in the reverse, and changes the
//! library when the device joins another.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures::channel::oneshot;
use parking_lot::RwLock;
use starling_schema::ids::LibraryId;
use starling_schema::key::DeviceKey;

use crate::environment::Environment;
use crate::identity::{Identity, IdentityError};
use crate::library_file::swap;
use crate::network::{NetworkAddress, NetworkEvent};
use crate::proto::membership::Membership;
use crate::store::{OpenError, Registry};
use crate::tree::{Threads, Tree};

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

/// A failure of the library's file.
pub(crate) fn store_error(error: impl std::fmt::Display) -> StartError {
    StartError::Store(error.to_string())
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
        let tree = match Tree::start(&identity, &options, &threads).await {
            Ok(tree) => Arc::new(RwLock::new(tree)),
            Err(error) => {
                threads.end();
                return Err(error);
            }
        };
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
                parts.threads.end();
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

/// How long, in milliseconds, a start is waited with after one that failed, when the library changes. A peer that still
/// cannot start stops.
const START_AGAIN_MS: [u64; 5] = [500, 1_000, 2_000, 4_000, 8_000];

/// Put another library in the place of this one; the old file is kept.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), StartError>")]
pub(crate) struct ChangeLibrary {
    pub(crate) membership: Membership,
    pub(crate) inviter: DeviceKey,
    pub(crate) addresses: Vec<String>,
    /// Where this device listens: it does so again.
    pub(crate) own_addresses: Vec<String>,
}

impl Handler<ChangeLibrary> for Peer {
    /// Nothing else is done meanwhile: neither a stop nor another change may come between.
    type Result = AtomicResponse<Self, Result<(), StartError>>;

    fn handle(&mut self, change: ChangeLibrary, _: &mut Self::Context) -> Self::Result {
        let tree = self.tree.read().clone();
        if tree.links.library == change.membership.library() {
            // Two joins at once: the other one was first.
            return AtomicResponse::new(Box::pin(async { Ok(()) }.into_actor(self)));
        }
        let Some(parts) = self.parts.take() else {
            return AtomicResponse::new(Box::pin(async { Err(store_error("the peer is stopping")) }.into_actor(self)));
        };
        let work = async move {
            tree.stop().await;
            let swapped = swap(&parts.identity, &change, &parts.options.environment);
            // A listener's port may be free only a moment after the old network ended, and a disk may recover.
            let mut started = Tree::start(&parts.identity, &parts.options, &parts.threads).await;
            for wait_ms in START_AGAIN_MS {
                let Err(error) = &started else { break };
                tracing::warn!(%error, "the peer does not start again yet");
                tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                started = Tree::start(&parts.identity, &parts.options, &parts.threads).await;
            }
            (parts, started.map(|tree| (tree, swapped)))
        };
        AtomicResponse::new(Box::pin(work.into_actor(self).map(|(parts, started), actor, ctx| {
            actor.parts = Some(parts);
            match started {
                // Whether or not the file could be changed: a peer runs again, on the one that is there.
                Ok((tree, swapped)) => {
                    *actor.tree.write() = tree;
                    swapped
                }
                Err(error) => {
                    ctx.stop();
                    Err(error)
                }
            }
        })))
    }
}
