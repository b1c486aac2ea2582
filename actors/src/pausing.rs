//! Pausing: a device that exchanges nothing with anybody until it is told to go on, across restarts too. Reading and
//! writing here go on.

use actix::prelude::*;

use crate::events::{EventKind, Happened};
use crate::network::Disconnect;
use crate::roster::Roster;
use crate::session::tell;
use crate::store::ledger::Note;
use crate::transactions::{Keep, StoreError};

/// The setting that says that syncing is paused.
pub(crate) const PAUSED_SETTING: &str = "paused";

impl Roster {
    /// Closes every session and hangs up: whoever tries again is turned away by the allow list.
    pub(crate) fn hang_up(&mut self) {
        let Some(links) = &self.links else { return };
        for (peer, (key, _)) in &self.connected {
            if links.network.disconnect.try_send(Disconnect(*key)).is_err() {
                tracing::warn!(%peer, "a member could not be disconnected yet");
            }
        }
    }
}

/// Exchange nothing with anybody from now on, or again; answered once it will be remembered.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub(crate) struct SetPaused(pub(crate) bool);

impl Handler<SetPaused> for Roster {
    type Result = ResponseActFuture<Self, Result<(), StoreError>>;

    fn handle(&mut self, SetPaused(paused): SetPaused, _: &mut Self::Context) -> Self::Result {
        let links = self.links.clone();
        let kept = async move {
            let links = links.ok_or_else(|| StoreError("the peer is starting".to_owned()))?;
            links.transactions.send(Keep(vec![Note::Setting(PAUSED_SETTING, vec![u8::from(paused)])])).await??;
            tell(&links.events, Happened(if paused { EventKind::Paused } else { EventKind::Resumed }));
            Ok(())
        };
        Box::pin(kept.into_actor(self).map(move |kept: Result<(), StoreError>, actor, ctx| {
            if kept.is_ok() && actor.paused != paused {
                actor.paused = paused;
                actor.admit(ctx);
                if paused {
                    actor.hang_up();
                } else {
                    actor.book.retry_all();
                    actor.dial(ctx);
                }
            }
            kept
        }))
    }
}
