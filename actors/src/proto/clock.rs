//! A hybrid logical clock (Kulkarni et al., 2014), with wall time as an argument.

use starling_schema::hlc::Hlc;
use starling_schema::ids::DeviceId;

use crate::planted::{self, Bug};

/// How far ahead of wall time a peer's stamp may be: clocks that are set by hand are rarely further off, and a device
/// that follows one for five minutes still shows times that people recognise.
pub const DRIFT_MS_MAX: u64 = 5 * 60 * 1000;

/// Issues timestamps that never go backwards, whatever the wall clock does.
///
/// Invariant: `last` is at least every stamp that was issued or observed.
#[derive(Clone, Debug)]
pub struct HlcClock {
    last: Hlc,
}

/// Why a peer's stamp was refused. The clock is left as it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ClockError {
    /// Following this stamp would drag our clock too far from wall time.
    #[error("{device} is {ahead_ms} ms ahead, over the {DRIFT_MS_MAX} ms that we follow")]
    Drift {
        /// Who issued the stamp.
        device: DeviceId,
        /// How far the stamp is ahead of our wall time.
        ahead_ms: u64,
    },
}

impl HlcClock {
    /// A clock that goes on after `last_time`: the time of the last stamp that was stored, 0 on a new device.
    #[must_use]
    pub fn new(device: DeviceId, last_time: u64) -> Self {
        Self { last: Hlc { time: last_time, device } }
    }

    /// Stamps a local change: above every stamp issued or observed so far. When the wall clock stands still or goes
    /// back the counter rises, and carries into the milliseconds when it is full.
    ///
    /// # Panics
    /// When 64 bits of time are used up, in the year 10889.
    pub fn tick(&mut self, wall_ms: u64) -> Hlc {
        let successor = Hlc { time: self.last.time.saturating_add(1), device: self.last.device };
        let next = successor.max(Hlc::at(wall_ms, self.last.device));
        assert!(self.last < next, "64 bits of time are used up");
        self.last = next;
        next
    }

    /// Moves past a stamp of a peer, so that the next local change is newer than what was seen.
    ///
    /// # Errors
    /// [`ClockError::Drift`] when the stamp is more than [`DRIFT_MS_MAX`] ahead of wall time.
    pub fn observe(&mut self, remote: Hlc, wall_ms: u64) -> Result<(), ClockError> {
        if !is_within_drift(remote, wall_ms) {
            let ahead_ms = remote.wall_ms().saturating_sub(wall_ms);
            return Err(ClockError::Drift { device: remote.device, ahead_ms });
        }
        self.last.time = self.last.time.max(remote.time);
        Ok(())
    }

    /// The highest stamp issued or observed, as a stamp of this device.
    #[must_use]
    pub fn last(&self) -> Hlc {
        self.last
    }

    /// How far the clock is ahead of wall time: after the wall clock was corrected backwards, or of a fast peer's doing.
    #[must_use]
    pub fn ahead_ms(&self, wall_ms: u64) -> u64 {
        self.last.wall_ms().saturating_sub(wall_ms)
    }
}

/// Whether a stamp is at most [`DRIFT_MS_MAX`] ahead of wall time; a stamp in the past always is.
#[must_use]
pub fn is_within_drift(hlc: Hlc, wall_ms: u64) -> bool {
    wall_ms >= when_within_drift(hlc) || planted::is(Bug::DriftIgnored)
}

/// The wall time in milliseconds since 1970 from which on a stamp is accepted.
#[must_use]
pub fn when_within_drift(hlc: Hlc) -> u64 {
    hlc.wall_ms().saturating_sub(DRIFT_MS_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use starling_schema::hlc::COUNTER_BITS;
    use uuid::Uuid;

    use super::*;

    fn device(n: u128) -> DeviceId {
        DeviceId(Uuid::from_u128(n))
    }

    #[test]
    fn stamps_of_one_millisecond_differ_by_the_counter() {
        let mut clock = HlcClock::new(device(1), 0);
        assert_eq!(clock.tick(7).time, 7 << COUNTER_BITS);
        assert_eq!(clock.tick(7).time, (7 << COUNTER_BITS) + 1);
    }

    #[test]
    fn a_wall_clock_set_back_does_not_take_the_stamps_back() {
        let mut clock = HlcClock::new(device(1), 0);
        let before = clock.tick(1_000_000);
        assert_eq!(clock.tick(5), Hlc { time: before.time + 1, ..before });
        assert_eq!(clock.ahead_ms(5), 999_995);
    }

    #[test]
    fn a_full_counter_carries_into_the_milliseconds() {
        let full = Hlc::at(8, device(1)).time - 1;
        assert_eq!(HlcClock::new(device(1), full).tick(7), Hlc::at(8, device(1)));
    }

    #[test]
    fn a_restored_clock_goes_on_above_the_last_stamp_stored() {
        let last = HlcClock::new(device(1), 0).tick(1_000);
        assert!(HlcClock::new(device(1), last.time).tick(0) > last);
    }

    #[test]
    fn the_next_stamp_is_above_an_observed_one_whoever_has_the_higher_id() {
        let remote = Hlc::at(1_000 + DRIFT_MS_MAX, device(9));
        let mut clock = HlcClock::new(device(1), 0);
        assert_eq!(clock.observe(remote, 1_000), Ok(()));
        assert!(clock.tick(1_000) > remote);
        assert_eq!(clock.last().device, device(1));
    }

    #[test]
    fn a_stamp_beyond_the_drift_names_its_device_and_leaves_the_clock() {
        let mut clock = HlcClock::new(device(1), 0);
        let last = clock.tick(1_000);
        let ahead_ms = DRIFT_MS_MAX + 1;
        let refused = clock.observe(Hlc::at(1_000 + ahead_ms, device(2)), 1_000);
        assert_eq!(refused, Err(ClockError::Drift { device: device(2), ahead_ms }));
        assert_eq!(clock.last(), last);
    }

    #[test]
    fn a_parked_stamp_is_accepted_exactly_when_it_was_foretold() {
        let stamp = Hlc::at(10_000_000, device(2));
        let when = when_within_drift(stamp);
        assert_eq!(when, 10_000_000 - DRIFT_MS_MAX);
        assert!(is_within_drift(stamp, when));
        assert!(!is_within_drift(stamp, when - 1));
    }

    proptest! {
        #[test]
        fn stamps_rise_whatever_walls_and_peers_do(
            steps in prop::collection::vec((any::<bool>(), 0..1_u64 << 40, 0..1_u64 << 58), 1..60),
        ) {
            let mut clock = HlcClock::new(device(1), 0);
            let mut above = Hlc::MIN;
            for (is_tick, wall_ms, time) in steps {
                if is_tick {
                    let stamp = clock.tick(wall_ms);
                    prop_assert!(stamp > above);
                    above = stamp;
                } else {
                    let remote = Hlc { time, device: device(2) };
                    let before = clock.last();
                    if let Ok(()) = clock.observe(remote, wall_ms) { above = above.max(remote) } else { prop_assert_eq!(clock.last(), before) }
                }
            }
        }
    }
}
