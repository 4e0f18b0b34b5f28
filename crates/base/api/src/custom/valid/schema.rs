//! Rules about schemas: they have to be structural, so that every value has one place that says what it is.

use serde_json::{Value, json};

use super::{Errors, get, list, text};
use crate::custom::schema::{Additional, Schema, compile_pattern};
use crate::custom::{check, prune};
use crate::status::{FieldError, FieldPath};

/// Where a node stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

fn flag(schema: &Value, name: &str) -> bool {
    get(schema, name) == &Value::Bool(true)
}

/// The subschemas of a kind: `allOf` and the like.
fn alternatives(schema: &Value) -> impl Iterator<Item = (&'static str, usize, &Value)> {
    ["allOf", "oneOf", "anyOf"]
        .into_iter()
        .flat_map(|name| list(schema, name).iter().enumerate().map(move |(i, sub)| (name, i, sub)))
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    get(schema, "properties").as_object().into_iter().flatten()
}

/// Checks the schema of a version; `unchanged`: it was accepted before.
pub(super) fn root(out: &mut Errors, schema: &Value, has_status: bool, unchanged: bool, path: &FieldPath) {
    let before = out.len();
    if has_status {
        status_root(out, schema, path);
    }
    if flag(schema, "nullable") {
        out.push(FieldError::forbidden(path.child("nullable"), "nullable cannot be true at the root"));
    }
    let mut found = Vec::new();
    structural(&mut found, schema, Level::Root, path);
    complete(&mut found, schema, path);
    found.sort_by_key(ToString::to_string);
    if found.is_empty()
        && !unchanged
        && let Some(compiled) = super::compiled(schema)
    {
        defaults(&mut found, &compiled, path, Inside { root: true, meta: false });
    }
    out.append(&mut found);
    let place = Standard { defaults: None, meta: false };
    standard(out, schema, path, true, &place);
    if unchanged && out.len() > before {
        // What was accepted once stays acceptable.
        out.truncate(before);
    }
}

/// With a status subresource the status' own schema has to be found at the root.
fn status_root(out: &mut Errors, schema: &Value, path: &FieldPath) {
    const ALLOWED: [&str; 11] = [
        "description",
        "type",
        "format",
        "title",
        "maximum",
        "exclusiveMaximum",
        "minimum",
        "exclusiveMinimum",
        "properties",
        "required",
        "additionalProperties",
    ];
    let kind = text(schema, "type");
    if !kind.is_empty() && kind != "object" {
        let sentence = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        out.push(FieldError::invalid(path.child("type"), kind, sentence));
        return;
    }
    let members = schema.as_object().into_iter().flatten();
    let other = members.map(|(name, _)| name.as_str()).find(|name| {
        !ALLOWED.contains(name)
            && !name.starts_with("x-kubernetes-")
            && !matches!(*name, "externalDocs" | "example" | "$schema" | "maxProperties" | "minProperties")
    });
    if other.is_some() {
        let shown = "[Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength \
                     Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example \
                     XPreserveUnknownFields XValidations]";
        let sentence = format!(
            "only {shown} fields are allowed at the root of the schema if the status subresource is enabled"
        );
        out.push(FieldError::invalid(path, schema.clone(), sentence));
    }
}

fn structural(out: &mut Errors, schema: &Value, level: Level, path: &FieldPath) {
    let kind = text(schema, "type");
    let items = get(schema, "items");
    if kind == "array" && items.is_null() {
        out.push(FieldError::required(path.child("items"), "must be specified"));
    }
    if items.is_object() {
        structural(out, items, Level::Item, &path.child("items"));
    }
    for (name, property) in properties(schema) {
        structural(out, property, Level::Field, &path.child("properties").key(name));
    }
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    let additional = get(schema, "additionalProperties");
    if !additional.is_null() {
        let path = path.child("additionalProperties");
        if level == Level::Root {
            out.push(FieldError::forbidden(&path, "must not be used at the root"));
        }
        if additional.is_object() {
            structural(out, additional, Level::Field, &path);
        }
    }
    extensions(out, schema, path);
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    let skip_any = get(schema, "anyOf") == &either;
    let skip_all = list(schema, "allOf").first().is_some_and(|first| get(first, "anyOf") == &either);
    nested_values(out, schema, skip_any, skip_all, path);
    kinds(out, schema, level, path);
    if embedded && !additional.is_null() {
        let sentence = "must not be used if x-kubernetes-embedded-resource is set";
        out.push(FieldError::forbidden(path.child("additionalProperties"), sentence));
    }
    metadata(out, schema, level, path);
    let preserve = flag(schema, "x-kubernetes-preserve-unknown-fields");
    if embedded && !preserve && properties(schema).next().is_none() {
        let sentence = "must not be empty if x-kubernetes-embedded-resource is true without \
                        x-kubernetes-preserve-unknown-fields";
        out.push(FieldError::required(path.child("properties"), sentence));
    }
}

fn extensions(out: &mut Errors, schema: &Value, path: &FieldPath) {
    if !flag(schema, "x-kubernetes-int-or-string") {
        return;
    }
    for name in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        if flag(schema, name) {
            let sentence = "must be false if x-kubernetes-int-or-string is true";
            out.push(FieldError::invalid(path.child(name), true, sentence));
        }
    }
}

fn kinds(out: &mut Errors, schema: &Value, level: Level, path: &FieldPath) {
    let (kind, path) = (text(schema, "type"), path.child("type"));
    let free =
        flag(schema, "x-kubernetes-int-or-string") || flag(schema, "x-kubernetes-preserve-unknown-fields");
    if flag(schema, "x-kubernetes-embedded-resource") && kind != "object" {
        let sentence = "must be object if x-kubernetes-embedded-resource is true";
        out.push(if kind.is_empty() {
            FieldError::required(&path, sentence)
        } else {
            FieldError::invalid(&path, kind, sentence)
        });
    } else if kind.is_empty() && !free {
        let place = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        out.push(FieldError::required(&path, place));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        out.push(FieldError::invalid(&path, kind, "must be object at the root"));
    }
}

fn metadata(out: &mut Errors, schema: &Value, level: Level, path: &FieldPath) {
    let checked = level == Level::Root || flag(schema, "x-kubernetes-embedded-resource");
    let path = path.child("properties");
    for name in ["kind", "apiVersion"] {
        let property = get(get(schema, "properties"), name);
        if checked && property.is_object() && text(property, "type") != "string" {
            let kind = text(property, "type");
            out.push(FieldError::invalid(path.key(name).child("type"), kind, "must be string"));
        }
    }
    let property = get(get(schema, "properties"), "metadata");
    if !property.is_object() {
        return;
    }
    let path = path.key("metadata");
    if checked && text(property, "type") != "object" {
        out.push(FieldError::invalid(path.child("type"), text(property, "type"), "must be object"));
    }
    if level == Level::Root {
        let members = property.as_object().into_iter().flatten();
        let more =
            members.filter(|(name, _)| !matches!(name.as_str(), "type" | "properties" | "default")).count();
        let others =
            properties(property).filter(|(name, _)| !matches!(name.as_str(), "name" | "generateName"));
        if more > 0 || others.count() > 0 {
            let sentence = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            out.push(FieldError::forbidden(&path, sentence));
        }
    }
}

/// What stands in `allOf` and the like only narrows what the structure says.
fn nested_values(out: &mut Errors, schema: &Value, skip_any: bool, skip_all: bool, path: &FieldPath) {
    for (name, i, sub) in alternatives(schema) {
        if name == "anyOf" && skip_any {
            continue;
        }
        let skip = skip_all && name == "allOf" && i == 0;
        nested(out, sub, skip, &path.child(name).index(i));
    }
    if get(schema, "not").is_object() {
        nested(out, get(schema, "not"), false, &path.child("not"));
    }
    let pattern = text(schema, "pattern");
    if !pattern.is_empty()
        && let Err(error) = compile_pattern(pattern)
    {
        let why = error.to_string();
        let why = why.lines().last().unwrap_or_default();
        let sentence = format!("must be a valid regular expression, but isn't: {why}");
        out.push(FieldError::invalid(path.child("pattern"), pattern, sentence));
    }
}

fn nested(out: &mut Errors, schema: &Value, skip_any: bool, path: &FieldPath) {
    nested_values(out, schema, skip_any, false, path);
    if get(schema, "items").is_object() {
        nested(out, get(schema, "items"), false, &path.child("items"));
    }
    for (name, property) in properties(schema) {
        nested(out, property, false, &path.child("properties").key(name));
    }
    let mut forbid = |name: &str, sentence: &str| {
        let value = get(schema, name);
        let unset = value.is_null() || value == &Value::Bool(false) || value == "" || value == &json!([]);
        if !unset {
            out.push(FieldError::forbidden(path.child(name), sentence));
        }
    };
    forbid("type", "must be empty to be structural");
    forbid("additionalProperties", "must be undefined to be structural");
    forbid("default", "must be undefined to be structural");
    forbid("title", "must be empty to be structural");
    forbid("description", "must be empty to be structural");
    forbid("nullable", "must be false to be structural");
    forbid("x-kubernetes-preserve-unknown-fields", "must be false to be structural");
    forbid("x-kubernetes-embedded-resource", "must be false to be structural");
    forbid("x-kubernetes-int-or-string", "must be false to be structural");
    forbid("x-kubernetes-list-map-keys", "must be empty to be structural");
    forbid("x-kubernetes-list-type", "must be undefined to be structural");
    forbid("x-kubernetes-map-type", "must be undefined to be structural");
    forbid("x-kubernetes-validations", "must be empty to be structural");
    if !get(get(schema, "properties"), "metadata").is_null() {
        let sentence = "must not be specified in a nested context";
        out.push(FieldError::forbidden(path.child("properties").key("metadata"), sentence));
    }
}

/// What is named in a nested place has to be in the structure too.
fn complete(out: &mut Errors, schema: &Value, path: &FieldPath) {
    for (name, i, sub) in alternatives(schema) {
        covered(out, schema, sub, path, &path.child(name).index(i));
    }
    if get(schema, "not").is_object() {
        covered(out, schema, get(schema, "not"), path, &path.child("not"));
    }
    if get(schema, "items").is_object() {
        complete(out, get(schema, "items"), &path.child("items"));
    }
    for (name, property) in properties(schema) {
        complete(out, property, &path.child("properties").key(name));
    }
    if get(schema, "additionalProperties").is_object() {
        complete(out, get(schema, "additionalProperties"), &path.child("additionalProperties"));
    }
}

fn covered(out: &mut Errors, schema: &Value, sub: &Value, path: &FieldPath, sub_path: &FieldPath) {
    for (name, i, inner) in alternatives(sub) {
        covered(out, schema, inner, path, &sub_path.child(name).index(i));
    }
    if get(sub, "not").is_object() {
        covered(out, schema, get(sub, "not"), path, &sub_path.child("not"));
    }
    let items = get(sub, "items");
    if items.is_object() {
        let sentence = format!("because it is defined in {}", sub_path.child("items"));
        match get(schema, "items") {
            own if own.is_object() => {
                covered(out, own, items, &path.child("items"), &sub_path.child("items"))
            }
            _ => out.push(FieldError::required(path.child("items"), sentence)),
        }
    }
    for (name, property) in properties(sub) {
        let (own_path, its_path) =
            (path.child("properties").key(name), sub_path.child("properties").key(name));
        let own = get(get(schema, "properties"), name);
        let own = if own.is_null() { get(schema, "additionalProperties") } else { own };
        if own.is_object() {
            covered(out, own, property, &own_path, &its_path);
        } else {
            out.push(FieldError::required(own_path, format!("because it is defined in {its_path}")));
        }
    }
}

#[derive(Clone, Copy)]
struct Inside {
    root: bool,
    meta: bool,
}

/// A default has to be what its own schema says.
fn defaults(out: &mut Errors, schema: &Schema, path: &FieldPath, inside: Inside) {
    if !schema.has_defaults {
        return;
    }
    if let Some(default) = &schema.default {
        let path = path.child("default");
        let mut pruned = default.clone();
        let mut dropped = prune::Dropped::silent();
        prune::prune(&mut pruned, Some(schema), schema.embedded, &mut dropped);
        if pruned != *default && !inside.meta {
            let sentence = format!(
                "must not have unknown fields (hint: {} would be dropped)",
                difference(default, &pruned)
            );
            out.push(FieldError::invalid(&path, default.clone(), sentence));
        }
        let mut full = default.clone();
        prune::defaults(&mut full, schema);
        let errors = check::check(schema, &full, None, path.as_str());
        out.extend(errors);
    }
    for (name, property) in &schema.properties {
        let meta = inside.meta || (inside.root || schema.embedded) && name == "metadata";
        defaults(out, property, &path.child("properties").key(name), Inside { root: false, meta });
    }
    if let Additional::Schema(other) = &schema.additional {
        defaults(out, other, &path.child("additionalProperties"), Inside { root: false, ..inside });
    }
    if let Some(items) = &schema.items {
        defaults(out, items, &path.child("items"), Inside { root: false, ..inside });
    }
}

/// The first member that is gone.
fn difference(before: &Value, after: &Value) -> String {
    let members = before.as_object().into_iter().flatten();
    let gone = members.map(|(name, _)| name).find(|name| after.get(name.as_str()).is_none());
    gone.cloned().unwrap_or_else(|| "a member".to_owned())
}

/// What holds on the way down.
#[derive(Clone)]
struct Standard {
    /// Why there must be no defaults.
    defaults: Option<String>,
    meta: bool,
}

fn standard(out: &mut Errors, schema: &Value, path: &FieldPath, is_root: bool, place: &Standard) {
    unsupported(out, schema, path, place);
    let additional = get(schema, "additionalProperties");
    if flag(schema, "uniqueItems") {
        let sentence = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        out.push(FieldError::forbidden(path.child("uniqueItems"), sentence));
    }
    if !additional.is_null() {
        let path_at = path.child("additionalProperties");
        // Saying that others are allowed too contradicts nothing.
        if properties(schema).next().is_some() && additional != &Value::Bool(true) {
            let sentence = "additionalProperties and properties are mutual exclusive";
            out.push(FieldError::forbidden(&path_at, sentence));
        }
        if additional == &Value::Bool(false) {
            out.push(FieldError::forbidden(&path_at, "additionalProperties cannot be set to false"));
        }
        if additional.is_object() {
            let mut below = place.clone();
            if place.meta {
                below.defaults = Some("inside additionalProperties applying to object metadata".to_owned());
            }
            standard(out, additional, &path_at, false, &below);
        }
    }
    for (name, property) in properties(schema) {
        let mut below = place.clone();
        let whole = is_root || flag(schema, "x-kubernetes-embedded-resource");
        if whole && matches!(name.as_str(), "metadata" | "kind" | "apiVersion") {
            below.meta = true;
            if is_root {
                below.defaults = Some(format!("in top-level {name}"));
            }
        }
        standard(out, property, &path.child("properties").key(name), false, &below);
    }
    for (name, i, sub) in alternatives(schema) {
        standard(out, sub, &path.child(name).index(i), false, place);
    }
    if get(schema, "not").is_object() {
        standard(out, get(schema, "not"), &path.child("not"), false, place);
    }
    if get(schema, "items").is_object() {
        standard(out, get(schema, "items"), &path.child("items"), false, place);
    }
    lists_and_maps(out, schema, path);
    map_keys(out, schema, path);
    rules(out, schema, path);
}

fn unsupported(out: &mut Errors, schema: &Value, path: &FieldPath, place: &Standard) {
    const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
    let kind = text(schema, "type");
    if !kind.is_empty() && !TYPES.contains(&kind) {
        out.push(FieldError::not_supported(path.child("type"), kind, &TYPES));
    }
    if let Some(why) = place.defaults.as_ref().filter(|_| !get(schema, "default").is_null()) {
        out.push(FieldError::forbidden(path.child("default"), format!("must not be set {why}")));
    }
    for name in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if !get(schema, name).is_null() {
            out.push(FieldError::forbidden(path.child(name), format!("{name} is not supported")));
        }
    }
    if kind == "null" {
        let sentence = "type cannot be set to null, use nullable as an alternative";
        out.push(FieldError::forbidden(path.child("type"), sentence));
    }
    if get(schema, "items").is_array() {
        out.push(FieldError::forbidden(
            path.child("items"),
            "items must be a schema object and not an array",
        ));
    }
    let embedded = "x-kubernetes-embedded-resource";
    if place.meta && flag(schema, embedded) {
        out.push(FieldError::forbidden(path.child(embedded), "must not be used inside of resource meta"));
    }
    let preserve = "x-kubernetes-preserve-unknown-fields";
    if get(schema, preserve) == &Value::Bool(false) {
        out.push(FieldError::invalid(path.child(preserve), false, "must be true or undefined"));
    }
}

fn lists_and_maps(out: &mut Errors, schema: &Value, path: &FieldPath) {
    let kind = text(schema, "type");
    for (name, known, expected) in [
        ("x-kubernetes-map-type", &["atomic", "granular"][..], "object"),
        ("x-kubernetes-list-type", &["atomic", "set", "map"][..], "array"),
    ] {
        let value = text(schema, name);
        if value.is_empty() {
            continue;
        }
        if kind != expected {
            let sentence = format!("must be {expected} if {name} is specified");
            out.push(if kind.is_empty() {
                FieldError::required(path.child("type"), sentence)
            } else {
                FieldError::invalid(path.child("type"), kind, sentence)
            });
        }
        if !known.contains(&value) {
            out.push(FieldError::not_supported(path.child(name), value, known));
        }
    }
    let items = get(schema, "items");
    let list_type = text(schema, "x-kubernetes-list-type");
    if list_type == "set" && kind == "array" && items.is_object() {
        let sentence = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let (list, map) = (text(items, "x-kubernetes-list-type"), text(items, "x-kubernetes-map-type"));
        let path = path.child("items");
        match text(items, "type") {
            "array" if !list.is_empty() && list != "atomic" => {
                out.push(FieldError::invalid(path.child("x-kubernetes-list-type"), list, sentence));
            }
            "object" if map != "atomic" => {
                let shown = get(items, "x-kubernetes-list-type").clone();
                out.push(FieldError::invalid(path.child("x-kubernetes-map-type"), shown, sentence));
            }
            _ => {}
        }
    }
    if matches!(list_type, "set" | "map") && flag(items, "nullable") {
        let sentence = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        out.push(FieldError::forbidden(path.child("items.nullable"), sentence));
    }
}

fn map_keys(out: &mut Errors, schema: &Value, path: &FieldPath) {
    let (list_type, keys) =
        (text(schema, "x-kubernetes-list-type"), list(schema, "x-kubernetes-list-map-keys"));
    let keys_path = path.child("x-kubernetes-list-map-keys");
    if !keys.is_empty() && list_type != "map" {
        let sentence = "must be map if x-kubernetes-list-map-keys is non-empty";
        let path = path.child("x-kubernetes-list-type");
        out.push(if list_type.is_empty() {
            FieldError::required(path, sentence)
        } else {
            FieldError::invalid(path, list_type, sentence)
        });
    }
    if list_type != "map" {
        return;
    }
    if keys.is_empty() {
        out.push(FieldError::required(&keys_path, "must not be empty if x-kubernetes-list-type is map"));
    }
    let items = get(schema, "items");
    let path = path.child("items");
    if items.is_null() {
        out.push(FieldError::required(&path, "must have a schema if x-kubernetes-list-type is map"));
        return;
    }
    if text(items, "type") != "object" {
        let sentence = "must be object if parent array's x-kubernetes-list-type is map";
        out.push(FieldError::invalid(path.child("type"), text(items, "type"), sentence));
        return;
    }
    let shown = || Value::from(keys.to_vec());
    for (i, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        let property = get(get(items, "properties"), name);
        let at = path.child("properties").key(name);
        if property.is_null() {
            let sentence = "entries must all be names of item properties";
            out.push(FieldError::invalid(&keys_path, shown(), sentence));
        } else if matches!(text(property, "type"), "array" | "object") {
            let sentence = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            out.push(FieldError::invalid(at.child("type"), text(items, "type"), sentence));
        }
        if keys[..i].contains(key) {
            out.push(FieldError::invalid(&keys_path, shown(), "must not contain duplicate entries"));
        }
        if property.is_null() {
            continue;
        }
        let why = "this property is in x-kubernetes-list-map-keys, so it";
        if !list(items, "required").contains(key) && get(property, "default").is_null() {
            let sentence = format!("{why} must have a default or be a required property");
            out.push(FieldError::required(at.child("default"), sentence));
        }
        if flag(property, "nullable") {
            out.push(FieldError::forbidden(at.child("nullable"), format!("{why} cannot be nullable")));
        }
    }
}

/// The form of validation rules; what they say is looked at when they are compiled.
fn rules(out: &mut Errors, schema: &Value, path: &FieldPath) {
    const REASONS: [&str; 4] =
        ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    let broken = |text: &str| text.trim().contains(['\n', '\r']);
    for (i, rule) in list(schema, "x-kubernetes-validations").iter().enumerate() {
        let path = path.child("x-kubernetes-validations").index(i);
        let (expression, message) = (text(rule, "rule"), text(rule, "message"));
        if expression.trim().is_empty() {
            out.push(FieldError::required(path.child("rule"), "rule is not specified"));
        } else if !message.is_empty() && message.trim().is_empty() {
            out.push(FieldError::invalid(path.child("message"), message, "must be non-empty if specified"));
        } else if broken(message) {
            out.push(FieldError::invalid(path.child("message"), message, "must not contain line breaks"));
        } else if broken(expression) && message.trim().is_empty() {
            let sentence = "message must be specified if rule contains line breaks";
            out.push(FieldError::required(path.child("message"), sentence));
        }
        let told = text(rule, "messageExpression");
        if !told.is_empty() && told.trim().is_empty() {
            let sentence = "messageExpression must be non-empty if specified";
            out.push(FieldError::required(path.child("messageExpression"), sentence));
        }
        let reason = text(rule, "reason");
        if !reason.is_empty() && !REASONS.contains(&reason) {
            out.push(FieldError::not_supported(path.child("reason"), reason, &REASONS));
        }
        let field = text(rule, "fieldPath");
        if !field.is_empty() && field.trim().is_empty() {
            out.push(FieldError::invalid(path.child("fieldPath"), field, "must be non-empty if specified"));
        }
        if broken(field) {
            out.push(FieldError::invalid(path.child("fieldPath"), field, "must not contain line breaks"));
        }
    }
}

/// The formats of a schema that nothing checks.
pub(super) fn formats(schema: &Value, found: &mut Vec<String>) {
    let (kind, format) = (text(schema, "type"), text(schema, "format"));
    if !format.is_empty() && !super::is_known_format(kind, format) && !found.iter().any(|f| f == format) {
        found.push(format.to_owned());
    }
    let below = properties(schema).map(|(_, p)| p).chain(alternatives(schema).map(|(_, _, s)| s));
    let single = ["items", "additionalProperties", "not"].into_iter().map(|name| get(schema, name));
    for sub in below.chain(single).filter(|sub| sub.is_object()) {
        formats(sub, found);
    }
}
