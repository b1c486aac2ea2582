//! Pairing, who is there, and whether all is well.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read};
use std::time::Duration;

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde::Serialize;
use tokio::time::Instant;

use super::Session;
use crate::api::{
    DeviceRemove, DeviceRename, DevicesCall, InviteCall, JoinCall, PeerRow, Peers, StatusCall, StatusReply,
};
use crate::arguments::Wait;
use crate::client::Client;
use crate::error::{CliError, ErrorKind};
use crate::output::{Output, count, size, time_of, visible};

/// How often a wait looks again: a fraction of what a person notices.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The longest ticket: far above any that is printed.
const TICKET_BYTES_MAX: u64 = 64 * 1024;

/// Makes a ticket. A script gets the ticket alone, a person also what to do with it.
pub(crate) async fn invite(session: &Session, expires: Duration) -> Result<(), CliError> {
    let expires_ms = u64::try_from(expires.as_millis()).unwrap_or(u64::MAX);
    if expires_ms == 0 {
        return Err(
            CliError::new(ErrorKind::Usage, "a ticket that expires at once lets nobody in").hint("give --expires 10m")
        );
    }
    let ticket = session.peer.call(&InviteCall { expires_ms }).await?;
    session.output.reply(&ticket, |ticket| {
        if !std::io::stdout().is_terminal() {
            return ticket.ticket.clone();
        }
        let picture = QrCode::new(ticket.ticket.as_bytes())
            .map(|code| code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
            .unwrap_or_default();
        let until = time_of(ticket.expires_at);
        format!(
            "{}\n\n{picture}\ngood once, until {until}: run `starling join` with it on the other device",
            ticket.ticket
        )
    })
}

/// Joins the library of a ticket.
pub(crate) async fn join(session: &Session, ticket: String, merge: bool) -> Result<(), CliError> {
    let ticket = if ticket == "-" { ticket_from_stdin()? } else { ticket };
    let joined = session.peer.call(&JoinCall { ticket: ticket.trim().to_owned(), merge }).await?;
    session.output.reply(&joined, |joined| {
        let devices = count(u64::try_from(joined.devices).unwrap_or(u64::MAX), "device", "devices");
        format!("joined the library {} of {devices}", visible(&joined.library.name))
    })
}

fn ticket_from_stdin() -> Result<String, CliError> {
    let mut text = String::new();
    std::io::stdin()
        .take(TICKET_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|e| CliError::io("the ticket cannot be read from standard input", e))?;
    Ok(text)
}

/// Says whether all is well.
pub(crate) async fn status(session: &Session) -> Result<(), CliError> {
    let status = session.peer.call(&StatusCall {}).await?;
    session.output.reply(&status, |status| overview(session.output, status))
}

fn overview(output: Output, status: &StatusReply) -> String {
    let verdict = if status.verdict.in_sync { "in sync" } else { "not in sync" };
    let state = status.library.state["name"].as_str().unwrap_or("unknown").replace('_', " ");
    let (device, library) = (visible(&status.device.name), visible(&status.library.name));
    let listed = |rows: &BTreeMap<String, u64>| {
        let rows = rows.iter().map(|(name, number)| format!("{} {number}", name.replace('_', " ")));
        rows.collect::<Vec<_>>().join(", ")
    };
    let peers =
        if status.peers.is_empty() { String::new() } else { format!("\n{}\n", peer_table(output, &status.peers)) };
    [
        format!("{verdict}: {}", visible(&status.verdict.reason)),
        format!("{device} ({}), library {library} ({}): {state}", status.device.id, status.library.id),
        peers,
        format!("waiting: {}", listed(&status.queues)),
        format!("records: {}", listed(&status.counts)),
        format!("log: {}", listed(&status.log)),
        format!("listening: {}", status.listen.join(" ")),
    ]
    .join("\n")
}

fn peer_table(output: Output, peers: &[PeerRow]) -> String {
    let header =
        ["DEVICE", "STATE", "MISSING HERE", "MISSING THERE", "RTT", "CLOCK", "IN", "OUT", "LAST SEEN", "ADDRESS"];
    let milliseconds = |ms: Option<String>| ms.map_or_else(String::new, |ms| format!("{ms} ms"));
    let bytes = |bytes: u64| size(i64::try_from(bytes).ok());
    output.table(
        header,
        peers.iter().map(|peer| {
            [
                peer.name.clone(),
                peer.state.replace('_', " "),
                peer.behind_us.to_string(),
                peer.behind_them.to_string(),
                milliseconds(peer.rtt_ms.map(|ms| ms.to_string())),
                milliseconds(peer.clock_offset_ms.map(|ms| format!("{ms:+}"))),
                bytes(peer.bytes_in),
                bytes(peer.bytes_out),
                peer.last_seen.map_or_else(|| "never".to_owned(), time_of),
                peer.address.clone().unwrap_or_default(),
            ]
        }),
    )
}

/// Lists the connections.
pub(crate) async fn peers(session: &Session) -> Result<(), CliError> {
    let peers = Peers { peers: session.peer.call(&StatusCall {}).await?.peers };
    session.output.reply(&peers, |peers| {
        if peers.peers.is_empty() {
            return "no other device belongs to this library: run `starling invite`".to_owned();
        }
        peer_table(session.output, &peers.peers)
    })
}

/// Lists the members.
pub(crate) async fn devices(session: &Session) -> Result<(), CliError> {
    let devices = session.peer.call(&DevicesCall {}).await?;
    session.output.reply(&devices, |devices| {
        let rows = devices.devices.iter().map(|row| {
            let state = if row.this {
                "this device"
            } else if row.online {
                "online"
            } else {
                "offline"
            };
            let seen = row.last_seen.map_or_else(String::new, time_of);
            [row.name.clone(), state.to_owned(), row.os.clone().unwrap_or_default(), seen, row.id.to_string()]
        });
        session.output.table(["DEVICE", "STATE", "SYSTEM", "LAST SEEN", "ID"], rows)
    })
}

/// Gives this device another name.
pub(crate) async fn rename(session: &Session, name: String) -> Result<(), CliError> {
    let device = session.peer.call(&DeviceRename { name }).await?;
    session.output.reply(&device, |device| format!("this device is now called {}", device.name))
}

/// Removes a device.
pub(crate) async fn remove(session: &Session, device: String) -> Result<(), CliError> {
    let device = session.peer.call(&DeviceRemove { device }).await?;
    session.output.reply(&device, |device| format!("{} ({}) was removed from the library", device.name, device.id))
}

#[derive(Debug, Serialize)]
struct Waited {
    converged: bool,
    waited_ms: u64,
}

/// Waits until nothing is missing.
pub(crate) async fn wait(session: &Session, wait: Wait) -> Result<(), CliError> {
    let started = Instant::now();
    let result = converged(&session.peer, wait.peers, wait.timeout).await;
    let waited_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let waited = Waited { converged: result.is_ok(), waited_ms };
    match result {
        Ok(()) => session.output.reply(&waited, |waited| format!("converged after {} ms", waited.waited_ms)),
        Err(error) => {
            if error.kind == ErrorKind::NotConverged && session.output.json {
                session.output.reply(&waited, |_| String::new())?;
            }
            Err(error)
        }
    }
}

/// Resolves when nothing is missing at a peer or at those that it is connected to, and these are enough.
pub(crate) async fn converged(peer: &Client, peers: usize, timeout: Duration) -> Result<(), CliError> {
    let started = Instant::now();
    loop {
        let status = peer.call(&StatusCall {}).await?;
        let Some(missing) = shortfall(&status, peers) else { return Ok(()) };
        if started.elapsed() >= timeout {
            let message = format!("not converged within {} ms: {missing}", timeout.as_millis());
            return Err(CliError::new(ErrorKind::NotConverged, message).hint("`starling status` says more"));
        }
        tokio::time::sleep(LOOK_EVERY.min(timeout)).await;
    }
}

/// What is missing for convergence, in words.
fn shortfall(status: &StatusReply, peers: usize) -> Option<String> {
    if status.online() < peers {
        return Some(format!("{} of {peers} peers are connected", status.online()));
    }
    (!status.verdict.in_sync).then(|| status.verdict.reason.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(in_sync: bool, online: bool) -> StatusReply {
        let nil = "00000000-0000-0000-0000-000000000000";
        serde_json::from_value(json!({
            "device": {"id": nil, "name": "laptop"},
            "library": {"id": nil, "name": "home", "state": {"name": "ready"}},
            "verdict": {"in_sync": in_sync, "reason": "3 changes are missing here"},
            "peers": [{"id": nil, "name": "desktop", "state": "ready", "online": online, "address": null, "rtt_ms": 2,
                "behind_us": 0, "behind_them": 0, "clock_offset_ms": -1, "bytes_in": 2048, "bytes_out": 1,
                "last_seen": null}],
            "queues": {"retry": 0}, "counts": {"tag": 1}, "log": {"entries": 0}, "listen": []
        }))
        .unwrap()
    }

    #[test]
    fn a_wait_ends_when_enough_peers_are_connected_and_nothing_is_missing() {
        assert_eq!(shortfall(&status(true, true), 1), None);
        assert_eq!(shortfall(&status(true, false), 0), None);
        assert_eq!(shortfall(&status(true, false), 1).as_deref(), Some("0 of 1 peers are connected"));
        assert_eq!(shortfall(&status(false, true), 1).as_deref(), Some("3 changes are missing here"));
    }

    #[test]
    fn the_overview_starts_with_the_verdict() {
        let output = Output::new(&crate::arguments::Global {
            data: None,
            json: false,
            quiet: false,
            verbose: 0,
            color: crate::arguments::When::Never,
        });
        let text = overview(output, &status(false, true));
        assert!(text.starts_with("not in sync: 3 changes are missing here\n"), "{text}");
        assert!(text.contains("desktop") && text.contains("-1 ms") && text.contains("2 KiB"), "{text}");
    }
}
