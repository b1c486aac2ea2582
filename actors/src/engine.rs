//! One transaction: what happens between `BEGIN` and `COMMIT`, step by step through appliers, log and clock.
//!
//! The engine belongs to `Transactions`, which runs one transaction at a time. Everything that a change touches
//! (rows, stamps, log, watermarks, clock) commits together or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use actix::prelude::*;
use starling_schema::change::{
    Batch, COMMIT_BYTES_MAX, COMMIT_CHANGES_MAX, ENTRY_BYTES_MAX, Items, Op, SharedChange, StateRow, Write,
};
use starling_schema::hlc::Hlc;
use starling_schema::ids::{DeviceId, ModelId, RecordId};
use starling_schema::stream::{Stream, Watermarks};
use starling_schema::wire::{Cursor, SnapshotItems, SnapshotResponse, SnapshotScope};

use crate::applier::{Applied, Applier, ApplyItems, ApplyShared, ApplyState, EditOwned, EditShared, Store, Sweep};
use crate::clock::{Clock, Observe, Stamp};
use crate::environment::Environment;
use crate::peer_log::{Append, PeerLog, PruneStreams};
use crate::proto::clock::{is_within_drift, when_within_drift};
use crate::store::ledger::{self, Note};
use crate::store::sql;
use crate::store::tables::Tables;
use crate::transactions::{CommitError, Outcome, Receipt, StoreError};

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
    /// Local commits that succeeded.
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
    /// How many changes are parked, and until when the first must wait.
    pub(crate) parked: BTreeMap<DeviceId, Vec<SharedChange>>,
    sync: Sync,
}

impl Engine {
    /// Takes over an open and migrated connection; starts the clock, the log and the appliers on this thread.
    pub(crate) fn start(
        mut connection: diesel::sqlite::SqliteConnection,
        device: DeviceId,
        tables: Tables,
        environment: Environment,
    ) -> Result<Self, StoreError> {
        let c = &mut connection;
        tables.adopt(c)?;
        let (marks, floors) = ledger::streams(c)?;
        let parked = ledger::parked(c)?;
        let last =
            ledger::setting(c, CLOCK_SETTING)?.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
        let store: Store = Rc::new(std::cell::RefCell::new(connection));
        let clock = Clock::new(device, last, environment.clone()).start();
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
            parked,
            sync: Sync::Full,
        };
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

    /// Begins a transaction.
    pub(crate) fn begin(&mut self, sync: Sync) -> Result<(), StoreError> {
        if self.sync != sync {
            self.run(if sync == Sync::Full { "PRAGMA synchronous = FULL" } else { "PRAGMA synchronous = NORMAL" })?;
            self.sync = sync;
        }
        self.run("BEGIN IMMEDIATE")
    }

    /// Commits; when that fails, everything is as before the transaction.
    pub(crate) fn commit(&mut self) -> Result<(), StoreError> {
        self.run("COMMIT").inspect_err(|_| self.rollback())
    }

    /// Takes the transaction back and reads again what the file says.
    pub(crate) fn rollback(&mut self) {
        if let Err(error) = self.run("ROLLBACK") {
            tracing::debug!(%error, "nothing to roll back");
        }
        let c = &mut *self.store.borrow_mut();
        match ledger::streams(c) {
            Ok((marks, floors)) => (self.marks, self.floors) = (marks, floors),
            Err(error) => tracing::error!(%error, "the watermarks cannot be read again"),
        }
        match ledger::parked(c) {
            Ok(parked) => self.parked = parked,
            Err(error) => tracing::error!(%error, "the parked changes cannot be read again"),
        }
    }

    fn advance(&mut self, stream: Stream, through: u64) -> Result<(), StoreError> {
        self.marks.raise(stream, through);
        let (watermark, floor) = (self.marks.get(stream), self.floors.get(stream));
        Ok(ledger::set_stream(&mut self.store.borrow_mut(), stream, watermark, floor)?)
    }

    /// Makes one local commit within the open transaction, all or nothing.
    pub(crate) async fn local(&mut self, writes: Vec<Write>, effects: &mut Effects) -> Result<Receipt, CommitError> {
        self.run("SAVEPOINT one")?;
        let (marks, batches) = (self.marks.clone(), effects.committed.len());
        match self.local_writes(writes, effects).await {
            Ok(receipt) => {
                self.run("RELEASE one")?;
                Ok(receipt)
            }
            Err(error) => {
                self.marks = marks;
                effects.committed.truncate(batches);
                self.run("ROLLBACK TO one; RELEASE one")?;
                Err(error)
            }
        }
    }

    async fn local_writes(&mut self, writes: Vec<Write>, effects: &mut Effects) -> Result<Receipt, CommitError> {
        let (mut owned, mut shared) = (Vec::new(), Vec::new());
        for write in writes {
            match self.tables.registry.get(write.model) {
                Some(spec) if spec.ownership.is_shared() => shared.push(write),
                Some(_) => owned.push(write),
                None => {
                    return Err(CommitError::Refused {
                        model: self.tables.registry.name(write.model),
                        record: write.record,
                        reason: "there is no such model".to_owned(),
                    });
                }
            }
        }
        if shared.len() > COMMIT_CHANGES_MAX {
            return Err(CommitError::TooLarge { changes: shared.len() });
        }
        self.local_owned(owned, effects).await?;
        self.local_shared(shared, effects).await?;
        Ok(Receipt {
            state_head: self.marks.get(Stream::state(self.device)),
            shared_head: self.marks.get(Stream::shared(self.device)),
        })
    }

    async fn local_owned(&mut self, writes: Vec<Write>, effects: &mut Effects) -> Result<(), CommitError> {
        let stream = Stream::state(self.device);
        let after = self.marks.get(stream);
        let mut edits: BTreeMap<ModelId, Vec<(u64, Write)>> = BTreeMap::new();
        for (version, write) in (after + 1..).zip(writes) {
            edits.entry(write.model).or_default().push((version, write));
        }
        let mut rows: Vec<StateRow> = Vec::new();
        for (model, edits) in edits {
            let message = EditOwned { owner: self.device, edits };
            rows.extend(self.applier(model, false).send(message).await.map_err(StoreError::from)??);
        }
        rows.sort_by_key(|row| row.version);
        let Some(through) = rows.last().map(|row| row.version) else { return Ok(()) };
        self.advance(stream, through)?;
        effects.changed.extend(rows.iter().map(|row| (row.model, row.record)));
        effects.committed.push(Batch { stream, after, through, items: Items::State(newest(rows)) });
        Ok(())
    }

    async fn local_shared(&mut self, writes: Vec<Write>, effects: &mut Effects) -> Result<(), CommitError> {
        if writes.is_empty() {
            return Ok(());
        }
        let stamps = self.clock.send(Stamp(writes.len())).await.map_err(StoreError::from)?;
        let mut edits: BTreeMap<ModelId, Vec<(Hlc, Write)>> = BTreeMap::new();
        for (hlc, write) in stamps.iter().zip(writes) {
            edits.entry(write.model).or_default().push((*hlc, write));
        }
        let mut made: BTreeMap<Hlc, (ModelId, RecordId, Op)> = BTreeMap::new();
        for (model, edits) in edits {
            let keys: Vec<_> = edits.iter().map(|(hlc, write)| (*hlc, write.record)).collect();
            let ops = self.applier(model, true).send(EditShared(edits)).await.map_err(StoreError::from)??;
            made.extend(keys.into_iter().zip(ops).filter_map(|((hlc, record), op)| Some((hlc, (model, record, op?)))));
        }
        let stream = Stream::shared(self.device);
        let after = self.marks.get(stream);
        let last = after + made.len() as u64;
        let changes: Vec<SharedChange> = (after + 1..)
            .zip(made)
            .map(|(seq, (hlc, (model, record, op)))| SharedChange {
                seq,
                hlc,
                model,
                record,
                op,
                ends_commit: seq == last,
            })
            .collect();
        if changes.is_empty() {
            return Ok(());
        }
        self.check_size(&changes)?;
        self.log.send(Append(changes.clone())).await.map_err(StoreError::from)??;
        self.advance(stream, last)?;
        self.store_clock(stamps.last().map_or(0, |hlc| hlc.time))?;
        effects.changed.extend(changes.iter().map(|change| (change.model, change.record)));
        effects.committed.push(Batch { stream, after, through: last, items: Items::Shared(changes) });
        Ok(())
    }

    fn check_size(&self, changes: &[SharedChange]) -> Result<(), CommitError> {
        let mut total = 0;
        for change in changes {
            let bytes =
                starling_schema::codec::encode(change, ENTRY_BYTES_MAX).map_err(|error| CommitError::Refused {
                    model: self.tables.registry.name(change.model),
                    record: change.record,
                    reason: error.to_string(),
                })?;
            total += bytes.len();
        }
        if total > COMMIT_BYTES_MAX { Err(CommitError::TooLarge { changes: changes.len() }) } else { Ok(()) }
    }

    fn store_clock(&self, time: u64) -> Result<(), StoreError> {
        Ok(ledger::set_setting(&mut self.store.borrow_mut(), CLOCK_SETTING, &time.to_be_bytes())?)
    }

    /// Applies what a batch holds beyond our watermark. A batch ahead of it is left for later.
    pub(crate) async fn remote(
        &mut self,
        batch: Batch,
        floor: u64,
        effects: &mut Effects,
    ) -> Result<Outcome, StoreError> {
        let Batch { stream, after, through, items } = batch;
        let watermark = self.marks.get(stream);
        if through <= watermark {
            return Ok(Outcome::Duplicate);
        }
        if after > watermark {
            return Ok(Outcome::Gap);
        }
        if floor > self.floors.get(stream) {
            self.floors.raise(stream, floor);
        }
        match items {
            Items::State(mut rows) => {
                rows.retain(|row| row.version > watermark);
                effects.applied += rows.len() as u64;
                self.remote_rows(stream.origin, rows, effects).await?;
                self.advance(stream, through)?;
            }
            Items::Shared(mut changes) => {
                changes.retain(|change| change.seq > watermark);
                let ready = self.ready(&changes);
                let late = changes.split_off(ready);
                effects.applied += changes.len() as u64;
                let through = if late.is_empty() { through } else { watermark + changes.len() as u64 };
                self.remote_changes(changes, effects).await?;
                self.advance(stream, through)?;
                if let Some(first) = late.first() {
                    let until_ms = when_within_drift(first.hlc);
                    ledger::park(&mut self.store.borrow_mut(), &late)?;
                    self.parked.insert(stream.origin, late);
                    return Ok(Outcome::Parked { until_ms });
                }
            }
        }
        Ok(Outcome::Applied)
    }

    /// How many of the changes, whole commits only, may be applied by our wall clock now.
    fn ready(&self, changes: &[SharedChange]) -> usize {
        let wall_ms = self.environment.wall_ms();
        let mut ready = 0;
        for (at, change) in changes.iter().enumerate() {
            if !is_within_drift(change.hlc, wall_ms) {
                return ready;
            }
            if change.ends_commit {
                ready = at + 1;
            }
        }
        changes.len()
    }

    async fn remote_rows(
        &mut self,
        owner: DeviceId,
        rows: Vec<StateRow>,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        let mut by_model: BTreeMap<ModelId, Vec<StateRow>> = BTreeMap::new();
        for row in rows {
            by_model.entry(row.model).or_default().push(row);
        }
        for (model, rows) in by_model {
            let applied = self.applier(model, false).send(ApplyState { owner, rows }).await??;
            effects.note(model, applied);
        }
        Ok(())
    }

    async fn remote_changes(&mut self, changes: Vec<SharedChange>, effects: &mut Effects) -> Result<(), StoreError> {
        let Some(newest) = changes.iter().map(|change| change.hlc).max() else { return Ok(()) };
        if let Ok(now) = self.clock.send(Observe(newest)).await? {
            self.store_clock(now.time)?;
        }
        self.log.send(Append(changes.clone())).await??;
        let mut by_model: BTreeMap<ModelId, Vec<SharedChange>> = BTreeMap::new();
        for change in changes {
            by_model.entry(change.model).or_default().push(change);
        }
        for (model, changes) in by_model {
            let applied = self.applier(model, true).send(ApplyShared(changes)).await??;
            effects.note(model, applied);
        }
        Ok(())
    }

    /// Applies the parked changes whose time has come.
    pub(crate) async fn release(&mut self, effects: &mut Effects) -> Result<(), StoreError> {
        for (origin, changes) in std::mem::take(&mut self.parked) {
            let (stream, last) = (Stream::shared(origin), changes.last().map_or(0, |change| change.seq));
            let after = changes.first().map_or(0, |change| change.seq.saturating_sub(1));
            let batch = Batch { stream, after, through: last, items: Items::Shared(changes) };
            self.remote(batch, 0, effects).await?;
            ledger::unpark(&mut self.store.borrow_mut(), origin, self.marks.get(stream))?;
        }
        Ok(())
    }

    /// When the first parked change may be applied, in milliseconds since 1970.
    pub(crate) fn release_at(&self) -> Option<u64> {
        self.parked.values().filter_map(|changes| changes.first()).map(|change| when_within_drift(change.hlc)).min()
    }

    /// Merges a page of a snapshot; `claim` comes with the last page: what the whole of it stands for.
    pub(crate) async fn snapshot(
        &mut self,
        page: SnapshotResponse,
        claim: Option<Watermarks>,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        match (page.scope, page.items) {
            (SnapshotScope::Shared, SnapshotItems::Shared(items)) => {
                let mut by_model: BTreeMap<ModelId, Vec<_>> = BTreeMap::new();
                for item in items {
                    by_model.entry(item.model).or_default().push(item);
                }
                for (model, items) in by_model {
                    let newest = items.iter().flat_map(|item| &item.state.stamps.fields).map(|(_, s)| s.hlc).max();
                    if let Some(newest) = newest
                        && let Ok(now) = self.clock.send(Observe(newest)).await?
                    {
                        self.store_clock(now.time)?;
                    }
                    let applied = self.applier(model, true).send(ApplyItems(items)).await??;
                    effects.note(model, applied);
                }
            }
            (SnapshotScope::State(owner), SnapshotItems::State(rows)) => {
                let version_max = page.watermarks.get(Stream::state(owner));
                self.snapshot_rows(owner, rows, (page.after, page.through), version_max, effects).await?;
            }
            _ => return Err(StoreError("a snapshot page holds items of another kind than its scope".to_owned())),
        }
        for (stream, through) in claim.iter().flat_map(Watermarks::iter) {
            if through > self.marks.get(stream) {
                self.floors.raise(stream, through);
                self.advance(stream, through)?;
            }
        }
        Ok(())
    }

    /// Rows of a state snapshot: those that the page's key range lacks are deleted.
    async fn snapshot_rows(
        &mut self,
        owner: DeviceId,
        rows: Vec<StateRow>,
        (after, through): (Option<Cursor>, Option<Cursor>),
        version_max: u64,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        let mut present: BTreeMap<ModelId, BTreeSet<RecordId>> = BTreeMap::new();
        for row in &rows {
            present.entry(row.model).or_default().insert(row.record);
        }
        self.remote_rows(owner, rows, effects).await?;
        let tables = self.tables.all(&mut self.store.borrow_mut(), false)?;
        for model in tables.into_iter().map(|table| table.model) {
            let from = match after {
                Some((at, _)) if at > model => continue,
                Some((at, record)) if at == model => record,
                _ => RecordId::MIN,
            };
            let to = match through {
                Some((at, _)) if at < model => continue,
                Some((at, record)) if at == model => record,
                _ => RecordId(uuid::Uuid::max()),
            };
            let mut present = present.remove(&model).unwrap_or_default();
            present.extend(after.filter(|(at, _)| *at == model).map(|(_, record)| record));
            let sweep = Sweep { owner, range: (from, to), version_max, present };
            let applied = self.applier(model, false).send(sweep).await??;
            effects.note(model, applied);
        }
        Ok(())
    }

    /// Removes what every member has.
    pub(crate) async fn prune(&mut self, bounds: Vec<(Stream, u64)>) -> Result<usize, StoreError> {
        let bounds: Vec<_> = bounds
            .into_iter()
            .filter(|(stream, through)| *through > self.floors.get(*stream) && *through <= self.marks.get(*stream))
            .collect();
        for (stream, through) in &bounds {
            self.floors.raise(*stream, *through);
        }
        if bounds.is_empty() { Ok(0) } else { self.log.send(PruneStreams(bounds)).await? }
    }

    /// Writes notes.
    pub(crate) fn keep(&mut self, notes: &[Note]) -> Result<(), StoreError> {
        let c = &mut *self.store.borrow_mut();
        notes.iter().try_for_each(|note| ledger::keep(c, note)).map_err(StoreError::from)
    }

    /// Folds the write-ahead log into the file and lets go of it.
    pub(crate) fn close(self) {
        if let Err(error) = self.run("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::debug!(%error, "the write-ahead log stays for the next start");
        }
    }

    /// How many changes are parked.
    pub(crate) fn parked_count(&self) -> u64 {
        self.parked.values().map(|changes| changes.len() as u64).sum()
    }
}

impl Effects {
    fn note(&mut self, model: ModelId, applied: Applied) {
        self.refused += applied.refused;
        self.misfits += applied.misfits;
        self.changed.extend(applied.changed.into_iter().map(|record| (model, record)));
    }
}

/// Only the newest version of each row: a commit may write one twice.
fn newest(rows: Vec<StateRow>) -> Vec<StateRow> {
    let mut last: BTreeMap<(ModelId, RecordId), u64> = BTreeMap::new();
    for row in &rows {
        last.insert((row.model, row.record), row.version);
    }
    rows.into_iter().filter(|row| last.get(&(row.model, row.record)) == Some(&row.version)).collect()
}
