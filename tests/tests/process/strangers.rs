//! What a device learns that holds no membership.

use std::time::Duration;

use actix::prelude::*;
use starling::network::{Admit, Dial, Network, NetworkEvent, NetworkOptions, Request, StartedNetwork};
use starling::proto::pairing::Ticket;
use starling_schema::ids::{DeviceId, LibraryId, RecordId};
use starling_schema::key::{DeviceKey, DeviceSecret};
use starling_schema::models::Tag;
use starling_schema::stream::Watermarks;
use starling_schema::wire::{
    DigestRequest, Hello, PROTOCOL_VERSION, PageRequest, REQUEST_BYTES_MAX, RefusalKind, SnapshotRequest,
    SnapshotScope, SyncEnvelope, SyncPayload,
};
use starling_tests::process::{Device, Place, agree, invite, join};
use tokio::sync::mpsc;

/// How long it is watched that nothing comes.
const SILENCE: Duration = Duration::from_secs(2);

/// How long after a ticket's end it may take until strangers are kept out.
const GATE_CLOSES_WITHIN: Duration = Duration::from_millis(1_500);

/// Hears what the stranger's network tells.
struct Ear(mpsc::UnboundedSender<&'static str>);

impl Actor for Ear {
    type Context = Context<Self>;
}

impl Handler<NetworkEvent> for Ear {
    type Result = ();

    fn handle(&mut self, event: NetworkEvent, _: &mut Self::Context) {
        let heard = match event {
            NetworkEvent::Gossip { .. } => "gossip",
            NetworkEvent::Request { .. } => "request",
            _ => return,
        };
        self.0.send(heard).unwrap();
    }
}

/// A device with a key of its own that knows the library's id, the member's key and where it is.
struct Stranger {
    secret: DeviceSecret,
    ticket: Ticket,
    network: StartedNetwork,
    heard: mpsc::UnboundedReceiver<&'static str>,
}

impl Stranger {
    async fn new(ticket: Ticket) -> Self {
        let secret = DeviceSecret::from_bytes(&[7; 32]);
        let (sender, heard) = mpsc::unbounded_channel();
        let options = NetworkOptions {
            secret: secret.clone(),
            library: ticket.library,
            listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
            mdns: false,
        };
        let network = Network::start(options, Ear(sender).start().recipient(), &Arbiter::current()).await.unwrap();
        let admit = Admit { members: vec![ticket.inviter], guests: Vec::new(), strangers: true };
        network.address.admit.send(admit).await.unwrap();
        Self { secret, ticket, network, heard }
    }

    async fn dial(&self) -> bool {
        let dial = Dial { peer: self.ticket.inviter, addresses: self.ticket.addresses.clone() };
        self.network.address.dial.send(dial).await.unwrap().is_ok()
    }

    /// What the member answers; none when it does not.
    async fn ask(&self, payload: SyncPayload) -> Option<SyncEnvelope> {
        let device = self.secret.public().device();
        let envelope = SyncEnvelope { library: self.ticket.library, device, timestamp_ms: 0, payload };
        let bytes = envelope.encode(REQUEST_BYTES_MAX).unwrap();
        let answer = self.network.address.request.send(Request { peer: self.ticket.inviter, bytes }).await.unwrap();
        answer.ok().map(|bytes| SyncEnvelope::decode(&bytes).unwrap())
    }
}

/// Every request that a member would answer with data.
fn questions(inviter: DeviceKey, ours: DeviceKey) -> Vec<SyncPayload> {
    let origin: DeviceId = inviter.device();
    let page = PageRequest { origin, after: 0, clean: 0 };
    let (from, through) = (RecordId::MIN, RecordId(uuid::Uuid::max()));
    vec![
        SyncPayload::Hello(Hello {
            protocol_min: PROTOCOL_VERSION,
            protocol_max: PROTOCOL_VERSION,
            key: ours,
            app_version: String::new(),
            statements: Vec::new(),
            addresses: Vec::new(),
            watermarks: Watermarks::new(),
        }),
        SyncPayload::StateRequest(page),
        SyncPayload::SharedChangeRequest(page),
        SyncPayload::SnapshotRequest(SnapshotRequest { scope: SnapshotScope::Shared, after: None }),
        SyncPayload::SnapshotRequest(SnapshotRequest { scope: SnapshotScope::State(origin), after: None }),
        SyncPayload::DigestRequest(DigestRequest { model: Tag::MODEL, from, through }),
    ]
}

/// Members A and B, and a ticket that nobody used.
fn members(place: &Place) -> (Device, Device, Ticket) {
    let (mut a, mut b) = (place.device("A"), place.device("B"));
    a.up();
    join(&a, &mut b);
    a.ask(&["tag", "new", "private"]);
    agree(&[&a, &b]);
    let ticket = invite(&a).parse().unwrap();
    (a, b, ticket)
}

#[test]
fn a_stranger_who_connects_while_a_ticket_is_open_is_told_nothing() {
    let place = Place::new();
    let (a, b, ticket) = members(&place);
    System::new().block_on(async {
        let mut stranger = Stranger::new(ticket).await;
        assert!(stranger.dial().await, "a ticket is open");
        for question in questions(stranger.ticket.inviter, stranger.secret.public()) {
            let name = question.name();
            let Some(answer) = stranger.ask(question).await else { continue };
            assert_eq!(answer.library, LibraryId::MIN, "the answer to {name} names the library");
            let SyncPayload::Error(refusal) = answer.payload else { panic!("{name} was answered: {answer:?}") };
            assert_eq!(refusal.kind, RefusalKind::NotAMember);
        }
        a.ask(&["tag", "new", "still private"]);
        tokio::time::sleep(SILENCE).await;
        assert_eq!(stranger.heard.try_recv().ok(), None);
    });
    agree(&[&a, &b]);
}

#[test]
fn a_stranger_cannot_even_ask_once_no_ticket_is_valid() {
    let place = Place::new();
    let (mut a, mut b) = (place.device("A"), place.device("B"));
    a.up();
    let short = |device: &Device| device.ask(&["invite", "--expires", "3s"])["ticket"].as_str().unwrap().to_owned();
    b.up_with(&["--join", &short(&a)]);
    a.ask(&["tag", "new", "private"]);
    agree(&[&a, &b]);
    let ticket: Ticket = short(&a).parse().unwrap();
    std::thread::sleep(Duration::from_secs(3) + GATE_CLOSES_WITHIN);
    System::new().block_on(async {
        let mut stranger = Stranger::new(ticket).await;
        stranger.dial().await;
        for question in questions(stranger.ticket.inviter, stranger.secret.public()) {
            let name = question.name();
            assert_eq!(stranger.ask(question).await, None, "{name} was answered");
        }
        a.ask(&["tag", "new", "still private"]);
        tokio::time::sleep(SILENCE).await;
        assert_eq!(stranger.heard.try_recv().ok(), None);
    });
    agree(&[&a, &b]);
}
