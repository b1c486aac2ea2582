//! The handle of a running peer: everything a program can do with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use diesel::sqlite::SqliteConnection;
use futures::channel::oneshot;
use parking_lot::RwLock;
use starling_schema::change::Write;
use starling_schema::ids::{DeviceId, LibraryId};
use starling_schema::stream::{Stream, StreamKind};

use crate::applier::{self, Conflict};
use crate::backfill_buffer::AskProgress;
use crate::environment::Environment;
use crate::events::{Event, Since};
use crate::heartbeats::AskAcks;
use crate::peer::{Peer, PeerOptions, StartError, StopPeer, Tree, WhenStopped};
use crate::proto::pairing::Ticket;
use crate::reader::QueryError;
use crate::retry_queue::AskRetries;
use crate::roster::{AskRoster, IssueTicket};
use crate::session::{Describe, SessionReport};
use crate::status::{LibraryState, LibraryStatus, LogStatus, Named, PeerStatus, Queues, Status, SyncVerdict};
use crate::store::tables::Tables;
use crate::store::{Registry, ledger, pages};
use crate::transactions::{Commit, CommitError, Parked, Receipt};

/// An invitation that was issued.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Invitation {
    /// The ticket's text.
    pub ticket: String,
    /// Until when it can be used, in milliseconds since 1970.
    pub expires_at_ms: u64,
}

/// One member.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MemberInfo {
    /// Its id.
    pub id: DeviceId,
    /// What its person calls it.
    pub name: String,
    /// Whether it is this device.
    pub this: bool,
}

/// A running peer. Cheap to clone; the last word is [`PeerHandle::stop`].
#[derive(Clone, Debug)]
pub struct PeerHandle {
    pub(crate) peer: Addr<Peer>,
    pub(crate) tree: Arc<RwLock<Tree>>,
    environment: Environment,
    registry: Registry,
}

impl PeerHandle {
    /// Starts a peer within the running actix `System`: opens (or makes) key, database, library and network.
    ///
    /// # Errors
    /// When one of them cannot be had; nothing is left running.
    pub async fn start(options: PeerOptions) -> Result<Self, StartError> {
        let (environment, registry) = (options.environment.clone(), options.registry.clone());
        let (peer, tree) = Peer::run(options).await?;
        Ok(Self { peer, tree, environment, registry })
    }

    pub(crate) fn tree(&self) -> Tree {
        self.tree.read().clone()
    }

    /// This device.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        self.tree.read().links.device
    }

    /// Its library; it changes when the device joins another.
    #[must_use]
    pub fn library(&self) -> LibraryId {
        self.tree.read().links.library
    }

    /// Its models.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Where this peer's time, randomness and new ids come from.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Commits writes, all or nothing; returns once they survive a power cut. Any number of device-owned records (a
    /// few thousand at a time work best), at most 1,000 changes of shared ones.
    ///
    /// # Errors
    /// Nothing was written; the error says why and names the record.
    pub async fn commit(&self, writes: Vec<Write>) -> Result<Receipt, CommitError> {
        let transactions = self.tree.read().links.transactions.clone();
        transactions.send(Commit(writes)).await.map_err(|_| CommitError::Stopped)?
    }

    /// Runs a read on a read-only connection, within one read transaction. It blocks that reader: bound it.
    ///
    /// # Errors
    /// What the read returned, or that the peer is busy or stopped.
    pub async fn query<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut SqliteConnection) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let readers = self.tree.read().links.readers.clone();
        readers.query(read).await
    }

    /// Makes a ticket with which one device can join within `expires`.
    ///
    /// # Errors
    /// When too many tickets are open, or the peer has stopped.
    pub async fn invite(&self, expires: Duration) -> Result<Invitation, QueryError> {
        let Tree { links, roster, .. } = self.tree();
        let secret = self.environment.random_bytes();
        let expires_ms = u64::try_from(expires.as_millis()).unwrap_or(u64::MAX);
        let expires_at_ms = self.environment.wall_ms().saturating_add(expires_ms);
        let addresses = roster
            .send(IssueTicket { secret, expires_at_ms })
            .await?
            .map_err(|error| QueryError::Storage(error.to_string()))?;
        let inviter = links.secret.public();
        let ticket = Ticket { library: links.library, library_name: None, inviter, addresses, secret, expires_at_ms };
        Ok(Invitation { ticket: ticket.to_string(), expires_at_ms })
    }

    /// Who belongs to the library, this device first, the others by name.
    ///
    /// # Errors
    /// When the peer has stopped.
    pub async fn members(&self) -> Result<Vec<MemberInfo>, QueryError> {
        let tree = self.tree();
        let report = tree.roster.send(AskRoster).await?;
        let mut members: Vec<MemberInfo> = report
            .membership
            .members()
            .iter()
            .map(|(id, member)| MemberInfo { id: *id, name: member.name.clone(), this: *id == tree.links.device })
            .collect();
        members.sort_by(|a, b| (!a.this, &a.name, a.id).cmp(&(!b.this, &b.name, b.id)));
        Ok(members)
    }

    /// What this peer says of itself.
    ///
    /// # Errors
    /// When the peer is busy or has stopped.
    pub async fn status(&self) -> Result<Status, QueryError> {
        let tree = self.tree();
        let roster = tree.roster.send(AskRoster).await?;
        let progress = tree.links.buffer.send(AskProgress).await?;
        let acks = tree.links.heartbeats.send(AskAcks).await?.0;
        let retries = tree.links.retry.send(AskRetries).await?;
        let parked = tree.links.transactions.send(Parked).await?;
        let mut reports: BTreeMap<DeviceId, SessionReport> = BTreeMap::new();
        for (peer, session) in &roster.sessions {
            if let Ok(report) = session.send(Describe).await {
                reports.insert(*peer, report);
            }
        }
        let registry = self.registry.clone();
        let counted = self.query(move |c| Ok((pages::counts(c, &Tables::new(&registry))?, ledger::log_len(c)?)));
        let (counts, entries) = counted.await?;
        let peers: Vec<PeerStatus> = roster
            .membership
            .members()
            .iter()
            .filter(|(id, _)| **id != tree.links.device)
            .map(|(id, member)| {
                let report = reports.get(id);
                let mut known = acks.get(id).map(|(durable, _)| durable.clone()).unwrap_or_default();
                known.join(&report.map(|report| report.marks.clone()).unwrap_or_default());
                let behind_us = progress.behind.get(id).copied().unwrap_or(0);
                let behind_them = known.lacking(&progress.applied);
                let state = match report {
                    None => "offline",
                    Some(_) if behind_us + behind_them == 0 => "ready",
                    Some(_) => "catching_up",
                };
                PeerStatus {
                    id: *id,
                    name: member.name.clone(),
                    state: state.to_owned(),
                    online: report.is_some(),
                    address: roster.connected.get(id).cloned(),
                    rtt_ms: report.and_then(|report| report.rtt_ms),
                    behind_us,
                    behind_them,
                    clock_offset_ms: report.and_then(|report| report.clock_offset_ms),
                    bytes_in: report.map_or(0, |report| report.bytes_in),
                    bytes_out: report.map_or(0, |report| report.bytes_out),
                    last_seen: acks.get(id).map(|(_, heard_at_ms)| *heard_at_ms),
                }
            })
            .collect();
        let held: u64 = progress.applied.iter().map(|(_, through)| through).sum();
        let state = match (progress.missing, progress.was_complete || peers.is_empty()) {
            (0, false) if peers.iter().all(|peer| !peer.online) => LibraryState::Uninitialized,
            (missing, false) => LibraryState::Backfilling { have: held, of: held + missing },
            (0, true) => LibraryState::Ready,
            (missing, true) => LibraryState::CatchingUp { missing },
        };
        let queues = Queues {
            retry: retries.waiting,
            dead_letters: retries.letters.len() as u64,
            buffered: progress.held,
            parked,
        };
        let device_name = roster.membership.members().get(&tree.links.device).map(|member| member.name.clone());
        Ok(Status {
            device: Named { id: tree.links.device, name: device_name.unwrap_or_default() },
            library: LibraryStatus { id: tree.links.library, name: roster.membership.library_name().to_owned(), state },
            verdict: verdict(state, &peers, queues),
            peers,
            queues,
            counts,
            log: LogStatus { entries },
            listen: roster.listen,
        })
    }

    /// The events after a cursor, 0 for all that are kept; waits until there is one or `wait` is over. The inner
    /// error is the oldest cursor that is kept, when those in between are gone.
    ///
    /// # Errors
    /// When the peer has stopped.
    pub async fn events(&self, cursor: u64, wait: Duration) -> Result<Result<Vec<Event>, u64>, QueryError> {
        Ok(self.tree().links.events.send(Since { cursor, wait }).await?)
    }

    /// The values that lost without having been seen, by record.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn conflicts(&self) -> Result<Vec<Conflict>, QueryError> {
        self.query(|c| Ok(applier::conflicts(c)?)).await
    }

    /// The heads of this device's own streams as they are applied.
    ///
    /// # Errors
    /// When the peer has stopped.
    pub async fn heads(&self) -> Result<Receipt, QueryError> {
        let tree = self.tree();
        let applied = tree.links.buffer.send(AskProgress).await?.applied;
        let head = |kind| applied.get(Stream { kind, origin: tree.links.device });
        Ok(Receipt { state_head: head(StreamKind::State), shared_head: head(StreamKind::Shared) })
    }

    /// Ends the peer in order; returns when all is closed.
    pub async fn stop(&self) {
        if self.peer.send(StopPeer).await.is_err() {
            tracing::debug!("the peer had stopped already");
        }
    }

    /// Returns when the peer has stopped, by itself or by [`PeerHandle::stop`].
    pub async fn stopped(&self) {
        let (tell, told) = oneshot::channel();
        if self.peer.send(WhenStopped(tell)).await.is_ok() {
            // Dropped without a word, the peer is gone as well.
            let _either: Result<(), _> = told.await;
        }
    }
}

/// One sentence on whether all is well.
fn verdict(state: LibraryState, peers: &[PeerStatus], queues: Queues) -> SyncVerdict {
    let online = peers.iter().filter(|peer| peer.online).count();
    let behind: Vec<&PeerStatus> = peers.iter().filter(|peer| peer.online && peer.behind_them > 0).collect();
    let not = |reason: String| SyncVerdict { in_sync: false, reason };
    match state {
        LibraryState::Uninitialized => not("no member of this library has been reached yet".to_owned()),
        LibraryState::Backfilling { have, of } => {
            not(format!("receiving the library: {have} of {of} changes are here"))
        }
        LibraryState::CatchingUp { missing } => not(format!("{missing} changes of connected peers are missing here")),
        LibraryState::Paused => not("syncing is paused".to_owned()),
        LibraryState::Ready if queues.parked > 0 => {
            not(format!("{} changes wait: another device's clock is ahead", queues.parked))
        }
        LibraryState::Ready if !behind.is_empty() => {
            let names: Vec<&str> = behind.iter().map(|peer| peer.name.as_str()).collect();
            not(format!("{} has not confirmed everything yet", names.join(", ")))
        }
        LibraryState::Ready if peers.is_empty() => {
            SyncVerdict { in_sync: true, reason: "this is the library's only device".to_owned() }
        }
        LibraryState::Ready if online == 0 => {
            SyncVerdict { in_sync: true, reason: "no other device is connected".to_owned() }
        }
        LibraryState::Ready => {
            let devices =
                if online == 1 { "1 connected device".to_owned() } else { format!("{online} connected devices") };
            SyncVerdict { in_sync: true, reason: format!("equal with {devices}") }
        }
    }
}
