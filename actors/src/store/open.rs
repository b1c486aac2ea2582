//! Opening the library's file: write and read connections with their pragmas, migrations, and what can be wrong.

use std::path::{Path, PathBuf};

use diesel::Connection;
use diesel::sqlite::SqliteConnection;
use starling_migrations::MigrationError;

use super::sql;

/// How long a statement waits for another process's lock. Only tools that look into the file hold one.
const BUSY_MS: u32 = 5_000;

/// The write-ahead log is folded into the file after this many 4 KiB pages: 16 MiB, four backfill transactions.
const CHECKPOINT_PAGES: u32 = 4_000;

/// Page cache of the connection that writes, in KiB: more made no difference with time-ordered ids.
const WRITER_CACHE_KIB: u32 = 4 * 1024;

/// Page cache of a connection that reads, in KiB: pages and digests are read in order, and each page of the file once.
const READER_CACHE_KIB: u32 = 2 * 1024;

/// Why the library's file could not be opened. It was left as it was.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file is there but `SQLite` cannot use it.
    #[error("the database {0} cannot be opened: {1}")]
    Unusable(PathBuf, String),
    /// The file is not a database, or damaged.
    #[error("the database {0} is corrupt ({1}): restore a backup, or start over in a fresh data directory")]
    Corrupt(PathBuf, String),
    /// The file is of a newer version of this program, or a migration failed.
    #[error("{0}: {1}")]
    Migration(PathBuf, String),
}

/// Opens the one write connection, making and migrating the file as needed.
pub(crate) fn open_writer(path: &Path) -> Result<SqliteConnection, OpenError> {
    let mut connection = connect(path)?;
    configure(&mut connection, path, WRITER_CACHE_KIB)?;
    starling_migrations::migrate(&mut connection).map_err(|error| match error {
        MigrationError::Failed(message) if is_corruption(&message) => OpenError::Corrupt(path.to_owned(), message),
        other => OpenError::Migration(path.to_owned(), other.to_string()),
    })?;
    Ok(connection)
}

/// Opens a connection that only reads.
pub(crate) fn open_reader(path: &Path) -> Result<SqliteConnection, OpenError> {
    let mut connection = connect(path)?;
    configure(&mut connection, path, READER_CACHE_KIB)?;
    sql::run(&mut connection, "PRAGMA query_only = ON").map_err(|e| failed(path, &e.to_string()))?;
    Ok(connection)
}

fn connect(path: &Path) -> Result<SqliteConnection, OpenError> {
    let name = path.to_str().ok_or_else(|| {
        OpenError::Unusable(path.to_owned(), "its path is not UTF-8: choose another data directory".to_owned())
    })?;
    SqliteConnection::establish(name).map_err(|e| failed(path, &e.to_string()))
}

fn configure(connection: &mut SqliteConnection, path: &Path, cache_kib: u32) -> Result<(), OpenError> {
    let pragmas = format!(
        "PRAGMA busy_timeout = {BUSY_MS}; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
         PRAGMA foreign_keys = OFF; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -{cache_kib}; \
         PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};"
    );
    sql::run(connection, &pragmas).map_err(|e| failed(path, &e.to_string()))
}

fn failed(path: &Path, message: &str) -> OpenError {
    if is_corruption(message) {
        OpenError::Corrupt(path.to_owned(), message.to_owned())
    } else {
        OpenError::Unusable(path.to_owned(), message.to_owned())
    }
}

fn is_corruption(message: &str) -> bool {
    message.contains("malformed") || message.contains("not a database")
}
