//! A simulated cluster: real peers with real databases, a network and a clock that a seed decides.

mod carry;
mod cluster;
mod conditions;
mod connection;
mod fake;
mod interfere;
mod network;
mod node;
mod parcel;
mod port;
mod records;
mod tally;

pub use cluster::Cluster;
pub use conditions::{Conditions, Link};
pub use fake::{FakeMember, Heard};
pub use interfere::Interference;
pub use network::{Network, Report};
pub use node::{Backup, Node};
pub use port::NodeNo;
pub use tally::{Promises, Tally};
