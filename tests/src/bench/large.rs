//! The program on a library of N entries: how long it takes to start, and to find a part of a name.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use super::Options;
use super::index::{starling, up};
use super::peer_process::{Filled, Order, PeerProcess};
use super::report::{Measured, rounded};
use super::rows::Kind;
use super::stopwatch::{Deadline, now, percentile_ms, seconds_since};
use crate::processes::control::Control;

/// The longest that a device may take to start.
const START_SECONDS_MAX: f64 = 1.0;

/// The longest that a search may take in the median.
const FIND_P50_MS_MAX: f64 = 50.0;

/// How long the index of names may take to be built.
const BUILT_WITHIN: Duration = Duration::from_mins(3);

/// It is built when its file has not changed for so long.
const UNCHANGED: Duration = Duration::from_secs(8);

/// How many searches there are: each for another part of a name.
const SEARCHES: usize = 50;

/// How many entries a search gives at most.
const LIMIT: u32 = 100;

/// Starts with everything, and with nothing for a reference.
pub(super) async fn start(options: Options) -> anyhow::Result<Measured> {
    let program = starling(options.starling)?;
    let place = tempfile::tempdir()?;
    let (large, empty) = (place.path().join("large"), place.path().join("empty"));
    fill(&large, options.rows).await?;
    let mut seconds = Vec::new();
    // An empty device makes its library when it starts for the first time.
    for data in [&empty, &empty, &large] {
        let begun = now();
        let mut peer = up(&program, data).await?;
        seconds.push(seconds_since(begun));
        peer.kill().await?;
    }
    let (reference_seconds, seconds) = (seconds[1], seconds[2]);
    Ok(Measured {
        seconds,
        reference_seconds,
        rss_mib: None,
        wire_bytes_per_row: None,
        target: ("ready within 1 s", seconds <= START_SECONDS_MAX),
        extra: Vec::new(),
    })
}

/// Looks for parts of names that few entries have.
pub(super) async fn find(options: Options) -> anyhow::Result<Measured> {
    let program = starling(options.starling)?;
    let place = tempfile::tempdir()?;
    let data = place.path().join("data");
    fill(&data, options.rows).await?;
    let mut peer = up(&program, &data).await?;
    let mut times = Vec::new();
    let search = async |query: String| -> anyhow::Result<Duration> {
        // The peer closes a connection on which nothing was asked for some seconds.
        let mut control = Control::connect(&data).await?;
        let begun = now();
        let call = json!({ "query": query, "tag": null, "device": null, "collection": null, "kind": null,
            "favorite": false, "limit": LIMIT });
        let found = control.call("/v1/find", &call).await?;
        ensure!(found["entries"].as_array().is_some_and(|entries| !entries.is_empty()), "nothing found of {query}");
        Ok(now() - begun)
    };
    let first = search("000000".to_owned()).await?;
    let building = index_is_built(&data).await?;
    for at in 0..SEARCHES {
        times.push(search(format!("{:06}", options.rows / SEARCHES * at)).await?);
    }
    let reference = scan(&data, options.rows / 2)?;
    peer.kill().await?;
    times.sort_unstable();
    let p50_ms = percentile_ms(&times, 50);
    Ok(Measured {
        seconds: p50_ms / 1_000.0,
        reference_seconds: reference.as_secs_f64(),
        rss_mib: None,
        wire_bytes_per_row: None,
        target: ("p50 within 50 ms", p50_ms <= FIND_P50_MS_MAX),
        extra: vec![
            ("p50_ms", json!(rounded(p50_ms))),
            ("p99_ms", json!(rounded(percentile_ms(&times, 99)))),
            ("without_index_ms", json!(rounded(first.as_secs_f64() * 1_000.0))),
            ("building_seconds", json!(rounded(building))),
        ],
    })
}

/// Waits until the index of names no longer grows; how long that took, in seconds.
async fn index_is_built(data: &Path) -> anyhow::Result<f64> {
    let (begun, deadline) = (now(), Deadline::within(BUILT_WITHIN));
    let size = || {
        let of = |end: &str| data.join(format!("names.sqlite{end}")).metadata().map_or(0, |metadata| metadata.len());
        (of(""), of("-wal"))
    };
    let (mut last, mut since) = (size(), now());
    while last.0 == 0 || now() - since < UNCHANGED {
        deadline.check("building the index of names")?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let current = size();
        if current != last {
            (last, since) = (current, now());
        }
    }
    Ok(seconds_since(begun) - UNCHANGED.as_secs_f64())
}

async fn fill(data: &Path, rows: usize) -> anyhow::Result<()> {
    let mut process = PeerProcess::start(data, "large").await?;
    let _filled: Filled = process.ask(&Order::Fill { rows, kind: Kind::Entries }).await?;
    process.end().await
}

/// One search by `SQLite` alone, which looks at every name.
fn scan(data: &Path, number: usize) -> anyhow::Result<Duration> {
    use diesel::prelude::*;
    use diesel::sql_types::Text;

    let path = data.join("library.sqlite");
    let mut c = SqliteConnection::establish(path.to_str().unwrap_or_default())?;
    let begun = now();
    let question = diesel::sql_query("SELECT name FROM entry WHERE name LIKE ? ORDER BY name COLLATE NOCASE LIMIT 100");
    let found = question.bind::<Text, _>(format!("%{number:06}%")).execute(&mut c)?;
    let took = now() - begun;
    ensure!(found < 1_000, "{found} rows");
    Ok(took)
}
