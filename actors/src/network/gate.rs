//! Who may connect: members and guests always, strangers while a ticket is open. It owns the list and refuses the rest.

use std::collections::HashSet;
use std::convert::Infallible;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};
use libp2p::{Multiaddr, PeerId};

use super::keys::device_key;

/// The most connections of strangers at a time: several devices may join at once, yet an eighth of all connections is
/// as much as anybody without membership can take.
pub(super) const STRANGER_CONNECTIONS_MAX: usize = 8;

/// Refuses connections, whoever dialled, with a device that may not connect. Closing those that were allowed earlier is
/// left to whoever changes the list.
#[derive(Debug, Default)]
pub(super) struct Gate {
    members: HashSet<PeerId>,
    guests: HashSet<PeerId>,
    strangers: bool,
    stranger_connections: HashSet<ConnectionId>,
}

/// Why a connection was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// The device is on no list.
    #[error("{0} may not connect here")]
    NotAdmitted(PeerId),
    /// Too many strangers are connected.
    #[error("{STRANGER_CONNECTIONS_MAX} connections of strangers are open already")]
    TooManyStrangers,
}

impl Gate {
    /// Replaces the lists.
    pub(super) fn admit(&mut self, members: HashSet<PeerId>, guests: HashSet<PeerId>, strangers: bool) {
        self.members = members;
        self.guests = guests;
        self.strangers = strangers;
    }

    /// Whether this device is a member.
    pub(super) fn is_member(&self, peer: &PeerId) -> bool {
        self.members.contains(peer)
    }

    /// Whether this device may be connected.
    pub(super) fn admits(&self, peer: &PeerId) -> bool {
        self.is_known(peer) || (self.strangers && device_key(peer).is_some())
    }

    fn is_known(&self, peer: &PeerId) -> bool {
        self.members.contains(peer) || self.guests.contains(peer)
    }

    fn check(&self, peer: &PeerId) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        if !self.admits(peer) {
            return Err(ConnectionDenied::new(Refused::NotAdmitted(*peer)));
        }
        if !self.is_known(peer) && self.stranger_connections.len() >= STRANGER_CONNECTIONS_MAX {
            return Err(ConnectionDenied::new(Refused::TooManyStrangers));
        }
        Ok(dummy::ConnectionHandler)
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(&peer)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        peer.map_or(Ok(Vec::new()), |peer| self.check(&peer).map(|_| Vec::new()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(&peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(established) if !self.is_known(&established.peer_id) => {
                self.stranger_connections.insert(established.connection_id);
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.stranger_connections.remove(&closed.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use starling_schema::key::DeviceSecret;

    use super::*;
    use crate::network::keys::peer_id;

    #[test]
    fn members_and_guests_are_admitted_and_strangers_only_while_it_says_so() {
        let [member, guest, stranger] =
            [1, 2, 3].map(|seed| peer_id(&DeviceSecret::from_bytes(&[seed; 32]).public()).unwrap());
        let mut gate = Gate::default();
        assert!(!gate.admits(&member), "before the first list nobody is admitted");
        for strangers in [false, true] {
            gate.admit(HashSet::from([member]), HashSet::from([guest]), strangers);
            assert!(gate.admits(&member) && gate.admits(&guest));
            assert_eq!(gate.admits(&stranger), strangers);
            assert!(gate.is_member(&member) && !gate.is_member(&guest) && !gate.is_member(&stranger));
        }
    }

    #[test]
    fn a_stranger_with_another_type_of_key_is_refused() {
        let mut gate = Gate::default();
        gate.admit(HashSet::new(), HashSet::new(), true);
        assert!(!gate.admits(&"QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N".parse().unwrap()));
    }

    #[test]
    fn strangers_cannot_take_every_connection() {
        let [guest, stranger] = [2, 3].map(|seed| peer_id(&DeviceSecret::from_bytes(&[seed; 32]).public()).unwrap());
        let mut gate = Gate::default();
        gate.admit(HashSet::new(), HashSet::from([guest]), true);
        for id in 0..STRANGER_CONNECTIONS_MAX {
            assert!(gate.check(&stranger).is_ok());
            gate.stranger_connections.insert(ConnectionId::new_unchecked(id));
        }
        assert!(gate.check(&stranger).is_err());
        assert!(gate.check(&guest).is_ok());
    }
}
