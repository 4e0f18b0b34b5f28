//! Whether a value is one of its type.

use serde_json::Value;

use super::problem::{Problems, go_type, wrapped, wrapped_long};
use super::types::{Elements, List, Map, Ref, Scalar, Types};
use super::walk::{Form, element, field, form};

/// Checks a value. `duplicates`: list elements with the same key may be there.
pub(super) fn check(types: &Types, at: Ref, value: &Value, duplicates: bool) -> Problems {
    match form(types.node(at), Some(value)) {
        Form::Scalar(scalar) => check_scalar(scalar, value),
        Form::Map(map) => check_map(types, map, value, duplicates),
        Form::List(list) => check_list(types, list, value, duplicates),
        Form::Nothing => Problems::one("schema error: invalid atom: inlined"),
    }
}

pub(super) fn check_scalar(scalar: Scalar, value: &Value) -> Problems {
    let good = match scalar {
        _ if value.is_null() => true,
        Scalar::Numeric => value.is_number(),
        Scalar::String => value.is_string(),
        Scalar::Boolean => value.is_boolean(),
        Scalar::Untyped => !value.is_object() && !value.is_array(),
    };
    if good {
        return Problems::default();
    }
    Problems::one(match scalar {
        Scalar::Numeric => format!("expected numeric (int or float), got {}", go_type(value)),
        Scalar::String => format!("expected string, got {}", wrapped_long(value)),
        Scalar::Boolean => format!("expected boolean, got {}", wrapped(value)),
        Scalar::Untyped => format!("expected any scalar, got {}", wrapped(value)),
    })
}

fn check_map(types: &Types, map: &Map, value: &Value, duplicates: bool) -> Problems {
    let members = match value {
        Value::Null => return Problems::default(),
        Value::Object(members) => members,
        other => return Problems::one(format!("expected map, got {}", wrapped(other))),
    };
    let mut problems = Problems::default();
    for (name, value) in members {
        match map.member(name) {
            Some(inner) => {
                let found = check(types, inner, value, duplicates);
                if !found.is_empty() {
                    problems.absorb(found, field(map, name));
                }
            }
            None => {
                problems.absorb(Problems::one("field not declared in schema"), field(map, name));
                // As upstream: what follows an unknown field is not looked at.
                break;
            }
        }
    }
    problems
}

fn check_list(types: &Types, list: &List, value: &Value, duplicates: bool) -> Problems {
    let items = match value {
        Value::Null => return Problems::default(),
        Value::Array(items) => items,
        other => return Problems::one(format!("expected list, got {}", wrapped(other))),
    };
    let mut problems = Problems::default();
    let mut seen = std::collections::BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let at = if list.how == Elements::Atomic {
            super::set::PathElement::Index(i64::try_from(index).unwrap_or(i64::MAX))
        } else {
            match element(list, item) {
                Ok(element) => element,
                Err(why) => {
                    problems.add(Problems::one(format!("element {index}: {why}")));
                    return problems;
                }
            }
        };
        problems.absorb(check(types, list.element, item, duplicates), &at);
        if list.how != Elements::Atomic && !duplicates {
            if seen.contains(&at) {
                problems.add(Problems::one(format!("duplicate entries for key {at}")));
            }
            seen.insert(at);
        }
    }
    problems
}
