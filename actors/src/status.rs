//! What a peer says of itself, as one value.

use std::collections::BTreeMap;

use serde::Serialize;
use starling_schema::ids::{DeviceId, LibraryId};

pub use crate::counters::Counts;

/// How far a library is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "name")]
pub enum LibraryState {
    /// Nothing was ever held, and nobody has been met.
    Uninitialized,
    /// A first copy is on its way.
    Backfilling {
        /// Changes held.
        have: u64,
        /// Changes known to exist.
        of: u64,
    },
    /// Some changes that a connected peer has are missing here.
    CatchingUp {
        /// How many.
        missing: u64,
    },
    /// Nothing that a connected peer has is missing here.
    Ready,
    /// Somebody asked not to sync.
    Paused,
}

/// One peer as seen from here.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct PeerStatus {
    /// Its device id.
    pub id: DeviceId,
    /// What its person calls it.
    pub name: String,
    /// `ready`, `catching_up`, `offline` or `refused`.
    pub state: String,
    /// Whether it is connected.
    pub online: bool,
    /// Where it is, when connected.
    pub address: Option<String>,
    /// How long a request takes, when connected and measured.
    pub rtt_ms: Option<u64>,
    /// Changes that it has and we lack.
    pub behind_us: u64,
    /// Changes that we have and it lacks, as far as we know.
    pub behind_them: u64,
    /// Its wall clock minus ours, when known.
    pub clock_offset_ms: Option<i64>,
    /// Bytes that came from it since it connected.
    pub bytes_in: u64,
    /// Bytes that went to it since it connected.
    pub bytes_out: u64,
    /// When it was last heard of, in milliseconds since 1970.
    pub last_seen: Option<u64>,
}

/// What waits.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Queues {
    /// Sends to connected peers that are not acknowledged yet.
    pub retry: u64,
    /// Sends that were given up.
    pub dead_letters: u64,
    /// Changes that arrived ahead of their turn.
    pub buffered: u64,
    /// Changes with a stamp from too far in the future.
    pub parked: u64,
    /// Device-owned records that differ from a peer's and that only their owner can settle.
    pub differing: u64,
}

/// Whether all is well, and if not, why.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct SyncVerdict {
    /// Whether nothing is missing here or at the connected peers.
    pub in_sync: bool,
    /// One sentence.
    pub reason: String,
}

/// A device by id and name.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Named<Id> {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: String,
}

/// The library of a peer.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct LibraryStatus {
    /// Its id.
    pub id: LibraryId,
    /// Its name.
    pub name: String,
    /// How far it is.
    pub state: LibraryState,
}

/// The size of the peer log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct LogStatus {
    /// Entries that some member may still lack.
    pub entries: u64,
}

/// What a peer says of itself.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Status {
    /// This device.
    pub device: Named<DeviceId>,
    /// Its library.
    pub library: LibraryStatus,
    /// Whether all is well.
    pub verdict: SyncVerdict,
    /// Every other member.
    pub peers: Vec<PeerStatus>,
    /// What waits.
    pub queues: Queues,
    /// Live records per model.
    pub counts: BTreeMap<String, u64>,
    /// The peer log.
    pub log: LogStatus,
    /// Where this peer listens, as multiaddresses.
    pub listen: Vec<String>,
    /// What was counted since the peer started.
    pub counters: Counts,
}
