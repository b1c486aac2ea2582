//! What a device is on disk: its data directory, the lock on it, and its key, which lies outside the database.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use starling_schema::key::DeviceSecret;

use crate::environment::Environment;

/// The library's file within the data directory.
pub(crate) const DATABASE: &str = "library.sqlite";

const KEY: &str = "device.key";
const LOCK: &str = "lock";

/// Why a data directory cannot be used. Nothing in it was changed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Another process holds it.
    #[error("another peer is running on {0}")]
    Locked(PathBuf),
    /// It cannot be made, read or written.
    #[error("the data directory {0} cannot be used: {1}")]
    Directory(PathBuf, String),
    /// The key file is damaged, or others may read it.
    #[error("the device key {0} {1}")]
    Key(PathBuf, String),
}

/// A data directory that this process holds, and the key in it. Dropping it lets the directory go.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) data: PathBuf,
    pub(crate) secret: DeviceSecret,
    _lock: File,
}

impl Identity {
    /// Takes a data directory, making it and the key at first use.
    pub(crate) fn open(data: &Path, environment: &Environment) -> Result<Self, IdentityError> {
        let broken = |error: std::io::Error| IdentityError::Directory(data.to_owned(), error.to_string());
        make_private(data).map_err(broken)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(data.join(LOCK)).map_err(broken)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(IdentityError::Locked(data.to_owned())),
            Err(TryLockError::Error(error)) => return Err(broken(error)),
        }
        let key = data.join(KEY);
        let secret = match std::fs::read_to_string(&key) {
            Ok(text) => parse(&key, &text)?,
            Err(error) if error.kind() == ErrorKind::NotFound && data.join(DATABASE).exists() => {
                let why = "is missing though there is a library: put it back, or start over in a fresh data directory";
                return Err(IdentityError::Key(key, why.to_owned()));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let secret = DeviceSecret::from_bytes(&environment.random_bytes());
                write_key(&key, &secret)
                    .map_err(|e| IdentityError::Key(key.clone(), format!("cannot be written: {e}")))?;
                secret
            }
            Err(error) => return Err(IdentityError::Key(key, format!("cannot be read: {error}"))),
        };
        Ok(Self { data: data.to_owned(), secret, _lock: lock })
    }

    /// Where the library's file is.
    pub(crate) fn database(&self) -> PathBuf {
        self.data.join(DATABASE)
    }
}

fn parse(path: &Path, text: &str) -> Result<DeviceSecret, IdentityError> {
    let damaged = |why: &str| IdentityError::Key(path.to_owned(), why.to_owned());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map_err(|e| damaged(&format!("cannot be read: {e}")))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(damaged("can be read by others: run `chmod 600` on it"));
        }
    }
    let bytes = hex::decode(text.trim()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    bytes.map(|bytes| DeviceSecret::from_bytes(&bytes)).ok_or_else(|| damaged("is damaged: put a copy back"))
}

/// Writes the key beside its place and renames it, so that there is never half a key.
fn write_key(path: &Path, secret: &DeviceSecret) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    if fresh.exists() {
        std::fs::remove_file(&fresh)?;
    }
    let mut options = OpenOptions::new();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&fresh)?;
    writeln!(file, "{}", hex::encode(secret.to_bytes()))?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

fn make_private(directory: &Path) -> std::io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stays_the_same_and_only_one_process_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path(), &Environment::system()).unwrap();
        assert_eq!(
            Identity::open(dir.path(), &Environment::system()).unwrap_err(),
            IdentityError::Locked(dir.path().to_owned())
        );
        let device = first.secret.device();
        drop(first);
        assert_eq!(Identity::open(dir.path(), &Environment::system()).unwrap().secret.device(), device);
    }

    #[test]
    fn a_missing_or_damaged_key_beside_a_library_is_an_error_not_a_new_device() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(DATABASE), b"").unwrap();
        assert!(matches!(Identity::open(dir.path(), &Environment::system()), Err(IdentityError::Key(..))));
        std::fs::write(dir.path().join(KEY), "nonsense").unwrap();
        assert!(matches!(Identity::open(dir.path(), &Environment::system()), Err(IdentityError::Key(..))));
    }
}
