//! File names, times and numbers on disk, as rows hold them.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// A name as the file system spells it, as bytes.
pub(crate) fn name_bytes(name: &OsStr) -> &[u8] {
    name.as_encoded_bytes()
}

/// The last component of a path as bytes; the whole path where there is none, as for `/`.
pub(crate) fn last_name(path: &Path) -> &[u8] {
    name_bytes(path.file_name().unwrap_or(path.as_os_str()))
}

/// The name that [`name_bytes`] gave; none where the platform cannot spell it.
#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "other platforms cannot spell every name")]
pub(crate) fn os_name(bytes: &[u8]) -> Option<OsString> {
    use std::os::unix::ffi::OsStrExt;
    Some(OsStr::from_bytes(bytes).to_owned())
}

/// The name that [`name_bytes`] gave; none where the platform cannot spell it.
#[cfg(not(unix))]
pub(crate) fn os_name(bytes: &[u8]) -> Option<OsString> {
    std::str::from_utf8(bytes).ok().map(OsString::from)
}

/// A name for people, and its raw bytes when the text does not say it exactly.
pub(crate) fn shown(bytes: &[u8]) -> (String, Option<Vec<u8>>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Some(bytes.to_vec())),
    }
}

/// What follows the last dot of a file's name, in lower case; a leading dot starts no extension.
pub(crate) fn extension(name: &str) -> Option<String> {
    Path::new(name).extension().and_then(OsStr::to_str).map(str::to_lowercase)
}

/// Milliseconds since 1970, negative for what is older.
pub(crate) fn ms_since_1970(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}

/// The same of a time that the system counts in seconds since 1970 and the nanoseconds after them.
#[cfg(target_os = "linux")]
pub(crate) fn ms_of(seconds: i64, nanoseconds: u32) -> i64 {
    let ms = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    i64::try_from(ms / 1_000_000).unwrap_or(if seconds < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_name_that_is_not_utf8_keeps_its_bytes() {
        assert_eq!(shown(b"caf\xe9"), ("caf\u{fffd}".to_owned(), Some(b"caf\xe9".to_vec())));
        assert_eq!(shown("café".as_bytes()), ("café".to_owned(), None));
        assert_eq!(os_name(b"caf\xe9").as_deref().map(name_bytes), Some(&b"caf\xe9"[..]));
    }

    #[test]
    fn an_extension_is_lower_case_and_a_leading_dot_starts_none() {
        assert_eq!(extension("Photo.JPG").as_deref(), Some("jpg"));
        assert_eq!(extension(".bashrc"), None);
        assert_eq!(extension("Makefile"), None);
    }

    #[test]
    fn times_before_1970_are_negative() {
        assert_eq!(ms_since_1970(UNIX_EPOCH - Duration::from_millis(1_500)), -1_500);
        assert_eq!(ms_since_1970(UNIX_EPOCH + Duration::from_millis(1_500)), 1_500);
    }

    #[test]
    fn the_root_of_the_file_system_is_named_by_its_path() {
        assert_eq!(last_name(Path::new("/")), b"/");
        assert_eq!(last_name(Path::new("/a/b")), b"b");
    }
}
