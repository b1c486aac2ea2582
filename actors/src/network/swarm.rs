//! The actor `Network`: owns the libp2p swarm, answers the network's messages, and tells the roster what happened.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::pin::Pin;

use actix::dev::RecipientRequest;
use actix::prelude::*;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::gossipsub::{MessageId, TopicHash};
use libp2p::request_response::ResponseChannel;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{PeerId, Swarm};
use starling_schema::ids::LibraryId;
use starling_schema::key::{DeviceKey, DeviceSecret};
use starling_schema::wire::{GOSSIP_BYTES_MAX, REQUEST_BYTES_MAX};
use tracing::{debug, warn};

use super::address::parse_peer_address;
use super::behaviour::{self, Behaviour, REQUEST_TIMEOUT};
use super::calls::{Calls, DialReceiver, ResponseReceiver};
use super::driver::Driver;
use super::keys::{keypair, peer_id};
use super::listen::{Happened, LISTEN_DEFAULT, StartNetworkError, listen};
use super::{Admit, Dial, Disconnect, NetworkAddress, NetworkError, NetworkEvent, Publish, Request, Verdict};

/// The most messages that wait for the swarm: several for each device that can be connected.
const MAILBOX_MAX: usize = 256;

/// The most addresses that one dial tries: each costs a socket and a handshake.
const DIAL_ADDRESSES_MAX: usize = 16;

/// What a network is started with.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// The key that proves this device.
    pub secret: DeviceSecret,
    /// The library whose members meet here.
    pub library: LibraryId,
    /// The multiaddresses to listen on; when empty, any free port for TCP and one for QUIC on every interface.
    pub listen: Vec<String>,
    /// Whether to announce ourselves on the local network and to look for others there.
    pub mdns: bool,
}

/// A network that listens.
#[derive(Clone, Debug)]
pub struct StartedNetwork {
    /// Where it takes messages. Once every clone of it and of `actor` is dropped, the network stops.
    pub address: NetworkAddress,
    /// The multiaddresses at which it can be reached, ports filled in, without the peer part.
    pub listening: Vec<String>,
    /// The actor, to [`Stop`] it.
    pub actor: Addr<Network>,
}

/// How long a connection stays open after the last answer on it was sent: longer than a full answer takes on a slow link
/// would be better, but whoever asked asks again.
const LINGER: std::time::Duration = std::time::Duration::from_secs(1);

/// An answer of ours on its way: the answer, none when there is none, and where it goes.
pub(super) type Answer = BoxFuture<'static, (PeerId, Option<Vec<u8>>, ResponseChannel<Vec<u8>>)>;
/// A verdict on its way: about which message, relayed by whom.
pub(super) type Judgement = BoxFuture<'static, (MessageId, PeerId, Verdict)>;

/// The network of one library: a libp2p swarm behind a mailbox.
///
/// It stops by [`Stop`], when nobody holds its address any more, or when nobody takes its events any more. All
/// connections close then.
pub struct Network {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) topic: TopicHash,
    pub(super) events: Recipient<NetworkEvent>,
    /// Swarm events from before the actor started.
    pub(super) early: VecDeque<Happened>,
    /// Events that wait to be told. While there are any the swarm is not polled, so one turn's worth is all there is.
    pub(super) outbox: VecDeque<NetworkEvent>,
    /// An event that the roster's mailbox had no room for; nothing is told before it is handled.
    pub(super) held: Option<Pin<Box<RecipientRequest<NetworkEvent>>>>,
    pub(super) calls: Calls,
    pub(super) answers: FuturesUnordered<Answer>,
    pub(super) judgements: FuturesUnordered<Judgement>,
    pub(super) connections: HashMap<ConnectionId, PeerId>,
    /// Connections to be closed once no request is under way on them.
    pub(super) closing: HashSet<ConnectionId>,
    /// Devices whose connections are looked at again after a moment.
    pub(super) lingering: FuturesUnordered<BoxFuture<'static, PeerId>>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("local", self.swarm.local_peer_id())
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl Network {
    /// Starts a network on an arbiter and returns once it listens. Nobody may connect before the first [`Admit`].
    ///
    /// # Errors
    /// When an address is bad or taken, or the swarm cannot be set up. Nothing is left running then.
    pub async fn start(
        options: NetworkOptions,
        events: Recipient<NetworkEvent>,
        arbiter: &ArbiterHandle,
    ) -> Result<StartedNetwork, StartNetworkError> {
        let (report, outcome) = oneshot::channel();
        // The swarm's sockets and timers belong to the runtime on which they are made.
        let spawned = arbiter.spawn(async move {
            drop(report.send(Self::start_here(options, events).await));
        });
        let stopped = || StartNetworkError::Setup("its arbiter has stopped".to_owned());
        if !spawned {
            return Err(stopped());
        }
        outcome.await.map_err(|_| stopped())?
    }

    async fn start_here(
        options: NetworkOptions,
        events: Recipient<NetworkEvent>,
    ) -> Result<StartedNetwork, StartNetworkError> {
        let NetworkOptions { secret, library, listen: mut addresses, mdns } = options;
        let keypair = keypair(&secret).ok_or_else(|| StartNetworkError::Setup("the key is not valid".to_owned()))?;
        let mut swarm = behaviour::swarm(keypair, library, mdns).map_err(StartNetworkError::Setup)?;
        if addresses.is_empty() {
            addresses = LISTEN_DEFAULT.map(str::to_owned).to_vec();
        }
        let early = listen(&mut swarm, &addresses).await?;
        let listening = swarm.listeners().map(ToString::to_string).collect();
        let actor = Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX_MAX);
            Self {
                swarm,
                topic: behaviour::topic_hash(library),
                events,
                early,
                outbox: VecDeque::new(),
                held: None,
                calls: Calls::default(),
                answers: FuturesUnordered::new(),
                judgements: FuturesUnordered::new(),
                connections: HashMap::new(),
                closing: HashSet::new(),
                lingering: FuturesUnordered::new(),
            }
        });
        let address = NetworkAddress {
            publish: actor.clone().recipient(),
            request: actor.clone().recipient(),
            dial: actor.clone().recipient(),
            disconnect: actor.clone().recipient(),
            admit: actor.clone().recipient(),
        };
        Ok(StartedNetwork { address, listening, actor })
    }

    fn publish(&mut self, bytes: Vec<u8>) {
        if bytes.len() > GOSSIP_BYTES_MAX {
            warn!(bytes = bytes.len(), bytes_max = GOSSIP_BYTES_MAX, "too large for gossip, not sent");
            return;
        }
        let gossip = self.swarm.behaviour_mut().gossip.inner_mut();
        if let Err(error) = gossip.publish(self.topic.clone(), bytes) {
            debug!(%error, "gossip reached nobody");
        }
    }

    fn request(&mut self, Request { peer, bytes }: Request) -> Result<ResponseReceiver, NetworkError> {
        let peer = peer_id(&peer).filter(|peer| self.swarm.is_connected(peer)).ok_or(NetworkError::NotConnected)?;
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(NetworkError::TooLarge);
        }
        if self.calls.is_busy(&peer) {
            return Err(NetworkError::Busy);
        }
        let request = self.swarm.behaviour_mut().requests.send_request(&peer, bytes);
        Ok(self.calls.sent(request, peer))
    }

    /// Begins a dial; nothing to wait for when the device is connected already.
    fn dial(&mut self, Dial { peer, addresses }: Dial) -> Result<Option<DialReceiver>, NetworkError> {
        let peer = peer_id(&peer).ok_or_else(|| NetworkError::Failed(format!("{peer} is no device's key")))?;
        if self.swarm.is_connected(&peer) {
            return Ok(None);
        }
        let addresses = addresses.iter().take(DIAL_ADDRESSES_MAX).map(|address| parse_peer_address(address, &peer));
        let addresses = addresses.collect::<Result<Vec<_>, _>>().map_err(NetworkError::Failed)?;
        // A dial under way may be trying addresses that are out of date, so it is no reason to refuse this one.
        // From a port of its own: two devices that dial each other from the ports they listen on can meet in one TCP
        // connection that both believe they opened, and neither handshake is answered.
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::Disconnected)
            .addresses(addresses)
            .allocate_new_port()
            .build();
        let connection = options.connection_id();
        self.swarm.dial(options)?;
        Ok(Some(self.calls.dialed(connection)))
    }

    fn admit(&mut self, Admit { members, guests, strangers }: &Admit) {
        let peers = |keys: &[DeviceKey]| keys.iter().filter_map(peer_id).collect::<HashSet<_>>();
        self.swarm.behaviour_mut().admit(peers(members), peers(guests), *strangers);
        let connections: Vec<_> = self.connections.iter().map(|(id, peer)| (*id, *peer)).collect();
        for (connection, peer) in connections {
            self.review(connection, peer);
        }
    }

    /// Closes a connection that does not fit who its peer is now: at once when the peer lost something; when it became
    /// a member, after the requests under way, one of which is likely the one that it joined by. It redials.
    pub(super) fn review(&mut self, connection: ConnectionId, peer: PeerId) {
        let behaviour = self.swarm.behaviour();
        let (admitted, member) = (behaviour.gate.admits(&peer), behaviour.gate.is_member(&peer));
        let carries_gossip = behaviour.gossip.carries(connection);
        if !admitted || (carries_gossip && !member) {
            self.swarm.close_connection(connection);
        } else if member && !carries_gossip {
            self.closing.insert(connection);
            self.linger(peer);
        } else {
            self.closing.remove(&connection);
        }
    }

    /// Looks after a moment whether connections with this device can be closed: an answer that was sent may still be
    /// in our buffers, and closing would drop it.
    pub(super) fn linger(&mut self, peer: PeerId) {
        if self.closing.iter().any(|connection| self.connections.get(connection) == Some(&peer)) {
            self.lingering.push(Box::pin(async move {
                tokio::time::sleep(LINGER).await;
                peer
            }));
        }
    }

    /// Closes the connections with this device that only waited for its requests to end.
    pub(super) fn close_when_idle(&mut self, peer: &PeerId) {
        if self.closing.is_empty() || !self.calls.is_idle(peer) {
            return;
        }
        for connection in self.closing.extract_if(|connection| self.connections.get(connection) == Some(peer)) {
            self.swarm.close_connection(connection);
        }
    }
}

impl Actor for Network {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(Driver);
    }
}

impl Handler<Publish> for Network {
    type Result = ();

    fn handle(&mut self, Publish(bytes): Publish, _: &mut Self::Context) {
        self.publish(bytes);
    }
}

impl Handler<Request> for Network {
    type Result = ResponseFuture<Result<Vec<u8>, NetworkError>>;

    fn handle(&mut self, request: Request, _: &mut Self::Context) -> Self::Result {
        let sent = self.request(request);
        Box::pin(async move {
            // The stream has a deadline of its own; this one is for a swarm held back by a roster that awaits us.
            match tokio::time::timeout(2 * REQUEST_TIMEOUT, sent?).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err(NetworkError::NotConnected),
                Err(_) => Err(NetworkError::Timeout),
            }
        })
    }
}

impl Handler<Dial> for Network {
    type Result = ResponseFuture<Result<(), NetworkError>>;

    fn handle(&mut self, dial: Dial, _: &mut Self::Context) -> Self::Result {
        let dialed = self.dial(dial);
        Box::pin(async move {
            match dialed? {
                Some(outcome) => outcome.await.unwrap_or(Err(NetworkError::NotConnected)),
                None => Ok(()),
            }
        })
    }
}

impl Handler<Disconnect> for Network {
    type Result = ();

    fn handle(&mut self, Disconnect(peer): Disconnect, _: &mut Self::Context) {
        if let Some(peer) = peer_id(&peer) {
            // An error only says that there is no connection, which is what was asked for.
            self.swarm.disconnect_peer_id(peer).ok();
        }
    }
}

impl Handler<Admit> for Network {
    type Result = ();

    fn handle(&mut self, admit: Admit, _: &mut Self::Context) {
        self.admit(&admit);
    }
}

/// Stop: close every connection and every listener. Nothing is told any more.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Stop;

impl Handler<Stop> for Network {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
