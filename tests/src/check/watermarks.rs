//! Watermarks: none falls, but by a crash to what was durable, and none is ahead of what its origin ever wrote.
//!
//! Not verified here: that what lies below a watermark is really there (`holes`, `agreement`).

use std::collections::BTreeMap;

use starling_schema::ids::{DeviceId, LibraryId};
use starling_schema::stream::{Stream, Watermarks};

use super::{Sample, Violation};

/// The highest watermarks seen of every device.
#[derive(Clone, Debug, Default)]
pub struct WatermarkCheck {
    last: BTreeMap<(LibraryId, DeviceId), Watermarks>,
    heads: BTreeMap<LibraryId, Watermarks>,
}

impl WatermarkCheck {
    /// Judges a look into a device.
    ///
    /// # Errors
    /// When a watermark fell.
    pub fn look(&mut self, sample: &Sample) -> Result<(), Violation> {
        let last = self.last.entry((sample.library, sample.device)).or_default();
        for (stream, through) in last.iter() {
            let now = sample.marks.get(stream);
            if now < through {
                let detail = format!("{}: {stream} fell from {through} to {now}", sample.device);
                return Err(Violation::new("watermarks", detail));
            }
        }
        *last = sample.marks.clone();
        let heads = self.heads.entry(sample.library).or_default();
        for stream in [Stream::state(sample.device), Stream::shared(sample.device)] {
            heads.raise(stream, sample.marks.get(stream));
        }
        Ok(())
    }

    /// A device crashed: its watermarks may fall, to what it promised at least.
    pub fn crashed(&mut self, library: LibraryId, device: DeviceId) {
        self.last.remove(&(library, device));
    }

    /// The first stream along which a device is further than its origin was when it was looked into last.
    #[must_use]
    pub fn ahead(&self, sample: &Sample) -> Option<(Stream, u64)> {
        let heads = self.heads.get(&sample.library)?;
        sample.marks.iter().find(|(stream, through)| *through > heads.get(*stream))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const A: DeviceId = DeviceId(Uuid::from_u128(1));
    const B: DeviceId = DeviceId(Uuid::from_u128(2));

    #[test]
    fn a_watermark_that_falls_is_found_unless_the_device_crashed() {
        let mut check = WatermarkCheck::default();
        let at = |through| Sample::of(A, &[(Stream::shared(B), through)]);
        check.look(&at(5)).unwrap();
        assert_eq!(check.look(&at(4)).unwrap_err().checker, "watermarks");
        check.crashed(LibraryId::MIN, A);
        check.look(&at(4)).unwrap();
    }

    #[test]
    fn a_watermark_ahead_of_its_origin_is_found() {
        let mut check = WatermarkCheck::default();
        check.look(&Sample::of(B, &[(Stream::shared(B), 5)])).unwrap();
        assert_eq!(check.ahead(&Sample::of(A, &[(Stream::shared(B), 5)])), None);
        assert_eq!(check.ahead(&Sample::of(A, &[(Stream::shared(B), 6)])), Some((Stream::shared(B), 6)));
    }
}
