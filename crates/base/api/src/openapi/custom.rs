//! Custom kinds in OpenAPI documents: their schemas as published in the definitions, with apiVersion, kind and metadata
//! as every object has them.

use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;
use super::schemas::{self, reference};
use super::{Dialect, Document, TITLE, VERSION, paths, security};
use crate::custom::Kind;
use crate::kinds::{Gvk, Resource};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should \
     convert recognized schemas to the latest internal value, and may reject unrecognized values.";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this \
     from the endpoint the client submits requests to. Cannot be updated. In CamelCase.";

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

fn metadata(name: &str, dialect: Dialect) -> Value {
    let target = reference(&format!("{META}.{name}"), dialect);
    match dialect {
        Dialect::V2 => target,
        Dialect::V3 => json!({ "allOf": [target] }),
    }
}

fn object(kind: &Kind, dialect: Dialect) -> Value {
    let mut out = published(kind.published(), dialect, true);
    let Some(members) = out.as_object_mut() else { return out };
    members.entry("type").or_insert_with(|| "object".into());
    let properties = members.entry("properties").or_insert_with(|| json!({}));
    if let Some(properties) = properties.as_object_mut() {
        properties.insert("apiVersion".into(), json!({ "type": "string", "description": API_VERSION }));
        properties.insert("kind".into(), json!({ "type": "string", "description": KIND }));
        let mut meta = metadata("ObjectMeta", dialect);
        meta["description"] = "Standard object's metadata.".into();
        properties.insert("metadata".into(), meta);
    }
    members.insert("x-kubernetes-group-version-kind".into(), gvk(kind.resource(), kind.resource().kind));
    out
}

fn list(resource: &Resource, name: &str, dialect: Dialect) -> Value {
    let item = match dialect {
        Dialect::V2 => reference(name, dialect),
        Dialect::V3 => json!({ "allOf": [reference(name, dialect)] }),
    };
    let kind = resource.list_kind();
    json!({
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
    })
}

/// A schema as it is published: version 2 leaves out what it has no words for, and what lies under something that takes
/// unknown members.
fn published(schema: &Value, dialect: Dialect, root: bool) -> Value {
    let Some(members) = schema.as_object() else { return schema.clone() };
    if dialect == Dialect::V3 {
        return schema.clone();
    }
    let flag = |name: &str| members.get(name) == Some(&Value::Bool(true));
    let mut out = Map::new();
    let open = flag("x-kubernetes-preserve-unknown-fields");
    for (name, value) in members {
        let kept = match name.as_str() {
            "oneOf" | "anyOf" | "not" | "nullable" | "x-kubernetes-validations" => continue,
            "allOf" | "default" | "required" if open && !root => continue,
            "properties" | "items" | "additionalProperties" if open && !root => continue,
            "type" if flag("nullable") || flag("x-kubernetes-int-or-string") || (open && !root) => continue,
            "allOf" => continue,
            "items" | "additionalProperties" => published(value, dialect, false),
            "properties" => {
                let inner = value.as_object().into_iter().flatten();
                inner.map(|(name, value)| (name.clone(), published(value, dialect, false))).collect()
            }
            _ => value.clone(),
        };
        out.insert(name.clone(), kept);
    }
    Value::Object(out)
}
