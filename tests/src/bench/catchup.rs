//! A device receives N shared records from another process: one that was away, by the log; a fresh one, by a snapshot.

use serde_json::json;

use super::Options;
use super::peer_process::{Filled, Invited, Order, PeerProcess, Pruned, Received};
use super::reference;
use super::report::{Measured, per_second, rounded};
use super::rows::Kind;

/// Changes a second that must be reached by the log.
const LOG_PER_SECOND_MIN: f64 = 60_000.0;

/// Rows a second that must be reached by a snapshot.
const SNAPSHOT_PER_SECOND_MIN: f64 = 100_000.0;

/// The receiver is a member and was away while the changes were made.
pub(super) async fn by_log(options: Options) -> anyhow::Result<Measured> {
    let (count, place) = (options.rows, tempfile::tempdir()?);
    let data = place.path().join("receiver");
    let mut sender = PeerProcess::start(&place.path().join("sender"), "sender").await?;
    let _one: Filled = sender.ask(&Order::Fill { rows: 1, kind: Kind::Tags }).await?;
    let Invited { ticket } = sender.ask(&Order::Invite).await?;
    let mut receiver = PeerProcess::start(&data, "receiver").await?;
    let _member: Received = receiver.ask(&Order::Receive { ticket: Some(ticket), rows: 1, kind: Kind::Tags }).await?;
    receiver.end().await?;
    let filled: Filled = sender.ask(&Order::Fill { rows: count, kind: Kind::Tags }).await?;
    let receiver = PeerProcess::start(&data, "receiver").await?;
    let receive = Order::Receive { ticket: None, rows: count + 1, kind: Kind::Tags };
    let target = ("60,000 changes/s", LOG_PER_SECOND_MIN);
    measured(count, (sender, receiver), &receive, &filled, target, place.path()).await
}

/// The receiver is new, and the sender keeps no log of what it wrote.
pub(super) async fn by_snapshot(options: Options) -> anyhow::Result<Measured> {
    let (count, place) = (options.rows, tempfile::tempdir()?);
    let mut sender = PeerProcess::start(&place.path().join("sender"), "sender").await?;
    let filled: Filled = sender.ask(&Order::Fill { rows: count, kind: Kind::Tags }).await?;
    let _pruned: Pruned = sender.ask(&Order::Prune).await?;
    let Invited { ticket } = sender.ask(&Order::Invite).await?;
    let receiver = PeerProcess::start(&place.path().join("receiver"), "receiver").await?;
    let receive = Order::Receive { ticket: Some(ticket), rows: count, kind: Kind::Tags };
    let target = ("100,000 rows/s", SNAPSHOT_PER_SECOND_MIN);
    measured(count, (sender, receiver), &receive, &filled, target, place.path()).await
}

async fn measured(
    count: usize,
    (sender, mut receiver): (PeerProcess, PeerProcess),
    receive: &Order,
    filled: &Filled,
    (target, per_second_min): (&'static str, f64),
    place: &std::path::Path,
) -> anyhow::Result<Measured> {
    let took: Received = receiver.ask(receive).await?;
    let (sender_mib, receiver_mib) = (sender.peak_rss_mib()?, receiver.peak_rss_mib()?);
    receiver.end().await?;
    sender.end().await?;
    let rate = per_second(count, took.all_rows);
    #[expect(clippy::cast_precision_loss, reason = "counts of rows and their bytes are far below 2^52")]
    let wire_bytes_per_row = took.bytes_in as f64 / count as f64;
    Ok(Measured {
        seconds: took.all_rows,
        reference_seconds: reference::insert_tags(place, count)?,
        rss_mib: Some(receiver_mib),
        wire_bytes_per_row: Some(wire_bytes_per_row),
        target: (target, rate >= per_second_min),
        extra: vec![
            ("rows_per_second", json!(rate)),
            ("sender_rss_mib", json!(rounded(sender_mib))),
            ("fill_seconds", json!(rounded(filled.seconds))),
            ("connected_seconds", json!(rounded(took.connected))),
        ],
    })
}
