//! Multiaddresses as people and peers write them: read, freed of the peer part, and named when they are bad.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// Reads an address at which `peer` may be. A peer part at its end is accepted when it names that peer.
///
/// # Errors
/// A sentence for people that names the address.
pub(super) fn parse_peer_address(address: &str, peer: &PeerId) -> Result<Multiaddr, String> {
    let parsed: Multiaddr = address.parse().map_err(|error| format!("{address} is no multiaddress: {error}"))?;
    match parsed.iter().last() {
        None => Err(format!("{address:?} is an empty multiaddress")),
        Some(Protocol::P2p(named)) if named != *peer => Err(format!("{address} is the address of another device")),
        _ => Ok(without_peer(parsed)),
    }
}

/// The address without the peer part.
pub(super) fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if let Some(Protocol::P2p(_)) = address.iter().last() {
        address.pop();
    }
    address
}

/// Whether the address leads nowhere but to the machine that uses it.
pub(super) fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

/// Where a TCP listener for this address would be bound; none for other transports.
pub(super) fn tcp_socket(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// An error with everything that caused it, in one line: libp2p hides the operating system's word three causes deep.
pub(super) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use starling_schema::key::DeviceSecret;

    use super::*;
    use crate::network::keys::peer_id;

    #[test]
    fn a_peer_part_is_accepted_when_it_names_the_peer() {
        let [ours, other] = [1, 2].map(|seed| peer_id(&DeviceSecret::from_bytes(&[seed; 32]).public()).unwrap());
        let plain: Multiaddr = "/ip4/127.0.0.1/tcp/7".parse().unwrap();
        assert_eq!(parse_peer_address("/ip4/127.0.0.1/tcp/7", &ours), Ok(plain.clone()));
        assert_eq!(parse_peer_address(&format!("/ip4/127.0.0.1/tcp/7/p2p/{ours}"), &ours), Ok(plain));
        assert!(parse_peer_address(&format!("/ip4/127.0.0.1/tcp/7/p2p/{other}"), &ours).is_err());
        assert!(parse_peer_address("nonsense", &ours).unwrap_err().contains("nonsense"));
        assert!(parse_peer_address("", &ours).is_err());
    }

    #[test]
    fn only_tcp_has_a_tcp_socket() {
        assert_eq!(tcp_socket(&"/ip4/127.0.0.1/tcp/7".parse().unwrap()), Some(SocketAddr::from(([127, 0, 0, 1], 7))));
        assert_eq!(tcp_socket(&"/ip4/127.0.0.1/udp/7/quic-v1".parse().unwrap()), None);
    }
}
