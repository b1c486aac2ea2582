//! The roster actor: who belongs to the library and who is connected. It opens and closes sessions, takes gossip in,
//! broadcasts our own changes, and pairs new devices.

use std::collections::{BTreeMap, BTreeSet};

use actix::prelude::*;
use futures::channel::oneshot;
use starling_schema::ids::DeviceId;
use starling_schema::key::{DeviceKey, DeviceSecret};
use starling_schema::signed::Signed;
use starling_schema::stream::Watermarks;
use starling_schema::wire::{
    GOSSIP_BYTES_MAX, Heartbeat, Hello, JoinResponse, PROTOCOL_VERSION, RESPONSE_BYTES_MAX, RefusalKind, SyncEnvelope,
    SyncPayload,
};

use crate::address_book::AddressBook;
use crate::alarm::Alarm;
use crate::backfill_buffer::{Offer, OriginsAre};
use crate::events::{EventKind, Happened};
use crate::heartbeats::{Heard, MembershipIs};
use crate::links::{Halt, Links};
use crate::network::{Admit, Dial, Disconnect, NetworkEvent, Publish, Verdict as Spread};
use crate::pairing::Join;
use crate::planted::{self, Bug};
use crate::proto::backfill::weight;
use crate::proto::membership::Membership;
use crate::proto::pairing::Tickets;
use crate::retry_queue::MembersAre;
use crate::rig::{Limit, Point, Timer};
use crate::session::{Greet, Serve, Session, refusal, tell};
use crate::store::ledger::Note;
use crate::transactions::{Advanced, Keep};

/// Events of the network and news of the store that wait.
const MAILBOX: usize = crate::network::EVENTS_MAX;

/// How soon an open ticket's end, and a network that was too busy to be told who belongs, are looked at again.
const LOOK_AGAIN_MS: u64 = 1_000;

/// How soon a statement that could not be stored is stored again: a full disk is not emptied faster.
const STORE_AGAIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Batches that take more memory than this are not even tried as gossip: ten times what fits, as well as they pack.
const GOSSIP_WEIGHT_MAX: usize = 10 * GOSSIP_BYTES_MAX;

/// Owns membership, connections and tickets.
pub(crate) struct Roster {
    secret: DeviceSecret,
    pub(crate) links: Option<Links>,
    pub(crate) membership: Membership,
    pub(crate) tickets: Tickets,
    pub(crate) book: AddressBook,
    pub(crate) connected: BTreeMap<DeviceId, (DeviceKey, String)>,
    sessions: BTreeMap<DeviceId, Addr<Session>>,
    serial: u64,
    guest: Option<DeviceKey>,
    admitted: Option<Admit>,
    next_dial: Alarm,
    /// Whether nothing is exchanged with anybody.
    pub(crate) paused: bool,
    /// The devices that the backfill buffer was told may ever have written something; none when it is to be told.
    origins: Option<BTreeSet<DeviceId>>,
    /// The hash of the membership that heartbeats and the retry queue were told; none when they are to be told.
    told: Option<[u8; 32]>,
}

impl Roster {
    pub(crate) fn new(
        secret: DeviceSecret,
        membership: Membership,
        tickets: Tickets,
        book: AddressBook,
        paused: bool,
    ) -> Self {
        Self {
            secret,
            links: None,
            membership,
            tickets,
            book,
            connected: BTreeMap::new(),
            sessions: BTreeMap::new(),
            serial: 0,
            guest: None,
            admitted: None,
            next_dial: Alarm::default(),
            paused,
            origins: None,
            told: None,
        }
    }

    /// Tells the network who may connect, when that changed, and opens and closes sessions accordingly.
    pub(crate) fn admit(&mut self, ctx: &mut Context<Self>) {
        let Some(links) = self.links.clone() else { return };
        if planted::is(Bug::RemovedServed) && !self.membership.removed().is_empty() {
            return;
        }
        let others = self.membership.members().iter().filter(|(device, _)| **device != links.device && !self.paused);
        let admit = Admit {
            members: others.map(|(_, member)| member.key).collect(),
            guests: self.guest.into_iter().collect(),
            strangers: !self.paused && self.tickets.is_open(links.environment.wall_ms()),
        };
        if self.admitted.as_ref() != Some(&admit) {
            let told = links.network.admit.try_send(admit.clone()).is_ok();
            self.admitted = told.then_some(admit);
        }
        let digest = self.membership.digest();
        if self.told != Some(digest) {
            let members = MembersAre(self.membership.members().keys().copied().collect());
            let told = links.heartbeats.try_send(MembershipIs(self.membership.clone())).is_ok()
                && links.retry.try_send(members).is_ok();
            self.told = told.then_some(digest);
        }
        let origins = self.membership.origins();
        if self.origins.as_ref() != Some(&origins) {
            let told = links.buffer.try_send(OriginsAre(origins.clone())).is_ok();
            self.origins = told.then_some(origins);
        }
        let gone: Vec<DeviceId> =
            self.sessions.keys().filter(|peer| self.paused || !self.membership.is_member(**peer)).copied().collect();
        for peer in gone {
            self.close(peer);
            if let Some((key, _)) = self.connected.get(&peer)
                && links.network.disconnect.try_send(Disconnect(*key)).is_err()
            {
                tracing::warn!(%peer, "a device could not be disconnected yet");
            }
        }
        if self.paused {
            // Whoever was too busy to be told is told all the same.
            return self.arm(ctx);
        }
        let new: Vec<DeviceKey> = self
            .connected
            .iter()
            .filter(|(peer, _)| self.membership.is_member(**peer) && !self.sessions.contains_key(peer))
            .map(|(_, (key, _))| *key)
            .collect();
        for key in new {
            self.serial += 1;
            let session = Session::new(key, self.serial, links.clone(), ctx.address());
            self.sessions.insert(key.device(), session.start());
            tell(&links.events, Happened(EventKind::Connected(key.device())));
        }
        self.arm(ctx);
    }

    fn close(&mut self, peer: DeviceId) {
        if let Some(session) = self.sessions.remove(&peer) {
            // It must hear this, however much waits in its mailbox: a lost end would leave it running for ever.
            drop(actix::spawn(async move { session.send(Halt).await }));
            if let Some(links) = &self.links {
                tell(&links.events, Happened(EventKind::Disconnected(peer)));
            }
        }
    }

    /// The membership grew: everybody who needs to know is told.
    pub(crate) fn membership_changed(&mut self, ctx: &mut Context<Self>) {
        let Some(links) = self.links.clone() else { return };
        tell(&links.events, Happened(EventKind::MembershipChanged));
        self.admit(ctx);
        for session in self.sessions.values() {
            tell(session, Greet);
        }
    }

    /// Takes statements in and stores those that are new.
    fn learn(&mut self, statements: Vec<Signed>, ctx: &mut Context<Self>) {
        let Some(links) = self.links.clone() else { return };
        let unknown: Vec<Signed> = statements.into_iter().filter(|s| !self.membership.contains(s.id())).collect();
        if unknown.is_empty() {
            return;
        }
        let (new, refused) = self.membership.insert_all(unknown.clone());
        links.counters.messages_refused(refused.len() as u64);
        for (_, error) in refused {
            tracing::warn!(%error, "a membership statement was refused");
        }
        if new.is_empty() {
            return;
        }
        self.store(unknown.into_iter().filter(|s| new.contains(&s.id())).collect(), ctx);
        self.membership_changed(ctx);
    }

    /// Stores statements; when that fails, again in a while. They count here already, so nobody has to say them again.
    fn store(&self, statements: Vec<Signed>, ctx: &mut Context<Self>) {
        let Some(links) = &self.links else { return };
        let notes = statements.iter().cloned().map(Note::Statement).collect();
        let kept = links.transactions.send(Keep(notes)).into_actor(self);
        ctx.spawn(kept.map(|outcome, _, ctx| {
            if let Ok(Err(error)) = outcome {
                tracing::warn!(%error, "membership statements could not be stored yet");
                ctx.run_later(STORE_AGAIN, |actor, ctx| actor.store(statements, ctx));
            }
        }));
    }

    /// Judges a gossip message and passes on what it holds.
    fn gossip(&mut self, source: DeviceKey, bytes: &[u8]) -> Spread {
        let Some(links) = &self.links else { return Spread::Ignore };
        let device = source.device();
        let envelope = match SyncEnvelope::decode(bytes) {
            Ok(envelope) => envelope,
            Err(error) => return self.reject(device, &error),
        };
        if self.paused || !self.membership.is_member(device) {
            return Spread::Ignore;
        }
        if envelope.library != links.library || envelope.device != device {
            return self.reject(device, &"it speaks for another device or library");
        }
        match envelope.payload.into_batch() {
            Ok(batch) => match batch.check() {
                Ok(()) if batch.stream.origin == device => {
                    links.counters.gossip_in(1);
                    tell(&links.buffer, Offer { from: device, batch });
                    Spread::Accept
                }
                Ok(()) => self.reject(device, &format!("it pushes {}", batch.stream)),
                Err(error) => self.reject(device, &error),
            },
            Err(SyncPayload::Heartbeat(heartbeat)) => {
                links.counters.gossip_in(1);
                let Heartbeat { beacons, lacks, .. } = heartbeat;
                tell(&links.heartbeats, Heard { from: device, beacons, lacks });
                Spread::Accept
            }
            Err(other) => self.reject(device, &format!("{} is not gossip", other.name())),
        }
    }

    fn reject(&mut self, device: DeviceId, error: &dyn std::fmt::Display) -> Spread {
        if let Some(links) = &self.links {
            links.counters.messages_refused(1);
        }
        tracing::warn!(peer = %device, %error, "a gossip message was refused");
        Spread::Reject
    }

    /// Answers a request: a member's by its session, a stranger's only if it asks to join.
    fn request(&mut self, peer: DeviceKey, bytes: Vec<u8>, reply: oneshot::Sender<Vec<u8>>, ctx: &mut Context<Self>) {
        if let Some(session) = self.sessions.get(&peer.device()) {
            if session.try_send(Serve { bytes, reply }).is_err() {
                tracing::debug!(peer = %peer.device(), "a session is busy: the request is not answered");
            }
            return;
        }
        let asked = match SyncEnvelope::decode(&bytes).map(|envelope| envelope.payload) {
            Ok(_) if self.paused => Err(refusal(RefusalKind::Busy, &"syncing is paused here")),
            Ok(SyncPayload::JoinRequest(request)) => Ok(request),
            Ok(_) => Err(refusal(RefusalKind::NotAMember, &format!("device {} is not a member here", peer.device()))),
            Err(error @ starling_schema::wire::WireError::Version { .. }) => Err(refusal(RefusalKind::Version, &error)),
            Err(error) => Err(refusal(RefusalKind::BadRequest, &error)),
        };
        let (address, links) = (ctx.address(), self.links.clone());
        if let Some(links) = &links {
            links.counters.messages_refused(u64::from(asked.is_err()));
        }
        let answer = async move {
            let payload = match asked {
                Ok(request) => match address.send(Join { peer, request }).await {
                    Ok(response) => SyncPayload::JoinResponse(response),
                    Err(_closed) => return,
                },
                Err(payload) => payload,
            };
            // Whoever is not a member learns nothing of the library, not even its id.
            let Some(mut envelope) = links.map(|links| links.envelope(payload)) else { return };
            if !matches!(envelope.payload, SyncPayload::JoinResponse(JoinResponse::Admitted { .. })) {
                envelope.library = starling_schema::ids::LibraryId::MIN;
            }
            if let Ok(bytes) = envelope.encode(RESPONSE_BYTES_MAX) {
                // An asker that is gone needs no answer.
                let _gone: Result<(), Vec<u8>> = reply.send(bytes);
            }
        };
        ctx.spawn(answer.into_actor(self));
    }

    /// Dials members that are not connected and due for another try.
    pub(crate) fn dial(&mut self, ctx: &mut Context<Self>) {
        let Some(links) = self.links.clone() else { return };
        self.admit(ctx);
        if self.paused {
            return;
        }
        let now_ms = links.environment.uptime_ms();
        for (peer, key) in self.away(links.device) {
            let Some(addresses) = self.book.due(peer, now_ms, links.environment.fraction()) else { continue };
            let dialed = links.network.dial.send(Dial { peer: key, addresses }).into_actor(self);
            ctx.spawn(dialed.map(move |outcome, _, _| {
                if let Ok(Err(error)) = outcome {
                    tracing::debug!(%peer, %error, "a member could not be reached");
                }
            }));
        }
        self.arm(ctx);
    }

    /// The members that are not connected.
    fn away(&self, this: DeviceId) -> Vec<(DeviceId, DeviceKey)> {
        let members = self.membership.members().iter();
        let away = members.filter(|(peer, _)| **peer != this && !self.connected.contains_key(peer));
        away.map(|(peer, member)| (*peer, member.key)).collect()
    }

    /// Sees to it that the next dial is made when it is due, and that who may connect is looked at again in time.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let Some(links) = &self.links else { return };
        let away = if self.paused { Vec::new() } else { self.away(links.device) };
        let dial_ms = away.iter().filter_map(|(peer, _)| self.book.next_due(*peer)).min();
        let is_untold = self.admitted.is_none() || self.origins.is_none() || self.told.is_none();
        let is_changing = is_untold || self.tickets.is_open(links.environment.wall_ms());
        let look_ms = is_changing.then(|| links.environment.uptime_ms() + LOOK_AGAIN_MS);
        let next_ms = dial_ms.into_iter().chain(look_ms).min();
        self.next_dial.set((Timer::Dial, next_ms), &links.environment, ctx, Self::dial);
    }

    fn hello(&self) -> Hello {
        Hello {
            protocol_min: PROTOCOL_VERSION,
            protocol_max: PROTOCOL_VERSION,
            key: self.secret.public(),
            app_version: env!("CARGO_PKG_VERSION").to_owned(),
            statements: self.membership.statements().cloned().collect(),
            addresses: self.book.all(),
            watermarks: Watermarks::new(),
        }
    }

    /// Members have room in the address book.
    fn make_room(&mut self) {
        let membership = &self.membership;
        self.book.make_room(|device| membership.is_member(device));
    }

    fn save_book(&self, ctx: &mut Context<Self>) {
        let Some(links) = &self.links else { return };
        let kept = links.transactions.send(Keep(vec![self.book.note()])).into_actor(self);
        ctx.spawn(kept.map(|outcome, _, _| {
            if let Ok(Err(error)) = outcome {
                tracing::warn!(%error, "addresses could not be stored");
            }
        }));
    }
}

impl Actor for Roster {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<Halt> for Roster {
    type Result = ();

    fn handle(&mut self, _: Halt, ctx: &mut Self::Context) {
        let peers: Vec<DeviceId> = self.sessions.keys().copied().collect();
        for peer in peers {
            self.close(peer);
        }
        ctx.stop();
    }
}

/// The rest of the library is there: begin.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Wire(pub(crate) Links);

impl Handler<Wire> for Roster {
    type Result = ();

    fn handle(&mut self, Wire(links): Wire, ctx: &mut Self::Context) {
        self.links = Some(links);
        self.save_book(ctx);
        self.admit(ctx);
        self.dial(ctx);
    }
}

impl Handler<NetworkEvent> for Roster {
    type Result = ();

    fn handle(&mut self, event: NetworkEvent, ctx: &mut Self::Context) {
        match event {
            NetworkEvent::Connected { peer, address } if self.membership.removed().contains(&peer) => {
                tracing::info!(peer = %peer.device(), %address, "a removed device was turned away");
                if let Some(links) = &self.links
                    && links.network.disconnect.try_send(Disconnect(peer)).is_err()
                {
                    tracing::warn!(peer = %peer.device(), "a removed device could not be disconnected yet");
                }
            }
            NetworkEvent::Connected { peer, address } => {
                self.connected.insert(peer.device(), (peer, address));
                self.admit(ctx);
            }
            NetworkEvent::Disconnected { peer } => {
                self.connected.remove(&peer.device());
                self.close(peer.device());
                self.arm(ctx);
            }
            NetworkEvent::Gossip { source, bytes, verdict } => {
                // A network that is gone needs no verdict.
                let _gone: Result<(), Spread> = verdict.send(self.gossip(source, &bytes));
            }
            NetworkEvent::Request { peer, bytes, reply } => self.request(peer, bytes, reply, ctx),
            NetworkEvent::Listening { address } => self.book.listening(address),
            NetworkEvent::Discovered { peer, addresses } => {
                let is_member = self.membership.is_member(peer.device());
                if is_member {
                    self.make_room();
                }
                if self.book.learn(peer.device(), addresses) && is_member {
                    self.save_book(ctx);
                    self.dial(ctx);
                }
            }
        }
    }
}

/// Broadcast what we made durable.
impl Handler<Advanced> for Roster {
    type Result = ();

    fn handle(&mut self, news: Advanced, _: &mut Self::Context) {
        let Some(links) = self.links.as_ref().filter(|_| !self.sessions.is_empty()) else { return };
        let bytes_max = links.environment.limit(Limit::GossipBytes, GOSSIP_BYTES_MAX);
        for batch in news.committed.iter().filter(|batch| weight(batch) < GOSSIP_WEIGHT_MAX) {
            // What does not fit is announced by the heartbeat that follows, and pulled.
            let Ok(bytes) = links.envelope(batch.clone().into()).encode(bytes_max) else { continue };
            links.environment.reach(Point::BeforeBroadcast);
            match links.network.publish.try_send(Publish(bytes)) {
                Ok(()) => links.counters.gossip_out(1),
                Err(error) => tracing::debug!(%error, "the network is behind: peers will pull"),
            }
            links.environment.reach(Point::AfterBroadcast);
        }
    }
}

/// What to say on a connection; the watermarks are filled in by who knows them.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Hello")]
pub(crate) struct AskHello;

impl Handler<AskHello> for Roster {
    type Result = MessageResult<AskHello>;

    fn handle(&mut self, _: AskHello, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.hello())
    }
}

/// A peer said who belongs to the library and where members are.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Met {
    pub(crate) peer: DeviceId,
    pub(crate) statements: Vec<Signed>,
    pub(crate) addresses: Vec<(DeviceId, Vec<String>)>,
}

impl Handler<Met> for Roster {
    type Result = ();

    fn handle(&mut self, Met { peer, statements, addresses }: Met, ctx: &mut Self::Context) {
        // Only who says hello was reached: a connection alone may be turned away, over and over.
        self.book.reached(peer);
        self.learn(statements, ctx);
        let mut news = false;
        self.make_room();
        for (device, known) in addresses {
            if self.membership.is_member(device) && (device == peer || !self.connected.contains_key(&device)) {
                news |= self.book.learn(device, known);
            }
        }
        if news {
            self.save_book(ctx);
            self.dial(ctx);
        }
    }
}

/// A peer's membership has this hash: if ours differs, we say hello again.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Compared {
    pub(crate) peer: DeviceId,
    pub(crate) membership: [u8; 32],
}

impl Handler<Compared> for Roster {
    type Result = ();

    fn handle(&mut self, Compared { peer, membership }: Compared, _: &mut Self::Context) {
        if membership != self.membership.digest()
            && let Some(session) = self.sessions.get(&peer)
        {
            tell(session, Greet);
        }
    }
}

/// Let this device connect though it is no member, because we join through it; none ends that.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Guest(pub(crate) Option<DeviceKey>);

impl Handler<Guest> for Roster {
    type Result = ();

    fn handle(&mut self, Guest(guest): Guest, ctx: &mut Self::Context) {
        self.guest = guest;
        self.admit(ctx);
    }
}

/// Who belongs and who is here.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "RosterReport")]
pub(crate) struct AskRoster;

/// The answer to [`AskRoster`].
#[derive(Clone, MessageResponse)]
pub(crate) struct RosterReport {
    pub(crate) membership: Membership,
    pub(crate) sessions: BTreeMap<DeviceId, Addr<Session>>,
    pub(crate) connected: BTreeMap<DeviceId, String>,
    pub(crate) listen: Vec<String>,
    pub(crate) paused: bool,
}

impl Handler<AskRoster> for Roster {
    type Result = RosterReport;

    fn handle(&mut self, _: AskRoster, _: &mut Self::Context) -> RosterReport {
        RosterReport {
            membership: self.membership.clone(),
            sessions: self.sessions.clone(),
            connected: self.connected.iter().map(|(peer, (_, address))| (*peer, address.clone())).collect(),
            listen: self.book.own(),
            paused: self.paused,
        }
    }
}
