//! One run of a plan: form a library, let work and trouble happen, mend everything, wait for quiet, and judge.

use std::time::Duration;

use tokio::time::Instant;

use super::history::History;
use super::plan::{Plan, What};
use super::sometimes::Sometimes;
use super::world::{Later, Standing, World};
use crate::check::Violation;
use crate::sim::Cluster;

/// How long devices on a healthy network may take to form a library.
const FORM_TIME_MAX: Duration = Duration::from_mins(10);

/// How much of a quiet time runs. Within it every wait of a peer has grown to its longest; the rest passes on wall clocks
/// only, since an hour of heartbeats that say nothing new costs more than all else.
const QUIET_MS_MAX: u64 = 100_000;

/// A pause after which devices that are compared have had time to be interesting.
const TOUR_AFTER_MS: u64 = 120_000;

/// What became of a plan.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The first thing that did not hold.
    pub violation: Option<Violation>,
    /// What happened.
    pub history: History,
    /// The hash over everything that was delivered, and over what all devices held in the end.
    pub trace: blake3::Hash,
    /// Commits that were acknowledged.
    pub commits: usize,
    /// How much virtual time it took.
    pub virtual_time: Duration,
    /// Which rare states were reached.
    pub sometimes: Sometimes,
}

/// Runs a plan.
#[must_use]
pub fn run(plan: &Plan) -> Outcome {
    Cluster::simulate(plan.seed, async |cluster| {
        let mut world = World::new(cluster, plan);
        let mut trace = blake3::Hasher::new();
        let played = world.play(&mut trace).await;
        let panicked = (Cluster::panics() > 0)
            .then(|| Violation::new("panic", "an actor panicked: see the standard error output"));
        let report = cluster.report().await;
        trace.update(report.trace.as_bytes()).update(&(world.commits as u64).to_le_bytes());
        world.end().await;
        for at in 0..world.devices.len() {
            let (reached, _) = world.devices[at].interference.reached();
            world.sometimes.passed(&reached);
        }
        Outcome {
            violation: panicked.or(played.err()),
            history: world.history,
            trace: trace.finalize(),
            commits: world.commits,
            virtual_time: cluster.elapsed(),
            sometimes: world.sometimes,
        }
    })
}

impl World<'_> {
    async fn play(&mut self, trace: &mut blake3::Hasher) -> Result<(), Violation> {
        self.form().await?;
        let (mut begin, mut last_ms) = (Instant::now(), 0);
        for step in &self.plan.steps {
            if step.at_ms > last_ms + TOUR_AFTER_MS {
                self.until(begin + Duration::from_millis(last_ms + TOUR_AFTER_MS / 2)).await?;
                self.tour().await?;
            }
            last_ms = step.at_ms;
            if !self.plan.is_patient {
                begin -= self.leave_out(begin + Duration::from_millis(step.at_ms)).await?;
            }
            self.until(begin + Duration::from_millis(step.at_ms)).await?;
            match &step.what {
                What::Work(work) => self.work(work).await?,
                What::Fault(fault) => self.trouble(fault).await?,
            }
            self.bury().await?;
        }
        self.top_up().await?;
        self.mend().await?;
        self.settle().await?;
        self.judge(trace).await
    }

    /// The devices become one library on a healthy network; then the network gets its shape.
    async fn form(&mut self) -> Result<(), Violation> {
        for _ in 0..self.plan.nodes {
            let at = self.place();
            self.start(at).await?;
            self.devices[at].standing = Standing::Member;
            if at > 0 {
                let ticket = self.devices[0].node.ticket(FORM_TIME_MAX).await;
                let joined = self.devices[at].node.join_with(&ticket).await;
                joined.map_err(|error| Violation::new("joining", format!("on a healthy network: {error}")))?;
            }
        }
        self.equal_within(FORM_TIME_MAX).await?;
        let (plan, nodes) = (self.plan, self.plan.nodes);
        let (topology, gossip) = (plan.topology, plan.gossip);
        self.cluster
            .network()
            .change(move |conditions| {
                conditions.gossip = gossip;
                for low in 0..nodes {
                    for high in (low + 1..nodes).filter(|high| !topology.links(nodes, low, *high)) {
                        conditions.unlinked.insert((low, high));
                    }
                }
            })
            .await;
        self.note("the library is formed");
        Ok(())
    }

    /// Lets time pass; processes that die meanwhile are buried, those that are due start.
    pub(super) async fn until(&mut self, moment: Instant) -> Result<(), Violation> {
        loop {
            let next = self.later.iter().map(|(at, _)| *at).min().unwrap_or(moment).min(moment);
            let crashed = self.crashed.clone();
            tokio::select! {
                biased;
                () = crashed.notified() => self.bury().await?,
                () = tokio::time::sleep_until(next) => {
                    let now = Instant::now();
                    if let Some(at) = self.later.iter().position(|(at, _)| *at <= now) {
                        let (_, due) = self.later.remove(at);
                        self.due(due).await?;
                    } else if now >= moment {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Lets the beginning of a quiet time pass and leaves the rest out; gives how much that was.
    async fn leave_out(&mut self, moment: Instant) -> Result<Duration, Violation> {
        let mut left_out = Duration::ZERO;
        loop {
            let next = self.later.iter().map(|(at, _)| *at).min().unwrap_or(moment).min(moment - left_out);
            let quiet = Duration::from_millis(QUIET_MS_MAX);
            if next.saturating_duration_since(Instant::now()) > quiet {
                self.until(Instant::now() + quiet).await?;
                let rest = next.saturating_duration_since(Instant::now());
                self.skip_ms(i64::try_from(rest.as_millis()).unwrap_or(0));
                for (at, _) in &mut self.later {
                    *at -= rest;
                }
                left_out += rest;
            }
            if next >= moment - left_out {
                return Ok(left_out);
            }
            self.until(next).await?;
        }
    }

    async fn due(&mut self, due: Later) -> Result<(), Violation> {
        match due {
            Later::Start(at) => self.start(at).await,
            Later::PowerCut { node, down_ms } => self.power_cut(node, down_ms).await,
        }
    }

    /// Waits for something that a device does. None when the device dies meanwhile.
    pub(super) async fn watching<T>(
        &mut self,
        at: usize,
        doing: impl Future<Output = T>,
    ) -> Result<Option<T>, Violation> {
        let mut doing = Box::pin(doing);
        loop {
            let crashed = self.crashed.clone();
            tokio::select! {
                biased;
                () = crashed.notified() => {
                    let is_dead = self.devices[at].interference.is_dead();
                    if is_dead {
                        drop(doing);
                        self.bury().await?;
                        return Ok(None);
                    }
                    self.bury().await?;
                }
                done = &mut doing => {
                    return Ok((!self.devices[at].interference.is_dead()).then_some(done));
                }
            }
        }
    }

    async fn end(&mut self) {
        for at in 0..self.devices.len() {
            self.stop(at).await;
        }
    }
}
