//! Local commits: writes become rows and log entries of this device, all or nothing.

use std::collections::BTreeMap;

use starling_schema::change::{
    Action, Batch, COMMIT_BYTES_MAX, COMMIT_CHANGES_MAX, ENTRY_BYTES_MAX, Items, SharedChange, StateRow, Write,
};
use starling_schema::hlc::Hlc;
use starling_schema::ids::{ModelId, RecordId};
use starling_schema::stream::Stream;

use crate::applier::{Edit, EditOwned, EditShared};
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
        let batches = effects.committed.len();
        let receipt = match writes.as_slice() {
            // A write that is refused is refused before anything of it is written; a restore may turn out too large.
            [write] if !matches!(write.action, Action::Restore) => self.local_writes(writes, effects).await?,
            _ => self.all_or_nothing(writes, effects).await?,
        };
        effects.commits += u64::from(effects.committed.len() > batches);
        Ok(receipt)
    }

    /// Makes a local commit of which some may be written when the rest is refused.
    async fn all_or_nothing(&mut self, writes: Vec<Write>, effects: &mut Effects) -> Result<Receipt, CommitError> {
        self.run("SAVEPOINT one")?;
        let (marks, batches, records) = (self.marks.clone(), effects.committed.len(), effects.changed.len());
        let made = self.local_writes(writes, effects).await;
        if made.is_err() {
            self.marks = marks;
            effects.committed.truncate(batches);
            effects.changed.truncate(records);
            if !planted::is(Bug::RefusedCommitLeavesRows) {
                self.run("ROLLBACK TO one")?;
            }
        }
        self.run("RELEASE one")?;
        made
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
        self.advance(stream, through);
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
        let stamps = self.stamp(count).await?;
        let mut unused = stamps.iter().copied();
        let mut edits: BTreeMap<ModelId, Vec<(Vec<Hlc>, Write)>> = BTreeMap::new();
        for write in writes {
            let own = unused.by_ref().take(stamps_of(&write)).collect();
            edits.entry(write.model).or_default().push((own, write));
        }
        let has_parked = self.parked_items.due_at_ms.is_some();
        let (mut made, mut bytes) = (BTreeMap::new(), 0);
        for (model, edits) in edits {
            let message = EditShared { edits, has_parked };
            let ops = self.applier(model, true).send(message).await.map_err(StoreError::from)??;
            for Edit { hlc, record, op, bytes: length } in ops {
                made.insert(hlc, (model, record, op));
                bytes += length;
            }
        }
        if bytes > COMMIT_BYTES_MAX {
            return Err(CommitError::TooLarge { changes: made.len() });
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
        self.advance(stream, last);
        self.last_stamp = stamps.last().map_or(self.last_stamp, |hlc| hlc.time);
        self.note_clock(self.last_stamp);
        effects.changed.extend(changes.iter().map(|change| (change.model, change.record)));
        effects.committed.push(Batch { stream, after, through: last, items: Items::Shared(changes) });
        Ok(())
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
