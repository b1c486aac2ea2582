//! A tag on an entry, or on a content.

use crate::ids::RecordId;

crate::model! {
    /// A tag on one entry, or on every copy of one content.
    TagAssignment = 7, "tag_assignment", SharedDerived {
        /// The tag.
        1 TAG tag: crate::ids::RecordId,
        /// The entry, when the tag is on one.
        2 ENTRY entry: crate::ids::RecordId,
        /// The BLAKE3 hash, when the tag is on a content.
        3 CONTENT_HASH content_hash: Vec<u8>,
    }
}

/// What a tag can be put on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// One entry.
    Entry(RecordId),
    /// Every copy of a content, by its BLAKE3 hash.
    Content(Vec<u8>),
}

impl TagAssignment {
    /// The assignment of a tag to a target, with the id that it has on every device.
    #[must_use]
    pub fn of(tag: RecordId, target: &Target) -> Self {
        let (kind, bytes): (&[u8], &[u8]) = match target {
            Target::Entry(entry) => (b"entry", entry.as_bytes()),
            Target::Content(hash) => (b"content", hash),
        };
        Self {
            id: RecordId::derived("tag_assignment", &[kind, bytes, tag.as_bytes()]),
            tag: Some(tag),
            entry: if let Target::Entry(entry) = target { Some(*entry) } else { None },
            content_hash: if let Target::Content(hash) = target { Some(hash.clone()) } else { None },
        }
    }
}
