//! Whether the expressions of policies and webhooks compile: what is wrong with them is told when they are stored.

use sampan_api::{kinds::Resource, status::FieldError};
use serde_json::Value;

use super::{Conditions, GROUP, Kind, compile::Policy};

/// What does not compile in an object of the policies' group; what was stored before stays valid.
pub(crate) fn compile_errors(resource: &Resource, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    if resource.group != GROUP {
        return Vec::new();
    }
    let kind = match resource.kind {
        "ValidatingAdmissionPolicy" => Kind::Validating,
        "MutatingAdmissionPolicy" => Kind::Mutating,
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => return webhooks(object, old),
        _ => return Vec::new(),
    };
    if old.is_some_and(|old| old.get("spec") == object.get("spec")) {
        return Vec::new();
    }
    let wrong = Policy::wrong(kind, object).into_iter();
    // That an expression is missing is said already.
    let wrong = wrong.filter(|wrong| !wrong.expression.trim().is_empty());
    wrong
        .map(|wrong| FieldError::invalid(format!("spec.{}", wrong.field), wrong.expression, wrong.detail))
        .collect()
}

fn hooks(object: &Value) -> &[Value] {
    object.get("webhooks").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn webhooks(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let conditions =
        |object| hooks(object).iter().map(|hook| hook.get("matchConditions")).collect::<Vec<_>>();
    if old.is_some_and(|old| conditions(old) == conditions(object)) {
        return Vec::new();
    }
    let mut errors = Vec::new();
    for (index, hook) in hooks(object).iter().enumerate() {
        let wrong = Conditions::wrong(hook).into_iter();
        let wrong = wrong.filter(|wrong| !wrong.expression.trim().is_empty());
        errors.extend(wrong.map(|wrong| {
            let field = format!("webhooks[{index}].{}", wrong.field);
            FieldError::invalid(field, wrong.expression, wrong.detail)
        }));
    }
    errors
}
