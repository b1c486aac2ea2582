//! What people and the indexer do on a device, in one line each: a record of every model, read back and changed.

use starling::records;
use starling::{CommitError, Receipt};
use starling_schema::change::Write;
use starling_schema::ids::{DeviceId, FieldNo, RecordId};
use starling_schema::model::Syncable;
use starling_schema::models::{
    Collection, CollectionEntry, Entry, EntryKind, Location, Tag, TagAssignment, TagRelationship, Target, UserMetadata,
    UserMetadataDevice, Volume,
};
use starling_schema::value::{Fields, Value};

use super::Node;

/// Rows of one commit of a long list.
const COMMIT_ROWS: usize = 5_000;

impl Node {
    /// A new record id.
    #[must_use]
    pub fn new_id(&self) -> RecordId {
        self.peer().environment().new_id()
    }

    /// Commits writes.
    ///
    /// # Errors
    /// As [`starling::PeerHandle::commit`].
    pub async fn try_commit(&self, writes: Vec<Write>) -> Result<Receipt, CommitError> {
        self.peer().commit(writes).await
    }

    /// Commits writes that must succeed.
    pub async fn commit(&self, writes: Vec<Write>) -> Receipt {
        self.try_commit(writes).await.unwrap_or_else(|error| panic!("{}: {error}", self.name()))
    }

    /// Makes a record, or sets all fields that are set here.
    pub async fn put<M: Syncable>(&self, record: &M) -> RecordId {
        self.commit(vec![record.put()]).await;
        record.id()
    }

    /// Sets one field.
    pub async fn set<M: Syncable>(&self, id: RecordId, field: FieldNo, value: impl Into<Value>) {
        self.commit(vec![Write::patch(M::SPEC.id, id, Fields::new().with(field, value))]).await;
    }

    /// Deletes a record.
    pub async fn delete<M: Syncable>(&self, id: RecordId) {
        self.commit(vec![Write::delete(M::SPEC.id, id)]).await;
    }

    /// Brings a deleted shared record back.
    pub async fn restore<M: Syncable>(&self, id: RecordId) {
        self.commit(vec![Write::restore(M::SPEC.id, id)]).await;
    }

    /// One live record.
    pub async fn get<M: Syncable>(&self, id: RecordId) -> Option<M> {
        self.peer().query(move |c| records::get::<M>(c, id)).await.expect("a record can be read")
    }

    /// All live records of a model, by id.
    pub async fn all<M: Syncable>(&self) -> Vec<M> {
        self.peer().query(|c| records::all::<M>(c)).await.expect("records can be read")
    }

    /// The live records of a model of which a field holds a value.
    pub async fn find<M: Syncable>(&self, field: FieldNo, value: impl Into<Value>) -> Vec<M> {
        let value = value.into();
        self.peer().query(move |c| records::all_where::<M>(c, field, &value)).await.expect("records can be read")
    }

    /// How many live records of a model there are.
    pub async fn count<M: Syncable>(&self) -> u64 {
        self.status().await.counts.get(M::SPEC.name).copied().unwrap_or(0)
    }

    /// Who owns a record.
    pub async fn owner<M: Syncable>(&self, id: RecordId) -> Option<DeviceId> {
        self.peer().query(move |c| records::owner::<M>(c, id)).await.expect("an owner can be read")
    }

    /// Mounts a volume.
    pub async fn add_volume(&self, name: &str) -> RecordId {
        let mut volume = Volume::new(self.new_id());
        volume.device = Some(self.id().record());
        volume.name = Some(name.to_owned());
        volume.capacity = Some(1 << 40);
        self.put(&volume).await
    }

    /// Begins to index a folder: its location, with a root entry.
    pub async fn add_location(&self, name: &str) -> RecordId {
        let [id, root] = [self.new_id(), self.new_id()];
        let mut location = Location::new(id);
        location.root = Some(root);
        location.name = Some(name.to_owned());
        location.path = Some(format!("/home/{}/{name}", self.name()));
        let mut entry = entry(root, id, None, name);
        entry.kind = Some(EntryKind::Directory.code());
        self.commit(vec![location.put(), entry.put()]).await;
        id
    }

    /// Indexes so many files within a directory of a location, or at its root.
    pub async fn add_entries(&self, location: RecordId, parent: Option<RecordId>, count: usize) -> Vec<RecordId> {
        let root = self.get::<Location>(location).await.and_then(|location| location.root);
        let ids = self.peer().environment().new_ids(count);
        for (at, chunk) in ids.chunks(COMMIT_ROWS).enumerate() {
            let rows = chunk.iter().enumerate().map(|(within, id)| {
                entry(*id, location, parent.or(root), &format!("file {}", at * COMMIT_ROWS + within)).put()
            });
            self.commit(rows.collect()).await;
        }
        ids
    }

    /// Indexes one file at the root of a new location.
    pub async fn add_file(&self) -> RecordId {
        let location = self.add_location("files").await;
        self.add_entries(location, None, 1).await[0]
    }

    /// Makes a tag.
    pub async fn add_tag(&self, name: &str) -> RecordId {
        let mut tag = Tag::new(self.new_id());
        tag.name = Some(name.to_owned());
        self.put(&tag).await
    }

    /// Makes so many tags in as few commits as they need.
    pub async fn add_tags(&self, count: usize) -> Vec<RecordId> {
        let ids = self.peer().environment().new_ids(count);
        for chunk in ids.chunks(1_000) {
            let tag = |id: &RecordId| Write::put(Tag::MODEL, *id, Fields::new().with(Tag::NAME, id.to_string()));
            self.commit(chunk.iter().map(tag).collect()).await;
        }
        ids
    }

    /// The name of a tag; none when it is not there.
    pub async fn tag_name(&self, id: RecordId) -> Option<String> {
        self.get::<Tag>(id).await.and_then(|tag| tag.name)
    }

    /// Puts a tag within another.
    pub async fn nest(&self, parent: RecordId, child: RecordId) -> RecordId {
        self.put(&TagRelationship::between(parent, child)).await
    }

    /// Puts a tag on something.
    pub async fn assign(&self, tag: RecordId, target: &Target) -> RecordId {
        self.put(&TagAssignment::of(tag, target)).await
    }

    /// Makes a collection.
    pub async fn add_collection(&self, name: &str) -> RecordId {
        let mut collection = Collection::new(self.new_id());
        collection.name = Some(name.to_owned());
        self.put(&collection).await
    }

    /// Puts an entry into a collection.
    pub async fn collect(&self, collection: RecordId, entry: RecordId, position: f64) -> RecordId {
        let mut place = CollectionEntry::of(collection, entry);
        place.position = Some(position);
        self.put(&place).await
    }

    /// Writes notes on an entry.
    pub async fn note(&self, entry: RecordId, notes: &str) -> RecordId {
        let mut metadata = UserMetadata::of(entry);
        metadata.notes = Some(notes.to_owned());
        self.put(&metadata).await
    }

    /// Notes how often an entry was opened on this device.
    pub async fn opened(&self, entry: RecordId, times: i64) -> RecordId {
        let mut metadata = UserMetadataDevice::of(entry, self.id());
        metadata.open_count = Some(times);
        self.put(&metadata).await
    }

    /// The path of an entry within its location: the names of its directories and its own, from the root on. None when
    /// a directory is missing.
    pub async fn path_of(&self, id: RecordId) -> Option<String> {
        let mut names = Vec::new();
        let mut next = Some(id);
        while let Some(id) = next {
            let entry = self.get::<Entry>(id).await?;
            names.push(entry.name?);
            next = entry.parent;
        }
        names.reverse();
        Some(names.join("/"))
    }
}

fn entry(id: RecordId, location: RecordId, parent: Option<RecordId>, name: &str) -> Entry {
    let mut entry = Entry::new(id);
    entry.location = Some(location);
    entry.parent = parent;
    entry.name = Some(name.to_owned());
    entry.kind = Some(EntryKind::File.code());
    entry.size = Some(1_024);
    entry
}
