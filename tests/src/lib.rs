//! The harness: what puts Starling under load, and measures it.

pub mod bench;
