//! Who belongs, as the roster changes it: issuing tickets, judging the devices that show one, removing and renaming.

use actix::prelude::*;
use starling_schema::ids::DeviceId;
use starling_schema::key::DeviceKey;
use starling_schema::wire::{JoinRefusal, JoinRequest, JoinResponse};

use crate::proto::membership::MembershipError;
use crate::proto::pairing::{IssuedTicket, TicketId, Verdict};
use crate::roster::Roster;
use crate::store::ledger::Note;
use crate::transactions::{Keep, StoreError};

/// Judge a device that asks to join.
#[derive(Clone, Debug, Message)]
#[rtype(result = "JoinResponse")]
pub(crate) struct Join {
    pub(crate) peer: DeviceKey,
    pub(crate) request: JoinRequest,
}

impl Handler<Join> for Roster {
    type Result = ResponseActFuture<Self, JoinResponse>;

    fn handle(&mut self, Join { peer, request }: Join, _: &mut Self::Context) -> Self::Result {
        let refuse = |refusal| -> Self::Result { Box::pin(fut::ready(JoinResponse::Refused(refusal))) };
        let Some(links) = self.links.clone().filter(|_| request.key == peer) else {
            return refuse(JoinRefusal::Unknown);
        };
        let (now_ms, removed) = (links.environment.wall_ms(), self.membership.removed().contains(&peer));
        let ticket = match self.tickets.judge(&request, links.secret.public(), now_ms, removed) {
            Verdict::AgainSameAnswer { .. } if self.membership.is_member(peer.device()) => {
                let response = self.admitted_response();
                return Box::pin(fut::ready(response));
            }
            // The same device again, though it is no member: the first time was not stored.
            Verdict::Admit { ticket } | Verdict::AgainSameAnswer { ticket } => ticket,
            Verdict::Refuse(refusal) => {
                links.counters.messages_refused(1);
                tracing::warn!(peer = %peer.device(), %refusal, "a device was not admitted");
                return refuse(refusal);
            }
        };
        let statement = match self.membership.admit(peer, &request.name, now_ms, &links.secret) {
            Ok(statement) => statement,
            Err(error) => {
                tracing::warn!(%error, "a device could not be admitted");
                return refuse(JoinRefusal::Unknown);
            }
        };
        // From here the ticket is taken: a second device that shows it meanwhile is refused.
        self.tickets.burn(ticket, peer);
        let notes = vec![Note::Statement(statement.clone()), self.ticket_note(ticket)];
        let stored = links.transactions.send(Keep(notes)).into_actor(self);
        Box::pin(stored.map(move |outcome, actor, ctx| match outcome {
            Ok(Ok(())) => {
                if let Err(error) = actor.membership.insert(statement) {
                    tracing::error!(%error, "our own statement was refused");
                }
                actor.membership_changed(ctx);
                actor.admitted_response()
            }
            _ => JoinResponse::Refused(JoinRefusal::Unknown),
        }))
    }
}

impl Roster {
    fn admitted_response(&self) -> JoinResponse {
        JoinResponse::Admitted {
            library_name: self.membership.library_name().to_owned(),
            statements: self.membership.statements().cloned().collect(),
        }
    }

    fn ticket_note(&self, ticket: TicketId) -> Note {
        let issued = self.tickets.iter().find(|(id, _)| *id == ticket).map(|(_, issued)| issued);
        let (secret, expires_at_ms, used_by) =
            issued.map_or(([0; 16], 0, None), |t: &IssuedTicket| (t.secret, t.expires_at_ms, t.used_by));
        Note::Ticket {
            id: ticket.0.to_vec(),
            secret: secret.to_vec(),
            expires_at_ms,
            used_by: used_by.map(|key| key.0.to_vec()),
        }
    }
}

/// Keep a ticket for one device; answered, once it is stored, with where this device can be reached.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Vec<String>, MemberError>")]
pub(crate) struct IssueTicket {
    pub(crate) secret: [u8; 16],
    pub(crate) expires_at_ms: u64,
}

impl Handler<IssueTicket> for Roster {
    type Result = ResponseActFuture<Self, Result<Vec<String>, MemberError>>;

    fn handle(&mut self, message: IssueTicket, ctx: &mut Self::Context) -> Self::Result {
        let IssueTicket { secret, expires_at_ms } = message;
        let Some(links) = self.links.clone() else { return Box::pin(fut::ready(Err(MemberError::Stopped))) };
        let gone = self.tickets.forget_expired(links.environment.wall_ms());
        let gone = gone.into_iter().map(|ticket| Note::TicketGone(ticket.0.to_vec()));
        let ticket = match self.tickets.issue(secret, expires_at_ms) {
            Ok(ticket) => ticket,
            Err(full) => return Box::pin(fut::ready(Err(MemberError::Refused(full.to_string())))),
        };
        let notes = gone.chain([self.ticket_note(ticket)]).collect();
        self.admit(ctx);
        // A ticket that a person holds must be good after a crash, too.
        let stored = links.transactions.send(Keep(notes)).into_actor(self);
        Box::pin(stored.map(|outcome, actor, _| {
            outcome.map_err(StoreError::from)??;
            Ok(actor.book.own())
        }))
    }
}

/// A change of the membership that this device makes.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<(), MemberError>")]
pub(crate) enum ChangeMembers {
    /// A device is a member no more; this one may remove itself.
    Remove(DeviceId),
    /// This device has another name.
    Rename(String),
}

/// Why the membership could not be changed, or a ticket not be issued. It is as it was.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// The device is no member, the name is too long, or too many tickets are out.
    #[error("{0}")]
    Refused(String),
    /// It could not be stored.
    #[error(transparent)]
    Storage(#[from] StoreError),
    /// The peer has stopped.
    #[error("the peer has stopped")]
    Stopped,
}

impl Handler<ChangeMembers> for Roster {
    type Result = ResponseActFuture<Self, Result<(), MemberError>>;

    fn handle(&mut self, change: ChangeMembers, _: &mut Self::Context) -> Self::Result {
        let Some(links) = self.links.clone() else { return Box::pin(fut::ready(Err(MemberError::Stopped))) };
        let now_ms = links.environment.wall_ms();
        let statement = match change {
            ChangeMembers::Remove(device) => match self.membership.key_of(device) {
                Some(key) => self.membership.remove(key, now_ms, &links.secret),
                None => Err(MembershipError::NotAMember(device)),
            },
            ChangeMembers::Rename(name) => self.membership.rename(&name, now_ms, &links.secret),
        };
        let statement = match statement {
            Ok(statement) => statement,
            Err(error) => return Box::pin(fut::ready(Err(MemberError::Refused(error.to_string())))),
        };
        let stored = links.transactions.send(Keep(vec![Note::Statement(statement.clone())])).into_actor(self);
        Box::pin(stored.map(move |outcome, actor, ctx| {
            outcome.map_err(StoreError::from)??;
            actor.membership.insert(statement).map_err(|error| MemberError::Refused(error.to_string()))?;
            actor.membership_changed(ctx);
            Ok(())
        }))
    }
}
