//! The schema of a custom kind as OpenAPI documents show it. Version 3 shows it as it was defined; version 2 leaves out
//! what it has no words for, and what its readers (kubectl's validation and explanation) take for a promise that no
//! other member is allowed.

use serde_json::{Map, Value, json};

use super::Dialect;
use super::schemas::reference;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
pub(super) const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should \
     convert recognized schemas to the latest internal value, and may reject unrecognized values.";
pub(super) const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this \
     from the endpoint the client submits requests to. Cannot be updated. In CamelCase.";

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

/// The schema of the kind's objects, with apiVersion, kind and metadata as every object has them.
pub(super) fn object(schema: &Value, dialect: Dialect) -> Map<String, Value> {
    let members = schema.as_object();
    let untyped = members.is_none_or(Map::is_empty);
    if untyped || dialect == Dialect::V2 && members.is_some_and(|m| flag(m, PRESERVE)) {
        // Members listed here would forbid all others.
        return Map::from_iter([("type".to_owned(), "object".into())]);
    }
    let mut out = match published(schema, dialect) {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    out.entry("type").or_insert_with(|| "object".into());
    add_frame(&mut out, dialect);
    out
}

/// A reference to one of the types of metadata.
pub(super) fn metadata(name: &str, dialect: Dialect) -> Value {
    let target = reference(&format!("{META}.{name}"), dialect);
    match dialect {
        Dialect::V2 => target,
        Dialect::V3 => json!({ "allOf": [target] }),
    }
}

fn flag(members: &Map<String, Value>, name: &str) -> bool {
    members.get(name) == Some(&Value::Bool(true))
}

fn add_frame(schema: &mut Map<String, Value>, dialect: Dialect) {
    let properties = schema.entry("properties").or_insert_with(|| json!({}));
    let Some(properties) = properties.as_object_mut() else { return };
    properties.insert("apiVersion".into(), json!({ "type": "string", "description": API_VERSION }));
    properties.insert("kind".into(), json!({ "type": "string", "description": KIND }));
    let mut meta = metadata("ObjectMeta", dialect);
    meta["description"] = "Standard object's metadata.".into();
    properties.insert("metadata".into(), meta);
}

fn published(schema: &Value, dialect: Dialect) -> Value {
    let Some(members) = schema.as_object() else { return schema.clone() };
    let v2 = dialect == Dialect::V2;
    let nullable = v2 && flag(members, "nullable");
    let open = v2 && flag(members, PRESERVE);
    let mut out = Map::new();
    for (name, value) in members {
        let kept = match name.as_str() {
            "allOf" | "oneOf" | "anyOf" | "not" | "nullable" | "default" if v2 => continue,
            "items" | "properties" if nullable || open => continue,
            "type" if nullable || open && value == "object" => continue,
            "type" if v2 && value == "array" && (open || !members.contains_key("items")) => continue,
            "required" if v2 => match required(value, members, nullable || open) {
                Some(kept) => kept,
                None => continue,
            },
            "items" | "additionalProperties" => published(value, dialect),
            "properties" => {
                let inner = value.as_object().into_iter().flatten();
                inner.map(|(name, value)| (name.clone(), published(value, dialect))).collect()
            }
            _ => value.clone(),
        };
        out.insert(name.clone(), kept);
    }
    if !v2
        && flag(members, "x-kubernetes-int-or-string")
        && !out.contains_key("anyOf")
        && !out.contains_key("allOf")
    {
        out.insert("anyOf".into(), json!([{ "type": "integer" }, { "type": "string" }]));
    }
    if flag(members, "x-kubernetes-embedded-resource") && !open {
        add_frame(&mut out, dialect);
        if let Some(required) = out.entry("required").or_insert_with(|| json!([])).as_array_mut() {
            for name in ["kind", "apiVersion"] {
                if !required.iter().any(|known| known == name) {
                    required.push(name.into());
                }
            }
        }
    }
    Value::Object(out)
}

/// What version 2 may still call required: a member that may be null has no type there, so its absence cannot be told
/// from null.
fn required(required: &Value, members: &Map<String, Value>, no_properties: bool) -> Option<Value> {
    let may_be_null = |schema: &Value| schema.get("nullable") == Some(&Value::Bool(true));
    if members.get("additionalProperties").is_some_and(may_be_null) {
        return None;
    }
    let properties = members.get("properties").filter(|_| !no_properties);
    let kept: Vec<Value> = required
        .as_array()?
        .iter()
        .filter(|name| {
            let schema = properties.and_then(|p| p.get(name.as_str()?));
            !schema.is_some_and(may_be_null)
        })
        .cloned()
        .collect();
    (!kept.is_empty()).then_some(Value::Array(kept))
}
