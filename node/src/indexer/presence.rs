//! Whether a location's folder is really there. A folder whose volume is not mounted looks like an empty one, and
//! must never make us forget what it holds.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use starling_schema::ids::DeviceId;

use super::catalogue::OwnLocation;
use super::error::{IndexError, Overlap};
use super::facts::{self, Facts};
use super::known::Known;
use super::volume::MountedVolume;

/// What an [`IndexError::Absent`] says when the folder became another one during a scan.
pub(crate) const REPLACED: &str = "its folder was replaced or unmounted during the scan";

/// A location's folder as it is now. Two looks that differ are looks at two folders.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Presence {
    /// The number of its file system.
    pub(crate) device_number: u64,
    inode: Option<i64>,
}

impl Presence {
    /// Looks at a location's folder.
    ///
    /// # Errors
    /// [`IndexError::Absent`] when there is no folder, or another volume is mounted there.
    pub(crate) fn of(at: &OwnLocation, device: DeviceId) -> Result<Self, IndexError> {
        let absent = |reason: String| IndexError::Absent { path: at.path.clone(), reason };
        let metadata = at.path.symlink_metadata().map_err(|error| absent(error.to_string()))?;
        if !metadata.is_dir() {
            return Err(absent("there is no directory at its path".to_owned()));
        }
        let volume = MountedVolume::of(&at.path).map_err(|error| absent(error.to_string()))?;
        if volume.id(device) != at.volume {
            let fingerprint = volume.fingerprint;
            return Err(absent(format!(
                "the volume that is mounted there ({fingerprint}) is another one; mount the right one, or remove \
                 the location and add it again"
            )));
        }
        let inode = Facts::of(&metadata).and_then(|facts| facts.inode);
        Ok(Self { device_number: facts::device_number(&metadata), inode })
    }

    /// Refuses an empty folder that is not the one that we know to hold something: the second sign of a volume that
    /// is not mounted, where the first, the volume itself, cannot tell (subvolumes share one).
    pub(crate) fn check_not_emptied<'a>(
        self,
        at: &OwnLocation,
        known: impl IntoIterator<Item = &'a Known>,
    ) -> Result<(), IndexError> {
        let (mut other_folder, mut others) = (false, false);
        for row in known {
            if row.id == at.root {
                other_folder = row.facts.inode != self.inode;
            } else {
                others = true;
            }
        }
        if other_folder && others && is_empty(&at.path) {
            let reason = "its folder is another one now, and empty: its volume may not be mounted".to_owned();
            return Err(IndexError::Absent { path: at.path.clone(), reason });
        }
        Ok(())
    }
}

/// Whether a directory holds nothing; one that cannot be read is not known to be empty.
fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// For each path the nearest directory that exists, from it upward to the root; each once.
pub(crate) fn existing_directories(root: &Path, touched: &[PathBuf]) -> Vec<PathBuf> {
    let is_directory = |path: &Path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    let existing = touched.iter().filter_map(|path| {
        let mut upward = path.ancestors().take_while(|above| above.starts_with(root));
        upward.find(|above| *above == root || is_directory(above)).map(Path::to_owned)
    });
    existing.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The folder that a new location would have, absolute and without symbolic links.
///
/// # Errors
/// What keeps it from being one. Nothing was changed.
pub(crate) fn resolve(path: &Path, data: Option<&Path>, locations: &[OwnLocation]) -> Result<PathBuf, IndexError> {
    let unreadable = |error: &std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => IndexError::Missing(path.to_owned()),
        std::io::ErrorKind::NotADirectory => IndexError::NotADirectory(path.to_owned()),
        _ => IndexError::Unreadable { path: path.to_owned(), reason: error.to_string() },
    };
    let folder = path.canonicalize().map_err(|error| unreadable(&error))?;
    std::fs::read_dir(&folder).map_err(|error| unreadable(&error))?;
    for at in locations {
        if let Some(overlap) = Overlap::of(&folder, &at.path) {
            return Err(IndexError::Overlaps { path: folder, overlap, existing: at.path.clone(), location: at.id });
        }
    }
    match data {
        Some(data) if folder.starts_with(data) => Err(IndexError::OwnData { path: folder, data: data.to_owned() }),
        _ => Ok(folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::indexer::rows::Totals;
    use starling_schema::ids::RecordId;

    fn location(path: &Path, volume: RecordId) -> OwnLocation {
        OwnLocation {
            id: RecordId::derived("test", &[b"location"]),
            root: RecordId::derived("test", &[b"root"]),
            volume,
            path: path.to_owned(),
            totals: Totals::default(),
            scanned: true,
        }
    }

    #[test]
    fn a_folder_on_another_volume_is_absent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        let mounted = MountedVolume::of(&path).unwrap().id(DeviceId::MIN);
        assert!(Presence::of(&location(&path, mounted), DeviceId::MIN).is_ok());
        let other = Presence::of(&location(&path, RecordId::MIN), DeviceId::MIN);
        assert!(matches!(other, Err(IndexError::Absent { .. })));
        let missing = Presence::of(&location(&path.join("missing"), mounted), DeviceId::MIN);
        assert!(matches!(missing, Err(IndexError::Absent { .. })));
    }

    #[test]
    fn a_path_that_cannot_be_a_location_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        std::fs::write(path.join("file"), "").unwrap();
        std::fs::create_dir(path.join("inner")).unwrap();
        let here = [location(&path, RecordId::MIN)];
        let resolve = |below: &str, data: Option<&Path>, there: &[OwnLocation]| resolve(&path.join(below), data, there);
        assert_eq!(resolve("missing", None, &[]), Err(IndexError::Missing(path.join("missing"))));
        assert_eq!(resolve("file", None, &[]), Err(IndexError::NotADirectory(path.join("file"))));
        assert!(matches!(resolve("inner", Some(&path), &[]), Err(IndexError::OwnData { .. })));
        assert!(matches!(resolve("inner", None, &here), Err(IndexError::Overlaps { overlap: Overlap::Inside, .. })));
        assert!(matches!(resolve("", None, &here), Err(IndexError::Overlaps { overlap: Overlap::Same, .. })));
        assert_eq!(resolve("inner", None, &[]), Ok(path.join("inner")));
    }

    #[test]
    fn what_vanished_stands_for_the_nearest_directory_above_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        std::fs::create_dir(root.join("a")).unwrap();
        let touched = vec![root.join("a/gone/too"), root.join("a"), root.join("gone"), "/elsewhere".into()];
        assert_eq!(existing_directories(&root, &touched), [root.clone(), root.join("a")]);
    }
}
