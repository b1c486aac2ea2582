//! An index of the names of all entries, so that parts of names are found without looking at each.
//!
//! It is derived from the library and lies in a file of its own: it is built behind everything else, and deleting it
//! loses nothing but the time to build it again. It only says which rows may match; the library's own rows decide. As
//! long as it does not cover all rows, it says nothing, and a search looks at every name.

mod file;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary};
use diesel::sqlite::SqliteConnection;
use starling::PeerHandle;
use starling::status::LibraryState;
use starling_schema::ids::DeviceId;
use starling_schema::stream::StreamKind;
use tokio::sync::{Mutex, Notify};

use self::file::{NameFile, Named, WORD_CHARS_MIN};
use crate::error::{CliError, ErrorKind};
use crate::library::read;

/// The file in the data directory.
const FILE: &str = "names.sqlite";

/// How often it is looked whether there is something to take in.
const LOOK: Duration = Duration::from_secs(5);

/// Names of one transaction: a reader is held for some milliseconds, and the search waits no longer for the file.
const WINDOW: i64 = 2_000;

/// A search takes in at most so many changes itself; where more are missing it looks at every name.
const CHANGES_OF_A_SEARCH_MAX: i64 = 4_000;

/// A word that more names contain is common: then looking at every name for the first ones is as fast.
const CANDIDATES_MAX: usize = 5_000;

/// Rows that are gone leave their names behind. When this many more were written than twice those there are, it is
/// built anew.
const LEFT_BEHIND_MAX: i64 = 200_000;

/// The index of one peer. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Names(Arc<Inner>);

struct Inner {
    peer: PeerHandle,
    path: PathBuf,
    file: Mutex<Option<NameFile>>,
    stop: Notify,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What the last look saw.
#[derive(Debug, Default)]
struct Seen {
    repaired: u64,
    written: i64,
}

/// How far the rows of an owner are in the library.
#[derive(Clone, Copy, Debug, Eq, PartialEq, QueryableByName)]
struct Extent {
    #[diesel(sql_type = Binary)]
    owner: DeviceId,
    /// Up to this number all are there.
    #[diesel(sql_type = BigInt)]
    watermark: i64,
    /// The number of the newest that is there.
    #[diesel(sql_type = BigInt)]
    newest: i64,
}

impl Names {
    /// Opens the index and starts to keep it up to date. Without it, searches look at every name.
    pub(crate) fn start(peer: &PeerHandle, data: &Path) -> Self {
        let names = Self(Arc::new(Inner {
            peer: peer.clone(),
            path: data.join(FILE),
            file: Mutex::new(None),
            stop: Notify::new(),
        }));
        let kept = names.clone();
        actix::spawn(async move {
            let mut seen = Seen::default();
            loop {
                tokio::select! {
                    () = kept.0.stop.notified() => return,
                    () = tokio::time::sleep(LOOK) => {}
                }
                if let Err(error) = kept.look(&mut seen).await {
                    tracing::warn!(%error, "the index of names was not brought up to date: searches look at every name");
                }
            }
        });
        names
    }

    /// Ends keeping it up to date.
    pub(crate) fn stop(&self) {
        self.0.stop.notify_one();
    }

    /// The row numbers of the entries whose name may contain this; none when every name must be looked at.
    pub(crate) async fn candidates(&self, query: &str) -> Option<Vec<i64>> {
        // Other letters have more than one way to be the same.
        if !query.is_ascii() || query.len() < WORD_CHARS_MIN {
            return None;
        }
        match self.ask(query).await {
            Ok(found) => found.filter(|rows| rows.len() <= CANDIDATES_MAX),
            Err(error) => {
                tracing::warn!(%error, "the index of names was not asked");
                None
            }
        }
    }

    async fn ask(&self, query: &str) -> Result<Option<Vec<i64>>, CliError> {
        if !self.take_in(CHANGES_OF_A_SEARCH_MAX).await? {
            return Ok(None);
        }
        let query = query.to_owned();
        self.with_file(move |file| file.containing(&query, CANDIDATES_MAX + 1)).await.map(Some)
    }

    /// Takes in what is new, unless the peer has more important things to do.
    async fn look(&self, seen: &mut Seen) -> Result<(), CliError> {
        let status = self.0.peer.status().await?;
        if matches!(status.library.state, LibraryState::Backfilling { .. } | LibraryState::CatchingUp { .. }) {
            return Ok(());
        }
        // A repair changes rows without giving them a new number.
        let differed = status.counters.records_differing;
        if std::mem::replace(&mut seen.repaired, differed) != differed || self.is_littered(&mut seen.written).await? {
            let library = self.0.peer.library();
            self.with_file(move |file| file.reset(library)).await?;
        }
        self.take_in(i64::MAX).await.map(|_| ())
    }

    /// Whether it holds many more names than there are. It counts only when much was written since the last time.
    async fn is_littered(&self, counted: &mut i64) -> Result<bool, CliError> {
        let written = self.with_file(NameFile::written).await?.map_or(0, |(_, written)| written);
        if written.saturating_sub(*counted) < LEFT_BEHIND_MAX {
            return Ok(false);
        }
        *counted = written;
        let rows = read(&self.0.peer, |c| Ok(entries(c)?)).await?;
        Ok(written > rows.saturating_mul(2).saturating_add(LEFT_BEHIND_MAX))
    }

    /// Takes in what is new, at most so many changes. Says whether it covers every row now.
    async fn take_in(&self, changes_max: i64) -> Result<bool, CliError> {
        let extents = read(&self.0.peer, |c| Ok(extents(c)?)).await?;
        let library = self.0.peer.library();
        let known = extents.clone();
        let through = self
            .with_file(move |file| {
                let (through, written) = (file.through()?, file.written()?);
                // An older copy of the library's file may have been put back.
                let fell = known.iter().any(|at| through.get(&at.owner).is_some_and(|far| *far > at.watermark));
                if !fell && written.is_some_and(|(of, _)| of == library) {
                    return Ok(through);
                }
                file.reset(library)?;
                Ok(std::collections::HashMap::new())
            })
            .await?;
        let after = |at: &Extent| through.get(&at.owner).copied().unwrap_or(0);
        let changes = extents.iter().map(|at| at.watermark - after(at)).fold(0, i64::saturating_add);
        if changes > changes_max {
            return Ok(false);
        }
        for at in &extents {
            let after = after(at);
            self.take_in_of(*at, after).await?;
        }
        Ok(extents.iter().all(|at| at.newest <= at.watermark))
    }

    async fn take_in_of(&self, at: Extent, mut after: i64) -> Result<(), CliError> {
        while after < at.watermark {
            let names = read(&self.0.peer, move |c| Ok(window(c, at, after)?)).await?;
            let is_last = i64::try_from(names.len()).unwrap_or(i64::MAX) < WINDOW;
            after = names.last().filter(|_| !is_last).map_or(at.watermark, |last| last.version);
            self.with_file(move |file| file.put(at.owner, &names, after)).await?;
        }
        Ok(())
    }

    /// Does something with the file on a thread that may wait. After an error the file is opened again.
    async fn with_file<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut NameFile) -> QueryResult<T> + Send + 'static,
    ) -> Result<T, CliError> {
        let inner = self.0.clone();
        let failed = |error: String| CliError::new(ErrorKind::Storage, error);
        let done = tokio::task::spawn_blocking(move || {
            let mut held = inner.file.blocking_lock();
            let mut file = match held.take() {
                Some(file) => file,
                None => NameFile::open(&inner.path)?,
            };
            let done = work(&mut file).map_err(|error| error.to_string())?;
            *held = Some(file);
            Ok(done)
        });
        done.await.map_err(|_| failed("the work was cut short".to_owned()))?.map_err(failed)
    }
}

/// How far the rows of every owner are.
fn extents(c: &mut SqliteConnection) -> QueryResult<Vec<Extent>> {
    let sql = format!(
        "WITH RECURSIVE owners (owner) AS (
             SELECT min(owner) FROM entry
             UNION ALL
             SELECT (SELECT min(owner) FROM entry WHERE owner > owners.owner) FROM owners WHERE owners.owner IS NOT NULL)
         SELECT owner,
                coalesce((SELECT watermark FROM stream WHERE kind = {} AND origin = owner), 0) AS watermark,
                (SELECT max(version) FROM entry WHERE entry.owner = owners.owner) AS newest
         FROM owners WHERE owner IS NOT NULL",
        StreamKind::State.code()
    );
    diesel::sql_query(sql).load(c)
}

/// How many entries there are.
fn entries(c: &mut SqliteConnection) -> QueryResult<i64> {
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        n: i64,
    }
    Ok(diesel::sql_query("SELECT count(*) AS n FROM entry").get_result::<Count>(c)?.n)
}

/// The next names of an owner after a number, up to its watermark.
fn window(c: &mut SqliteConnection, at: Extent, after: i64) -> QueryResult<Vec<Named>> {
    let sql = format!(
        "SELECT rowid AS at, coalesce(name, '') AS name, version FROM entry
         WHERE owner = ? AND version > ? AND version <= ? ORDER BY version LIMIT {WINDOW}"
    );
    diesel::sql_query(sql).bind::<Binary, _>(at.owner).bind::<BigInt, _>(after).bind::<BigInt, _>(at.watermark).load(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::fixture::{self, HERE, THERE, hex, id, run};

    fn entry(c: &mut SqliteConnection, at: u128, owner: DeviceId, version: i64, name: &str) {
        let (id, owner) = (hex(id(0x1111, at)), hex(owner.record()));
        run(c, &format!("INSERT INTO entry (id, owner, version, name) VALUES ({id}, {owner}, {version}, '{name}')"));
    }

    fn far(c: &mut SqliteConnection, owner: DeviceId, watermark: i64) {
        let owner = hex(owner.record());
        run(c, &format!("INSERT OR REPLACE INTO stream (kind, origin, watermark) VALUES (0, {owner}, {watermark})"));
    }

    #[test]
    fn the_extent_of_every_owner_says_what_is_whole_and_what_is_ahead() {
        let mut c = fixture::library();
        assert_eq!(extents(&mut c).unwrap(), []);
        entry(&mut c, 1, HERE, 3, "one");
        entry(&mut c, 2, THERE, 5, "two");
        entry(&mut c, 3, THERE, 9, "three");
        far(&mut c, HERE, 4);
        let whole = Extent { owner: HERE, watermark: 4, newest: 3 };
        assert_eq!(extents(&mut c).unwrap(), [whole, Extent { owner: THERE, watermark: 0, newest: 9 }]);
        far(&mut c, THERE, 7);
        let ahead = Extent { owner: THERE, watermark: 7, newest: 9 };
        assert_eq!(extents(&mut c).unwrap(), [whole, ahead]);
        let names = |c: &mut SqliteConnection, at, after| {
            window(c, at, after).unwrap().into_iter().map(|named| (named.name, named.version)).collect::<Vec<_>>()
        };
        assert_eq!(names(&mut c, ahead, 0), [("two".to_owned(), 5)]);
        assert_eq!(names(&mut c, ahead, 5), []);
    }
}
