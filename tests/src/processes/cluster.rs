//! The devices of a run: how they come to be one library, what is done to them, and whether they are equal in the end.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use serde_json::{Value as Json, json};

use super::control::{ask, dump};
use super::ground::Ground;
use super::plan::Action;
use super::run::Run;
use super::writer::Shared;
use crate::process::patience::now;
use crate::process::{Database, Device, Folder, Place};

/// Files that each device indexes: something to tag and to say something of.
const FILES: usize = 20;

/// Tags that all devices edit.
const SHARED_TAGS: usize = 5;

/// How long devices may take to find each other at first.
const MEET_WITHIN: Duration = Duration::from_mins(2);

/// How often it is looked whether they are equal.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The devices of a run. Dropped, all of them end.
#[derive(Debug)]
pub(crate) struct Cluster {
    // Dropped first: the processes end before what they stand on.
    devices: Vec<Device>,
    ground: Ground,
    frozen: Vec<usize>,
    interrupted: Arc<AtomicBool>,
    run: tokio::runtime::Runtime,
}

impl Cluster {
    /// Starts them one after the other, as members of one library.
    pub(crate) fn start(
        place: &Place,
        count: usize,
        ground: Ground,
        interrupted: Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        let run = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut cluster = Self { devices: Vec::new(), ground, frozen: Vec::new(), interrupted, run };
        for number in 0..count {
            let folder = Folder::with_files(&place.path().join(format!("files-{number}")), FILES);
            let (surroundings, listen) = cluster.ground.of(number)?;
            let mut device = place.device(&format!("d{number}")).within(surroundings, listen);
            let path = folder.path().to_str().context("a path that is not UTF-8")?.to_owned();
            let up = match cluster.devices.first() {
                None => device.try_up_with(&[&path]),
                Some(first) => {
                    let invited =
                        cluster.run.block_on(ask(first.data(), "/v1/invite", &json!({ "expires_ms": 600_000 })))?;
                    let ticket = invited["ticket"].as_str().context("no ticket")?.to_owned();
                    device.try_up_with(&["--join", &ticket, &path])
                }
            };
            up.map_err(|problem| anyhow!(problem))?;
            cluster.devices.push(device);
        }
        Ok(cluster)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.devices.len()
    }

    /// Their data directories.
    pub(crate) fn data(&self) -> Vec<PathBuf> {
        self.devices.iter().map(|device| device.data().to_owned()).collect()
    }

    fn ask(&self, device: usize, route: &str, request: &Json) -> anyhow::Result<Json> {
        self.run.block_on(ask(self.devices[device].data(), route, request))
    }

    /// Makes what all edit, and waits until everybody has it and is connected to everybody.
    pub(crate) fn prepare(&self) -> anyhow::Result<Shared> {
        let mut tags = Vec::new();
        for number in 0..SHARED_TAGS {
            let made = self.ask(0, "/v1/tags/new", &json!({ "fields": { "name": format!("shared {number}") } }))?;
            tags.push(made["id"].as_str().context("no id")?.to_owned());
        }
        let met = || (0..self.len()).all(|device| self.connected(device).is_ok_and(|online| online + 1 == self.len()));
        ensure!(self.within(MEET_WITHIN, met)?.is_some(), "the devices do not all find each other");
        ensure!(self.equal_within(MEET_WITHIN)?.is_some(), "the devices are not equal before any fault");
        let query = json!({ "query": null, "tag": null, "device": null, "collection": null, "kind": null,
            "favorite": false, "limit": 10_000 });
        let found = self.ask(0, "/v1/find", &query)?;
        let entries = found["entries"].as_array().context("no entries")?;
        let entries = entries.iter().filter_map(|entry| entry["id"].as_str().map(str::to_owned)).collect();
        Ok(Shared { tags, entries })
    }

    fn connected(&self, device: usize) -> anyhow::Result<usize> {
        let status = self.ask(device, "/v1/status", &json!({}))?;
        let peers = status["peers"].as_array().context("no peers")?;
        Ok(peers.iter().filter(|peer| peer["online"] == true).count())
    }

    /// Tells the samplers which processes run.
    pub(crate) fn tell(&self, run: &Run) {
        *run.processes.lock() = self.devices.iter().map(Device::process_id).collect();
    }

    /// Waits, then does something to the devices.
    pub(crate) fn act(&mut self, action: &Action) -> anyhow::Result<()> {
        match action {
            Action::Kill(device) => {
                self.thaw(*device);
                self.devices[*device].kill();
            }
            Action::Start(device) => self.up(*device)?,
            Action::Freeze(device) => self.freeze(*device),
            Action::Thaw(device) => self.thaw(*device),
            Action::Part(side) => match &self.ground.network {
                Some(network) => network.part(side, self.devices.len())?,
                None => side.iter().for_each(|device| self.freeze(*device)),
            },
            Action::Heal => match &self.ground.network {
                Some(network) => network.part(&[], self.devices.len())?,
                None => (0..self.devices.len()).for_each(|device| self.thaw(device)),
            },
            Action::Skew(device, milliseconds) => {
                if let Some(clocks) = &self.ground.clocks {
                    clocks.set(*device, *milliseconds)?;
                }
            }
        }
        Ok(())
    }

    fn up(&mut self, device: usize) -> anyhow::Result<()> {
        if !self.devices[device].is_up() {
            self.devices[device].try_up_with(&[]).map_err(|problem| anyhow!(problem))?;
        }
        Ok(())
    }

    fn freeze(&mut self, device: usize) {
        if self.devices[device].is_up() && !self.frozen.contains(&device) {
            self.devices[device].freeze();
            self.frozen.push(device);
        }
    }

    fn thaw(&mut self, device: usize) {
        if self.frozen.contains(&device) {
            self.frozen.retain(|frozen| *frozen != device);
            self.devices[device].thaw();
        }
    }

    /// Undoes every fault.
    pub(crate) fn heal(&mut self) -> anyhow::Result<()> {
        self.act(&Action::Heal)?;
        for device in 0..self.devices.len() {
            self.thaw(device);
            self.act(&Action::Skew(device, 0))?;
            self.up(device)?;
        }
        Ok(())
    }

    /// What the processes said that ended without being told to.
    pub(crate) fn ended(&mut self) -> Vec<String> {
        self.devices.iter_mut().filter_map(Device::ended).collect()
    }

    /// Waits until something holds.
    pub(crate) fn within(&self, time: Duration, mut holds: impl FnMut() -> bool) -> anyhow::Result<Option<Duration>> {
        let started = now();
        loop {
            if holds() {
                return Ok(Some(started.elapsed()));
            }
            if started.elapsed() >= time {
                return Ok(None);
            }
            self.check_interrupted()?;
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Fails once somebody pressed Ctrl-C.
    pub(crate) fn check_interrupted(&self) -> anyhow::Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Waits until all devices print the same digest, and says how long that took.
    pub(crate) fn equal_within(&self, time: Duration) -> anyhow::Result<Option<Duration>> {
        let digests = || -> anyhow::Result<Vec<Json>> {
            (0..self.len()).map(|device| Ok(self.ask(device, "/v1/digest", &json!({}))?["all"].clone())).collect()
        };
        self.within(time, || digests().is_ok_and(|digests| digests.windows(2).all(|pair| pair[0] == pair[1])))
    }

    /// What a device says of itself in a sentence, for when something is wrong.
    pub(crate) fn verdicts(&self) -> Vec<String> {
        let verdict = |device| match self.ask(device, "/v1/status", &json!({})) {
            Ok(status) => format!("d{device}: {}", status["verdict"]["reason"].as_str().unwrap_or_default()),
            Err(error) => format!("d{device}: {error:#}"),
        };
        (0..self.len()).map(verdict).collect()
    }

    /// The canonical dump of a device.
    pub(crate) fn dump(&self, device: usize) -> anyhow::Result<Vec<Json>> {
        self.run.block_on(dump(self.devices[device].data()))
    }

    /// Ends all devices in order and says what is wrong with their databases.
    pub(crate) fn damage(mut self) -> Vec<String> {
        let mut damage = Vec::new();
        for device in &mut self.devices {
            if let Err(problem) = device.try_stop() {
                damage.push(problem);
            }
            let found = Database::of(device.data()).integrity();
            if found != ["ok"] {
                damage.push(format!("{}: {}", device.name(), found.join("; ")));
            }
        }
        damage
    }
}
