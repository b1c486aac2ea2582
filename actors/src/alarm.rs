//! An alarm: wakes an actor at a moment that it chose, so that nothing ticks while there is nothing to do.

use std::time::Duration;

use actix::prelude::*;

use crate::environment::Environment;
use crate::rig::Timer;

/// The one pending wake-up of an actor for one purpose.
#[derive(Debug, Default)]
pub(crate) struct Alarm(Option<Pending>);

#[derive(Debug)]
struct Pending {
    /// What was asked for.
    at_ms: u64,
    /// When it rings, which differs where a test meddles with time.
    rings_ms: u64,
    handle: SpawnHandle,
}

impl Alarm {
    /// Wakes the actor once at `at_ms` of its uptime, and at no other moment; none is never.
    pub(crate) fn set<A: Actor<Context = Context<A>>>(
        &mut self,
        (timer, at_ms): (Timer, Option<u64>),
        environment: &Environment,
        ctx: &mut Context<A>,
        wake: fn(&mut A, &mut Context<A>),
    ) {
        let now_ms = environment.uptime_ms();
        if self.pending(now_ms).is_some_and(|pending| Some(pending.at_ms) == at_ms) {
            return;
        }
        if let Some(Pending { handle, .. }) = self.0.take() {
            ctx.cancel_future(handle);
        }
        self.0 = at_ms.map(|at_ms| {
            // An actor that is woken too early asks again: not at once, or time would never pass.
            let wait_ms = environment.wait_ms(timer, at_ms.saturating_sub(now_ms)).max(1);
            let handle = ctx.run_later(Duration::from_millis(wait_ms), wake);
            Pending { at_ms, rings_ms: now_ms.saturating_add(wait_ms), handle }
        });
    }

    /// Wakes the actor once within `wait_ms`; a wake-up that is pending already stays.
    pub(crate) fn within<A: Actor<Context = Context<A>>>(
        &mut self,
        (timer, wait_ms): (Timer, u64),
        environment: &Environment,
        ctx: &mut Context<A>,
        wake: fn(&mut A, &mut Context<A>),
    ) {
        let now_ms = environment.uptime_ms();
        if self.pending(now_ms).is_none() {
            self.set((timer, Some(now_ms.saturating_add(wait_ms))), environment, ctx, wake);
        }
    }

    /// What has not rung yet.
    fn pending(&self, now_ms: u64) -> Option<&Pending> {
        self.0.as_ref().filter(|pending| pending.rings_ms > now_ms)
    }
}
