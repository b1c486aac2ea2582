//! Rare states that must be reached over many seeds: a rig that never sees them proves little.

use std::collections::BTreeMap;

use starling::rig::Point;

use crate::check::Sample;

/// Every state that is looked for.
pub const STATES: [&str; 34] = [
    "a crash before a transaction",
    "a crash between rows and log",
    "a crash before a commit",
    "a crash between a commit and the note of its heads",
    "a crash after a commit and before its answer",
    "a crash between a commit and its broadcast",
    "a crash while applying",
    "a crash around a flush",
    "a crash around an ack",
    "a crash around pruning",
    "a crash in a snapshot",
    "a power cut that lost what was not durable",
    "a disk failed and recovered",
    "a commit was refused by a failing disk",
    "a snapshot while the network is apart",
    "a snapshot ended",
    "a log was pruned while a device joined",
    "a batch ahead of its turn waited",
    "the buffer overflowed",
    "changes were parked",
    "parked changes were applied",
    "a dead letter",
    "a dead letter was revived",
    "a device joined under faults",
    "a join failed and succeeded later",
    "a device was removed",
    "a removed device went on running",
    "a removed device came back as a new one",
    "an older copy refused a write",
    "an older copy has everything back",
    "a device was away longer than logs wait",
    "a conflict was listed",
    "a loser was brought back",
    "a tag was within itself",
];

/// How often each state was reached.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sometimes(BTreeMap<&'static str, u64>);

impl Sometimes {
    /// A state is reached.
    pub fn reach(&mut self, state: &'static str) {
        debug_assert!(STATES.contains(&state), "{state}");
        *self.0.entry(state).or_default() += 1;
    }

    /// Notes what a look into a device shows, while the network is apart or not.
    pub(super) fn sampled(&mut self, sample: &Sample, apart: bool) {
        if sample.is_ahead && apart {
            self.reach("a snapshot while the network is apart");
        }
        if sample.parked > 0 {
            self.reach("changes were parked");
        }
        if !sample.dead_letters.is_empty() {
            self.reach("a dead letter");
        }
    }

    /// Notes what points a device passed.
    pub(super) fn passed(&mut self, reached: &BTreeMap<Point, u64>) {
        for (point, state) in [
            (Point::SnapshotEnded, "a snapshot ended"),
            (Point::GapSeen, "a batch ahead of its turn waited"),
            (Point::BufferOverflow, "the buffer overflowed"),
            (Point::Parked, "changes were parked"),
            (Point::Released, "parked changes were applied"),
            (Point::DeadLetter, "a dead letter"),
            (Point::DeadLetterRevived, "a dead letter was revived"),
        ] {
            if reached.contains_key(&point) {
                self.reach(state);
            }
        }
    }

    /// Notes where a process died.
    pub(super) fn crashed(&mut self, point: Point) {
        self.reach(match point {
            Point::BeforeBegin | Point::AfterBegin => "a crash before a transaction",
            Point::BetweenRowsAndLog => "a crash between rows and log",
            Point::BeforeCommit => "a crash before a commit",
            Point::AfterCommit => "a crash between a commit and the note of its heads",
            Point::AfterNote | Point::BeforeAnswer => "a crash after a commit and before its answer",
            Point::BeforeBroadcast | Point::AfterBroadcast => "a crash between a commit and its broadcast",
            Point::BeforeFlush | Point::AfterFlush => "a crash around a flush",
            Point::BeforeAck | Point::AfterAck => "a crash around an ack",
            Point::BeforePrune | Point::AfterPrune => "a crash around pruning",
            Point::SnapshotStarted | Point::SnapshotPage | Point::SnapshotEnded => "a crash in a snapshot",
            _ => "a crash while applying",
        });
    }

    /// Adds what another run reached.
    pub fn join(&mut self, other: &Self) {
        for (state, times) in &other.0 {
            *self.0.entry(state).or_default() += times;
        }
    }

    /// How often each state was reached, never included.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        STATES.iter().map(|state| (*state, self.0.get(state).copied().unwrap_or(0)))
    }
}
