//! What the swarm is made of: its transports, its protocols and their limits.

use std::collections::HashSet;
use std::time::Duration;

use libp2p::gossipsub::{
    self, IdentTopic, IdentityTransform, MessageAuthenticity, MessageId, TopicHash, ValidationMode,
    WhitelistSubscriptionFilter,
};
use libp2p::identity::Keypair;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{PeerId, Swarm, SwarmBuilder, identify, mdns, noise, ping, tcp, yamux};
use libp2p_connection_limits::ConnectionLimits;
use starling_schema::ids::LibraryId;
use starling_schema::wire::GOSSIP_BYTES_MAX;
use tracing::warn;

use super::codec::{LengthPrefixed, SYNC_PROTOCOL};
use super::gate::Gate;
use super::members_only::MembersOnly;

/// The most handshakes under way in each direction: whoever is not proven yet costs no more than these.
pub(super) const CONNECTIONS_PENDING_MAX: u32 = 16;
/// The most connections: several times the devices that one person or team has, few enough that each may send at once.
pub(super) const CONNECTIONS_ESTABLISHED_MAX: u32 = 64;
/// The most connections with one device: two devices that dial each other at the same moment need both.
pub(super) const CONNECTIONS_PER_PEER_MAX: u32 = 2;
/// The most requests of ours under way to one device: enough to fill a fast link with pages, few enough to bound memory.
pub(super) const REQUESTS_PER_PEER_MAX: usize = 8;
/// How long a request may take, its answer included: the largest response over a slow link.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The most request streams of one connection: the requests of both sides, twice, since a stream outlives its answer
/// by the time it takes to close.
const REQUEST_STREAMS_MAX: usize = 4 * REQUESTS_PER_PEER_MAX;
/// The most streams of any protocol on one connection: those of requests, and a few each for gossip, identify and ping.
const STREAMS_MAX: usize = 2 * REQUEST_STREAMS_MAX;
/// What gossipsub wraps around a message: source, number, topic, signature, lengths; about 200 bytes.
const GOSSIP_FRAME_BYTES_MAX: usize = 1024;
/// The most gossip messages that wait for one slow device: 16 MiB of the largest. Later ones are dropped, and pulled.
const GOSSIP_QUEUE_MAX: usize = 256;
/// How often the mesh is mended and old messages are offered: cheap among few devices, and news travels sooner.
const GOSSIP_HEARTBEAT: Duration = Duration::from_millis(500);
/// How many heartbeats a message waits for its verdict and is served to those who missed it: 5 s.
const GOSSIP_HISTORY: usize = 10;
/// How long an idle connection is kept. Only guests are ever idle; the device that they came for decides when to part.
const IDLE_TIMEOUT: Duration = Duration::from_hours(24);
/// How often a connection is probed, so that one which died without a word is noticed.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// How long a probe may take: it queues behind pages on a slow link.
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// Gossipsub that holds no topic but ours.
pub(super) type Gossip = gossipsub::Behaviour<IdentityTransform, WhitelistSubscriptionFilter>;

/// All protocols of a connection. The order counts: what may refuse a connection comes first, so that those after it
/// only hear of connections that come up.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: libp2p_connection_limits::Behaviour,
    pub(super) gate: Gate,
    pub(super) requests: request_response::Behaviour<LengthPrefixed>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    pub(super) gossip: MembersOnly<Gossip>,
}

impl Behaviour {
    /// Replaces the lists of who may connect.
    pub(super) fn admit(&mut self, members: HashSet<PeerId>, guests: HashSet<PeerId>, strangers: bool) {
        self.gossip.set_members(members.clone());
        self.gate.admit(members, guests, strangers);
    }

    fn new(keypair: &Keypair, topic: &IdentTopic, mdns: bool) -> Result<Self, String> {
        let limits = ConnectionLimits::default()
            .with_max_pending_incoming(Some(CONNECTIONS_PENDING_MAX))
            .with_max_pending_outgoing(Some(CONNECTIONS_PENDING_MAX))
            .with_max_established(Some(CONNECTIONS_ESTABLISHED_MAX))
            .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX));
        let identify = identify::Config::new("/starling/1".to_owned(), keypair.public())
            .with_agent_version(concat!("starling/", env!("CARGO_PKG_VERSION")).to_owned())
            .with_cache_size(0);
        let requests = request_response::Config::default()
            .with_request_timeout(REQUEST_TIMEOUT)
            .with_max_concurrent_streams(REQUEST_STREAMS_MAX);
        Ok(Self {
            limits: libp2p_connection_limits::Behaviour::new(limits),
            gate: Gate::default(),
            requests: request_response::Behaviour::new([(SYNC_PROTOCOL, ProtocolSupport::Full)], requests),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT)),
            mdns: discovery(mdns, keypair.public().to_peer_id()).into(),
            gossip: MembersOnly::new(gossip(keypair.clone(), topic)?),
        })
    }
}

/// Discovery on the local network. A machine on which it does not start still syncs with the addresses it knows.
fn discovery(wanted: bool, local: PeerId) -> Option<mdns::tokio::Behaviour> {
    if !wanted {
        return None;
    }
    mdns::tokio::Behaviour::new(mdns::Config::default(), local)
        .inspect_err(|error| warn!(%error, "no discovery on the local network"))
        .ok()
}

fn gossip(keypair: Keypair, topic: &IdentTopic) -> Result<Gossip, String> {
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .message_id_fn(message_id)
        .max_transmit_size(GOSSIP_BYTES_MAX + GOSSIP_FRAME_BYTES_MAX)
        .connection_handler_queue_len(GOSSIP_QUEUE_MAX)
        .heartbeat_interval(GOSSIP_HEARTBEAT)
        .heartbeat_initial_delay(GOSSIP_HEARTBEAT)
        .history_length(GOSSIP_HISTORY)
        .history_gossip(GOSSIP_HISTORY / 2)
        .flood_publish(true)
        // Up to twelve neighbours everybody is in everybody's mesh; beyond that, six carry a message on.
        .mesh_n(6)
        .mesh_n_low(4)
        .mesh_n_high(12)
        .mesh_outbound_min(1)
        // A device that restarts is let back into the mesh soon: there are few others to hear from.
        .prune_backoff(Duration::from_secs(10))
        .unsubscribe_backoff(Duration::from_secs(2))
        .build()
        .map_err(|error| error.to_string())?;
    let only_ours = WhitelistSubscriptionFilter(HashSet::from([topic.hash()]));
    let signed = MessageAuthenticity::Signed(keypair);
    let mut gossip = Gossip::new_with_subscription_filter(signed, config, only_ours)?;
    gossip.subscribe(topic).map_err(|error| error.to_string())?;
    Ok(gossip)
}

/// Names a message by its source and content, so that the same one is known however it comes.
fn message_id(message: &gossipsub::Message) -> MessageId {
    let mut hasher = blake3::Hasher::new();
    let source = message.source.map(PeerId::to_bytes).unwrap_or_default();
    hasher.update(&u64::try_from(source.len()).unwrap_or(u64::MAX).to_be_bytes());
    hasher.update(&source);
    hasher.update(&message.data);
    MessageId::from(hasher.finalize().as_bytes().to_vec())
}

/// The topic of a library. Members only ever learn its name.
pub(super) fn topic(library: LibraryId) -> IdentTopic {
    IdentTopic::new(format!("starling/1/{library}"))
}

/// The topic's name as messages carry it.
pub(super) fn topic_hash(library: LibraryId) -> TopicHash {
    topic(library).hash()
}

/// A swarm that neither listens nor dials yet. To be called on the runtime that will poll it.
pub(super) fn swarm(keypair: Keypair, library: LibraryId, mdns: bool) -> Result<Swarm<Behaviour>, String> {
    Ok(SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, multiplexing)
        .map_err(|error| error.to_string())?
        .with_quic()
        .with_behaviour(|keypair| Behaviour::new(keypair, &topic(library), mdns).map_err(Into::into))
        .map_err(|error| error.to_string())?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE_TIMEOUT))
        .build())
}

fn multiplexing() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(STREAMS_MAX);
    config
}
