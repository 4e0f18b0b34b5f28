//! `authorization.k8s.io`: what a user may do, asked in advance.

use sampan_api::status::{FieldError, Status};
use serde_json::{Value, json};

use super::strings;
use crate::{
    authz::{Attributes, Verdict, rule::Rule},
    call::{Call, text},
    core::Core,
    request::Target,
    user::UserInfo,
};

/// Answers whether somebody may do something.
pub(super) fn access(core: &Core, call: &Call, review: &mut Value) -> Result<(), Status> {
    let kind = call.endpoint.resource.plural;
    let own = kind == "selfsubjectaccessreviews";
    let errors = check(kind, review, call.namespace());
    if !errors.is_empty() {
        return Err(Status::invalid(call.endpoint.resource, "", &errors));
    }
    let somebody;
    let user = if own {
        &call.user
    } else {
        somebody = subject(review);
        &somebody
    };
    let (verdict, error) = decide(core, user, review);
    let mut status = json!({"allowed": verdict.allowed});
    if !verdict.reason.is_empty() {
        status["reason"] = verdict.reason.into();
    }
    if !error.is_empty() {
        status["evaluationError"] = error.into();
    }
    review["status"] = status;
    Ok(())
}

/// What is wrong with the question.
fn check(kind: &str, review: &Value, namespace: Option<&str>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &review["spec"];
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if !resource.is_null() && !path.is_null() {
        let why = "cannot be specified in combination with resourceAttributes";
        errors.push(FieldError::invalid("spec.nonResourceAttributes", path.clone(), why));
    }
    if resource.is_null() && path.is_null() {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(FieldError::invalid("spec.resourceAttributes", Value::Null, why));
    }
    if kind != "selfsubjectaccessreviews"
        && text(spec, "/user").is_empty()
        && strings(spec.get("groups")).is_empty()
    {
        let why = "at least one of user or group must be specified";
        errors.push(FieldError::invalid("spec.user", "", why));
    }
    for name in ["fieldSelector", "labelSelector"] {
        selector(&mut errors, name, &resource[name]);
    }
    let local = kind == "localsubjectaccessreviews";
    let unexpected = |(key, value): (&String, &Value)| {
        !(value.is_null() || key == "managedFields" || (local && key == "namespace"))
    };
    if review["metadata"].as_object().is_some_and(|metadata| metadata.iter().any(unexpected)) {
        let why = if local { "must be empty except for namespace" } else { "must be empty" };
        errors.push(FieldError::invalid("metadata", review["metadata"].clone(), why));
    }
    if local {
        let asked = text(resource, "/namespace");
        if !resource.is_null() && asked != namespace.unwrap_or_default() {
            let why = "must match metadata.namespace";
            errors.push(FieldError::invalid("spec.resourceAttributes.namespace", asked, why));
        }
        if !path.is_null() {
            let why = "disallowed on this kind of request";
            errors.push(FieldError::invalid("spec.nonResourceAttributes", path.clone(), why));
        }
    }
    errors
}

fn selector(errors: &mut Vec<FieldError>, name: &str, selector: &Value) {
    if selector.is_null() {
        return;
    }
    let path = format!("spec.resourceAttributes.{name}");
    let raw = text(selector, "/rawSelector");
    let requirements = selector["requirements"].as_array().map_or(0, Vec::len);
    if !raw.is_empty() && requirements > 0 {
        let why = "may not specified at the same time as requirements";
        errors.push(FieldError::invalid(format!("{path}.rawSelector"), raw, why));
    }
    if raw.is_empty() && requirements == 0 {
        let why = format!("when {path} is specified, requirements or rawSelector is required");
        errors.push(FieldError::required(format!("{path}.requirements"), why));
    }
}

fn subject(review: &Value) -> UserInfo {
    let extra = review.pointer("/spec/extra").and_then(Value::as_object).into_iter().flatten();
    UserInfo {
        name: text(review, "/spec/user").to_owned(),
        uid: Some(text(review, "/spec/uid").to_owned()).filter(|uid| !uid.is_empty()),
        groups: strings(review.pointer("/spec/groups")),
        extra: extra.map(|(key, values)| (key.to_lowercase(), strings(Some(values)))).collect(),
    }
}

/// The field selector of the question as text, and what is wrong with it.
fn fields(attributes: &Value) -> (String, String) {
    let selector = &attributes["fieldSelector"];
    let raw = text(selector, "/rawSelector");
    if !raw.is_empty() {
        return (raw.to_owned(), String::new());
    }
    let mut terms = Vec::new();
    let mut errors = Vec::new();
    for requirement in selector["requirements"].as_array().into_iter().flatten() {
        let values = strings(requirement.get("values"));
        let key = text(requirement, "/key");
        match (text(requirement, "/operator"), values.as_slice()) {
            (_, [_, _, ..]) => errors.push("fieldSelectors do not yet support multiple values".to_owned()),
            ("In", [value]) => terms.push(format!("{key}={value}")),
            ("NotIn", [value]) => terms.push(format!("{key}!={value}")),
            ("In" | "NotIn", _) => {
                errors.push("fieldSelectors in must have one value".to_owned());
            }
            ("Exists" | "DoesNotExist", _) => {
                let operator = text(requirement, "/operator");
                errors.push(format!("fieldSelectors do not yet support {operator}"));
            }
            (other, _) => errors.push(format!("{other:?} is not a valid field selector operator")),
        }
    }
    (terms.join(","), sampan_api::status::aggregate(errors))
}

/// Puts the question to the authorizer.
fn decide(core: &Core, user: &UserInfo, review: &Value) -> (Verdict, String) {
    if let Some(attributes) = review.pointer("/spec/nonResourceAttributes").filter(|v| v.is_object()) {
        let (verb, path) = (text(attributes, "/verb"), text(attributes, "/path"));
        return (core.decide(user, &Attributes::Path { verb, path }), String::new());
    }
    let attributes = &review["spec"]["resourceAttributes"];
    let field = |name: &str| Some(text(attributes, name).to_owned()).filter(|text| !text.is_empty());
    let target = Target {
        group: field("/group").unwrap_or_default(),
        version: field("/version").unwrap_or_default(),
        resource: field("/resource").unwrap_or_default(),
        namespace: field("/namespace"),
        name: field("/name"),
        subresource: field("/subresource"),
    };
    let (fields, error) = fields(attributes);
    let fields = Some(fields.as_str()).filter(|fields| !fields.is_empty());
    (
        core.decide(user, &Attributes::Resource { verb: text(attributes, "/verb"), target: &target, fields }),
        error,
    )
}

/// All that the user may do in a namespace, as far as it can be listed.
pub(super) fn rules(core: &Core, call: &Call, review: &mut Value) -> Result<(), Status> {
    let namespace = text(review, "/spec/namespace");
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let policy = core.authz.policy();
    let rules = policy.rules_for(&call.user, Some(namespace));
    let resource = |rule: &Rule| {
        let mut value = json!({
            "verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources,
        });
        if !rule.resource_names.is_empty() {
            value["resourceNames"] = json!(rule.resource_names);
        }
        value
    };
    let path = |rule: &Rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.urls});
    let resources: Vec<Value> =
        rules.iter().filter(|rule| !rule.resources.is_empty()).map(resource).collect();
    let paths: Vec<Value> = rules.iter().filter(|rule| !rule.urls.is_empty()).map(path).collect();
    let node = call.user.in_group("system:nodes") && call.user.name.starts_with("system:node:");
    let mut errors = policy.missing(&call.user, Some(namespace));
    if node {
        errors.insert(0, "node authorizer does not support user rule resolution".to_owned());
    }
    let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": node});
    if !errors.is_empty() {
        status["evaluationError"] = sampan_api::status::aggregate(errors).into();
    }
    *review = json!({
        "kind": "SelfSubjectRulesReview",
        "apiVersion": "authorization.k8s.io/v1",
        "metadata": {},
        "spec": {},
        "status": status,
    });
    Ok(())
}
