//! The clock: a device's stamps rise with its numbers, whatever its wall clock does and however often it restarts, and
//! each is higher than every stamp that the device had applied.
//!
//! Not verified here: what a stamp far in the future does to others (`agreement` sees what they hold).

use std::collections::BTreeMap;

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
