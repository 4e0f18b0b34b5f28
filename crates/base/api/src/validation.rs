//! Kubernetes' rules about objects, each broken one worded as Kubernetes words it.

pub(crate) mod names;

use serde_json::Value;

use crate::kinds::Resource;
use crate::status::FieldError;

/// Checks an object that is about to be created (defaults applied, prepared by `strategy::prepare_create`).
pub fn create(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let _ = (resource, object);
    Vec::new()
}

/// Checks an update of the main resource (prepared by `strategy::prepare_update`).
pub fn update(resource: &Resource, new: &Value, old: &Value) -> Vec<FieldError> {
    let _ = (resource, new, old);
    Vec::new()
}

/// Checks an update of the status subresource (prepared by `strategy::prepare_status_update`).
pub fn update_status(resource: &Resource, new: &Value, old: &Value) -> Vec<FieldError> {
    let _ = (resource, new, old);
    Vec::new()
}

/// Checks the body of `pods/binding`.
pub fn binding(binding: &Value) -> Vec<FieldError> {
    let _ = binding;
    Vec::new()
}

/// Checks the body of a scale subresource.
pub fn scale(scale: &Value) -> Vec<FieldError> {
    let _ = scale;
    Vec::new()
}

/// Checks `DeleteOptions`.
pub fn delete_options(options: &Value) -> Vec<FieldError> {
    let _ = options;
    Vec::new()
}
