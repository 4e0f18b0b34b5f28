//! Path elements: how a child is chosen in what contains it.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

use crate::apply::types::Name;
use crate::status::go_quote;

/// How a child is chosen. Sorted as they are listed here.
#[derive(Debug, Clone)]
pub enum PathElement {
    /// The member of a map.
    Field(Name),
    /// The element of a list that has these keys, sorted by name.
    Key(Vec<(Name, Value)>),
    /// The element of a set.
    Value(Value),
    /// The element of a list by its place. Nothing that is tracked has one, but clients may send it.
    Index(i64),
}

/// A way through an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Path(pub Vec<PathElement>);

impl Path {
    /// A path of fields with names that are found out.
    pub fn of(names: impl IntoIterator<Item = String>) -> Path {
        Path(names.into_iter().map(|name| PathElement::Field(name.into())).collect())
    }

    /// A path of fields.
    pub fn fields(names: &[&'static str]) -> Path {
        Path(names.iter().map(|name| PathElement::Field((*name).into())).collect())
    }
}

impl PartialEq for PathElement {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for PathElement {}

impl PartialOrd for PathElement {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PathElement {
    fn cmp(&self, other: &Self) -> Ordering {
        use PathElement::{Field, Index, Key, Value};
        let rank = |e: &PathElement| match e {
            Field(_) => 0,
            Key(_) => 1,
            Value(_) => 2,
            Index(_) => 3,
        };
        match (self, other) {
            (Field(a), Field(b)) => a.cmp(b),
            (Key(a), Key(b)) => compare_keys(a, b),
            (Value(a), Value(b)) => compare(a, b),
            (Index(a), Index(b)) => a.cmp(b),
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

fn compare_keys(a: &[(Name, Value)], b: &[(Name, Value)]) -> Ordering {
    let one = |((a_name, a), (b_name, b)): (&(Name, Value), &(Name, Value))| {
        a_name.cmp(b_name).then_with(|| compare(a, b))
    };
    let first = a.iter().zip(b).map(one).find(|o| o.is_ne());
    first.unwrap_or_else(|| a.len().cmp(&b.len()))
}

/// A total order of values: numbers, texts, booleans, lists, maps, null.
pub(crate) fn compare(a: &Value, b: &Value) -> Ordering {
    let rank = |v: &Value| match v {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    };
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().unwrap_or(f64::MAX).total_cmp(&b.as_f64().unwrap_or(f64::MAX)),
        },
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let first = a.iter().zip(b).map(|(a, b)| compare(a, b)).find(|o| o.is_ne());
            first.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => {
            let sorted = |map: &serde_json::Map<String, Value>| {
                let mut members: Vec<(Name, Value)> =
                    map.iter().map(|(k, v)| (k.clone().into(), v.clone())).collect();
                members.sort_by(|a, b| a.0.cmp(&b.0));
                members
            };
            compare_keys(&sorted(a), &sorted(b))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

/// Whether two values are the same to apply: 1 and 1.0 are.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || compare(a, b).is_eq(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, v)| b.get(name).is_some_and(|w| same(v, w)))
        }
        _ => a == b,
    }
}

impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathElement::Field(name) => write!(f, ".{name}"),
            PathElement::Key(keys) => {
                let keys: Vec<_> = keys.iter().map(|(name, v)| format!("{name}={}", shown(v))).collect();
                write!(f, "[{}]", keys.join(","))
            }
            PathElement::Value(value) => write!(f, "[={}]", shown(value)),
            PathElement::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|element| element.fmt(f))
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => go_quote(text),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(",")),
        Value::Object(members) => members.iter().map(|(name, v)| format!("{name}={}", shown(v))).collect(),
        other => other.to_string(),
    }
}
