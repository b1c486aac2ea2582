//! The commands that are answered by lines as they come: scans, the dump, the events.

use std::ffi::OsStr;
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use actix_web::web::Bytes;
use actix_web::{HttpResponse, web};
use serde::Serialize;
use starling::{Event, EventKind, QueryError};
use starling_schema::ids::{ModelId, RecordId};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::Node;
use super::control::failed;
use crate::api::{
    AddStream, Document, DumpStream, EventRecord, EventRow, EventsStream, Locations, RescanStream, ScanLine, Stream,
};
use crate::error::{CliError, ErrorKind};
use crate::indexing::Scan;
use crate::library::{locations, models, read, targets};

/// How many lines may wait for a slow reader before their source waits too.
const LINES_MAX: usize = 16;

/// How much of a file is sent at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// How long a follower of events waits before it looks whether anybody still listens.
const EVENT_WAIT: Duration = Duration::from_secs(5);

/// Where lines go; sending fails once the reader has gone.
type LineSender = mpsc::Sender<Result<Bytes, std::io::Error>>;

/// Registers the streams.
pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config
        .route(AddStream::ROUTE, web::post().to(add))
        .route(RescanStream::ROUTE, web::post().to(rescan))
        .route(DumpStream::ROUTE, web::post().to(dump))
        .route(EventsStream::ROUTE, web::post().to(events));
}

/// An answer whose lines come from a task; the task ends when sending fails.
fn streaming<Fut: Future<Output = ()> + 'static>(source: impl FnOnce(LineSender) -> Fut) -> HttpResponse {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    actix::spawn(source(sender));
    let lines = futures::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    HttpResponse::Ok().content_type("application/x-ndjson").streaming(Box::pin(lines))
}

/// Sends one line; false when nobody reads any more.
async fn send<T: Serialize>(sender: &LineSender, line: &T) -> bool {
    let encoded = serde_json::to_vec(line).map(|mut bytes| {
        bytes.push(b'\n');
        Bytes::from(bytes)
    });
    sender.send(encoded.map_err(std::io::Error::other)).await.is_ok()
}

async fn add(node: web::Data<Node>, call: web::Json<AddStream>) -> HttpResponse {
    let Some(bytes) = call.path.bytes() else {
        return failed(CliError::new(ErrorKind::Invalid, "the path is not readable"));
    };
    let path = PathBuf::from(OsStr::from_bytes(&bytes));
    report(node.get_ref().clone(), node.indexing.add(&path))
}

async fn rescan(node: web::Data<Node>, call: web::Json<RescanStream>) -> HttpResponse {
    let here = node.peer.device();
    let location = match call.into_inner().location {
        None => None,
        Some(target) => {
            let own = read(&node.peer, move |c| {
                let id = targets::location(c, here, &target)?;
                locations::own(c, here, id)
            });
            match own.await {
                Ok(location) => Some(location.id),
                Err(error) => return failed(error),
            }
        }
    };
    report(node.get_ref().clone(), node.indexing.rescan(location))
}

/// Streams how far a scan is and what it led to. The scan goes on when nobody listens.
fn report(node: Node, scan: Scan) -> HttpResponse {
    streaming(async move |sender| {
        let outcome = scan
            .finish(async |progress| {
                send(&sender, &ScanLine::Progress(progress)).await;
            })
            .await;
        let rows = match outcome {
            Ok(ids) => read(&node.peer, move |c| locations::some(c, &ids)).await,
            Err(error) => Err(error),
        };
        let last = match rows {
            Ok(locations) => ScanLine::Result(Locations { locations }),
            Err(error) => ScanLine::Error(error),
        };
        send(&sender, &last).await;
    })
}

/// The canonical dump. It is written to an unnamed file first: a slow reader must not keep the database's past alive.
async fn dump(node: web::Data<Node>, _: web::Json<DumpStream>) -> HttpResponse {
    let (data, registry) = (node.data.clone(), node.peer.registry().clone());
    let spooled = node
        .peer
        .query(move |c| {
            let disk = |e: std::io::Error| QueryError::Storage(e.to_string());
            let file = tempfile::tempfile_in(&data).map_err(disk)?;
            let mut writer = std::io::BufWriter::new(file);
            let mut written = Ok(());
            starling::canonical::dump(c, &registry, &mut |_, line| {
                if written.is_ok() {
                    written = writeln!(writer, "{line}");
                }
            })?;
            written.map_err(disk)?;
            let mut file = writer.into_inner().map_err(|e| disk(e.into_error()))?;
            file.rewind().map_err(disk)?;
            Ok(file)
        })
        .await;
    match spooled {
        Ok(file) => streaming(async move |sender| send_file(&sender, tokio::fs::File::from_std(file)).await),
        Err(error) => failed(error.into()),
    }
}

async fn send_file(sender: &LineSender, mut file: tokio::fs::File) {
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let sent = match file.read(&mut chunk).await {
            Ok(0) => return,
            Ok(length) => {
                chunk.truncate(length);
                sender.send(Ok(Bytes::from(chunk))).await
            }
            Err(error) => {
                // The reader sees the answer break off.
                sender.send(Err(error)).await.ok();
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn events(node: web::Data<Node>, call: web::Json<EventsStream>) -> HttpResponse {
    let node = node.get_ref().clone();
    let EventsStream { since, follow } = call.into_inner();
    streaming(async move |sender| {
        let mut after = since;
        let wait = if follow { EVENT_WAIT } else { Duration::ZERO };
        while !sender.is_closed() {
            match node.peer.events(after, wait).await {
                Ok(Ok(events)) if events.is_empty() && !follow => return,
                Ok(Ok(events)) => {
                    for event in events {
                        after = event.cursor;
                        if !send(&sender, &Document::of(row(event))).await {
                            return;
                        }
                    }
                }
                Ok(Err(oldest)) => {
                    after = oldest.saturating_sub(1).max(after);
                    if !send(&sender, &Document::of(gap(oldest))).await {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    })
}

/// Says that what came before `oldest` was dropped.
fn gap(oldest: u64) -> EventRow {
    EventRow { cursor: oldest, kind: "gap".to_owned(), device: None, remote: None, truncated: None, records: None }
}

fn named(records: Vec<(ModelId, RecordId)>) -> Vec<EventRecord> {
    records.into_iter().map(|(model, id)| EventRecord { model: models::model_name(model), id }).collect()
}

fn row(event: Event) -> EventRow {
    let mut row = EventRow { cursor: event.cursor, ..gap(0) };
    match event.kind {
        EventKind::Changed { records, truncated, remote } => {
            "changed".clone_into(&mut row.kind);
            row.truncated = Some(truncated);
            row.remote = Some(remote);
            row.records = Some(named(records));
        }
        EventKind::Paused => "paused".clone_into(&mut row.kind),
        EventKind::Resumed => "resumed".clone_into(&mut row.kind),
        EventKind::Differing { peer, records, truncated } => {
            "differing".clone_into(&mut row.kind);
            row.device = Some(peer);
            row.truncated = Some(truncated);
            row.records = Some(named(records));
        }
        EventKind::Connected(device) => {
            "connected".clone_into(&mut row.kind);
            row.device = Some(device);
        }
        EventKind::Disconnected(device) => {
            "disconnected".clone_into(&mut row.kind);
            row.device = Some(device);
        }
        EventKind::MembershipChanged => "membership_changed".clone_into(&mut row.kind),
        _ => "other".clone_into(&mut row.kind),
    }
    row
}

#[cfg(test)]
mod tests {
    use starling_schema::models::Tag;

    use super::*;

    fn json(row: EventRow) -> String {
        serde_json::to_string(&Document::of(row)).unwrap()
    }

    #[test]
    fn events_are_lines_that_say_only_what_belongs_to_them() {
        let records = vec![(Tag::MODEL, RecordId::MIN)];
        let changed = Event { cursor: 4, kind: EventKind::Changed { records, truncated: false, remote: true } };
        assert_eq!(
            json(row(changed)),
            r#"{"schema":1,"cursor":4,"kind":"changed","remote":true,"truncated":false,"records":[{"model":"tag","id":"00000000-0000-0000-0000-000000000000"}]}"#
        );
        assert_eq!(json(gap(9)), r#"{"schema":1,"cursor":9,"kind":"gap"}"#);
        let members = Event { cursor: 5, kind: EventKind::MembershipChanged };
        assert_eq!(json(row(members)), r#"{"schema":1,"cursor":5,"kind":"membership_changed"}"#);
    }
}
