//! A behaviour that only members' connections take part in. It owns the wrapped behaviour and who is let into it.
//!
//! The technique is that of libp2p's `Toggle`, decided per connection: the connection of anybody else gets a handler
//! that speaks no protocol, and the wrapped behaviour never hears of it, so it has nobody to send a byte to.

use std::collections::{HashMap, HashSet};
use std::task::{Context, Poll};

use either::Either;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

/// Forwards to the wrapped behaviour what concerns connections that were members' when they were established.
///
/// Invariant: the wrapped behaviour knows exactly the connections in `carried`.
#[derive(Debug)]
pub(super) struct MembersOnly<B> {
    inner: B,
    members: HashSet<PeerId>,
    carried: HashMap<ConnectionId, PeerId>,
}

impl<B> MembersOnly<B> {
    /// Wraps a behaviour. Nobody is a member yet.
    pub(super) fn new(inner: B) -> Self {
        Self { inner, members: HashSet::new(), carried: HashMap::new() }
    }

    /// The wrapped behaviour.
    pub(super) fn inner_mut(&mut self) -> &mut B {
        &mut self.inner
    }

    /// Replaces the list of members. It decides about connections to come; those that exist stay as they are, so
    /// whoever changes the list closes those that [`Self::carries`] judges differently now.
    pub(super) fn set_members(&mut self, members: HashSet<PeerId>) {
        self.members = members;
    }

    /// Whether the wrapped behaviour takes part in this connection.
    pub(super) fn carries(&self, connection: ConnectionId) -> bool {
        self.carried.contains_key(&connection)
    }

    fn carried_of(&self, peer: &PeerId) -> impl Iterator<Item = ConnectionId> {
        self.carried.iter().filter(move |(_, of)| *of == peer).map(|(connection, _)| *connection)
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for MembersOnly<B> {
    type ConnectionHandler = Either<THandler<B>, dummy::ConnectionHandler>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if !self.members.contains(&peer) {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        let handler = self.inner.handle_established_inbound_connection(connection, peer, local, remote)?;
        self.carried.insert(connection, peer);
        Ok(Either::Left(handler))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if !self.members.contains(&peer) {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        let handler = self.inner.handle_established_outbound_connection(connection, peer, address, role, port_use)?;
        self.carried.insert(connection, peer);
        Ok(Either::Left(handler))
    }

    /// The swarm counts all connections of a peer, the wrapped behaviour must count those that it knows: it takes the
    /// first and the last as the peer's coming and going.
    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(event) => {
                if self.carries(event.connection_id) {
                    let other_established = self.carried_of(&event.peer_id).count().saturating_sub(1);
                    let event = ConnectionEstablished { other_established, ..event };
                    self.inner.on_swarm_event(FromSwarm::ConnectionEstablished(event));
                }
            }
            FromSwarm::ConnectionClosed(event) => {
                if self.carried.remove(&event.connection_id).is_some() {
                    let remaining_established = self.carried_of(&event.peer_id).count();
                    let event = ConnectionClosed { remaining_established, ..event };
                    self.inner.on_swarm_event(FromSwarm::ConnectionClosed(event));
                }
            }
            FromSwarm::AddressChange(event) if !self.carries(event.connection_id) => {}
            other => {
                // A connection that another behaviour refused after we took it in; the order of the behaviours
                // prevents it, but a forgotten entry would be there for good.
                if let FromSwarm::DialFailure(event) = &other {
                    self.carried.remove(&event.connection_id);
                } else if let FromSwarm::ListenFailure(event) = &other {
                    self.carried.remove(&event.connection_id);
                }
                self.inner.on_swarm_event(other);
            }
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {
            Either::Left(event) => self.inner.on_connection_handler_event(peer, connection, event),
            Either::Right(never) => match never {},
        }
    }

    fn poll(&mut self, task: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            let Poll::Ready(action) = self.inner.poll(task) else { return Poll::Pending };
            let ToSwarm::NotifyHandler { peer_id, handler, event } = action else {
                return Poll::Ready(action.map_in(Either::Left));
            };
            // Only a handler of the wrapped behaviour understands its events: one that no connection carries is
            // dropped, as the swarm does with those of closed connections.
            let connection = match handler {
                NotifyHandler::One(connection) => self.carries(connection).then_some(connection),
                NotifyHandler::Any => self.carried_of(&peer_id).next(),
            };
            if let Some(connection) = connection {
                let handler = NotifyHandler::One(connection);
                return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event: Either::Left(event) });
            }
        }
    }
}
