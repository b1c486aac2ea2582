//! Durable commits of one small change each: by one writer that waits for each, and by many at once.

use std::cell::Cell;
use std::rc::Rc;

use futures::future::try_join_all;
use serde_json::json;
use starling::PeerHandle;
use starling_schema::change::Write;
use starling_schema::ids::RecordId;
use starling_schema::model::Syncable;
use starling_schema::models::Tag;
use starling_schema::value::Fields;

use super::Options;
use super::report::{Measured, per_second, rounded};
use super::stopwatch::{now, percentile_ms, seconds_since};
use super::{embedded, reference, rows};

/// Writers at once.
const WRITERS: usize = 64;

/// How many more commits many writers make than one: they are that much faster.
const SHARE: usize = 8;

/// How much faster they must be.
const RATIO_MIN: f64 = 20.0;

pub(super) async fn run(options: Options) -> anyhow::Result<Measured> {
    let place = tempfile::tempdir()?;
    let peer = embedded::start(&place.path().join("peer"), "peer").await?;
    let tags = peer.environment().new_ids(WRITERS);
    peer.commit(tags.iter().map(|id| rows::tag(*id, "before").put()).collect()).await?;
    let (mut times, start) = (Vec::new(), now());
    for edit in 0..options.rows {
        let begun = now();
        edit_tag(&peer, tags[edit % WRITERS], edit).await?;
        times.push(now() - begun);
    }
    let seconds = seconds_since(start);
    times.sort_unstable();
    let (total, next, start) = (options.rows * SHARE, Rc::new(Cell::new(0)), now());
    try_join_all(tags.iter().map(|tag| write_many(peer.clone(), *tag, next.clone(), total))).await?;
    let many_seconds = seconds_since(start);
    peer.stop().await;
    let turns: Vec<RecordId> = tags.iter().copied().cycle().take(options.rows).collect();
    let reference_seconds = reference::update_tags(place.path(), &tags, &turns, 1)?;
    let (one, many) = (per_second(options.rows, seconds), per_second(total, many_seconds));
    Ok(Measured {
        seconds,
        reference_seconds,
        rss_mib: None,
        wire_bytes_per_row: None,
        target: ("64 writers at least 20 times as fast as one", many >= RATIO_MIN * one),
        extra: vec![
            ("commits_per_second", json!(one)),
            ("p50_ms", json!(rounded(percentile_ms(&times, 50)))),
            ("p99_ms", json!(rounded(percentile_ms(&times, 99)))),
            ("commits_per_second_of_64", json!(many)),
            ("group_commit_ratio", json!(rounded(many / one))),
        ],
    })
}

async fn edit_tag(peer: &PeerHandle, tag: RecordId, edit: usize) -> anyhow::Result<()> {
    let fields = Fields::new().with(Tag::DESCRIPTION, edit.to_string());
    peer.commit(vec![Write::patch(Tag::MODEL, tag, fields)]).await?;
    Ok(())
}

/// Takes the next edit again and again until all are made.
async fn write_many(peer: PeerHandle, tag: RecordId, next: Rc<Cell<usize>>, total: usize) -> anyhow::Result<()> {
    while next.get() < total {
        let edit = next.replace(next.get() + 1);
        // Apart from the edits of the single writer, so that each is a change.
        edit_tag(&peer, tag, total + edit).await?;
    }
    Ok(())
}
