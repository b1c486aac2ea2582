//! The multi-node harness: whole clusters on one thread under virtual time, from a seed, and what must hold of them;
//! and benchmarks of whole peers.
//!
//! A test says what happens in a [`sim::Cluster`]; the checks in [`check`] say what must be true afterwards.

pub mod bench;
pub mod check;
pub mod sim;
