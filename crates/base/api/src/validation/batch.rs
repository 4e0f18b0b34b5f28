//! Jobs and CronJobs.

use serde_json::Value;

use crate::status::{FieldError, FieldPath};
use crate::strategy::compare::same_option;

use super::read::{
    Errors, deep, flag, get, has, immutable, int, invalid_each, list, not_negative, number, one_of,
    one_of_if_set, text,
};
use super::{cron, labels, names, pod};

const MANY_COMPLETIONS: i64 = 100_000;
const MAX_INDEXED_PARALLELISM: i64 = 100_000;
const MAX_PARALLELISM_FOR_MANY: i64 = 10_000;
const MAX_RULES: usize = 20;

fn path() -> FieldPath {
    FieldPath::new("spec")
}

pub(super) fn create_job(out: &mut Errors, job: &Value) {
    let spec = get(job, "spec");
    generated_selector(out, job);
    selected_job_spec(out, spec);
    let completions = number(spec, "completions");
    if text(spec, "completionMode") == "Indexed" && completions > 0 {
        let name = text(get(job, "metadata"), "name");
        let hostname = format!("{name}-{}", completions - 1);
        if !names::dns1123_label(&hostname).is_empty() {
            let sentence = format!("will not able to create pod with invalid DNS label: {hostname}");
            out.push(FieldError::invalid("metadata.name", name, sentence));
        }
    }
}

/// A generated selector is by the Job's UID, and the template has the labels for it.
fn generated_selector(out: &mut Errors, job: &Value) {
    let spec = get(job, "spec");
    if flag(spec, "manualSelector") || !has(spec, "selector") {
        return;
    }
    let metadata = get(job, "metadata");
    let (name, uid) = (text(metadata, "name"), text(metadata, "uid"));
    if uid.is_empty() {
        out.push(FieldError::required("metadata.uid", ""));
    }
    let expected = [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ];
    let found = deep(spec, "template.metadata.labels");
    for (key, value) in expected {
        let path = path().child("template.metadata.labels");
        match found.get(key).and_then(Value::as_str) {
            None => {
                out.push(FieldError::required(path.key(key), format!("must be '{value}'")));
            }
            Some(other) if other != value => {
                let sentence = format!("must be '{value}'");
                out.push(FieldError::invalid(path.key(key), found.clone(), sentence));
            }
            Some(_) => {}
        }
    }
    let wanted: serde_json::Map<String, Value> =
        expected.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
    let selector = get(spec, "selector");
    if labels::matches(selector, &Value::Object(wanted)) == Some(false) {
        let sentence = "`selector` not auto-generated";
        out.push(FieldError::invalid(path().child("selector"), selector.clone(), sentence));
    }
}

fn selected_job_spec(out: &mut Errors, spec: &Value) {
    job_spec(out, &path(), spec);
    let selector = get(spec, "selector");
    let at = path().child("selector");
    if selector.is_null() {
        out.push(FieldError::required(&at, ""));
    } else {
        labels::selector(out, &at, selector);
    }
    let labels_ = deep(spec, "template.metadata.labels");
    if labels::matches(selector, labels_) == Some(false) {
        let at = path().child("template.metadata.labels");
        let sentence = "`selector` does not match template `labels`";
        out.push(FieldError::invalid(at, labels_.clone(), sentence));
    }
}

fn job_spec(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let numbers = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    for key in numbers {
        not_negative(out, path, spec, key);
    }
    if has(spec, "maxFailedIndexes") && !has(spec, "backoffLimitPerIndex") {
        let sentence = "when maxFailedIndexes is specified";
        out.push(FieldError::required(path.child("backoffLimitPerIndex"), sentence));
    }
    managed_by(out, &path.child("managedBy"), spec);
    let modes = ["NonIndexed", "Indexed"];
    one_of_if_set(out, &path.child("completionMode"), get(spec, "completionMode"), &modes);
    if text(spec, "completionMode") == "Indexed" {
        indexed(out, path, spec);
    } else {
        for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(number) = int(spec, key) {
                let sentence = "requires indexed completion mode";
                out.push(FieldError::invalid(path.child(key), number, sentence));
            }
        }
        if has(spec, "successPolicy") {
            let policy = get(spec, "successPolicy").clone();
            let sentence = "requires indexed completion mode";
            out.push(FieldError::invalid(path.child("successPolicy"), policy, sentence));
        }
    }
    failure_policy(out, &path.child("podFailurePolicy"), spec);
    let policies: &[&str] =
        if has(spec, "podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    let replacement = get(spec, "podReplacementPolicy");
    one_of_if_set(out, &path.child("podReplacementPolicy"), replacement, policies);
    pod::template(out, &path.child("template"), get(spec, "template"));
    let at = path.child("template.spec.restartPolicy");
    match text(deep(spec, "template.spec"), "restartPolicy") {
        "" | "Always" => {
            out.push(FieldError::required(&at, "valid values: \"OnFailure\", \"Never\""));
        }
        "Never" => {}
        "OnFailure" => {
            if has(spec, "podFailurePolicy") {
                let sentence = "only \"Never\" is supported when podFailurePolicy is specified";
                out.push(FieldError::invalid(&at, "OnFailure", sentence));
            }
        }
        other => out.push(FieldError::not_supported(&at, other, &["OnFailure", "Never"])),
    }
}

fn managed_by(out: &mut Errors, path: &FieldPath, spec: &Value) {
    const LONGEST: usize = 63;
    if !has(spec, "managedBy") {
        return;
    }
    let by = text(spec, "managedBy");
    match by.split_once('/') {
        _ if by.is_empty() => out.push(FieldError::required(path, "")),
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            invalid_each(out, path, domain, names::dns1123_subdomain(domain));
        }
        _ => {
            let sentence = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            out.push(FieldError::invalid(path, by, sentence));
        }
    }
    if by.len() > LONGEST {
        out.push(FieldError::too_long(path, LONGEST));
    }
}

fn indexed(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let (completions, parallelism) = (int(spec, "completions"), int(spec, "parallelism"));
    let failed = int(spec, "maxFailedIndexes");
    if completions.is_none() {
        out.push(FieldError::required(path.child("completions"), "when completion mode is Indexed"));
    }
    let mut at_most = |key: &str, value: Option<i64>, max: i64, words: &str| {
        if let Some(value) = value.filter(|value| *value > max) {
            let sentence = format!("must be less than or equal to {max}{words}");
            out.push(FieldError::invalid(path.child(key), value, sentence));
        }
    };
    at_most("parallelism", parallelism, MAX_INDEXED_PARALLELISM, " when completion mode is Indexed");
    at_most("maxFailedIndexes", failed, MAX_INDEXED_PARALLELISM, "");
    let many = completions.is_some_and(|n| n > MANY_COMPLETIONS) && has(spec, "backoffLimitPerIndex");
    if many {
        let words =
            format!(" when completions are above {MANY_COMPLETIONS} and used with backoff limit per index");
        at_most("parallelism", parallelism, MAX_PARALLELISM_FOR_MANY, &words);
        at_most("maxFailedIndexes", failed, MAX_PARALLELISM_FOR_MANY, &words);
        if failed.is_none() {
            let sentence = format!("must be specified when completions is above {MANY_COMPLETIONS}");
            out.push(FieldError::required(path.child("maxFailedIndexes"), sentence));
        }
    }
    if let (Some(failed), Some(all)) = (failed, completions)
        && failed > all
    {
        let sentence = "must be less than or equal to completions";
        out.push(FieldError::invalid(path.child("maxFailedIndexes"), failed, sentence));
    }
    if has(spec, "successPolicy") {
        let rules = list(get(spec, "successPolicy"), "rules");
        let path = path.child("successPolicy.rules");
        if rules.is_empty() {
            let sentence = "at least one rules must be specified when the successPolicy is specified";
            out.push(FieldError::required(&path, sentence));
        }
        if rules.len() > MAX_RULES {
            out.push(FieldError::too_many(&path, rules.len(), MAX_RULES));
        }
        for (i, rule) in rules.iter().enumerate() {
            if !has(rule, "succeededCount") && !has(rule, "succeededIndexes") {
                let sentence = "at least one of succeededCount or succeededIndexes must be specified";
                out.push(FieldError::required(path.index(i), sentence));
            }
        }
    }
}

fn failure_policy(out: &mut Errors, path: &FieldPath, spec: &Value) {
    const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
    let rules = list(get(spec, "podFailurePolicy"), "rules");
    let path = path.child("rules");
    if rules.len() > MAX_RULES {
        out.push(FieldError::too_many(&path, rules.len(), MAX_RULES));
    }
    let containers: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|key| list(deep(spec, "template.spec"), key))
        .map(|container| text(container, "name"))
        .collect();
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        let (at, action) = (path.child("action"), text(rule, "action"));
        if action.is_empty() {
            let sentence = "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]";
            out.push(FieldError::required(&at, sentence));
        } else if action == "FailIndex" && !has(spec, "backoffLimitPerIndex") {
            let sentence = "requires the backoffLimitPerIndex to be set";
            out.push(FieldError::invalid(&at, action, sentence));
        } else if !ACTIONS.contains(&action) {
            out.push(FieldError::not_supported(&at, action, &ACTIONS));
        }
        let codes = get(rule, "onExitCodes");
        if !codes.is_null() {
            exit_codes(out, &path.child("onExitCodes"), codes, &containers);
        }
        let conditions = list(rule, "onPodConditions");
        for (j, pattern) in conditions.iter().enumerate() {
            let path = path.child("onPodConditions").index(j);
            let kind = text(pattern, "type");
            invalid_each(out, &path.child("type"), kind, names::qualified(kind));
            one_of(out, &path.child("status"), text(pattern, "status"), &["False", "True", "Unknown"]);
        }
        let sentence = match (codes.is_null(), conditions.is_empty()) {
            (false, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (true, true) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        out.push(FieldError::invalid_unshown(&path, sentence));
    }
}

fn exit_codes(out: &mut Errors, path: &FieldPath, codes: &Value, containers: &[&str]) {
    const MOST: usize = 255;
    let operator = text(codes, "operator");
    one_of(out, &path.child("operator"), operator, &["In", "NotIn"]);
    if has(codes, "containerName") {
        let name = text(codes, "containerName");
        if !containers.contains(&name) {
            let sentence = "must be one of the container or initContainer names in the pod template";
            out.push(FieldError::invalid(path.child("containerName"), name, sentence));
        }
    }
    let values = list(codes, "values");
    let at = path.child("values");
    if values.is_empty() {
        let sentence = "at least one value is required";
        out.push(FieldError::invalid(&at, get(codes, "values").clone(), sentence));
    } else if values.len() > MOST {
        out.push(FieldError::too_many(&at, values.len(), MOST));
    }
    let mut sorted = true;
    for (i, value) in values.iter().enumerate() {
        let number = value.as_i64().unwrap_or(0);
        if operator == "In" && number == 0 {
            out.push(FieldError::invalid(at.index(i), number, "must not be 0 for the In operator"));
        }
        let before = i.checked_sub(1).and_then(|i| values[i].as_i64());
        if values[..i].contains(value) {
            out.push(FieldError::duplicate(at.index(i), number));
        } else if before.is_some_and(|before| before > number) {
            sorted = false;
        }
    }
    if !sorted {
        out.push(FieldError::invalid(&at, get(codes, "values").clone(), "must be ordered"));
    }
}

pub(super) fn update_job(out: &mut Errors, new: &Value, old: &Value) {
    let (spec, before) = (get(new, "spec"), get(old, "spec"));
    selected_job_spec(out, spec);
    let at = path().child("completions");
    if text(spec, "completionMode") != "Indexed" {
        immutable(out, &at, get(spec, "completions"), get(before, "completions"));
    } else if let Some(completions) = int(spec, "completions")
        && int(before, "completions") != Some(completions)
        && int(spec, "parallelism") != Some(completions)
    {
        let sentence = "can only be modified in tandem with spec.parallelism";
        out.push(FieldError::invalid(&at, completions, sentence));
    }
    immutable(out, &path().child("selector"), get(spec, "selector"), get(before, "selector"));
    template_changes(out, spec, old);
    let fixed = ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"];
    for key in fixed {
        immutable(out, &path().child(key), get(spec, key), get(before, key));
    }
}

/// The template stays, except where a Job that never started may still choose its nodes.
fn template_changes(out: &mut Errors, spec: &Value, old: &Value) {
    let before = get(old, "spec");
    let mut allowed = get(before, "template").clone();
    let never_started = !has(get(old, "status"), "startTime");
    if flag(before, "suspend") && never_started {
        for (holder, keys) in [
            ("spec", &["nodeSelector", "tolerations", "schedulingGates"][..]),
            ("metadata", &["labels", "annotations"][..]),
        ] {
            for key in keys {
                put(&mut allowed, holder, key, get(get(get(spec, "template"), holder), key));
            }
        }
        let now = deep(spec, "template.spec.affinity");
        let mut affinity = deep(&allowed, "spec.affinity").clone();
        if !now.is_null() || !affinity.is_null() {
            if !affinity.is_object() {
                affinity = Value::Object(serde_json::Map::new());
            }
            let node = get(now, "nodeAffinity");
            if let Some(map) = affinity.as_object_mut() {
                if node.is_null() {
                    map.shift_remove("nodeAffinity");
                } else {
                    map.insert("nodeAffinity".into(), node.clone());
                }
                if map.is_empty() {
                    affinity = Value::Null;
                }
            }
            put(&mut allowed, "spec", "affinity", &affinity);
        }
    }
    if !same_option(spec.get("template"), Some(&allowed)) {
        let template = get(spec, "template").clone();
        out.push(FieldError::invalid(path().child("template"), template, "field is immutable"));
    }
}

fn put(object: &mut Value, holder: &str, key: &str, value: &Value) {
    let Some(holder) = object.get_mut(holder).and_then(Value::as_object_mut) else { return };
    if value.is_null() {
        holder.shift_remove(key);
    } else {
        holder.insert(key.to_owned(), value.clone());
    }
}

pub(super) fn create_cron_job(out: &mut Errors, object: &Value) {
    const LONGEST: usize = 52;
    cron_job_spec(out, get(object, "spec"), None);
    let name = text(get(object, "metadata"), "name");
    if name.len() > LONGEST {
        let sentence = "must be no more than 52 characters";
        out.push(FieldError::invalid("metadata.name", name, sentence));
    }
}

pub(super) fn update_cron_job(out: &mut Errors, new: &Value, old: &Value) {
    cron_job_spec(out, get(new, "spec"), Some(get(old, "spec")));
}

fn cron_job_spec(out: &mut Errors, spec: &Value, old: Option<&Value>) {
    let (at, schedule) = (path().child("schedule"), text(spec, "schedule"));
    if schedule.is_empty() {
        out.push(FieldError::required(&at, ""));
    } else {
        if let Err(error) = cron::check_schedule(schedule) {
            out.push(FieldError::invalid(&at, schedule, error.to_string()));
        }
        let zone_allowed = old.is_some_and(|old| text(old, "schedule").contains("TZ"));
        if schedule.contains("TZ") && zone_allowed && has(spec, "timeZone") {
            let sentence = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
            out.push(FieldError::invalid(&at, schedule, sentence));
        } else if schedule.contains("TZ") && !zone_allowed {
            let sentence = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            out.push(FieldError::invalid(&at, schedule, sentence));
        }
    }
    not_negative(out, &path(), spec, "startingDeadlineSeconds");
    let zone_changed = old.is_none_or(|old| get(old, "timeZone") != get(spec, "timeZone"));
    if let Some(zone) = get(spec, "timeZone").as_str().filter(|_| zone_changed) {
        invalid_each(out, &path().child("timeZone"), zone, cron::time_zone(zone));
    }
    let policies = ["Allow", "Forbid", "Replace"];
    one_of(out, &path().child("concurrencyPolicy"), text(spec, "concurrencyPolicy"), &policies);
    let template = deep(spec, "jobTemplate.spec");
    let at = path().child("jobTemplate.spec");
    job_spec(out, &at, template);
    if has(template, "selector") {
        let selector = get(template, "selector").clone();
        out.push(FieldError::invalid(at.child("selector"), selector, "`selector` will be auto-generated"));
    }
    if flag(template, "manualSelector") {
        out.push(FieldError::not_supported(at.child("manualSelector"), true, &["nil", "false"]));
    }
    not_negative(out, &path(), spec, "successfulJobsHistoryLimit");
    not_negative(out, &path(), spec, "failedJobsHistoryLimit");
}

/// A Job's status goes one way: counters do not fall, and what has ended stays ended.
pub(super) fn job_status(out: &mut Errors, new: &Value, old: &Value) {
    let at = FieldPath::new("status");
    let (status, before) = (get(new, "status"), get(old, "status"));
    for key in ["active", "succeeded", "failed", "ready", "terminating"] {
        not_negative(out, &at, status, key);
    }
    let is_true = |status: &Value, kind: &str| {
        list(status, "conditions").iter().any(|c| text(c, "type") == kind && text(c, "status") == "True")
    };
    for kind in ["Failed", "Complete", "FailureTarget", "SuccessCriteriaMet"] {
        if is_true(before, kind) && !is_true(status, kind) {
            let word = if kind == "SuccessCriteriaMet" { "" } else { "terminal " };
            let sentence = format!("cannot disable the {word}{kind}=True condition");
            out.push(FieldError::invalid_unshown(at.child("conditions"), sentence));
        }
    }
    let (complete, failed) = (is_true(status, "Complete"), is_true(status, "Failed"));
    let finished = complete || failed;
    let mut conditions = |sentence: &str| {
        out.push(FieldError::invalid_unshown(at.child("conditions"), sentence));
    };
    if complete && failed {
        conditions("cannot set Complete=True and Failed=true conditions");
    }
    if is_true(status, "SuccessCriteriaMet") && failed {
        conditions("cannot set SuccessCriteriaMet=True and Failed=true conditions");
    }
    if is_true(status, "SuccessCriteriaMet") && is_true(status, "FailureTarget") {
        conditions("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    }
    if complete && text(status, "completionTime").is_empty() {
        let sentence = "completionTime is required for Complete jobs";
        out.push(FieldError::required(at.child("completionTime"), sentence));
    }
    if finished && text(status, "startTime").is_empty() {
        let sentence = "startTime is required for finished job";
        out.push(FieldError::required(at.child("startTime"), sentence));
    }
    if finished && number(status, "active") > 0 {
        let active = number(status, "active");
        out.push(FieldError::invalid(at.child("active"), active, "active>0 is invalid for finished job"));
    }
    for key in ["failed", "succeeded"] {
        if number(status, key) < number(before, key) {
            let sentence = format!("cannot decrease the {key} counter");
            out.push(FieldError::invalid(at.child(key), number(status, key), sentence));
        }
    }
    let (now, was) = (text(status, "completionTime"), text(before, "completionTime"));
    if !now.is_empty() && !was.is_empty() && now != was {
        out.push(FieldError::invalid(at.child("completionTime"), now, "field is immutable"));
    }
}
