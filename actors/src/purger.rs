//! The purger actor: lets go of the fields and losers of shared records that were deleted long ago and that every member
//! knows to be deleted. Their tombstones stay for ever.

use std::time::Duration;

use actix::prelude::*;

use crate::heartbeats::Heartbeats;
use crate::heartbeats::acks::AskCoverage;
use crate::links::{Links, halts};
use crate::proto::purge::{BATCH_MAX, PurgeRound, Remains, UNDELETE_MS};
use crate::reader::QueryError;
use crate::store::remains;
use crate::transactions::Purge;

/// Only its own work and its end are told to it.
const MAILBOX: usize = 4;

/// How often it looks whether something may go: nobody waits for it, and looking is one small query.
const LOOK: Duration = Duration::from_mins(1);

/// Owns which records are on their way out.
#[derive(Default)]
pub(crate) struct Purger {
    links: Option<Links>,
    round: PurgeRound,
}

impl Purger {
    fn look(&mut self, ctx: &mut Context<Self>) {
        let Some(links) = self.links.clone() else { return };
        let (heartbeats, idle) = (links.heartbeats.clone(), self.round.is_idle());
        let gathered = async move {
            let found = if idle { gather(&links).await.unwrap_or_default() } else { Vec::new() };
            if idle && found.is_empty() {
                return None;
            }
            // Asked after the records were read: what they are is within it.
            coverage(&heartbeats).await.map(|coverage| (found, coverage))
        };
        ctx.spawn(gathered.into_actor(self).map(|gathered, actor, ctx| {
            let Some((found, coverage)) = gathered else { return };
            if actor.round.is_idle() {
                return actor.round.begin(found, coverage);
            }
            let gone = actor.round.moved(coverage);
            if !gone.is_empty() {
                actor.purge(gone, ctx);
            }
        }));
    }

    fn purge(&self, records: Vec<Remains>, ctx: &mut Context<Self>) {
        let Some(links) = &self.links else { return };
        let purged = links.transactions.send(Purge(records)).into_actor(self);
        ctx.spawn(purged.map(|purged, _, _| match purged {
            Ok(Ok(count)) => tracing::debug!(count, "deleted records were purged"),
            Ok(Err(error)) => tracing::warn!(%error, "deleted records could not be purged yet"),
            Err(_closed) => {}
        }));
    }
}

async fn gather(links: &Links) -> Result<Vec<Remains>, QueryError> {
    let before_ms = links.environment.wall_ms().saturating_sub(UNDELETE_MS);
    links.readers.query(move |c| Ok(remains::older_than(c, before_ms, BATCH_MAX)?)).await
}

async fn coverage(heartbeats: &Addr<Heartbeats>) -> Option<crate::proto::purge::Coverage> {
    heartbeats.send(AskCoverage).await.ok().map(|answer| answer.0)
}

impl Actor for Purger {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        ctx.run_interval(LOOK, Self::look);
    }
}

halts!(Purger);

/// The rest of the library is there: begin.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Clear(pub(crate) Links);

impl Handler<Clear> for Purger {
    type Result = ();

    fn handle(&mut self, Clear(links): Clear, _: &mut Self::Context) {
        self.links = Some(links);
    }
}
