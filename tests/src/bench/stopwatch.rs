//! Time as the benchmarks measure it: the one place that looks at the monotonic clock.

use std::time::{Duration, Instant};

/// The moment.
#[expect(clippy::disallowed_methods, reason = "benchmarks measure real time")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Seconds since a moment.
pub(super) fn seconds_since(start: Instant) -> f64 {
    now().duration_since(start).as_secs_f64()
}

/// A limit in time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    end: Instant,
    within: Duration,
}

impl Deadline {
    /// Ends so long from now.
    pub(super) fn within(within: Duration) -> Self {
        Self { end: now() + within, within }
    }

    /// An error that names `what` once the time is over.
    pub(super) fn check(&self, what: &str) -> anyhow::Result<()> {
        anyhow::ensure!(now() < self.end, "{what} took more than {} s", self.within.as_secs());
        Ok(())
    }
}

/// The value below which `percent` of the others lie (nearest rank), in milliseconds.
pub(super) fn percentile_ms(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map_or(0.0, |it| it.as_secs_f64() * 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!([50, 99, 100].map(|percent| percentile_ms(&sorted, percent).to_string()), ["100", "198", "200"]);
        assert_eq!(percentile_ms(&sorted[..1], 99).to_string(), "1");
    }
}
