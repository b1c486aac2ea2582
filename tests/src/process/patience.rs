//! Waiting for what must happen: always for a bounded time.

use std::time::{Duration, Instant};

/// Real time: processes are not simulated.
#[expect(clippy::disallowed_methods, reason = "real processes live in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// How long anything may take that must happen: far above what it takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How often it is looked whether it has.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until there is something, and returns it.
///
/// # Panics
/// When there is nothing in time.
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, look).unwrap_or_else(|| panic!("{what}: not within {} s", PATIENCE.as_secs()))
}

/// Looks until there is something, or the time is over.
pub(crate) fn within<T>(time: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let started = now();
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if started.elapsed() >= time {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
