//! A node's end of the simulated network: takes the messages that libp2p would take and hands them on, in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use actix::prelude::*;
use futures::channel::oneshot;
use starling::NetworkFactory;
use starling::network::{Admit, Dial, Disconnect, NetworkAddress, NetworkError, NetworkEvent, Publish, Request};
use starling_schema::ids::LibraryId;
use starling_schema::key::DeviceKey;

use super::network::SimNetwork;

/// Which node of a cluster: 0 is the first that was made.
pub type NodeNo = usize;

/// Messages that wait at a port: as many as at the real network.
const MAILBOX: usize = 256;

/// One life of a node's network: a node that restarts or joins another library attaches anew.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Attachment {
    pub(super) node: NodeNo,
    pub(super) life: u64,
}

/// What a node asks of the network.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Asked {
    pub(super) by: Attachment,
    pub(super) what: Ask,
}

/// What can be asked.
#[derive(Debug)]
pub(super) enum Ask {
    Attach { key: DeviceKey, library: LibraryId, events: Recipient<NetworkEvent>, dead: Arc<AtomicBool> },
    Publish(Vec<u8>),
    Request { peer: DeviceKey, bytes: Vec<u8>, reply: oneshot::Sender<Result<Vec<u8>, NetworkError>> },
    Dial { peer: DeviceKey, addresses: Vec<String>, reply: oneshot::Sender<Result<(), NetworkError>> },
    Disconnect(DeviceKey),
    Admit(Admit),
    Detach,
}

/// Hands a node's messages to the network of the cluster.
pub(super) struct Port {
    attachment: Attachment,
    network: Addr<SimNetwork>,
    dead: Arc<AtomicBool>,
}

impl Port {
    /// What makes a node's network whenever the node wants one.
    /// Whatever a node asks from the instant at which `dead` is set goes nowhere.
    pub(super) fn factory(
        node: NodeNo,
        network: Addr<SimNetwork>,
        lives: Arc<AtomicU64>,
        dead: Arc<AtomicBool>,
    ) -> NetworkFactory {
        Arc::new(move |key, library, events| {
            let life = lives.fetch_add(1, Ordering::Relaxed);
            let port = Self { attachment: Attachment { node, life }, network: network.clone(), dead: dead.clone() };
            port.ask(Ask::Attach { key, library, events, dead: dead.clone() });
            port.open()
        })
    }

    fn open(self) -> NetworkAddress {
        let port = Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            self
        });
        NetworkAddress {
            publish: port.clone().recipient(),
            request: port.clone().recipient(),
            dial: port.clone().recipient(),
            disconnect: port.clone().recipient(),
            admit: port.recipient(),
        }
    }

    fn ask(&self, what: Ask) {
        if self.dead.load(Ordering::Relaxed) && !matches!(what, Ask::Detach) {
            return;
        }
        if let Err(error) = self.network.try_send(Asked { by: self.attachment, what }) {
            tracing::debug!(%error, node = self.attachment.node, "the simulated network did not take a message");
        }
    }
}

impl Actor for Port {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        self.ask(Ask::Detach);
    }
}

impl Handler<Publish> for Port {
    type Result = ();

    fn handle(&mut self, Publish(bytes): Publish, _: &mut Self::Context) {
        self.ask(Ask::Publish(bytes));
    }
}

impl Handler<Request> for Port {
    type Result = ResponseFuture<Result<Vec<u8>, NetworkError>>;

    fn handle(&mut self, Request { peer, bytes }: Request, _: &mut Self::Context) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Request { peer, bytes, reply });
        Box::pin(async move { answer.await.unwrap_or(Err(NetworkError::NotConnected)) })
    }
}

impl Handler<Dial> for Port {
    type Result = ResponseFuture<Result<(), NetworkError>>;

    fn handle(&mut self, Dial { peer, addresses }: Dial, _: &mut Self::Context) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Dial { peer, addresses, reply });
        Box::pin(async move { answer.await.unwrap_or(Err(NetworkError::NotConnected)) })
    }
}

impl Handler<Disconnect> for Port {
    type Result = ();

    fn handle(&mut self, Disconnect(peer): Disconnect, _: &mut Self::Context) {
        self.ask(Ask::Disconnect(peer));
    }
}

impl Handler<Admit> for Port {
    type Result = ();

    fn handle(&mut self, admit: Admit, _: &mut Self::Context) {
        self.ask(Ask::Admit(admit));
    }
}
