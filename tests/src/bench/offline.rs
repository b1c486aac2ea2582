//! N fields change on one device while the other is away: how long from their connection until they are equal.

use std::time::{Duration, Instant};

use serde_json::json;
use starling::{EventKind, PeerHandle};
use starling_schema::change::Write;
use starling_schema::model::Syncable;
use starling_schema::models::Tag;
use starling_schema::stream::Stream;
use starling_schema::value::Fields;

use super::Options;
use super::report::{Measured, rounded};
use super::stopwatch::{Deadline, now, seconds_since};
use super::{embedded, reference, rows};

/// Records of one commit while the library is made.
const TAGS_PER_COMMIT: usize = 500;

/// How long a step may take before the benchmark gives up.
const STEP_WITHIN: Duration = Duration::from_mins(2);

/// The longest from connection to equality.
const SECONDS_MAX: f64 = 0.2;

pub(super) async fn run(options: Options) -> anyhow::Result<Measured> {
    let place = tempfile::tempdir()?;
    let (home, road) = (place.path().join("home"), place.path().join("road"));
    let a = embedded::start(&home, "home").await?;
    let b = embedded::start(&road, "road").await?;
    b.join(&embedded::ticket(&a).await?, false).await?;
    let tags = a.environment().new_ids(options.rows);
    for chunk in tags.chunks(TAGS_PER_COMMIT) {
        a.commit(chunk.iter().map(|id| rows::tag(*id, "before").put()).collect()).await?;
    }
    equal(&b, &a, STEP_WITHIN).await?;
    b.stop().await;
    let start = now();
    for id in &tags {
        let fields = Fields::new().with(Tag::DESCRIPTION, "after".to_owned());
        a.commit(vec![Write::patch(Tag::MODEL, *id, fields)]).await?;
    }
    let edit_seconds = seconds_since(start);
    let start = now();
    let b = embedded::start(&road, "road").await?;
    let (started, started_seconds) = (now(), seconds_since(start));
    let watched = b.clone();
    let connected = actix::spawn(async move { connected(&watched).await });
    equal(&b, &a, STEP_WITHIN).await?;
    let done = now();
    let connected = connected.await??;
    let bytes_in: u64 = b.status().await?.peers.iter().map(|peer| peer.bytes_in).sum();
    b.stop().await;
    a.stop().await;
    let seconds = done.saturating_duration_since(connected).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "counts of rows and their bytes are far below 2^52")]
    let wire_bytes_per_row = bytes_in as f64 / options.rows as f64;
    Ok(Measured {
        seconds,
        reference_seconds: reference::update_tags(place.path(), &tags, &tags, options.rows)?,
        rss_mib: None,
        wire_bytes_per_row: Some(wire_bytes_per_row),
        target: ("equal within 0.2 s of connecting", seconds < SECONDS_MAX),
        extra: vec![
            ("edit_seconds", json!(rounded(edit_seconds))),
            ("start_seconds", json!(rounded(started_seconds))),
            ("start_to_connected_seconds", json!(rounded(connected.saturating_duration_since(started).as_secs_f64()))),
            ("start_to_equal_seconds", json!(rounded(done.duration_since(started).as_secs_f64()))),
        ],
    })
}

/// When the first connection came up.
async fn connected(peer: &PeerHandle) -> anyhow::Result<Instant> {
    let (deadline, mut cursor) = (Deadline::within(STEP_WITHIN), 0);
    loop {
        let events = peer.events(cursor, Duration::from_secs(1)).await?.unwrap_or_default();
        if events.iter().any(|event| matches!(event.kind, EventKind::Connected(_))) {
            return Ok(now());
        }
        cursor = events.last().map_or(cursor, |event| event.cursor);
        deadline.check("connecting")?;
    }
}

/// Waits until `here` has every change that `there` made, then until both hold the same.
async fn equal(here: &PeerHandle, there: &PeerHandle, within: Duration) -> anyhow::Result<()> {
    let deadline = Deadline::within(within);
    let (head, stream) = (there.heads().await?.shared_head, Stream::shared(there.device()));
    while embedded::watermark(here, stream).await? < head {
        deadline.check("receiving the changes")?;
        tokio::time::sleep(embedded::POLL).await;
    }
    while embedded::digest(here).await? != embedded::digest(there).await? {
        deadline.check("becoming equal")?;
        tokio::time::sleep(embedded::POLL).await;
    }
    Ok(())
}
