//! The word to end: SIGINT and SIGTERM.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{CliError, ErrorKind};

/// Hears SIGINT and SIGTERM from the moment it is made.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Starts to listen.
    pub(crate) fn new() -> Result<Self, CliError> {
        let failed = |e| CliError::io("signals cannot be heard", e);
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    /// Resolves at the next of them.
    pub(crate) async fn told(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
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
