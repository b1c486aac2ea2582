//! Interfering with one device where it says what it is about to do: its files as a crash at that step leaves them, a
//! disk that fails there, limits that are soon reached, and what a power cut would leave.

use std::collections::BTreeMap;
use std::path::PathBuf;

use parking_lot::Mutex;
use starling::rig::{Fault, Injector, Limit, Point, Timer};

use super::node::Backup;
use super::{Network, NodeNo};

/// What is planned for a device, and what came of it.
#[derive(Debug)]
pub struct Interference {
    number: NodeNo,
    data: PathBuf,
    network: Network,
    plan: Mutex<Plan>,
}

#[derive(Debug, Default)]
struct Plan {
    /// Where to crash, and how often the point is passed before.
    crash: Option<(Point, u32)>,
    image: Option<Backup>,
    fault: Option<(Point, Fault)>,
    limits: BTreeMap<Limit, usize>,
    /// Whether what a power cut would leave is kept, and the write-ahead log before the commit under way.
    power: Option<blake3::Hash>,
    synced: Option<Backup>,
}

impl Interference {
    pub(super) fn new(number: NodeNo, data: PathBuf, network: Network) -> Self {
        Self { number, data, network, plan: Mutex::default() }
    }

    /// Crashes the device when it passes a point once more after `before` times: its files are taken as they are, and
    /// nothing that it sends from then on is carried. It runs on until the test has it die.
    pub fn crash_at(&self, point: Point, before: u32) {
        self.plan.lock().crash = Some((point, before));
    }

    /// Whether the planned crash has come.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        self.plan.lock().image.is_some()
    }

    /// What the crash left, once.
    #[must_use]
    pub fn take_image(&self) -> Option<Backup> {
        self.plan.lock().image.take()
    }

    /// Has the disk fail at a point, or fail no more.
    pub fn fail_at(&self, fault: Option<(Point, Fault)>) {
        self.plan.lock().fault = fault;
    }

    /// Makes a limit small, from the next start on.
    pub fn limit(&self, limit: Limit, to: usize) {
        self.plan.lock().limits.insert(limit, to);
    }

    /// Keeps from now on what a power cut would leave.
    pub fn keep_synced(&self) {
        self.plan.lock().power = Some(self.log_hash());
    }

    /// What a power cut at this instant would leave, at the least: the files as the last commit left them that `SQLite`
    /// synced. In full mode it syncs the write-ahead log, if it wrote to it, and otherwise nothing.
    ///
    /// # Panics
    /// When nothing was synced since [`Interference::keep_synced`].
    #[must_use]
    pub fn take_synced(&self) -> Backup {
        self.plan.lock().synced.take().expect("something was synced")
    }

    fn log_hash(&self) -> blake3::Hash {
        let log = std::fs::read(self.data.join("library.sqlite-wal")).unwrap_or_default();
        blake3::hash(&log)
    }

    /// Nothing that the device sends from now on is carried; what it handed over at this very point is.
    fn silence(&self, point: Point) {
        let (number, network) = (self.number, self.network.clone());
        let mute = move |network: &Network| {
            network.change_soon(move |conditions| {
                conditions.mute.insert(number);
            });
        };
        if !matches!(point, Point::AfterBroadcast | Point::AfterAck | Point::PageServed) {
            return mute(&network);
        }
        drop(actix::spawn(async move {
            // From the actor that sent it through the device's port to the network.
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            mute(&network);
        }));
    }
}

impl Injector for Interference {
    fn reach(&self, point: Point) -> Option<Fault> {
        let mut plan = self.plan.lock();
        match plan.crash {
            Some((at, before)) if at == point && before > 0 => plan.crash = Some((at, before - 1)),
            Some((at, _)) if at == point => {
                plan.crash = None;
                plan.image = Some(Backup::of(&self.data));
                self.silence(point);
            }
            _ => {}
        }
        match point {
            Point::BeforeCommit if plan.power.is_some() => plan.power = Some(self.log_hash()),
            Point::AfterCommit if plan.power.is_some_and(|before| before != self.log_hash()) => {
                plan.synced = Some(Backup::of(&self.data));
            }
            _ => {}
        }
        plan.fault.filter(|(at, _)| *at == point).map(|(_, fault)| fault)
    }

    fn limit(&self, limit: Limit, usual: usize) -> usize {
        self.plan.lock().limits.get(&limit).copied().unwrap_or(usual)
    }

    fn wait_ms(&self, _: Timer, usual_ms: u64) -> u64 {
        usual_ms
    }
}
