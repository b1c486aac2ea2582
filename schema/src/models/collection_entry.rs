//! An entry's place in a collection.

use crate::ids::RecordId;

crate::model! {
    /// One entry in one collection.
    CollectionEntry = 9, "collection_entry", SharedDerived {
        /// The collection.
        1 COLLECTION collection: crate::ids::RecordId,
        /// The entry.
        2 ENTRY entry: crate::ids::RecordId,
        /// Where it stands among the others: lower is earlier.
        3 POSITION position: f64,
    }
}

impl CollectionEntry {
    /// The membership of an entry in a collection, with the id that it has on every device.
    #[must_use]
    pub fn of(collection: RecordId, entry: RecordId) -> Self {
        Self {
            id: RecordId::derived("collection_entry", &[collection.as_bytes(), entry.as_bytes()]),
            collection: Some(collection),
            entry: Some(entry),
            position: None,
        }
    }
}
