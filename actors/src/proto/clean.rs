//! Up to where a device holds nothing that was deleted: what decides whether pages of a state stream do, or whether it
//! needs a snapshot because tombstones are gone.

use std::collections::BTreeMap;

use starling_schema::stream::Stream;

/// Per state stream the number up to which this device holds no row that its owner has deleted.
///
/// Whoever has applied everything up to its watermark is clean up to there. Who began with nothing and took pages only
/// is clean further: the rows of a page were all there when the page was read, so none of them was deleted at or below
/// what the page's server was clean up to. Tombstones that were pruned below that are not missed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Clean(BTreeMap<Stream, u64>);

impl Clean {
    /// How far the stream is clean, given its watermark. Who holds nothing at all holds nothing that was deleted.
    #[must_use]
    pub fn of(&self, stream: Stream, watermark: u64) -> u64 {
        match self.0.get(&stream) {
            Some(clean) => watermark.max(*clean),
            None if watermark == 0 => u64::MAX,
            None => watermark,
        }
    }

    /// Rows came in that were all there at `clean`; the stream was applied up to `watermark` before them.
    pub fn take_in(&mut self, stream: Stream, watermark: u64, clean: u64) {
        let now = self.of(stream, watermark).min(clean);
        self.0.insert(stream, now);
    }

    /// What is to be stored of a stream.
    #[must_use]
    pub fn stored(&self, stream: Stream) -> Option<u64> {
        self.0.get(&stream).copied()
    }
}

impl FromIterator<(Stream, u64)> for Clean {
    fn from_iter<I: IntoIterator<Item = (Stream, u64)>>(stored: I) -> Self {
        Self(stored.into_iter().collect())
    }
}

/// How far a stream is clean that was clean up to `before`, once a batch is applied that reaches `through` and whose
/// rows were all there at `clean`.
#[must_use]
pub fn after(before: u64, clean: u64, through: u64) -> u64 {
    before.min(clean).max(through)
}

#[cfg(test)]
mod tests {
    use starling_schema::ids::DeviceId;
    use uuid::Uuid;

    use super::*;

    fn stream() -> Stream {
        Stream::state(DeviceId(Uuid::from_u128(1)))
    }

    #[test]
    fn who_holds_nothing_is_clean_and_who_applied_everything_is_clean_up_to_there() {
        assert_eq!((Clean::default().of(stream(), 0), Clean::default().of(stream(), 7)), (u64::MAX, 7));
    }

    #[test]
    fn who_began_with_nothing_is_clean_as_far_as_the_least_clean_server() {
        let mut clean = Clean::default();
        clean.take_in(stream(), 0, 900);
        assert_eq!(clean.of(stream(), 10), 900);
        clean.take_in(stream(), 10, 950);
        assert_eq!(clean.of(stream(), 20), 900);
        clean.take_in(stream(), 20, 700);
        assert_eq!(clean.of(stream(), 30), 700);
        assert_eq!(clean.of(stream(), 800), 800);
    }

    #[test]
    fn who_was_away_is_clean_up_to_its_watermark_only() {
        let mut clean = Clean::default();
        clean.take_in(stream(), 5, 900);
        assert_eq!((clean.of(stream(), 5), clean.of(stream(), 10)), (5, 10));
    }

    #[test]
    fn rows_of_a_snapshot_that_broke_off_count_though_the_watermark_is_still_zero() {
        let mut clean = Clean::default();
        clean.take_in(stream(), 0, 40);
        assert_eq!(clean.of(stream(), 0), 40);
    }
}
