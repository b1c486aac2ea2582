//! The backfill buffer actor: takes every batch that comes from peers, applies them in turn, and has sessions pull
//! what is missing.

use std::collections::{BTreeMap, BTreeSet};

use actix::prelude::*;
use futures::channel::oneshot;
use starling_schema::change::Batch;
use starling_schema::ids::DeviceId;
use starling_schema::stream::{Stream, Watermarks};
use starling_schema::wire::{PageResponse, SnapshotResponse, SnapshotScope};

use crate::alarm::Alarm;
use crate::environment::Environment;
use crate::links::halts;
use crate::proto::backfill::{Backfill, HELD_BYTES_MAX, Served, Step};
use crate::proto::clean::Clean;
use crate::proto::snapshots::BegunSnapshot;
use crate::pulling::{Pull, PullWhat};
use crate::rig::{Limit, Point, Timer};
use crate::transactions::{Advanced, Apply, ApplySnapshot, Outcome, Transactions};

/// Messages that wait. Gossip that finds the mailbox full is dropped and pulled later.
const MAILBOX: usize = 512;

/// How soon peers that rested are looked at again while something is missing.
const LOOK_AGAIN_MS: u64 = 500;

/// How long after a failed write a stream is tried again.
const STORE_RETRY_MS: u64 = 2_000;

/// Owns what is missing and who is fetching it.
pub(crate) struct BackfillBuffer {
    backfill: Backfill,
    durable: Watermarks,
    sessions: BTreeMap<DeviceId, (u64, Recipient<Pull>)>,
    waiting: BTreeMap<Stream, Vec<oneshot::Sender<(u64, u64)>>>,
    transactions: Addr<Transactions>,
    environment: Environment,
    was_complete: bool,
    next_look: Alarm,
}

impl BackfillBuffer {
    pub(crate) fn new(
        device: DeviceId,
        (applied, clean, parked): (Watermarks, Clean, Vec<(Stream, u64)>),
        begun: Vec<BegunSnapshot>,
        transactions: Addr<Transactions>,
        environment: Environment,
    ) -> Self {
        let was_complete = applied.iter().any(|(stream, _)| stream.origin != device);
        Self {
            backfill: Backfill::new(applied, clean, parked)
                .with_room(environment.limit(Limit::BufferBytes, HELD_BYTES_MAX))
                .resuming(begun),
            durable: Watermarks::new(),
            sessions: BTreeMap::new(),
            waiting: BTreeMap::new(),
            transactions,
            environment,
            was_complete,
            next_look: Alarm::default(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.environment.uptime_ms()
    }

    /// Takes a batch that was pushed; says whether it can be applied in turn.
    fn offer(&mut self, from: DeviceId, batch: Batch) -> bool {
        let (is_ahead, refused) = (self.backfill.is_ahead(&batch), self.backfill.refused());
        let in_turn = self.backfill.offer(from, batch);
        if is_ahead {
            self.environment.reach(Point::GapSeen);
        }
        if self.backfill.refused() > refused {
            self.environment.reach(Point::BufferOverflow);
        }
        in_turn
    }

    /// Does what the machine says.
    fn work(&mut self, ctx: &mut Context<Self>) {
        for step in self.backfill.steps(self.now_ms()) {
            match step {
                Step::Apply { batch, served } => self.apply(batch, served, ctx),
                Step::ApplySnapshot { page, claim } => self.apply_snapshot(*page, claim, ctx),
                Step::Fetch { peer, stream, after, clean } => {
                    if !self.ask(peer, PullWhat::Page { stream, after, clean }) {
                        self.backfill.failed(peer, stream, self.now_ms());
                    }
                }
                Step::FetchSnapshot { peer, scope, after } => {
                    if after.is_none() {
                        self.environment.reach(Point::SnapshotStarted);
                    }
                    if !self.ask(peer, PullWhat::Snapshot { scope, after }) {
                        self.backfill.snapshot_failed(peer, scope, self.now_ms());
                    }
                }
            }
        }
        let is_complete = self.backfill.missing() == 0;
        self.was_complete |= !self.sessions.is_empty() && is_complete;
        if !is_complete || self.backfill.holds() {
            self.next_look.within((Timer::RePull, LOOK_AGAIN_MS), &self.environment, ctx, Self::work);
        }
    }

    fn ask(&self, peer: DeviceId, what: PullWhat) -> bool {
        self.sessions.get(&peer).is_some_and(|(_, session)| session.try_send(Pull(what)).is_ok())
    }

    fn apply(&mut self, batch: Batch, served: Served, ctx: &mut Context<Self>) {
        let (stream, through) = (batch.stream, batch.through);
        self.environment.reach(Point::BeforeApply);
        let applying = self.transactions.send(Apply { batch, served }).into_actor(self);
        ctx.spawn(applying.map(move |outcome, actor, ctx| {
            let applied = actor.backfill.applied().get(stream);
            match outcome {
                Ok(Ok(Outcome::Applied | Outcome::Duplicate)) => actor.backfill.settled(stream, through, None),
                Ok(Ok(Outcome::Gap)) => actor.backfill.settled(stream, applied, Some(0)),
                Ok(Ok(Outcome::Parked { applied, through, full })) => {
                    actor.environment.reach(Point::Parked);
                    actor.backfill.parked(stream, applied, through, full, actor.now_ms());
                }
                Ok(Err(error)) => {
                    tracing::warn!(%stream, %error, "a batch could not be applied: it will be pulled again");
                    let wait_ms = actor.environment.wait_ms(Timer::StoreRetry, STORE_RETRY_MS);
                    actor.backfill.settled(stream, applied, Some(actor.now_ms() + wait_ms));
                }
                Err(_closed) => return ctx.stop(),
            }
            actor.answer(stream);
            actor.work(ctx);
        }));
    }

    fn apply_snapshot(&mut self, page: SnapshotResponse, claim: Watermarks, ctx: &mut Context<Self>) {
        let (scope, is_last) = (page.scope, page.through.is_none());
        self.environment.reach(Point::SnapshotPage);
        let merging = self.transactions.send(ApplySnapshot { page, claim }).into_actor(self);
        ctx.spawn(merging.map(move |outcome, actor, ctx| {
            match outcome {
                Ok(Ok(())) => {
                    actor.backfill.snapshot_settled(scope);
                    if is_last {
                        actor.environment.reach(Point::SnapshotEnded);
                    }
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "a snapshot page could not be merged: it is asked for again");
                    actor.backfill.snapshot_refused(scope, actor.now_ms());
                }
                Err(_closed) => return ctx.stop(),
            }
            actor.work(ctx);
        }));
    }

    /// Tells those who pushed how far their stream is.
    fn answer(&mut self, stream: Stream) {
        let state = (self.backfill.applied().get(stream), self.durable.get(stream));
        for waiting in self.waiting.remove(&stream).into_iter().flatten() {
            // A session that is gone waits no more.
            let _gone: Result<(), _> = waiting.send(state);
        }
    }
}

impl Actor for BackfillBuffer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.environment.limit(Limit::Mailbox, MAILBOX));
    }
}

halts!(BackfillBuffer);

/// Only these devices may ever have written anything.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct OriginsAre(pub(crate) BTreeSet<DeviceId>);

impl Handler<OriginsAre> for BackfillBuffer {
    type Result = ();

    fn handle(&mut self, OriginsAre(origins): OriginsAre, ctx: &mut Self::Context) {
        self.backfill.only(origins);
        self.work(ctx);
    }
}

/// A session can pull from now on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct SessionUp {
    pub(crate) peer: DeviceId,
    /// Tells it from earlier sessions with the same peer, whose end may be told later.
    pub(crate) serial: u64,
    pub(crate) pull: Recipient<Pull>,
}

impl Handler<SessionUp> for BackfillBuffer {
    type Result = ();

    fn handle(&mut self, SessionUp { peer, serial, pull }: SessionUp, ctx: &mut Self::Context) {
        if self.sessions.insert(peer, (serial, pull)).is_some() {
            // What the session before was asked for will never come.
            self.backfill.peer_gone(peer);
        }
        self.work(ctx);
    }
}

/// A session ended.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct SessionDown {
    pub(crate) peer: DeviceId,
    pub(crate) serial: u64,
}

impl Handler<SessionDown> for BackfillBuffer {
    type Result = ();

    fn handle(&mut self, SessionDown { peer, serial }: SessionDown, ctx: &mut Self::Context) {
        if self.sessions.get(&peer).is_some_and(|(newest, _)| *newest == serial) {
            self.sessions.remove(&peer);
            self.backfill.peer_gone(peer);
            self.work(ctx);
        }
    }
}

/// Peers say how far they are.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct PeerMarks(pub(crate) Vec<(DeviceId, Watermarks)>);

impl Handler<PeerMarks> for BackfillBuffer {
    type Result = ();

    fn handle(&mut self, PeerMarks(news): PeerMarks, ctx: &mut Self::Context) {
        for (peer, marks) in news.into_iter().filter(|(peer, _)| self.sessions.contains_key(peer)) {
            self.backfill.peer_marks(peer, &marks);
        }
        self.work(ctx);
    }
}

/// A batch came by gossip.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Offer {
    pub(crate) from: DeviceId,
    pub(crate) batch: Batch,
}

impl Handler<Offer> for BackfillBuffer {
    type Result = ();

    fn handle(&mut self, Offer { from, batch }: Offer, ctx: &mut Self::Context) {
        self.offer(from, batch);
        self.work(ctx);
    }
}

/// A batch came directly; answered with how far its stream then is, applied and durable.
#[derive(Debug, Message)]
#[rtype(result = "(u64, u64)")]
pub(crate) struct OfferDirect {
    pub(crate) from: DeviceId,
    pub(crate) batch: Batch,
}

impl Handler<OfferDirect> for BackfillBuffer {
    type Result = ResponseFuture<(u64, u64)>;

    fn handle(&mut self, OfferDirect { from, batch }: OfferDirect, ctx: &mut Self::Context) -> Self::Result {
        let (stream, through) = (batch.stream, batch.through);
        let in_turn = self.offer(from, batch);
        self.work(ctx);
        let now = (self.backfill.applied().get(stream), self.durable.get(stream));
        if !in_turn || now.0 >= through {
            return Box::pin(async move { now });
        }
        let (reply, answer) = oneshot::channel();
        self.waiting.entry(stream).or_default().push(reply);
        Box::pin(async move { answer.await.unwrap_or(now) })
    }
}

/// A page that was asked for came, or did not.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Pulled {
    pub(crate) peer: DeviceId,
    pub(crate) stream: Stream,
    pub(crate) page: Option<PageResponse>,
}

impl Handler<Pulled> for BackfillBuffer {
    type Result = ();

    fn handle(&mut self, Pulled { peer, stream, page }: Pulled, ctx: &mut Self::Context) {
        let now_ms = self.now_ms();
        match page {
            Some(page) => self.backfill.page(peer, stream, page, now_ms),
            None => self.backfill.failed(peer, stream, now_ms),
        }
        self.work(ctx);
    }
}

/// A page of a snapshot that was asked for came, or did not.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct PulledSnapshot {
    pub(crate) peer: DeviceId,
    pub(crate) scope: SnapshotScope,
    pub(crate) page: Option<SnapshotResponse>,
}

impl Handler<PulledSnapshot> for BackfillBuffer {
    type Result = ();

    fn handle(&mut self, PulledSnapshot { peer, scope, page }: PulledSnapshot, ctx: &mut Self::Context) {
        match page {
            Some(page) => self.backfill.snapshot_page(peer, page),
            None => self.backfill.snapshot_failed(peer, scope, self.now_ms()),
        }
        self.work(ctx);
    }
}

impl Handler<Advanced> for BackfillBuffer {
    type Result = ();

    fn handle(&mut self, news: Advanced, ctx: &mut Self::Context) {
        self.durable = news.durable;
        self.backfill.advanced(&news.applied);
        self.work(ctx);
    }
}

/// How far everything is.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Progress")]
pub(crate) struct AskProgress;

/// How far everything is.
#[derive(Clone, Debug, MessageResponse)]
pub(crate) struct Progress {
    pub(crate) applied: Watermarks,
    /// Changes that connected peers have and we lack.
    pub(crate) missing: u64,
    /// The same per peer.
    pub(crate) behind: BTreeMap<DeviceId, u64>,
    pub(crate) held: u64,
    /// Whether we once had everything that connected peers had.
    pub(crate) was_complete: bool,
}

impl Handler<AskProgress> for BackfillBuffer {
    type Result = Progress;

    fn handle(&mut self, _: AskProgress, _: &mut Self::Context) -> Progress {
        Progress {
            applied: self.backfill.applied().clone(),
            missing: self.backfill.missing(),
            behind: self.sessions.keys().map(|peer| (*peer, self.backfill.behind(*peer))).collect(),
            held: self.backfill.held(),
            was_complete: self.was_complete,
        }
    }
}
