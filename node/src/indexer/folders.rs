//! What the directories of each location held when all of it was last in the library, in a file of its own.
//!
//! A scan that finds a directory as it was need not read its rows. The file is derived: without it, or where it is in
//! doubt, a scan reads all. What makes it hold, whatever happens in between:
//! - Before a scan writes a row, its location counts as unknown, and that is durable. It counts as known again when all
//!   is written. So a crash in between leaves it unknown.
//! - It notes the number of this device's newest row. In a library that is not as far, an older copy was put back:
//!   then all is forgotten before anything is written.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary};
use diesel::sqlite::SqliteConnection;
use starling_schema::ids::{LibraryId, RecordId};

use super::fingerprint::{Fingerprint, short_path};
use crate::derived::{self, Layout, Number};

/// The file in the data directory.
const FILE: &str = "folders.sqlite";

/// That a location is unknown must be durable before its rows are written.
const LAYOUT: Layout = Layout {
    shape: 1,
    settings: "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -1024;",
    tables: TABLES,
};

const TABLES: &str = "
    DROP TABLE IF EXISTS library;
    DROP TABLE IF EXISTS location;
    DROP TABLE IF EXISTS directory;
    CREATE TABLE library (id BLOB NOT NULL);
    CREATE TABLE location (id BLOB NOT NULL PRIMARY KEY, through BIGINT NOT NULL) WITHOUT ROWID;
    CREATE TABLE directory (location BLOB NOT NULL, path BLOB NOT NULL, print BLOB NOT NULL,
                            PRIMARY KEY (location, path)) WITHOUT ROWID;";

/// The directories of one location as they are stored: by short paths.
pub(crate) type Stored = HashMap<[u8; 16], Fingerprint>;

/// The file of one peer. Its calls wait for the disk.
#[derive(Clone)]
pub(crate) struct Folders {
    /// None where nothing is kept.
    path: Option<PathBuf>,
    library: LibraryId,
    open: Arc<Mutex<Option<SqliteConnection>>>,
}

impl std::fmt::Debug for Folders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folders").field("path", &self.path).finish_non_exhaustive()
    }
}

#[derive(QueryableByName)]
struct Id {
    #[diesel(sql_type = Binary)]
    id: LibraryId,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Binary)]
    path: Vec<u8>,
    #[diesel(sql_type = Binary)]
    print: Vec<u8>,
}

/// What a scan has read and committed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scope {
    /// All of the location.
    Whole,
    /// Some directories, of a location that was known when it began or before it wrote.
    Part {
        /// What [`Folders::begin`] said; none when nothing was written.
        was_known: Option<bool>,
    },
}

impl Folders {
    /// What is kept of the locations of a library in a data directory. Nothing is opened yet.
    pub(crate) fn new(data: Option<PathBuf>, library: LibraryId) -> Self {
        Self { path: data.map(|data| data.join(FILE)), library, open: Arc::default() }
    }

    /// What the directories of a location held, if that is known. `head` is the number of this device's newest row.
    pub(crate) fn load(&self, location: RecordId, head: i64) -> Result<Option<Stored>, String> {
        let known = self.with_file(|c| {
            let ahead = diesel::sql_query("SELECT count(*) AS n FROM location WHERE through > ?")
                .bind::<BigInt, _>(head)
                .get_result::<Number>(c)?;
            if ahead.n > 0 {
                forget_all(c, self.library)?;
            }
            if !is_known(c, location)? {
                return Ok(None);
            }
            let rows = diesel::sql_query("SELECT path, print FROM directory WHERE location = ?")
                .bind::<Binary, _>(location)
                .load_iter::<Row, diesel::connection::DefaultLoadingMode>(c)?;
            rows.map(|row| row.map(read)).collect::<QueryResult<Option<Stored>>>()
        })?;
        Ok(known.flatten())
    }

    /// A scan is about to write rows of a location: from now on, also after a crash, it is unknown. Says whether it was
    /// known.
    pub(crate) fn begin(&self, location: RecordId) -> Result<bool, String> {
        let begun = self.with_file(|c| {
            let gone = diesel::sql_query("DELETE FROM location WHERE id = ?").bind::<Binary, _>(location).execute(c)?;
            Ok(gone > 0)
        })?;
        Ok(begun.unwrap_or_default())
    }

    /// What a scan found is in the library; a directory without a number is unknown. `head` is the number of this
    /// device's newest row.
    pub(crate) fn finish(
        &self,
        location: RecordId,
        head: i64,
        found: &HashMap<PathBuf, Option<Fingerprint>>,
        scope: Scope,
    ) -> Result<(), String> {
        let done = self.with_file(|c| {
            c.transaction(|c| {
                match scope {
                    Scope::Whole => forget(c, location)?,
                    Scope::Part { was_known: Some(true) } => {}
                    Scope::Part { was_known: None } if is_known(c, location)? => {}
                    Scope::Part { .. } => return Ok(()),
                }
                for (path, print) in found {
                    let sql = match print {
                        Some(_) => "INSERT OR REPLACE INTO directory VALUES (?, ?, ?)",
                        None => "DELETE FROM directory WHERE location = ? AND path = ?",
                    };
                    let at = diesel::sql_query(sql).bind::<Binary, _>(location).bind::<Binary, _>(short_path(path));
                    match print {
                        Some(print) => at.bind::<Binary, _>(print.to_bytes()).execute(c)?,
                        None => at.execute(c)?,
                    };
                }
                diesel::sql_query("INSERT OR REPLACE INTO location VALUES (?, ?)")
                    .bind::<Binary, _>(location)
                    .bind::<BigInt, _>(head)
                    .execute(c)
                    .map(|_| ())
            })
        });
        done.map(|_| ())
    }

    /// A location is removed.
    pub(crate) fn remove(&self, location: RecordId) -> Result<(), String> {
        self.with_file(|c| c.transaction(|c| forget(c, location))).map(|_| ())
    }

    /// Does something with the file; nothing where none is kept. One that fails is made anew: then nothing is known.
    fn with_file<T: Default>(
        &self,
        work: impl Fn(&mut SqliteConnection) -> QueryResult<T>,
    ) -> Result<Option<T>, String> {
        let Some(path) = &self.path else { return Ok(None) };
        let mut held = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut attempt = || {
            let mut c = match held.take() {
                Some(c) => c,
                None => self.connect(path)?,
            };
            let done = work(&mut c).map_err(|error| error.to_string())?;
            *held = Some(c);
            Ok::<_, String>(Some(done))
        };
        attempt().or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "made anew");
            derived::remove(path).and_then(|()| attempt()).map_err(|reason| format!("{}: {reason}", path.display()))
        })
    }

    fn connect(&self, path: &Path) -> Result<SqliteConnection, String> {
        let mut c = LAYOUT.open(path)?;
        let mut prepare = || {
            let of: Option<Id> = diesel::sql_query("SELECT id FROM library").get_result(&mut c).optional()?;
            if of.is_none_or(|of| of.id != self.library) {
                forget_all(&mut c, self.library)?;
            }
            Ok::<_, diesel::result::Error>(())
        };
        prepare().map_err(|error| error.to_string())?;
        Ok(c)
    }
}

fn is_known(c: &mut SqliteConnection, location: RecordId) -> QueryResult<bool> {
    let marks = diesel::sql_query("SELECT count(*) AS n FROM location WHERE id = ?").bind::<Binary, _>(location);
    Ok(marks.get_result::<Number>(c)?.n > 0)
}

fn forget(c: &mut SqliteConnection, location: RecordId) -> QueryResult<()> {
    for sql in ["DELETE FROM location WHERE id = ?", "DELETE FROM directory WHERE location = ?"] {
        diesel::sql_query(sql).bind::<Binary, _>(location).execute(c)?;
    }
    Ok(())
}

fn forget_all(c: &mut SqliteConnection, library: LibraryId) -> QueryResult<()> {
    c.transaction(|c| {
        c.batch_execute(TABLES)?;
        diesel::sql_query("INSERT INTO library VALUES (?)").bind::<Binary, _>(library).execute(c).map(|_| ())
    })
}

/// None for a row that is not of our making: then nothing is known.
fn read(row: Row) -> Option<([u8; 16], Fingerprint)> {
    Some((row.path.try_into().ok()?, Fingerprint::from_bytes(row.print.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: RecordId = RecordId(uuid::Uuid::from_u128(1));
    const THERE: RecordId = RecordId(uuid::Uuid::from_u128(2));

    fn folders(place: &tempfile::TempDir) -> Folders {
        Folders::new(Some(place.path().to_owned()), LibraryId::MIN)
    }

    fn one(path: &str) -> HashMap<PathBuf, Option<Fingerprint>> {
        HashMap::from([(path.into(), Some(Fingerprint::default()))])
    }

    fn paths(stored: Option<Stored>) -> Option<usize> {
        stored.map(|stored| {
            assert!(stored.is_empty() || stored.contains_key(&short_path(Path::new("/a"))));
            stored.len()
        })
    }

    #[test]
    fn a_location_is_known_from_a_whole_scan_until_something_is_written() {
        let place = tempfile::tempdir().unwrap();
        let folders = folders(&place);
        assert_eq!(folders.load(HERE, 9).unwrap(), None);
        folders.finish(HERE, 9, &one("/a"), Scope::Whole).unwrap();
        assert_eq!(paths(folders.load(HERE, 9).unwrap()), Some(1));
        assert_eq!(folders.load(THERE, 9).unwrap(), None);
        assert!(folders.begin(HERE).unwrap());
        assert!(!folders.begin(HERE).unwrap(), "a second scan must not take the first one's word");
        assert_eq!(folders.load(HERE, 9).unwrap(), None);
        for (was_known, known) in [(None, None), (Some(false), None), (Some(true), Some(2))] {
            folders.finish(HERE, 10, &one("/b"), Scope::Part { was_known }).unwrap();
            assert_eq!(paths(folders.load(HERE, 10).unwrap()), known, "{was_known:?}");
        }
        folders.finish(HERE, 11, &one("/c"), Scope::Part { was_known: None }).unwrap();
        assert_eq!(paths(folders.load(HERE, 11).unwrap()), Some(3));
        let unread = HashMap::from([("/c".into(), None)]);
        folders.finish(HERE, 11, &unread, Scope::Part { was_known: None }).unwrap();
        assert_eq!(paths(folders.load(HERE, 11).unwrap()), Some(2));
        folders.remove(HERE).unwrap();
        assert_eq!(folders.load(HERE, 11).unwrap(), None);
    }

    #[test]
    fn an_older_copy_or_another_library_makes_all_unknown() {
        let place = tempfile::tempdir().unwrap();
        for older in [true, false] {
            let all = folders(&place);
            all.finish(HERE, 8, &one("/a"), Scope::Whole).unwrap();
            all.finish(THERE, 9, &one("/a"), Scope::Whole).unwrap();
            if older {
                assert_eq!(all.load(HERE, 8).unwrap(), None);
                assert_eq!(all.load(THERE, 9).unwrap(), None, "also when the library is as far again");
            } else {
                let other = Folders::new(Some(place.path().to_owned()), LibraryId(uuid::Uuid::from_u128(7)));
                assert_eq!(other.load(HERE, 9).unwrap(), None);
            }
            assert_eq!(folders(&place).load(HERE, 9).unwrap(), None);
        }
    }

    #[test]
    fn a_damaged_file_is_made_anew() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(FILE), "no database, but as long as one".repeat(300)).unwrap();
        let folders = folders(&place);
        assert_eq!(folders.load(HERE, 9).unwrap(), None);
        folders.finish(HERE, 9, &one("/a"), Scope::Whole).unwrap();
        assert_eq!(paths(folders.load(HERE, 9).unwrap()), Some(1));
    }

    #[test]
    fn where_nothing_is_kept_nothing_is_known() {
        let folders = Folders::new(None, LibraryId::MIN);
        folders.finish(HERE, 9, &one("/a"), Scope::Whole).unwrap();
        assert_eq!((folders.begin(HERE).unwrap(), folders.load(HERE, 9).unwrap()), (false, None));
    }
}
