//! A disk whose writes are logged, and the disks that it would have been after a power cut.
//!
//! qemu's storage daemon serves an image as one file and logs what is written to it; that file is mounted through a
//! loop device, so what the log sees is what a real disk would have seen of ext4.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal, kill_process};

use super::write_log::{Entry, SECTOR_BYTES};
use crate::process::patience::within;

/// Room for a small library many times over, and quick to copy.
const DISK_BYTES: u64 = 96 * 1024 * 1024;

/// How long the daemon may take to serve, and to end.
const DAEMON_WITHIN: Duration = Duration::from_secs(10);

/// A disk that is mounted and logs its writes.
#[derive(Debug)]
pub(crate) struct LoggedDisk {
    // Dropped first: the daemon ends after what is mounted from it.
    mounted: Option<Mounted>,
    daemon: Child,
    directory: PathBuf,
}

impl LoggedDisk {
    /// Makes one in a directory.
    pub(crate) fn new(directory: &Path) -> anyhow::Result<Self> {
        let image = directory.join("disk");
        File::create(&image)?.set_len(DISK_BYTES)?;
        run("mkfs.ext4", &["-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", text(&image)?])?;
        std::fs::copy(&image, directory.join("base"))?;
        for file in ["log", "served"] {
            File::create(directory.join(file))?;
        }
        let node = |name: &str| format!("driver=file,node-name={name},filename={name}");
        let served = directory.join("served");
        let export = format!("type=fuse,id=served,node-name=logged,mountpoint={},writable=on", text(&served)?);
        let logged = format!("driver=blklogwrites,node-name=logged,file=disk,log=log,log-sector-size={SECTOR_BYTES}");
        let daemon = Command::new("qemu-storage-daemon")
            .current_dir(directory)
            .args(["--blockdev", &node("disk"), "--blockdev", &node("log"), "--blockdev", &logged, "--export", &export])
            .stdin(Stdio::null())
            .spawn()
            .context("qemu-storage-daemon cannot be started")?;
        let mut disk = Self { mounted: None, daemon, directory: directory.to_owned() };
        let ready = || std::fs::metadata(&served).is_ok_and(|file| file.len() == DISK_BYTES).then_some(());
        ensure!(within(DAEMON_WITHIN, ready).is_some(), "qemu-storage-daemon does not serve the disk");
        disk.mounted = Some(Mounted::new(&served, &directory.join("mounted"))?);
        Ok(disk)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join("mounted")
    }

    /// The file that grows with every write.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Unmounts it and ends the daemon; the log is whole then.
    pub(crate) fn end(&mut self) -> anyhow::Result<()> {
        drop(self.mounted.take());
        if let Some(process) = i32::try_from(self.daemon.id()).ok().and_then(Pid::from_raw) {
            kill_process(process, Signal::TERM)?;
        }
        let ended = within(DAEMON_WITHIN, || self.daemon.try_wait().ok().flatten());
        ensure!(ended.is_some_and(|status| status.success()), "qemu-storage-daemon did not end in order: {ended:?}");
        Ok(())
    }
}

impl Drop for LoggedDisk {
    fn drop(&mut self) {
        drop(self.mounted.take());
        // It may have ended already; nothing is left to do then.
        if self.daemon.kill().is_ok() {
            self.daemon.wait().ok();
        }
    }
}

/// A file system in a file that is mounted somewhere.
#[derive(Debug)]
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// Mounts it.
    pub(crate) fn new(image: &Path, at: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(at)?;
        run("mount", &["-o", "loop", text(image)?, text(at)?])?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = text(&self.0).and_then(|path| run("umount", &[path]));
        if let Err(error) = unmounted {
            eprintln!("a disk is left mounted: {error:#}");
        }
    }
}

/// What a power cut left of the writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// How many writes were made after the last flush, and how many of them are on the disk.
    pub(crate) doubtful: usize,
    pub(crate) kept: usize,
}

/// Makes the disks that a log's disk would have been, at later and later cuts.
#[derive(Debug)]
pub(crate) struct Replay {
    log: File,
    /// Everything up to a flush.
    base: PathBuf,
    applied: usize,
}

impl Replay {
    /// From the disk as it was when the log began.
    pub(crate) fn new(directory: &Path) -> anyhow::Result<Self> {
        Ok(Self { log: File::open(directory.join("log"))?, base: directory.join("base"), applied: 0 })
    }

    /// Writes to `image` what is on the medium when the power fails after so many entries: all that was done before
    /// the last flush, what was forced through, and of the other writes since then a random part.
    pub(crate) fn cut(
        &mut self,
        entries: &[Entry],
        at: usize,
        image: &Path,
        rng: &mut ChaCha8Rng,
    ) -> anyhow::Result<Cut> {
        let flushed = entries[..at].iter().rposition(|entry| entry.flush).map_or(0, |flush| flush + 1);
        if flushed < self.applied {
            bail!("cuts are made in order");
        }
        let mut base = OpenOptions::new().write(true).open(&self.base)?;
        for entry in &entries[self.applied..flushed] {
            self.apply(entry, &mut base)?;
        }
        self.applied = flushed;
        std::fs::copy(&self.base, image)?;
        let mut disk = OpenOptions::new().write(true).open(image)?;
        let share = rng.random_range(0.0..=1.0);
        let mut cut = Cut { doubtful: 0, kept: 0 };
        for entry in entries[flushed..at].iter().filter(|entry| entry.writes()) {
            cut.doubtful += 1;
            if entry.fua || rng.random_bool(share) {
                cut.kept += 1;
                self.apply(entry, &mut disk)?;
            }
        }
        Ok(cut)
    }

    fn apply(&mut self, entry: &Entry, disk: &mut File) -> anyhow::Result<()> {
        if !entry.writes() {
            return Ok(());
        }
        let mut data = vec![0; usize::try_from(entry.bytes)?];
        self.log.seek(SeekFrom::Start(entry.data_at))?;
        self.log.read_exact(&mut data)?;
        disk.seek(SeekFrom::Start(entry.offset))?;
        Ok(disk.write_all(&data)?)
    }
}

/// A release build ends at a panic without dropping anything.
pub(crate) fn unmount_when_panicking(places: Vec<PathBuf>) {
    let then = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        then(info);
        for place in &places {
            // Most are not mounted then.
            Command::new("umount").arg("--lazy").arg(place).stderr(Stdio::null()).status().ok();
        }
    }));
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{program} cannot be started"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
