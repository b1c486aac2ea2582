//! The transactions actor: the only door to the database for writes. It runs one transaction at a time, gathers
//! what waits into one (group commit), and tells what became durable.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use futures::channel::oneshot;
use starling_schema::change::{Batch, Write};
use starling_schema::ids::{DeviceId, ModelId, RecordId};
use starling_schema::stream::{Stream, Watermarks};
use starling_schema::wire::SnapshotResponse;

use crate::comparison::Repair;
use crate::counters::Counters;
use crate::engine::{Effects, Engine, Sync};
use crate::environment::Environment;
use crate::events::{EventKind, Happened};
use crate::jobs::{Job, Reply, transaction};
use crate::proto::backfill::Served;
use crate::proto::purge::Remains;
use crate::rig::{Limit, Point, Timer};
use crate::store::ledger::Note;

/// Jobs that wait before callers are told that it is too much.
const QUEUE_MAX: usize = 1_024;

/// Messages that wait in the mailbox: as many as may wait in the queue.
const MAILBOX: usize = QUEUE_MAX;

/// The most jobs of one transaction: the wait of the first stays well under 100 ms.
const GROUP_MAX: usize = 128;

/// About how long what came from peers may stay undurable, in milliseconds; jittered.
const FLUSH_MS: u64 = 500;

/// How soon listeners that had no room are told again.
const PUBLISH_AGAIN_MS: u64 = 50;

/// How soon it is tried again whether the disk takes writes: soon for people, seldom for the log that says so.
const TROUBLE_MS: u64 = 5_000;

/// The most changed records that one event names.
const EVENT_RECORDS_MAX: usize = 256;

/// Why the database could not be written. Nothing of the transaction was kept; reading goes on.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the database cannot be written: {0}")]
pub struct StoreError(pub String);

impl From<DieselError> for StoreError {
    fn from(error: DieselError) -> Self {
        Self(match error {
            DieselError::DatabaseError(DatabaseErrorKind::ReadOnlyTransaction, info) => {
                format!("it is read-only ({})", info.message())
            }
            other => other.to_string(),
        })
    }
}

impl From<MailboxError> for StoreError {
    fn from(_: MailboxError) -> Self {
        Self("the store has stopped".to_owned())
    }
}

/// Why a commit was refused. Nothing of it was written.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// A write that can never be: an unknown model or field, too large, another device's record.
    #[error("{model} {record}: {reason}")]
    Refused {
        /// The model's name.
        model: String,
        /// Which record.
        record: RecordId,
        /// Why.
        reason: String,
    },
    /// The record was deleted.
    #[error("{model} {record} was deleted: restore it first")]
    Deleted {
        /// The model's name.
        model: String,
        /// Which record.
        record: RecordId,
    },
    /// The record was deleted, and its fields are not here: purged long after the delete, or never known.
    #[error("{model} {record} was deleted, and nothing of it is left here to restore")]
    Purged {
        /// The model's name.
        model: String,
        /// Which record.
        record: RecordId,
    },
    /// More shared changes than one commit may hold.
    #[error("{changes} changes of shared data are more than one commit holds: split it")]
    TooLarge {
        /// How many.
        changes: usize,
    },
    /// The database is an older copy of this device's.
    #[error(
        "this database is an older copy: {changes} of this device's own changes are known to others only. Nothing is \
         written until they are back: connect a device of the library, or start over in a fresh data directory"
    )]
    Behind {
        /// How many are lacking.
        changes: u64,
    },
    /// Too much is waiting to be written.
    #[error("too much is waiting to be written: try again")]
    Busy,
    /// Disk full, I/O error, read-only, corrupt file.
    #[error(transparent)]
    Storage(#[from] StoreError),
    /// The peer has stopped.
    #[error("the peer has stopped")]
    Stopped,
}

/// What a durable commit got.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Receipt {
    /// The head of our state stream after it.
    pub state_head: u64,
    /// The head of our shared stream after it.
    pub shared_head: u64,
}

/// What became of a batch from a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// It was applied.
    Applied,
    /// All of it was there.
    Duplicate,
    /// It is ahead of our watermark.
    Gap,
    /// From some change on it is held until time has passed.
    Parked {
        /// How far its stream is applied.
        applied: u64,
        /// How far it is held.
        through: u64,
        /// Whether there was room for less than all of it.
        full: bool,
    },
}

/// Told after every transaction that moved a watermark.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Advanced {
    /// How far every stream is applied.
    pub(crate) applied: Watermarks,
    /// Of that, what survives a power cut.
    pub(crate) durable: Watermarks,
    /// Our own changes that this transaction made durable.
    pub(crate) committed: Arc<[Batch]>,
}

/// Owns the order of writes.
pub(crate) struct Transactions {
    engine: Option<Engine>,
    queue: VecDeque<Job>,
    applied: Watermarks,
    durable: Watermarks,
    awaited: Awaited,
    /// Why the last transaction failed, if it did.
    trouble: Option<StoreError>,
    listeners: Vec<Recipient<Advanced>>,
    events: Recipient<Happened>,
    environment: Environment,
    counters: Counters,
    due: BTreeSet<Due>,
}

/// What will be done soon, and need not be asked for again until then.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Due {
    /// Starting a transaction over what waits.
    Start,
    /// Making durable what came from peers.
    Flush,
    /// Applying parked changes.
    Release,
    /// Telling listeners again that had no room.
    Publish,
}

impl Transactions {
    /// Takes over the engine, on the store's thread.
    pub(crate) fn new(
        engine: Engine,
        events: Recipient<Happened>,
        environment: Environment,
        counters: Counters,
    ) -> Self {
        Self {
            applied: engine.marks.clone(),
            durable: Watermarks::new(),
            awaited: engine.awaited(),
            trouble: None,
            engine: Some(engine),
            queue: VecDeque::new(),
            listeners: Vec::new(),
            events,
            environment,
            counters,
            due: BTreeSet::new(),
        }
    }

    fn enqueue<T: 'static>(
        &mut self,
        ctx: &mut Context<Self>,
        busy: T,
        closed: T,
        job: impl FnOnce(Reply<T>) -> Job,
    ) -> ResponseFuture<T> {
        if self.queue.len() >= self.environment.limit(Limit::QueueJobs, QUEUE_MAX) {
            return Box::pin(async move { busy });
        }
        let (reply, answer) = oneshot::channel();
        self.queue.push_back(job(reply));
        self.next(ctx);
        Box::pin(async move { answer.await.unwrap_or(closed) })
    }

    /// Starts a transaction over what waits, unless one runs; what is in the mailbox by now goes along.
    fn next(&mut self, ctx: &mut Context<Self>) {
        let starts = self.engine.is_some() && !self.queue.is_empty();
        if starts && self.due.insert(Due::Start) {
            ctx.spawn(fut::ready(()).map(|(), actor: &mut Self, ctx| {
                actor.due.remove(&Due::Start);
                actor.start(ctx);
            }));
        }
    }

    fn start(&mut self, ctx: &mut Context<Self>) {
        let Some(sync) = self.queue.front().map(Job::sync) else { return };
        let Some(engine) = self.engine.take() else { return };
        let (mut jobs, jobs_max) = (Vec::new(), self.environment.limit(Limit::GroupJobs, GROUP_MAX));
        while jobs.len() < jobs_max && self.queue.front().is_some_and(|job| job.sync() == sync) {
            jobs.extend(self.queue.pop_front());
        }
        let done = transaction(engine, sync, jobs).into_actor(self).map(move |(engine, outcome), actor, ctx| {
            actor.awaited = engine.awaited();
            actor.trouble = outcome.as_ref().err().cloned();
            let release_at = engine.release_at();
            let marks = engine.marks.clone();
            actor.engine = Some(engine);
            match outcome {
                Ok(effects) => actor.after(sync, marks, effects, ctx),
                // Also where nothing else is to be written: that there is room again shows by trying.
                Err(_) => actor.flush_within(Duration::from_millis(TROUBLE_MS), ctx),
            }
            actor.release_when(release_at, ctx);
            actor.next(ctx);
        });
        ctx.spawn(done);
    }

    /// Tells what a transaction changed, and sees to it that it becomes durable.
    fn after(&mut self, sync: Sync, marks: Watermarks, effects: Effects, ctx: &mut Context<Self>) {
        let before = (self.applied.clone(), self.durable.clone());
        self.applied = marks;
        if sync == Sync::Full {
            self.durable = self.applied.clone();
            self.environment.reach(Point::AfterFlush);
        }
        self.counters.commits(effects.commits);
        self.counters.changes_applied(effects.applied);
        self.counters.rows_refused(effects.refused);
        self.counters.fields_kept_raw(effects.misfits);
        if effects.refused + effects.misfits > 0 {
            tracing::warn!(refused = effects.refused, misfits = effects.misfits, "a peer's rows were not all valid");
        }
        if !effects.changed.is_empty() {
            let truncated = effects.changed.len() > EVENT_RECORDS_MAX;
            let remote = effects.committed.is_empty();
            let records: Vec<(ModelId, RecordId)> = effects.changed.into_iter().take(EVENT_RECORDS_MAX).collect();
            self.tell(EventKind::Changed { records, truncated, remote });
        }
        if (&self.applied, &self.durable) != (&before.0, &before.1) || !effects.committed.is_empty() {
            let news = Advanced {
                applied: self.applied.clone(),
                durable: self.durable.clone(),
                committed: effects.committed.into(),
            };
            self.publish(&news, ctx);
        }
        if self.applied != self.durable && !self.due.contains(&Due::Flush) {
            let wait = Duration::from_millis(self.environment.wait_ms(Timer::Flush, FLUSH_MS));
            self.flush_within(wait.mul_f64(0.8 + 0.4 * self.environment.fraction()), ctx);
        }
    }

    /// Tells all who listen. Who has no room is told again how far we are: nothing may follow that would tell it. What was
    /// committed it hears of by others' pulls.
    fn publish(&mut self, news: &Advanced, ctx: &mut Context<Self>) {
        let is_full =
            |listener: &Recipient<Advanced>| matches!(listener.try_send(news.clone()), Err(SendError::Full(_)));
        let refused = self.listeners.iter().filter(|listener| is_full(listener)).count();
        if refused == 0 || !self.due.insert(Due::Publish) {
            return;
        }
        tracing::debug!(refused, "listeners are behind");
        ctx.run_later(Duration::from_millis(PUBLISH_AGAIN_MS), |actor, ctx| {
            actor.due.remove(&Due::Publish);
            let (applied, durable) = (actor.applied.clone(), actor.durable.clone());
            actor.publish(&Advanced { applied, durable, committed: Arc::new([]) }, ctx);
        });
    }

    /// Makes everything durable some time from now, unless that is due already.
    fn flush_within(&mut self, wait: Duration, ctx: &mut Context<Self>) {
        if !self.due.insert(Due::Flush) {
            return;
        }
        ctx.run_later(wait, |actor, ctx| {
            actor.due.remove(&Due::Flush);
            if actor.applied != actor.durable || actor.trouble.is_some() {
                actor.queue.push_back(Job::Flush);
                actor.next(ctx);
            }
        });
    }

    fn release_when(&mut self, release_at: Option<u64>, ctx: &mut Context<Self>) {
        let Some(at) = release_at.filter(|_| self.due.insert(Due::Release)) else { return };
        // Looked at again every minute at the latest: the wall clock may be set.
        let wait_ms = at.saturating_sub(self.environment.wall_ms()).clamp(1_000, 60_000);
        let wait = Duration::from_millis(self.environment.wait_ms(Timer::Release, wait_ms));
        ctx.run_later(wait, |actor, ctx| {
            actor.due.remove(&Due::Release);
            actor.queue.push_back(Job::Flush);
            actor.next(ctx);
        });
    }

    fn tell(&self, event: EventKind) {
        if let Err(error) = self.events.try_send(Happened(event)) {
            tracing::debug!(%error, "an event was not recorded");
        }
    }
}

fn busy() -> StoreError {
    StoreError("too much is waiting to be written".to_owned())
}

fn stopped() -> StoreError {
    StoreError("the store has stopped".to_owned())
}

impl Actor for Transactions {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        // What was there at the start may not have reached the disk: make it durable before anything is acked.
        self.queue.push_back(Job::Flush);
        self.next(ctx);
    }
}

/// Tell this recipient of every advance from now on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Listen(pub(crate) Recipient<Advanced>);

impl Handler<Listen> for Transactions {
    type Result = ();

    fn handle(&mut self, Listen(listener): Listen, _: &mut Self::Context) {
        let news = Advanced { applied: self.applied.clone(), durable: self.durable.clone(), committed: Arc::new([]) };
        if listener.try_send(news).is_ok() {
            self.listeners.push(listener);
        }
    }
}

/// Commit local writes, all or nothing; answered once they are durable.
#[derive(Debug, Message)]
#[rtype(result = "Result<Receipt, CommitError>")]
pub(crate) struct Commit(pub(crate) Vec<Write>);

impl Handler<Commit> for Transactions {
    type Result = ResponseFuture<Result<Receipt, CommitError>>;

    fn handle(&mut self, Commit(writes): Commit, ctx: &mut Self::Context) -> Self::Result {
        self.enqueue(ctx, Err(CommitError::Busy), Err(CommitError::Stopped), |reply| Job::Commit(writes, reply))
    }
}

/// Apply a batch from a peer; answered once it is visible, not yet durable.
#[derive(Debug, Message)]
#[rtype(result = "Result<Outcome, StoreError>")]
pub(crate) struct Apply {
    pub(crate) batch: Batch,
    /// What its server said of itself.
    pub(crate) served: Served,
}

impl Handler<Apply> for Transactions {
    type Result = ResponseFuture<Result<Outcome, StoreError>>;

    fn handle(&mut self, Apply { batch, served }: Apply, ctx: &mut Self::Context) -> Self::Result {
        self.enqueue(ctx, Err(busy()), Err(stopped()), |reply| Job::Apply(batch, served, reply))
    }
}

/// Merge a page of a snapshot; with the last one counts what all of them stand for.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub(crate) struct ApplySnapshot {
    pub(crate) page: SnapshotResponse,
    pub(crate) claim: Watermarks,
}

impl Handler<ApplySnapshot> for Transactions {
    type Result = ResponseFuture<Result<(), StoreError>>;

    fn handle(&mut self, ApplySnapshot { page, claim }: ApplySnapshot, ctx: &mut Self::Context) -> Self::Result {
        self.enqueue(ctx, Err(busy()), Err(stopped()), |reply| Job::Snapshot(Box::new(page), claim, reply))
    }
}

/// Keep notes, together and durably.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub(crate) struct Keep(pub(crate) Vec<Note>);

impl Handler<Keep> for Transactions {
    type Result = ResponseFuture<Result<(), StoreError>>;

    fn handle(&mut self, Keep(notes): Keep, ctx: &mut Self::Context) -> Self::Result {
        self.enqueue(ctx, Err(busy()), Err(stopped()), |reply| Job::Keep(notes, reply))
    }
}

/// Remove what every member has acknowledged, per stream up to a number; answered with how many rows went.
#[derive(Debug, Message)]
#[rtype(result = "Result<usize, StoreError>")]
pub(crate) struct Prune(pub(crate) Vec<(Stream, u64)>);

impl Handler<Prune> for Transactions {
    type Result = ResponseFuture<Result<usize, StoreError>>;

    fn handle(&mut self, Prune(bounds): Prune, ctx: &mut Self::Context) -> Self::Result {
        self.enqueue(ctx, Err(busy()), Err(stopped()), |reply| Job::Prune(bounds, reply))
    }
}

/// Let go of what is left of deleted records; answered with how many there were.
#[derive(Debug, Message)]
#[rtype(result = "Result<u64, StoreError>")]
pub(crate) struct Purge(pub(crate) Vec<Remains>);

impl Handler<Purge> for Transactions {
    type Result = ResponseFuture<Result<u64, StoreError>>;

    fn handle(&mut self, Purge(records): Purge, ctx: &mut Self::Context) -> Self::Result {
        self.enqueue(ctx, Err(busy()), Err(stopped()), |reply| Job::Purge(records, reply))
    }
}

/// Repair records that differ from a peer's; answered with how many are different now.
#[derive(Debug, Message)]
#[rtype(result = "Result<u64, StoreError>")]
pub(crate) struct Mend(pub(crate) Repair);

impl Handler<Mend> for Transactions {
    type Result = ResponseFuture<Result<u64, StoreError>>;

    fn handle(&mut self, Mend(repair): Mend, ctx: &mut Self::Context) -> Self::Result {
        self.enqueue(ctx, Err(busy()), Err(stopped()), |reply| Job::Mend(repair, reply))
    }
}

/// What the store waits for.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Awaited")]
pub(crate) struct AskAwaited;

/// The answer to [`AskAwaited`].
#[derive(Clone, Debug, Default, MessageResponse)]
pub(crate) struct Awaited {
    /// How many changes are parked, by the device that made them.
    pub(crate) parked: Vec<(DeviceId, u64)>,
    /// How many of our own changes this database lacks: it is an older copy.
    pub(crate) lacking: u64,
    /// Why the disk takes no writes, if so.
    pub(crate) trouble: Option<String>,
}

impl Handler<AskAwaited> for Transactions {
    type Result = Awaited;

    fn handle(&mut self, _: AskAwaited, _: &mut Self::Context) -> Awaited {
        let trouble = self.trouble.as_ref().map(ToString::to_string);
        Awaited { trouble, ..self.awaited.clone() }
    }
}

/// Finish what waits, close the file, and end.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Close;

impl Handler<Close> for Transactions {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Close, ctx: &mut Self::Context) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        // What came from peers is made durable too; nobody waits for it.
        self.queue.push_back(Job::Keep(Vec::new(), reply));
        self.next(ctx);
        Box::pin(answer.into_actor(self).map(|_, actor, ctx| {
            if let Some(engine) = actor.engine.take() {
                engine.close();
            }
            ctx.stop();
        }))
    }
}
