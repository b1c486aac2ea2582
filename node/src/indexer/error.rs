//! Why indexing a folder failed, in words that name the path.

use std::path::{Path, PathBuf};

use starling::{CommitError, QueryError};
use starling_schema::ids::RecordId;

/// Why an order to the indexer failed. What was committed before stays; the next rescan goes on from it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum IndexError {
    /// There is nothing at that path. Nothing was changed.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// It is a file. Nothing was changed.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The system does not let us look. Nothing was changed.
    #[error("{} cannot be read: {reason}", path.display())]
    Unreadable {
        /// What was to be read.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// A location holds that path already, or lies within it. Nothing was changed.
    #[error("{} {} the location {}", path.display(), overlap.words(), existing.display())]
    Overlaps {
        /// What was to be added.
        path: PathBuf,
        /// How the two lie.
        overlap: Overlap,
        /// The path of the location that is there.
        existing: PathBuf,
        /// That location.
        location: RecordId,
    },
    /// The peer's own data lies around that path. Nothing was changed.
    #[error("{} lies within this peer's own data directory {}", path.display(), data.display())]
    OwnData {
        /// What was to be added.
        path: PathBuf,
        /// The peer's data directory.
        data: PathBuf,
    },
    /// This device has no such location.
    #[error("this device has no location {0}")]
    UnknownLocation(RecordId),
    /// The location's folder or volume is not there now. Its rows are kept.
    #[error("the location {} is not there: {reason}", path.display())]
    Absent {
        /// Where the location is.
        path: PathBuf,
        /// What is there instead.
        reason: String,
    },
    /// What is kept of the directories could not be written, nor done away with. Nothing was changed.
    #[error("what is kept of the folders cannot be written: {reason}")]
    Kept {
        /// The file, and the system's words.
        reason: String,
    },
    /// A scan could not commit. What it committed before stays; the next rescan does the rest.
    #[error("indexing {} failed: {error}", path.display())]
    Commit {
        /// Where the location is.
        path: PathBuf,
        /// What the peer said.
        error: CommitError,
    },
    /// The library could not be read. Nothing was changed.
    #[error("indexing {} failed: {error}", path.display())]
    Query {
        /// Where the location is.
        path: PathBuf,
        /// What the peer said.
        error: QueryError,
    },
    /// A thread of the indexer ended early: the rest of the scan is undone, the rows are kept.
    #[error("indexing {} was cut short", .0.display())]
    CutShort(PathBuf),
    /// More orders wait for this location than it keeps: try again.
    #[error("too many orders wait for the location {}", .0.display())]
    Busy(PathBuf),
    /// The indexer stops or has stopped, or the location is being removed.
    #[error("the indexer has stopped")]
    Stopped,
}

/// How a new path and a location lie to each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Overlap {
    /// The path is the location.
    Same,
    /// The path lies within the location.
    Inside,
    /// The path contains the location.
    Around,
}

impl Overlap {
    /// How two folders lie, if they share anything. Compares whole components: `/ab` is not inside `/a`.
    pub(crate) fn of(path: &Path, existing: &Path) -> Option<Self> {
        if path == existing {
            Some(Self::Same)
        } else if path.starts_with(existing) {
            Some(Self::Inside)
        } else if existing.starts_with(path) {
            Some(Self::Around)
        } else {
            None
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Same => "is already indexed as",
            Self::Inside => "lies inside",
            Self::Around => "contains",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_overlap_by_whole_components_only() {
        let of = |path: &str| Overlap::of(Path::new(path), Path::new("/home/a"));
        assert_eq!(of("/home/a"), Some(Overlap::Same));
        assert_eq!(of("/home/a/b"), Some(Overlap::Inside));
        assert_eq!(of("/home"), Some(Overlap::Around));
        assert_eq!(of("/home/ab"), None);
    }

    #[test]
    fn an_overlap_names_both_paths() {
        let error = IndexError::Overlaps {
            path: "/home/a/b".into(),
            overlap: Overlap::Inside,
            existing: "/home/a".into(),
            location: RecordId::MIN,
        };
        assert_eq!(error.to_string(), "/home/a/b lies inside the location /home/a");
    }
}
