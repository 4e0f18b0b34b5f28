//! Lists and maps.

use std::{collections::HashMap, sync::Arc};

use serde_json::Value as Json;

use super::{Value, compare};
use crate::{
    declare::{Declared, ListType, ObjectType, Shape},
    error::EvalError,
    escape::escape,
};

/// A list.
#[derive(Debug, Clone)]
pub enum List<'a> {
    /// An array, as the declared list type, or dynamic.
    Json(&'a [Json], Option<&'a Declared>),
    /// Values.
    Owned(Arc<Vec<Value<'a>>>),
    /// Values that are a declared set or map list.
    Typed(Arc<Vec<Value<'a>>>, &'a Declared),
    /// One after the other: joining lists costs nothing.
    Joined(Arc<(List<'a>, List<'a>, u64)>),
}

/// Elements up to which joined lists are copied into one.
const COPIED: u64 = 16;

impl<'a> List<'a> {
    /// How many elements.
    pub fn len(&self) -> u64 {
        match self {
            List::Json(items, _) => items.len() as u64,
            List::Owned(items) | List::Typed(items, _) => items.len() as u64,
            List::Joined(joined) => joined.2,
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at a place that exists.
    pub fn get(&self, index: u64) -> Option<Result<Value<'a>, EvalError>> {
        let (mut list, mut index) = (self, index);
        loop {
            match list {
                List::Json(items, declared) => {
                    let item = items.get(usize::try_from(index).ok()?)?;
                    return Some(read_item(item, *declared));
                }
                List::Owned(items) | List::Typed(items, _) => {
                    return items.get(usize::try_from(index).ok()?).cloned().map(Ok);
                }
                List::Joined(joined) => {
                    let first = joined.0.len();
                    (list, index) =
                        if index < first { (&joined.0, index) } else { (&joined.1, index - first) };
                }
            }
        }
    }

    /// Every element in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, EvalError>> + '_ {
        (0..self.len()).map_while(|index| self.get(index))
    }

    pub(crate) fn list_type(&self) -> &'a ListType {
        match self {
            List::Json(_, Some(Declared { shape: Shape::List(_, list_type), .. }))
            | List::Typed(_, Declared { shape: Shape::List(_, list_type), .. }) => list_type,
            _ => &ListType::Atomic,
        }
    }

    fn declared(&self) -> Option<&'a Declared> {
        match self {
            List::Json(_, declared) => *declared,
            List::Typed(_, declared) => Some(declared),
            _ => None,
        }
    }

    /// `+`, as the list type on the left has it.
    pub(crate) fn join(self, other: List<'a>) -> Result<List<'a>, EvalError> {
        match (self.list_type(), self.declared()) {
            (ListType::Set, Some(declared)) => {
                let mut items = self.iter().collect::<Result<Vec<_>, _>>()?;
                for item in other.iter() {
                    let item = item?;
                    if !items.iter().any(|known| compare::equal(known, &item)) {
                        items.push(item);
                    }
                }
                Ok(List::Typed(Arc::new(items), declared))
            }
            (ListType::Map(keys), Some(declared)) => {
                let mut items = self.iter().collect::<Result<Vec<_>, _>>()?;
                for item in other.iter() {
                    let item = item?;
                    match items.iter().position(|known| same_keys(known, &item, keys)) {
                        Some(at) => items[at] = item,
                        None => items.push(item),
                    }
                }
                Ok(List::Typed(Arc::new(items), declared))
            }
            _ => Ok(self.append(other)),
        }
    }

    fn append(self, other: List<'a>) -> List<'a> {
        if other.is_empty() {
            return self;
        }
        if self.is_empty() {
            return other;
        }
        let mut list = self;
        // What nobody else looks at grows in place: accumulators do.
        if let List::Owned(items) = &mut list
            && other.len() <= COPIED
            && let Some(items) = Arc::get_mut(items)
        {
            items.extend(other.iter().filter_map(Result::ok));
            return list;
        }
        let len = list.len().saturating_add(other.len());
        List::Joined(Arc::new((list, other, len)))
    }
}

fn read_item<'a>(item: &'a Json, declared: Option<&'a Declared>) -> Result<Value<'a>, EvalError> {
    match declared {
        Some(Declared { shape: Shape::List(items, _), .. }) => Value::read(item, items),
        _ => Ok(Value::dynamic(item)),
    }
}

/// Whether two elements of a map list have the same keys.
pub(super) fn same_keys(a: &Value<'_>, b: &Value<'_>, keys: &[String]) -> bool {
    let (Value::Map(a), Value::Map(b)) = (a, b) else { return false };
    keys.iter().all(|key| {
        let key = escape(key).unwrap_or_else(|| key.clone());
        match (a.find(&key), b.find(&key)) {
            (Some(Ok(a)), Some(Ok(b))) => compare::equal(&a, &b),
            (None, None) => true,
            _ => false,
        }
    })
}

/// A map, or an object.
#[derive(Debug, Clone)]
pub enum Map<'a> {
    /// An object with arbitrary keys, whose values are as declared, or dynamic.
    Json(&'a serde_json::Map<String, Json>, Option<&'a Declared>),
    /// An object with declared fields.
    Object(&'a serde_json::Map<String, Json>, &'a ObjectType),
    /// Values by key.
    Owned(Arc<OwnedMap<'a>>),
    /// A message: the name of its type, and its fields.
    Struct(Arc<str>, Arc<OwnedMap<'a>>),
}

/// A map's key, such that equal numbers are equal keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Bool(bool),
    Number(i128),
    Text(Box<str>),
}

impl Key {
    pub(crate) fn of(value: &Value<'_>) -> Option<Key> {
        Some(match value {
            Value::Bool(value) => Key::Bool(*value),
            Value::Int(value) => Key::Number(i128::from(*value)),
            Value::Uint(value) => Key::Number(i128::from(*value)),
            // Within 2^63 in either direction whole numbers are exact.
            Value::Double(value) if value.fract() == 0.0 && value.abs() < 1.9e19 => {
                Key::Number(*value as i128)
            }
            Value::String(text) => Key::Text((&**text).into()),
            _ => return None,
        })
    }
}

/// Entries in the order in which they were made.
#[derive(Debug, Clone, Default)]
pub struct OwnedMap<'a> {
    entries: Vec<(Value<'a>, Value<'a>)>,
    index: HashMap<Key, usize>,
}

impl<'a> OwnedMap<'a> {
    /// Adds an entry; false when the key is there already.
    pub(crate) fn insert(&mut self, key: Value<'a>, value: Value<'a>) -> Result<bool, EvalError> {
        let Some(index) = Key::of(&key) else {
            return Err(EvalError::new(format!("unsupported key type: {}", key.type_of().name())));
        };
        if self.index.contains_key(&index) {
            return Ok(false);
        }
        self.index.insert(index, self.entries.len());
        self.entries.push((key, value));
        Ok(true)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Value<'a>> {
        self.index.get(key).and_then(|at| self.entries.get(*at)).map(|(_, value)| value)
    }
}

impl<'a> Map<'a> {
    /// How many entries.
    pub fn len(&self) -> u64 {
        match self {
            Map::Json(fields, _) | Map::Object(fields, _) => fields.len() as u64,
            Map::Owned(map) | Map::Struct(_, map) => map.entries.len() as u64,
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value under a key of text; for an object, the field that the identifier stands for. Null fields of
    /// objects are absent.
    pub fn find(&self, key: &str) -> Option<Result<Value<'a>, EvalError>> {
        match self {
            Map::Json(fields, Some(declared)) => fields.get(key).map(|value| Value::read(value, declared)),
            Map::Json(fields, None) => fields.get(key).map(|value| Ok(Value::dynamic(value))),
            Map::Object(fields, object) => {
                let field = object.fields.get(key)?;
                let value = fields.get(&field.json).filter(|value| !value.is_null())?;
                Some(Value::read(value, &field.declared))
            }
            Map::Owned(map) | Map::Struct(_, map) => map.get(&Key::Text(key.into())).cloned().map(Ok),
        }
    }

    /// The value under any key.
    pub(crate) fn find_key(&self, key: &Value<'_>) -> Option<Result<Value<'a>, EvalError>> {
        match (self, key) {
            (_, Value::String(key)) => self.find(key),
            (Map::Owned(map), key) => map.get(&Key::of(key)?).cloned().map(Ok),
            _ => None,
        }
    }

    /// The keys in order.
    pub fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Map::Json(fields, _) => fields.keys().map(|key| Value::text(key)).collect(),
            Map::Object(fields, object) => {
                let identifier = |key: &'a String| match escape(key) {
                    _ if object.fields.contains_key(key) => Some(Value::text(key)),
                    Some(escaped) if object.fields.contains_key(&escaped) => Some(Value::string(escaped)),
                    _ => None,
                };
                fields.keys().filter_map(identifier).collect()
            }
            Map::Owned(map) | Map::Struct(_, map) => map.entries.iter().map(|(key, _)| key.clone()).collect(),
        }
    }

    /// Every key with its value.
    pub fn entries(&self) -> Result<Vec<(Value<'a>, Value<'a>)>, EvalError> {
        match self {
            Map::Owned(map) | Map::Struct(_, map) => Ok(map.entries.clone()),
            _ => self
                .keys()
                .into_iter()
                .filter_map(|key| {
                    let value = self.find_key(&key)?;
                    Some(value.map(|value| (key, value)))
                })
                .collect(),
        }
    }

    /// The JSON object behind it, and whether it is one with declared fields.
    pub(super) fn json(&self) -> Option<(&'a serde_json::Map<String, Json>, Option<&'a ObjectType>)> {
        match self {
            Map::Json(fields, _) => Some((fields, None)),
            Map::Object(fields, object) => Some((fields, Some(object))),
            _ => None,
        }
    }
}

impl<'a> From<OwnedMap<'a>> for Value<'a> {
    fn from(map: OwnedMap<'a>) -> Self {
        Value::Map(Map::Owned(Arc::new(map)))
    }
}
