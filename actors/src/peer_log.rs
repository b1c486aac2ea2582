//! The peer log actor: keeps every shared change until all members have acknowledged it, and the tombstones of
//! device-owned rows as long. It is a table of the library's own file, so that a change and its entry are one commit.

use actix::prelude::*;
use starling_schema::change::SharedChange;
use starling_schema::stream::{Stream, StreamKind};

use crate::applier::Store;
use crate::planted::{self, Bug};
use crate::store::ledger;
use crate::transactions::StoreError;

/// Only the one transaction that runs asks, so few messages ever wait.
const MAILBOX: usize = 16;

/// Owns the log's table and the tombstones.
pub(crate) struct PeerLog {
    store: Store,
}

impl PeerLog {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }
}

impl Actor for PeerLog {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

/// Append entries within the open transaction.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub(crate) struct Append(pub(crate) Vec<SharedChange>);

impl Handler<Append> for PeerLog {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, Append(changes): Append, _: &mut Self::Context) -> Self::Result {
        Ok(ledger::append_log(&mut self.store.borrow_mut(), &changes)?)
    }
}

/// Remove what every member has, per stream up to a number. The answer is how many rows went, and the new floors.
#[derive(Debug, Message)]
#[rtype(result = "Result<(usize, Vec<(Stream, u64)>), StoreError>")]
pub(crate) struct PruneStreams(pub(crate) Vec<(Stream, u64)>);

impl Handler<PruneStreams> for PeerLog {
    type Result = Result<(usize, Vec<(Stream, u64)>), StoreError>;

    fn handle(&mut self, PruneStreams(bounds): PruneStreams, _: &mut Self::Context) -> Self::Result {
        let c = &mut *self.store.borrow_mut();
        let (mut removed, mut floors) = (0, Vec::new());
        for (stream, through) in bounds {
            let (rows, floor) = match stream.kind {
                StreamKind::Shared => (ledger::prune_log(c, stream.origin, through)?, Some(through)),
                // Nobody can miss a tombstone that never was.
                StreamKind::State => ledger::prune_tombstones(c, stream.origin, through)?,
            };
            removed += rows;
            if let Some(floor) = floor.filter(|_| !planted::is(Bug::PruneWithoutFloor)) {
                ledger::set_floor(c, stream, floor)?;
                floors.push((stream, floor));
            }
        }
        Ok((removed, floors))
    }
}
