//! The world of one run: the devices, what there is to work on, and everything that the checkers remember.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use starling::rig::Point;
use starling_schema::ids::{DeviceId, LibraryId};
use starling_schema::stream::Watermarks;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::expected::Expected;
use super::faults::name;
use super::history::History;
use super::injector::Interference;
use super::plan::Plan;
use super::sometimes::Sometimes;
use super::workload::Things;
use crate::check::{
    AckedCheck, Held, PruneCheck, Sample, StampCheck, TombstoneCheck, Violation, WatermarkCheck, kept_promises,
    not_dragged,
};
use crate::reference::Reference;
use crate::sim::{Backup, Cluster, Node};

/// What a device is to the library.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    /// A member.
    Member,
    /// It wants to be one.
    Alone,
    /// It was removed.
    Out,
}

/// A device and what is known of it.
pub(super) struct Device {
    pub(super) node: Node,
    pub(super) interference: Arc<Interference>,
    pub(super) standing: Standing,
    /// Whether it was removed once and paired anew.
    pub(super) is_anew: bool,
    /// Its id and library when it was last looked at.
    pub(super) id: Option<(LibraryId, DeviceId)>,
    /// A copy of its data, of which library and device.
    pub(super) copy: Option<(Backup, (LibraryId, DeviceId))>,
    /// Whether its database is an older copy that lacks what it once had.
    pub(super) is_older: bool,
    /// How far it was when its power went.
    pub(super) before_cut: Option<Watermarks>,
}

impl Device {
    /// Whether it runs and did not just die.
    pub(super) fn is_up(&self) -> bool {
        self.node.is_running() && !self.interference.is_dead()
    }

    pub(super) fn name(&self) -> &str {
        self.node.name()
    }
}

/// A device was told to remove another one and gave no answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    pub(super) by: usize,
    pub(super) at: usize,
    pub(super) id: DeviceId,
}

/// What will happen at a moment besides the plan.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Later {
    Start(usize),
    PowerCut { node: usize, down_ms: u64 },
}

/// One run.
pub(super) struct World<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) plan: &'a Plan,
    pub(super) random: ChaCha8Rng,
    pub(super) devices: Vec<Device>,
    pub(super) later: Vec<(Instant, Later)>,
    pub(super) crashed: Arc<Notify>,
    pub(super) things: Things,
    pub(super) expected: Expected,
    pub(super) reference: Reference,
    pub(super) watermarks: WatermarkCheck,
    pub(super) acked: AckedCheck,
    pub(super) stamps: StampCheck,
    pub(super) pruning: PruneCheck,
    pub(super) tombstones: TombstoneCheck,
    pub(super) sometimes: Sometimes,
    pub(super) history: History,
    pub(super) commits: usize,
    /// How far the wall clocks of running devices were ahead at most, in milliseconds.
    pub(super) ahead_ms: i64,
    pub(super) skipped_ms: i64,
    /// Whom logs need not wait for: those who were away when a long time passed.
    pub(super) silent: BTreeSet<DeviceId>,
    /// Devices that were removed and are back as others: who has not heard of it waits for them.
    pub(super) gone: BTreeSet<DeviceId>,
    pub(super) doubts: Vec<Doubt>,
    /// Whether the network is apart, for the record of rare states.
    pub(super) apart: bool,
    /// The device that joins, what its inviter had when it began, and how often logs had been pruned by then.
    pub(super) joiner: Option<(usize, Watermarks, u64)>,
}

impl<'a> World<'a> {
    pub(super) fn new(cluster: &'a Cluster, plan: &'a Plan) -> Self {
        Self {
            cluster,
            plan,
            random: ChaCha8Rng::seed_from_u64(plan.seed ^ 0x7269_675f_7275_6e00),
            devices: Vec::new(),
            later: Vec::new(),
            crashed: Arc::default(),
            things: Things::default(),
            expected: Expected::default(),
            reference: Reference::new(),
            watermarks: WatermarkCheck::default(),
            acked: AckedCheck::default(),
            stamps: StampCheck::default(),
            pruning: PruneCheck::default(),
            tombstones: TombstoneCheck::default(),
            sometimes: Sometimes::default(),
            history: History::default(),
            commits: 0,
            ahead_ms: 0,
            skipped_ms: 0,
            silent: BTreeSet::new(),
            gone: BTreeSet::new(),
            doubts: Vec::new(),
            apart: false,
            joiner: None,
        }
    }

    pub(super) fn note(&mut self, line: impl Into<String>) {
        self.history.note(self.cluster.elapsed(), line);
    }

    /// A new device, not started.
    pub(super) fn place(&mut self) -> usize {
        let number = self.devices.len();
        let node = self.cluster.place(&name(number));
        let interference = Interference::with(&node, self.plan.limits.clone(), self.crashed.clone());
        let (standing, id, copy) = (Standing::Alone, None, None);
        self.devices.push(Device {
            node,
            interference,
            standing,
            is_anew: false,
            id,
            copy,
            is_older: false,
            before_cut: None,
        });
        number
    }

    /// The members that run.
    pub(super) fn up(&self) -> Vec<usize> {
        let is_up = |at: &usize| self.devices[*at].standing == Standing::Member && self.devices[*at].is_up();
        (0..self.devices.len()).filter(is_up).collect()
    }

    /// The members, whether or not they run.
    pub(super) fn members(&self) -> Vec<usize> {
        (0..self.devices.len()).filter(|at| self.devices[*at].standing == Standing::Member).collect()
    }

    /// Starts a device that does not run, and looks whether it has all that it must.
    pub(super) async fn start(&mut self, at: usize) -> Result<(), Violation> {
        if self.devices[at].node.is_running() {
            return Ok(());
        }
        let node = self.devices[at].node.clone();
        if let Err(error) = node.try_start().await {
            // A disk that fails now is no fault of the peer's; it is tried again when the disk is well.
            self.note(format!("{} does not start: {error}", node.name()));
            self.later.push((Instant::now() + Duration::from_secs(30), Later::Start(at)));
            return Ok(());
        }
        self.note(format!("{} runs", node.name()));
        self.resolve_doubts(at).await;
        let sample = self.look(at).await?;
        self.letters_are_known(at, sample.as_ref()).await?;
        let before = self.devices[at].before_cut.take();
        if let (Some(before), Some(sample)) = (before, sample)
            && !sample.marks.covers(&before)
        {
            self.sometimes.reach("a power cut that lost what was not durable");
        }
        Ok(())
    }

    /// A device that just started knows the sends to members that it gave up before, until it meets them.
    async fn letters_are_known(&self, at: usize, sample: Option<&Sample>) -> Result<(), Violation> {
        let node = &self.devices[at].node;
        let (Some(sample), Ok(status), Ok(members)) = (sample, node.peer().status().await, node.peer().members().await)
        else {
            return Ok(());
        };
        let kept = |peer: &&DeviceId| members.iter().any(|member| member.id == **peer);
        let (stored, known) = (sample.dead_letters.iter().filter(kept).count() as u64, status.queues.dead_letters);
        if known < stored {
            let detail = format!("{} has stored {stored} dead letters and knows of {known}", node.name());
            return Err(Violation::new("queues", detail));
        }
        Ok(())
    }

    /// Ends a device in order.
    pub(super) async fn stop(&mut self, at: usize) {
        let node = self.devices[at].node.clone();
        node.stop().await;
    }

    /// Looks into a device and has every cheap checker judge. Gives how far it is.
    pub(super) async fn look(&mut self, at: usize) -> Result<Option<Sample>, Violation> {
        self.look_after(at, None).await
    }

    /// The same after a commit; `before` is the look before it.
    pub(super) async fn look_after(&mut self, at: usize, before: Option<&Sample>) -> Result<Option<Sample>, Violation> {
        if !self.devices[at].is_up() {
            return Ok(None);
        }
        let node = self.devices[at].node.clone();
        let after = (self.reference.head(node.id()), self.tombstones.last(node.id()));
        let Some(sample) = Sample::take(&node, after.0, after.1).await else { return Ok(None) };
        if self.devices[at].interference.is_dead() {
            return Ok(None);
        }
        self.devices[at].id = Some((sample.library, sample.device));
        self.reference
            .observe(sample.device, &sample.wrote)
            .map_err(|reused| Violation::new("reuse", format!("in the log of {}: {reused}", node.name())))?;
        let applied = before.filter(|before| before.incomplete.is_empty()).map(|before| &before.marks);
        self.stamps.wrote(&sample.wrote, applied)?;
        not_dragged(&sample.wrote, node.latest_wall_ms())?;
        self.tombstones.look(&sample);
        self.watermarks.look(&sample)?;
        self.judge_what_it_said(at, &sample).await?;
        self.sometimes.sampled(&sample, self.apart);
        self.follow_joiner(at, &sample);
        Ok(Some(sample))
    }

    /// A device has, or may lack, every delete that it is past.
    pub(super) fn knows_deletes(&self, held: &Held) -> Result<(), Violation> {
        let owners: Vec<_> = self.members().iter().filter_map(|at| self.devices[*at].id).map(|(_, id)| id).collect();
        self.tombstones.judge(held, &owners)
    }

    /// How often logs were pruned.
    pub(super) fn prunes(&self) -> u64 {
        let of = |device: &Device| device.interference.reached().0.get(&Point::AfterPrune).copied().unwrap_or(0);
        self.devices.iter().map(of).sum()
    }

    /// Notes whether logs are pruned while a device that has joined still lacks what its inviter had then.
    fn follow_joiner(&mut self, at: usize, sample: &Sample) {
        let Some((_, there, before)) = self.joiner.as_ref().filter(|(joiner, ..)| *joiner == at) else { return };
        if self.prunes() > *before {
            self.sometimes.reach("a log was pruned while a device joined");
        }
        if sample.marks.covers(there) {
            self.joiner = None;
        }
    }

    /// Whether a device has what it acknowledged to anybody. One with an older copy has it again later.
    async fn judge_what_it_said(&mut self, at: usize, sample: &Sample) -> Result<(), Violation> {
        let promised = self.cluster.network().promises(sample.library, sample.device).await;
        let kept = self.acked.look(sample).and_then(|()| kept_promises(sample, &promised));
        if !self.devices[at].is_older {
            return kept;
        }
        if kept.is_ok() {
            self.devices[at].is_older = false;
            self.sometimes.reach("an older copy has everything back");
            self.note(format!("{} has everything back", name(at)));
        }
        Ok(())
    }
}
