//! A label that people put on files.

use crate::ids::RecordId;

crate::model! {
    /// A tag. Two tags of one name may coexist: people made two.
    Tag = 5, "tag", Shared {
        /// What people see.
        1 NAME name: String,
        /// A group of tags that belong together.
        2 NAMESPACE namespace: String,
        /// `#rrggbb`
        3 COLOR color: String,
        /// The name of an icon.
        4 ICON icon: String,
        /// What it is for.
        5 DESCRIPTION description: String,
        /// Other names, one a line.
        6 ALIASES aliases: String,
        /// Whether it stays out of lists.
        7 HIDDEN hidden: bool,
    }
}

impl Tag {
    /// The id of a built-in tag: the same on every device.
    #[must_use]
    pub fn built_in(name: &str) -> RecordId {
        RecordId::derived("tag", &[name.as_bytes()])
    }
}
