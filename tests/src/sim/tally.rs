//! What the simulated network counts: messages and bytes per node, and a hash over everything that was delivered.

use std::collections::BTreeMap;

use starling::network::NetworkEvent;
use starling_schema::codec;
use starling_schema::ids::{DeviceId, LibraryId};
use starling_schema::signed::{Beacon, STATEMENT_BYTES_MAX};
use starling_schema::stream::{Stream, Watermarks};
use starling_schema::wire::{SyncEnvelope, SyncPayload};

use super::NodeNo;

/// What one node sent and got.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Broadcasts that it asked for.
    pub published: u64,
    /// Broadcasts that reached it for the first time.
    pub gossip_heard: u64,
    /// The largest broadcast that it asked for, in bytes.
    pub gossip_bytes_max: usize,
    /// Requests that it sent, by payload.
    pub requests: BTreeMap<&'static str, u64>,
    /// The largest request that it sent, in bytes.
    pub request_bytes_max: usize,
    /// The largest response that it sent, in bytes.
    pub response_bytes_max: usize,
    /// Messages larger than the protocol allows, of any kind: none was carried.
    pub oversized: u64,
    /// Bytes that it put on its links, lost ones too.
    pub bytes_out: u64,
    /// Bytes that reached it.
    pub bytes_in: u64,
}

impl Tally {
    /// How many requests of a payload it sent.
    #[must_use]
    pub fn requests_of(&self, payload: &str) -> u64 {
        self.requests.get(payload).copied().unwrap_or(0)
    }

    pub(super) fn request(&mut self, bytes: &[u8], promises: &mut Promises) {
        self.request_bytes_max = self.request_bytes_max.max(bytes.len());
        let name = SyncEnvelope::decode(bytes).map_or("garbage", |envelope| {
            promises.hear(&envelope);
            envelope.payload.name()
        });
        *self.requests.entry(name).or_default() += 1;
    }
}

/// What devices said that they durably have, whoever they said it to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Promises(BTreeMap<(LibraryId, DeviceId), Watermarks>);

/// No acknowledgement is larger than this, in bytes: other answers need no look.
const ACK_BYTES_MAX: usize = 160;

impl Promises {
    /// The highest numbers that a device promised in a library.
    #[must_use]
    pub fn of(&self, library: LibraryId, device: DeviceId) -> Watermarks {
        self.0.get(&(library, device)).cloned().unwrap_or_default()
    }

    /// Takes down what a message promises for its own sender.
    fn hear(&mut self, envelope: &SyncEnvelope) {
        let SyncPayload::Heartbeat(heartbeat) = &envelope.payload else { return };
        for signed in &heartbeat.beacons {
            let beacon = codec::decode::<Beacon, STATEMENT_BYTES_MAX>(&signed.bytes);
            if let Ok(beacon) = beacon.as_ref()
                && beacon.author.device() == envelope.device
            {
                self.0.entry((envelope.library, envelope.device)).or_default().join(&beacon.durable);
            }
        }
    }

    /// Takes down what a broadcast promises.
    pub(super) fn broadcast(&mut self, bytes: &[u8]) {
        if let Ok(envelope) = SyncEnvelope::decode(bytes) {
            self.hear(&envelope);
        }
    }

    /// Takes down what an answer promises, when it is an acknowledgement.
    pub(super) fn answer(&mut self, bytes: &[u8]) {
        if bytes.len() > ACK_BYTES_MAX {
            return;
        }
        let Ok(envelope) = SyncEnvelope::decode(bytes) else { return };
        let (stream, ack) = match envelope.payload {
            SyncPayload::AckState(ack) => (Stream::state(ack.origin), ack),
            SyncPayload::AckSharedChanges(ack) => (Stream::shared(ack.origin), ack),
            _ => return,
        };
        self.0.entry((envelope.library, envelope.device)).or_default().raise(stream, ack.durable);
    }
}

/// A running hash over what was delivered to whom and when.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace {
    hasher: blake3::Hasher,
    pub(super) events: u64,
}

impl Trace {
    /// Adds one event that is told to a node.
    pub(super) fn event(&mut self, at_ms: u64, to: NodeNo, event: &NetworkEvent) {
        let (kind, bytes): (u8, &[u8]) = match event {
            NetworkEvent::Connected { peer, .. } => (0, &peer.0),
            NetworkEvent::Disconnected { peer } => (1, &peer.0),
            NetworkEvent::Gossip { bytes, .. } => (2, bytes),
            NetworkEvent::Request { bytes, .. } => (3, bytes),
            NetworkEvent::Listening { address } => (4, address.as_bytes()),
            NetworkEvent::Discovered { peer, .. } => (5, &peer.0),
        };
        self.add(at_ms, to, kind, bytes);
    }

    /// Adds an answer that reached its asker.
    pub(super) fn answer(&mut self, at_ms: u64, to: NodeNo, bytes: &[u8]) {
        self.add(at_ms, to, 6, bytes);
    }

    fn add(&mut self, at_ms: u64, to: NodeNo, kind: u8, bytes: &[u8]) {
        self.events += 1;
        if tracing::enabled!(tracing::Level::TRACE) {
            let what = match kind {
                2 | 3 | 6 => SyncEnvelope::decode(bytes).map_or("garbage", |envelope| envelope.payload.name()),
                _ => "",
            };
            let kind = ["connected", "disconnected", "gossip", "request", "listening", "discovered", "answer"]
                [usize::from(kind)];
            tracing::trace!(at_ms, to, kind, what, bytes = bytes.len());
        }
        self.hasher.update(&at_ms.to_le_bytes()).update(&(to as u64).to_le_bytes()).update(&[kind]);
        self.hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }

    /// The hash so far.
    pub(super) fn hash(&self) -> blake3::Hash {
        self.hasher.finalize()
    }
}
