//! Which faults happen when: a function of the options and the seed.

use std::str::FromStr;
use std::time::Duration;

use rand::Rng;
use rand::seq::IteratorRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Before the first fault and after the last: what is quiet shows what is normal.
const QUIET: Duration = Duration::from_secs(1);

/// How often each kind of fault happens when nothing else is said.
const KILL_EVERY: Duration = Duration::from_secs(10);
const STOP_EVERY: Duration = Duration::from_secs(15);
const PARTITION_EVERY: Duration = Duration::from_secs(20);
const SKEW_EVERY: Duration = Duration::from_secs(10);

/// The shortest time between two faults of a kind: what follows faster tests the machine, not the peers.
const EVERY_MIN: Duration = Duration::from_secs(1);

/// The widest skew: a minute below what peers follow, so that what is acknowledged is seen when the run ends.
const SKEW_MAX: Duration = Duration::from_mins(4);

/// How long each kind of fault lasts, in milliseconds.
const KILL_MS: std::ops::Range<u64> = 500..3_000;
const STOP_MS: std::ops::Range<u64> = 2_000..8_000;
const PARTITION_MS: std::ops::Range<u64> = 3_000..9_000;

/// Which kinds of fault happen, and how often.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Faults {
    pub(crate) kill: Option<Duration>,
    pub(crate) stop: Option<Duration>,
    pub(crate) partition: Option<Duration>,
    pub(crate) skew: Option<Skew>,
}

/// Clocks that are changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Skew {
    /// How far from the truth in either direction.
    pub(crate) max: Duration,
    pub(crate) every: Duration,
}

impl FromStr for Faults {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty() && *word != "none") {
            let (kind, said) = word.split_once('=').map_or((word, None), |(kind, said)| (kind, Some(said)));
            match kind {
                "kill" => faults.kill = Some(every(said, KILL_EVERY)?),
                "stop" => faults.stop = Some(every(said, STOP_EVERY)?),
                "partition" => faults.partition = Some(every(said, PARTITION_EVERY)?),
                "skew" => {
                    let max = duration(said.ok_or("skew needs a time, like skew=2s")?)?;
                    if max > SKEW_MAX {
                        return Err(format!("a skew is {} s at most", SKEW_MAX.as_secs()));
                    }
                    faults.skew = Some(Skew { max, every: SKEW_EVERY });
                }
                _ => return Err(format!("{kind:?} is no fault: there are kill, stop, partition and skew=TIME")),
            }
        }
        Ok(faults)
    }
}

/// Reads `1/10s`, `3/1m` or `10s`.
fn every(said: Option<&str>, usual: Duration) -> Result<Duration, String> {
    let Some(said) = said else { return Ok(usual) };
    let (count, time) = said.split_once('/').unwrap_or(("1", said));
    let count: u32 = count.parse().ok().filter(|count| *count > 0).ok_or(format!("{count:?} is no number"))?;
    let every = duration(time)? / count;
    if every < EVERY_MIN {
        return Err(format!("{said} is too often: at most once in {} s", EVERY_MIN.as_secs()));
    }
    Ok(every)
}

/// Reads a time span.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = |_| format!("{text:?} is no time span: write it like 30s, 10m or 1h");
    let span: jiff::SignedDuration = text.parse().map_err(|e: jiff::Error| wrong(e.to_string()))?;
    Duration::try_from(span).map_err(|e| wrong(e.to_string()))
}

/// Something that is done to the devices.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    /// SIGKILL.
    Kill(usize),
    /// Started again.
    Start(usize),
    /// SIGSTOP.
    Freeze(usize),
    /// SIGCONT.
    Thaw(usize),
    /// These see only each other, and so do the others.
    Part(Vec<usize>),
    /// All see all.
    Heal,
    /// The wall clock is that far from the truth.
    Skew(usize, i64),
}

/// A fault as a report shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Fault {
    pub(crate) kind: &'static str,
    pub(crate) devices: Vec<usize>,
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

/// What happens when.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Plan {
    /// In the order of time.
    pub(crate) actions: Vec<(Duration, Action)>,
    pub(crate) faults: Vec<Fault>,
}

impl Plan {
    /// Everything that happens to so many devices in so much time.
    pub(crate) fn new(faults: &Faults, devices: usize, length: Duration, seed: u64) -> Self {
        let mut draft = Draft { devices, length, rng: ChaCha8Rng::seed_from_u64(seed), plan: Self::default() };
        for (every, kind) in [(faults.kill, "kill"), (faults.stop, "stop")] {
            for at in draft.moments(every) {
                draft.take_down(kind, at);
            }
        }
        for at in draft.moments(faults.partition) {
            draft.part(at);
        }
        if let Some(skew) = faults.skew {
            for at in draft.moments(Some(skew.every)) {
                draft.skew(at, skew.max);
            }
        }
        let mut plan = draft.plan;
        plan.actions.sort_by_key(|(at, _)| *at);
        plan.faults.sort_by_key(|fault| fault.from);
        plan
    }
}

struct Draft {
    devices: usize,
    length: Duration,
    rng: ChaCha8Rng,
    plan: Plan,
}

impl Draft {
    /// One in each stretch of that length, somewhere in its middle.
    fn moments(&mut self, every: Option<Duration>) -> Vec<Duration> {
        let Some(every) = every else { return Vec::new() };
        let mut moments = Vec::new();
        let mut stretch = Duration::ZERO;
        while stretch + every <= self.length {
            let at = stretch + every.mul_f64(self.rng.random_range(0.2..0.8));
            moments.push(at.max(QUIET));
            stretch += every;
        }
        moments
    }

    fn lasting(&mut self, milliseconds: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.random_range(milliseconds))
    }

    /// Kills or freezes one device that nothing else is done to meanwhile; none when there is no such device.
    fn take_down(&mut self, kind: &'static str, at: Duration) {
        let to = at + self.lasting(if kind == "kill" { KILL_MS } else { STOP_MS });
        let busy = |device: &usize| {
            let meanwhile = |fault: &Fault| at <= fault.to + QUIET && fault.from <= to + QUIET;
            self.plan.faults.iter().any(|fault| fault.devices.contains(device) && meanwhile(fault))
        };
        let free: Vec<usize> = (0..self.devices).filter(|device| !busy(device)).collect();
        let Some(device) = free.into_iter().choose(&mut self.rng) else { return };
        let (begin, end) = match kind {
            "kill" => (Action::Kill(device), Action::Start(device)),
            _ => (Action::Freeze(device), Action::Thaw(device)),
        };
        self.plan.actions.extend([(at, begin), (to, end)]);
        self.plan.faults.push(Fault { kind, devices: vec![device], from: at, to });
    }

    fn part(&mut self, at: Duration) {
        let to = at + self.lasting(PARTITION_MS);
        let apart = |fault: &Fault| fault.kind != "partition" || fault.to < at;
        if self.devices < 2 || !self.plan.faults.iter().all(apart) {
            return;
        }
        let count = self.rng.random_range(1..=self.devices / 2);
        let mut side = (0..self.devices).choose_multiple(&mut self.rng, count);
        side.sort_unstable();
        self.plan.actions.extend([(at, Action::Part(side.clone())), (to, Action::Heal)]);
        self.plan.faults.push(Fault { kind: "partition", devices: side, from: at, to });
    }

    fn skew(&mut self, at: Duration, max: Duration) {
        let max = i64::try_from(max.as_millis()).unwrap_or(i64::MAX);
        let (device, ms) = (self.rng.random_range(0..self.devices), self.rng.random_range(-max..=max));
        self.plan.actions.push((at, Action::Skew(device, ms)));
        self.plan.faults.push(Fault { kind: "skew", devices: vec![], from: at, to: at });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn a_list_of_faults_is_read_with_its_rates() {
        let faults: Faults = "kill=1/10s,partition,stop=2/1m,skew=2s".parse().unwrap();
        let expected = Faults {
            kill: Some(Duration::from_secs(10)),
            partition: Some(PARTITION_EVERY),
            stop: Some(Duration::from_secs(30)),
            skew: Some(Skew { max: Duration::from_secs(2), every: SKEW_EVERY }),
        };
        assert_eq!(faults, expected);
        assert_eq!("none".parse(), Ok(Faults::default()));
        for wrong in ["flood", "kill=often", "kill=100/1s", "kill=0/1s", "skew", "skew=1h"] {
            assert!(wrong.parse::<Faults>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_seed_gives_one_plan_in_order_whose_every_fault_ends() {
        let faults: Faults = "kill,partition,stop,skew=2s".parse().unwrap();
        let plan = Plan::new(&faults, 10, MINUTE, 7);
        assert_eq!(plan, Plan::new(&faults, 10, MINUTE, 7));
        assert_ne!(plan, Plan::new(&faults, 10, MINUTE, 8));
        assert!(plan.actions.is_sorted_by_key(|(at, _)| *at));
        let count = |of: fn(&Action) -> bool| plan.actions.iter().filter(|(_, action)| of(action)).count();
        assert_eq!(count(|a| matches!(a, Action::Kill(_))), 6);
        assert_eq!(count(|a| matches!(a, Action::Start(_))), 6);
        assert_eq!(count(|a| matches!(a, Action::Freeze(_))), 4);
        assert_eq!(count(|a| matches!(a, Action::Thaw(_))), 4);
        assert_eq!(count(|a| matches!(a, Action::Part(_))), count(|a| matches!(a, Action::Heal)));
        assert_eq!(count(|a| matches!(a, Action::Skew(..))), 6);
    }

    #[test]
    fn a_device_is_killed_and_frozen_one_after_the_other() {
        for seed in 0..200 {
            let plan = Plan::new(&"kill=1/2s,stop=1/3s".parse().unwrap(), 3, MINUTE, seed);
            for device in 0..3 {
                let of_one = plan.faults.iter().filter(|fault| fault.devices == [device]);
                let ends: Vec<_> = of_one.map(|fault| (fault.from, fault.to)).collect();
                assert!(ends.windows(2).all(|pair| pair[0].1 < pair[1].0), "seed {seed}: {ends:?}");
            }
        }
    }
}
