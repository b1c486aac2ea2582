//! The network as the rest of a peer knows it: a handful of messages down, one enum of events up.
//!
//! Whoever answers these messages *is* the network: `libp2p` in production, a simulated one in tests.

mod address;
mod behaviour;
mod calls;
mod codec;
mod driver;
mod gate;
mod keys;
mod listen;
mod members_only;
mod swarm;
#[cfg(test)]
mod tests;

use actix::prelude::*;
use futures::channel::oneshot;
use starling_schema::key::DeviceKey;

pub use listen::{LISTEN_DEFAULT, StartNetworkError};
pub use swarm::{Network, NetworkOptions, StartedNetwork, Stop};

/// The most events that wait for the roster before the network holds back.
pub const EVENTS_MAX: usize = 1_024;

/// What the roster is told.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum NetworkEvent {
    /// The first connection with a device came up; its key is proven. Further ones of the same device are not told.
    Connected {
        /// Whose.
        peer: DeviceKey,
        /// Where it is, as a multiaddress.
        address: String,
    },
    /// The last connection with a device went down.
    Disconnected {
        /// Whose.
        peer: DeviceKey,
    },
    /// A gossip message arrived, its signer proven. It is passed on once `verdict` says so.
    Gossip {
        /// Who signed it.
        source: DeviceKey,
        /// The message.
        bytes: Vec<u8>,
        /// Whether to pass it on. Dropped without a word counts as [`Verdict::Ignore`].
        verdict: oneshot::Sender<Verdict>,
    },
    /// A request arrived.
    Request {
        /// Who asks; its key is proven.
        peer: DeviceKey,
        /// The request.
        bytes: Vec<u8>,
        /// Where the answer goes. Dropped without a word, the asker sees a failure.
        reply: oneshot::Sender<Vec<u8>>,
    },
    /// We can be reached at this multiaddress.
    Listening {
        /// The address, without the peer part.
        address: String,
    },
    /// A device was seen on the local network, or a connected member told where it listens. Nothing of it is proven
    /// before a dial.
    Discovered {
        /// Which.
        peer: DeviceKey,
        /// Where.
        addresses: Vec<String>,
    },
}

/// What becomes of a gossip message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Valid: pass it on.
    Accept,
    /// Not for us to judge: do not pass it on, blame nobody.
    Ignore,
    /// Invalid: do not pass it on, and count it against who relayed it.
    Reject,
}

/// Why a request or a dial failed. Nothing is known of what the other side did.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// There is no connection to the device.
    #[error("not connected")]
    NotConnected,
    /// No answer came in time.
    #[error("no answer in time")]
    Timeout,
    /// Too many requests to this device are under way.
    #[error("too many requests are under way")]
    Busy,
    /// The message is larger than the protocol allows.
    #[error("the message is larger than the protocol allows")]
    TooLarge,
    /// The connection or the stream failed.
    #[error("{0}")]
    Failed(String),
}

/// Broadcast a message to all members that listen. A hint: it may reach nobody.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Publish(pub Vec<u8>);

/// Send a request and wait for its answer.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<u8>, NetworkError>")]
pub struct Request {
    /// To whom; it must be connected.
    pub peer: DeviceKey,
    /// The request.
    pub bytes: Vec<u8>,
}

/// Connect to a device at one of these multiaddresses. Answered once the dial has succeeded, which is also told by
/// [`NetworkEvent::Connected`], or failed; at once when the device is connected already.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), NetworkError>")]
pub struct Dial {
    /// Who must answer there.
    pub peer: DeviceKey,
    /// Where it may be.
    pub addresses: Vec<String>,
}

/// Close every connection with a device.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Disconnect(pub DeviceKey);

/// Who may connect from now on. Those who may no more are disconnected, and so are those who became members while
/// connected, once the requests under way with them are over: gossip begins with the next connection.
#[derive(Clone, Debug, Eq, PartialEq, Message)]
#[rtype(result = "()")]
pub struct Admit {
    /// The members: they get gossip and may send requests.
    pub members: Vec<DeviceKey>,
    /// Devices that may connect and exchange requests but get no gossip: those we join through.
    pub guests: Vec<DeviceKey>,
    /// Whether anybody may connect to send requests (but get no gossip), because a ticket is open.
    pub strangers: bool,
}

/// Where the network of a peer is reached.
#[derive(Clone, Debug)]
pub struct NetworkAddress {
    /// Takes broadcasts.
    pub publish: Recipient<Publish>,
    /// Takes requests.
    pub request: Recipient<Request>,
    /// Takes dials.
    pub dial: Recipient<Dial>,
    /// Closes connections.
    pub disconnect: Recipient<Disconnect>,
    /// Takes the list of who may connect.
    pub admit: Recipient<Admit>,
}
