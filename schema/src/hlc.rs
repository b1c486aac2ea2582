//! The hybrid logical timestamp (Kulkarni et al., 2014): what orders all shared data.

use std::fmt;

use bincode::{Decode, Encode};
use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::Binary;
use diesel::sqlite::Sqlite;

use crate::ids::DeviceId;

/// The low bits of [`Hlc::time`] that count events within one millisecond.
pub const COUNTER_BITS: u32 = 16;

/// The highest time that fits in 48 bits of milliseconds: the year 10889.
pub const WALL_MS_MAX: u64 = (1 << 48) - 1;

/// A timestamp: 48 bits of milliseconds since 1970, 16 bits of counter, and the device that issued it.
///
/// Ordered by time, then by device, so that any two are ordered alike everywhere.
#[derive(Clone, Copy, Eq, PartialEq, Ord, PartialOrd, Hash, Encode, Decode, AsExpression, FromSqlRow)]
#[diesel(sql_type = Binary)]
pub struct Hlc {
    /// Milliseconds in the upper 48 bits, the counter in the lower 16.
    pub time: u64,
    /// Who issued it.
    pub device: DeviceId,
}

impl Hlc {
    /// Below every timestamp that is ever issued.
    pub const MIN: Self = Self { time: 0, device: DeviceId::MIN };

    /// The first timestamp of a millisecond.
    #[must_use]
    pub fn at(wall_ms: u64, device: DeviceId) -> Self {
        Self { time: wall_ms.min(WALL_MS_MAX) << COUNTER_BITS, device }
    }

    /// The milliseconds since 1970 that this stamp names.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.time >> COUNTER_BITS
    }

    /// The stamp's place in the order as 24 bytes that sort like it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.time.to_be_bytes());
        bytes[8..].copy_from_slice(self.device.0.as_bytes());
        bytes
    }

    /// Reads what [`Hlc::to_bytes`] wrote.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (time, device) = bytes.split_at_checked(8)?;
        Some(Self { time: u64::from_be_bytes(time.try_into().ok()?), device: DeviceId::from_slice(device)? })
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{}", self.wall_ms(), self.time & ((1 << COUNTER_BITS) - 1), self.device)
    }
}

impl ToSql<Binary, Sqlite> for Hlc {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.to_bytes().to_vec());
        Ok(serialize::IsNull::No)
    }
}

impl FromSql<Binary, Sqlite> for Hlc {
    fn from_sql(mut value: <Sqlite as Backend>::RawValue<'_>) -> deserialize::Result<Self> {
        Self::from_bytes(value.read_blob()).ok_or_else(|| "a timestamp in the database is not 24 bytes".into())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn bytes_sort_like_the_stamps_they_stand_for() {
        let low = Hlc { time: 255, device: DeviceId(Uuid::from_u128(9)) };
        let high = Hlc { time: 256, device: DeviceId(Uuid::from_u128(1)) };
        assert!(low < high);
        assert!(low.to_bytes() < high.to_bytes());
        assert_eq!(Hlc::from_bytes(&high.to_bytes()), Some(high));
    }

    #[test]
    fn bytes_of_another_length_are_no_stamp() {
        assert_eq!(Hlc::from_bytes(&[0; 23]), None);
        assert_eq!(Hlc::from_bytes(&[0; 7]), None);
        assert_eq!(Hlc::from_bytes(&[0; 25]), None);
    }
}
