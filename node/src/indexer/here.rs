//! Looks at what lies in a directory by its name: the path to the directory is taken once, not again for each file.

use std::io;
use std::path::{Path, PathBuf};

use super::facts::{self, Facts};
use super::names;

/// What the file system says of one path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seen {
    /// What a scan compares; none for sockets, pipes and devices.
    pub(crate) facts: Option<Facts>,
    /// The file system that it lies on.
    pub(crate) device: u64,
}

/// The directory that one thread of a walk is in: most of what it comes across lies in the same as the last.
#[derive(Debug, Default)]
pub(crate) struct Here {
    path: PathBuf,
    #[cfg(target_os = "linux")]
    open: Option<std::os::fd::OwnedFd>,
}

impl Here {
    /// Which directory; empty before the first.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a path lies in it, told by its bytes: taking paths apart costs more than the rest.
    pub(crate) fn holds(&self, path: &Path, name: &[u8]) -> bool {
        let above = path.as_os_str().as_encoded_bytes().strip_suffix(name);
        above.and_then(<[u8]>::split_last).is_some_and(|(separator, above)| {
            std::path::is_separator(char::from(*separator)) && above == self.path.as_os_str().as_encoded_bytes()
        })
    }

    /// Goes to the directory that a path lies in.
    pub(crate) fn go_to(&mut self, path: &Path) {
        path.parent().unwrap_or(path).clone_into(&mut self.path);
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::{Mode, OFlags};
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            self.open = rustix::fs::open(&self.path, flags, Mode::empty()).ok();
        }
    }

    /// Looks at a path that lies here; links are not followed.
    ///
    /// # Errors
    /// It cannot be looked at, or is gone.
    pub(crate) fn look(&self, path: &Path) -> io::Result<Seen> {
        #[cfg(target_os = "linux")]
        if let (Some(open), Some(name)) = (&self.open, path.file_name()) {
            return seen_in(open, name);
        }
        let metadata = path.symlink_metadata()?;
        Ok(Seen { facts: Facts::of(&metadata), device: facts::device_number(&metadata) })
    }
}

#[cfg(target_os = "linux")]
fn seen_in(directory: &std::os::fd::OwnedFd, name: &std::ffi::OsStr) -> io::Result<Seen> {
    use rustix::fs::{AtFlags, FileType, StatxFlags};
    use starling_schema::models::EntryKind;
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let stat = rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
    let kind = match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
        FileType::Symlink => Some(EntryKind::Symlink),
        FileType::Directory => Some(EntryKind::Directory),
        FileType::RegularFile => Some(EntryKind::File),
        _ => None,
    };
    let born = (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then_some(stat.stx_btime);
    let facts = kind.map(|kind| Facts {
        kind,
        size: (kind != EntryKind::Directory).then(|| i64::try_from(stat.stx_size).unwrap_or(i64::MAX)),
        created_ms: born.map(|born| names::ms_of(born.tv_sec, born.tv_nsec)),
        modified_ms: Some(names::ms_of(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec)),
        mode: Some(i64::from(u32::from(stat.stx_mode) & facts::MODE_PERMISSIONS)),
        inode: Some(stat.stx_ino.cast_signed()),
    });
    Ok(Seen { facts, device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_lies_in_its_directory_only() {
        let holds = |path: &str, directory: &str, name: &str| {
            let here = Here { path: directory.into(), ..Here::default() };
            here.holds(path.as_ref(), name.as_bytes())
        };
        assert!(holds("/a/b", "/a", "b") && holds("/a/bb", "/a", "bb"));
        assert!(!holds("/a/b", "/", "b") && !holds("/a/bb", "/a", "b") && !holds("/a/b", "/b", "b"));
        assert!(!holds("b", "", "b"));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_seen_by_name_is_what_is_seen_by_path() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "content").unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH - std::time::Duration::from_millis(1_500);
        std::fs::File::create(at("old")).unwrap().set_modified(old).unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("link")).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let mut here = Here::default();
        here.go_to(&at("file"));
        assert_eq!(here.path(), folder.path());
        for name in ["file", "old", "directory", "link", "socket"] {
            let metadata = at(name).symlink_metadata().unwrap();
            let by_path = Seen { facts: Facts::of(&metadata), device: facts::device_number(&metadata) };
            assert_eq!(here.look(&at(name)).unwrap(), by_path, "{name}");
        }
        assert_eq!(here.look(&at("gone")).unwrap_err().kind(), io::ErrorKind::NotFound);
        let nowhere = Here::default();
        assert_eq!(nowhere.look(&at("file")).unwrap(), here.look(&at("file")).unwrap());
    }
}
