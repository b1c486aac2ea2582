//! What the command line and the running peer say to each other: every route with its request; the replies are beside.
//!
//! Requests are JSON bodies of a POST. A reply is what `--json` prints. Times are milliseconds since 1970.

mod replies;

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) use self::replies::*;
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
call!("/v1/devices/rename", DeviceRename { name: String } -> DeviceRow);
call!("/v1/devices/remove", DeviceRemove { device: String } -> DeviceRow);
call!("/v1/invite", InviteCall { expires_ms: u64 } -> Ticket);
call!("/v1/join", JoinCall { ticket: String, merge: bool } -> JoinedReply);
call!("/v1/digest", DigestCall {} -> Digest);
call!("/v1/verify", VerifyCall { with: Option<String> } -> Verified);
call!("/v1/pause", PauseCall { paused: bool } -> Paused);
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

/// What is to be said of a collection: what is absent stays, what is empty is cleared.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct CollectionFields {
    pub(crate) name: Option<String>,
    pub(crate) color: Option<String>,
    pub(crate) description: Option<String>,
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
