//! From a value to the set of its fields.

use std::collections::BTreeMap;

use serde_json::Value;

use super::problem::Problems;
use super::set::{Node, PathElement, Set};
use super::types::{Elements, List, Map, Ref, Types};
use super::walk::{Form, elements, field, form, items, members};

/// Every leaf and list element of a value, and whether the value itself is a leaf.
pub(super) fn fields(types: &Types, at: Ref, value: &Value) -> Result<(bool, Set), Problems> {
    match form(types.node(at), Some(value)) {
        Form::Scalar(_) => Ok((true, Set::default())),
        Form::List(list) if list.how == Elements::Atomic => Ok((true, Set::default())),
        Form::Map(map) if map.atomic => Ok((true, Set::default())),
        Form::List(list) => of_list(types, list, value).map(|set| (false, set)),
        Form::Map(map) => of_map(types, map, value).map(|set| (false, set)),
        Form::Nothing => Err(Problems::one("schema error: invalid atom: inlined")),
    }
}

fn of_map(types: &Types, map: &Map, value: &Value) -> Result<Set, Problems> {
    let mut nodes = Vec::new();
    for (name, value) in members(Some(value)).into_iter().flatten() {
        let Some(inner) = map.member(name) else {
            return Err(Problems::one(format!(
                "schema error: no type found matching: inlined type ({name})"
            )));
        };
        let (leaf, below) = fields(types, inner, value)?;
        let empty = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
        let member = leaf || empty || map.field(name).is_none();
        if member || !below.is_empty() {
            nodes.push(Node { element: field(map, name), member, below });
        }
    }
    Ok(Set::from_nodes(nodes))
}

fn of_list(types: &Types, list: &List, value: &Value) -> Result<Set, Problems> {
    let mut by_element: BTreeMap<PathElement, Vec<&Value>> = BTreeMap::new();
    for (element, item) in elements(list, items(Some(value)))? {
        by_element.entry(element).or_default().push(item);
    }
    let mut out = Set::default();
    for (element, same) in by_element {
        // Of elements that cannot be told apart only the key is owned.
        let below = match same.as_slice() {
            [one] => fields(types, list.element, one)?.1,
            _ => Set::default(),
        };
        out.push(element, true, below);
    }
    Ok(out)
}
