//! What a cluster promises, each claim a test: real peers under virtual time, all chance from the seed of the test.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail a test like tests do")]

#[path = "sim/clock.rs"]
mod clock;
#[path = "sim/counters.rs"]
mod counters;
#[path = "sim/crash.rs"]
mod crash;
#[path = "sim/delivery.rs"]
mod delivery;
#[path = "sim/disk.rs"]
mod disk;
#[path = "sim/durability.rs"]
mod durability;
#[path = "sim/equality.rs"]
mod equality;
#[path = "sim/hostile.rs"]
mod hostile;
#[path = "sim/joining.rs"]
mod joining;
#[path = "sim/log.rs"]
mod log;
#[path = "sim/membership.rs"]
mod membership;
#[path = "sim/orders.rs"]
mod orders;
#[path = "sim/pausing.rs"]
mod pausing;
#[path = "sim/payloads.rs"]
mod payloads;
#[path = "sim/planted.rs"]
mod planted;
#[path = "sim/purge.rs"]
mod purge;
#[path = "sim/reference.rs"]
mod reference;
#[path = "sim/retry.rs"]
mod retry;
#[path = "sim/rig.rs"]
mod rig;
#[path = "sim/shared.rs"]
mod shared;
#[path = "sim/snapshots.rs"]
mod snapshots;
#[path = "sim/state.rs"]
mod state;
#[path = "sim/tickets.rs"]
mod tickets;
#[path = "sim/versions.rs"]
mod versions;
#[path = "sim/whole.rs"]
mod whole;

use std::time::Duration;

use proptest::prelude::ProptestConfig;
use starling_tests::sim::Node;

/// Within this, devices on a healthy network are equal and know it.
const SOON: Duration = Duration::from_secs(10);

/// Within this, devices are equal after links died and came back, or a lot had to be pulled.
const LATER: Duration = Duration::from_mins(3);

/// How many messages a device refused since it started.
async fn refused(node: &Node) -> u64 {
    node.status().await.counters.messages_refused
}

/// So many cases of a property, or as many as `SIM_CASES` in the environment says. A failed case is named by its seed,
/// and a smaller seed is no simpler case.
fn cases(cases: u32) -> ProptestConfig {
    let cases = std::env::var("SIM_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::default() }
}
