//! The schemas of types, with Kubernetes' extensions.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Dialect;
use super::descriptions::Descriptions;
use crate::kinds::{Gvk, Resource};
use crate::schema::{self, Field, ListType, Schema, Shape, Type, TypeId};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The kinds whose bodies the operations of a resource carry.
pub(super) fn bodies(resource: &'static Resource) -> impl Iterator<Item = Gvk> {
    let own = [resource.gvk(), list_of(resource), meta("Status"), meta("DeleteOptions")];
    own.into_iter().chain(resource.subresources.iter().map(|s| s.gvk()))
}

fn meta(kind: &'static str) -> Gvk {
    Gvk { group: "", version: "v1", kind }
}

fn list_of(resource: &Resource) -> Gvk {
    let schema = schema::get();
    let name = resource.list_kind();
    let mut kinds = schema.types().flat_map(|(_, t)| &t.kinds);
    let found = kinds.find(|k| k.kind == name && k.group == resource.group && k.version == resource.version);
    found.copied().unwrap_or(resource.gvk())
}

/// The OpenAPI name of a kind's type, if it has one.
pub(super) fn name_of(kind: &Gvk) -> Option<String> {
    let schema = schema::get();
    let known = schema.by_kind(kind).map(|id| schema.type_of(id).openapi_name());
    // Custom kinds have groups that no built-in kind has.
    let custom = || super::custom::name_of(kind.group, kind.version, kind.kind);
    known.or_else(|| (!crate::kinds::serves(kind.group, kind.version) && !kind.group.is_empty()).then(custom))
}

/// The schemas of a type of that name and of all that it reaches.
pub(super) fn by_name(name: &str, dialect: Dialect) -> Option<Map<String, Value>> {
    let schema = schema::get();
    let (id, _) = schema.types().find(|(_, kind)| kind.openapi_name() == name)?;
    Some(reached(vec![id], dialect, &Descriptions::load()))
}

/// The OpenAPI name of the type of a resource's lists.
pub(super) fn list_name_of(resource: &Resource) -> Option<String> {
    if !crate::kinds::serves(resource.group, resource.version) && !resource.group.is_empty() {
        let name = super::custom::name_of(resource.group, resource.version, resource.kind);
        return Some(format!("{name}List"));
    }
    name_of(&list_of(resource))
}

/// The schemas of the kinds and of all that they reach, by name.
pub(super) fn reachable(
    kinds: impl Iterator<Item = Gvk>,
    dialect: Dialect,
    descriptions: &Descriptions,
) -> Map<String, Value> {
    let schema = schema::get();
    reached(kinds.filter_map(|k| schema.by_kind(&k)).collect(), dialect, descriptions)
}

fn reached(mut todo: Vec<TypeId>, dialect: Dialect, descriptions: &Descriptions) -> Map<String, Value> {
    let schema = schema::get();
    let mut seen = BTreeSet::new();
    let mut scalars = BTreeSet::from([format!("{META}.Patch")]);
    while let Some(id) = todo.pop() {
        if seen.insert(id) {
            for field in schema.type_of(id).fields() {
                references(field.name, &field.shape, &mut todo, &mut scalars);
            }
        }
    }
    let mut out = Map::new();
    let writer = Writer { schema, dialect, descriptions };
    for id in seen {
        let kind = schema.type_of(id);
        out.insert(kind.openapi_name(), writer.object(kind));
    }
    for name in scalars {
        let mut value = scalar(&name, dialect);
        if let Some(text) = descriptions.of_type(&name) {
            value["description"] = text.into();
        }
        out.insert(name, value);
    }
    out.sort_keys();
    out
}

fn references(field: &str, shape: &Shape, types: &mut Vec<TypeId>, scalars: &mut BTreeSet<String>) {
    match shape {
        Shape::Object(id) => types.push(*id),
        Shape::List(inner) | Shape::Map(inner) => references(field, inner, types, scalars),
        other => scalars.extend(scalar_name(field, other)),
    }
}

/// Scalars that are types of their own upstream.
fn scalar_name(field: &str, shape: &Shape) -> Option<String> {
    Some(match shape {
        Shape::Time => format!("{META}.Time"),
        Shape::MicroTime => format!("{META}.MicroTime"),
        Shape::Quantity => "io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned(),
        Shape::IntOrString => "io.k8s.apimachinery.pkg.util.intstr.IntOrString".to_owned(),
        Shape::Any if field == "fieldsV1" => format!("{META}.FieldsV1"),
        Shape::Any => "io.k8s.apimachinery.pkg.runtime.RawExtension".to_owned(),
        _ => return None,
    })
}

fn scalar(name: &str, dialect: Dialect) -> Value {
    let v3 = dialect == Dialect::V3;
    match name.rsplit('.').next() {
        Some("Time" | "MicroTime") => json!({ "type": "string", "format": "date-time" }),
        Some("Quantity") if v3 => json!({ "oneOf": [{ "type": "string" }, { "type": "number" }] }),
        Some("Quantity") => json!({ "type": "string" }),
        Some("IntOrString") if v3 => {
            json!({ "format": "int-or-string", "oneOf": [{ "type": "integer" }, { "type": "string" }] })
        }
        Some("IntOrString") => json!({ "type": "string", "format": "int-or-string" }),
        _ => json!({ "type": "object" }),
    }
}

struct Writer<'a> {
    schema: &'a Schema,
    dialect: Dialect,
    descriptions: &'a Descriptions,
}

impl Writer<'_> {
    fn object(&self, kind: &Type) -> Value {
        let name = kind.openapi_name();
        let mut out = Map::new();
        if let Some(text) = self.descriptions.of_type(&name) {
            out.insert("description".into(), text.into());
        }
        out.insert("type".into(), "object".into());
        let required: Vec<Value> =
            kind.fields().iter().filter(|f| f.required).map(|f| f.name.into()).collect();
        if !required.is_empty() {
            out.insert("required".into(), required.into());
        }
        let fields = kind.fields().iter().map(|f| (f.name.to_owned(), self.field(&name, f)));
        let fields: Map<String, Value> = fields.collect();
        if !fields.is_empty() {
            out.insert("properties".into(), fields.into());
        }
        if !kind.kinds.is_empty() {
            let kinds =
                kind.kinds.iter().map(|k| json!({ "group": k.group, "kind": k.kind, "version": k.version }));
            out.insert("x-kubernetes-group-version-kind".into(), kinds.collect());
        }
        if kind.atomic {
            out.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        Value::Object(out)
    }

    fn field(&self, owner: &str, field: &Field) -> Value {
        let mut out = self.shape(field.name, &field.shape);
        if let Some(text) = self.descriptions.of_field(owner, field.name) {
            out.insert("description".into(), text.into());
        } else if field.name == "items" && owner.ends_with("List") {
            // The source of descriptions has one type for all lists.
            let mut resources = crate::kinds::resources().iter();
            let listed = resources.find(|resource| list_name_of(resource).as_deref() == Some(owner));
            if let Some(resource) = listed {
                out.insert("description".into(), format!("List of {}.", resource.plural).into());
            }
        }
        match &field.list {
            ListType::Unset => {}
            ListType::Atomic => extend(&mut out, "list-type", "atomic".into()),
            ListType::Set => extend(&mut out, "list-type", "set".into()),
            ListType::Map(keys) => {
                extend(&mut out, "list-map-keys", json!(keys));
                extend(&mut out, "list-type", "map".into());
            }
        }
        if field.atomic || field.granular {
            extend(&mut out, "map-type", if field.atomic { "atomic" } else { "granular" }.into());
        }
        if let Some(key) = field.merge_key {
            extend(&mut out, "patch-merge-key", key.into());
        }
        let strategies = [
            (field.patch_merge, "merge"),
            (field.patch_retain_keys, "retainKeys"),
            (field.patch_replace, "replace"),
        ];
        let strategies: Vec<&str> =
            strategies.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
        if !strategies.is_empty() {
            extend(&mut out, "patch-strategy", strategies.join(",").into());
        }
        Value::Object(out)
    }

    fn shape(&self, field: &str, shape: &Shape) -> Map<String, Value> {
        let value = match shape {
            Shape::String => json!({ "type": "string" }),
            Shape::Bytes => json!({ "type": "string", "format": "byte" }),
            Shape::Int32 => json!({ "type": "integer", "format": "int32" }),
            Shape::Int64 => json!({ "type": "integer", "format": "int64" }),
            Shape::Number => json!({ "type": "number", "format": "double" }),
            Shape::Bool => json!({ "type": "boolean" }),
            Shape::List(inner) => json!({ "type": "array", "items": self.shape(field, inner) }),
            Shape::Map(inner) => {
                json!({ "type": "object", "additionalProperties": self.shape(field, inner) })
            }
            Shape::Object(id) => self.reference(&self.schema.type_of(*id).openapi_name()),
            scalar => self.reference(&scalar_name(field, scalar).unwrap_or_default()),
        };
        match value {
            Value::Object(members) => members,
            _ => Map::new(),
        }
    }

    /// Version 3 allows nothing beside a `$ref`, so it is wrapped, as upstream does it.
    fn reference(&self, name: &str) -> Value {
        let target = reference(name, self.dialect);
        match self.dialect {
            Dialect::V2 => target,
            Dialect::V3 => json!({ "allOf": [target] }),
        }
    }
}

fn extend(out: &mut Map<String, Value>, name: &str, value: Value) {
    out.insert(format!("x-kubernetes-{name}"), value);
}

/// `{"$ref": ...}` to a type.
pub(super) fn reference(name: &str, dialect: Dialect) -> Value {
    let at = match dialect {
        Dialect::V2 => "definitions",
        Dialect::V3 => "components/schemas",
    };
    json!({ "$ref": format!("#/{at}/{name}") })
}
