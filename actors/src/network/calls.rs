//! What is under way: our requests and dials that wait for their outcome, and others' requests that wait for our answer.

use std::collections::HashMap;
use std::io;

use futures::channel::oneshot;
use libp2p::PeerId;
use libp2p::request_response::{InboundRequestId, OutboundFailure, OutboundRequestId};
use libp2p::swarm::{ConnectionId, DialError};

use super::address::with_causes;
use super::behaviour::REQUESTS_PER_PEER_MAX;
use super::{NetworkError, Verdict};

/// The outcome of a request: its response.
type Response = Result<Vec<u8>, NetworkError>;
/// The outcome of a dial.
type Dialled = Result<(), NetworkError>;
/// Where the outcome of a request comes.
pub(super) type ResponseReceiver = oneshot::Receiver<Response>;
/// Where the outcome of a dial comes.
pub(super) type DialReceiver = oneshot::Receiver<Dialled>;

/// The calls under way. Whoever asked may have gone: then the outcome goes nowhere, but the call counts until it ends.
#[derive(Debug, Default)]
pub(super) struct Calls {
    requests: HashMap<OutboundRequestId, (PeerId, oneshot::Sender<Response>)>,
    answering: HashMap<InboundRequestId, PeerId>,
    dials: HashMap<ConnectionId, oneshot::Sender<Dialled>>,
}

impl Calls {
    /// Whether another request to this device would be one too many.
    pub(super) fn is_busy(&self, peer: &PeerId) -> bool {
        self.requests.values().filter(|(to, _)| to == peer).count() >= REQUESTS_PER_PEER_MAX
    }

    /// Whether no request is under way with this device, in neither direction.
    pub(super) fn is_idle(&self, peer: &PeerId) -> bool {
        !self.requests.values().any(|(to, _)| to == peer) && !self.answering.values().any(|from| from == peer)
    }

    /// A request was sent.
    pub(super) fn sent(&mut self, request: OutboundRequestId, peer: PeerId) -> ResponseReceiver {
        let (reply, outcome) = oneshot::channel();
        self.requests.insert(request, (peer, reply));
        outcome
    }

    /// A request has its outcome.
    pub(super) fn finished(&mut self, request: OutboundRequestId, outcome: Response) {
        if let Some((_, reply)) = self.requests.remove(&request) {
            tell(reply, outcome);
        }
    }

    /// A request of another device arrived.
    pub(super) fn arrived(&mut self, request: InboundRequestId, peer: PeerId) {
        self.answering.insert(request, peer);
    }

    /// A request of another device is over: answered, or failed.
    pub(super) fn answered(&mut self, request: InboundRequestId) {
        self.answering.remove(&request);
    }

    /// A dial began.
    pub(super) fn dialed(&mut self, connection: ConnectionId) -> DialReceiver {
        let (reply, outcome) = oneshot::channel();
        self.dials.insert(connection, reply);
        outcome
    }

    /// A connection came up, or did not.
    pub(super) fn connected(&mut self, connection: ConnectionId, outcome: Dialled) {
        if let Some(reply) = self.dials.remove(&connection) {
            tell(reply, outcome);
        }
    }

    /// The last connection with a device is gone, and every request with it.
    pub(super) fn disconnected(&mut self, peer: &PeerId) {
        for (_, (_, reply)) in self.requests.extract_if(|_, (to, _)| to == peer) {
            tell(reply, Err(NetworkError::NotConnected));
        }
        self.answering.retain(|_, from| from != peer);
    }
}

/// Hands an outcome to whoever asked, if they still wait.
fn tell<T>(reply: oneshot::Sender<T>, outcome: T) {
    drop(reply.send(outcome));
}

impl From<OutboundFailure> for NetworkError {
    fn from(failure: OutboundFailure) -> Self {
        match failure {
            OutboundFailure::Timeout => Self::Timeout,
            OutboundFailure::DialFailure | OutboundFailure::ConnectionClosed => Self::NotConnected,
            OutboundFailure::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => Self::TooLarge,
            OutboundFailure::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Failed("the other side did not answer".to_owned())
            }
            other => Self::Failed(with_causes(&other)),
        }
    }
}

impl From<DialError> for NetworkError {
    fn from(error: DialError) -> Self {
        Self::Failed(with_causes(&error))
    }
}

impl From<Verdict> for libp2p::gossipsub::MessageAcceptance {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Accept => Self::Accept,
            Verdict::Ignore => Self::Ignore,
            Verdict::Reject => Self::Reject,
        }
    }
}
