//! The file of the name index: `SQLite`'s full-text index of trigrams, and how far along each owner's stream it is.

use std::collections::HashMap;
use std::path::Path;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Text};
use diesel::sqlite::SqliteConnection;
use starling_schema::ids::{DeviceId, LibraryId};

use crate::derived::{Layout, Number};

/// A trigram is three letters: shorter words are in none.
pub(crate) const WORD_CHARS_MIN: usize = 3;

/// Nothing of it need be durable: what is lost is read again from the library.
const LAYOUT: Layout = Layout {
    shape: 1,
    settings: "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -2048;",
    tables: TABLES,
};

const TABLES: &str = "
    DROP TABLE IF EXISTS words;
    DROP TABLE IF EXISTS stream;
    DROP TABLE IF EXISTS library;
    CREATE VIRTUAL TABLE words USING fts5(name, content = '', contentless_delete = 1, tokenize = 'trigram');
    CREATE TABLE stream (owner BLOB NOT NULL PRIMARY KEY, through BIGINT NOT NULL) WITHOUT ROWID;
    CREATE TABLE library (id BLOB NOT NULL, written BIGINT NOT NULL);";

/// An entry's row number in the library's file, its name, and its number in its owner's stream.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
pub(crate) struct Named {
    #[diesel(sql_type = BigInt)]
    pub(crate) at: i64,
    #[diesel(sql_type = Text)]
    pub(crate) name: String,
    #[diesel(sql_type = BigInt)]
    pub(crate) version: i64,
}

#[derive(QueryableByName)]
struct Through {
    #[diesel(sql_type = Binary)]
    owner: DeviceId,
    #[diesel(sql_type = BigInt)]
    through: i64,
}

#[derive(QueryableByName)]
struct Written {
    #[diesel(sql_type = Binary)]
    id: LibraryId,
    #[diesel(sql_type = BigInt)]
    written: i64,
}

/// The open file.
pub(super) struct NameFile(SqliteConnection);

impl NameFile {
    /// Opens it; one that is of another shape or damaged is made anew.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        LAYOUT.open(path).map(Self)
    }

    /// Forgets everything: what comes is of this library.
    pub(super) fn reset(&mut self, library: LibraryId) -> QueryResult<()> {
        self.0.transaction(|c| {
            c.batch_execute(TABLES)?;
            diesel::sql_query("INSERT INTO library VALUES (?, 0)").bind::<Binary, _>(library).execute(c).map(|_| ())
        })
    }

    /// Of which library it is, and how many names were ever written.
    pub(super) fn written(&mut self) -> QueryResult<Option<(LibraryId, i64)>> {
        let found: Option<Written> =
            diesel::sql_query("SELECT id, written FROM library").get_result(&mut self.0).optional()?;
        Ok(found.map(|found| (found.id, found.written)))
    }

    /// How far it is along the stream of each owner.
    pub(super) fn through(&mut self) -> QueryResult<HashMap<DeviceId, i64>> {
        let all: Vec<Through> = diesel::sql_query("SELECT owner, through FROM stream").load(&mut self.0)?;
        Ok(all.into_iter().map(|found| (found.owner, found.through)).collect())
    }

    /// Takes in some names of an owner: it is then as far as `through` along its stream.
    pub(super) fn put(&mut self, owner: DeviceId, names: &[Named], through: i64) -> QueryResult<()> {
        self.0.transaction(|c| {
            for Named { at, name, .. } in names {
                diesel::sql_query("INSERT OR REPLACE INTO words (rowid, name) VALUES (?, ?)")
                    .bind::<BigInt, _>(at)
                    .bind::<Text, _>(name)
                    .execute(c)?;
            }
            diesel::sql_query("INSERT OR REPLACE INTO stream VALUES (?, ?)")
                .bind::<Binary, _>(owner)
                .bind::<BigInt, _>(through)
                .execute(c)?;
            let count = i64::try_from(names.len()).unwrap_or(i64::MAX);
            diesel::sql_query("UPDATE library SET written = written + ?")
                .bind::<BigInt, _>(count)
                .execute(c)
                .map(|_| ())
        })
    }

    /// The row numbers of at most so many names that contain a word. Some may have changed or gone since.
    pub(super) fn containing(&mut self, word: &str, limit: usize) -> QueryResult<Vec<i64>> {
        let phrase = format!("\"{}\"", word.replace('"', "\"\""));
        let found: Vec<Number> = diesel::sql_query("SELECT rowid AS n FROM words WHERE words MATCH ? LIMIT ?")
            .bind::<Text, _>(phrase)
            .bind::<BigInt, _>(i64::try_from(limit).unwrap_or(i64::MAX))
            .load(&mut self.0)?;
        Ok(found.into_iter().map(|found| found.n).collect())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const OWNER: DeviceId = DeviceId(Uuid::from_u128(7));

    fn named(at: i64, name: &str) -> Named {
        Named { at, name: name.to_owned(), version: at }
    }

    #[test]
    fn parts_of_names_are_found_whatever_their_case_and_signs() {
        let place = tempfile::tempdir().unwrap();
        let mut file = NameFile::open(&place.path().join("names")).unwrap();
        file.reset(LibraryId::MIN).unwrap();
        let names = ["Holiday.JPG", "say \"hi\".txt", "100%.md", "a AND b", "ÜBER.md"];
        let names: Vec<Named> = (1..).zip(names).map(|(at, name)| named(at, name)).collect();
        file.put(OWNER, &names, 5).unwrap();
        for (word, rows) in [
            ("day.jp", vec![1]),
            ("y \"h", vec![2]),
            ("00%", vec![3]),
            (" and ", vec![4]),
            (".md", vec![3, 5]),
            ("xyz", vec![]),
        ] {
            let mut found = file.containing(word, 10).unwrap();
            found.sort_unstable();
            assert_eq!(found, rows, "{word}");
        }
        assert_eq!(file.containing(".md", 1).unwrap().len(), 1);
        assert_eq!(file.through().unwrap(), HashMap::from([(OWNER, 5)]));
        assert_eq!(file.written().unwrap(), Some((LibraryId::MIN, 5)));
    }

    #[test]
    fn a_name_that_changed_is_found_as_it_is_now_and_a_reset_forgets_all() {
        let place = tempfile::tempdir().unwrap();
        let mut file = NameFile::open(&place.path().join("names")).unwrap();
        file.reset(LibraryId::MIN).unwrap();
        file.put(OWNER, &[named(1, "before.txt")], 1).unwrap();
        file.put(OWNER, &[named(1, "after.txt")], 2).unwrap();
        assert_eq!((file.containing("before", 9).unwrap(), file.containing("after", 9).unwrap()), (vec![], vec![1]));
        file.reset(LibraryId::MIN).unwrap();
        assert_eq!((file.containing("after", 9).unwrap(), file.through().unwrap().len()), (vec![], 0));
    }

    #[test]
    fn a_file_that_is_no_database_is_made_anew() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("names");
        std::fs::write(&path, "no database, but long enough to be looked at as one".repeat(100)).unwrap();
        let mut file = NameFile::open(&path).unwrap();
        file.reset(LibraryId::MIN).unwrap();
        file.put(OWNER, &[named(1, "there.txt")], 1).unwrap();
        drop(file);
        assert_eq!(NameFile::open(&path).unwrap().containing("there", 9).unwrap(), [1]);
    }
}
