//! The models of a library, one file each, and the list of them.

mod collection;
mod collection_entry;
mod device;
mod entry;
mod location;
mod tag;
mod tag_assignment;
mod tag_relationship;
mod user_metadata;
mod user_metadata_device;
mod volume;

pub use collection::Collection;
pub use collection_entry::CollectionEntry;
pub use device::Device;
pub use entry::{Entry, EntryKind};
pub use location::Location;
pub use tag::Tag;
pub use tag_assignment::{TagAssignment, Target};
pub use tag_relationship::TagRelationship;
pub use user_metadata::UserMetadata;
pub use user_metadata_device::UserMetadataDevice;
pub use volume::Volume;
