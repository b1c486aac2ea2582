//! The retry queue actor: sees to it that every connected peer acknowledges our own changes, or says why not.

use std::collections::{BTreeMap, BTreeSet};

use actix::prelude::*;
use starling_schema::ids::DeviceId;
use starling_schema::stream::{Stream, StreamKind, Watermarks};

use crate::alarm::Alarm;
use crate::environment::Environment;
use crate::links::halts;
use crate::planted::{self, Bug};
use crate::proto::retry::{DeadLetter, RetryItem, RetrySchedule};
use crate::rig::{Limit, Point, Timer};
use crate::session::Push;
use crate::store::ledger::{Note, StoredLetter, StoredRetry};
use crate::transactions::{Advanced, Keep, Transactions};

/// Messages that wait: news of every peer, all of it said again later.
const MAILBOX: usize = 512;

/// Owns what connected peers have not acknowledged.
pub(crate) struct RetryQueue {
    device: DeviceId,
    schedule: RetrySchedule,
    next_send: Alarm,
    sessions: BTreeMap<DeviceId, (u64, Recipient<Push>)>,
    acked: BTreeMap<DeviceId, Watermarks>,
    /// The items that are written down: few, and only after a failure.
    stored: BTreeSet<(DeviceId, StreamKind)>,
    transactions: Addr<Transactions>,
    environment: Environment,
}

impl RetryQueue {
    pub(crate) fn new(
        device: DeviceId,
        heads: &Watermarks,
        (items, letters): (Vec<StoredRetry>, Vec<StoredLetter>),
        transactions: Addr<Transactions>,
        environment: Environment,
    ) -> Self {
        let own =
            [StreamKind::State, StreamKind::Shared].map(|kind| (kind, heads.get(Stream { kind, origin: device })));
        let now_ms = environment.uptime_ms();
        let stored = items.iter().map(|(peer, kind, ..)| (*peer, *kind)).collect();
        let items = items.into_iter().map(|(peer, kind, attempts, _, error)| RetryItem {
            peer,
            kind,
            attempts,
            due_at_ms: now_ms,
            error: Some(error),
        });
        let letters = letters.into_iter().map(|(peer, kind, through, attempts, error, at_ms)| DeadLetter {
            peer,
            kind,
            through,
            attempts,
            error,
            at_ms,
        });
        Self {
            device,
            schedule: RetrySchedule::restore(own, items, letters.filter(|_| !planted::is(Bug::DeadLettersForgotten))),
            next_send: Alarm::default(),
            sessions: BTreeMap::new(),
            acked: BTreeMap::new(),
            stored,
            transactions,
            environment,
        }
    }

    fn arm(&mut self, ctx: &mut Context<Self>) {
        self.next_send.set((Timer::Retry, self.schedule.next_due()), &self.environment, ctx, Self::tick);
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        let now_ms = self.environment.uptime_ms();
        let late = self.schedule.unanswered(now_ms);
        let notes: Vec<_> =
            late.into_iter().flat_map(|(peer, kind)| self.failed(peer, kind, "no answer came")).collect();
        if !notes.is_empty() {
            self.keep(notes, ctx);
        }
        for send in self.schedule.due(now_ms) {
            let push = Push { kind: send.kind, after: send.after };
            if self.sessions.get(&send.peer).is_none_or(|(_, session)| session.try_send(push).is_err()) {
                tracing::debug!(peer = %send.peer, "a push waits for its next turn");
            }
        }
        self.arm(ctx);
    }

    fn own(&self, marks: &Watermarks, kind: StreamKind) -> u64 {
        marks.get(Stream { kind, origin: self.device })
    }

    /// A send failed. Gives what must survive a restart.
    fn failed(&mut self, peer: DeviceId, kind: StreamKind, error: &str) -> Vec<Note> {
        let (now_ms, jitter) = (self.environment.uptime_ms(), self.environment.fraction());
        let wall_ms = self.environment.wall_ms();
        if let Some(letter) = self.schedule.failed(peer, kind, error, now_ms, jitter) {
            tracing::warn!(%peer, %error, "changes were given up for now: they are a dead letter");
            let DeadLetter { through, attempts, error, .. } = letter;
            self.environment.reach(Point::DeadLetter);
            self.stored.remove(&(peer, kind));
            return vec![
                Note::RetryDone { peer, kind },
                Note::DeadLetter { peer, kind, through, attempts, error, at_ms: wall_ms },
            ];
        }
        let Some(item) = self.schedule.items().find(|item| (item.peer, item.kind) == (peer, kind)) else {
            return Vec::new();
        };
        self.stored.insert((peer, kind));
        let due_at_ms = wall_ms + item.due_at_ms.saturating_sub(now_ms);
        vec![Note::Retry { peer, kind, attempts: item.attempts, due_at_ms, error: error.to_owned() }]
    }

    /// What must survive a restart is written down; commits that go well write nothing.
    fn keep(&self, notes: Vec<Note>, ctx: &mut Context<Self>) {
        let kept = self.transactions.send(Keep(notes)).into_actor(self);
        ctx.spawn(kept.map(|outcome, _, _| {
            if let Ok(Err(error)) = outcome {
                tracing::warn!(%error, "the retry queue could not be stored");
            }
        }));
    }
}

impl Actor for RetryQueue {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.environment.limit(Limit::Mailbox, MAILBOX));
    }
}

halts!(RetryQueue);

impl Handler<Advanced> for RetryQueue {
    type Result = ();

    fn handle(&mut self, news: Advanced, ctx: &mut Self::Context) {
        let now_ms = self.environment.uptime_ms();
        for kind in [StreamKind::State, StreamKind::Shared] {
            // What is not durable is not announced.
            self.schedule.committed(kind, self.own(&news.durable, kind), now_ms);
        }
        self.arm(ctx);
    }
}

/// A peer is connected.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct PeerUp {
    pub(crate) peer: DeviceId,
    pub(crate) serial: u64,
    pub(crate) push: Recipient<Push>,
}

impl Handler<PeerUp> for RetryQueue {
    type Result = ();

    fn handle(&mut self, PeerUp { peer, serial, push }: PeerUp, ctx: &mut Self::Context) {
        self.sessions.insert(peer, (serial, push));
        // They are sends again: what became of them is stored anew.
        let letters = self.schedule.dead_letters().filter(|letter| letter.peer == peer);
        let gone: Vec<_> = letters.map(|letter| Note::DeadLetterGone { peer, kind: letter.kind }).collect();
        if !gone.is_empty() {
            self.keep(gone, ctx);
            self.environment.reach(Point::DeadLetterRevived);
        }
        let marks = self.acked.get(&peer).cloned().unwrap_or_default();
        let acked = [StreamKind::State, StreamKind::Shared].map(|kind| (kind, self.own(&marks, kind)));
        self.schedule.connected(peer, acked, self.environment.uptime_ms());
        self.arm(ctx);
    }
}

/// A peer is gone: it catches up by itself when it is back.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct PeerDown {
    pub(crate) peer: DeviceId,
    pub(crate) serial: u64,
}

impl Handler<PeerDown> for RetryQueue {
    type Result = ();

    fn handle(&mut self, PeerDown { peer, serial }: PeerDown, ctx: &mut Self::Context) {
        if self.sessions.get(&peer).is_some_and(|(newest, _)| *newest == serial) {
            self.sessions.remove(&peer);
            self.schedule.disconnected(peer);
            self.arm(ctx);
        }
    }
}

/// Who belongs now: of others nothing is kept.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct MembersAre(pub(crate) BTreeSet<DeviceId>);

impl Handler<MembersAre> for RetryQueue {
    type Result = ();

    fn handle(&mut self, MembersAre(members): MembersAre, ctx: &mut Self::Context) {
        self.acked.retain(|peer, _| members.contains(peer));
        let waiting = self.schedule.items().map(|item| (item.peer, item.kind));
        let letters = self.schedule.dead_letters().map(|letter| (letter.peer, letter.kind));
        let kept: BTreeSet<_> = waiting.chain(letters).chain(self.stored.iter().copied()).collect();
        let mut notes = Vec::new();
        for (peer, kind) in kept.into_iter().filter(|(peer, _)| !members.contains(peer)) {
            self.schedule.forget(peer);
            self.stored.remove(&(peer, kind));
            notes.extend([Note::RetryDone { peer, kind }, Note::DeadLetterGone { peer, kind }]);
        }
        if !notes.is_empty() {
            self.keep(notes, ctx);
            self.arm(ctx);
        }
    }
}

/// Peers say how far they are.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Acked(pub(crate) Vec<(DeviceId, Watermarks)>);

impl Handler<Acked> for RetryQueue {
    type Result = ();

    fn handle(&mut self, Acked(news): Acked, ctx: &mut Self::Context) {
        let now_ms = self.environment.uptime_ms();
        let before: BTreeSet<_> = self.schedule.dead_letters().map(|letter| (letter.peer, letter.kind)).collect();
        let both = |peer| [StreamKind::State, StreamKind::Shared].map(|kind| (peer, kind));
        let sends: Vec<_> = news.iter().flat_map(|(peer, _)| both(*peer)).collect();
        for (peer, marks) in news {
            for (peer, kind) in both(peer) {
                self.schedule.acked(peer, kind, self.own(&marks, kind), now_ms);
            }
            // Of streams of others nothing is kept: a peer may name any number of them.
            let acked = self.acked.entry(peer).or_default();
            for kind in [StreamKind::State, StreamKind::Shared] {
                let stream = Stream { kind, origin: self.device };
                acked.raise(stream, marks.get(stream));
            }
        }
        self.arm(ctx);
        let waiting: BTreeSet<_> = self.schedule.items().map(|item| (item.peer, item.kind)).collect();
        let letters: BTreeSet<_> = self.schedule.dead_letters().map(|letter| (letter.peer, letter.kind)).collect();
        let mut notes = Vec::new();
        for (peer, kind) in sends {
            if !waiting.contains(&(peer, kind)) && self.stored.remove(&(peer, kind)) {
                notes.push(Note::RetryDone { peer, kind });
            }
            if before.contains(&(peer, kind)) && !letters.contains(&(peer, kind)) {
                notes.push(Note::DeadLetterGone { peer, kind });
            }
        }
        if !notes.is_empty() {
            self.keep(notes, ctx);
        }
    }
}

/// A peer pulls from us: it is not failing.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct PeerPulls(pub(crate) DeviceId);

impl Handler<PeerPulls> for RetryQueue {
    type Result = ();

    fn handle(&mut self, PeerPulls(peer): PeerPulls, ctx: &mut Self::Context) {
        self.schedule.pulling(peer, self.environment.uptime_ms());
        self.arm(ctx);
    }
}

/// A push was not acknowledged.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct PushFailed {
    pub(crate) peer: DeviceId,
    pub(crate) kind: StreamKind,
    pub(crate) error: String,
}

impl Handler<PushFailed> for RetryQueue {
    type Result = ();

    fn handle(&mut self, PushFailed { peer, kind, error }: PushFailed, ctx: &mut Self::Context) {
        let notes = self.failed(peer, kind, &error);
        if !notes.is_empty() {
            self.keep(notes, ctx);
        }
        self.arm(ctx);
    }
}

/// What waits for an ack, and what was given up.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "RetryReport")]
pub(crate) struct AskRetries;

/// The answer to [`AskRetries`].
#[derive(Clone, Debug, Default, MessageResponse)]
pub(crate) struct RetryReport {
    pub(crate) waiting: u64,
    pub(crate) letters: Vec<DeadLetter>,
}

impl Handler<AskRetries> for RetryQueue {
    type Result = RetryReport;

    fn handle(&mut self, _: AskRetries, _: &mut Self::Context) -> RetryReport {
        RetryReport {
            waiting: self.schedule.items().count() as u64,
            letters: self.schedule.dead_letters().cloned().collect(),
        }
    }
}
