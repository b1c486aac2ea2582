//! Benchmarks of whole peers: the list of them, their options, and how one is run.
//!
//! Each measures its reference in the same run, so that a figure means the same on every machine.

mod backfill;
mod catchup;
mod commit;
mod embedded;
mod fanout;
mod idle;
mod index;
mod large;
mod offline;
mod peer_process;
mod reference;
mod report;
mod rows;
mod stopwatch;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::builder::PossibleValuesParser;
use futures::future::LocalBoxFuture;

pub use peer_process::{PeerArguments, serve_peer};
use report::{Measured, Report};

/// A million rows take minutes; more are a mistake.
const ROWS_MAX: usize = 2_000_000;

/// Peers of one process: five threads each.
const PEERS_MAX: usize = 16;

/// Runs of which the median is reported.
const RUNS_MAX: usize = 25;

/// Options of `bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Which one
    #[arg(required_unless_present = "list", value_parser = PossibleValuesParser::new(BENCHES.map(|bench| bench.name)))]
    name: Option<String>,
    /// Say which there are
    #[arg(long)]
    list: bool,
    /// How many rows, changes, files or commits [default: what the target names]
    #[arg(long)]
    rows: Option<usize>,
    /// How many receivers, where there are several
    #[arg(long, default_value_t = 10)]
    peers: usize,
    /// How often; the run with the median time is reported
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// The program `starling` [default: beside this one]
    #[arg(long, value_name = "PATH")]
    starling: Option<PathBuf>,
}

/// What a benchmark is told.
#[derive(Clone, Debug)]
struct Options {
    rows: usize,
    peers: usize,
    starling: Option<PathBuf>,
}

/// One benchmark.
struct Bench {
    name: &'static str,
    about: &'static str,
    rows: usize,
    run: fn(Options) -> LocalBoxFuture<'static, anyhow::Result<Measured>>,
}

const BENCHES: [Bench; 11] = [
    Bench {
        name: "backfill",
        about: "a fresh device receives N entries from another process",
        rows: 100_000,
        run: |options| Box::pin(backfill::run(options)),
    },
    Bench {
        name: "log",
        about: "a device that was away receives N shared changes from another process, by the log",
        rows: 200_000,
        run: |options| Box::pin(catchup::by_log(options)),
    },
    Bench {
        name: "snapshot",
        about: "a fresh device receives N shared records from another process, by a snapshot",
        rows: 200_000,
        run: |options| Box::pin(catchup::by_snapshot(options)),
    },
    Bench {
        name: "neighbour",
        about: "N commits on one device, ten a second, until each is visible on the only other one",
        rows: 200,
        run: |options| Box::pin(fanout::neighbour(options)),
    },
    Bench {
        name: "fanout",
        about: "N commits on one device, ten a second, until each is visible on all others",
        rows: 200,
        run: |options| Box::pin(fanout::run(options)),
    },
    Bench {
        name: "offline",
        about: "N changes made while a device is away, until it is equal again",
        rows: 1_000,
        run: |options| Box::pin(offline::run(options)),
    },
    Bench {
        name: "index",
        about: "a folder of N small files is added, and looked at again",
        rows: 100_000,
        run: |options| Box::pin(index::run(options)),
    },
    Bench {
        name: "idle",
        about: "a device with N entries and --peers neighbours, while nothing happens",
        rows: 1_000_000,
        run: |options| Box::pin(idle::run(options)),
    },
    Bench {
        name: "start",
        about: "a device with N entries starts",
        rows: 1_000_000,
        run: |options| Box::pin(large::start(options)),
    },
    Bench {
        name: "find",
        about: "a part of a name is looked for among N entries",
        rows: 1_000_000,
        run: |options| Box::pin(large::find(options)),
    },
    Bench {
        name: "commit",
        about: "N durable commits by one writer, then by 64 at once",
        rows: 2_000,
        run: |options| Box::pin(commit::run(options)),
    },
];

/// Runs what the arguments name and prints the result.
///
/// # Errors
/// When there is no such benchmark, or it could not be run to its end. Children are ended and files removed.
pub fn run(arguments: &Arguments, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if arguments.list {
        for Bench { name, about, rows, .. } in BENCHES {
            if json {
                writeln!(out, "{}", serde_json::json!({ "schema": 1, "name": name, "about": about, "rows": rows }))?;
            } else {
                writeln!(out, "{name:<10} {about} (N = {rows})")?;
            }
        }
        return Ok(());
    }
    let name = arguments.name.as_deref().unwrap_or_default();
    let bench = BENCHES.iter().find(|bench| bench.name == name).context("there is no such benchmark")?;
    let rows = arguments.rows.unwrap_or(bench.rows);
    ensure!((1..=ROWS_MAX).contains(&rows), "--rows must be 1 to {ROWS_MAX}");
    ensure!((1..=PEERS_MAX).contains(&arguments.peers), "--peers must be 1 to {PEERS_MAX}");
    ensure!((1..=RUNS_MAX).contains(&arguments.runs), "--runs must be 1 to {RUNS_MAX}");
    let options = Options { rows, peers: arguments.peers, starling: arguments.starling.clone() };
    let mut all = Vec::new();
    for number in 1..=arguments.runs {
        let measured = actix::System::new().block_on((bench.run)(options.clone()));
        let measured = measured.with_context(|| format!("run {number} of {name}"))?;
        eprintln!("{name}: run {number} of {}: {:.4} s", arguments.runs, measured.seconds);
        all.push(measured);
    }
    let report = Report::median(bench.name, rows, all).context("no run")?;
    if json {
        writeln!(out, "{}", report.json())?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(())
}
