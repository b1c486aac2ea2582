//! The clock: a device's stamps rise with its numbers, whatever its wall clock does and however often it restarts, and
//! each is higher than every stamp that the device had applied.
//!
//! Not verified here: what those who park a stamp from far in the future hold (`agreement` sees that), and writes of a
//! device that has parked items of a snapshot: its watermarks stand for them, and its clock does not follow them.

use std::collections::BTreeMap;

use starling::proto::clock::DRIFT_MS_MAX;
use starling_schema::change::SharedChange;
use starling_schema::hlc::Hlc;
use starling_schema::ids::DeviceId;
use starling_schema::stream::{Stream, Watermarks};

use super::Violation;

/// Every stamp by origin and number.
#[derive(Clone, Debug, Default)]
pub struct StampCheck {
    stamps: BTreeMap<DeviceId, BTreeMap<u64, Hlc>>,
}

impl StampCheck {
    /// Judges what a device wrote, having had applied this much before.
    ///
    /// # Errors
    /// When a stamp is not higher than one before it, or than one that was applied.
    pub fn wrote(&mut self, changes: &[SharedChange], applied: Option<&Watermarks>) -> Result<(), Violation> {
        for change in changes {
            let stamps = self.stamps.entry(change.hlc.device).or_default();
            let [before, after] = [
                stamps.range(..change.seq).next_back().map(|(_, hlc)| *hlc),
                stamps.range(change.seq + 1..).next().map(|(_, hlc)| *hlc),
            ];
            if before.is_some_and(|before| before >= change.hlc) || after.is_some_and(|after| after <= change.hlc) {
                let detail = format!("{} of number {} between {before:?} and {after:?}", change.hlc, change.seq);
                return Err(Violation::new("clock", detail));
            }
            stamps.insert(change.seq, change.hlc);
        }
        match (changes.iter().map(|change| change.hlc).min(), applied) {
            (Some(first), Some(applied)) => self.follows(first, applied),
            _ => Ok(()),
        }
    }

    fn follows(&self, first: Hlc, applied: &Watermarks) -> Result<(), Violation> {
        for (origin, stamps) in self.stamps.iter().filter(|(origin, _)| **origin != first.device) {
            let through = applied.get(Stream::shared(*origin));
            let newest = stamps.range(..=through).next_back().map(|(_, hlc)| *hlc);
            if newest.is_some_and(|newest| newest >= first) {
                let detail = format!("{first} was written after {newest:?} of {origin} had been applied");
                return Err(Violation::new("clock", detail));
            }
        }
        Ok(())
    }
}

/// Judges what a device wrote by the latest that its own wall clock ever showed: no peer drags a clock further ahead
/// than the drift that is followed.
///
/// # Errors
/// When a stamp is further ahead.
pub fn not_dragged(changes: &[SharedChange], latest_wall_ms: u64) -> Result<(), Violation> {
    // The stamp after the last one that is followed may carry into the next millisecond.
    let bound_ms = latest_wall_ms + DRIFT_MS_MAX + 1;
    match changes.iter().find(|change| change.hlc.wall_ms() > bound_ms) {
        None => Ok(()),
        Some(change) => {
            let ahead_ms = change.hlc.wall_ms() - latest_wall_ms;
            let detail = format!("{} is {ahead_ms} ms ahead of all that its device's clock ever showed", change.hlc);
            Err(Violation::new("clock", detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const A: DeviceId = DeviceId(Uuid::from_u128(1));
    const B: DeviceId = DeviceId(Uuid::from_u128(2));

    fn change(device: DeviceId, seq: u64, time: u64) -> SharedChange {
        let op = starling_schema::change::Op::Delete { seen: starling_schema::record::Seen::new() };
        let record = starling_schema::ids::RecordId(Uuid::from_u128(9));
        SharedChange { seq, hlc: Hlc { time, device }, model: 5, record, op, ends_commit: true }
    }

    #[test]
    fn a_stamp_that_does_not_rise_is_found() {
        let mut check = StampCheck::default();
        check.wrote(&[change(A, 1, 10), change(A, 2, 11)], None).unwrap();
        assert_eq!(check.clone().wrote(&[change(A, 3, 11)], None).unwrap_err().checker, "clock");
        check.wrote(&[change(A, 3, 12)], None).unwrap();
    }

    #[test]
    fn a_clock_that_was_dragged_too_far_is_found() {
        let at = |wall_ms| [SharedChange { hlc: Hlc::at(wall_ms, A), ..change(A, 1, 0) }];
        not_dragged(&at(10_000 + DRIFT_MS_MAX), 10_000).unwrap();
        assert_eq!(not_dragged(&at(10_002 + DRIFT_MS_MAX), 10_000).unwrap_err().checker, "clock");
    }

    #[test]
    fn a_stamp_below_one_that_was_applied_is_found() {
        let mut check = StampCheck::default();
        check.wrote(&[change(B, 1, 50), change(B, 2, 60)], None).unwrap();
        let applied = |through| Watermarks::from_iter([(Stream::shared(B), through)]);
        check.clone().wrote(&[change(A, 1, 55)], Some(&applied(1))).unwrap();
        assert_eq!(check.wrote(&[change(A, 1, 55)], Some(&applied(2))).unwrap_err().checker, "clock");
    }
}
