//! The events actor: what happened, in order, for subscribers that may come back where they left off.

use std::collections::VecDeque;
use std::time::Duration;

use actix::prelude::*;
use futures::channel::oneshot;
use starling_schema::ids::{DeviceId, ModelId, RecordId};

/// Events that are kept for those who come back: some minutes of a busy peer, a few MiB.
const KEPT_MAX: usize = 4_096;

/// The most events of one answer.
const ANSWER_MAX: usize = 512;

/// Messages that wait; an event that finds the mailbox full is lost to subscribers, who see the gap in cursors.
const MAILBOX: usize = 1_024;

/// Something that happened. Cursors rise by one.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its place in the order.
    pub cursor: u64,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum EventKind {
    /// Records changed.
    Changed {
        /// Which, some of them when they are many.
        records: Vec<(ModelId, RecordId)>,
        /// Whether there were more.
        truncated: bool,
        /// Whether a peer made the change.
        remote: bool,
    },
    /// A peer came.
    Connected(DeviceId),
    /// A peer went.
    Disconnected(DeviceId),
    /// The list of members changed.
    MembershipChanged,
    /// Somebody asked not to sync.
    Paused,
    /// Somebody asked to sync again.
    Resumed,
    /// Records differ from a peer's though both had applied the same changes: what happened to them was silent.
    Differing {
        /// Whose are different.
        peer: DeviceId,
        /// Which, some of them when they are many.
        records: Vec<(ModelId, RecordId)>,
        /// Whether there were more.
        truncated: bool,
    },
}

/// Owns the recent past.
#[derive(Debug, Default)]
pub(crate) struct Events {
    kept: VecDeque<Event>,
    last: u64,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Events {
    fn after(&self, cursor: u64) -> Result<Vec<Event>, u64> {
        let oldest = self.kept.front().map_or(self.last + 1, |event| event.cursor);
        if cursor + 1 < oldest && self.last > 0 {
            return Err(oldest);
        }
        Ok(self.kept.iter().filter(|event| event.cursor > cursor).take(ANSWER_MAX).cloned().collect())
    }
}

impl Actor for Events {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

crate::links::halts!(Events);

/// Something happened.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Happened(pub(crate) EventKind);

impl Handler<Happened> for Events {
    type Result = ();

    fn handle(&mut self, Happened(kind): Happened, _: &mut Self::Context) {
        self.last += 1;
        self.kept.push_back(Event { cursor: self.last, kind });
        if self.kept.len() > KEPT_MAX {
            self.kept.pop_front();
        }
        for waiting in self.waiting.drain(..) {
            // Who stopped waiting has its answer already.
            let _gone: Result<(), ()> = waiting.send(());
        }
    }
}

/// The events after a cursor, waiting for one as long as this; the oldest cursor that is kept when there is a gap.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Vec<Event>, u64>")]
pub(crate) struct Since {
    pub(crate) cursor: u64,
    pub(crate) wait: Duration,
}

impl Handler<Since> for Events {
    type Result = ResponseActFuture<Self, Result<Vec<Event>, u64>>;

    fn handle(&mut self, Since { cursor, wait }: Since, _: &mut Self::Context) -> Self::Result {
        let found = self.after(cursor);
        if found.as_ref().is_ok_and(Vec::is_empty) && !wait.is_zero() {
            let (wake, woken) = oneshot::channel();
            self.waiting.retain(|waiting| !waiting.is_canceled());
            self.waiting.push(wake);
            let woken = async move {
                let _timeout: Result<_, _> = tokio::time::timeout(wait, woken).await;
            };
            return Box::pin(woken.into_actor(self).map(move |(), actor, _| actor.after(cursor)));
        }
        Box::pin(fut::ready(found))
    }
}
