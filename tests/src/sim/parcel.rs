//! What is under way in the simulated network, and the order in which it happens.

use std::collections::BTreeMap;
use std::rc::Rc;

use futures::channel::oneshot;
use starling::network::NetworkError;
use starling_schema::key::DeviceKey;

use super::NodeNo;

/// The name of a broadcast: the hash of its source and content.
pub(super) type GossipId = [u8; 32];

/// One copy of a message on its way over a connection.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub(super) connection: u64,
    pub(super) from: NodeNo,
    pub(super) to: NodeNo,
    pub(super) content: Content,
}

/// What a parcel holds.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Gossip { id: GossipId, source: DeviceKey, bytes: Rc<[u8]> },
    Request { id: u64, bytes: Rc<[u8]>, copy: bool },
    Answer { id: u64, outcome: Result<Rc<[u8]>, NetworkError> },
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Gossip { bytes, .. } | Self::Request { bytes, .. } | Self::Answer { outcome: Ok(bytes), .. } => {
                bytes.len() as u64
            }
            Self::Answer { outcome: Err(_), .. } => 0,
        }
    }

    /// What a second copy of it is: an answer is taken once, and the answer to a copy goes nowhere.
    pub(super) fn copied(&self) -> Self {
        match self {
            Self::Request { id, bytes, .. } => Self::Request { id: *id, bytes: bytes.clone(), copy: true },
            other => other.clone(),
        }
    }
}

/// Something that will happen.
#[derive(Debug)]
pub(super) enum Due {
    /// A message arrives.
    Arrival(Parcel),
    /// A request has waited long enough.
    Timeout(u64),
    /// A dial is over: it reached the other side, or nobody.
    Dialled { from: NodeNo, life: u64, to: Option<NodeNo>, reply: oneshot::Sender<Result<(), NetworkError>> },
    /// A connection over which nothing passed is noticed to be dead.
    Silence { pair: (NodeNo, NodeNo), connection: u64, since_ms: u64 },
    /// One node learns where another is.
    Discovery { at: NodeNo, about: NodeNo },
    /// What a node's full mailbox refused is offered again.
    Offer(NodeNo),
}

/// What is due when, first come first served.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    due: BTreeMap<(u64, u64), Due>,
    last: u64,
}

impl Agenda {
    pub(super) fn add(&mut self, at_ms: u64, due: Due) {
        self.last += 1;
        self.due.insert((at_ms, self.last), due);
    }

    pub(super) fn next_ms(&self) -> Option<u64> {
        self.due.first_key_value().map(|((at_ms, _), _)| *at_ms)
    }

    pub(super) fn take(&mut self, now_ms: u64) -> Option<Due> {
        self.next_ms().filter(|at_ms| *at_ms <= now_ms)?;
        self.due.pop_first().map(|(_, due)| due)
    }
}
