//! The survey: asks every actor of a peer how it is and makes one [`Status`] of the answers.

use std::collections::BTreeMap;

use starling_schema::ids::DeviceId;
use starling_schema::stream::Watermarks;

use crate::auditor::AskUnsettled;
use crate::backfill_buffer::{AskProgress, Progress};
use crate::handle::PeerHandle;
use crate::heartbeats::acks::AskAcks;
use crate::reader::QueryError;
use crate::retry_queue::AskRetries;
use crate::roster::{AskRoster, RosterReport};
use crate::session::{Describe, SessionReport};
use crate::status::{LibraryState, LibraryStatus, LogStatus, Named, PeerStatus, Queues, Status, SyncVerdict};
use crate::store::tables::Tables;
use crate::store::{ledger, pages};
use crate::transactions::{AskAwaited, Awaited};

/// Asks everybody.
pub(crate) async fn status(handle: &PeerHandle) -> Result<Status, QueryError> {
    let tree = handle.tree();
    let links = &tree.links;
    let roster = tree.roster.send(AskRoster).await?;
    let progress = links.buffer.send(AskProgress).await?;
    let acks = links.heartbeats.send(AskAcks).await?.0;
    let retries = links.retry.send(AskRetries).await?;
    let awaited = links.transactions.send(AskAwaited).await?;
    let differing = links.auditor.send(AskUnsettled).await?;
    let parked = awaited.parked.iter().map(|(_, count)| count).sum();
    let mut reports: BTreeMap<DeviceId, SessionReport> = BTreeMap::new();
    for (peer, session) in &roster.sessions {
        if let Ok(report) = session.send(Describe).await {
            reports.insert(*peer, report);
        }
    }
    let registry = handle.registry().clone();
    let counted = handle.query(move |c| Ok((pages::counts(c, &Tables::new(&registry))?, ledger::log_len(c)?)));
    let (counts, entries) = counted.await?;
    let peers = peers(links.device, &roster, &reports, &acks, &progress);
    let state = if roster.paused { LibraryState::Paused } else { state(&progress, &peers) };
    let queues = Queues {
        retry: retries.waiting,
        dead_letters: retries.letters.len() as u64,
        buffered: progress.held,
        parked,
        differing,
    };
    let name = roster.membership.members().get(&links.device).map(|member| member.name.clone());
    Ok(Status {
        device: Named { id: links.device, name: name.unwrap_or_default() },
        library: LibraryStatus { id: links.library, name: roster.membership.library_name().to_owned(), state },
        verdict: if roster.membership.is_member(links.device) {
            verdict(state, &peers, &awaited, differing)
        } else {
            removed()
        },
        peers,
        queues,
        counts,
        log: LogStatus { entries },
        listen: roster.listen,
        counters: links.counters.read(),
    })
}

/// Every other member as seen from here.
fn peers(
    this: DeviceId,
    roster: &RosterReport,
    reports: &BTreeMap<DeviceId, SessionReport>,
    acks: &BTreeMap<DeviceId, (Watermarks, u64)>,
    progress: &Progress,
) -> Vec<PeerStatus> {
    let others = roster.membership.members().iter().filter(|(id, _)| **id != this);
    others
        .map(|(id, member)| {
            let report = reports.get(id);
            let mut known = acks.get(id).map(|(durable, _)| durable.clone()).unwrap_or_default();
            known.join(&report.map(|report| report.marks.clone()).unwrap_or_default());
            let behind_us = progress.behind.get(id).copied().unwrap_or(0);
            let behind_them = known.lacking(&progress.applied);
            let state = match report {
                None => "offline",
                Some(_) if behind_us == 0 && behind_them == 0 => "ready",
                Some(_) => "catching_up",
            };
            PeerStatus {
                id: *id,
                name: member.name.clone(),
                state: state.to_owned(),
                online: report.is_some(),
                address: roster.connected.get(id).cloned(),
                rtt_ms: report.and_then(|report| report.rtt_ms),
                behind_us,
                behind_them,
                clock_offset_ms: report.and_then(|report| report.clock_offset_ms),
                bytes_in: report.map_or(0, |report| report.bytes_in),
                bytes_out: report.map_or(0, |report| report.bytes_out),
                last_seen: acks.get(id).map(|(_, heard_at_ms)| *heard_at_ms),
            }
        })
        .collect()
}

/// How far the library is.
fn state(progress: &Progress, peers: &[PeerStatus]) -> LibraryState {
    let held = progress.applied.iter().map(|(_, through)| through).fold(0, u64::saturating_add);
    match (progress.missing, progress.was_complete || peers.is_empty()) {
        (0, false) if peers.iter().all(|peer| !peer.online) => LibraryState::Uninitialized,
        (missing, false) => LibraryState::Backfilling { have: held, of: held.saturating_add(missing) },
        (0, true) => LibraryState::Ready,
        (missing, true) => LibraryState::CatchingUp { missing },
    }
}

/// This device was removed.
fn removed() -> SyncVerdict {
    let reason = "this device was removed from the library: start over in a fresh data directory".to_owned();
    SyncVerdict { in_sync: false, reason }
}

/// One sentence on whether all is well.
fn verdict(state: LibraryState, peers: &[PeerStatus], awaited: &Awaited, differing: u64) -> SyncVerdict {
    let online = peers.iter().filter(|peer| peer.online).count();
    let behind: Vec<&PeerStatus> = peers.iter().filter(|peer| peer.online && peer.behind_them > 0).collect();
    let not = |reason: String| SyncVerdict { in_sync: false, reason };
    let Awaited { parked, lacking, trouble } = awaited;
    if let Some(trouble) = trouble {
        return not(format!("the disk takes no writes: {trouble}"));
    }
    if *lacking > 0 {
        return not(format!(
            "this database is an older copy: {lacking} of this device's own changes are known to others only"
        ));
    }
    match state {
        LibraryState::Uninitialized => not("no member of this library has been reached yet".to_owned()),
        LibraryState::Backfilling { have, of } => {
            not(format!("receiving the library: {have} of {of} changes are here"))
        }
        LibraryState::CatchingUp { missing } => not(format!("{missing} changes of connected peers are missing here")),
        LibraryState::Paused => not("syncing is paused".to_owned()),
        LibraryState::Ready if !parked.is_empty() => {
            let name = |device: DeviceId| {
                peers.iter().find(|peer| peer.id == device).map_or_else(|| device.to_string(), |peer| peer.name.clone())
            };
            let whose: Vec<String> = parked.iter().map(|(device, _)| name(*device)).collect();
            let count: u64 = parked.iter().map(|(_, count)| count).sum();
            not(format!("{count} changes wait because the clock of {} is ahead of this one", whose.join(", ")))
        }
        LibraryState::Ready if !behind.is_empty() => {
            let names: Vec<&str> = behind.iter().map(|peer| peer.name.as_str()).collect();
            not(format!("{} has not confirmed everything yet", names.join(", ")))
        }
        LibraryState::Ready if differing > 0 => {
            not(format!("{differing} records differ from another device's, and the device that they belong to is away"))
        }
        LibraryState::Ready if peers.is_empty() => {
            SyncVerdict { in_sync: true, reason: "this is the library's only device".to_owned() }
        }
        LibraryState::Ready if online == 0 => {
            SyncVerdict { in_sync: true, reason: "no other device is connected".to_owned() }
        }
        LibraryState::Ready => {
            let devices =
                if online == 1 { "1 connected device".to_owned() } else { format!("{online} connected devices") };
            SyncVerdict { in_sync: true, reason: format!("equal with {devices}") }
        }
    }
}
