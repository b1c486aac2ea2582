//! The heartbeats actor: says how far this device durably is, passes on what others said, and prunes what every
//! member has acknowledged.

pub(crate) mod acks;
pub(crate) mod upkeep;

use std::collections::{BTreeMap, BTreeSet};

use actix::prelude::*;
use starling_schema::ids::{DeviceId, LibraryId};
use starling_schema::key::DeviceSecret;
use starling_schema::signed::{Beacon, Signed, StatementId};
use starling_schema::stream::{Stream, StreamKind, Watermarks};
use starling_schema::wire::{GOSSIP_BYTES_MAX, Heartbeat, SyncEnvelope, SyncPayload};

use self::upkeep::{KnownSince, UPKEEP_MS};
use crate::alarm::Alarm;
use crate::backfill_buffer::{BackfillBuffer, PeerMarks};
use crate::counters::Counters;
use crate::environment::Environment;
use crate::links::halts;
use crate::network::Publish;
use crate::planted::{self, Bug};
use crate::proto::beacons::{BeaconError, Beacons, Offered, Said, Use};
use crate::proto::heartbeat::HeartbeatSchedule;
use crate::proto::membership::Membership;
use crate::proto::spread::{BEACONS_MAX, Spread};
use crate::retry_queue::{Acked, RetryQueue};
use crate::rig::{Limit, Point, Timer};
use crate::session::{Beat, tell};
use crate::transactions::{Advanced, Transactions};

/// Messages that wait; a lost heartbeat is followed by another.
const MAILBOX: usize = 256;

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
    /// What each connected peer has of what members said.
    spread: Spread,
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
            spread: Spread::default(),
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
            let beacons = self.spread.next_for(peer, self.device, &self.beacons, self.number);
            let lacks = lacks.clone();
            let payload = SyncPayload::Heartbeat(Heartbeat { beacons, lacks, membership });
            if session.try_send(Beat(payload)).is_err() {
                self.spread.forget(peer);
            }
        }
        self.environment.reach(Point::AfterAck);
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
        self.spread.carried(from, member, number, whole);
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
            helps |= self.spread.lacks(from, member) && self.beacons.of(member).is_some();
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
        self.spread.retain_members(&membership);
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
        self.spread.forget(peer);
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
        self.spread.forget(peer);
    }
}
