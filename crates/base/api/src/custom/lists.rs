//! Lists of type set and map: no element, or no element's key, comes twice.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::schema::{ListType, Schema};
use crate::status::{FieldError, FieldPath};

/// The indices of those elements that repeat another, the first repetition of each.
pub(super) fn first_duplicates(items: &[Value]) -> impl Iterator<Item = usize> {
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(items.len());
    items.iter().enumerate().filter_map(move |(index, item)| {
        let times = seen.entry(canonical(item)).or_insert(0);
        *times += 1;
        (*times == 2).then_some(index)
    })
}

/// The same text for the same value, whatever the order of members.
fn canonical(value: &Value) -> String {
    let mut value = value.clone();
    value.sort_all_objects();
    value.to_string()
}

/// Checks all lists of an object.
pub(super) fn check(schema: &Schema, value: &Value, path: &FieldPath, out: &mut Vec<FieldError>) {
    if !schema.has_lists || out.len() >= super::check::MAX_ERRORS {
        return;
    }
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                if let Some(property) = schema.properties.get(name) {
                    check(property, value, &path.child(name), out);
                } else if let Some(other) = schema.member(name) {
                    check(other, value, &path.key(name), out);
                }
            }
        }
        Value::Array(items) => {
            match schema.list {
                ListType::Atomic => {}
                ListType::Set => {
                    out.extend(
                        first_duplicates(items)
                            .map(|i| FieldError::duplicate(path.index(i), items[i].clone())),
                    );
                }
                ListType::Map => keyed(schema, items, path, out),
            }
            if let Some(element) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    check(element, item, &path.index(index), out);
                }
            }
        }
        _ => {}
    }
}

fn keyed(schema: &Schema, items: &[Value], path: &FieldPath, out: &mut Vec<FieldError>) {
    if let Some((index, item)) = items.iter().enumerate().find(|(_, i)| !i.is_null() && !i.is_object()) {
        let sentence = "must be an object for an array of list-type map";
        out.push(FieldError::invalid(path.index(index), item.clone(), sentence));
        return;
    }
    let key_of = |item: &Value| {
        let present = schema.keys.iter().filter_map(|k| Some((k.clone(), item.get(k)?.clone())));
        Value::Object(present.collect::<Map<_, _>>())
    };
    let keys: Vec<Value> = items.iter().map(key_of).collect();
    out.extend(first_duplicates(&keys).map(|i| FieldError::duplicate(path.index(i), keys[i].clone())));
}
