//! Which limits of the peers are how small in a run, and which waits how odd.

use std::collections::BTreeMap;
use std::fmt;

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use starling::rig::{Limit, Timer};

/// Small enough that a few rows need several of everything.
const SMALL: [(Limit, &[usize]); 8] = [
    (Limit::PageRows, &[1, 2, 7, 50]),
    (Limit::PageBytes, &[1, 200, 4_000]),
    (Limit::SnapshotRows, &[1, 3, 20]),
    (Limit::GroupJobs, &[1, 2]),
    (Limit::QueueJobs, &[2, 8]),
    (Limit::BufferBytes, &[300, 1_000, 5_000]),
    (Limit::GossipBytes, &[1, 300, 2_000]),
    (Limit::Mailbox, &[1, 4, 16]),
];

/// Shorter and longer than usual, as parts of a hundred.
const ODD: [(Timer, &[u64]); 7] = [
    (Timer::Flush, &[1, 400, 2_000, 10_000]),
    (Timer::Retry, &[100, 500]),
    (Timer::Beacon, &[100, 400, 1_000]),
    (Timer::Prune, &[5, 100, 1_000]),
    (Timer::RePull, &[20, 100, 400]),
    (Timer::StoreRetry, &[5, 100, 500]),
    (Timer::Release, &[100]),
];

/// Limits and waits that are not what is usual.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    small: BTreeMap<Limit, usize>,
    percent: BTreeMap<Timer, u64>,
}

impl Limits {
    /// Half of all runs have the usual limits; in the others a few are tiny.
    pub(super) fn some(random: &mut ChaCha8Rng) -> Self {
        let mut limits = Self::default();
        // Fewer heartbeats are cheaper, but news that spreads slowly hides what is said too early.
        if random.random_bool(0.85) {
            limits.percent.insert(Timer::Beacon, 1_000);
        }
        if random.random_bool(0.5) {
            return limits;
        }
        for (limit, sizes) in SMALL {
            if random.random_bool(0.25) {
                limits.small.extend(sizes.choose(random).map(|size| (limit, *size)));
            }
        }
        for (timer, percents) in ODD {
            if random.random_bool(0.25) {
                limits.percent.extend(percents.choose(random).map(|percent| (timer, *percent)));
            }
        }
        limits
    }

    /// What a limit is.
    #[must_use]
    pub fn limit(&self, limit: Limit, usual: usize) -> usize {
        self.small.get(&limit).copied().unwrap_or(usual)
    }

    /// How long a wait is, in milliseconds.
    #[must_use]
    pub fn wait_ms(&self, timer: Timer, usual_ms: u64) -> u64 {
        (usual_ms * self.percent.get(&timer).copied().unwrap_or(100) / 100).max(1)
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let small = self.small.iter().map(|(limit, size)| format!("{limit} {size}"));
        let waits = self.percent.iter().map(|(timer, percent)| format!("{timer} {percent} %"));
        let all: Vec<_> = small.chain(waits).collect();
        f.write_str(&if all.is_empty() { "as usual".to_owned() } else { all.join(", ") })
    }
}
