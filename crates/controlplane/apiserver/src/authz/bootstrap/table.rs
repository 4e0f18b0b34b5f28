//! The table of roles and bindings, in a form that can be read at a glance:
//!
//! ```text
//! ClusterRole NAME                    or Role NAMESPACE/NAME
//!  label KEY=VALUE
//!  aggregate KEY=VALUE                 the roles with this label are put together
//!  rule VERBS GROUPS RESOURCES [NAMES] `-` is the core group
//!  url VERBS PATHS
//! ClusterRoleBinding NAME KIND ROLE   or RoleBinding NAMESPACE/NAME KIND ROLE
//!  to User|Group NAME                  or to ServiceAccount NAMESPACE/NAME
//! ```

use serde_json::{Value, json};

use super::{GROUP, Rule, strings};

/// What Kubernetes brings (plugin/pkg/auth/authorizer/rbac/bootstrappolicy, as of 1.36).
const UPSTREAM: &str = include_str!("upstream.txt");

/// What our components need besides.
const OURS: &str = include_str!("ours.txt");

/// The role of the controllers, which act as one user here.
const CONTROLLERS: &str = "sampan:controllers";

/// One role or binding.
pub(super) struct Wanted {
    pub(super) plural: &'static str,
    pub(super) namespace: Option<&'static str>,
    pub(super) name: String,
    pub(super) object: Value,
}

fn split(texts: &str) -> Vec<&str> {
    texts.split(',').map(|text| if text == "-" { "" } else { text }).collect()
}

fn begin(line: &'static str) -> Option<Wanted> {
    let mut words = line.split(' ');
    let (kind, full) = (words.next()?, words.next()?);
    let (plural, namespaced) = match kind {
        "Role" => ("roles", true),
        "RoleBinding" => ("rolebindings", true),
        "ClusterRole" => ("clusterroles", false),
        _ => ("clusterrolebindings", false),
    };
    let (namespace, name) = match full.split_once('/').filter(|_| namespaced) {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, full),
    };
    let mut object = json!({
        "metadata": {
            "name": name,
            "labels": strings(&[("kubernetes.io/bootstrapping", "rbac-defaults")]),
            "annotations": strings(&[("rbac.authorization.kubernetes.io/autoupdate", "true")]),
        },
    });
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = namespace.into();
    }
    match (words.next(), words.next()) {
        (Some(kind), Some(role)) => {
            object["roleRef"] = json!({"apiGroup": GROUP, "kind": kind, "name": role});
        }
        _ => object["rules"] = Value::Null,
    }
    Some(Wanted { plural, namespace, name: name.to_owned(), object })
}

fn push(object: &mut Value, field: &str, item: Value) {
    match object.get_mut(field).and_then(Value::as_array_mut) {
        Some(items) => items.push(item),
        None => object[field] = json!([item]),
    }
}

fn fill(object: &mut Value, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["label", pair] => {
            if let Some((key, value)) = pair.split_once('=') {
                object["metadata"]["labels"][key] = value.into();
            }
        }
        ["aggregate", pair] => {
            if let Some(pair) = pair.split_once('=') {
                let selector = json!({"matchLabels": strings(&[pair])});
                object["aggregationRule"] = json!({"clusterRoleSelectors": [selector]});
            }
        }
        ["url", verbs, urls] => {
            push(object, "rules", json!({"verbs": split(verbs), "nonResourceURLs": split(urls)}));
        }
        ["rule", verbs, groups, resources, ref names @ ..] => {
            let mut rule =
                json!({"verbs": split(verbs), "apiGroups": split(groups), "resources": split(resources)});
            if let [names] = names {
                rule["resourceNames"] = split(names).into();
            }
            push(object, "rules", rule);
        }
        ["to", "ServiceAccount", full] => {
            if let Some((namespace, name)) = full.split_once('/') {
                let subject = json!({"kind": "ServiceAccount", "name": name, "namespace": namespace});
                push(object, "subjects", subject);
            }
        }
        ["to", kind, name] => {
            push(object, "subjects", json!({"apiGroup": GROUP, "kind": kind, "name": name}))
        }
        _ => {}
    }
}

fn read(table: &'static str) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = Vec::new();
    for line in table.lines() {
        match (line.strip_prefix(' '), all.last_mut()) {
            (Some(detail), Some(wanted)) => fill(&mut wanted.object, detail),
            _ => all.extend(begin(line)),
        }
    }
    all
}

/// Everything that a cluster has. Roles that are put together from others are complete from the first moment.
pub(super) fn wanted() -> Vec<Wanted> {
    let mut all = read(UPSTREAM);
    all.extend(read(OURS));
    give_controllers(&mut all);
    for at in 0..all.len() {
        let selectors = all[at].object.pointer("/aggregationRule/clusterRoleSelectors").cloned();
        let Some(Value::Array(selectors)) = selectors else { continue };
        let rules = gathered(&all, &selectors, 4);
        all[at].object["rules"] = rules.into();
    }
    all
}

/// The rules of the roles with one of the labels, and of those that these gather in turn.
fn gathered(all: &[Wanted], selectors: &[Value], depth: usize) -> Vec<Value> {
    let mut rules = Vec::new();
    for selector in selectors {
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            for role in all.iter().filter(|role| role.object["metadata"]["labels"].get(key) == Some(value)) {
                let own = match role.object.pointer("/aggregationRule/clusterRoleSelectors") {
                    Some(Value::Array(inner)) if depth > 0 => gathered(all, inner, depth - 1),
                    _ => role.object["rules"].as_array().cloned().unwrap_or_default(),
                };
                for rule in own {
                    if !rules.contains(&rule) {
                        rules.push(rule);
                    }
                }
            }
        }
    }
    rules
}

/// Gives the controllers' role all that Kubernetes' controllers have in roles of their own. What is about everything
/// comes first: it is found at once.
fn give_controllers(all: &mut [Wanted]) {
    let mut rules: Vec<Value> = Vec::new();
    let theirs = |role: &&Wanted| role.name.starts_with("system:controller:") || role.name == CONTROLLERS;
    for role in all.iter().filter(theirs) {
        for rule in role.object["rules"].as_array().into_iter().flatten() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    rules.sort_by_key(|rule| !rule.to_string().contains("\"*\""));
    if let Some(role) = all.iter_mut().find(|role| role.name == CONTROLLERS && role.plural == "clusterroles")
    {
        role.object["rules"] = rules.into();
    }
}

/// The rules of one of Kubernetes' own cluster roles.
pub(crate) fn rules_of(name: &str) -> Vec<Rule> {
    let role = read(UPSTREAM).into_iter().find(|role| role.name == name && role.plural == "clusterroles");
    let rules = role.and_then(|role| serde_json::from_value::<Vec<Rule>>(role.object["rules"].clone()).ok());
    rules.unwrap_or_default().into_iter().map(Rule::compile).collect()
}
