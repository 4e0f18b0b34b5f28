//! Defaults of the kinds that hold a pod template.

use serde_json::{Value, json};

use super::edit::{Object, absent, child, ensure, ensure_path, set, set_text, text};
use super::pod;

pub(super) fn deployment(object: &mut Object) {
    let Some(spec) = ensure(object, "spec") else { return };
    set(spec, "replicas", 1);
    pod::template(spec);
    if let Some(strategy) = ensure(spec, "strategy") {
        set_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = ensure(strategy, "rollingUpdate")
        {
            set(rolling, "maxUnavailable", "25%");
            set(rolling, "maxSurge", "25%");
        }
    }
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "progressDeadlineSeconds", 600);
}

pub(super) fn replica_set(object: &mut Object) {
    let Some(spec) = ensure(object, "spec") else { return };
    set(spec, "replicas", 1);
    pod::template(spec);
}

/// The old controller takes its selector and labels from its template.
pub(super) fn replication_controller(object: &mut Object) {
    let Some(spec) = ensure(object, "spec") else { return };
    set(spec, "replicas", 1);
    let labels = spec.get("template").and_then(|t| t.pointer("/metadata/labels")).cloned();
    if !absent(spec, "template") {
        pod::template(spec);
    }
    let Some(labels) = labels.filter(Value::is_object) else { return };
    if spec.get("selector").and_then(Value::as_object).is_none_or(Object::is_empty) {
        spec.insert("selector".into(), labels.clone());
    }
    labels_from_template(object, labels);
}

pub(super) fn daemon_set(object: &mut Object) {
    let Some(spec) = ensure(object, "spec") else { return };
    pod::template(spec);
    if let Some(strategy) = ensure(spec, "updateStrategy") {
        set_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = ensure(strategy, "rollingUpdate")
        {
            set(rolling, "maxSurge", 0);
            set(rolling, "maxUnavailable", 1);
        }
    }
    set(spec, "revisionHistoryLimit", 10);
}

pub(super) fn stateful_set(object: &mut Object) {
    let Some(spec) = ensure(object, "spec") else { return };
    set(spec, "replicas", 1);
    pod::template(spec);
    set_text(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = ensure(spec, "updateStrategy") {
        if text(strategy, "type").is_empty() {
            strategy.insert("type".into(), "RollingUpdate".into());
            set(strategy, "rollingUpdate", json!({}));
        }
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = child(strategy, "rollingUpdate")
        {
            set(rolling, "partition", 0);
        }
    }
    if let Some(policy) = ensure(spec, "persistentVolumeClaimRetentionPolicy") {
        set_text(policy, "whenDeleted", "Retain");
        set_text(policy, "whenScaled", "Retain");
    }
    set(spec, "revisionHistoryLimit", 10);
    super::edit::each(spec, "volumeClaimTemplates", |claim| {
        set_text(claim, "apiVersion", "v1");
        set_text(claim, "kind", "PersistentVolumeClaim");
        super::objects::persistent_volume_claim(claim);
    });
}

pub(super) fn job(object: &mut Object) {
    let Some(spec) = ensure(object, "spec") else { return };
    job_spec(spec);
    let labels = spec.get("template").and_then(|t| t.pointer("/metadata/labels")).cloned();
    if let Some(labels) = labels.filter(Value::is_object) {
        labels_from_template(object, labels);
    }
}

fn job_spec(spec: &mut Object) {
    if absent(spec, "completions") && absent(spec, "parallelism") {
        spec.insert("completions".into(), 1.into());
    }
    set(spec, "parallelism", 1);
    let per_index = !absent(spec, "backoffLimitPerIndex");
    set(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
    set(spec, "completionMode", "NonIndexed");
    set(spec, "suspend", false);
    let failure_policy = !absent(spec, "podFailurePolicy");
    set(spec, "podReplacementPolicy", if failure_policy { "Failed" } else { "TerminatingOrFailed" });
    set(spec, "manualSelector", false);
    if let Some(policy) = child(spec, "podFailurePolicy") {
        super::edit::each(policy, "rules", |rule| {
            super::edit::each(rule, "onPodConditions", |pattern| set_text(pattern, "status", "True"));
        });
    }
    pod::template(spec);
}

pub(super) fn cron_job(object: &mut Object) {
    let Some(spec) = ensure(object, "spec") else { return };
    set_text(spec, "concurrencyPolicy", "Allow");
    set(spec, "suspend", false);
    set(spec, "successfulJobsHistoryLimit", 3);
    set(spec, "failedJobsHistoryLimit", 1);
    if let Some(template) = ensure_path(spec, &["jobTemplate", "spec", "template"]) {
        set(template, "spec", json!({}));
    }
    // Of a CronJob's template only the pod part gets defaults: the Job gets its own when it is made.
    if let Some(job) = ensure_path(spec, &["jobTemplate", "spec"]) {
        pod::template(job);
    }
}

/// An object without labels of its own takes those of its template.
fn labels_from_template(object: &mut Object, labels: Value) {
    let Some(metadata) = ensure(object, "metadata") else { return };
    if metadata.get("labels").and_then(Value::as_object).is_none_or(Object::is_empty) {
        metadata.insert("labels".into(), labels);
    }
}
