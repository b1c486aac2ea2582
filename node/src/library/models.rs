//! All models by number and by name, and their values as JSON.

use serde_json::{Value as Json, json};
use starling_schema::ids::ModelId;
use starling_schema::model::{ModelSpec, Syncable};
use starling_schema::models::{
    Collection, CollectionEntry, Device, Entry, Location, Tag, TagAssignment, TagRelationship, UserMetadata,
    UserMetadataDevice, Volume,
};
use starling_schema::value::Value;

/// Every model that this build knows, those that people ask for most first.
pub(crate) static MODELS: [ModelSpec; 11] = [
    Entry::SPEC,
    Tag::SPEC,
    Collection::SPEC,
    Location::SPEC,
    Device::SPEC,
    Volume::SPEC,
    UserMetadata::SPEC,
    UserMetadataDevice::SPEC,
    TagAssignment::SPEC,
    TagRelationship::SPEC,
    CollectionEntry::SPEC,
];

/// The model of that number.
pub(crate) fn model(id: ModelId) -> Option<&'static ModelSpec> {
    MODELS.iter().find(|spec| spec.id == id)
}

/// What people call a model, known or not.
pub(crate) fn model_name(id: ModelId) -> String {
    model(id).map_or_else(|| format!("model {id}"), |spec| spec.name.to_owned())
}

/// A value as JSON: ids as UUIDs, bytes in hexadecimal.
pub(crate) fn json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(inner) => json!(inner),
        Value::Int(inner) => json!(inner),
        Value::Real(inner) => json!(inner),
        Value::Text(inner) => json!(inner),
        Value::Bytes(inner) => json!(hex::encode(inner)),
        Value::Id(inner) => json!(inner.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_found_by_number_and_unknown_ones_are_named() {
        for spec in &MODELS {
            assert_eq!(model_name(spec.id), spec.name);
        }
        assert_eq!(model_name(999), "model 999");
    }

    #[test]
    fn values_are_plain_json() {
        assert_eq!(json(&Value::Bytes(vec![0, 255])), json!("00ff"));
        assert_eq!(json(&Value::Null), Json::Null);
        assert_eq!(json(&Value::from("a")), json!("a"));
    }
}
