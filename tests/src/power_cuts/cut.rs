//! What is looked at after one cut.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, anyhow};
use serde_json::json;

use super::disk::Cut;
use crate::process::{Database, Device, Place};
use crate::processes::control::{ask, dump};

/// What was found after one cut.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    /// How many entries of the log are before it.
    pub(super) at: usize,
    pub(super) cut: Cut,
    /// Commits that were acknowledged before it.
    pub(super) acked: usize,
    /// Of those, the ones that are gone.
    pub(super) lost: usize,
    /// Records that are there.
    pub(super) there: usize,
    /// What is wrong, in sentences.
    pub(super) problems: Vec<String>,
}

/// Looks at the data directory of a disk after a cut, then starts the peer on it and has it commit.
pub(super) fn check(place: &Place, data: &Path, copy: &Path, due: &[&str]) -> Checked {
    let mut problems = Vec::new();
    if data.join("library.sqlite").exists() {
        problems.extend(damage(data, copy, due.len()).unwrap_or_else(|error| vec![format!("{error:#}")]));
    } else if !due.is_empty() {
        problems.push("there is no database".to_owned());
    }
    let (mut lost, mut there) = (due.len(), 0);
    let mut device = place.device_at("cut", data);
    match start(&mut device) {
        Ok(ids) => {
            lost = due.iter().filter(|id| !ids.contains(**id)).count();
            there = ids.len();
        }
        Err(error) => problems.push(format!("{error:#}")),
    }
    if lost > 0 {
        problems.push(format!("{lost} of {} acknowledged commits are gone", due.len()));
    }
    if device.is_up()
        && let Err(problem) = device.try_stop()
    {
        problems.push(problem);
    }
    Checked { at: 0, cut: Cut { doubtful: 0, kept: 0 }, acked: 0, lost, there, problems }
}

/// What is wrong with the database before the peer sees it. It is looked at in a copy: opening it repairs it.
fn damage(data: &Path, copy: &Path, acked: usize) -> anyhow::Result<Vec<String>> {
    if copy.exists() {
        std::fs::remove_dir_all(copy)?;
    }
    std::fs::create_dir(copy)?;
    for file in std::fs::read_dir(data)? {
        let file = file?;
        let name = file.file_name();
        // The index of the journal is made anew by whoever opens it first; a socket cannot be copied.
        if file.file_type()?.is_file() && name != "library.sqlite-shm" {
            std::fs::copy(file.path(), copy.join(name))?;
        }
    }
    let database = Database::of(copy);
    let mut problems = heads(copy, &database, acked);
    match database.try_integrity() {
        Ok(findings) if findings == ["ok"] => {}
        Ok(findings) => problems.push(format!("the database is damaged: {}", findings.join("; "))),
        Err(error) => problems.push(format!("the database cannot be read: {error}")),
    }
    Ok(problems)
}

/// Whether the numbers agree: the database knows every commit that was acknowledged, and is not behind the note of
/// its numbers that lies beside it.
fn heads(data: &Path, database: &Database, acked: usize) -> Vec<String> {
    let mut problems = Vec::new();
    let head = |floor: u64| database.rows(&format!("stream WHERE kind = 1 AND watermark >= {floor}")) == Some(1);
    let acked = u64::try_from(acked).unwrap_or(u64::MAX);
    if acked > 0 && !head(acked) {
        problems.push(format!("the database's head is below the {acked} commits that were acknowledged"));
    }
    match noted(data) {
        Some(noted) if noted > 0 && !head(noted) => {
            problems.push(format!("the database is behind the head that was noted, {noted}"));
        }
        _ => {}
    }
    problems
}

/// The head of the shared stream that was noted beside the database, if any was.
fn noted(data: &Path) -> Option<u64> {
    let files = std::fs::read_dir(data).ok()?.flatten();
    let mut notes = files.filter(|file| file.file_name().to_string_lossy().starts_with("heads-"));
    let text = String::from_utf8_lossy(&std::fs::read(notes.next()?.path()).ok()?).into_owned();
    text.split_whitespace().nth(2)?.parse().ok()
}

/// Starts the peer, and returns the tags that it has before it commits one more.
fn start(device: &mut Device) -> anyhow::Result<HashSet<String>> {
    device.try_up_with(&[]).map_err(|problem| anyhow!(problem))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let tag = |line: &serde_json::Value| {
            (line["model"] == "tag").then(|| line["id"].as_str().map(str::to_owned)).flatten()
        };
        let before: HashSet<String> = dump(device.data()).await?.iter().filter_map(tag).collect();
        let fields = json!({ "fields": { "name": "after the cut" } });
        let made = ask(device.data(), "/v1/tags/new", &fields).await.context("the peer takes no commit")?;
        let new = made["id"].as_str().context("no id")?;
        anyhow::ensure!(!before.contains(new), "the id {new} was used twice");
        Ok(before)
    })
}
