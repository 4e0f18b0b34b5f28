//! What every walk over typed values shares: which form a value has, and what tells list elements apart.

use serde_json::{Map as Members, Value};

use super::problem::Problems;
use super::set::{Node, PathElement, Set};
use super::types::{Elements, List, Map, Name, Node as TypeNode, Ref, Scalar, Types};

/// The form that a value is treated as.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Form<'a> {
    Map(&'a Map),
    Scalar(Scalar),
    List(&'a List),
    /// The type takes nothing at all.
    Nothing,
}

/// The form of a value under a type: its own where the type takes it, else the type's first.
pub(super) fn form<'a>(node: &'a TypeNode, value: Option<&Value>) -> Form<'a> {
    match value {
        Some(Value::Object(_)) => {
            if let Some(map) = &node.map {
                return Form::Map(map);
            }
        }
        Some(Value::Array(_)) => {
            if let Some(list) = &node.list {
                return Form::List(list);
            }
        }
        Some(Value::Null) | None => {}
        Some(_) => {
            if let Some(scalar) = node.scalar {
                return Form::Scalar(scalar);
            }
        }
    }
    match node {
        TypeNode { map: Some(map), .. } => Form::Map(map),
        TypeNode { scalar: Some(scalar), .. } => Form::Scalar(*scalar),
        TypeNode { list: Some(list), .. } => Form::List(list),
        _ => Form::Nothing,
    }
}

/// Whether a value and an absent or null one are treated alike: the type has one form only, or the value has the first.
pub(super) fn same_form(node: &TypeNode, a: Option<&Value>, b: Option<&Value>) -> bool {
    let kind = |v: Option<&Value>| match v {
        Some(Value::Object(_)) if node.map.is_some() => 1,
        Some(Value::Array(_)) if node.list.is_some() => 2,
        Some(Value::Null | Value::Object(_) | Value::Array(_)) | None => 0,
        Some(_) if node.scalar.is_some() => 3,
        Some(_) => 0,
    };
    let forms = [node.map.is_some(), node.list.is_some(), node.scalar.is_some()];
    forms.iter().filter(|there| **there).count() == 1 || kind(a) == kind(b)
}

pub(super) fn members(value: Option<&Value>) -> Option<&Members<String, Value>> {
    value.and_then(Value::as_object)
}

pub(super) fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// What tells this element of a list from the others.
pub(super) fn element(list: &List, item: &Value) -> Result<PathElement, String> {
    match &list.how {
        Elements::Atomic => Err("invalid indexing of non-associative list".to_owned()),
        Elements::Set => match item {
            Value::Object(_) => {
                Err("associative list without keys has an element that's a map type".to_owned())
            }
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            Value::Null => {
                Err("associative list without keys has an element that's an explicit null".to_owned())
            }
            scalar => Ok(PathElement::Value(scalar.clone())),
        },
        Elements::Keyed(keys) => {
            let item = match item {
                Value::Object(item) => item,
                Value::Null => {
                    return Err("associative list with keys may not have a null element".to_owned());
                }
                _ => return Err("associative list with keys may not have non-map elements".to_owned()),
            };
            let mut found: Vec<(Name, Value)> = Vec::with_capacity(keys.len());
            for key in keys {
                let value = item.get(&*key.name).or(key.default.as_ref());
                found.extend(value.map(|v| (key.name.clone(), v.clone())));
            }
            if found.is_empty() {
                let names: Vec<_> = keys.iter().map(|k| crate::status::go_quote(&k.name)).collect();
                return Err(format!(
                    "associative list with keys has an element that omits all key fields [{}] (and doesn't have \
                     default values for any key fields)",
                    names.join(" ")
                ));
            }
            found.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(PathElement::Key(found))
        }
    }
}

/// The elements of a list with what tells them apart.
pub(super) fn elements<'a>(
    list: &List,
    items: &'a [Value],
) -> Result<Vec<(PathElement, &'a Value)>, Problems> {
    let mut problems = Problems::default();
    let mut out = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        match element(list, item) {
            Ok(element) => out.push((element, item)),
            Err(why) => problems.add(Problems::one(format!("element {index}: {why}"))),
        }
    }
    problems.into_result().map(|()| out)
}

/// The path element of a member, borrowing the name where the type has it.
pub(super) fn field(map: &Map, name: &str) -> PathElement {
    PathElement::Field(map.field(name).map_or_else(|| name.to_owned().into(), |f| f.name.clone()))
}

/// The set with the named fields on the way to its members made members too.
pub(super) fn with_named_fields(types: &Types, at: Option<Ref>, set: &Set) -> Set {
    let node = at.map(|at| types.node(at));
    let map = node.and_then(|n| n.map.as_ref());
    let list = node.and_then(|n| n.list.as_ref());
    let mut out = Set::default();
    for Node { element, member, below } in set.nodes() {
        let (inner, named) = match element {
            PathElement::Field(name) => {
                (map.and_then(|m| m.member(name)), map.is_some_and(|m| m.field(name).is_some()))
            }
            PathElement::Key(_) => (list.map(|l| l.element), false),
            _ => (None, false),
        };
        let member = *member || (named && !below.is_empty());
        out.push(element.clone(), member, with_named_fields(types, inner, below));
    }
    out
}
