//! The data directory as the command line and the daemon see it: where it is, and where its control socket is.
//!
//! The socket lies in the data directory. Where that path is too long for a socket, it lies in a private directory of
//! the system's, and a file in the data directory says where.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::error::{CliError, ErrorKind};

const SOCKET: &str = "control.sock";
const POINTER: &str = "control.path";

/// The longest path of a socket: the smallest limit of any Unix that we run on (macOS: 104 with the final zero).
const SOCKET_PATH_BYTES_MAX: usize = 103;

/// Where one device keeps its key and its library.
#[derive(Clone, Debug)]
pub(crate) struct DataDirectory(PathBuf);

impl DataDirectory {
    /// The directory that was asked for, or the platform's.
    pub(crate) fn choose(asked: Option<&Path>) -> Result<Self, CliError> {
        let path = match asked {
            Some(path) if path.as_os_str().is_empty() => {
                return Err(CliError::new(ErrorKind::Usage, "the data directory's name is empty")
                    .hint("give one with --data or STARLING_DATA"));
            }
            Some(path) => std::path::absolute(path).map_err(|e| CliError::io(path.display(), e))?,
            None => directories::ProjectDirs::from("", "", "starling")
                .map(|platform| platform.data_dir().to_owned())
                .ok_or_else(|| {
                CliError::new(ErrorKind::Failed, "this system names no place for data: there is no home directory")
                    .hint("give one with --data or STARLING_DATA")
            })?,
        };
        Ok(Self(path))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Where the running peer's control socket is, if one runs.
    pub(crate) fn socket(&self) -> PathBuf {
        match std::fs::read(self.0.join(POINTER)) {
            Ok(elsewhere) => PathBuf::from(std::ffi::OsStr::from_bytes(&elsewhere)),
            Err(_) => self.0.join(SOCKET),
        }
    }

    /// Opens the control socket, for this user only. Call it with the data directory's lock held: what an earlier
    /// peer left there is replaced.
    pub(crate) fn open_socket(&self) -> Result<ControlSocket, CliError> {
        let failed =
            |e: io::Error| CliError::io(format!("the control socket of {} cannot be made", self.0.display()), e);
        self.clear_socket().map_err(failed)?;
        let near = self.0.join(SOCKET);
        let (path, elsewhere) = if near.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            (near, None)
        } else {
            let private = short_directory().map_err(failed)?;
            let path = private.join(SOCKET);
            std::fs::write(self.0.join(POINTER), path.as_os_str().as_bytes()).map_err(failed)?;
            (path, Some(private))
        };
        let listener = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(ControlSocket { listener, left: SocketFiles { path, elsewhere, pointer: self.0.join(POINTER) } })
    }

    fn clear_socket(&self) -> io::Result<()> {
        let pointer = self.0.join(POINTER);
        if let Ok(elsewhere) = std::fs::read(&pointer) {
            let socket = PathBuf::from(std::ffi::OsStr::from_bytes(&elsewhere));
            if socket.file_name().is_some_and(|name| name == SOCKET) {
                absent_is_fine(std::fs::remove_file(&socket))?;
                if let Some(private) = socket.parent() {
                    // Only an empty directory goes; anything else in it is not ours.
                    absent_is_fine(std::fs::remove_dir(private)).or_else(|error| match error.kind() {
                        io::ErrorKind::DirectoryNotEmpty => Ok(()),
                        _ => Err(error),
                    })?;
                }
            }
            std::fs::remove_file(&pointer)?;
        }
        absent_is_fine(std::fs::remove_file(self.0.join(SOCKET)))
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A new directory with a short path that only this user may enter.
fn short_directory() -> io::Result<PathBuf> {
    let runtime =
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute() && path.is_dir());
    let candidates = [runtime, Some(std::env::temp_dir()), Some(PathBuf::from("/tmp"))];
    let short =
        |path: &PathBuf| path.as_os_str().len() + "/starling-123456/".len() + SOCKET.len() <= SOCKET_PATH_BYTES_MAX;
    let place = candidates.into_iter().flatten().find(short);
    let place = place.ok_or_else(|| io::Error::other("there is no directory with a path short enough for a socket"))?;
    let for_us_only = std::fs::Permissions::from_mode(0o700);
    let private = tempfile::Builder::new().prefix("starling-").permissions(for_us_only).tempdir_in(place)?;
    Ok(private.keep())
}

/// An open control socket and the files to take away when it closes.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    /// What to serve.
    pub(crate) listener: UnixListener,
    /// What to take away afterwards.
    pub(crate) left: SocketFiles,
}

/// The files of a control socket; dropping them takes them away.
#[derive(Debug)]
pub(crate) struct SocketFiles {
    path: PathBuf,
    elsewhere: Option<PathBuf>,
    pointer: PathBuf,
}

impl Drop for SocketFiles {
    fn drop(&mut self) {
        let socket = std::fs::remove_file(&self.path);
        let rest = self
            .elsewhere
            .as_ref()
            .map(|private| std::fs::remove_dir(private).and_then(|()| std::fs::remove_file(&self.pointer)));
        if let Err(error) = socket.and_then(|()| rest.unwrap_or(Ok(()))) {
            tracing::debug!(path = %self.path.display(), %error, "the control socket was not taken away");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn reachable(data: &DataDirectory) -> bool {
        UnixStream::connect(data.socket()).is_ok()
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_closed_one_is_taken_away() {
        let place = tempfile::tempdir().unwrap();
        let data = DataDirectory::choose(Some(place.path())).unwrap();
        std::mem::forget(data.open_socket().unwrap().left);
        let socket = data.open_socket().unwrap();
        assert!(reachable(&data));
        assert_eq!(std::fs::metadata(data.socket()).unwrap().permissions().mode() & 0o777, 0o600);
        drop(socket);
        assert!(!data.socket().exists());
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_no_obstacle() {
        let place = tempfile::tempdir().unwrap();
        let long = place.path().join("a".repeat(120));
        std::fs::create_dir(&long).unwrap();
        let data = DataDirectory::choose(Some(&long)).unwrap();
        std::mem::forget(data.open_socket().unwrap().left);
        let stale = data.socket();
        let socket = data.open_socket().unwrap();
        assert!(reachable(&data));
        assert!(!stale.parent().unwrap().exists(), "what the earlier peer left is gone");
        let private = data.socket().parent().unwrap().to_owned();
        assert_eq!(std::fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o700);
        drop(socket);
        assert!(!private.exists());
        assert_eq!(std::fs::read_dir(&long).unwrap().count(), 0);
    }
}
