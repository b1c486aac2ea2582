//! Finds out which directories of a location changed since the last scan, without reading what the library knows of
//! each file.

use std::path::PathBuf;

use super::catalogue::OwnLocation;
use super::error::IndexError;
use super::fingerprint::short_path;
use super::folders::Stored;
use super::progress::{ScanReport, TROUBLES_LISTED_MAX};
use super::scan::Scanner;
use super::walk::{self, Glanced};
use super::watch::TOUCHED_MAX;

/// What a glance came to.
#[derive(Debug)]
pub(crate) enum Glance {
    /// These directories changed, perhaps none, and this is what was seen.
    Changed(Vec<PathBuf>, ScanReport),
    /// That is not known, or so much changed that a scan of everything costs less than it saves.
    Unknown,
}

impl Scanner {
    /// Walks a location and compares what its directories hold with what they held. Nothing is written.
    ///
    /// # Errors
    /// The location is absent, or the library cannot be read.
    pub(crate) async fn glance(&self, at: &OwnLocation) -> Result<Glance, IndexError> {
        if !at.scanned {
            return Ok(Glance::Unknown);
        }
        let _turn = self.turn().await?;
        self.presence(at).await?;
        let head = self.catalogue.head(&at.path, &self.stop).await?;
        let stored = self.with_folders(at, move |folders, at| folders.load(at.id, head)).await?;
        let Some(stored) = stored else { return Ok(Glance::Unknown) };
        let (plan, stop) = (self.plan(&at.path, None), self.stop.clone());
        let glanced = self.blocking(at, move |_| walk::glance(&plan, &stop)).await?;
        if self.stop.is_set() {
            return Err(IndexError::Stopped);
        }
        let report = report(&glanced);
        Ok(match changed(&stored, glanced) {
            Some(directories) => Glance::Changed(directories, report),
            None => Glance::Unknown,
        })
    }
}

fn report(glanced: &Glanced) -> ScanReport {
    let listed = glanced.troubles.iter().take(TROUBLES_LISTED_MAX).map(ToString::to_string);
    ScanReport {
        seen: glanced.seen,
        skipped: glanced.skipped,
        errors: glanced.troubles.len() as u64,
        troubles: listed.collect(),
        ..ScanReport::default()
    }
}

/// The directories that are new or hold something else; none when they cannot be told or are too many. What cannot be
/// read now is as it was.
fn changed(stored: &Stored, glanced: Glanced) -> Option<Vec<PathBuf>> {
    if glanced.troubles.iter().any(|trouble| trouble.path.is_none()) {
        return None;
    }
    let differing =
        glanced.directories.into_iter().filter(|(path, print)| stored.get(&short_path(path)) != Some(print));
    let changed: Vec<PathBuf> = differing.map(|(path, _)| path).take(TOUCHED_MAX + 1).collect();
    (changed.len() <= TOUCHED_MAX).then_some(changed)
}
