//! A shared record with its stamps: what is stored beside the row, and what a snapshot carries.

use bincode::{Decode, Encode};

use crate::hlc::Hlc;
use crate::ids::{DeviceId, FieldNo};
use crate::value::{Fields, Value};

/// For each origin the time of the newest of its writes that was known: a version vector, nearly always of one entry.
#[derive(Clone, Debug, Default, Eq, PartialEq, Encode)]
pub struct Seen(Vec<(DeviceId, u64)>);

impl<C> Decode<C> for Seen {
    fn decode<D: bincode::de::Decoder<Context = C>>(decoder: &mut D) -> Result<Self, bincode::error::DecodeError> {
        let seen: Vec<(DeviceId, u64)> = Decode::decode(decoder)?;
        if seen.is_sorted_by(|a, b| a.0 < b.0) {
            Ok(Self(seen))
        } else {
            Err(bincode::error::DecodeError::Other("a version vector is not in ascending order"))
        }
    }
}

bincode::impl_borrow_decode!(Seen);

impl Seen {
    /// Nothing seen.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Whether the write with this stamp was known.
    #[must_use]
    pub fn covers(&self, hlc: Hlc) -> bool {
        self.0.iter().any(|(device, time)| *device == hlc.device && *time >= hlc.time)
    }

    /// Adds a write and, with it, all older ones of its origin.
    pub fn add(&mut self, hlc: Hlc) {
        match self.0.binary_search_by_key(&hlc.device, |(device, _)| *device) {
            Ok(at) => self.0[at].1 = self.0[at].1.max(hlc.time),
            Err(at) => self.0.insert(at, (hlc.device, hlc.time)),
        }
    }

    /// Adds all that `other` has seen.
    pub fn join(&mut self, other: &Self) {
        for (device, time) in &other.0 {
            self.add(Hlc { time: *time, device: *device });
        }
    }

    /// What was seen up to a time: who writes then has seen nothing that is later.
    #[must_use]
    pub fn until(mut self, time: u64) -> Self {
        self.0.retain(|(_, seen)| *seen <= time);
        self
    }

    /// How many origins were seen.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was seen, by origin; for a check of times that a peer sent.
    pub fn iter(&self) -> impl Iterator<Item = Hlc> {
        self.0.iter().map(|(device, time)| Hlc { time: *time, device: *device })
    }
}

/// What is kept beside one field's value.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Stamp {
    /// The write whose value the field shows.
    pub hlc: Hlc,
    /// The join of what all merged writes of this field had seen.
    pub seen: Seen,
    /// Lower writes that no other write had seen, by stamp ascending.
    pub losers: Vec<(Hlc, Value)>,
}

impl Stamp {
    /// Leaves of the losers those that count: lower than the winner, seen by no other write, one of each device.
    pub fn settle(&mut self) {
        let (winner, seen) = (self.hlc, &self.seen);
        let mut losers = std::mem::take(&mut self.losers);
        losers.retain(|(hlc, _)| *hlc != winner && !seen.covers(*hlc));
        losers.sort_by_key(|(hlc, value)| (*hlc, std::cmp::Reverse(value.rank())));
        losers.dedup_by_key(|(hlc, _)| *hlc);
        // A device has seen its own earlier writes, whether it says so or not: one loser of each is enough, and a bound.
        let newest = |hlc: Hlc| {
            losers
                .iter()
                .map(|(other, _)| *other)
                .chain([winner])
                .all(|other| other.device != hlc.device || other <= hlc)
        };
        self.losers = losers.iter().filter(|(hlc, _)| newest(*hlc)).cloned().collect();
    }
}

/// A record's newest delete.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Deletion {
    /// When, and by whom.
    pub hlc: Hlc,
    /// Which writes of the record those who deleted it knew.
    pub seen: Seen,
}

/// Everything that is kept of a shared record besides its values.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Stamps {
    /// The life that the fields belong to: the stamp of the delete that was undone, none at first.
    pub life: Option<Hlc>,
    /// The newest delete.
    pub deleted: Option<Deletion>,
    /// The newest restore.
    pub restored: Option<Hlc>,
    /// One stamp per field that was ever written in this life, ascending by field.
    pub fields: Vec<(FieldNo, Stamp)>,
}

impl Stamps {
    /// Whether the record is there for people: never deleted, or restored after it.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.deleted.as_ref().is_none_or(|deleted| self.restored > Some(deleted.hlc))
    }

    /// The stamp of one field.
    #[must_use]
    pub fn field(&self, field: FieldNo) -> Option<&Stamp> {
        self.fields.binary_search_by_key(&field, |(no, _)| *no).ok().map(|at| &self.fields[at].1)
    }

    /// Every write that this record knows of, as one version vector.
    #[must_use]
    pub fn known(&self) -> Seen {
        let mut known = Seen::new();
        for (_, stamp) in &self.fields {
            known.join(&stamp.seen);
            known.add(stamp.hlc);
            for (hlc, _) in &stamp.losers {
                known.add(*hlc);
            }
        }
        known
    }
}

/// A shared record: winning values and the stamps they won by.
///
/// Such records form a join semilattice: see `starling::proto::merge`.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct SharedRecord {
    /// The winning value of every field that has a stamp.
    pub fields: Fields,
    /// Their stamps, and whether the record is alive.
    pub stamps: Stamps,
}
