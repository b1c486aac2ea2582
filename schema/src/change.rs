//! Changes: what a program asks for, what a stream carries, and the batches that travel.

use bincode::{Decode, Encode};

use crate::hlc::Hlc;
use crate::ids::{FieldNo, ModelId, RecordId};
use crate::record::{Deletion, Seen, SharedRecord, Stamp, Stamps};
use crate::stream::Stream;
use crate::value::{FIELDS_MAX, Fields, VALUE_BYTES_MAX, Value};

/// The most changes of shared data in one commit: a reader never sees half a commit, so a page must hold one whole.
pub const COMMIT_CHANGES_MAX: usize = 1_000;

/// The most bytes of shared data in one commit: a quarter of a page on the wire, for the same reason.
pub const COMMIT_BYTES_MAX: usize = 1024 * 1024;

/// The largest log entry: it must fit a gossip message (64 KiB) with its envelope.
pub const ENTRY_BYTES_MAX: usize = 48 * 1024;

/// The most bytes of values in one device-owned row: as many fields as a record may have, each as large as it may be.
pub const ROW_BYTES_MAX: usize = FIELDS_MAX * VALUE_BYTES_MAX;

/// What a program wants done to one record.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// The kind of record.
    pub model: ModelId,
    /// Which one.
    pub record: RecordId,
    /// What to do.
    pub action: Action,
}

/// What can be done to a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Device-owned: the record is exactly these fields. Shared: these fields get these values, the others stay.
    /// Either way a record that is not there is created.
    Put(Fields),
    /// These fields get these values; a record that is not there is left alone.
    Patch(Fields),
    /// The record goes.
    Delete,
    /// A deleted shared record comes back with the fields it had.
    Restore,
}

impl Write {
    /// Create the record or set its fields.
    #[must_use]
    pub fn put(model: ModelId, record: RecordId, fields: Fields) -> Self {
        Self { model, record, action: Action::Put(fields) }
    }

    /// Change some fields of a record that is there.
    #[must_use]
    pub fn patch(model: ModelId, record: RecordId, fields: Fields) -> Self {
        Self { model, record, action: Action::Patch(fields) }
    }

    /// Delete the record.
    #[must_use]
    pub fn delete(model: ModelId, record: RecordId) -> Self {
        Self { model, record, action: Action::Delete }
    }

    /// Bring a deleted shared record back.
    #[must_use]
    pub fn restore(model: ModelId, record: RecordId) -> Self {
        Self { model, record, action: Action::Restore }
    }
}

/// One device-owned record at the owner's version, or what is left of it.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct StateRow {
    /// Its number in the owner's state stream.
    pub version: u64,
    /// The kind of record.
    pub model: ModelId,
    /// Which one.
    pub record: RecordId,
    /// The whole row; none is a tombstone.
    pub fields: Option<Fields>,
}

/// One entry of an origin's shared log.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct SharedChange {
    /// Its number in the origin's shared stream.
    pub seq: u64,
    /// Its stamp; the stamp's device is the origin.
    pub hlc: Hlc,
    /// The kind of record.
    pub model: ModelId,
    /// Which one.
    pub record: RecordId,
    /// What was done.
    pub op: Op,
    /// Whether the commit that it was part of ends here. Pages end on such entries only.
    pub ends_commit: bool,
}

/// A field's new value and the writes of that field that its author knew.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct FieldWrite {
    /// Which field.
    pub field: FieldNo,
    /// Its new value.
    pub value: Value,
    /// For every origin that ever wrote the field, the newest of its writes that the author had seen.
    pub seen: Seen,
}

/// What one log entry does to its record.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Op {
    /// Fields get values, in the life that the author saw.
    Set {
        /// The record's life as the author knew it.
        life: Option<Hlc>,
        /// The fields that change.
        fields: Vec<FieldWrite>,
    },
    /// The record goes.
    Delete {
        /// The writes of this record that the author knew: what it did not know is reported as a conflict.
        seen: Seen,
    },
    /// A life starts (or a record with a derived id is made), with all it holds.
    Restore {
        /// The newest delete that the author knew.
        life: Option<Hlc>,
        /// The record's values.
        fields: Fields,
        /// Their stamps.
        stamps: Vec<(FieldNo, Stamp)>,
    },
}

impl Op {
    /// The smallest record state that holds this change: applying the change is joining it. Whatever its author wrote, it
    /// knew nothing that is later than the change.
    #[must_use]
    pub fn into_delta(self, hlc: Hlc) -> SharedRecord {
        let known = |life: Option<Hlc>| life.filter(|life| *life < hlc);
        match self {
            Self::Set { life, fields } => {
                let life = known(life);
                let mut delta =
                    SharedRecord { stamps: Stamps { life, ..Stamps::default() }, ..SharedRecord::default() };
                let mut fields = fields;
                fields.sort_by_key(|write| write.field);
                fields.dedup_by_key(|write| write.field);
                for FieldWrite { field, value, seen } in fields {
                    delta.fields.set(field, value.settled());
                    let seen = seen.until(hlc.time);
                    delta.stamps.fields.push((field, Stamp { hlc, seen, losers: Vec::new() }));
                }
                delta
            }
            Self::Delete { seen } => SharedRecord {
                stamps: Stamps { deleted: Some(Deletion { hlc, seen: seen.until(hlc.time) }), ..Stamps::default() },
                ..SharedRecord::default()
            },
            Self::Restore { life, fields, mut stamps } => {
                // Whatever its author wrote: one stamp a field, none later than the restore itself.
                stamps.retain(|(field, stamp)| stamp.hlc <= hlc && fields.get(*field).is_some());
                stamps.sort_by_key(|(field, _)| *field);
                stamps.dedup_by_key(|(field, _)| *field);
                for (_, stamp) in &mut stamps {
                    stamp.losers.retain(|(loser, _)| *loser < stamp.hlc);
                    stamp
                        .losers
                        .iter_mut()
                        .for_each(|(_, value)| *value = std::mem::replace(value, Value::Null).settled());
                    stamp.seen = std::mem::take(&mut stamp.seen).until(hlc.time);
                    stamp.settle();
                }
                let stamped = |field| stamps.binary_search_by_key(&field, |(no, _)| *no).is_ok();
                let fields = fields.into_iter().filter(|(field, _)| stamped(*field));
                let fields = fields.map(|(field, value)| (field, value.settled())).collect();
                SharedRecord {
                    fields,
                    stamps: Stamps { life: known(life), restored: Some(hlc), fields: stamps, ..Stamps::default() },
                }
            }
        }
    }
}

/// A shared record as a snapshot carries it.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct SharedItem {
    /// The kind of record.
    pub model: ModelId,
    /// Which one.
    pub record: RecordId,
    /// All that is known of it.
    pub state: SharedRecord,
}

/// What a stream holds between two numbers, complete: for a state stream the rows and tombstones whose version lies
/// there, for a shared stream every entry.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Batch {
    /// Whose changes, of which kind.
    pub stream: Stream,
    /// The number before the first that this batch speaks for.
    pub after: u64,
    /// The last number that this batch speaks for.
    pub through: u64,
    /// The changes, ascending.
    pub items: Items,
}

/// The content of a [`Batch`].
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Items {
    /// Rows and tombstones.
    State(Vec<StateRow>),
    /// Log entries.
    Shared(Vec<SharedChange>),
}

impl Items {
    /// How many changes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::State(rows) => rows.len(),
            Self::Shared(changes) => changes.len(),
        }
    }

    /// Whether there is none: of a state stream, a hole that later versions left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a batch cannot be what it says it is. Nothing of it was applied.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MalformedBatch {
    /// `after` is not below `through`, or `through` is no number that a stream reaches.
    #[error("a batch of {stream} claims the impossible range ({after}, {through}]")]
    Range {
        /// The stream it names.
        stream: Stream,
        /// Its lower bound.
        after: u64,
        /// Its upper bound.
        through: u64,
    },
    /// The items are of the other kind than the stream.
    #[error("a batch of {stream} holds items of the other kind")]
    Kind {
        /// The stream it names.
        stream: Stream,
    },
    /// An item is larger than any that a device may make.
    #[error("a batch of {stream} holds item {number}, which is larger than an item may be")]
    TooLarge {
        /// The stream it names.
        stream: Stream,
        /// The number of the offending item.
        number: u64,
    },
    /// An item lies outside the range, out of order, is missing, or is stamped by another device.
    #[error("a batch of {stream} holds item {number} where it does not belong")]
    Item {
        /// The stream it names.
        stream: Stream,
        /// The number of the offending item.
        number: u64,
    },
}

impl Batch {
    /// Checks what must hold of any batch, whoever made it.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn check(&self) -> Result<(), MalformedBatch> {
        let Self { stream, after, through, ref items } = *self;
        // Beyond 2^63 no number can be stored.
        if after >= through || i64::try_from(through).is_err() {
            return Err(MalformedBatch::Range { stream, after, through });
        }
        match items {
            Items::State(rows) if stream.kind == crate::stream::StreamKind::State => {
                let mut last = after;
                for row in rows {
                    if row.version <= last || row.version > through {
                        return Err(MalformedBatch::Item { stream, number: row.version });
                    }
                    if row.fields.iter().flat_map(Fields::iter).map(|(_, value)| value.len()).sum::<usize>()
                        > ROW_BYTES_MAX
                    {
                        return Err(MalformedBatch::TooLarge { stream, number: row.version });
                    }
                    last = row.version;
                }
                Ok(())
            }
            Items::Shared(changes) if stream.kind == crate::stream::StreamKind::Shared => {
                let mut expected = after;
                for change in changes {
                    expected += 1;
                    if change.seq != expected || change.hlc.device != stream.origin {
                        return Err(MalformedBatch::Item { stream, number: change.seq });
                    }
                    if crate::codec::encode(change, ENTRY_BYTES_MAX).is_err() {
                        return Err(MalformedBatch::TooLarge { stream, number: change.seq });
                    }
                }
                if expected == through { Ok(()) } else { Err(MalformedBatch::Item { stream, number: expected + 1 }) }
            }
            _ => Err(MalformedBatch::Kind { stream }),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ids::DeviceId;

    fn stream() -> Stream {
        Stream::shared(DeviceId(Uuid::from_u128(7)))
    }

    fn change(seq: u64) -> SharedChange {
        SharedChange {
            seq,
            hlc: Hlc { time: seq, device: stream().origin },
            model: 5,
            record: RecordId(Uuid::from_u128(1)),
            op: Op::Delete { seen: Seen::new() },
            ends_commit: true,
        }
    }

    fn batch(after: u64, through: u64, seqs: &[u64]) -> Batch {
        Batch { stream: stream(), after, through, items: Items::Shared(seqs.iter().copied().map(change).collect()) }
    }

    #[test]
    fn a_shared_batch_holds_exactly_the_numbers_it_claims() {
        assert_eq!(batch(2, 4, &[3, 4]).check(), Ok(()));
        assert_eq!(batch(2, 400, &[]).check(), Err(MalformedBatch::Item { stream: stream(), number: 3 }));
        for wrong in [batch(2, 4, &[3]), batch(2, 4, &[4, 3]), batch(2, 4, &[3, 4, 5]), batch(2, 4, &[2, 3, 4])] {
            assert!(matches!(wrong.check(), Err(MalformedBatch::Item { .. })), "{wrong:?}");
        }
        for wrong in [batch(4, 4, &[]), batch(5, 4, &[]), batch(1, u64::MAX, &[])] {
            assert!(matches!(wrong.check(), Err(MalformedBatch::Range { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn an_entry_stamped_by_another_device_is_out_of_place() {
        let mut forged = batch(0, 1, &[1]);
        if let Items::Shared(changes) = &mut forged.items {
            changes[0].hlc.device = DeviceId(Uuid::from_u128(8));
        }
        assert_eq!(forged.check(), Err(MalformedBatch::Item { stream: stream(), number: 1 }));
    }

    #[test]
    fn a_state_batch_may_have_holes_but_no_disorder() {
        let row = |version| StateRow { version, model: 4, record: RecordId(Uuid::from_u128(1)), fields: None };
        let of = |versions: &[u64]| Batch {
            stream: Stream::state(DeviceId(Uuid::from_u128(7))),
            after: 2,
            through: 9,
            items: Items::State(versions.iter().copied().map(row).collect()),
        };
        assert_eq!(of(&[3, 7]).check(), Ok(()));
        for wrong in [of(&[2]), of(&[10]), of(&[5, 5]), of(&[6, 5])] {
            assert!(matches!(wrong.check(), Err(MalformedBatch::Item { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn an_item_that_no_device_may_make_is_refused_with_its_number() {
        let text = |bytes: usize| Value::from("x".repeat(bytes));
        let write = |bytes| FieldWrite { field: 1, value: text(bytes), seen: Seen::new() };
        let entry = |bytes| SharedChange { op: Op::Set { life: None, fields: vec![write(bytes)] }, ..change(1) };
        let shared = |bytes| Batch { items: Items::Shared(vec![entry(bytes)]), ..batch(0, 1, &[]) };
        assert_eq!(shared(VALUE_BYTES_MAX).check(), Ok(()));
        assert_eq!(shared(ENTRY_BYTES_MAX).check(), Err(MalformedBatch::TooLarge { stream: stream(), number: 1 }));
        let (owner, record) = (Stream::state(stream().origin), RecordId(Uuid::from_u128(1)));
        let row = |bytes| StateRow { version: 1, model: 4, record, fields: Some(Fields::new().with(1, text(bytes))) };
        let state = |bytes| Batch { stream: owner, after: 0, through: 1, items: Items::State(vec![row(bytes)]) };
        assert_eq!(state(ROW_BYTES_MAX).check(), Ok(()));
        assert_eq!(state(ROW_BYTES_MAX + 1).check(), Err(MalformedBatch::TooLarge { stream: owner, number: 1 }));
    }

    #[test]
    fn a_batch_of_one_kind_cannot_hold_items_of_the_other() {
        let wrong = Batch { stream: stream(), after: 0, through: 1, items: Items::State(Vec::new()) };
        assert_eq!(wrong.check(), Err(MalformedBatch::Kind { stream: stream() }));
    }

    #[test]
    fn a_change_knows_nothing_later_than_itself_and_its_losers_are_each_other_writes() {
        let hlc = |time| Hlc { time, device: stream().origin };
        let of = |time, device| Hlc { time, device: DeviceId(Uuid::from_u128(device)) };
        let seen: Seen = [of(5, 1), of(99, 2)].into_iter().fold(Seen::new(), |mut seen, hlc| {
            seen.add(hlc);
            seen
        });
        let until_ten: Vec<Hlc> = vec![of(5, 1)];
        let write = FieldWrite { field: 1, value: Value::Real(-0.0), seen: seen.clone() };
        let set = Op::Set { life: Some(of(99, 1)), fields: vec![write] }.into_delta(hlc(10));
        assert_eq!((set.stamps.life, set.stamps.fields[0].1.seen.iter().collect()), (None, until_ten.clone()));
        assert!(matches!(set.fields.get(1), Some(Value::Real(zero)) if zero.is_sign_positive()));
        let deleted = Op::Delete { seen: seen.clone() }.into_delta(hlc(10)).stamps.deleted.unwrap();
        assert_eq!(deleted.seen.iter().collect::<Vec<_>>(), until_ten);
        let losers = vec![
            (of(6, 3), Value::Int(1)),
            (of(6, 3), Value::Int(2)),
            (of(4, 1), Value::Int(3)),
            (of(7, 3), Value::Int(4)),
        ];
        let stamps = vec![(1, Stamp { hlc: hlc(9), seen, losers })];
        let restore =
            Op::Restore { life: Some(hlc(3)), fields: Fields::new().with(1, 7_i64), stamps }.into_delta(hlc(10));
        assert_eq!(restore.stamps.life, Some(hlc(3)));
        assert_eq!(restore.stamps.fields[0].1.losers, [(of(7, 3), Value::Int(4))]);
    }

    #[test]
    fn a_restore_is_brought_in_order_whatever_its_author_wrote() {
        let hlc = |time| Hlc { time, device: stream().origin };
        let stamp = |time| Stamp { hlc: hlc(time), seen: Seen::new(), losers: vec![(hlc(time + 1), Value::Null)] };
        let fields: Fields = [1, 2, 3, 4].map(|no| (no, Value::Int(i64::from(no)))).into_iter().collect();
        let stamps = vec![(3, stamp(5)), (1, stamp(5)), (1, stamp(6)), (2, stamp(u64::MAX - 1)), (9, stamp(5))];
        let delta = Op::Restore { life: None, fields, stamps }.into_delta(hlc(10));
        assert_eq!(delta.stamps.fields.iter().map(|(no, _)| *no).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(delta.fields.iter().map(|(no, _)| no).collect::<Vec<_>>(), [1, 3]);
        assert!(delta.stamps.fields.iter().all(|(_, stamp)| stamp.losers.is_empty()));
    }
}
