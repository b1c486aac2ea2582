//! A look into one device: how far it is and what it wrote, read in one transaction, for the checkers to judge.

use std::collections::BTreeSet;

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use starling::{QueryError, Registry, canonical};
use starling_schema::change::SharedChange;
use starling_schema::codec;
use starling_schema::ids::{DeviceId, LibraryId, RecordId};
use starling_schema::stream::{Stream, StreamKind, Watermarks};
use starling_schema::tables::{dead_letter, log, parked, parked_item, setting, statement, stream, tombstone};
use starling_schema::wire::UNPACKED_BYTES_MAX;

use crate::sim::Node;

/// How far a device is, and what it wrote since a number.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Which device.
    pub device: DeviceId,
    /// Of which library.
    pub library: LibraryId,
    /// How far it is along every stream.
    pub marks: Watermarks,
    /// Below what it may lack entries or tombstones.
    pub floors: Watermarks,
    /// Its own log entries after the number that was asked for.
    pub wrote: Vec<SharedChange>,
    /// What it deleted of its own rows after the number that was asked for, as far as it is not pruned.
    pub deleted: Vec<Deleted>,
    /// The membership statements that it holds, by name.
    pub statements: Vec<Vec<u8>>,
    /// How many log entries and snapshot items are parked.
    pub parked: u64,
    /// Records of which a snapshot item is parked: the watermarks stand for what it says, the record lacks it.
    pub incomplete: BTreeSet<RecordId>,
    /// Whether it is in the midst of a snapshot: its records are ahead of its watermarks.
    pub is_ahead: bool,
    /// To whom sends were given up.
    pub dead_letters: Vec<DeviceId>,
}

impl Sample {
    /// What a look into a device would show that has this much.
    #[cfg(test)]
    pub(super) fn of(device: DeviceId, marks: &[(Stream, u64)]) -> Self {
        Self {
            device,
            library: LibraryId::MIN,
            marks: marks.iter().copied().collect(),
            floors: Watermarks::new(),
            wrote: Vec::new(),
            deleted: Vec::new(),
            statements: Vec::new(),
            parked: 0,
            incomplete: BTreeSet::new(),
            is_ahead: false,
            dead_letters: Vec::new(),
        }
    }

    /// Looks into a running device, at what it wrote after `after` and deleted after `deleted_after`. None when it is
    /// too busy or stopping.
    pub async fn take(node: &Node, after: u64, deleted_after: u64) -> Option<Self> {
        let (device, library) = (node.id(), node.peer().library());
        let read = move |c: &mut SqliteConnection| {
            let mut sample = read(c, device, library, after)?;
            sample.deleted = deleted(c, Some((device, deleted_after)))?;
            Ok(sample)
        };
        node.peer().query(read).await.ok()
    }
}

fn read(c: &mut SqliteConnection, device: DeviceId, library: LibraryId, after: u64) -> QueryResult<Sample> {
    let columns = (stream::kind, stream::origin, stream::watermark, stream::floor);
    let rows: Vec<(i32, DeviceId, i64, i64)> = stream::table.select(columns).load(c)?;
    let (mut marks, mut floors) = (Watermarks::new(), Watermarks::new());
    for (kind, origin, watermark, floor) in rows {
        let Some(kind) = StreamKind::from_code(kind) else { continue };
        marks.raise(Stream { kind, origin }, watermark.unsigned_abs());
        floors.raise(Stream { kind, origin }, floor.unsigned_abs());
    }
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let own = log::table.filter(log::origin.eq(device).and(log::seq.gt(after))).order(log::seq);
    let wrote: Vec<Vec<u8>> = own.select(log::entry).load(c)?;
    let incomplete: Vec<RecordId> = parked_item::table.select(parked_item::id).load(c)?;
    let entries = parked::table.count().get_result::<i64>(c)?.unsigned_abs();
    let ahead: Option<Vec<u8>> = setting::table.find("ahead").select(setting::value).first(c).optional()?;
    let ahead = ahead.and_then(|bytes| codec::decode::<Watermarks, UNPACKED_BYTES_MAX>(&bytes).ok());
    let is_ahead = ahead.is_some_and(|ahead| !marks.covers(&ahead));
    Ok(Sample {
        device,
        library,
        marks,
        floors,
        wrote: decoded(&wrote),
        deleted: Vec::new(),
        statements: statement::table.select(statement::id).order(statement::id).load(c)?,
        parked: entries + incomplete.len() as u64,
        incomplete: incomplete.into_iter().collect(),
        is_ahead,
        dead_letters: dead_letter::table.select(dead_letter::peer).load(c)?,
    })
}

/// The tombstones of this owner after a number, or all.
fn deleted(c: &mut SqliteConnection, owner: Option<(DeviceId, u64)>) -> QueryResult<Vec<Deleted>> {
    let all = tombstone::table.select((tombstone::id, tombstone::version));
    let rows: Vec<(RecordId, i64)> = match owner {
        None => all.load(c)?,
        Some((owner, after)) => {
            let after = i64::try_from(after).unwrap_or(i64::MAX);
            all.filter(tombstone::owner.eq(owner).and(tombstone::version.gt(after))).load(c)?
        }
    };
    Ok(rows.into_iter().map(|(id, version)| Deleted { id, version: version.unsigned_abs() }).collect())
}

fn decoded(entries: &[Vec<u8>]) -> Vec<SharedChange> {
    entries.iter().filter_map(|entry| codec::decode::<_, UNPACKED_BYTES_MAX>(entry).ok()).collect()
}

/// A tombstone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Deleted {
    /// Of which row.
    pub id: RecordId,
    /// Its number in the owner's stream.
    pub version: u64,
}

/// Everything that a device holds, with how far it is, read in one transaction.
#[derive(Clone, Debug)]
pub struct Held {
    /// Which device.
    pub device: DeviceId,
    /// What the test calls it.
    pub name: String,
    /// How far it is, and its floors.
    pub sample: Sample,
    /// Lines of device-owned rows.
    pub owned: Vec<String>,
    /// Lines of shared records.
    pub shared: Vec<String>,
    /// Lines of membership statements.
    pub membership: Vec<String>,
    /// Every entry of its log.
    pub log: Vec<SharedChange>,
    /// Every tombstone of device-owned rows.
    pub deleted: Vec<Deleted>,
}

impl Held {
    /// Reads all of it. None when the device is too busy or stopping.
    pub async fn take(node: &Node) -> Option<Self> {
        let (device, library, name) = (node.id(), node.peer().library(), node.name().to_owned());
        let read = move |c: &mut SqliteConnection| {
            let sample = read(c, device, library, u64::MAX)?;
            let (mut owned, mut shared, mut membership) = (Vec::new(), Vec::new(), Vec::new());
            let registry = Registry::default();
            let is_owned = |model: &str| registry.iter().any(|spec| spec.name == model && !spec.ownership.is_shared());
            canonical::dump(c, &registry, &mut |model, line| {
                let lines = match model {
                    "membership" => &mut membership,
                    _ if is_owned(model) => &mut owned,
                    _ => &mut shared,
                };
                lines.push(line.to_owned());
            })?;
            let entries: Vec<Vec<u8>> = log::table.order((log::origin, log::seq)).select(log::entry).load(c)?;
            let (log, deleted) = (decoded(&entries), deleted(c, None)?);
            Ok::<_, QueryError>(Self { device, name, sample, owned, shared, membership, log, deleted })
        };
        node.peer().query(read).await.ok()
    }

    /// A hash over all lines.
    #[must_use]
    pub fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for line in self.owned.iter().chain(&self.shared).chain(&self.membership) {
            hasher.update(line.as_bytes()).update(b"\n");
        }
        hasher.finalize()
    }
}
