//! What writers, followers and samplers of a run share, and the thread that they live on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::join_all;
use parking_lot::Mutex;
use serde_json::json;

use super::control::{Control, Failure};
use super::lag::Lag;
use super::ledger::Ledger;
use super::memory::Memory;
use super::writer::{Shared, Writer};
use crate::process::patience::now;

/// How soon a peer that does not answer is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// How often memory is looked at.
const MEMORY_EVERY: Duration = Duration::from_millis(500);

/// How often it is looked whether the run is over.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How many refusals are kept word by word.
const REFUSALS_MAX: usize = 20;

/// What all parts of a run share.
#[derive(Debug)]
pub(crate) struct Run {
    started: Instant,
    writing_ends: AtomicBool,
    following_ends: AtomicBool,
    writers: AtomicUsize,
    pub(crate) ledger: Mutex<Ledger>,
    pub(crate) lag: Mutex<Lag>,
    pub(crate) memory: Mutex<Memory>,
    /// The processes that run, by device.
    pub(crate) processes: Mutex<Vec<Option<u32>>>,
    refusals: Mutex<(usize, Vec<String>)>,
}

impl Run {
    /// One that begins now.
    pub(crate) fn new(devices: usize) -> Self {
        Self {
            started: now(),
            writing_ends: AtomicBool::new(false),
            following_ends: AtomicBool::new(false),
            writers: AtomicUsize::new(devices),
            ledger: Mutex::default(),
            lag: Mutex::default(),
            memory: Mutex::default(),
            processes: Mutex::new(vec![None; devices]),
            refusals: Mutex::default(),
        }
    }

    /// How long it has been going on.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether nothing more is to be written.
    pub(crate) fn is_over(&self) -> bool {
        self.writing_ends.load(Ordering::Relaxed)
    }

    /// How many writers wait for an answer or for the end.
    pub(crate) fn writers(&self) -> usize {
        self.writers.load(Ordering::Relaxed)
    }

    /// A request was refused.
    pub(crate) fn refused(&self, why: String) {
        let mut refusals = self.refusals.lock();
        refusals.0 += 1;
        if refusals.1.len() < REFUSALS_MAX {
            refusals.1.push(why);
        }
    }

    /// How many requests were refused, and what the first of them were told.
    pub(crate) fn refusals(&self) -> (usize, Vec<String>) {
        self.refusals.lock().clone()
    }
}

/// What happens beside the faults, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Traffic {
    pub(crate) run: Arc<Run>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Traffic {
    /// Starts to write, follow and measure. Each device gets its share of `rate` writes per second.
    pub(crate) fn start(
        run: Arc<Run>,
        data: Vec<PathBuf>,
        shared: Shared,
        rate: u32,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let every = Duration::from_secs(1).mul_f64(f64::from(u32::try_from(data.len())?) / f64::from(rate));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ours = run.clone();
        let thread = std::thread::Builder::new().name("traffic".to_owned()).spawn(move || {
            runtime.block_on(async {
                let followers: Vec<_> = data.iter().cloned().enumerate().map(|it| follow(run.clone(), it)).collect();
                let writers = data.into_iter().enumerate().map(|(device, data)| {
                    let writer = Writer::new(device, data, run.clone(), shared.clone(), seed);
                    // Not all in the same moment.
                    let first = every.mul_f64(f64::from(u32::try_from(device).unwrap_or_default()) / 10.0);
                    let run = &run;
                    async move {
                        tokio::time::sleep(first).await;
                        writer.write(every).await;
                        run.writers.fetch_sub(1, Ordering::Relaxed);
                    }
                });
                let beside = async {
                    tokio::select! {
                        _ = join_all(followers) => {}
                        () = watch_memory(&run) => {}
                        () = until_followed(&run) => {}
                    }
                };
                futures::join!(join_all(writers), beside);
            });
        })?;
        Ok(Self { run: ours, thread: Some(thread) })
    }

    /// Ends the writing. What was asked for is waited for elsewhere.
    pub(crate) fn end_writing(&self) {
        self.run.writing_ends.store(true, Ordering::Relaxed);
    }

    /// Ends all of it and waits for that.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        self.finish().context("the traffic's thread panicked")
    }

    fn finish(&mut self) -> Option<()> {
        self.end_writing();
        self.run.following_ends.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.finish();
    }
}

async fn until_followed(run: &Run) {
    while !run.following_ends.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn watch_memory(run: &Run) {
    loop {
        let processes = run.processes.lock().clone();
        for (device, process) in processes.into_iter().enumerate() {
            if let Some(process) = process {
                run.memory.lock().look(device, process, run.elapsed());
            }
        }
        tokio::time::sleep(MEMORY_EVERY).await;
    }
}

/// Notes which records of others appear on a device, across its restarts.
async fn follow(run: Arc<Run>, (device, data): (usize, PathBuf)) {
    loop {
        if let Err(failure) = follow_one_life(&run, device, &data).await {
            tracing::debug!(device, %failure, "the events of a device end");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn follow_one_life(run: &Run, device: usize, data: &std::path::Path) -> Result<(), Failure> {
    let mut control = Control::connect(data).await?;
    let mut events = control.stream("/v1/events", &json!({ "since": 0, "follow": true })).await?;
    while let Some(event) = events.next().await? {
        if event["kind"] != "changed" || event["remote"] != true {
            continue;
        }
        let at = run.elapsed();
        for record in event["records"].as_array().into_iter().flatten() {
            // Only these are made by their first write; what is edited is seen before.
            if record["model"] == "tag" || record["model"] == "collection" {
                run.lag.lock().seen(record["id"].as_str().unwrap_or_default(), device, at);
            }
        }
    }
    Ok(())
}
