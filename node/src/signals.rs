//! The word to end: SIGINT, SIGTERM, and SIGHUP when the terminal goes.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{CliError, ErrorKind};

/// Hears these signals from the moment it is made.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Starts to listen.
    pub(crate) fn new() -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(|e| CliError::io("signals cannot be heard", e));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Resolves at the next of them.
    pub(crate) async fn told(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }

    /// The result of some work, unless one of them comes first.
    pub(crate) async fn unless_told<T>(&mut self, work: impl Future<Output = T>) -> Result<T, CliError> {
        tokio::select! {
            result = work => Ok(result),
            () = self.told() => Err(CliError::new(ErrorKind::Interrupted, "interrupted")),
        }
    }
}
