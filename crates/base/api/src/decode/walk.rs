//! Walks a body along the schema: checks types and formats, drops unknown members and nulls.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::go_types;
use crate::quantity::Quantity;
use crate::schema::{Field, Schema, Shape, Type};
use crate::status::go_quote;

/// At most so many unknown and duplicate fields are told.
pub const MAX_PROBLEMS: usize = 100;

/// Unknown and duplicate fields.
pub(super) struct Problems {
    sentences: Vec<String>,
    seen: HashSet<String>,
    /// Fields that came more than once, until the walk comes by: what is wrong is told in the order of the document.
    duplicates: Vec<String>,
}

impl Problems {
    pub(super) fn new(duplicates: Vec<String>) -> Problems {
        Problems { sentences: Vec::new(), seen: HashSet::new(), duplicates }
    }

    /// The walk has passed the field.
    fn passed(&mut self, path: &str) {
        if self.duplicates.iter().any(|duplicate| duplicate == path) {
            self.duplicates.retain(|duplicate| duplicate != path);
            self.add(format!("duplicate field \"{path}\""));
        }
    }

    /// Each sentence comes once, as upstream has it.
    fn add(&mut self, sentence: String) {
        if self.sentences.len() < MAX_PROBLEMS && self.seen.insert(sentence.clone()) {
            self.sentences.push(sentence);
        }
    }

    pub(super) fn into_sentences(mut self) -> Vec<String> {
        // Those inside of what the walk does not look into.
        for path in std::mem::take(&mut self.duplicates) {
            self.add(format!("duplicate field \"{path}\""));
        }
        self.sentences
    }
}

/// In whose words a value of the wrong type is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    /// Those of a JSON decoder.
    Decoder,
    /// Those of what makes an object out of a strategic merge patch's result.
    Converter,
}

/// Checks an object of that type in place; `Err` is Go's message about the first wrong type.
pub(super) fn object(
    schema: &Schema,
    kind: &Type,
    value: &mut Value,
    words: Words,
    found: &mut Problems,
) -> Result<(), String> {
    let Value::Object(members) = value else {
        let to = format!("v1.{}", kind.short_name());
        return Err(format!("json: cannot unmarshal {} into Go value of type {to}", json_type(value)));
    };
    let mut walk = Walk { schema, words, fields: String::new(), path: String::new(), found };
    walk.members(kind, members)
}

/// Checks the metadata of an object in place; `Ok` are the sentences about unknown fields, whose paths begin with
/// `prefix`.
pub(super) fn metadata(value: &mut Value, prefix: &str) -> Result<Vec<String>, String> {
    let schema = crate::schema::get();
    let Some(id) = schema.by_name("~apis.meta.v1.ObjectMeta") else { return Ok(Vec::new()) };
    let kind = schema.type_of(id);
    let Value::Object(members) = value else {
        return Err(format!(
            "json: cannot unmarshal {} into Go value of type v1.ObjectMeta",
            json_type(value)
        ));
    };
    let mut found = Problems::new(Vec::new());
    let (fields, path) = (String::new(), prefix.to_owned());
    let mut walk = Walk { schema, words: Words::Decoder, fields, path, found: &mut found };
    walk.members(kind, members)?;
    Ok(found.into_sentences())
}

struct Walk<'a> {
    schema: &'a Schema,
    words: Words,
    /// The dotted path without indices.
    fields: String,
    /// The path with indices and keys.
    path: String,
    found: &'a mut Problems,
}

impl Walk<'_> {
    fn members(&mut self, kind: &Type, members: &mut Map<String, Value>) -> Result<(), String> {
        let mut drop = false;
        let (fields_len, path_len) = (self.fields.len(), self.path.len());
        for (name, value) in members.iter_mut() {
            push(&mut self.path, name);
            match kind.field(name) {
                None => {
                    drop = true;
                    let sentence = format!("unknown field \"{}\"", self.path);
                    self.found.add(sentence);
                }
                Some(_) if value.is_null() => drop = true,
                Some(field) => {
                    push(&mut self.fields, name);
                    self.value(kind, field, &field.shape, value)?;
                }
            }
            self.found.passed(&self.path);
            self.fields.truncate(fields_len);
            self.path.truncate(path_len);
        }
        if drop {
            members.retain(|name, value| !value.is_null() && kind.field(name).is_some());
        }
        Ok(())
    }

    fn value(&mut self, owner: &Type, field: &Field, shape: &Shape, value: &mut Value) -> Result<(), String> {
        match shape {
            Shape::Any => Ok(()),
            Shape::Object(id) => {
                let schema = self.schema;
                let inner = schema.type_of(*id);
                match value {
                    Value::Object(members) => self.members(inner, members),
                    Value::Null => {
                        *value = json!({});
                        Ok(())
                    }
                    _ => Err(self.mismatch(owner, field, shape, value)),
                }
            }
            Shape::List(inner) => match value {
                Value::Array(items) => {
                    let path_len = self.path.len();
                    for (index, item) in items.iter_mut().enumerate() {
                        self.path.push_str(&format!("[{index}]"));
                        self.value(owner, field, inner, item)?;
                        self.path.truncate(path_len);
                    }
                    Ok(())
                }
                Value::Null => {
                    *value = json!([]);
                    Ok(())
                }
                _ => Err(self.mismatch(owner, field, shape, value)),
            },
            Shape::Map(inner) => match value {
                Value::Object(members) => {
                    let path_len = self.path.len();
                    for (name, item) in members.iter_mut() {
                        push(&mut self.path, name);
                        self.value(owner, field, inner, item)?;
                        self.path.truncate(path_len);
                    }
                    Ok(())
                }
                Value::Null => {
                    *value = json!({});
                    Ok(())
                }
                _ => Err(self.mismatch(owner, field, shape, value)),
            },
            scalar => self.scalar(owner, field, scalar, value),
        }
    }

    fn scalar(
        &mut self,
        owner: &Type,
        field: &Field,
        shape: &Shape,
        value: &mut Value,
    ) -> Result<(), String> {
        if value.is_null() {
            *value = zero(shape);
            return Ok(());
        }
        match (shape, &*value) {
            (Shape::String, Value::String(_))
            | (Shape::Bool, Value::Bool(_))
            | (Shape::Number, Value::Number(_)) => Ok(()),
            (Shape::Int32, Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {
                Ok(())
            }
            (Shape::Int64, Value::Number(n)) if n.as_i64().is_some() => Ok(()),
            (Shape::Bytes, Value::String(text)) => base64_error(text).map_or(Ok(()), Err),
            (Shape::Time, Value::String(text)) => match time_of(text) {
                Ok(time) => {
                    *value = time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
                    Ok(())
                }
                Err(why) => Err(why),
            },
            (Shape::MicroTime, Value::String(text)) => match time_of(text) {
                Ok(time) => {
                    *value = time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string().into();
                    Ok(())
                }
                Err(why) => Err(why),
            },
            (Shape::Time | Shape::MicroTime, other) => {
                Err(format!("json: cannot unmarshal {} into Go value of type string", json_type(other)))
            }
            (Shape::IntOrString, Value::String(_)) => Ok(()),
            (Shape::IntOrString, Value::Number(n))
                if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) =>
            {
                Ok(())
            }
            (Shape::IntOrString, other) => {
                Err(format!("json: cannot unmarshal {} into Go value of type int32", number_type(other)))
            }
            (Shape::Quantity, Value::String(text)) => {
                let quantity = Quantity::parse(text.trim()).map_err(|e| e.to_string())?;
                *value = quantity.canonical().into();
                Ok(())
            }
            (Shape::Quantity, Value::Number(n)) => {
                let quantity = Quantity::parse(&n.to_string()).map_err(|e| e.to_string())?;
                *value = quantity.canonical().into();
                Ok(())
            }
            (Shape::Quantity, _) => Err(crate::quantity::ParseError::Format.to_string()),
            _ => Err(self.mismatch(owner, field, shape, value)),
        }
    }

    /// Go's message about a value of the wrong type.
    fn mismatch(&self, owner: &Type, field: &Field, shape: &Shape, value: &Value) -> String {
        if self.words == Words::Converter {
            return unconverted(shape, value);
        }
        let to = if *shape == field.shape {
            go_types::of_field(self.schema, owner, field)
        } else {
            go_types::of_shape(self.schema, shape)
        };
        let is_int = matches!(shape, Shape::Int32 | Shape::Int64);
        let from = if is_int { number_type(value) } else { json_type(value).to_owned() };
        format!(
            "json: cannot unmarshal {from} into Go struct field {}.{} of type {to}",
            owner.short_name(),
            self.fields
        )
    }
}

/// A converter's message about a value of the wrong type.
fn unconverted(shape: &Shape, value: &Value) -> String {
    let from = match value {
        Value::Object(_) => "map",
        Value::Array(_) => "slice",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        other => json_type(other),
    };
    let to = match shape {
        Shape::Map(_) => return format!("cannot restore map from {from}"),
        Shape::List(_) | Shape::Bytes => return format!("cannot restore slice from {from}"),
        Shape::Object(_) => return format!("cannot restore struct from: {from}"),
        Shape::Int32 => "int32",
        Shape::Int64 => "int64",
        Shape::Number => "float64",
        Shape::Bool => "bool",
        _ => "string",
    };
    // Go can convert numbers to each other and to text, only not as JSON has it.
    if value.is_number() && to != "bool" {
        return format!("cannot convert {from} to {to}");
    }
    format!("unrecognized type: {to}")
}

fn push(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// What Go calls the form of a JSON value.
pub(super) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Like [`json_type`], with the number itself, as Go tells it when the target is a number.
fn number_type(value: &Value) -> String {
    match value {
        Value::Number(n) => format!("number {n}"),
        other => json_type(other).to_owned(),
    }
}

/// What Go makes of a null inside a list or a map.
fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::Int32 | Shape::Int64 | Shape::Number | Shape::IntOrString => json!(0),
        Shape::Bool => json!(false),
        Shape::Quantity => json!("0"),
        Shape::Any | Shape::Time | Shape::MicroTime => Value::Null,
        _ => json!(""),
    }
}

/// Reads a time as Go does with RFC 3339; `Err` is Go's message.
fn time_of(text: &str) -> Result<Timestamp, String> {
    let bytes = text.as_bytes();
    let bad = |rest: &str, part: &str| {
        let (text, rest, part) = (go_quote(text), go_quote(rest), go_quote(part));
        format!("parsing time {text} as \"2006-01-02T15:04:05Z07:00\": cannot parse {rest} as {part}")
    };
    // The fixed part, place by place: where a digit or a sign is missing is what the message tells.
    const PARTS: [(usize, usize, &str); 11] = [
        (0, 4, "2006"),
        (4, 5, "-"),
        (5, 7, "01"),
        (7, 8, "-"),
        (8, 10, "02"),
        (10, 11, "T"),
        (11, 13, "15"),
        (13, 14, ":"),
        (14, 16, "04"),
        (16, 17, ":"),
        (17, 19, "05"),
    ];
    for (from, to, part) in PARTS {
        let fits = bytes.get(from..to).is_some_and(|found| {
            if part.len() == 1 { found == part.as_bytes() } else { found.iter().all(u8::is_ascii_digit) }
        });
        if !fits {
            return Err(bad(text.get(from..).unwrap_or_default(), part));
        }
    }
    text.parse::<Timestamp>().map_err(|_| {
        let rest = text.get(19..).unwrap_or_default();
        if rest.is_empty() || !rest.ends_with('Z') && !rest.contains(['+', '-']) {
            bad(rest, "Z07:00")
        } else {
            format!("parsing time {}: day out of range", go_quote(text))
        }
    })
}

/// Go's message about text that is not base64, if it is not. Line breaks are allowed, as in Go.
fn base64_error(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let error = |at: usize| Some(format!("illegal base64 data at input byte {at}"));
    let mut quantum = 0;
    let mut places = bytes.iter().enumerate().filter(|(_, b)| !matches!(b, b'\r' | b'\n'));
    while let Some((at, byte)) = places.next() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => quantum = (quantum + 1) % 4,
            b'=' if quantum < 2 => return error(at),
            b'=' => {
                if quantum == 2 {
                    match places.next() {
                        None => return error(bytes.len()),
                        Some((_, b'=')) => {}
                        Some((at, _)) => return error(at),
                    }
                }
                return places.next().and_then(|(at, _)| error(at));
            }
            _ => return error(at),
        }
    }
    if quantum == 0 { None } else { error(bytes.len() - quantum) }
}
