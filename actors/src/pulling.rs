//! Pulling: a session asks its peer for a page, judges what comes, and hands it to the backfill buffer.

use actix::prelude::*;
use futures::FutureExt as _;
use starling_schema::change::MalformedBatch;
use starling_schema::stream::{Stream, StreamKind};
use starling_schema::wire::{Cursor, PageResponse, SnapshotRequest, SnapshotResponse, SnapshotScope, SyncPayload};

use crate::backfill_buffer::{Pulled, PulledSnapshot};
use crate::session::Session;

/// Pull something from this peer and hand it to the backfill buffer.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Pull(pub(crate) PullWhat);

/// What can be pulled.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PullWhat {
    Page { stream: Stream, after: u64, clean: u64 },
    Snapshot { scope: SnapshotScope, after: Option<Cursor> },
}

/// Why what a peer answered to a pull is not used. The peer is passed over for a while.
#[derive(Debug, thiserror::Error)]
enum Unsound {
    #[error("it answered {0}, which is no answer to this")]
    Payload(&'static str),
    #[error("it answered with a page of {0}, which was not asked for")]
    Stream(Stream),
    #[error(transparent)]
    Batch(#[from] MalformedBatch),
    #[error("a page of a snapshot does not hold what it says")]
    Snapshot,
}

impl Handler<Pull> for Session {
    type Result = ();

    fn handle(&mut self, Pull(what): Pull, ctx: &mut Self::Context) {
        let request = match what {
            PullWhat::Page { stream, after, clean } => SyncPayload::page_request(stream, after, clean),
            PullWhat::Snapshot { scope, after } => SyncPayload::SnapshotRequest(SnapshotRequest { scope, after }),
        };
        let pulled = self.exchange(request).into_actor(self).then(move |answer, actor, _| {
            let (peer, buffer) = (actor.peer, actor.links.buffer.clone());
            let answer = actor.account(answer).inspect_err(|error| tracing::info!(%peer, %error, "a pull failed")).ok();
            let told = match what {
                PullWhat::Page { stream, .. } => {
                    let page = answer.and_then(|answer| actor.sound(page_of(stream, answer)));
                    buffer.send(Pulled { peer, stream, page }).left_future()
                }
                PullWhat::Snapshot { scope, after } => {
                    let page = answer.and_then(|answer| actor.sound(snapshot_of(scope, after, answer)));
                    buffer.send(PulledSnapshot { peer, scope, page }).right_future()
                }
            };
            told.into_actor(actor)
        });
        ctx.spawn(pulled.map(|told, actor, _| {
            if told.is_err() {
                tracing::debug!(peer = %actor.peer, "the backfill buffer has stopped");
            }
        }));
    }
}

impl Session {
    /// What the peer answered, if it is sound; otherwise the refusal is counted, and the peer named.
    fn sound<T>(&self, answer: Result<T, Unsound>) -> Option<T> {
        answer
            .inspect_err(|error| {
                self.links.counters.messages_refused(1);
                tracing::warn!(peer = %self.peer, %error, "a page was refused");
            })
            .ok()
    }
}

/// The page of that stream that a payload holds.
fn page_of(stream: Stream, payload: SyncPayload) -> Result<PageResponse, Unsound> {
    let page = match (stream.kind, payload) {
        (StreamKind::State, SyncPayload::StateResponse(page))
        | (StreamKind::Shared, SyncPayload::SharedChangeResponse(page)) => page,
        (_, other) => return Err(Unsound::Payload(other.name())),
    };
    if let PageResponse::Page { batch, .. } = &page {
        batch.check()?;
        if batch.stream != stream {
            return Err(Unsound::Stream(batch.stream));
        }
    }
    Ok(page)
}

/// The page of that snapshot that a payload holds.
fn snapshot_of(scope: SnapshotScope, after: Option<Cursor>, payload: SyncPayload) -> Result<SnapshotResponse, Unsound> {
    match payload {
        SyncPayload::SnapshotResponse(page) if (page.scope, page.after) == (scope, after) && page.is_sound() => {
            Ok(page)
        }
        SyncPayload::SnapshotResponse(_) => Err(Unsound::Snapshot),
        other => Err(Unsound::Payload(other.name())),
    }
}
