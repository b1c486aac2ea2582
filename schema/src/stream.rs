//! Streams and how far along them a device is: the only thing that ever decides what is missing.

use std::collections::BTreeMap;
use std::fmt;

use bincode::{Decode, Encode};

use crate::ids::DeviceId;

/// Which of an origin's two streams.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Encode, Decode)]
pub enum StreamKind {
    /// Device-owned rows by version: the newest state of each.
    State,
    /// Shared changes by number: the log.
    Shared,
}

impl StreamKind {
    /// How the kind is written in the database.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::State => 0,
            Self::Shared => 1,
        }
    }

    /// Reads what [`StreamKind::code`] wrote.
    #[must_use]
    pub fn from_code(code: i32) -> Option<Self> {
        match code {
            0 => Some(Self::State),
            1 => Some(Self::Shared),
            _ => None,
        }
    }
}

/// The changes of one origin of one kind, numbered 1, 2, 3… without holes.
#[derive(Clone, Copy, Eq, PartialEq, Ord, PartialOrd, Hash, Encode, Decode)]
pub struct Stream {
    /// Which of the two.
    pub kind: StreamKind,
    /// Whose changes.
    pub origin: DeviceId,
}

impl Stream {
    /// An origin's device-owned rows.
    #[must_use]
    pub const fn state(origin: DeviceId) -> Self {
        Self { kind: StreamKind::State, origin }
    }

    /// An origin's shared changes.
    #[must_use]
    pub const fn shared(origin: DeviceId) -> Self {
        Self { kind: StreamKind::Shared, origin }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            StreamKind::State => "state",
            StreamKind::Shared => "shared",
        };
        write!(f, "{kind}:{}", self.origin)
    }
}

/// For each stream the number up to which everything is held; 0 for a stream never heard of.
#[derive(Clone, Debug, Default, Eq, PartialEq, Encode, Decode)]
pub struct Watermarks(BTreeMap<Stream, u64>);

impl Watermarks {
    /// Nothing of any stream.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// How far the stream is held.
    #[must_use]
    pub fn get(&self, stream: Stream) -> u64 {
        self.0.get(&stream).copied().unwrap_or(0)
    }

    /// Raises a stream to `through`; never lowers it. Says whether that changed anything.
    pub fn raise(&mut self, stream: Stream, through: u64) -> bool {
        if through <= self.get(stream) {
            return false;
        }
        self.0.insert(stream, through);
        true
    }

    /// Raises every stream to what `other` has.
    pub fn join(&mut self, other: &Self) {
        for (stream, through) in other.iter() {
            self.raise(stream, through);
        }
    }

    /// As [`Watermarks::join`], but learns of no more streams once there are `streams_max`.
    pub fn join_within(&mut self, other: &Self, streams_max: usize) {
        for (stream, through) in other.iter() {
            if self.0.len() < streams_max || self.0.contains_key(&stream) {
                self.raise(stream, through);
            }
        }
    }

    /// Whether every stream is at least as far as in `other`.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.iter().all(|(stream, through)| self.get(stream) >= through)
    }

    /// How many changes of `other` are missing here.
    #[must_use]
    pub fn lacking(&self, other: &Self) -> u64 {
        other.iter().map(|(stream, through)| through.saturating_sub(self.get(stream))).fold(0, u64::saturating_add)
    }

    /// Only the streams of one kind.
    #[must_use]
    pub fn of_kind(&self, kind: StreamKind) -> Self {
        self.iter().filter(|(stream, _)| stream.kind == kind).collect()
    }

    /// All streams with a number above 0, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Stream, u64)> {
        self.0.iter().map(|(stream, through)| (*stream, *through))
    }
}

impl FromIterator<(Stream, u64)> for Watermarks {
    fn from_iter<I: IntoIterator<Item = (Stream, u64)>>(marks: I) -> Self {
        let mut watermarks = Self::new();
        for (stream, through) in marks {
            watermarks.raise(stream, through);
        }
        watermarks
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_watermark_never_falls() {
        let stream = Stream::shared(DeviceId(Uuid::from_u128(1)));
        let mut marks = Watermarks::new();
        assert!(marks.raise(stream, 5));
        assert!(!marks.raise(stream, 3));
        assert_eq!(marks.get(stream), 5);
    }

    #[test]
    fn a_bounded_join_still_raises_what_is_known() {
        let device = |n| Stream::shared(DeviceId(Uuid::from_u128(n)));
        let mut marks = Watermarks::from_iter([(device(1), 5)]);
        marks.join_within(&Watermarks::from_iter([(device(1), 6), (device(2), 1), (device(3), 1)]), 2);
        assert_eq!(marks, Watermarks::from_iter([(device(1), 6), (device(2), 1)]));
    }

    #[test]
    fn covering_is_per_stream_and_the_kinds_do_not_hide_each_other() {
        let device = DeviceId(Uuid::from_u128(1));
        let here = Watermarks::from_iter([(Stream::state(device), 15_000)]);
        let there = Watermarks::from_iter([(Stream::shared(device), 50), (Stream::state(device), 10)]);
        assert!(!here.covers(&there));
        assert_eq!(here.lacking(&there), 50);
    }
}
