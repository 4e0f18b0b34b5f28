//! `fieldsV1`: a set as JSON. `f:` begins a field, `k:` keys, `v:` a value, `i:` a place; `.` says that the node
//! itself is a member where something lies below it.

use serde_json::{Map, Value};

use super::{Node, PathElement, Set};
use crate::apply::types::Name;

/// Why a set cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// An element without a kind.
    #[error("key must be 2 characters long: {0}")]
    Short(String),
    /// An element whose kind and value are not parted.
    #[error("missing colon: {0}")]
    NoColon(String),
    /// An element whose value is no JSON or no number.
    #[error("a bad path element: {0}")]
    Element(String),
    /// Something else than an object.
    #[error("expected an object of fields")]
    Shape,
}

impl Set {
    /// The set as `fieldsV1`.
    pub fn to_fields(&self) -> Value {
        Value::Object(self.members(false))
    }

    fn members(&self, with_self: bool) -> Map<String, Value> {
        let mut out = Map::with_capacity(self.nodes.len() + usize::from(with_self));
        if with_self {
            out.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for node in &self.nodes {
            let with_self = node.member && !node.below.is_empty();
            out.insert(node.element.encode(), Value::Object(node.below.members(with_self)));
        }
        out
    }

    /// Reads `fieldsV1`. Elements of an unknown kind are left out.
    pub fn from_fields(fields: &Value) -> Result<Set, SetError> {
        match fields {
            Value::Object(members) => read(members).map(|(set, _)| set),
            Value::Null => Ok(Set::default()),
            _ => Err(SetError::Shape),
        }
    }
}

/// The set below, and whether the place itself is a member.
fn read(members: &Map<String, Value>) -> Result<(Set, bool), SetError> {
    let mut nodes = Vec::with_capacity(members.len());
    let mut own = false;
    for (key, inner) in members {
        if key == "." {
            own = true;
            continue;
        }
        let Some(element) = PathElement::decode(key)? else { continue };
        let (below, member) = match inner {
            Value::Object(inner) => read(inner)?,
            Value::Null => (Set::default(), true),
            _ => return Err(SetError::Shape),
        };
        nodes.push(Node { element, member, below });
    }
    let set = Set::from_nodes(nodes);
    let member = own || set.is_empty();
    Ok((set, member))
}

/// Whether `fieldsV1` has every path of the set, told without reading all of it.
pub(crate) fn covers(fields: &Value, set: &Set) -> bool {
    let Value::Object(members) = fields else { return set.is_empty() };
    set.nodes.iter().all(|node| {
        let Some(inner) = members.get(&node.element.encode()) else { return false };
        let own = !node.member || is_member(inner);
        own && (node.below.is_empty() || covers(inner, &node.below))
    })
}

/// Whether `fieldsV1` has any path of the set.
pub(crate) fn touches(fields: &Value, set: &Set) -> bool {
    let Value::Object(members) = fields else { return false };
    set.nodes.iter().any(|node| {
        let Some(inner) = members.get(&node.element.encode()) else { return false };
        (node.member && is_member(inner)) || touches(inner, &node.below)
    })
}

fn is_member(inner: &Value) -> bool {
    inner.as_object().is_none_or(|inner| inner.is_empty() || inner.contains_key("."))
}

impl PathElement {
    /// The element as a key of `fieldsV1`.
    pub fn encode(&self) -> String {
        match self {
            PathElement::Field(name) => {
                let mut out = String::with_capacity(name.len() + 2);
                out.push_str("f:");
                out.push_str(name);
                out
            }
            PathElement::Key(keys) => {
                let mut out = String::from("k:{");
                for (index, (name, value)) in keys.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    quote(name, &mut out);
                    out.push(':');
                    scalar(value, &mut out);
                }
                out.push('}');
                out
            }
            PathElement::Value(value) => {
                let mut out = String::from("v:");
                scalar(value, &mut out);
                out
            }
            PathElement::Index(index) => format!("i:{index}"),
        }
    }

    /// Reads a key of `fieldsV1`; none when it is of an unknown kind.
    pub fn decode(key: &str) -> Result<Option<PathElement>, SetError> {
        let bytes = key.as_bytes();
        if bytes.len() < 2 {
            return Err(SetError::Short(key.to_owned()));
        }
        if bytes[1] != b':' {
            return Err(SetError::NoColon(key.to_owned()));
        }
        let bad = || SetError::Element(key.to_owned());
        let rest = &key[2..];
        Ok(Some(match bytes[0] {
            b'f' => PathElement::Field(rest.to_owned().into()),
            b'v' => PathElement::Value(serde_json::from_str(rest).map_err(|_| bad())?),
            b'i' => PathElement::Index(rest.parse().map_err(|_| bad())?),
            b'k' => {
                let keys: Map<String, Value> = serde_json::from_str(rest).map_err(|_| bad())?;
                let mut keys: Vec<(Name, Value)> = keys.into_iter().map(|(k, v)| (k.into(), v)).collect();
                keys.sort_by(|a, b| a.0.cmp(&b.0));
                PathElement::Key(keys)
            }
            _ => return Ok(None),
        }))
    }
}

fn scalar(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => quote(text, out),
        // Nothing else than scalars is ever a key; whatever a client sent is written as it would be anywhere.
        other => out.push_str(&other.to_string()),
    }
}

/// A text in JSON as Go writes it: `<`, `>`, `&` and the two separators escaped.
pub(crate) fn quote(text: &str, out: &mut String) {
    let plain = |b: u8| (0x20..0x7f).contains(&b) && !matches!(b, b'"' | b'\\' | b'<' | b'>' | b'&');
    if text.bytes().all(plain) {
        out.push('"');
        out.push_str(text);
        out.push('"');
        return;
    }
    for c in Value::from(text).to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
}
