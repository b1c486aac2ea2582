//! One device: a data directory, and the `starling up` process that runs on it from time to time.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::binary::starling;
use super::outcome::{Outcome, Refusal};
use super::patience::{PATIENCE, within};

/// How long a process may take to end when it is told to: what it promises.
const END_WITHIN: Duration = Duration::from_secs(5);

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
        let listen = format!("/ip4/127.0.0.1/tcp/{}", free_port());
        Device { name: name.to_owned(), data: self.path().join(name), listen, place: self.clone(), process: None }
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
        let mut process = self.spawn_up(arguments);
        let ready = within(PATIENCE, || match process.stdout().split_once('\n') {
            Some((line, _)) => Some(Ok(line.to_owned())),
            None => process.has_ended().then_some(Err(())),
        });
        let line = match ready {
            Some(Ok(line)) => line,
            other => panic!("{} is not ready ({other:?}); it logged:\n{}", self.name, process.stderr()),
        };
        self.process = Some(process);
        let ready: Value = serde_json::from_str(&line).expect("the ready line is JSON");
        assert_eq!((&ready["schema"], &ready["ready"]), (&Value::from(1), &Value::from(true)), "{line}");
        ready
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
        Running::start(&self.place, data.into_iter().chain(all))
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
        let mut process = self.process.take().expect("the peer runs");
        process.signal(Signal::TERM);
        let status = process.end_within(END_WITHIN);
        assert!(status.is_some_and(|status| status.success()), "{}: {status:?}\n{}", self.name, process.stderr());
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
            let log = process.stderr();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- {} logged last:\n{}", self.name, lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"));
        }
    }
}

/// A process that was started. It is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    started: Instant,
    stdout: PathBuf,
    stderr: PathBuf,
    _place: Place,
}

/// Tells the output files of processes apart.
static STARTED: AtomicU64 = AtomicU64::new(0);

impl Running {
    fn start<'a>(place: &Place, arguments: impl IntoIterator<Item = &'a OsStr>) -> Self {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let output = |kind: &str| place.path().join(format!("{number}.{kind}"));
        let (stdout, stderr) = (output("stdout"), output("stderr"));
        let create = |path: &Path| File::create(path).expect("an output file can be made");
        let mut command = Command::new(starling());
        command.args(arguments).stdin(Stdio::null()).stdout(create(&stdout)).stderr(create(&stderr));
        for variable in ["STARLING_DATA", "STARLING_LOG", "NO_COLOR"] {
            command.env_remove(variable);
        }
        let started = crate::process::patience::now();
        let child = command.spawn().expect("starling can be started");
        Self { child, started, stdout, stderr, _place: place.clone() }
    }

    fn stdout(&self) -> String {
        read(&self.stdout)
    }

    fn stderr(&self) -> String {
        read(&self.stderr)
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Tells it to end, as Ctrl-C does.
    ///
    /// # Panics
    /// When it has ended.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process has an id");
        kill_process(pid, signal).expect("a child can be signalled");
    }

    /// Waits for its end.
    fn end_within(&mut self, time: Duration) -> Option<ExitStatus> {
        within(time, || self.child.try_wait().expect("a child can be waited for"))
    }

    /// Waits for its end and says what it printed.
    ///
    /// # Panics
    /// When it does not end in time.
    #[must_use]
    pub fn finish(mut self) -> Outcome {
        let deadline = PATIENCE + END_WITHIN;
        let mut pause = Duration::from_millis(1);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            assert!(
                self.started.elapsed() < deadline,
                "a command does not end: it printed {} {}",
                self.stdout(),
                self.stderr()
            );
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        };
        let took = self.started.elapsed();
        Outcome { code: status.code(), stdout: self.stdout(), stderr: self.stderr(), took }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; nothing is left to do then.
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).expect("an output file can be read")).into_owned()
}
