//! The actors of one library as a tree: started in order over an open file, stopped in the reverse order. The one place
//! that decides which actor lives on which thread.

use std::path::Path;

use actix::prelude::*;
use futures::channel::oneshot;
use starling_schema::ids::{DeviceId, LibraryId};
use starling_schema::key::DeviceSecret;
use starling_schema::model::Syncable;
use starling_schema::models::Device;

use crate::auditor::{Auditor, Begin};
use crate::backfill_buffer::BackfillBuffer;
use crate::counters::Counters;
use crate::engine::Engine;
use crate::environment::{Environment, Placement};
use crate::events::Events;
use crate::heads_file::HeadsFile;
use crate::heartbeats::{Heartbeats, HeartbeatsStart, PublishTo};
use crate::identity::Identity;
use crate::library_file::{Stored, host_name, read_stored};
use crate::links::{Halt, Links};
use crate::network::{self, Network, NetworkAddress, NetworkEvent, NetworkOptions};
use crate::peer::{NetworkChoice, PeerOptions, StartError, store_error};
use crate::purger::{Clear, Purger};
use crate::reader::{Reader, Readers};
use crate::retry_queue::RetryQueue;
use crate::roster::{Roster, Wire};
use crate::store::Registry;
use crate::store::open::{open_reader, open_writer};
use crate::store::tables::Tables;
use crate::transactions::{Close, Commit, CommitError, Listen, Transactions};

/// How often an older copy of a database is asked whether it has its changes back.
const INTRODUCE_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// The running actors of one library.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) links: Links,
    pub(crate) roster: Addr<Roster>,
    libp2p: Option<Addr<Network>>,
    readers: Vec<Addr<Reader>>,
}

/// The threads that actors live on: the one place that decides it.
pub(crate) struct Threads {
    store: ArbiterHandle,
    readers: Vec<ArbiterHandle>,
    protocol: ArbiterHandle,
    network: ArbiterHandle,
    pub(crate) own: Vec<Arbiter>,
}

impl Threads {
    /// Ends the threads that were made, and waits until they have ended.
    pub(crate) fn end(self) {
        for arbiter in &self.own {
            arbiter.stop();
        }
        for arbiter in self.own {
            if arbiter.join().is_err() {
                tracing::error!("a thread of the peer had panicked");
            }
        }
    }

    pub(crate) fn new(placement: Placement) -> Self {
        match placement {
            Placement::OneThread => {
                let here = Arbiter::current();
                let readers = vec![here.clone()];
                Self { store: here.clone(), readers, protocol: here.clone(), network: here, own: Vec::new() }
            }
            Placement::Threads { readers } => {
                let own: Vec<Arbiter> = (0..3 + readers.max(1)).map(|_| Arbiter::new()).collect();
                let mut handles = own.iter().map(Arbiter::handle);
                let mut next = || handles.next().unwrap_or_else(Arbiter::current);
                let (store, protocol, network) = (next(), next(), next());
                Self { store, protocol, network, readers: own.iter().skip(3).map(Arbiter::handle).collect(), own }
            }
        }
    }
}

/// The actors that speak with peers, between the store and the network.
struct Protocol {
    buffer: Addr<BackfillBuffer>,
    retry: Addr<RetryQueue>,
    heartbeats: Addr<Heartbeats>,
    roster: Addr<Roster>,
}

impl Protocol {
    fn start(
        thread: &ArbiterHandle,
        secret: &DeviceSecret,
        environment: &Environment,
        transactions: &Addr<Transactions>,
        counters: Counters,
        stored: Stored,
    ) -> Self {
        let device = secret.device();
        let parts = || (transactions.clone(), environment.clone(), stored.marks.clone());
        let (store, time, marks) = parts();
        let (held, begun) = ((marks, stored.clean, stored.parked), stored.snapshots);
        let buffer =
            BackfillBuffer::start_in_arbiter(thread, move |_| BackfillBuffer::new(device, held, begun, store, time));
        let ((store, time, marks), retries) = (parts(), stored.retries);
        let retry =
            RetryQueue::start_in_arbiter(thread, move |_| RetryQueue::new(device, &marks, retries, store, time));
        let start = HeartbeatsStart {
            secret: secret.clone(),
            environment: environment.clone(),
            transactions: transactions.clone(),
            retry: retry.clone(),
            buffer: buffer.clone(),
            counters,
            membership: stored.membership.clone(),
            stored: stored.beacons,
            known_since_ms: stored.known_since_ms,
        };
        let heartbeats = Heartbeats::start_in_arbiter(thread, move |_| Heartbeats::new(start));
        let (secret, membership, tickets, book) = (secret.clone(), stored.membership, stored.tickets, stored.book);
        let paused = stored.paused;
        let roster = Roster::start_in_arbiter(thread, move |_| Roster::new(secret, membership, tickets, book, paused));
        Self { buffer, retry, heartbeats, roster }
    }

    async fn halt(self) {
        let Self { buffer, retry, heartbeats, roster } = self;
        let halted =
            [roster.send(Halt).await, heartbeats.send(Halt).await, retry.send(Halt).await, buffer.send(Halt).await];
        tracing::debug!(?halted, "the protocol has stopped");
    }
}

impl Tree {
    /// Starts everything over the database of a data directory.
    pub(crate) async fn start(
        identity: &Identity,
        options: &PeerOptions,
        threads: &Threads,
    ) -> Result<Self, StartError> {
        let (environment, registry) = (options.environment.clone(), &options.registry);
        let path = identity.database();
        let mut writer = open_writer(&path)?;
        let secret = identity.secret.clone();
        let stored = read_stored(&mut writer, &secret, options)?;
        let (library, device_name) = (stored.membership.library(), stored.device_name.clone());
        let known_ports = match &options.network {
            NetworkChoice::Libp2p { listen, .. } if listen.is_empty() => {
                stored.book.at_known_ports(&network::LISTEN_DEFAULT.map(str::to_owned))
            }
            NetworkChoice::Libp2p { listen, .. } => stored.book.at_known_ports(listen),
            NetworkChoice::Given(_) => None,
        };
        let events = Events::start_in_arbiter(&threads.protocol, |_| Events::default());
        let counters = Counters::default();
        let noted = HeadsFile::open(&identity.data, library).map_err(store_error)?;
        let store =
            StoreParts { writer, device: secret.device(), events: events.clone(), counters: counters.clone(), noted };
        let transactions = start_store(store, &threads.store, &environment, registry).await?;
        let readers = match start_readers(&path, &threads.readers, &environment, registry) {
            Ok(readers) => readers,
            Err(error) => {
                close(&transactions).await;
                return Err(error);
            }
        };
        let protocol =
            Protocol::start(&threads.protocol, &secret, &environment, &transactions, counters.clone(), stored);
        let network = start_network(options, known_ports, &secret, library, &protocol.roster, &threads.network).await;
        let (network, libp2p) = match network {
            Ok(started) => started,
            Err(error) => {
                protocol.halt().await;
                close(&transactions).await;
                return Err(error);
            }
        };
        let Protocol { buffer, retry, heartbeats, roster } = protocol;
        let links = Links {
            device: secret.device(),
            secret,
            library,
            environment,
            network,
            readers: Readers::new(readers.clone()),
            transactions,
            buffer,
            retry,
            heartbeats,
            events,
            auditor: Auditor::start_in_arbiter(&threads.protocol, |_| Auditor::default()),
            purger: Purger::start_in_arbiter(&threads.protocol, |_| Purger::default()),
            counters,
        };
        let tree = Self { links, roster, libp2p, readers };
        // Whoever is told that the start failed may try again: nothing of this attempt still writes then.
        if let Err(error) = tree.wire(options, device_name).await {
            tree.stop().await;
            return Err(error);
        }
        Ok(tree)
    }

    /// Makes the actors known to each other and writes this device's own record.
    async fn wire(&self, options: &PeerOptions, known_name: Option<String>) -> Result<(), StartError> {
        let Links { transactions, buffer, retry, heartbeats, network, device, .. } = &self.links;
        let listeners = [
            buffer.clone().recipient(),
            retry.clone().recipient(),
            heartbeats.clone().recipient(),
            self.roster.clone().recipient(),
        ];
        for listener in listeners {
            transactions.send(Listen(listener)).await.map_err(store_error)?;
        }
        heartbeats.send(PublishTo(network.publish.clone())).await.map_err(store_error)?;
        self.roster.send(Wire(self.links.clone())).await.map_err(store_error)?;
        self.links.auditor.send(Begin(self.links.clone(), self.roster.clone())).await.map_err(store_error)?;
        self.links.purger.send(Clear(self.links.clone())).await.map_err(store_error)?;
        let mut own = Device::new(device.record());
        own.name = Some(options.name.clone().or(known_name).unwrap_or_else(host_name));
        own.os = Some(std::env::consts::OS.to_owned());
        own.hardware = Some(std::env::consts::ARCH.to_owned());
        own.app_version = Some(env!("CARGO_PKG_VERSION").to_owned());
        let transactions = transactions.clone();
        match transactions.send(Commit(vec![own.put()])).await.map_err(store_error)? {
            Err(CommitError::Behind { .. }) => drop(actix::spawn(introduce(transactions, own))),
            other => drop(other.map_err(store_error)?),
        }
        Ok(())
    }

    /// Stops everything: the network first, the store last.
    pub(crate) async fn stop(&self) {
        if let Some(libp2p) = &self.libp2p
            && libp2p.send(network::Stop).await.is_err()
        {
            tracing::debug!("the network had stopped already");
        }
        if self.links.auditor.send(Halt).await.is_err() || self.links.purger.send(Halt).await.is_err() {
            tracing::debug!("the auditor or the purger had stopped already");
        }
        let Links { buffer, retry, heartbeats, transactions, .. } = self.links.clone();
        Protocol { buffer, retry, heartbeats, roster: self.roster.clone() }.halt().await;
        for reader in &self.readers {
            if reader.send(Halt).await.is_err() {
                tracing::debug!("a reader had stopped already");
            }
        }
        close(&transactions).await;
        if self.links.events.send(Halt).await.is_err() {
            tracing::debug!("events had stopped already");
        }
    }
}

/// Writes this device's own record as soon as the database takes writes again.
async fn introduce(transactions: Addr<Transactions>, own: Device) {
    while let Ok(Err(CommitError::Behind { .. } | CommitError::Busy)) = transactions.send(Commit(vec![own.put()])).await
    {
        tokio::time::sleep(INTRODUCE_AGAIN).await;
    }
}

async fn close(transactions: &Addr<Transactions>) {
    if transactions.send(Close).await.is_err() {
        tracing::debug!("the store had stopped already");
    }
}

/// What the store's thread takes over.
struct StoreParts {
    writer: diesel::sqlite::SqliteConnection,
    device: DeviceId,
    events: Addr<Events>,
    counters: Counters,
    noted: HeadsFile,
}

async fn start_store(
    parts: StoreParts,
    thread: &ArbiterHandle,
    environment: &Environment,
    registry: &Registry,
) -> Result<Addr<Transactions>, StartError> {
    let StoreParts { writer, device, events, counters, noted } = parts;
    let (started, waiting) = oneshot::channel();
    let (environment, registry) = (environment.clone(), registry.clone());
    thread.spawn_fn(move || {
        let engine = Engine::start(writer, device, Tables::new(&registry), environment.clone(), noted);
        let store = engine.map(|engine| Transactions::new(engine, events.recipient(), environment, counters).start());
        // Whoever gave up waiting drops the store with it.
        let _gone: Result<(), _> = started.send(store);
    });
    waiting.await.map_err(store_error)?.map_err(store_error)
}

fn start_readers(
    path: &Path,
    threads: &[ArbiterHandle],
    environment: &Environment,
    registry: &Registry,
) -> Result<Vec<Addr<Reader>>, StartError> {
    threads
        .iter()
        .map(|thread| {
            let connection = open_reader(path)?;
            let (environment, registry) = (environment.clone(), registry.clone());
            Ok(Reader::start_in_arbiter(thread, move |_| Reader::new(connection, &registry, environment)))
        })
        .collect()
}

async fn start_network(
    options: &PeerOptions,
    known_ports: Option<Vec<String>>,
    secret: &DeviceSecret,
    library: LibraryId,
    roster: &Addr<Roster>,
    thread: &ArbiterHandle,
) -> Result<(NetworkAddress, Option<Addr<Network>>), StartError> {
    let events = roster.clone().recipient();
    let (listen, mdns) = match &options.network {
        NetworkChoice::Given(make) => return Ok((make(secret.public(), library, events), None)),
        NetworkChoice::Libp2p { listen, mdns } => (listen.clone(), *mdns),
    };
    let failed = |error: &dyn std::fmt::Display| StartError::Network(error.to_string());
    let at = |listen| NetworkOptions { secret: secret.clone(), library, listen, mdns };
    let again = match known_ports {
        Some(known) => Network::start(at(known), events.clone(), thread).await.ok(),
        None => None,
    };
    let started = match again {
        Some(started) => started,
        // Somebody else may have taken the ports meanwhile.
        None => Network::start(at(listen), events, thread).await.map_err(|error| failed(&error))?,
    };
    for address in started.listening {
        roster.send(NetworkEvent::Listening { address }).await.map_err(|error| failed(&error))?;
    }
    Ok((started.address, Some(started.actor)))
}
