//! Tags: making and changing them, putting them on files and contents, and inside each other.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Bool, Nullable, Text};
use diesel::sqlite::SqliteConnection;
use starling::PeerHandle;
use starling_schema::change::Write;
use starling_schema::ids::RecordId;
use starling_schema::model::Syncable;
use starling_schema::models::{Tag, TagAssignment, TagRelationship, Target};
use starling_schema::value::{Fields, Value};

use super::find::name_of;
use super::nesting::Nesting;
use super::targets::{self, named};
use super::{commit, read, set_text};
use crate::api::{Assigned, AssignedTarget, NamedRecord, Nested, TagAssign, TagFields, TagNest, TagRow, Tags};
use crate::error::{CliError, ErrorKind};

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Binary)]
    id: RecordId,
    #[diesel(sql_type = Nullable<Text>)]
    name: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    namespace: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    color: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    icon: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    description: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    aliases: Option<String>,
    #[diesel(sql_type = Nullable<Bool>)]
    hidden: Option<bool>,
    #[diesel(sql_type = Bool)]
    alive: bool,
    #[diesel(sql_type = BigInt)]
    assignments: i64,
}

const COLUMNS: &str = "SELECT t.id, t.name, t.namespace, t.color, t.icon, t.description, t.aliases, t.hidden, t.alive,
    (SELECT count(*) FROM tag_assignment a WHERE a.tag = t.id AND a.alive = 1) AS assignments FROM tag t";

/// The tags that are there, by name.
pub(crate) fn all(c: &mut SqliteConnection) -> Result<Tags, CliError> {
    let sql = format!("{COLUMNS} WHERE t.alive = 1 ORDER BY t.name COLLATE NOCASE, t.id");
    let rows: Vec<Row> = diesel::sql_query(sql).load(c)?;
    let nesting = Nesting::load(c)?;
    let tags = rows.into_iter().map(|row| with_parents(c, &nesting, row)).collect::<Result<_, _>>()?;
    Ok(Tags { tags })
}

/// One tag, there or deleted.
pub(crate) fn one(c: &mut SqliteConnection, id: RecordId) -> Result<TagRow, CliError> {
    let row: Option<Row> =
        diesel::sql_query(format!("{COLUMNS} WHERE t.id = ?")).bind::<Binary, _>(id).get_result(c).optional()?;
    let row = row.ok_or_else(|| CliError::new(ErrorKind::NotFound, format!("no tag has the id {id}")))?;
    let nesting = Nesting::load(c)?;
    with_parents(c, &nesting, row)
}

fn with_parents(c: &mut SqliteConnection, nesting: &Nesting, row: Row) -> Result<TagRow, CliError> {
    let mut parents = Vec::new();
    for id in nesting.parents(row.id) {
        if let Some(name) = name_of(c, "tag", id)? {
            parents.push(NamedRecord { id, name });
        }
    }
    Ok(TagRow {
        id: row.id,
        name: row.name.unwrap_or_default(),
        namespace: row.namespace,
        color: row.color,
        icon: row.icon,
        description: row.description,
        aliases: row.aliases,
        hidden: row.hidden.unwrap_or_default(),
        alive: row.alive,
        assignments: row.assignments,
        parents,
    })
}

/// What was said of a tag as the fields of its record.
fn fields(said: TagFields) -> Result<Fields, CliError> {
    check_name("tag", said.name.as_deref())?;
    check_color(said.color.as_deref())?;
    let mut fields = Fields::new();
    set_text(&mut fields, Tag::NAME, said.name);
    set_text(&mut fields, Tag::NAMESPACE, said.namespace);
    set_text(&mut fields, Tag::COLOR, said.color);
    set_text(&mut fields, Tag::ICON, said.icon);
    set_text(&mut fields, Tag::DESCRIPTION, said.description);
    set_text(&mut fields, Tag::ALIASES, said.aliases);
    if let Some(hidden) = said.hidden {
        fields.set(Tag::HIDDEN, Value::Bool(hidden));
    }
    Ok(fields)
}

/// Refuses a name that people could not see.
pub(crate) fn check_name(noun: &str, name: Option<&str>) -> Result<(), CliError> {
    match name {
        Some(name) if name.trim().is_empty() => {
            Err(CliError::new(ErrorKind::Invalid, format!("a {noun} needs a name that is not empty")))
        }
        Some(name) if name.chars().any(char::is_control) => Err(CliError::new(
            ErrorKind::Invalid,
            format!("the name {name:?} holds a line break or another control character"),
        )),
        _ => Ok(()),
    }
}

/// Refuses what is not `#rrggbb`.
pub(crate) fn check_color(color: Option<&str>) -> Result<(), CliError> {
    let fits = |color: &str| {
        color.strip_prefix('#').is_some_and(|hex| hex.len() == 6 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    match color {
        Some(color) if !color.is_empty() && !fits(color) => {
            Err(CliError::new(ErrorKind::Invalid, format!("{color:?} is no colour: write it like #ff8800")))
        }
        _ => Ok(()),
    }
}

/// Makes a tag. Another of the same name may be there already: they are two.
pub(crate) async fn new(peer: &PeerHandle, said: TagFields) -> Result<TagRow, CliError> {
    let mut fields = fields(said)?;
    if fields.get(Tag::NAME).is_none() {
        return Err(CliError::new(ErrorKind::Invalid, "a tag needs a name"));
    }
    // A new record says nothing where there is nothing to say.
    let cleared: Vec<_> = fields.iter().filter(|(_, value)| **value == Value::Null).map(|(field, _)| field).collect();
    for field in cleared {
        fields.remove(field);
    }
    let id = peer.environment().new_id();
    commit(peer, vec![Write::put(Tag::MODEL, id, fields)]).await?;
    read(peer, move |c| one(c, id)).await
}

/// Changes what is said of a tag.
pub(crate) async fn edit(peer: &PeerHandle, tag: String, said: TagFields) -> Result<TagRow, CliError> {
    let fields = fields(said)?;
    if fields.is_empty() {
        return Err(CliError::new(ErrorKind::Usage, "nothing to change was given")
            .hint("`starling tag edit --help` lists what can be"));
    }
    let id = read(peer, move |c| named(c, targets::TAGS, &tag)).await?.id;
    commit(peer, vec![Write::patch(Tag::MODEL, id, fields)]).await?;
    read(peer, move |c| one(c, id)).await
}

/// Deletes a tag.
pub(crate) async fn delete(peer: &PeerHandle, tag: String) -> Result<TagRow, CliError> {
    let id = read(peer, move |c| named(c, targets::TAGS, &tag)).await?.id;
    commit(peer, vec![Write::delete(Tag::MODEL, id)]).await?;
    read(peer, move |c| one(c, id)).await
}

/// Brings a deleted tag back with all that was said of it.
pub(crate) async fn restore(peer: &PeerHandle, tag: String) -> Result<TagRow, CliError> {
    let id = read(peer, move |c| named(c, targets::DELETED_TAGS, &tag)).await?.id;
    commit(peer, vec![Write::restore(Tag::MODEL, id)]).await?;
    read(peer, move |c| one(c, id)).await
}

#[derive(QueryableByName)]
struct HashRow {
    #[diesel(sql_type = Nullable<Binary>)]
    content_hash: Option<Vec<u8>>,
}

fn content_of(c: &mut SqliteConnection, entry: RecordId, text: &str) -> Result<Vec<u8>, CliError> {
    let row: Option<HashRow> = diesel::sql_query("SELECT content_hash FROM entry WHERE id = ?")
        .bind::<Binary, _>(entry)
        .get_result(c)
        .optional()?;
    row.and_then(|row| row.content_hash).ok_or_else(|| {
        let message = format!("the content of {text} is not known: it is no file, or it was not read yet");
        CliError::new(ErrorKind::Invalid, message).hint("wait for the scan to end, or leave --content out")
    })
}

/// Puts a tag on entries or contents, or takes it off.
pub(crate) async fn assign(peer: &PeerHandle, call: TagAssign) -> Result<Assigned, CliError> {
    let TagAssign { tag, targets: wanted, content, on } = call;
    let here = peer.device();
    let (tag, assignments) = read(peer, move |c| {
        let tag = named(c, targets::TAGS, &tag)?;
        let mut assignments = Vec::with_capacity(wanted.len());
        for target in &wanted {
            let entry = targets::entry(c, here, target)?;
            let target =
                if content { Target::Content(content_of(c, entry, &target.text)?) } else { Target::Entry(entry) };
            assignments.push((entry, TagAssignment::of(tag.id, &target)));
        }
        Ok((tag, assignments))
    })
    .await?;
    let write = |assignment: &TagAssignment| {
        if on { assignment.put() } else { Write::delete(TagAssignment::MODEL, assignment.id) }
    };
    let present = existing(peer, assignments.iter().map(|(_, assignment)| assignment.id).collect()).await?;
    let due = assignments.iter().filter(|(_, assignment)| present.contains(&assignment.id) != on);
    commit(peer, due.map(|(_, assignment)| write(assignment)).collect()).await?;
    let rows = assignments
        .into_iter()
        .map(|(entry, assignment)| AssignedTarget {
            id: assignment.id,
            entry,
            content_hash: assignment.content_hash.map(hex::encode),
        })
        .collect();
    Ok(Assigned { tag: read(peer, move |c| one(c, tag.id)).await?, targets: rows })
}

#[derive(QueryableByName)]
struct Present {
    #[diesel(sql_type = Binary)]
    id: RecordId,
}

/// Which of these assignments are there: what is as wanted already is not written again.
async fn existing(peer: &PeerHandle, ids: Vec<RecordId>) -> Result<Vec<RecordId>, CliError> {
    read(peer, move |c| {
        let mut present = Vec::new();
        for id in ids {
            let sql = "SELECT id FROM tag_assignment WHERE id = ? AND alive = 1";
            let row: Option<Present> = diesel::sql_query(sql).bind::<Binary, _>(id).get_result(c).optional()?;
            present.extend(row.map(|row| row.id));
        }
        Ok(present)
    })
    .await
}

/// Puts a tag inside another, or takes it out.
pub(crate) async fn nest(peer: &PeerHandle, call: TagNest) -> Result<Nested, CliError> {
    let TagNest { parent, child, on } = call;
    let (parent, child) = read(peer, move |c| {
        let (parent, child) = (named(c, targets::TAGS, &parent)?, named(c, targets::TAGS, &child)?);
        if on && Nesting::load(c)?.within(child.id).contains(&parent.id) {
            let message = format!("{:?} lies in {:?} already: a tag cannot be inside itself", parent.name, child.name);
            return Err(CliError::new(ErrorKind::Invalid, message));
        }
        Ok((parent, child))
    })
    .await?;
    let edge = TagRelationship::between(parent.id, child.id);
    let id = edge.id;
    commit(peer, vec![if on { edge.put() } else { Write::delete(TagRelationship::MODEL, id) }]).await?;
    Ok(Nested { id, parent, child, on })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, id};
    use super::*;

    #[test]
    fn tags_are_listed_with_their_counts_and_what_they_lie_in() {
        let c = &mut fixture::library();
        fixture::tag(c, id(5, 1), "trips", true);
        fixture::tag(c, id(5, 2), "Alps", true);
        fixture::tag(c, id(5, 3), "gone", false);
        fixture::assign(c, id(6, 1), id(5, 2), id(3, 1), true);
        fixture::assign(c, id(6, 2), id(5, 2), id(3, 2), false);
        fixture::nest(c, id(5, 1), id(5, 2), 1);
        let tags = all(c).unwrap().tags;
        let listed: Vec<_> = tags.iter().map(|tag| (tag.name.as_str(), tag.assignments)).collect();
        assert_eq!(listed, [("Alps", 1), ("trips", 0)]);
        assert_eq!(tags[0].parents, [NamedRecord { id: id(5, 1), name: "trips".to_owned() }]);
        assert!(!one(c, id(5, 3)).unwrap().alive);
    }

    #[test]
    fn what_is_absent_stays_and_what_is_empty_is_cleared() {
        let said = TagFields { color: Some(String::new()), hidden: Some(true), ..TagFields::default() };
        let fields = fields(said).unwrap();
        assert_eq!((fields.get(Tag::NAME), fields.get(Tag::COLOR)), (None, Some(&Value::Null)));
        assert_eq!(fields.get(Tag::HIDDEN), Some(&Value::Bool(true)));
    }

    #[test]
    fn names_and_colours_that_cannot_be_are_refused() {
        for wrong in ["", " ", "a\nb"] {
            assert!(check_name("tag", Some(wrong)).is_err(), "{wrong:?}");
        }
        for wrong in ["red", "#12", "#12345g", "123456"] {
            assert!(check_color(Some(wrong)).is_err(), "{wrong:?}");
        }
        assert_eq!(check_color(Some("#ff8800")), Ok(()));
    }
}
