//! What policies and bindings themselves have to look like.

use sampan_api::{
    status::{FieldError, Status},
    validation::names,
};
use serde_json::Value;

use super::{GROUP, Kind, Operation, Review, compile::Policy};
use crate::call::text;

/// Refuses a policy that cannot work.
pub(super) fn check(review: &Review<'_>) -> Result<(), Status> {
    let kind = if review.is_main(GROUP, "validatingadmissionpolicies") {
        Kind::Validating
    } else if review.is_main(GROUP, "mutatingadmissionpolicies") {
        Kind::Mutating
    } else {
        return Ok(());
    };
    if !matches!(review.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    // What was stored before stays valid: only a change of the spec is looked at.
    if review.old.is_some_and(|old| old.get("spec") == review.object.get("spec")) {
        return Ok(());
    }
    let errors = errors(kind, &review.object);
    if errors.is_empty() {
        return Ok(());
    }
    let name = text(&review.object, "/metadata/name");
    Err(Status::invalid((GROUP, review.resource.kind), name, &errors))
}

fn items<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn errors(kind: Kind, object: &Value) -> Vec<FieldError> {
    let spec = &object["spec"];
    let mut errors = Vec::new();
    let mut required =
        |field: &str, detail: &str| errors.push(FieldError::required(format!("spec.{field}"), detail));
    match spec.get("matchConstraints").filter(|constraints| constraints.is_object()) {
        None => required("matchConstraints", ""),
        Some(constraints) if items(constraints, "resourceRules").is_empty() => {
            required("matchConstraints.resourceRules", "");
        }
        Some(_) => {}
    }
    if kind == Kind::Mutating && items(spec, "mutations").is_empty() {
        required("mutations", "mutations must contain at least one item");
    }
    if kind == Kind::Validating
        && items(spec, "validations").is_empty()
        && items(spec, "auditAnnotations").is_empty()
    {
        let detail = "validations or auditAnnotations must contain at least one item";
        required("validations", detail);
        required("auditAnnotations", detail);
    }
    if let Some(params) = spec.get("paramKind").filter(|kind| kind.is_object()) {
        for key in ["apiVersion", "kind"] {
            if text(params, &format!("/{key}")).is_empty() {
                required(&format!("paramKind.{key}"), "");
            }
        }
    }
    for (index, validation) in items(spec, "validations").iter().enumerate() {
        if text(validation, "/expression").trim().is_empty() {
            required(&format!("validations[{index}].expression"), "expression is not specified");
        }
    }
    named(spec, &mut errors);
    reasons(spec, &mut errors);
    let empty: Vec<String> = errors.iter().map(|error| error.field.clone()).collect();
    for wrong in Policy::wrong(kind, object) {
        let field = format!("spec.{}", wrong.field);
        if !empty.contains(&field) {
            errors.push(FieldError::invalid(field, wrong.expression, wrong.detail));
        }
    }
    errors
}

/// Names of conditions, variables and annotations.
fn named(spec: &Value, errors: &mut Vec<FieldError>) {
    for (list, key, what) in [
        ("matchConditions", "name", "expression"),
        ("variables", "name", "expression"),
        ("auditAnnotations", "key", "valueExpression"),
    ] {
        let mut known: Vec<&str> = Vec::new();
        for (index, item) in items(spec, list).iter().enumerate() {
            let field = |key: &str| format!("spec.{list}[{index}].{key}");
            let name = text(item, &format!("/{key}"));
            if name.is_empty() {
                let detail = if list == "variables" { "name is not specified" } else { "" };
                errors.push(FieldError::required(field(key), detail));
            } else if known.contains(&name) {
                errors.push(FieldError::duplicate(field(key), name));
            } else if list == "variables" && !is_identifier(name) {
                errors.push(FieldError::invalid(field(key), name, "name is not a valid CEL identifier"));
            } else if list != "variables" {
                let wrong = names::qualified(name);
                errors.extend(wrong.into_iter().map(|why| FieldError::invalid(field(key), name, why)));
            }
            known.push(name);
            if text(item, &format!("/{what}")).trim().is_empty() {
                let detail = format!("{what} is not specified");
                errors.push(FieldError::required(field(what), detail));
            }
        }
    }
}

fn is_identifier(name: &str) -> bool {
    sampan_cel::escape(name).is_some_and(|escaped| escaped == name)
}

fn reasons(spec: &Value, errors: &mut Vec<FieldError>) {
    const KNOWN: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
    for (index, validation) in items(spec, "validations").iter().enumerate() {
        let reason = text(validation, "/reason");
        if !reason.is_empty() && !KNOWN.contains(&reason) {
            let field = format!("spec.validations[{index}].reason");
            errors.push(FieldError::not_supported(field, reason, &KNOWN));
        }
        let message = text(validation, "/message");
        if message.contains('\n') {
            let field = format!("spec.validations[{index}].message");
            errors.push(FieldError::invalid(field, message, "message must not contain line breaks"));
        }
    }
}
