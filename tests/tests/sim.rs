//! What a cluster promises, each claim a test: real peers under virtual time, all chance from the seed of the test.

#[path = "sim/clock.rs"]
mod clock;
#[path = "sim/delivery.rs"]
mod delivery;
#[path = "sim/durability.rs"]
mod durability;
#[path = "sim/log.rs"]
mod log;
#[path = "sim/membership.rs"]
mod membership;
#[path = "sim/payloads.rs"]
mod payloads;
#[path = "sim/rig.rs"]
mod rig;
#[path = "sim/shared.rs"]
mod shared;
#[path = "sim/state.rs"]
mod state;

use std::time::Duration;

/// Within this, devices on a healthy network are equal and know it.
const SOON: Duration = Duration::from_secs(10);

/// Within this, devices are equal after links died and came back, or a lot had to be pulled.
const LATER: Duration = Duration::from_mins(3);
