//! The clock actor: issues and observes hybrid logical timestamps. It lives on the store's thread and is asked
//! from within a transaction, so that stamps and stream numbers rise together.

use actix::prelude::*;
use starling_schema::hlc::Hlc;
use starling_schema::ids::DeviceId;

use crate::environment::Environment;
use crate::planted::{self, Bug};
use crate::proto::clock::{ClockError, HlcClock};

/// Only the one transaction that runs asks, so few messages ever wait.
const MAILBOX: usize = 16;

/// Owns the device's hybrid logical clock.
#[derive(Debug)]
pub(crate) struct Clock {
    clock: HlcClock,
    environment: Environment,
}

impl Clock {
    /// A clock that goes on after the last time that was stored.
    pub(crate) fn new(device: DeviceId, last_time: u64, environment: Environment) -> Self {
        Self { clock: HlcClock::new(device, last_time), environment }
    }
}

impl Actor for Clock {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

/// Stamp this many local changes.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Vec<Hlc>")]
pub(crate) struct Stamp(pub(crate) usize);

impl Handler<Stamp> for Clock {
    type Result = MessageResult<Stamp>;

    fn handle(&mut self, Stamp(count): Stamp, _: &mut Self::Context) -> Self::Result {
        let wall_ms = self.environment.wall_ms();
        MessageResult((0..count).map(|_| self.clock.tick(wall_ms)).collect())
    }
}

/// Move past a timestamp that a peer sent; the answer is where the clock then is.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Hlc, ClockError>")]
pub(crate) struct Observe(pub(crate) Hlc);

impl Handler<Observe> for Clock {
    type Result = Result<Hlc, ClockError>;

    fn handle(&mut self, Observe(remote): Observe, _: &mut Self::Context) -> Self::Result {
        if !planted::is(Bug::ClockIgnoresPeers) {
            self.clock.observe(remote, self.environment.wall_ms())?;
        }
        Ok(self.clock.last())
    }
}
