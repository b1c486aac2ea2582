//! Whether two devices hold the same records: key ranges are compared by hash, and one that differs is halved until
//! few enough records are left to be looked at one by one.
//!
//! What is hashed follows from field numbers and values alone, so that devices of different versions agree: whether a
//! model or a field is known makes no difference.

use std::collections::{BTreeMap, BTreeSet};

use starling_schema::codec;
use starling_schema::ids::{DeviceId, RecordId};
use starling_schema::record::SharedRecord;
use starling_schema::value::{Fields, Value};
use starling_schema::wire::UNPACKED_BYTES_MAX;
use uuid::Uuid;

use crate::proto::merge;

/// So few records are looked at one by one: they come in one page anyway, and more would rarely be the culprits.
pub const FEW_RECORDS: usize = 256;

/// The most ranges of one search. Halving 4,096 records down to [`FEW_RECORDS`] takes ten for one culprit; what a
/// search does not get to is found by the next one.
pub const RANGES_MAX: usize = 64;

/// A key range, both ends included.
pub type KeyRange = (RecordId, RecordId);

/// All keys.
pub const ALL_KEYS: KeyRange = (RecordId::MIN, RecordId(Uuid::max()));

/// One record as far as equality goes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Entry {
    /// Which record.
    pub record: RecordId,
    /// Whose it is; none for a shared record.
    pub owner: Option<DeviceId>,
    /// BLAKE3 over what the canonical dump holds of it.
    pub hash: [u8; 32],
}

fn hash(content: &impl bincode::Encode) -> [u8; 32] {
    // What was decoded within the same limit encodes within it.
    *blake3::hash(&codec::encode(content, UNPACKED_BYTES_MAX).unwrap_or_default()).as_bytes()
}

/// A device-owned row.
#[must_use]
pub fn owned_entry(record: RecordId, owner: DeviceId, version: u64, fields: &Fields) -> Entry {
    let fields: Vec<_> = fields.iter().map(|(field, value)| (field, value.clone().settled())).collect();
    let fields: Vec<_> = fields.into_iter().filter(|(_, value)| *value != Value::Null).collect();
    Entry { record, owner: Some(owner), hash: hash(&(record, owner, version, fields)) }
}

/// A shared record: of a deleted one only that it is.
#[must_use]
pub fn shared_entry(record: RecordId, state: &SharedRecord) -> Entry {
    let stamps = &state.stamps;
    if let Some(deleted) = stamps.deleted.as_ref().filter(|_| !stamps.is_alive()) {
        return Entry { record, owner: None, hash: hash(&(record, deleted.hlc)) };
    }
    let value = |field| state.fields.get(field).map_or(Value::Null, |value| value.clone().settled());
    let fields: Vec<_> = stamps.fields.iter().map(|(field, stamp)| (*field, stamp.hlc, value(*field))).collect();
    let losers: Vec<_> = merge::losers(state).into_iter().map(|l| (l.field, l.hlc, l.value.settled())).collect();
    Entry { record, owner: None, hash: hash(&(record, stamps.life, fields, losers)) }
}

/// The hash of a range: BLAKE3 over its records' hashes, in order.
#[must_use]
pub fn range_hash(entries: &[Entry]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for entry in entries {
        hasher.update(&entry.hash);
    }
    *hasher.finalize().as_bytes()
}

/// The record that follows in key order; none after the last.
#[must_use]
pub fn after(record: RecordId) -> Option<RecordId> {
    record.0.as_u128().checked_add(1).map(|next| RecordId(Uuid::from_u128(next)))
}

/// The record before, in key order; the first one has none and is given back.
#[must_use]
pub fn before(record: RecordId) -> RecordId {
    RecordId(Uuid::from_u128(record.0.as_u128().saturating_sub(1)))
}

/// A search for the records of a key range that differ.
#[derive(Clone, Debug)]
pub struct Search {
    todo: Vec<KeyRange>,
    ranges_left: usize,
}

impl Search {
    /// A search in one range.
    #[must_use]
    pub fn over(range: KeyRange) -> Self {
        Self { todo: vec![range], ranges_left: RANGES_MAX }
    }

    /// The range to compare next; none when the search is over.
    pub fn next_range(&mut self) -> Option<KeyRange> {
        self.ranges_left = self.ranges_left.checked_sub(1)?;
        self.todo.pop()
    }

    /// Takes in what a range holds here, and its hash at the peer. True says that its records must be looked at one by
    /// one: they differ and are few.
    pub fn compared(&mut self, range: KeyRange, ours: &[Entry], theirs: [u8; 32]) -> bool {
        if range_hash(ours) == theirs {
            return false;
        }
        let middle = ours.get(ours.len() / 2).map(|entry| entry.record).filter(|middle| *middle > range.0);
        match middle {
            Some(middle) if ours.len() > FEW_RECORDS => {
                self.todo.push((middle, range.1));
                self.todo.push((range.0, before(middle)));
                false
            }
            _ => true,
        }
    }

    /// The look at single records ended before the range did: what follows is still to be compared.
    pub fn reached(&mut self, range: KeyRange, through: RecordId) {
        if let Some(next) = after(through).filter(|next| *next <= range.1) {
            self.todo.push((next, range.1));
        }
    }
}

/// A record that two devices do not hold alike.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Difference {
    /// Which record.
    pub record: RecordId,
    /// Whose it is; none for a shared record.
    pub owner: Option<DeviceId>,
    /// Whether it is here.
    pub here: bool,
    /// Whether it is at the peer.
    pub there: bool,
}

/// The records that differ, in key order.
#[must_use]
pub fn differences(ours: &[Entry], theirs: &[Entry]) -> Vec<Difference> {
    let by_key = |entries: &[Entry]| -> BTreeMap<_, _> {
        entries.iter().map(|entry| ((entry.record, entry.owner), entry.hash)).collect()
    };
    let (ours, theirs) = (by_key(ours), by_key(theirs));
    let keys: BTreeSet<_> = ours.keys().chain(theirs.keys()).copied().collect();
    let differing = keys.into_iter().filter(|key| ours.get(key) != theirs.get(key));
    differing
        .map(|key| Difference {
            record: key.0,
            owner: key.1,
            here: ours.contains_key(&key),
            there: theirs.contains_key(&key),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use starling_schema::hlc::Hlc;
    use starling_schema::record::{Deletion, Seen, Stamp, Stamps};

    use super::*;

    fn id(number: u128) -> RecordId {
        RecordId(Uuid::from_u128(number))
    }

    fn device(number: u128) -> DeviceId {
        DeviceId(Uuid::from_u128(number))
    }

    fn row(number: u128, value: i64) -> Entry {
        owned_entry(id(number), device(1), 1, &Fields::new().with(1, value))
    }

    fn within(entries: &[Entry], range: KeyRange) -> Vec<Entry> {
        entries.iter().filter(|entry| (range.0..=range.1).contains(&entry.record)).copied().collect()
    }

    /// Plays both devices; gives the differing records and how many ranges were compared.
    fn search(ours: &[Entry], theirs: &[Entry]) -> (Vec<RecordId>, usize) {
        let mut search = Search::over(ALL_KEYS);
        let (mut found, mut asked) = (Vec::new(), 0);
        while let Some(range) = search.next_range() {
            asked += 1;
            let (here, there) = (within(ours, range), within(theirs, range));
            if search.compared(range, &here, range_hash(&there)) {
                found.extend(differences(&here, &there).into_iter().map(|difference| difference.record));
            }
        }
        (found, asked)
    }

    #[test]
    fn equal_devices_need_one_question() {
        let rows: Vec<Entry> = (1..=4_096).map(|number| row(number, 0)).collect();
        assert_eq!(search(&rows, &rows), (vec![], 1));
    }

    #[test]
    fn one_culprit_among_four_thousand_is_found_with_nine_questions() {
        let ours: Vec<Entry> = (1..=4_096).map(|number| row(number, 0)).collect();
        let mut theirs = ours.clone();
        theirs[2_345] = row(2_346, 7);
        assert_eq!(search(&ours, &theirs), (vec![id(2_346)], 9));
    }

    #[test]
    fn what_only_one_side_has_is_told_with_the_side() {
        let (here, there) = ([row(1, 0), row(2, 0)], [row(2, 0), row(3, 0)]);
        let found = differences(&here, &there);
        let sides: Vec<_> = found.iter().map(|found| (found.record, found.here, found.there)).collect();
        assert_eq!(sides, [(id(1), true, false), (id(3), false, true)]);
        assert_eq!(search(&[], &there).0, [id(2), id(3)]);
    }

    #[test]
    fn a_search_that_differs_everywhere_ends() {
        let ours: Vec<Entry> = (1..=1 << 15).map(|number| row(number, 0)).collect();
        let theirs: Vec<Entry> = (1..=1 << 15).map(|number| row(number, 1)).collect();
        let (found, asked) = search(&ours, &theirs);
        assert_eq!(asked, RANGES_MAX);
        assert!(!found.is_empty() && found.len() < ours.len(), "{}", found.len());
    }

    #[test]
    fn what_a_page_did_not_reach_is_compared_again() {
        let mut search = Search::over((id(1), id(9)));
        assert_eq!(search.next_range(), Some((id(1), id(9))));
        search.reached((id(1), id(9)), id(4));
        assert_eq!(search.next_range(), Some((id(5), id(9))));
        search.reached((id(5), id(9)), id(9));
        assert_eq!(search.next_range(), None);
    }

    #[test]
    fn values_that_a_column_changes_hash_alike_before_and_after() {
        let of = |fields: &Fields| owned_entry(id(1), device(1), 1, fields).hash;
        assert_eq!(of(&Fields::new().with(1, 0.0)), of(&Fields::new().with(1, -0.0)));
        assert_eq!(of(&Fields::new().with(1, f64::NAN)), of(&Fields::new()));
        let mut null = Fields::new();
        null.set(1, Value::Null);
        assert_eq!(of(&null), of(&Fields::new()));
    }

    #[test]
    fn of_a_deleted_record_only_its_delete_counts() {
        let hlc = Hlc { time: 5, device: device(1) };
        let stamp = Stamp { hlc, seen: Seen::new(), losers: Vec::new() };
        let deleted = Some(Deletion { hlc, seen: Seen::new() });
        let bare = SharedRecord { stamps: Stamps { deleted, ..Stamps::default() }, ..SharedRecord::default() };
        let mut full = bare.clone();
        full.fields = Fields::new().with(1, 5);
        full.stamps.fields = vec![(1, stamp)];
        assert_eq!(shared_entry(id(1), &bare), shared_entry(id(1), &full));
        full.stamps.restored = Some(Hlc { time: 6, device: device(1) });
        assert_ne!(shared_entry(id(1), &bare), shared_entry(id(1), &full));
    }

    proptest! {
        #[test]
        fn a_search_finds_exactly_what_differs(
            ours in proptest::collection::btree_map(1_u128..3_000, 0_i64..1_000, 0..1_500),
            changed in proptest::collection::btree_set(1_u128..3_000, 0..5),
        ) {
            let here: Vec<Entry> = ours.iter().map(|(number, value)| row(*number, *value)).collect();
            let mut theirs = ours.clone();
            for number in &changed {
                if theirs.remove(number).is_none() {
                    theirs.insert(*number, 5_000);
                }
            }
            let there: Vec<Entry> = theirs.iter().map(|(number, value)| row(*number, *value)).collect();
            let expected: Vec<RecordId> = changed.into_iter().map(id).collect();
            prop_assert_eq!(search(&here, &there).0, expected);
        }
    }
}
