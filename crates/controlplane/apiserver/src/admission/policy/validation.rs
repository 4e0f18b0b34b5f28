//! Asking validating policies.

use std::{collections::BTreeMap, sync::Arc};

use sampan_api::status::{Cause, Details, Status};
use sampan_cel::{Bindings, Value as Cel, limits};
use serde_json::{Value, json};

use super::{
    Review,
    compile::{Binding, Policy, Validation},
    input::{self, Asker, Input, evaluate, hold, told},
    params,
};
use crate::{core::Core, mirror::Objects};

/// Bytes of an audit annotation's value; longer ones are cut.
const MAX_ANNOTATION: usize = 10 << 10;

/// A refusal.
struct Denial {
    policy: String,
    binding: Option<String>,
    message: String,
    reason: String,
}

/// What one evaluation of a policy says.
#[derive(Default)]
struct Outcome {
    /// By the place of the validation: the message and the reason.
    denials: Vec<(usize, String, String)>,
    annotations: Vec<(String, String)>,
    /// Audit annotations that could not be made.
    failed: Vec<String>,
}

/// Asks every policy that matches; the first refusal is told.
pub(super) async fn run(
    core: &Arc<Core>,
    review: &Review<'_>,
    policies: &Objects<Policy>,
    bindings: &Objects<Binding>,
) -> Result<(), Status> {
    let mut denials = Vec::new();
    for policy in policies.values() {
        let bound = bindings.values().filter(|binding| binding.policy == policy.name);
        let bound: Vec<&Arc<Binding>> = bound.collect();
        if !bound.is_empty() {
            ask(core, review, policy, &bound, &mut denials).await?;
        }
    }
    match denials.into_iter().next() {
        Some(denial) => Err(refusal(review, denial)),
        None => Ok(()),
    }
}

fn refusal(review: &Review<'_>, denial: Denial) -> Status {
    let Denial { policy, binding, message, reason } = denial;
    let message = match binding {
        Some(binding) => {
            format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {message}")
        }
        None => format!("ValidatingAdmissionPolicy '{policy}' denied request: {message}"),
    };
    let mut status = review.forbidden(&message);
    status.reason = if reason.is_empty() { "Invalid".to_owned() } else { reason };
    status.code = match status.reason.as_str() {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    let details = status.details.get_or_insert_with(Box::<Details>::default);
    details.causes.push(Cause { message, ..Cause::default() });
    status
}

async fn ask(
    core: &Arc<Core>,
    review: &Review<'_>,
    policy: &Policy,
    bound: &[&Arc<Binding>],
    denials: &mut Vec<Denial>,
) -> Result<(), Status> {
    let Some(constraints) = &policy.constraints else { return Ok(()) };
    let mut deny = |binding: Option<&Binding>, message: String, reason: &str| {
        denials.push(Denial {
            policy: policy.name.clone(),
            binding: binding.map(|binding| binding.name.clone()),
            message,
            reason: reason.to_owned(),
        });
    };
    let matched = match constraints.matches(core, review).await {
        Ok(Some(matched)) => matched,
        Ok(None) => return Ok(()),
        Err(_) if policy.ignore => return Ok(()),
        Err(error) => {
            deny(None, format!("failed to configure policy: {}", error.message), "");
            return Ok(());
        }
    };
    let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for binding in bound {
        let configured = applies(core, review, policy, binding).await;
        let params = match configured {
            Ok(params) => params,
            Err(_) if policy.ignore => continue,
            Err(why) => {
                deny(Some(binding), format!("failed to configure binding: {why}"), "");
                continue;
            }
        };
        if params.is_empty() {
            continue;
        }
        let namespace = input::namespace(core, review).await?;
        let input = Input::new(review, &matched, &review.object, review.old, &namespace);
        for param in params {
            let outcome = one(core, review, policy, &input, param.as_ref().unwrap_or(&Value::Null));
            act(review, policy, binding, &outcome, &mut deny);
            for (key, value) in outcome.annotations {
                let values = annotations.entry(key).or_default();
                if !values.contains(&value) {
                    values.push(value);
                }
            }
        }
    }
    for (key, values) in annotations {
        review.call.notes.annotate(format!("{}/{key}", policy.name), values.join(", "));
    }
    Ok(())
}

/// The parameters with which a binding applies; none when it does not.
pub(super) async fn applies(
    core: &Arc<Core>,
    review: &Review<'_>,
    policy: &Policy,
    binding: &Binding,
) -> Result<Vec<Option<Value>>, String> {
    if binding.unusable {
        return Err("a selector of the binding's matchResources is invalid".to_owned());
    }
    if let Some(constraints) = &binding.constraints
        && constraints.matches(core, review).await.map_err(|status| status.message)?.is_none()
    {
        return Ok(Vec::new());
    }
    params::collect(core, review, policy, binding).await
}

/// Does what the binding says should become of the refusals.
fn act(
    review: &Review<'_>,
    policy: &Policy,
    binding: &Binding,
    outcome: &Outcome,
    deny: &mut impl FnMut(Option<&Binding>, String, &str),
) {
    for (index, message, reason) in &outcome.denials {
        for action in &binding.actions {
            match action.as_str() {
                "Deny" => deny(Some(binding), message.clone(), reason),
                "Warn" => review.call.notes.warn(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {message}",
                    policy.name, binding.name
                )),
                "Audit" => {
                    let failure = json!([{
                        "message": message, "policy": policy.name, "binding": binding.name,
                        "expressionIndex": index, "validationActions": binding.actions,
                    }]);
                    let key = "validation.policy.admission.k8s.io/validation_failure";
                    review.call.notes.annotate(key, failure.to_string());
                }
                _ => {}
            }
        }
    }
    for message in &outcome.failed {
        deny(Some(binding), message.clone(), "");
    }
}

/// Evaluates a policy with one parameter.
fn one(core: &Arc<Core>, review: &Review<'_>, policy: &Policy, input: &Input<'_>, params: &Value) -> Outcome {
    let failed = |message: String| Outcome {
        denials: if policy.ignore { Vec::new() } else { vec![(0, message, String::new())] },
        ..Outcome::default()
    };
    if let Some(broken) = &policy.broken {
        return failed(broken.clone());
    }
    let asker = Asker { core, user: &review.call.user };
    let bindings = input.bind(policy, params);
    match hold(&policy.conditions, &bindings, &asker) {
        Ok(true) => {}
        Ok(false) => return Outcome::default(),
        Err(message) => return failed(message),
    }
    let mut outcome = Outcome::default();
    let mut budget = limits::RUNTIME_BUDGET;
    for (index, validation) in policy.validations.iter().enumerate() {
        match evaluate(&validation.program, &bindings, &mut budget, &asker) {
            Ok(Cel::Bool(true)) => {}
            Ok(_) => {
                let message = message(validation, &bindings, &mut budget, &asker);
                outcome.denials.push((index, message, validation.reason.clone()));
            }
            Err(_) if policy.ignore => {}
            Err(error) => {
                outcome.denials.push((index, told(&validation.expression, &error), String::new()));
                if budget == 0 {
                    return outcome;
                }
            }
        }
    }
    annotate(policy, &bindings, &asker, &mut outcome);
    outcome
}

/// What is said when a validation does not hold.
fn message<'a>(
    validation: &'a Validation,
    bindings: &Bindings<'a>,
    budget: &mut u64,
    asker: &Asker<'_>,
) -> String {
    if let Some(program) = &validation.message_program
        && let Ok(value) = evaluate(program, bindings, budget, asker)
        && let Some(text) = value.as_str().map(str::trim)
        && !text.is_empty()
        && text.len() <= limits::MAX_MESSAGE_BYTES
        && !text.contains('\n')
    {
        return text.to_owned();
    }
    match validation.message.as_str() {
        "" => format!("failed expression: {}", validation.expression),
        message => message.to_owned(),
    }
}

fn annotate<'a>(policy: &'a Policy, bindings: &Bindings<'a>, asker: &Asker<'_>, outcome: &mut Outcome) {
    let mut budget = limits::RUNTIME_BUDGET;
    for (key, program) in &policy.annotations {
        match evaluate(program, bindings, &mut budget, asker) {
            Ok(value) => {
                let Some(text) = value.as_str().map(str::trim).filter(|text| !text.is_empty()) else {
                    continue;
                };
                let mut end = text.len().min(MAX_ANNOTATION);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                outcome.annotations.push((key.clone(), text[..end].to_owned()));
            }
            Err(_) if policy.ignore => {}
            Err(error) => outcome.failed.push(error.to_string()),
        }
    }
}
