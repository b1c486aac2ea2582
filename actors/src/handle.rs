//! The handle of a running peer: everything a program can do with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use diesel::sqlite::SqliteConnection;
use futures::channel::oneshot;
use parking_lot::RwLock;
use starling_schema::change::Write;
use starling_schema::ids::{DeviceId, LibraryId};
use starling_schema::models::Device;
use starling_schema::stream::{Stream, StreamKind};

use starling_schema::value::Fields;

use crate::backfill_buffer::AskProgress;
use crate::environment::Environment;
use crate::events::{Event, Since};
use crate::pairing::{ChangeMembers, IssueTicket, MemberError};
use crate::pausing::SetPaused;
use crate::peer::{Peer, PeerOptions, StartError, StopPeer, WhenStopped};
use crate::proto::pairing::Ticket;
use crate::reader::QueryError;
use crate::roster::AskRoster;
use crate::status::Status;
use crate::store::Registry;
use crate::store::conflicts::{self, Conflict};
use crate::survey;
use crate::transactions::{Commit, CommitError, Receipt, StoreError};
use crate::tree::Tree;

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
    pub(crate) data: PathBuf,
    environment: Environment,
    registry: Registry,
}

impl PeerHandle {
    /// Starts a peer within the running actix `System`: opens (or makes) key, database, library and network.
    ///
    /// # Errors
    /// When one of them cannot be had; nothing is left running.
    pub async fn start(options: PeerOptions) -> Result<Self, StartError> {
        let PeerOptions { data, environment, registry, .. } = options.clone();
        let (peer, tree) = Peer::run(options).await?;
        let handle = Self { peer, tree, data, environment, registry };
        let joined = handle.clone();
        drop(actix::spawn(async move {
            if let Err(error) = joined.take_along().await {
                tracing::warn!(%error, "what was left of a join has to wait for the next start");
            }
        }));
        Ok(handle)
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

    /// Removes a device from the library, for good: its key never comes back. Those who hear of it cut it off at once.
    ///
    /// # Errors
    /// When the device is no member, or the removal cannot be stored.
    pub async fn remove_device(&self, device: DeviceId) -> Result<(), MemberError> {
        self.change_members(ChangeMembers::Remove(device)).await
    }

    /// Gives this device another name.
    ///
    /// # Errors
    /// When the name is too long, or cannot be stored.
    pub async fn rename_device(&self, name: &str) -> Result<(), MemberError> {
        self.change_members(ChangeMembers::Rename(name.to_owned())).await?;
        let mut own = Fields::new();
        own.set(Device::NAME, name);
        let renamed = self.commit(vec![Write::patch(Device::MODEL, self.device().record(), own)]).await;
        renamed.map(drop).map_err(|error| MemberError::Refused(error.to_string()))
    }

    async fn change_members(&self, change: ChangeMembers) -> Result<(), MemberError> {
        self.tree().roster.send(change).await.map_err(|_| MemberError::Stopped)?
    }

    /// Stops exchanging anything with anybody, until [`PeerHandle::resume`], across restarts too. Commits and reads go
    /// on here. A device that is paused for longer than 30 days is treated like one that was away as long.
    ///
    /// # Errors
    /// When that cannot be stored; syncing goes on then.
    pub async fn pause(&self) -> Result<(), StoreError> {
        self.tree().roster.send(SetPaused(true)).await?
    }

    /// Syncs again, and catches up.
    ///
    /// # Errors
    /// When that cannot be stored; the peer stays paused then.
    pub async fn resume(&self) -> Result<(), StoreError> {
        self.tree().roster.send(SetPaused(false)).await?
    }

    /// What this peer says of itself.
    ///
    /// # Errors
    /// When the peer is busy or has stopped.
    pub async fn status(&self) -> Result<Status, QueryError> {
        survey::status(self).await
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
        self.query(|c| Ok(conflicts::conflicts(c)?)).await
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
