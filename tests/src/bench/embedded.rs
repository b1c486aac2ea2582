//! Peers within this process, on loopback, and questions to their databases.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary};
use starling::environment::Environment;
use starling::{NetworkChoice, PeerHandle, PeerOptions, Registry, canonical};
use starling_schema::ids::DeviceId;
use starling_schema::stream::Stream;

use super::rows::Kind;
use super::stopwatch::Deadline;

/// How long a ticket is good for: the benchmark is over by then.
const TICKET: Duration = Duration::from_mins(10);

/// How often a state that nobody reports is looked at.
pub(super) const POLL: Duration = Duration::from_millis(2);

/// Starts a peer that listens on loopback TCP and nowhere else.
pub(super) async fn start(data: &Path, name: &str) -> anyhow::Result<PeerHandle> {
    let options = PeerOptions {
        data: data.to_owned(),
        name: Some(name.to_owned()),
        network: NetworkChoice::Libp2p { listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()], mdns: false },
        environment: Environment::system(),
        registry: Registry::default(),
    };
    PeerHandle::start(options).await.with_context(|| format!("the peer {name} cannot start"))
}

/// A ticket to the peer's library.
pub(super) async fn ticket(peer: &PeerHandle) -> anyhow::Result<String> {
    Ok(peer.invite(TICKET).await?.ticket)
}

/// Waits until every peer has so many connections and lacks nothing.
pub(super) async fn settle(peers: &[PeerHandle], online: usize, within: Duration) -> anyhow::Result<()> {
    let deadline = Deadline::within(within);
    for peer in peers {
        loop {
            let status = peer.status().await?;
            if status.verdict.in_sync && status.peers.iter().filter(|peer| peer.online).count() >= online {
                break;
            }
            deadline.check(&format!("settling ({}: {})", status.device.name, status.verdict.reason))?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// The hash over all that the peer holds.
pub(super) async fn digest(peer: &PeerHandle) -> anyhow::Result<String> {
    let registry = peer.registry().clone();
    Ok(peer.query(move |c| canonical::digest(c, &registry)).await?.0)
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

/// How far the peer holds a stream, as its database says.
pub(super) async fn watermark(peer: &PeerHandle, stream: Stream) -> anyhow::Result<u64> {
    let found = peer
        .query(move |c| {
            let DeviceId(origin) = stream.origin;
            let question = diesel::sql_query("SELECT watermark AS n FROM stream WHERE kind = ? AND origin = ?");
            let question = question.bind::<diesel::sql_types::Integer, _>(stream.kind.code());
            Ok(question.bind::<Binary, _>(origin.as_bytes().to_vec()).get_result::<Number>(c).optional()?)
        })
        .await?;
    Ok(found.map_or(0, |it| u64::try_from(it.n).unwrap_or(0)))
}

/// How many records of a kind the peer holds. `quick` asks for the last row number instead, which is the same while
/// nothing is deleted.
pub(super) async fn count(peer: &PeerHandle, kind: Kind, quick: bool) -> anyhow::Result<usize> {
    let what = if quick { "coalesce(max(rowid), 0)" } else { "count(*)" };
    let question = format!("SELECT {what} AS n FROM {}", kind.table());
    let found = peer.query(move |c| Ok(diesel::sql_query(question).get_result::<Number>(c)?)).await?;
    usize::try_from(found.n).map_err(|_| anyhow!("{} records", found.n))
}
