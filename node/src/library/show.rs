//! All that is known of one record, of whatever model.

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Bool, Nullable, Text};
use diesel::sqlite::SqliteConnection;
use serde_json::{Map, Value as Json, json};
use starling_schema::ids::{DeviceId, RecordId};
use starling_schema::model::{ColumnKind, ModelSpec};
use starling_schema::models::Entry;
use starling_schema::record::Stamps;

use super::find::{kind_name, name_of};
use super::metadata;
use super::models::MODELS;
use super::nesting::STAMPS_BYTES_MAX;
use super::paths::Paths;
use super::targets::{self, IdRange};
use crate::api::{Copy, EntryDetails, NamedRecord, RecordReply, StampRow, TargetText};
use crate::error::{CliError, ErrorKind};

/// The most copies that are listed: more do not help anybody.
const COPIES_MAX: i64 = 1_000;

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Nullable<Binary>)]
    owner: Option<DeviceId>,
    #[diesel(sql_type = Nullable<Binary>)]
    stamps: Option<Vec<u8>>,
    #[diesel(sql_type = Bool)]
    alive: bool,
    #[diesel(sql_type = Text)]
    fields: String,
}

#[derive(QueryableByName)]
struct IdRow {
    #[diesel(sql_type = Binary)]
    id: RecordId,
}

/// The record that somebody means.
pub(crate) fn show(c: &mut SqliteConnection, here: DeviceId, target: &TargetText) -> Result<RecordReply, CliError> {
    if let Some(range) = IdRange::parse(&target.text) {
        let mut candidates: Vec<(RecordId, &'static ModelSpec)> = Vec::new();
        for spec in &MODELS {
            let sql = format!("SELECT id FROM {} WHERE id BETWEEN ? AND ? ORDER BY id LIMIT 11", spec.name);
            let rows: Vec<IdRow> =
                diesel::sql_query(sql).bind::<Binary, _>(range.low).bind::<Binary, _>(range.high).load(c)?;
            candidates.extend(rows.into_iter().map(|row| (row.id, spec)));
        }
        if let [(id, spec)] = candidates[..] {
            return record(c, spec, id);
        }
        if !candidates.is_empty() && target.path.is_none() {
            return Err(targets::ambiguous(
                "record",
                &target.text,
                candidates.iter().map(|(id, spec)| (*id, spec.name)),
            ));
        }
    }
    let id = targets::entry(c, here, target)?;
    let spec = super::models::model(Entry::MODEL);
    let spec = spec.ok_or_else(|| CliError::new(ErrorKind::Failed, "entries are not known to this build"))?;
    record(c, spec, id)
}

/// The record of that id and model.
fn record(c: &mut SqliteConnection, spec: &ModelSpec, id: RecordId) -> Result<RecordReply, CliError> {
    let kept =
        if spec.ownership.is_shared() { "NULL AS owner, stamps, alive" } else { "owner, NULL AS stamps, 1 AS alive" };
    let sql = format!("SELECT {kept}, {} AS fields FROM {} WHERE id = ?", json_of_columns(spec), spec.name);
    let row: Row = diesel::sql_query(sql).bind::<Binary, _>(id).get_result(c)?;
    let stamps = row.stamps.and_then(|bytes| starling_schema::codec::decode::<Stamps, STAMPS_BYTES_MAX>(&bytes).ok());
    let entry = if spec.id == Entry::MODEL { Some(details(c, id)?) } else { None };
    Ok(RecordReply {
        id,
        model: spec.name.to_owned(),
        alive: row.alive,
        owner: row.owner,
        fields: typed(spec, &row.fields),
        stamps: stamps.map(|stamps| stamp_rows(spec, &stamps)).unwrap_or_default(),
        entry,
    })
}

/// One SQL expression that holds all columns of a row; what JSON lacks is spelled in hexadecimal.
fn json_of_columns(spec: &ModelSpec) -> String {
    let columns: Vec<String> = spec
        .columns
        .iter()
        .map(|column| match column.kind {
            ColumnKind::Bytes | ColumnKind::Id => {
                format!("'{0}', iif({0} IS NULL, NULL, lower(hex({0})))", column.name)
            }
            _ => format!("'{0}', {0}", column.name),
        })
        .collect();
    format!("json_object({})", columns.join(", "))
}

/// The columns as people read them, without those that are not set.
fn typed(spec: &ModelSpec, fields: &str) -> Map<String, Json> {
    let raw: Map<String, Json> = serde_json::from_str(fields).unwrap_or_default();
    let mut typed = Map::new();
    for column in spec.columns {
        let Some(value) = raw.get(column.name).filter(|value| !value.is_null()) else { continue };
        let shown = match column.kind {
            ColumnKind::Bool => json!(value.as_i64() != Some(0)),
            ColumnKind::Id => value
                .as_str()
                .and_then(|digits| uuid::Uuid::try_parse(digits).ok())
                .map_or_else(|| value.clone(), |id| json!(id.to_string())),
            _ if spec.id == Entry::MODEL && column.field == Entry::KIND => json!(kind_name(value.as_i64())),
            _ => value.clone(),
        };
        typed.insert(column.name.to_owned(), shown);
    }
    typed
}

fn stamp_rows(spec: &ModelSpec, stamps: &Stamps) -> BTreeMap<String, StampRow> {
    let name = |field| spec.column(field).map_or_else(|| format!("field {field}"), |column| column.name.to_owned());
    let row = |stamp: &starling_schema::record::Stamp| StampRow {
        hlc: stamp.hlc.to_string(),
        at: stamp.hlc.wall_ms(),
        device: stamp.hlc.device,
    };
    stamps.fields.iter().map(|(field, stamp)| (name(*field), row(stamp))).collect()
}

#[derive(QueryableByName)]
struct Place {
    #[diesel(sql_type = Binary)]
    owner: DeviceId,
    #[diesel(sql_type = Nullable<Binary>)]
    content_hash: Option<Vec<u8>>,
}

#[derive(QueryableByName)]
struct Named {
    #[diesel(sql_type = Binary)]
    id: RecordId,
    #[diesel(sql_type = Nullable<Text>)]
    name: Option<String>,
}

fn details(c: &mut SqliteConnection, id: RecordId) -> Result<EntryDetails, CliError> {
    let place: Place =
        diesel::sql_query("SELECT owner, content_hash FROM entry WHERE id = ?").bind::<Binary, _>(id).get_result(c)?;
    let tags: Vec<Named> = diesel::sql_query(
        "SELECT DISTINCT t.id AS id, t.name AS name FROM tag_assignment a JOIN tag t ON t.id = a.tag
         WHERE a.alive = 1 AND t.alive = 1 AND (a.entry = ? OR a.content_hash = ?) ORDER BY t.name, t.id",
    )
    .bind::<Binary, _>(id)
    .bind::<Nullable<Binary>, _>(place.content_hash.as_deref())
    .load(c)?;
    let collections: Vec<Named> = diesel::sql_query(
        "SELECT n.id AS id, n.name AS name FROM collection_entry m JOIN collection n ON n.id = m.collection
         WHERE m.alive = 1 AND n.alive = 1 AND m.entry = ? ORDER BY n.name, n.id",
    )
    .bind::<Binary, _>(id)
    .load(c)?;
    let named = |rows: Vec<Named>| {
        rows.into_iter().map(|row| NamedRecord { id: row.id, name: row.name.unwrap_or_default() }).collect()
    };
    Ok(EntryDetails {
        path: Paths::default().by_id(c, id)?.unwrap_or_default(),
        device: name_of(c, "device", place.owner.record())?.unwrap_or_default(),
        tags: named(tags),
        collections: named(collections),
        metadata: metadata::of(c, id)?,
        copies: copies(c, id, place.content_hash)?,
    })
}

#[derive(QueryableByName)]
struct CopyRow {
    #[diesel(sql_type = Binary)]
    id: RecordId,
    #[diesel(sql_type = Binary)]
    owner: DeviceId,
}

fn copies(c: &mut SqliteConnection, id: RecordId, content: Option<Vec<u8>>) -> Result<Vec<Copy>, CliError> {
    let Some(content) = content else { return Ok(Vec::new()) };
    let rows: Vec<CopyRow> =
        diesel::sql_query("SELECT id, owner FROM entry WHERE content_hash = ? AND id <> ? ORDER BY id LIMIT ?")
            .bind::<Binary, _>(content)
            .bind::<Binary, _>(id)
            .bind::<BigInt, _>(COPIES_MAX)
            .load(c)?;
    let mut paths = Paths::default();
    rows.into_iter()
        .map(|row| {
            Ok(Copy {
                id: row.id,
                path: paths.by_id(c, row.id)?.unwrap_or_default(),
                device: name_of(c, "device", row.owner.record())?.unwrap_or_default(),
            })
        })
        .collect()
}

/// The columns of one live or deleted record, as [`show`] prints them; none when it is not there.
pub(crate) fn fields(
    c: &mut SqliteConnection,
    spec: &ModelSpec,
    id: RecordId,
) -> Result<Option<Map<String, Json>>, CliError> {
    #[derive(QueryableByName)]
    struct FieldsRow {
        #[diesel(sql_type = Text)]
        fields: String,
    }
    let sql = format!("SELECT {} AS fields FROM {} WHERE id = ?", json_of_columns(spec), spec.name);
    let row: Option<FieldsRow> = diesel::sql_query(sql).bind::<Binary, _>(id).get_result(c).optional()?;
    Ok(row.map(|row| typed(spec, &row.fields)))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, HERE, THERE, id, run};
    use super::*;

    fn typed_text(text: String) -> TargetText {
        TargetText { text, path: None }
    }

    #[test]
    fn an_entry_is_shown_with_its_tags_marks_and_copies() {
        let c = &mut fixture::library();
        fixture::location(c, HERE, id(1, 1), id(1, 2), "/here");
        fixture::location(c, THERE, id(2, 1), id(2, 2), "/there");
        fixture::entry(c, HERE, id(1, 1), id(1, 2), id(3, 1), "a.txt", None);
        fixture::entry(c, THERE, id(2, 1), id(2, 2), id(4, 1), "b.txt", None);
        run(c, "UPDATE entry SET content_hash = x'0aff' WHERE kind = 0");
        fixture::tag(c, id(5, 1), "red", true);
        fixture::assign(c, id(6, 1), id(5, 1), id(3, 1), true);
        let shown = show(c, HERE, &typed_text(id(3, 1).to_string())).unwrap();
        let entry = shown.entry.unwrap();
        assert_eq!((shown.model.as_str(), shown.owner, shown.alive), ("entry", Some(HERE), true));
        assert_eq!(shown.fields["content_hash"], json!("0aff"));
        assert_eq!((&shown.fields["kind"], &shown.fields["parent"]), (&json!("file"), &json!(id(1, 2).to_string())));
        assert_eq!((entry.path.as_str(), entry.tags.len()), ("/here/a.txt", 1));
        let [copy] = &entry.copies[..] else { panic!("not one copy") };
        assert_eq!((copy.path.as_str(), copy.device.as_str()), ("/there/b.txt", "desktop"));
    }

    #[test]
    fn records_of_every_model_can_be_read() {
        let c = &mut fixture::library();
        for (number, spec) in MODELS.iter().enumerate() {
            let record_id = id(0x7777, number as u128);
            let hex = fixture::hex(record_id);
            let (columns, values) = if spec.ownership.is_shared() {
                ("stamps, alive", "x'', 0".to_owned())
            } else {
                ("owner, version", format!("{}, 1", fixture::hex(HERE.record())))
            };
            run(c, &format!("INSERT INTO {} (id, {columns}) VALUES ({hex}, {values})", spec.name));
            let shown = record(c, spec, record_id).unwrap();
            assert_eq!((shown.model.as_str(), shown.alive), (spec.name, !spec.ownership.is_shared()));
        }
        let error = show(c, HERE, &typed_text("7777".to_owned())).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Ambiguous);
    }

    #[test]
    fn switches_and_ids_are_shown_as_such() {
        let c = &mut fixture::library();
        fixture::tag(c, id(5, 1), "red", true);
        run(c, "UPDATE tag SET hidden = 1");
        let shown = show(c, HERE, &typed_text(id(5, 1).to_string())).unwrap();
        assert_eq!(Json::Object(shown.fields), json!({"name": "red", "hidden": true}));
    }
}
