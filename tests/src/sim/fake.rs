//! A device that a test plays itself: it speaks the protocol as it is told to, right or wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use parking_lot::Mutex;
use starling::network::{
    Admit, Dial, Disconnect, EVENTS_MAX, NetworkAddress, NetworkError, NetworkEvent, Publish, Request, Verdict,
};
use starling::proto::pairing::{Ticket, proof};
use starling_schema::change::Batch;
use starling_schema::ids::LibraryId;
use starling_schema::key::{DeviceKey, DeviceSecret};
use starling_schema::signed::Signed;
use starling_schema::stream::{Stream, Watermarks};
use starling_schema::wire::{
    GOSSIP_BYTES_MAX, Hello, JoinRequest, JoinResponse, PROTOCOL_VERSION, PageResponse, Refusal, RefusalKind,
    SyncEnvelope, SyncPayload, UNPACKED_BYTES_MAX,
};

use tokio::time::Instant;

use super::network::address;
use super::{Cluster, Node, NodeNo};

/// How long the played device takes a ticket to be valid.
const TICKET_TIME: Duration = Duration::from_mins(10);

/// The number of the first played device on the network: above those of all real ones.
const FAKES_FROM: NodeNo = 1_000;

/// What a played device was sent.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Envelopes that were broadcast to it.
    pub gossip: Vec<SyncEnvelope>,
    /// Envelopes that asked it something.
    pub requests: Vec<SyncEnvelope>,
    /// When each of them came.
    pub requests_at: Vec<Instant>,
    /// Bytes that reached it, readable or not, as broadcast or request.
    pub bytes: u64,
    /// How often a connection came up.
    pub connected: u64,
}

impl Heard {
    /// The batches of a stream that were sent to it directly, and when.
    #[must_use]
    pub fn batches_of(&self, stream: Stream) -> Vec<(Instant, Batch)> {
        let batch = |envelope: &SyncEnvelope| envelope.payload.clone().into_batch().ok();
        let batches =
            self.requests.iter().zip(&self.requests_at).filter_map(|(envelope, at)| Some((*at, batch(envelope)?)));
        batches.filter(|(_, batch)| batch.stream == stream).collect()
    }
}

/// What the played device knows, and what it tells those who ask.
struct Script {
    secret: DeviceSecret,
    library: LibraryId,
    statements: Vec<Signed>,
    heads: Watermarks,
    pages: BTreeMap<Stream, Vec<Batch>>,
    refusal: Option<String>,
    answers: BTreeMap<&'static str, SyncPayload>,
    heard: Heard,
}

/// A device that a test plays.
pub struct FakeMember {
    number: NodeNo,
    script: Arc<Mutex<Script>>,
    network: NetworkAddress,
}

impl std::fmt::Debug for FakeMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeMember").field("key", &self.key()).finish_non_exhaustive()
    }
}

impl FakeMember {
    /// Plays a device that belongs to nothing, on the network of a library. It lets everybody connect.
    pub async fn stranger(cluster: &Cluster, library: LibraryId, seed: u8) -> Self {
        let secret = DeviceSecret::from_bytes(&[seed; 32]);
        let (statements, heads, pages) = (Vec::new(), Watermarks::new(), BTreeMap::new());
        let (refusal, answers, heard) = (None, BTreeMap::new(), Heard::default());
        let script = Script { secret: secret.clone(), library, statements, heads, pages, refusal, answers, heard };
        let script = Arc::new(Mutex::new(script));
        let events = Ears(script.clone()).start().recipient();
        let number = FAKES_FROM + usize::from(seed);
        let network = cluster.network().factory(number, Arc::default())(secret.public(), library, events);
        let fake = Self { number, script, network };
        fake.admit(Vec::new()).await;
        fake
    }

    /// Plays a device that joins a real one's library with a real ticket, and is connected with it as a member. Gives
    /// the real one's key, too.
    pub async fn join(cluster: &Cluster, inviter: &Node, seed: u8) -> (Self, DeviceKey) {
        let fake = Self::stranger(cluster, inviter.peer().library(), seed).await;
        let ticket: Ticket = inviter.ticket(TICKET_TIME).await.parse().expect("an issued ticket is valid");
        fake.admit(vec![ticket.inviter]).await;
        fake.dial(inviter.number(), ticket.inviter).await.expect("an inviter can be dialled");
        let answer = fake.ask(inviter, ticket.inviter, fake.join_request(&ticket)).await;
        let SyncPayload::JoinResponse(JoinResponse::Admitted { statements, .. }) = answer else {
            panic!("the ticket was refused: {answer:?}")
        };
        fake.script.lock().statements = statements;
        // The connection that it joined over ends; the next one is a member's.
        cluster.pass(Duration::from_secs(2)).await;
        fake.dial(inviter.number(), ticket.inviter).await.expect("a member can be dialled");
        cluster.pass(Duration::from_secs(2)).await;
        (fake, ticket.inviter)
    }

    /// The request that joins with a ticket.
    #[must_use]
    pub fn join_request(&self, ticket: &Ticket) -> SyncPayload {
        let proof = proof(&ticket.secret, ticket.inviter, self.key());
        SyncPayload::JoinRequest(JoinRequest { key: self.key(), name: "fake".to_owned(), proof })
    }

    /// Its secret.
    #[must_use]
    pub fn secret(&self) -> DeviceSecret {
        self.script.lock().secret.clone()
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> DeviceKey {
        self.secret().public()
    }

    /// Its shared stream.
    #[must_use]
    pub fn shared(&self) -> Stream {
        Stream::shared(self.key().device())
    }

    /// Its state stream.
    #[must_use]
    pub fn state(&self) -> Stream {
        Stream::state(self.key().device())
    }

    /// The membership statements that it holds.
    #[must_use]
    pub fn statements(&self) -> Vec<Signed> {
        self.script.lock().statements.clone()
    }

    /// What it was sent so far.
    #[must_use]
    pub fn heard(&self) -> Heard {
        self.script.lock().heard.clone()
    }

    /// Says from now on that it has so much of a stream.
    pub fn claim(&self, stream: Stream, through: u64) {
        self.script.lock().heads.raise(stream, through);
    }

    /// Has this page from now on for whoever asks for its stream, and says that it has as much.
    pub fn serve(&self, batch: Batch) {
        self.claim(batch.stream, batch.through);
        self.script.lock().pages.entry(batch.stream).or_default().push(batch);
    }

    /// Refuses every batch that is sent to it directly from now on, with this message; none: takes them again.
    pub fn refuse_batches(&self, message: Option<&str>) {
        self.script.lock().refusal = message.map(str::to_owned);
    }

    /// Answers every request of this name with these words from now on.
    pub fn answer_with(&self, request: &'static str, answer: SyncPayload) {
        self.script.lock().answers.insert(request, answer);
    }

    /// The hello that it says.
    #[must_use]
    pub fn hello(&self) -> Hello {
        self.script.lock().hello()
    }

    /// Lets these devices be its members, and everybody connect.
    pub async fn admit(&self, members: Vec<DeviceKey>) {
        let admit = Admit { members, guests: Vec::new(), strangers: true };
        self.network.admit.send(admit).await.expect("the network runs");
    }

    /// Lets nobody connect.
    pub async fn close(&self) {
        let admit = Admit { members: Vec::new(), guests: Vec::new(), strangers: false };
        self.network.admit.send(admit).await.expect("the network runs");
    }

    /// Its number on the network.
    #[must_use]
    pub fn number(&self) -> NodeNo {
        self.number
    }

    /// Connects with the device of that number and key.
    ///
    /// # Errors
    /// When it is refused or cannot be reached.
    pub async fn dial(&self, number: NodeNo, peer: DeviceKey) -> Result<(), NetworkError> {
        let addresses = vec![address(number)];
        self.network.dial.send(Dial { peer, addresses }).await.expect("the network runs")
    }

    /// Closes its connection with a device.
    pub async fn disconnect(&self, peer: DeviceKey) {
        self.network.disconnect.send(Disconnect(peer)).await.expect("the network runs");
    }

    /// Wraps a payload as a message of this device.
    #[must_use]
    pub fn envelope(&self, payload: SyncPayload) -> SyncEnvelope {
        self.script.lock().envelope(payload)
    }

    /// Broadcasts bytes.
    pub async fn publish_bytes(&self, bytes: Vec<u8>) {
        self.network.publish.send(Publish(bytes)).await.expect("the network runs");
    }

    /// Broadcasts a payload.
    pub async fn publish(&self, payload: SyncPayload) {
        let bytes = self.envelope(payload).encode(GOSSIP_BYTES_MAX).expect("the message fits");
        self.publish_bytes(bytes).await;
    }

    /// Sends bytes as a request.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn ask_bytes(&self, peer: DeviceKey, bytes: Vec<u8>) -> Result<Vec<u8>, NetworkError> {
        self.network.request.send(Request { peer, bytes }).await.expect("the network runs")
    }

    /// Asks something and gives the whole answer.
    pub async fn envelope_in_answer_to(&self, peer: DeviceKey, payload: SyncPayload) -> SyncEnvelope {
        let bytes = self.envelope(payload).encode(UNPACKED_BYTES_MAX).expect("the message fits");
        self.answer_to_bytes(peer, bytes).await
    }

    /// Asks something and gives what the answer says, whoever gives it.
    pub async fn answer_to(&self, peer: DeviceKey, payload: SyncPayload) -> SyncPayload {
        self.envelope_in_answer_to(peer, payload).await.payload
    }

    /// Asks a real device something and gives what the answer says, which must be from that device and about the
    /// library.
    pub async fn ask(&self, node: &Node, peer: DeviceKey, payload: SyncPayload) -> SyncPayload {
        let library = self.script.lock().library;
        let answer = self.envelope_in_answer_to(peer, payload).await;
        assert_eq!((answer.library, answer.device), (library, node.id()), "who answers about what");
        answer.payload
    }

    /// Asks what must be refused, and gives what kind of refusal comes back.
    pub async fn ask_refused(&self, peer: DeviceKey, payload: SyncPayload) -> RefusalKind {
        let bytes = self.envelope(payload).encode(UNPACKED_BYTES_MAX).expect("the message fits");
        self.refused_bytes(peer, bytes).await
    }

    /// Sends bytes that must be refused, and gives what kind of refusal comes back.
    pub async fn refused_bytes(&self, peer: DeviceKey, bytes: Vec<u8>) -> RefusalKind {
        match self.answer_to_bytes(peer, bytes).await.payload {
            SyncPayload::Error(refusal) => refusal.kind,
            other => panic!("not refused: {other:?}"),
        }
    }

    async fn answer_to_bytes(&self, peer: DeviceKey, bytes: Vec<u8>) -> SyncEnvelope {
        let answer = self.ask_bytes(peer, bytes).await.unwrap_or_else(|error| panic!("no answer: {error}"));
        SyncEnvelope::decode(&answer).unwrap_or_else(|error| panic!("no message: {error}"))
    }
}

impl Script {
    fn envelope(&self, payload: SyncPayload) -> SyncEnvelope {
        SyncEnvelope { library: self.library, device: self.secret.device(), timestamp_ms: 0, payload }
    }

    fn hello(&self) -> Hello {
        Hello {
            protocol_min: PROTOCOL_VERSION,
            protocol_max: PROTOCOL_VERSION,
            key: self.secret.public(),
            app_version: "fake".to_owned(),
            statements: self.statements.clone(),
            addresses: Vec::new(),
            watermarks: self.heads.clone(),
        }
    }

    /// What it answers: as it was told to, otherwise politely, and with nothing but what it was told to serve.
    fn answer(&self, payload: SyncPayload) -> SyncPayload {
        if let Some(answer) = self.answers.get(payload.name()) {
            return answer.clone();
        }
        let page = |stream: Stream, after| {
            let head = self.heads.get(stream);
            let next = self.pages.get(&stream).into_iter().flatten().find(|batch| batch.through > after).cloned();
            let page = next.map(|batch| PageResponse::Page { batch, head, floor: 0, clean: head });
            SyncPayload::page_response(stream.kind, page.unwrap_or(PageResponse::UpToDate { head: 0 }))
        };
        match payload {
            SyncPayload::Hello(_) => SyncPayload::Hello(self.hello()),
            SyncPayload::Heartbeat(_) => SyncPayload::Done,
            SyncPayload::StateRequest(request) => page(Stream::state(request.origin), request.after),
            SyncPayload::SharedChangeRequest(request) => page(Stream::shared(request.origin), request.after),
            other => match other.into_batch() {
                Ok(batch) => match &self.refusal {
                    Some(message) => refusal(message),
                    None => SyncPayload::ack(batch.stream, batch.through, batch.through),
                },
                Err(_) => refusal("this device is played"),
            },
        }
    }

    fn hear(&mut self, bytes: &[u8]) -> Option<SyncEnvelope> {
        self.heard.bytes += bytes.len() as u64;
        SyncEnvelope::decode(bytes).ok()
    }
}

fn refusal(message: &str) -> SyncPayload {
    SyncPayload::Error(Refusal { kind: RefusalKind::BadRequest, message: message.to_owned() })
}

/// Hears what the network tells the played device.
struct Ears(Arc<Mutex<Script>>);

impl Actor for Ears {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(EVENTS_MAX);
    }
}

impl Handler<NetworkEvent> for Ears {
    type Result = ();

    fn handle(&mut self, event: NetworkEvent, _: &mut Self::Context) {
        let mut script = self.0.lock();
        match event {
            NetworkEvent::Connected { .. } => script.heard.connected += 1,
            NetworkEvent::Gossip { bytes, verdict, .. } => {
                let envelope = script.hear(&bytes);
                script.heard.gossip.extend(envelope);
                // A network that is gone needs no verdict.
                verdict.send(Verdict::Accept).ok();
            }
            NetworkEvent::Request { bytes, reply, .. } => {
                let Some(envelope) = script.hear(&bytes) else { return };
                script.heard.requests.push(envelope.clone());
                script.heard.requests_at.push(Instant::now());
                let answer = script.answer(envelope.payload);
                let bytes = script.envelope(answer).encode(UNPACKED_BYTES_MAX).expect("the answer fits");
                drop(reply.send(bytes));
            }
            NetworkEvent::Disconnected { .. } | NetworkEvent::Listening { .. } | NetworkEvent::Discovered { .. } => {}
        }
    }
}
