//! How much memory each process holds over time, and whether that grows.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value as Json, json};

/// A life that is shorter says nothing about growth.
const LIFE_MIN: Duration = Duration::from_secs(10);

/// Caches of gossip last a minute, those of databases fill with the first some thousand writes.
const LONG_LIFE_MIN: Duration = Duration::from_mins(3);

/// The parts of a run that are compared.
const FIFTHS: usize = 5;

/// All that was seen, by device and process.
#[derive(Debug, Default)]
pub(crate) struct Memory(BTreeMap<(usize, u32), Vec<(Duration, f64)>>);

impl Memory {
    /// Looks at a process now; nothing when it is gone, or when the system does not say.
    pub(crate) fn look(&mut self, device: usize, process: u32, at: Duration) {
        if let Some(mib) = resident_mib(process) {
            self.0.entry((device, process)).or_default().push((at, mib));
        }
    }

    /// Every process with what it held when, in MiB.
    pub(crate) fn lives(&self) -> impl Iterator<Item = (usize, &[(Duration, f64)])> {
        self.0.iter().map(|((device, _), life)| (*device, life.as_slice()))
    }

    /// The life of each process that is long enough, as a report has it.
    pub(crate) fn json(&self) -> Vec<Json> {
        self.lives().filter_map(|(device, life)| Growth::of(life).map(|growth| growth.json(device))).collect()
    }

    /// How much those that lived for minutes grew by the minute in the second half of their lives, the median of them:
    /// by then all that is bounded is full.
    pub(crate) fn late_growth(&self) -> Option<f64> {
        let late = |life: &[(Duration, f64)]| {
            let ((first, _), (last, at_the_end_mib)) = (*life.first()?, *life.last()?);
            let lived = last.saturating_sub(first);
            let (half_at, at_half_mib) = *life.iter().find(|(at, _)| *at >= first + lived / 2)?;
            let minutes = last.saturating_sub(half_at).as_secs_f64() / 60.0;
            (lived >= LONG_LIFE_MIN).then_some((at_the_end_mib - at_half_mib) / minutes)
        };
        median(self.lives().filter_map(|(_, life)| late(life)).collect())
    }

    /// The most that any process held in each fifth of the run, in MiB: of a cluster whose memory grew with what it has
    /// been through, the later ones would be larger however often its processes begin anew.
    pub(crate) fn most_by_fifth(&self) -> Vec<f64> {
        let looks = || self.0.values().flatten();
        let end = looks().map(|(at, _)| *at).max().unwrap_or_default();
        let mut most = vec![0.0_f64; FIFTHS];
        for (at, mib) in looks() {
            let until = (1_u32..).zip(&mut most).find(|(fifth, _)| *at * 5 <= end * *fifth);
            if let Some((_, most)) = until {
                *most = most.max(*mib);
            }
        }
        most
    }

    /// How much the long lives grew by the minute, the median of them.
    pub(crate) fn median_growth(&self) -> Option<f64> {
        median(self.lives().filter_map(|(_, life)| Some(Growth::of(life)?.mib_per_minute)).collect())
    }
}

fn median(mut all: Vec<f64>) -> Option<f64> {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied()
}

/// What became of one process' memory.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Growth {
    lived: Duration,
    at_a_third_mib: f64,
    at_the_end_mib: f64,
    most_mib: f64,
    mib_per_minute: f64,
}

impl Growth {
    /// From a third of its life on: before that a process fills what it keeps.
    fn of(life: &[(Duration, f64)]) -> Option<Self> {
        let ((first, _), (last, at_the_end_mib)) = (*life.first()?, *life.last()?);
        let lived = last.saturating_sub(first);
        if lived < LIFE_MIN {
            return None;
        }
        let (third_at, at_a_third_mib) = *life.iter().find(|(at, _)| *at >= first + lived / 3)?;
        let minutes = last.saturating_sub(third_at).as_secs_f64() / 60.0;
        let most_mib = life.iter().map(|(_, mib)| *mib).fold(0.0, f64::max);
        let mib_per_minute = (at_the_end_mib - at_a_third_mib) / minutes;
        Some(Self { lived, at_a_third_mib, at_the_end_mib, most_mib, mib_per_minute })
    }

    fn json(&self, device: usize) -> Json {
        json!({
            "device": device, "lived_s": self.lived.as_secs(), "at_a_third_mib": self.at_a_third_mib,
            "at_the_end_mib": self.at_the_end_mib, "most_mib": self.most_mib, "mib_per_minute": self.mib_per_minute,
        })
    }
}

fn resident_mib(process: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u32 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(f64::from(kib) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_measured_from_a_third_of_a_life_to_its_end() {
        let life: Vec<(Duration, f64)> =
            (0..=90_u32).map(|s| (Duration::from_secs(s.into()), if s < 30 { 10.0 } else { f64::from(s) })).collect();
        let growth = Growth::of(&life).unwrap();
        let expected = Growth {
            lived: Duration::from_secs(90),
            at_a_third_mib: 30.0,
            at_the_end_mib: 90.0,
            most_mib: 90.0,
            mib_per_minute: 60.0,
        };
        assert_eq!(growth, expected);
        assert_eq!(Growth::of(&life[..5]), None);
    }

    #[test]
    fn late_growth_is_that_of_the_second_half_of_lives_of_minutes() {
        let grows_for = |seconds: u32, until: u32| -> Vec<(Duration, f64)> {
            (0..=seconds).map(|s| (Duration::from_secs(s.into()), f64::from(s.min(until)))).collect()
        };
        let mut memory = Memory::default();
        memory.0.insert((0, 1), grows_for(100, 100));
        assert_eq!(memory.late_growth(), None);
        memory.0.insert((0, 2), grows_for(200, 100));
        assert_eq!(memory.late_growth(), Some(0.0));
        memory.0.insert((0, 3), grows_for(240, 240));
        assert_eq!(memory.late_growth(), Some(60.0));
    }

    #[test]
    fn each_fifth_of_a_run_has_the_most_that_any_process_held_in_it() {
        let mut memory = Memory::default();
        assert_eq!(memory.most_by_fifth(), vec![0.0; FIFTHS]);
        let life = |from: u64, mib: &[f64]| -> Vec<(Duration, f64)> {
            (from..).step_by(10).map(Duration::from_secs).zip(mib.iter().copied()).collect()
        };
        memory.0.insert((0, 1), life(0, &[1.0, 5.0, 2.0]));
        memory.0.insert((1, 2), life(0, &[2.0, 2.0, 3.0, 7.0]));
        memory.0.insert((0, 3), life(40, &[1.0, 9.0]));
        assert_eq!(memory.most_by_fifth(), vec![5.0, 3.0, 7.0, 1.0, 9.0]);
    }
}
