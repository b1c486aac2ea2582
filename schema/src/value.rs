//! Field values and the numbered field lists that a record travels as.

use bincode::de::Decoder;
use bincode::error::DecodeError;
use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::ids::{FieldNo, RecordId};

/// The longest text or byte string that one field may hold: a page of notes, and small enough that a log entry
/// with a few of them fits [`crate::change::ENTRY_BYTES_MAX`].
pub const VALUE_BYTES_MAX: usize = 32 * 1024;

/// The most fields that one record may carry: twice what the widest model has, and a bound for what a peer can make
/// us keep per record.
pub const FIELDS_MAX: usize = 64;

/// What one field holds.
#[derive(Clone, Debug, PartialEq, Encode, Decode, Serialize, Deserialize)]
pub enum Value {
    /// Nothing: the field was cleared.
    Null,
    /// True or false.
    Bool(bool),
    /// A signed number.
    Int(i64),
    /// A floating point number.
    Real(f64),
    /// UTF-8 text.
    Text(String),
    /// Raw bytes.
    Bytes(Vec<u8>),
    /// The id of another record.
    Id(RecordId),
}

impl Value {
    /// The value as it reads from a typed column, and the same elsewhere: minus zero is zero there, and what is not a
    /// number is nothing.
    #[must_use]
    pub fn settled(self) -> Self {
        match self {
            Self::Real(real) if real.is_nan() => Self::Null,
            Self::Real(real) => Self::Real(real + 0.0),
            other => other,
        }
    }

    /// An order of values, the same everywhere, that means nothing else.
    #[must_use]
    pub fn rank(&self) -> Vec<u8> {
        crate::codec::encode(self, crate::wire::UNPACKED_BYTES_MAX).unwrap_or_default()
    }

    /// Bytes of text or blob that the value holds; 0 for the others.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            _ => 0,
        }
    }

    /// Whether [`Value::len`] is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

macro_rules! value_from {
    ($($variant:ident($type:ty)),+ $(,)?) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(value)
            }
        }
        impl TryFrom<Value> for $type {
            type Error = Value;
            fn try_from(value: Value) -> Result<Self, Value> {
                match value {
                    Value::$variant(inner) => Ok(inner),
                    other => Err(other),
                }
            }
        }
    )+};
}

value_from!(Bool(bool), Int(i64), Real(f64), Text(String), Bytes(Vec<u8>), Id(RecordId));

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A record's fields by number, ascending, each at most once.
#[derive(Clone, Debug, Default, PartialEq, Encode)]
pub struct Fields(Vec<(FieldNo, Value)>);

impl Fields {
    /// No field at all.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The value of a field, if the record has it.
    #[must_use]
    pub fn get(&self, field: FieldNo) -> Option<&Value> {
        self.0.binary_search_by_key(&field, |(no, _)| *no).ok().map(|at| &self.0[at].1)
    }

    /// Sets a field and returns what it held.
    pub fn set(&mut self, field: FieldNo, value: impl Into<Value>) -> Option<Value> {
        let value = value.into();
        match self.0.binary_search_by_key(&field, |(no, _)| *no) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (field, value));
                None
            }
        }
    }

    /// Takes a field out.
    pub fn remove(&mut self, field: FieldNo) -> Option<Value> {
        let at = self.0.binary_search_by_key(&field, |(no, _)| *no).ok()?;
        Some(self.0.remove(at).1)
    }

    /// The fields in ascending order of their numbers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (FieldNo, &Value)> {
        self.0.iter().map(|(no, value)| (*no, value))
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same fields with one more; for building records in one expression.
    #[must_use]
    pub fn with(mut self, field: FieldNo, value: impl Into<Value>) -> Self {
        self.set(field, value);
        self
    }
}

impl FromIterator<(FieldNo, Value)> for Fields {
    fn from_iter<I: IntoIterator<Item = (FieldNo, Value)>>(fields: I) -> Self {
        let fields: Vec<(FieldNo, Value)> = fields.into_iter().collect();
        if fields.is_sorted_by(|a, b| a.0 < b.0) {
            return Self(fields);
        }
        let mut sorted = Self::new();
        for (field, value) in fields {
            sorted.set(field, value);
        }
        sorted
    }
}

impl IntoIterator for Fields {
    type Item = (FieldNo, Value);
    type IntoIter = std::vec::IntoIter<(FieldNo, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<C> Decode<C> for Fields {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let fields: Vec<(FieldNo, Value)> = Decode::decode(decoder)?;
        if fields.is_sorted_by(|a, b| a.0 < b.0) {
            Ok(Self(fields))
        } else {
            Err(DecodeError::Other("fields are not in ascending order"))
        }
    }
}

bincode::impl_borrow_decode!(Fields);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stay_sorted_and_unique_however_they_are_set() {
        let fields = Fields::new().with(3, "c").with(1, 1_i64).with(3, "d");
        assert_eq!(fields.iter().map(|(no, _)| no).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(fields.get(3), Some(&Value::from("d")));
        assert_eq!(fields.get(2), None);
    }
}
