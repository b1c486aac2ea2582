//! Real `starling` processes on loopback: how tests start, ask, freeze and kill them.
//!
//! Everything here waits for a bounded time and panics with the logs of the devices: it is for tests only.
#![allow(clippy::expect_used, clippy::panic, reason = "a harness fails a test by panicking")]

pub(crate) mod binary;
mod database;
mod device;
mod folder;
mod outcome;
pub(crate) mod patience;
mod running;
mod story;

pub use database::Database;
pub use device::{Device, Place};
pub use folder::{Folder, Listing};
pub use outcome::{Outcome, Refusal};
pub use patience::eventually;
pub use running::{Running, Surroundings};
pub use story::{agree, conflicts, entry_id, found, index, invite, join, paths_of, text};
