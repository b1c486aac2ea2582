//! What the indexer reads from and writes to the library: this device's own locations and entries, no one else's.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use starling::environment::Environment;
use starling::{CommitError, PeerHandle, QueryError};
use starling_schema::change::Write;
use starling_schema::ids::{DeviceId, LibraryId, RecordId};
use starling_schema::models::EntryKind;

use super::error::IndexError;
use super::known::{DEPTH_MAX, Known};
use super::names;
use super::rows::Totals;
use super::stop::Stop;
use super::tables::{self, EntryRow, LocationRow, entry, location};

/// How long to wait when the peer has too much to write or to read: about the time of one commit.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// How often to try again: 30 s in all, after which something is wrong that waiting does not mend.
const BUSY_TRIES_MAX: usize = 600;

/// How many rows of the table one query goes over: a reader that also serves others is then held for milliseconds,
/// even where most rows are other devices'.
const WINDOW_ROWS: i64 = 20_000;

/// How many files without a hash one query returns: as many as one commit of hashes takes.
const UNHASHED_FILES_MAX: usize = 500;

/// How many entries one query asks for by id: fewer than the files it returns, so that none is left out.
const UNHASHED_IDS_MAX: usize = 400;

/// One of this device's locations, as its row says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct OwnLocation {
    /// Which record.
    pub(crate) id: RecordId,
    /// The entry of its folder.
    pub(crate) root: RecordId,
    /// The volume that it lies on.
    pub(crate) volume: RecordId,
    /// Its folder.
    pub(crate) path: PathBuf,
    /// What it holds.
    pub(crate) totals: Totals,
    /// Whether a scan of it ever came to its end.
    pub(crate) scanned: bool,
}

/// A file whose content hash is not known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Unhashed {
    /// Its entry.
    pub(crate) id: RecordId,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What its row says: only this very content is hashed.
    pub(crate) size: i64,
    /// What its row says.
    pub(crate) modified_ms: i64,
}

/// Where to look for files without a hash.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum UnhashedPlace {
    /// In all of the location, behind this row.
    After(i64),
    /// Among these entries.
    These(Vec<RecordId>),
}

/// Some files without a hash, and where there may be more.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct UnhashedPage {
    /// The files; there may be none in between.
    pub(crate) files: Vec<Unhashed>,
    /// Where to go on.
    pub(crate) next: Option<UnhashedPlace>,
}

/// A directory that something happened in, as the library knows it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TouchedDirectory {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its entry.
    pub(crate) row: Known,
}

/// Some directories and what they hold, as the library knows them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Neighbourhood {
    /// The directories that are known.
    pub(crate) directories: Vec<TouchedDirectory>,
    /// What they hold, one level deep.
    pub(crate) children: Vec<Known>,
    /// The paths that the library does not know. The nearest directory above each that it knows is among the others.
    pub(crate) unknown: Vec<PathBuf>,
}

/// The peer, as far as the indexer needs it.
#[derive(Clone, Debug)]
pub(crate) enum Catalogue {
    /// A running peer.
    Peer(PeerHandle),
    /// A database without a peer around it.
    #[cfg(test)]
    Bench(super::bench::Bench),
}

impl Catalogue {
    /// This device.
    pub(crate) fn device(&self) -> DeviceId {
        match self {
            Self::Peer(peer) => peer.device(),
            #[cfg(test)]
            Self::Bench(bench) => bench.device(),
        }
    }

    /// Time and ids.
    pub(crate) fn environment(&self) -> &Environment {
        match self {
            Self::Peer(peer) => peer.environment(),
            #[cfg(test)]
            Self::Bench(bench) => bench.environment(),
        }
    }

    /// Commits; waits while the peer is busy. `path` is what an error names.
    ///
    /// # Errors
    /// [`IndexError::Commit`] with nothing written, or [`IndexError::Stopped`].
    pub(crate) async fn commit(&self, path: &Path, writes: Vec<Write>, stop: &Stop) -> Result<(), IndexError> {
        if writes.is_empty() {
            return Ok(());
        }
        for _ in 0..BUSY_TRIES_MAX {
            let outcome = match self {
                Self::Peer(peer) => peer.commit(writes.clone()).await,
                #[cfg(test)]
                Self::Bench(bench) => bench.commit(writes.clone()),
            };
            match outcome {
                Ok(_) => return Ok(()),
                Err(CommitError::Stopped) => return Err(IndexError::Stopped),
                Err(CommitError::Busy) => pause(stop).await?,
                Err(error) => return Err(IndexError::Commit { path: path.to_owned(), error }),
            }
        }
        Err(IndexError::Commit { path: path.to_owned(), error: CommitError::Busy })
    }

    /// Reads; waits while the peer is busy. `path` is what an error names.
    async fn query<T: Send + 'static>(
        &self,
        path: &Path,
        stop: &Stop,
        read: impl FnOnce(&mut SqliteConnection) -> Result<T, QueryError> + Clone + Send + 'static,
    ) -> Result<T, IndexError> {
        for _ in 0..BUSY_TRIES_MAX {
            let read = read.clone();
            let outcome = match self {
                Self::Peer(peer) => tokio::select! {
                    () = stop.wait() => return Err(IndexError::Stopped),
                    outcome = peer.query(read) => outcome,
                },
                #[cfg(test)]
                Self::Bench(bench) => bench.query(read),
            };
            match outcome {
                Ok(value) => return Ok(value),
                Err(QueryError::Stopped) => return Err(IndexError::Stopped),
                Err(QueryError::Busy) => pause(stop).await?,
                Err(error) => return Err(IndexError::Query { path: path.to_owned(), error }),
            }
        }
        Err(IndexError::Query { path: path.to_owned(), error: QueryError::Busy })
    }

    /// Which library it is.
    pub(crate) fn library(&self) -> LibraryId {
        match self {
            Self::Peer(peer) => peer.library(),
            #[cfg(test)]
            Self::Bench(_) => LibraryId::MIN,
        }
    }

    /// The number of this device's newest row.
    pub(crate) async fn head(&self, path: &Path, stop: &Stop) -> Result<i64, IndexError> {
        let owner = self.device();
        self.query(path, stop, move |connection| Ok(tables::head(connection, owner)?)).await
    }

    /// All locations of this device, in the order that they were added.
    pub(crate) async fn locations(&self, stop: &Stop) -> Result<Vec<OwnLocation>, IndexError> {
        let owner = self.device();
        self.query(Path::new("all locations"), stop, move |connection| {
            let rows: Vec<LocationRow> = location::table
                .filter(location::owner.eq(owner))
                .select(LocationRow::as_select())
                .order(location::id)
                .load(connection)?;
            Ok(rows.into_iter().filter_map(LocationRow::read).collect())
        })
        .await
    }

    /// All entries of a location in their compact form.
    pub(crate) async fn known(&self, at: &OwnLocation, stop: &Stop) -> Result<Vec<Known>, IndexError> {
        let (owner, id) = (self.device(), at.id);
        let mut known = Vec::new();
        let windows = Windows::new(self.last_row(at, stop).await?);
        for (after, through) in windows {
            known.extend(
                self.query(&at.path, stop, move |connection| {
                    let rows: Vec<EntryRow> = entry::table
                        .filter(entry::rowid.gt(after).and(entry::rowid.le(through)))
                        .filter(entry::owner.eq(owner).and(entry::location.eq(id)))
                        .select(EntryRow::as_select())
                        .load(connection)?;
                    Ok(rows.into_iter().filter_map(EntryRow::read).collect::<Vec<_>>())
                })
                .await?,
            );
        }
        Ok(known)
    }

    /// The ids of a location's entries, for deleting them.
    pub(crate) async fn entry_ids(&self, at: &OwnLocation, stop: &Stop) -> Result<Vec<RecordId>, IndexError> {
        let (owner, id) = (self.device(), at.id);
        let mut ids = Vec::new();
        let windows = Windows::new(self.last_row(at, stop).await?);
        for (after, through) in windows {
            ids.extend(
                self.query(&at.path, stop, move |connection| {
                    let rows = entry::table
                        .filter(entry::rowid.gt(after).and(entry::rowid.le(through)))
                        .filter(entry::owner.eq(owner).and(entry::location.eq(id)));
                    Ok(rows.select(entry::id).load::<RecordId>(connection)?)
                })
                .await?,
            );
        }
        Ok(ids)
    }

    /// The highest number that a row of the table has. Rows that come later are not of a location whose keeper waits
    /// for us: it alone writes them.
    async fn last_row(&self, at: &OwnLocation, stop: &Stop) -> Result<i64, IndexError> {
        let last = |connection: &mut SqliteConnection| {
            let last: Option<i64> = entry::table.select(diesel::dsl::max(entry::rowid)).first(connection)?;
            Ok(last.unwrap_or(0))
        };
        self.query(&at.path, stop, last).await
    }

    /// What the library knows of some directories and of what they hold.
    pub(crate) async fn neighbourhood(
        &self,
        at: &OwnLocation,
        paths: Vec<PathBuf>,
        stop: &Stop,
    ) -> Result<Neighbourhood, IndexError> {
        let (owner, at_copy) = (self.device(), at.clone());
        self.query(&at.path, stop, move |connection| {
            let mut neighbourhood = Neighbourhood::default();
            let (mut seen, mut taken) = (HashMap::new(), HashSet::new());
            for path in paths {
                for above in path.ancestors().take_while(|above| above.starts_with(&at_copy.path)) {
                    if let Some(row) = tables::directory_at(connection, owner, &at_copy, above, &mut seen)? {
                        if taken.insert(row.id) {
                            neighbourhood.children.extend(tables::children(connection, owner, row.id)?);
                            neighbourhood.directories.push(TouchedDirectory { path: above.to_owned(), row });
                        }
                        break;
                    }
                    if above == path {
                        neighbourhood.unknown.push(path.clone());
                    }
                }
            }
            Ok(neighbourhood)
        })
        .await
    }

    /// Everything below some directories, those themselves not included.
    pub(crate) async fn below(
        &self,
        at: &OwnLocation,
        directories: Vec<RecordId>,
        stop: &Stop,
    ) -> Result<Vec<Known>, IndexError> {
        let owner = self.device();
        self.query(&at.path, stop, move |connection| {
            let mut found = Vec::new();
            let mut open = directories;
            // Rows could form a ring only by a fault elsewhere; the bound keeps even that from turning for ever.
            for _ in 0..DEPTH_MAX {
                let mut next = Vec::new();
                for directory in std::mem::take(&mut open) {
                    let children = tables::children(connection, owner, directory)?;
                    let inner = children.iter().filter(|row| row.facts.kind == EntryKind::Directory);
                    next.extend(inner.map(|row| row.id));
                    found.extend(children);
                }
                if next.is_empty() {
                    break;
                }
                open = next;
            }
            Ok(found)
        })
        .await
    }

    /// The next files of a location whose content hash is not known.
    pub(crate) async fn unhashed(
        &self,
        at: &OwnLocation,
        place: UnhashedPlace,
        stop: &Stop,
    ) -> Result<UnhashedPage, IndexError> {
        let (owner, at_copy) = (self.device(), at.clone());
        self.query(&at.path, stop, move |connection| {
            let mut wanted = entry::table
                .filter(entry::owner.eq(owner).and(entry::location.eq(at_copy.id)))
                .filter(entry::kind.eq(EntryKind::File.code()).and(entry::content_hash.is_null()))
                .select(EntryRow::as_select())
                .order(entry::rowid)
                .limit(i64::try_from(UNHASHED_FILES_MAX).unwrap_or(i64::MAX))
                .into_boxed();
            let mut next = match place {
                UnhashedPlace::These(ids) => {
                    let (now, rest) = ids.split_at(ids.len().min(UNHASHED_IDS_MAX));
                    wanted = wanted.filter(entry::id.eq_any(now.to_vec()));
                    (!rest.is_empty()).then(|| UnhashedPlace::These(rest.to_vec()))
                }
                UnhashedPlace::After(after) => {
                    let last: Option<i64> = entry::table.select(diesel::dsl::max(entry::rowid)).first(connection)?;
                    let through = after.saturating_add(WINDOW_ROWS);
                    wanted = wanted.filter(entry::rowid.gt(after).and(entry::rowid.le(through)));
                    last.filter(|last| *last > through).map(|_| UnhashedPlace::After(through))
                }
            };
            let rows: Vec<EntryRow> = wanted.load(connection)?;
            if let Some(last) = rows.last().filter(|_| rows.len() >= UNHASHED_FILES_MAX) {
                next = Some(UnhashedPlace::After(last.rowid));
            }
            let mut paths = HashMap::from([(at_copy.root, at_copy.path)]);
            let mut files = Vec::with_capacity(rows.len());
            for row in rows.into_iter().filter_map(EntryRow::read) {
                let (Some(parent), Some(name)) = (row.parent, names::os_name(&row.name)) else { continue };
                let Some(folder) = tables::path_of(connection, parent, &mut paths)? else { continue };
                let (Some(size), Some(modified_ms)) = (row.facts.size, row.facts.modified_ms) else { continue };
                files.push(Unhashed { id: row.id, path: folder.join(name), size, modified_ms });
            }
            Ok(UnhashedPage { files, next })
        })
        .await
    }

    /// Of these files, those whose rows still say the same size and time.
    pub(crate) async fn still_as(
        &self,
        at: &OwnLocation,
        files: Vec<(RecordId, i64, i64)>,
        stop: &Stop,
    ) -> Result<Vec<RecordId>, IndexError> {
        let owner = self.device();
        self.query(&at.path, stop, move |connection| {
            let mut same = Vec::with_capacity(files.len());
            for (id, size, modified_ms) in files {
                let row = entry::table
                    .filter(entry::id.eq(id).and(entry::owner.eq(owner)))
                    .filter(entry::size.eq(size).and(entry::modified_at.eq(modified_ms)))
                    .select(entry::id);
                same.extend(row.first::<RecordId>(connection).optional()?);
            }
            Ok(same)
        })
        .await
    }
}

async fn pause(stop: &Stop) -> Result<(), IndexError> {
    tokio::select! {
        () = stop.wait() => Err(IndexError::Stopped),
        () = tokio::time::sleep(BUSY_PAUSE) => Ok(()),
    }
}

/// The ranges of row numbers that a whole table is read in.
struct Windows {
    after: i64,
    last: i64,
}

impl Windows {
    fn new(last: i64) -> Self {
        Self { after: 0, last }
    }
}

impl Iterator for Windows {
    type Item = (i64, i64);

    fn next(&mut self) -> Option<(i64, i64)> {
        let after = self.after;
        self.after = after.saturating_add(WINDOW_ROWS);
        (after < self.last).then_some((after, self.after))
    }
}
