//! One device edits a tag ten times a second: how long until each edit can be read on every other device.

use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel::sql_types::{Binary, Nullable, Text};
use serde_json::json;
use starling::{EventKind, PeerHandle};
use starling_schema::change::Write;
use starling_schema::ids::RecordId;
use starling_schema::model::Syncable;
use starling_schema::models::Tag;
use starling_schema::value::Fields;
use tokio::sync::mpsc;

use super::Options;
use super::report::{Measured, rounded};
use super::stopwatch::{Deadline, now, percentile_ms};
use super::{embedded, rows};

/// Between two edits.
const INTERVAL: Duration = Duration::from_millis(100);

/// How long the peers may take to find each other, and the last edit to arrive.
const SETTLE_WITHIN: Duration = Duration::from_mins(1);

/// Gossip meshes form within some heartbeats of a second each.
const MESH: Duration = Duration::from_secs(3);

/// Sightings that wait for the one who counts them.
const SIGHTINGS_MAX: usize = 4_096;

/// The longest that 99 of 100 edits may take to be visible everywhere.
const P99_MS_MAX: f64 = 50.0;

/// A receiver saw this edit, or a later one.
struct Seen {
    receiver: usize,
    edit: usize,
    at: Instant,
}

/// How much longer than the commit itself it may take in the median until an edit is visible at the only other device.
const NEIGHBOUR_P50_MS_MAX: f64 = 2.0;

/// The longest that 99 of 100 edits may take to be visible at the only other device.
const NEIGHBOUR_P99_MS_MAX: f64 = 20.0;

/// With one receiver.
pub(super) async fn neighbour(options: Options) -> anyhow::Result<Measured> {
    let mut measured = run(Options { peers: 1, ..options }).await?;
    let of = |key: &str| {
        let found = measured.extra.iter().find(|(name, _)| *name == key);
        found.and_then(|(_, value)| value.as_f64()).unwrap_or(f64::NAN)
    };
    let reached = of("p50_ms") <= of("commit_p50_ms") + NEIGHBOUR_P50_MS_MAX && of("p99_ms") <= NEIGHBOUR_P99_MS_MAX;
    measured.target = ("visible within the commit + 2 ms (p50) and 20 ms (p99)", reached);
    Ok(measured)
}

pub(super) async fn run(options: Options) -> anyhow::Result<Measured> {
    let place = tempfile::tempdir()?;
    let author = embedded::start(&place.path().join("author"), "author").await?;
    let mut peers = vec![author.clone()];
    for number in 0..options.peers {
        let name = format!("reader-{number}");
        let peer = embedded::start(&place.path().join(&name), &name).await?;
        peer.join(&embedded::ticket(&author).await?, false).await?;
        peers.push(peer);
    }
    let tag = author.environment().new_id();
    author.commit(vec![rows::tag(tag, "0").put()]).await?;
    embedded::settle(&peers, options.peers.min(2), SETTLE_WITHIN).await?;
    tokio::time::sleep(MESH).await;
    let (sightings, mut inbox) = mpsc::channel(SIGHTINGS_MAX);
    for (receiver, peer) in peers.iter().skip(1).enumerate() {
        actix::spawn(watch(peer.clone(), tag, receiver, sightings.clone()));
    }
    let (mut called, mut commits) = (Vec::new(), Vec::new());
    let mut ticks = tokio::time::interval(INTERVAL);
    for edit in 0..options.rows {
        ticks.tick().await;
        let start = now();
        let write = Write::patch(Tag::MODEL, tag, Fields::new().with(Tag::DESCRIPTION, (edit + 1).to_string()));
        author.commit(vec![write]).await?;
        called.push(start);
        commits.push(now() - start);
    }
    let connections = connections(&peers).await?;
    let (mut first, mut all) = collect(&mut inbox, &called, options.peers).await?;
    for peer in &peers {
        peer.stop().await;
    }
    for times in [&mut first, &mut all, &mut commits] {
        times.sort_unstable();
    }
    Ok(measured(&first, &all, &commits, connections))
}

fn measured(first: &[Duration], all: &[Duration], commits: &[Duration], connections: usize) -> Measured {
    let p99_ms = percentile_ms(all, 99);
    let figure = |times, percent| json!(rounded(percentile_ms(times, percent)));
    Measured {
        seconds: p99_ms / 1_000.0,
        reference_seconds: percentile_ms(commits, 99) / 1_000.0,
        rss_mib: None,
        wire_bytes_per_row: None,
        target: ("visible on all within 50 ms (p99)", p99_ms < P99_MS_MAX),
        extra: vec![
            ("p50_ms", figure(all, 50)),
            ("p99_ms", figure(all, 99)),
            ("max_ms", figure(all, 100)),
            ("first_p50_ms", figure(first, 50)),
            ("first_p99_ms", figure(first, 99)),
            ("commit_p50_ms", figure(commits, 50)),
            ("commit_p99_ms", figure(commits, 99)),
            ("connections", json!(connections)),
        ],
    }
}

/// How many connections all peers together count.
async fn connections(peers: &[PeerHandle]) -> anyhow::Result<usize> {
    let mut count = 0;
    for peer in peers {
        count += peer.status().await?.peers.iter().filter(|other| other.online).count();
    }
    Ok(count)
}

/// Reads the tag whenever it changes and says which edit it shows, until nobody listens.
async fn watch(peer: PeerHandle, tag: RecordId, receiver: usize, sightings: mpsc::Sender<Seen>) {
    let mut cursor = 0;
    while let Ok(answer) = peer.events(cursor, Duration::from_secs(5)).await {
        let events = match answer {
            Ok(events) => events,
            Err(oldest) => {
                cursor = oldest.saturating_sub(1);
                continue;
            }
        };
        cursor = events.last().map_or(cursor, |event| event.cursor);
        if !events.iter().any(|event| matches!(event.kind, EventKind::Changed { remote: true, .. })) {
            if sightings.is_closed() {
                return;
            }
            continue;
        }
        let Ok(edit) = shown(&peer, tag).await else { return };
        if sightings.send(Seen { receiver, edit, at: now() }).await.is_err() {
            return;
        }
    }
}

#[derive(QueryableByName)]
struct Description {
    #[diesel(sql_type = Nullable<Text>)]
    description: Option<String>,
}

async fn shown(peer: &PeerHandle, tag: RecordId) -> anyhow::Result<usize> {
    let found = peer
        .query(move |c| {
            let question = diesel::sql_query("SELECT description FROM tag WHERE id = ?");
            let question = question.bind::<Binary, _>(tag.as_bytes().to_vec());
            Ok(question.get_result::<Description>(c).optional()?)
        })
        .await?;
    Ok(found.and_then(|it| it.description).and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// How long each edit took to its first receiver, and to its last.
async fn collect(
    inbox: &mut mpsc::Receiver<Seen>,
    called: &[Instant],
    receivers: usize,
) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
    let deadline = Deadline::within(SETTLE_WITHIN);
    let mut shown = vec![0; receivers];
    let mut first = vec![None; called.len()];
    let mut last = vec![Duration::ZERO; called.len()];
    while shown.iter().any(|edit| *edit < called.len()) {
        deadline.check("waiting for the last edit to arrive")?;
        let Ok(Some(Seen { receiver, edit, at })) = tokio::time::timeout(Duration::from_secs(1), inbox.recv()).await
        else {
            continue;
        };
        for at_edit in shown[receiver]..edit {
            let took = at.saturating_duration_since(called[at_edit]);
            let earliest = first[at_edit].get_or_insert(took);
            *earliest = took.min(*earliest);
            last[at_edit] = took.max(last[at_edit]);
        }
        shown[receiver] = edit.max(shown[receiver]);
    }
    Ok((first.into_iter().flatten().collect(), last))
}
