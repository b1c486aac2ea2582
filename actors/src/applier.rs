//! The applier of one model: validates and merges changes of its records within the transaction that is open.
//!
//! It lives on the store's thread, takes messages from `Transactions` only, and holds the connection only while it
//! handles one.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use actix::prelude::*;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use starling_schema::change::{Action, ENTRY_BYTES_MAX, Op, SharedChange, SharedItem, StateRow, Write};
use starling_schema::codec;
use starling_schema::hlc::Hlc;
use starling_schema::ids::{DeviceId, ModelId, RecordId};
use starling_schema::model::{ModelSpec, Ownership};
use starling_schema::record::SharedRecord;
use starling_schema::value::{FIELDS_MAX, Fields, VALUE_BYTES_MAX, Value};

use crate::planted::{self, Bug};
use crate::proto::merge;
use crate::proto::purge::Remains;
use crate::store::conflicts::list_conflicts;
use crate::store::parked;
use crate::store::remains;
use crate::store::table::{ModelTable, OwnedRow};
use crate::store::tombstones::{bury, has_tombstones, unbury};
use crate::transactions::{CommitError, StoreError};

/// Only the one transaction that runs asks, so few messages ever wait.
const MAILBOX: usize = 16;

/// The one write connection, shared by the actors of the store's thread.
pub(crate) type Store = Rc<RefCell<SqliteConnection>>;

/// Owns the rows of one model.
pub(crate) struct Applier {
    table: Rc<ModelTable>,
    spec: Option<ModelSpec>,
    store: Store,
}

/// What applying did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applied {
    /// Records that are now different.
    pub(crate) changed: Vec<RecordId>,
    /// Rows that another device owns: left as they were.
    pub(crate) refused: u64,
    /// Fields of another kind than their column: kept raw.
    pub(crate) misfits: u64,
}

impl Applier {
    pub(crate) fn new(table: Rc<ModelTable>, spec: Option<ModelSpec>, store: Store) -> Self {
        Self { table, spec, store }
    }

    fn model(&self) -> ModelId {
        self.table.model
    }

    fn refuse(&self, record: RecordId, reason: impl Into<String>) -> CommitError {
        let model = self.spec.map_or_else(|| format!("model {}", self.model()), |spec| spec.name.to_owned());
        CommitError::Refused { model, record, reason: reason.into() }
    }

    /// What a program may write: known fields of the right kind, within the limits.
    fn check(&self, record: RecordId, fields: &Fields) -> Result<(), CommitError> {
        if record == RecordId::MIN {
            return Err(self.refuse(record, "an id of zeros only is no record's: pages begin after it"));
        }
        if fields.len() > FIELDS_MAX {
            return Err(self.refuse(record, format!("{} fields are more than {FIELDS_MAX}", fields.len())));
        }
        for (field, value) in fields.iter() {
            let Some(column) = self.spec.and_then(|spec| spec.column(field).copied()) else {
                return Err(self.refuse(record, format!("there is no field {field}")));
            };
            if !column.kind.holds(value) || matches!(value, Value::Real(real) if real.is_nan()) {
                return Err(self.refuse(record, format!("{} cannot hold {value:?}", column.name)));
            }
            if value.len() > VALUE_BYTES_MAX {
                let bytes = value.len();
                return Err(self.refuse(record, format!("{} has {bytes} bytes of {VALUE_BYTES_MAX}", column.name)));
            }
        }
        Ok(())
    }

    /// Applies one row or tombstone of an owner. Says whether anything changed; an error inside names the culprit.
    fn apply_row(
        &self,
        c: &mut SqliteConnection,
        owner: DeviceId,
        row: &StateRow,
        buried: bool,
        applied: &mut Applied,
    ) -> QueryResult<()> {
        let StateRow { version, record, ref fields, .. } = *row;
        let written = if let Some(fields) = fields {
            if buried && !unbury(c, self.model(), record, owner, version)? {
                return Ok(());
            }
            applied.misfits += self.table.misfits(fields) as u64;
            self.table.put_owned(c, owner, version, record, fields)?
        } else {
            self.table.delete_owned(c, owner, version, record)?
        };
        let foreign = !written && self.table.owned(c, record)?.is_some_and(|row| row.owner != owner);
        if foreign {
            applied.refused += 1;
        } else if fields.is_none() {
            bury(c, self.model(), record, owner, version)?;
        }
        if written {
            applied.changed.push(record);
        }
        Ok(())
    }

    fn merge(&self, c: &mut SqliteConnection, id: RecordId, delta: SharedRecord) -> QueryResult<bool> {
        let before = self.table.shared(c, id)?;
        let mut after = before.clone().unwrap_or_default();
        merge::join(&mut after, delta);
        self.merged(c, id, before.as_ref(), &after)
    }

    /// Writes a record that something was merged into. Says whether that changed it.
    fn merged(
        &self,
        c: &mut SqliteConnection,
        id: RecordId,
        before: Option<&SharedRecord>,
        after: &SharedRecord,
    ) -> QueryResult<bool> {
        if before == Some(after) {
            return Ok(false);
        }
        self.table.put_shared(c, id, after)?;
        remains::note(c, self.model(), id, after)?;
        let (old, new) = (before.map(merge::losers).unwrap_or_default(), merge::losers(after));
        if old != new {
            list_conflicts(c, self.model(), id, &new)?;
        }
        Ok(true)
    }

    /// Makes a local write of a shared record; the log entries that it makes. When it is refused nothing is written.
    fn edit_shared(
        &self,
        c: &mut SqliteConnection,
        stamps: Vec<Hlc>,
        write: &Write,
        has_parked: bool,
    ) -> Result<Vec<Edit>, CommitError> {
        let Some(first) = stamps.first().copied() else { return Ok(Vec::new()) };
        if has_parked && parked::is_item_parked(c, self.model(), write.record).map_err(StoreError::from)? {
            let reason = "a change of it by a device whose clock is ahead must come first: correct that clock, or wait";
            return Err(self.refuse(write.record, reason));
        }
        let current = self.table.shared(c, write.record).map_err(StoreError::from)?;
        let exists = current.is_some();
        let mut record = current.unwrap_or_default();
        let ops = self.shared_op(&record, exists, first, write)?;
        if ops.len() > stamps.len() {
            return Err(CommitError::TooLarge { changes: ops.len() });
        }
        let edits: Vec<Edit> =
            stamps.into_iter().zip(ops).map(|(hlc, op)| self.sized(write.record, hlc, op)).collect::<Result<_, _>>()?;
        if !edits.is_empty() {
            let before = exists.then(|| record.clone());
            for Edit { hlc, op, .. } in &edits {
                merge::join(&mut record, op.clone().into_delta(*hlc));
            }
            self.merged(c, write.record, before.as_ref(), &record).map_err(StoreError::from)?;
        }
        Ok(edits)
    }

    /// A log entry of our own, if it is not too large for one.
    fn sized(&self, record: RecordId, hlc: Hlc, op: Op) -> Result<Edit, CommitError> {
        // Its number is not known yet: the largest takes the most room.
        let entry = SharedChange { seq: u64::MAX, hlc, model: self.model(), record, op, ends_commit: true };
        match codec::encode(&entry, ENTRY_BYTES_MAX) {
            Ok(bytes) => Ok(Edit { hlc, model: entry.model, record, op: entry.op, bytes: bytes.len() }),
            Err(error) => Err(self.refuse(record, error.to_string())),
        }
    }

    /// The row after a local write, `None` when it goes, and whether that is a change at all.
    fn edited(&self, owner: DeviceId, current: Option<OwnedRow>, write: Write) -> Result<Edited, CommitError> {
        let foreign = |row: &&OwnedRow| row.owner != owner && !planted::is(Bug::OwnerUnchecked);
        if let Some(row) = current.as_ref().filter(foreign) {
            return Err(self.refuse(write.record, format!("it belongs to device {}", row.owner)));
        }
        let current = current.map(|row| row.fields);
        let next = match write.action {
            Action::Put(fields) => {
                self.check(write.record, &fields)?;
                Some(without_nulls(fields))
            }
            Action::Patch(fields) => {
                self.check(write.record, &fields)?;
                let Some(mut row) = current.clone() else { return Ok(Edited::Same) };
                for (field, value) in fields {
                    row.set(field, value);
                }
                Some(without_nulls(row))
            }
            Action::Delete => None,
            Action::Restore => return Err(self.refuse(write.record, "only shared records can be restored")),
        };
        Ok(if next == current { Edited::Same } else { Edited::To(next) })
    }

    /// The log entries that a local write of a shared record makes: one, none when it changes nothing, several for a
    /// restore that does not fit one.
    fn shared_op(&self, record: &SharedRecord, exists: bool, hlc: Hlc, write: &Write) -> Result<Vec<Op>, CommitError> {
        let derived = self.spec.is_some_and(|spec| spec.ownership == Ownership::SharedDerived);
        let alive = record.stamps.is_alive();
        match &write.action {
            Action::Put(fields) | Action::Patch(fields) => {
                self.check(write.record, fields)?;
                let create = matches!(write.action, Action::Put(_));
                if derived && create && (!exists || !alive) {
                    return Ok(vec![merge::create(record, hlc, fields.clone())]);
                }
                if !exists && !create {
                    return Ok(Vec::new());
                }
                if !alive {
                    let model = self.table.name.to_owned();
                    return Err(CommitError::Deleted { model, record: write.record });
                }
                Ok(merge::set(record, fields.clone()).into_iter().collect())
            }
            Action::Delete => Ok(merge::delete(record).filter(|_| exists).into_iter().collect()),
            // Nothing is left of it but that it was deleted.
            Action::Restore if exists && !alive && record.stamps.fields.is_empty() => {
                Err(CommitError::Purged { model: self.table.name.to_owned(), record: write.record })
            }
            Action::Restore => Ok(merge::restore(record)),
        }
    }
}

enum Edited {
    Same,
    To(Option<Fields>),
}

fn without_nulls(fields: Fields) -> Fields {
    fields.into_iter().filter(|(_, value)| *value != Value::Null).collect()
}

impl Actor for Applier {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

/// Apply rows and tombstones of one owner, in the order of their versions.
#[derive(Debug, Message)]
#[rtype(result = "Result<Applied, StoreError>")]
pub(crate) struct ApplyState {
    pub(crate) owner: DeviceId,
    pub(crate) rows: Vec<StateRow>,
}

impl Handler<ApplyState> for Applier {
    type Result = Result<Applied, StoreError>;

    fn handle(&mut self, ApplyState { owner, rows }: ApplyState, _: &mut Self::Context) -> Self::Result {
        let c = &mut *self.store.borrow_mut();
        let mut applied = Applied::default();
        let mut buried = has_tombstones(c, owner)?;
        for row in &rows {
            self.apply_row(c, owner, row, buried, &mut applied)?;
            buried |= row.fields.is_none();
        }
        Ok(applied)
    }
}

/// Delete what a complete page of a snapshot lacks: rows of the owner in the key range, up to a version.
#[derive(Debug, Message)]
#[rtype(result = "Result<Applied, StoreError>")]
pub(crate) struct Sweep {
    pub(crate) owner: DeviceId,
    pub(crate) range: (RecordId, RecordId),
    pub(crate) version_max: u64,
    pub(crate) present: BTreeSet<RecordId>,
}

impl Handler<Sweep> for Applier {
    type Result = Result<Applied, StoreError>;

    fn handle(&mut self, message: Sweep, _: &mut Self::Context) -> Self::Result {
        let Sweep { owner, range, version_max, present } = message;
        let c = &mut *self.store.borrow_mut();
        let changed = self.table.sweep(c, owner, range, version_max, &present)?;
        Ok(Applied { changed, ..Applied::default() })
    }
}

/// Make rows of an owner be as the owner has them, whatever their versions here; those without fields go.
#[derive(Debug, Message)]
#[rtype(result = "Result<Applied, StoreError>")]
pub(crate) struct Replace {
    pub(crate) owner: DeviceId,
    pub(crate) rows: Vec<StateRow>,
}

impl Handler<Replace> for Applier {
    type Result = Result<Applied, StoreError>;

    fn handle(&mut self, Replace { owner, rows }: Replace, _: &mut Self::Context) -> Self::Result {
        let c = &mut *self.store.borrow_mut();
        let mut applied = Applied::default();
        for row in &rows {
            if row.fields.is_some() {
                // A tombstone that is left of it would keep its next version away.
                unbury(c, self.model(), row.record, owner, u64::MAX)?;
            }
            if self.table.replace_owned(c, owner, row)? {
                applied.changed.push(row.record);
            }
        }
        Ok(applied)
    }
}

/// Merge log entries, in the order of their stream.
#[derive(Debug, Message)]
#[rtype(result = "Result<Applied, StoreError>")]
pub(crate) struct ApplyShared(pub(crate) Vec<SharedChange>);

impl Handler<ApplyShared> for Applier {
    type Result = Result<Applied, StoreError>;

    fn handle(&mut self, ApplyShared(changes): ApplyShared, _: &mut Self::Context) -> Self::Result {
        let c = &mut *self.store.borrow_mut();
        let mut applied = Applied::default();
        for SharedChange { hlc, record, op, .. } in changes {
            let delta = op.into_delta(hlc);
            applied.misfits += self.table.misfits(&delta.fields) as u64;
            if self.merge(c, record, delta)? {
                applied.changed.push(record);
            }
        }
        Ok(applied)
    }
}

/// Merge records of a snapshot.
#[derive(Debug, Message)]
#[rtype(result = "Result<Applied, StoreError>")]
pub(crate) struct ApplyItems(pub(crate) Vec<SharedItem>);

impl Handler<ApplyItems> for Applier {
    type Result = Result<Applied, StoreError>;

    fn handle(&mut self, ApplyItems(items): ApplyItems, _: &mut Self::Context) -> Self::Result {
        let c = &mut *self.store.borrow_mut();
        let mut applied = Applied::default();
        for SharedItem { record, mut state, .. } in items {
            if planted::is(Bug::SnapshotWithoutLosers) {
                state.stamps.fields.iter_mut().for_each(|(_, stamp)| stamp.losers.clear());
            }
            if self.merge(c, record, state)? {
                applied.changed.push(record);
            }
        }
        Ok(applied)
    }
}

/// Let go of the fields and losers of deleted records; those that are alive by now stay whole, and so do those that were
/// restored and deleted again meanwhile.
#[derive(Debug, Message)]
#[rtype(result = "Result<u64, StoreError>")]
pub(crate) struct PurgeRecords(pub(crate) Vec<Remains>);

impl Handler<PurgeRecords> for Applier {
    type Result = Result<u64, StoreError>;

    fn handle(&mut self, PurgeRecords(records): PurgeRecords, _: &mut Self::Context) -> Self::Result {
        let c = &mut *self.store.borrow_mut();
        let mut purged = 0;
        for Remains { record: id, deleted_at_ms, .. } in records {
            let Some(mut record) = self.table.shared(c, id)?.filter(|record| !record.stamps.is_alive()) else {
                remains::forget(c, self.model(), id)?;
                continue;
            };
            if record.stamps.deleted.as_ref().is_none_or(|deleted| deleted.hlc.wall_ms() != deleted_at_ms) {
                remains::note(c, self.model(), id, &record)?;
                continue;
            }
            record.fields = Fields::new();
            record.stamps.fields.clear();
            self.table.put_shared(c, id, &record)?;
            remains::note(c, self.model(), id, &record)?;
            list_conflicts(c, self.model(), id, &[])?;
            purged += 1;
        }
        Ok(purged)
    }
}

/// Make local writes of our own rows, each with the version that it may take. The answer holds the rows that
/// changed; a write that changes nothing takes no version.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<StateRow>, CommitError>")]
pub(crate) struct EditOwned {
    pub(crate) owner: DeviceId,
    pub(crate) edits: Vec<(u64, Write)>,
}

impl Handler<EditOwned> for Applier {
    type Result = Result<Vec<StateRow>, CommitError>;

    fn handle(&mut self, EditOwned { owner, edits }: EditOwned, _: &mut Self::Context) -> Self::Result {
        let c = &mut *self.store.borrow_mut();
        let buried = has_tombstones(c, owner).map_err(StoreError::from)?;
        let (mut rows, mut applied) = (Vec::new(), Applied::default());
        // Ids rise with time: whoever adds many rows need not look for each of them whether it is there.
        let mut last = self.table.last_key(c).map_err(StoreError::from)?;
        for (version, write) in edits {
            let (model, record) = (write.model, write.record);
            let is_new = last.is_none_or(|last| record > last);
            let current = if is_new { None } else { self.table.owned(c, record).map_err(StoreError::from)? };
            last = last.max(Some(record));
            if let Edited::To(fields) = self.edited(owner, current, write)? {
                let row = StateRow { version, model, record, fields };
                self.apply_row(c, owner, &row, buried, &mut applied).map_err(StoreError::from)?;
                rows.push(row);
            }
        }
        Ok(rows)
    }
}

/// Make local writes of shared records, each with its stamps: one, and for a restore as many as it may take. The answer
/// holds for each write the log entries that it makes; one that is refused has written nothing.
#[derive(Debug, Message)]
#[rtype(result = "Vec<Result<Vec<Edit>, CommitError>>")]
pub(crate) struct EditShared {
    pub(crate) edits: Vec<(Vec<Hlc>, Write)>,
    /// Whether any item of a snapshot is parked.
    pub(crate) has_parked: bool,
}

/// One log entry that a local write made.
#[derive(Debug)]
pub(crate) struct Edit {
    pub(crate) hlc: Hlc,
    pub(crate) model: ModelId,
    pub(crate) record: RecordId,
    pub(crate) op: Op,
    /// The most bytes that the entry takes.
    pub(crate) bytes: usize,
}

impl Handler<EditShared> for Applier {
    type Result = MessageResult<EditShared>;

    fn handle(&mut self, EditShared { edits, has_parked }: EditShared, _: &mut Self::Context) -> Self::Result {
        let c = &mut *self.store.borrow_mut();
        let made = edits.into_iter().map(|(stamps, write)| self.edit_shared(c, stamps, &write, has_parked));
        MessageResult(made.collect())
    }
}
