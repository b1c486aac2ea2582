//! Indexed folders of all devices.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Nullable, Text};
use diesel::sqlite::SqliteConnection;
use starling_schema::ids::{DeviceId, RecordId};

use crate::api::LocationRow;
use crate::error::{CliError, ErrorKind};

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Binary)]
    id: RecordId,
    #[diesel(sql_type = Binary)]
    owner: DeviceId,
    #[diesel(sql_type = Nullable<Text>)]
    name: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    path: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    entry_count: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    byte_size: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    last_scan_at: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    device: Option<String>,
}

impl From<Row> for LocationRow {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            name: row.name.unwrap_or_default(),
            path: row.path.unwrap_or_default(),
            device: row.device.unwrap_or_default(),
            device_id: row.owner,
            entry_count: row.entry_count,
            byte_size: row.byte_size,
            last_scan_at: row.last_scan_at,
        }
    }
}

/// All indexed folders, by device and path.
pub(crate) fn all(c: &mut SqliteConnection) -> Result<Vec<LocationRow>, CliError> {
    let rows: Vec<Row> = diesel::sql_query(
        "SELECT l.id, l.owner, l.name, l.path, l.entry_count, l.byte_size, l.last_scan_at, d.name AS device
         FROM location l LEFT JOIN device d ON d.id = l.owner ORDER BY d.name, l.owner, l.path, l.id",
    )
    .load(c)?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// The indexed folders of these ids.
pub(crate) fn some(c: &mut SqliteConnection, ids: &[RecordId]) -> Result<Vec<LocationRow>, CliError> {
    Ok(all(c)?.into_iter().filter(|row| ids.contains(&row.id)).collect())
}

/// The indexed folder of this id, which must be of this device: nobody else can scan or remove it.
pub(crate) fn own(c: &mut SqliteConnection, here: DeviceId, id: RecordId) -> Result<LocationRow, CliError> {
    let row = some(c, &[id])?.pop();
    match row {
        Some(row) if row.device_id == here => Ok(row),
        Some(row) => {
            let message = format!("{} lies on {}, not on this device", row.path, row.device);
            Err(CliError::new(ErrorKind::Invalid, message).hint("run the command there"))
        }
        None => Err(CliError::new(ErrorKind::NotFound, format!("no location has the id {id}"))
            .hint("`starling locations` lists them")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, HERE, THERE, id};
    use super::*;

    #[test]
    fn locations_of_all_devices_are_listed_and_only_own_ones_are_ours_to_change() {
        let c = &mut fixture::library();
        fixture::location(c, HERE, id(1, 1), id(1, 2), "/here");
        fixture::location(c, THERE, id(2, 1), id(2, 2), "/there");
        let listed: Vec<(String, String)> = all(c).unwrap().into_iter().map(|row| (row.device, row.path)).collect();
        assert_eq!(listed, [("desktop".into(), "/there".into()), ("laptop".into(), "/here".into())]);
        assert_eq!(own(c, HERE, id(1, 1)).unwrap().path, "/here");
        assert!(own(c, HERE, id(2, 1)).unwrap_err().message.contains("lies on desktop"));
    }
}
