//! Real networks on loopback: what the roster may rely on.

use std::time::Duration;

use actix::prelude::*;
use futures::channel::oneshot;
use futures::future::join_all;
use starling_schema::ids::LibraryId;
use starling_schema::key::{DeviceKey, DeviceSecret};
use starling_schema::wire::{GOSSIP_BYTES_MAX, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::behaviour::REQUESTS_PER_PEER_MAX;
use super::{Request, *};

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for what must not happen.
const SILENCE: Duration = Duration::from_secs(2);

/// A roster that answers a request with as many bytes as it names, never answers `hold`, gives every gossip message the
/// same verdict, and passes on what it is told.
struct Ear {
    heard: mpsc::Sender<Heard>,
    verdict: Verdict,
    held: Vec<oneshot::Sender<Vec<u8>>>,
    pause: Duration,
}

#[derive(Debug, Eq, PartialEq)]
enum Heard {
    Connected(DeviceKey),
    Disconnected(DeviceKey),
    Gossip(DeviceKey, Vec<u8>),
    Request(DeviceKey),
    Discovered(DeviceKey, Vec<String>),
}

impl Actor for Ear {
    type Context = Context<Self>;
}

impl Handler<NetworkEvent> for Ear {
    type Result = ();

    fn handle(&mut self, event: NetworkEvent, ctx: &mut Self::Context) {
        if !self.pause.is_zero() {
            ctx.wait(sleep(self.pause).into_actor(self));
        }
        let heard = match event {
            NetworkEvent::Connected { peer, .. } => Heard::Connected(peer),
            NetworkEvent::Disconnected { peer } => Heard::Disconnected(peer),
            NetworkEvent::Gossip { source, bytes, verdict } => {
                verdict.send(self.verdict).ok();
                Heard::Gossip(source, bytes)
            }
            NetworkEvent::Request { peer, bytes, reply } => {
                match std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse::<usize>().ok()) {
                    Some(length) => drop(reply.send(vec![b'x'; length])),
                    None if bytes == b"hold" => self.held.push(reply),
                    None => drop(reply),
                }
                Heard::Request(peer)
            }
            NetworkEvent::Discovered { peer, addresses } => Heard::Discovered(peer, addresses),
            NetworkEvent::Listening { .. } => return,
        };
        self.heard.try_send(heard).unwrap();
    }
}

struct Device {
    key: DeviceKey,
    network: StartedNetwork,
    heard: mpsc::Receiver<Heard>,
}

fn options(seed: u8, listen: &[&str]) -> NetworkOptions {
    NetworkOptions {
        secret: DeviceSecret::from_bytes(&[seed; 32]),
        library: LibraryId::MIN,
        listen: listen.iter().map(|&address| address.to_owned()).collect(),
        mdns: false,
    }
}

impl Device {
    async fn new(seed: u8) -> Self {
        Self::with(seed, "/ip4/127.0.0.1/tcp/0", Verdict::Accept, Duration::ZERO).await
    }

    async fn with(seed: u8, listen: &str, verdict: Verdict, pause: Duration) -> Self {
        let (sender, heard) = mpsc::channel(EVENTS_MAX);
        let ear = Ear::create(|ctx| {
            ctx.set_mailbox_capacity(if pause.is_zero() { EVENTS_MAX } else { 1 });
            Ear { heard: sender, verdict, held: Vec::new(), pause }
        });
        let options = options(seed, &[listen]);
        let key = options.secret.public();
        let network = Network::start(options, ear.recipient(), &Arbiter::current()).await.unwrap();
        Self { key, network, heard }
    }

    async fn admit(&self, members: &[&Device], guests: &[&Device], strangers: bool) {
        let keys = |devices: &[&Device]| devices.iter().map(|device| device.key).collect();
        let admit = Admit { members: keys(members), guests: keys(guests), strangers };
        self.network.address.admit.send(admit).await.unwrap();
    }

    async fn dial(&self, other: &Device) -> Result<(), NetworkError> {
        let dial = Dial { peer: other.key, addresses: other.network.listening.clone() };
        self.network.address.dial.send(dial).await.unwrap()
    }

    async fn request(&self, other: &Device, bytes: impl Into<Vec<u8>>) -> Result<Vec<u8>, NetworkError> {
        self.network.address.request.send(Request { peer: other.key, bytes: bytes.into() }).await.unwrap()
    }

    async fn publish(&self, bytes: impl Into<Vec<u8>>) {
        self.network.address.publish.send(Publish(bytes.into())).await.unwrap();
    }

    async fn hears(&mut self, wanted: &Heard) {
        let search = async { while self.heard.recv().await.as_ref() != Some(wanted) {} };
        timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("{wanted:?} was not heard"));
    }

    async fn hears_no_gossip(&mut self) {
        let search = async {
            loop {
                if let Some(Heard::Gossip(_, bytes)) = self.heard.recv().await {
                    return bytes;
                }
            }
        };
        assert_eq!(timeout(SILENCE, search).await.ok(), None);
    }
}

/// Two devices that are members for each other and connected.
async fn pair() -> (Device, Device) {
    pair_at("/ip4/127.0.0.1/tcp/0").await
}

async fn pair_at(listen: &str) -> (Device, Device) {
    let mut a = Device::with(1, listen, Verdict::Accept, Duration::ZERO).await;
    let mut b = Device::with(2, listen, Verdict::Accept, Duration::ZERO).await;
    befriend(&mut a, &mut b).await;
    (a, b)
}

async fn befriend(a: &mut Device, b: &mut Device) {
    a.admit(&[b], &[], false).await;
    b.admit(&[a], &[], false).await;
    connect(a, b).await;
}

async fn connect(a: &mut Device, b: &mut Device) {
    a.dial(b).await.unwrap();
    a.hears(&Heard::Connected(b.key)).await;
    b.hears(&Heard::Connected(a.key)).await;
}

/// Publishes until another device hears a message, since a mesh takes a moment to grow, and returns its bytes.
async fn gossip_reaches(from: &Device, to: &mut Device) -> Vec<u8> {
    let publish = async {
        for round in 0_u32.. {
            from.publish(format!("round {round}")).await;
            sleep(Duration::from_millis(100)).await;
        }
    };
    let hear = async {
        loop {
            if let Some(Heard::Gossip(source, bytes)) = to.heard.recv().await {
                assert_eq!(source, from.key);
                return bytes;
            }
        }
    };
    tokio::select! {
        () = publish => unreachable!(),
        bytes = hear => bytes,
        () = sleep(PATIENCE) => panic!("no gossip arrived"),
    }
}

#[actix::test]
async fn requests_are_answered_both_ways() {
    let (a, b) = pair().await;
    assert_eq!(a.request(&b, "5").await, Ok(b"xxxxx".to_vec()));
    assert_eq!(b.request(&a, "0").await, Ok(Vec::new()));
    assert_eq!(a.request(&b, (3 << 20).to_string()).await.map(|answer| answer.len()), Ok(3 << 20));
    assert_eq!(b.request(&a, RESPONSE_BYTES_MAX.to_string()).await.map(|a| a.len()), Ok(RESPONSE_BYTES_MAX));
}

#[actix::test]
async fn requests_are_answered_over_quic() {
    let (a, b) = pair_at("/ip4/127.0.0.1/udp/0/quic-v1").await;
    assert_eq!(a.request(&b, (3 << 20).to_string()).await.map(|answer| answer.len()), Ok(3 << 20));
    assert_eq!(b.request(&a, "5").await, Ok(b"xxxxx".to_vec()));
}

#[actix::test]
async fn a_message_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let (a, b) = pair().await;
    let mut largest = vec![b' '; REQUEST_BYTES_MAX];
    largest[0] = b'7';
    assert_eq!(a.request(&b, largest.clone()).await.map(|answer| answer.len()), Ok(7));
    largest.push(b' ');
    assert_eq!(a.request(&b, largest).await, Err(NetworkError::TooLarge));
    let too_large = a.request(&b, (RESPONSE_BYTES_MAX + 1).to_string()).await;
    assert_eq!(too_large, Err(NetworkError::Failed("the other side did not answer".to_owned())));
    assert_eq!(a.request(&b, "1").await, Ok(b"x".to_vec()), "the connection goes on");
}

#[actix::test]
async fn a_request_without_an_answer_fails_and_one_without_a_connection_is_not_sent() {
    let (a, b) = pair().await;
    assert!(matches!(a.request(&b, "silence").await, Err(NetworkError::Failed(_))));
    let stranger = Device::new(3).await;
    assert_eq!(a.request(&stranger, "1").await, Err(NetworkError::NotConnected));
}

#[actix::test]
async fn one_request_too_many_is_busy() {
    let (a, mut b) = pair().await;
    let held = join_all((0..REQUESTS_PER_PEER_MAX).map(|_| a.request(&b, "hold")));
    let probe = async {
        sleep(Duration::from_millis(200)).await;
        a.request(&b, "1").await
    };
    tokio::select! {
        outcomes = held => panic!("held requests ended: {outcomes:?}"),
        outcome = probe => assert_eq!(outcome, Err(NetworkError::Busy)),
    }
    for _ in 0..REQUESTS_PER_PEER_MAX {
        b.hears(&Heard::Request(a.key)).await;
    }
}

#[actix::test]
async fn requests_end_with_the_connection() {
    let (a, b) = pair().await;
    let request = a.request(&b, "hold");
    let cut = async {
        sleep(Duration::from_millis(200)).await;
        b.network.address.disconnect.send(Disconnect(a.key)).await.unwrap();
    };
    assert_eq!(tokio::join!(request, cut).0, Err(NetworkError::NotConnected));
}

#[actix::test]
async fn gossip_travels_a_line_of_devices() {
    let (mut a, mut b, mut c) = (Device::new(1).await, Device::new(2).await, Device::new(3).await);
    a.admit(&[&b], &[], false).await;
    b.admit(&[&a, &c], &[], false).await;
    c.admit(&[&b], &[], false).await;
    connect(&mut a, &mut b).await;
    connect(&mut b, &mut c).await;
    let heard = gossip_reaches(&a, &mut c).await;
    b.hears(&Heard::Gossip(a.key, heard)).await;
    a.publish(vec![1; GOSSIP_BYTES_MAX + 1]).await;
    let largest = vec![2; GOSSIP_BYTES_MAX];
    a.publish(largest.clone()).await;
    c.hears(&Heard::Gossip(a.key, largest)).await;
}

#[actix::test]
async fn gossip_that_is_not_accepted_goes_no_further() {
    let (mut a, mut c) = (Device::new(1).await, Device::new(3).await);
    let mut b = Device::with(2, "/ip4/127.0.0.1/tcp/0", Verdict::Ignore, Duration::ZERO).await;
    a.admit(&[&b], &[], false).await;
    b.admit(&[&a, &c], &[], false).await;
    c.admit(&[&b], &[], false).await;
    connect(&mut a, &mut b).await;
    connect(&mut b, &mut c).await;
    gossip_reaches(&b, &mut c).await;
    gossip_reaches(&a, &mut b).await;
    while c.heard.try_recv().is_ok() {}
    a.publish("not for c").await;
    b.hears(&Heard::Gossip(a.key, b"not for c".to_vec())).await;
    c.hears_no_gossip().await;
}

#[actix::test]
async fn a_stranger_is_refused_whoever_dials() {
    let (mut a, s) = (Device::new(1).await, Device::new(9).await);
    a.admit(&[], &[], false).await;
    s.admit(&[&a], &[], false).await;
    // The dialler may see the connection come up before the other side refuses it; it never lasts.
    s.dial(&a).await.ok();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(s.request(&a, "1").await, Err(NetworkError::NotConnected));
    let Err(NetworkError::Failed(reason)) = a.dial(&s).await else { panic!("a stranger was dialled") };
    assert!(reason.contains("may not connect"), "{reason}");
    assert_eq!(a.heard.try_recv().ok(), None);
}

#[actix::test]
async fn a_stranger_with_a_ticket_may_ask_but_hears_no_gossip() {
    let (mut a, mut b, mut s) = (Device::new(1).await, Device::new(2).await, Device::new(9).await);
    a.admit(&[&b], &[], true).await;
    b.admit(&[&a], &[], false).await;
    // The stranger would like gossip very much.
    s.admit(&[&a], &[], true).await;
    connect(&mut a, &mut b).await;
    connect(&mut s, &mut a).await;
    assert_eq!(s.request(&a, "5").await, Ok(b"xxxxx".to_vec()));
    assert_eq!(a.request(&s, "5").await, Ok(b"xxxxx".to_vec()));
    for _ in 0..5 {
        gossip_reaches(&a, &mut b).await;
        s.publish("from a stranger").await;
    }
    s.hears_no_gossip().await;
    a.hears_no_gossip().await;
}

#[actix::test]
async fn a_stranger_that_becomes_a_member_is_answered_first_and_gossips_once_it_redials() {
    let (mut a, mut j) = (Device::new(1).await, Device::new(9).await);
    a.admit(&[], &[], true).await;
    j.admit(&[], &[&a], false).await;
    connect(&mut j, &mut a).await;
    let bytes = (3 << 20).to_string().into_bytes();
    let join = j.network.address.request.send(Request { peer: a.key, bytes });
    let admission = async {
        a.hears(&Heard::Request(j.key)).await;
        a.admit(&[&j], &[], false).await;
    };
    assert_eq!(tokio::join!(join, admission).0.unwrap().map(|answer| answer.len()), Ok(3 << 20));
    a.hears(&Heard::Disconnected(j.key)).await;
    j.hears(&Heard::Disconnected(a.key)).await;
    j.admit(&[&a], &[], false).await;
    connect(&mut j, &mut a).await;
    gossip_reaches(&a, &mut j).await;
    gossip_reaches(&j, &mut a).await;
}

#[actix::test]
async fn a_removed_member_is_disconnected_and_stays_out() {
    let (mut a, mut b) = pair().await;
    gossip_reaches(&a, &mut b).await;
    a.admit(&[], &[], false).await;
    a.hears(&Heard::Disconnected(b.key)).await;
    b.hears(&Heard::Disconnected(a.key)).await;
    b.dial(&a).await.ok();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(b.request(&a, "1").await, Err(NetworkError::NotConnected));
}

#[actix::test]
async fn a_member_that_becomes_a_guest_hears_no_more_gossip() {
    let (mut a, mut b) = pair().await;
    gossip_reaches(&a, &mut b).await;
    a.admit(&[], &[&b], false).await;
    b.hears(&Heard::Disconnected(a.key)).await;
    connect(&mut b, &mut a).await;
    for round in 0..10 {
        a.publish(format!("for members {round}")).await;
        sleep(Duration::from_millis(100)).await;
    }
    b.hears_no_gossip().await;
    assert_eq!(b.request(&a, "1").await, Ok(b"x".to_vec()));
}

#[actix::test]
async fn only_the_key_that_was_dialled_may_answer() {
    let (a, b, c) = (Device::new(1).await, Device::new(2).await, Device::new(3).await);
    a.admit(&[&b, &c], &[], false).await;
    let dial = |addresses| a.network.address.dial.send(Dial { peer: c.key, addresses });
    let wrong = dial(b.network.listening.clone()).await.unwrap();
    assert!(matches!(wrong, Err(NetworkError::Failed(_))), "{wrong:?}");
    let bad = dial(vec!["nowhere".to_owned()]).await.unwrap();
    assert!(matches!(&bad, Err(NetworkError::Failed(reason)) if reason.contains("nowhere")), "{bad:?}");
    let closed = dial(vec!["/ip4/127.0.0.1/tcp/1".to_owned()]).await.unwrap();
    assert!(matches!(&closed, Err(NetworkError::Failed(reason)) if reason.contains("refused")), "{closed:?}");
}

#[actix::test]
async fn two_devices_that_dial_each_other_at_once_are_connected_once() {
    let (mut a, mut b) = (Device::new(1).await, Device::new(2).await);
    a.admit(&[&b], &[], false).await;
    b.admit(&[&a], &[], false).await;
    let (ours, theirs) = tokio::join!(a.dial(&b), b.dial(&a));
    assert!(ours.is_ok() && theirs.is_ok(), "{ours:?} {theirs:?}");
    a.hears(&Heard::Connected(b.key)).await;
    b.hears(&Heard::Connected(a.key)).await;
    assert_eq!(a.dial(&b).await, Ok(()), "dialling whom one is connected with does nothing");
    gossip_reaches(&a, &mut b).await;
    gossip_reaches(&b, &mut a).await;
    a.network.address.disconnect.send(Disconnect(b.key)).await.unwrap();
    a.hears(&Heard::Disconnected(b.key)).await;
    b.hears(&Heard::Disconnected(a.key)).await;
    sleep(Duration::from_millis(500)).await;
    while let Ok(heard) = a.heard.try_recv() {
        assert!(!matches!(heard, Heard::Connected(_) | Heard::Disconnected(_)), "{heard:?}");
    }
}

#[actix::test]
async fn members_tell_each_other_where_they_listen() {
    let (mut a, mut b) = pair().await;
    a.hears(&Heard::Discovered(b.key, b.network.listening.clone())).await;
    b.hears(&Heard::Discovered(a.key, a.network.listening.clone())).await;
}

#[actix::test]
#[ignore = "needs a network interface with multicast"]
async fn devices_on_one_network_discover_each_other() {
    let found = |seed| async move {
        let (heard, mut discovered) = mpsc::channel(EVENTS_MAX);
        let ear = Ear { heard, verdict: Verdict::Ignore, held: Vec::new(), pause: Duration::ZERO }.start();
        let options = NetworkOptions { mdns: true, ..options(seed, &[]) };
        let network = Network::start(options, ear.recipient(), &Arbiter::current()).await.unwrap();
        let Some(Heard::Discovered(peer, addresses)) = discovered.recv().await else { panic!("nobody found") };
        (network, peer, addresses)
    };
    let found = async { tokio::join!(found(1), found(2)) };
    let ((first, peer, addresses), (second, other, _)) = timeout(PATIENCE, found).await.unwrap();
    for (network, member) in [(&first, peer), (&second, other)] {
        let admit = Admit { members: vec![member], guests: Vec::new(), strangers: false };
        network.address.admit.send(admit).await.unwrap();
    }
    assert!(!addresses.is_empty() && addresses.iter().all(|address| !address.contains("p2p")), "{addresses:?}");
    assert_eq!(first.address.dial.send(Dial { peer, addresses }).await.unwrap(), Ok(()));
}

#[actix::test]
async fn a_taken_port_or_a_bad_address_is_named() {
    let ear = || {
        let (heard, _) = mpsc::channel(EVENTS_MAX);
        let ear = Ear { heard, verdict: Verdict::Ignore, held: Vec::new(), pause: Duration::ZERO };
        ear.start().recipient()
    };
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let first = Device::with(1, listen, Verdict::Accept, Duration::ZERO).await;
        let taken = first.network.listening[0].as_str();
        let error = Network::start(options(2, &[taken]), ear(), &Arbiter::current()).await.unwrap_err();
        assert!(matches!(&error, StartNetworkError::Unavailable { address, .. } if address == taken), "{error:?}");
        assert!(error.to_string().to_lowercase().contains("address already in use"), "{error}");
    }
    for bad in ["nowhere", "/ip4/127.0.0.1/udp/0/utp"] {
        let error = Network::start(options(2, &[bad]), ear(), &Arbiter::current()).await.unwrap_err();
        assert!(matches!(&error, StartNetworkError::BadAddress { address, .. } if address == bad), "{error:?}");
    }
}

#[actix::test]
async fn a_stopped_network_closes_its_connections_and_frees_its_port() {
    let (a, mut b) = pair().await;
    a.network.actor.send(Stop).await.unwrap();
    b.hears(&Heard::Disconnected(a.key)).await;
    let listen = a.network.listening[0].clone();
    drop(a);
    let again = Device::with(1, &listen, Verdict::Accept, Duration::ZERO).await;
    assert_eq!(again.network.listening, [listen]);
}

#[actix::test]
async fn a_network_that_nobody_can_reach_any_more_stops() {
    let (a, mut b) = pair().await;
    drop(a.network);
    b.hears(&Heard::Disconnected(a.key)).await;
}

#[actix::test]
async fn a_slow_roster_misses_no_coming_and_going() {
    let mut slow = Device::with(1, "/ip4/127.0.0.1/tcp/0", Verdict::Accept, Duration::from_millis(20)).await;
    let mut b = Device::new(2).await;
    slow.admit(&[&b], &[], false).await;
    b.admit(&[&slow], &[], false).await;
    for _ in 0..5 {
        b.dial(&slow).await.unwrap();
        b.hears(&Heard::Connected(slow.key)).await;
        let answers = join_all((0..REQUESTS_PER_PEER_MAX).map(|_| b.request(&slow, "1"))).await;
        assert_eq!(answers, vec![Ok(b"x".to_vec()); REQUESTS_PER_PEER_MAX]);
        b.network.address.disconnect.send(Disconnect(slow.key)).await.unwrap();
        b.hears(&Heard::Disconnected(slow.key)).await;
    }
    let mut heard = Vec::new();
    while heard.iter().filter(|event| **event == Heard::Disconnected(b.key)).count() < 5 {
        let event = timeout(PATIENCE, slow.heard.recv()).await.unwrap().unwrap();
        if !matches!(event, Heard::Discovered(..)) {
            heard.push(event);
        }
    }
    for round in heard.chunks(REQUESTS_PER_PEER_MAX + 2) {
        assert_eq!(round.first(), Some(&Heard::Connected(b.key)));
        assert_eq!(round.last(), Some(&Heard::Disconnected(b.key)));
        assert_eq!(round.iter().filter(|event| **event == Heard::Request(b.key)).count(), REQUESTS_PER_PEER_MAX);
    }
}
