//! Trouble: how each fault is done to the cluster, and what is remembered of it.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use starling::JoinError;
use starling_schema::stream::Stream;
use tokio::time::Instant;

use super::faults::{Fault, name};
use super::injector::Crash;
use super::workload::Work;
use super::world::{Doubt, Later, Standing, World};
use crate::check::Violation;
use crate::sim::{Conditions, Link};

/// How long a ticket is valid.
const TICKET_TIME: Duration = Duration::from_mins(30);

/// Members that stay at least: what nobody has is lost.
const MEMBERS_MIN: usize = 2;

impl World<'_> {
    /// Does a fault, as far as there is anything to do it to.
    pub(super) async fn trouble(&mut self, fault: &Fault) -> Result<(), Violation> {
        self.note(format!("{fault}"));
        match *fault {
            Fault::Links { loss, doubled, delay_ms } => {
                let (loss, duplication) = (f64::from(loss) / 100.0, f64::from(doubled) / 100.0);
                let link = Link { delay_ms: 1..=delay_ms.max(1), loss, duplication };
                self.conditions(move |conditions| conditions.link = link).await;
            }
            Fault::Cut { from, to } => {
                self.conditions(move |conditions| {
                    conditions.cuts.insert((from, to));
                })
                .await;
            }
            Fault::Partition(ref group) => {
                let rest: Vec<_> = (0..self.devices.len()).filter(|node| !group.contains(node)).collect();
                let group = group.clone();
                self.apart = true;
                self.conditions(move |conditions| conditions.partition(&[&group, &rest])).await;
            }
            Fault::Unplug(node) => {
                self.conditions(move |conditions| {
                    conditions.down.insert(node);
                })
                .await;
            }
            Fault::Hang(node) => {
                self.conditions(move |conditions| {
                    conditions.hung.insert(node);
                })
                .await;
            }
            Fault::Wake(node) => {
                self.conditions(move |conditions| {
                    conditions.hung.remove(&node);
                })
                .await;
            }
            Fault::Heal => {
                self.apart = false;
                self.conditions(Conditions::heal).await;
            }
            Fault::Gossip(on) => {
                let on = on && self.plan.gossip;
                self.conditions(move |conditions| conditions.gossip = on).await;
            }
            Fault::Skip(hours) => self.skip(hours),
            Fault::Clock { node, off_ms } => self.clock(node, off_ms),
            ref other => return self.trouble_at_a_device(other).await,
        }
        Ok(())
    }

    async fn trouble_at_a_device(&mut self, fault: &Fault) -> Result<(), Violation> {
        match *fault {
            Fault::Kill { node, down_ms } if self.is_up(node) => {
                let copy = self.devices[node].node.copy();
                self.die(node, &copy, down_ms).await;
            }
            Fault::CrashAt { node, point, passes, down_ms } if self.is_up(node) => {
                self.devices[node].interference.crash_at(Crash { point, passes, down_ms });
            }
            Fault::PowerCut { node, after_ms, down_ms } if self.is_up(node) => {
                self.devices[node].interference.note_durable();
                let when = Instant::now() + Duration::from_millis(after_ms);
                self.later.push((when, Later::PowerCut { node, down_ms }));
            }
            Fault::Stop(node) if self.is_up(node) => self.stop(node).await,
            Fault::Start(node) if self.devices.get(node).is_some_and(|d| d.standing != Standing::Out) => {
                self.start(node).await?;
                let others: Vec<usize> = self.up().into_iter().filter(|other| *other != node).collect();
                if let Some(other) = others.choose(&mut self.random).copied().filter(|_| node.is_multiple_of(2)) {
                    self.work_during_a_snapshot(other).await?;
                }
            }
            Fault::Disk { node, fault, one_in, for_ms } if self.is_up(node) => {
                self.devices[node].interference.fail_disk(fault, one_in, Duration::from_millis(for_ms));
            }
            Fault::Join { inviter } => {
                let at = self.place();
                self.start(at).await?;
                let joined = self.join(at, inviter).await?;
                if self.random.random_bool(0.3) {
                    self.work_during_a_snapshot(inviter).await?;
                }
                // Some are never heard of again for a while: logs wait for them all the same.
                if self.is_up(at) && joined && self.random.random_bool(0.3) {
                    let (copy, down_ms) = (self.devices[at].node.copy(), self.random.random_range(10_000..2_000_000));
                    self.note(format!("{} killed just after, back after {down_ms} ms", name(at)));
                    self.die(at, &copy, down_ms).await;
                }
                return Ok(());
            }
            Fault::Remove { by, node } => return self.remove(by, node).await,
            Fault::PairAnew { node, inviter } => return self.pair_anew(node, inviter).await,
            Fault::Copy(node) if self.is_up(node) => {
                let device = &mut self.devices[node];
                device.copy = device.id.map(|id| (device.node.copy(), id));
            }
            Fault::Older(node) => return self.older(node).await,
            _ => {}
        }
        Ok(())
    }

    /// Edits in the moments in which others take a snapshot.
    async fn work_during_a_snapshot(&mut self, at: usize) -> Result<(), Violation> {
        for _ in 0..6 {
            let wait = Duration::from_millis(self.random.random_range(0..40));
            self.until(Instant::now() + wait).await?;
            let work = Work { node: at, seed: self.random.random(), commits: 1, together: false, is_huge: false };
            self.work(&work).await?;
        }
        Ok(())
    }

    fn is_up(&self, at: usize) -> bool {
        self.devices.get(at).is_some_and(super::world::Device::is_up)
    }

    pub(super) async fn conditions(&self, change: impl FnOnce(&mut Conditions) + Send + 'static) {
        self.cluster.network().change(change).await;
    }

    /// Wall clocks go on and nothing else does. Whoever is not connected meanwhile may count as silent.
    pub(super) fn skip(&mut self, hours: u64) {
        self.skip_ms(i64::try_from(hours).unwrap_or(0) * 3_600_000);
        if hours >= 30 * 24 {
            self.silent.extend(self.devices.iter().filter_map(|device| device.id).map(|(_, id)| id));
            self.silent.extend(&self.gone);
            if self.devices.iter().any(|device| device.standing == Standing::Member && !device.is_up()) {
                self.sometimes.reach("a device was away longer than logs wait");
            }
        }
    }

    pub(super) fn skip_ms(&mut self, ms: i64) {
        self.cluster.skip(Duration::from_millis(ms.unsigned_abs()));
        self.skipped_ms += ms;
    }

    pub(super) fn clock(&mut self, at: usize, off_ms: i64) {
        if let Some(device) = self.devices.get(at) {
            device.node.skew_ms(self.skipped_ms + off_ms);
            self.ahead_ms = self.ahead_ms.max(off_ms.abs());
        }
    }

    /// A process dies and leaves what is in the copy.
    pub(super) async fn die(&mut self, at: usize, copy: &crate::sim::Backup, down_ms: u64) {
        let device = &self.devices[at];
        if let Some((library, id)) = device.id {
            self.watermarks.crashed(library, id);
        }
        device.node.clone().die_to(copy).await;
        self.later.push((Instant::now() + Duration::from_millis(down_ms), Later::Start(at)));
    }

    /// Ends what is left of the processes that died in the middle of something.
    pub(super) async fn bury(&mut self) -> Result<(), Violation> {
        for at in 0..self.devices.len() {
            let device = &self.devices[at];
            if !device.interference.is_dead() || !device.node.is_running() {
                continue;
            }
            let Some((image, Crash { point, down_ms, .. })) = device.interference.take_image() else { continue };
            self.note(format!("{} crashed at {point}", name(at)));
            self.sometimes.crashed(point);
            self.die(at, &image, down_ms).await;
        }
        Ok(())
    }

    /// The power goes: what became durable since it is noted is left, the rest is lost.
    pub(super) async fn power_cut(&mut self, at: usize, down_ms: u64) -> Result<(), Violation> {
        if !self.is_up(at) {
            return Ok(());
        }
        let before = self.look(at).await?;
        let durable = self.devices[at].interference.durable();
        self.note(format!("{} loses power", name(at)));
        let copy = durable.unwrap_or_else(|| self.devices[at].node.copy());
        self.devices[at].before_cut = before.map(|before| before.marks);
        self.die(at, &copy, down_ms).await;
        Ok(())
    }

    /// A device joins through another. Says whether it is a member now.
    pub(super) async fn join(&mut self, at: usize, inviter: usize) -> Result<bool, Violation> {
        if !self.is_up(at) || !self.is_up(inviter) || self.devices[inviter].standing != Standing::Member {
            return Ok(false);
        }
        self.devices[inviter].copy = None;
        let Some(there) = self.look(inviter).await? else { return Ok(false) };
        self.joiner = Some((at, there.marks, self.prunes()));
        let peer = self.devices[inviter].node.peer();
        let Some(Ok(invitation)) = self.watching(inviter, peer.invite(TICKET_TIME)).await? else { return Ok(false) };
        let node = self.devices[at].node.clone();
        let joined = self.watching(at, async move { node.join_with(&invitation.ticket).await }).await?;
        match joined {
            // It was let in before, and died or failed before it could say so.
            Some(Ok(()) | Err(JoinError::AlreadyMember)) => {
                self.devices[at].standing = Standing::Member;
                self.note(format!("{} joined", name(at)));
                self.sometimes.reach("a device joined under faults");
                self.look(at).await?;
                Ok(true)
            }
            Some(Err(error)) => {
                self.note(format!("{} could not join: {error}", name(at)));
                if self.devices[at].node.peer().status().await.is_err() {
                    self.note(format!("{} ended by itself", name(at)));
                    self.stop(at).await;
                    self.later.push((Instant::now() + Duration::from_secs(5), Later::Start(at)));
                }
                Ok(false)
            }
            None => Ok(false),
        }
    }

    async fn remove(&mut self, by: usize, at: usize) -> Result<(), Violation> {
        let members = self.members();
        let can = by != at && members.len() > MEMBERS_MIN && self.is_up(by) && self.doubts.is_empty();
        let Some((_, id)) = self.devices.get(at).and_then(|device| device.id).filter(|_| can) else { return Ok(()) };
        if !members.contains(&by) || !members.contains(&at) {
            return Ok(());
        }
        let peer = self.devices[by].node.peer();
        // What the removed device did to the membership unheard by the other would be void.
        let known: BTreeSet<_> = peer.members().await.unwrap_or_default().into_iter().map(|member| member.id).collect();
        if !members.iter().filter_map(|member| self.devices[*member].id).all(|(_, id)| known.contains(&id)) {
            return Ok(());
        }
        match self.watching(by, peer.remove_device(id)).await? {
            Some(Ok(())) => self.is_out(by, at),
            _ => self.doubts.push(Doubt { by, at, id }),
        }
        if self.is_up(by) {
            self.resolve_doubts(by).await;
        }
        Ok(())
    }

    fn is_out(&mut self, by: usize, at: usize) {
        self.devices[at].standing = Standing::Out;
        self.devices[by].copy = None;
        self.sometimes.reach("a device was removed");
        if self.is_up(at) {
            self.sometimes.reach("a removed device went on running");
        }
    }

    /// Whether what a device was not heard about any more happened all the same.
    pub(super) async fn resolve_doubts(&mut self, by: usize) {
        let (ours, others) = self.doubts.drain(..).partition(|doubt: &Doubt| doubt.by == by);
        self.doubts = others;
        for doubt in ours {
            match self.devices[by].node.peer().members().await {
                Ok(members) if members.iter().any(|member| member.id == doubt.id) => {}
                Ok(_) => self.is_out(by, doubt.at),
                Err(_) => self.doubts.push(doubt),
            }
        }
    }

    async fn pair_anew(&mut self, at: usize, inviter: usize) -> Result<(), Violation> {
        if self.devices.get(at).is_none_or(|device| device.standing != Standing::Out) {
            return Ok(());
        }
        self.stop(at).await;
        let device = &mut self.devices[at];
        if let Some((_, id)) = device.id.take() {
            self.things.forget(id);
            self.gone.insert(id);
        }
        (device.copy, device.is_older, device.standing, device.is_anew) = (None, false, Standing::Alone, true);
        device.node.wipe();
        self.start(at).await?;
        if self.join(at, inviter).await? {
            self.sometimes.reach("a removed device came back as a new one");
        }
        Ok(())
    }

    /// A device gets an older database back, if the others durably have all that it wrote: what nobody else has is
    /// lost with the disk, and no peer can help that.
    async fn older(&mut self, at: usize) -> Result<(), Violation> {
        let Some((copy, id)) = self.devices.get_mut(at).and_then(|device| device.copy.take()) else { return Ok(()) };
        let (library, own) = id;
        if self.devices[at].id != Some(id) || !self.is_up(at) || self.devices.iter().any(|device| device.is_older) {
            return Ok(());
        }
        let Some(sample) = self.look(at).await? else { return Ok(()) };
        let others: Vec<_> = self.members().into_iter().filter(|other| *other != at).collect();
        for other in &others {
            let Some((_, other)) = self.devices[*other].id else { return Ok(()) };
            let has = self.cluster.network().promises(library, other).await;
            let behind = [Stream::state(own), Stream::shared(own)]
                .into_iter()
                .any(|stream| has.get(stream) < sample.marks.get(stream));
            if behind {
                self.note("not done: others lack what it wrote");
                return Ok(());
            }
        }
        if others.is_empty() {
            return Ok(());
        }
        self.stop(at).await;
        self.watermarks.crashed(library, own);
        self.pruning.forget(library, own);
        self.devices[at].node.restore_database(&copy);
        self.devices[at].is_older = true;
        self.start(at).await?;
        // Somebody works on it before anything came back.
        if self.random.random_bool(0.5) {
            let work = Work { node: at, seed: self.random.random(), commits: 2, together: false, is_huge: false };
            self.work(&work).await?;
        }
        Ok(())
    }
}
