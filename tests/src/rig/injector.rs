//! Interference with one device: where it crashes, what of its disk is left, and when its disk fails.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use starling::rig::{Fault, Injector, Limit, Point, Timer};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::limits::Limits;
use crate::sim::{Backup, Node};

/// Interferes with one device, as a plan says.
pub struct Interference {
    data: PathBuf,
    dead: Arc<AtomicBool>,
    limits: Limits,
    crashed: Arc<Notify>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    crashes: Vec<Crash>,
    /// What the disk held when the process died.
    image: Option<(Backup, Crash)>,
    /// Whether what is durable is noted, and what it was last.
    noting: bool,
    durable: Option<Backup>,
    disk: Option<Disk>,
    reached: BTreeMap<Point, u64>,
    refused: u64,
}

/// A crash that waits for its moment.
#[derive(Clone, Copy, Debug)]
pub struct Crash {
    /// Where.
    pub point: Point,
    /// How often the point is passed before.
    pub passes: u32,
    /// For how long the process is down, in milliseconds.
    pub down_ms: u64,
}

struct Disk {
    fault: Fault,
    one_in: u32,
    asked: u32,
    until: Instant,
}

impl std::fmt::Debug for Interference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interference").field("data", &self.data).finish_non_exhaustive()
    }
}

impl Interference {
    /// Interferes with a device from its next start on; `crashed` is notified of a death.
    #[must_use]
    pub fn with(node: &Node, limits: Limits, crashed: Arc<Notify>) -> Arc<Self> {
        let (data, dead, state) = (node.data().to_owned(), node.dead(), Mutex::default());
        let interference = Arc::new(Self { data, dead, limits, crashed, state });
        node.interfere(interference.clone());
        interference
    }

    /// Plans a crash.
    pub fn crash_at(&self, crash: Crash) {
        self.state.lock().crashes.push(crash);
    }

    /// Notes from now on what is durable.
    pub fn note_durable(&self) {
        self.state.lock().noting = true;
    }

    /// What was durable last, if anything became so since it is noted; it is noted no more.
    pub fn durable(&self) -> Option<Backup> {
        let mut state = self.state.lock();
        state.noting = false;
        state.durable.take()
    }

    /// Has the disk fail for a while.
    pub fn fail_disk(&self, fault: Fault, one_in: u32, time: Duration) {
        self.state.lock().disk = Some(Disk { fault, one_in, asked: 0, until: Instant::now() + time });
    }

    /// Lets the disk work and forgets planned crashes.
    pub fn mend(&self) {
        let mut state = self.state.lock();
        state.disk = None;
        state.crashes.clear();
        state.noting = false;
        state.durable = None;
    }

    /// Whether the process died in the middle of something.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// What is left of the process that died, once.
    pub fn take_image(&self) -> Option<(Backup, Crash)> {
        self.state.lock().image.take()
    }

    /// How often each point was reached, and how many statements the disk refused.
    #[must_use]
    pub fn reached(&self) -> (BTreeMap<Point, u64>, u64) {
        let state = self.state.lock();
        (state.reached.clone(), state.refused)
    }
}

impl State {
    /// The crash that is due at a point.
    fn due(&mut self, point: Point) -> Option<Crash> {
        let at = self.crashes.iter().position(|crash| crash.point == point)?;
        if self.crashes[at].passes > 0 {
            self.crashes[at].passes -= 1;
            return None;
        }
        Some(self.crashes.remove(at))
    }

    fn disk_fault(&mut self) -> Option<Fault> {
        let disk = self.disk.as_mut()?;
        if Instant::now() >= disk.until {
            self.disk = None;
            return None;
        }
        disk.asked += 1;
        let fault = disk.asked.is_multiple_of(disk.one_in.max(1)).then_some(disk.fault);
        self.refused += u64::from(fault.is_some());
        fault
    }
}

impl Injector for Interference {
    fn reach(&self, point: Point) -> Option<Fault> {
        if self.is_dead() {
            return None;
        }
        let mut state = self.state.lock();
        *state.reached.entry(point).or_default() += 1;
        if state.noting && matches!(point, Point::AfterCommit | Point::AfterFlush) {
            state.durable = Some(Backup::of(&self.data));
        }
        if let Some(crash) = state.due(point) {
            state.image = Some((Backup::of(&self.data), crash));
            self.dead.store(true, Ordering::Relaxed);
            self.crashed.notify_one();
            return None;
        }
        if point.is_edge() { state.disk_fault() } else { None }
    }

    fn limit(&self, limit: Limit, usual: usize) -> usize {
        self.limits.limit(limit, usual)
    }

    fn wait_ms(&self, timer: Timer, usual_ms: u64) -> u64 {
        self.limits.wait_ms(timer, usual_ms)
    }
}
