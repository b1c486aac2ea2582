//! Holes: of every stream a device holds exactly what its origin wrote up to the watermark. For a shared stream: every
//! log entry between floor and watermark. For a state stream: the owner's rows, each at the version it has there.
//!
//! Not verified here: rows of owners that do not run at that moment.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use starling_schema::ids::DeviceId;
use starling_schema::stream::{Stream, StreamKind};

use super::{Held, Violation};

/// Judges the log of a device.
///
/// # Errors
/// When entries are missing, or lie beyond the watermark.
pub fn log_is_whole(held: &Held) -> Result<(), Violation> {
    let mut numbers: BTreeMap<DeviceId, Vec<u64>> = BTreeMap::new();
    for change in &held.log {
        numbers.entry(change.hlc.device).or_default().push(change.seq);
    }
    let shared = held.sample.marks.iter().filter(|(stream, _)| stream.kind == StreamKind::Shared);
    for (stream, through) in shared {
        let floor = held.sample.floors.get(stream);
        let found = numbers.remove(&stream.origin).unwrap_or_default();
        let above: Vec<u64> = found.into_iter().filter(|seq| *seq > floor).collect();
        if !above.iter().copied().eq(floor + 1..=through) {
            let detail = format!(
                "the log of {} of {stream} between floor {floor} and watermark {through} holds {} entries: {above:?}",
                held.name,
                above.len()
            );
            return Err(Violation::new("holes", detail));
        }
    }
    match numbers.into_iter().next() {
        None => Ok(()),
        Some((origin, found)) => {
            let detail = format!("the log of {} holds {found:?} of {origin}, of which it has no watermark", held.name);
            Err(Violation::new("holes", detail))
        }
    }
}

/// A row as a line of the dump has it.
pub(super) struct Row<'a> {
    pub(super) version: u64,
    line: &'a str,
}

/// The rows of an owner, by model and id.
pub(super) fn rows(held: &Held, owner: DeviceId) -> BTreeMap<(String, String), Row<'_>> {
    let owner = owner.to_string();
    let parsed = held.owned.iter().filter(|line| line.contains(&owner)).filter_map(|line| {
        let json: Json = serde_json::from_str(line).ok()?;
        let text = |key: &str| json.get(key)?.as_str().map(str::to_owned);
        let version = json.get("version")?.as_u64()?;
        (text("owner")? == owner).then_some(())?;
        Some(((text("model")?, text("id")?), Row { version, line }))
    });
    parsed.collect()
}

/// Judges what a device holds of the rows of another one that runs.
///
/// # Errors
/// When a row is missing, is not as the owner wrote it, or is one that the owner does not have.
pub fn state_is_whole(owner: &Held, holder: &Held) -> Result<(), Violation> {
    let watermark = holder.sample.marks.get(Stream::state(owner.device));
    if watermark > owner.sample.marks.get(Stream::state(owner.device)) {
        // The owner has an older copy of its database, or is not the newest life of it: others know better.
        return Ok(());
    }
    let (written, held) = (rows(owner, owner.device), rows(holder, owner.device));
    for (key, row) in &written {
        let is_due = row.version <= watermark;
        match held.get(key) {
            Some(there) if there.line == row.line => {}
            Some(there) if there.version < row.version && !is_due => {}
            None if !is_due => {}
            there => {
                let detail = format!(
                    "{} is at {watermark} of the rows of {}\n{} wrote: {}\n{} has: {}",
                    holder.name,
                    owner.name,
                    owner.name,
                    row.line,
                    holder.name,
                    there.map_or("nothing", |there| there.line)
                );
                return Err(Violation::new("ownership", detail));
            }
        }
    }
    let owner_is_at = owner.sample.marks.get(Stream::state(owner.device));
    let extra = held.iter().find(|(key, _)| watermark == owner_is_at && !written.contains_key(*key));
    match extra {
        None => Ok(()),
        Some((_, there)) => {
            let detail = format!("{} has what {} deleted: {}", holder.name, owner.name, there.line);
            Err(Violation::new("resurrection", detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use starling_schema::change::{Op, SharedChange};
    use starling_schema::hlc::Hlc;
    use starling_schema::ids::RecordId;
    use starling_schema::record::Seen;
    use uuid::Uuid;

    use super::super::Sample;
    use super::*;

    const A: DeviceId = DeviceId(Uuid::from_u128(1));
    const B: DeviceId = DeviceId(Uuid::from_u128(2));

    fn held(device: DeviceId, marks: &[(Stream, u64)], rows: &[(u128, u64, &str)], log: &[u64]) -> Held {
        let line = |(id, version, name): &(u128, u64, &str)| {
            let id = RecordId(Uuid::from_u128(*id));
            json!({ "model": "tag", "id": id, "owner": A, "version": version, "fields": { "name": name } }).to_string()
        };
        let op = || Op::Delete { seen: Seen::new() };
        let entry = |seq: &u64| SharedChange {
            seq: *seq,
            hlc: Hlc { time: *seq, device: A },
            model: 5,
            record: RecordId::MIN,
            op: op(),
            ends_commit: true,
        };
        Held {
            device,
            name: device.to_string(),
            sample: Sample::of(device, marks),
            owned: rows.iter().map(line).collect(),
            shared: Vec::new(),
            membership: Vec::new(),
            log: log.iter().map(entry).collect(),
            deleted: Vec::new(),
        }
    }

    #[test]
    fn a_hole_in_a_log_and_what_lies_beyond_a_watermark_are_found() {
        let of = |log: &[u64]| log_is_whole(&held(B, &[(Stream::shared(A), 3)], &[], log));
        of(&[1, 2, 3]).unwrap();
        for wrong in [&[1, 3][..], &[1, 2], &[1, 2, 3, 4], &[]] {
            assert_eq!(of(wrong).unwrap_err().checker, "holes", "{wrong:?}");
        }
    }

    #[test]
    fn rows_that_are_missing_changed_or_deleted_are_found() {
        let owner = held(A, &[(Stream::state(A), 9)], &[(1, 4, "x"), (2, 9, "y")], &[]);
        let holds = |through, rows: &[(u128, u64, &str)]| {
            state_is_whole(&owner, &held(B, &[(Stream::state(A), through)], rows, &[]))
        };
        holds(9, &[(1, 4, "x"), (2, 9, "y")]).unwrap();
        holds(5, &[(1, 4, "x"), (2, 3, "older")]).unwrap();
        assert_eq!(holds(9, &[(1, 4, "x")]).unwrap_err().checker, "ownership");
        assert_eq!(holds(5, &[(1, 4, "forged")]).unwrap_err().checker, "ownership");
        assert_eq!(holds(9, &[(1, 4, "x"), (2, 8, "older")]).unwrap_err().checker, "ownership");
        assert_eq!(holds(9, &[(1, 4, "x"), (2, 9, "y"), (3, 2, "z")]).unwrap_err().checker, "resurrection");
    }
}
