//! Which requests a webhook or a policy is about.

use std::sync::Arc;

use sampan_api::{kinds::Resource, selector::LabelSelector, status::Status};
use serde_json::Value;

use super::super::{Operation, Review};
use crate::core::Core;

/// One rule: operations, groups, versions, resources and scope, any of each.
#[derive(Debug)]
pub(crate) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource; the latter empty for the object itself.
    resources: Vec<(String, String)>,
    scope: Scope,
    /// For policies: only these names; empty for all.
    names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    All,
    Cluster,
    Namespaced,
}

fn has(list: &[String], asked: &str) -> bool {
    list.iter().any(|item| item == "*" || item == asked)
}

impl Rule {
    /// Of a `RuleWithOperations` (or one with `resourceNames`).
    pub(crate) fn parse(rule: &Value) -> Self {
        let list = |key: &str| -> Vec<String> {
            let items = rule.get(key).and_then(Value::as_array).into_iter().flatten();
            items.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let split = |resource: String| match resource.split_once('/') {
            Some((resource, sub)) => (resource.to_owned(), sub.to_owned()),
            None => (resource, String::new()),
        };
        Self {
            operations: list("operations"),
            groups: list("apiGroups"),
            versions: list("apiVersions"),
            resources: list("resources").into_iter().map(split).collect(),
            scope: match rule.get("scope").and_then(Value::as_str) {
                Some("Cluster") => Scope::Cluster,
                Some("Namespaced") => Scope::Namespaced,
                _ => Scope::All,
            },
            names: list("resourceNames"),
        }
    }

    /// Whether the request would match if it were for `resource`: its own, or one that is equivalent.
    pub(crate) fn matches(&self, review: &Review<'_>, resource: &Resource) -> bool {
        let of_namespace = review.namespace().is_some() && !review.is("", "namespaces");
        let scope = match self.scope {
            Scope::All => true,
            Scope::Cluster => !of_namespace,
            Scope::Namespaced => of_namespace,
        };
        let any = |asked: &str, item: &str| item == "*" || item == asked;
        scope
            && has(&self.operations, review.operation.name())
            && has(&self.groups, resource.group)
            && has(&self.versions, resource.version)
            && self
                .resources
                .iter()
                .any(|(name, sub)| any(resource.plural, name) && any(review.subresource, sub))
            && (self.names.is_empty() || self.names.iter().any(|name| name == review.name()))
    }
}

/// A selector out of an object; nothing selects everything.
pub(crate) fn selector(value: Option<&Value>) -> Option<LabelSelector> {
    match value.filter(|value| !value.is_null()) {
        None => Some(LabelSelector::everything()),
        Some(value) => LabelSelector::from_object(value).ok(),
    }
}

/// Whether the object, as it is or as it was, has the labels.
pub(crate) fn object_selected(selector: &LabelSelector, review: &Review<'_>) -> bool {
    let has = |object: &Value| object.get("metadata").is_some() && selector.matches_object(object);
    selector.is_everything() || has(&review.object) || review.old.is_some_and(has)
}

/// Whether the object's namespace has the labels. Objects outside of namespaces are always selected; a namespace is
/// selected by its own labels, those that it is to have.
pub(crate) async fn namespace_selected(
    core: &Arc<Core>,
    selector: &LabelSelector,
    review: &Review<'_>,
) -> Result<bool, Status> {
    if selector.is_everything() {
        return Ok(true);
    }
    let Some(name) = review.namespace() else { return Ok(true) };
    let changes = matches!(review.operation, Operation::Create | Operation::Update);
    if review.is_main("", "namespaces") && changes {
        return Ok(selector.matches_object(&review.object));
    }
    match core.namespace(name, false).await? {
        Some(namespace) => Ok(selector.matches_object(&namespace.as_object)),
        None => Err(Status::not_found(("", "namespaces"), name)),
    }
}
