//! Files beside the library that are derived from it: one that is missing, damaged, or of another shape is made anew.

use std::path::Path;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel::sqlite::SqliteConnection;

/// What a file looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// The number of its shape.
    pub(crate) shape: i64,
    /// How it is opened.
    pub(crate) settings: &'static str,
    /// Makes its tables, whatever was there.
    pub(crate) tables: &'static str,
}

/// One number of a query, which calls it `n`.
#[derive(QueryableByName)]
pub(crate) struct Number {
    /// That number.
    #[diesel(sql_type = BigInt)]
    pub(crate) n: i64,
}

impl Layout {
    /// Opens the file.
    ///
    /// # Errors
    /// It can neither be opened nor be made anew.
    pub(crate) fn open(&self, path: &Path) -> Result<SqliteConnection, String> {
        self.connect(path).or_else(|_| {
            remove(path)?;
            self.connect(path)
        })
    }

    fn connect(&self, path: &Path) -> Result<SqliteConnection, String> {
        let mut c = SqliteConnection::establish(path.to_str().ok_or("its path is not UTF-8")?)
            .map_err(|error| error.to_string())?;
        let mut prepare = || {
            c.batch_execute(self.settings)?;
            let shape: Number =
                diesel::sql_query("SELECT user_version AS n FROM pragma_user_version").get_result(&mut c)?;
            if shape.n != self.shape {
                c.batch_execute(&format!("BEGIN; {} PRAGMA user_version = {}; COMMIT", self.tables, self.shape))?;
            }
            Ok::<_, diesel::result::Error>(())
        };
        prepare().map_err(|error| error.to_string())?;
        Ok(c)
    }
}

/// Removes a file and what `SQLite` keeps beside it.
///
/// # Errors
/// One of them cannot be removed.
pub(crate) fn remove(path: &Path) -> Result<(), String> {
    for end in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(end);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.to_string()),
            _ => {}
        }
    }
    Ok(())
}
