//! The heartbeats actor: says how far this device durably is, passes on what others said, and prunes what every
//! member has acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use actix::prelude::*;
use starling_schema::codec;
use starling_schema::ids::{DeviceId, LibraryId};
use starling_schema::key::DeviceSecret;
use starling_schema::signed::{Beacon, Signed, StatementId};
use starling_schema::stream::{Stream, StreamKind, Watermarks};
use starling_schema::wire::{GOSSIP_BYTES_MAX, Heartbeat, SyncEnvelope, SyncPayload};

use crate::alarm::Alarm;
use crate::backfill_buffer::{BackfillBuffer, PeerMarks};
use crate::counters::Counters;
use crate::environment::Environment;
use crate::links::halts;
use crate::network::Publish;
use crate::planted::{self, Bug};
use crate::proto::heartbeat::{BeaconError, Beacons, HeartbeatSchedule, Offered, Said, Use};
use crate::proto::membership::Membership;
use crate::proto::purge::Coverage;
use crate::retry_queue::{Acked, RetryQueue};
use crate::rig::{Limit, Point, Timer};
use crate::session::{Beat, tell};
use crate::store::ledger::{self, Note};
use crate::transactions::{Advanced, Keep, Prune, Transactions};

/// Messages that wait; a lost heartbeat is followed by another.
const MAILBOX: usize = 256;

/// How long after news beacons are stored and logs pruned; both only save work, so they may lag.
const UPKEEP_MS: u64 = 2_000;

/// The most beacons of one heartbeat; where there are more, they take turns.
const BEACONS_MAX: usize = 32;

/// The most bytes of them: with what is around them they fit a request of 64 KiB.
const BEACONS_BYTES_MAX: usize = 60 * 1024;

/// What a member said again without having moved is passed on this long after the last time: it lives.
const PASS_ON_MS: u64 = 10 * 60 * 1_000;

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

/// What each connected peer has of each member: the number of a beacon and the name of the whole one.
type Shared = BTreeMap<(DeviceId, DeviceId), (u64, Option<StatementId>)>;

/// Owns the acks of every member.
pub(crate) struct Heartbeats {
    device: DeviceId,
    secret: DeviceSecret,
    library: LibraryId,
    environment: Environment,
    transactions: Addr<Transactions>,
    retry: Addr<RetryQueue>,
    buffer: Addr<BackfillBuffer>,
    counters: Counters,
    publish: Option<Recipient<Publish>>,
    sessions: BTreeMap<DeviceId, (u64, Recipient<Beat>)>,
    /// By what went between us.
    shared: Shared,
    /// Of whom we lack the whole beacon that a newer one adds to.
    lacking: BTreeSet<DeviceId>,
    /// Whether there is something that the last broadcast did not say.
    has_news: bool,
    /// Whether our next beacon is whole: what we said in an earlier life may not be what others have.
    says_all: bool,
    membership: Membership,
    beacons: Beacons,
    schedule: HeartbeatSchedule,
    next_beat: Alarm,
    next_upkeep: Alarm,
    durable: Watermarks,
    number: u64,
    heard_at_ms: BTreeMap<DeviceId, u64>,
    /// Since when this device knows of members, in milliseconds since 1970: what counts of those never heard.
    known_since_ms: KnownSince,
    /// Whether that is to be stored.
    met: bool,
    /// Of whom something new is to be stored, and the whole beacon that is stored already.
    unsaved: BTreeSet<DeviceId>,
    saved_wholes: BTreeMap<DeviceId, StatementId>,
    pruned: Watermarks,
}

/// What the actor starts from.
pub(crate) struct HeartbeatsStart {
    pub(crate) secret: DeviceSecret,
    pub(crate) environment: Environment,
    pub(crate) transactions: Addr<Transactions>,
    pub(crate) retry: Addr<RetryQueue>,
    pub(crate) buffer: Addr<BackfillBuffer>,
    pub(crate) counters: Counters,
    pub(crate) membership: Membership,
    /// The stored beacons and when each was heard.
    pub(crate) stored: Vec<(Signed, u64)>,
    /// Since when each member is known.
    pub(crate) known_since_ms: KnownSince,
}

impl Heartbeats {
    pub(crate) fn new(start: HeartbeatsStart) -> Self {
        let HeartbeatsStart {
            secret,
            environment,
            transactions,
            retry,
            buffer,
            counters,
            membership,
            stored,
            known_since_ms,
        } = start;
        let (mut beacons, mut heard_at_ms) = (Beacons::default(), BTreeMap::new());
        for (signed, at_ms) in stored {
            // Whole ones come first.
            if let Ok(Offered { author, .. }) = beacons.offer(signed, None, &membership) {
                let heard = heard_at_ms.entry(author).or_insert(at_ms);
                *heard = at_ms.max(*heard);
            }
        }
        let number = beacons.of(secret.device()).map_or(0, Said::number);
        let saved_wholes = beacons.iter().map(|(member, said)| (member, said.whole())).collect();
        let schedule = HeartbeatSchedule::new(environment.uptime_ms(), environment.fraction());
        Self {
            device: secret.device(),
            library: membership.library(),
            secret,
            environment,
            transactions,
            retry,
            buffer,
            counters,
            publish: None,
            sessions: BTreeMap::new(),
            shared: BTreeMap::new(),
            lacking: BTreeSet::new(),
            has_news: true,
            says_all: true,
            membership,
            beacons,
            schedule,
            next_beat: Alarm::default(),
            next_upkeep: Alarm::default(),
            durable: Watermarks::new(),
            number,
            heard_at_ms,
            known_since_ms,
            met: false,
            unsaved: BTreeSet::new(),
            saved_wholes,
            pruned: Watermarks::new(),
        }
    }

    /// There is news: the next heartbeat is due soon, and upkeep after it.
    fn changed(&mut self, ctx: &mut Context<Self>) {
        self.has_news = true;
        self.schedule.changed(self.environment.uptime_ms(), self.environment.fraction());
        self.arm(ctx);
    }

    fn arm(&mut self, ctx: &mut Context<Self>) {
        let due_ms = self.schedule.next_due();
        self.next_beat.set((Timer::Beacon, Some(due_ms)), &self.environment, ctx, Self::tick);
        self.next_upkeep.within((Timer::Prune, UPKEEP_MS), &self.environment, ctx, Self::upkeep);
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        if self.schedule.is_due(self.environment.uptime_ms(), self.environment.fraction())
            && self.durable != Watermarks::new()
        {
            self.beat();
        }
        self.arm(ctx);
    }

    /// Says how far we are: what is new to everybody by gossip, and all to each connected peer directly.
    fn beat(&mut self) {
        self.environment.reach(Point::BeforeAck);
        // A crash may have forgotten the last numbers, so the wall clock keeps them rising.
        self.number = (self.number + 1).max(self.environment.wall_ms());
        let (since, durable) = if std::mem::take(&mut self.says_all) {
            (None, self.durable.clone())
        } else {
            self.beacons.next(self.device, &self.durable)
        };
        let beacon =
            Beacon { library: self.library, author: self.secret.public(), number: self.number, since, durable };
        let own = match Signed::new(&beacon, &self.secret) {
            Ok(own) => own,
            Err(error) => return tracing::error!(%error, "the heartbeat does not fit"),
        };
        // What it says of ourselves is no news.
        drop(self.take(own.clone(), None, self.device));
        let membership = self.membership.digest();
        let lacks: Vec<DeviceId> = self.lacking.iter().copied().take(BEACONS_MAX).collect();
        let payload = SyncPayload::Heartbeat(Heartbeat { beacons: vec![own], lacks: Vec::new(), membership });
        // What is said again goes to those who are connected; once a minute everybody hears it.
        let is_broadcast = std::mem::take(&mut self.has_news) || self.schedule.rests();
        if let Some(publish) = self.publish.as_ref().filter(|_| is_broadcast && !self.sessions.is_empty()) {
            let envelope = SyncEnvelope {
                library: self.library,
                device: self.device,
                timestamp_ms: self.environment.wall_ms(),
                payload,
            };
            match envelope.encode(GOSSIP_BYTES_MAX).map(|bytes| publish.try_send(Publish(bytes))) {
                Ok(Ok(())) => self.counters.gossip_out(1),
                Ok(Err(_)) => tracing::debug!("the network is behind: this heartbeat goes directly only"),
                Err(error) => tracing::debug!(%error, "this heartbeat goes directly only"),
            }
        }
        for (peer, (_, session)) in self.sessions.clone() {
            let (beacons, lacks) = (self.news_for(peer), lacks.clone());
            let payload = SyncPayload::Heartbeat(Heartbeat { beacons, lacks, membership });
            if session.try_send(Beat(payload)).is_err() {
                self.shared.retain(|(with, _), _| *with != peer);
            }
        }
        self.environment.reach(Point::AfterAck);
    }

    /// Our own beacon, and those of others that the peer may not have; also of the peer itself, when it says one with a
    /// lower number than it had. A whole one goes along where the peer may not have that.
    fn news_for(&mut self, peer: DeviceId) -> Vec<Signed> {
        let has = |member, shared: &Shared| shared.get(&(peer, member)).copied().unwrap_or_default();
        let is_due = |member: DeviceId, said: &Said| {
            let (had, _) = has(member, &self.shared);
            member == self.device || said.moved() > had || said.number() > had.saturating_add(PASS_ON_MS)
        };
        let said = self.beacons.iter().filter(|(member, said)| is_due(*member, said));
        let mut due: Vec<DeviceId> = said.map(|(member, _)| member).collect();
        // Where there are more than fit, all have their turn; our own comes first.
        if due.len() > BEACONS_MAX {
            let turn = usize::try_from(self.number).unwrap_or(0) % due.len();
            due.rotate_left(turn);
        }
        due.sort_by_key(|member| *member != self.device);
        let (mut news, mut bytes) = (Vec::new(), 0);
        for member in due {
            let Some(said) = self.beacons.of(member) else { continue };
            let whole = Some(said.whole());
            let held = usize::from(has(member, &self.shared).1 == whole && said.signed().count() > 1);
            let parts: Vec<Signed> = said.signed().skip(held).cloned().collect();
            bytes += parts.iter().map(|signed| signed.bytes.len() + signed.signature.len()).sum::<usize>();
            if !news.is_empty() && (bytes > BEACONS_BYTES_MAX || news.len() + parts.len() > BEACONS_MAX) {
                break;
            }
            news.extend(parts);
            self.shared.insert((peer, member), (said.number(), whole));
        }
        news
    }

    /// Takes a beacon in, whoever carries it. Gives how far another member says that it is, if that is news.
    fn take(&mut self, signed: Signed, along: Option<&Signed>, from: DeviceId) -> Option<(DeviceId, Watermarks)> {
        let offered = match self.beacons.offer(signed, along, &self.membership) {
            Ok(offered) => offered,
            // Whoever passes on a beacon may not know yet that its author was removed.
            Err(error @ BeaconError::NotAMember(_)) => {
                tracing::debug!(%error, "a beacon was passed over");
                return None;
            }
            Err(error) => {
                self.counters.messages_refused(1);
                tracing::warn!(%error, "a beacon was refused");
                return None;
            }
        };
        let Offered { author: member, number, whole, serves } = offered;
        let known = self.shared.entry((from, member)).or_default();
        if member == from || number >= known.0 {
            *known = (number, Some(whole));
        }
        if member == self.device && number > self.number {
            // One of our own that we forgot: numbers go on above it, or nobody would listen to us.
            self.says_all = true;
            self.number = number;
        }
        let durable = match serves {
            Use::News(durable) => durable,
            Use::Old => return None,
            Use::Lacking => {
                self.lacking.extend((member != self.device).then_some(member));
                return None;
            }
        };
        if planted::is(Bug::AckOverGap) {
            self.durable.join(&durable);
        }
        self.lacking.remove(&member);
        self.heard_at_ms.insert(member, self.environment.wall_ms());
        self.unsaved.insert(member);
        (member != self.device).then_some((member, durable))
    }

    /// Stores beacons and prunes logs.
    fn upkeep(&mut self, ctx: &mut Context<Self>) {
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
    fn meet(&mut self) {
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

impl Actor for Heartbeats {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.environment.limit(Limit::Mailbox, MAILBOX));
        self.meet();
        self.arm(ctx);
    }
}

halts!(Heartbeats);

/// The network is there.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct PublishTo(pub(crate) Recipient<Publish>);

impl Handler<PublishTo> for Heartbeats {
    type Result = ();

    fn handle(&mut self, PublishTo(publish): PublishTo, _: &mut Self::Context) {
        self.publish = Some(publish);
    }
}

impl Handler<Advanced> for Heartbeats {
    type Result = ();

    fn handle(&mut self, news: Advanced, ctx: &mut Self::Context) {
        let acked = if planted::is(Bug::AckBeforeFlush) { news.applied } else { news.durable };
        if self.durable != acked {
            self.durable = acked;
            self.changed(ctx);
        }
    }
}

/// A heartbeat came from a peer.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Heard {
    pub(crate) from: DeviceId,
    pub(crate) beacons: Vec<Signed>,
    /// Of whom it lacks the whole beacon.
    pub(crate) lacks: Vec<DeviceId>,
}

impl Handler<Heard> for Heartbeats {
    type Result = ();

    fn handle(&mut self, Heard { from, beacons, lacks }: Heard, ctx: &mut Self::Context) {
        // One message for all: of several, the same ones would be lost again and again where mailboxes are full.
        let lacking = self.lacking.len();
        let mut news = Vec::new();
        for (at, beacon) in beacons.iter().enumerate() {
            let along = at.checked_sub(1).map(|before| &beacons[before]);
            news.extend(self.take(beacon.clone(), along, from));
        }
        if !news.is_empty() {
            let acked = |member| {
                let said = |kind| {
                    let stream = Stream { kind, origin: self.device };
                    self.beacons.of(member).map(|said| (stream, said.get(stream)))
                };
                [StreamKind::State, StreamKind::Shared].into_iter().filter_map(said).collect()
            };
            tell(&self.retry, Acked(news.iter().map(|(member, _)| (*member, acked(*member))).collect()));
            tell(&self.buffer, PeerMarks(news));
        }
        let mut helps = self.lacking.len() > lacking;
        for member in lacks {
            self.says_all |= member == self.device;
            helps |= self.shared.remove(&(from, member)).is_some() && self.beacons.of(member).is_some();
        }
        if helps {
            self.changed(ctx);
        }
        self.arm(ctx);
    }
}

/// The membership is this from now on.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct MembershipIs(pub(crate) Membership);

impl Handler<MembershipIs> for Heartbeats {
    type Result = ();

    fn handle(&mut self, MembershipIs(membership): MembershipIs, ctx: &mut Self::Context) {
        if planted::is(Bug::RemovedHoldsLog) && membership.members().len() < self.membership.members().len() {
            return;
        }
        self.beacons.retain_members(&membership);
        self.lacking.retain(|member| membership.is_member(*member));
        self.shared.retain(|(with, member), _| membership.is_member(*with) && membership.is_member(*member));
        self.membership = membership;
        self.meet();
        self.changed(ctx);
    }
}

/// A peer is connected: it gets heartbeats.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct HeartbeatUp {
    pub(crate) peer: DeviceId,
    pub(crate) serial: u64,
    pub(crate) beat: Recipient<Beat>,
}

impl Handler<HeartbeatUp> for Heartbeats {
    type Result = ();

    fn handle(&mut self, HeartbeatUp { peer, serial, beat }: HeartbeatUp, ctx: &mut Self::Context) {
        self.sessions.insert(peer, (serial, beat));
        self.shared.retain(|(with, _), _| *with != peer);
        self.changed(ctx);
    }
}

/// A peer is gone.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct HeartbeatDown {
    pub(crate) peer: DeviceId,
    pub(crate) serial: u64,
}

impl Handler<HeartbeatDown> for Heartbeats {
    type Result = ();

    fn handle(&mut self, HeartbeatDown { peer, serial }: HeartbeatDown, _: &mut Self::Context) {
        if self.sessions.get(&peer).is_some_and(|(newest, _)| *newest == serial) {
            self.sessions.remove(&peer);
        }
    }
}

/// A heartbeat to a peer was not answered: what it said may not be known there.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct BeatLost(pub(crate) DeviceId);

impl Handler<BeatLost> for Heartbeats {
    type Result = ();

    fn handle(&mut self, BeatLost(peer): BeatLost, _: &mut Self::Context) {
        self.shared.retain(|(with, _), _| *with != peer);
    }
}

/// What is known of every member: how far it durably is, and when it was heard of, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Acks")]
pub(crate) struct AskAcks;

/// The answer to [`AskAcks`].
#[derive(Clone, Debug, Default, MessageResponse)]
pub(crate) struct Acks(pub(crate) BTreeMap<DeviceId, (Watermarks, u64)>);

impl Handler<AskAcks> for Heartbeats {
    type Result = Acks;

    fn handle(&mut self, _: AskAcks, _: &mut Self::Context) -> Acks {
        let heard_at_ms = |member| self.heard_at_ms.get(&member).copied().unwrap_or(0);
        let known = self.beacons.iter().map(|(member, said)| (member, (said.durable(), heard_at_ms(member))));
        Acks(known.collect())
    }
}

/// How far the members that count are, in shared streams.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Covered")]
pub(crate) struct AskCoverage;

/// The answer to [`AskCoverage`].
#[derive(Clone, Debug, MessageResponse)]
pub(crate) struct Covered(pub(crate) Coverage);

impl Handler<AskCoverage> for Heartbeats {
    type Result = Covered;

    fn handle(&mut self, _: AskCoverage, _: &mut Self::Context) -> Covered {
        // Silent members too: one that does not know of a delete may make the record anew, and what it then shows must
        // not depend on who has let go of the old fields.
        let others: Vec<DeviceId> =
            self.membership.members().keys().copied().filter(|member| *member != self.device).collect();
        let of = |member: DeviceId| self.beacons.of(member).map(|said| said.durable().of_kind(StreamKind::Shared));
        let ours = self.durable.of_kind(StreamKind::Shared);
        let mut any = ours.clone();
        for marks in others.iter().filter_map(|member| of(*member)) {
            any.join(&marks);
        }
        let least = |stream| others.iter().map(|member| of(*member).map_or(0, |marks| marks.get(stream))).min();
        let all = any.iter().map(|(stream, _)| {
            let ours = ours.get(stream);
            (stream, least(stream).map_or(ours, |least| least.min(ours)))
        });
        Covered(Coverage { all: all.collect(), any })
    }
}
