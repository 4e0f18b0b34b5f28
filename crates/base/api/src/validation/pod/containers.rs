//! Containers, init containers and ephemeral containers.

use serde_json::Value;

use crate::status::{FieldError, FieldPath};
use crate::validation::names;
use crate::validation::read::{Errors, get, has, invalid_each, list, number, one_of, text, texts};

use super::{Context, env, mounts, probes, resources, security};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// The regular containers.
pub(super) fn containers(out: &mut Errors, path: &FieldPath, context: &Context<'_>, claims: &[&str]) {
    let all = list(context.spec, "containers");
    if all.is_empty() {
        out.push(FieldError::required(path, ""));
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, container) in all.iter().enumerate() {
        let path = path.index(i);
        common(out, &path, container, context, claims);
        let name = text(container, "name");
        if seen.contains(&name) {
            out.push(FieldError::duplicate(path.child("name"), name));
        } else {
            seen.push(name);
        }
        probes::lifecycle(out, &path, container, context);
        probes::probes(out, &path, container, context);
        restart_rules(out, &path, container);
    }
    host_ports(out, all.iter().enumerate().map(|(i, c)| (path.index(i), c)));
}

/// The init containers, of which those with the restart policy Always are sidecars.
pub(super) fn init_containers(out: &mut Errors, path: &FieldPath, context: &Context<'_>, claims: &[&str]) {
    let mut seen: Vec<&str> = list(context.spec, "containers").iter().map(|c| text(c, "name")).collect();
    for (i, container) in list(context.spec, "initContainers").iter().enumerate() {
        let item = path.index(i);
        common(out, &item, container, context, claims);
        restart_rules(out, &item, container);
        let name = text(container, "name");
        if seen.contains(&name) {
            out.push(FieldError::duplicate(item.child("name"), name));
        } else if !name.is_empty() {
            seen.push(name);
        }
        host_ports(out, std::iter::once((path.index(0), container)));
        if text(container, "restartPolicy") == "Always" {
            probes::lifecycle(out, &item, container, context);
            probes::probes(out, &item, container, context);
            continue;
        }
        for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if has(container, key) {
                let sentence = "may not be set for init containers without restartPolicy=Always";
                out.push(FieldError::forbidden(item.child(key), sentence));
            }
        }
        for (j, policy) in list(container, "resizePolicy").iter().enumerate() {
            let value = text(policy, "restartPolicy");
            if value == "RestartContainer" {
                let path = item.child("resizePolicy").index(j).child("restartPolicy");
                let sentence = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                out.push(FieldError::invalid(path, value, sentence));
            }
        }
    }
}

/// What an ephemeral container may have.
const EPHEMERAL_FIELDS: [&str; 19] = [
    "name",
    "targetContainerName",
    "image",
    "command",
    "args",
    "workingDir",
    "envFrom",
    "env",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "restartPolicy",
    "restartPolicyRules",
];

/// The containers that debuggers add to a running pod.
pub(super) fn ephemeral_containers(
    out: &mut Errors,
    path: &FieldPath,
    context: &Context<'_>,
    claims: &[&str],
) {
    let spec = context.spec;
    let others: Vec<&str> = list(spec, "containers")
        .iter()
        .chain(list(spec, "initContainers"))
        .map(|c| text(c, "name"))
        .collect();
    let mut seen = others.clone();
    for (i, container) in list(spec, "ephemeralContainers").iter().enumerate() {
        let path = path.index(i);
        common(out, &path, container, context, claims);
        image_without_spaces(out, &path, container);
        let name = text(container, "name");
        if seen.contains(&name) {
            out.push(FieldError::duplicate(path.child("name"), name));
        } else {
            seen.push(name);
        }
        let target = text(container, "targetContainerName");
        if !target.is_empty() && !others.contains(&target) {
            out.push(FieldError::not_found(path.child("targetContainerName"), target));
        }
        let sentence = "cannot be set for an Ephemeral Container";
        for (key, value) in container.as_object().into_iter().flatten() {
            let empty = match value {
                Value::Null => true,
                Value::Array(items) => items.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                _ => false,
            };
            if !empty && !EPHEMERAL_FIELDS.contains(&key.as_str()) {
                out.push(FieldError::forbidden(path.child(key), sentence));
            }
        }
        for (j, mount) in list(container, "volumeMounts").iter().enumerate() {
            for key in ["subPath", "subPathExpr"] {
                if !text(mount, key).is_empty() {
                    out.push(FieldError::forbidden(path.child("volumeMounts").index(j).child(key), sentence));
                }
            }
        }
    }
}

/// What holds for every kind of container.
fn common(out: &mut Errors, path: &FieldPath, container: &Value, context: &Context<'_>, claims: &[&str]) {
    let name = text(container, "name");
    if name.is_empty() {
        out.push(FieldError::required(path.child("name"), ""));
    } else {
        invalid_each(out, &path.child("name"), name, names::dns1123_label(name));
    }
    if text(container, "image").is_empty() {
        out.push(FieldError::required(path.child("image"), ""));
    }
    let policies = ["File", "FallbackToLogsOnError"];
    let policy = text(container, "terminationMessagePolicy");
    one_of(out, &path.child("terminationMessagePolicy"), policy, &policies);
    ports(out, &path.child("ports"), container);
    env::env(out, &path.child("env"), container);
    env::env_from(out, &path.child("envFrom"), container);
    mounts::mounts(out, &path.child("volumeMounts"), container, context);
    mounts::devices(out, &path.child("volumeDevices"), container, context);
    pull_policy(out, &path.child("imagePullPolicy"), text(container, "imagePullPolicy"));
    let requirements = get(container, "resources");
    resources::container(out, &path.child("resources"), requirements, claims);
    resize_policy(out, &path.child("resizePolicy"), container, context);
    let security_context = get(container, "securityContext");
    security::container(out, &path.child("securityContext"), security_context, context.host_users);
}

/// When the image is fetched.
pub(super) fn pull_policy(out: &mut Errors, path: &FieldPath, policy: &str) {
    one_of(out, path, policy, &["Always", "IfNotPresent", "Never"]);
}

/// The image of a Pod; templates may hold anything.
pub(super) fn image_without_spaces(out: &mut Errors, path: &FieldPath, container: &Value) {
    let image = text(container, "image");
    if image.trim().len() != image.len() {
        let sentence = "must not have leading or trailing whitespace";
        out.push(FieldError::invalid(path.child("image"), image, sentence));
    }
}

fn ports(out: &mut Errors, path: &FieldPath, container: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, port) in list(container, "ports").iter().enumerate() {
        let path = path.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            let wrong = names::port_name(name);
            if !wrong.is_empty() {
                invalid_each(out, &path.child("name"), name, wrong);
            } else if seen.contains(&name) {
                out.push(FieldError::duplicate(path.child("name"), name));
            } else {
                seen.push(name);
            }
        }
        let number_ = number(port, "containerPort");
        if number_ == 0 {
            out.push(FieldError::required(path.child("containerPort"), ""));
        } else {
            port_number(out, &path.child("containerPort"), number_);
        }
        let host = number(port, "hostPort");
        if host != 0 {
            port_number(out, &path.child("hostPort"), host);
        }
        one_of(out, &path.child("protocol"), text(port, "protocol"), &PROTOCOLS);
    }
}

fn port_number(out: &mut Errors, path: &FieldPath, port: i64) {
    out.extend(names::port_number(port).into_iter().map(|wrong| FieldError::invalid(path, port, wrong)));
}

/// No port of the node may be asked for twice.
fn host_ports<'a>(out: &mut Errors, containers: impl Iterator<Item = (FieldPath, &'a Value)>) {
    let mut seen: Vec<String> = Vec::new();
    for (path, container) in containers {
        for (i, port) in list(container, "ports").iter().enumerate() {
            let host = number(port, "hostPort");
            if host == 0 {
                continue;
            }
            let key = format!("{}/{}/{host}", text(port, "protocol"), text(port, "hostIP"));
            if seen.contains(&key) {
                out.push(FieldError::duplicate(path.child("ports").index(i).child("hostPort"), key));
            } else {
                seen.push(key);
            }
        }
    }
}

fn resize_policy(out: &mut Errors, path: &FieldPath, container: &Value, context: &Context<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, policy) in list(container, "resizePolicy").iter().enumerate() {
        let resource = text(policy, "resourceName");
        if seen.contains(&resource) {
            out.push(FieldError::duplicate(path.index(i), resource));
        }
        seen.push(resource);
        one_of(out, path, resource, &["cpu", "memory"]);
        let restart = text(policy, "restartPolicy");
        one_of(out, path, restart, &["NotRequired", "RestartContainer"]);
        if context.restart_policy() == "Never" && restart != "NotRequired" {
            let sentence = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            out.push(FieldError::invalid(path, restart, sentence));
        }
    }
}

/// A container's own restart policy and the rules by exit code.
fn restart_rules(out: &mut Errors, path: &FieldPath, container: &Value) {
    const MOST: usize = 20;
    let rules = list(container, "restartPolicyRules");
    match get(container, "restartPolicy").as_str() {
        None if rules.is_empty() => return,
        None => {
            let sentence = "must specify restartPolicy when restart rules are used";
            out.push(FieldError::required(path.child("restartPolicy"), sentence));
        }
        Some(policy) => {
            let policies = ["Always", "Never", "OnFailure"];
            if !policies.contains(&policy) {
                out.push(FieldError::not_supported(path.child("restartPolicy"), policy, &policies));
            }
        }
    }
    let path = path.child("restartPolicyRules");
    if rules.len() > MOST {
        out.push(FieldError::too_many(&path, rules.len(), MOST));
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        let (action, actions) = (text(rule, "action"), ["Restart", "RestartAllContainers"]);
        if !actions.contains(&action) {
            out.push(FieldError::not_supported(path.child("action"), action, &actions));
        }
        let path = path.child("exitCodes");
        let codes = get(rule, "exitCodes");
        if codes.is_null() {
            out.push(FieldError::required(&path, "must be specified"));
            continue;
        }
        let (operator, operators) = (text(codes, "operator"), ["In", "NotIn"]);
        if !operators.contains(&operator) {
            out.push(FieldError::not_supported(path.child("operator"), operator, &operators));
        }
        let count = texts(codes, "values").len();
        if count > 255 {
            out.push(FieldError::too_many(path.child("values"), count, 255));
        }
    }
}
