//! Joining another library by ticket: prove the secret to the inviter, take the membership, change the library.

use std::time::Duration;

use diesel::sqlite::SqliteConnection;
use starling_schema::change::{COMMIT_CHANGES_MAX, Write};
use starling_schema::ids::{DeviceId, LibraryId, RecordId};
use starling_schema::wire::{JoinRequest, JoinResponse, REQUEST_BYTES_MAX, SyncEnvelope, SyncPayload, WireError};

use crate::handle::PeerHandle;
use crate::library_file::LEFT_SETTING;
use crate::network::{Dial, Request};
use crate::peer::ChangeLibrary;
use crate::proto::membership::Membership;
use crate::proto::pairing::{Ticket, proof};
use crate::reader::QueryError;
use crate::roster::{AskRoster, Guest};
use crate::store::Registry;
use crate::store::ledger::{self, Note};
use crate::store::open::open_reader;
use crate::store::tables::Tables;
use crate::transactions::{CommitError, Keep};
use crate::tree::Tree;

/// How often a lost request is sent again; the inviter gives the same device the same answer.
const ATTEMPTS_MAX: usize = 3;

/// How long a commit that cannot be taken now waits.
const AGAIN: Duration = Duration::from_millis(200);

/// How often a commit waits in one join: 30 s in all, so that the caller is not kept for ever.
const AGAIN_MAX: u32 = 150;

/// What joining led to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Joined {
    /// The library.
    pub library: LibraryId,
    /// Its name.
    pub library_name: String,
    /// How many members it has.
    pub devices: usize,
}

/// Why joining failed. The peer goes on with the library that it had, unless the message says that it was joined.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The text is no ticket, or was altered.
    #[error("{0}")]
    Ticket(String),
    /// The inviter refused.
    #[error("{0}")]
    Refused(String),
    /// The protocol versions do not overlap.
    #[error("{0}")]
    Version(String),
    /// The inviter cannot be reached.
    #[error("the inviting device cannot be reached: {0}: check that it is running and on the same network")]
    Unreachable(String),
    /// The device is a member already.
    #[error("this device belongs to that library already")]
    AlreadyMember,
    /// The library here has data.
    #[error("the library on this device has data: take it along with --merge, or join from a fresh data directory")]
    NotEmpty,
    /// Reading or writing here failed.
    #[error("{0}")]
    Storage(String),
}

impl From<QueryError> for JoinError {
    fn from(error: QueryError) -> Self {
        Self::Storage(error.to_string())
    }
}

impl PeerHandle {
    /// Joins the ticket's library. A library of this device's own that holds data is left behind only with `merge`,
    /// which issues its records anew in the joined one; its file is kept.
    ///
    /// # Errors
    /// The peer goes on with the library that it had.
    pub async fn join(&self, ticket: &str, merge: bool) -> Result<Joined, JoinError> {
        let ticket: Ticket = ticket.trim().parse().map_err(|e| JoinError::Ticket(format!("{e}")))?;
        let tree = self.tree();
        if ticket.library == tree.links.library {
            return Err(JoinError::AlreadyMember);
        }
        let (registry, device) = (self.registry().clone(), self.device());
        let data = self.query(move |c| own_data(c, &registry, device)).await?;
        if !data.is_empty() && !merge {
            return Err(JoinError::NotEmpty);
        }
        let guest = |key| tree.roster.send(Guest(key));
        guest(Some(ticket.inviter)).await.map_err(QueryError::from)?;
        let answer = ask(self, &tree, &ticket).await;
        guest(None).await.map_err(QueryError::from)?;
        let own_addresses = tree.roster.send(AskRoster).await.map_err(QueryError::from)?.listen;
        let membership = admitted(&tree, &ticket, answer?)?;
        let joined = Joined {
            library: membership.library(),
            library_name: membership.library_name().to_owned(),
            devices: membership.members().len(),
        };
        let change = ChangeLibrary { membership, inviter: ticket.inviter, addresses: ticket.addresses, own_addresses };
        let changed = self.peer.send(change).await.map_err(QueryError::from)?;
        changed.map_err(|error| JoinError::Storage(error.to_string()))?;
        self.take_along().await?;
        Ok(joined)
    }

    /// Issues anew what this device had made in the library that it left, read from the file that was kept: so what was
    /// committed until the last moment goes along, and a device that died meanwhile goes on at its next start. The
    /// library's file says that there is something to do until all is done.
    pub(crate) async fn take_along(&self) -> Result<(), JoinError> {
        let left = self.query(|c| Ok(ledger::setting(c, LEFT_SETTING)?)).await?.unwrap_or_default();
        if left.is_empty() {
            return Ok(());
        }
        let left = String::from_utf8_lossy(&left).into_owned();
        let (name, done) = left.split_once(' ').unwrap_or((&left, ""));
        let (name, done) = (name.to_owned(), done.parse().unwrap_or(0));
        let file = self.data.join(&name);
        let (registry, device) = (self.registry().clone(), self.device());
        let data = self.query(move |_| {
            let mut c = open_reader(&file).map_err(|error| QueryError::Storage(error.to_string()))?;
            own_data(&mut c, &registry, device)
        });
        // The file does not change any more, so its parts are the same at every start. What is done is not done again:
        // others may have changed it since.
        for (at, part) in data.await?.chunks(COMMIT_CHANGES_MAX / 4).enumerate().skip(done) {
            self.issue_anew(part.to_vec()).await?;
            self.note_left(format!("{name} {}", at + 1)).await?;
        }
        self.note_left(String::new()).await
    }

    /// Notes what is left to be taken along.
    async fn note_left(&self, left: String) -> Result<(), JoinError> {
        let mut patience = AGAIN_MAX;
        loop {
            let note = Note::Setting(LEFT_SETTING, left.clone().into_bytes());
            match self.tree().links.transactions.send(Keep(vec![note])).await.map_err(QueryError::from)? {
                Ok(()) => return Ok(()),
                Err(error) if patience == 0 => return Err(JoinError::Storage(error.to_string())),
                Err(_) => {
                    patience -= 1;
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Commits records in the joined library. What does not fit one commit is halved; a record that is refused by itself
    /// is left in the old library's file, and said.
    async fn issue_anew(&self, data: Vec<Write>) -> Result<(), JoinError> {
        let mut waiting = vec![data];
        let mut patience = AGAIN_MAX;
        while let Some(mut writes) = waiting.pop() {
            match self.commit(writes.clone()).await {
                Ok(_) => {}
                Err(CommitError::Busy | CommitError::Behind { .. }) if patience > 0 => {
                    patience -= 1;
                    tokio::time::sleep(AGAIN).await;
                    waiting.push(writes);
                }
                Err(CommitError::TooLarge { .. } | CommitError::Refused { .. } | CommitError::Deleted { .. })
                    if writes.len() > 1 =>
                {
                    let rest = writes.split_off(writes.len() / 2);
                    waiting.extend([rest, writes]);
                }
                Err(
                    error @ (CommitError::Storage(_)
                    | CommitError::Stopped
                    | CommitError::Busy
                    | CommitError::Behind { .. }),
                ) => {
                    return Err(JoinError::Storage(format!(
                        "the library was joined, but not everything could be taken along: {error}. The old library's file \
                         is kept in the data directory"
                    )));
                }
                Err(error) => tracing::error!(%error, "a record was not taken along: it is in the old library's file"),
            }
        }
        Ok(())
    }
}

/// Everything that a device would have to issue anew from a library: its own rows but the one of the device itself, and
/// all shared records. Empty when the library is a fresh one.
fn own_data(c: &mut SqliteConnection, registry: &Registry, device: DeviceId) -> Result<Vec<Write>, QueryError> {
    let tables = Tables::new(registry);
    let (from, through) = (RecordId::MIN, RecordId(uuid::Uuid::max()));
    let mut writes = Vec::new();
    for spec in registry.iter() {
        let table = tables.of(spec.id, spec.ownership.is_shared());
        if spec.ownership.is_shared() {
            let live = table.shared_range(c, from, through)?.into_iter().filter(|(_, r)| r.stamps.is_alive());
            writes.extend(live.map(|(id, record)| Write::put(spec.id, id, known(spec, record.fields))));
        } else {
            let own = table.owned_range(c, from, through)?.into_iter().filter(|(_, row)| row.owner == device);
            let own = own.filter(|(id, _)| *id != device.record());
            writes.extend(own.map(|(id, row)| Write::put(spec.id, id, known(spec, row.fields))));
        }
    }
    Ok(writes)
}

/// The fields that this version may write.
fn known(
    spec: &starling_schema::model::ModelSpec,
    fields: starling_schema::value::Fields,
) -> starling_schema::value::Fields {
    let fits = |field, value: &_| spec.column(field).is_some_and(|column| column.kind.holds(value));
    fields.into_iter().filter(|(field, value)| fits(*field, value)).collect()
}

/// Dials the inviter and asks it.
async fn ask(handle: &PeerHandle, tree: &Tree, ticket: &Ticket) -> Result<SyncPayload, JoinError> {
    let (links, inviter) = (&tree.links, ticket.inviter);
    let roster = tree.roster.send(AskRoster).await.map_err(QueryError::from)?;
    let name = roster.membership.members().get(&links.device).map(|m| m.name.clone()).unwrap_or_default();
    let proof = proof(&ticket.secret, inviter, links.secret.public());
    let request = JoinRequest { key: links.secret.public(), name, proof };
    let mut envelope = links.envelope(SyncPayload::JoinRequest(request));
    envelope.library = ticket.library;
    let bytes = envelope.encode(REQUEST_BYTES_MAX).map_err(|error| JoinError::Storage(error.to_string()))?;
    let mut failure = "it does not answer".to_owned();
    for attempt in 0..ATTEMPTS_MAX {
        if attempt > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let dial = Dial { peer: inviter, addresses: ticket.addresses.clone() };
        if let Err(error) = links.network.dial.send(dial).await.map_err(QueryError::from)? {
            failure = error.to_string();
            continue;
        }
        let request = Request { peer: inviter, bytes: bytes.clone() };
        match links.network.request.send(request).await.map_err(QueryError::from)? {
            Ok(answer) => {
                return SyncEnvelope::decode(&answer).map(|envelope| envelope.payload).map_err(|error| match error {
                    WireError::Version { .. } => JoinError::Version(error.to_string()),
                    other => JoinError::Refused(format!("the inviting device's answer makes no sense: {other}")),
                });
            }
            Err(error) => failure = error.to_string(),
        }
    }
    if handle.environment().wall_ms() > ticket.expires_at_ms {
        return Err(JoinError::Refused("the ticket has expired: ask for a new one".to_owned()));
    }
    Err(JoinError::Unreachable(failure))
}

/// The membership that an answer grants.
fn admitted(tree: &Tree, ticket: &Ticket, answer: SyncPayload) -> Result<Membership, JoinError> {
    match answer {
        SyncPayload::JoinResponse(JoinResponse::Admitted { statements, .. }) => {
            let mut membership = Membership::new(ticket.library);
            membership.insert_all(statements);
            if membership.is_member(tree.links.device) {
                Ok(membership)
            } else {
                Err(JoinError::Refused("the inviting device is not a member of that library itself".to_owned()))
            }
        }
        SyncPayload::JoinResponse(JoinResponse::Refused(refusal)) => Err(JoinError::Refused(refusal.to_string())),
        SyncPayload::Error(refusal) if refusal.kind == starling_schema::wire::RefusalKind::Version => {
            Err(JoinError::Version(refusal.message))
        }
        SyncPayload::Error(refusal) => Err(JoinError::Refused(refusal.to_string())),
        other => Err(JoinError::Refused(format!("the inviting device answered {}", other.name()))),
    }
}
