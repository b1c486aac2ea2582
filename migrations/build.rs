//! Has the crate built anew when a migration is added or changed: they are embedded, and cargo does not see them.

fn main() {
    println!("cargo::rerun-if-changed=.");
}
