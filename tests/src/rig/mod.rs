//! The simulator: whole clusters under random work and random trouble, judged all the while by checkers and a
//! reference. A seed becomes a plan, a plan a run, a run an outcome; nothing else decides what happens.

mod command;
mod expected;
mod faults;
mod history;
mod injector;
mod judge;
mod ledger;
mod limits;
mod plan;
mod run;
mod shrink;
mod sometimes;
mod trouble;
mod work;
mod workload;
mod world;

pub use command::{Arguments, run as command};
pub use faults::{Fault, FaultKind};
pub use history::History;
pub use injector::{Crash, Interference};
pub use limits::Limits;
pub use plan::{Plan, Size, Step, Topology, What};
pub use run::{Outcome, run};
pub use shrink::shrink;
pub use sometimes::{STATES, Sometimes};
pub use workload::{Mix, Things, Work, Worker};
