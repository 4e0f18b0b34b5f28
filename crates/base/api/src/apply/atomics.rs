//! Maps and lists in a configuration that are one value.

use serde_json::Value;

use super::set::PathElement;
use super::types::{Elements, Ref, Types};

/// The paths of all of them.
pub(super) fn atomics(types: &Types, at: Ref, value: &Value) -> Vec<String> {
    let mut out = Vec::new();
    collect(types, at, value, &mut String::new(), &mut out);
    out
}

fn collect(types: &Types, at: Ref, value: &Value, path: &mut String, out: &mut Vec<String>) {
    let node = types.node(at);
    let length = path.len();
    match (value, &node.map, &node.list) {
        (Value::Object(members), Some(map), _) => {
            if map.atomic {
                out.push(path.clone());
            }
            for (name, value) in members {
                let Some(field) = map.field(name) else { continue };
                path.push_str(&PathElement::Field(field.name.clone()).to_string());
                collect(types, field.node, value, path, out);
                path.truncate(length);
            }
        }
        (Value::Array(items), _, Some(list)) => {
            if list.how == Elements::Atomic {
                out.push(path.clone());
            }
            for (index, value) in items.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                collect(types, list.element, value, path, out);
                path.truncate(length);
            }
        }
        _ => {}
    }
}
