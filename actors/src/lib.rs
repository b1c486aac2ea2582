//! Starling keeps one library identical on every device that belongs to it, without server or leader.
//!
//! [`PeerHandle::start`] starts a peer within a running actix `System`; everything else is done through the handle.

mod address_book;
mod alarm;
mod applier;
mod auditor;
mod backfill_buffer;
pub mod canonical;
mod clock;
mod comparison;
mod counters;
mod engine;
pub mod environment;
mod events;
mod exchange;
mod handle;
mod heads_file;
mod heartbeats;
mod identity;
mod jobs;
mod joining;
mod library_file;
mod links;
pub mod network;
mod pairing;
mod pausing;
mod peer;
mod peer_log;
pub mod planted;
pub mod proto;
mod pulling;
mod purger;
mod reader;
pub mod records;
mod retry_queue;
pub mod rig;
mod roster;
mod session;
pub mod status;
mod store;
mod survey;
mod transactions;
mod tree;
mod verification;

pub use events::{Event, EventKind};
pub use handle::{Invitation, MemberInfo, PeerHandle};
pub use joining::{JoinError, Joined};
pub use pairing::MemberError;
pub use peer::{NetworkChoice, NetworkFactory, PeerOptions, StartError};
pub use reader::QueryError;
pub use store::Registry;
pub use store::conflicts::Conflict;
pub use transactions::{CommitError, Receipt, StoreError};
pub use verification::{FINDINGS_MAX, Finding, VerifyError};
