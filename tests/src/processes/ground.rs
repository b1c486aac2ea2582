//! What the processes stand on: network namespaces that can be parted, clocks that can be set, or neither.
//!
//! Namespaces are named after this process. They are removed when the run ends, also by a panic; those of a run that
//! was killed are removed by the next one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use crate::process::Surroundings;

/// What all names begin with.
const PREFIX: &str = "starling-";

/// The two bridges: who is on different ones does not see each other.
const BRIDGES: [&str; 2] = ["bridge0", "bridge1"];

/// Where every peer listens: its address is its own.
const PORT: u16 = 20_000;

/// One network of namespaces: a hub with two bridges, and one namespace per device.
#[derive(Debug)]
pub(crate) struct Network {
    name: String,
}

impl Network {
    /// Makes it.
    ///
    /// # Errors
    /// When this is no Linux, or not allowed: what failed. Nothing is left then.
    pub(crate) fn new(devices: usize) -> anyhow::Result<Self> {
        remove_of_the_dead();
        let network = Self { name: format!("{PREFIX}{}", std::process::id()) };
        remove_when_panicking(network.name.clone());
        network.build(devices)?;
        Ok(network)
    }

    fn build(&self, devices: usize) -> anyhow::Result<()> {
        let hub = self.hub();
        ip(&["netns", "add", &hub])?;
        for bridge in BRIDGES {
            ip(&["-n", &hub, "link", "add", bridge, "type", "bridge"])?;
            ip(&["-n", &hub, "link", "set", bridge, "up"])?;
        }
        for device in 0..devices {
            let (own, port) = (self.namespace(device), port(device));
            ip(&["netns", "add", &own])?;
            ip(&["link", "add", "eth0", "netns", &own, "type", "veth", "peer", "name", &port, "netns", &hub])?;
            ip(&["-n", &hub, "link", "set", &port, "master", BRIDGES[0], "up"])?;
            ip(&["-n", &own, "addr", "add", &format!("{}/24", address(device)), "dev", "eth0"])?;
            ip(&["-n", &own, "link", "set", "eth0", "up"])?;
            ip(&["-n", &own, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn namespace(&self, device: usize) -> String {
        format!("{}-{device}", self.name)
    }

    /// Puts these devices on the other bridge, and all others on the first.
    pub(crate) fn part(&self, side: &[usize], devices: usize) -> anyhow::Result<()> {
        for device in 0..devices {
            let bridge = BRIDGES[usize::from(side.contains(&device))];
            ip(&["-n", &self.hub(), "link", "set", &port(device), "master", bridge])?;
        }
        Ok(())
    }

    /// What a device runs in.
    pub(crate) fn prefix(&self, device: usize) -> Vec<OsString> {
        ["ip", "netns", "exec"].map(OsString::from).into_iter().chain([self.namespace(device).into()]).collect()
    }

    /// Where a device listens.
    pub(crate) fn listen(device: usize) -> String {
        format!("/ip4/{}/tcp/{PORT}", address(device))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn port(device: usize) -> String {
    format!("port{device}")
}

fn address(device: usize) -> String {
    format!("10.213.0.{}", device + 1)
}

fn ip(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output().context("ip cannot be started")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("ip {}: {why}", arguments.join(" "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The namespaces that are there and of this program.
fn ours() -> Vec<String> {
    let listed = ip(&["netns", "list"]).unwrap_or_default();
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| name.starts_with(PREFIX)).map(str::to_owned).collect()
}

/// Removes the namespaces of one run, and with them the links between them.
fn remove(run: &str) {
    for namespace in ours().iter().filter(|name| name.strip_prefix(run).is_some_and(|rest| rest.starts_with('-'))) {
        if let Err(error) = ip(&["netns", "delete", namespace]) {
            eprintln!("a network namespace is left: {error:#}");
        }
    }
}

fn remove_of_the_dead() {
    for name in ours() {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).unwrap_or_default().to_owned();
        if !process.is_empty() && !Path::new("/proc").join(&process).exists() {
            remove(&format!("{PREFIX}{process}"));
        }
    }
}

/// A release build ends at a panic without dropping anything.
fn remove_when_panicking(run: String) {
    let then = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        then(info);
        remove(&run);
    }));
}

/// Wall clocks that can be set by process.
#[derive(Debug)]
pub(crate) struct Clocks {
    library: PathBuf,
    directory: PathBuf,
}

impl Clocks {
    /// With libfaketime, where that is installed.
    ///
    /// # Errors
    /// When it is not.
    pub(crate) fn new(directory: &Path) -> anyhow::Result<Self> {
        let mut places = vec![PathBuf::from("/usr/lib/faketime"), PathBuf::from("/usr/local/lib/faketime")];
        places.extend(std::fs::read_dir("/usr/lib")?.flatten().map(|found| found.path().join("faketime")));
        let library = places.into_iter().map(|place| place.join("libfaketimeMT.so.1")).find(|path| path.exists());
        let library = library.context("libfaketime is not installed")?;
        Ok(Self { library, directory: directory.to_owned() })
    }

    /// The variables that put a device under its clock, which is right at first.
    pub(crate) fn environment(&self, device: usize) -> anyhow::Result<Vec<(OsString, OsString)>> {
        self.set(device, 0)?;
        let pair = |name: &str, value: &Path| (OsString::from(name), value.as_os_str().to_owned());
        Ok(vec![
            pair("LD_PRELOAD", &self.library),
            pair("FAKETIME_TIMESTAMP_FILE", &self.file(device)),
            // It is read again after a second.
            pair("FAKETIME_CACHE_DURATION", Path::new("1")),
            // Timers run on: only what the time of day is changes.
            pair("FAKETIME_DONT_FAKE_MONOTONIC", Path::new("1")),
        ])
    }

    fn file(&self, device: usize) -> PathBuf {
        self.directory.join(format!("clock-{device}"))
    }

    /// Sets a device's clock off by so many milliseconds.
    pub(crate) fn set(&self, device: usize, milliseconds: i64) -> anyhow::Result<()> {
        let sign = if milliseconds < 0 { '-' } else { '+' };
        let (seconds, rest) = (milliseconds.unsigned_abs() / 1_000, milliseconds.unsigned_abs() % 1_000);
        let fresh = self.directory.join("clock");
        std::fs::write(&fresh, format!("{sign}{seconds}.{rest:03}\n"))?;
        Ok(std::fs::rename(fresh, self.file(device))?)
    }
}

impl Drop for Clocks {
    /// Every process leaves its shared memory behind; those of processes that are gone serve nobody.
    fn drop(&mut self) {
        for file in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            let process = ["faketime_shm_", "sem.faketime_sem_"].into_iter().find_map(|kind| name.strip_prefix(kind));
            if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
                // Somebody else may clear up too.
                std::fs::remove_file(file.path()).ok();
            }
        }
    }
}

/// What the processes of a run stand on.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) network: Option<Network>,
    pub(crate) clocks: Option<Clocks>,
    guard: Vec<OsString>,
}

impl Ground {
    /// The best that this machine has of what is wanted. What it has not is said in `notes`.
    pub(crate) fn new(devices: usize, parts: bool, skews: bool, directory: &Path, notes: &mut Vec<String>) -> Self {
        let have = |wanted: bool, without: &str| wanted.then(|| without.to_owned());
        let network = have(parts, "no network namespaces: one side of each partition is frozen for its time instead")
            .and_then(|without| Network::new(devices).map_err(|why| notes.push(format!("{without} ({why:#})"))).ok());
        let clocks = have(skews, "the wall clocks stay as they are")
            .and_then(|without| Clocks::new(directory).map_err(|why| notes.push(format!("{without} ({why:#})"))).ok());
        Self { network, clocks, guard: guard() }
    }

    /// What a device runs in, and where it listens if not where it wants.
    pub(crate) fn of(&self, device: usize) -> anyhow::Result<(Surroundings, Option<String>)> {
        let mut prefix = self.network.as_ref().map(|network| network.prefix(device)).unwrap_or_default();
        prefix.extend(self.guard.iter().cloned());
        let environment = self.clocks.as_ref().map(|clocks| clocks.environment(device)).transpose()?;
        let listen = self.network.as_ref().map(|_| Network::listen(device));
        Ok((Surroundings { prefix, environment: environment.unwrap_or_default() }, listen))
    }
}

/// What makes a child end when the thread that started it does, whatever ends it; nothing where that is not there.
fn guard() -> Vec<OsString> {
    let words = ["setpriv", "--pdeathsig", "KILL"];
    let tried = Command::new(words[0]).args(&words[1..]).arg("true").stderr(Stdio::null()).status();
    if tried.is_ok_and(|status| status.success()) { words.map(OsString::from).to_vec() } else { Vec::new() }
}

/// Refuses more devices than there are addresses and threads for.
pub(crate) fn check_devices(devices: usize) -> anyhow::Result<()> {
    const DEVICES_MAX: usize = 50;
    ensure!((2..=DEVICES_MAX).contains(&devices), "--nodes must be 2 to {DEVICES_MAX}");
    Ok(())
}
