//! API SKELETON for node helpers (bodies come later; signatures are meant to stay).
use std::path::PathBuf;
use std::time::Duration;
use diesel::sqlite::SqliteConnection;
use starling_schema::change::Write;
use starling_schema::ids::{DeviceId, FieldNo, LibraryId, ModelId, RecordId};
use starling_schema::hlc::Hlc;
use starling_schema::value::Value;
use starling_schema::model::Syncable;
use crate::environment::Environment;
use crate::status::Status;

/// What a peer is started with.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// Where the key, the database and the lock live. Made if missing.
    pub data: PathBuf,
    /// This device's name at first start (and when given later: renames the device row).
    pub name: Option<String>,
    /// Multiaddresses; empty = any port on all interfaces.
    pub listen: Vec<String>,
    /// Whether to look for members on the local network.
    pub mdns: bool,
    /// Time, randomness, placement.
    pub environment: Environment,
}

/// Why a peer could not be started. Nothing was left half made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another process holds the data directory.
    #[error("another peer is running on {0}")]
    Locked(PathBuf),
    /// The key file is missing though the database exists, is unreadable or not private, etc.
    #[error("{0}")]
    Key(String),
    /// The database is corrupt, newer, or cannot be opened.
    #[error("{0}")]
    Store(String),
    /// An address is taken or malformed.
    #[error("{0}")]
    Network(String),
}

/// What a durable commit got.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Default)]
pub struct Receipt {
    /// The head of our state stream after it.
    pub state_head: u64,
    /// The head of our shared stream after it.
    pub shared_head: u64,
}

/// Why a commit was refused. Nothing of it was written.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitError {
    /// A write that can never be (unknown model or field, too large, another device's record…): names the record.
    #[error("{model} {record}: {reason}")]
    Refused { /// The model's name.
        model: String, /// Which record.
        record: RecordId, /// Why.
        reason: String },
    /// The record was deleted: restore it first.
    #[error("{model} {record} was deleted: restore it first")]
    Deleted { /// The model's name.
        model: String, /// Which record.
        record: RecordId },
    /// More shared changes than one commit may hold (1,000 changes, 1 MiB): split it.
    #[error("{changes} changes of shared data are more than one commit holds: split it")]
    TooLarge { /// How many.
        changes: usize },
    /// Too much is waiting to be written: try again.
    #[error("too much is waiting to be written")]
    Busy,
    /// Disk full, I/O error, read-only, corrupt file.
    #[error("the database cannot be written: {0}")]
    Storage(String),
    /// The peer has stopped.
    #[error("the peer has stopped")]
    Stopped,
}

/// Why a query failed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueryError {
    /// SQLite or a closure failed.
    #[error("the database cannot be read: {0}")]
    Storage(String),
    /// Too many queries wait.
    #[error("too many queries are waiting")]
    Busy,
    /// The peer has stopped.
    #[error("the peer has stopped")]
    Stopped,
}
impl From<diesel::result::Error> for QueryError {
    fn from(e: diesel::result::Error) -> Self { Self::Storage(e.to_string()) }
}

/// An invitation that was issued.
#[derive(Clone, Debug)]
pub struct Invitation { /// The ticket's text.
    pub ticket: String, /// ms since 1970.
    pub expires_at_ms: u64 }

/// What joining led to.
#[derive(Clone, Debug)]
pub struct Joined { /// Which.
    pub library: LibraryId, /// Its name.
    pub library_name: String, /// How many members it has now.
    pub devices: usize }

/// Why joining failed. The peer goes on with the library that it had.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum JoinError {
    /// The text is no ticket, or was altered.
    #[error("{0}")]
    Ticket(String),
    /// The inviter refused.
    #[error("{0}")]
    Refused(String),
    /// The inviter cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// The library here has data.
    #[error("the library on this device has data: join with --merge to take it along, or use a fresh data directory")]
    NotEmpty,
    /// Writing failed.
    #[error("{0}")]
    Storage(String),
}

/// A kept loser.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict { /// Its model.
    pub model: ModelId, /// Its record.
    pub record: RecordId, /// Its field.
    pub field: FieldNo, /// The losing write.
    pub hlc: Hlc, /// The losing value.
    pub value: Value, /// Whether it lost to a delete of the record instead of to another value.
    pub deleted: bool }

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo { /// Its id.
    pub id: DeviceId, /// Its name.
    pub name: String, /// Whether it is this device.
    pub this: bool }

/// Something that happened. Cursors rise by one.
#[derive(Clone, Debug, PartialEq)]
pub struct Event { /// Its place in the order.
    pub cursor: u64, /// What.
    pub kind: EventKind }
/// What happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum EventKind {
    /// Records changed, by a local commit or a peer's.
    Changed { /// model and record, bounded list; empty+truncated when very many
        records: Vec<(ModelId, RecordId)>, /// whether there were more.
        truncated: bool, /// whether a peer made the change
        remote: bool },
    /// A peer came.
    Connected(DeviceId),
    /// A peer went.
    Disconnected(DeviceId),
    /// The list of members changed.
    MembershipChanged,
}

/// A running peer. Cheap to clone; the last word is [`PeerHandle::stop`].
#[derive(Clone, Debug)]
pub struct PeerHandle { environment: Environment }

impl PeerHandle {
    /// Starts a peer: opens (or makes) the key, the database, the library, the network.
    pub async fn start(_options: PeerOptions) -> Result<Self, StartError> { todo!() }
    /// This device.
    #[must_use] pub fn device(&self) -> DeviceId { todo!() }
    /// Its library (changes by join).
    #[must_use] pub fn library(&self) -> LibraryId { todo!() }
    /// Time, randomness, ids (`environment().new_id()`, `.new_ids(n)`, `.wall_ms()`).
    #[must_use] pub fn environment(&self) -> &Environment { &self.environment }
    /// Commits writes durably, all or nothing; owned rows of any number (batches of up to ~5,000), at most 1,000 shared changes.
    pub async fn commit(&self, _writes: Vec<Write>) -> Result<Receipt, CommitError> { todo!() }
    /// Runs read-only SQL on a reader's connection (one read transaction).
    pub async fn query<T: Send + 'static>(&self, _read: impl FnOnce(&mut SqliteConnection) -> Result<T, QueryError> + Send + 'static) -> Result<T, QueryError> { todo!() }
    /// Makes a one-time ticket.
    pub async fn invite(&self, _expires: Duration) -> Result<Invitation, QueryError> { todo!() }
    /// Joins the ticket's library.
    pub async fn join(&self, _ticket: &str, _merge: bool) -> Result<Joined, JoinError> { todo!() }
    /// Who belongs to the library.
    pub async fn members(&self) -> Result<Vec<MemberInfo>, QueryError> { todo!() }
    /// What this peer says of itself.
    pub async fn status(&self) -> Result<Status, QueryError> { todo!() }
    /// The events after a cursor (0 = from the start of what is kept); waits until there is one or `wait` is over.
    /// `Err(oldest)` when events after the cursor were dropped already.
    pub async fn events(&self, _after: u64, _wait: Duration) -> Result<Result<Vec<Event>, u64>, QueryError> { todo!() }
    /// Kept losers.
    pub async fn conflicts(&self) -> Result<Vec<Conflict>, QueryError> { todo!() }
    /// Ends the peer in order; returns when all is closed.
    pub async fn stop(&self) { todo!() }
    /// Resolves when the peer has stopped by itself or by `stop`.
    pub async fn stopped(&self) { todo!() }
}

/// Reads of records, on the connection that `query` hands out.
pub mod records {
    use super::*;
    /// One live record.
    pub fn get<M: Syncable>(_c: &mut SqliteConnection, _id: RecordId) -> Result<Option<M>, QueryError> { todo!() }
    /// All live records of a model whose column equals a value (columns by field number), ordered by id.
    pub fn all_where<M: Syncable>(_c: &mut SqliteConnection, _field: FieldNo, _value: &Value) -> Result<Vec<M>, QueryError> { todo!() }
    /// All live records of a model, ordered by id.
    pub fn all<M: Syncable>(_c: &mut SqliteConnection) -> Result<Vec<M>, QueryError> { todo!() }
    /// The owner of a device-owned record.
    pub fn owner<M: Syncable>(_c: &mut SqliteConnection, _id: RecordId) -> Result<Option<DeviceId>, QueryError> { todo!() }
}

/// Canonical dump and digests.
pub mod canonical {
    use super::*;
    /// Calls `line` with the model's name and one JSON line (no newline) for every item of the canonical dump, in key order.
    pub fn dump(_c: &mut SqliteConnection, _line: &mut dyn FnMut(&str, &str)) -> Result<(), QueryError> { todo!() }
    /// BLAKE3 over all, and per model name.
    pub fn digest(_c: &mut SqliteConnection) -> Result<(String, std::collections::BTreeMap<String, String>), QueryError> { todo!() }
}
