//! A device's database file as it lies on disk, opened beside the peer or after it.

use std::path::{Path, PathBuf};

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel::sqlite::SqliteConnection;
use starling_schema::models::EntryKind;

/// A device's database file.
#[derive(Debug)]
pub struct Database(PathBuf);

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

#[derive(QueryableByName)]
struct Finding {
    #[diesel(sql_type = Text)]
    integrity_check: String,
}

impl Database {
    /// That of a data directory.
    #[must_use]
    pub fn of(data: &Path) -> Self {
        Self(data.join("library.sqlite"))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn open(&self) -> SqliteConnection {
        let path = self.0.to_str().expect("the path of a test is UTF-8");
        let mut connection = SqliteConnection::establish(path).expect("the database can be opened");
        let pragma = diesel::sql_query("PRAGMA busy_timeout = 5000");
        pragma.execute(&mut connection).expect("the database takes a pragma");
        connection
    }

    /// How many rows a table has, or a part of it after `WHERE`; none while it is not there yet.
    #[must_use]
    pub fn rows(&self, table: &str) -> Option<i64> {
        if !self.0.exists() {
            return None;
        }
        let sql = format!("SELECT count(*) AS number FROM {table}");
        diesel::sql_query(sql).get_result::<Number>(&mut self.open()).ok().map(|row| row.number)
    }

    /// How many files there are whose content was not read yet.
    #[must_use]
    pub fn unread_files(&self) -> Option<i64> {
        self.rows(&format!("entry WHERE kind = {} AND content_hash IS NULL", EntryKind::File.code()))
    }

    /// What `SQLite` finds wrong with it: `ok` when that is nothing.
    ///
    /// # Panics
    /// When the check cannot be made.
    #[must_use]
    pub fn integrity(&self) -> Vec<String> {
        self.try_integrity().expect("the database can be checked")
    }

    /// The same where the check may be impossible.
    ///
    /// # Errors
    /// When it is: why.
    pub fn try_integrity(&self) -> Result<Vec<String>, String> {
        let check = diesel::sql_query("PRAGMA integrity_check");
        let findings: Vec<Finding> = check.load(&mut self.open()).map_err(|error| error.to_string())?;
        Ok(findings.into_iter().map(|finding| finding.integrity_check).collect())
    }

    /// Notes a migration that no build knows, as a newer version would.
    ///
    /// # Panics
    /// When the database cannot be written.
    pub fn migrate_to_the_future(&self, version: &str) {
        diesel::sql_query("INSERT INTO __diesel_schema_migrations (version) VALUES (?)")
            .bind::<Text, _>(version)
            .execute(&mut self.open())
            .expect("a migration can be noted");
    }
}
