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
    /// Makes local commits within the open transaction, in their order, each all or nothing.
    pub(crate) async fn local(
        &mut self,
        commits: Vec<Vec<Write>>,
        effects: &mut Effects,
    ) -> Vec<Result<Receipt, CommitError>> {
        let (mut answers, mut plain) = (Vec::with_capacity(commits.len()), Vec::new());
        for mut writes in commits {
            match writes.pop() {
                Some(write) if writes.is_empty() && self.is_plain(&write) => plain.push(write),
                last => {
                    writes.extend(last);
                    answers.extend(self.plain(std::mem::take(&mut plain), effects).await);
                    answers.push(self.one(writes, effects).await);
                }
            }
        }
        answers.extend(self.plain(plain, effects).await);
        answers
    }

    /// Whether a write is refused before anything of it is written: a restore may turn out too large.
    fn is_plain(&self, write: &Write) -> bool {
        let shared = self.tables.registry.get(write.model).is_some_and(|spec| spec.ownership.is_shared());
        shared && !matches!(write.action, Action::Restore)
    }

    fn check_begun(&self) -> Result<(), CommitError> {
        if self.lacking() > 0 {
            return Err(CommitError::Behind { changes: self.lacking() });
        }
        Ok(self.environment.edge(Point::AfterBegin).map_err(StoreError::from)?)
    }

    fn receipt(&self) -> Receipt {
        Receipt {
            state_head: self.marks.get(Stream::state(self.device)),
            shared_head: self.marks.get(Stream::shared(self.device)),
        }
    }

    /// Makes commits of one plain write each, together.
    async fn plain(&mut self, writes: Vec<Write>, effects: &mut Effects) -> Vec<Result<Receipt, CommitError>> {
        let count = writes.len();
        if count == 0 {
            return Vec::new();
        }
        let edited = match self.check_begun() {
            Ok(()) => self.edit_shared(writes).await.map_err(CommitError::from),
            Err(error) => Err(error),
        };
        let edited = edited.unwrap_or_else(|error| (0..count).map(|_| Err(error.clone())).collect());
        let made = edited.into_iter().map(|edits| {
            let edits = edits?;
            effects.commits += u64::from(!edits.is_empty());
            self.append(edits, effects);
            Ok(self.receipt())
        });
        made.collect()
    }

    /// Makes one commit of any writes.
    async fn one(&mut self, writes: Vec<Write>, effects: &mut Effects) -> Result<Receipt, CommitError> {
        self.check_begun()?;
        let batches = effects.committed.len();
        let receipt = match writes.as_slice() {
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
        Ok(self.receipt())
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
        let mut all = Vec::new();
        for edits in self.edit_shared(writes).await? {
            all.extend(edits?);
        }
        if all.iter().map(|edit| edit.bytes).sum::<usize>() > COMMIT_BYTES_MAX {
            return Err(CommitError::TooLarge { changes: all.len() });
        }
        self.append(all, effects);
        Ok(())
    }

    /// Makes writes of shared records; for each the log entries that it comes to, or why it is refused.
    async fn edit_shared(&mut self, writes: Vec<Write>) -> Result<Vec<Result<Vec<Edit>, CommitError>>, StoreError> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let stamps_of = |write: &Write| if matches!(write.action, Action::Restore) { RESTORE_CHANGES_MAX } else { 1 };
        let mut stamps = self.stamp(writes.iter().map(stamps_of).sum()).await?.into_iter();
        let (mut edits, mut places) = (BTreeMap::new(), BTreeMap::new());
        for (place, write) in writes.into_iter().enumerate() {
            let own: Vec<Hlc> = stamps.by_ref().take(stamps_of(&write)).collect();
            places.entry(write.model).or_insert_with(Vec::new).push(place);
            edits.entry(write.model).or_insert_with(Vec::new).push((own, write));
        }
        let has_parked = self.parked_items.due_at_ms.is_some();
        let mut edited = BTreeMap::new();
        for ((model, edits), places) in edits.into_iter().zip(places.into_values()) {
            let message = EditShared { edits, has_parked };
            let made = self.applier(model, true).send(message).await?;
            edited.extend(places.into_iter().zip(made));
        }
        Ok(edited.into_values().collect())
    }

    /// Puts the log entries of one commit behind those of this device.
    fn append(&mut self, edits: Vec<Edit>, effects: &mut Effects) {
        let Some(stamp) = edits.last().map(|edit| edit.hlc.time) else { return };
        let stream = Stream::shared(self.device);
        let after = self.marks.get(stream);
        let last = after + edits.len() as u64;
        let changes: Vec<SharedChange> = (after + 1..)
            .zip(edits)
            .map(|(seq, Edit { hlc, model, record, op, .. })| SharedChange {
                seq,
                hlc,
                model,
                record,
                op,
                ends_commit: seq == last,
            })
            .collect();
        self.advance(stream, last);
        self.last_stamp = stamp;
        self.note_clock(stamp);
        effects.changed.extend(changes.iter().map(|change| (change.model, change.record)));
        effects.committed.push(Batch { stream, after, through: last, items: Items::Shared(changes) });
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
