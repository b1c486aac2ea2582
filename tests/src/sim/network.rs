//! The network of a whole cluster in one actor: it owns who is attached, what is under way and what is due when.
//!
//! It answers the same messages as libp2p does, by its rules: only admitted devices connect, broadcasts pass between
//! members, requests end in an answer or an error. All chance comes from its seed, all time from tokio's clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actix::dev::SendError;
use actix::prelude::*;
use futures::channel::oneshot;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use starling::NetworkFactory;
use starling::network::{Admit, NetworkError, NetworkEvent};
use starling_schema::ids::{DeviceId, LibraryId};
use starling_schema::key::DeviceKey;
use starling_schema::stream::Watermarks;
use tokio::time::Instant;

use super::conditions::Conditions;
use super::connection::Connection;
use super::parcel::{Agenda, Due, GossipId};
use super::port::{Ask, Asked, Attachment, NodeNo, Port};
use super::tally::{Promises, Tally, Trace};

/// Messages of all ports that wait: more than a cluster of any size here ever has.
const MAILBOX: usize = 1 << 16;

/// A node as the network knows it.
pub(super) struct Attached {
    pub(super) life: u64,
    pub(super) key: DeviceKey,
    pub(super) library: LibraryId,
    pub(super) events: Recipient<NetworkEvent>,
    pub(super) admit: Admit,
    /// What its full mailbox refused, in order.
    pub(super) backlog: VecDeque<NetworkEvent>,
    /// Broadcasts that it knows, and since when.
    pub(super) known: BTreeMap<GossipId, u64>,
    /// Whether it crashed: what it still does is not said.
    pub(super) dead: Arc<AtomicBool>,
}

impl Attached {
    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }
}

/// A request that waits for its answer.
pub(super) struct Asking {
    pub(super) from: NodeNo,
    pub(super) connection: u64,
    pub(super) reply: oneshot::Sender<Result<Vec<u8>, NetworkError>>,
}

/// Stands in for libp2p, for all nodes at once.
pub(super) struct SimNetwork {
    pub(super) random: ChaCha8Rng,
    pub(super) conditions: Conditions,
    pub(super) nodes: BTreeMap<NodeNo, Attached>,
    /// By pair, the lower number first.
    pub(super) connections: BTreeMap<(NodeNo, NodeNo), Connection>,
    pub(super) asking: BTreeMap<u64, Asking>,
    pub(super) tallies: BTreeMap<NodeNo, Tally>,
    pub(super) trace: Trace,
    /// What each device said that it durably has, by library.
    pub(super) promises: Promises,
    pub(super) last_id: u64,
    agenda: Agenda,
    wakes_at_ms: Option<u64>,
    epoch: Instant,
}

impl SimNetwork {
    fn new(seed: u64) -> Self {
        Self {
            random: ChaCha8Rng::seed_from_u64(seed),
            conditions: Conditions::default(),
            nodes: BTreeMap::new(),
            connections: BTreeMap::new(),
            asking: BTreeMap::new(),
            tallies: BTreeMap::new(),
            trace: Trace::default(),
            promises: Promises::default(),
            last_id: 0,
            agenda: Agenda::default(),
            wakes_at_ms: None,
            epoch: Instant::now(),
        }
    }

    /// Virtual milliseconds since the cluster began.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn tally(&mut self, node: NodeNo) -> &mut Tally {
        self.tallies.entry(node).or_default()
    }

    pub(super) fn node_of(&self, key: &DeviceKey) -> Option<NodeNo> {
        self.nodes.iter().find(|(_, node)| node.key == *key).map(|(no, _)| *no)
    }

    /// Has something happen later.
    pub(super) fn schedule(&mut self, wait_ms: u64, due: Due, ctx: &mut Context<Self>) {
        self.agenda.add(self.now_ms() + wait_ms, due);
        self.wake(ctx);
    }

    fn wake(&mut self, ctx: &mut Context<Self>) {
        let Some(next) = self.agenda.next_ms() else { return };
        if self.wakes_at_ms.is_some_and(|at| at <= next) {
            return;
        }
        self.wakes_at_ms = Some(next);
        let wait = Duration::from_millis(next.saturating_sub(self.now_ms()));
        ctx.run_later(wait, move |network, ctx| {
            if network.wakes_at_ms == Some(next) {
                network.wakes_at_ms = None;
            }
            while let Some(due) = network.agenda.take(network.now_ms()) {
                network.happen(due, ctx);
            }
            network.wake(ctx);
        });
    }

    fn happen(&mut self, due: Due, ctx: &mut Context<Self>) {
        match due {
            Due::Arrival(parcel) => self.arrive(parcel, ctx),
            Due::Timeout(id) => self.finish(id, Err(NetworkError::Timeout), ctx),
            Due::Dialled { from, life, to, reply } => {
                let outcome = self.dialled(Attachment { node: from, life }, to, ctx);
                drop(reply.send(outcome));
            }
            Due::Silence { pair, connection, since_ms } => self.silence(pair, connection, since_ms, ctx),
            Due::Discovery { at, about } => self.discover(at, about, ctx),
            Due::Offer(node) => self.offer(node, ctx),
        }
    }

    /// Tells a node something. Broadcasts that find its mailbox full are dropped, everything else waits its turn.
    pub(super) fn tell(&mut self, to: NodeNo, event: NetworkEvent, ctx: &mut Context<Self>) {
        let now_ms = self.now_ms();
        let Some(node) = self.nodes.get_mut(&to) else { return };
        self.trace.event(now_ms, to, &event);
        if !node.backlog.is_empty() {
            if !matches!(event, NetworkEvent::Gossip { .. }) {
                node.backlog.push_back(event);
            }
            return;
        }
        match node.events.try_send(event) {
            Err(SendError::Full(event)) if !matches!(event, NetworkEvent::Gossip { .. }) => {
                node.backlog.push_back(event);
                self.schedule(1, Due::Offer(to), ctx);
            }
            _ => {}
        }
    }

    fn offer(&mut self, to: NodeNo, ctx: &mut Context<Self>) {
        let Some(node) = self.nodes.get_mut(&to) else { return };
        while let Some(event) = node.backlog.pop_front() {
            if let Err(SendError::Full(event)) = node.events.try_send(event) {
                node.backlog.push_front(event);
                return self.schedule(1, Due::Offer(to), ctx);
            }
        }
    }

    fn attach(&mut self, by: Attachment, node: Attached, ctx: &mut Context<Self>) {
        self.detach(by.node, ctx);
        self.nodes.insert(by.node, node);
        self.tell(by.node, NetworkEvent::Listening { address: address(by.node) }, ctx);
        let others: Vec<_> = self.nodes.keys().copied().filter(|other| *other != by.node).collect();
        for other in others {
            self.announce(by.node, other, ctx);
        }
    }

    /// A node's network ends: whoever was connected notices at once, as when a process ends.
    fn detach(&mut self, node: NodeNo, ctx: &mut Context<Self>) {
        let pairs: Vec<_> = self.connections.keys().copied().filter(|(a, b)| *a == node || *b == node).collect();
        for pair in pairs {
            self.close(pair, ctx);
        }
        self.nodes.remove(&node);
    }
}

/// Where a node is reached.
pub(super) fn address(node: NodeNo) -> String {
    format!("/memory/{}", node + 1)
}

/// Which node an address leads to.
pub(super) fn node_at(address: &str) -> Option<NodeNo> {
    let number: NodeNo = address.strip_prefix("/memory/")?.split('/').next()?.parse().ok()?;
    number.checked_sub(1)
}

impl Actor for SimNetwork {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<Asked> for SimNetwork {
    type Result = ();

    fn handle(&mut self, Asked { by, what }: Asked, ctx: &mut Self::Context) {
        if let Ask::Attach { key, library, events, dead } = what {
            let admit = Admit { members: Vec::new(), guests: Vec::new(), strangers: false };
            let (life, backlog, known) = (by.life, VecDeque::new(), BTreeMap::new());
            return self.attach(by, Attached { life, key, library, events, admit, backlog, known, dead }, ctx);
        }
        if self.nodes.get(&by.node).is_none_or(|node| node.life != by.life) {
            return;
        }
        match what {
            Ask::Attach { .. } => {}
            Ask::Publish(bytes) => self.publish(by.node, bytes, ctx),
            Ask::Request { peer, bytes, reply } => self.request(by.node, peer, bytes, reply, ctx),
            Ask::Dial { peer, addresses, reply } => self.dial(by, peer, &addresses, reply, ctx),
            Ask::Disconnect(peer) => self.disconnect(by.node, peer, ctx),
            Ask::Admit(admit) => self.admit(by.node, admit, ctx),
            Ask::Detach => self.detach(by.node, ctx),
        }
    }
}

/// Change the conditions.
#[derive(Message)]
#[rtype(result = "()")]
struct Change(Box<dyn FnOnce(&mut Conditions) + Send>);

impl Handler<Change> for SimNetwork {
    type Result = ();

    fn handle(&mut self, Change(change): Change, ctx: &mut Self::Context) {
        let before = self.conditions.clone();
        change(&mut self.conditions);
        self.conditions_changed(&before, ctx);
    }
}

/// Tell what happened so far.
#[derive(Message)]
#[rtype(result = "Report")]
struct Look;

/// What happened so far.
#[derive(Clone, Debug, MessageResponse)]
pub struct Report {
    /// The hash over every event that was delivered, with its virtual time.
    pub trace: blake3::Hash,
    /// How many those were.
    pub events: u64,
    /// What each node sent and got.
    pub tallies: BTreeMap<NodeNo, Tally>,
    /// Who is connected with whom, the lower number first.
    pub connections: BTreeSet<(NodeNo, NodeNo)>,
    /// The highest number of each stream that each device said it durably has.
    pub promises: Promises,
}

impl Report {
    /// What one node sent and got.
    #[must_use]
    pub fn tally(&self, node: NodeNo) -> Tally {
        self.tallies.get(&node).cloned().unwrap_or_default()
    }
}

impl Handler<Look> for SimNetwork {
    type Result = Report;

    fn handle(&mut self, _: Look, _: &mut Self::Context) -> Report {
        Report {
            trace: self.trace.hash(),
            events: self.trace.events,
            tallies: self.tallies.clone(),
            connections: self.connections.keys().copied().collect(),
            promises: self.promises.clone(),
        }
    }
}

/// Tell what a device promised.
#[derive(Message)]
#[rtype(result = "Promised")]
struct AskPromised(LibraryId, DeviceId);

/// What a device promised.
#[derive(MessageResponse)]
struct Promised(Watermarks);

impl Handler<AskPromised> for SimNetwork {
    type Result = Promised;

    fn handle(&mut self, AskPromised(library, device): AskPromised, _: &mut Self::Context) -> Promised {
        Promised(self.promises.of(library, device))
    }
}

/// The simulated network, as a test uses it.
#[derive(Clone, Debug)]
pub struct Network {
    actor: Addr<SimNetwork>,
    lives: Arc<AtomicU64>,
}

impl Network {
    /// Starts a network in which all chance comes from `seed`.
    #[must_use]
    pub fn start(seed: u64) -> Self {
        Self { actor: SimNetwork::new(seed).start(), lives: Arc::default() }
    }

    /// What a node is started with to be on this network under a number. Once `dead` is set it says nothing more.
    #[must_use]
    pub fn factory(&self, node: NodeNo, dead: Arc<AtomicBool>) -> NetworkFactory {
        Port::factory(node, self.actor.clone(), self.lives.clone(), dead)
    }

    /// Changes what the links are like, from now on.
    pub async fn change(&self, change: impl FnOnce(&mut Conditions) + Send + 'static) {
        self.actor.send(Change(Box::new(change))).await.expect("the simulated network runs");
    }

    /// The same in a moment, from where one cannot wait: after everything that the network was asked before.
    pub(super) fn change_soon(&self, change: impl FnOnce(&mut Conditions) + Send + 'static) {
        self.actor.try_send(Change(Box::new(change))).expect("the simulated network runs");
    }

    /// The highest numbers that a device said it durably has.
    pub async fn promises(&self, library: LibraryId, device: DeviceId) -> Watermarks {
        self.actor.send(AskPromised(library, device)).await.expect("the simulated network runs").0
    }

    /// What happened so far.
    pub async fn report(&self) -> Report {
        self.actor.send(Look).await.expect("the simulated network runs")
    }
}
