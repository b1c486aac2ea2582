//! A database without a peer around it, for tests: the models' tables in memory, and writes applied as they are.

use std::sync::{Arc, Mutex};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use starling::environment::Environment;
use starling::{CommitError, QueryError, Receipt};
use starling_schema::change::{Action, Write};
use starling_schema::ids::{DeviceId, RecordId};
use starling_schema::model::{ModelSpec, Syncable};
use starling_schema::models::{Entry, Location, Volume};
use starling_schema::value::{Fields, Value};

const TABLES: [&str; 2] = [
    include_str!("../../../migrations/2026-11-22-000001_ledger/up.sql"),
    include_str!("../../../migrations/2026-11-22-000002_models/up.sql"),
];

/// What tests index into.
#[derive(Clone)]
pub(crate) struct Bench {
    inner: Arc<Mutex<Inner>>,
    environment: Environment,
}

struct Inner {
    connection: SqliteConnection,
    commits: Vec<usize>,
    queries: usize,
    refusals: Vec<CommitError>,
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench").finish_non_exhaustive()
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        let mut connection = SqliteConnection::establish(":memory:").unwrap();
        connection.batch_execute(&TABLES.concat()).unwrap();
        let inner = Inner { connection, commits: Vec::new(), queries: 0, refusals: Vec::new() };
        Self { inner: Arc::new(Mutex::new(inner)), environment: Environment::system() }
    }

    #[expect(clippy::unused_self, reason = "a peer is asked the same way")]
    pub(crate) fn device(&self) -> DeviceId {
        DeviceId(RecordId::derived("test", &[b"device"]).0)
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Refuses as many of the next commits as there are errors, last error first.
    pub(crate) fn refuse(&self, errors: Vec<CommitError>) {
        self.inner.lock().unwrap().refusals = errors;
    }

    /// How many writes each commit since the last call had.
    pub(crate) fn take_commits(&self) -> Vec<usize> {
        std::mem::take(&mut self.inner.lock().unwrap().commits)
    }

    /// How many queries there were since the last call.
    pub(crate) fn take_queries(&self) -> usize {
        std::mem::take(&mut self.inner.lock().unwrap().queries)
    }

    /// How far the device's own stream is: less than before after an older copy was put back.
    pub(crate) fn set_head(&self, head: i64) {
        let sql = format!("UPDATE stream SET watermark = {head}");
        self.inner.lock().unwrap().connection.batch_execute(&sql).unwrap();
    }

    pub(crate) fn query<T>(
        &self,
        read: impl FnOnce(&mut SqliteConnection) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        let mut inner = self.inner.lock().unwrap();
        inner.queries += 1;
        read(&mut inner.connection)
    }

    #[expect(clippy::needless_pass_by_value, reason = "a peer is asked the same way")]
    pub(crate) fn commit(&self, writes: Vec<Write>) -> Result<Receipt, CommitError> {
        let owner = self.device();
        let mut inner = self.inner.lock().unwrap();
        if let Some(error) = inner.refusals.pop() {
            return Err(error);
        }
        inner.commits.push(writes.len());
        inner
            .connection
            .transaction(|connection| {
                let id = hex::encode(owner.0.as_bytes());
                connection.batch_execute(&format!(
                    "INSERT INTO stream (kind, origin, watermark) VALUES (0, x'{id}', {count})
                     ON CONFLICT DO UPDATE SET watermark = watermark + {count}",
                    count = writes.len()
                ))?;
                writes.iter().try_for_each(|write| apply(connection, owner, write))
            })
            .map_err(|error: diesel::result::Error| CommitError::Storage(error.into()))?;
        Ok(Receipt::default())
    }
}

fn apply(connection: &mut SqliteConnection, owner: DeviceId, write: &Write) -> QueryResult<()> {
    let spec = [Volume::SPEC, Location::SPEC, Entry::SPEC].into_iter().find(|spec| spec.id == write.model).unwrap();
    let id = hex::encode(write.record.as_bytes());
    match &write.action {
        Action::Put(fields) => {
            connection.batch_execute(&format!("DELETE FROM {} WHERE id = x'{id}'", spec.name))?;
            let owner = hex::encode(owner.0.as_bytes());
            connection.batch_execute(&format!(
                "INSERT INTO {} (id, owner, version) VALUES (x'{id}', x'{owner}', 1)",
                spec.name
            ))?;
            set(connection, &spec, &id, fields)
        }
        Action::Patch(fields) => set(connection, &spec, &id, fields),
        Action::Delete => connection.batch_execute(&format!("DELETE FROM {} WHERE id = x'{id}'", spec.name)),
        Action::Restore => unreachable!("device-owned records are not restored"),
    }
}

fn set(connection: &mut SqliteConnection, spec: &ModelSpec, id: &str, fields: &Fields) -> QueryResult<()> {
    let assignments: Vec<String> =
        fields.iter().map(|(no, value)| format!("{} = {}", spec.column(no).unwrap().name, literal(value))).collect();
    if assignments.is_empty() {
        return Ok(());
    }
    connection.batch_execute(&format!("UPDATE {} SET {} WHERE id = x'{id}'", spec.name, assignments.join(", ")))
}

fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Bool(it) => i64::from(*it).to_string(),
        Value::Int(it) => it.to_string(),
        Value::Real(it) => it.to_string(),
        Value::Text(it) => format!("'{}'", it.replace('\'', "''")),
        Value::Bytes(it) => format!("x'{}'", hex::encode(it)),
        Value::Id(it) => format!("x'{}'", hex::encode(it.as_bytes())),
    }
}
