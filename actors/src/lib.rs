//! Starling keeps one library identical on every device that belongs to it, without server or leader.

pub mod canonical;
mod applier;
mod clock;
mod engine;
pub mod environment;
mod events;
pub mod network;
mod peer_log;
pub mod proto;
mod reader;
pub mod status;
mod store;
mod transactions;

pub use reader::QueryError;
pub use store::Registry;
pub use transactions::{CommitError, Receipt};

pub mod api;
pub use api::*;
