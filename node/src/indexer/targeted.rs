//! Scans only the directories in which something happened.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use starling_schema::change::Write;
use starling_schema::ids::RecordId;
use starling_schema::models::Entry;

use super::catalogue::{Neighbourhood, OwnLocation};
use super::diff::{Diff, Settled};
use super::error::IndexError;
use super::known::{Known, KnownSet};
use super::presence::{self, Presence};
use super::progress::ScanReport;
use super::rows;
use super::scan::{Run, Scanner};
use super::walk::Trouble;
use super::watch::{DEBOUNCE, Touched};

/// How long to wait for the rest of a move before something counts as gone: the watch holds events back for
/// [`DEBOUNCE`] and a quarter, so half of a move that we saw on disk may not have been told yet.
const LATE_EVENTS: Duration = DEBOUNCE.saturating_add(Duration::from_millis(250));

/// How often to look again at most: once for late events, once for each level of moves within moves that programs
/// make in practice. In a folder that never rests, the last look counts.
const LOOKS_MAX: usize = 4;

/// What a scan of some directories came to.
#[derive(Debug)]
pub(crate) enum Targeted {
    /// Done.
    Done {
        /// What was done.
        report: ScanReport,
        /// Files to hash.
        unhashed: Vec<RecordId>,
        /// Paths that make sense only now that the rest is committed.
        later: Vec<PathBuf>,
    },
    /// The library does not know the location's root, or too much is new or moved: scan all of it.
    NeedsFullScan,
}

/// What one look at some directories came to. Dropping it forgets what it did not commit.
struct Look<'a> {
    run: Run<'a>,
    diff: Diff,
    settled: Settled,
    presence: Presence,
    later: Vec<PathBuf>,
}

impl Scanner {
    /// Compares some directories of a location, one level deep, and all of those that are new or have moved. `late` is
    /// where the rest of a move may still be told of; none when all that changed is among the directories.
    ///
    /// # Errors
    /// What was committed before stays, and nothing counts as deleted.
    pub(crate) async fn targeted(
        &self,
        at: &mut OwnLocation,
        touched: Vec<PathBuf>,
        late: Option<&Touched>,
    ) -> Result<Targeted, IndexError> {
        let _turn = self.turn().await?;
        let mut touched: BTreeSet<PathBuf> = touched.into_iter().collect();
        // Directories whose whole content is to be known, because they moved.
        let mut deep: Vec<RecordId> = Vec::new();
        for looks in 1..=LOOKS_MAX {
            let paths = touched.iter().cloned().collect();
            let Some(look) = self.look(at, paths, &deep).await? else { return Ok(Targeted::NeedsFullScan) };
            let unloaded = look.diff.moved_directories().iter().filter(|id| !deep.contains(id)).copied();
            let unloaded: Vec<RecordId> = unloaded.collect();
            if !unloaded.is_empty() {
                deep.extend(unloaded);
                continue;
            }
            // What is in a directory that moved may have been put there before, and that not have been told yet.
            let half = !look.settled.gone.is_empty() || !look.diff.moved_directories().is_empty();
            if let Some(late) = late.filter(|_| half && looks < LOOKS_MAX) {
                self.sleep(LATE_EVENTS).await?;
                let more = late.take();
                if more.everything {
                    return Ok(Targeted::NeedsFullScan);
                }
                if !more.directories.is_empty() {
                    touched.extend(more.directories);
                    continue;
                }
            }
            return self.commit_look(at, look).await;
        }
        Ok(Targeted::NeedsFullScan)
    }

    /// Looks at directories, and commits nothing; none when the library does not know the location's root, or when
    /// there is more to write than is held back: a scan of all commits as it goes.
    async fn look(
        &self,
        at: &OwnLocation,
        touched: Vec<PathBuf>,
        deep: &[RecordId],
    ) -> Result<Option<Look<'_>>, IndexError> {
        let presence = self.presence(at).await?;
        let existing = self.blocking(at, move |at| presence::existing_directories(&at.path, &touched)).await?;
        let near = self.catalogue.neighbourhood(at, existing, &self.stop).await?;
        if near.directories.is_empty() {
            return Ok(None);
        }
        let below = self.catalogue.below(at, deep.to_vec(), &self.stop).await?;
        let known = known_once(&near, &below);
        presence.check_not_emptied(at, known.rows())?;
        let mut diff = Diff::new(Self::frame(at, presence, true), known);
        for directory in &near.directories {
            if let (Some(above), Some(parent)) = (directory.path.parent(), directory.row.parent) {
                diff.place_directory(above.to_owned(), parent);
            }
            diff.place_directory(directory.path.clone(), directory.row.id);
        }
        let mut run = self.run(at);
        run.holds_back = true;
        let mut later = Vec::new();
        for directory in &near.directories {
            run.compare(self.plan(&directory.path, Some(1)), &mut diff).await?;
            if !diff.has_seen(directory.row.id) {
                // It went while we looked, perhaps to another name. What holds it knows more.
                run.note_trouble(Trouble { path: Some(directory.path.clone()), reason: String::new() }, &mut diff);
                later.extend(directory.path.parent().map(Path::to_owned));
            }
        }
        let walked = self.enter_fresh(&mut run, &mut diff).await?;
        later.extend(near.unknown.into_iter().filter(|path| !path.ancestors().any(|above| walked.contains(above))));
        if run.overfull {
            return Ok(None);
        }
        let settled = run.settle(&mut diff);
        run.holds_back = false;
        Ok(Some(Look { run, diff, settled, presence, later }))
    }

    /// Walks the directories that were new or moved, and what they hold, to the bottom. Returns where it has been.
    async fn enter_fresh(&self, run: &mut Run<'_>, diff: &mut Diff) -> Result<HashSet<PathBuf>, IndexError> {
        let mut walked = HashSet::new();
        loop {
            let fresh = diff.take_fresh_directories();
            if fresh.is_empty() {
                return Ok(walked);
            }
            for path in fresh {
                // What such a walk finds is new as well, but has been walked with it.
                if !run.overfull && !path.ancestors().any(|above| walked.contains(above)) {
                    walked.insert(path.clone());
                    run.compare(self.plan(&path, None), diff).await?;
                }
            }
        }
    }

    async fn commit_look(&self, at: &mut OwnLocation, look: Look<'_>) -> Result<Targeted, IndexError> {
        let Look { mut run, mut diff, settled, presence, later } = look;
        // The folder may have been unmounted while we looked: then what we did not see is not gone.
        if self.presence(at).await? != presence {
            return Err(IndexError::Absent { path: at.path.clone(), reason: presence::REPLACED.to_owned() });
        }
        run.push_all(settled.writes).await?;
        let unhashed = run.unhashed();
        // What lay in a directory that is gone went with it, except what was found again elsewhere.
        let directories = settled.gone.iter().filter(|gone| gone.is_directory).map(|gone| gone.id).collect();
        let mut spared = diff.surviving();
        spared.extend(settled.gone.iter().map(|gone| gone.id));
        for row in self.catalogue.below(at, directories, &self.stop).await? {
            if spared.insert(row.id) {
                diff.note_gone(row.facts.bytes());
                run.push(Write::delete(Entry::MODEL, row.id)).await?;
            }
        }
        run.delete(settled.gone).await?;
        let report = run.report(&diff);
        let mut after = at.totals;
        after += diff.growth();
        if report.wrote() {
            run.push(rows::totals(at.id, after, self.catalogue.environment().wall_ms())).await?;
        }
        run.flush().await?;
        at.totals = after;
        run.finish(&diff, false).await?;
        Ok(Targeted::Done { report, unhashed, later })
    }

    async fn sleep(&self, time: Duration) -> Result<(), IndexError> {
        tokio::select! {
            () = self.stop.wait() => Err(IndexError::Stopped),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }
}

/// The directories, what they hold and what was loaded beyond, each once: a touched directory may lie in another.
fn known_once(near: &Neighbourhood, below: &[Known]) -> KnownSet {
    let mut taken = HashSet::new();
    let directories = near.directories.iter().map(|directory| &directory.row);
    let rows = directories.chain(&near.children).chain(below);
    KnownSet::new(rows.filter(|row| taken.insert(row.id)).cloned().collect())
}
