//! Collections: making and changing them, putting files in and taking them out.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Bool, Double, Nullable, Text};
use diesel::sqlite::SqliteConnection;
use starling::PeerHandle;
use starling_schema::change::Write;
use starling_schema::ids::RecordId;
use starling_schema::model::Syncable;
use starling_schema::models::{Collection, CollectionEntry};
use starling_schema::value::{Fields, Value};

use super::tags::{check_color, check_name};
use super::targets::{self, named};
use super::{commit, read, set_text};
use crate::api::{Collect, Collected, CollectionFields, CollectionRow, Collections};
use crate::error::{CliError, ErrorKind};

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Binary)]
    id: RecordId,
    #[diesel(sql_type = Nullable<Text>)]
    name: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    color: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    description: Option<String>,
    #[diesel(sql_type = Bool)]
    alive: bool,
    #[diesel(sql_type = BigInt)]
    entries: i64,
}

impl From<Row> for CollectionRow {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            name: row.name.unwrap_or_default(),
            color: row.color,
            description: row.description,
            alive: row.alive,
            entries: row.entries,
        }
    }
}

const COLUMNS: &str = "SELECT n.id, n.name, n.color, n.description, n.alive,
    (SELECT count(*) FROM collection_entry m WHERE m.collection = n.id AND m.alive = 1) AS entries FROM collection n";

/// The collections that are there, by name.
pub(crate) fn all(c: &mut SqliteConnection) -> Result<Collections, CliError> {
    let sql = format!("{COLUMNS} WHERE n.alive = 1 ORDER BY n.name COLLATE NOCASE, n.id");
    let rows: Vec<Row> = diesel::sql_query(sql).load(c)?;
    Ok(Collections { collections: rows.into_iter().map(Into::into).collect() })
}

/// One collection, there or deleted.
pub(crate) fn one(c: &mut SqliteConnection, id: RecordId) -> Result<CollectionRow, CliError> {
    let row: Option<Row> =
        diesel::sql_query(format!("{COLUMNS} WHERE n.id = ?")).bind::<Binary, _>(id).get_result(c).optional()?;
    row.map(Into::into).ok_or_else(|| CliError::new(ErrorKind::NotFound, format!("no collection has the id {id}")))
}

fn fields(said: CollectionFields) -> Result<Fields, CliError> {
    check_name("collection", said.name.as_deref())?;
    check_color(said.color.as_deref())?;
    let mut fields = Fields::new();
    set_text(&mut fields, Collection::NAME, said.name);
    set_text(&mut fields, Collection::COLOR, said.color);
    set_text(&mut fields, Collection::DESCRIPTION, said.description);
    Ok(fields)
}

/// Makes a collection. Another of the same name may be there already: they are two.
pub(crate) async fn new(peer: &PeerHandle, said: CollectionFields) -> Result<CollectionRow, CliError> {
    let fields: Fields = fields(said)?.into_iter().filter(|(_, value)| *value != Value::Null).collect();
    if fields.get(Collection::NAME).is_none() {
        return Err(CliError::new(ErrorKind::Invalid, "a collection needs a name"));
    }
    let id = peer.environment().new_id();
    commit(peer, vec![Write::put(Collection::MODEL, id, fields)]).await?;
    read(peer, move |c| one(c, id)).await
}

/// Changes what is said of a collection.
pub(crate) async fn edit(
    peer: &PeerHandle,
    collection: String,
    said: CollectionFields,
) -> Result<CollectionRow, CliError> {
    let fields = fields(said)?;
    if fields.is_empty() {
        return Err(CliError::new(ErrorKind::Usage, "nothing to change was given")
            .hint("`starling collection edit --help` lists what can be"));
    }
    let id = read(peer, move |c| named(c, targets::COLLECTIONS, &collection)).await?.id;
    commit(peer, vec![Write::patch(Collection::MODEL, id, fields)]).await?;
    read(peer, move |c| one(c, id)).await
}

/// Deletes a collection; the files in it stay.
pub(crate) async fn delete(peer: &PeerHandle, collection: String) -> Result<CollectionRow, CliError> {
    let id = read(peer, move |c| named(c, targets::COLLECTIONS, &collection)).await?.id;
    commit(peer, vec![Write::delete(Collection::MODEL, id)]).await?;
    read(peer, move |c| one(c, id)).await
}

/// Brings a deleted collection back with all that was in it.
pub(crate) async fn restore(peer: &PeerHandle, collection: String) -> Result<CollectionRow, CliError> {
    let id = read(peer, move |c| named(c, targets::DELETED_COLLECTIONS, &collection)).await?.id;
    commit(peer, vec![Write::restore(Collection::MODEL, id)]).await?;
    read(peer, move |c| one(c, id)).await
}

#[derive(QueryableByName)]
struct Member {
    #[diesel(sql_type = Nullable<Binary>)]
    entry: Option<RecordId>,
    #[diesel(sql_type = Nullable<Double>)]
    position: Option<f64>,
}

fn members(c: &mut SqliteConnection, collection: RecordId) -> Result<Vec<Member>, CliError> {
    let sql = "SELECT entry, position FROM collection_entry WHERE collection = ? AND alive = 1";
    Ok(diesel::sql_query(sql).bind::<Binary, _>(collection).load(c)?)
}

/// Puts entries at the end of a collection, or takes them out. What is as wanted already is not written again.
pub(crate) async fn collect(peer: &PeerHandle, call: Collect) -> Result<Collected, CliError> {
    let Collect { collection, targets: wanted, on } = call;
    let here = peer.device();
    let (id, entries, writes) = read(peer, move |c| {
        let id = named(c, targets::COLLECTIONS, &collection)?.id;
        let entries: Vec<RecordId> =
            wanted.iter().map(|target| targets::entry(c, here, target)).collect::<Result<_, _>>()?;
        let writes = changes(id, &members(c, id)?, &entries, on);
        Ok((id, entries, writes))
    })
    .await?;
    commit(peer, writes).await?;
    Ok(Collected { collection: read(peer, move |c| one(c, id)).await?, targets: entries })
}

/// The writes that bring entries in, each after the last, or out.
fn changes(collection: RecordId, members: &[Member], entries: &[RecordId], on: bool) -> Vec<Write> {
    let mut last = members.iter().filter_map(|member| member.position).fold(0.0, f64::max);
    let mut writes = Vec::new();
    for entry in entries {
        let present = members.iter().any(|member| member.entry == Some(*entry));
        let mut membership = CollectionEntry::of(collection, *entry);
        if present == on || writes.iter().any(|write: &Write| write.record == membership.id) {
            continue;
        }
        if on {
            last += 1.0;
            membership.position = Some(last);
            writes.push(membership.put());
        } else {
            writes.push(Write::delete(CollectionEntry::MODEL, membership.id));
        }
    }
    writes
}

#[cfg(test)]
mod tests {
    use starling_schema::change::Action;

    use super::super::fixture::{self, hex, id, run};
    use super::*;

    #[test]
    fn new_members_come_last_and_old_ones_are_left_alone() {
        let members = [Member { entry: Some(id(3, 1)), position: Some(4.0) }];
        let writes = changes(id(8, 1), &members, &[id(3, 1), id(3, 2), id(3, 3), id(3, 2)], true);
        let positions: Vec<_> = writes
            .iter()
            .map(|write| match &write.action {
                Action::Put(fields) => fields.get(CollectionEntry::POSITION).cloned(),
                _ => None,
            })
            .collect();
        assert_eq!(positions, [Some(Value::Real(5.0)), Some(Value::Real(6.0))]);
        assert_eq!(changes(id(8, 1), &members, &[id(3, 1), id(3, 2)], false).len(), 1);
    }

    #[test]
    fn collections_are_listed_with_their_live_members() {
        let c = &mut fixture::library();
        let n = hex(id(8, 1));
        run(c, &format!("INSERT INTO collection (id, name, stamps, alive) VALUES ({n}, 'best', x'', 1)"));
        run(
            c,
            &format!(
                "INSERT INTO collection_entry (id, collection, entry, stamps, alive) VALUES (x'01', {n}, x'0a', x'', 1), (x'02', {n}, x'0b', x'', 0)"
            ),
        );
        let [row] = &all(c).unwrap().collections[..] else { panic!("not one collection") };
        assert_eq!((row.name.as_str(), row.entries), ("best", 1));
        run(c, "UPDATE collection SET alive = 0");
        assert_eq!((all(c).unwrap().collections.len(), one(c, id(8, 1)).unwrap().alive), (0, false));
    }
}
