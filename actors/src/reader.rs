//! A reader actor: one read-only connection, for pages, snapshots, digests and queries. Several share the work.

use std::collections::BTreeSet;
use std::rc::Rc;

use actix::prelude::*;
use diesel::sqlite::SqliteConnection;
use starling_schema::ids::{ModelId, RecordId};
use starling_schema::stream::{Stream, StreamKind, Watermarks};
use starling_schema::wire::{Cursor, DigestRequest, DigestResponse, PageResponse, SnapshotResponse, SnapshotScope};

use crate::environment::Environment;
use crate::proto::equality::{Entry, KeyRange, range_hash};
use crate::rig::Limit;
use crate::store::pages::{PAGE_BYTES, PAGE_ROWS_MAX, Room};
use crate::store::sql::snapshot;
use crate::store::tables::Tables;
use crate::store::{Registry, ledger, pages};

/// Reads that wait per reader; beyond that askers are told to come again.
const MAILBOX: usize = 128;

/// The most rows of the first page of a stream.
const FIRST_PAGE_ROWS: usize = 2_048;

/// The most records that are hashed for a peer at a time, some 100 ms: whoever asks holds fewer in the range that it asks
/// about, so a hash of more would differ as surely.
const DIGEST_RECORDS_MAX: usize = 16_384;

/// Why a query failed. Nothing was changed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// `SQLite`, or the query itself, failed.
    #[error("the database cannot be read: {0}")]
    Storage(String),
    /// Too many queries wait.
    #[error("too many queries are waiting: try again")]
    Busy,
    /// The peer has stopped.
    #[error("the peer has stopped")]
    Stopped,
}

impl From<diesel::result::Error> for QueryError {
    fn from(error: diesel::result::Error) -> Self {
        Self::Storage(error.to_string())
    }
}

impl From<MailboxError> for QueryError {
    fn from(error: MailboxError) -> Self {
        match error {
            MailboxError::Closed => Self::Stopped,
            MailboxError::Timeout => Self::Busy,
        }
    }
}

/// Owns one read-only connection.
pub(crate) struct Reader {
    connection: SqliteConnection,
    tables: Rc<Tables>,
    environment: Environment,
}

impl Reader {
    pub(crate) fn new(connection: SqliteConnection, registry: &Registry, environment: Environment) -> Self {
        Self { connection, tables: Rc::new(Tables::new(registry)), environment }
    }

    /// How large a page of so many rows may be.
    fn room(&self, rows: Limit) -> Room {
        Room {
            rows: self.environment.limit(rows, PAGE_ROWS_MAX),
            bytes: self.environment.limit(Limit::PageBytes, PAGE_BYTES),
        }
    }
}

impl Actor for Reader {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

crate::links::halts!(Reader);

/// Read what follows a number in a stream, for somebody who holds nothing that was deleted up to `clean`.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<PageResponse, QueryError>")]
pub(crate) struct ReadPage {
    pub(crate) stream: Stream,
    pub(crate) after: u64,
    pub(crate) clean: u64,
}

impl Handler<ReadPage> for Reader {
    type Result = Result<PageResponse, QueryError>;

    fn handle(&mut self, ReadPage { stream, after, clean }: ReadPage, _: &mut Self::Context) -> Self::Result {
        let room = self.room(Limit::PageRows);
        // Who begins has something to apply sooner, and from there on pages double.
        let begins = usize::try_from(after).unwrap_or(PAGE_ROWS_MAX).max(FIRST_PAGE_ROWS);
        let room = Room { rows: room.rows.min(begins), ..room };
        Ok(pages::page(&mut self.connection, &self.tables, stream, (after, clean), room)?)
    }
}

/// Read what follows a key in a snapshot.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<SnapshotResponse, QueryError>")]
pub(crate) struct ReadSnapshot {
    pub(crate) scope: SnapshotScope,
    pub(crate) after: Option<Cursor>,
}

impl Handler<ReadSnapshot> for Reader {
    type Result = Result<SnapshotResponse, QueryError>;

    fn handle(&mut self, ReadSnapshot { scope, after }: ReadSnapshot, _: &mut Self::Context) -> Self::Result {
        let room = self.room(Limit::SnapshotRows);
        Ok(pages::snapshot_page(&mut self.connection, &self.tables, scope, after, room)?)
    }
}

/// Hash the records of a key range.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<DigestResponse, QueryError>")]
pub(crate) struct ReadDigest(pub(crate) DigestRequest);

impl Handler<ReadDigest> for Reader {
    type Result = Result<DigestResponse, QueryError>;

    fn handle(&mut self, ReadDigest(request): ReadDigest, _: &mut Self::Context) -> Self::Result {
        let DigestRequest { model, from, through } = request;
        let tables = self.tables.clone();
        snapshot(&mut self.connection, |c| {
            // Records that are ahead of the watermarks are equal to nobody's.
            let watermarks = ledger::comparable(c)?.unwrap_or_default();
            let (entries, _) = tables.entries(c, model, (from, through), DIGEST_RECORDS_MAX)?;
            Ok(DigestResponse { watermarks, hash: range_hash(&entries), records: entries.len() as u64 })
        })
    }
}

/// Read the records of a key range as far as equality goes.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Held, QueryError>")]
pub(crate) struct ReadEntries {
    pub(crate) model: ModelId,
    pub(crate) range: KeyRange,
    pub(crate) records_max: usize,
}

/// What is held of a model in a key range.
#[derive(Debug)]
pub(crate) struct Held {
    /// The point that the records are of; none when they are of no point.
    pub(crate) watermarks: Option<Watermarks>,
    pub(crate) entries: Vec<Entry>,
    /// How far the entries speak.
    pub(crate) through: RecordId,
    /// By which kinds of stream records of the model come; both when it is not known.
    pub(crate) kinds: Vec<StreamKind>,
}

impl Handler<ReadEntries> for Reader {
    type Result = Result<Held, QueryError>;

    fn handle(
        &mut self,
        ReadEntries { model, range, records_max }: ReadEntries,
        _: &mut Self::Context,
    ) -> Self::Result {
        let tables = self.tables.clone();
        let kinds = match tables.registry.get(model) {
            Some(spec) if spec.ownership.is_shared() => vec![StreamKind::Shared],
            Some(_) => vec![StreamKind::State],
            None => vec![StreamKind::Shared, StreamKind::State],
        };
        snapshot(&mut self.connection, |c| {
            let watermarks = ledger::comparable(c)?;
            let (entries, through) = tables.entries(c, model, range, records_max)?;
            Ok(Held { watermarks, entries, through, kinds })
        })
    }
}

/// Which models there are.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<BTreeSet<ModelId>, QueryError>")]
pub(crate) struct ReadModels;

impl Handler<ReadModels> for Reader {
    type Result = Result<BTreeSet<ModelId>, QueryError>;

    fn handle(&mut self, _: ReadModels, _: &mut Self::Context) -> Self::Result {
        let tables = self.tables.clone();
        snapshot(&mut self.connection, |c| Ok(tables.models(c)?))
    }
}

/// A read, to be run where the connection is.
pub(crate) type Read<T> = Box<dyn FnOnce(&mut SqliteConnection) -> Result<T, QueryError> + Send>;

/// Run any read within one read transaction.
pub(crate) struct Query<T>(pub(crate) Read<T>);

impl<T: Send + 'static> Message for Query<T> {
    type Result = Result<T, QueryError>;
}

impl<T: Send + 'static> Handler<Query<T>> for Reader {
    type Result = Result<T, QueryError>;

    fn handle(&mut self, Query(read): Query<T>, _: &mut Self::Context) -> Self::Result {
        snapshot(&mut self.connection, read)
    }
}

/// The readers of a peer, asked in turn.
#[derive(Clone, Debug)]
pub(crate) struct Readers {
    readers: Vec<Addr<Reader>>,
    turn: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Readers {
    pub(crate) fn new(readers: Vec<Addr<Reader>>) -> Self {
        assert!(!readers.is_empty(), "a peer has a reader");
        Self { readers, turn: std::sync::Arc::default() }
    }

    /// Whose turn it is.
    pub(crate) fn next(&self) -> &Addr<Reader> {
        let turn = self.turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        &self.readers[turn % self.readers.len()]
    }

    /// Runs a read on the reader whose turn it is.
    pub(crate) async fn query<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut SqliteConnection) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        self.next().send(Query(Box::new(read))).await?
    }
}
