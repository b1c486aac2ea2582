//! The command `stress mutants`: plants each bug in turn and runs seeds until a checker objects. A bug that nobody
//! notices is a hole in the checkers, in the work, or in the trouble.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, ensure};
use parking_lot::Mutex;
use starling::planted::{Bug, plant};

use crate::check::Violation;
use crate::rig::{Plan, Size, run as run_plan};

/// Options of `mutants`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// How many seeds are tried for each bug
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Only this bug; may be given more than once
    #[arg(long, value_name = "NAME", value_parser = by_name)]
    only: Vec<Bug>,
    /// The most devices at the beginning
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=20))]
    nodes: u64,
    /// How long trouble lasts, in hours of virtual time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    hours: u64,
    /// How many commits there are at least
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    ops: u64,
    /// Bugs that are looked for at the same time [default: one per core]
    #[arg(long)]
    jobs: Option<usize>,
    /// Show what the checker said of each
    #[arg(long)]
    details: bool,
}

/// Who found a bug, and where.
#[derive(Debug)]
struct Found {
    seed: u64,
    checker: &'static str,
    detail: String,
}

fn by_name(name: &str) -> Result<Bug, String> {
    let known = || Bug::ALL.iter().map(|bug| bug.name()).collect::<Vec<_>>().join(", ");
    Bug::ALL.iter().copied().find(|bug| bug.name() == name).ok_or_else(|| format!("there are: {}", known()))
}

/// Runs seeds with a bug in all devices. A seed that goes wrong without any bug says nothing, and is left out.
#[derive(Debug)]
struct Hunt {
    size: Size,
    /// Seeds that were tried without a bug, and whether they went well.
    sound: Mutex<BTreeMap<u64, bool>>,
}

impl Hunt {
    fn seed(&self, bug: Bug, seed: u64) -> Option<Found> {
        let plan = Plan::new(seed, self.size);
        if self.sound.lock().get(&seed) == Some(&false) {
            return None;
        }
        let Violation { checker, detail } = with(Some(bug), &plan)?;
        self.is_sound(&plan).then_some(Found { seed, checker, detail })
    }

    fn is_sound(&self, plan: &Plan) -> bool {
        let known = self.sound.lock().get(&plan.seed).copied();
        known.unwrap_or_else(|| {
            let violation = with(None, plan);
            if let Some(violation) = &violation {
                tracing::error!(seed = plan.seed, %violation, "a seed breaks a promise without any bug");
            }
            self.sound.lock().insert(plan.seed, violation.is_none());
            violation.is_none()
        })
    }
}

/// What a checker says of a plan with this bug, or none, in all devices.
#[must_use]
pub fn with(bug: Option<Bug>, plan: &Plan) -> Option<Violation> {
    plant(bug);
    let outcome = run_plan(plan);
    plant(None);
    outcome.violation
}

/// Looks for each bug until it is found.
///
/// # Errors
/// When one is not.
pub fn run(arguments: &Arguments, json: bool) -> anyhow::Result<()> {
    let bugs = if arguments.only.is_empty() { Bug::ALL } else { &arguments.only };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let jobs = arguments.jobs.unwrap_or(cores).clamp(1, bugs.len());
    let (next, survivors) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let hunt = Hunt { size: arguments.size(), sound: Mutex::default() };
    let work = || -> anyhow::Result<()> {
        while let Some(bug) = bugs.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed))?).copied() {
            let begun = now();
            let mut seeds = arguments.from..arguments.from.saturating_add(arguments.seeds);
            let found = seeds.find_map(|seed| hunt.seed(bug, seed));
            arguments.report(bug, found.as_ref(), begun.elapsed().as_secs_f64(), json)?;
            if found.is_none() {
                survivors.lock().push(bug.name());
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("a run panicked"))?)
    })?;
    let survivors = survivors.into_inner();
    ensure!(survivors.is_empty(), "not found in {} seeds each: {}", arguments.seeds, survivors.join(", "));
    Ok(())
}

impl Arguments {
    fn size(&self) -> Size {
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Size { nodes: number(self.nodes), hours: self.hours, ops: number(self.ops) }
    }

    /// One line for each bug, as a row of a table in Markdown or as JSON.
    fn report(&self, bug: Bug, found: Option<&Found>, seconds: f64, json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        let (name, about) = (bug.name(), bug.about());
        if json {
            let (seed, checker) = (found.map(|found| found.seed), found.map(|found| found.checker));
            let row = serde_json::json!({
                "schema": 1, "bug": name, "about": about, "seed": seed, "checker": checker, "seconds": seconds,
            });
            writeln!(out, "{row}")?;
        } else if let Some(Found { seed, checker, detail }) = found {
            writeln!(out, "| `{name}` | {about} | {seed} | `{checker}` | {seconds:.1} s |")?;
            if self.details {
                writeln!(out, "\n{detail}\n")?;
            }
        } else {
            writeln!(out, "| `{name}` | {about} | not found | | {seconds:.1} s |")?;
        }
        out.flush().context("the output is closed")
    }
}

#[expect(clippy::disallowed_methods, reason = "how long the search took is told to people, and decides nothing else")]
fn now() -> Instant {
    Instant::now()
}
