//! Work on shared records: tags, what they are put on and within, collections, metadata, and what lost.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use starling::Conflict;
use starling_schema::change::Write;
use starling_schema::ids::RecordId;
use starling_schema::model::Syncable;
use starling_schema::models::{Collection, CollectionEntry, Tag, TagAssignment, TagRelationship, Target, UserMetadata};
use starling_schema::value::Fields;

use super::{Kind, POOL_MAX, Things, Worker, content, word};

impl Things {
    pub(super) fn shared(&mut self, kind: Kind, worker: &Worker<'_>, random: &mut ChaCha8Rng) -> Vec<Write> {
        let (tag, other) = (self.tags.choose(random).copied(), self.tags.choose(random).copied());
        let collection = self.collections.choose(random).copied();
        let (Some(tag), Some(other)) = (tag, other) else { return self.new_tag(worker, random) };
        let Some(collection) = collection else { return self.new_collection(worker, random) };
        let Some(file) = self.files.choose(random).copied() else { return self.index(3, worker, random) };
        let assignment = TagAssignment::of(tag, &Target::Entry(file));
        let write = match kind {
            Kind::NewTag => return self.new_tag(worker, random),
            Kind::NewCollection => return self.new_collection(worker, random),
            Kind::EditTag => Write::patch(Tag::MODEL, tag, tag_fields(random)),
            Kind::DeleteTag => Write::delete(Tag::MODEL, tag),
            Kind::RestoreTag => Write::restore(Tag::MODEL, tag),
            Kind::BuiltInTag => {
                let id = Tag::built_in("favourite");
                match random.random_range(0..4) {
                    0 => Write::delete(Tag::MODEL, id),
                    1 => Write::restore(Tag::MODEL, id),
                    _ => Write::put(Tag::MODEL, id, tag_fields(random)),
                }
            }
            Kind::Nest => TagRelationship::between(tag, other).put(),
            Kind::Unnest => Write::delete(TagRelationship::MODEL, TagRelationship::between(tag, other).id),
            Kind::Assign => assignment.put(),
            Kind::Unassign => Write::delete(TagAssignment::MODEL, assignment.id),
            Kind::AssignContent => {
                let on_content = TagAssignment::of(tag, &Target::Content(content(random)));
                if random.random_bool(0.3) {
                    Write::delete(TagAssignment::MODEL, on_content.id)
                } else {
                    on_content.put()
                }
            }
            Kind::EditCollection => {
                Write::patch(Collection::MODEL, collection, Fields::new().with(Collection::NAME, word(random)))
            }
            Kind::DeleteCollection => Write::delete(Collection::MODEL, collection),
            Kind::RestoreCollection => Write::restore(Collection::MODEL, collection),
            Kind::Collect => {
                let mut place = CollectionEntry::of(collection, file);
                place.position = Some(f64::from(random.random_range(0..1_000)));
                place.put()
            }
            Kind::Uncollect => Write::delete(CollectionEntry::MODEL, CollectionEntry::of(collection, file).id),
            Kind::ForgetMetadata => Write::delete(UserMetadata::MODEL, UserMetadata::of(file).id),
            Kind::Settle => return settle(worker.conflicts, random).into_iter().collect(),
            _ => metadata(file, random),
        };
        vec![write]
    }

    fn new_tag(&mut self, worker: &Worker<'_>, random: &mut ChaCha8Rng) -> Vec<Write> {
        let id = (worker.new_id)();
        if self.tags.len() < POOL_MAX || random.random_bool(0.2) {
            self.tags.push(id);
        }
        vec![Write::put(Tag::MODEL, id, tag_fields(random).with(Tag::NAME, word(random)))]
    }

    fn new_collection(&mut self, worker: &Worker<'_>, random: &mut ChaCha8Rng) -> Vec<Write> {
        let id = (worker.new_id)();
        if self.collections.len() < POOL_MAX / 2 || random.random_bool(0.2) {
            self.collections.push(id);
        }
        vec![Write::put(Collection::MODEL, id, Fields::new().with(Collection::NAME, word(random)))]
    }
}

/// Brings a value back that had lost.
fn settle(conflicts: &[Conflict], random: &mut ChaCha8Rng) -> Option<Write> {
    let lost = conflicts.choose(random)?;
    let restored = Fields::new().with(lost.field, lost.value.clone());
    Some(if lost.deleted {
        Write::restore(lost.model, lost.record)
    } else {
        Write::patch(lost.model, lost.record, restored)
    })
}

fn metadata(file: RecordId, random: &mut ChaCha8Rng) -> Write {
    let mut metadata = UserMetadata::of(file);
    match random.random_range(0..5) {
        0 => metadata.favorite = Some(random.random()),
        1 => metadata.rating = Some(random.random_range(0..6)),
        2 => metadata.hidden = Some(random.random()),
        3 => metadata.custom = Some(format!("{{\"at\":{}}}", random.random_range(0..100))),
        _ => metadata.notes = Some(word(random)),
    }
    metadata.put()
}

fn tag_fields(random: &mut ChaCha8Rng) -> Fields {
    let mut fields = Fields::new();
    for field in [Tag::NAME, Tag::COLOR, Tag::ICON, Tag::DESCRIPTION, Tag::ALIASES] {
        if random.random_bool(0.4) {
            fields.set(field, word(random));
        }
    }
    if fields.is_empty() || random.random_bool(0.1) {
        fields.set(Tag::HIDDEN, random.random::<bool>());
    }
    fields
}
