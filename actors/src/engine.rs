//! One transaction: what happens between `BEGIN` and `COMMIT`, step by step through appliers, log and clock.
//!
//! The engine belongs to `Transactions`, which runs one transaction at a time. Everything that a change touches
//! (rows, stamps, log, watermarks, clock) commits together or not at all.

mod local;
mod mend;
mod remote;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use actix::prelude::*;
use starling_schema::change::{Batch, Items, SharedChange};
use starling_schema::hlc::Hlc;
use starling_schema::ids::{DeviceId, ModelId, RecordId};
use starling_schema::stream::{Stream, StreamKind, Watermarks};

use crate::applier::{Applied, Applier, Store};
use crate::clock::{Clock, Observe, Stamp};
use crate::environment::Environment;
use crate::heads_file::{Heads, HeadsFile};
use crate::peer_log::{Append, PeerLog, PruneStreams};
use crate::planted::{self, Bug};
use crate::proto::clean::Clean;
use crate::rig::Point;
use crate::store::ledger::{self, Note};
use crate::store::parked::{self, Parked};
use crate::store::sql;
use crate::store::tables::Tables;
use crate::transactions::{Awaited, StoreError};

/// The setting that keeps the last timestamp.
pub(crate) const CLOCK_SETTING: &str = "clock";

/// The most appliers of models that we do not know at one time: a peer can name 65,536.
const UNKNOWN_APPLIERS_MAX: usize = 64;

/// Whether a transaction must reach the disk before it counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sync {
    /// It survives a power cut once it is committed.
    Full,
    /// It can be pulled again: visible at once, durable with the next full one.
    Normal,
}

/// What a transaction did besides its answers.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Our own changes, to be broadcast once they are durable.
    pub(crate) committed: Vec<Batch>,
    /// Records that are now different, by model.
    pub(crate) changed: Vec<(ModelId, RecordId)>,
    /// Local commits that changed something.
    pub(crate) commits: u64,
    /// Changes of other devices that were applied.
    pub(crate) applied: u64,
    /// Rows of other owners that a stream tried to write.
    pub(crate) refused: u64,
    /// Fields that were kept raw because they do not fit their column.
    pub(crate) misfits: u64,
}

/// Owns the write connection and what must be in step with the file.
pub(crate) struct Engine {
    pub(crate) device: DeviceId,
    pub(crate) store: Store,
    tables: Rc<Tables>,
    clock: Addr<Clock>,
    log: Addr<PeerLog>,
    appliers: BTreeMap<(ModelId, bool), Addr<Applier>>,
    environment: Environment,
    /// How far every stream is applied.
    pub(crate) marks: Watermarks,
    /// Below which numbers entries or tombstones may be lacking.
    pub(crate) floors: Watermarks,
    /// Up to which numbers nothing is held that was deleted.
    clean: Clean,
    /// What is parked of every origin's log.
    parked: BTreeMap<DeviceId, Parked>,
    /// What is parked of snapshots.
    parked_items: parked::Items,
    sync: Sync,
    noted: HeadsFile,
    last_stamp: u64,
    /// Stamps that were drawn for local commits of the open transaction and not used yet.
    stamps: Vec<Hlc>,
    /// About how many of them a transaction needs: as many as it has jobs.
    jobs: usize,
    /// The streams that the open transaction has moved, and where it has moved the clock: written once, at its end.
    moved: BTreeSet<Stream>,
    clock_moved: Option<u64>,
    /// What was so when the open transaction began: that is so again when it fails, also where the disk gives no answer.
    before: Option<Before>,
}

/// What is held in memory of the file.
struct Before {
    marks: Watermarks,
    floors: Watermarks,
    clean: Clean,
    parked: BTreeMap<DeviceId, Parked>,
    parked_items: parked::Items,
}

impl Engine {
    /// Takes over an open and migrated connection; starts the clock, the log and the appliers on this thread.
    pub(crate) fn start(
        mut connection: diesel::sqlite::SqliteConnection,
        device: DeviceId,
        tables: Tables,
        environment: Environment,
        noted: HeadsFile,
    ) -> Result<Self, StoreError> {
        let c = &mut connection;
        tables.adopt(c)?;
        let (marks, floors) = ledger::streams(c)?;
        let (clean, mut parked, mut parked_items) = (ledger::clean(c)?, parked::streams(c)?, parked::items(c)?);
        if planted::is(Bug::ParkedForgotten) {
            (parked, parked_items) = (BTreeMap::new(), parked::Items::default());
        }
        let last =
            ledger::setting(c, CLOCK_SETTING)?.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
        let store: Store = Rc::new(std::cell::RefCell::new(connection));
        let since = if planted::is(Bug::ClockForgotten) { 0 } else { last.max(noted.heads.clock) };
        let clock = Clock::new(device, since, environment.clone()).start();
        let log = PeerLog::new(store.clone()).start();
        let mut engine = Self {
            device,
            store,
            tables: Rc::new(tables),
            clock,
            log,
            appliers: BTreeMap::new(),
            environment,
            marks,
            floors,
            clean,
            parked,
            parked_items,
            sync: Sync::Full,
            last_stamp: last.max(noted.heads.clock),
            stamps: Vec::new(),
            jobs: 0,
            moved: BTreeSet::new(),
            clock_moved: None,
            noted,
            before: None,
        };
        if engine.lacking() > 0 {
            // An older copy is no authority on its own rows until it has caught up with itself.
            let (state, shared) = (Stream::state(device), Stream::shared(device));
            let noted = [(state, engine.noted.heads.state), (shared, engine.noted.heads.shared)];
            ledger::note_ahead(&mut engine.store.borrow_mut(), &noted.into_iter().collect())?;
        }
        let specs: Vec<_> = engine.tables.registry.iter().copied().collect();
        for spec in specs {
            engine.applier(spec.id, spec.ownership.is_shared());
        }
        Ok(engine)
    }

    /// The applier of a model, started when it is first needed.
    fn applier(&mut self, model: ModelId, shared: bool) -> Addr<Applier> {
        if self.appliers.len() > self.tables.registry.iter().count() + UNKNOWN_APPLIERS_MAX {
            let registry = &self.tables.registry;
            self.appliers.retain(|(model, _), _| registry.get(*model).is_some());
        }
        let (tables, store) = (&self.tables, &self.store);
        self.appliers
            .entry((model, shared))
            .or_insert_with(|| {
                let spec = tables.registry.get(model).filter(|spec| spec.ownership.is_shared() == shared).copied();
                Applier::new(tables.of(model, shared), spec, store.clone()).start()
            })
            .clone()
    }

    fn run(&self, text: &str) -> Result<(), StoreError> {
        Ok(sql::run(&mut self.store.borrow_mut(), text)?)
    }

    /// Says that a point is reached.
    pub(crate) fn reach(&self, point: Point) {
        self.environment.reach(point);
    }

    /// Begins a transaction over so many jobs.
    pub(crate) fn begin(&mut self, sync: Sync, jobs: usize) -> Result<(), StoreError> {
        self.stamps.clear();
        self.jobs = jobs;
        if self.sync != sync {
            self.run(if sync == Sync::Full { "PRAGMA synchronous = FULL" } else { "PRAGMA synchronous = NORMAL" })?;
            self.sync = sync;
        }
        self.environment.edge(Point::BeforeBegin)?;
        self.before = Some(Before {
            marks: self.marks.clone(),
            floors: self.floors.clone(),
            clean: self.clean.clone(),
            parked: self.parked.clone(),
            parked_items: self.parked_items.clone(),
        });
        self.run("BEGIN IMMEDIATE")
    }

    /// Draws stamps for local changes, in one message those of the whole transaction. What it leaves is never used.
    async fn stamp(&mut self, count: usize) -> Result<Vec<Hlc>, StoreError> {
        if self.stamps.len() < count {
            self.stamps = self.clock.send(Stamp(count.max(self.jobs))).await?;
        }
        Ok(self.stamps.drain(..count).collect())
    }

    /// Moves the clock past what was seen; what is stamped from now on comes after it.
    async fn observe(&mut self, newest: Hlc) -> Result<(), StoreError> {
        self.stamps.clear();
        if let Ok(now) = self.clock.send(Observe(newest)).await? {
            self.note_clock(now.time);
        }
        Ok(())
    }

    /// Writes what all jobs of the transaction come to: the log entries of our own changes, how far every stream is that
    /// moved, and the clock. Only [`commit`](Self::commit) or [`rollback`](Self::rollback) may follow.
    pub(crate) async fn seal(&mut self, committed: &[Batch]) -> Result<(), StoreError> {
        let entries = |batch: &Batch| match &batch.items {
            Items::Shared(changes) => changes.clone(),
            Items::State(_) => Vec::new(),
        };
        let changes: Vec<SharedChange> = committed.iter().flat_map(entries).collect();
        if !changes.is_empty() {
            self.environment.edge(Point::BetweenRowsAndLog)?;
            self.log.send(Append(changes)).await??;
        }
        let c = &mut *self.store.borrow_mut();
        for stream in std::mem::take(&mut self.moved) {
            if planted::is(Bug::HeadNotStored) && stream.origin == self.device {
                continue;
            }
            let marks = (self.marks.get(stream), self.floors.get(stream));
            ledger::set_stream(c, stream, marks, self.clean.stored(stream))?;
        }
        if let Some(time) = self.clock_moved.take() {
            ledger::set_setting(c, CLOCK_SETTING, &time.to_be_bytes())?;
        }
        Ok(())
    }

    /// Commits; when that fails, everything is as before the transaction.
    pub(crate) fn commit(&mut self) -> Result<(), StoreError> {
        let committed = self.environment.edge(Point::BeforeCommit).map_err(StoreError::from);
        committed.and_then(|()| self.run("COMMIT")).inspect_err(|_| self.rollback())?;
        self.before = None;
        self.environment.reach(if self.sync == Sync::Full { Point::AfterCommit } else { Point::AfterApply });
        let heads = Heads { clock: self.last_stamp, ..self.heads() };
        if self.lacking() == 0
            && heads != self.noted.heads
            && let Err(error) = self.noted.note(heads)
        {
            tracing::error!(%error, "the heads could not be noted beside the key");
        }
        self.environment.reach(Point::AfterNote);
        Ok(())
    }

    /// How far our own streams are here.
    fn heads(&self) -> Heads {
        let head = |stream| self.marks.get(stream);
        Heads { state: head(Stream::state(self.device)), shared: head(Stream::shared(self.device)), clock: 0 }
    }

    /// How many of our own changes, that others may know, this database lacks: it is an older copy then.
    fn lacking(&self) -> u64 {
        let (here, noted) = (self.heads(), self.noted.heads);
        if planted::is(Bug::HeadsFileIgnored) {
            return 0;
        }
        noted.state.saturating_sub(here.state) + noted.shared.saturating_sub(here.shared)
    }

    /// Takes the transaction back, and with it what it had changed in memory.
    pub(crate) fn rollback(&mut self) {
        if let Err(error) = self.run("ROLLBACK") {
            tracing::debug!(%error, "nothing to roll back");
        }
        self.moved.clear();
        self.clock_moved = None;
        if planted::is(Bug::RollbackKeepsMarks) {
            return;
        }
        if let Some(Before { marks, floors, clean, parked, parked_items }) = self.before.take() {
            (self.marks, self.floors, self.clean) = (marks, floors, clean);
            (self.parked, self.parked_items) = (parked, parked_items);
        }
    }

    /// Raises a watermark. It is stored, with the floor and the clean mark of the stream, when the transaction is sealed.
    fn advance(&mut self, stream: Stream, through: u64) {
        self.marks.raise(stream, through);
        self.moved.insert(stream);
    }

    /// Raises a floor. Below it nobody is served entries, so none are kept: pruning looks above floors only.
    fn raise_floor(&mut self, stream: Stream, floor: u64) -> Result<(), StoreError> {
        if floor > self.floors.get(stream) {
            self.floors.raise(stream, floor);
            if stream.kind == StreamKind::Shared {
                ledger::prune_log(&mut self.store.borrow_mut(), stream.origin, floor)?;
            }
        }
        Ok(())
    }

    /// Notes where the clock is. It is stored when the transaction is sealed.
    fn note_clock(&mut self, time: u64) {
        self.clock_moved = self.clock_moved.max(Some(time));
    }

    /// When the first that is parked may be applied, in milliseconds since 1970.
    pub(crate) fn release_at(&self) -> Option<u64> {
        self.parked.values().map(|held| held.due_at_ms).chain(self.parked_items.due_at_ms).min()
    }

    /// Removes what every member has.
    pub(crate) async fn prune(&mut self, bounds: Vec<(Stream, u64)>) -> Result<usize, StoreError> {
        let bounds: Vec<_> = bounds
            .into_iter()
            .filter(|(stream, through)| *through > self.floors.get(*stream) && *through <= self.marks.get(*stream))
            .collect();
        if bounds.is_empty() {
            return Ok(0);
        }
        self.environment.edge(Point::BeforePrune)?;
        let (removed, floors) = self.log.send(PruneStreams(bounds)).await??;
        for (stream, floor) in floors {
            self.floors.raise(stream, floor);
        }
        Ok(removed)
    }

    /// Writes notes.
    pub(crate) fn keep(&mut self, notes: &[Note]) -> Result<(), StoreError> {
        self.environment.edge(Point::AfterBegin)?;
        let c = &mut *self.store.borrow_mut();
        notes.iter().try_for_each(|note| ledger::keep(c, note)).map_err(StoreError::from)
    }

    /// Folds the write-ahead log into the file and lets go of it.
    pub(crate) fn close(self) {
        if let Err(error) = self.run("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::debug!(%error, "the write-ahead log stays for the next start");
        }
    }

    /// What the store waits for.
    pub(crate) fn awaited(&self) -> Awaited {
        let mut parked = self.parked_items.by_origin.clone();
        for (origin, held) in &self.parked {
            *parked.entry(*origin).or_default() += held.count;
        }
        Awaited { parked: parked.into_iter().collect(), lacking: self.lacking(), trouble: None }
    }
}

impl Effects {
    fn note(&mut self, model: ModelId, applied: Applied) {
        self.refused += applied.refused;
        self.misfits += applied.misfits;
        self.changed.extend(applied.changed.into_iter().map(|record| (model, record)));
    }
}
