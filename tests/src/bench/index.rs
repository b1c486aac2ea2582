//! A folder of N small files is added to a real peer process: how long until all are in the library, and how long a
//! second look takes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::Options;
use super::peer_process::peak_rss_mib;
use super::reference;
use super::report::{Measured, per_second, rounded};
use super::stopwatch::{now, seconds_since};

/// Files of one directory, directories of one above them.
const FANOUT: usize = 100;

/// Files have fewer bytes than this.
const SIZES: u64 = 8_192;

/// How long a command may take.
const COMMAND_WITHIN: Duration = Duration::from_mins(5);

/// How much longer than a plain walk indexing may take.
const RATIO_MAX: f64 = 2.0;

/// The same of a look at a folder that did not change.
const RESCAN_RATIO_MAX: f64 = 1.2;

pub(super) async fn run(options: Options) -> anyhow::Result<Measured> {
    let program = starling(options.starling)?;
    let place = tempfile::tempdir()?;
    // In memory where that can be had: making 100,000 files takes some disks minutes, and looking at them is the same
    // once they are cached.
    let files = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let (folder, data) = (files.path().join("files"), place.path().join("data"));
    make_files(&folder, options.rows)?;
    let (reference_seconds, seen) = reference::walk(&folder)?;
    ensure!(seen == options.rows, "the reference saw {seen} files");
    let mut peer = up(&program, &data).await?;
    let pid = peer.id().context("the peer has ended")?;
    let start = now();
    command(&program, &data, &["add", folder.to_str().context("a path that is not UTF-8")?]).await?;
    let seconds = seconds_since(start);
    let rss_mib = peak_rss_mib(pid)?;
    let start = now();
    command(&program, &data, &["rescan"]).await?;
    let rescan_seconds = seconds_since(start);
    let status = command(&program, &data, &["status"]).await?;
    peer.kill().await?;
    let entries = status["counts"]["entry"].as_u64().unwrap_or(0);
    ensure!(entries >= options.rows as u64, "only {entries} entries are in the library");
    let (reference_again, _) = reference::walk(&folder)?;
    let insert_seconds = reference::insert_entries(place.path(), options.rows)?;
    Ok(Measured {
        seconds,
        reference_seconds,
        rss_mib: Some(rss_mib),
        wire_bytes_per_row: None,
        target: (
            "2 times a plain walk, a rescan 1.2 times",
            seconds <= RATIO_MAX * reference_seconds && rescan_seconds <= RESCAN_RATIO_MAX * reference_again,
        ),
        extra: vec![
            ("files_per_second", json!(per_second(options.rows, seconds))),
            ("insert_seconds", json!(rounded(insert_seconds))),
            ("ratio_to_walk_and_insert", json!(rounded(seconds / (reference_seconds + insert_seconds)))),
            ("rescan_seconds", json!(rounded(rescan_seconds))),
            ("rescan_ratio", json!(rounded(rescan_seconds / reference_again))),
            ("entries", json!(entries)),
        ],
    })
}

/// The program to measure.
pub(super) fn starling(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("starling");
    let program = given.unwrap_or(beside);
    ensure!(program.is_file(), "{} is missing: build it, or name it with --starling", program.display());
    Ok(program)
}

fn make_files(folder: &Path, count: usize) -> anyhow::Result<()> {
    for index in 0..count {
        let directory =
            folder.join(format!("{:03}", index / FANOUT / FANOUT)).join(format!("{:02}", index / FANOUT % FANOUT));
        if index % FANOUT == 0 {
            std::fs::create_dir_all(&directory)?;
        }
        // A size without blocks takes no room.
        std::fs::File::create(directory.join(format!("file_{index:07}.txt")))?.set_len(index as u64 % SIZES)?;
    }
    Ok(())
}

/// Starts the peer and waits for its `ready` line.
pub(super) async fn up(program: &Path, data: &Path) -> anyhow::Result<Child> {
    let mut command = Command::new(program);
    command.arg("--data").arg(data).args(["--json", "up", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().context("the peer cannot be started")?;
    let mut out = BufReader::new(child.stdout.take().context("no output")?);
    let mut line = String::new();
    tokio::time::timeout(COMMAND_WITHIN, out.read_line(&mut line))
        .await
        .context("the peer was not ready in time")??;
    let ready: Json = serde_json::from_str(&line).with_context(|| format!("the peer said {line:?}"))?;
    ensure!(ready["ready"] == true, "the peer said {line:?}");
    // Its further output has nowhere to go, as when a pipe's reader ends.
    child.stdout = Some(out.into_inner());
    Ok(child)
}

/// Runs a command against the peer and reads the last document that it prints.
async fn command(program: &Path, data: &Path, words: &[&str]) -> anyhow::Result<Json> {
    let mut command = Command::new(program);
    command.arg("--data").arg(data).arg("--json").args(words).stdin(Stdio::null()).kill_on_drop(true);
    let output =
        tokio::time::timeout(COMMAND_WITHIN, command.output()).await.with_context(|| format!("{words:?}"))??;
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    Ok(serde_json::from_str(&text).or_else(|_| serde_json::from_str(text.lines().last().unwrap_or_default()))?)
}
