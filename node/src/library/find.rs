//! Searching the names of files and folders over all devices.

use std::collections::{BTreeSet, HashMap};

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Nullable, Text};
use diesel::sqlite::{Sqlite, SqliteConnection};
use starling_schema::ids::{DeviceId, RecordId};
use starling_schema::models::EntryKind;

use super::nesting::Nesting;
use super::paths::Paths;
use super::targets::{self, named};
use crate::api::{Entries, EntryRow, FindCall};
use crate::error::{CliError, ErrorKind};

/// The longest query: longer than any file system's names.
const QUERY_BYTES_MAX: usize = 1024;

#[derive(QueryableByName)]
struct Hit {
    #[diesel(sql_type = Binary)]
    id: RecordId,
    #[diesel(sql_type = Binary)]
    owner: DeviceId,
    #[diesel(sql_type = Nullable<Binary>)]
    location: Option<RecordId>,
    #[diesel(sql_type = Nullable<Binary>)]
    parent: Option<RecordId>,
    #[diesel(sql_type = Nullable<Text>)]
    name: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    kind: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    size: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    modified_at: Option<i64>,
    #[diesel(sql_type = Nullable<Binary>)]
    content_hash: Option<Vec<u8>>,
}

#[derive(QueryableByName)]
struct NameRow {
    #[diesel(sql_type = Nullable<Text>)]
    name: Option<String>,
}

/// The conditions of a search, as SQL with a bind for each question mark.
#[derive(Default)]
struct Conditions {
    sql: Vec<&'static str>,
    binds: Vec<Bind>,
}

enum Bind {
    Text(String),
    Id(RecordId),
    Int(i64),
}

/// The entries that a search asks for, in the order of their names; among these row numbers, where an index knows that
/// all that match are among them.
pub(crate) fn find(c: &mut SqliteConnection, call: &FindCall, among: Option<&[i64]>) -> Result<Entries, CliError> {
    let mut conditions = conditions(c, call)?;
    if let Some(rows) = among {
        conditions.sql.push("rowid IN (SELECT value FROM json_each(?))");
        conditions.binds.push(Bind::Text(serde_json::Value::from(rows).to_string()));
    }
    let limit = usize::try_from(call.limit).unwrap_or(usize::MAX);
    let mut hits = search(c, conditions, call.query.as_deref(), limit.saturating_add(1))?;
    let more = hits.len() > limit;
    hits.truncate(limit);
    let mut rows = Rows::default();
    let entries = hits.into_iter().map(|hit| rows.row(c, hit)).collect::<Result<_, _>>()?;
    Ok(Entries { entries, more })
}

fn conditions(c: &mut SqliteConnection, call: &FindCall) -> Result<Conditions, CliError> {
    let mut conditions = Conditions::default();
    let mut add = |sql, binds: Vec<Bind>| {
        conditions.sql.push(sql);
        conditions.binds.extend(binds);
    };
    if let Some(query) = &call.query {
        if query.len() > QUERY_BYTES_MAX {
            let message = format!("a name is at most {QUERY_BYTES_MAX} bytes long, this query has {}", query.len());
            return Err(CliError::new(ErrorKind::Invalid, message));
        }
        add("name LIKE ? ESCAPE '\\'", vec![Bind::Text(pattern(query))]);
    }
    if let Some(tag) = &call.tag {
        let tag = named(c, targets::TAGS, tag)?;
        let tags = id_list(&Nesting::load(c)?.within(tag.id));
        add(
            "(id IN (SELECT a.entry FROM tag_assignment a WHERE a.alive = 1 AND a.tag IN
                     (SELECT t.id FROM tag t JOIN json_each(?) j ON t.id = unhex(j.value) WHERE t.alive = 1))
              OR content_hash IN (SELECT a.content_hash FROM tag_assignment a WHERE a.alive = 1 AND a.tag IN
                     (SELECT t.id FROM tag t JOIN json_each(?) j ON t.id = unhex(j.value) WHERE t.alive = 1)))",
            vec![Bind::Text(tags.clone()), Bind::Text(tags)],
        );
    }
    if let Some(device) = &call.device {
        add("owner = ?", vec![Bind::Id(named(c, targets::DEVICES, device)?.id)]);
    }
    if let Some(collection) = &call.collection {
        let collection = named(c, targets::COLLECTIONS, collection)?;
        add(
            "id IN (SELECT entry FROM collection_entry WHERE alive = 1 AND collection = ?)",
            vec![Bind::Id(collection.id)],
        );
    }
    if let Some(kind) = call.kind {
        add("kind = ?", vec![Bind::Int(kind)]);
    }
    if call.favorite {
        add("id IN (SELECT target FROM user_metadata WHERE alive = 1 AND favorite = 1)", Vec::new());
    }
    Ok(conditions)
}

/// Ids as a JSON list of hexadecimal, so that any number of them is one bind.
fn id_list(ids: &BTreeSet<RecordId>) -> String {
    let digits: Vec<String> = ids.iter().map(|id| id.0.simple().to_string()).collect();
    serde_json::Value::from(digits).to_string()
}

/// A LIKE pattern that every name with this part matches. LIKE folds the case of ASCII only: other letters become
/// wildcards, and [`contains`] looks again.
fn pattern(query: &str) -> String {
    let mut pattern = String::from("%");
    for letter in query.chars() {
        match letter {
            '%' | '_' | '\\' => pattern.extend(['\\', letter]),
            ascii if ascii.is_ascii() => pattern.push(ascii),
            _ if pattern.ends_with('%') && !pattern.ends_with("\\%") => {}
            _ => pattern.push('%'),
        }
    }
    if !pattern.ends_with('%') || pattern.ends_with("\\%") {
        pattern.push('%');
    }
    pattern
}

fn contains(name: &str, folded_query: &str) -> bool {
    name.to_lowercase().contains(folded_query)
}

fn search(
    c: &mut SqliteConnection,
    conditions: Conditions,
    query: Option<&str>,
    limit: usize,
) -> Result<Vec<Hit>, CliError> {
    let looks_again = query.filter(|query| !query.is_ascii()).map(str::to_lowercase);
    let filter = if conditions.sql.is_empty() { "1".to_owned() } else { conditions.sql.join(" AND ") };
    let mut sql = format!(
        "SELECT id, owner, location, parent, name, kind, size, modified_at, content_hash FROM entry
         WHERE {filter} ORDER BY name COLLATE NOCASE, id"
    );
    if looks_again.is_none() {
        sql.push_str(" LIMIT ");
        sql.push_str(&limit.to_string());
    }
    let mut statement = diesel::sql_query(sql).into_boxed::<Sqlite>();
    for bind in conditions.binds {
        statement = match bind {
            Bind::Text(text) => statement.bind::<Text, _>(text),
            Bind::Id(id) => statement.bind::<Binary, _>(id),
            Bind::Int(number) => statement.bind::<BigInt, _>(number),
        };
    }
    let mut hits = Vec::new();
    for hit in statement.load_iter::<Hit, diesel::connection::DefaultLoadingMode>(c)? {
        let hit = hit?;
        let matches =
            looks_again.as_ref().is_none_or(|query| hit.name.as_deref().is_some_and(|name| contains(name, query)));
        if matches {
            hits.push(hit);
        }
        if hits.len() >= limit {
            break;
        }
    }
    Ok(hits)
}

/// Fills in what a row shows from other records; names of devices and locations are read once.
#[derive(Default)]
struct Rows {
    paths: Paths,
    devices: HashMap<RecordId, String>,
    locations: HashMap<RecordId, String>,
}

impl Rows {
    fn row(&mut self, c: &mut SqliteConnection, hit: Hit) -> Result<EntryRow, CliError> {
        let name = hit.name.unwrap_or_default();
        let path = self.paths.of(c, hit.location, hit.parent, &name)?;
        let device = cached(&mut self.devices, hit.owner.record(), |id| name_of(c, "device", id))?;
        let location = match hit.location {
            Some(location) => cached(&mut self.locations, location, |id| name_of(c, "location", id))?,
            None => String::new(),
        };
        Ok(EntryRow {
            tags: tag_names(c, hit.id, hit.content_hash.as_deref())?,
            id: hit.id,
            name,
            path,
            kind: kind_name(hit.kind).to_owned(),
            size: hit.size,
            modified_at: hit.modified_at,
            device,
            device_id: hit.owner,
            location,
            location_id: hit.location,
        })
    }
}

fn cached(
    known: &mut HashMap<RecordId, String>,
    id: RecordId,
    read: impl FnOnce(RecordId) -> Result<Option<String>, CliError>,
) -> Result<String, CliError> {
    if let Some(name) = known.get(&id) {
        return Ok(name.clone());
    }
    let name = read(id)?.unwrap_or_default();
    known.insert(id, name.clone());
    Ok(name)
}

/// The name of a record, if it is there and has one.
pub(crate) fn name_of(c: &mut SqliteConnection, table: &'static str, id: RecordId) -> Result<Option<String>, CliError> {
    let row: Option<NameRow> = diesel::sql_query(format!("SELECT name FROM {table} WHERE id = ?"))
        .bind::<Binary, _>(id)
        .get_result(c)
        .optional()?;
    Ok(row.and_then(|row| row.name))
}

/// What people call a kind of entry.
pub(crate) fn kind_name(code: Option<i64>) -> &'static str {
    code.and_then(EntryKind::from_code).map_or("unknown", EntryKind::name)
}

fn tag_names(c: &mut SqliteConnection, entry: RecordId, content: Option<&[u8]>) -> Result<Vec<String>, CliError> {
    let rows: Vec<NameRow> = diesel::sql_query(
        "SELECT DISTINCT t.name AS name FROM tag_assignment a JOIN tag t ON t.id = a.tag
         WHERE a.alive = 1 AND t.alive = 1 AND (a.entry = ? OR a.content_hash = ?) ORDER BY t.name",
    )
    .bind::<Binary, _>(entry)
    .bind::<Nullable<Binary>, _>(content)
    .load(c)?;
    Ok(rows.into_iter().filter_map(|row| row.name).collect())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, HERE, THERE, id, run};
    use super::*;

    fn everything() -> FindCall {
        FindCall { query: None, tag: None, device: None, collection: None, kind: None, favorite: false, limit: 100 }
    }

    fn names(c: &mut SqliteConnection, call: &FindCall) -> Vec<String> {
        find(c, call, None).unwrap().entries.into_iter().map(|entry| entry.name).collect()
    }

    fn named_like(c: &mut SqliteConnection, query: &str) -> Vec<String> {
        names(c, &FindCall { query: Some(query.to_owned()), ..everything() })
    }

    /// Files of odd names here, one file there.
    fn library() -> SqliteConnection {
        let mut c = fixture::library();
        fixture::location(&mut c, HERE, id(1, 1), id(1, 2), "/here");
        fixture::location(&mut c, THERE, id(2, 1), id(2, 2), "/there");
        let odd =
            ["100%.txt", "100x.txt", "under_score", "it's \"quoted\"", "back\\slash", "ÜBER Straße.md", "plain.MD"];
        for (number, name) in odd.iter().enumerate() {
            fixture::entry(&mut c, HERE, id(1, 1), id(1, 2), id(3, number as u128), name, None);
        }
        fixture::entry(&mut c, HERE, id(1, 1), id(1, 2), id(3, 100), "bad\u{fffd}.bin", Some(b"bad\xff.bin"));
        fixture::entry(&mut c, THERE, id(2, 1), id(2, 2), id(4, 1), "plain.md", None);
        c
    }

    #[test]
    fn a_query_is_a_part_of_the_name_and_nothing_in_it_is_special() {
        let c = &mut library();
        assert_eq!(named_like(c, "100%"), ["100%.txt"]);
        assert_eq!(named_like(c, "r_s"), ["under_score"]);
        assert_eq!(named_like(c, "\\"), ["back\\slash"]);
        assert_eq!(named_like(c, "it's \"Q"), ["it's \"quoted\""]);
        assert_eq!(named_like(c, "\u{fffd}"), ["bad\u{fffd}.bin"]);
        assert_eq!(named_like(c, "'; DROP TABLE entry; --"), Vec::<String>::new());
    }

    #[test]
    fn case_does_not_matter_in_any_script() {
        let c = &mut library();
        assert_eq!(named_like(c, "PLAIN"), ["plain.MD", "plain.md"]);
        assert_eq!(named_like(c, "über str"), ["ÜBER Straße.md"]);
        assert_eq!(named_like(c, "ober"), Vec::<String>::new());
        assert_eq!(named_like(c, "öber"), Vec::<String>::new());
    }

    #[test]
    fn rows_name_path_device_and_location() {
        let c = &mut library();
        let found = find(
            c,
            &FindCall { query: Some("plain".to_owned()), device: Some("desktop".to_owned()), ..everything() },
            None,
        );
        let [row] = &found.unwrap().entries[..] else { panic!("not one row") };
        assert_eq!(
            (row.path.as_str(), row.device.as_str(), row.location.as_str()),
            ("/there/plain.md", "desktop", "files")
        );
        assert_eq!((row.kind.as_str(), row.size, row.device_id), ("file", Some(10), THERE));
    }

    #[test]
    fn only_live_assignments_of_live_tags_count() {
        let c = &mut library();
        fixture::tag(c, id(5, 1), "red", true);
        fixture::tag(c, id(5, 2), "gone", false);
        fixture::assign(c, id(6, 1), id(5, 1), id(3, 0), true);
        fixture::assign(c, id(6, 2), id(5, 1), id(3, 1), false);
        fixture::assign(c, id(6, 3), id(5, 2), id(3, 0), true);
        fixture::assign(c, id(6, 4), id(5, 1), id(99, 99), true);
        let red = find(c, &FindCall { tag: Some("red".to_owned()), ..everything() }, None).unwrap().entries;
        assert_eq!(red.len(), 1);
        assert_eq!((red[0].name.as_str(), &red[0].tags[..]), ("100%.txt", &["red".to_owned()][..]));
        let gone = find(c, &FindCall { tag: Some("gone".to_owned()), ..everything() }, None).unwrap_err();
        assert_eq!(gone.kind, ErrorKind::NotFound);
    }

    #[test]
    fn a_tag_on_a_content_shows_on_every_copy() {
        let c = &mut library();
        fixture::tag(c, id(5, 1), "red", true);
        for (head, tail) in [(3, 6), (4, 1)] {
            run(c, &format!("UPDATE entry SET content_hash = x'0a0b' WHERE id = {}", fixture::hex(id(head, tail))));
        }
        run(
            c,
            &format!(
                "INSERT INTO tag_assignment (id, tag, content_hash, stamps, alive) VALUES (x'01', {}, x'0a0b', x'', 1)",
                fixture::hex(id(5, 1))
            ),
        );
        let red = FindCall { tag: Some("red".to_owned()), ..everything() };
        assert_eq!(names(c, &red), ["plain.MD", "plain.md"]);
    }

    #[test]
    fn nested_tags_are_found_and_circles_end() {
        let c = &mut library();
        for (tail, name) in [(1, "outer"), (2, "inner")] {
            fixture::tag(c, id(5, tail), name, true);
            fixture::assign(c, id(6, tail), id(5, tail), id(3, tail), true);
        }
        fixture::nest(c, id(5, 1), id(5, 2), 10);
        fixture::nest(c, id(5, 2), id(5, 1), 20);
        assert_eq!(names(c, &FindCall { tag: Some("outer".to_owned()), ..everything() }), ["100x.txt", "under_score"]);
        assert_eq!(names(c, &FindCall { tag: Some("inner".to_owned()), ..everything() }), ["under_score"]);
    }

    #[test]
    fn favourites_kinds_and_limits_narrow_a_search() {
        let c = &mut library();
        run(
            c,
            &format!(
                "INSERT INTO user_metadata (id, target, favorite, stamps, alive) VALUES (x'01', {}, 1, x'', 1)",
                fixture::hex(id(3, 2))
            ),
        );
        assert_eq!(names(c, &FindCall { favorite: true, ..everything() }), ["under_score"]);
        assert_eq!(names(c, &FindCall { kind: Some(1), ..everything() }), ["files", "files"]);
        let two = find(c, &FindCall { limit: 2, ..everything() }, None).unwrap();
        assert_eq!((two.entries.len(), two.more), (2, true));
        assert!(!find(c, &everything(), None).unwrap().more);
    }
}
