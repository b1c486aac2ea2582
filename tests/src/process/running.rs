//! One process of the binary: how it is started, what it printed, how it ends.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::binary::starling;
use super::device::Place;
use super::outcome::Outcome;
use super::patience::{PATIENCE, within};

/// How long a process may take to end when it is told to: what it promises.
pub(super) const END_WITHIN: Duration = Duration::from_secs(5);

/// What a process runs in, if not as it is: programs that start it (`ip netns exec NAME`), and variables.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Programs with their arguments that end by running what follows them, in the same process.
    pub prefix: Vec<OsString>,
    /// Variables.
    pub environment: Vec<(OsString, OsString)>,
}

impl Surroundings {
    fn command(&self, program: &Path) -> Command {
        let mut words = self.prefix.iter().map(OsString::as_os_str).chain([program.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
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
    /// Starts the binary with these arguments.
    pub(super) fn start<'a>(place: &Place, arguments: impl IntoIterator<Item = &'a OsStr>) -> Self {
        Self::start_in(place, &Surroundings::default(), arguments)
    }

    /// The same within other surroundings.
    pub(super) fn start_in<'a>(
        place: &Place,
        surroundings: &Surroundings,
        arguments: impl IntoIterator<Item = &'a OsStr>,
    ) -> Self {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let output = |kind: &str| place.path().join(format!("{number}.{kind}"));
        let (stdout, stderr) = (output("stdout"), output("stderr"));
        let create = |path: &Path| File::create(path).expect("an output file can be made");
        let mut command = surroundings.command(starling());
        command.args(arguments).stdin(Stdio::null()).stdout(create(&stdout)).stderr(create(&stderr));
        for variable in ["STARLING_DATA", "STARLING_LOG", "NO_COLOR"] {
            command.env_remove(variable);
        }
        let started = crate::process::patience::now();
        let child = command.spawn().expect("starling can be started");
        Self { child, started, stdout, stderr, _place: place.clone() }
    }

    pub(super) fn stdout(&self) -> String {
        read(&self.stdout)
    }

    pub(super) fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Tells it to end, as Ctrl-C does.
    ///
    /// # Panics
    /// When it has ended.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process has an id");
        kill_process(pid, signal).expect("a child can be signalled");
    }

    /// Waits for its end.
    pub(super) fn end_within(&mut self, time: Duration) -> Option<ExitStatus> {
        within(time, || self.ended())
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
