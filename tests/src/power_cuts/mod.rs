//! `stress power-cuts`: the power fails at many moments of a peer's life, and nothing acknowledged may be gone.
//!
//! A real peer commits on a real file system, on a disk whose writes are logged. Each cut replays the log up to a
//! random entry as a disk may have it then: all that was done before the last flush, and a random part of what came
//! after. The file system is mounted, the database checked, and the peer started on it.

mod cut;
mod disk;
mod report;
mod write_log;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use parking_lot::Mutex;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::json;

use self::cut::{Checked, check};
use self::disk::{LoggedDisk, Mounted, Replay};
use self::report::Report;
use self::write_log::Entry;
use crate::process::binary::choose;
use crate::process::patience::now;
use crate::process::{Device, Place};
use crate::processes::{control::Control, interrupts};

/// A cut takes about a second.
const CUTS_MAX: usize = 10_000;

/// Commits that the cuts fall between: enough for several checkpoints of the database.
const COMMITS: usize = 2_000;

/// Writers at once, so that commits share transactions too.
const WRITERS: usize = 4;

/// How long the commits may take.
const COMMITS_WITHIN: Duration = Duration::from_mins(5);

/// So many in a hundred cuts fall before the first acknowledgement, while key and library are made.
const EARLY_PERCENT: u32 = 15;

/// The longest text of a record, in bytes.
const TEXT_MAX: usize = 3_000;

/// Options of `power-cuts`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// How often the power fails
    #[arg(long, default_value_t = 200)]
    cuts: usize,
    /// What decides when, and what is on the disk then
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to leave a report: report.json, report.html
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// The program `starling` [default: built now, like this one]
    #[arg(long, value_name = "PATH")]
    starling: Option<PathBuf>,
}

/// An acknowledged commit.
#[derive(Clone, Debug)]
struct Acked {
    id: String,
    /// How long the log of writes was then: what the commit needs stands before that.
    log_bytes: u64,
}

/// Runs it and prints the result.
///
/// # Errors
/// When this machine cannot do it, or a cut lost something or left something broken. Nothing stays mounted.
pub fn run(arguments: &Arguments, json: bool) -> anyhow::Result<()> {
    ensure!((1..=CUTS_MAX).contains(&arguments.cuts), "--cuts must be 1 to {CUTS_MAX}");
    if let Some(starling) = &arguments.starling {
        choose(starling).with_context(|| format!("{}", starling.display()))?;
    }
    let interrupted = interrupts()?;
    let place = Place::new();
    let workshop = place.path().join("disk");
    std::fs::create_dir(&workshop)?;
    disk::unmount_when_panicking(vec![workshop.join("mounted"), workshop.join("cut")]);
    let acked = record(&place, &workshop, &interrupted)?;
    let entries = write_log::read(&mut File::open(workshop.join("log"))?)?;
    eprintln!("{} commits acknowledged, {} writes and flushes logged", acked.len(), entries.len());
    let report = cuts(arguments, &place, &workshop, &entries, &acked, &interrupted)?;
    if let Some(directory) = &arguments.report {
        report.write(directory)?;
    }
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", report.result())?;
    } else {
        writeln!(out, "{report}")?;
    }
    ensure!(report.failures().is_empty(), "{}", report.failures().join("; "));
    Ok(())
}

/// Has a peer commit on a logged disk. The log is in the workshop afterwards.
fn record(place: &Place, workshop: &Path, interrupted: &AtomicBool) -> anyhow::Result<Vec<Acked>> {
    let mut disk = LoggedDisk::new(workshop)?;
    let mut device = place.device_at("cut", &disk.path().join("data"));
    device.try_up_with(&[]).map_err(|problem| anyhow!(problem))?;
    let acked = commit(&device, &disk.log(), interrupted);
    device.kill();
    disk.end()?;
    acked
}

/// Commits, by several writers at once, and notes what was acknowledged when.
fn commit(device: &Device, log: &Path, interrupted: &AtomicBool) -> anyhow::Result<Vec<Acked>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let acked = Arc::new(Mutex::new(Vec::new()));
    let writers = (0..WRITERS).map(|writer| {
        let acked = acked.clone();
        async move {
            let mut control = Control::connect(device.data()).await?;
            let started = now();
            let mut number = 0_usize;
            while acked.lock().len() < COMMITS {
                if interrupted.load(Ordering::Relaxed) {
                    bail!("interrupted");
                }
                ensure!(started.elapsed() < COMMITS_WITHIN, "the commits take too long");
                let text = "x".repeat(1 + number * 37 % TEXT_MAX);
                let fields = json!({ "name": format!("{writer}.{number}"), "description": text });
                let reply = control.call("/v1/tags/new", &json!({ "fields": fields })).await?;
                let log_bytes = std::fs::metadata(log)?.len();
                let id = reply["id"].as_str().context("no id")?.to_owned();
                acked.lock().push(Acked { id, log_bytes });
                number += 1;
            }
            Ok(())
        }
    });
    runtime.block_on(futures::future::try_join_all(writers))?;
    let acked = std::mem::take(&mut *acked.lock());
    Ok(acked)
}

/// After which entries the power fails, in order.
fn moments(entries: &[Entry], acked: &[Acked], cuts: usize, rng: &mut ChaCha8Rng) -> anyhow::Result<Vec<usize>> {
    let first = acked.iter().map(|commit| commit.log_bytes).min().context("nothing was acknowledged")?;
    let last = acked.iter().map(|commit| commit.log_bytes).max().unwrap_or(first);
    let until = |bytes: u64| entries.partition_point(|entry| entry.ends_at <= bytes);
    let (early, late) = (until(first), until(last));
    ensure!(early > 0 && late > early, "the log has no writes before or between the acknowledgements");
    let mut moments: Vec<usize> = (0..cuts)
        .map(|_| {
            let is_early = rng.random_ratio(EARLY_PERCENT, 100);
            if is_early { rng.random_range(0..=early) } else { rng.random_range(early..=late) }
        })
        .collect();
    moments.sort_unstable();
    Ok(moments)
}

fn cuts(
    arguments: &Arguments,
    place: &Place,
    workshop: &Path,
    entries: &[Entry],
    acked: &[Acked],
    interrupted: &AtomicBool,
) -> anyhow::Result<Report> {
    let mut rng = ChaCha8Rng::seed_from_u64(arguments.seed);
    let moments = moments(entries, acked, arguments.cuts, &mut rng)?;
    let mut replay = Replay::new(workshop)?;
    let mut checked: Vec<Checked> = Vec::new();
    for (number, at) in moments.into_iter().enumerate() {
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        // A name of its own: whatever else on the machine still holds the last one mounted, with what it remembers of
        // it, this one is not mistaken for that.
        let image = workshop.join(format!("image-{number}"));
        let cut = replay.cut(entries, at, &image, &mut rng)?;
        let log_bytes = at.checked_sub(1).map_or(0, |last| entries[last].ends_at);
        let due: Vec<&str> =
            acked.iter().filter(|commit| commit.log_bytes <= log_bytes).map(|commit| commit.id.as_str()).collect();
        let mounted = Mounted::new(&image, &workshop.join("cut"))?;
        let found = check(place, &workshop.join("cut").join("data"), &workshop.join("copy"), &due);
        drop(mounted);
        std::fs::remove_file(&image)?;
        let found = Checked { at, cut, acked: due.len(), ..found };
        if !found.problems.is_empty() {
            eprintln!("cut {number} after {at} writes: {}", found.problems.join("; "));
        }
        checked.push(found);
        if (number + 1) % 20 == 0 {
            eprintln!("{} of {} cuts", number + 1, arguments.cuts);
        }
    }
    let entries = entries.len();
    Ok(Report { cuts: arguments.cuts, seed: arguments.seed, commits: acked.len(), entries, checked })
}
