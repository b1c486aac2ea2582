//! Names of things: devices, libraries, records, models, and the ids that two devices derive alike.

use std::fmt;

use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::Binary;
use diesel::sqlite::Sqlite;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize, AsExpression, FromSqlRow,
        )]
        #[diesel(sql_type = Binary)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The lowest id there is: the start of every key range.
            pub const MIN: Self = Self(Uuid::nil());

            /// Reads an id from exactly 16 bytes; anything else is not an id.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Uuid::from_slice(bytes).ok().map(Self)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl bincode::Encode for $name {
            fn encode<E: bincode::enc::Encoder>(&self, e: &mut E) -> Result<(), bincode::error::EncodeError> {
                self.0.as_bytes().encode(e)
            }
        }

        impl<C> bincode::Decode<C> for $name {
            fn decode<D: bincode::de::Decoder<Context = C>>(d: &mut D) -> Result<Self, bincode::error::DecodeError> {
                Ok(Self(Uuid::from_bytes(bincode::Decode::decode(d)?)))
            }
        }

        bincode::impl_borrow_decode!($name);

        impl ToSql<Binary, Sqlite> for $name {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
                <[u8] as ToSql<Binary, Sqlite>>::to_sql(self.0.as_bytes(), out)
            }
        }

        impl FromSql<Binary, Sqlite> for $name {
            fn from_sql(mut value: <Sqlite as Backend>::RawValue<'_>) -> deserialize::Result<Self> {
                Uuid::from_slice(value.read_blob())
                    .map(Self)
                    .map_err(|e| format!("{} in the database: {e}", stringify!($name)).into())
            }
        }
    };
}

uuid_newtype! {
    /// One device: a UUID that follows from its public key, so that nobody else can claim it.
    DeviceId
}
uuid_newtype! {
    /// One library: a UUID that follows from its signed founding statement.
    LibraryId
}
uuid_newtype! {
    /// One record of any model.
    RecordId
}

/// A kind of record, as it travels. Numbers are never reused; unknown ones are kept and passed on.
pub type ModelId = u16;

/// A field of a model, as it travels. Numbers are never reused; unknown ones are kept and passed on.
pub type FieldNo = u16;

/// The namespace of every id in this program that is derived instead of drawn.
const NAMESPACE: Uuid = Uuid::from_u128(0x5f3c_9a2e_71d4_5b08_9c1d_5741_1146_0001);

impl RecordId {
    /// The id of a record that is *about* other things: two devices that make it independently get the same one
    /// (`UUIDv5` over the model's name and the parts).
    #[must_use]
    pub fn derived(model: &str, parts: &[&[u8]]) -> Self {
        let mut name = Vec::with_capacity(model.len() + 1 + parts.iter().map(|p| p.len() + 4).sum::<usize>());
        name.extend_from_slice(model.as_bytes());
        name.push(0);
        for part in parts {
            name.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            name.extend_from_slice(part);
        }
        Self(Uuid::new_v5(&NAMESPACE, &name))
    }

    /// The id's 16 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl DeviceId {
    /// The device's record in the `device` model: named like the device itself.
    #[must_use]
    pub fn record(self) -> RecordId {
        RecordId(self.0)
    }
}

/// A UUID (version 8) from the first 16 bytes of a BLAKE3 hash under `context`.
pub(crate) fn hashed_uuid(context: &'static str, bytes: &[u8]) -> Uuid {
    let hash = blake3::derive_key(context, bytes);
    let mut head = [0; 16];
    head.copy_from_slice(&hash[..16]);
    uuid::Builder::from_custom_bytes(head).into_uuid()
}
