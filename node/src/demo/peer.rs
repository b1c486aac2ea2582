//! One peer of the demonstration: a `starling up` process of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::Instant;

use crate::client::Client;
use crate::data_directory::DataDirectory;
use crate::error::{CliError, ErrorKind};

/// How long a peer may take to say that it is ready, joining included.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// How long a peer may take to end in order before it is killed: what it promises, and a second.
const END_WITHIN: Duration = Duration::from_secs(6);

/// How many of the last lines of a log are shown when something failed.
const LOG_LINES: usize = 10;

/// A peer process with a data directory of its own.
#[derive(Debug)]
pub(crate) struct DemoPeer {
    name: String,
    data: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    // Kept open: the peer would see its output closed.
    _stdout: BufReader<ChildStdout>,
}

impl DemoPeer {
    /// The first is A, the second B, and so on. Nothing is started.
    pub(crate) fn new(place: &Path, number: u8) -> Self {
        let name = char::from(b'A' + number).to_string();
        Self { data: place.join(&name), log: place.join(format!("{name}.log")), name, process: None }
    }

    /// What people call it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The way to it.
    pub(crate) fn client(&self) -> Result<Client, CliError> {
        DataDirectory::choose(Some(&self.data)).map(Client::new)
    }

    /// Starts the process and waits until it says that it is ready.
    pub(crate) async fn start(&mut self, join: Option<&str>) -> Result<(), CliError> {
        let failed = |e: std::io::Error| CliError::io(format!("the peer {} cannot be started", self.name), e);
        let program = std::env::current_exe().map_err(failed)?;
        let log = File::options().create(true).append(true).open(&self.log).map_err(failed)?;
        let mut command = Command::new(program);
        command.arg("--data").arg(&self.data).args(["--json", "up", "--no-mdns", "--name", &self.name]);
        command.args(["--listen", "/ip4/127.0.0.1/tcp/0"]);
        if let Some(ticket) = join {
            command.args(["--join", ticket]);
        }
        command.env_remove("STARLING_DATA").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let stdout = child.stdout.take().ok_or_else(|| failed(std::io::Error::other("it has no output")))?;
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        let ready = tokio::time::timeout(READY_WITHIN, stdout.read_line(&mut line)).await;
        self.process = Some(Process { child, _stdout: stdout });
        let ready = ready.map_err(|_| {
            let message = format!("the peer {} was not ready within {} s", self.name, READY_WITHIN.as_secs());
            CliError::new(ErrorKind::Failed, message)
        })?;
        if ready.is_ok() && is_ready(&line) {
            Ok(())
        } else {
            Err(CliError::new(ErrorKind::Failed, format!("the peer {} did not start", self.name)))
        }
    }

    /// Ends the process in order, if one runs, and says how long that took. One that hangs is killed, which is an
    /// error.
    pub(crate) async fn end(&mut self) -> Result<Duration, CliError> {
        let Some(Process { mut child, _stdout }) = self.process.take() else { return Ok(Duration::ZERO) };
        let started = Instant::now();
        let failed = |e: std::io::Error| CliError::io(format!("the peer {} cannot be ended", self.name), e);
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, Signal::TERM)
        {
            tracing::debug!(%error, peer = %self.name, "the peer could not be told to end");
        }
        if let Ok(status) = tokio::time::timeout(END_WITHIN, child.wait()).await {
            return status.map_err(failed).map(|_| started.elapsed());
        }
        child.kill().await.map_err(failed)?;
        let message = format!("the peer {} did not end within {} s", self.name, END_WITHIN.as_secs());
        Err(CliError::new(ErrorKind::Failed, message))
    }

    /// The last lines that it logged, if there are any.
    pub(crate) fn log_tail(&self) -> Option<String> {
        let bytes = std::fs::read(&self.log).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
        (!tail.is_empty()).then(|| tail.join("\n"))
    }
}

fn is_ready(line: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(line).is_ok_and(|document| document["ready"] == true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_ready_line_says_ready() {
        assert!(is_ready("{\"schema\":1,\"ready\":true}\n"));
        for other in ["", "{}", "{\"ready\":false}", "ready"] {
            assert!(!is_ready(other), "{other:?}");
        }
    }

    #[test]
    fn the_last_lines_of_a_log_are_kept() {
        let place = tempfile::tempdir().unwrap();
        let peer = DemoPeer::new(place.path(), 1);
        assert_eq!((peer.name(), peer.log_tail()), ("B", None));
        std::fs::write(&peer.log, (0..20).map(|n| format!("line {n}\n")).collect::<Vec<_>>().concat()).unwrap();
        assert!(peer.log_tail().unwrap().starts_with("line 10\n"));
    }
}
