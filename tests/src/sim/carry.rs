//! Carrying messages over the simulated network: broadcasts from neighbour to neighbour, requests there and back.

use std::rc::Rc;

use actix::prelude::*;
use futures::channel::oneshot;
use rand::Rng;
use starling::network::{NetworkError, NetworkEvent, Verdict};
use starling_schema::key::DeviceKey;
use starling_schema::wire::{GOSSIP_BYTES_MAX, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX};

use super::connection::pair;
use super::network::{Asking, Attached, SimNetwork};
use super::parcel::{Content, Due, GossipId, Parcel};
use super::port::NodeNo;

/// How long a request may take, its answer included, in milliseconds.
const REQUEST_MS_MAX: u64 = 30_000;

/// The most requests of one node under way to another.
const REQUESTS_PER_PEER_MAX: usize = 8;

/// How long a broadcast is remembered, in milliseconds: what comes again within that time is known.
const KNOWN_MS: u64 = 60_000;

impl SimNetwork {
    /// Puts a message on a link, which may lose, delay or double it.
    fn send(&mut self, parcel: Parcel, ctx: &mut Context<Self>) {
        let (from, to) = (parcel.from, parcel.to);
        self.tally(from).bytes_out += parcel.content.len();
        let link = self.conditions.link(from, to).clone();
        // All are drawn each time, so that changing one condition does not shift the others' chance.
        let (lost, doubled) = (self.random.random_bool(link.loss), self.random.random_bool(link.duplication));
        let delays_ms = [link.delay_ms.clone(), link.delay_ms].map(|range| self.random.random_range(range));
        if lost || self.conditions.mute.contains(&from) || !self.conditions.passes(from, to) {
            return;
        }
        if doubled {
            let copy = Parcel { content: parcel.content.copied(), ..parcel };
            self.schedule(delays_ms[1], Due::Arrival(copy), ctx);
        }
        self.schedule(delays_ms[0], Due::Arrival(parcel), ctx);
    }

    /// A message reached the other end, if the connection still stands.
    pub(super) fn arrive(&mut self, parcel: Parcel, ctx: &mut Context<Self>) {
        let Parcel { connection, from, to, content } = parcel;
        let stands = self.connections.get(&pair(from, to)).is_some_and(|held| held.id == connection);
        if !stands || !self.conditions.passes(from, to) {
            return;
        }
        self.tally(to).bytes_in += content.len();
        match content {
            Content::Gossip { id, source, bytes } => self.hear(to, from, source, id, bytes, ctx),
            Content::Request { id, bytes, copy } => self.asked(to, from, connection, (id, copy), &bytes, ctx),
            Content::Answer { id, outcome } => {
                if let Ok(bytes) = &outcome
                    && self.asking.contains_key(&id)
                {
                    let now_ms = self.now_ms();
                    self.trace.answer(now_ms, to, bytes);
                }
                self.finish(id, outcome.map(|bytes| bytes.to_vec()), ctx);
            }
        }
    }

    pub(super) fn publish(&mut self, from: NodeNo, bytes: Vec<u8>, ctx: &mut Context<Self>) {
        let tally = self.tally(from);
        tally.published += 1;
        tally.gossip_bytes_max = tally.gossip_bytes_max.max(bytes.len());
        if bytes.len() > GOSSIP_BYTES_MAX {
            tally.oversized += 1;
            return;
        }
        self.promises.broadcast(&bytes);
        let Some(source) = self.nodes.get(&from).map(|node| node.key) else { return };
        let id: GossipId = *blake3::Hasher::new().update(&source.0).update(&bytes).finalize().as_bytes();
        if self.conditions.gossip && self.is_news(from, id) {
            self.spread(from, None, source, id, &bytes.into(), ctx);
        }
    }

    /// Whether a node did not know this broadcast; from now on it does.
    fn is_news(&mut self, at: NodeNo, id: GossipId) -> bool {
        let now_ms = self.now_ms();
        let Some(node) = self.nodes.get_mut(&at) else { return false };
        node.known.retain(|_, since_ms| now_ms - *since_ms < KNOWN_MS);
        node.known.insert(id, now_ms).is_none()
    }

    /// Sends a broadcast to every neighbour that may not have it.
    fn spread(
        &mut self,
        from: NodeNo,
        relay: Option<NodeNo>,
        source: DeviceKey,
        id: GossipId,
        bytes: &Rc<[u8]>,
        ctx: &mut Context<Self>,
    ) {
        let library = self.nodes.get(&from).map(|node| node.library);
        let listens = |to: &NodeNo| {
            let node = self.nodes.get(to);
            Some(*to) != relay && node.is_some_and(|node| Some(node.library) == library && node.key != source)
        };
        let neighbours: Vec<(NodeNo, u64)> = self
            .connections
            .iter()
            .filter(|((a, b), connection)| (*a == from || *b == from) && connection.carries_gossip())
            .map(|((a, b), connection)| (if *a == from { *b } else { *a }, connection.id))
            .filter(|(to, _)| listens(to))
            .collect();
        for (to, connection) in neighbours {
            let content = Content::Gossip { id, source, bytes: bytes.clone() };
            self.send(Parcel { connection, from, to, content }, ctx);
        }
    }

    /// A broadcast reached a node, which says whether it goes on.
    fn hear(
        &mut self,
        at: NodeNo,
        relay: NodeNo,
        source: DeviceKey,
        id: GossipId,
        bytes: Rc<[u8]>,
        ctx: &mut Context<Self>,
    ) {
        if !self.is_member(at, relay) || !self.is_news(at, id) {
            return;
        }
        self.tally(at).gossip_heard += 1;
        let (verdict, judged) = oneshot::channel();
        self.tell(at, NetworkEvent::Gossip { source, bytes: bytes.to_vec(), verdict }, ctx);
        ctx.spawn(judged.into_actor(self).map(move |verdict, network, ctx| {
            if verdict == Ok(Verdict::Accept) && network.nodes.get(&at).is_some_and(|node| !node.is_dead()) {
                network.spread(at, Some(relay), source, id, &bytes, ctx);
            }
        }));
    }

    pub(super) fn request(
        &mut self,
        from: NodeNo,
        peer: DeviceKey,
        bytes: Vec<u8>,
        reply: oneshot::Sender<Result<Vec<u8>, NetworkError>>,
        ctx: &mut Context<Self>,
    ) {
        let to = self.node_of(&peer);
        let Some((to, connection)) = to.and_then(|to| Some((to, self.connections.get(&pair(from, to))?.id))) else {
            return drop(reply.send(Err(NetworkError::NotConnected)));
        };
        self.tallies.entry(from).or_default().request(&bytes, &mut self.promises);
        if bytes.len() > REQUEST_BYTES_MAX {
            self.tally(from).oversized += 1;
            return drop(reply.send(Err(NetworkError::TooLarge)));
        }
        let under_way = |asking: &&Asking| asking.connection == connection && asking.from == from;
        if self.asking.values().filter(under_way).count() >= REQUESTS_PER_PEER_MAX {
            return drop(reply.send(Err(NetworkError::Busy)));
        }
        let id = self.new_id();
        self.asking.insert(id, Asking { from, connection, reply });
        self.schedule(REQUEST_MS_MAX, Due::Timeout(id), ctx);
        let content = Content::Request { id, bytes: bytes.into(), copy: false };
        self.send(Parcel { connection, from, to, content }, ctx);
    }

    /// A request reached a node, whose answer goes back; the answer to a copy goes nowhere.
    fn asked(
        &mut self,
        at: NodeNo,
        from: NodeNo,
        connection: u64,
        (id, copy): (u64, bool),
        bytes: &Rc<[u8]>,
        ctx: &mut Context<Self>,
    ) {
        let Some(peer) = self.nodes.get(&from).map(|node| node.key) else { return };
        let (reply, answered) = oneshot::channel();
        self.tell(at, NetworkEvent::Request { peer, bytes: bytes.to_vec(), reply }, ctx);
        ctx.spawn(answered.into_actor(self).map(move |answer, network, ctx| {
            if copy || network.nodes.get(&at).is_some_and(Attached::is_dead) {
                return;
            }
            let outcome = network.answer(at, answer.ok());
            let content = Content::Answer { id, outcome };
            network.send(Parcel { connection, from: at, to: from, content }, ctx);
        }));
    }

    fn answer(&mut self, at: NodeNo, answer: Option<Vec<u8>>) -> Result<Rc<[u8]>, NetworkError> {
        let unanswered = || NetworkError::Failed("the other side did not answer".to_owned());
        let bytes = answer.ok_or_else(unanswered)?;
        self.promises.answer(&bytes);
        let tally = self.tally(at);
        tally.response_bytes_max = tally.response_bytes_max.max(bytes.len());
        if bytes.len() > RESPONSE_BYTES_MAX {
            tally.oversized += 1;
            return Err(unanswered());
        }
        Ok(bytes.into())
    }

    /// A request has its outcome; a later one is ignored.
    pub(super) fn finish(&mut self, id: u64, outcome: Result<Vec<u8>, NetworkError>, ctx: &mut Context<Self>) {
        let Some(asking) = self.asking.remove(&id) else { return };
        drop(asking.reply.send(outcome));
        let held = self.connections.iter().find(|(_, connection)| connection.id == asking.connection);
        if let Some(pair) = held.map(|(pair, _)| *pair) {
            self.close_when_idle(pair, ctx);
        }
    }
}
