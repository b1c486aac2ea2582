//! The multi-node harness: whole clusters on one thread under virtual time, from a seed, and what must hold of them;
//! a reference model of the merge; and benchmarks of whole peers.
//!
//! A test says what happens in a [`sim::Cluster`]; the checks in [`check`] say what must be true afterwards.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a harness fails a test by panicking, and says what was expected"
)]

pub mod bench;
pub mod check;
pub mod mutants;
pub mod power_cuts;
pub mod process;
pub mod processes;
pub mod reference;
pub mod rig;
pub mod scale;
pub mod sim;
