//! What came from peers: batches in turn, parked changes, pages of snapshots.

use std::collections::{BTreeMap, BTreeSet};

use starling_schema::change::{Batch, Items, SharedChange, SharedItem, StateRow};
use starling_schema::ids::{DeviceId, ModelId, RecordId};
use starling_schema::stream::{Stream, StreamKind, Watermarks};
use starling_schema::wire::{Cursor, SnapshotItems, SnapshotResponse, SnapshotScope};

use crate::applier::{ApplyItems, ApplyShared, ApplyState, Sweep};
use crate::peer_log::Append;
use crate::planted::{self, Bug};
use crate::proto::backfill::Served;
use crate::proto::clock::is_within_drift;
use crate::rig::Point;
use crate::store::{ledger, parked};
use crate::transactions::{Outcome, StoreError};

use super::{Effects, Engine};

/// Parked items that are merged in one transaction: as many as a page of a snapshot holds; the rest a moment later.
const ITEMS_DUE_MAX: i64 = 8_192;

impl Engine {
    /// Applies what a batch holds beyond our watermark. A batch ahead of it is left for later.
    pub(crate) async fn remote(
        &mut self,
        batch: Batch,
        served: Served,
        effects: &mut Effects,
    ) -> Result<Outcome, StoreError> {
        self.environment.edge(Point::AfterBegin)?;
        let batch = match self.behind_parked(batch) {
            Ok(outcome) => return outcome,
            Err(batch) => batch,
        };
        let Batch { stream, after, through, items } = batch;
        let watermark = self.marks.get(stream);
        if through <= watermark && !planted::is(Bug::OldVersionOverwrites) {
            return Ok(Outcome::Duplicate);
        }
        let skips =
            [Bug::WatermarkSkipsGap, Bug::LiveBatchSkipsGap, Bug::OverflowForgotten].into_iter().any(planted::is);
        if after > watermark && !skips {
            return Ok(Outcome::Gap);
        }
        // Nothing below the end of the batch can be lacking because of it, whatever its server says.
        let floor = served.floor.min(through);
        if !planted::is(Bug::FloorNotCarried) {
            self.raise_floor(stream, floor)?;
        }
        match items {
            Items::State(mut rows) => {
                rows.retain(|row| row.version > watermark || planted::is(Bug::OldVersionOverwrites));
                effects.applied += rows.len() as u64;
                self.remote_rows(stream.origin, rows, effects).await?;
                self.clean.take_in(stream, watermark, served.clean);
                self.advance(stream, through);
            }
            Items::Shared(mut changes) => {
                changes.retain(|change| change.seq > watermark);
                let ready = self.ready(&changes);
                let late = changes.split_off(ready);
                effects.applied += changes.len() as u64;
                let through = if late.is_empty() { through } else { watermark + changes.len() as u64 };
                self.remote_changes(changes, effects).await?;
                self.advance(stream, through);
                if !late.is_empty() {
                    return self.park(stream, &late);
                }
            }
        }
        Ok(Outcome::Applied)
    }

    /// Holds changes until their time comes, as many as there is room for; what is held already stays.
    fn park(&mut self, stream: Stream, late: &[SharedChange]) -> Result<Outcome, StoreError> {
        let mut held = self.parked.get(&stream.origin).copied().unwrap_or_default();
        let full = !parked::park(&mut self.store.borrow_mut(), &mut held, late)?;
        if held.count > 0 {
            self.parked.insert(stream.origin, held);
        }
        if planted::is(Bug::ParkedCountsAsApplied) {
            self.advance(stream, held.through);
        }
        let applied = self.marks.get(stream);
        Ok(Outcome::Parked { applied, through: held.through.max(applied), full })
    }

    /// What follows parked changes is parked behind them. Gives the batch back when nothing of its stream is parked.
    fn behind_parked(&mut self, batch: Batch) -> Result<Result<Outcome, StoreError>, Batch> {
        let held = self.parked.get(&batch.stream.origin).map(|held| held.through);
        let (Some(held), Items::Shared(_)) = (held, &batch.items) else { return Err(batch) };
        let Batch { stream, after, items, .. } = batch;
        if after > held {
            return Ok(Ok(Outcome::Gap));
        }
        let Items::Shared(mut changes) = items else { return Ok(Ok(Outcome::Duplicate)) };
        changes.retain(|change| change.seq > held);
        Ok(self.park(stream, &changes))
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

    pub(super) async fn remote_rows(
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
        self.observe(newest).await?;
        self.log.send(Append(changes.clone())).await??;
        self.environment.edge(Point::BetweenRowsAndLog)?;
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
        let wall_ms = self.environment.wall_ms();
        let due: Vec<DeviceId> =
            self.parked.iter().filter(|(_, held)| held.due_at_ms <= wall_ms).map(|(origin, _)| *origin).collect();
        for origin in due {
            let changes = parked::entries(&mut self.store.borrow_mut(), origin)?;
            self.parked.remove(&origin);
            let (stream, last) = (Stream::shared(origin), changes.last().map_or(0, |change| change.seq));
            let after = changes.first().map_or(0, |change| change.seq.saturating_sub(1));
            let batch = Batch { stream, after, through: last, items: Items::Shared(changes) };
            let before = self.marks.get(stream);
            self.remote(batch, Served::live(last), effects).await?;
            if self.marks.get(stream) > before {
                self.environment.reach(Point::Released);
            }
            parked::unpark(&mut self.store.borrow_mut(), origin, self.marks.get(stream))?;
        }
        if self.parked_items.due_at_ms.is_some_and(|due_at_ms| due_at_ms <= wall_ms) {
            let items = parked::take_due_items(&mut self.store.borrow_mut(), wall_ms, ITEMS_DUE_MAX)?;
            self.items(items, effects).await?;
            self.parked_items = parked::items(&mut self.store.borrow_mut())?;
        }
        Ok(())
    }

    /// Merges items of a snapshot, but for those that are stamped too far ahead: they are parked.
    async fn items(&mut self, items: Vec<SharedItem>, effects: &mut Effects) -> Result<(), StoreError> {
        let wall_ms = self.environment.wall_ms();
        let mut by_model: BTreeMap<ModelId, Vec<SharedItem>> = BTreeMap::new();
        let mut seen = None;
        for item in items {
            let newest = parked::newest(&item.state.stamps);
            if newest.is_some_and(|newest| !is_within_drift(newest, wall_ms)) {
                parked::park_item(&mut self.store.borrow_mut(), item)?;
            } else {
                seen = seen.max(newest);
                by_model.entry(item.model).or_default().push(item);
            }
        }
        if let Some(newest) = seen {
            self.observe(newest).await?;
        }
        for (model, items) in by_model {
            let applied = self.applier(model, true).send(ApplyItems(items)).await??;
            effects.note(model, applied);
        }
        Ok(())
    }

    /// Merges a page of a snapshot; with the last page `claim` counts: what the whole of it stands for. Until then it is
    /// noted how far the snapshot is, so that it goes on there after a restart.
    pub(crate) async fn snapshot(
        &mut self,
        page: SnapshotResponse,
        claim: Watermarks,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        self.environment.edge(Point::AfterBegin)?;
        let (scope, through) = (page.scope, page.through);
        match (scope, page.items) {
            (SnapshotScope::Shared, SnapshotItems::Shared(items)) => {
                self.items(items, effects).await?;
                self.parked_items = parked::items(&mut self.store.borrow_mut())?;
            }
            (SnapshotScope::State(owner), SnapshotItems::State(rows)) => {
                let stream = Stream::state(owner);
                let version_max = page.watermarks.get(stream);
                // It may break off: these rows count though the watermark stays.
                let watermark = self.marks.get(stream);
                self.clean.take_in(stream, watermark, version_max);
                self.advance(stream, watermark);
                self.snapshot_rows(owner, rows, (page.after, page.through), version_max, effects).await?;
            }
            _ => return Err(StoreError("a snapshot page holds items of another kind than its scope".to_owned())),
        }
        ledger::note_snapshot(&mut self.store.borrow_mut(), scope, through.map(|key| (key, claim.clone())))?;
        for (stream, through) in claim.iter().filter(|_| through.is_none()) {
            if through > self.marks.get(stream) {
                if !planted::is(Bug::SnapshotWithoutFloor) {
                    self.raise_floor(stream, through)?;
                }
                self.advance(stream, through);
                if stream.kind == StreamKind::Shared {
                    // What its entries said came as items, merged or parked.
                    parked::unpark(&mut self.store.borrow_mut(), stream.origin, through)?;
                }
            }
        }
        if through.is_none() {
            self.parked = parked::streams(&mut self.store.borrow_mut())?;
        }
        if !self.marks.covers(&page.watermarks) {
            ledger::note_ahead(&mut self.store.borrow_mut(), &page.watermarks)?;
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
            let seam = after.filter(|(at, _)| *at == model && !planted::is(Bug::SweepTakesTheSeam));
            present.extend(seam.map(|(_, record)| record));
            let sweep = Sweep { owner, range: (from, to), version_max, present };
            let applied = self.applier(model, false).send(sweep).await??;
            effects.note(model, applied);
        }
        Ok(())
    }
}
