//! What the commands mean: each file reads and writes one concern of the library. Reads are plain functions of a
//! connection; writes are built as values and committed here.

pub(crate) mod collections;
pub(crate) mod conflicts;
pub(crate) mod devices;
pub(crate) mod find;
pub(crate) mod locations;
pub(crate) mod metadata;
pub(crate) mod models;
pub(crate) mod nesting;
pub(crate) mod paths;
pub(crate) mod show;
pub(crate) mod tags;
pub(crate) mod targets;
pub(crate) mod verify;

use diesel::sqlite::SqliteConnection;
use starling::PeerHandle;
use starling_schema::change::{COMMIT_CHANGES_MAX, Write};
use starling_schema::value::{Fields, Value};

use crate::error::CliError;

/// Reads from the library: everything that `read` sees is of one moment.
pub(crate) async fn read<T: Send + 'static>(
    peer: &PeerHandle,
    read: impl FnOnce(&mut SqliteConnection) -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    peer.query(move |connection| Ok(read(connection))).await?
}

/// Commits writes, in several commits when they are more than one may hold.
pub(crate) async fn commit(peer: &PeerHandle, writes: Vec<Write>) -> Result<(), CliError> {
    for chunk in writes.chunks(COMMIT_CHANGES_MAX) {
        peer.commit(chunk.to_vec()).await?;
    }
    Ok(())
}

/// Sets a text field that somebody may have given: absent leaves it, empty clears it.
pub(crate) fn set_text(fields: &mut Fields, field: starling_schema::ids::FieldNo, text: Option<String>) {
    match text {
        None => {}
        Some(text) if text.is_empty() => {
            fields.set(field, Value::Null);
        }
        Some(text) => {
            fields.set(field, text);
        }
    }
}

/// An empty library in memory, for tests of what is read from one.
#[cfg(test)]
pub(crate) mod fixture {
    use diesel::prelude::*;
    use starling_schema::hlc::Hlc;
    use starling_schema::ids::{DeviceId, RecordId};
    use starling_schema::record::Stamps;
    use uuid::Uuid;

    use super::SqliteConnection;

    pub(crate) const HERE: DeviceId = DeviceId(Uuid::from_u128(0xAAAA << 112));
    pub(crate) const THERE: DeviceId = DeviceId(Uuid::from_u128(0xBBBB << 112));

    /// A record id that starts with `head`.
    pub(crate) fn id(head: u16, tail: u128) -> RecordId {
        RecordId(Uuid::from_u128((u128::from(head) << 112) | tail))
    }

    pub(crate) fn library() -> SqliteConnection {
        let mut c = SqliteConnection::establish(":memory:").unwrap();
        starling_migrations::migrate(&mut c).unwrap();
        run(
            &mut c,
            &format!(
                "INSERT INTO device (id, owner, version, name) VALUES ({0}, {0}, 1, 'laptop')",
                hex(HERE.record())
            ),
        );
        run(
            &mut c,
            &format!(
                "INSERT INTO device (id, owner, version, name) VALUES ({0}, {0}, 1, 'desktop')",
                hex(THERE.record())
            ),
        );
        c
    }

    pub(crate) fn run(c: &mut SqliteConnection, sql: &str) {
        diesel::sql_query(sql).execute(c).unwrap();
    }

    pub(crate) fn hex(id: RecordId) -> String {
        format!("x'{}'", id.0.simple())
    }

    fn text(text: &str) -> String {
        format!("'{}'", text.replace('\'', "''"))
    }

    pub(crate) fn location(c: &mut SqliteConnection, owner: DeviceId, id: RecordId, root: RecordId, path: &str) {
        let (owner, id, root_hex) = (hex(owner.record()), hex(id), hex(root));
        run(
            c,
            &format!(
                "INSERT INTO location (id, owner, version, root, name, path) VALUES ({id}, {owner}, 1, {root_hex}, 'files', {})",
                text(path)
            ),
        );
        run(
            c,
            &format!(
                "INSERT INTO entry (id, owner, version, location, name, kind) VALUES ({root_hex}, {owner}, 1, {id}, 'files', 1)"
            ),
        );
    }

    /// An entry; `raw` is the name's bytes when they are not UTF-8.
    pub(crate) fn entry(
        c: &mut SqliteConnection,
        owner: DeviceId,
        location: RecordId,
        parent: RecordId,
        id: RecordId,
        name: &str,
        raw: Option<&[u8]>,
    ) {
        let raw = raw.map_or("NULL".to_owned(), |raw| format!("x'{}'", hex::encode(raw)));
        run(
            c,
            &format!(
                "INSERT INTO entry (id, owner, version, location, parent, name, kind, size, raw_name)
                 VALUES ({}, {}, 1, {}, {}, {}, 0, 10, {raw})",
                hex(id),
                hex(owner.record()),
                hex(location),
                hex(parent),
                text(name)
            ),
        );
    }

    pub(crate) fn tag(c: &mut SqliteConnection, id: RecordId, name: &str, alive: bool) {
        run(
            c,
            &format!(
                "INSERT INTO tag (id, name, stamps, alive) VALUES ({}, {}, x'', {})",
                hex(id),
                text(name),
                u8::from(alive)
            ),
        );
    }

    pub(crate) fn assign(c: &mut SqliteConnection, id: RecordId, tag: RecordId, entry: RecordId, alive: bool) {
        run(
            c,
            &format!(
                "INSERT INTO tag_assignment (id, tag, entry, stamps, alive) VALUES ({}, {}, {}, x'', {})",
                hex(id),
                hex(tag),
                hex(entry),
                u8::from(alive)
            ),
        );
    }

    pub(crate) fn nest(c: &mut SqliteConnection, parent: RecordId, child: RecordId, time: u64) {
        let stamps = Stamps { restored: Some(Hlc { time, device: HERE }), ..Stamps::default() };
        let stamps = hex::encode(starling_schema::codec::encode(&stamps, 4096).unwrap());
        let edge = starling_schema::models::TagRelationship::between(parent, child).id;
        run(
            c,
            &format!(
                "INSERT INTO tag_relationship (id, parent, child, stamps, alive) VALUES ({}, {}, {}, x'{stamps}', 1)",
                hex(edge),
                hex(parent),
                hex(child)
            ),
        );
    }
}
