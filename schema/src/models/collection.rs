//! A set of entries that a person put together.

crate::model! {
    /// A collection. Two of one name may coexist.
    Collection = 8, "collection", Shared {
        /// What people see.
        1 NAME name: String,
        /// What it is for.
        2 DESCRIPTION description: String,
        /// `#rrggbb`
        3 COLOR color: String,
    }
}
