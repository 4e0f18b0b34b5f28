//! Nobody hands out what he does not have: checks of changes to roles and bindings.

use sampan_api::status::{Status, go_quote};
use serde_json::Value;

use super::{
    Attributes, MASTERS,
    policy::{Policy, RoleRef},
    rule::Rule,
};
use crate::{
    admission::{Operation, Review},
    call::Call,
    core::Core,
    request::Target,
    user::UserInfo,
};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Refuses a new or changed role or binding that grants more than its author has.
///
/// Does nothing for other resources, and costs them one comparison.
pub(crate) fn check(core: &Core, review: &Review<'_>) -> Result<(), Status> {
    let changes = matches!(review.operation, Operation::Create | Operation::Update);
    if review.resource.group != GROUP || !changes || !review.subresource.is_empty() {
        return Ok(());
    }
    let (call, object, old) = (review.call, &review.object, review.old);
    if call.user.in_group(MASTERS) || old.is_some_and(|old| lets_go(object, old)) {
        return Ok(());
    }
    let plural = review.resource.plural;
    let refused = match plural {
        "roles" | "clusterroles" => role(core, call, object, old),
        "rolebindings" | "clusterrolebindings" => binding(core, call, object)?,
        _ => return Ok(()),
    };
    match refused {
        None => Ok(()),
        Some(why) => Err(Status::forbidden((GROUP, plural), review.name(), why)),
    }
}

/// Whether the change only takes owners or finalizers away or adds them, which the garbage collector must be able to.
fn lets_go(new: &Value, old: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
                metadata.shift_remove(field);
            }
        }
        object
    };
    let held = |object: &Value| {
        let part = |name: &str| object["metadata"].get(name).cloned();
        (part("ownerReferences"), part("finalizers"))
    };
    held(new) != held(old) && bare(new) == bare(old)
}

fn role(core: &Core, call: &Call, object: &Value, old: Option<&Value>) -> Option<String> {
    let resource = call.endpoint.resource;
    let target = Target {
        group: GROUP.to_owned(),
        version: "*".to_owned(),
        resource: resource.plural.to_owned(),
        namespace: call.target.namespace.clone(),
        name: call.target.name.clone(),
        subresource: None,
    };
    if core.authz.allows(&call.user, &Attributes::resource("escalate", &target)) {
        return None;
    }
    let policy = core.authz.policy();
    let rules: Vec<Rule> =
        object.get("rules").and_then(|rules| serde_json::from_value(rules.clone()).ok()).unwrap_or_default();
    if let Some(why) = missing(&policy, &call.user, call.namespace(), &rules) {
        return Some(why);
    }
    let aggregates = |object: &Value| {
        let selectors = object.pointer("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array);
        selectors.is_some_and(|selectors| !selectors.is_empty())
    };
    if aggregates(object) || old.is_some_and(aggregates) {
        // An aggregation can gather anything.
        missing(&policy, &call.user, call.namespace(), &Rule::everything())?;
        return Some("must have cluster-admin privileges to use the aggregationRule".to_owned());
    }
    None
}

fn binding(core: &Core, call: &Call, object: &Value) -> Result<Option<String>, Status> {
    let reference: RoleRef =
        object.get("roleRef").and_then(|role| serde_json::from_value(role.clone()).ok()).unwrap_or_default();
    let plural = match &*reference.kind {
        "Role" => "roles",
        "ClusterRole" => "clusterroles",
        _ => "",
    };
    let target = Target {
        group: GROUP.to_owned(),
        version: "*".to_owned(),
        resource: plural.to_owned(),
        namespace: call.target.namespace.clone(),
        name: Some(reference.name.to_string()),
        subresource: None,
    };
    if !plural.is_empty() && core.authz.allows(&call.user, &Attributes::resource("bind", &target)) {
        return Ok(None);
    }
    let policy = core.authz.policy();
    let Ok(rules) = policy.rules_of(&reference, call.namespace()) else {
        let singular = plural.strip_suffix('s').unwrap_or(plural);
        return Err(Status::not_found((GROUP, singular), &reference.name));
    };
    Ok(missing(&policy, &call.user, call.namespace(), &rules))
}

/// Says which of the rules the user does not have; nothing when he has them all.
fn missing(policy: &Policy, user: &UserInfo, namespace: Option<&str>, rules: &[Rule]) -> Option<String> {
    let own = policy.rules_for(user, namespace);
    let uncovered: Vec<Rule> =
        rules.iter().flat_map(Rule::atoms).filter(|atom| !own.iter().any(|rule| rule.covers(atom))).collect();
    if uncovered.is_empty() {
        return None;
    }
    let mut lines: Vec<String> = compact(uncovered).iter().map(ToString::to_string).collect();
    lines.sort_unstable();
    lines.dedup();
    let groups: Vec<String> = user.groups.iter().map(|group| go_quote(group)).collect();
    let mut why = format!(
        "user {} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        go_quote(&user.name),
        groups.join(" "),
        lines.join("\n"),
    );
    let errors = policy.missing(user, namespace);
    if !errors.is_empty() {
        let errors = sampan_api::status::aggregate(errors);
        why.push_str(&format!("; resolution errors: [{errors}]"));
    }
    Some(why)
}

/// Joins atoms that differ in their verb only.
fn compact(atoms: Vec<Rule>) -> Vec<Rule> {
    let mut joined: Vec<Rule> = Vec::new();
    for mut atom in atoms {
        let same = |rule: &&mut Rule| {
            rule.urls.is_empty()
                && atom.urls.is_empty()
                && rule.api_groups == atom.api_groups
                && rule.resources == atom.resources
                && rule.resource_names == atom.resource_names
        };
        match joined.iter_mut().find(same) {
            Some(rule) => rule.verbs.append(&mut atom.verbs),
            None => joined.push(atom),
        }
    }
    joined
}
