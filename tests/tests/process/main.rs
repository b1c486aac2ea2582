//! Claims about real `starling` processes on loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::similar_names,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and processes live in real time"
)]

mod bad_input;
mod conflicts;
mod contract;
mod demo;
mod faults;
mod full_disk;
mod joining;
mod pairing;
mod release;
mod strangers;
mod stress;
mod watching;
mod whole_story;
