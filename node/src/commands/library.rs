//! The library as a whole: its digest, its dump, what happened to it, and what lost.

use serde_json::{Map, Value};

use super::Session;
use crate::api::{
    ConflictRestore, ConflictRow, ConflictShow, ConflictsCall, DigestCall, Document, DumpStream, EventRow,
    EventsStream, PauseCall, VerifyCall,
};
use crate::error::{CliError, ErrorKind};
use crate::output::{time_of, visible};

/// Prints the digest.
pub(crate) async fn digest(session: &Session) -> Result<(), CliError> {
    let digest = session.peer.call(&DigestCall {}).await?;
    session.output.reply(&digest, |digest| {
        let models = digest.models.iter().map(|(model, hash)| format!("{hash}  {model}"));
        std::iter::once(format!("{}  all", digest.all)).chain(models).collect::<Vec<_>>().join("\n")
    })
}

/// Prints what is not as it must be; that there is anything is a failure.
pub(crate) async fn verify(session: &Session, with: Option<String>) -> Result<(), CliError> {
    let verified = session.peer.call(&VerifyCall { with }).await?;
    session.output.reply(&verified, |verified| {
        let lines = verified.differences.iter().map(|difference| {
            let record = difference.model.iter().cloned().chain(difference.id.map(|id| id.to_string()));
            let what: Vec<String> = record.collect();
            format!("{}: {}", if what.is_empty() { "database".to_owned() } else { what.join(" ") }, difference.problem)
        });
        let well = verified.ok.then(|| "all is as it must be".to_owned());
        lines.chain(well).collect::<Vec<_>>().join("\n")
    })?;
    if verified.ok {
        return Ok(());
    }
    let message = format!("{} things are not as they must be", verified.differences.len());
    Err(CliError::new(ErrorKind::Failed, message).hint("what differs from a connected device is repaired by itself"))
}

/// Stops syncing, or goes on.
pub(crate) async fn pause(session: &Session, paused: bool) -> Result<(), CliError> {
    let reply = session.peer.call(&PauseCall { paused }).await?;
    session.output.reply(&reply, |reply| if reply.paused { "paused" } else { "syncing" }.to_owned())
}

/// Prints the canonical dump as it comes; with `--json` its items become documents like all others.
pub(crate) async fn dump(session: &Session) -> Result<(), CliError> {
    let mut lines = session.peer.stream(&DumpStream {}).await?;
    if session.output.json {
        while let Some(item) = lines.next_json::<Map<String, Value>>().await? {
            session.output.json_line(&Document::of(item))?;
        }
    }
    while let Some(chunk) = lines.chunk().await? {
        session.output.bytes(&chunk)?;
    }
    Ok(())
}

/// Prints what happened.
pub(crate) async fn events(session: &Session, since: u64, follow: bool) -> Result<(), CliError> {
    let mut lines = session.peer.stream(&EventsStream { since, follow }).await?;
    while let Some(event) = lines.next_json::<Document<EventRow>>().await? {
        if session.output.json {
            session.output.json_line(&event)?;
        } else {
            session.output.text(&sentence(&event.body))?;
        }
    }
    Ok(())
}

fn sentence(event: &EventRow) -> String {
    let mut words = vec![event.cursor.to_string(), event.kind.replace('_', " ")];
    if event.kind == "gap" {
        words.push("what came before was dropped".to_owned());
    }
    words.extend(event.device.map(|device| device.to_string()));
    words.extend(event.remote.map(|remote| if remote { "by a peer:" } else { "here:" }.to_owned()));
    words.extend(event.records.iter().flatten().map(|record| format!("{} {}", record.model, record.id)));
    if event.truncated == Some(true) {
        words.push("and more".to_owned());
    }
    words.join(" ")
}

/// Lists what lost.
pub(crate) async fn conflicts(session: &Session) -> Result<(), CliError> {
    let conflicts = session.peer.call(&ConflictsCall {}).await?;
    session.output.reply(&conflicts, |conflicts| {
        if conflicts.conflicts.is_empty() {
            return "no edit lost against another".to_owned();
        }
        let rows = conflicts.conflicts.iter().map(|row| {
            let winner = if row.deleted { "(deleted)".to_owned() } else { plain(&row.current) };
            let record = format!("{} {}", row.model, row.record);
            [record, row.field.clone(), plain(&row.value), winner, time_of(row.at), row.id.clone()]
        });
        session.output.table(["RECORD", "FIELD", "LOST", "WON", "WRITTEN", "ID"], rows)
    })
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Shows one of them.
pub(crate) async fn conflict(session: &Session, id: String) -> Result<(), CliError> {
    let row = session.peer.call(&ConflictShow { id }).await?;
    session.output.reply(&row, described)
}

fn described(row: &ConflictRow) -> String {
    let fate = if row.deleted {
        "the record was deleted meanwhile".to_owned()
    } else {
        format!("it shows {}", visible(&plain(&row.current)))
    };
    format!(
        "{} of {} {}: {} was written on {} by {} and lost; {fate}\n`starling conflicts restore {}` makes it the value again",
        row.field,
        row.model,
        row.record,
        visible(&plain(&row.value)),
        time_of(row.at),
        row.device,
        row.id,
    )
}

/// Brings one of them back.
pub(crate) async fn restore_conflict(session: &Session, id: String) -> Result<(), CliError> {
    let row = session.peer.call(&ConflictRestore { id }).await?;
    session.output.reply(&row, |row| {
        format!("{} of {} {} is {} again", row.field, row.model, row.record, visible(&plain(&row.value)))
    })
}
