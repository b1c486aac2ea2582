//! The faults: what can break and when, as a list of timed events that a shrinker can cut down.

use std::collections::BTreeSet;
use std::fmt;

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use starling::rig::{Fault as DiskFault, Point};

/// The points at which a crash is planned. Those that are rare are reached by the runs that have what leads to them.
const CRASH_POINTS: [Point; 22] = [
    Point::BeforeBegin,
    Point::AfterBegin,
    Point::BetweenRowsAndLog,
    Point::BeforeCommit,
    Point::AfterCommit,
    Point::AfterNote,
    Point::BeforeAnswer,
    Point::BeforeBroadcast,
    Point::AfterBroadcast,
    Point::BeforeApply,
    Point::AfterApply,
    Point::BeforeFlush,
    Point::AfterFlush,
    Point::BeforeAck,
    Point::AfterAck,
    Point::BeforePrune,
    Point::AfterPrune,
    Point::SnapshotStarted,
    Point::SnapshotPage,
    Point::SnapshotEnded,
    Point::PageServed,
    Point::Parked,
];

/// How long connections hang, in milliseconds: a send is given up after six times without an answer, about 4 minutes.
const HANG_MS: std::ops::Range<u64> = 200_000..600_000;

/// How long before its connections are well again somebody restarts at most, in milliseconds.
const DIES_BEFORE_MS_MAX: u64 = 120_000;

/// A kind of trouble, which a run has or has not.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum FaultKind {
    /// Messages are lost, doubled and late on all links for a while.
    BadLinks,
    /// One direction of a link passes nothing.
    OneWayCuts,
    /// Groups that do not hear each other.
    Partitions,
    /// A cable that is pulled and put back, again and again.
    Flapping,
    /// Processes die between two things that they do.
    Kills,
    /// Processes die in the middle of something.
    Crashes,
    /// The power goes: what was not synced is lost.
    PowerCuts,
    /// Processes are stopped and started in order.
    Restarts,
    /// A device is away for longer than logs wait for it.
    LongAbsences,
    /// Wall clocks are off by up to a day.
    Skews,
    /// Wall clocks jump and drift by seconds and minutes.
    Jumps,
    /// The disk is full, or fails, for a while.
    Disks,
    /// Devices join while all this happens.
    Joins,
    /// Devices are removed, and some come back as new ones.
    Removals,
    /// Databases are restored from older copies.
    OlderCopies,
    /// Broadcasts are not carried for a while.
    Silence,
    /// The connections of a device look alive and carry nothing, for longer than a send is tried again.
    Hangs,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 17] = [
        Self::BadLinks,
        Self::OneWayCuts,
        Self::Partitions,
        Self::Flapping,
        Self::Kills,
        Self::Crashes,
        Self::PowerCuts,
        Self::Restarts,
        Self::LongAbsences,
        Self::Skews,
        Self::Jumps,
        Self::Disks,
        Self::Joins,
        Self::Removals,
        Self::OlderCopies,
        Self::Silence,
        Self::Hangs,
    ];

    /// A random set: from hardly any to nearly all, so that rare combinations occur undisturbed by the rest. Hangs are
    /// drawn apart: they are long, and hide much.
    pub(super) fn some(random: &mut ChaCha8Rng) -> BTreeSet<Self> {
        let share = *[0.1, 0.3, 0.3, 0.5, 0.8].choose(random).unwrap_or(&0.5);
        Self::ALL.into_iter().filter(|kind| *kind != Self::Hangs && random.random_bool(share)).collect()
    }
}

/// Something that breaks or is mended.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// All links from now on.
    Links {
        /// How likely a message is lost, in parts of a hundred.
        loss: u32,
        /// How likely one arrives twice, in parts of a hundred.
        doubled: u32,
        /// The longest way, in milliseconds.
        delay_ms: u64,
    },
    /// Nothing passes from one device to another.
    Cut {
        /// Who sends.
        from: usize,
        /// Who does not hear it.
        to: usize,
    },
    /// These do not hear the others.
    Partition(Vec<usize>),
    /// A cable is pulled.
    Unplug(usize),
    /// The connections of a device carry nothing from now on.
    Hang(usize),
    /// They carry something again.
    Wake(usize),
    /// Every cut, partition and cable is mended.
    Heal,
    /// Broadcasts are carried, or not.
    Gossip(bool),
    /// A process dies now.
    Kill {
        /// Whose.
        node: usize,
        /// When it starts again, in milliseconds.
        down_ms: u64,
    },
    /// A process dies at a point, when it reaches it the n-th time from now.
    CrashAt {
        /// Whose.
        node: usize,
        /// Where.
        point: Point,
        /// How often the point is passed before.
        passes: u32,
        /// When it starts again, in milliseconds.
        down_ms: u64,
    },
    /// From now on what is durable is noted, and after a while the power goes: the rest is lost.
    PowerCut {
        /// Whose.
        node: usize,
        /// When the power goes, in milliseconds.
        after_ms: u64,
        /// When it is back, in milliseconds after that.
        down_ms: u64,
    },
    /// A process ends in order.
    Stop(usize),
    /// A process that ended starts again.
    Start(usize),
    /// So many hours pass in which nothing happens; only wall clocks notice.
    Skip(u64),
    /// A wall clock is off by so many milliseconds.
    Clock {
        /// Whose.
        node: usize,
        /// By how much.
        off_ms: i64,
    },
    /// The disk fails for a while.
    Disk {
        /// Whose.
        node: usize,
        /// With what.
        fault: DiskFault,
        /// Which statements fail: one in so many.
        one_in: u32,
        /// For how long, in milliseconds.
        for_ms: u64,
    },
    /// A new device joins.
    Join {
        /// Through whom.
        inviter: usize,
    },
    /// A device is removed from the library.
    Remove {
        /// By whom.
        by: usize,
        /// Which.
        node: usize,
    },
    /// A removed device comes back as a new one.
    PairAnew {
        /// Which.
        node: usize,
        /// Through whom.
        inviter: usize,
    },
    /// A copy of a device's data is kept.
    Copy(usize),
    /// A device gets its database back from the copy.
    Older(usize),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Links { loss, doubled, delay_ms } => {
                write!(f, "links: {loss} % lost, {doubled} % doubled, up to {delay_ms} ms late")
            }
            Self::Cut { from, to } => write!(f, "nothing passes from {} to {}", name(*from), name(*to)),
            Self::Partition(group) => {
                write!(
                    f,
                    "{} apart from the others",
                    group.iter().map(|node| name(*node)).collect::<Vec<_>>().join(" ")
                )
            }
            Self::Unplug(node) => write!(f, "{} unplugged", name(*node)),
            Self::Hang(node) => write!(f, "the connections of {} hang", name(*node)),
            Self::Wake(node) => write!(f, "the connections of {} hang no more", name(*node)),
            Self::Heal => f.write_str("links mended"),
            Self::Gossip(on) => write!(f, "gossip {}", if *on { "on" } else { "off" }),
            Self::Kill { node, down_ms } => write!(f, "{} killed, back after {down_ms} ms", name(*node)),
            Self::CrashAt { node, point, passes, down_ms } => {
                write!(f, "{} will crash at {point} after {passes} passes, back after {down_ms} ms", name(*node))
            }
            Self::PowerCut { node, after_ms, down_ms } => {
                write!(f, "{} will lose power after {after_ms} ms, back after {down_ms} ms", name(*node))
            }
            Self::Stop(node) => write!(f, "{} stopped", name(*node)),
            Self::Start(node) => write!(f, "{} started", name(*node)),
            Self::Skip(hours) => write!(f, "{hours} hours pass on wall clocks"),
            Self::Clock { node, off_ms } => write!(f, "the clock of {} is off by {off_ms} ms", name(*node)),
            Self::Disk { node, fault, one_in, for_ms } => {
                write!(f, "the disk of {}: {fault:?}, one statement in {one_in}, for {for_ms} ms", name(*node))
            }
            Self::Join { inviter } => write!(f, "a new device joins through {}", name(*inviter)),
            Self::Remove { by, node } => write!(f, "{} removes {}", name(*by), name(*node)),
            Self::PairAnew { node, inviter } => write!(f, "{} pairs anew through {}", name(*node), name(*inviter)),
            Self::Copy(node) => write!(f, "a copy of {} is kept", name(*node)),
            Self::Older(node) => write!(f, "{} gets an older copy of its database back", name(*node)),
        }
    }
}

/// What a device is called, by its number.
#[must_use]
pub(super) fn name(node: usize) -> String {
    let letter = u8::try_from(node % 26).map_or('?', |at| char::from(b'a' + at));
    if node < 26 { letter.to_string() } else { format!("{letter}{}", node / 26) }
}

/// Draws faults: most of them near work, since trouble in quiet hours meets nothing.
pub(super) fn schedule(
    kinds: &BTreeSet<FaultKind>,
    nodes: usize,
    busy: &[u64],
    end_ms: u64,
    random: &mut ChaCha8Rng,
) -> Vec<(u64, Fault)> {
    let mut events = Vec::new();
    for kind in kinds {
        let times = random.random_range(1..=kind.often());
        for _ in 0..times {
            let at_ms = match busy.choose(random) {
                Some(at_ms) if random.random_bool(0.85) => {
                    (at_ms + random.random_range(0..8_000)).saturating_sub(4_000)
                }
                _ => random.random_range(0..end_ms),
            };
            kind.draw(nodes, at_ms, random, &mut events);
        }
    }
    events
}

impl FaultKind {
    /// How often it happens at most in one run.
    fn often(self) -> usize {
        match self {
            Self::LongAbsences | Self::Removals | Self::Hangs => 1,
            Self::Joins | Self::OlderCopies | Self::Silence | Self::Skews => 2,
            Self::Flapping | Self::Disks => 4,
            Self::BadLinks | Self::Jumps | Self::Restarts | Self::PowerCuts | Self::Kills => 6,
            Self::OneWayCuts | Self::Partitions => 8,
            Self::Crashes => 12,
        }
    }

    /// One trouble of this kind, with what ends it.
    fn draw(self, nodes: usize, at_ms: u64, random: &mut ChaCha8Rng, events: &mut Vec<(u64, Fault)>) {
        let node = random.random_range(0..nodes);
        let other = (node + random.random_range(1..nodes.max(2))) % nodes;
        // Seconds, minutes, or the better part of an hour.
        let a_while_ms = |random: &mut ChaCha8Rng| {
            let longest = *[2_000, 30_000, 300_000, 2_000_000].choose(random).unwrap_or(&30_000);
            random.random_range(longest / 10..longest)
        };
        let (while_ms, down_ms) = (a_while_ms(random), a_while_ms(random) / 2);
        let whom = (node, other);
        match self {
            Self::BadLinks | Self::OneWayCuts | Self::Partitions | Self::Flapping | Self::Silence | Self::Hangs => {
                self.draw_on_links(nodes, whom, (at_ms, while_ms), random, events);
            }
            _ => self.draw_on_devices(whom, (at_ms, while_ms, down_ms), random, events),
        }
    }

    fn draw_on_links(
        self,
        nodes: usize,
        (node, other): (usize, usize),
        (at_ms, while_ms): (u64, u64),
        random: &mut ChaCha8Rng,
        events: &mut Vec<(u64, Fault)>,
    ) {
        match self {
            Self::BadLinks => {
                let (loss, doubled) = (random.random_range(0..35), random.random_range(0..35));
                let delay_ms = *[5, 60, 400, 3_000].choose(random).unwrap_or(&60);
                events.push((at_ms, Fault::Links { loss, doubled, delay_ms }));
                events.push((at_ms + while_ms, Fault::Links { loss: 0, doubled: 0, delay_ms: 5 }));
            }
            Self::OneWayCuts => {
                events.push((at_ms, Fault::Cut { from: node, to: other }));
                events.push((at_ms + while_ms, Fault::Heal));
            }
            Self::Partitions => {
                let group = (0..nodes).filter(|_| random.random_bool(0.5)).collect();
                events.push((at_ms, Fault::Partition(group)));
                events.push((at_ms + while_ms, Fault::Heal));
            }
            Self::Flapping => {
                let mut moment_ms = at_ms;
                for _ in 0..random.random_range(2..8) {
                    events.push((moment_ms, Fault::Unplug(node)));
                    moment_ms += random.random_range(100..15_000);
                    events.push((moment_ms, Fault::Heal));
                    moment_ms += random.random_range(100..5_000);
                }
            }
            Self::Hangs => {
                let woken_ms = at_ms + random.random_range(HANG_MS);
                events.push((at_ms, Fault::Hang(node)));
                // What was given up is known after a restart, too.
                let dies_ms = woken_ms - random.random_range(0..DIES_BEFORE_MS_MAX);
                events.push((dies_ms, Fault::Kill { node: other, down_ms: random.random_range(100..5_000) }));
                events.push((woken_ms, Fault::Wake(node)));
            }
            Self::Silence => {
                events.push((at_ms, Fault::Gossip(false)));
                events.push((at_ms + while_ms, Fault::Gossip(true)));
            }
            _ => {}
        }
    }

    fn draw_on_devices(
        self,
        (node, other): (usize, usize),
        (at_ms, while_ms, down_ms): (u64, u64, u64),
        random: &mut ChaCha8Rng,
        events: &mut Vec<(u64, Fault)>,
    ) {
        match self {
            Self::Kills => events.push((at_ms, Fault::Kill { node, down_ms })),
            Self::Crashes => {
                let point = *CRASH_POINTS.choose(random).unwrap_or(&Point::AfterCommit);
                let passes = *[0, 0, 1, 3, 10].choose(random).unwrap_or(&0);
                events.push((at_ms, Fault::CrashAt { node, point, passes, down_ms }));
            }
            Self::PowerCuts => {
                let after_ms = random.random_range(10..5_000);
                events.push((at_ms, Fault::PowerCut { node, after_ms, down_ms }));
            }
            Self::Restarts => {
                events.push((at_ms, Fault::Stop(node)));
                events.push((at_ms + while_ms, Fault::Start(node)));
            }
            Self::LongAbsences => {
                let hours = random.random_range(31 * 24..40 * 24);
                events.push((at_ms, Fault::Stop(node)));
                events.push((at_ms + while_ms / 2, Fault::Skip(hours)));
                if random.random_bool(0.5) {
                    // One that never saw what was deleted may be whom the one that returns asks first.
                    events.push((at_ms + while_ms * 3 / 4, Fault::Join { inviter: other }));
                }
                events.push((at_ms + while_ms, Fault::Start(node)));
            }
            Self::Skews => {
                let day_ms = 24 * 3_600_000;
                let off_ms = *[-day_ms, day_ms, day_ms / 24, -day_ms / 24].choose(random).unwrap_or(&day_ms);
                events.push((at_ms, Fault::Clock { node, off_ms }));
                events.push((at_ms + while_ms, Fault::Clock { node, off_ms: 0 }));
            }
            Self::Jumps => {
                let mut moment_ms = at_ms;
                let step_ms = random.random_range(-40_000..40_000);
                for at in 1..random.random_range(2..6) {
                    events.push((moment_ms, Fault::Clock { node, off_ms: at * step_ms }));
                    moment_ms += random.random_range(1_000..60_000);
                }
            }
            Self::Disks => {
                let fault = if random.random_bool(0.6) { DiskFault::DiskFull } else { DiskFault::IoError };
                let one_in = *[1, 1, 3, 10].choose(random).unwrap_or(&1);
                events.push((at_ms, Fault::Disk { node, fault, one_in, for_ms: while_ms }));
            }
            Self::Joins => events.push((at_ms, Fault::Join { inviter: node })),
            Self::Removals => {
                events.push((at_ms, Fault::Remove { by: other, node }));
                if random.random_bool(0.7) {
                    events.push((at_ms + while_ms, Fault::PairAnew { node, inviter: other }));
                }
            }
            Self::OlderCopies => {
                events.push((at_ms, Fault::Copy(node)));
                events.push((at_ms + while_ms, Fault::Older(node)));
            }
            _ => {}
        }
    }
}
