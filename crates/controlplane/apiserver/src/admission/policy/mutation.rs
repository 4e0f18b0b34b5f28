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
    input::{self, Asker, Input, evaluate, hold, shown, told},
    matching::Matched,
    validation::applies,
};
use crate::{admission::webhook::convert_to, call::text, core::Core, mirror::Objects};

/// What mutating policies have done to an object so far.
#[derive(Default)]
pub(crate) struct Progress {
    /// Those that want to be evaluated again when others change the object after them.
    invoked: Vec<String>,
    /// Those that are to be evaluated again.
    wanted: Vec<String>,
    /// The object as the last one left it.
    left: Option<Value>,
}

/// A policy with one binding and one parameter.
struct Invocation<'p> {
    policy: &'p Policy,
    binding: &'p Binding,
    matched: Matched,
    param: Value,
}

impl Invocation<'_> {
    /// Unlike any other's.
    fn id(&self) -> String {
        let (namespace, name) =
            (text(&self.param, "/metadata/namespace"), text(&self.param, "/metadata/name"));
        format!("{}/{}/{namespace}/{name}", self.policy.name, self.binding.name)
    }
}

/// Applies every policy that matches, in the order of their names. The second round, after plugins and webhooks had
/// their turn, is for those that ask for it and have reason to.
pub(super) async fn run(
    core: &Arc<Core>,
    review: &mut Review<'_>,
    policies: &Objects<Policy>,
    bindings: &Objects<Binding>,
    round: usize,
) -> Result<(), Status> {
    let progress = &mut review.policies;
    if round > 0 && progress.left.as_ref().is_some_and(|left| *left != review.object) {
        progress.wanted.append(&mut progress.invoked);
    }
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
        let mut touched = false;
        for invocation in &invocations {
            let id = invocation.id();
            if round > 0 && !review.policies.wanted.contains(&id) {
                continue;
            }
            let before = review.object.clone();
            let Some(wrong) = invoke(core, review, invocation, &namespace) else { continue };
            let denied = wrong.into_iter().filter(|_| !invocation.policy.ignore);
            failures.extend(denied.map(|m| failure(invocation.policy, Some(invocation.binding), &m, true)));
            touched = true;
            let progress = &mut review.policies;
            if review.object != before {
                progress.wanted.append(&mut progress.invoked);
            }
            if invocation.policy.reinvoke {
                progress.invoked.push(id);
            }
        }
        let progress = &mut review.policies;
        if touched {
            progress.wanted.append(&mut progress.invoked);
            review.again |= round == 0;
        }
        progress.left = Some(review.object.clone());
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

/// Applies the mutations of a policy, one after the other; what goes wrong is told. Nothing when its conditions do not
/// hold.
fn invoke(
    core: &Arc<Core>,
    review: &mut Review<'_>,
    invocation: &Invocation<'_>,
    namespace: &Value,
) -> Option<Vec<String>> {
    let Invocation { policy, matched, param, .. } = invocation;
    if let Some(broken) = &policy.broken {
        return Some(vec![broken.clone()]);
    }
    let asker = Asker { core, user: &review.call.user };
    let input = Input::new(review, matched, &review.object, review.old, namespace);
    match hold(&policy.conditions, &input.bind(policy, param), &asker) {
        Ok(true) => {}
        Ok(false) => return None,
        Err(message) => return Some(vec![message]),
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
    Some(wrong)
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

/// How configurations are merged into the matched kind: by the schema facts, or the definition's schema.
fn root(core: &Core, matched: &Matched) -> Root {
    let kind = matched.kind;
    if let Some(root) = Root::builtin(kind.group, kind.version, kind.kind) {
        return root;
    }
    let served = core.endpoints.served();
    let endpoint = served.of_kind(kind.group, kind.version, kind.kind);
    let custom = endpoint.and_then(|endpoint| endpoint.custom.as_ref());
    custom.map_or_else(Root::deduced, |custom| custom.apply_type().clone())
}
