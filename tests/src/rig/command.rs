//! The command `stress sim`: runs seeds on all cores, and shows what broke so that anybody can replay it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;

use super::history::History;
use super::ledger::{self, Row};
use super::plan::{Plan, Size, What};
use super::run::{Outcome, run as run_plan};
use super::shrink::shrink;
use super::sometimes::Sometimes;

/// How long a shrinker may take.
const SHRINK_TIME_MAX: Duration = Duration::from_mins(1);

/// With so many seeds a rare state that was never reached is worth a word.
const SEEDS_FOR_RARE: u64 = 500;

/// After so many seeds a word on how far it is.
const PROGRESS_SEEDS: usize = 100;

/// Options of `sim`.
#[derive(Clone, Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Arguments {
    /// One seed
    #[arg(long, required_unless_present = "seeds")]
    seed: Option<u64>,
    /// Seeds from A up to, not including, B
    #[arg(long, value_name = "A..B", value_parser = range, conflicts_with = "seed")]
    seeds: Option<Range<u64>>,
    /// The most devices at the beginning
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=20))]
    nodes: u64,
    /// How long trouble lasts, in hours of virtual time
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    hours: u64,
    /// How many commits there are at least
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    ops: u64,
    /// Only these steps of the plan, by number: what a shrinker printed
    #[arg(long, value_delimiter = ',', requires = "seed")]
    keep: Option<Vec<usize>>,
    /// Print what the seed becomes, and do nothing
    #[arg(long)]
    explain: bool,
    /// Do not look for a shorter way to the same violation
    #[arg(long)]
    no_shrink: bool,
    /// Print the history of each run
    #[arg(long)]
    history: bool,
    /// Note the result in docs/testing.md
    #[arg(long)]
    ledger: bool,
    /// Seeds that run at the same time [default: one per core]
    #[arg(long)]
    jobs: Option<usize>,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("write it as A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    let range = number(from)?..number(to)?;
    if range.is_empty() { Err("no seed lies in it".to_owned()) } else { Ok(range) }
}

impl Arguments {
    fn size(&self) -> Size {
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Size { nodes: number(self.nodes), hours: self.hours, ops: number(self.ops) }
    }

    fn range(&self) -> Range<u64> {
        let one = self.seed.unwrap_or(0);
        self.seeds.clone().unwrap_or(one..one.saturating_add(1))
    }

    fn plan(&self, seed: u64) -> Plan {
        let plan = Plan::new(seed, self.size());
        match &self.keep {
            Some(kept) => plan.keeping(&kept.iter().copied().collect()),
            None => plan,
        }
    }

    fn replay(&self, seed: u64) -> String {
        let Self { nodes, hours, ops, .. } = self;
        format!(
            "cargo run --release -p starling-tests --bin stress -- sim --seed {seed} --nodes {nodes} --hours {hours} --ops {ops}"
        )
    }
}

/// Runs the seeds.
///
/// # Errors
/// When a checker objected; what and why has been printed.
pub fn run(arguments: &Arguments, json: bool) -> anyhow::Result<()> {
    if arguments.explain {
        return explain(arguments);
    }
    let begun = now();
    name_the_seed_of_a_panic(json);
    let outcomes = run_all(arguments)?;
    let mut sometimes = Sometimes::default();
    let mut trace = blake3::Hasher::new();
    for outcome in outcomes.values() {
        sometimes.join(&outcome.sometimes);
        trace.update(outcome.trace.as_bytes());
    }
    let failed = outcomes.iter().find(|(_, outcome)| outcome.violation.is_some());
    let violations = outcomes.values().filter(|outcome| outcome.violation.is_some()).count();
    let never: Vec<&str> = sometimes.iter().filter(|(_, times)| *times == 0).map(|(state, _)| state).collect();
    let mut out = std::io::stdout().lock();
    if arguments.history {
        for (seed, outcome) in &outcomes {
            writeln!(out, "{}\n{}", arguments.plan(*seed), outcome.history)?;
            writeln!(out, "  seed {seed}: {} commits, trace {}", outcome.commits, outcome.trace)?;
        }
    }
    if let Some((seed, outcome)) = failed {
        show(arguments, *seed, outcome, &mut out)?;
    }
    if !json {
        for (state, times) in sometimes.iter() {
            writeln!(out, "{times:>8}  {state}")?;
        }
    }
    if outcomes.len() as u64 >= SEEDS_FOR_RARE && !never.is_empty() {
        writeln!(out, "never reached: {}", never.join(", "))?;
    }
    let (seeds, trace) = (outcomes.len(), trace.finalize().to_hex().to_string());
    let (seconds, commits) = (begun.elapsed().as_secs_f64(), outcomes.values().map(|o| o.commits).sum::<usize>());
    if arguments.ledger {
        let Arguments { nodes, hours, ops, .. } = *arguments;
        ledger::note(&Row { seeds: arguments.range(), nodes, hours, ops, violations, seconds, trace: trace.clone() })?;
    }
    if json {
        let reached: BTreeMap<&str, u64> = sometimes.iter().collect();
        let result = serde_json::json!({
            "schema": 1, "seeds": seeds, "violations": violations, "trace": trace, "commits": commits,
            "seconds": seconds, "sometimes": reached, "never": never,
        });
        writeln!(out, "{result}")?;
    } else {
        writeln!(out, "{seeds} seeds, {commits} commits, {violations} violations in {seconds:.1} s, trace {trace}")?;
    }
    ensure!(violations == 0, "{violations} of {seeds} seeds broke a promise");
    Ok(())
}

fn explain(arguments: &Arguments) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for seed in arguments.range() {
        let plan = Plan::new(seed, arguments.size());
        writeln!(out, "{plan}")?;
        let kept: BTreeSet<usize> = arguments.keep.iter().flatten().copied().collect();
        let steps = plan.steps.iter().enumerate();
        for (at, step) in steps.filter(|(at, _)| arguments.keep.is_none() || kept.contains(at)) {
            writeln!(out, "  {at:>5}  {:>9} ms  {}", step.at_ms, step.what)?;
        }
    }
    Ok(())
}

/// Runs seeds on as many threads as there are cores. After a violation no higher seed begins.
fn run_all(arguments: &Arguments) -> anyhow::Result<BTreeMap<u64, Outcome>> {
    let seeds = arguments.range();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let count = usize::try_from(seeds.end - seeds.start).unwrap_or(usize::MAX);
    let jobs = arguments.jobs.unwrap_or(cores).clamp(1, count);
    let (next, stop, outcomes) = (AtomicU64::new(seeds.start), AtomicBool::new(false), Mutex::new(BTreeMap::new()));
    let worker = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || stop.load(Ordering::Relaxed) {
                return;
            }
            CURRENT.with_borrow_mut(|current| *current = Some(arguments.replay(seed)));
            let mut outcome = run_plan(&arguments.plan(seed));
            CURRENT.with_borrow_mut(Option::take);
            if outcome.violation.is_some() {
                stop.store(true, Ordering::Relaxed);
            } else if !arguments.history {
                // Thousands of runs must fit into memory.
                outcome.history = History::default();
            }
            let mut outcomes = outcomes.lock();
            outcomes.insert(seed, outcome);
            if outcomes.len().is_multiple_of(PROGRESS_SEEDS) {
                eprintln!("{} of {count} seeds", outcomes.len());
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(drop))
    })
    .map_err(|()| anyhow::anyhow!("a run panicked, see above"))?;
    Ok(outcomes.into_inner())
}

/// Shows a violation, how to replay it, and a shorter way to it.
fn show(arguments: &Arguments, seed: u64, outcome: &Outcome, out: &mut impl Write) -> anyhow::Result<()> {
    let Some(violation) = &outcome.violation else { bail!("there is nothing to show") };
    let plan = arguments.plan(seed);
    writeln!(out, "{plan}\n{}", outcome.history)?;
    writeln!(out, "VIOLATION of {violation}\n")?;
    writeln!(out, "replay: {}", arguments.replay(seed))?;
    out.flush().context("the output is closed")?;
    if arguments.no_shrink || arguments.keep.is_some() {
        return Ok(());
    }
    let begun = now();
    let shrunk = shrink(&plan, violation.checker, || begun.elapsed() > SHRINK_TIME_MAX);
    writeln!(out, "shrunk to {} of {} steps in {} runs:", shrunk.kept.len(), plan.steps.len(), shrunk.tries)?;
    for at in &shrunk.kept {
        let step = &plan.steps[*at];
        let mark = if matches!(step.what, What::Fault(_)) { "!" } else { " " };
        writeln!(out, "  {at:>5} {mark} {:>9} ms  {}", step.at_ms, step.what)?;
    }
    let kept: Vec<String> = shrunk.kept.iter().map(usize::to_string).collect();
    let again = run_plan(&plan.keeping(&shrunk.kept));
    if let Some(violation) = again.violation {
        writeln!(out, "which ends in {violation}")?;
    }
    writeln!(out, "replay: {} --keep {}", arguments.replay(seed), kept.join(","))?;
    Ok(())
}

thread_local! {
    /// How to replay what runs on this thread.
    static CURRENT: std::cell::RefCell<Option<String>> = const { std::cell::RefCell::new(None) };
}

/// A panic ends the process of a release build: before that, the seed is named.
fn name_the_seed_of_a_panic(json: bool) {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        let current = CURRENT.with_borrow(Clone::clone);
        if let Some(replay) = current.filter(|_| cfg!(panic = "abort")) {
            eprintln!("VIOLATION of panic: {info}\nreplay: {replay}");
            if json {
                let result = serde_json::json!({ "schema": 1, "seeds": 1, "violations": 1, "trace": null });
                // The process ends here either way.
                drop(writeln!(std::io::stdout(), "{result}"));
            }
            std::process::exit(1);
        }
    }));
}

#[expect(clippy::disallowed_methods, reason = "how long the work took is told to people, and decides nothing else")]
fn now() -> Instant {
    Instant::now()
}
