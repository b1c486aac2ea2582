//! The `starling` binary: built once per test run beside the test itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// The binary of the profile and target directory that this test was built in, as its source is now.
pub(crate) fn starling() -> &'static Path {
    BINARY.get_or_init(build)
}

/// Has another binary run, however it was built. Nothing was started yet.
///
/// # Errors
/// When it is not there, or one was chosen before.
pub(crate) fn choose(path: &Path) -> std::io::Result<()> {
    let path = path.canonicalize()?;
    BINARY.set(path).map_err(|_| std::io::Error::other("the program starling was chosen before"))
}

/// Cargo builds no binary of another package for a test, so it is asked to. It takes no time when nothing changed. All
/// of the workspace is named so that what `cargo test --workspace` compiled, with its features, serves here too; a
/// release refuses to have the tests' features.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    // <target>/<profile>/deps/<test>, or <target>/<profile>/<program>
    let directory = test.parent().expect("a test lies in its target directory");
    let profile_directory = if directory.ends_with("deps") { directory.parent() } else { Some(directory) };
    let profile_directory = profile_directory.expect("a test lies in its target directory");
    let target_directory = profile_directory.parent().expect("a profile's directory lies in the target directory");
    let profile = match profile_directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package lies in the workspace");
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--bin", "starling", "--profile", profile])
        .args(if profile == "dev" { &["--workspace"][..] } else { &["--package", "starling-node"] })
        .arg("--target-dir")
        .arg(target_directory)
        .current_dir(manifest)
        .status()
        .expect("cargo can be started");
    assert!(built.success(), "the starling binary cannot be built: {built}");
    profile_directory.join("starling")
}
