//! An applied configuration laid over an object.

use std::collections::BTreeMap;

use serde_json::{Map as Members, Value};

use super::problem::Problems;
use super::set::PathElement;
use super::types::{Elements, List, Map, Ref, Types};
use super::walk::{Form, elements, field, form, items, members};

/// The second value over the first. Nothing is taken away; leaves are the second's where it has them; lists are in the
/// second's order where it says one.
pub(super) fn merge(types: &Types, at: Ref, lhs: &Value, rhs: &Value) -> Result<Option<Value>, Problems> {
    match form(types.node(at), Some(rhs)) {
        Form::Map(map) => {
            let empty = Members::new();
            let (l, r) = (members(Some(lhs)).unwrap_or(&empty), members(Some(rhs)).unwrap_or(&empty));
            if map.atomic || (l.is_empty() && r.is_empty()) {
                return Ok(Some(rhs.clone()));
            }
            merge_maps(types, map, l, r)
        }
        Form::List(list) => {
            let (l, r) = (items(Some(lhs)), items(Some(rhs)));
            if list.how == Elements::Atomic || (l.is_empty() && r.is_empty()) {
                return Ok(Some(rhs.clone()));
            }
            let out = merge_lists(types, list, l, r)?;
            Ok((!out.is_empty()).then_some(Value::Array(out)))
        }
        Form::Scalar(_) => Ok(Some(rhs.clone())),
        Form::Nothing => Err(Problems::one("schema error: invalid atom: inlined")),
    }
}

fn merge_maps(
    types: &Types,
    map: &Map,
    lhs: &Members<String, Value>,
    rhs: &Members<String, Value>,
) -> Result<Option<Value>, Problems> {
    let mut out = Members::with_capacity(lhs.len().max(rhs.len()));
    let mut problems = Problems::default();
    for (name, old) in lhs {
        let merged = match (rhs.get(name), map.member(name)) {
            (Some(new), Some(at)) => match merge(types, at, old, new) {
                Ok(merged) => merged,
                Err(found) => {
                    problems.absorb(found, field(map, name));
                    None
                }
            },
            (new, _) => Some(new.unwrap_or(old).clone()),
        };
        if let Some(merged) = merged {
            out.insert(name.clone(), merged);
        }
    }
    for (name, new) in rhs.iter().filter(|(name, _)| !lhs.contains_key(*name)) {
        out.insert(name.clone(), new.clone());
    }
    problems.into_result()?;
    Ok((!out.is_empty()).then_some(Value::Object(out)))
}

type Indexed<'a> = (Vec<PathElement>, BTreeMap<PathElement, &'a Value>);

const NULL: &Value = &Value::Null;

/// The elements in order, and each by what tells it apart. Of several alike none counts.
fn index<'a>(list: &List, items: &'a [Value], duplicates: bool) -> Result<Indexed<'a>, Problems> {
    let (mut order, mut by_element) = (Vec::with_capacity(items.len()), BTreeMap::new());
    let mut problems = Problems::default();
    for (element, item) in elements(list, items)? {
        if by_element.contains_key(&element) {
            if !duplicates {
                problems.add(Problems::one(format!("duplicate entries for key {element}")));
                continue;
            }
            by_element.insert(element.clone(), NULL);
        } else {
            by_element.insert(element.clone(), item);
        }
        order.push(element);
    }
    problems.into_result().map(|()| (order, by_element))
}

/// The order is upstream's (structured-merge-diff, `visitListItems`): the second's, with what only the first has kept
/// near its neighbours.
fn merge_lists(types: &Types, list: &List, lhs: &[Value], rhs: &[Value]) -> Result<Vec<Value>, Problems> {
    let (right, by_right) = index(list, rhs, false)?;
    let (left, by_left) = index(list, lhs, true)?;
    let mut shared = right.iter().filter(|e| by_left.contains_key(*e));
    let mut next = shared.next();
    let mut merged = std::collections::BTreeSet::new();
    let mut out = Vec::with_capacity(left.len().max(right.len()));
    let mut problems = Problems::default();
    let mut both = |element: &PathElement, out: &mut Vec<Value>| {
        let new = by_right.get(element).copied().unwrap_or(NULL);
        match by_left.get(element) {
            None => out.push(new.clone()),
            Some(old) => match merge(types, list.element, old, new) {
                Ok(value) => out.extend(value),
                Err(found) => problems.absorb(found, element),
            },
        }
    };
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if let (Some(mine), Some(theirs)) = (left.get(l), right.get(r)) {
            if mine == theirs {
                merged.insert(mine);
                both(mine, &mut out);
                (l, r) = (l + 1, r + 1);
                next = shared.next();
                continue;
            }
            if by_right.contains_key(mine) && next.is_some_and(|next| next != mine) {
                // It comes later, where the second list has it.
                l += 1;
                continue;
            }
        }
        if let Some(mine) = left.get(l) {
            if !by_right.contains_key(mine) {
                out.push(lhs[l].clone());
                l += 1;
                continue;
            }
            if merged.contains(mine) {
                l += 1;
            }
        }
        if let Some(theirs) = right.get(r) {
            merged.insert(theirs);
            both(theirs, &mut out);
            r += 1;
            if next == Some(theirs) {
                next = shared.next();
            }
        }
    }
    problems.into_result().map(|()| out)
}
