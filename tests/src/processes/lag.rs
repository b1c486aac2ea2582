//! How long after a commit its record shows on the others.

use std::collections::HashMap;
use std::time::Duration;

/// How many records are followed: what a plot and a percentile need, in a few megabytes.
const PROBES_MAX: usize = 20_000;

/// One record on one other device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// When its author had it acknowledged.
    pub(crate) committed: Duration,
    /// How much later it showed; nothing when it did before that.
    pub(crate) lag: Duration,
}

#[derive(Debug, Default)]
struct Probe {
    committed: Option<(usize, Duration)>,
    seen: Vec<(usize, Duration)>,
}

/// Brings together what writers and followers tell, in whatever order they do.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    probes: HashMap<String, Probe>,
}

impl Lag {
    /// A record was made and acknowledged.
    pub(crate) fn committed(&mut self, record: &str, device: usize, at: Duration) {
        if let Some(probe) = self.probe(record) {
            probe.committed = Some((device, at));
        }
    }

    /// A record shows on a device. Only the first time counts.
    pub(crate) fn seen(&mut self, record: &str, device: usize, at: Duration) {
        if let Some(probe) = self.probe(record)
            && !probe.seen.iter().any(|(seer, _)| *seer == device)
        {
            probe.seen.push((device, at));
        }
    }

    /// What is known of a record; none when enough are followed already.
    fn probe(&mut self, record: &str) -> Option<&mut Probe> {
        if !self.probes.contains_key(record) && self.probes.len() >= PROBES_MAX {
            return None;
        }
        Some(self.probes.entry(record.to_owned()).or_default())
    }

    /// All samples, in the order of the commits.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        let made = self.probes.values().filter_map(|probe| Some((probe.committed?, &probe.seen)));
        let mut samples: Vec<Sample> = made
            .flat_map(|((from, committed), seen)| {
                let others = seen.iter().filter(move |(to, _)| *to != from);
                others.map(move |(to, at)| Sample { from, to: *to, committed, lag: at.saturating_sub(committed) })
            })
            .collect();
        samples.sort_by_key(|sample| (sample.committed, sample.from, sample.to));
        samples
    }

    /// Of all records that were made, on how many other devices nobody saw them come: it was told to nobody, or in an
    /// event that names only its first records.
    pub(crate) fn unseen(&self, devices: usize) -> usize {
        let made = self.probes.values().filter(|probe| probe.committed.is_some()).count();
        (made * (devices - 1)).saturating_sub(self.samples().len())
    }
}

/// The value below which so many in a hundred lie.
pub(crate) fn percentile(sorted: &[Duration], percent: f64) -> Option<Duration> {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the number of samples is far below what a double holds exactly"
    )]
    let rank = (sorted.len() as f64 * percent / 100.0).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_record_counts_once_for_each_other_device_whatever_is_told_first() {
        let mut lag = Lag::default();
        lag.seen("r", 1, ms(90));
        lag.committed("r", 0, ms(100));
        lag.seen("r", 2, ms(130));
        lag.seen("r", 2, ms(900));
        lag.seen("r", 0, ms(100));
        lag.seen("never acknowledged", 1, ms(5));
        let sample = |to, lag| Sample { from: 0, to, committed: ms(100), lag: ms(lag) };
        assert_eq!(lag.samples(), [sample(1, 0), sample(2, 30)]);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted: Vec<Duration> = (1..=1_000).map(ms).collect();
        assert_eq!([50.0, 99.9, 100.0].map(|p| percentile(&sorted, p)), [500, 999, 1_000].map(|it| Some(ms(it))));
        assert_eq!(percentile(&[], 50.0), None);
    }
}
