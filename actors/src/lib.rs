//! Starling keeps one library identical on every device that belongs to it, without server or leader.

pub mod api;
pub mod environment;
pub mod network;
pub mod status;
pub use api::*;
