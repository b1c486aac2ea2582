//! The canonical dump: every replicated fact as one line, in key order, byte-identical on devices that are equal.
//!
//! It holds live rows with values, winners' stamps and lives, losers, the ids and stamps of deleted shared records,
//! and membership statements; not logs, acks, tombstones of state streams, or anything local.

use std::collections::BTreeMap;

use diesel::sqlite::SqliteConnection;
use serde_json::{Map, Value as Json, json};
use starling_schema::ids::RecordId;
use starling_schema::model::ModelSpec;
use starling_schema::record::SharedRecord;
use starling_schema::value::{Fields, Value};

use crate::proto::merge;
use crate::reader::QueryError;
use crate::store::pages::Room;
use crate::store::tables::Tables;
use crate::store::{Registry, ledger};

/// How many records are read at a time.
const CHUNK: usize = 2_000;

/// A field value as people and scripts read it.
#[must_use]
pub fn json_value(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Real(value) => json!(value),
        Value::Text(value) => json!(value),
        Value::Bytes(value) => json!({ "bytes": hex::encode(value) }),
        Value::Id(value) => json!({ "id": value.to_string() }),
    }
}

fn field_name(spec: Option<&ModelSpec>, field: u16) -> String {
    spec.and_then(|spec| spec.column(field)).map_or_else(|| format!("#{field}"), |column| column.name.to_owned())
}

fn owned_line(
    spec: Option<&ModelSpec>,
    name: &str,
    id: RecordId,
    owner: &str,
    version: u64,
    fields: &Fields,
) -> String {
    let values: Map<String, Json> =
        fields.iter().map(|(field, value)| (field_name(spec, field), json_value(value))).collect();
    json!({ "model": name, "id": id, "owner": owner, "version": version, "fields": values }).to_string()
}

fn shared_line(spec: Option<&ModelSpec>, name: &str, id: RecordId, record: &SharedRecord) -> String {
    if let Some(deleted) = record.stamps.deleted.as_ref().filter(|_| !record.stamps.is_alive()) {
        return json!({ "model": name, "id": id, "deleted": deleted.hlc.to_string() }).to_string();
    }
    let fields: Map<String, Json> = record
        .stamps
        .fields
        .iter()
        .map(|(field, stamp)| {
            let value = json_value(record.fields.get(*field).unwrap_or(&Value::Null));
            (field_name(spec, *field), json!({ "value": value, "hlc": stamp.hlc.to_string() }))
        })
        .collect();
    let losers: Vec<Json> = merge::losers(record)
        .into_iter()
        .map(|loser| {
            let value = json_value(&loser.value);
            json!({ "field": field_name(spec, loser.field), "hlc": loser.hlc.to_string(), "value": value })
        })
        .collect();
    let life = record.stamps.life.map(|life| life.to_string());
    json!({ "model": name, "id": id, "life": life, "fields": fields, "losers": losers }).to_string()
}

/// Calls `line` with the model's name and one JSON line for every item of the canonical dump, in key order.
///
/// # Errors
/// When the database cannot be read.
pub fn dump(c: &mut SqliteConnection, registry: &Registry, line: &mut dyn FnMut(&str, &str)) -> Result<(), QueryError> {
    let tables = Tables::new(registry);
    for shared in [false, true] {
        for table in tables.all(c, shared)? {
            let spec = registry.get(table.model).filter(|spec| spec.ownership.is_shared() == shared);
            let name = registry.name(table.model);
            let mut last = RecordId::MIN;
            loop {
                let lines = chunk(c, &table, spec, &name, &mut last)?;
                for text in &lines {
                    line(&name, text);
                }
                if lines.len() < CHUNK {
                    break;
                }
            }
        }
    }
    for statement in ledger::statements(c)? {
        line("membership", &json!({ "model": "membership", "id": hex::encode(statement.id().0) }).to_string());
    }
    Ok(())
}

fn chunk(
    c: &mut SqliteConnection,
    table: &crate::store::table::ModelTable,
    spec: Option<&ModelSpec>,
    name: &str,
    last: &mut RecordId,
) -> Result<Vec<String>, QueryError> {
    let mut lines = Vec::new();
    if table.shared {
        for item in table.shared_by_key(c, *last, Room { rows: CHUNK, bytes: usize::MAX })? {
            *last = item.record;
            lines.push(shared_line(spec, name, item.record, &item.state));
        }
    } else {
        for (id, row) in table.owned_after(c, *last, CHUNK)? {
            *last = id;
            lines.push(owned_line(spec, name, id, &row.owner.to_string(), row.version, &row.fields));
        }
    }
    Ok(lines)
}

/// BLAKE3 in hex over the whole canonical dump, and over the part of each model.
///
/// # Errors
/// When the database cannot be read.
pub fn digest(c: &mut SqliteConnection, registry: &Registry) -> Result<(String, BTreeMap<String, String>), QueryError> {
    let mut all = blake3::Hasher::new();
    let mut models: BTreeMap<String, blake3::Hasher> =
        registry.iter().map(|spec| (spec.name.to_owned(), blake3::Hasher::new())).collect();
    dump(c, registry, &mut |model, text| {
        let part = models.entry(model.to_owned()).or_default();
        for hasher in [&mut all, part] {
            hasher.update(text.as_bytes()).update(b"\n");
        }
    })?;
    let hex = |hasher: &blake3::Hasher| hasher.finalize().to_hex().to_string();
    Ok((hex(&all), models.iter().map(|(model, hasher)| (model.clone(), hex(hasher))).collect()))
}
