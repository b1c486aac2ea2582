//! What a model is: its number, who may write it, its columns, and the macro that declares one.

use crate::ids::{FieldNo, ModelId, RecordId};
use crate::value::{Fields, Value};

/// Who may write a model's records.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Ownership {
    /// Only the device that made the record: synced by state.
    Owned,
    /// Any member: synced by the log, under ids that were drawn.
    Shared,
    /// Any member, under an id that follows from what the record is about; making it anew after a delete restores it.
    SharedDerived,
}

impl Ownership {
    /// Whether any member may write.
    #[must_use]
    pub fn is_shared(self) -> bool {
        self != Self::Owned
    }
}

/// What a column holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ColumnKind {
    /// `BOOLEAN`
    Bool,
    /// `BIGINT`
    Int,
    /// `DOUBLE`
    Real,
    /// `TEXT`
    Text,
    /// `BLOB`
    Bytes,
    /// `BLOB` of 16 bytes
    Id,
}

impl ColumnKind {
    /// Whether a column of this kind can hold the value; what it cannot hold is kept beside it, raw.
    #[must_use]
    pub fn holds(self, value: &Value) -> bool {
        matches!(
            (self, value),
            (_, Value::Null)
                | (Self::Bool, Value::Bool(_))
                | (Self::Int, Value::Int(_))
                | (Self::Real, Value::Real(_))
                | (Self::Text, Value::Text(_))
                | (Self::Bytes, Value::Bytes(_))
                | (Self::Id, Value::Id(_))
        )
    }
}

/// One field of a model that has a column of its own.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its number on the wire.
    pub field: FieldNo,
    /// Its name in SQL and in what people see.
    pub name: &'static str,
    /// What it holds.
    pub kind: ColumnKind,
}

/// Everything that syncing needs to know of a model, as a value.
#[derive(Clone, Copy, Debug)]
pub struct ModelSpec {
    /// Its number on the wire.
    pub id: ModelId,
    /// Its name: the table, and what people see.
    pub name: &'static str,
    /// Who may write it.
    pub ownership: Ownership,
    /// Its columns by ascending field number.
    pub columns: &'static [Column],
}

impl ModelSpec {
    /// The column that holds a field.
    #[must_use]
    pub fn column(&self, field: FieldNo) -> Option<&'static Column> {
        self.columns.iter().find(|column| column.field == field)
    }

    /// The column of that name.
    #[must_use]
    pub fn column_named(&self, name: &str) -> Option<&'static Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// A record type that is kept equal on every device.
pub trait Syncable: Sized + Send + 'static {
    /// What syncing needs to know of it.
    const SPEC: ModelSpec;

    /// The record from its fields; what is missing or of another kind is `None`.
    fn from_fields(id: RecordId, fields: &Fields) -> Self;

    /// All fields that are set.
    fn fields(&self) -> Fields;

    /// Which record.
    fn id(&self) -> RecordId;

    /// The change that makes the record be as it is here.
    fn put(&self) -> crate::change::Write {
        crate::change::Write::put(Self::SPEC.id, self.id(), self.fields())
    }
}

/// A Rust type that a column maps to.
pub trait ColumnType: Sized {
    /// The kind of column.
    const KIND: ColumnKind;

    /// The value, if it is of this kind.
    fn from_value(value: &Value) -> Option<Self>;
}

macro_rules! column_type {
    ($($type:ty => $kind:ident),+ $(,)?) => {$(
        impl ColumnType for $type {
            const KIND: ColumnKind = ColumnKind::$kind;
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    Value::$kind(inner) => Some(inner.clone()),
                    _ => None,
                }
            }
        }
    )+};
}

column_type!(bool => Bool, i64 => Int, f64 => Real, String => Text, Vec<u8> => Bytes, RecordId => Id);

/// Declares a model: its record type with one `Option` per field, a constant per field number, and its
/// [`Syncable`] implementation. Numbers ascend and are never reused.
#[macro_export]
macro_rules! model {
    (
        $(#[$doc:meta])*
        $name:ident = $id:literal, $table:literal, $ownership:ident {
            $( $(#[$field_doc:meta])* $no:literal $constant:ident $field:ident: $type:ty, )+
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            /// Which record.
            pub id: $crate::ids::RecordId,
            $( $(#[$field_doc])* pub $field: Option<$type>, )+
        }

        impl $name {
            /// The model's number.
            pub const MODEL: $crate::ids::ModelId = $id;
            $(
                #[doc = concat!("The number of the field `", stringify!($field), "`.")]
                pub const $constant: $crate::ids::FieldNo = $no;
            )+

            /// A record with no field set.
            #[must_use]
            pub fn new(id: $crate::ids::RecordId) -> Self {
                Self { id, $( $field: None, )+ }
            }
        }

        impl $crate::model::Syncable for $name {
            const SPEC: $crate::model::ModelSpec = $crate::model::ModelSpec {
                id: $id,
                name: $table,
                ownership: $crate::model::Ownership::$ownership,
                columns: &[
                    $( $crate::model::Column {
                        field: $no,
                        name: stringify!($field),
                        kind: <$type as $crate::model::ColumnType>::KIND,
                    }, )+
                ],
            };

            fn from_fields(id: $crate::ids::RecordId, fields: &$crate::value::Fields) -> Self {
                Self {
                    id,
                    $( $field: fields.get($no).and_then(<$type as $crate::model::ColumnType>::from_value), )+
                }
            }

            fn fields(&self) -> $crate::value::Fields {
                let mut fields = $crate::value::Fields::new();
                $( if let Some(value) = &self.$field { fields.set($no, value.clone()); } )+
                fields
            }

            fn id(&self) -> $crate::ids::RecordId {
                self.id
            }
        }
    };
}
