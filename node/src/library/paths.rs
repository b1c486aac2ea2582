//! The paths of entries: a location's path and the names down the chain of parents.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_types::{Binary, Nullable, Text};
use diesel::sqlite::SqliteConnection;
use starling_schema::ids::RecordId;

/// The deepest nesting that is followed: beyond what file systems allow in a path, and an end to parents in a circle.
const DEPTH_MAX: usize = 1024;

/// What stands for the part of a path that is not known: its records have not arrived.
const UNKNOWN: &str = "…";

/// Turns entries into paths and remembers folders, so that a listing walks each of them once.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    folders: HashMap<RecordId, String>,
    locations: HashMap<RecordId, Option<String>>,
}

#[derive(QueryableByName)]
struct FolderRow {
    #[diesel(sql_type = Binary)]
    id: RecordId,
    #[diesel(sql_type = Nullable<Binary>)]
    parent: Option<RecordId>,
    #[diesel(sql_type = Nullable<Binary>)]
    location: Option<RecordId>,
    #[diesel(sql_type = Nullable<Text>)]
    name: Option<String>,
}

#[derive(QueryableByName)]
struct PathRow {
    #[diesel(sql_type = Nullable<Text>)]
    path: Option<String>,
}

impl Paths {
    /// The path of an entry from its own columns, as text: names that are not UTF-8 are shown lossily.
    pub(crate) fn of(
        &mut self,
        c: &mut SqliteConnection,
        location: Option<RecordId>,
        parent: Option<RecordId>,
        name: &str,
    ) -> Result<String, diesel::result::Error> {
        match parent {
            None => self.location(c, location),
            Some(parent) => Ok(joined(&self.folder(c, parent, location)?, name)),
        }
    }

    /// The path of an entry by its id; none when it is not there.
    pub(crate) fn by_id(
        &mut self,
        c: &mut SqliteConnection,
        entry: RecordId,
    ) -> Result<Option<String>, diesel::result::Error> {
        let Some(row) = folder_row(c, entry)? else { return Ok(None) };
        self.of(c, row.location, row.parent, row.name.as_deref().unwrap_or(UNKNOWN)).map(Some)
    }

    fn folder(
        &mut self,
        c: &mut SqliteConnection,
        folder: RecordId,
        location: Option<RecordId>,
    ) -> Result<String, diesel::result::Error> {
        let mut below: Vec<(RecordId, String)> = Vec::new();
        let mut at = folder;
        let mut path = loop {
            if let Some(known) = self.folders.get(&at) {
                break known.clone();
            }
            if below.len() >= DEPTH_MAX {
                break UNKNOWN.to_owned();
            }
            let Some(row) = folder_row(c, at)? else {
                break joined(&self.location(c, location)?, UNKNOWN);
            };
            match row.parent {
                None => {
                    let root = self.location(c, row.location)?;
                    self.folders.insert(row.id, root.clone());
                    break root;
                }
                Some(parent) => {
                    below.push((row.id, row.name.unwrap_or_else(|| UNKNOWN.to_owned())));
                    at = parent;
                }
            }
        };
        for (id, name) in below.into_iter().rev() {
            path = joined(&path, &name);
            self.folders.insert(id, path.clone());
        }
        Ok(path)
    }

    fn location(
        &mut self,
        c: &mut SqliteConnection,
        location: Option<RecordId>,
    ) -> Result<String, diesel::result::Error> {
        let Some(location) = location else { return Ok(UNKNOWN.to_owned()) };
        if let Some(known) = self.locations.get(&location) {
            return Ok(known.clone().unwrap_or_else(|| UNKNOWN.to_owned()));
        }
        let row: Option<PathRow> = diesel::sql_query("SELECT path FROM location WHERE id = ?")
            .bind::<Binary, _>(location)
            .get_result(c)
            .optional()?;
        let path = row.and_then(|row| row.path);
        self.locations.insert(location, path.clone());
        Ok(path.unwrap_or_else(|| UNKNOWN.to_owned()))
    }
}

fn folder_row(c: &mut SqliteConnection, id: RecordId) -> Result<Option<FolderRow>, diesel::result::Error> {
    diesel::sql_query("SELECT id, parent, location, name FROM entry WHERE id = ?")
        .bind::<Binary, _>(id)
        .get_result(c)
        .optional()
}

/// Joins by the separator that the folder's own device uses.
fn joined(folder: &str, name: &str) -> String {
    let separator = if folder.contains('\\') && !folder.contains('/') { '\\' } else { '/' };
    if folder.ends_with(separator) { format!("{folder}{name}") } else { format!("{folder}{separator}{name}") }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, HERE, id};
    use super::*;

    #[test]
    fn a_path_is_the_location_and_the_names_below_it() {
        let c = &mut fixture::library();
        let (location, root) = (id(1, 1), id(1, 2));
        fixture::location(c, HERE, location, root, "/data");
        fixture::entry(c, HERE, location, root, id(2, 1), "a", None);
        fixture::entry(c, HERE, location, id(2, 1), id(2, 2), "b", None);
        let mut paths = Paths::default();
        assert_eq!(paths.by_id(c, id(2, 2)), Ok(Some("/data/a/b".to_owned())));
        assert_eq!(paths.by_id(c, root), Ok(Some("/data".to_owned())));
        assert_eq!(paths.by_id(c, id(9, 9)), Ok(None));
    }

    #[test]
    fn missing_parents_and_parents_in_a_circle_end_in_an_unknown_part() {
        let c = &mut fixture::library();
        fixture::entry(c, HERE, id(1, 1), id(8, 8), id(2, 1), "orphan", None);
        fixture::entry(c, HERE, id(1, 1), id(3, 2), id(3, 1), "x", None);
        fixture::entry(c, HERE, id(1, 1), id(3, 1), id(3, 2), "y", None);
        let mut paths = Paths::default();
        assert_eq!(paths.by_id(c, id(2, 1)), Ok(Some("…/…/orphan".to_owned())));
        assert!(paths.by_id(c, id(3, 1)).unwrap().unwrap().starts_with('…'));
    }

    #[test]
    fn a_path_of_windows_keeps_its_separator() {
        assert_eq!(joined("C:\\Users", "ann"), "C:\\Users\\ann");
        assert_eq!(joined("/", "ann"), "/ann");
    }
}
