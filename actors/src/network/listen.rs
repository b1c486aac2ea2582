//! Starting to listen: every address is bound, or the start fails with the one that was not.

use std::collections::{HashSet, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use futures::StreamExt;
use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm};

use super::address::{tcp_socket, with_causes};
use super::behaviour::{Behaviour, BehaviourEvent};

/// Where a device listens that was told nothing: everywhere, at ports that are free.
pub const LISTEN_DEFAULT: [&str; 2] = ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"];

/// How long the addresses of listeners are waited for. Binding fails at once; only a machine without any network
/// interface has nothing to tell, and it starts all the same.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(2);

/// The most events that are put aside while listeners come up: only discovery can cause any, since nobody is admitted.
const EARLY_EVENTS_MAX: usize = 256;

/// Why the network did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartNetworkError {
    /// The address is no multiaddress, or of a transport that there is not.
    #[error("cannot listen on {address}: {reason}")]
    BadAddress {
        /// As it was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The address could not be bound: most often another program has the port.
    #[error("cannot listen on {address}: {reason}")]
    Unavailable {
        /// As it was given.
        address: String,
        /// What the operating system says.
        reason: String,
    },
    /// The network could not be set up at all.
    #[error("cannot start the network: {0}")]
    Setup(String),
}

/// What happened in the swarm.
pub(super) type Happened = SwarmEvent<BehaviourEvent>;

/// Listens on all addresses and returns once each is bound and has told where, with the events seen meanwhile: the
/// swarm tells everything once, so they are to be handled like any others.
pub(super) async fn listen(
    swarm: &mut Swarm<Behaviour>,
    addresses: &[String],
) -> Result<VecDeque<Happened>, StartNetworkError> {
    let mut silent = HashSet::new();
    for address in addresses {
        silent.insert(listen_on(swarm, address)?);
    }
    let mut early = VecDeque::new();
    let all_told = async {
        while !silent.is_empty() && early.len() < EARLY_EVENTS_MAX {
            let event = swarm.select_next_some().await;
            match &event {
                SwarmEvent::NewListenAddr { listener_id, .. } => {
                    silent.remove(listener_id);
                }
                SwarmEvent::ListenerClosed { addresses, reason: Err(error), .. } => {
                    let address = addresses.first().map_or_else(|| "an address".to_owned(), ToString::to_string);
                    return Err(StartNetworkError::Unavailable { address, reason: with_causes(error) });
                }
                _ => {}
            }
            early.push_back(event);
        }
        Ok(())
    };
    match tokio::time::timeout(LISTEN_TIMEOUT, all_told).await {
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) | Err(_) => Ok(early),
    }
}

fn listen_on(swarm: &mut Swarm<Behaviour>, address: &str) -> Result<ListenerId, StartNetworkError> {
    let bad = |reason: String| StartNetworkError::BadAddress { address: address.to_owned(), reason };
    let unavailable = |reason: String| StartNetworkError::Unavailable { address: address.to_owned(), reason };
    let parsed: Multiaddr = address.parse().map_err(|error| bad(with_causes(&error)))?;
    if let Some(socket) = tcp_socket(&parsed) {
        probe(socket).map_err(|error| unavailable(with_causes(&error)))?;
    }
    swarm.listen_on(parsed).map_err(|error| match error {
        TransportError::MultiaddrNotSupported(_) => bad("there is no such transport here".to_owned()),
        TransportError::Other(error) => unavailable(with_causes(&error)),
    })
}

/// Whether a TCP port is free. libp2p shares ports (`SO_REUSEPORT`), so a second process of the same user would be
/// given the port of the first without an error, and each would get half of the connections.
fn probe(socket: SocketAddr) -> std::io::Result<()> {
    if socket.port() == 0 {
        return Ok(());
    }
    TcpListener::bind(socket).map(drop)
}
