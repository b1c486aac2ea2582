//! What the system's allocator is told before a peer starts.

use std::ffi::OsString;

/// The GNU allocator gives nearly every thread an arena of its own, and each keeps what it held at its busiest: a peer
/// that has been through some storms would hold twice what it uses. Two let the store and everything else work side by
/// side; with one, indexing takes a quarter longer. It reads this when a process begins, and only then.
const ARENAS_MAX: (&str, &str) = ("MALLOC_ARENA_MAX", "2");

/// Starts the program anew in its own place, with fewer arenas, unless whoever started it has chosen how many. Nothing
/// may have been begun yet. Where it cannot be done all goes on as it is.
pub(super) fn keep_less(arguments: impl IntoIterator<Item = OsString>) {
    if cfg!(all(target_os = "linux", target_env = "gnu")) && std::env::var_os(ARENAS_MAX.0).is_none() {
        let error = begin_anew(arguments.into_iter());
        tracing::debug!(%error, "the allocator stays as it is");
    }
}

#[cfg(unix)]
fn begin_anew(mut arguments: impl Iterator<Item = OsString>) -> std::io::Error {
    use std::os::unix::process::CommandExt;
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut command = std::process::Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).env(ARENAS_MAX.0, ARENAS_MAX.1).exec()
}

#[cfg(not(unix))]
fn begin_anew(_: impl Iterator<Item = OsString>) -> std::io::Error {
    std::io::ErrorKind::Unsupported.into()
}
