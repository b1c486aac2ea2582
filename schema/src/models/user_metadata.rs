//! What people say of an entry, the half that all devices share.

use crate::ids::RecordId;

crate::model! {
    /// Notes and marks on one entry.
    UserMetadata = 10, "user_metadata", SharedDerived {
        /// The entry that it is about.
        1 TARGET target: crate::ids::RecordId,
        /// Free text.
        2 NOTES notes: String,
        /// Whether it is a favourite.
        3 FAVORITE favorite: bool,
        /// Whether it stays out of lists.
        4 HIDDEN hidden: bool,
        /// 0 to 5.
        5 RATING rating: i64,
        /// A JSON object of whatever else.
        6 CUSTOM custom: String,
    }
}

impl UserMetadata {
    /// The metadata of an entry, with the id that it has on every device and nothing said yet.
    #[must_use]
    pub fn of(target: RecordId) -> Self {
        let mut metadata = Self::new(RecordId::derived("user_metadata", &[target.as_bytes()]));
        metadata.target = Some(target);
        metadata
    }
}
