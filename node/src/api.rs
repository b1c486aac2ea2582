//! What the command line and the running peer say to each other: every route with its request and its reply.
//!
//! Requests are JSON bodies of a POST. A reply is what `--json` prints. Times are milliseconds since 1970.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use starling_schema::ids::{DeviceId, LibraryId, RecordId};

use crate::error::CliError;

/// The number of this shape of JSON documents; it rises when something is renamed or removed.
pub(crate) const SCHEMA: u32 = 1;

/// A reply as it is printed and as it travels: the number of its shape and its fields.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Document<T> {
    /// [`SCHEMA`]
    pub(crate) schema: u32,
    /// The reply.
    #[serde(flatten)]
    pub(crate) body: T,
}

impl<T> Document<T> {
    /// A document of today's shape.
    pub(crate) fn of(body: T) -> Self {
        Self { schema: SCHEMA, body }
    }
}

/// A request that is answered by one document.
pub(crate) trait Call: Serialize + DeserializeOwned + 'static {
    /// Where it is posted.
    const ROUTE: &'static str;
    /// What answers it.
    type Reply: Serialize + DeserializeOwned;
}

/// A request that is answered by lines of JSON for as long as there are some.
pub(crate) trait Stream: Serialize + DeserializeOwned + 'static {
    /// Where it is posted.
    const ROUTE: &'static str;
}

macro_rules! call {
    ($route:literal, $request:ident { $($(#[$doc:meta])* $field:ident: $type:ty),* $(,)? } -> $reply:ty) => {
        #[doc = concat!("`POST ", $route, "`")]
        #[derive(Clone, Debug, Serialize, Deserialize)]
        pub(crate) struct $request { $($(#[$doc])* pub(crate) $field: $type),* }
        impl Call for $request {
            const ROUTE: &'static str = $route;
            type Reply = $reply;
        }
    };
}

macro_rules! stream {
    ($route:literal, $request:ident { $($(#[$doc:meta])* $field:ident: $type:ty),* $(,)? }) => {
        #[doc = concat!("`POST ", $route, "`, answered by lines")]
        #[derive(Clone, Debug, Serialize, Deserialize)]
        pub(crate) struct $request { $($(#[$doc])* pub(crate) $field: $type),* }
        impl Stream for $request {
            const ROUTE: &'static str = $route;
        }
    };
}

call!("/v1/status", StatusCall {} -> StatusReply);
call!("/v1/devices", DevicesCall {} -> Devices);
call!("/v1/invite", InviteCall { expires_ms: u64 } -> Ticket);
call!("/v1/join", JoinCall { ticket: String, merge: bool } -> JoinedReply);
call!("/v1/digest", DigestCall {} -> Digest);
call!("/v1/locations", LocationsCall {} -> Locations);
call!("/v1/locations/remove", LocationRemove { location: TargetText } -> LocationRow);
call!("/v1/find", FindCall {
    query: Option<String>, tag: Option<String>, device: Option<String>, collection: Option<String>,
    kind: Option<i64>, favorite: bool, limit: u32,
} -> Entries);
call!("/v1/show", ShowCall { target: TargetText } -> RecordReply);
call!("/v1/tags", TagsCall {} -> Tags);
call!("/v1/tags/new", TagNew { fields: TagFields } -> TagRow);
call!("/v1/tags/edit", TagEdit { tag: String, fields: TagFields } -> TagRow);
call!("/v1/tags/delete", TagDelete { tag: String } -> TagRow);
call!("/v1/tags/restore", TagRestore { tag: String } -> TagRow);
call!("/v1/tags/assign", TagAssign { tag: String, targets: Vec<TargetText>, content: bool, on: bool } -> Assigned);
call!("/v1/tags/nest", TagNest { parent: String, child: String, on: bool } -> Nested);
call!("/v1/collections", CollectionsCall {} -> Collections);
call!("/v1/collections/new", CollectionNew { fields: CollectionFields } -> CollectionRow);
call!("/v1/collections/edit", CollectionEdit { collection: String, fields: CollectionFields } -> CollectionRow);
call!("/v1/collections/delete", CollectionDelete { collection: String } -> CollectionRow);
call!("/v1/collections/restore", CollectionRestore { collection: String } -> CollectionRow);
call!("/v1/collections/collect", Collect { collection: String, targets: Vec<TargetText>, on: bool } -> Collected);
call!("/v1/metadata", Annotate { target: TargetText, remark: Remark } -> MetadataRow);
call!("/v1/conflicts", ConflictsCall {} -> Conflicts);
call!("/v1/conflicts/show", ConflictShow { id: String } -> ConflictRow);
call!("/v1/conflicts/restore", ConflictRestore { id: String } -> ConflictRow);
stream!("/v1/locations/add", AddStream { path: RawPath });
stream!("/v1/locations/rescan", RescanStream { location: Option<TargetText> });
stream!("/v1/dump", DumpStream {});
stream!("/v1/events", EventsStream { since: u64, follow: bool });

/// A path whose bytes need not be UTF-8.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum RawPath {
    /// As text.
    Text(String),
    /// As bytes.
    Hex {
        /// The bytes in hexadecimal.
        hex: String,
    },
}

impl RawPath {
    /// The path, text where it is text.
    pub(crate) fn of(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Hex { hex: hex::encode(path.as_os_str().as_bytes()) },
        }
    }

    /// The path's bytes; none when they are no hexadecimal.
    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.as_bytes().to_vec()),
            Self::Hex { hex } => hex::decode(hex).ok(),
        }
    }
}

/// A record as somebody typed it: an id, or a path, which only the command line can complete.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct TargetText {
    /// What was typed.
    pub(crate) text: String,
    /// The same as an absolute path, if it is to be read as one.
    pub(crate) path: Option<RawPath>,
}

/// A line of a scan's stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ScanLine {
    /// How far it is.
    Progress(Progress),
    /// It is done; the last line.
    Result(Locations),
    /// It failed; the last line.
    Error(CliError),
}

/// How far a scan is.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The folder.
    pub(crate) path: String,
    /// What is being done there, in a word or two.
    pub(crate) phase: String,
    /// Entries looked at.
    pub(crate) seen: u64,
    /// Entries expected, once known.
    pub(crate) expected: Option<u64>,
    /// Files whose content was read.
    pub(crate) hashed: u64,
}

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

/// What is to be said of a tag: what is absent stays, what is empty is cleared.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct TagFields {
    pub(crate) name: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) color: Option<String>,
    pub(crate) icon: Option<String>,
    pub(crate) description: Option<String>,
    /// One a line.
    pub(crate) aliases: Option<String>,
    pub(crate) hidden: Option<bool>,
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

/// What is to be said of a collection: what is absent stays, what is empty is cleared.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct CollectionFields {
    pub(crate) name: Option<String>,
    pub(crate) color: Option<String>,
    pub(crate) description: Option<String>,
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

/// What somebody says of an entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Remark {
    /// Free text; empty clears it.
    Note(String),
    /// Whether it is a favourite.
    Favorite(bool),
    /// 0 to 5.
    Rating(u8),
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
