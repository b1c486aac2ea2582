//! Upkeep of records: those that silently came to differ from a peer's become equal again, and what is left of those
//! deleted long ago goes.

use std::collections::BTreeMap;

use starling_schema::change::{SharedItem, StateRow};
use starling_schema::ids::{DeviceId, ModelId};
use starling_schema::stream::Stream;

use crate::applier::{ApplyItems, PurgeRecords, Replace};
use crate::comparison::Repair;
use crate::proto::clock::is_within_drift;
use crate::proto::purge::Remains;
use crate::transactions::StoreError;

use super::{Effects, Engine};

impl Engine {
    /// Joins what a peer of the same point has, takes rows over from their owner, or unites those of one that has left.
    /// Says how many records changed.
    pub(crate) async fn mend(&mut self, repair: Repair, effects: &mut Effects) -> Result<u64, StoreError> {
        let before = effects.changed.len();
        match repair {
            Repair::Shared(items) => self.join_items(items, effects).await?,
            Repair::Left { owner, version, rows } if self.is_still_at(owner, version) => {
                self.remote_rows(owner, rows, effects).await?;
            }
            Repair::Owned { owner, version, rows } if self.is_still_at(owner, version) => {
                self.replace_rows(owner, rows, effects).await?;
            }
            Repair::Left { .. } | Repair::Owned { .. } => {}
        }
        Ok((effects.changed.len() - before) as u64)
    }

    /// Whether rows that were read at a version of their owner's stream are what we should have now.
    fn is_still_at(&self, owner: DeviceId, version: u64) -> bool {
        owner != self.device && self.marks.get(Stream::state(owner)) == version
    }

    /// Lets go of what is left of records that were deleted long ago. Says how many.
    pub(crate) async fn purge(&mut self, records: Vec<Remains>) -> Result<u64, StoreError> {
        let mut by_model: BTreeMap<ModelId, Vec<Remains>> = BTreeMap::new();
        for remains in records {
            by_model.entry(remains.model).or_default().push(remains);
        }
        let mut purged = 0;
        for (model, records) in by_model {
            purged += self.applier(model, true).send(PurgeRecords(records)).await??;
        }
        Ok(purged)
    }

    async fn join_items(&mut self, items: Vec<SharedItem>, effects: &mut Effects) -> Result<(), StoreError> {
        let wall_ms = self.environment.wall_ms();
        let mut by_model: BTreeMap<ModelId, Vec<SharedItem>> = BTreeMap::new();
        for item in items {
            let stamps = &item.state.stamps;
            let written = stamps.fields.iter().map(|(_, stamp)| stamp.hlc);
            let ends = stamps.deleted.iter().map(|deleted| deleted.hlc).chain(stamps.restored);
            // What is stamped from far ahead would be parked, not applied: a peer of the same point cannot have it.
            if written.chain(ends).all(|hlc| is_within_drift(hlc, wall_ms)) {
                by_model.entry(item.model).or_default().push(item);
            } else {
                effects.refused += 1;
            }
        }
        for (model, items) in by_model {
            let applied = self.applier(model, true).send(ApplyItems(items)).await??;
            effects.note(model, applied);
        }
        Ok(())
    }

    async fn replace_rows(
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
            let applied = self.applier(model, false).send(Replace { owner, rows }).await??;
            effects.note(model, applied);
        }
        Ok(())
    }
}
