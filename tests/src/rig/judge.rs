//! Judging a cluster: now and then in the midst of trouble, and at the end when all is mended.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;
use starling_schema::ids::DeviceId;
use tokio::time::Instant;

use super::faults::name;
use super::world::{Standing, World};
use crate::check::{
    Held, Sample, Violation, agrees_so_far, conflicts_agree, damage, difference, kept_promises, log_is_whole,
    state_is_whole, unrest,
};
use crate::sim::{Conditions, Link};

/// How long devices on a mended network may take to be equal and quiet. Dials wait a minute at most, heartbeats too,
/// sends that failed 31 s; several of these follow each other when a snapshot is needed.
const QUIET_TIME_MAX: Duration = Duration::from_mins(30);

/// How often it is looked whether they are.
const LOOK_MS_MIN: u64 = 500;

/// The longest pause between two looks.
const LOOK_MS_MAX: u64 = 8_000;

/// How often a device that could not join tries again on a mended network.
const JOINS_MAX: usize = 5;

impl World<'_> {
    /// Looks into some devices more closely, in the midst of trouble.
    pub(super) async fn tour(&mut self) -> Result<(), Violation> {
        let mut up = self.up();
        for at in up.clone() {
            if let Some(sample) = self.look(at).await? {
                self.pruned_rightly(at, &sample).await?;
            }
        }
        for at in up.clone() {
            self.not_ahead(at).await?;
            self.nothing_to_repair(at).await?;
        }
        up.shuffle(&mut self.random);
        let mut held = Vec::new();
        for at in up.into_iter().take(2) {
            held.extend(Held::take(&self.devices[at].node).await.map(|held| (at, held)));
        }
        for (_, one) in &held {
            self.whole(one)?;
            self.agrees(one)?;
            self.knows_deletes(one)?;
        }
        if let [(_, one), (_, two)] = held.as_slice() {
            state_is_whole(one, two)?;
            state_is_whole(two, one)?;
        }
        if self.random.random_bool(0.1)
            && let Some((at, _)) = held.first()
        {
            self.sound(*at).await?;
        }
        Ok(())
    }

    /// No device is further along a stream than its origin, as far as the origin can be asked.
    async fn not_ahead(&mut self, at: usize) -> Result<(), Violation> {
        let Some(sample) = self.look(at).await? else { return Ok(()) };
        let Some((stream, through)) = self.watermarks.ahead(&sample) else { return Ok(()) };
        let origin = self.devices.iter().position(|device| device.id.is_some_and(|(_, id)| id == stream.origin));
        let Some(origin) = origin.filter(|origin| self.devices[*origin].is_up()) else { return Ok(()) };
        self.look(origin).await?;
        if !self.devices[origin].is_up() || self.devices[origin].is_older {
            return Ok(());
        }
        match self.watermarks.ahead(&sample) {
            Some(still) if still == (stream, through) => {
                let detail = format!("{} is at {through} of {stream}, which is not that far", name(at));
                Err(Violation::new("watermarks", detail))
            }
            _ => Ok(()),
        }
    }

    async fn pruned_rightly(&mut self, at: usize, sample: &Sample) -> Result<(), Violation> {
        if self.devices[at].is_older {
            self.pruning.forget(sample.library, sample.device);
            return Ok(());
        }
        let Ok(members) = self.devices[at].node.peer().members().await else { return Ok(()) };
        let members: BTreeSet<DeviceId> = members.into_iter().map(|member| member.id).collect();
        let promises = self.cluster.report().await.promises;
        self.pruning.look(sample, &members, &self.silent, &promises)
    }

    /// The log of a device is whole, and its numbers stand for what they stand for elsewhere.
    fn whole(&mut self, held: &Held) -> Result<(), Violation> {
        log_is_whole(held)?;
        for change in &held.log {
            self.reference
                .observe(change.hlc.device, std::slice::from_ref(change))
                .map_err(|reused| Violation::new("reuse", format!("in the log of {}: {reused}", held.name)))?;
        }
        Ok(())
    }

    /// What a device holds follows from the changes that it has; unless it is in the midst of a snapshot.
    fn agrees(&self, held: &Held) -> Result<(), Violation> {
        if held.sample.is_ahead { Ok(()) } else { agrees_so_far(held, &self.reference) }
    }

    /// No device found records that silently differ from another one's: nothing here damages them.
    async fn nothing_to_repair(&self, at: usize) -> Result<(), Violation> {
        let node = &self.devices[at].node;
        match node.peer().status().await.map(|status| status.counters.records_differing) {
            Ok(0) | Err(_) => Ok(()),
            Ok(records) => {
                let detail = format!("{} found {records} records that differ silently", node.name());
                Err(Violation::new("silence", detail))
            }
        }
    }

    async fn sound(&self, at: usize) -> Result<(), Violation> {
        match damage(&self.devices[at].node).await {
            None => Ok(()),
            Some(damage) => Err(Violation::new("integrity", damage)),
        }
    }

    /// Everything is repaired, and everybody runs.
    pub(super) async fn mend(&mut self) -> Result<(), Violation> {
        self.note("everything is mended");
        for device in &self.devices {
            device.interference.mend();
        }
        self.bury().await?;
        self.later.clear();
        let (gossip, is_parted) = (self.plan.gossip, self.is_parted());
        self.apart = false;
        self.conditions(move |conditions: &mut Conditions| {
            conditions.heal();
            conditions.hung.clear();
            if is_parted {
                conditions.unlinked.clear();
            }
            conditions.link = Link::default();
            conditions.gossip = gossip;
        })
        .await;
        // Whoever was ahead is waited for.
        let wait_ms = self.ahead_ms + 600_000;
        self.skip_ms(wait_ms);
        for at in 0..self.devices.len() {
            self.devices[at].node.skew_ms(self.skipped_ms);
            if self.devices[at].interference.reached().1 > 0 {
                self.sometimes.reach("a disk failed and recovered");
            }
            if self.devices[at].standing == Standing::Out {
                self.stop(at).await;
            } else {
                self.start(at).await?;
            }
        }
        for at in 0..self.devices.len() {
            if self.devices[at].standing == Standing::Alone {
                self.join_at_last(at).await?;
            }
        }
        Ok(())
    }

    fn is_linked(&self, a: usize, b: usize) -> bool {
        a != b && (self.is_parted() || self.plan.topology.links(self.plan.nodes, a, b))
    }

    /// Whether a device that was removed is the only way between others. One that joined later is no way: those who have
    /// not heard of its admission do not let it in.
    fn is_parted(&self) -> bool {
        let stays = |at: &usize| self.devices[*at].standing != Standing::Out && !self.devices[*at].is_anew;
        let stay: Vec<usize> = (0..self.plan.nodes).filter(stays).collect();
        let mut reached: BTreeSet<usize> = stay.first().copied().into_iter().collect();
        for _ in &stay {
            let more = stay
                .iter()
                .copied()
                .filter(|to| reached.iter().any(|from| self.plan.topology.links(self.plan.nodes, *from, *to)));
            reached = more.chain(reached.iter().copied()).collect();
        }
        reached.len() < stay.len()
    }

    async fn join_at_last(&mut self, at: usize) -> Result<(), Violation> {
        for attempt in 0..JOINS_MAX {
            self.until(Instant::now() + Duration::from_secs(5 * (1 + attempt as u64))).await?;
            let near = self.up().into_iter().filter(|inviter| self.is_linked(at, *inviter)).collect::<Vec<_>>();
            let Some(inviter) = near.get(attempt % near.len().max(1)).copied() else { continue };
            if self.join(at, inviter).await? {
                self.sometimes.reach("a join failed and succeeded later");
                return Ok(());
            }
        }
        Err(Violation::new("joining", format!("{} cannot join on a mended network", name(at))))
    }

    /// Waits until all members are equally far.
    pub(super) async fn equal_within(&mut self, limit: Duration) -> Result<(), Violation> {
        let (begun, mut wait_ms) = (Instant::now(), LOOK_MS_MIN);
        loop {
            let Some(obstacle) = self.unequal().await? else { return Ok(()) };
            if begun.elapsed() > limit {
                return Err(Violation::new("liveness", format!("not equal within {limit:?}: {obstacle}")));
            }
            self.until(Instant::now() + Duration::from_millis(wait_ms)).await?;
            wait_ms = (wait_ms * 3 / 2).min(LOOK_MS_MAX);
        }
    }

    /// Along which stream two members are not equally far.
    async fn unequal(&mut self) -> Result<Option<String>, Violation> {
        let mut first: Option<(usize, Sample)> = None;
        for at in self.members() {
            let Some(sample) = self.look(at).await? else { return Ok(Some(format!("{} does not run", name(at)))) };
            let Some((other, expected)) = &first else {
                first = Some((at, sample));
                continue;
            };
            if sample.statements != expected.statements {
                return Ok(Some(format!("{} and {} hold other membership statements", name(at), name(*other))));
            }
            if sample.marks != expected.marks {
                let (here, there) = (sample.marks.lacking(&expected.marks), expected.marks.lacking(&sample.marks));
                return Ok(Some(format!(
                    "{} lacks {here} changes that {} has, and the other way round {there}",
                    name(at),
                    name(*other)
                )));
            }
        }
        Ok(None)
    }

    /// Waits until all members are equal and quiet.
    pub(super) async fn settle(&mut self) -> Result<(), Violation> {
        let begun = Instant::now();
        self.equal_within(QUIET_TIME_MAX).await?;
        let mut wait_ms = LOOK_MS_MIN;
        for at in self.members() {
            while let Some(unrest) = unrest(&self.devices[at].node).await {
                if begun.elapsed() > QUIET_TIME_MAX {
                    let nodes: Vec<_> = self.members().iter().map(|at| self.devices[*at].node.clone()).collect();
                    let differs = difference(&nodes).await.unwrap_or_default();
                    let detail = format!("not quiet within {QUIET_TIME_MAX:?}: {unrest}\n{differs}");
                    return Err(Violation::new("liveness", detail));
                }
                self.until(Instant::now() + Duration::from_millis(wait_ms)).await?;
                wait_ms = (wait_ms * 3 / 2).min(LOOK_MS_MAX);
            }
        }
        self.equal_within(QUIET_TIME_MAX).await?;
        self.note(format!("quiet after {:?}", begun.elapsed()));
        Ok(())
    }

    /// All members hold the same, and that is what was written.
    pub(super) async fn judge(&mut self, trace: &mut blake3::Hasher) -> Result<(), Violation> {
        let (members, mut first) = (self.members(), None::<Held>);
        for at in members.clone() {
            self.sound(at).await?;
            self.nothing_to_repair(at).await?;
            let node = self.devices[at].node.clone();
            let Some(held) = Held::take(&node).await else {
                return Err(Violation::new("liveness", format!("{} cannot be read", node.name())));
            };
            let promised = self.cluster.network().promises(held.sample.library, held.device).await;
            self.acked.look(&held.sample)?;
            kept_promises(&held.sample, &promised)?;
            self.whole(&held)?;
            agrees_so_far(&held, &self.reference)?;
            self.knows_deletes(&held)?;
            let conflicts = node.conflicts().await;
            conflicts_agree(node.name(), &conflicts, &self.applied(&held), node.latest_wall_ms())?;
            trace.update(held.hash().as_bytes());
            match &first {
                None => {
                    for owner in members.iter().filter_map(|member| self.devices[*member].id) {
                        self.expected.judge(owner.1, &held)?;
                    }
                    first = Some(held);
                }
                Some(first) => same(first, &held)?,
            }
        }
        let tallies = self.cluster.report().await.tallies;
        match tallies.iter().find(|(_, tally)| tally.oversized > 0) {
            None => Ok(()),
            Some((node, tally)) => Err(Violation::new("oversized", format!("{} of {}", tally.oversized, name(*node)))),
        }
    }

    /// The reference of what a device has.
    fn applied(&self, held: &Held) -> crate::reference::Reference {
        let marks = held.sample.marks.of_kind(starling_schema::stream::StreamKind::Shared);
        self.reference.through(&marks.iter().map(|(stream, through)| (stream.origin, through)).collect())
    }
}

/// Two devices hold the same.
fn same(one: &Held, two: &Held) -> Result<(), Violation> {
    for (a, b) in [(&one.owned, &two.owned), (&one.shared, &two.shared), (&one.membership, &two.membership)] {
        let at = a.iter().zip(b.iter()).position(|(a, b)| a != b);
        let at = at.or_else(|| (a.len() != b.len()).then_some(a.len().min(b.len())));
        if let Some(at) = at {
            let shown = |lines: &[String]| lines.get(at).cloned().unwrap_or_else(|| "nothing".to_owned());
            let detail = format!(
                "{}: {} of {} lines\n{}: {} of {} lines",
                one.name,
                shown(a),
                a.len(),
                two.name,
                shown(b),
                b.len()
            );
            return Err(Violation::new("equality", detail));
        }
    }
    Ok(())
}
