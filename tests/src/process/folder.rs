//! A folder of real files with what real folders hold: hidden and empty files, names that are not UTF-8, nested
//! directories, links, a link in a circle.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Every path below a folder, the folder itself among them, as text, each with its kind.
pub type Listing = BTreeSet<(String, String)>;

/// How many files lie in one directory.
const FILES_PER_DIRECTORY: usize = 100;

/// How deep directories are nested.
const DEPTH_MAX: usize = 6;

/// A folder of real files.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one with so many files, and links besides.
    ///
    /// # Panics
    /// When the disk refuses.
    #[must_use]
    pub fn with_files(path: &Path, files: usize) -> Self {
        let folder = Self(path.to_owned());
        let mut directory = path.to_owned();
        for number in 0..files {
            if number % FILES_PER_DIRECTORY == 0 {
                path.clone_into(&mut directory);
                for level in 0..(number / FILES_PER_DIRECTORY) % DEPTH_MAX {
                    directory.push(format!("level {level} of {}", number / FILES_PER_DIRECTORY));
                }
                std::fs::create_dir_all(&directory).expect("a directory can be made");
            }
            let content = if number % 9 == 0 { String::new() } else { format!("the content of {}", number % 500) };
            std::fs::write(directory.join(name(number)), content).expect("a file can be written");
        }
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, path.join(name)).expect("a link");
        link(".", "circle");
        link("no such file", "broken link");
        folder
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of something in it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// What lies on disk now, walked without Starling's help.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn listing(&self) -> Listing {
        let mut found = Listing::from([(shown(&self.0), "directory".to_owned())]);
        let mut open = vec![self.0.clone()];
        while let Some(directory) = open.pop() {
            for item in std::fs::read_dir(&directory).expect("a directory can be read") {
                let item = item.expect("a directory can be read");
                let kind = item.file_type().expect("a file has a kind");
                let kind = match (kind.is_dir(), kind.is_symlink()) {
                    (true, _) => {
                        open.push(item.path());
                        "directory"
                    }
                    (_, true) => "symlink",
                    _ => "file",
                };
                found.insert((shown(&item.path()), kind.to_owned()));
            }
        }
        found
    }
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn name(number: usize) -> OsString {
    match number % 50 {
        7 => format!(".hidden {number}").into(),
        // Only Linux keeps names that are not UTF-8.
        13 if cfg!(target_os = "linux") => OsString::from_vec([b"caf\xe9 ", number.to_string().as_bytes()].concat()),
        21 => format!("Übergröße {number}.txt").into(),
        35 => format!("100 % \"odd\"\n\\name_{number}").into(),
        _ => format!("file {number}.txt").into(),
    }
}
