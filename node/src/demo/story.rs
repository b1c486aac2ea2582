//! What the demonstration shows, step by step.

use std::time::Duration;

use starling_schema::ids::RecordId;
use starling_schema::models::EntryKind;
use tokio::time::Instant;

use super::{PeerDigest, Stage};
use crate::api::{
    AddStream, Annotate, Collect, CollectionFields, CollectionNew, ConflictsCall, DigestCall, EntryRow, FindCall,
    InviteCall, LocationRow, RawPath, Remark, ScanLine, ShowCall, TagAssign, TagEdit, TagFields, TagNew, TargetText,
};
use crate::client::Client;
use crate::commands::converged;
use crate::error::{CliError, ErrorKind};
use crate::output::{count, size};
use crate::progress::Reporter;

/// How long the peers may take to agree after a change.
const AGREE_WITHIN: Duration = Duration::from_mins(1);

/// How often it is looked whether they do.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a ticket is good for.
const TICKET_MS: u64 = 10 * 60 * 1000;

/// How often two edits are made at once: one may arrive before the other is made, and then there is no conflict.
const CONCURRENT_ATTEMPTS_MAX: u32 = 10;

/// How long a conflict may take to show on both sides before the edits are taken for successive ones.
const CONFLICT_WITHIN: Duration = Duration::from_secs(3);

/// What the tag is called.
const TAG: &str = "demo";

/// Shows everything and returns the digest of each device.
pub(crate) async fn tell(stage: &mut Stage) -> Result<Vec<PeerDigest>, CliError> {
    index(stage).await?;
    join(stage).await?;
    let entry = search(stage).await?;
    let tag = tag(stage, &entry).await?;
    edit_at_once(stage, tag).await?;
    part_and_meet(stage, &entry).await?;
    compare(stage).await
}

fn client(stage: &Stage, number: usize) -> Result<Client, CliError> {
    let peer = stage.peers.get(number).ok_or_else(|| CliError::new(ErrorKind::Failed, "there is no such peer"))?;
    peer.client()
}

async fn index(stage: &mut Stage) -> Result<(), CliError> {
    let since = Instant::now();
    stage.peers[0].start(None).await?;
    stage.step(since, "A starts with a library of its own".to_owned())?;
    let since = Instant::now();
    let mut lines = client(stage, 0)?.stream(&AddStream { path: RawPath::of(&stage.folder) }).await?;
    let mut reporter = Reporter::new(stage.output);
    let location: LocationRow = loop {
        match lines.next_json::<ScanLine>().await? {
            Some(ScanLine::Progress(progress)) => reporter.update(&progress),
            Some(ScanLine::Result(mut locations)) => match locations.locations.pop() {
                Some(location) => break location,
                None => return Err(CliError::new(ErrorKind::Failed, "A indexed nothing")),
            },
            Some(ScanLine::Error(error)) => return Err(error),
            None => return Err(CliError::new(ErrorKind::Failed, "A ended before its scan did")),
        }
    };
    drop(reporter);
    let entries = count(location.entry_count.and_then(|n| u64::try_from(n).ok()).unwrap_or(0), "entry", "entries");
    stage.step(since, format!("A indexes {}: {entries}, {}", location.path, size(location.byte_size.or(Some(0)))))
}

async fn join(stage: &mut Stage) -> Result<(), CliError> {
    for number in 1..stage.peers.len() {
        let since = Instant::now();
        let ticket = client(stage, 0)?.call(&InviteCall { expires_ms: TICKET_MS }).await?.ticket;
        stage.peers[number].start(Some(&ticket)).await?;
        converged(&client(stage, number)?, 1, AGREE_WITHIN).await?;
        let name = stage.peers[number].name().to_owned();
        stage.step(since, format!("{name} joins with a ticket from A and holds all of it"))?;
    }
    let since = Instant::now();
    all_converged(stage).await?;
    stage.step(since, format!("all {} peers are in sync", stage.peers.len()))
}

async fn all_converged(stage: &Stage) -> Result<(), CliError> {
    for number in 0..stage.peers.len() {
        let connected = if number == 0 { stage.peers.len() - 1 } else { 1 };
        converged(&client(stage, number)?, connected, AGREE_WITHIN).await?;
    }
    Ok(())
}

fn any(kind: Option<EntryKind>, tag: Option<&str>) -> FindCall {
    FindCall {
        query: None,
        tag: tag.map(str::to_owned),
        device: None,
        collection: None,
        kind: kind.map(EntryKind::code),
        favorite: false,
        limit: 1,
    }
}

async fn search(stage: &mut Stage) -> Result<EntryRow, CliError> {
    let since = Instant::now();
    let b = client(stage, 1)?;
    let mut found = b.call(&any(Some(EntryKind::File), None)).await?.entries;
    if found.is_empty() {
        found = b.call(&any(None, None)).await?.entries;
    }
    let entry = found.pop().ok_or_else(|| CliError::new(ErrorKind::Failed, "B finds nothing of what A indexed"))?;
    stage.step(since, format!("B finds {} on {}", entry.path, entry.device))?;
    Ok(entry)
}

fn by_id(id: RecordId) -> TargetText {
    TargetText { text: id.to_string(), path: None }
}

async fn tag(stage: &mut Stage, entry: &EntryRow) -> Result<RecordId, CliError> {
    let since = Instant::now();
    let b = client(stage, 1)?;
    let fields = TagFields { name: Some(TAG.to_owned()), ..TagFields::default() };
    let tag = b.call(&TagNew { fields }).await?.id;
    let assign = TagAssign { tag: tag.to_string(), targets: vec![by_id(entry.id)], content: false, on: true };
    b.call(&assign).await?;
    stage.step(since, format!("B makes the tag {TAG} and puts it on {}", entry.name))?;
    let since = Instant::now();
    for number in 0..stage.peers.len() {
        let peer = client(stage, number)?;
        until(AGREE_WITHIN, &format!("{} does not show the tag", stage.peers[number].name()), async || {
            // The tag itself may not have arrived yet: then there is none of that id.
            let found = peer.call(&any(None, Some(&tag.to_string()))).await.map(|found| found.entries);
            Ok(found.is_ok_and(|entries| entries.first().is_some_and(|found| found.id == entry.id)))
        })
        .await?;
    }
    stage.step(since, "every device shows the tag on it".to_owned())?;
    Ok(tag)
}

/// Looks until something holds.
async fn until(
    within: Duration,
    otherwise: &str,
    mut holds: impl AsyncFnMut() -> Result<bool, CliError>,
) -> Result<(), CliError> {
    let started = Instant::now();
    while !holds().await? {
        if started.elapsed() >= within {
            return Err(CliError::new(ErrorKind::NotConverged, format!("{otherwise} after {} s", within.as_secs())));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn color(peer: &Client, tag: RecordId) -> Result<String, CliError> {
    let record = peer.call(&ShowCall { target: by_id(tag) }).await?;
    Ok(record.fields.get("color").and_then(|color| color.as_str()).unwrap_or_default().to_owned())
}

/// The colours of the tag that lost, as one peer lists them.
async fn lost(peer: &Client, tag: RecordId) -> Result<Vec<String>, CliError> {
    let conflicts = peer.call(&ConflictsCall {}).await?.conflicts;
    let of_tag = conflicts.into_iter().filter(|conflict| conflict.record == tag && conflict.field == "color");
    Ok(of_tag.filter_map(|conflict| conflict.value.as_str().map(str::to_owned)).collect())
}

async fn edit_at_once(stage: &mut Stage, tag: RecordId) -> Result<(), CliError> {
    let (a, b) = (client(stage, 0)?, client(stage, 1)?);
    for attempt in 0..CONCURRENT_ATTEMPTS_MAX {
        let since = Instant::now();
        let edit = |color: String| TagEdit {
            tag: tag.to_string(),
            fields: TagFields { color: Some(color), ..TagFields::default() },
        };
        let colors = [format!("#aa00{attempt:02}"), format!("#00bb{attempt:02}")];
        let (edit_a, edit_b) = (edit(colors[0].clone()), edit(colors[1].clone()));
        let (on_a, on_b) = tokio::join!(a.call(&edit_a), b.call(&edit_b));
        on_a?;
        on_b?;
        let listed = until(CONFLICT_WITHIN, "no conflict is listed", async || {
            let (wins, loses) = (color(&a, tag).await?, lost(&a, tag).await?);
            let agreed = wins == color(&b, tag).await? && loses == lost(&b, tag).await?;
            Ok(agreed && colors.contains(&wins) && loses.iter().any(|color| colors.contains(color)))
        });
        match listed.await {
            Ok(()) => {
                let (wins, loses) = (color(&a, tag).await?, lost(&a, tag).await?.join(", "));
                let what = format!("A and B give the tag a colour at once: both show {wins}, and list {loses} as lost");
                return stage.step(since, what);
            }
            Err(error) if error.kind == ErrorKind::NotConverged => {}
            Err(error) => return Err(error),
        }
    }
    let message = format!("two edits at once led to no conflict in {CONCURRENT_ATTEMPTS_MAX} attempts");
    Err(CliError::new(ErrorKind::NotConverged, message))
}

async fn part_and_meet(stage: &mut Stage, entry: &EntryRow) -> Result<(), CliError> {
    let since = Instant::now();
    let last = stage.peers.len() - 1;
    let name = stage.peers[last].name().to_owned();
    stage.peers[last].end().await?;
    stage.step(since, format!("{name} goes away"))?;
    let since = Instant::now();
    let a = client(stage, 0)?;
    a.call(&Annotate { target: by_id(entry.id), remark: Remark::Note(format!("written while {name} was away")) })
        .await?;
    // With two peers the one that is away is B, and A does all there is to do.
    let other = usize::from(last != 1);
    let b = client(stage, other)?;
    let fields = CollectionFields { name: Some("favourites of the demo".to_owned()), ..CollectionFields::default() };
    let collection = b.call(&CollectionNew { fields }).await?.id.to_string();
    b.call(&Collect { collection, targets: vec![by_id(entry.id)], on: true }).await?;
    let editor = stage.peers[other].name().to_owned();
    stage.step(since, format!("meanwhile A writes a note; {editor} makes a collection"))?;
    let since = Instant::now();
    stage.peers[last].start(None).await?;
    all_converged(stage).await?;
    stage.step(since, format!("{name} comes back and catches up"))
}

async fn compare(stage: &mut Stage) -> Result<Vec<PeerDigest>, CliError> {
    let since = Instant::now();
    let digests = loop {
        let mut digests = Vec::new();
        for (number, peer) in stage.peers.iter().enumerate() {
            let all = client(stage, number)?.call(&DigestCall {}).await?.all;
            digests.push(PeerDigest { device: peer.name().to_owned(), all });
        }
        let equal = digests.windows(2).all(|pair| pair[0].all == pair[1].all);
        if equal || since.elapsed() >= AGREE_WITHIN {
            break digests;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    stage.step(since, "the digests of all devices are compared".to_owned())?;
    Ok(digests)
}
