//! A question to the peer on behalf of somebody who compares records with it.

use actix::prelude::*;
use starling_schema::wire::SyncPayload;

use super::Session;
use crate::exchange::ExchangeError;

/// Ask this peer something and give the answer.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<SyncPayload, ExchangeError>")]
pub(crate) struct Inquire(pub(crate) SyncPayload);

impl Handler<Inquire> for Session {
    type Result = ResponseActFuture<Self, Result<SyncPayload, ExchangeError>>;

    fn handle(&mut self, Inquire(payload): Inquire, _: &mut Self::Context) -> Self::Result {
        let exchange = self.exchange(payload).into_actor(self);
        Box::pin(exchange.map(|answer, actor, _| actor.account(answer)))
    }
}
