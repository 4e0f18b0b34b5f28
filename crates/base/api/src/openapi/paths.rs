//! The paths of a resource, with what can be done at each.

use serde_json::{Map, Value, json};

use super::Dialect;
use super::operations::{Action, Operation, parameter};
use crate::kinds::{Resource, Subresource};

/// Every path of the resource.
pub(super) fn of(resource: &'static Resource, dialect: Dialect) -> Vec<(String, Value)> {
    let root = if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    };
    let plural = resource.plural;
    let base = if resource.namespaced {
        format!("{root}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("{root}/{plural}")
    };
    let mut out = Vec::new();
    if resource.namespaced && resource.allows("list") {
        let all = [("get", Operation { resource, sub: None, action: Action::List, everywhere: true })];
        out.push((format!("{root}/{plural}"), item(dialect, &[], &all)));
    }
    let many = [
        ("get", "list", Action::List),
        ("post", "create", Action::Post),
        ("delete", "deletecollection", Action::DeleteCollection),
    ];
    out.extend(path(dialect, base.clone(), resource, None, &many, false));
    let one = [
        ("get", "get", Action::Get),
        ("put", "update", Action::Put),
        ("patch", "patch", Action::Patch),
        ("delete", "delete", Action::Delete),
    ];
    out.extend(path(dialect, format!("{base}/{{name}}"), resource, None, &one, true));
    for sub in resource.subresources {
        let connects = sub.kind.ends_with("Options");
        let get = if connects { Action::Connect } else { Action::Get };
        let post = if connects { Action::Connect } else { Action::Post };
        let verbs = [
            ("get", "get", get),
            ("post", "create", post),
            ("put", "update", Action::Put),
            ("patch", "patch", Action::Patch),
        ];
        out.extend(path(dialect, format!("{base}/{{name}}/{}", sub.name), resource, Some(sub), &verbs, true));
    }
    out
}

/// A path with those operations that the resource offers there; none when it offers nothing.
fn path(
    dialect: Dialect,
    at: String,
    resource: &'static Resource,
    sub: Option<&'static Subresource>,
    verbs: &[(&'static str, &str, Action)],
    named: bool,
) -> Option<(String, Value)> {
    let offered = sub.map_or(resource.verbs, |s| s.verbs);
    let operations: Vec<_> = verbs
        .iter()
        .filter(|(_, verb, _)| offered.contains(verb))
        .map(|(method, _, action)| (*method, Operation { resource, sub, action: *action, everywhere: false }))
        .collect();
    if operations.is_empty() {
        return None;
    }
    let mut variables = Vec::new();
    if named {
        variables.push("name");
    }
    if resource.namespaced {
        variables.push("namespace");
    }
    Some((at, item(dialect, &variables, &operations)))
}

fn item(dialect: Dialect, variables: &[&str], operations: &[(&str, Operation)]) -> Value {
    let mut out: Map<String, Value> = operations
        .iter()
        .map(|(method, operation)| ((*method).to_owned(), operation.to_value(dialect)))
        .collect();
    let variables = variables.iter().map(|name| {
        let mut variable = parameter(name, "path", "string", dialect);
        variable["required"] = json!(true);
        variable
    });
    let mut parameters: Vec<Value> = variables.collect();
    parameters.push(parameter("pretty", "query", "string", dialect));
    out.insert("parameters".into(), parameters.into());
    Value::Object(out)
}
