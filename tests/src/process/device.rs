//! One device: a data directory, and the `starling up` process that runs on it from time to time.

use std::ffi::{OsStr, OsString};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::outcome::{Outcome, Refusal};
use super::patience::{PATIENCE, within};
use super::running::{END_WITHIN, Running, Surroundings};

/// How much of a log is shown when a test fails.
const LOG_LINES: usize = 60;

/// A temporary directory for the devices of one test; it goes with the last of them.
#[derive(Clone, Debug)]
pub struct Place(Arc<TempDir>);

impl Place {
    /// A new one.
    ///
    /// # Panics
    /// When the disk refuses.
    #[must_use]
    pub fn new() -> Self {
        let place = tempfile::Builder::new().prefix("starling-test-").tempdir();
        Self(Arc::new(place.expect("there is room for a temporary directory")))
    }

    /// Where it is, without symbolic links.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.0.path().canonicalize().expect("the temporary directory is there")
    }

    /// A device that was never started.
    #[must_use]
    pub fn device(&self, name: &str) -> Device {
        self.device_at(name, &self.path().join(name))
    }

    /// The same with its data elsewhere.
    #[must_use]
    pub fn device_at(&self, name: &str, data: &Path) -> Device {
        let listen = format!("/ip4/127.0.0.1/tcp/{}", free_port());
        let (name, data, surroundings) = (name.to_owned(), data.to_owned(), Surroundings::default());
        Device { name, data, listen, surroundings, place: self.clone(), process: None }
    }

    /// Runs a command that needs no device, to its end.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        Running::start(self, arguments.iter().map(OsStr::new)).finish()
    }
}

/// The first port of those that the system gives to no connection by itself.
const PORT_MIN: u16 = 20_000;

/// How many ports there are from it on.
const PORTS: u32 = 10_000;

/// A port that is free and stays so while nobody listens there.
fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    // Test processes that run side by side begin at different places.
    let start = std::process::id().wrapping_mul(97);
    let mut candidates = std::iter::repeat_with(|| {
        let offset = start.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)) % PORTS;
        PORT_MIN + u16::try_from(offset).expect("an offset is below the number of ports")
    });
    let free = candidates.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.expect("one of the ports is free")
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

/// A device with a data directory of its own. Its process is killed when it is dropped; when a test fails, its log is
/// printed.
#[derive(Debug)]
pub struct Device {
    name: String,
    data: PathBuf,
    /// The same at every start: without mDNS, devices that were all down find each other only where they were.
    listen: String,
    surroundings: Surroundings,
    place: Place,
    process: Option<Running>,
}

impl Device {
    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Has its peer run in other surroundings from its next start on, and listen at an address that is there.
    #[must_use]
    pub fn within(mut self, surroundings: Surroundings, listen: Option<String>) -> Self {
        self.surroundings = surroundings;
        if let Some(listen) = listen {
            self.listen = listen;
        }
        self
    }

    /// The id of its peer's process, if it runs.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Running::id)
    }

    /// How its peer ended by itself, and what it logged; none while it runs, or when it was told to end.
    pub fn ended(&mut self) -> Option<String> {
        let process = self.process.as_mut()?;
        let status = process.ended()?;
        let log = process.stderr();
        self.process = None;
        Some(format!("{} ended by itself ({status}); it logged last:\n{}", self.name, last_lines(&log)))
    }

    /// Whether its peer was started and not ended since.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Starts its peer and returns the `ready` line.
    ///
    /// # Panics
    /// When it is not ready in time, or ends.
    pub fn up(&mut self) -> Value {
        self.up_with(&[])
    }

    /// The same with further arguments.
    ///
    /// # Panics
    /// When it is not ready in time, or ends.
    pub fn up_with(&mut self, arguments: &[&str]) -> Value {
        self.try_up_with(arguments).unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// The same where that may fail.
    ///
    /// # Errors
    /// When it is not ready in time, or ends: what it logged.
    ///
    /// # Panics
    /// When it prints another line than the `ready` line.
    pub fn try_up_with(&mut self, arguments: &[&str]) -> Result<Value, String> {
        let mut process = self.spawn_up(arguments);
        let ready = within(PATIENCE, || match process.stdout().split_once('\n') {
            Some((line, _)) => Some(Ok(line.to_owned())),
            None => process.ended().map(Err),
        });
        let line = match ready {
            Some(Ok(line)) => line,
            other => return Err(format!("{} is not ready ({other:?}); it logged:\n{}", self.name, process.stderr())),
        };
        self.process = Some(process);
        let ready: Value = serde_json::from_str(&line).expect("the ready line is JSON");
        assert_eq!((&ready["schema"], &ready["ready"]), (&Value::from(1), &Value::from(true)), "{line}");
        Ok(ready)
    }

    /// Starts its peer where that must fail, and returns how it ended.
    ///
    /// # Panics
    /// When it does not end in time.
    #[must_use]
    pub fn up_refused(&self, arguments: &[&str]) -> Outcome {
        self.spawn_up(arguments).finish()
    }

    fn spawn_up(&self, arguments: &[&str]) -> Running {
        let fixed = ["up", "--json", "--no-mdns", "--name", &self.name];
        let listens = arguments.contains(&"--listen");
        let listen = if listens { &[][..] } else { &["--listen", &self.listen][..] };
        let all = fixed.iter().chain(listen).chain(arguments).map(OsStr::new);
        let data = [OsStr::new("--data"), self.data.as_os_str()];
        Running::start_in(&self.place, &self.surroundings, data.into_iter().chain(all))
    }

    /// Runs a command on this device, with `--json`, to its end.
    ///
    /// # Panics
    /// When it does not end in time.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.spawn(arguments).finish()
    }

    /// Starts a command on this device, with `--json`.
    #[must_use]
    pub fn spawn(&self, arguments: &[&str]) -> Running {
        let all: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        self.spawn_os(&all)
    }

    /// The same with arguments that need not be UTF-8.
    #[must_use]
    pub fn spawn_os(&self, arguments: &[OsString]) -> Running {
        let fixed = [OsStr::new("--data"), self.data.as_os_str(), OsStr::new("--json")];
        Running::start(&self.place, fixed.into_iter().chain(arguments.iter().map(OsString::as_os_str)))
    }

    /// The document that a command prints.
    ///
    /// # Panics
    /// When it fails.
    pub fn ask(&self, arguments: &[&str]) -> Value {
        self.run(arguments).document()
    }

    /// Why a command is refused.
    ///
    /// # Panics
    /// When it ends with another code.
    #[must_use]
    pub fn refused(&self, code: i32, arguments: &[&str]) -> Refusal {
        self.run(arguments).refusal(code)
    }

    /// Ends its peer in order.
    ///
    /// # Panics
    /// When it runs not, takes longer than promised, or fails.
    pub fn stop(&mut self) {
        self.try_stop().unwrap_or_else(|problem| panic!("{problem}"));
    }

    /// The same where that may fail.
    ///
    /// # Errors
    /// When it takes longer than promised, or fails: what it logged.
    ///
    /// # Panics
    /// When it runs not.
    pub fn try_stop(&mut self) -> Result<(), String> {
        let mut process = self.process.take().expect("the peer runs");
        process.signal(Signal::TERM);
        let status = process.end_within(END_WITHIN);
        let done = status.is_some_and(|status| status.success());
        done.then_some(())
            .ok_or_else(|| format!("{} did not end in order: {status:?}\n{}", self.name, process.stderr()))
    }

    /// Tells its peer to end as Ctrl-C does, and returns how it ended and how long that took.
    ///
    /// # Panics
    /// When it runs not, or takes longer than promised.
    pub fn interrupt(&mut self) -> (ExitStatus, Duration) {
        let mut process = self.process.take().expect("the peer runs");
        let told = crate::process::patience::now();
        process.signal(Signal::INT);
        let status = process.end_within(END_WITHIN).expect("the peer ends in time");
        (status, told.elapsed())
    }

    /// What the process of its peer has in its environment, as Linux tells.
    ///
    /// # Panics
    /// When it runs not.
    #[must_use]
    pub fn environment(&self) -> Vec<String> {
        let process = self.process.as_ref().expect("the peer runs").id();
        let variables = std::fs::read(format!("/proc/{process}/environ")).expect("a process' environment can be read");
        variables.split(|byte| *byte == 0).map(|variable| String::from_utf8_lossy(variable).into_owned()).collect()
    }

    /// Ends its peer as a power cut would.
    ///
    /// # Panics
    /// When it runs not.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the peer runs");
        process.signal(Signal::KILL);
        process.end_within(END_WITHIN).expect("a killed process ends");
    }

    /// Stops its peer where it stands.
    ///
    /// # Panics
    /// When it runs not.
    pub fn freeze(&self) {
        self.process.as_ref().expect("the peer runs").signal(Signal::STOP);
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When it runs not.
    pub fn thaw(&self) {
        self.process.as_ref().expect("the peer runs").signal(Signal::CONT);
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(process) = &self.process
        {
            eprintln!("--- {} logged last:\n{}", self.name, last_lines(&process.stderr()));
        }
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
