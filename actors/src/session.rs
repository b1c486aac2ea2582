//! A session actor: the conversation with one connected member. It says hello, pulls, serves, pushes, and counts.

pub(crate) mod inquire;

use actix::prelude::*;
use futures::channel::oneshot;
use starling_schema::ids::DeviceId;
use starling_schema::key::DeviceKey;
use starling_schema::stream::{Stream, StreamKind, Watermarks};
use starling_schema::wire::{
    Ack, Heartbeat, Hello, PROTOCOL_VERSION, PageRequest, PageResponse, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, Refusal,
    RefusalKind, SnapshotRequest, SyncEnvelope, SyncPayload,
};

use crate::auditor::AskedFor;
use crate::backfill_buffer::{AskProgress, OfferDirect, PeerMarks, SessionDown, SessionUp};
use crate::exchange::{ExchangeError, Exchanged, exchange};
use crate::heartbeats::{BeatLost, Heard, HeartbeatDown, HeartbeatUp};
use crate::links::{Links, halts};
use crate::pairing::Join;
use crate::proto::backfill::STREAMS_MAX;
use crate::reader::{ReadDigest, ReadPage, ReadSnapshot};
use crate::retry_queue::{Acked, PeerDown, PeerPulls, PeerUp, PushFailed};
use crate::rig::Point;
use crate::roster::{AskHello, Compared, Met, Roster};

/// Messages that wait: eight requests in flight each way, and some news.
const MAILBOX: usize = 64;

/// How long after a hello that failed it is said again.
const GREET_AGAIN: std::time::Duration = std::time::Duration::from_millis(300);

/// How often a failed hello is said again on one connection; after that heartbeats carry the news.
const GREETINGS_MAX: u32 = 5;

/// Requests of the peer that are being answered; what comes beyond is told to come later. Twice what it may have under
/// way, so that only a flood ever meets it.
const SERVING_MAX: usize = 16;

/// Owns the conversation with one member.
pub(crate) struct Session {
    key: DeviceKey,
    pub(crate) peer: DeviceId,
    serial: u64,
    greetings_left: u32,
    serving: usize,
    pub(crate) links: Links,
    roster: Addr<Roster>,
    report: SessionReport,
}

/// What a session measured.
#[derive(Clone, Debug, Default, MessageResponse)]
pub(crate) struct SessionReport {
    pub(crate) rtt_ms: Option<u64>,
    pub(crate) clock_offset_ms: Option<i64>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// How far the peer last said that it is.
    pub(crate) marks: Watermarks,
    /// Why the last exchange failed, when it did.
    pub(crate) error: Option<String>,
}

impl Session {
    pub(crate) fn new(key: DeviceKey, serial: u64, links: Links, roster: Addr<Roster>) -> Self {
        Self {
            key,
            peer: key.device(),
            serial,
            greetings_left: GREETINGS_MAX,
            serving: 0,
            links,
            roster,
            report: SessionReport::default(),
        }
    }

    pub(crate) fn exchange(
        &self,
        payload: SyncPayload,
    ) -> impl Future<Output = Result<Exchanged, ExchangeError>> + use<> {
        exchange(self.links.clone(), self.key, payload)
    }

    /// Takes down what an exchange cost; gives the answer.
    pub(crate) fn account(
        &mut self,
        exchanged: Result<Exchanged, ExchangeError>,
    ) -> Result<SyncPayload, ExchangeError> {
        match exchanged {
            Ok(done) => {
                self.report.bytes_in += done.bytes_in;
                self.report.bytes_out += done.bytes_out;
                self.report.rtt_ms = Some(done.rtt_ms);
                self.report.clock_offset_ms = Some(done.clock_offset_ms);
                self.report.error = None;
                Ok(done.payload)
            }
            Err(error) => {
                self.report.error = Some(error.to_string());
                Err(error)
            }
        }
    }

    /// Sends our hello and takes the peer's.
    fn greet(&self, ctx: &mut Context<Self>) {
        let (roster, buffer) = (self.roster.clone(), self.links.buffer.clone());
        let hello = async move {
            let mut hello = roster.send(AskHello).await?;
            hello.watermarks = buffer.send(AskProgress).await?.applied;
            Ok::<_, ExchangeError>(hello)
        };
        let exchange = hello.into_actor(self).then(|hello, actor, _| {
            let sent = hello.map(|mut hello| {
                if actor.links.envelope(SyncPayload::Hello(hello.clone())).encode(REQUEST_BYTES_MAX).is_err() {
                    // The answer, which may be larger, carries what does not fit here.
                    hello.statements.clear();
                    hello.addresses.clear();
                }
                actor.exchange(SyncPayload::Hello(hello))
            });
            async move {
                match sent {
                    Ok(sent) => sent.await,
                    Err(error) => Err(error),
                }
            }
            .into_actor(actor)
        });
        ctx.spawn(exchange.map(|answer, actor, ctx| match actor.account(answer) {
            Ok(SyncPayload::Hello(hello)) => actor.met(hello),
            Ok(other) => {
                tracing::warn!(peer = %actor.peer, payload = other.name(), "a hello was answered by something else");
            }
            Err(error) => {
                tracing::info!(peer = %actor.peer, %error, "hello failed");
                actor.greet_again(ctx);
            }
        }));
    }

    /// Says hello once more in a moment: the other side may just be learning that we are a member.
    fn greet_again(&mut self, ctx: &mut Context<Self>) {
        if self.greetings_left > 0 {
            self.greetings_left -= 1;
            ctx.run_later(GREET_AGAIN, |actor, ctx| actor.greet(ctx));
        }
    }

    /// Passes on what a hello says.
    fn met(&mut self, hello: Hello) {
        let Hello { statements, addresses, watermarks, .. } = hello;
        self.report.marks.join_within(&watermarks, STREAMS_MAX);
        tell(&self.roster, Met { peer: self.peer, statements, addresses });
        tell(&self.links.retry, Acked(vec![(self.peer, watermarks.clone())]));
        tell(&self.links.buffer, PeerMarks(vec![(self.peer, watermarks)]));
    }

    /// Answers a request.
    fn answer(&mut self, payload: SyncPayload) -> ResponseFuture<SyncPayload> {
        let (links, peer) = (self.links.clone(), self.peer);
        let payload = match payload.into_batch() {
            Ok(batch) => {
                if let Err(error) = batch.check() {
                    return self.refuse(RefusalKind::BadRequest, &error);
                }
                if batch.stream.origin != peer {
                    return self.refuse(RefusalKind::BadRequest, &format!("{peer} may not push {}", batch.stream));
                }
                let stream = batch.stream;
                return Box::pin(async move {
                    match links.buffer.send(OfferDirect { from: peer, batch }).await {
                        Ok((applied, durable)) => {
                            links.environment.reach(Point::BeforeAck);
                            SyncPayload::ack(stream, applied, durable)
                        }
                        Err(error) => refusal(RefusalKind::Busy, &error),
                    }
                });
            }
            Err(payload) => payload,
        };
        match payload {
            SyncPayload::StateRequest(request) => self.serve_page(Stream::state(request.origin), request),
            SyncPayload::SharedChangeRequest(request) => self.serve_page(Stream::shared(request.origin), request),
            SyncPayload::SnapshotRequest(SnapshotRequest { scope, after }) => Box::pin(async move {
                match links.readers.next().send(ReadSnapshot { scope, after }).await {
                    Ok(Ok(page)) => SyncPayload::SnapshotResponse(page),
                    Ok(Err(error)) => refusal(RefusalKind::Storage, &error),
                    Err(error) => refusal(RefusalKind::Busy, &error),
                }
            }),
            SyncPayload::DigestRequest(request) => Box::pin(async move {
                let range = (request.from, request.through);
                tell(&links.auditor, AskedFor { peer, model: request.model, range });
                match links.readers.next().send(ReadDigest(request)).await {
                    Ok(Ok(digest)) => SyncPayload::DigestResponse(digest),
                    Ok(Err(error)) => refusal(RefusalKind::Storage, &error),
                    Err(error) => refusal(RefusalKind::Busy, &error),
                }
            }),
            SyncPayload::Hello(hello) => self.answer_hello(hello),
            SyncPayload::Heartbeat(heartbeat) => {
                tell(&self.roster, Compared { peer, membership: heartbeat.membership });
                let Heartbeat { beacons, lacks, .. } = heartbeat;
                tell(&links.heartbeats, Heard { from: peer, beacons, lacks });
                Box::pin(async { SyncPayload::Done })
            }
            SyncPayload::JoinRequest(request) => {
                let (roster, key) = (self.roster.clone(), self.key);
                Box::pin(async move {
                    match roster.send(Join { peer: key, request }).await {
                        Ok(response) => SyncPayload::JoinResponse(response),
                        Err(error) => refusal(RefusalKind::Busy, &error),
                    }
                })
            }
            other => self.refuse(RefusalKind::BadRequest, &format!("{} is no request", other.name())),
        }
    }

    /// Refuses what the peer must not send, and counts it.
    fn refuse(&self, kind: RefusalKind, message: &dyn std::fmt::Display) -> ResponseFuture<SyncPayload> {
        self.links.counters.messages_refused(1);
        let payload = refusal(kind, message);
        Box::pin(async move { payload })
    }

    fn answer_hello(&mut self, hello: Hello) -> ResponseFuture<SyncPayload> {
        if hello.protocol_min > PROTOCOL_VERSION || hello.protocol_max < PROTOCOL_VERSION {
            let (low, high) = (hello.protocol_min, hello.protocol_max);
            let which = if low > PROTOCOL_VERSION { "this device" } else { "yours" };
            let message =
                format!("you speak protocols {low} to {high}, this device {PROTOCOL_VERSION}: upgrade {which}");
            return self.refuse(RefusalKind::Version, &message);
        }
        self.met(hello);
        let (roster, buffer) = (self.roster.clone(), self.links.buffer.clone());
        Box::pin(async move {
            match (roster.send(AskHello).await, buffer.send(AskProgress).await) {
                (Ok(mut hello), Ok(progress)) => {
                    hello.watermarks = progress.applied;
                    SyncPayload::Hello(hello)
                }
                _ => refusal(RefusalKind::Busy, &"this device is stopping"),
            }
        })
    }

    fn serve_page(&self, stream: Stream, request: PageRequest) -> ResponseFuture<SyncPayload> {
        let PageRequest { after, clean, .. } = request;
        if stream.origin == self.links.device {
            tell(&self.links.retry, PeerPulls(self.peer));
        }
        let links = self.links.clone();
        Box::pin(async move {
            match links.readers.next().send(ReadPage { stream, after, clean }).await {
                Ok(Ok(page)) => {
                    links.environment.reach(Point::PageServed);
                    SyncPayload::page_response(stream.kind, page)
                }
                Ok(Err(error)) => refusal(RefusalKind::Storage, &error),
                Err(error) => refusal(RefusalKind::Busy, &error),
            }
        })
    }
}

/// Tells an actor something that it may miss: everything told like this is said again by a later message.
pub(crate) fn tell<A, M>(to: &Addr<A>, message: M)
where
    A: Actor<Context = Context<A>> + Handler<M>,
    M: Message<Result = ()> + Send + 'static,
{
    if let Err(error) = to.try_send(message) {
        tracing::debug!(%error, "not told now");
    }
}

pub(crate) fn refusal(kind: RefusalKind, message: &dyn std::fmt::Display) -> SyncPayload {
    SyncPayload::Error(Refusal { kind, message: message.to_string() })
}

impl Actor for Session {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        let (peer, serial, links, own) = (self.peer, self.serial, self.links.clone(), ctx.address());
        // Before anything else is handled: whoever misses that we are here would never use us.
        let introduced = async move {
            let up = SessionUp { peer, serial, pull: own.clone().recipient() };
            links.buffer.send(up).await?;
            links.retry.send(PeerUp { peer, serial, push: own.clone().recipient() }).await?;
            links.heartbeats.send(HeartbeatUp { peer, serial, beat: own.recipient() }).await
        };
        ctx.wait(introduced.into_actor(self).map(|introduced, actor, ctx| match introduced {
            Ok(()) => actor.greet(ctx),
            Err(_closed) => ctx.stop(),
        }));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        let (peer, serial, links) = (self.peer, self.serial, self.links.clone());
        drop(actix::spawn(async move {
            let gone = (
                links.buffer.send(SessionDown { peer, serial }).await,
                links.retry.send(PeerDown { peer, serial }).await,
                links.heartbeats.send(HeartbeatDown { peer, serial }).await,
            );
            tracing::debug!(%peer, ?gone, "a session ended");
        }));
    }
}

halts!(Session);

/// Say hello again: the membership changed.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Greet;

impl Handler<Greet> for Session {
    type Result = ();

    fn handle(&mut self, _: Greet, ctx: &mut Self::Context) {
        self.greet(ctx);
    }
}

/// Answer a request that this peer sent.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Serve {
    pub(crate) bytes: Vec<u8>,
    pub(crate) reply: oneshot::Sender<Vec<u8>>,
}

impl Handler<Serve> for Session {
    type Result = ();

    fn handle(&mut self, Serve { bytes, reply }: Serve, ctx: &mut Self::Context) {
        self.report.bytes_in += bytes.len() as u64;
        self.serving += 1;
        let answer = match SyncEnvelope::decode(&bytes) {
            _ if self.serving > SERVING_MAX => self.refuse(RefusalKind::Busy, &"too many requests at once"),
            Ok(envelope) if envelope.library != self.links.library || envelope.device != self.peer => {
                let (device, library) = (envelope.device, envelope.library);
                self.refuse(
                    RefusalKind::NotAMember,
                    &format!("device {device} is not a member of library {library} here"),
                )
            }
            Ok(envelope) => self.answer(envelope.payload),
            Err(error @ starling_schema::wire::WireError::Version { .. }) => self.refuse(RefusalKind::Version, &error),
            Err(error) => {
                tracing::warn!(peer = %self.peer, %error, "a request was refused");
                self.refuse(RefusalKind::BadRequest, &error)
            }
        };
        ctx.spawn(answer.into_actor(self).map(move |payload, actor, _| {
            actor.serving -= 1;
            let encoded = actor.links.envelope(payload).encode(RESPONSE_BYTES_MAX).or_else(|error| {
                actor.links.envelope(refusal(RefusalKind::Storage, &error)).encode(RESPONSE_BYTES_MAX)
            });
            match encoded {
                Ok(bytes) => {
                    actor.report.bytes_out += bytes.len() as u64;
                    // An asker that is gone needs no answer.
                    let _gone: Result<(), Vec<u8>> = reply.send(bytes);
                }
                Err(error) => tracing::error!(peer = %actor.peer, %error, "an answer could not be encoded"),
            }
        }));
    }
}

/// Send this peer our own changes of a kind that follow a number.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Push {
    pub(crate) kind: StreamKind,
    pub(crate) after: u64,
}

impl Handler<Push> for Session {
    type Result = ();

    fn handle(&mut self, Push { kind, after }: Push, ctx: &mut Self::Context) {
        let stream = Stream { kind, origin: self.links.device };
        // Whoever has this much is clean no further: what would have to be a snapshot is not pushed.
        let page = self.links.readers.next().send(ReadPage { stream, after, clean: after });
        let pushed = page.into_actor(self).then(|page, actor, _| {
            let batch = match page {
                Ok(Ok(PageResponse::Page { batch, .. })) => Some(SyncPayload::from(batch)),
                _ => None,
            };
            // What does not fit a request is announced by heartbeats and pulled.
            let fits = batch.filter(|batch| actor.links.envelope(batch.clone()).encode(REQUEST_BYTES_MAX).is_ok());
            let sent = fits.map(|batch| actor.exchange(batch));
            async move {
                match sent {
                    Some(sent) => Some(sent.await),
                    None => None,
                }
            }
            .into_actor(actor)
        });
        ctx.spawn(pushed.map(move |answer, actor, _| {
            let peer = actor.peer;
            let Some(answer) = answer else { return tell(&actor.links.retry, PeerPulls(peer)) };
            match actor.account(answer) {
                Ok(
                    SyncPayload::AckState(Ack { origin, applied, .. })
                    | SyncPayload::AckSharedChanges(Ack { origin, applied, .. }),
                ) => {
                    let marks = Watermarks::from_iter([(Stream { kind, origin }, applied)]);
                    actor.report.marks.join_within(&marks, STREAMS_MAX);
                    tell(&actor.links.retry, Acked(vec![(peer, marks)]));
                }
                Ok(other) => {
                    let error = ExchangeError::Unexpected(other.name()).to_string();
                    tell(&actor.links.retry, PushFailed { peer, kind, error });
                }
                Err(error) => tell(&actor.links.retry, PushFailed { peer, kind, error: error.to_string() }),
            }
        }));
    }
}

/// Send this peer a heartbeat.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Beat(pub(crate) SyncPayload);

impl Handler<Beat> for Session {
    type Result = ();

    fn handle(&mut self, Beat(payload): Beat, ctx: &mut Self::Context) {
        let sent = self.exchange(payload).into_actor(self);
        ctx.spawn(sent.map(|answer, actor, _| {
            if let Err(error) = actor.account(answer) {
                tracing::debug!(peer = %actor.peer, %error, "a heartbeat was not answered");
                tell(&actor.links.heartbeats, BeatLost(actor.peer));
            }
        }));
    }
}

/// How far the peer durably is, learned from a beacon that came by another way.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Learned(pub(crate) Watermarks);

impl Handler<Learned> for Session {
    type Result = ();

    fn handle(&mut self, Learned(marks): Learned, _: &mut Self::Context) {
        self.report.marks.join_within(&marks, STREAMS_MAX);
    }
}

/// What the session measured.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "SessionReport")]
pub(crate) struct Describe;

impl Handler<Describe> for Session {
    type Result = SessionReport;

    fn handle(&mut self, _: Describe, _: &mut Self::Context) -> SessionReport {
        self.report.clone()
    }
}
