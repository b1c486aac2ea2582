//! What the file system says of one file: the part of an entry that scans compare.

use std::fs::Metadata;

use starling_schema::models::EntryKind;

use super::names;

/// What a scan compares. Equal facts mean an unchanged entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Facts {
    /// File, directory or link.
    pub(crate) kind: EntryKind,
    /// Bytes; none for directories, whose size is an accident of the file system.
    pub(crate) size: Option<i64>,
    /// Milliseconds since 1970, where the file system knows.
    pub(crate) created_ms: Option<i64>,
    /// Milliseconds since 1970.
    pub(crate) modified_ms: Option<i64>,
    /// Unix permission bits.
    pub(crate) mode: Option<i64>,
    /// The file's number on its volume.
    pub(crate) inode: Option<i64>,
}

/// The permission bits of a mode; the others are the kind.
#[cfg(unix)]
pub(crate) const MODE_PERMISSIONS: u32 = 0o7777;

impl Facts {
    /// The facts of a file, directory or link; none for sockets, pipes and devices.
    pub(crate) fn of(metadata: &Metadata) -> Option<Self> {
        let file_type = metadata.file_type();
        let kind = if file_type.is_symlink() {
            EntryKind::Symlink
        } else if file_type.is_dir() {
            EntryKind::Directory
        } else if file_type.is_file() {
            EntryKind::File
        } else {
            return None;
        };
        Some(Self {
            kind,
            size: (kind != EntryKind::Directory).then(|| i64::try_from(metadata.len()).unwrap_or(i64::MAX)),
            created_ms: metadata.created().ok().map(names::ms_since_1970),
            modified_ms: metadata.modified().ok().map(names::ms_since_1970),
            mode: mode(metadata),
            inode: inode(metadata),
        })
    }

    /// Whether a file's bytes may differ: another file took the name, or this one was written.
    pub(crate) fn content_differs(&self, other: &Self) -> bool {
        (self.kind, self.size, self.modified_ms, self.inode) != (other.kind, other.size, other.modified_ms, other.inode)
    }

    /// Whether the two can be one file under two names or at two times.
    ///
    /// Numbers are reused after a deletion, so a file must also have kept its size and time, and either kind its birth
    /// time where it is known. A directory's size and time change with what it holds and say nothing.
    pub(crate) fn same_file(&self, other: &Self) -> bool {
        let born_alike = match (self.created_ms, other.created_ms) {
            (Some(one), Some(two)) => one == two,
            _ => true,
        };
        self.inode.is_some()
            && self.inode == other.inode
            && self.kind == other.kind
            && born_alike
            && (self.kind == EntryKind::Directory || (self.size, self.modified_ms) == (other.size, other.modified_ms))
    }

    /// What the entry adds to its location's byte size.
    pub(crate) fn bytes(&self) -> i64 {
        if self.kind == EntryKind::File { self.size.unwrap_or(0) } else { 0 }
    }
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "other platforms have no permission bits")]
fn mode(metadata: &Metadata) -> Option<i64> {
    Some(i64::from(std::os::unix::fs::MetadataExt::mode(metadata) & MODE_PERMISSIONS))
}

#[cfg(not(unix))]
fn mode(_: &Metadata) -> Option<i64> {
    None
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "other platforms have no such number here")]
fn inode(metadata: &Metadata) -> Option<i64> {
    Some(std::os::unix::fs::MetadataExt::ino(metadata).cast_signed())
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> Option<i64> {
    None
}

/// The number of the file system that a file lies on; inodes are unique within one only.
#[cfg(unix)]
pub(crate) fn device_number(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::dev(metadata)
}

/// The number of the file system that a file lies on: unknown here.
#[cfg(not(unix))]
pub(crate) fn device_number(_: &Metadata) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Facts = Facts {
        kind: EntryKind::File,
        size: Some(10),
        created_ms: Some(1),
        modified_ms: Some(2),
        mode: Some(0o644),
        inode: Some(7),
    };

    #[test]
    fn a_reused_inode_is_not_the_same_file() {
        assert!(FILE.same_file(&FILE));
        assert!(!FILE.same_file(&Facts { size: Some(11), ..FILE }));
        assert!(!FILE.same_file(&Facts { kind: EntryKind::Symlink, ..FILE }));
        assert!(!FILE.same_file(&Facts { created_ms: Some(3), ..FILE }));
        assert!(FILE.same_file(&Facts { created_ms: None, ..FILE }));
    }

    #[test]
    fn new_permissions_leave_the_content_as_it_was() {
        assert!(!FILE.content_differs(&Facts { mode: Some(0o600), ..FILE }));
        assert!(FILE.content_differs(&Facts { modified_ms: Some(3), ..FILE }));
    }

    #[test]
    fn a_socket_has_no_facts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(Facts::of(&path.symlink_metadata().unwrap()), None);
    }
}
