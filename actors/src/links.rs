//! What the actors of one library know of each other, and how each of them is told to end.

use actix::prelude::*;
use starling_schema::ids::{DeviceId, LibraryId};
use starling_schema::key::DeviceSecret;
use starling_schema::wire::{SyncEnvelope, SyncPayload};

use crate::auditor::Auditor;
use crate::backfill_buffer::BackfillBuffer;
use crate::counters::Counters;
use crate::environment::Environment;
use crate::events::Events;
use crate::heartbeats::Heartbeats;
use crate::network::NetworkAddress;
use crate::purger::Purger;
use crate::reader::Readers;
use crate::retry_queue::RetryQueue;
use crate::transactions::Transactions;

/// The addresses of a library's actors, and who this device is.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    pub(crate) device: DeviceId,
    pub(crate) secret: DeviceSecret,
    pub(crate) library: LibraryId,
    pub(crate) environment: Environment,
    pub(crate) network: NetworkAddress,
    pub(crate) readers: Readers,
    pub(crate) transactions: Addr<Transactions>,
    pub(crate) buffer: Addr<BackfillBuffer>,
    pub(crate) retry: Addr<RetryQueue>,
    pub(crate) heartbeats: Addr<Heartbeats>,
    pub(crate) events: Addr<Events>,
    pub(crate) auditor: Addr<Auditor>,
    pub(crate) purger: Addr<Purger>,
    pub(crate) counters: Counters,
}

impl Links {
    /// A payload in this device's envelope.
    pub(crate) fn envelope(&self, payload: SyncPayload) -> SyncEnvelope {
        SyncEnvelope { library: self.library, device: self.device, timestamp_ms: self.environment.wall_ms(), payload }
    }
}

/// End in order: nothing more is handled after this.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Halt;

/// Lets actors be ended by [`Halt`].
macro_rules! halts {
    ($($actor:ty),+ $(,)?) => {$(
        impl actix::Handler<crate::links::Halt> for $actor {
            type Result = ();

            fn handle(&mut self, _: crate::links::Halt, ctx: &mut Self::Context) {
                actix::ActorContext::stop(ctx);
            }
        }
    )+};
}
pub(crate) use halts;
