//! The file system that a folder lies on: which one it is across mounts, and how much room it has.

use std::io;
use std::path::{Path, PathBuf};

use starling_schema::change::Write;
use starling_schema::ids::{DeviceId, RecordId};
use starling_schema::model::Syncable;
use starling_schema::models::Volume;

use super::names;

/// Where Linux lists what is mounted for this process.
const MOUNTS: &str = "/proc/self/mountinfo";

/// Where Linux names block devices by the id that is written into their file systems.
const DISKS_BY_ID: &str = "/dev/disk/by-uuid";

/// A mounted file system as this device sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MountedVolume {
    /// What tells it from others across mounts and restarts. Device numbers do not: they are dealt anew.
    pub(crate) fingerprint: String,
    mount_point: PathBuf,
    file_system: Option<String>,
    capacity: Option<i64>,
    available: Option<i64>,
    removable: Option<bool>,
}

/// One line of the list of mounts.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Mount {
    device: String,
    point: PathBuf,
    file_system: String,
    source: String,
}

impl MountedVolume {
    /// The volume that holds an absolute path without symbolic links.
    ///
    /// # Errors
    /// What the system says when the path cannot be looked at.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let (capacity, available) = room(path)?;
        let mount = match std::fs::read(MOUNTS) {
            Ok(list) => innermost(&list, path),
            // Not Linux, or nothing mounted there: the mount point is the only name left.
            Err(_) => None,
        };
        let Some(mount) = mount else {
            let mount_point = top_of_file_system(path)?;
            let fingerprint = format!("mount:{}", mount_point.display());
            return Ok(Self { fingerprint, mount_point, file_system: None, capacity, available, removable: None });
        };
        let fingerprint = match disk_id(&mount.source) {
            Some(id) => format!("uuid:{id}"),
            None => format!("{}:{}:{}", mount.file_system, mount.source, mount.point.display()),
        };
        let removable = removable(&mount.device);
        let Mount { point: mount_point, file_system, .. } = mount;
        Ok(Self { fingerprint, mount_point, file_system: Some(file_system), capacity, available, removable })
    }

    /// The record's id: the same whenever this device meets this volume.
    pub(crate) fn id(&self, device: DeviceId) -> RecordId {
        RecordId::derived("volume", &[device.0.as_bytes(), self.fingerprint.as_bytes()])
    }

    /// The volume's row.
    pub(crate) fn row(&self, device: DeviceId) -> Write {
        let (mount_point, _) = names::shown(names::name_bytes(self.mount_point.as_os_str()));
        Volume {
            device: Some(device.record()),
            fingerprint: Some(self.fingerprint.clone()),
            name: Some(names::shown(names::last_name(&self.mount_point)).0),
            mount_point: Some(mount_point),
            file_system: self.file_system.clone(),
            capacity: self.capacity,
            available: self.available,
            removable: self.removable,
            ..Volume::new(self.id(device))
        }
        .put()
    }
}

/// The mount that a path lies in: the longest mount point above it, the last one where several lie on each other.
fn innermost(list: &[u8], path: &Path) -> Option<Mount> {
    let mounts = list.split(|byte| *byte == b'\n').filter_map(parse_mount);
    mounts.filter(|mount| path.starts_with(&mount.point)).max_by_key(|mount| mount.point.components().count())
}

/// Reads `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`: number 3 is the device,
/// 5 the mount point; after a lone dash follow the file system and its source.
fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let device = String::from_utf8_lossy(words.nth(2)?).into_owned();
    let point = names::os_name(&unescape(words.nth(1)?))?;
    let mut after_dash = words.skip_while(|word| *word != b"-").skip(1);
    let file_system = String::from_utf8_lossy(after_dash.next()?).into_owned();
    let source = String::from_utf8_lossy(&unescape(after_dash.next()?)).into_owned();
    Some(Mount { device, point: point.into(), file_system, source })
}

/// Undoes the kernel's `\040` for blanks and the like.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

/// The id that is written into the file system of a block device.
fn disk_id(source: &str) -> Option<String> {
    let disk = std::fs::canonicalize(source).ok()?;
    let links = std::fs::read_dir(DISKS_BY_ID).ok()?.flatten();
    let link = links.into_iter().find(|link| std::fs::canonicalize(link.path()).is_ok_and(|target| target == disk))?;
    link.file_name().into_string().ok()
}

/// Whether the disk of a device number can be unplugged; a partition asks its disk.
fn removable(device: &str) -> Option<bool> {
    let folder = format!("/sys/dev/block/{device}");
    let flag = std::fs::read_to_string(format!("{folder}/removable"))
        .or_else(|_| std::fs::read_to_string(format!("{folder}/../removable")))
        .ok()?;
    Some(flag.trim() == "1")
}

/// Bytes in all and bytes free.
#[cfg(unix)]
fn room(path: &Path) -> io::Result<(Option<i64>, Option<i64>)> {
    let stat = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).ok();
    Ok((bytes(stat.f_blocks), bytes(stat.f_bavail)))
}

/// Bytes in all and bytes free: unknown here.
#[cfg(not(unix))]
fn room(path: &Path) -> io::Result<(Option<i64>, Option<i64>)> {
    path.metadata().map(|_| (None, None))
}

/// The highest folder above a path on the same file system.
fn top_of_file_system(path: &Path) -> io::Result<PathBuf> {
    let device = super::facts::device_number(&path.metadata()?);
    let same = |folder: &&Path| folder.metadata().is_ok_and(|it| super::facts::device_number(&it) == device);
    Ok(path.ancestors().take_while(same).last().unwrap_or(path).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
        30 22 8:17 / /media/usb\\040stick rw shared:5 master:1 - vfat /dev/sdb1 rw\n\
        31 22 0:40 / /media rw - tmpfs tmpfs rw\nnonsense\n";

    #[test]
    fn the_innermost_mount_holds_the_path() {
        let of = |path: &str| innermost(LIST, Path::new(path)).unwrap();
        assert_eq!(of("/home").source, "/dev/sda1");
        assert_eq!(of("/media/other").file_system, "tmpfs");
        let stick = of("/media/usb stick/photos");
        assert_eq!((stick.device.as_str(), stick.file_system.as_str()), ("8:17", "vfat"));
        assert_eq!(stick.point, Path::new("/media/usb stick"));
    }

    #[test]
    fn two_folders_of_one_file_system_share_a_volume() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("inner")).unwrap();
        let outer = MountedVolume::of(&root).unwrap();
        let inner = MountedVolume::of(&root.join("inner")).unwrap();
        assert_eq!(outer.id(DeviceId::MIN), inner.id(DeviceId::MIN));
        assert!(outer.capacity.unwrap() > 0);
        assert!(MountedVolume::of(&root.join("missing")).is_err());
    }
}
