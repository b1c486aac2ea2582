//! A file, directory or symbolic link within a location.

crate::model! {
    /// One thing in an indexed folder; owned by the device that holds it.
    Entry = 4, "entry", Owned {
        /// The location it lies in.
        1 LOCATION location: crate::ids::RecordId,
        /// The directory it lies in; none for the location's root.
        2 PARENT parent: crate::ids::RecordId,
        /// Its name, shown lossily when it is not UTF-8.
        3 NAME name: String,
        /// An [`EntryKind`] by its code.
        4 KIND kind: i64,
        /// What follows the last dot of a file's name, in lower case.
        5 EXTENSION extension: String,
        /// Bytes.
        6 SIZE size: i64,
        /// Milliseconds since 1970, where the file system knows.
        7 CREATED_AT created_at: i64,
        /// Milliseconds since 1970.
        8 MODIFIED_AT modified_at: i64,
        /// Unix permission bits.
        9 MODE mode: i64,
        /// The file's number on its volume.
        10 INODE inode: i64,
        /// BLAKE3 of the bytes, once known: 32 bytes.
        11 CONTENT_HASH content_hash: Vec<u8>,
        /// The name's raw bytes when they are not UTF-8.
        12 RAW_NAME raw_name: Vec<u8>,
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link; it is never followed.
    Symlink,
}

impl EntryKind {
    /// How the kind is written in a field.
    #[must_use]
    pub fn code(self) -> i64 {
        match self {
            Self::File => 0,
            Self::Directory => 1,
            Self::Symlink => 2,
        }
    }

    /// Reads what [`EntryKind::code`] wrote.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        match code {
            0 => Some(Self::File),
            1 => Some(Self::Directory),
            2 => Some(Self::Symlink),
            _ => None,
        }
    }

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
        }
    }
}
