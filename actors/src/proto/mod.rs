//! The protocol without I/O: values in, values out. Time and randomness are arguments.

pub mod audit;
pub mod backfill;
pub mod beacons;
pub mod clean;
pub mod clock;
pub mod equality;
pub mod heartbeat;
pub mod membership;
pub mod merge;
pub mod pairing;
pub mod purge;
pub mod retry;
pub mod snapshots;
pub mod spread;
