//! Admission webhooks: programs of the user that see objects on their way in, change them or refuse them.
//!
//! A configuration is compiled when it changes ([`config`]): selectors parsed, rules ready, TLS set up. A request that no
//! rule matches costs a walk over the rules. [`client`] keeps connections; [`review`] speaks `AdmissionReview`.

pub(crate) mod client;
mod config;
mod review;
pub(crate) mod rules;

use std::{borrow::Cow, sync::Arc, time::Instant};

use futures::future::join_all;
use sampan_api::{
    decode::FieldValidation,
    kinds::{Gvk, Resource, convert},
    patch,
    status::{Status, go_quote},
};
use serde_json::{Value, json};

pub(crate) use self::config::{Configuration, parse};
use self::{
    config::Hook,
    review::{Failure, Verdict},
};
use super::{Operation, Review};
use crate::{call::text, core::Core, metrics::Hooked, mirror::Mirror};

/// What webhooks have done to an object so far.
#[derive(Default)]
pub(crate) struct Progress {
    /// Those that want to be asked again when others change the object after them.
    invoked: Vec<String>,
    /// Those that are to be asked again.
    wanted: Vec<String>,
    /// The object as the last one left it.
    left: Option<Value>,
}

/// A webhook that matches, with the form in which it wants the object.
struct Matched {
    hook: Arc<Hook>,
    resource: &'static Resource,
    kind: Gvk,
}

/// Configurations of webhooks and policies are never shown to webhooks: a bad one could not be repaired.
fn is_exempt(review: &Review<'_>) -> bool {
    review.resource.group == "admissionregistration.k8s.io"
}

async fn hooks(mirror: &Mirror<Configuration>) -> Option<Arc<crate::mirror::Objects<Configuration>>> {
    mirror.settle().await;
    let objects = mirror.objects();
    (!objects.is_empty()).then_some(objects)
}

/// Lets the mutating webhooks that match change the object, one after the other.
pub(crate) async fn mutate(core: &Arc<Core>, review: &mut Review<'_>) -> Result<(), Status> {
    pass(core, review, 0).await
}

/// Asks those again that want to see what others made of the object.
pub(crate) async fn mutate_again(core: &Arc<Core>, review: &mut Review<'_>) -> Result<(), Status> {
    if review.hooks.left.as_ref().is_some_and(|left| *left != review.object) {
        review.hooks.wanted.append(&mut review.hooks.invoked);
    }
    pass(core, review, 1).await
}

async fn pass(core: &Arc<Core>, review: &mut Review<'_>, round: usize) -> Result<(), Status> {
    let Some(state) = core.admission.get().filter(|_| !is_exempt(review)) else { return Ok(()) };
    let Some(configurations) = hooks(&state.mutating).await else { return Ok(()) };
    let mut any = false;
    for (index, hook) in configurations.values().flat_map(|c| c.hooks.iter()).enumerate() {
        if round > 0 && !review.hooks.wanted.contains(&hook.id) {
            continue;
        }
        let Some(matched) = matching(core, hook, review).await? else { continue };
        any = true;
        let started = Instant::now();
        let result = change(core, &matched, review, round, index).await;
        observe(core, hook, review, "admit", started, &result);
        let changed = match result {
            Ok(changed) => changed,
            Err(Failure::Call(why)) if hook.ignore => {
                let key =
                    format!("failed-open.mutating.webhook.admission.k8s.io/round_{round}_index_{index}");
                review.call.notes.annotate(key, hook.name.clone());
                tracing::debug!(webhook = %hook.name, "failed open: {why}");
                false
            }
            Err(failure) => return Err(failure.status(&hook.name)),
        };
        if changed {
            let progress = &mut review.hooks;
            progress.wanted.append(&mut progress.invoked);
            review.again |= round == 0;
        }
        if hook.reinvoke {
            review.hooks.invoked.push(hook.id.clone());
        }
    }
    if any {
        review.hooks.left = Some(review.object.clone());
    }
    Ok(())
}

/// Asks one mutating webhook and takes in what it says. Whether the object changed.
async fn change(
    core: &Arc<Core>,
    matched: &Matched,
    review: &mut Review<'_>,
    round: usize,
    index: usize,
) -> Result<bool, Failure> {
    let hook = &matched.hook;
    let verdict = ask(core, matched, review).await?;
    let patch = review::patch_of(&verdict)?;
    let mut changed = false;
    if let Some(patch) = patch {
        if review.object.is_null() {
            let why = format!(
                "admission webhook {} attempted to modify the object, which is not supported for this operation",
                go_quote(&hook.name)
            );
            return Err(Failure::Refused(Box::new(Status::internal(why))));
        }
        let new = patched(matched, review, &patch)
            .map_err(|status| Failure::Refused(Box::new(Status::internal(status.message))))?;
        changed = new != review.object;
        review.object = new;
    }
    let said = json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": changed});
    let key = format!("mutation.webhook.admission.k8s.io/round_{round}_index_{index}");
    review.call.notes.annotate(key, said.to_string());
    Ok(changed)
}

/// The object after the patch: checked against its kind, with defaults for what the patch left out.
fn patched(matched: &Matched, review: &Review<'_>, body: &[u8]) -> Result<Value, Status> {
    let shown = shown(matched, review, &review.object);
    let raw = patch::json(&shown, body)?;
    let endpoint = &review.call.endpoint;
    let raw = if std::ptr::eq(matched.resource, review.resource) {
        raw
    } else {
        convert_to(matched.resource, review.resource, review.kind, raw)
    };
    if review.kind != review.resource.gvk() {
        return patch::checked(review.kind, raw, Vec::new(), body, FieldValidation::Ignore)
            .map(|(new, _)| new);
    }
    let (mut new, _) = endpoint.patched(raw, Vec::new(), body, FieldValidation::Ignore)?;
    endpoint.defaults(&mut new);
    Ok(new)
}

/// Asks the validating webhooks that match, all at once; the first refusal by name counts.
pub(crate) async fn validate(core: &Arc<Core>, review: &mut Review<'_>) -> Result<(), Status> {
    let Some(state) = core.admission.get().filter(|_| !is_exempt(review)) else { return Ok(()) };
    let Some(configurations) = hooks(&state.validating).await else { return Ok(()) };
    let mut matches = Vec::new();
    for hook in configurations.values().flat_map(|c| c.hooks.iter()) {
        matches.extend(matching(core, hook, review).await?);
    }
    let review: &Review<'_> = review;
    let asked = matches.iter().enumerate().map(|(index, matched)| refusal(core, matched, review, index));
    join_all(asked).await.into_iter().collect()
}

/// Asks one validating webhook; the refusal, if it is one.
async fn refusal(
    core: &Arc<Core>,
    matched: &Matched,
    review: &Review<'_>,
    index: usize,
) -> Result<(), Status> {
    let (hook, started) = (&matched.hook, Instant::now());
    let verdict = ask(core, matched, review).await;
    let result = verdict.and_then(|verdict| review::no_patch(&verdict).map(|()| false));
    observe(core, hook, review, "validating", started, &result);
    match result {
        Err(Failure::Call(why)) if hook.ignore => {
            let key = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}");
            review.call.notes.annotate(key, hook.name.clone());
            tracing::debug!(webhook = %hook.name, "failed open: {why}");
            Ok(())
        }
        Err(failure) => Err(failure.status(&hook.name)),
        Ok(_) => Ok(()),
    }
}

/// Puts the question and reads the answer.
async fn ask(core: &Arc<Core>, matched: &Matched, review: &Review<'_>) -> Result<Verdict, Failure> {
    let hook = &matched.hook;
    if review.dry_run && !hook.no_side_effects {
        let why = format!("admission webhook {} does not support dry run", go_quote(&hook.name));
        return Err(Failure::Refused(Box::new(Status::bad_request(why))));
    }
    let object = shown(matched, review, &review.object);
    let old = review.old.map(|old| shown(matched, review, old));
    let (uid, body) = review::request(matched, review, &object, old.as_deref())?;
    let reply = hook.remote.post(core, body.into(), hook.timeout).await;
    let reply = reply.map_err(|why| Failure::Call(format!("failed to call webhook: {why}")))?;
    let verdict = review::read(&uid, hook, &reply)?;
    for (key, value) in &verdict.annotations {
        review.call.notes.annotate(format!("{}/{key}", hook.name), value.clone());
    }
    verdict.warnings.iter().for_each(|warning| review.call.notes.warn(warning.clone()));
    if verdict.allowed { Ok(verdict) } else { Err(Failure::Refused(Box::new(verdict.refusal(&hook.name)))) }
}

/// Whether the webhook is to be asked, and in which form.
async fn matching(
    core: &Arc<Core>,
    hook: &Arc<Hook>,
    review: &Review<'_>,
) -> Result<Option<Matched>, Status> {
    let found = if hook.rules.iter().any(|rule| rule.matches(review, review.resource)) {
        Some(review.resource)
    } else if hook.equivalent {
        equivalents(core, review.resource)
            .find(|other| hook.rules.iter().any(|rule| rule.matches(review, other)))
    } else {
        None
    };
    let Some(resource) = found else { return Ok(None) };
    if !rules::object_selected(&hook.objects, review) {
        return Ok(None);
    }
    if !rules::namespace_selected(core, &hook.namespaces, review).await? {
        return Ok(None);
    }
    let kind = if review.kind == review.resource.gvk() { resource.gvk() } else { review.kind };
    if let Some(conditions) = &hook.conditions {
        match conditions.hold(core, review, resource, kind) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(why) if hook.ignore => {
                tracing::debug!(webhook = %hook.name, "match conditions failed open: {why}");
                return Ok(None);
            }
            Err(why) => return Err(Status::forbidden(review.resource, review.name(), why)),
        }
    }
    Ok(Some(Matched { hook: hook.clone(), resource, kind }))
}

/// Other resources that show the same stored objects.
pub(super) fn equivalents(
    core: &Core,
    resource: &'static Resource,
) -> impl Iterator<Item = &'static Resource> {
    let stored = resource.stored_as();
    let served = core.endpoints.served();
    let others: Vec<&'static Resource> = served
        .endpoints
        .iter()
        .map(|endpoint| endpoint.resource)
        .filter(|other| !std::ptr::eq(*other, resource))
        .filter(|other| {
            let same_storage = stored
                .is_some_and(|stored| other.stored_as().is_some_and(|other| std::ptr::eq(other, stored)));
            same_storage || (other.group == resource.group && other.plural == resource.plural)
        })
        .collect();
    others.into_iter()
}

/// The object in the form that the webhook wants.
fn shown<'a>(matched: &Matched, review: &Review<'_>, object: &'a Value) -> Cow<'a, Value> {
    if object.is_null() || std::ptr::eq(matched.resource, review.resource) {
        return Cow::Borrowed(object);
    }
    Cow::Owned(convert_to(review.resource, matched.resource, matched.kind, object.clone()))
}

pub(super) fn convert_to(from: &Resource, to: &Resource, kind: Gvk, object: Value) -> Value {
    let mut object = convert::from_stored(to, convert::to_stored(from, object));
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind.into();
    object
}

fn observe(
    core: &Core,
    hook: &Hook,
    review: &Review<'_>,
    kind: &'static str,
    started: Instant,
    result: &Result<bool, Failure>,
) {
    let (code, error) = match result {
        Ok(_) => (200, ""),
        Err(Failure::Call(_)) => (503, "calling_webhook_error"),
        Err(Failure::Refused(status)) => (status.code, "no_error"),
    };
    core.metrics.hooked(Hooked {
        name: hook.name.clone(),
        kind,
        operation: review.operation.name(),
        code,
        error,
        open: matches!(result, Err(Failure::Call(_))) && hook.ignore,
        took: started.elapsed(),
    });
}

/// What the request's query says, as the options object of its verb.
pub(super) fn options(review: &Review<'_>) -> Value {
    let call = review.call;
    if let Some(options) = call.connect_or_delete_options(review.operation) {
        return options;
    }
    let kind = match (review.operation, call.verb) {
        (Operation::Update, "patch") => "PatchOptions",
        (Operation::Update, _) => "UpdateOptions",
        _ => "CreateOptions",
    };
    let mut out = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if review.dry_run {
        out["dryRun"] = json!(["All"]);
    }
    for key in ["fieldManager", "fieldValidation"] {
        if let Some(value) = call.query.get(key) {
            out[key] = value.into();
        }
    }
    out
}

impl crate::call::Call {
    /// `DeleteOptions` of a delete; nothing for a stream, whose options are its object.
    fn connect_or_delete_options(&self, operation: Operation) -> Option<Value> {
        match operation {
            Operation::Connect => Some(Value::Null),
            Operation::Delete => {
                let mut options = self.delete_options().unwrap_or_else(|_| json!({}));
                options["kind"] = "DeleteOptions".into();
                options["apiVersion"] = "meta.k8s.io/v1".into();
                if text(&options, "/propagationPolicy").is_empty()
                    && let Some(policy) = self.query.get("propagationPolicy")
                {
                    options["propagationPolicy"] = policy.into();
                }
                Some(options)
            }
            Operation::Create | Operation::Update => None,
        }
    }
}
