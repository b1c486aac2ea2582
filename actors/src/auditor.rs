//! The auditor actor: compares records with connected peers at a low rate, repairs what silently came to differ, and
//! says so loudly.

use std::collections::BTreeSet;
use std::time::Duration;

use actix::prelude::*;
use starling_schema::ids::{DeviceId, ModelId, RecordId};
use starling_schema::wire::Cursor;

use crate::backfill_buffer::AskProgress;
use crate::comparison::{Compared, Comparison, ComparisonError, RECORDS_MAX, Repair};
use crate::events::{EventKind, Happened};
use crate::links::{Links, halts};
use crate::proto::audit::{AuditSchedule, CHECK_MS, Checked};
use crate::proto::equality::{ALL_KEYS, Difference, KeyRange, after};
use crate::proto::retry::jittered;
use crate::reader::ReadModels;
use crate::roster::{AskRoster, Roster};
use crate::session::tell;
use crate::transactions::Mend;

/// Messages that wait; what peers ask about is said again by their next check.
const MAILBOX: usize = 64;

/// The most records that one event and one line of the log name.
const NAMED_MAX: usize = 16;

/// The most differing records that are remembered, so that each is counted once: more is a library to join anew.
const OPEN_MAX: usize = 10_000;

/// The most models that peers asked about and we hold nothing of.
const HEARD_MAX: usize = 64;

/// A record that differs from a peer's.
type Open = (DeviceId, ModelId, Difference);

/// Owns what is compared with whom, and what was found.
#[derive(Default)]
pub(crate) struct Auditor {
    parts: Option<(Links, Addr<Roster>)>,
    schedule: AuditSchedule,
    /// Models that peers asked about: they may hold records of them though we do not.
    heard: BTreeSet<ModelId>,
    open: BTreeSet<Open>,
}

/// What one check did with one peer: the places that it compared, and how it ended.
struct Check {
    peer: DeviceId,
    places: Vec<(ModelId, RecordId, Compared)>,
    outcome: Checked,
    members: BTreeSet<DeviceId>,
}

impl Auditor {
    fn later(&self, ctx: &mut Context<Self>) {
        let Some((links, _)) = &self.parts else { return };
        let wait = Duration::from_millis(jittered(CHECK_MS, links.environment.fraction()));
        ctx.run_later(wait, Self::begin);
    }

    /// Checks the peer that is due, if one is.
    fn begin(&mut self, ctx: &mut Context<Self>) {
        let Some((links, roster)) = self.parts.clone() else { return };
        let asked = async move {
            let (roster, progress) = (roster.send(AskRoster).await.ok()?, links.buffer.send(AskProgress).await.ok()?);
            let models = links.readers.next().send(ReadModels).await.ok()?.ok()?;
            let members = roster.membership.members().keys().copied().collect();
            let mut sessions = roster.sessions;
            sessions.retain(|peer, _| progress.behind.get(peer) == Some(&0));
            Some((sessions, models, members))
        };
        let check = asked.into_actor(self).then(|found, actor, _| {
            let due = found.and_then(|(sessions, mut models, members)| {
                let (links, _) = actor.parts.as_ref()?;
                let connected = sessions.keys().copied().collect();
                let (peer, at) = actor.schedule.next_check(&connected, links.environment.uptime_ms())?;
                models.extend(&actor.heard);
                let session = sessions.get(&peer)?.clone();
                Some((Comparison { peer, session, readers: links.readers.clone(), members }, models, at))
            });
            async move {
                match due {
                    Some((comparison, models, at)) => Some(check(comparison, models, at).await),
                    None => None,
                }
            }
            .into_actor(actor)
        });
        ctx.spawn(check.map(|check, actor, ctx| {
            if let Some(check) = check {
                actor.checked(check, ctx);
            }
            actor.later(ctx);
        }));
    }

    /// Takes in what a check found, and has it repaired.
    fn checked(&mut self, Check { peer, places, outcome, members }: Check, ctx: &mut Context<Self>) {
        let Some((links, _)) = self.parts.clone() else { return };
        let (now_ms, jitter) = (links.environment.uptime_ms(), links.environment.fraction());
        self.schedule.checked(peer, outcome, now_ms, jitter);
        let mut repairs = Vec::new();
        for (model, from, compared) in places {
            links.counters.records_compared(compared.records as u64);
            self.note(&links, (peer, &members), model, (from, compared.through), &compared.differences);
            repairs.extend(compared.repairs);
        }
        for repair in repairs {
            let records = match &repair {
                Repair::Shared(items) => items.len(),
                Repair::Owned { rows, .. } | Repair::Left { rows, .. } => rows.len(),
            };
            let (mended, counters) = (links.transactions.send(Mend(repair)), links.counters.clone());
            ctx.spawn(mended.into_actor(self).map(move |mended, _, _| match mended {
                Ok(Ok(changed)) => {
                    counters.records_repaired(changed);
                    tracing::info!(%peer, records, changed, "records that differed were repaired from this peer");
                }
                Ok(Err(error)) => tracing::warn!(%peer, %error, "records that differ could not be repaired yet"),
                Err(_closed) => {}
            }));
        }
    }

    /// Remembers what differs in a range, and says what is new of it. Of rows that neither of the two owns that is no
    /// news: a page of rows leaves out those that its server knows to be written anew further on, so two who are equally
    /// far by way of different pages rightly differ until they are further. Only their owner can tell.
    fn note(
        &mut self,
        links: &Links,
        (peer, members): (DeviceId, &BTreeSet<DeviceId>),
        model: ModelId,
        range: KeyRange,
        found: &[Difference],
    ) {
        let is_here =
            |(whose, at, open): &Open| *whose == peer && *at == model && (range.0..=range.1).contains(&open.record);
        let before: BTreeSet<Open> = self.open.iter().filter(|open| is_here(open)).copied().collect();
        self.open.retain(|open| !before.contains(open));
        // Who owns rows settles them with everybody, and who has left settles nothing.
        self.open.retain(|(whose, at, open)| {
            let settled = open.owner == Some(peer) && *at == model && (range.0..=range.1).contains(&open.record);
            !settled && members.contains(whose) && open.owner.is_none_or(|owner| members.contains(&owner))
        });
        let now: BTreeSet<Open> = found.iter().map(|difference| (peer, model, *difference)).collect();
        let is_news =
            |difference: &Difference| difference.owner.is_none_or(|owner| owner == peer || owner == links.device);
        let new = now.difference(&before).filter(|(_, _, difference)| is_news(difference));
        let new: Vec<RecordId> = new.map(|(_, _, difference)| difference.record).collect();
        let room = OPEN_MAX.saturating_sub(self.open.len());
        self.open.extend(now.into_iter().take(room));
        for difference in found {
            // Only its owner settles it: look there next, if it is here.
            if let Some(owner) = difference.owner.filter(|owner| ![peer, links.device].contains(owner)) {
                self.schedule.look(owner, (model, difference.record));
            }
        }
        if new.is_empty() {
            return;
        }
        links.counters.records_differing(new.len() as u64);
        let (count, truncated) = (new.len(), new.len() > NAMED_MAX);
        let records: Vec<(ModelId, RecordId)> = new.into_iter().take(NAMED_MAX).map(|record| (model, record)).collect();
        tracing::warn!(%peer, model, count, ?records, "records differ from this peer's though both had the same changes");
        tell(&links.events, Happened(EventKind::Differing { peer, records, truncated }));
    }

    /// How many records differ that only an owner who was not asked can settle.
    fn unsettled(&self) -> u64 {
        let Some((links, _)) = &self.parts else { return 0 };
        let foreign = self.open.iter().filter(|(peer, _, difference)| {
            difference.owner.is_some_and(|owner| owner != *peer && owner != links.device)
        });
        foreign.map(|(_, model, difference)| (*model, difference.record)).collect::<BTreeSet<_>>().len() as u64
    }
}

/// Compares place by place until the bound on records, the end of the round, or a failure.
async fn check(comparison: Comparison, models: BTreeSet<ModelId>, at: Cursor) -> Check {
    let (mut places, mut records) = (Vec::new(), 0);
    let mut at = if models.contains(&at.0) { Some(at) } else { next_place(&models, at.0, ALL_KEYS.1) };
    let mut failed = false;
    while let Some((model, from)) = at.filter(|_| records < RECORDS_MAX) {
        match comparison.run(model, from).await {
            Ok(compared) => {
                records += compared.records + compared.differences.len();
                at = next_place(&models, model, compared.through);
                places.push((model, from, compared));
            }
            Err(error) => {
                let peer = comparison.peer;
                if matches!(error, ComparisonError::Unequal) {
                    tracing::debug!(%peer, %error, "records are not compared now");
                } else {
                    tracing::info!(%peer, %error, "records could not be compared");
                }
                failed = true;
                break;
            }
        }
    }
    let is_clean = places.iter().all(|(_, _, compared)| compared.differences.is_empty());
    let outcome = if failed && places.is_empty() { Checked::Not } else { Checked::Through { next: at, is_clean } };
    Check { peer: comparison.peer, places, outcome, members: comparison.members }
}

/// What follows in key order; none after the last record of the last model.
fn next_place(models: &BTreeSet<ModelId>, model: ModelId, through: RecordId) -> Option<Cursor> {
    match after(through).filter(|_| through < ALL_KEYS.1) {
        Some(next) => Some((model, next)),
        None => models.range(model.checked_add(1)?..).next().map(|next| (*next, RecordId::MIN)),
    }
}

impl Actor for Auditor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

halts!(Auditor);

/// The rest of the library is there: begin.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Begin(pub(crate) Links, pub(crate) Addr<Roster>);

impl Handler<Begin> for Auditor {
    type Result = ();

    fn handle(&mut self, Begin(links, roster): Begin, ctx: &mut Self::Context) {
        self.parts = Some((links, roster));
        self.later(ctx);
    }
}

/// A peer asked us for the hash of a range.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct AskedFor {
    pub(crate) peer: DeviceId,
    pub(crate) model: ModelId,
    pub(crate) range: KeyRange,
}

impl Handler<AskedFor> for Auditor {
    type Result = ();

    fn handle(&mut self, AskedFor { peer, model, range }: AskedFor, _: &mut Self::Context) {
        if self.heard.len() < HEARD_MAX {
            self.heard.insert(model);
        }
        self.schedule.asked(peer, model, range);
    }
}

/// How many records are known to differ that only an owner who was not asked yet can settle.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "u64")]
pub(crate) struct AskUnsettled;

impl Handler<AskUnsettled> for Auditor {
    type Result = u64;

    fn handle(&mut self, _: AskUnsettled, _: &mut Self::Context) -> u64 {
        self.unsettled()
    }
}
