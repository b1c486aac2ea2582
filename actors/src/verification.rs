//! Verifying on demand: whether this device's file is sound and agrees with itself, and whether a peer holds the same.

use std::collections::BTreeMap;
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel::sqlite::SqliteConnection;
use starling_schema::ids::{DeviceId, ModelId, RecordId};
use starling_schema::stream::{Stream, StreamKind};

use crate::comparison::{Compared, Comparison, ComparisonError};
use crate::handle::PeerHandle;
use crate::proto::equality::{ALL_KEYS, after};
use crate::proto::merge;
use crate::reader::{QueryError, ReadModels};
use crate::roster::AskRoster;
use crate::store::conflicts::{Conflict, conflicts};
use crate::store::ledger;
use crate::store::pages::Room;
use crate::store::sql::{Bind, Statement};
use crate::store::table::ModelTable;
use crate::store::tables::Tables;

/// How many records are read at a time.
const CHUNK: usize = 2_000;

/// How often a comparison is tried that finds the two devices at different points: changes are on their way then.
const TRIES_MAX: u32 = 40;

/// How long between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// The most findings that are listed: enough to see what kind of trouble it is.
pub const FINDINGS_MAX: usize = 10_000;

/// Something that is not as it must be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// The model's name, when it is about a record.
    pub model: Option<String>,
    /// Which record.
    pub record: Option<RecordId>,
    /// What is wrong, for people.
    pub problem: String,
}

/// Why nothing could be said.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The device is not connected.
    #[error("{0} is not connected: it can only be compared with a device that is")]
    NotConnected(DeviceId),
    /// Changes kept coming.
    #[error("the two devices are not at the same point: wait until both are in sync and try again")]
    Unequal,
    /// The peer did not answer.
    #[error("the peer could not be asked: {0}")]
    Peer(String),
    /// The database could not be read.
    #[error(transparent)]
    Query(#[from] QueryError),
}

impl PeerHandle {
    /// Checks this device's file: whether `SQLite` finds it intact, and whether what is derived agrees with what it is
    /// derived from. Reads everything: seconds for a million records. Nothing found is an empty list.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn verify(&self) -> Result<Vec<Finding>, VerifyError> {
        let registry = self.registry().clone();
        Ok(self.query(move |c| Ok(local(c, &Tables::new(&registry))?)).await?)
    }

    /// Compares all records with those of a connected peer, both at the same point. Reports, and changes nothing: the
    /// background check repairs.
    ///
    /// # Errors
    /// When the peer is not connected, does not answer, or never stands at the same point.
    pub async fn verify_with(&self, device: DeviceId) -> Result<Vec<Finding>, VerifyError> {
        let tree = self.tree();
        let stopped = |_| VerifyError::Query(QueryError::Stopped);
        let roster = tree.roster.send(AskRoster).await.map_err(stopped)?;
        let session = roster.sessions.get(&device).cloned().ok_or(VerifyError::NotConnected(device))?;
        let readers = tree.links.readers.clone();
        let models = readers.next().send(ReadModels).await.map_err(stopped)??;
        let members = roster.membership.members().keys().copied().collect();
        let comparison = Comparison { peer: device, session, readers, members };
        let mut findings = Vec::new();
        for model in models {
            let mut from = Some(RecordId::MIN);
            while let Some(at) = from.filter(|_| findings.len() < FINDINGS_MAX) {
                let compared = compare(&comparison, model, at).await?;
                from = after(compared.through).filter(|_| compared.through < ALL_KEYS.1);
                let name = self.registry().name(model);
                findings.extend(compared.differences.into_iter().map(|difference| {
                    Finding {
                        model: Some(name.clone()),
                        record: Some(difference.record),
                        problem: match (difference.here, difference.there) {
                            (true, true) => "it differs",
                            (true, false) => "it is here and not there",
                            (false, _) => "it is there and not here",
                        }
                        .to_owned(),
                    }
                }));
            }
        }
        Ok(findings)
    }
}

/// Compares, and tries again while changes are on their way.
async fn compare(comparison: &Comparison, model: ModelId, from: RecordId) -> Result<Compared, VerifyError> {
    for _ in 0..TRIES_MAX {
        match comparison.run(model, from).await {
            Ok(compared) => return Ok(compared),
            Err(ComparisonError::Unequal) => tokio::time::sleep(TRY_AGAIN).await,
            Err(ComparisonError::Query(error)) => return Err(error.into()),
            Err(ComparisonError::Exchange(error)) => return Err(VerifyError::Peer(error.to_string())),
        }
    }
    Err(VerifyError::Unequal)
}

#[derive(QueryableByName)]
struct Verdict {
    #[diesel(sql_type = Text)]
    integrity_check: String,
}

/// Everything that can be found out without a peer.
fn local(c: &mut SqliteConnection, tables: &Tables) -> QueryResult<Vec<Finding>> {
    let verdicts: Vec<Verdict> = diesel::sql_query("PRAGMA integrity_check").load(c)?;
    let of_file = |problem: String| Finding { model: None, record: None, problem };
    let mut findings: Vec<Finding> = verdicts
        .into_iter()
        .filter(|verdict| verdict.integrity_check != "ok")
        .map(|verdict| of_file(verdict.integrity_check))
        .collect();
    let mut listed: BTreeMap<(ModelId, RecordId), Vec<Conflict>> = BTreeMap::new();
    for conflict in conflicts(c)? {
        listed.entry((conflict.model, conflict.record)).or_default().push(conflict);
    }
    for table in tables.all(c, true)? {
        let name = tables.registry.name(table.model);
        shared(c, &table, &name, &mut listed, &mut findings)?;
    }
    findings.extend(listed.into_keys().map(|(model, record)| Finding {
        model: Some(tables.registry.name(model)),
        record: Some(record),
        problem: "conflicts are listed, and there is no such record".to_owned(),
    }));
    let (mut marks, _) = ledger::streams(c)?;
    // In the midst of a snapshot rows are ahead of what is claimed.
    marks.join(&ledger::ahead(c)?);
    for table in tables.all(c, false)? {
        let name = tables.registry.name(table.model);
        owned(c, &table, &name, |owner| marks.get(Stream::state(owner)), &mut findings)?;
    }
    for (stream, through) in marks.iter() {
        let beyond = beyond(c, stream, through)?;
        if beyond > 0 {
            findings.push(of_file(format!("{beyond} changes of {stream} lie beyond its watermark {through}")));
        }
    }
    findings.truncate(FINDINGS_MAX);
    Ok(findings)
}

/// Shared records: the list of conflicts and the mark of deletion follow from the stamps.
fn shared(
    c: &mut SqliteConnection,
    table: &ModelTable,
    name: &str,
    listed: &mut BTreeMap<(ModelId, RecordId), Vec<Conflict>>,
    findings: &mut Vec<Finding>,
) -> QueryResult<()> {
    let model = table.model;
    let mut last = RecordId::MIN;
    let which = if table.name == "unknown_shared" { format!("model = {model} AND ") } else { String::new() };
    let alive = Statement::new(&format!("SELECT alive FROM {} WHERE {which}id = ?", table.name));
    loop {
        let items = table.shared_by_key(c, last, Room { rows: CHUNK, bytes: usize::MAX })?;
        for item in &items {
            let record = item.record;
            let mut find = |problem: &str| {
                findings.push(Finding {
                    model: Some(name.to_owned()),
                    record: Some(record),
                    problem: problem.to_owned(),
                });
            };
            let losers = merge::losers(&item.state).into_iter();
            let mut follow: Vec<Conflict> = losers
                .map(|l| Conflict { model, record, field: l.field, hlc: l.hlc, value: l.value, deleted: l.deleted })
                .collect();
            follow.sort_by_key(|conflict| (conflict.field, conflict.hlc));
            if listed.remove(&(model, record)).unwrap_or_default() != follow {
                find("its list of conflicts is not what its stamps say");
            }
            let row = alive.first(c, &[Bind::blob(record.as_bytes())])?;
            if row.is_some_and(|row| (row.0[0].number() != 0) != item.state.stamps.is_alive()) {
                find("its mark of deletion is not what its stamps say");
            }
        }
        match items.last() {
            Some(item) if items.len() == CHUNK => last = item.record,
            _ => return Ok(()),
        }
    }
}

/// Device-owned rows: none is newer than what was applied of its owner.
fn owned(
    c: &mut SqliteConnection,
    table: &ModelTable,
    name: &str,
    applied: impl Fn(DeviceId) -> u64,
    findings: &mut Vec<Finding>,
) -> QueryResult<()> {
    let mut last = RecordId::MIN;
    loop {
        let rows = table.owned_after(c, last, CHUNK)?;
        for (record, row) in &rows {
            let through = applied(row.owner);
            if row.version > through {
                findings.push(Finding {
                    model: Some(name.to_owned()),
                    record: Some(*record),
                    problem: format!("its version {} lies beyond {through}, which is applied", row.version),
                });
            }
        }
        match rows.last() {
            Some((record, _)) if rows.len() == CHUNK => last = *record,
            _ => return Ok(()),
        }
    }
}

/// How many log entries or tombstones lie beyond a watermark.
fn beyond(c: &mut SqliteConnection, stream: Stream, through: u64) -> QueryResult<u64> {
    let text = match stream.kind {
        StreamKind::Shared => "SELECT count(*) FROM log WHERE origin = ? AND seq > ?",
        StreamKind::State => "SELECT count(*) FROM tombstone WHERE owner = ? AND version > ?",
    };
    let binds = [Bind::blob(stream.origin.0.as_bytes()), Bind::int(through)];
    Ok(Statement::new(text).first(c, &binds)?.map_or(0, |row| row.0[0].number()))
}
