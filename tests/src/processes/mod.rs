//! `stress processes`: real peers of one library under load and faults, and whether they lost anything.
//!
//! One user per device writes at a rate. Meanwhile processes are killed and frozen, the network is parted, clocks are
//! set. Then everything is healed, and what must be true is checked: all are equal, every acknowledged write is there
//! or rightly covered by a later one, no process ended by itself, no database is damaged.

pub(crate) mod chart;
mod cluster;
pub(crate) mod control;
mod ground;
mod lag;
mod ledger;
mod memory;
pub(crate) mod page;
mod plan;
mod report;
mod run;
mod writer;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};

use self::cluster::Cluster;
use self::ground::Ground;
use self::plan::{Faults, Plan};
pub use self::report::Outcome;
use self::report::Report;
use self::run::{Run, Traffic};
use crate::process::Place;
use crate::process::binary::choose;

/// The longest run: what is kept of every write fits in memory.
const LENGTH_MAX: Duration = Duration::from_hours(1);

/// More writes than any disk syncs.
const RATE_MAX: u32 = 2_000;

/// How long healed devices may take to be equal.
const EQUAL_WITHIN: Duration = Duration::from_mins(2);

/// How often it is looked what is due, and who has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long the last writes are waited for: longer than a writer itself does.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// Options of `processes`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// How many devices
    #[arg(long, default_value_t = 10)]
    pub nodes: usize,
    /// Acknowledged writes per second that are aimed at, over all devices
    #[arg(long, default_value_t = 50)]
    pub rate: u32,
    /// How long to write
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = plan::duration)]
    pub length: Duration,
    /// What goes wrong: kill[=N/TIME], stop[=N/TIME], partition[=N/TIME], skew=TIME, or none
    #[arg(long, value_name = "LIST", default_value = "kill=1/10s,partition,stop,skew=2s")]
    pub faults: String,
    /// What decides who does what and when
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where to leave a report: report.json, report.html, acknowledged.ndjson
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// The program `starling` [default: built now, like this one]
    #[arg(long, value_name = "PATH")]
    pub starling: Option<PathBuf>,
}

/// Runs it and prints the result.
///
/// # Errors
/// When it could not be run to its end, or something is wrong: what. Processes are ended and namespaces removed.
pub fn run(arguments: &Arguments, json: bool) -> anyhow::Result<()> {
    if let Some(starling) = &arguments.starling {
        choose(starling).with_context(|| format!("{}", starling.display()))?;
    }
    let outcome = stress(arguments, &interrupts()?)?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", outcome.json())?;
    } else {
        writeln!(out, "{outcome}")?;
    }
    ensure!(outcome.failures.is_empty(), "{}", outcome.failures.join("; "));
    Ok(())
}

/// Becomes true at Ctrl-C.
pub(crate) fn interrupts() -> anyhow::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let told = interrupted.clone();
    std::thread::spawn(move || {
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            told.store(true, Ordering::Relaxed);
        }
    });
    Ok(interrupted)
}

/// Runs it.
///
/// # Errors
/// When it could not be run to its end. What is wrong then is in the outcome.
pub fn stress(arguments: &Arguments, interrupted: &Arc<AtomicBool>) -> anyhow::Result<Outcome> {
    let Arguments { nodes, rate, length, seed, .. } = *arguments;
    ground::check_devices(nodes)?;
    ensure!((1..=RATE_MAX).contains(&rate), "--rate must be 1 to {RATE_MAX}");
    ensure!((Duration::from_secs(1)..=LENGTH_MAX).contains(&length), "--for must be 1s to 1h");
    let faults: Faults = arguments.faults.parse().map_err(anyhow::Error::msg).context("--faults")?;
    let plan = Plan::new(&faults, nodes, length, seed);
    let place = Place::new();
    let mut notes = Vec::new();
    let (parts, skews) = (faults.partition.is_some(), faults.skew.is_some());
    let ground = Ground::new(nodes, parts, skews, &place.path(), &mut notes);
    for note in &notes {
        eprintln!("{note}");
    }
    eprintln!("seed {seed}: {nodes} devices are started");
    let mut cluster = Cluster::start(&place, nodes, ground, interrupted.clone())?;
    let shared = cluster.prepare()?;
    let run = Arc::new(Run::new(nodes));
    cluster.tell(&run);
    eprintln!("{} faults in {} s", plan.faults.len(), length.as_secs());
    let traffic = Traffic::start(run.clone(), cluster.data(), shared, rate, seed)?;
    let mut ended = torment(&mut cluster, &plan, length, &run)?;
    traffic.end_writing();
    cluster.heal()?;
    let healed = run.elapsed();
    cluster.tell(&run);
    ensure!(cluster.within(ANSWERS_WITHIN, || run.writers() == 0)?.is_some(), "a write gets no answer");
    let equal = cluster.equal_within(EQUAL_WITHIN)?.map(|_| run.elapsed().saturating_sub(healed));
    ended.extend(cluster.ended());
    let dumps = if equal.is_some() { vec![cluster.dump(0)?] } else { dumps(&cluster) };
    let verdicts = if equal.is_some() { Vec::new() } else { cluster.verdicts() };
    traffic.end()?;
    let damage = cluster.damage();
    let skew = faults.skew.map(|skew| skew.max).unwrap_or_default();
    let report = Report { arguments: arguments.clone(), plan, notes, run, equal, ended, damage, verdicts };
    let outcome = report.judge(dumps, skew);
    if let Some(directory) = &arguments.report {
        report.write(directory, &outcome)?;
    }
    Ok(outcome)
}

fn dumps(cluster: &Cluster) -> Vec<Vec<serde_json::Value>> {
    (0..cluster.len()).filter_map(|device| cluster.dump(device).ok()).collect()
}

/// Does what the plan says when it says so; returns what processes said that ended by themselves.
fn torment(cluster: &mut Cluster, plan: &Plan, length: Duration, run: &Run) -> anyhow::Result<Vec<String>> {
    let mut due = plan.actions.iter().filter(|(at, _)| *at < length).peekable();
    let mut ended = Vec::new();
    while run.elapsed() < length {
        cluster.check_interrupted()?;
        while let Some((_, action)) = due.next_if(|(at, _)| *at <= run.elapsed()) {
            tracing::info!(?action, at = ?run.elapsed(), "now");
            cluster.act(action)?;
            cluster.tell(run);
        }
        ended.extend(cluster.ended());
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(ended)
}
