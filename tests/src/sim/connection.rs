//! Connections of the simulated network: who may have one, when it comes up and when it goes down.

use actix::prelude::*;
use futures::channel::oneshot;
use rand::Rng;
use starling::network::{Admit, NetworkError, NetworkEvent};
use starling_schema::key::DeviceKey;

use super::conditions::Conditions;
use super::network::{SimNetwork, address, node_at};
use super::parcel::Due;
use super::port::{Attachment, NodeNo};

/// How long nothing may pass before a connection counts as dead, in milliseconds: one probe.
const SILENCE_MS_MAX: u64 = 10_000;

/// How long a dial to nowhere takes, in milliseconds.
const DIAL_MS_MAX: u64 = 10_000;

/// How long a node takes to announce itself on the local network, in milliseconds.
const ANNOUNCE_MS_MAX: u64 = 1_000;

/// A connection of two nodes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub(super) id: u64,
    /// Whether the lower and the higher node saw a member in the other when it came up: both, and it carries gossip.
    carries: (bool, bool),
    /// Whether it ends once no request is under way.
    closing: bool,
    /// Since when nothing passes.
    silent_since_ms: Option<u64>,
}

impl Connection {
    pub(super) fn carries_gossip(&self) -> bool {
        self.carries.0 && self.carries.1
    }

    fn carries_at(&self, is_lower: bool) -> bool {
        if is_lower { self.carries.0 } else { self.carries.1 }
    }
}

pub(super) fn pair(a: NodeNo, b: NodeNo) -> (NodeNo, NodeNo) {
    (a.min(b), a.max(b))
}

fn is_admitted(admit: &Admit, key: &DeviceKey) -> bool {
    admit.strangers || admit.members.contains(key) || admit.guests.contains(key)
}

impl SimNetwork {
    pub(super) fn is_connected(&self, a: NodeNo, b: NodeNo) -> bool {
        self.connections.contains_key(&pair(a, b))
    }

    /// Whether `at` has `other` for a member.
    pub(super) fn is_member(&self, at: NodeNo, other: NodeNo) -> bool {
        let (Some(at), Some(other)) = (self.nodes.get(&at), self.nodes.get(&other)) else { return false };
        at.admit.members.contains(&other.key)
    }

    fn admits(&self, at: NodeNo, other: NodeNo) -> bool {
        let (Some(at), Some(other)) = (self.nodes.get(&at), self.nodes.get(&other)) else { return false };
        is_admitted(&at.admit, &other.key)
    }

    fn travel_ms(&mut self, from: NodeNo, to: NodeNo) -> u64 {
        let delay_ms = self.conditions.link(from, to).delay_ms.clone();
        self.random.random_range(delay_ms)
    }

    pub(super) fn dial(
        &mut self,
        by: Attachment,
        peer: DeviceKey,
        addresses: &[String],
        reply: oneshot::Sender<Result<(), NetworkError>>,
        ctx: &mut Context<Self>,
    ) {
        let from = by.node;
        if !self.nodes.get(&from).is_some_and(|node| is_admitted(&node.admit, &peer)) {
            return drop(reply.send(Err(NetworkError::Failed(format!("{peer} may not connect here")))));
        }
        let holds_key = |no: &NodeNo| self.nodes.get(no).is_some_and(|node| node.key == peer);
        let to = addresses.iter().filter_map(|address| node_at(address)).find(holds_key);
        if to.is_some_and(|to| self.is_connected(from, to)) {
            return drop(reply.send(Ok(())));
        }
        let to = to.filter(|to| *to != from && self.conditions.connects(from, *to));
        let wait_ms = to.map_or(DIAL_MS_MAX, |to| self.travel_ms(from, to) + self.travel_ms(to, from));
        self.schedule(wait_ms, Due::Dialled { from, life: by.life, to, reply }, ctx);
    }

    /// A dial is over: the connection comes up, unless something is against it.
    pub(super) fn dialled(
        &mut self,
        by: Attachment,
        to: Option<NodeNo>,
        ctx: &mut Context<Self>,
    ) -> Result<(), NetworkError> {
        let from = by.node;
        let failed = |why: &str| Err(NetworkError::Failed(why.to_owned()));
        let Some(to) = to.filter(|to| self.conditions.connects(from, *to) && self.nodes.contains_key(to)) else {
            return failed("nobody answers there");
        };
        if self.nodes.get(&from).is_none_or(|node| node.life != by.life) {
            return Err(NetworkError::NotConnected);
        }
        if self.is_connected(from, to) {
            return Ok(());
        }
        if !self.admits(from, to) || !self.admits(to, from) {
            return failed("the connection was refused");
        }
        let (low, high) = pair(from, to);
        let carries = (self.is_member(low, high), self.is_member(high, low));
        let id = self.new_id();
        let connection = Connection { id, carries, closing: false, silent_since_ms: None };
        self.connections.insert((low, high), connection);
        for (at, other) in [(from, to), (to, from)] {
            if let Some(peer) = self.nodes.get(&other).map(|node| node.key) {
                self.tell(at, NetworkEvent::Connected { peer, address: address(other) }, ctx);
            }
            if self.is_member(at, other) {
                let wait_ms = self.travel_ms(other, at);
                self.schedule(wait_ms, Due::Discovery { at, about: other }, ctx);
            }
        }
        Ok(())
    }

    pub(super) fn disconnect(&mut self, from: NodeNo, peer: DeviceKey, ctx: &mut Context<Self>) {
        if let Some(to) = self.node_of(&peer) {
            self.close(pair(from, to), ctx);
        }
    }

    /// Takes a connection down on both sides, and every request over it.
    pub(super) fn close(&mut self, (a, b): (NodeNo, NodeNo), ctx: &mut Context<Self>) {
        let Some(connection) = self.connections.remove(&(a, b)) else { return };
        let lost: Vec<_> =
            self.asking.iter().filter(|(_, asking)| asking.connection == connection.id).map(|(id, _)| *id).collect();
        for id in lost {
            self.finish(id, Err(NetworkError::NotConnected), ctx);
        }
        for (at, other) in [(a, b), (b, a)] {
            if let Some(peer) = self.nodes.get(&other).map(|node| node.key) {
                self.tell(at, NetworkEvent::Disconnected { peer }, ctx);
            }
        }
    }

    pub(super) fn admit(&mut self, at: NodeNo, admit: Admit, ctx: &mut Context<Self>) {
        if let Some(node) = self.nodes.get_mut(&at) {
            node.admit = admit;
        }
        let pairs: Vec<_> = self.connections.keys().copied().filter(|(a, b)| *a == at || *b == at).collect();
        for (a, b) in pairs {
            self.review(at, if a == at { b } else { a }, ctx);
        }
    }

    /// Closes a connection that does not fit what `at` thinks of `other` now: at once when the other lost something,
    /// after the requests under way when it became a member.
    fn review(&mut self, at: NodeNo, other: NodeNo, ctx: &mut Context<Self>) {
        let (admitted, member) = (self.admits(at, other), self.is_member(at, other));
        let Some(connection) = self.connections.get_mut(&pair(at, other)) else { return };
        let carries = connection.carries_at(at < other);
        if !admitted || (carries && !member) {
            self.close(pair(at, other), ctx);
        } else if member && !carries {
            connection.closing = true;
            self.close_when_idle(pair(at, other), ctx);
        }
    }

    pub(super) fn close_when_idle(&mut self, pair: (NodeNo, NodeNo), ctx: &mut Context<Self>) {
        let Some(connection) = self.connections.get(&pair).filter(|connection| connection.closing) else { return };
        if !self.asking.values().any(|asking| asking.connection == connection.id) {
            self.close(pair, ctx);
        }
    }

    /// Notices which links died and which came back.
    pub(super) fn conditions_changed(&mut self, before: &Conditions, ctx: &mut Context<Self>) {
        let now_ms = self.now_ms();
        let nodes: Vec<_> = self.nodes.keys().copied().collect();
        for (at, a) in nodes.iter().enumerate() {
            for b in &nodes[at + 1..] {
                let (was, is) = (before.connects(*a, *b), self.conditions.connects(*a, *b));
                if is && (!was || !before.discovery) {
                    self.announce(*a, *b, ctx);
                }
                let Some(connection) = self.connections.get_mut(&(*a, *b)) else { continue };
                let since_ms = if is { None } else { connection.silent_since_ms.or(Some(now_ms)) };
                let is_new = since_ms.is_some() && connection.silent_since_ms.is_none();
                connection.silent_since_ms = since_ms;
                if is_new {
                    let due = Due::Silence { pair: (*a, *b), connection: connection.id, since_ms: now_ms };
                    self.schedule(SILENCE_MS_MAX, due, ctx);
                }
            }
        }
    }

    pub(super) fn silence(&mut self, pair: (NodeNo, NodeNo), connection: u64, since_ms: u64, ctx: &mut Context<Self>) {
        let is_dead = |held: &Connection| held.id == connection && held.silent_since_ms == Some(since_ms);
        if self.connections.get(&pair).is_some_and(is_dead) {
            self.close(pair, ctx);
        }
    }

    /// Two nodes on one local network find each other.
    pub(super) fn announce(&mut self, a: NodeNo, b: NodeNo, ctx: &mut Context<Self>) {
        for (at, about) in [(a, b), (b, a)] {
            let wait_ms = self.random.random_range(1..=ANNOUNCE_MS_MAX);
            if self.conditions.discovery && self.conditions.connects(at, about) {
                self.schedule(wait_ms, Due::Discovery { at, about }, ctx);
            }
        }
    }

    pub(super) fn discover(&mut self, at: NodeNo, about: NodeNo, ctx: &mut Context<Self>) {
        if !self.conditions.connects(at, about) {
            return;
        }
        if let Some(peer) = self.nodes.get(&about).map(|node| node.key) {
            self.tell(at, NetworkEvent::Discovered { peer, addresses: vec![address(about)] }, ctx);
        }
    }
}
