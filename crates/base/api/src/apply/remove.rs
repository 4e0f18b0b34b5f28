//! Fields taken out of a value, or taken over alone.

use serde_json::{Map as Members, Value};

use super::set::{PathElement, Set};
use super::types::{Elements, List, Map, Ref, Types};
use super::walk::{Form, element, form};

/// The value without these fields. Maps and lists that lose all they hold stay, empty.
pub(super) fn remove(types: &Types, at: Ref, value: Value, fields: &Set) -> Value {
    match form(types.node(at), Some(&value)) {
        Form::Map(map) => match value {
            Value::Object(members) if !members.is_empty() && !map.atomic => {
                remove_members(types, map, members, fields)
            }
            _ => Value::Null,
        },
        Form::List(list) => match value {
            Value::Array(items) if !items.is_empty() && list.how != Elements::Atomic => {
                remove_items(types, list, items, fields)
            }
            _ => Value::Null,
        },
        Form::Scalar(_) | Form::Nothing => value,
    }
}

fn remove_members(types: &Types, map: &Map, members: Members<String, Value>, fields: &Set) -> Value {
    let mut out = Members::with_capacity(members.len());
    let mut touched = false;
    for (name, value) in members {
        let node = fields.field(&name);
        if node.is_some_and(|n| n.member) {
            continue;
        }
        let value = match (node, map.member(&name)) {
            (Some(node), Some(at)) => {
                touched = true;
                inside(types, at, value, &node.below)
            }
            _ => value,
        };
        out.insert(name, value);
    }
    if out.is_empty() && !touched { Value::Null } else { Value::Object(out) }
}

fn remove_items(types: &Types, list: &List, items: Vec<Value>, fields: &Set) -> Value {
    let mut out = Vec::with_capacity(items.len());
    let mut touched = false;
    for item in items {
        let node = element(list, &item).ok().and_then(|element| fields.get(&element));
        match node {
            Some(node) if node.member => {}
            Some(node) => {
                touched = true;
                out.push(inside(types, list.element, item, &node.below));
            }
            None => out.push(item),
        }
    }
    if out.is_empty() && !touched { Value::Null } else { Value::Array(out) }
}

/// Removes inside a value that itself stays: it is empty rather than gone.
fn inside(types: &Types, at: Ref, value: Value, fields: &Set) -> Value {
    let empty = match &value {
        Value::Object(_) => Value::Object(Members::new()),
        Value::Array(_) => Value::Array(Vec::new()),
        _ => Value::Null,
    };
    match remove(types, at, value, fields) {
        Value::Null => empty,
        left => left,
    }
}

/// Only these fields of the value.
pub(super) fn extract(types: &Types, at: Ref, value: &Value, fields: &Set) -> Value {
    match form(types.node(at), Some(value)) {
        Form::Map(map) => match value {
            Value::Object(members) if !members.is_empty() && !map.atomic => {
                extract_members(types, map, members, fields)
            }
            Value::Object(_) => value.clone(),
            _ => Value::Null,
        },
        Form::List(list) => match value {
            Value::Array(items) if !items.is_empty() && list.how != Elements::Atomic => {
                extract_items(types, list, items, fields)
            }
            Value::Array(_) => value.clone(),
            _ => Value::Null,
        },
        Form::Scalar(_) | Form::Nothing => value.clone(),
    }
}

fn extract_members(types: &Types, map: &Map, members: &Members<String, Value>, fields: &Set) -> Value {
    let mut out = Members::new();
    for (name, value) in members {
        let Some(node) = fields.field(name) else { continue };
        let Some(at) = map.member(name) else { continue };
        // A member with nothing below is taken for what it is now: whole when it is a leaf, empty when others filled it.
        let below = if node.member { fields } else { &node.below };
        let value = match extract(types, at, value, below) {
            Value::Null if value.is_object() => Value::Object(Members::new()),
            value => value,
        };
        out.insert(name.clone(), value);
    }
    if out.is_empty() { Value::Null } else { Value::Object(out) }
}

fn extract_items(types: &Types, list: &List, items: &[Value], fields: &Set) -> Value {
    let mut out = Vec::new();
    for item in items {
        let node = element(list, item).ok().and_then(|element| fields.get(&element));
        match node {
            Some(node) if !node.below.is_empty() => out.push(extract(types, list.element, item, &node.below)),
            Some(_) => out.push(item.clone()),
            None => {}
        }
    }
    if out.is_empty() { Value::Null } else { Value::Array(out) }
}

/// The keys of the list elements on the way to the members, as members too: without them the elements could not be
/// found again.
pub(super) fn with_keys(set: &Set) -> Set {
    let mut out = Vec::with_capacity(set.nodes().len());
    for node in set.nodes() {
        let mut below = with_keys(&node.below);
        if let PathElement::Key(keys) = &node.element {
            for (name, _) in keys {
                below.insert(&[PathElement::Field(name.clone())]);
            }
        }
        out.push(super::set::Node { element: node.element.clone(), member: node.member, below });
    }
    Set::from_nodes(out)
}

/// The set as it is under the types of today: where a map or list has become one value, its owner owns that.
pub(super) fn reconcile(types: &Types, at: Ref, set: &Set) -> Option<Set> {
    match reconcile_at(types, at, set, false, true) {
        Reconciled::Same => None,
        Reconciled::Whole => Some(Set::default()),
        Reconciled::Below(below) => Some(below),
    }
}

enum Reconciled {
    Same,
    /// The place itself, and nothing below.
    Whole,
    Below(Set),
}

fn reconcile_at(types: &Types, at: Ref, set: &Set, whole: bool, root: bool) -> Reconciled {
    let node = types.node(at);
    let member = |element: &PathElement| match (&node.map, &node.list) {
        (Some(map), _) => match element {
            PathElement::Field(name) => map.member(name),
            _ => map.element,
        },
        (None, Some(list)) => Some(list.element),
        _ => None,
    };
    if let Some(map) = &node.map {
        if map.deduced && map.fields.is_empty() && !map.atomic {
            return Reconciled::Same;
        }
        if !whole && map.atomic {
            return if set.is_empty() { Reconciled::Same } else { Reconciled::Whole };
        }
    } else if node.scalar.is_some() {
        return Reconciled::Same;
    } else if let Some(list) = &node.list
        && !whole
        && list.how == Elements::Atomic
        && !root
    {
        return Reconciled::Whole;
    }
    // Types hardly ever change: copied is only once something has to be.
    let mut nodes: Option<Vec<_>> = None;
    for (index, child) in set.nodes().iter().enumerate() {
        let alone = child.member && child.below.is_empty();
        let found = match member(&child.element) {
            Some(at) => reconcile_at(types, at, &child.below, alone, false),
            None => Reconciled::Same,
        };
        let (member, below) = match found {
            Reconciled::Same => {
                if let Some(nodes) = &mut nodes {
                    nodes.push(child.clone());
                }
                continue;
            }
            Reconciled::Whole => (true, Set::default()),
            Reconciled::Below(below) => (child.member, below),
        };
        let nodes = nodes.get_or_insert_with(|| set.nodes()[..index].to_vec());
        nodes.push(super::set::Node { element: child.element.clone(), member, below });
    }
    nodes.map_or(Reconciled::Same, |nodes| Reconciled::Below(Set::from_nodes(nodes)))
}
