//! The event loop of the network: polls the swarm, turns what happened into events, and waits when the roster is full.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix::prelude::SendError;
use actix::{ActorContext, ActorFuture};
use futures::channel::oneshot;
use futures::{FutureExt, StreamExt};
use libp2p::core::ConnectedPoint;
use libp2p::gossipsub::{self, MessageAcceptance, MessageId};
use libp2p::request_response::{self, InboundRequestId, Message, ResponseChannel};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, identify, mdns, ping};
use starling_schema::wire::{GOSSIP_BYTES_MAX, RESPONSE_BYTES_MAX};
use tracing::{debug, warn};

use super::address::{is_loopback, without_peer};
use super::behaviour::{BehaviourEvent, CONNECTIONS_ESTABLISHED_MAX, REQUEST_TIMEOUT, REQUESTS_PER_PEER_MAX};
use super::keys::device_key;
use super::listen::Happened;
use super::swarm::Network;
use super::{EVENTS_MAX, NetworkError, NetworkEvent, Verdict};

/// How many events are handled before the mailbox gets its turn.
const TURNS_MAX: usize = 64;

/// The most gossip messages that wait for their verdict: as many as the roster's mailbox holds.
const JUDGEMENTS_MAX: usize = EVENTS_MAX;

/// The most requests of others that wait for our answer: what all devices together may have under way.
const ANSWERS_MAX: usize = CONNECTIONS_ESTABLISHED_MAX as usize * REQUESTS_PER_PEER_MAX;

/// The most addresses of a device that are told: what one dial tries.
const ADDRESSES_MAX: usize = 16;

/// Polls the network's swarm for as long as the actor lives.
#[derive(Debug)]
pub(super) struct Driver;

impl ActorFuture<Network> for Driver {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        network: &mut Network,
        ctx: &mut actix::Context<Network>,
        task: &mut Context<'_>,
    ) -> Poll<()> {
        // This future itself keeps the actor alive, so it has to notice that nobody can reach it any more.
        if ctx.connected() && network.poll(task).is_pending() {
            return Poll::Pending;
        }
        ctx.stop();
        Poll::Ready(())
    }
}

impl Network {
    /// Drives the swarm. Ready once there is nobody left to tell.
    ///
    /// Whatever a handler changes in the swarm takes effect here: actix polls this after every round of messages.
    fn poll(&mut self, task: &mut Context<'_>) -> Poll<()> {
        for _ in 0..TURNS_MAX {
            self.poll_replies(task);
            if ready!(self.poll_deliver(task)).is_err() {
                return Poll::Ready(());
            }
            let event = match self.early.pop_front() {
                Some(event) => event,
                None => match ready!(self.swarm.poll_next_unpin(task)) {
                    Some(event) => event,
                    None => return Poll::Ready(()),
                },
            };
            self.on_swarm_event(event);
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }

    /// Hands finished answers and verdicts to the swarm, and closes what has lingered.
    fn poll_replies(&mut self, task: &mut Context<'_>) {
        while let Poll::Ready(Some(peer)) = self.lingering.poll_next_unpin(task) {
            self.close_when_idle(&peer);
        }
        while let Poll::Ready(Some((peer, answer, channel))) = self.answers.poll_next_unpin(task) {
            match answer {
                Some(bytes) if bytes.len() > RESPONSE_BYTES_MAX => {
                    warn!(%peer, bytes = bytes.len(), "answer larger than the protocol allows, not sent");
                }
                // An error means that the asker has gone.
                Some(bytes) => drop(self.swarm.behaviour_mut().requests.send_response(channel, bytes)),
                None => debug!(%peer, "request left unanswered"),
            }
        }
        while let Poll::Ready(Some((message, relay, verdict))) = self.judgements.poll_next_unpin(task) {
            if verdict == Verdict::Reject {
                warn!(%relay, "invalid gossip");
            }
            self.judge(&message, &relay, verdict.into());
        }
    }

    fn judge(&mut self, message: &MessageId, relay: &PeerId, acceptance: MessageAcceptance) {
        let gossip = self.swarm.behaviour_mut().gossip.inner_mut();
        if !gossip.report_message_validation_result(message, relay, acceptance) {
            debug!(%relay, "a verdict came after gossipsub forgot the message");
        }
    }

    /// Tells the roster what waits. Ready when all is told, an error when the roster is gone.
    fn poll_deliver(&mut self, task: &mut Context<'_>) -> Poll<Result<(), RosterGone>> {
        loop {
            if let Some(held) = &mut self.held {
                let handled = ready!(held.poll_unpin(task));
                self.held = None;
                if handled.is_err() {
                    return Poll::Ready(Err(RosterGone));
                }
            }
            let Some(event) = self.outbox.pop_front() else { return Poll::Ready(Ok(())) };
            match self.events.try_send(event) {
                Ok(()) => {}
                // Gossip is a hint: what was missed is pulled later, and nothing else waits for it. Its verdict is
                // dropped with it, so it is not passed on.
                Err(SendError::Full(NetworkEvent::Gossip { source, .. })) => {
                    debug!(%source, "the roster is busy, gossip dropped");
                }
                Err(SendError::Full(event)) => self.held = Some(Box::pin(self.events.send(event))),
                Err(SendError::Closed(_)) => return Poll::Ready(Err(RosterGone)),
            }
        }
    }

    fn on_swarm_event(&mut self, event: Happened) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, num_established, .. } => {
                self.on_established(peer_id, connection_id, &endpoint, num_established.get() == 1);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                debug!(peer = %peer_id, ?cause, "connection closed");
                self.on_closed(peer_id, connection_id, num_established == 0);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.calls.connected(connection_id, Err(error.into()));
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                debug!(address = %send_back_addr, %error, "incoming connection refused or failed");
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                self.outbox.push_back(NetworkEvent::Listening { address: without_peer(address).to_string() });
            }
            SwarmEvent::ListenerClosed { addresses, reason: Err(error), .. } => {
                warn!(?addresses, %error, "no longer listening");
            }
            _ => {}
        }
    }

    fn on_established(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint, first: bool) {
        self.connections.insert(connection, peer);
        self.calls.connected(connection, Ok(()));
        if let Some(key) = device_key(&peer).filter(|_| first) {
            let address = without_peer(endpoint.get_remote_address().clone()).to_string();
            self.outbox.push_back(NetworkEvent::Connected { peer: key, address });
        }
        // The list may have changed since the swarm let this connection in.
        self.review(connection, peer);
    }

    fn on_closed(&mut self, peer: PeerId, connection: ConnectionId, last: bool) {
        self.connections.remove(&connection);
        self.closing.remove(&connection);
        if !last {
            return;
        }
        self.calls.disconnected(&peer);
        if let Some(peer) = device_key(&peer) {
            self.outbox.push_back(NetworkEvent::Disconnected { peer });
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                self.on_gossip(propagation_source, message_id, message);
            }
            BehaviourEvent::Requests(event) => self.on_request_event(event),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => self.on_discovered(found),
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, info);
            }
            // Two probes in a row failed: the other side, or the path to it, is gone.
            BehaviourEvent::Ping(ping::Event { peer, connection, result: Err(error) }) => {
                debug!(%peer, %error, "connection is dead");
                self.swarm.close_connection(connection);
            }
            _ => {}
        }
    }

    fn on_gossip(&mut self, relay: PeerId, id: MessageId, message: gossipsub::Message) {
        let Some(source) = message.source.as_ref().and_then(device_key) else {
            return self.judge(&id, &relay, MessageAcceptance::Reject);
        };
        if message.data.len() > GOSSIP_BYTES_MAX {
            return self.judge(&id, &relay, MessageAcceptance::Reject);
        }
        if self.judgements.len() >= JUDGEMENTS_MAX || !self.swarm.behaviour().gate.is_member(&relay) {
            return self.judge(&id, &relay, MessageAcceptance::Ignore);
        }
        let (verdict, judged) = oneshot::channel();
        let judged = judged.map(move |verdict| (id, relay, verdict.unwrap_or(Verdict::Ignore)));
        self.judgements.push(judged.boxed());
        self.outbox.push_back(NetworkEvent::Gossip { source, bytes: message.data, verdict });
    }

    fn on_request_event(&mut self, event: request_response::Event<Vec<u8>, Vec<u8>>) {
        use request_response::Event;
        let peer = match event {
            Event::Message { peer, message: Message::Request { request_id, request, channel }, .. } => {
                return self.on_request(peer, request_id, request, channel);
            }
            Event::Message { peer, message: Message::Response { request_id, response }, .. } => {
                self.calls.finished(request_id, Ok(response));
                peer
            }
            Event::OutboundFailure { peer, request_id, error, .. } => {
                self.calls.finished(request_id, Err(NetworkError::from(error)));
                peer
            }
            Event::InboundFailure { peer, request_id, error, .. } => {
                debug!(%peer, %error, "answer not delivered");
                self.calls.answered(request_id);
                peer
            }
            Event::ResponseSent { peer, request_id, .. } => {
                self.calls.answered(request_id);
                peer
            }
        };
        self.linger(peer);
    }

    fn on_request(
        &mut self,
        peer: PeerId,
        request: InboundRequestId,
        bytes: Vec<u8>,
        channel: ResponseChannel<Vec<u8>>,
    ) {
        // Dropping the channel ends the stream: the asker sees a failure at once.
        let Some(key) = device_key(&peer).filter(|_| self.swarm.behaviour().gate.admits(&peer)) else { return };
        if self.answers.len() >= ANSWERS_MAX {
            debug!(%peer, "too many requests wait for an answer, one more refused");
            return;
        }
        self.calls.arrived(request, peer);
        let (reply, answer) = oneshot::channel();
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, answer);
        let answer = answer.map(move |answer| (peer, answer.ok().and_then(Result::ok), channel));
        self.answers.push(answer.boxed());
        self.outbox.push_back(NetworkEvent::Request { peer: key, bytes, reply });
    }

    fn on_discovered(&mut self, found: Vec<(PeerId, Multiaddr)>) {
        let mut addresses: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
        for (peer, address) in found {
            addresses.entry(peer).or_default().push(address);
        }
        for (peer, addresses) in addresses {
            self.tell_addresses(peer, addresses);
        }
    }

    /// A device told where it listens. Someone who dialled us came from a port at which nobody can be dialled back, so
    /// this is how members learn each other's addresses beyond the local network.
    fn on_identified(&mut self, peer: PeerId, info: identify::Info) {
        if !self.swarm.behaviour().gate.is_member(&peer) {
            return;
        }
        // Its loopback addresses lead to it only if it sees us on loopback, too.
        let same_machine = is_loopback(&info.observed_addr);
        let reachable = info.listen_addrs.into_iter().filter(|address| same_machine || !is_loopback(address));
        self.tell_addresses(peer, reachable.collect());
    }

    fn tell_addresses(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let Some(peer) = device_key(&peer).filter(|_| !addresses.is_empty()) else { return };
        let addresses = addresses.into_iter().take(ADDRESSES_MAX).map(|address| without_peer(address).to_string());
        self.outbox.push_back(NetworkEvent::Discovered { peer, addresses: addresses.collect() });
    }
}

/// Nobody takes events any more.
struct RosterGone;
