//! What the running peer answers: the bodies of the documents that `--json` prints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use starling_schema::ids::{DeviceId, LibraryId, RecordId};

/// What a peer says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StatusReply {
    pub(crate) device: DeviceName,
    pub(crate) library: LibraryReply,
    pub(crate) verdict: Verdict,
    pub(crate) peers: Vec<PeerRow>,
    pub(crate) queues: BTreeMap<String, u64>,
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) log: BTreeMap<String, u64>,
    pub(crate) listen: Vec<String>,
}

impl StatusReply {
    /// How many peers are connected.
    pub(crate) fn online(&self) -> usize {
        self.peers.iter().filter(|peer| peer.online).count()
    }
}

/// A device by id and name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DeviceName {
    pub(crate) id: DeviceId,
    pub(crate) name: String,
}

/// The library and how far it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LibraryReply {
    pub(crate) id: LibraryId,
    pub(crate) name: String,
    /// `{"name": "ready"}`, with numbers where there are some.
    pub(crate) state: Value,
}

/// Whether all is well, and if not, why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) in_sync: bool,
    pub(crate) reason: String,
}

/// One other device as the peer sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PeerRow {
    pub(crate) id: DeviceId,
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) online: bool,
    pub(crate) address: Option<String>,
    pub(crate) rtt_ms: Option<u64>,
    pub(crate) behind_us: u64,
    pub(crate) behind_them: u64,
    pub(crate) clock_offset_ms: Option<i64>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) last_seen: Option<u64>,
}

/// The connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Peers {
    pub(crate) peers: Vec<PeerRow>,
}

/// The members.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Devices {
    pub(crate) devices: Vec<DeviceRow>,
}

/// One member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DeviceRow {
    pub(crate) id: DeviceId,
    pub(crate) name: String,
    pub(crate) this: bool,
    pub(crate) online: bool,
    pub(crate) os: Option<String>,
    pub(crate) last_seen: Option<u64>,
}

/// An invitation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ticket {
    pub(crate) ticket: String,
    pub(crate) expires_at: u64,
}

/// What joining led to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JoinedReply {
    pub(crate) library: LibraryName,
    pub(crate) devices: usize,
}

/// A library by id and name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LibraryName {
    pub(crate) id: LibraryId,
    pub(crate) name: String,
}

/// BLAKE3 over the canonical dump.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Digest {
    pub(crate) all: String,
    pub(crate) models: BTreeMap<String, String>,
}

/// Whether all is as it must be.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verified {
    pub(crate) ok: bool,
    pub(crate) differences: Vec<Difference>,
}

/// Something that is not as it must be.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Difference {
    /// None when it is about the file as a whole.
    pub(crate) model: Option<String>,
    pub(crate) id: Option<RecordId>,
    pub(crate) problem: String,
}

/// Whether syncing is paused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Paused {
    pub(crate) paused: bool,
}

/// Indexed folders.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Locations {
    pub(crate) locations: Vec<LocationRow>,
}

/// One indexed folder.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct LocationRow {
    pub(crate) id: RecordId,
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) device: String,
    pub(crate) device_id: DeviceId,
    pub(crate) entry_count: Option<i64>,
    pub(crate) byte_size: Option<i64>,
    pub(crate) last_scan_at: Option<i64>,
}

/// Files and folders that were found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entries {
    pub(crate) entries: Vec<EntryRow>,
    /// Whether there are more than were asked for.
    pub(crate) more: bool,
}

/// One file or folder.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct EntryRow {
    pub(crate) id: RecordId,
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) kind: String,
    pub(crate) size: Option<i64>,
    pub(crate) modified_at: Option<i64>,
    pub(crate) device: String,
    pub(crate) device_id: DeviceId,
    pub(crate) location: String,
    pub(crate) location_id: Option<RecordId>,
    pub(crate) tags: Vec<String>,
}

/// A record by id and name.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct NamedRecord {
    pub(crate) id: RecordId,
    pub(crate) name: String,
}

/// All that is known of one record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RecordReply {
    pub(crate) id: RecordId,
    pub(crate) model: String,
    /// Whether it is there, or was deleted.
    pub(crate) alive: bool,
    pub(crate) owner: Option<DeviceId>,
    pub(crate) fields: Map<String, Value>,
    /// Of shared records: per field the write that it shows.
    pub(crate) stamps: BTreeMap<String, StampRow>,
    /// Of entries: where they are and what people say of them.
    pub(crate) entry: Option<EntryDetails>,
}

/// The write that a field shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StampRow {
    pub(crate) hlc: String,
    pub(crate) at: u64,
    pub(crate) device: DeviceId,
}

/// Where an entry is and what people say of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EntryDetails {
    pub(crate) path: String,
    pub(crate) device: String,
    pub(crate) tags: Vec<NamedRecord>,
    pub(crate) collections: Vec<NamedRecord>,
    pub(crate) metadata: Option<MetadataRow>,
    /// Other entries of the same content, on any device.
    pub(crate) copies: Vec<Copy>,
}

/// Another entry of the same content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Copy {
    pub(crate) id: RecordId,
    pub(crate) path: String,
    pub(crate) device: String,
}

/// The tags.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tags {
    pub(crate) tags: Vec<TagRow>,
}

/// One tag.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TagRow {
    pub(crate) id: RecordId,
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    pub(crate) color: Option<String>,
    pub(crate) icon: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) aliases: Option<String>,
    pub(crate) hidden: bool,
    pub(crate) alive: bool,
    /// How many files, folders and contents carry it.
    pub(crate) assignments: i64,
    /// The tags that it is nested in.
    pub(crate) parents: Vec<NamedRecord>,
}

/// A tag and what it was put on or taken off.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Assigned {
    #[serde(flatten)]
    pub(crate) tag: TagRow,
    pub(crate) targets: Vec<AssignedTarget>,
}

/// One thing that a tag was put on or taken off.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AssignedTarget {
    /// The record of the assignment.
    pub(crate) id: RecordId,
    pub(crate) entry: RecordId,
    pub(crate) content_hash: Option<String>,
}

/// A tag within another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Nested {
    pub(crate) id: RecordId,
    pub(crate) parent: NamedRecord,
    pub(crate) child: NamedRecord,
    pub(crate) on: bool,
}

/// The collections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Collections {
    pub(crate) collections: Vec<CollectionRow>,
}

/// One collection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CollectionRow {
    pub(crate) id: RecordId,
    pub(crate) name: String,
    pub(crate) color: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) alive: bool,
    /// How many files and folders are in it.
    pub(crate) entries: i64,
}

/// A collection and what was put in or taken out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Collected {
    #[serde(flatten)]
    pub(crate) collection: CollectionRow,
    pub(crate) targets: Vec<RecordId>,
}

/// What people say of an entry.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct MetadataRow {
    pub(crate) id: RecordId,
    pub(crate) target: RecordId,
    pub(crate) notes: Option<String>,
    pub(crate) favorite: bool,
    pub(crate) hidden: bool,
    pub(crate) rating: Option<i64>,
}

/// What lost against concurrent edits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Conflicts {
    pub(crate) conflicts: Vec<ConflictRow>,
}

/// A value that lost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ConflictRow {
    /// The same on every device.
    pub(crate) id: String,
    pub(crate) model: String,
    pub(crate) record: RecordId,
    pub(crate) field: String,
    pub(crate) value: Value,
    /// What the field shows.
    pub(crate) current: Value,
    /// Whether it lost to a delete of the record.
    pub(crate) deleted: bool,
    /// When it was written.
    pub(crate) at: u64,
    /// Where it was written.
    pub(crate) device: DeviceId,
    pub(crate) hlc: String,
}

/// One line of the events.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EventRow {
    pub(crate) cursor: u64,
    /// `changed`, `connected`, `disconnected`, `membership_changed` or `gap`: what came before `cursor` was dropped.
    pub(crate) kind: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) device: Option<DeviceId>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) remote: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) truncated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) records: Option<Vec<EventRecord>>,
}

/// A record that an event is about.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EventRecord {
    pub(crate) model: String,
    pub(crate) id: RecordId,
}
