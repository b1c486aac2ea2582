//! One tag within another.

use crate::ids::RecordId;

crate::model! {
    /// An edge from a tag to one nested in it. A cycle is broken alike everywhere: its newest edge is ignored.
    TagRelationship = 6, "tag_relationship", SharedDerived {
        /// The outer tag.
        1 PARENT parent: crate::ids::RecordId,
        /// The inner tag.
        2 CHILD child: crate::ids::RecordId,
    }
}

impl TagRelationship {
    /// The edge between two tags, with the id that it has on every device.
    #[must_use]
    pub fn between(parent: RecordId, child: RecordId) -> Self {
        Self {
            id: RecordId::derived("tag_relationship", &[parent.as_bytes(), child.as_bytes()]),
            parent: Some(parent),
            child: Some(child),
        }
    }
}
