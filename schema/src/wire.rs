//! What travels between peers: the envelope and every payload it can hold.

use bincode::{Decode, Encode};

use crate::change::{Batch, Items, SharedChange, SharedItem, StateRow};
use crate::codec::{self, CodecError};
use crate::ids::{DeviceId, LibraryId, ModelId, RecordId};
use crate::key::DeviceKey;
use crate::signed::Signed;
use crate::stream::{Stream, StreamKind, Watermarks};

/// The protocol that this build speaks: the first byte of every message.
pub const PROTOCOL_VERSION: u8 = 1;

/// The largest gossip message: gossipsub's own default; larger ones are announced and pulled.
pub const GOSSIP_BYTES_MAX: usize = 64 * 1024;

/// The largest request: what is larger is announced and pulled.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// The largest response on the wire: four of the pages that transfer fastest.
pub const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The largest message unpacked: four times the wire, as well as entry rows ever pack.
pub const UNPACKED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Messages below this size are not worth compressing.
pub const COMPRESS_ABOVE_BYTES: usize = 1024;

/// One message between peers.
#[derive(Clone, Debug, PartialEq)]
pub struct SyncEnvelope {
    /// The library that it is about.
    pub library: LibraryId,
    /// Who sent it.
    pub device: DeviceId,
    /// When, by the sender's wall clock in milliseconds since 1970: for clock offsets in status, never for order.
    pub timestamp_ms: u64,
    /// What it says.
    pub payload: SyncPayload,
}

/// What a message says. New payloads go to the end.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum SyncPayload {
    /// One owned row, live.
    StateChange(StateChange),
    /// Owned rows, live.
    StateBatch(StateBatch),
    /// One log entry, live.
    SharedChange(SharedEntry),
    /// Log entries, live.
    SharedChangeBatch(SharedChangeBatch),
    /// Asks for a page of a state stream.
    StateRequest(PageRequest),
    /// A page of a state stream.
    StateResponse(PageResponse),
    /// Asks for a page of a shared stream.
    SharedChangeRequest(PageRequest),
    /// A page of a shared stream.
    SharedChangeResponse(PageResponse),
    /// Asks for a page of a snapshot.
    SnapshotRequest(SnapshotRequest),
    /// A page of a snapshot.
    SnapshotResponse(SnapshotResponse),
    /// The first word on a connection, and its answer.
    Hello(Hello),
    /// How far the sender of a shared batch's receiver is.
    AckSharedChanges(Ack),
    /// How far the sender of a state batch's receiver is.
    AckState(Ack),
    /// Who is durably how far.
    Heartbeat(Heartbeat),
    /// Asks for the hash of a range of records.
    DigestRequest(DigestRequest),
    /// The hash of a range of records.
    DigestResponse(DigestResponse),
    /// Asks to become a member.
    JoinRequest(JoinRequest),
    /// Whether one became a member.
    JoinResponse(JoinResponse),
    /// A typed refusal.
    Error(Refusal),
    /// Received, nothing to say.
    Done,
}

/// One owned row with the range that it speaks for.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct StateChange {
    /// Whose.
    pub owner: DeviceId,
    /// The version before.
    pub after: u64,
    /// The row; its version is the end of the range.
    pub row: StateRow,
}

/// Owned rows with the range that they speak for.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct StateBatch {
    /// Whose.
    pub owner: DeviceId,
    /// The version before the first.
    pub after: u64,
    /// The last version that this speaks for.
    pub through: u64,
    /// The rows by version.
    pub rows: Vec<StateRow>,
}

/// One log entry; its number is the range that it speaks for.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct SharedEntry {
    /// Whose.
    pub origin: DeviceId,
    /// The entry.
    pub change: SharedChange,
}

/// Log entries with the range that they speak for.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct SharedChangeBatch {
    /// Whose.
    pub origin: DeviceId,
    /// The number before the first.
    pub after: u64,
    /// The last number.
    pub through: u64,
    /// The entries in order.
    pub changes: Vec<SharedChange>,
}

/// Asks for what follows a watermark.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Encode, Decode)]
pub struct PageRequest {
    /// Whose stream.
    pub origin: DeviceId,
    /// The asker has everything up to here.
    pub after: u64,
    /// Up to here the asker holds nothing that was deleted, whatever tombstones are gone; of a shared stream the same
    /// as `after`, of a state stream of which it holds nothing the highest number there is.
    pub clean: u64,
}

/// What follows a watermark.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum PageResponse {
    /// The next page.
    Page {
        /// The changes.
        batch: Batch,
        /// How far the responder is.
        head: u64,
        /// Below this the responder may lack entries or tombstones.
        floor: u64,
        /// Up to here the responder holds nothing that was deleted, so none of these rows was.
        clean: u64,
    },
    /// The responder has nothing beyond the asker's watermark.
    UpToDate {
        /// How far the responder is.
        head: u64,
    },
    /// What was asked for has been pruned here.
    TakeSnapshot {
        /// Below this the responder lacks entries or tombstones.
        floor: u64,
    },
}

/// What a snapshot is of.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Encode, Decode)]
pub enum SnapshotScope {
    /// All shared records.
    Shared,
    /// One owner's rows.
    State(DeviceId),
}

/// A place in key order.
pub type Cursor = (ModelId, RecordId);

/// Asks for a page of a snapshot.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Encode, Decode)]
pub struct SnapshotRequest {
    /// Of what.
    pub scope: SnapshotScope,
    /// The last key that the asker has; none for the first page.
    pub after: Option<Cursor>,
}

/// A page of a snapshot.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct SnapshotResponse {
    /// Of what.
    pub scope: SnapshotScope,
    /// The key that the page follows.
    pub after: Option<Cursor>,
    /// The last key that the page speaks for; none when it reaches the end.
    pub through: Option<Cursor>,
    /// The responder's watermarks for the scope in the transaction that read this page. The whole snapshot stands for
    /// the least that any of its pages was read at.
    pub watermarks: Watermarks,
    /// The records.
    pub items: SnapshotItems,
}

impl SnapshotResponse {
    /// Whether the page holds what its scope says, and goes on if it says so.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let (is_of_kind, is_empty) = match (&self.scope, &self.items) {
            (SnapshotScope::Shared, SnapshotItems::Shared(items)) => (true, items.is_empty()),
            (SnapshotScope::State(_), SnapshotItems::State(rows)) => (true, rows.is_empty()),
            _ => (false, true),
        };
        is_of_kind && self.through.is_none_or(|through| Some(through) > self.after && !is_empty)
    }
}

/// The records of a snapshot page, in key order.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum SnapshotItems {
    /// Shared records.
    Shared(Vec<SharedItem>),
    /// One owner's rows.
    State(Vec<StateRow>),
}

/// The first word on a connection.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Hello {
    /// The oldest protocol that the sender understands.
    pub protocol_min: u8,
    /// The newest protocol that the sender understands.
    pub protocol_max: u8,
    /// The sender's key.
    pub key: DeviceKey,
    /// The release that it runs; for people.
    pub app_version: String,
    /// Every membership statement that the sender holds.
    pub statements: Vec<Signed>,
    /// Where the sender last knew members to be, itself among them: hints for dialing.
    pub addresses: Vec<(DeviceId, Vec<String>)>,
    /// How far it is: what it has applied, durable or not.
    pub watermarks: Watermarks,
}

/// How far the receiver of a direct batch is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Encode, Decode)]
pub struct Ack {
    /// Whose stream.
    pub origin: DeviceId,
    /// Applied and committed without holes.
    pub applied: u64,
    /// Of that, what survives a power cut.
    pub durable: u64,
}

/// Who is durably how far.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Heartbeat {
    /// The sender's own newest [`crate::signed::Beacon`], and the newest it holds of others.
    pub beacons: Vec<Signed>,
    /// Of whom the sender has a beacon that adds to a whole one which it lacks.
    pub lacks: Vec<DeviceId>,
    /// The hash of the sender's membership statements: who differs says hello again.
    pub membership: [u8; 32],
}

/// Asks for the hash of a range of records of one model.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Encode, Decode)]
pub struct DigestRequest {
    /// Which model.
    pub model: ModelId,
    /// The first record.
    pub from: RecordId,
    /// The last record.
    pub through: RecordId,
}

/// The hash of a range of records, comparable only at equal watermarks.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct DigestResponse {
    /// How far the responder was when it read the records; nothing at all when they are of no such point.
    pub watermarks: Watermarks,
    /// BLAKE3 over what the canonical dump holds of the records, by field numbers: the same for all versions.
    pub hash: [u8; 32],
    /// How many records were hashed: the first of the range, when there are very many.
    pub records: u64,
}

/// Asks to become a member.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct JoinRequest {
    /// The asker's key.
    pub key: DeviceKey,
    /// The asker's name.
    pub name: String,
    /// A hash, keyed by the ticket's secret, over both keys.
    pub proof: [u8; 32],
}

/// Whether one became a member.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum JoinResponse {
    /// One did: the library's membership, the admission among it.
    Admitted {
        /// The library's name.
        library_name: String,
        /// Every membership statement.
        statements: Vec<Signed>,
    },
    /// One did not.
    Refused(JoinRefusal),
}

/// Why a device was not admitted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Encode, Decode, thiserror::Error)]
pub enum JoinRefusal {
    /// No ticket fits the proof: altered, never issued, or for another library.
    #[error("the ticket is not valid here: check that it was copied whole, or ask for a new one")]
    Unknown,
    /// The ticket was used by another device.
    #[error("the ticket was used already: ask for a new one")]
    Used,
    /// The ticket's time is over.
    #[error("the ticket has expired: ask for a new one")]
    Expired,
    /// The device's key was removed from this library for good.
    #[error("this device was removed from the library: start over in a fresh data directory")]
    Removed,
}

/// A typed refusal of a request.
#[derive(Clone, Debug, Eq, PartialEq, Encode, Decode, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct Refusal {
    /// What kind.
    pub kind: RefusalKind,
    /// For people, naming the thing.
    pub message: String,
}

/// What kind of refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Encode, Decode, thiserror::Error)]
pub enum RefusalKind {
    /// The sender is not a member of that library.
    #[error("not a member")]
    NotAMember,
    /// The protocol versions do not overlap.
    #[error("protocol versions do not overlap")]
    Version,
    /// The message makes no sense here.
    #[error("bad request")]
    BadRequest,
    /// Too much at once: later.
    #[error("busy")]
    Busy,
    /// The responder's disk or database failed.
    #[error("storage failed")]
    Storage,
}

/// Why bytes from a peer are no message. Nothing of them was used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The peer speaks another protocol.
    #[error("the peer speaks protocol {theirs}, this one speaks {PROTOCOL_VERSION}: {}", upgrade(*theirs))]
    Version {
        /// The peer's protocol.
        theirs: u8,
    },
    /// The bytes are no message.
    #[error("the message does not decode: {0}")]
    Codec(#[from] CodecError),
}

fn upgrade(theirs: u8) -> &'static str {
    if theirs > PROTOCOL_VERSION { "upgrade this device" } else { "upgrade the peer" }
}

/// The header after the version byte: the rest is as it is, or compressed.
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

impl SyncEnvelope {
    /// The envelope as bytes: version, packing, content.
    ///
    /// # Errors
    /// [`CodecError::TooLarge`] when it does not fit `bytes_max`.
    pub fn encode(&self, bytes_max: usize) -> Result<Vec<u8>, CodecError> {
        let content = (self.library, self.device, self.timestamp_ms, &self.payload);
        let plain = codec::encode(&content, UNPACKED_BYTES_MAX)?;
        let (packing, content) =
            if plain.len() > COMPRESS_ABOVE_BYTES { (ZSTD, codec::compress(&plain)?) } else { (PLAIN, plain) };
        if content.len() + 2 > bytes_max {
            return Err(CodecError::TooLarge { bytes: content.len() + 2, bytes_max });
        }
        let mut bytes = Vec::with_capacity(content.len() + 2);
        bytes.extend_from_slice(&[PROTOCOL_VERSION, packing]);
        bytes.extend_from_slice(&content);
        Ok(bytes)
    }

    /// Reads an envelope.
    ///
    /// # Errors
    /// When the version is another, or the bytes are not exactly one envelope within the limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let malformed = |what: &str| WireError::Codec(CodecError::Malformed(what.to_owned()));
        let (&version, rest) = bytes.split_first().ok_or_else(|| malformed("it is empty"))?;
        if version != PROTOCOL_VERSION {
            return Err(WireError::Version { theirs: version });
        }
        let (&packing, content) = rest.split_first().ok_or_else(|| malformed("it ends after its version"))?;
        let (library, device, timestamp_ms, payload) = match packing {
            PLAIN => codec::decode::<_, UNPACKED_BYTES_MAX>(content)?,
            ZSTD => codec::decode::<_, UNPACKED_BYTES_MAX>(&codec::decompress(content, UNPACKED_BYTES_MAX)?)?,
            _ => return Err(malformed("it is packed in an unknown way")),
        };
        Ok(Self { library, device, timestamp_ms, payload })
    }
}

impl From<Batch> for SyncPayload {
    /// A batch as it is pushed: alone when it is one change, as a batch otherwise.
    fn from(batch: Batch) -> Self {
        let Batch { stream, after, through, items } = batch;
        match items {
            Items::State(mut rows) => match rows.pop() {
                Some(row) if rows.is_empty() && row.version == through => {
                    Self::StateChange(StateChange { owner: stream.origin, after, row })
                }
                last => {
                    rows.extend(last);
                    Self::StateBatch(StateBatch { owner: stream.origin, after, through, rows })
                }
            },
            Items::Shared(mut changes) => match changes.pop() {
                Some(change) if changes.is_empty() => Self::SharedChange(SharedEntry { origin: stream.origin, change }),
                last => {
                    changes.extend(last);
                    Self::SharedChangeBatch(SharedChangeBatch { origin: stream.origin, after, through, changes })
                }
            },
        }
    }
}

impl SyncPayload {
    /// The batch that a pushed payload holds; the payload itself when it is something else.
    ///
    /// # Errors
    /// Gives the payload back when it holds no batch.
    #[expect(clippy::result_large_err, reason = "the payload comes back as it went in")]
    pub fn into_batch(self) -> Result<Batch, Self> {
        Ok(match self {
            Self::StateChange(StateChange { owner, after, row }) => {
                Batch { stream: Stream::state(owner), after, through: row.version, items: Items::State(vec![row]) }
            }
            Self::StateBatch(StateBatch { owner, after, through, rows }) => {
                Batch { stream: Stream::state(owner), after, through, items: Items::State(rows) }
            }
            Self::SharedChange(SharedEntry { origin, change }) => Batch {
                stream: Stream::shared(origin),
                after: change.seq.saturating_sub(1),
                through: change.seq,
                items: Items::Shared(vec![change]),
            },
            Self::SharedChangeBatch(SharedChangeBatch { origin, after, through, changes }) => {
                Batch { stream: Stream::shared(origin), after, through, items: Items::Shared(changes) }
            }
            other => return Err(other),
        })
    }

    /// The request for what follows `after` in a stream, from somebody who is `clean` so far.
    #[must_use]
    pub fn page_request(stream: Stream, after: u64, clean: u64) -> Self {
        let request = PageRequest { origin: stream.origin, after, clean };
        match stream.kind {
            StreamKind::State => Self::StateRequest(request),
            StreamKind::Shared => Self::SharedChangeRequest(request),
        }
    }

    /// The answer to a page request of a stream of this kind.
    #[must_use]
    pub fn page_response(kind: StreamKind, response: PageResponse) -> Self {
        match kind {
            StreamKind::State => Self::StateResponse(response),
            StreamKind::Shared => Self::SharedChangeResponse(response),
        }
    }

    /// The ack of a direct batch.
    #[must_use]
    pub fn ack(stream: Stream, applied: u64, durable: u64) -> Self {
        let ack = Ack { origin: stream.origin, applied, durable };
        match stream.kind {
            StreamKind::State => Self::AckState(ack),
            StreamKind::Shared => Self::AckSharedChanges(ack),
        }
    }

    /// The payload's name, for logs and counters.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::StateChange(_) => "state_change",
            Self::StateBatch(_) => "state_batch",
            Self::SharedChange(_) => "shared_change",
            Self::SharedChangeBatch(_) => "shared_change_batch",
            Self::StateRequest(_) => "state_request",
            Self::StateResponse(_) => "state_response",
            Self::SharedChangeRequest(_) => "shared_change_request",
            Self::SharedChangeResponse(_) => "shared_change_response",
            Self::SnapshotRequest(_) => "snapshot_request",
            Self::SnapshotResponse(_) => "snapshot_response",
            Self::Hello(_) => "hello",
            Self::AckSharedChanges(_) => "ack_shared_changes",
            Self::AckState(_) => "ack_state",
            Self::Heartbeat(_) => "heartbeat",
            Self::DigestRequest(_) => "digest_request",
            Self::DigestResponse(_) => "digest_response",
            Self::JoinRequest(_) => "join_request",
            Self::JoinResponse(_) => "join_response",
            Self::Error(_) => "error",
            Self::Done => "done",
        }
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
