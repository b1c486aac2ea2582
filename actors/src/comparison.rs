//! One comparison with one connected peer: which of our records it holds otherwise, and what of it repairs ours.
//!
//! Records are compared only where both sides stand at the same watermarks: what one of them has yet to apply is no
//! difference.

use std::collections::{BTreeMap, BTreeSet};

use actix::prelude::*;
use starling_schema::change::{SharedItem, StateRow};
use starling_schema::ids::{DeviceId, ModelId, RecordId};
use starling_schema::stream::{Stream, StreamKind, Watermarks};
use starling_schema::wire::{
    DigestRequest, DigestResponse, SnapshotItems, SnapshotRequest, SnapshotResponse, SnapshotScope, SyncPayload,
};

use crate::exchange::ExchangeError;
use crate::proto::equality::{
    ALL_KEYS, Difference, Entry, FEW_RECORDS, KeyRange, RANGES_MAX, Search, before, differences, owned_entry,
    shared_entry,
};
use crate::reader::{Held, QueryError, ReadEntries, Readers};
use crate::session::Session;
use crate::session::inquire::Inquire;

/// The most of our records that one comparison reads: some 20 ms, and a million records are through in four hours of
/// one comparison a minute.
pub(crate) const RECORDS_MAX: usize = 4_096;

/// The most owners whose rows are asked for in one range; libraries have a dozen.
const OWNERS_MAX: usize = 64;

/// Why records could not be compared. Nothing was found out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComparisonError {
    /// Changes came, or are still to be applied, on one of the sides.
    #[error("the two devices are not at the same point")]
    Unequal,
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    #[error(transparent)]
    Query(#[from] QueryError),
}

impl From<MailboxError> for ComparisonError {
    fn from(error: MailboxError) -> Self {
        Self::Query(error.into())
    }
}

/// What a peer has that ours should become.
#[derive(Clone, Debug)]
pub(crate) enum Repair {
    /// Shared records, to be joined.
    Shared(Vec<SharedItem>),
    /// Rows as their owner has them at this version of its stream; without fields where it has none.
    Owned { owner: DeviceId, version: u64, rows: Vec<StateRow> },
    /// Rows of an owner that has left, held by a peer that is equally far along its stream. Of those the newer ones
    /// count, and those that we lack.
    Left { owner: DeviceId, version: u64, rows: Vec<StateRow> },
}

/// What a comparison found out about the keys from where it began.
#[derive(Debug)]
pub(crate) struct Compared {
    /// How far it speaks.
    pub(crate) through: RecordId,
    /// How many of our records it read.
    pub(crate) records: usize,
    pub(crate) differences: Vec<Difference>,
    pub(crate) repairs: Vec<Repair>,
}

/// A peer to compare with.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    pub(crate) peer: DeviceId,
    pub(crate) session: Addr<Session>,
    pub(crate) readers: Readers,
    /// Who can settle what differs in its own rows.
    pub(crate) members: BTreeSet<DeviceId>,
}

impl Comparison {
    /// Compares records of a model from a key on, as many as one comparison may read.
    pub(crate) async fn run(&self, model: ModelId, from: RecordId) -> Result<Compared, ComparisonError> {
        let first = self.held(model, (from, ALL_KEYS.1), RECORDS_MAX).await?;
        let (mut through, records) = (first.through, first.entries.len());
        let mut search = Search::over((from, through));
        let mut known = Some(first);
        let (mut found, mut repairs) = (Vec::new(), Vec::new());
        while let Some(range) = search.next_range() {
            let ours = match known.take() {
                Some(first) => first,
                None => self.held(model, range, RECORDS_MAX).await?,
            };
            let theirs = self.digest(model, range).await?;
            require_same_point(&ours, &theirs.watermarks)?;
            if search.compared(range, &ours.entries, theirs.hash) {
                let looked = self.look(model, range, &ours).await?;
                search.reached(range, looked.through);
                found.extend(looked.differences);
                repairs.extend(looked.repairs);
                // Who lacks all has pages and pages to come: they are the next comparison's.
                if found.len() >= RANGES_MAX * FEW_RECORDS {
                    through = through.min(looked.through);
                    break;
                }
            }
        }
        Ok(Compared { through, records, differences: found, repairs })
    }

    /// Compares the records of a short range one by one.
    async fn look(&self, model: ModelId, range: KeyRange, ours: &Held) -> Result<Compared, ComparisonError> {
        let mut scopes = Vec::new();
        for kind in &ours.kinds {
            match kind {
                StreamKind::Shared => scopes.push(SnapshotScope::Shared),
                StreamKind::State => scopes.extend(owners(ours).into_iter().map(SnapshotScope::State)),
            }
        }
        let (mut pages, mut through) = (Vec::new(), range.1);
        for scope in scopes {
            let page = self.page(scope, model, range.0, ours).await?;
            if let Some((_, reached)) = page.through.filter(|(at, _)| *at == model) {
                through = through.min(reached);
            }
            pages.push(page);
        }
        // Whoever was at this point before and after was there in between.
        require_same_point(ours, &self.digest(model, (range.0, through)).await?.watermarks)?;
        let mut compared = Compared { through, records: 0, differences: Vec::new(), repairs: Vec::new() };
        for page in pages {
            self.settle(model, (range.0, through), ours, page, &mut compared);
        }
        Ok(compared)
    }

    /// Notes what differs in one page, and what of it repairs ours.
    fn settle(&self, model: ModelId, range: KeyRange, ours: &Held, page: SnapshotResponse, compared: &mut Compared) {
        let is_in = |at: ModelId, record: RecordId| at == model && (range.0..=range.1).contains(&record);
        let mine = |owner: Option<DeviceId>| -> Vec<Entry> {
            ours.entries.iter().filter(|e| e.owner == owner && is_in(model, e.record)).copied().collect()
        };
        match (page.scope, page.items) {
            (SnapshotScope::Shared, SnapshotItems::Shared(items)) => {
                let theirs: BTreeMap<RecordId, SharedItem> = items
                    .into_iter()
                    .filter(|item| is_in(item.model, item.record))
                    .map(|item| (item.record, item))
                    .collect();
                let entries: Vec<Entry> = theirs.iter().map(|(id, item)| shared_entry(*id, &item.state)).collect();
                let found = differences(&mine(None), &entries);
                let items: Vec<SharedItem> = found.iter().filter_map(|d| theirs.get(&d.record).cloned()).collect();
                compared.repairs.extend((!items.is_empty()).then_some(Repair::Shared(items)));
                compared.differences.extend(found);
            }
            (SnapshotScope::State(owner), SnapshotItems::State(rows)) => {
                let rows: BTreeMap<RecordId, StateRow> =
                    rows.into_iter().filter(|row| is_in(row.model, row.record)).map(|row| (row.record, row)).collect();
                let entry = |row: &StateRow| {
                    row.fields.as_ref().map(|fields| owned_entry(row.record, owner, row.version, fields))
                };
                let entries: Vec<Entry> = rows.values().filter_map(entry).collect();
                let found = differences(&mine(Some(owner)), &entries);
                let version = page.watermarks.get(Stream::state(owner));
                if !self.members.contains(&owner) {
                    // Who left in the middle of a rewrite left rows at some that others, equally far, did not get.
                    // No row of it can be newer than its stream here and there.
                    let theirs = found.iter().filter_map(|difference| rows.get(&difference.record));
                    let rows: Vec<_> = theirs.filter(|row| row.version <= version).cloned().collect();
                    compared.repairs.extend((!rows.is_empty()).then_some(Repair::Left { owner, version, rows }));
                } else if owner == self.peer && !found.is_empty() {
                    let gone = |record| StateRow { version, model, record, fields: None };
                    let rows = found.iter().map(|d| rows.get(&d.record).cloned().unwrap_or_else(|| gone(d.record)));
                    compared.repairs.push(Repair::Owned { owner, version, rows: rows.collect() });
                }
                compared.differences.extend(found);
            }
            _ => {}
        }
    }

    async fn held(&self, model: ModelId, range: KeyRange, records_max: usize) -> Result<Held, ComparisonError> {
        Ok(self.readers.next().send(ReadEntries { model, range, records_max }).await??)
    }

    async fn digest(&self, model: ModelId, (from, through): KeyRange) -> Result<DigestResponse, ComparisonError> {
        match self.ask(SyncPayload::DigestRequest(DigestRequest { model, from, through })).await? {
            SyncPayload::DigestResponse(digest) => Ok(digest),
            other => Err(ExchangeError::Unexpected(other.name()).into()),
        }
    }

    /// A page of what the peer holds from a key on, of the same point as ours.
    async fn page(
        &self,
        scope: SnapshotScope,
        model: ModelId,
        from: RecordId,
        ours: &Held,
    ) -> Result<SnapshotResponse, ComparisonError> {
        let after = Some((model, before(from)));
        let page = match self.ask(SyncPayload::SnapshotRequest(SnapshotRequest { scope, after })).await? {
            SyncPayload::SnapshotResponse(page) if (page.scope, page.after) == (scope, after) && page.is_sound() => {
                page
            }
            other => return Err(ExchangeError::Unexpected(other.name()).into()),
        };
        let here = ours.watermarks.clone().unwrap_or_default();
        let is_same = match scope {
            SnapshotScope::Shared => page.watermarks == here.of_kind(StreamKind::Shared),
            SnapshotScope::State(owner) => page.watermarks.get(Stream::state(owner)) == here.get(Stream::state(owner)),
        };
        if is_same { Ok(page) } else { Err(ComparisonError::Unequal) }
    }

    async fn ask(&self, payload: SyncPayload) -> Result<SyncPayload, ComparisonError> {
        Ok(self.session.send(Inquire(payload)).await??)
    }
}

/// Everybody who may own rows here or at a peer of the same point.
fn owners(ours: &Held) -> BTreeSet<DeviceId> {
    let streams = ours.watermarks.iter().flat_map(Watermarks::iter).map(|(stream, _)| stream);
    let with_stream = streams.filter(|stream| stream.kind == StreamKind::State).map(|stream| stream.origin);
    with_stream.chain(ours.entries.iter().filter_map(|entry| entry.owner)).take(OWNERS_MAX).collect()
}

/// Only where both sides have applied the same can a difference be one.
fn require_same_point(ours: &Held, theirs: &Watermarks) -> Result<(), ComparisonError> {
    let here = ours.watermarks.as_ref().ok_or(ComparisonError::Unequal)?;
    let is_same = ours.kinds.iter().all(|kind| here.of_kind(*kind) == theirs.of_kind(*kind));
    if is_same { Ok(()) } else { Err(ComparisonError::Unequal) }
}
