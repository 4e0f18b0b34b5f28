//! An OpenAPI 2 document in protobuf, as older clients of Kubernetes want it: gnostic's `openapi.v2.Document`. Each table
//! says of one message which member of the JSON lies in which field.

use serde_json::{Map, Value};

use super::wire::{FIXED, bytes, number as integer, tag, text as string};

/// How a member lies in its field.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Texts,
    Flag,
    Double,
    Int,
    /// Any value, as YAML, of which JSON is a part.
    Any,
    Anys,
    One(Write),
    Many(Write),
}

type Write = fn(&mut Vec<u8>, &Value);
type Row = (&'static str, u32, Form);

use Form::{Any, Anys, Double, Flag, Int, Many, One, Text, Texts};

const DOCUMENT: &[Row] = &[
    ("swagger", 1, Text),
    ("info", 2, One(|out, value| fields(out, value, INFO, 7))),
    ("host", 3, Text),
    ("basePath", 4, Text),
    ("schemes", 5, Texts),
    ("consumes", 6, Texts),
    ("produces", 7, Texts),
    ("paths", 8, One(paths)),
    ("definitions", 9, One(schemas)),
    ("security", 12, Many(requirement)),
    ("securityDefinitions", 13, One(|out, value| named(out, value, 1, security))),
];

const INFO: &[Row] = &[("title", 1, Text), ("version", 2, Text), ("description", 3, Text)];

const PATH: &[Row] = &[
    ("$ref", 1, Text),
    ("get", 2, One(operation)),
    ("put", 3, One(operation)),
    ("post", 4, One(operation)),
    ("delete", 5, One(operation)),
    ("options", 6, One(operation)),
    ("head", 7, One(operation)),
    ("patch", 8, One(operation)),
    ("parameters", 9, Many(parameter)),
];

const OPERATION: &[Row] = &[
    ("tags", 1, Texts),
    ("summary", 2, Text),
    ("description", 3, Text),
    ("operationId", 5, Text),
    ("produces", 6, Texts),
    ("consumes", 7, Texts),
    ("parameters", 8, Many(parameter)),
    ("responses", 9, One(|out, value| named(out, value, 1, response))),
    ("schemes", 10, Texts),
    ("deprecated", 11, Flag),
    ("security", 12, Many(requirement)),
];

const RESPONSE: &[Row] =
    &[("description", 1, Text), ("schema", 2, One(|out, value| message(out, 1, |out| schema(out, value))))];

const BODY_PARAMETER: &[Row] = &[
    ("description", 1, Text),
    ("name", 2, Text),
    ("in", 3, Text),
    ("required", 4, Flag),
    ("schema", 5, One(schema)),
];

const QUERY_PARAMETER: &[Row] = &[
    ("required", 1, Flag),
    ("in", 2, Text),
    ("description", 3, Text),
    ("name", 4, Text),
    ("allowEmptyValue", 5, Flag),
    ("type", 6, Text),
    ("format", 7, Text),
    ("items", 8, One(|out, value| fields(out, value, PRIMITIVE, 18))),
    ("collectionFormat", 9, Text),
    ("default", 10, Any),
    ("pattern", 17, Text),
    ("uniqueItems", 20, Flag),
    ("enum", 21, Anys),
];

const OTHER_PARAMETER: &[Row] = &[
    ("required", 1, Flag),
    ("in", 2, Text),
    ("description", 3, Text),
    ("name", 4, Text),
    ("type", 5, Text),
    ("format", 6, Text),
    ("items", 7, One(|out, value| fields(out, value, PRIMITIVE, 18))),
    ("collectionFormat", 8, Text),
    ("default", 9, Any),
    ("pattern", 16, Text),
    ("uniqueItems", 19, Flag),
    ("enum", 20, Anys),
];

const PRIMITIVE: &[Row] = &[("type", 1, Text), ("format", 2, Text), ("enum", 16, Anys)];

const API_KEY: &[Row] = &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)];

const EXTERNAL_DOCS: &[Row] = &[("description", 1, Text), ("url", 2, Text)];

const SCHEMA: &[Row] = &[
    ("$ref", 1, Text),
    ("format", 2, Text),
    ("title", 3, Text),
    ("description", 4, Text),
    ("default", 5, Any),
    ("multipleOf", 6, Double),
    ("maximum", 7, Double),
    ("exclusiveMaximum", 8, Flag),
    ("minimum", 9, Double),
    ("exclusiveMinimum", 10, Flag),
    ("maxLength", 11, Int),
    ("minLength", 12, Int),
    ("pattern", 13, Text),
    ("maxItems", 14, Int),
    ("minItems", 15, Int),
    ("uniqueItems", 16, Flag),
    ("maxProperties", 17, Int),
    ("minProperties", 18, Int),
    ("required", 19, Texts),
    ("enum", 20, Anys),
    ("additionalProperties", 21, One(additional)),
    ("type", 22, One(|out, value| text(out, 1, value))),
    ("items", 23, One(|out, value| message(out, 1, |out| schema(out, value)))),
    ("allOf", 24, Many(schema)),
    ("properties", 25, One(schemas)),
    ("discriminator", 26, Text),
    ("readOnly", 27, Flag),
    ("externalDocs", 29, One(|out, value| fields(out, value, EXTERNAL_DOCS, 3))),
    ("example", 30, Any),
];

/// The document in protobuf.
pub(crate) fn document(json: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    fields(&mut out, json, DOCUMENT, 16);
    out
}

fn operation(out: &mut Vec<u8>, value: &Value) {
    fields(out, value, OPERATION, 13);
}

fn schema(out: &mut Vec<u8>, value: &Value) {
    fields(out, value, SCHEMA, 31);
}

fn schemas(out: &mut Vec<u8>, value: &Value) {
    named(out, value, 1, schema);
}

fn paths(out: &mut Vec<u8>, value: &Value) {
    named(out, value, 2, |out, value| fields(out, value, PATH, 10));
}

/// Of all ways to prove who one is there is one.
fn security(out: &mut Vec<u8>, value: &Value) {
    message(out, 2, |out| fields(out, value, API_KEY, 5));
}

fn requirement(out: &mut Vec<u8>, value: &Value) {
    named(out, value, 1, |out, value| value.as_array().into_iter().flatten().for_each(|v| text(out, 1, v)));
}

fn additional(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Bool(value) => flag(out, 2, *value),
        value => message(out, 1, |out| schema(out, value)),
    }
}

fn response(out: &mut Vec<u8>, value: &Value) {
    match value.get("$ref") {
        Some(target) => message(out, 2, |out| text(out, 1, target)),
        None => message(out, 1, |out| fields(out, value, RESPONSE, 5)),
    }
}

fn parameter(out: &mut Vec<u8>, value: &Value) {
    if let Some(target) = value.get("$ref") {
        return message(out, 2, |out| text(out, 1, target));
    }
    let (number, table, extensions) = match value.get("in").and_then(Value::as_str) {
        Some("body") => {
            return message(out, 1, |out| message(out, 1, |out| fields(out, value, BODY_PARAMETER, 6)));
        }
        Some("header") => (1, OTHER_PARAMETER, 22),
        Some("path") => (4, OTHER_PARAMETER, 22),
        _ => (3, QUERY_PARAMETER, 23),
    };
    message(out, 1, |out| {
        message(out, 2, |out| message(out, number, |out| fields(out, value, table, extensions)));
    });
}

/// The members that a table knows, and those that begin with `x-` in the field `extensions`.
fn fields(out: &mut Vec<u8>, value: &Value, table: &[Row], extensions: u32) {
    let Some(members) = value.as_object() else { return };
    for (name, number, form) in table {
        if let Some(value) = members.get(*name) {
            field(out, *number, *form, value);
        }
    }
    for (name, value) in members.iter().filter(|(name, _)| name.starts_with("x-")) {
        message(out, extensions, |out| {
            string(out, 1, name);
            message(out, 2, |out| any(out, value));
        });
    }
}

fn field(out: &mut Vec<u8>, number: u32, form: Form, value: &Value) {
    let each = || value.as_array().into_iter().flatten();
    match form {
        Text => text(out, number, value),
        Texts => each().for_each(|value| text(out, number, value)),
        Flag => flag(out, number, value.as_bool().unwrap_or(false)),
        Double => {
            tag(out, number, FIXED);
            out.extend(value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Int => {
            integer(out, number, value.as_i64().unwrap_or_default().cast_unsigned());
        }
        Any => message(out, number, |out| any(out, value)),
        Anys => each().for_each(|value| message(out, number, |out| any(out, value))),
        One(write) => message(out, number, |out| write(out, value)),
        Many(write) => each().for_each(|value| message(out, number, |out| write(out, value))),
    }
}

fn named(out: &mut Vec<u8>, value: &Value, number: u32, write: Write) {
    let none = Map::new();
    for (name, value) in value.as_object().unwrap_or(&none) {
        message(out, number, |out| {
            string(out, 1, name);
            message(out, 2, |out| write(out, value));
        });
    }
}

fn any(out: &mut Vec<u8>, value: &Value) {
    string(out, 2, &value.to_string());
}

fn text(out: &mut Vec<u8>, number: u32, value: &Value) {
    string(out, number, value.as_str().unwrap_or_default());
}

fn flag(out: &mut Vec<u8>, number: u32, value: bool) {
    integer(out, number, u64::from(value));
}

fn message(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    bytes(out, number, &inner);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_small_document_is_what_gnostic_reads() {
        let info = json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.37.0"}});
        assert_eq!(document(&info), b"\x0a\x032.0\x12\x15\x0a\x0aKubernetes\x12\x07v1.37.0");
        let kind =
            json!({"definitions": {"a": {"type": "object", "x-b": [1], "additionalProperties": true}}});
        let schema =
            b"\xaa\x01\x02\x10\x01\xb2\x01\x08\x0a\x06object\xfa\x01\x0c\x0a\x03x-b\x12\x05\x12\x03[1]";
        let mut named = vec![0x0a, 1, b'a', 0x12, schema.len() as u8];
        named.extend_from_slice(schema);
        let mut all = vec![0x4a, named.len() as u8 + 2, 0x0a, named.len() as u8];
        all.extend(named);
        assert_eq!(document(&kind), all);
    }
}
