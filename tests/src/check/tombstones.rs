//! Tombstones: of each row that its owner deleted, a device that is past the delete holds the tombstone, or a newer
//! version of the row, or says by its floor that it may lack it. Otherwise it would pass on rows and keep quiet about
//! deletes, and a device that was away would keep what is gone.
//!
//! Not verified here: deletes of devices that are members no more, and those that were never seen at their owner.

use std::collections::BTreeMap;

use starling_schema::ids::DeviceId;
use starling_schema::stream::Stream;

use super::holes::rows;
use super::sample::Deleted;
use super::{Held, Sample, Violation};

/// Every delete that was seen at its owner, by owner and number.
#[derive(Clone, Debug, Default)]
pub struct TombstoneCheck(BTreeMap<DeviceId, BTreeMap<u64, Deleted>>);

impl TombstoneCheck {
    /// The last delete that was seen of an owner, 0 when there is none.
    #[must_use]
    pub fn last(&self, owner: DeviceId) -> u64 {
        self.0.get(&owner).and_then(BTreeMap::last_key_value).map_or(0, |(version, _)| *version)
    }

    /// Remembers what a device deleted of its own.
    pub fn look(&mut self, sample: &Sample) {
        if !sample.deleted.is_empty() {
            let deleted = sample.deleted.iter().map(|deleted| (deleted.version, *deleted));
            self.0.entry(sample.device).or_default().extend(deleted);
        }
    }

    /// Judges what a device holds of the deletes of these owners.
    ///
    /// # Errors
    /// When it is past a delete, does not have it, and does not say so.
    pub fn judge(&self, held: &Held, owners: &[DeviceId]) -> Result<(), Violation> {
        for (owner, deletes) in self.0.iter().filter(|(owner, _)| owners.contains(owner)) {
            let stream = Stream::state(*owner);
            let (floor, watermark) = (held.sample.floors.get(stream), held.sample.marks.get(stream));
            if floor >= watermark {
                continue;
            }
            let lacks = |(_, delete): &(&u64, &Deleted)| {
                !held.deleted.iter().any(|there| there.id == delete.id && there.version >= delete.version)
            };
            let mut lacking = deletes.range(floor + 1..=watermark).filter(lacks).peekable();
            if lacking.peek().is_none() {
                continue;
            }
            let rows = rows(held, *owner);
            let is_back = |id: &str, version| rows.iter().any(|((_, of), row)| of == id && row.version >= version);
            if let Some((version, Deleted { id, .. })) =
                lacking.find(|(version, delete)| !is_back(&delete.id.to_string(), **version))
            {
                let detail = format!(
                    "{} is at {watermark} of the rows of {owner} and may lack deletes through {floor} only, and lacks \
                     the one of {id} at {version}",
                    held.name
                );
                return Err(Violation::new("tombstones", detail));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use starling_schema::ids::RecordId;
    use uuid::Uuid;

    use super::*;

    const A: DeviceId = DeviceId(Uuid::from_u128(1));
    const B: DeviceId = DeviceId(Uuid::from_u128(2));
    const RECORD: RecordId = RecordId(Uuid::from_u128(7));

    fn held(watermark: u64, floor: u64, tombstone: Option<u64>, row: Option<u64>) -> Held {
        let mut sample = Sample::of(B, &[(Stream::state(A), watermark)]);
        sample.floors.raise(Stream::state(A), floor);
        let line = |version| json!({ "model": "entry", "id": RECORD, "owner": A, "version": version }).to_string();
        Held {
            device: B,
            name: "b".to_owned(),
            sample,
            owned: row.map(line).into_iter().collect(),
            shared: Vec::new(),
            membership: Vec::new(),
            log: Vec::new(),
            deleted: tombstone.map(|version| Deleted { id: RECORD, version }).into_iter().collect(),
        }
    }

    #[test]
    fn a_delete_that_is_passed_over_and_not_confessed_by_the_floor_is_found() {
        let mut check = TombstoneCheck::default();
        let mut owner = Sample::of(A, &[(Stream::state(A), 5)]);
        owner.deleted = vec![Deleted { id: RECORD, version: 5 }];
        check.look(&owner);
        assert_eq!((check.last(A), check.last(B)), (5, 0));
        for fine in
            [held(4, 0, None, None), held(9, 5, None, None), held(9, 0, Some(5), None), held(9, 0, None, Some(6))]
        {
            check.judge(&fine, &[A]).unwrap();
        }
        for wrong in [held(5, 0, None, None), held(9, 4, None, Some(4)), held(9, 0, Some(3), None)] {
            assert_eq!(check.judge(&wrong, &[A]).unwrap_err().checker, "tombstones");
            check.judge(&wrong, &[B]).unwrap();
        }
    }
}
