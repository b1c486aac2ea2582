//! What heartbeats leave behind: stored beacons, pruned logs, and since when members are known.

use std::collections::BTreeMap;

use actix::prelude::*;
use starling_schema::codec;
use starling_schema::ids::DeviceId;
use starling_schema::stream::Stream;

use super::Heartbeats;
use crate::planted::{self, Bug};
use crate::rig::Point;
use crate::store::ledger::{self, Note};
use crate::transactions::{Keep, Prune};

/// How long after news beacons are stored and logs pruned; both only save work, so they may lag.
pub(super) const UPKEEP_MS: u64 = 2_000;

/// A member that nobody heard of for this long no longer keeps logs from being pruned: 30 days. It gets a snapshot
/// when it returns.
const RETENTION_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

/// Since when each member is known, in milliseconds since 1970.
pub(crate) type KnownSince = BTreeMap<DeviceId, u64>;

/// The setting that keeps it.
const KNOWN_SINCE_SETTING: &str = "known_since";

/// Its largest size: as many members as a library can have.
const KNOWN_SINCE_BYTES_MAX: usize = 128 * 1024;

/// Since when each member is known, as it was stored; a damaged note is forgotten, and members count as just met.
pub(crate) fn known_since(c: &mut diesel::SqliteConnection) -> diesel::QueryResult<KnownSince> {
    let stored = ledger::setting(c, KNOWN_SINCE_SETTING)?;
    Ok(stored.and_then(|bytes| codec::decode::<_, KNOWN_SINCE_BYTES_MAX>(&bytes).ok()).unwrap_or_default())
}

fn known_since_note(known: &KnownSince) -> Option<Note> {
    codec::encode(known, KNOWN_SINCE_BYTES_MAX).ok().map(|bytes| Note::Setting(KNOWN_SINCE_SETTING, bytes))
}

impl Heartbeats {
    /// Stores beacons and prunes logs.
    pub(super) fn upkeep(&mut self, ctx: &mut Context<Self>) {
        let unsaved = std::mem::take(&mut self.unsaved);
        let met = std::mem::take(&mut self.met).then(|| known_since_note(&self.known_since_ms));
        let mut notes: Vec<Note> = met.flatten().into_iter().collect();
        for (member, said) in self.beacons.iter().filter(|(member, _)| unsaved.contains(member)) {
            let heard_at_ms = self.heard_at_ms.get(&member).copied().unwrap_or(0);
            let is_saved = self.saved_wholes.insert(member, said.whole()) == Some(said.whole());
            let parts = said.signed().enumerate().skip(usize::from(is_saved && said.signed().count() > 1));
            notes.extend(parts.map(|(at, signed)| Note::Beacon {
                member,
                is_whole: at == 0,
                signed: signed.clone(),
                heard_at_ms,
            }));
        }
        let bounds = self.prunable();
        let transactions = self.transactions.clone();
        let work = async move {
            let mut is_kept = true;
            if !notes.is_empty()
                && let Ok(Err(error)) = transactions.send(Keep(notes)).await
            {
                tracing::warn!(%error, "beacons could not be stored");
                is_kept = false;
            }
            let pruned =
                if bounds.is_empty() { None } else { Some((transactions.send(Prune(bounds.clone())).await, bounds)) };
            (is_kept, pruned)
        };
        ctx.spawn(work.into_actor(self).map(|(is_kept, pruned), actor, _| {
            if !is_kept {
                actor.saved_wholes.clear();
            }
            if let Some((Ok(Ok(_)), bounds)) = pruned {
                actor.environment.reach(Point::AfterPrune);
                for (stream, through) in bounds {
                    actor.pruned.raise(stream, through);
                }
            }
        }));
    }

    /// Whether a member was not heard of for so long that logs no longer wait for it.
    fn is_silent(&self, member: DeviceId) -> bool {
        let heard_ms = self.heard_at_ms.get(&member).or_else(|| self.known_since_ms.get(&member));
        let now_ms = self.environment.wall_ms();
        let connected = member == self.device || self.sessions.contains_key(&member);
        !connected && heard_ms.is_some_and(|heard_ms| now_ms.saturating_sub(*heard_ms) > RETENTION_MS)
    }

    /// Notes since when members are known, and forgets who is none any more.
    pub(super) fn meet(&mut self) {
        let (now_ms, before) = (self.environment.wall_ms(), self.known_since_ms.clone());
        self.known_since_ms.retain(|member, _| self.membership.is_member(*member));
        for member in self.membership.members().keys() {
            self.known_since_ms.entry(*member).or_insert(now_ms);
        }
        self.met |= self.known_since_ms != before;
    }

    /// Per stream the number that every member durably has, where that is news.
    fn prunable(&self) -> Vec<(Stream, u64)> {
        let members: Vec<DeviceId> =
            self.membership.members().keys().copied().filter(|member| !self.is_silent(*member)).collect();
        let acked = |stream| {
            let others = members.iter().copied().filter(|member| {
                let unheard = planted::is(Bug::PruneIgnoresTheUnheard) && self.beacons.of(*member).is_none();
                *member != self.device && !unheard
            });
            let ours = self.durable.get(stream);
            if members.len() > 1 { self.beacons.acked_by_all(others, stream).min(ours) } else { ours }
        };
        self.durable
            .iter()
            .map(|(stream, _)| (stream, acked(stream)))
            .filter(|(stream, through)| *through > self.pruned.get(*stream))
            .collect()
    }
}
