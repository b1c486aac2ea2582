//! A peer in a process of its own, and the orders that a benchmark gives it: a line of JSON each way.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use starling::{EventKind, PeerHandle};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::embedded;
use super::rows::Kind;
use super::stopwatch::{Deadline, now, seconds_since};

/// Orders that wait: the driver gives one at a time.
const ORDERS_MAX: usize = 4;

/// How long anything that a process is asked may take.
const ANSWER_WITHIN: Duration = Duration::from_mins(5);

/// How often it is looked whether a log is empty.
const PRUNE_LOOK: Duration = Duration::from_millis(20);

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
    /// Make so many records.
    Fill { rows: usize, kind: Kind },
    /// Wait until the log is empty.
    Prune,
    /// Make a ticket.
    Invite,
    /// Join by the ticket, if there is one, and wait until so many records are visible.
    Receive { ticket: Option<String>, rows: usize, kind: Kind },
    /// Wait until so many members are connected and nothing is lacking.
    Settle { online: usize },
}

/// What filling took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Filled {
    pub(super) seconds: f64,
}

/// The log is empty.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Pruned {
    pub(super) seconds: f64,
}

/// All are connected.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Settled {
    pub(super) online: usize,
}

/// A ticket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Invited {
    pub(super) ticket: String,
}

/// What receiving took, in seconds: from the end of joining, or from the start of a peer that is a member already.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Received {
    /// From the start of joining to its end.
    pub(super) join: f64,
    /// To the first connection.
    pub(super) connected: f64,
    /// To the first row.
    pub(super) first_row: f64,
    /// To the last row.
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
        let started = now();
        say(&serde_json::json!({ "ready": true }))?;
        while let Some(line) = inbox.recv().await {
            match serde_json::from_str(&line)? {
                Order::Fill { rows, kind } => say(&fill(&peer, rows, kind).await?)?,
                Order::Prune => say(&prune(&peer).await?)?,
                Order::Invite => say(&Invited { ticket: embedded::ticket(&peer).await? })?,
                Order::Receive { ticket, rows, kind } => {
                    say(&receive(&peer, started, ticket.as_deref(), rows, kind).await?)?;
                }
                Order::Settle { online } => {
                    embedded::settle(std::slice::from_ref(&peer), online, ANSWER_WITHIN).await?;
                    say(&Settled { online })?;
                }
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

async fn fill(peer: &PeerHandle, count: usize, kind: Kind) -> anyhow::Result<Filled> {
    let start = now();
    let indexes: Vec<usize> = (0..count).collect();
    for chunk in indexes.chunks(kind.rows_per_commit()) {
        let ids = peer.environment().new_ids(chunk.len());
        peer.commit(chunk.iter().zip(ids).map(|(index, id)| kind.put(*index, id)).collect()).await?;
    }
    Ok(Filled { seconds: seconds_since(start) })
}

async fn prune(peer: &PeerHandle) -> anyhow::Result<Pruned> {
    let (start, deadline) = (now(), Deadline::within(ANSWER_WITHIN));
    while peer.status().await?.log.entries > 0 {
        deadline.check("pruning")?;
        tokio::time::sleep(PRUNE_LOOK).await;
    }
    Ok(Pruned { seconds: seconds_since(start) })
}

async fn receive(
    peer: &PeerHandle,
    started: Instant,
    ticket: Option<&str>,
    count: usize,
    kind: Kind,
) -> anyhow::Result<Received> {
    let (mut join, mut joined) = (0.0, started);
    if let Some(ticket) = ticket {
        let start = now();
        peer.join(ticket, false).await?;
        (join, joined) = (seconds_since(start), now());
    }
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
        let here = embedded::count(peer, kind, true).await?;
        if here > 0 {
            first_row.get_or_insert_with(|| seconds_since(joined));
        }
        if here >= count && embedded::count(peer, kind, false).await? >= count {
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

    /// Its number.
    pub(super) fn id(&self) -> anyhow::Result<u32> {
        self.child.id().context("the process has ended")
    }

    /// The most memory that it ever held, in MiB.
    pub(super) fn peak_rss_mib(&self) -> anyhow::Result<f64> {
        peak_rss_mib(self.id()?)
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
    mib(pid, "VmHWM:")
}

/// The memory that a process holds now, in MiB.
pub(super) fn rss_mib(pid: u32) -> anyhow::Result<f64> {
    mib(pid, "VmRSS:")
}

fn mib(pid: u32, key: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).context("no such line")?;
    let kib: u32 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(f64::from(kib) / 1024.0)
}
