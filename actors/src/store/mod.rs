//! The library's `SQLite` file: how it is opened, and every statement that reads or writes it.

pub(crate) mod conflicts;
pub(crate) mod ledger;
pub(crate) mod open;
pub(crate) mod pages;
pub(crate) mod parked;
pub(crate) mod remains;
pub(crate) mod sql;
pub(crate) mod table;
pub(crate) mod tables;
pub(crate) mod tombstones;

use std::collections::BTreeMap;

use starling_schema::ids::ModelId;
use starling_schema::model::{ModelSpec, Syncable};
use starling_schema::models::{
    Collection, CollectionEntry, Device, Entry, Location, Tag, TagAssignment, TagRelationship, UserMetadata,
    UserMetadataDevice, Volume,
};

pub(crate) use open::OpenError;

/// The models that a library holds: the one list that a new model is added to.
#[derive(Clone, Debug)]
pub struct Registry(BTreeMap<ModelId, ModelSpec>);

impl Default for Registry {
    fn default() -> Self {
        Self(BTreeMap::new())
            .with::<Device>()
            .with::<Volume>()
            .with::<Location>()
            .with::<Entry>()
            .with::<Tag>()
            .with::<TagRelationship>()
            .with::<TagAssignment>()
            .with::<Collection>()
            .with::<CollectionEntry>()
            .with::<UserMetadata>()
            .with::<UserMetadataDevice>()
    }
}

impl Registry {
    /// The same models and one more.
    #[must_use]
    pub fn with<M: Syncable>(mut self) -> Self {
        self.0.insert(M::SPEC.id, M::SPEC);
        self
    }

    /// The same models less one, which is then kept for a later version like any that is not known.
    #[must_use]
    pub fn without(mut self, model: ModelId) -> Self {
        self.0.remove(&model);
        self
    }

    /// A model by its number.
    #[must_use]
    pub fn get(&self, model: ModelId) -> Option<&ModelSpec> {
        self.0.get(&model)
    }

    /// Every model, by number.
    pub fn iter(&self) -> impl Iterator<Item = &ModelSpec> {
        self.0.values()
    }

    /// What to call a model in a message.
    #[must_use]
    pub fn name(&self, model: ModelId) -> String {
        self.get(model).map_or_else(|| format!("model {model}"), |spec| spec.name.to_owned())
    }
}
