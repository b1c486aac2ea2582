//! When what is left of deleted shared records may go: once no member can still say anything about them that was
//! written before it knew of the delete.

use starling_schema::ids::{ModelId, RecordId};
use starling_schema::stream::Watermarks;

/// How long a deleted record can be restored, in milliseconds: 30 days, as long as most bins are kept.
pub const UNDELETE_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

/// The most records of one round: a transaction of some ten milliseconds.
pub const BATCH_MAX: usize = 256;

/// A record that was found deleted long ago.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Remains {
    /// Of which model.
    pub model: ModelId,
    /// Which.
    pub record: RecordId,
    /// When its newest delete was made, in milliseconds since 1970: one that is restored and deleted again meanwhile is
    /// not that old.
    pub deleted_at_ms: u64,
}

/// How far the members durably are, silent ones too.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Coverage {
    /// What every one of them has.
    pub all: Watermarks,
    /// What any of them has.
    pub any: Watermarks,
}

/// Deleted records on their way out.
///
/// A round waits twice. First until every member has the deletes; what each has written by then, not knowing of them,
/// is within what it says that it has. Then until every member has that too: after this, nothing older than a delete
/// can come from a member.
#[derive(Clone, Debug, Default)]
pub struct PurgeRound {
    waiting: Option<Waiting>,
}

#[derive(Clone, Debug)]
struct Waiting {
    records: Vec<Remains>,
    until: Watermarks,
    all_know: bool,
}

impl PurgeRound {
    /// Whether a round can begin.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_none()
    }

    /// Begins a round with records that were found deleted long ago, after which `coverage` was asked for.
    pub fn begin(&mut self, records: Vec<Remains>, coverage: Coverage) {
        if !records.is_empty() {
            self.waiting = Some(Waiting { records, until: coverage.any, all_know: false });
        }
    }

    /// The members moved: gives the records that may go now.
    pub fn moved(&mut self, coverage: Coverage) -> Vec<Remains> {
        // Who said so is no member any more, and nobody else ever had it: the next round asks anew.
        if self.waiting.as_ref().is_some_and(|waiting| !coverage.any.covers(&waiting.until)) {
            self.waiting = None;
        }
        let Some(waiting) = self.waiting.as_mut().filter(|waiting| coverage.all.covers(&waiting.until)) else {
            return Vec::new();
        };
        if waiting.all_know {
            return self.waiting.take().map(|waiting| waiting.records).unwrap_or_default();
        }
        waiting.all_know = true;
        waiting.until = coverage.any;
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use starling_schema::ids::DeviceId;
    use starling_schema::stream::Stream;
    use uuid::Uuid;

    use super::*;

    fn stream(device: u128) -> Stream {
        Stream::shared(DeviceId(Uuid::from_u128(device)))
    }

    fn coverage(all: &[(u128, u64)], any: &[(u128, u64)]) -> Coverage {
        let of = |marks: &[(u128, u64)]| marks.iter().map(|(device, through)| (stream(*device), *through)).collect();
        Coverage { all: of(all), any: of(any) }
    }

    fn record() -> Remains {
        Remains { model: 5, record: RecordId::MIN, deleted_at_ms: 7 }
    }

    #[test]
    fn nothing_goes_while_a_member_lacks_the_delete() {
        let mut round = PurgeRound::default();
        round.begin(vec![record()], coverage(&[(1, 3)], &[(1, 9)]));
        for through in 3..9 {
            assert_eq!(round.moved(coverage(&[(1, through)], &[(1, 9)])), []);
        }
        assert!(!round.is_idle());
    }

    #[test]
    fn what_a_member_wrote_before_it_knew_is_waited_for_by_all() {
        let mut round = PurgeRound::default();
        round.begin(vec![record()], coverage(&[(1, 9)], &[(1, 9)]));
        assert_eq!(round.moved(coverage(&[(1, 9), (2, 4)], &[(1, 9), (2, 5)])), []);
        assert_eq!(round.moved(coverage(&[(1, 9), (2, 4)], &[(1, 9), (2, 6)])), []);
        assert_eq!(round.moved(coverage(&[(1, 9), (2, 5)], &[(1, 9), (2, 6)])), [record()]);
        assert!(round.is_idle());
    }

    #[test]
    fn what_only_a_removed_member_had_is_not_waited_for() {
        let mut round = PurgeRound::default();
        round.begin(vec![record()], coverage(&[(1, 3)], &[(1, 9)]));
        assert_eq!(round.moved(coverage(&[(1, 3)], &[(1, 7)])), []);
        assert!(round.is_idle());
    }

    #[test]
    fn a_round_without_records_is_none() {
        let mut round = PurgeRound::default();
        round.begin(Vec::new(), coverage(&[], &[]));
        assert!(round.is_idle());
        assert_eq!(round.moved(coverage(&[], &[])), []);
    }
}
