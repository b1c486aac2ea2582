//! Starling keeps one library identical on every device that belongs to it, without server or leader.

pub mod network;
pub mod proto;
