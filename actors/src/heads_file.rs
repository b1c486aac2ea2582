//! The heads file: how far this device had numbered its own changes, noted beside the key. A database that is behind
//! it is an older copy, and must not number changes anew that peers may know already.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use starling_schema::ids::LibraryId;

/// One file per library: a device that leaves one and comes back goes on where it was.
fn name(library: LibraryId) -> String {
    format!("heads-{library}")
}

/// What was noted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Heads {
    /// The head of our state stream.
    pub(crate) state: u64,
    /// The head of our shared stream.
    pub(crate) shared: u64,
    /// The time of the last timestamp.
    pub(crate) clock: u64,
}

/// Owns the file.
#[derive(Debug)]
pub(crate) struct HeadsFile {
    file: File,
    library: LibraryId,
    /// What it says.
    pub(crate) heads: Heads,
}

impl HeadsFile {
    /// Opens the file. What it says of another library, or what cannot be read, counts as nothing noted.
    pub(crate) fn open(data: &Path, library: LibraryId) -> std::io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(data.join(name(library)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let heads = parse(&String::from_utf8_lossy(&bytes), library).unwrap_or_default();
        Ok(Self { file, library, heads })
    }

    /// Notes new heads, after they were committed and before they are told. One short write in place: whoever reads it
    /// after a crash finds the old line or the new one.
    pub(crate) fn note(&mut self, heads: Heads) -> std::io::Result<()> {
        let line = format!("{} {:020} {:020} {:020}\n", self.library, heads.state, heads.shared, heads.clock);
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(line.as_bytes())?;
        self.heads = heads;
        Ok(())
    }
}

fn parse(line: &str, library: LibraryId) -> Option<Heads> {
    let mut words = line.split_whitespace();
    if words.next()? != library.to_string() {
        return None;
    }
    let mut number = || words.next()?.parse().ok();
    Some(Heads { state: number()?, shared: number()?, clock: number()? })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_was_noted_is_found_again_for_its_library_only() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, other) = (LibraryId(Uuid::from_u128(1)), LibraryId(Uuid::from_u128(2)));
        let heads = Heads { state: 7, shared: 12, clock: u64::MAX };
        HeadsFile::open(dir.path(), ours).unwrap().note(heads).unwrap();
        assert_eq!(HeadsFile::open(dir.path(), ours).unwrap().heads, heads);
        assert_eq!(HeadsFile::open(dir.path(), other).unwrap().heads, Heads::default());
    }

    #[test]
    fn a_damaged_file_counts_as_nothing_noted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name(LibraryId::MIN)), b"\xff 1 2").unwrap();
        assert_eq!(HeadsFile::open(dir.path(), LibraryId::MIN).unwrap().heads, Heads::default());
    }
}
