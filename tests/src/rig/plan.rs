//! The plan: what a seed becomes. It owns no state; it is a value that can be printed, cut down and run again.

use std::collections::BTreeSet;
use std::fmt;

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::faults::{self, Fault, FaultKind};
use super::limits::Limits;
use super::workload::{Mix, Work};

/// One hour of virtual time, in milliseconds.
const HOUR_MS: u64 = 3_600_000;

/// How many commits a piece of work makes, on average: the planner counts on it.
const COMMITS_PER_WORK: usize = 2;

/// The longest pause between two pieces of work of one burst, in milliseconds.
const BREATH_MS_MAX: u64 = 4_000;

/// Commits in one burst.
const BURST_COMMITS: usize = 40;

/// How many runs have connections that hang.
const HANGS: f64 = 0.2;

/// How large runs are.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// The most devices at the beginning; more may join.
    pub nodes: usize,
    /// How long trouble lasts at least, in hours of virtual time.
    pub hours: u64,
    /// How many commits there are at least.
    pub ops: usize,
}

impl Default for Size {
    fn default() -> Self {
        Self { nodes: 5, hours: 6, ops: 500 }
    }
}

/// Who is linked with whom.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Topology {
    /// Everybody with everybody.
    Mesh,
    /// A chain.
    Line,
    /// Everybody with the first.
    Star,
    /// A closed chain.
    Ring,
    /// Two halves with one link between them.
    Islands,
}

impl Topology {
    const ALL: [Self; 5] = [Self::Mesh, Self::Line, Self::Star, Self::Ring, Self::Islands];

    /// Whether two of so many devices have a link. A device that comes later is linked with everybody.
    #[must_use]
    pub fn links(self, nodes: usize, a: usize, b: usize) -> bool {
        let (low, high) = (a.min(b), a.max(b));
        let half = nodes / 2;
        high >= nodes
            || match self {
                Self::Mesh => true,
                Self::Line => high - low == 1,
                Self::Star => low == 0,
                Self::Ring => high - low == 1 || (low == 0 && high == nodes - 1),
                Self::Islands => (low < half) == (high < half) || (low == 0 && high == nodes - 1),
            }
    }
}

/// Something that happens at a moment.
#[derive(Clone, Debug)]
pub struct Step {
    /// When, in virtual milliseconds after the library was formed.
    pub at_ms: u64,
    /// What.
    pub what: What,
}

/// What can happen.
#[derive(Clone, Debug)]
pub enum What {
    /// People and indexers work on a device.
    Work(Work),
    /// Something breaks, or is mended.
    Fault(Fault),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work(work) => write!(f, "{work}"),
            Self::Fault(fault) => write!(f, "{fault}"),
        }
    }
}

/// Everything that a seed decides in advance.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// How many devices there are at the beginning.
    pub nodes: usize,
    /// Who is linked with whom.
    pub topology: Topology,
    /// Whether broadcasts are carried.
    pub gossip: bool,
    /// Whether quiet hours run from beginning to end, instead of passing on wall clocks only.
    pub is_patient: bool,
    /// What kinds of trouble there are.
    pub kinds: BTreeSet<FaultKind>,
    /// What people do how often.
    pub mix: Mix,
    /// Which limits of the peers are how small, and which waits how odd.
    pub limits: Limits,
    /// How many commits there must be; more work is done at the end if there were less.
    pub ops: usize,
    /// What happens, by time.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Expands a seed.
    #[must_use]
    pub fn new(seed: u64, size: Size) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x7269_675f_706c_616e);
        let nodes = random.random_range(size.nodes.min(3)..=size.nodes.max(1));
        let topology = if random.random_bool(0.5) {
            Topology::Mesh
        } else {
            *Topology::ALL.choose(&mut random).unwrap_or(&Topology::Mesh)
        };
        let (gossip, is_patient) = (random.random_bool(0.85), random.random_bool(0.02));
        let kinds = FaultKind::some(&mut random);
        let (mix, limits) = (Mix::some(&mut random), Limits::some(&mut random));
        let mut plan =
            Self { seed, nodes, topology, gossip, is_patient, kinds, mix, limits, ops: size.ops, steps: Vec::new() };
        plan.work(size, &mut random);
        let end_ms = size.hours.max(1) * HOUR_MS;
        let busy: Vec<u64> = plan.steps.iter().map(|step| step.at_ms).collect();
        let mut faults = faults::schedule(&plan.kinds, nodes, &busy, end_ms, &mut random);
        if random.random_bool(HANGS) {
            let hangs = BTreeSet::from([FaultKind::Hangs]);
            faults.extend(faults::schedule(&hangs, nodes, &busy, end_ms, &mut random));
            plan.kinds.extend(hangs);
        }
        plan.steps.extend(faults.into_iter().map(|(at_ms, fault)| Step { at_ms, what: What::Fault(fault) }));
        plan.steps.sort_by_key(|step| step.at_ms);
        plan
    }

    /// Work in bursts with quiet hours between them.
    fn work(&mut self, size: Size, random: &mut ChaCha8Rng) {
        let bursts = size.ops.div_ceil(BURST_COMMITS).max(1);
        let end_ms = size.hours.max(1) * HOUR_MS;
        let mut begins: Vec<u64> = (0..bursts).map(|_| random.random_range(0..end_ms * 9 / 10)).collect();
        begins.sort_unstable();
        let mut huge = usize::from(random.random_bool(0.25));
        for begin in begins {
            let mut at_ms = begin;
            let breath_ms = random.random_range(1..=BREATH_MS_MAX);
            let mut busy: Vec<usize> = (0..self.nodes).collect();
            busy.shuffle(random);
            busy.truncate(random.random_range(1..=self.nodes));
            for _ in 0..BURST_COMMITS / COMMITS_PER_WORK {
                let node = *busy.choose(random).unwrap_or(&0);
                let commits = random.random_range(1..COMMITS_PER_WORK * 2);
                let is_huge = huge > 0 && random.random_bool(0.01);
                huge -= usize::from(is_huge);
                let work = Work { node, seed: random.random(), commits, together: random.random_bool(0.2), is_huge };
                self.steps.push(Step { at_ms, what: What::Work(work) });
                at_ms += random.random_range(0..breath_ms);
            }
        }
    }

    /// Only these steps, by their places in the whole plan.
    #[must_use]
    pub fn keeping(mut self, kept: &BTreeSet<usize>) -> Self {
        let steps = std::mem::take(&mut self.steps);
        self.steps = steps.into_iter().enumerate().filter(|(at, _)| kept.contains(at)).map(|(_, step)| step).collect();
        self.ops = 0;
        self
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let works = self.steps.iter().filter(|step| matches!(step.what, What::Work(_))).count();
        let kinds: Vec<_> = self.kinds.iter().map(|kind| format!("{kind:?}")).collect();
        writeln!(f, "seed {}: {} devices, {:?}, gossip {}", self.seed, self.nodes, self.topology, self.gossip)?;
        writeln!(f, "  faults: {}", if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") })?;
        writeln!(f, "  work: {}", self.mix)?;
        writeln!(f, "  limits: {}", self.limits)?;
        write!(f, "  {works} pieces of work and {} faults", self.steps.len() - works)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_becomes_the_same_plan() {
        for seed in 0..50 {
            let [one, two] = [Plan::new(seed, Size::default()), Plan::new(seed, Size::default())];
            assert_eq!(format!("{one:?}"), format!("{two:?}"));
            assert!(one.steps.is_sorted_by_key(|step| step.at_ms));
        }
    }

    #[test]
    fn every_topology_reaches_everybody() {
        for topology in Topology::ALL {
            for nodes in 1..7 {
                let mut reached = BTreeSet::from([0]);
                for _ in 0..nodes {
                    let more = (0..nodes).filter(|to| reached.iter().any(|from| topology.links(nodes, *from, *to)));
                    reached = more.chain([0]).collect();
                }
                assert_eq!(reached.len(), nodes, "{topology:?} of {nodes}");
            }
        }
    }

    #[test]
    fn over_many_seeds_every_kind_of_fault_is_planned_and_every_kind_left_out() {
        let plans: Vec<_> = (0..200).map(|seed| Plan::new(seed, Size::default())).collect();
        for kind in FaultKind::ALL {
            let with = plans.iter().filter(|plan| plan.kinds.contains(&kind)).count();
            assert!(with > 0 && with < plans.len(), "{kind:?} in {with}");
        }
    }
}
