//! What a release of the program is made of.

use std::process::Command;

/// How cargo lists that the library is built so that tests can interfere.
const RIG: &str = "starling feature \"rig\"";

/// What these packages are built of, with the features of each.
fn built_of(packages: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let tree = Command::new(cargo)
        .args(["tree", "--locked", "--offline", "--edges", "features,normal,build", "--prefix", "none"])
        .args(packages)
        .current_dir(workspace)
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    String::from_utf8(tree.stdout).unwrap()
}

#[test]
fn the_program_is_built_without_what_lets_tests_interfere() {
    // The package by itself, and what `cargo build --release` takes by default. Anything else does not compile: see the
    // assertion in the program's `main.rs`.
    for packages in [&["--package", "starling-node"][..], &[]] {
        let tree = built_of(packages);
        assert!(tree.contains("starling-node v"), "{tree}");
        assert!(!tree.contains(RIG), "{packages:?}: {tree}");
    }
    assert!(
        built_of(&["--package", "starling-tests"]).contains(RIG),
        "the tests do without, or cargo says it otherwise"
    );
}
