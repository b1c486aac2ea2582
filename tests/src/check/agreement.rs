//! Agreement with the reference: a device holds of shared data exactly what follows by definition from the changes up
//! to its watermarks. A change that was lost, applied twice, or merged wrongly shows, and so does a deleted record
//! that comes back to life.
//!
//! Not verified here: device-owned rows (`holes`), and devices in the midst of a snapshot, which hold more than their
//! watermarks say.

use std::collections::BTreeMap;

use starling::Conflict;
use starling_schema::ids::DeviceId;
use starling_schema::stream::StreamKind;

use super::{Held, Violation};
use crate::reference::Reference;

/// How much of a line is shown.
const SHOWN_MAX: usize = 2_000;

/// Judges the shared records of a device by the changes that it has.
///
/// # Errors
/// The first line that differs.
pub fn agrees_so_far(held: &Held, reference: &Reference) -> Result<(), Violation> {
    let shared = held.sample.marks.iter().filter(|(stream, _)| stream.kind == StreamKind::Shared);
    let marks: BTreeMap<DeviceId, u64> = shared.map(|(stream, through)| (stream.origin, through)).collect();
    compare(held, &reference.through(&marks))
}

/// Judges the list of conflicts of a device.
///
/// # Errors
/// When it is not what the reference lists.
pub fn conflicts_agree(name: &str, listed: &[Conflict], reference: &Reference) -> Result<(), Violation> {
    let expected = reference.conflicts();
    let differs = listed.iter().zip(&expected).find(|(listed, expected)| listed != expected);
    if differs.is_none() && listed.len() == expected.len() {
        return Ok(());
    }
    let detail = format!("{name} lists {}, the reference {}; {differs:#?}", listed.len(), expected.len());
    Err(Violation::new("conflicts", detail))
}

fn compare(held: &Held, reference: &Reference) -> Result<(), Violation> {
    let expected = reference.lines();
    let at = held.shared.iter().zip(&expected).position(|(held, expected)| held != expected);
    let at = at.or_else(|| (held.shared.len() != expected.len()).then_some(held.shared.len().min(expected.len())));
    let Some(at) = at else { return Ok(()) };
    let shown = |lines: &[String]| {
        lines.get(at).map_or_else(|| "nothing".to_owned(), |line| line.chars().take(SHOWN_MAX).collect())
    };
    let [has, should] = [shown(&held.shared), shown(&expected)];
    let alive = |line: &str| !line.contains("\"deleted\"") && line != "nothing";
    let checker = if alive(&has) && !alive(&should) { "resurrection" } else { "agreement" };
    let detail = format!("{} has:       {has}\nreference: {should}", held.name);
    Err(Violation::new(checker, detail))
}
