//! The workload: what people and indexers do, over all models. It owns what there is to work on.

mod owned;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use starling::Conflict;
use starling_schema::change::Write;
use starling_schema::ids::{DeviceId, RecordId};

use super::faults::name;

/// Records of a kind that are worked on: few, so that devices get into each other's way.
const POOL_MAX: usize = 8;

/// Files with the same content exist on several devices.
const CONTENTS: u8 = 4;

/// Rows of a bulk commit.
const BULK_ROWS: std::ops::Range<usize> = 50..200;

/// Rows of the one huge commit that some runs have.
const HUGE_ROWS: usize = 4_000;

/// A piece of work: a few commits of one device.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// Whose.
    pub node: usize,
    /// What decides its content.
    pub seed: u64,
    /// How many commits.
    pub commits: usize,
    /// Whether they are made at the same time.
    pub together: bool,
    /// Whether thousands of entries are indexed besides.
    pub is_huge: bool,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (together, huge) = (if self.together { " at once" } else { "" }, if self.is_huge { ", huge" } else { "" });
        write!(f, "{} works: {} commits{together}{huge}", name(self.node), self.commits)
    }
}

/// A kind of work.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
enum Kind {
    Device,
    Volume,
    Location,
    Index,
    Bulk,
    Move,
    EditEntry,
    DeleteEntry,
    DeleteFolder,
    Opened,
    NewTag,
    EditTag,
    DeleteTag,
    RestoreTag,
    BuiltInTag,
    Nest,
    Unnest,
    Assign,
    AssignContent,
    Unassign,
    NewCollection,
    EditCollection,
    DeleteCollection,
    RestoreCollection,
    Collect,
    Uncollect,
    Metadata,
    ForgetMetadata,
    Settle,
    Mixed,
}

const KINDS: [(Kind, u32); 30] = [
    (Kind::Device, 1),
    (Kind::Volume, 3),
    (Kind::Location, 3),
    (Kind::Index, 8),
    (Kind::Bulk, 1),
    (Kind::Move, 4),
    (Kind::EditEntry, 6),
    (Kind::DeleteEntry, 4),
    (Kind::DeleteFolder, 2),
    (Kind::Opened, 4),
    (Kind::NewTag, 4),
    (Kind::EditTag, 14),
    (Kind::DeleteTag, 5),
    (Kind::RestoreTag, 5),
    (Kind::BuiltInTag, 2),
    (Kind::Nest, 6),
    (Kind::Unnest, 3),
    (Kind::Assign, 8),
    (Kind::AssignContent, 4),
    (Kind::Unassign, 6),
    (Kind::NewCollection, 2),
    (Kind::EditCollection, 5),
    (Kind::DeleteCollection, 2),
    (Kind::RestoreCollection, 2),
    (Kind::Collect, 6),
    (Kind::Uncollect, 4),
    (Kind::Metadata, 8),
    (Kind::ForgetMetadata, 3),
    (Kind::Settle, 4),
    (Kind::Mixed, 4),
];

/// How often each kind of work is done.
#[derive(Clone, Debug)]
pub struct Mix(Vec<(Kind, u32)>);

impl Mix {
    /// Some kinds left out, some done much more often.
    pub(super) fn some(random: &mut ChaCha8Rng) -> Self {
        let mut kinds: Vec<_> = KINDS.to_vec();
        for (_, weight) in &mut kinds {
            *weight *= *[0, 1, 1, 1, 1, 5].choose(random).unwrap_or(&1);
        }
        kinds.push((Kind::EditTag, 1));
        kinds.retain(|(_, weight)| *weight > 0);
        Self(kinds)
    }

    fn pick(&self, random: &mut ChaCha8Rng) -> Kind {
        self.0.choose_weighted(random, |(_, weight)| *weight).map_or(Kind::EditTag, |(kind, _)| *kind)
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<_> = self.0.iter().map(|(kind, weight)| format!("{kind:?} {weight}")).collect();
        f.write_str(&kinds.join(", "))
    }
}

/// What one device indexed.
#[derive(Debug, Default)]
struct Own {
    volumes: Vec<RecordId>,
    locations: Vec<(RecordId, RecordId)>,
    /// Entry, the directory it lies in, its location, whether it is a directory.
    entries: Vec<Indexed>,
}

#[derive(Clone, Copy, Debug)]
struct Indexed {
    id: RecordId,
    parent: RecordId,
    location: RecordId,
    is_directory: bool,
}

/// What there is to work on.
#[derive(Debug, Default)]
pub struct Things {
    tags: Vec<RecordId>,
    collections: Vec<RecordId>,
    own: BTreeMap<DeviceId, Own>,
    /// Some entries of all devices.
    files: Vec<RecordId>,
}

/// Whoever works: the device, its clock's ids, and the conflicts that are listed there.
#[derive(Clone, Copy)]
pub struct Worker<'a> {
    /// Which device.
    pub device: DeviceId,
    /// Makes an id.
    pub new_id: &'a dyn Fn() -> RecordId,
    /// What is listed as lost.
    pub conflicts: &'a [Conflict],
}

impl fmt::Debug for Worker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("device", &self.device).finish_non_exhaustive()
    }
}

impl Things {
    /// What is committed by a piece of work: the writes of each commit.
    pub fn commits(&mut self, work: &Work, mix: &Mix, worker: &Worker<'_>) -> Vec<Vec<Write>> {
        let mut random = ChaCha8Rng::seed_from_u64(work.seed);
        let mut commits: Vec<_> = (0..work.commits)
            .map(|_| {
                let kind = mix.pick(&mut random);
                self.writes(kind, mix, worker, &mut random)
            })
            .collect();
        if work.is_huge {
            commits.push(self.index(HUGE_ROWS, worker, &mut random));
        }
        commits.retain(|writes| !writes.is_empty());
        commits
    }

    /// Forgets what a device had indexed: it is another device now.
    pub fn forget(&mut self, device: DeviceId) {
        self.own.remove(&device);
    }

    fn writes(&mut self, kind: Kind, mix: &Mix, worker: &Worker<'_>, random: &mut ChaCha8Rng) -> Vec<Write> {
        match kind {
            Kind::Mixed => {
                let kinds: BTreeSet<_> = (0..4).map(|_| mix.pick(random)).collect();
                let mut writes: Vec<Write> = Vec::new();
                for kind in kinds.into_iter().filter(|kind| !matches!(kind, Kind::Mixed | Kind::Bulk)) {
                    writes.extend(self.writes(kind, mix, worker, random));
                }
                // A commit writes a record once: what a second write in it means is another test's question.
                let mut seen = BTreeSet::new();
                writes.retain(|write| seen.insert((write.model, write.record)));
                writes
            }
            Kind::Device
            | Kind::Volume
            | Kind::Location
            | Kind::Index
            | Kind::Bulk
            | Kind::Move
            | Kind::EditEntry
            | Kind::DeleteEntry
            | Kind::DeleteFolder
            | Kind::Opened => self.owned(kind, worker, random),
            _ => self.shared(kind, worker, random),
        }
    }
}

/// One of a few contents.
fn content(random: &mut ChaCha8Rng) -> Vec<u8> {
    vec![random.random_range(0..CONTENTS); 32]
}

/// A word, now and then a long one.
fn word(random: &mut ChaCha8Rng) -> String {
    // What compresses, fills pages and does not fit a broadcast.
    let length = if random.random_bool(0.01) { 20_000 } else { random.random_range(2..10) };
    (0..length).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect()
}
