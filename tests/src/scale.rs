//! The command `stress scale`: what gossip and heartbeats cost by device as a library has more members. A model, since
//! thousands of peers fit no machine: messages are encoded as peers encode them, so their sizes are real; they flood a
//! random mesh as gossipsub does; when who says what follows from the schedule of heartbeats.
//!
//! Left out: acknowledgements of the transports, gossipsub's own announcements, and requests, which cost the same with
//! any number of members.

use std::collections::VecDeque;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::builder::RangedU64ValueParser;
use rand::seq::index;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use starling::proto::heartbeat::{INTERVAL_MS_MAX, INTERVAL_MS_MIN};
use starling_schema::change::{Batch, Items, Op, SharedChange};
use starling_schema::codec::CodecError;
use starling_schema::hlc::Hlc;
use starling_schema::ids::{DeviceId, LibraryId, RecordId};
use starling_schema::key::DeviceSecret;
use starling_schema::models::Tag;
use starling_schema::record::{Seen, SharedRecord};
use starling_schema::signed::{Beacon, Signed, StatementId};
use starling_schema::stream::{Stream, StreamKind, Watermarks};
use starling_schema::wire::{GOSSIP_BYTES_MAX, Heartbeat, SyncEnvelope, SyncPayload};
use uuid::Uuid;

use crate::processes::chart::{Chart, Series};

/// Partners in gossip that a device looks for, as it is configured.
const MESH: usize = 6;

/// The most connections of a device, as it is configured.
const CONNECTIONS_MAX: usize = 64;

/// The most beacons of one direct heartbeat, as in the peer.
const BEACONS_MAX: usize = 32;

/// Streams that moved since a member's whole beacon was said: those of a few who are at work.
const MOVED: usize = 4;

/// What gossipsub puts around a message: source, number, topic, signature, lengths.
const FRAME_BYTES: usize = 200;

/// A change that people make: one field of a tag with a sentence in it.
const SENTENCE: &str = "everything from the week at the lake, sorted by day";

/// More members than this are no library.
const MEMBERS_MAX: u64 = 100_000;

/// Options of `scale`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// How many members; may be given more than once
    #[arg(long, value_delimiter = ',', default_values_t = [10_u64, 100, 1_000, 10_000],
          value_parser = RangedU64ValueParser::<u64>::new().range(2..=MEMBERS_MAX))]
    members: Vec<u64>,
    /// Decides the mesh
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to leave plots, as SVG: scale.svg of the bytes, scale-messages.svg of the messages
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

/// What one device receives, by gossip and directly.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Cost {
    messages: f64,
    bytes: f64,
}

impl Cost {
    fn times(self, factor: f64) -> Self {
        Self { messages: self.messages * factor, bytes: self.bytes * factor }
    }

    fn plus(self, other: Self) -> Self {
        Self { messages: self.messages + other.messages, bytes: self.bytes + other.bytes }
    }
}

/// What a number of members costs.
#[derive(Clone, Debug)]
struct Row {
    members: usize,
    /// A whole beacon.
    whole_bytes: usize,
    /// One that adds to it.
    beacon_bytes: usize,
    fits: bool,
    hops: usize,
    /// The change itself.
    change: Cost,
    /// The heartbeats that follow one change, until they are a minute apart again.
    heartbeats: Cost,
    /// A minute in which nothing happens.
    idle_minute: Cost,
}

/// Prints what each number of members costs.
///
/// # Errors
/// When a message cannot be encoded, or a plot not be written.
pub fn run(arguments: &Arguments, json: bool) -> anyhow::Result<()> {
    let rows: Vec<Row> = arguments
        .members
        .iter()
        .map(|members| Row::of(usize::try_from(*members)?, arguments.seed))
        .collect::<anyhow::Result<_>>()?;
    let mut out = std::io::stdout().lock();
    if json {
        for row in &rows {
            writeln!(out, "{}", row.json())?;
        }
    } else {
        writeln!(
            out,
            "| members | whole beacon | added | hops | a change: messages, bytes | its heartbeats | an idle minute |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|")?;
        for row in &rows {
            writeln!(out, "{}", row.line())?;
        }
    }
    if let Some(folder) = &arguments.plots {
        let bytes = plot(&rows, "Bytes that one device receives", "bytes", |cost| cost.bytes);
        let messages = plot(&rows, "Messages that one device receives", "messages", |cost| cost.messages);
        for (name, plot) in [("scale.svg", bytes), ("scale-messages.svg", messages)] {
            let path = folder.join(name);
            std::fs::write(&path, plot).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

impl Row {
    fn of(members: usize, seed: u64) -> anyhow::Result<Self> {
        ensure!(members >= 2, "one device has nobody to talk to");
        let mesh = Mesh::random(members, seed);
        let (copies, hops) = mesh.flood();
        let gossip = |bytes: usize| Cost { messages: copies, bytes: copies * to_f64(bytes + FRAME_BYTES) };
        let change = gossip(change()?);
        let whole = whole(members)?;
        let fits = heartbeat(vec![whole.clone()])?.is_some_and(|bytes| bytes <= GOSSIP_BYTES_MAX);
        let (said, again) = (added(MOVED)?, added(0)?);
        let one = |beacon: &Signed| heartbeat(vec![beacon.clone()])?.context("no heartbeat fits");
        let (moved, same) = (one(&said)?, one(&again)?);
        let connected = to_f64(CONNECTIONS_MAX.min(members - 1));
        let directly = |bytes: usize| Cost { messages: connected, bytes: connected * to_f64(bytes) };
        let beats = beats_after_a_change();
        // Everybody who has the change says so once to all, and again to those who are connected, which pass it on: what
        // that adds to a message is the beacons themselves, so many in each at most.
        let passed_on = to_f64(members).min(beats * to_f64(BEACONS_MAX));
        let beacon_bytes = said.bytes.len() + said.signature.len();
        let passing = Cost { messages: 0.0, bytes: connected * passed_on * to_f64(beacon_bytes) };
        let heartbeats = gossip(moved).times(to_f64(members)).plus(directly(same).times(beats)).plus(passing);
        Ok(Self {
            members,
            whole_bytes: whole.bytes.len() + whole.signature.len(),
            beacon_bytes,
            fits,
            hops,
            change,
            heartbeats,
            idle_minute: gossip(same).times(to_f64(members)).plus(directly(same)),
        })
    }

    fn json(&self) -> serde_json::Value {
        let cost = |cost: Cost| json!({ "messages": cost.messages.round(), "bytes": cost.bytes.round() });
        json!({
            "schema": 1, "members": self.members, "whole_bytes": self.whole_bytes, "beacon_bytes": self.beacon_bytes, "fits": self.fits,
            "hops": self.hops, "change": cost(self.change), "heartbeats": cost(self.heartbeats),
            "idle_minute": cost(self.idle_minute),
        })
    }

    fn line(&self) -> String {
        let cost = |cost: Cost| format!("{:.0}, {}", cost.messages, size(cost.bytes));
        let whole = format!("{}{}", size(to_f64(self.whole_bytes)), if self.fits { "" } else { " (too large)" });
        let beacon = size(to_f64(self.beacon_bytes));
        let (change, heartbeats, idle) = (cost(self.change), cost(self.heartbeats), cost(self.idle_minute));
        format!("| {} | {whole} | {beacon} | {} | {change} | {heartbeats} | {idle} |", self.members, self.hops)
    }
}

/// How many heartbeats each device sends after one change: at once, then at intervals that double.
fn beats_after_a_change() -> f64 {
    let mut beats = 1.0;
    let mut interval_ms = INTERVAL_MS_MIN;
    while interval_ms < INTERVAL_MS_MAX {
        beats += 1.0;
        interval_ms *= 2;
    }
    beats
}

/// Who gossips with whom.
struct Mesh(Vec<Vec<usize>>);

impl Mesh {
    /// Everybody chooses half of its partners; the other half choose it.
    fn random(members: usize, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut links = vec![Vec::new(); members];
        for at in 0..members {
            for chosen in index::sample(&mut random, members, (MESH / 2 + 1).min(members)) {
                if chosen != at && !links[at].contains(&chosen) {
                    links[at].push(chosen);
                    links[chosen].push(at);
                }
            }
        }
        Self(links)
    }

    /// How often a device receives one message on average, and after how many hops the last has it.
    fn flood(&self) -> (f64, usize) {
        let mut hops = vec![None; self.0.len()];
        let (mut queue, mut received) = (VecDeque::from([(0, 0)]), 0_usize);
        hops[0] = Some(0);
        while let Some((at, from)) = queue.pop_front() {
            for next in self.0[at].iter().copied().filter(|next| *next != from || at == 0) {
                received += 1;
                if hops[next].is_none() {
                    hops[next] = hops[at].map(|hops: usize| hops + 1);
                    queue.push_back((next, at));
                }
            }
        }
        (to_f64(received) / to_f64(self.0.len()), hops.into_iter().flatten().max().unwrap_or(0))
    }
}

/// Random, as ids of devices are: nothing in them can be compressed.
fn device(random: &mut ChaCha8Rng) -> DeviceId {
    DeviceId(Uuid::from_u128(random.random()))
}

/// A member's whole beacon: it has something of everybody.
fn whole(members: usize) -> anyhow::Result<Signed> {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut durable = Watermarks::new();
    for _ in 0..members {
        let origin = device(&mut random);
        for kind in [StreamKind::State, StreamKind::Shared] {
            durable.raise(Stream { kind, origin }, random.random_range(100..100_000));
        }
    }
    signed(None, durable)
}

/// A beacon that adds so many streams to a whole one.
fn added(streams: usize) -> anyhow::Result<Signed> {
    let mut random = ChaCha8Rng::seed_from_u64(8);
    let moved = (0..streams).map(|_| (Stream::shared(device(&mut random)), random.random_range(100..100_000)));
    let durable = moved.collect();
    signed(Some(StatementId(random.random())), durable)
}

fn signed(since: Option<StatementId>, durable: Watermarks) -> anyhow::Result<Signed> {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let library = LibraryId(Uuid::from_u128(random.random()));
    let author = DeviceSecret::from_bytes(&random.random()).public();
    let beacon = Beacon { library, author, number: 1_750_000_000_000, since, durable };
    // Larger ones than a peer would sign are measured, too.
    let bytes = starling_schema::codec::encode(&beacon, usize::MAX)?;
    let mut signature = [0; 64];
    random.fill(&mut signature);
    Ok(Signed { bytes, signature })
}

/// The bytes of a heartbeat with these beacons; none when they do not fit a message.
fn heartbeat(beacons: Vec<Signed>) -> anyhow::Result<Option<usize>> {
    match sent(SyncPayload::Heartbeat(Heartbeat { beacons, lacks: Vec::new(), membership: [0x5a; 32] })) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(CodecError::TooLarge { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The bytes of a broadcast change.
fn change() -> anyhow::Result<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(8);
    let origin = device(&mut random);
    let fields = starling_schema::value::Fields::new().with(Tag::DESCRIPTION, SENTENCE.to_owned());
    let op = starling::proto::merge::set(&SharedRecord::default(), fields).unwrap_or(Op::Delete { seen: Seen::new() });
    let change = SharedChange {
        seq: 70_000,
        hlc: Hlc::at(1_750_000_000_000, origin),
        model: Tag::MODEL,
        record: RecordId(Uuid::from_u128(random.random())),
        op,
        ends_commit: true,
    };
    let items = Items::Shared(vec![change]);
    Ok(sent(Batch { stream: Stream::shared(origin), after: 69_999, through: 70_000, items }.into())?)
}

fn sent(payload: SyncPayload) -> Result<usize, CodecError> {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let (library, device) = (LibraryId(Uuid::from_u128(random.random())), device(&mut random));
    let envelope = SyncEnvelope { library, device, timestamp_ms: 1_750_000_000_000, payload };
    Ok(envelope.encode(usize::MAX)?.len())
}

#[expect(clippy::cast_precision_loss, reason = "counts of members and bytes are far below 2^52")]
fn to_f64(count: usize) -> f64 {
    count as f64
}

/// Bytes for people.
fn size(bytes: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes;
    let mut at = 0;
    while value >= 1_000.0 && at + 1 < units.len() {
        value /= 1_000.0;
        at += 1;
    }
    if at == 0 { format!("{value:.0} B") } else { format!("{value:.1} {}", units[at]) }
}

/// Bytes by device over the number of members.
fn plot(rows: &[Row], title: &'static str, unit: &'static str, part: fn(Cost) -> f64) -> String {
    let line = |name: &str, class, of: fn(&Row) -> Cost| Series {
        name: name.to_owned(),
        class,
        line: true,
        points: rows.iter().map(|row| (to_f64(row.members).log10(), part(of(row)))).collect(),
    };
    let most = rows.iter().map(|row| row.members).max().unwrap_or(1);
    let chart = Chart {
        title,
        x_label: "members",
        y_label: unit,
        x_max: to_f64(most).log10(),
        log_from: Some(1.0),
        x_ticks: Some(rows.iter().map(|row| (to_f64(row.members).log10(), row.members.to_string())).collect()),
        bands: Vec::new(),
        series: vec![
            line("a change", "c0", |row| row.change),
            line("the heartbeats after it", "c1", |row| row.heartbeats),
            line("an idle minute", "c2", |row| row.idle_minute),
        ],
    };
    chart.file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_is_reached_and_hears_a_message_about_as_often_as_it_has_partners() {
        for members in [2, 10, 500] {
            let mesh = Mesh::random(members, 3);
            let (copies, hops) = mesh.flood();
            let links: usize = mesh.0.iter().map(Vec::len).sum();
            // Each passes it on to all but whom it came from.
            assert!((copies - to_f64(links - (members - 1)) / to_f64(members)).abs() < 1e-9, "{members}");
            assert!((1..10).contains(&hops), "{hops}");
        }
    }

    #[test]
    fn more_members_never_cost_less_and_what_is_too_large_is_said() {
        let rows: Vec<Row> = [10, 100, 4_000].map(|members| Row::of(members, 1).unwrap()).into();
        assert!(rows.windows(2).all(|pair| pair[0].idle_minute.bytes < pair[1].idle_minute.bytes));
        assert_eq!(rows.iter().map(|row| row.fits).collect::<Vec<_>>(), [true, true, false]);
        assert!(rows[0].line().starts_with("| 10 | "));
    }

    #[test]
    fn seven_heartbeats_follow_a_change() {
        assert_eq!(beats_after_a_change().to_string(), "7");
    }
}
