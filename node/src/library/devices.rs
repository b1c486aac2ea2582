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
