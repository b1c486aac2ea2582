//! Work on a device: commits, one after the other or at once, and what the checkers make of each.

use futures::future::join_all;
use rand::Rng;
use rand::seq::IndexedRandom;
use starling::{CommitError, Conflict, Receipt, Registry};
use starling_schema::change::{Action, Write};
use starling_schema::model::Syncable;
use starling_schema::models::TagRelationship;
use starling_schema::stream::Stream;
use starling_schema::value::Value;

use super::faults::name;
use super::workload::{Work, Worker};
use super::world::{Standing, World};
use crate::check::{Sample, Violation};

/// How often a run that has too few commits tries to make more.
const TRIES_MAX: usize = 2_000;

/// The same edit of shared records with other texts; none when it is anything else.
fn other_values(writes: &[Write]) -> Option<Vec<Write>> {
    let registry = Registry::default();
    let twin = |write: &Write| {
        let Action::Patch(fields) = &write.action else { return None };
        registry.get(write.model).filter(|spec| spec.ownership.is_shared())?;
        let mut fields = fields.clone();
        for (field, value) in fields.clone().iter() {
            if let Value::Text(text) = value {
                fields.set(field, format!("{text}'"));
            }
        }
        Some(Write { action: Action::Patch(fields), ..write.clone() })
    };
    writes.iter().map(twin).collect()
}

impl World<'_> {
    /// A piece of work. A device that does not run, or belongs to nothing yet, does none.
    pub(super) async fn work(&mut self, work: &Work) -> Result<(), Violation> {
        let Some(device) = self.devices.get(work.node) else { return Ok(()) };
        if !device.is_up() || device.standing == Standing::Alone {
            return Ok(());
        }
        let node = device.node.clone();
        let conflicts = node.peer().conflicts().await.unwrap_or_default();
        if !conflicts.is_empty() {
            self.sometimes.reach("a conflict was listed");
        }
        let new_id = || node.new_id();
        let worker = Worker { device: node.id(), new_id: &new_id, conflicts: &conflicts };
        let commits = self.things.commits(work, &self.plan.mix, &worker);
        if commits.iter().flatten().any(|write| brings_back(write, &conflicts)) {
            self.sometimes.reach("a loser was brought back");
        }
        self.meddle(work).await?;
        let before = self.commits;
        let twin = commits.first().and_then(|writes| other_values(writes));
        if let Some((twin, other)) = twin.zip(self.rival(work)) {
            // Somebody else writes the same fields in the same millisecond.
            self.commit(other, vec![twin]).await?;
        }
        if work.together {
            self.commit(work.node, commits).await?;
        } else {
            for writes in commits {
                self.commit(work.node, vec![writes]).await?;
            }
        }
        let made = self.commits - before;
        self.note(format!("{work}: {made} acknowledged"));
        Ok(())
    }

    /// Another member, if one works against the worker this time.
    fn rival(&mut self, work: &Work) -> Option<usize> {
        let others: Vec<usize> = self.up().into_iter().filter(|other| *other != work.node).collect();
        others.choose(&mut self.random).copied().filter(|_| work.seed.is_multiple_of(8))
    }

    /// Now and then somebody writes a row of another device. Nothing may come of it, whatever else goes on.
    async fn meddle(&mut self, work: &Work) -> Result<(), Violation> {
        let node = self.devices[work.node].node.clone();
        let Some(write) = self.things.meddling(work, node.id()) else { return Ok(()) };
        let Some(before) = self.look(work.node).await? else { return Ok(()) };
        let peer = node.peer();
        let stream = Stream::state(before.device);
        match self.watching(work.node, async { peer.commit(vec![write]).await }).await? {
            Some(Ok(receipt)) if receipt.state_head > before.marks.get(stream) => {
                let detail = format!("{} wrote a row of another device", name(work.node));
                Err(Violation::new("ownership", detail))
            }
            // It was refused, or the row is not known there.
            _ => Ok(()),
        }
    }

    /// Makes commits at the same time.
    async fn commit(&mut self, at: usize, commits: Vec<Vec<Write>>) -> Result<(), Violation> {
        let Some(before) = self.look(at).await? else { return Ok(()) };
        let peer = self.devices[at].node.peer();
        let all = commits.clone();
        let made = join_all(all.into_iter().map(|writes| {
            let peer = peer.clone();
            async move { peer.commit(writes).await }
        }));
        let Some(made) = self.watching(at, made).await? else {
            for writes in &commits {
                self.expected.unanswered(writes);
            }
            self.note("a commit was never answered");
            return Ok(());
        };
        for (writes, outcome) in commits.iter().zip(made) {
            self.answered(at, writes, outcome, &before)?;
        }
        self.look_after(at, Some(&before)).await.map(drop)
    }

    fn answered(
        &mut self,
        at: usize,
        writes: &[Write],
        outcome: Result<Receipt, CommitError>,
        before: &Sample,
    ) -> Result<(), Violation> {
        match outcome {
            Ok(receipt) => {
                self.commits += 1;
                self.expected.acked(before.device, writes);
                self.acked.acked(before.library, before.device, receipt);
                self.extra_states(writes);
                Ok(())
            }
            Err(CommitError::Deleted { .. } | CommitError::Purged { .. } | CommitError::Busy) => Ok(()),
            // Others' changes of it, stamped from far in the future, are parked here and must come first.
            Err(CommitError::Refused { record, .. }) if before.incomplete.contains(&record) => Ok(()),
            Err(CommitError::Behind { .. }) if self.devices[at].is_older => {
                self.sometimes.reach("an older copy refused a write");
                Ok(())
            }
            Err(CommitError::Storage(error)) if self.devices[at].interference.reached().1 > 0 => {
                self.note(format!("a commit failed: {error}"));
                self.sometimes.reach("a commit was refused by a failing disk");
                Ok(())
            }
            Err(CommitError::Stopped) if !self.devices[at].is_up() => Ok(()),
            Err(error) => {
                let name = self.devices[at].name().to_owned();
                Err(Violation::new("commit", format!("{name} refused {writes:?}: {error}")))
            }
        }
    }

    fn extra_states(&mut self, writes: &[Write]) {
        for write in writes {
            if let (TagRelationship::MODEL, Action::Put(fields)) = (write.model, &write.action) {
                let edge = TagRelationship::from_fields(write.record, fields);
                if edge.parent == edge.child {
                    self.sometimes.reach("a tag was within itself");
                }
            }
        }
    }

    /// More work, when trouble prevented so much that there are too few commits.
    pub(super) async fn top_up(&mut self) -> Result<(), Violation> {
        for _ in 0..TRIES_MAX {
            if self.commits >= self.plan.ops {
                break;
            }
            let now = tokio::time::Instant::now();
            let breath_ms = self.random.random_range(1..2_000);
            self.until(now + std::time::Duration::from_millis(breath_ms)).await?;
            let up = self.up();
            let Some(node) = up.choose(&mut self.random).copied() else { continue };
            let (seed, together) = (self.random.random(), self.random.random_bool(0.2));
            self.work(&Work { node, seed, commits: 3, together, is_huge: false }).await?;
        }
        Ok(())
    }
}

/// Whether a write gives a field the value that lost there.
fn brings_back(write: &Write, conflicts: &[Conflict]) -> bool {
    let Action::Patch(fields) = &write.action else { return false };
    let is_it = |lost: &Conflict| {
        (lost.model, lost.record) == (write.model, write.record) && fields.get(lost.field) == Some(&lost.value)
    };
    conflicts.iter().any(is_it)
}
