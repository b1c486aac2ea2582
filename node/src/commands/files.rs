//! Indexing, searching and annotating files.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use starling_schema::models::EntryKind;

use super::{Session, typed};
use crate::api::{
    AddStream, Annotate, Entries, FindCall, LocationRemove, LocationRow, Locations, LocationsCall, MetadataRow,
    NamedRecord, RawPath, RecordReply, Remark, RescanStream, ScanLine, ShowCall,
};
use crate::arguments::{Find, Kind};
use crate::client::Lines;
use crate::error::{CliError, ErrorKind};
use crate::output::{Output, count, size, time, time_of, visible};
use crate::progress::Reporter;

/// Indexes folders, one after the other.
pub(crate) async fn add(session: &Session, paths: &[PathBuf]) -> Result<(), CliError> {
    let mut folders = Vec::new();
    for path in paths {
        let folder =
            path.canonicalize().map_err(|e| CliError::io(format!("{} cannot be indexed", path.display()), e))?;
        if !folder.is_dir() {
            return Err(CliError::new(ErrorKind::Invalid, format!("{} is not a folder", path.display()))
                .hint("index the folder that it lies in"));
        }
        folders.push(folder);
    }
    let mut indexed = Locations::default();
    for folder in folders {
        let lines = session.peer.stream(&AddStream { path: RawPath::of(&folder) }).await?;
        indexed.locations.extend(finish(session, lines).await?.locations);
    }
    session.output.reply(&indexed, scanned)
}

/// Looks for changes.
pub(crate) async fn rescan(session: &Session, location: Option<OsString>) -> Result<(), CliError> {
    let location = location.as_deref().map(typed).transpose()?;
    let lines = session.peer.stream(&RescanStream { location }).await?;
    let scanned_locations = finish(session, lines).await?;
    session.output.reply(&scanned_locations, scanned)
}

/// Follows a scan to its end.
async fn finish(session: &Session, mut lines: Lines) -> Result<Locations, CliError> {
    let mut reporter = Reporter::new(session.output);
    while let Some(line) = lines.next_json::<ScanLine>().await? {
        match line {
            ScanLine::Progress(progress) => reporter.update(&progress),
            ScanLine::Result(locations) => return Ok(locations),
            ScanLine::Error(error) => return Err(error),
        }
    }
    Err(CliError::new(ErrorKind::Failed, "the peer ended before the scan did")
        .hint("start it again with `starling up`: it goes on from there"))
}

fn scanned(locations: &Locations) -> String {
    let sentence = |row: &LocationRow| {
        let entries = count(row.entry_count.and_then(|n| u64::try_from(n).ok()).unwrap_or(0), "entry", "entries");
        format!("{} holds {entries}, {}\n", visible(&row.path), size(row.byte_size.or(Some(0))))
    };
    if locations.locations.is_empty() {
        return "no folder of this device is indexed: index one with `starling add`".to_owned();
    }
    locations.locations.iter().map(sentence).collect()
}

/// Lists indexed folders.
pub(crate) async fn locations(session: &Session) -> Result<(), CliError> {
    let reply = session.peer.call(&LocationsCall {}).await?;
    session.output.reply(&reply, |reply| {
        if reply.locations.is_empty() {
            return "no folder is indexed: index one with `starling add`".to_owned();
        }
        let rows = reply.locations.iter().map(|row| {
            let entries = row.entry_count.map_or_else(String::new, |entries| entries.to_string());
            let (size, scanned) = (size(row.byte_size), time(row.last_scan_at));
            [row.device.clone(), row.path.clone(), entries, size, scanned, row.id.to_string()]
        });
        session.output.table(["DEVICE", "PATH", "ENTRIES", "SIZE", "SCANNED", "ID"], rows)
    })
}

/// Stops indexing a folder.
pub(crate) async fn remove_location(session: &Session, location: &OsStr) -> Result<(), CliError> {
    let row = session.peer.call(&LocationRemove { location: typed(location)? }).await?;
    session
        .output
        .reply(&row, |row| format!("{} is not indexed any more; its files were left alone", visible(&row.path)))
}

/// Searches.
pub(crate) async fn find(session: &Session, find: Find) -> Result<(), CliError> {
    let kind = find.kind.map(|kind| match kind {
        Kind::File => EntryKind::File.code(),
        Kind::Directory => EntryKind::Directory.code(),
        Kind::Symlink => EntryKind::Symlink.code(),
    });
    let call = FindCall {
        query: find.query,
        tag: find.tag,
        device: find.device,
        collection: find.collection,
        kind,
        favorite: find.favorite,
        limit: find.limit,
    };
    let found = session.peer.call(&call).await?;
    session.output.reply(&found, |found| listing(session.output, found))
}

fn listing(output: Output, found: &Entries) -> String {
    if found.entries.is_empty() {
        return "nothing was found".to_owned();
    }
    let rows = found.entries.iter().map(|row| {
        let modified = time(row.modified_at);
        [row.path.clone(), size(row.size), modified, row.device.clone(), row.tags.join(", "), row.id.to_string()]
    });
    let table = output.table(["PATH", "SIZE", "MODIFIED", "DEVICE", "TAGS", "ID"], rows);
    if found.more {
        return format!("{table}\nand more than these {}: narrow the search, or raise --limit", found.entries.len());
    }
    table
}

/// Shows one record.
pub(crate) async fn show(session: &Session, id: &OsStr) -> Result<(), CliError> {
    let record = session.peer.call(&ShowCall { target: typed(id)? }).await?;
    session.output.reply(&record, |record| described(session.output, record))
}

fn described(output: Output, record: &RecordReply) -> String {
    let state = if record.alive { "" } else { " (deleted)" };
    let rows = record.fields.iter().map(|(name, value)| {
        let shown = match value.as_str() {
            Some(text) => text.to_owned(),
            None if name.ends_with("_at") => time(value.as_i64()),
            None => value.to_string(),
        };
        let written = record.stamps.get(name);
        let written = written.map_or_else(String::new, |stamp| format!("{} by {}", time_of(stamp.at), stamp.device));
        [name.clone(), shown, written]
    });
    let mut lines = vec![
        format!("{} {}{state}", record.model, record.id),
        output.table(["FIELD", "VALUE", "WRITTEN"], rows),
        record.owner.map_or_else(String::new, |owner| format!("owned by {owner}")),
    ];
    if let Some(entry) = &record.entry {
        let names =
            |records: &[NamedRecord]| records.iter().map(|record| visible(&record.name)).collect::<Vec<_>>().join(", ");
        lines.push(format!("path: {} on {}", visible(&entry.path), visible(&entry.device)));
        for (title, records) in [("tags", &entry.tags), ("collections", &entry.collections)] {
            lines.extend((!records.is_empty()).then(|| format!("{title}: {}", names(records))));
        }
        lines.extend(entry.metadata.as_ref().map(annotated));
        let copies = entry.copies.iter();
        lines.extend(
            copies.map(|copy| format!("copy: {} on {} ({})", visible(&copy.path), visible(&copy.device), copy.id)),
        );
    }
    lines.retain(|line| !line.is_empty());
    lines.join("\n")
}

fn annotated(metadata: &MetadataRow) -> String {
    let said = [
        metadata.notes.as_ref().map(|notes| format!("note: {}", visible(notes))),
        metadata.favorite.then(|| "favourite".to_owned()),
        metadata.rating.map(|rating| format!("rating: {rating} of 5")),
    ];
    let lines: Vec<String> = said.into_iter().flatten().collect();
    if lines.is_empty() { "no note, no mark and no rating".to_owned() } else { lines.join("\n") }
}

/// Writes a note.
pub(crate) async fn note(session: &Session, id: &OsStr, text: String) -> Result<(), CliError> {
    annotate(session, id, Remark::Note(text)).await
}

/// Marks a favourite, or takes the mark away.
pub(crate) async fn favorite(session: &Session, id: &OsStr, on: bool) -> Result<(), CliError> {
    annotate(session, id, Remark::Favorite(on)).await
}

/// Rates.
pub(crate) async fn rate(session: &Session, id: &OsStr, rating: u8) -> Result<(), CliError> {
    annotate(session, id, Remark::Rating(rating)).await
}

async fn annotate(session: &Session, id: &OsStr, remark: Remark) -> Result<(), CliError> {
    let row = session.peer.call(&Annotate { target: typed(id)?, remark }).await?;
    session.output.reply(&row, annotated)
}
