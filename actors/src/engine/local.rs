//! Local commits: writes become rows and log entries of this device, all or nothing.

use std::collections::BTreeMap;

use starling_schema::change::{
    Action, Batch, COMMIT_BYTES_MAX, COMMIT_CHANGES_MAX, ENTRY_BYTES_MAX, Items, Op, SharedChange, StateRow, Write,
};
use starling_schema::hlc::Hlc;
use starling_schema::ids::{ModelId, RecordId};
use starling_schema::stream::Stream;

use crate::applier::{EditOwned, EditShared};
use crate::clock::Stamp;
use crate::peer_log::Append;
use crate::planted::{self, Bug};
use crate::rig::Point;
use crate::transactions::{CommitError, Receipt, StoreError};

use super::{Effects, Engine};

/// The most log entries that one restore becomes: each holds a third of what fits at least, and more than a commit may
/// hold in all is refused.
const RESTORE_CHANGES_MAX: usize = 3 * COMMIT_BYTES_MAX / ENTRY_BYTES_MAX;

impl Engine {
    /// Makes one local commit within the open transaction, all or nothing.
    pub(crate) async fn local(&mut self, writes: Vec<Write>, effects: &mut Effects) -> Result<Receipt, CommitError> {
        if self.lacking() > 0 {
            return Err(CommitError::Behind { changes: self.lacking() });
        }
        self.environment.edge(Point::AfterBegin).map_err(StoreError::from)?;
        self.run("SAVEPOINT one")?;
        let (marks, batches, records) = (self.marks.clone(), effects.committed.len(), effects.changed.len());
        match self.local_writes(writes, effects).await {
            Ok(receipt) => {
                self.run("RELEASE one")?;
                effects.commits += u64::from(effects.committed.len() > batches);
                Ok(receipt)
            }
            Err(error) => {
                self.marks = marks;
                effects.committed.truncate(batches);
                effects.changed.truncate(records);
                if !planted::is(Bug::RefusedCommitLeavesRows) {
                    self.run("ROLLBACK TO one")?;
                }
                self.run("RELEASE one")?;
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
        let stamps_of = |write: &Write| if matches!(write.action, Action::Restore) { RESTORE_CHANGES_MAX } else { 1 };
        let count = writes.iter().map(stamps_of).sum();
        let stamps = self.clock.send(Stamp(count)).await.map_err(StoreError::from)?;
        let mut unused = stamps.iter().copied();
        let mut edits: BTreeMap<ModelId, Vec<(Vec<Hlc>, Write)>> = BTreeMap::new();
        for write in writes {
            let own = unused.by_ref().take(stamps_of(&write)).collect();
            edits.entry(write.model).or_default().push((own, write));
        }
        let mut made: BTreeMap<Hlc, (ModelId, RecordId, Op)> = BTreeMap::new();
        for (model, edits) in edits {
            let ops = self.applier(model, true).send(EditShared(edits)).await.map_err(StoreError::from)??;
            made.extend(ops.into_iter().map(|(hlc, record, op)| (hlc, (model, record, op))));
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
        self.environment.edge(Point::BetweenRowsAndLog).map_err(StoreError::from)?;
        self.log.send(Append(changes.clone())).await.map_err(StoreError::from)??;
        self.advance(stream, last)?;
        self.last_stamp = stamps.last().map_or(self.last_stamp, |hlc| hlc.time);
        self.store_clock(self.last_stamp)?;
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
}

/// Only the newest version of each row: a commit may write one twice.
fn newest(rows: Vec<StateRow>) -> Vec<StateRow> {
    let mut last: BTreeMap<(ModelId, RecordId), u64> = BTreeMap::new();
    for row in &rows {
        last.insert((row.model, row.record), row.version);
    }
    rows.into_iter().filter(|row| last.get(&(row.model, row.record)) == Some(&row.version)).collect()
}
