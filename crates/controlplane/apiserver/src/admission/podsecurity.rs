//! PodSecurity: what pods of a namespace are allowed, by the levels of the Pod Security Standards
//! (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>). Labels of the namespace say which level and
//! version are enforced, warned of and noted for the audit log.

mod checks;

use std::{collections::BTreeMap, sync::Arc};

use sampan_api::status::{FieldError, FieldPath, Status, go_quote};
use sampan_store::{Range, prefix_end};
use serde_json::Value;

use super::{Operation, Review};
use crate::{call::text, core::Core, storage::store_error};

const LABELS: &str = "pod-security.kubernetes.io/";
/// Pods that are looked at when a namespace's level changes.
const MOST_PODS: usize = 3000;
/// Parts of a pod that say nothing about how it runs.
const IGNORED: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// How much pods may do, the most first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

/// A level as some minor version of Kubernetes defined it; none for the latest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standard {
    level: Level,
    minor: Option<u32>,
}

/// What a namespace demands.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Policy {
    enforce: Standard,
    audit: Standard,
    warn: Standard,
    /// What is wrong with the labels.
    errors: Vec<FieldError>,
}

impl std::fmt::Display for Standard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            None => write!(f, "{level}:latest"),
            Some(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

impl Standard {
    /// Why a pod is not allowed: reason and detail of each check that fails.
    fn broken(self, metadata: &Value, spec: &Value) -> Vec<(String, String)> {
        checks::run(self.level, self.minor, metadata, spec)
    }
}

fn details(broken: &[(String, String)]) -> String {
    let one = |(reason, detail): &(String, String)| {
        if detail.is_empty() { reason.clone() } else { format!("{reason} ({detail})") }
    };
    broken.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl Policy {
    /// From a namespace's labels. What cannot be read is restricted where it is enforced, and nothing elsewhere.
    pub(crate) fn of(labels: &Value) -> Self {
        let mut policy = Self::default();
        let mut errors = Vec::new();
        let mut read = |mode: &str, standard: &mut Standard, fallback: Level| -> (bool, bool, bool) {
            let label = |suffix: &str| labels.get(format!("{LABELS}{mode}{suffix}")).and_then(Value::as_str);
            let invalid = |suffix: &str, value: &str, why: &str| {
                let path = FieldPath::new("metadata.labels").key(&format!("{LABELS}{mode}{suffix}"));
                FieldError::invalid(path, value, why)
            };
            let mut good = false;
            if let Some(text) = label("") {
                let level = match text {
                    "privileged" => Some(Level::Privileged),
                    "baseline" => Some(Level::Baseline),
                    "restricted" => Some(Level::Restricted),
                    _ => None,
                };
                good = level.is_some();
                standard.level = level.unwrap_or(fallback);
                if !good {
                    errors.push(invalid("", text, "must be one of privileged, baseline, restricted"));
                }
            }
            if let Some(text) = label("-version") {
                match version(text) {
                    Some(minor) => standard.minor = minor,
                    None => errors.push(invalid("-version", text, "must be \"latest\" or \"v1.x\"")),
                }
            }
            (good, label("").is_some(), label("-version").is_some())
        };
        let (enforced, _, _) = read("enforce", &mut policy.enforce, Level::Restricted);
        read("audit", &mut policy.audit, Level::Privileged);
        let (_, warned, versioned) = read("warn", &mut policy.warn, Level::Privileged);
        if !warned && enforced && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if !versioned {
                policy.warn.minor = policy.enforce.minor;
            }
        }
        policy.errors = errors;
        policy
    }

    fn is_privileged(&self) -> bool {
        let free = |standard: &Standard| standard.level == Level::Privileged;
        free(&self.enforce) && free(&self.audit) && free(&self.warn) && self.errors.is_empty()
    }
}

/// The minor version: none inside for the latest, none at all for what is no version.
fn version(text: &str) -> Option<Option<u32>> {
    if text == "latest" {
        return Some(None);
    }
    let digits = text.strip_prefix("v1.")?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if plain { digits.parse().ok().map(Some) } else { None }
}

/// Refuses, or warns of, pods that the namespace's level does not allow.
pub(crate) async fn check(core: &Arc<Core>, review: &Review<'_>) -> Result<(), Status> {
    if !matches!(review.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    match review.resource.plural {
        "namespaces" => namespace(core, review).await,
        "pods" => pod(core, review).await,
        _ => controller(core, review).await,
    }
}

async fn policy(core: &Core, review: &Review<'_>) -> Result<Policy, Status> {
    let name = review.call.namespace().unwrap_or_default();
    let found = core.namespace(name, false).await?;
    Ok(found.map(|namespace| namespace.policy.clone()).unwrap_or_default())
}

async fn pod(core: &Core, review: &Review<'_>) -> Result<(), Status> {
    if IGNORED.contains(&review.subresource) {
        return Ok(());
    }
    if review.old.is_some_and(|old| !changes_images(&review.object, old)) {
        return Ok(());
    }
    let policy = policy(core, review).await?;
    if policy.is_privileged() {
        return Ok(());
    }
    evaluate(review, &policy, &review.object, true)
}

/// Workloads are never refused for their pods, so that whoever makes the pods is told.
async fn controller(core: &Core, review: &Review<'_>) -> Result<(), Status> {
    let template = match (review.resource.group, review.resource.plural) {
        ("", "podtemplates") => "/template",
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "daemonsets" | "statefulsets")
        | ("batch", "jobs") => "/spec/template",
        ("batch", "cronjobs") => "/spec/jobTemplate/spec/template",
        _ => return Ok(()),
    };
    let Some(template) = review.object.pointer(template).filter(|_| review.subresource.is_empty()) else {
        return Ok(());
    };
    let policy = policy(core, review).await?;
    if policy.is_privileged() {
        return Ok(());
    }
    evaluate(review, &policy, template, false)
}

fn evaluate(review: &Review<'_>, policy: &Policy, pod: &Value, enforce: bool) -> Result<(), Status> {
    let notes = &review.call.notes;
    let (metadata, spec) =
        (pod.get("metadata").unwrap_or(&Value::Null), pod.get("spec").unwrap_or(&Value::Null));
    let said = |standard: Standard| {
        let broken = standard.broken(metadata, spec);
        let text = format!("PodSecurity {}: {}", go_quote(&standard.to_string()), details(&broken));
        (!broken.is_empty()).then_some(text)
    };
    if !policy.errors.is_empty() {
        let errors = sampan_api::status::aggregate(policy.errors.iter().map(ToString::to_string));
        notes.annotate(format!("{LABELS}error"), format!("Failed to parse policy: {errors}"));
    }
    let refused = enforce.then(|| said(policy.enforce)).flatten();
    if enforce {
        notes.annotate(format!("{LABELS}enforce-policy"), policy.enforce.to_string());
    }
    if let Some(text) = said(policy.audit) {
        notes.annotate(format!("{LABELS}audit-violations"), format!("would violate {text}"));
    }
    if let Some(text) = refused {
        return Err(review.forbidden(format!("violates {text}")));
    }
    if let Some(text) = said(policy.warn) {
        notes.warn(format!("would violate {text}"));
    }
    Ok(())
}

/// Whether an update of a pod brings other containers or images.
fn changes_images(new: &Value, old: &Value) -> bool {
    let images = |pod: &Value, list: &str| -> Vec<(String, String)> {
        let containers = pod.pointer("/spec").and_then(|spec| spec.get(list)).and_then(Value::as_array);
        let one = |c: &Value| (text(c, "/name").to_owned(), text(c, "/image").to_owned());
        containers.into_iter().flatten().map(one).collect()
    };
    let differs = |list: &str| images(new, list) != images(old, list);
    let known = images(old, "ephemeralContainers");
    differs("containers")
        || differs("initContainers")
        || images(new, "ephemeralContainers").iter().any(|container| !known.contains(container))
}

/// Labels have to make sense; who tightens a level is told which pods would not be allowed.
async fn namespace(core: &Arc<Core>, review: &Review<'_>) -> Result<(), Status> {
    if !review.subresource.is_empty() {
        return Ok(());
    }
    let labels = |object: &Value| object.pointer("/metadata/labels").cloned().unwrap_or_default();
    let new = Policy::of(&labels(&review.object));
    let Some(old) = review.old.map(|old| Policy::of(&labels(old))) else {
        return if new.errors.is_empty() { Ok(()) } else { Err(invalid(review, &new)) };
    };
    if !new.errors.is_empty() && new.errors != old.errors {
        return Err(invalid(review, &new));
    }
    let relaxed = new.enforce.minor == old.enforce.minor && new.enforce.level <= old.enforce.level;
    if new.enforce.level == Level::Privileged || new.enforce == old.enforce || relaxed {
        return Ok(());
    }
    warn_of_pods(core, review, new.enforce).await
}

fn invalid(review: &Review<'_>, policy: &Policy) -> Status {
    Status::invalid(review.resource, review.name(), &policy.errors)
}

async fn warn_of_pods(core: &Arc<Core>, review: &Review<'_>, standard: Standard) -> Result<(), Status> {
    let endpoint = core.endpoint("", "v1", "pods")?;
    let scope = endpoint.scope(Some(review.name()));
    let range = Range { end: prefix_end(&scope), start: scope, limit: MOST_PODS, ..Range::default() };
    let found = core.store().range(range).await.map_err(|e| store_error(&e))?;
    // Reasons -> the first pod by name, and how many.
    let mut told: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for kv in &found.kvs {
        let Ok(pod) = serde_json::from_slice::<Value>(&kv.value) else { continue };
        let broken = standard.broken(&pod["metadata"], &pod["spec"]);
        if broken.is_empty() {
            continue;
        }
        let reasons: Vec<String> = broken.into_iter().map(|(reason, _)| reason).collect();
        let name = text(&pod, "/metadata/name");
        let entry = told.entry(reasons.join(", ")).or_insert_with(|| (name.to_owned(), 0));
        entry.1 += 1;
    }
    let notes = &review.call.notes;
    if found.count > found.kvs.len() {
        notes.warn(format!(
            "new PodSecurity enforce level only checked against the first {} of {} existing pods",
            found.kvs.len(),
            found.count
        ));
    }
    if !told.is_empty() {
        notes.warn(format!(
            "existing pods in namespace {} violate the new PodSecurity enforce level {}",
            go_quote(review.name()),
            go_quote(&standard.to_string())
        ));
    }
    let mut lines: Vec<String> = told
        .into_iter()
        .map(|(reasons, (pod, count))| match count {
            1 => format!("{pod}: {reasons}"),
            2 => format!("{pod} (and 1 other pod): {reasons}"),
            more => format!("{pod} (and {} other pods): {reasons}", more - 1),
        })
        .collect();
    lines.sort();
    lines.into_iter().for_each(|line| notes.warn(line));
    Ok(())
}

#[cfg(test)]
mod tests;
