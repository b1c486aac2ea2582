//! A device with N entries and some neighbours that hold them too, while nothing happens: what it takes.

use std::time::Duration;

use anyhow::Context;
use serde_json::json;

use super::Options;
use super::peer_process::{Filled, Invited, Order, PeerProcess, Received, Settled, rss_mib};
use super::report::{Measured, rounded};
use super::rows::Kind;
use super::stopwatch::{now, seconds_since};

/// The most neighbours: each holds a copy of everything.
const NEIGHBOURS_MAX: usize = 5;

/// After connecting, heartbeats slow down within a minute; what comes before is not idle.
const CALM: Duration = Duration::from_mins(1);

/// How long it is watched.
const WATCHED: Duration = Duration::from_mins(1);

/// What it may hold.
const MIB_MAX: f64 = 64.0;

/// Which part of a core it may use.
const SHARE_MAX: f64 = 0.005;

/// Units of time in `/proc`: a hundredth of a second wherever Linux runs.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) async fn run(options: Options) -> anyhow::Result<Measured> {
    let (count, place) = (options.rows, tempfile::tempdir()?);
    let data = place.path().join("idle");
    let mut first = PeerProcess::start(&data, "idle").await?;
    let _filled: Filled = first.ask(&Order::Fill { rows: count, kind: Kind::Entries }).await?;
    let mut neighbours = Vec::new();
    for number in 0..options.peers.min(NEIGHBOURS_MAX) {
        let Invited { ticket } = first.ask(&Order::Invite).await?;
        let name = format!("neighbour-{number}");
        let mut neighbour = PeerProcess::start(&place.path().join(&name), &name).await?;
        let receive = Order::Receive { ticket: Some(ticket), rows: count, kind: Kind::Entries };
        let _received: Received = neighbour.ask(&receive).await?;
        neighbours.push(neighbour);
    }
    // What filling and serving left behind in memory is not what an idle device holds.
    first.end().await?;
    let mut idle = PeerProcess::start(&data, "idle").await?;
    let Settled { online } = idle.ask(&Order::Settle { online: neighbours.len() }).await?;
    tokio::time::sleep(CALM).await;
    let process = idle.id()?;
    let (begun, before) = (now(), cpu_seconds(process)?);
    tokio::time::sleep(WATCHED).await;
    let (seconds, watched) = (cpu_seconds(process)? - before, seconds_since(begun));
    let holds_mib = rss_mib(process)?;
    idle.end().await?;
    for neighbour in neighbours {
        neighbour.end().await?;
    }
    Ok(Measured {
        seconds,
        reference_seconds: watched,
        rss_mib: Some(holds_mib),
        wire_bytes_per_row: None,
        target: ("64 MiB, 0.5 % of a core", holds_mib <= MIB_MAX && seconds / watched <= SHARE_MAX),
        extra: vec![("neighbours", json!(online)), ("percent_of_a_core", json!(rounded(seconds / watched * 100.0)))],
    })
}

/// How long a process has run on any core, in seconds.
fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before it may hold anything, and ends with the last parenthesis.
    let (_, rest) = stat.rsplit_once(')').context("not as /proc has it")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| -> anyhow::Result<u32> { Ok(fields.get(at).context("not as /proc has it")?.parse()?) };
    Ok(f64::from(ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}
