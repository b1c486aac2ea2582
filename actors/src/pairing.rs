//! Pairing, as the roster does it: issuing tickets and judging the devices that show one.

use actix::prelude::*;
use starling_schema::key::DeviceKey;
use starling_schema::wire::{JoinRefusal, JoinRequest, JoinResponse};

use crate::proto::pairing::{IssuedTicket, TicketId, TicketsError, Verdict};
use crate::roster::Roster;
use crate::store::ledger::Note;
use crate::transactions::Keep;

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
            Verdict::Admit { ticket } => ticket,
            Verdict::AgainSameAnswer { .. } => {
                let response = self.admitted_response();
                return Box::pin(fut::ready(response));
            }
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

/// Keep a ticket for one device; answered with where this device can be reached.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Vec<String>, TicketsError>")]
pub(crate) struct IssueTicket {
    pub(crate) secret: [u8; 16],
    pub(crate) expires_at_ms: u64,
}

impl Handler<IssueTicket> for Roster {
    type Result = Result<Vec<String>, TicketsError>;

    fn handle(&mut self, message: IssueTicket, ctx: &mut Self::Context) -> Self::Result {
        let IssueTicket { secret, expires_at_ms } = message;
        if let Some(links) = &self.links {
            self.tickets.forget_expired(links.environment.wall_ms());
        }
        let ticket = self.tickets.issue(secret, expires_at_ms)?;
        let note = self.ticket_note(ticket);
        if let Some(links) = &self.links {
            let kept = links.transactions.send(Keep(vec![note])).into_actor(self);
            ctx.spawn(kept.map(|outcome, _, _| {
                if let Ok(Err(error)) = outcome {
                    tracing::warn!(%error, "a ticket could not be stored: it ends with this process");
                }
            }));
        }
        self.admit(ctx);
        Ok(self.book.own())
    }
}
