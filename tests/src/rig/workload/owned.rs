//! Work on device-owned records: volumes, locations, entries, and how often entries were opened.

use std::collections::BTreeSet;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use starling_schema::change::Write;
use starling_schema::ids::{DeviceId, RecordId};
use starling_schema::model::Syncable;
use starling_schema::models::{Device, Entry, EntryKind, Location, UserMetadataDevice, Volume};
use starling_schema::value::{Fields, Value};

use super::{BULK_ROWS, Indexed, Kind, POOL_MAX, Things, Work, Worker, content, word};

impl Things {
    /// A write that is not this device's to make, in one piece of work of eight.
    pub(in super::super) fn meddling(&self, work: &Work, device: DeviceId) -> Option<Write> {
        let mut random = ChaCha8Rng::seed_from_u64(!work.seed);
        if !random.random_bool(0.125) {
            return None;
        }
        let others = self.own.iter().filter(|(owner, _)| **owner != device).flat_map(|(_, own)| &own.entries);
        let foreign: Vec<RecordId> = others.map(|entry| entry.id).collect();
        let entry = *foreign.choose(&mut random)?;
        Some(Write::patch(Entry::MODEL, entry, Fields::new().with(Entry::NAME, word(&mut random))))
    }

    pub(super) fn owned(&mut self, kind: Kind, worker: &Worker<'_>, random: &mut ChaCha8Rng) -> Vec<Write> {
        let device = worker.device;
        match kind {
            Kind::Device => {
                vec![Write::patch(Device::MODEL, device.record(), Fields::new().with(Device::OS_VERSION, word(random)))]
            }
            Kind::Volume => self.volume(worker, random),
            Kind::Location => self.location(worker, random),
            Kind::Bulk => self.index(random.random_range(BULK_ROWS), worker, random),
            Kind::Index => self.index(random.random_range(1..12), worker, random),
            Kind::Opened => {
                let Some(file) = self.files.choose(random) else { return self.index(3, worker, random) };
                let mut opened = UserMetadataDevice::of(*file, device);
                if random.random_bool(0.1) {
                    return vec![Write::delete(UserMetadataDevice::MODEL, opened.id)];
                }
                opened.open_count = Some(random.random_range(1..100));
                opened.last_opened_at = Some(random.random_range(0..1 << 40));
                vec![opened.put()]
            }
            _ => self.entry(kind, worker, random),
        }
    }

    fn volume(&mut self, worker: &Worker<'_>, random: &mut ChaCha8Rng) -> Vec<Write> {
        let own = self.own.entry(worker.device).or_default();
        match own.volumes.choose(random).copied() {
            Some(id) if random.random_bool(0.2) => {
                own.volumes.retain(|volume| *volume != id);
                vec![Write::delete(Volume::MODEL, id)]
            }
            Some(id) if random.random_bool(0.7) => {
                let fields = Fields::new().with(Volume::AVAILABLE, random.random_range(0..1 << 40_i64));
                vec![Write::patch(Volume::MODEL, id, fields)]
            }
            _ => {
                let mut volume = Volume::new((worker.new_id)());
                volume.device = Some(worker.device.record());
                volume.name = Some(word(random));
                volume.capacity = Some(1 << 40);
                volume.removable = Some(random.random());
                own.volumes.push(volume.id);
                vec![volume.put()]
            }
        }
    }

    fn location(&mut self, worker: &Worker<'_>, random: &mut ChaCha8Rng) -> Vec<Write> {
        let own = self.own.entry(worker.device).or_default();
        match own.locations.choose(random).copied() {
            Some((id, _)) if random.random_bool(0.15) => {
                own.locations.retain(|(location, _)| *location != id);
                let gone: Vec<_> = own.entries.iter().filter(|entry| entry.location == id).map(|e| e.id).collect();
                own.entries.retain(|entry| entry.location != id);
                let entries = gone.into_iter().map(|entry| Write::delete(Entry::MODEL, entry));
                [Write::delete(Location::MODEL, id)].into_iter().chain(entries).collect()
            }
            Some((id, _)) if random.random_bool(0.6) => {
                let fields = Fields::new()
                    .with(Location::ENTRY_COUNT, random.random_range(0..10_000_i64))
                    .with(Location::NAME, word(random));
                vec![Write::patch(Location::MODEL, id, fields)]
            }
            _ => {
                let [id, root] = [(worker.new_id)(), (worker.new_id)()];
                let mut location = Location::new(id);
                location.root = Some(root);
                location.volume = own.volumes.choose(random).copied();
                location.name = Some(word(random));
                let mut entry = Entry::new(root);
                (entry.location, entry.name) = (Some(id), Some(word(random)));
                entry.kind = Some(EntryKind::Directory.code());
                own.locations.push((id, root));
                own.entries.push(Indexed { id: root, parent: root, location: id, is_directory: true });
                vec![location.put(), entry.put()]
            }
        }
    }

    /// Indexes so many entries, one in eight a directory.
    pub(super) fn index(&mut self, count: usize, worker: &Worker<'_>, random: &mut ChaCha8Rng) -> Vec<Write> {
        let own = self.own.entry(worker.device).or_default();
        let directories: Vec<_> = own.entries.iter().filter(|entry| entry.is_directory).copied().collect();
        let Some(parent) = directories.choose(random).copied() else { return self.location(worker, random) };
        let mut writes = Vec::with_capacity(count);
        for at in 0..count {
            let is_directory = count < 50 && random.random_bool(0.12);
            let indexed = Indexed { id: (worker.new_id)(), parent: parent.id, location: parent.location, is_directory };
            let mut entry = Entry::new(indexed.id);
            (entry.location, entry.parent) = (Some(parent.location), Some(parent.id));
            (entry.name, entry.size) = (Some(format!("{} {at}", word(random))), Some(1_024));
            entry.kind = Some(if is_directory { EntryKind::Directory } else { EntryKind::File }.code());
            if random.random_bool(0.3) {
                entry.content_hash = Some(content(random));
            }
            if random.random_bool(0.1) {
                entry.raw_name = Some(vec![0xff, 0xfe, u8::try_from(at % 256).unwrap_or(0)]);
            }
            own.entries.push(indexed);
            if self.files.len() < POOL_MAX || random.random_bool(0.01) {
                self.files.push(indexed.id);
            }
            writes.push(entry.put());
        }
        writes
    }

    fn entry(&mut self, kind: Kind, worker: &Worker<'_>, random: &mut ChaCha8Rng) -> Vec<Write> {
        let own = self.own.entry(worker.device).or_default();
        let is_root = |entry: &Indexed| entry.id == entry.parent;
        let some: Vec<_> = own.entries.iter().filter(|entry| !is_root(entry)).copied().collect();
        let Some(entry) = some.choose(random).copied() else { return self.index(5, worker, random) };
        match kind {
            Kind::Move => {
                let to: Vec<_> =
                    own.entries.iter().filter(|to| to.is_directory && to.id != entry.id).copied().collect();
                let Some(to) = to.choose(random) else { return Vec::new() };
                let fields = Fields::new()
                    .with(Entry::PARENT, Value::Id(to.id))
                    .with(Entry::LOCATION, Value::Id(to.location))
                    .with(Entry::NAME, word(random));
                for moved in own.entries.iter_mut().filter(|moved| moved.id == entry.id) {
                    (moved.parent, moved.location) = (to.id, to.location);
                }
                vec![Write::patch(Entry::MODEL, entry.id, fields)]
            }
            Kind::DeleteEntry => {
                own.entries.retain(|kept| kept.id != entry.id);
                vec![Write::delete(Entry::MODEL, entry.id)]
            }
            Kind::DeleteFolder => {
                let mut gone = BTreeSet::from([entry.parent]);
                loop {
                    let below = own.entries.iter().filter(|e| gone.contains(&e.parent) && !gone.contains(&e.id));
                    let below: Vec<_> = below.map(|entry| entry.id).collect();
                    if below.is_empty() {
                        break;
                    }
                    gone.extend(below);
                }
                let is_root = own.locations.iter().any(|(_, root)| *root == entry.parent);
                gone.retain(|id| !is_root || *id != entry.parent);
                own.entries.retain(|kept| !gone.contains(&kept.id));
                gone.into_iter().map(|id| Write::delete(Entry::MODEL, id)).collect()
            }
            _ => {
                let fields = Fields::new()
                    .with(Entry::SIZE, random.random_range(0..1 << 30_i64))
                    .with(Entry::CONTENT_HASH, content(random));
                vec![Write::patch(Entry::MODEL, entry.id, fields)]
            }
        }
    }
}
