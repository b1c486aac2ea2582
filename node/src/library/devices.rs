//! The members of the library, and what the peer says of itself.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_types::{Binary, Nullable, Text};
use starling::PeerHandle;
use starling_schema::ids::RecordId;

use super::read;
use crate::api::{DeviceRow, Devices, StatusReply};
use crate::error::{CliError, ErrorKind};

#[derive(QueryableByName)]
struct OsRow {
    #[diesel(sql_type = Binary)]
    id: RecordId,
    #[diesel(sql_type = Nullable<Text>)]
    os: Option<String>,
}

/// What the peer says of itself.
pub(crate) async fn status(peer: &PeerHandle) -> Result<StatusReply, CliError> {
    let status = peer.status().await?;
    let odd =
        |error: serde_json::Error| CliError::new(ErrorKind::Failed, format!("the status cannot be shown: {error}"));
    serde_json::from_value(serde_json::to_value(&status).map_err(odd)?).map_err(odd)
}

/// The members, this device first.
pub(crate) async fn all(peer: &PeerHandle) -> Result<Devices, CliError> {
    let members = peer.members().await?;
    let status = peer.status().await?;
    let systems: HashMap<RecordId, Option<String>> = read(peer, |c| {
        let rows: Vec<OsRow> = diesel::sql_query("SELECT id, os FROM device").load(c)?;
        Ok(rows.into_iter().map(|row| (row.id, row.os)).collect())
    })
    .await?;
    let mut devices: Vec<DeviceRow> = members
        .into_iter()
        .map(|member| {
            let seen = status.peers.iter().find(|peer| peer.id == member.id);
            DeviceRow {
                os: systems.get(&member.id.record()).cloned().flatten(),
                online: member.this || seen.is_some_and(|peer| peer.online),
                last_seen: seen.and_then(|peer| peer.last_seen),
                id: member.id,
                name: member.name,
                this: member.this,
            }
        })
        .collect();
    devices.sort_by(|a, b| (!a.this, &a.name, a.id).cmp(&(!b.this, &b.name, b.id)));
    Ok(Devices { devices })
}

/// Gives this device another name.
pub(crate) async fn rename(peer: &PeerHandle, name: &str) -> Result<DeviceRow, CliError> {
    if name.trim().is_empty() {
        return Err(CliError::new(ErrorKind::Invalid, "a device needs a name"));
    }
    peer.rename_device(name).await?;
    let devices = all(peer).await?.devices;
    devices.into_iter().find(|row| row.this).ok_or_else(|| CliError::new(ErrorKind::Failed, "this device is no member"))
}

/// Removes the member of that name or id.
pub(crate) async fn remove(peer: &PeerHandle, text: &str) -> Result<DeviceRow, CliError> {
    let device = named(peer, text).await?;
    peer.remove_device(device.id).await?;
    Ok(device)
}

/// The member of that name or id.
pub(crate) async fn named(peer: &PeerHandle, text: &str) -> Result<DeviceRow, CliError> {
    let devices = all(peer).await?.devices;
    let mut named: Vec<DeviceRow> =
        devices.into_iter().filter(|row| row.name == text || row.id.to_string() == text).collect();
    match (named.pop(), named.is_empty()) {
        (Some(device), true) => Ok(device),
        (Some(_), false) => Err(CliError::new(ErrorKind::Ambiguous, format!("{text} is the name of several devices"))
            .hint("use the id: `starling devices ls` shows it")),
        (None, _) => Err(CliError::new(ErrorKind::NotFound, format!("no device of this library is called {text}"))
            .hint("`starling devices ls` lists them")),
    }
}

#[cfg(test)]
mod tests {
    use starling::status::LibraryState;

    use crate::api::LibraryReply;

    #[test]
    fn the_state_of_a_library_travels_by_name() {
        let reply = LibraryReply {
            id: starling_schema::ids::LibraryId::MIN,
            name: "home".to_owned(),
            state: serde_json::to_value(LibraryState::CatchingUp { missing: 3 }).unwrap(),
        };
        assert_eq!((reply.state["name"].as_str(), reply.state["missing"].as_u64()), (Some("catching_up"), Some(3)));
    }
}
