//! What tests say to devices again and again, in one line each.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::database::Database;
use super::device::Device;
use super::folder::{Folder, Listing};
use super::patience::{PATIENCE, eventually, within};

/// How long devices may take to agree.
const AGREE_WITHIN: Duration = PATIENCE;

/// A path as an argument.
///
/// # Panics
/// When it is not UTF-8.
#[must_use]
pub fn text(path: &Path) -> &str {
    path.to_str().expect("the path of a test is UTF-8")
}

/// Indexes a folder and waits until every content in it was read too: then the device's records rest.
pub fn index(device: &Device, folder: &Folder) -> Value {
    let added = device.ask(&["add", text(folder.path())]);
    let database = Database::of(device.data());
    eventually("every file was read", || (database.unread_files() == Some(0)).then_some(()));
    added
}

/// A ticket.
#[must_use]
pub fn invite(inviter: &Device) -> String {
    inviter.ask(&["invite"])["ticket"].as_str().unwrap_or_default().to_owned()
}

/// Starts a device for the first time as a member of the inviter's library.
pub fn join(inviter: &Device, joiner: &mut Device) -> Value {
    joiner.up_with(&["--join", &invite(inviter)])
}

/// Waits until all devices are connected, miss nothing and hold the same, byte by byte; returns their digest.
///
/// # Panics
/// When they do not in time.
pub fn agree(devices: &[&Device]) -> String {
    let others = (devices.len() - 1).to_string();
    let timeout = format!("{}s", AGREE_WITHIN.as_secs());
    let mut digests: Vec<Value> = Vec::new();
    let equal = within(AGREE_WITHIN, || {
        for device in devices {
            device.ask(&["wait", "--converged", "--peers", &others, "--timeout", &timeout]);
        }
        digests = devices.iter().map(|device| device.ask(&["digest"])).collect();
        digests.windows(2).all(|pair| pair[0] == pair[1]).then(|| digests[0]["all"].as_str().map(str::to_owned))
    });
    match equal.flatten() {
        Some(digest) => digest,
        None => panic!("the devices do not agree: {digests:#?}"),
    }
}

/// The rows that `find` returns for these arguments.
///
/// # Panics
/// When it fails, or there are more than it shows.
#[must_use]
pub fn found(device: &Device, arguments: &[&str]) -> Vec<Value> {
    let document = device.ask(&[&["find", "--limit", "10000"], arguments].concat());
    assert_eq!(document["more"], false, "there is more than a test can see");
    document["entries"].as_array().cloned().unwrap_or_default()
}

/// The paths and kinds of rows that `find` returned.
///
/// # Panics
/// When two rows are of the same path.
#[must_use]
pub fn paths_of(rows: &[Value]) -> Listing {
    let column = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let listing: Listing = rows.iter().map(|row| (column(row, "path"), column(row, "kind"))).collect();
    assert_eq!(listing.len(), rows.len(), "something is listed twice");
    listing
}

/// The id of the one entry at a path, of whatever device; none when there is none.
///
/// # Panics
/// When there are several.
#[must_use]
pub fn entry_id(device: &Device, path: &Path) -> Option<String> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let rows = found(device, &[name]);
    let mut at = rows.iter().filter(|row| row["path"] == text(path)).filter_map(|row| row["id"].as_str());
    let id = at.next().map(str::to_owned);
    assert_eq!(at.next(), None, "{} is there twice", path.display());
    id
}

/// The values that lost, as a device lists them.
#[must_use]
pub fn conflicts(device: &Device) -> Vec<Value> {
    device.ask(&["conflicts", "ls"])["conflicts"].as_array().cloned().unwrap_or_default()
}
