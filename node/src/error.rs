//! What can go wrong for the person at the command line: one sentence, what to do, and the exit code.

use std::fmt;

use serde::{Deserialize, Serialize};
use starling::{CommitError, JoinError, MemberError, QueryError, StartError, StoreError};

/// What sort of failure it is; scripts tell failures apart by it and by the exit code that follows from it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ErrorKind {
    /// Something did not work.
    Failed,
    /// A name, id or path that nothing answers to.
    NotFound,
    /// A name or the beginning of an id that several things answer to.
    Ambiguous,
    /// A value that cannot be.
    Invalid,
    /// A record that was deleted was written to.
    Deleted,
    /// The disk or the database.
    Storage,
    /// Too much is waiting: the same again later may work.
    Busy,
    /// The command line itself.
    Usage,
    /// No peer runs on this data directory.
    NotRunning,
    /// Another peer holds this data directory.
    Locked,
    /// Pairing was refused.
    PairingRefused,
    /// Protocol versions do not overlap.
    VersionMismatch,
    /// Not converged in time.
    NotConverged,
    /// Ctrl-C.
    Interrupted,
    /// Whoever read our output has gone: nothing is printed of it.
    Closed,
}

impl ErrorKind {
    /// The process's exit code.
    pub(crate) fn exit(self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::Failed
            | Self::NotFound
            | Self::Ambiguous
            | Self::Invalid
            | Self::Deleted
            | Self::Storage
            | Self::Busy => 1,
            Self::Usage => 2,
            Self::NotRunning => 10,
            Self::Locked => 11,
            Self::PairingRefused => 12,
            Self::VersionMismatch => 13,
            Self::NotConverged => 20,
            Self::Interrupted => 130,
        }
    }
}

/// A failure as it is shown, and as it travels from the running peer to the command line.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct CliError {
    /// Which sort.
    pub(crate) kind: ErrorKind,
    /// One sentence that names the thing.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

/// How a failure travels and how `--json` prints it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ErrorDocument {
    /// The failure.
    pub(crate) error: CliError,
}

impl CliError {
    /// A failure without advice.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// The same with what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A failure of the disk, an address or a process, with what was being done.
    pub(crate) fn io(doing: impl fmt::Display, error: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Failed, format!("{doing}: {error}"))
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

impl From<diesel::result::Error> for CliError {
    fn from(error: diesel::result::Error) -> Self {
        Self::new(ErrorKind::Storage, format!("the database cannot be read: {error}"))
    }
}

impl From<QueryError> for CliError {
    fn from(error: QueryError) -> Self {
        let kind = match error {
            QueryError::Busy => ErrorKind::Busy,
            QueryError::Storage(_) => ErrorKind::Storage,
            _ => ErrorKind::Failed,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<CommitError> for CliError {
    fn from(error: CommitError) -> Self {
        let message = error.to_string();
        match error {
            CommitError::Refused { .. } | CommitError::TooLarge { .. } => Self::new(ErrorKind::Invalid, message),
            CommitError::Deleted { .. } | CommitError::Purged { .. } => Self::new(ErrorKind::Deleted, message),
            CommitError::Behind { .. } => {
                Self::new(ErrorKind::Storage, message).hint("run `starling status` to see when they are back")
            }
            CommitError::Busy => Self::new(ErrorKind::Busy, message).hint("try again in a moment"),
            CommitError::Storage(_) => {
                Self::new(ErrorKind::Storage, message).hint("check that the disk of the data directory has room")
            }
            _ => Self::new(ErrorKind::Failed, message),
        }
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        Self::new(ErrorKind::Storage, error.to_string())
    }
}

impl From<MemberError> for CliError {
    fn from(error: MemberError) -> Self {
        let kind = if matches!(error, MemberError::Storage(_)) { ErrorKind::Storage } else { ErrorKind::Failed };
        Self::new(kind, error.to_string())
    }
}

impl From<JoinError> for CliError {
    fn from(error: JoinError) -> Self {
        let message = error.to_string();
        match error {
            JoinError::Ticket(_) | JoinError::Refused(_) => Self::new(ErrorKind::PairingRefused, message)
                .hint("ask for a new ticket: run `starling invite` on a device of the library"),
            JoinError::Version(_) => Self::new(ErrorKind::VersionMismatch, message),
            JoinError::Unreachable(_) => Self::new(ErrorKind::Failed, message)
                .hint("check that the inviting peer is running and that this device can reach it"),
            JoinError::Storage(_) => Self::new(ErrorKind::Storage, message),
            _ => Self::new(ErrorKind::Failed, message),
        }
    }
}

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        let message = error.to_string();
        match error {
            StartError::Locked(_) => {
                Self::new(ErrorKind::Locked, message).hint("stop that peer, or use another directory with --data")
            }
            StartError::Store(_) => Self::new(ErrorKind::Storage, message),
            StartError::Network(_) => {
                Self::new(ErrorKind::Failed, message).hint("choose another address with --listen")
            }
            _ => Self::new(ErrorKind::Failed, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_printed_as_kind_message_and_hint() {
        let error = CliError::new(ErrorKind::NotRunning, "no peer is running").hint("start it");
        let document = serde_json::to_value(ErrorDocument { error }).unwrap();
        let expected = r#"{"error":{"kind":"not_running","message":"no peer is running","hint":"start it"}}"#;
        assert_eq!(document, serde_json::from_str::<serde_json::Value>(expected).unwrap());
    }

    #[test]
    fn exit_codes_follow_from_the_kind() {
        let locked = CliError::from(StartError::Locked("/data".into()));
        assert_eq!((locked.kind.exit(), locked.hint.is_some()), (11, true));
        assert_eq!(CliError::from(JoinError::Refused("used".into())).kind.exit(), 12);
        assert_eq!(CliError::from(QueryError::Stopped).kind.exit(), 1);
    }
}
