//! Custom kinds in OpenAPI documents: their schemas as published in the definitions, with apiVersion, kind and metadata
//! as every object has them.

use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;
use super::published::{self, API_VERSION, KIND, metadata};
use super::schemas::{self, reference};
use super::{Dialect, Document, TITLE, VERSION, paths, security};
use crate::custom::Kind;
use crate::kinds::{Gvk, Resource};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
/// The name of a custom kind's type: the group backwards, the version, the kind.
pub(super) fn name_of(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').rev().collect();
    parts.extend([version, kind]);
    parts.join(".")
}

/// The document of one group and version, version 3.
pub fn v3(kinds: &[&Kind]) -> Document {
    let paths: Map<String, Value> =
        kinds.iter().flat_map(|kind| paths::of(kind.resource(), Dialect::V3)).collect();
    Document::new(&json!({
        "openapi": "3.0.0",
        "info": { "title": TITLE, "version": VERSION },
        "paths": paths,
        "components": {
            "schemas": all(kinds, Dialect::V3),
            "securitySchemes": { "BearerToken": security() },
        },
    }))
}

/// The document of version 2 with custom kinds in it.
pub fn v2(kinds: &[&Kind]) -> Document {
    let mut whole = super::whole();
    if let Some(known) = whole.get_mut("paths").and_then(Value::as_object_mut) {
        known.extend(kinds.iter().flat_map(|kind| paths::of(kind.resource(), Dialect::V2)));
    }
    if let Some(known) = whole.get_mut("definitions").and_then(Value::as_object_mut) {
        for (name, schema) in all(kinds, Dialect::V2) {
            known.entry(name).or_insert(schema);
        }
    }
    Document::new(&whole)
}

fn all(kinds: &[&Kind], dialect: Dialect) -> Map<String, Value> {
    let meta = |kind: &'static str| Gvk { group: "", version: "v1", kind };
    let common =
        [meta("Status"), meta("DeleteOptions"), Gvk { group: "autoscaling", version: "v1", kind: "Scale" }];
    let mut out = schemas::reachable(common.into_iter(), dialect, &Descriptions::load());
    for name in [format!("{META}.ObjectMeta"), format!("{META}.ListMeta")] {
        if let Some(schema) = schemas::by_name(&name, dialect) {
            out.extend(schema);
        }
    }
    for kind in kinds {
        let resource = kind.resource();
        let name = name_of(resource.group, resource.version, resource.kind);
        out.insert(format!("{name}List"), list(resource, &name, dialect));
        out.insert(name, object(kind, dialect));
    }
    out
}

fn gvk(resource: &Resource, kind: &str) -> Value {
    json!([{ "group": resource.group, "kind": kind, "version": resource.version }])
}

fn object(kind: &Kind, dialect: Dialect) -> Value {
    let resource = kind.resource();
    let mut out = published::object(kind.published(), dialect);
    out.insert("x-kubernetes-group-version-kind".into(), gvk(resource, resource.kind));
    if let Some(fields) = selectable(resource).filter(|_| dialect == Dialect::V2) {
        out.insert("x-kubernetes-selectable-fields".into(), fields);
    }
    Value::Object(out)
}

/// Version 2 says which fields may be selected by, beside the names in metadata.
fn selectable(resource: &Resource) -> Option<Value> {
    let fields: Vec<Value> =
        resource.fields.iter().map(|field| json!({ "fieldPath": field.label })).collect();
    (!fields.is_empty()).then_some(Value::Array(fields))
}

fn list(resource: &Resource, name: &str, dialect: Dialect) -> Value {
    let item = match dialect {
        Dialect::V2 => reference(name, dialect),
        Dialect::V3 => json!({ "allOf": [reference(name, dialect)] }),
    };
    let kind = resource.list_kind();
    let mut out = json!({
        "description": format!("{} is a list of {}", kind, resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": { "type": "string", "description": API_VERSION },
            "items": { "type": "array", "items": item, "description": format!("List of {}.", resource.plural) },
            "kind": { "type": "string", "description": KIND },
            "metadata": metadata("ListMeta", dialect),
        },
        "x-kubernetes-group-version-kind": gvk(resource, &kind),
    });
    if let Some(fields) = selectable(resource).filter(|_| dialect == Dialect::V2) {
        out["x-kubernetes-selectable-fields"] = fields;
    }
    out
}
