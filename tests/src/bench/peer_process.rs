//! A peer in a process of its own, and the orders that a benchmark gives it: a line of JSON each way.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use starling::{EventKind, PeerHandle};
use starling_schema::model::Syncable;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::embedded;
use super::rows;
use super::stopwatch::{Deadline, now, seconds_since};

/// Rows of one commit: as the indexer makes them.
const ROWS_PER_COMMIT: usize = 4_000;

/// Orders that wait: the driver gives one at a time.
const ORDERS_MAX: usize = 4;

/// How long anything that a process is asked may take.
const ANSWER_WITHIN: Duration = Duration::from_mins(5);

/// How long a process may take to end.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Options of the hidden command.
#[derive(Clone, Debug, clap::Args)]
pub struct PeerArguments {
    /// Its data directory
    #[arg(long)]
    data: PathBuf,
    /// What to call it
    #[arg(long)]
    name: String,
}

/// What a process can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Make so many entries.
    Fill { rows: usize },
    /// Make a ticket.
    Invite,
    /// Join by the ticket and wait until so many entries are visible.
    Receive { ticket: String, rows: usize },
}

/// What filling took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Filled {
    pub(super) seconds: f64,
}

/// A ticket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Invited {
    pub(super) ticket: String,
}

/// What receiving took, in seconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Received {
    /// From the start of joining to its end.
    pub(super) join: f64,
    /// From the end of joining to the first connection.
    pub(super) connected: f64,
    /// From the end of joining to the first row.
    pub(super) first_row: f64,
    /// From the end of joining to the last row.
    pub(super) all_rows: f64,
    /// What came over the network, in bytes.
    pub(super) bytes_in: u64,
}

/// Runs a peer that follows orders from standard input until that is closed.
///
/// # Errors
/// When the peer cannot start, or an order failed.
pub fn serve_peer(arguments: &PeerArguments) -> anyhow::Result<()> {
    let (orders, mut inbox) = tokio::sync::mpsc::channel(ORDERS_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if orders.blocking_send(line).is_err() {
                return;
            }
        }
    });
    actix::System::new().block_on(async {
        let peer = embedded::start(&arguments.data, &arguments.name).await?;
        say(&serde_json::json!({ "ready": true }))?;
        while let Some(line) = inbox.recv().await {
            match serde_json::from_str(&line)? {
                Order::Fill { rows } => say(&fill(&peer, rows).await?)?,
                Order::Invite => say(&Invited { ticket: embedded::ticket(&peer).await? })?,
                Order::Receive { ticket, rows } => say(&receive(&peer, &ticket, rows).await?)?,
            }
        }
        peer.stop().await;
        Ok(())
    })
}

fn say(answer: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(answer)?)?;
    Ok(out.flush()?)
}

async fn fill(peer: &PeerHandle, count: usize) -> anyhow::Result<Filled> {
    let start = now();
    let indexes: Vec<usize> = (0..count).collect();
    for chunk in indexes.chunks(ROWS_PER_COMMIT) {
        let ids = peer.environment().new_ids(chunk.len());
        let writes = chunk.iter().zip(ids).map(|(index, id)| rows::entry(*index, id).put()).collect();
        peer.commit(writes).await?;
    }
    Ok(Filled { seconds: seconds_since(start) })
}

async fn receive(peer: &PeerHandle, ticket: &str, count: usize) -> anyhow::Result<Received> {
    let start = now();
    peer.join(ticket, false).await?;
    let (join, joined) = (seconds_since(start), now());
    let watched = peer.clone();
    let connected = actix::spawn(async move {
        let mut cursor = 0;
        while let Ok(Ok(events)) = watched.events(cursor, ANSWER_WITHIN).await {
            if events.iter().any(|event| matches!(event.kind, EventKind::Connected(_))) {
                return seconds_since(joined);
            }
            cursor = events.last().map_or(cursor, |event| event.cursor);
        }
        f64::NAN
    });
    let deadline = Deadline::within(ANSWER_WITHIN);
    let mut first_row = None;
    loop {
        let here = embedded::entries(peer, true).await?;
        if here > 0 {
            first_row.get_or_insert_with(|| seconds_since(joined));
        }
        if here >= count && embedded::entries(peer, false).await? >= count {
            break;
        }
        deadline.check("receiving")?;
        tokio::time::sleep(embedded::POLL).await;
    }
    let all_rows = seconds_since(joined);
    let bytes_in = peer.status().await?.peers.iter().map(|peer| peer.bytes_in).sum();
    let first_row = first_row.unwrap_or(all_rows);
    Ok(Received { join, connected: connected.await?, first_row, all_rows, bytes_in })
}

/// A child process that runs a peer; killed when dropped.
#[derive(Debug)]
pub(super) struct PeerProcess {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
}

impl PeerProcess {
    /// Starts one and waits until its peer runs.
    pub(super) async fn start(data: &Path, name: &str) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bench-peer").arg("--data").arg(data).args(["--name", name]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("the peer process cannot be started")?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("no output")?).lines();
        let mut process = Self { child, orders, answers };
        process.answer::<serde_json::Value>().await?;
        Ok(process)
    }

    /// Gives an order and waits for what came of it.
    pub(super) async fn ask<T: DeserializeOwned>(&mut self, order: &Order) -> anyhow::Result<T> {
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        self.orders.as_mut().context("the process was told to end")?.write_all(line.as_bytes()).await?;
        self.answer().await.with_context(|| format!("{order:?}"))
    }

    async fn answer<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let line = tokio::time::timeout(ANSWER_WITHIN, self.answers.next_line()).await;
        let Some(line) = line.context("no answer in time")?? else { bail!("the peer process ended") };
        Ok(serde_json::from_str(&line)?)
    }

    /// The most memory that it ever held, in MiB.
    pub(super) fn peak_rss_mib(&self) -> anyhow::Result<f64> {
        peak_rss_mib(self.child.id().context("the process has ended")?)
    }

    /// Closes its input and waits until it has ended.
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        drop(self.orders.take());
        if tokio::time::timeout(END_WITHIN, self.child.wait()).await.is_err() {
            self.child.kill().await?;
            bail!("a peer process did not end within {} s", END_WITHIN.as_secs());
        }
        Ok(())
    }
}

/// The most memory that a process ever held, in MiB.
pub(super) fn peak_rss_mib(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: u32 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(f64::from(kib) / 1024.0)
}
