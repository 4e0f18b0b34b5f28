//! Applying mutating policies.

use std::sync::Arc;

use sampan_api::{
    apply::{self, Root},
    decode::FieldValidation,
    patch,
    status::{Cause, Details, Status},
};
use sampan_cel::{List, Map, Value as Cel, limits};
use serde_json::Value;

use super::{
    Review,
    compile::{Binding, Mutation, Policy},
    input::{self, Asker, Input, conditions_hold, evaluate, shown, told},
    matching::Matched,
    validation::applies,
};
use crate::{admission::webhook::convert_to, core::Core, mirror::Objects};

/// Times that policies which ask for it are evaluated again.
const ROUNDS: usize = 2;

/// A policy with one binding and one parameter.
struct Invocation<'p> {
    policy: &'p Policy,
    binding: &'p Binding,
    matched: Matched,
    param: Value,
}

/// Applies every policy that matches, in the order of their names; those that ask for it once more when others changed
/// the object after them.
pub(super) async fn run(
    core: &Arc<Core>,
    review: &mut Review<'_>,
    policies: &Objects<Policy>,
    bindings: &Objects<Binding>,
) -> Result<(), Status> {
    let mut failures = Vec::new();
    let mut invocations = Vec::new();
    for policy in policies.values() {
        for binding in bindings.values().filter(|binding| binding.policy == policy.name) {
            match invoked(core, review, policy, binding).await {
                Ok(found) => invocations.extend(found),
                Err(_) if policy.ignore => {}
                Err(message) => failures.push(failure(policy, Some(binding), &message, false)),
            }
        }
    }
    if !invocations.is_empty() {
        let namespace = input::namespace(core, review).await?;
        let mut changed_after = vec![true; invocations.len()];
        for round in 0..ROUNDS {
            for at in 0..invocations.len() {
                let invocation = &invocations[at];
                if !changed_after[at] || (round > 0 && !invocation.policy.reinvoke) {
                    continue;
                }
                changed_after[at] = false;
                let before = review.object.clone();
                let wrong = invoke(core, review, invocation, &namespace);
                let denied = wrong.into_iter().filter(|_| !invocation.policy.ignore);
                failures
                    .extend(denied.map(|m| failure(invocation.policy, Some(invocation.binding), &m, true)));
                if review.object != before {
                    for (other, changed) in changed_after.iter_mut().enumerate() {
                        *changed |= other != at;
                    }
                }
            }
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(refusal(review, failures)) }
}

/// A sentence, and whether an expression is to blame.
fn failure(policy: &Policy, binding: Option<&Binding>, message: &str, invalid: bool) -> (String, bool) {
    let name = &policy.name;
    let sentence = match binding {
        Some(binding) => format!("policy '{name}' with binding '{}' denied request: {message}", binding.name),
        None => format!("policy {name:?} denied request: {message}"),
    };
    (sentence, invalid)
}

fn refusal(review: &Review<'_>, failures: Vec<(String, bool)>) -> Status {
    let mut status = review.forbidden("admission request denied by policy");
    if let Some((message, invalid)) = failures.first() {
        status.message.clone_from(message);
        if *invalid {
            status.reason = "Invalid".to_owned();
        }
    }
    let details = status.details.get_or_insert_with(Box::<Details>::default);
    details.causes.extend(failures.into_iter().map(|(message, _)| Cause { message, ..Cause::default() }));
    status
}

async fn invoked<'p>(
    core: &Arc<Core>,
    review: &Review<'_>,
    policy: &'p Policy,
    binding: &'p Binding,
) -> Result<Vec<Invocation<'p>>, String> {
    let Some(constraints) = &policy.constraints else { return Ok(Vec::new()) };
    let matched = constraints.matches(core, review).await.map_err(|status| status.message)?;
    let Some(matched) = matched else { return Ok(Vec::new()) };
    let params = applies(core, review, policy, binding).await;
    let params = params.map_err(|why| format!("failed to configure binding: {why}"))?;
    let invocation =
        |param: Option<Value>| Invocation { policy, binding, matched, param: param.unwrap_or_default() };
    Ok(params.into_iter().map(invocation).collect())
}

/// Applies the mutations of a policy, one after the other; what goes wrong is told.
fn invoke(
    core: &Arc<Core>,
    review: &mut Review<'_>,
    invocation: &Invocation<'_>,
    namespace: &Value,
) -> Vec<String> {
    let Invocation { policy, matched, param, .. } = invocation;
    if let Some(broken) = &policy.broken {
        return vec![broken.clone()];
    }
    let asker = Asker { core, user: &review.call.user };
    let input = Input::new(review, matched, &review.object, review.old, namespace);
    match conditions_hold(policy, &input.bind(policy, param), &asker) {
        Ok(true) => {}
        Ok(false) => return Vec::new(),
        Err(message) => return vec![message],
    }
    drop(input);
    let mut wrong = Vec::new();
    for mutation in &policy.mutations {
        let input = Input::new(review, matched, &review.object, review.old, namespace);
        match part(core, review, policy, mutation, &input, param) {
            Ok(part) => {
                drop(input);
                match changed(core, review, matched, part) {
                    Ok(Some(object)) => review.object = object,
                    Ok(None) => {}
                    Err(message) => wrong.push(message),
                }
            }
            Err(message) => wrong.push(message),
        }
    }
    wrong
}

/// What a mutation yields.
enum Part {
    Configuration(Value),
    Patch(Value),
}

fn part(
    core: &Core,
    review: &Review<'_>,
    policy: &Policy,
    mutation: &Mutation,
    input: &Input<'_>,
    param: &Value,
) -> Result<Part, String> {
    let bindings = input.bind(policy, param);
    let asker = Asker { core, user: &review.call.user };
    let mut budget = limits::RUNTIME_BUDGET;
    let (Mutation::Apply(expression, program) | Mutation::Patch(expression, program)) = mutation;
    let value =
        evaluate(program, &bindings, &mut budget, &asker).map_err(|error| told(expression, &error))?;
    match mutation {
        Mutation::Apply(..) => {
            check_names(&value, "Object").map_err(|why| format!("type mismatch: {why}"))?
        }
        Mutation::Patch(..) => {
            let operations = match &value {
                Cel::List(list) => list,
                _ => &List::Json(&[], None),
            };
            for operation in operations.iter() {
                let operation = operation.map_err(|error| error.to_string())?;
                if let Cel::Map(map) = &operation
                    && let Some(Ok(Cel::Map(Map::Struct(name, _)))) = map.find("value")
                    && let Some(Ok(value)) = map.find("value")
                {
                    check_names(&value, &name).map_err(|why| format!("type mismatch: {why}"))?;
                }
            }
        }
    }
    let json = value.to_json().map_err(|error| error.to_string())?;
    Ok(match mutation {
        Mutation::Apply(..) => Part::Configuration(json),
        Mutation::Patch(..) => Part::Patch(json),
    })
}

/// The type of each part of an object is named after the field that it is in.
fn check_names(value: &Cel<'_>, expected: &str) -> Result<(), String> {
    match value {
        Cel::Map(Map::Struct(name, _)) if &**name != expected => Err(format!(
            "unexpected type name {name:?}, expected {expected:?}, which matches field name path from root Object type"
        )),
        Cel::Map(map @ Map::Struct(..)) => {
            for (field, value) in map.entries().map_err(|error| error.to_string())? {
                check_names(&value, &format!("{expected}.{}", field.as_str().unwrap_or_default()))?;
            }
            Ok(())
        }
        Cel::List(list) => {
            list.iter().try_for_each(|item| check_names(&item.map_err(|error| error.to_string())?, expected))
        }
        _ => Ok(()),
    }
}

/// The object with the part applied; nothing when a test of a patch fails.
fn changed(core: &Core, review: &Review<'_>, matched: &Matched, part: Part) -> Result<Option<Value>, String> {
    let object = shown(matched, review, &review.object).into_owned();
    let endpoint = &review.call.endpoint;
    let (raw, body) = match part {
        Part::Configuration(mut part) => {
            let (Some(fields), Some(of)) = (part.as_object_mut(), object.as_object()) else {
                return Err("invalid return type".to_owned());
            };
            for key in ["apiVersion", "kind"] {
                fields.insert(key.to_owned(), of.get(key).cloned().unwrap_or_default());
            }
            let root = root(core, matched);
            let merged = apply::merge_configuration(&root, &object, &part);
            (merged.map_err(|why| format!("error applying patch: {why}"))?, Vec::new())
        }
        Part::Patch(patch) => {
            let body = patch.to_string().into_bytes();
            match patch::json(&object, &body) {
                Ok(object) => (object, body),
                Err(status)
                    if status.message.contains("test failed") || status.message.contains("testing value") =>
                {
                    return Ok(None);
                }
                Err(status) => return Err(format!("JSON Patch: {}", status.message)),
            }
        }
    };
    let raw = if std::ptr::eq(matched.resource, review.resource) {
        raw
    } else {
        convert_to(matched.resource, review.resource, review.kind, raw)
    };
    let told = |status: Status| status.message;
    if review.kind != review.resource.gvk() {
        let checked = patch::checked(review.kind, raw, Vec::new(), &body, FieldValidation::Ignore);
        return checked.map(|(new, _)| Some(new)).map_err(told);
    }
    let (mut new, _) = endpoint.patched(raw, Vec::new(), &body, FieldValidation::Ignore).map_err(told)?;
    endpoint.defaults(&mut new);
    Ok(Some(new))
}

fn root(core: &Core, matched: &Matched) -> Root {
    let kind = matched.kind;
    if let Some(root) = Root::builtin(kind.group, kind.version, kind.kind) {
        return root;
    }
    let _ = core;
    Root::deduced()
}
