//! The SQL migrations, embedded, and the one function that brings a database up to date with them.

use diesel::sqlite::SqliteConnection;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!(".");

/// Why a database could not be brought up to date. It was left as it was.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The database holds migrations that this build does not know.
    #[error("the database was made by a newer version of starling (migration {0}): upgrade this one")]
    Newer(String),
    /// A migration failed.
    #[error("the database could not be migrated: {0}")]
    Failed(String),
}

/// Applies the migrations that the database lacks, each in a transaction of its own.
///
/// # Errors
/// When the database is newer than this build, or `SQLite` refuses.
pub fn migrate(connection: &mut SqliteConnection) -> Result<(), MigrationError> {
    use diesel::migration::{Migration, MigrationSource};

    let failed = |e: Box<dyn std::error::Error + Send + Sync>| MigrationError::Failed(e.to_string());
    let known: Vec<Box<dyn Migration<diesel::sqlite::Sqlite>>> = MIGRATIONS.migrations().map_err(failed)?;
    let applied = connection.applied_migrations().map_err(failed)?;
    if let Some(newer) =
        applied.iter().find(|version| known.iter().all(|migration| migration.name().version() != **version))
    {
        return Err(MigrationError::Newer(newer.to_string()));
    }
    connection.run_pending_migrations(MIGRATIONS).map_err(failed)?;
    Ok(())
}
