//! A fresh device in a process of its own joins one that holds N entries: how long until it holds them all.

use serde_json::json;

use super::Options;
use super::peer_process::{Filled, Invited, Order, PeerProcess, Received};
use super::reference;
use super::report::{Measured, per_second, rounded};
use super::rows::Kind;

/// How much longer than inserting the same rows it may take, from so many rows on: before, meeting takes its part.
const RATIO_MAX: f64 = 1.5;
const RATIO_COUNTS_FROM: usize = 1_000_000;

/// The most memory that either may take.
const MIB_MAX: f64 = 128.0;

/// The most bytes on the wire for a row.
const WIRE_BYTES_MAX: f64 = 50.0;

/// How much larger than the bare table with its indexes the database may be.
const SIZE_RATIO_MAX: f64 = 1.6;

pub(super) async fn run(options: Options) -> anyhow::Result<Measured> {
    let (count, place) = (options.rows, tempfile::tempdir()?);
    let mut sender = PeerProcess::start(&place.path().join("sender"), "sender").await?;
    let filled: Filled = sender.ask(&Order::Fill { rows: count, kind: Kind::Entries }).await?;
    let Invited { ticket } = sender.ask(&Order::Invite).await?;
    let mut receiver = PeerProcess::start(&place.path().join("receiver"), "receiver").await?;
    let receive = Order::Receive { ticket: Some(ticket), rows: count, kind: Kind::Entries };
    let took: Received = receiver.ask(&receive).await?;
    let (sender_mib, receiver_mib) = (sender.peak_rss_mib()?, receiver.peak_rss_mib()?);
    receiver.end().await?;
    sender.end().await?;
    let reference_seconds = reference::insert_entries(place.path(), count)?;
    let size_mib = database_mib(&place.path().join("receiver"))?;
    let reference_mib = database_mib(&place.path().join(reference::FOLDER))?;
    let rate = per_second(count, took.all_rows);
    #[expect(clippy::cast_precision_loss, reason = "counts of rows and their bytes are far below 2^52")]
    let wire_bytes_per_row = took.bytes_in as f64 / count as f64;
    Ok(Measured {
        seconds: took.all_rows,
        reference_seconds,
        rss_mib: Some(receiver_mib),
        wire_bytes_per_row: Some(wire_bytes_per_row),
        target: (
            "1.5 times the raw insert (a million rows), 128 MiB each, 50 bytes a row, 1.6 times the size",
            (count < RATIO_COUNTS_FROM || took.all_rows <= RATIO_MAX * reference_seconds)
                && receiver_mib.max(sender_mib) <= MIB_MAX
                && wire_bytes_per_row <= WIRE_BYTES_MAX
                && size_mib <= SIZE_RATIO_MAX * reference_mib,
        ),
        extra: vec![
            ("rows_per_second", json!(rate)),
            ("sender_rss_mib", json!(rounded(sender_mib))),
            ("database_mib", json!(rounded(size_mib))),
            ("reference_database_mib", json!(rounded(reference_mib))),
            ("size_ratio", json!(rounded(size_mib / reference_mib))),
            ("fill_seconds", json!(rounded(filled.seconds))),
            ("join_seconds", json!(rounded(took.join))),
            ("connected_seconds", json!(rounded(took.connected))),
            ("first_row_seconds", json!(rounded(took.first_row))),
            ("first_to_last_row_seconds", json!(rounded(took.all_rows - took.first_row))),
        ],
    })
}

/// What the databases of a folder take, in MiB.
fn database_mib(folder: &std::path::Path) -> anyhow::Result<f64> {
    let mut kib = 0;
    for file in std::fs::read_dir(folder)? {
        let file = file?;
        if file.file_name().to_string_lossy().contains(".sqlite") {
            kib += file.metadata()?.len() / 1_024;
        }
    }
    Ok(f64::from(u32::try_from(kib)?) / 1_024.0)
}
