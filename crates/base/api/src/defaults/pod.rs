//! Defaults of pods and of the pod templates inside workloads.

use serde_json::{Value, json};

use super::edit::{Object, canonical_quantities, child, each, ensure, set, set_number, set_text, text};

/// Every list of containers in a pod's spec.
const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Defaults of a Pod: those of every pod spec and the ones that a template does not get.
pub(super) fn pod(object: &mut Object) {
    if let Some(spec) = ensure(object, "spec") {
        for list in ["containers", "initContainers"] {
            each(spec, list, requests_from_limits);
        }
        set(spec, "enableServiceLinks", true);
        if spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) {
            for list in ["containers", "initContainers"] {
                each(spec, list, host_ports);
            }
        }
    }
    pod_spec_of(object);
    if let Some(spec) = child(object, "spec") {
        pod_level_requests(spec);
    }
}

/// Defaults of a `template` field (or a PodTemplate).
pub(super) fn template(object: &mut Object) {
    if let Some(template) = ensure(object, "template") {
        pod_spec_of(template);
    }
}

fn pod_spec_of(object: &mut Object) {
    if let Some(spec) = ensure(object, "spec") {
        pod_spec(spec);
    }
}

fn pod_spec(spec: &mut Object) {
    each(spec, "volumes", volume);
    for list in CONTAINER_LISTS {
        each(spec, list, container);
    }
    canonical_quantities(spec, "overhead");
    if let Some(resources) = child(spec, "resources") {
        canonical_quantities(resources, "limits");
        canonical_quantities(resources, "requests");
    }
    set_text(spec, "restartPolicy", "Always");
    set(spec, "terminationGracePeriodSeconds", 30);
    set_text(spec, "dnsPolicy", "ClusterFirst");
    service_account(spec);
    set(spec, "securityContext", json!({}));
    set_text(spec, "schedulerName", "default-scheduler");
}

/// `serviceAccount` is the old name of `serviceAccountName`; both always say the same.
fn service_account(spec: &mut Object) {
    let name = match (text(spec, "serviceAccountName"), text(spec, "serviceAccount")) {
        ("", "") => return,
        ("", old) => old.to_owned(),
        (name, _) => name.to_owned(),
    };
    spec.insert("serviceAccountName".into(), name.clone().into());
    spec.insert("serviceAccount".into(), name.into());
}

fn requests_from_limits(container: &mut Object) {
    let Some(resources) = child(container, "resources") else { return };
    let Some(limits) = child(resources, "limits").cloned() else { return };
    let Some(requests) = ensure(resources, "requests") else { return };
    for (name, limit) in limits {
        set(requests, &name, limit);
    }
}

/// Pod-level requests follow pod-level limits where no container asks for the resource itself.
fn pod_level_requests(spec: &mut Object) {
    let asked: Vec<String> = ["containers", "initContainers"]
        .iter()
        .filter_map(|list| spec.get(*list).and_then(Value::as_array))
        .flatten()
        .filter_map(|c| c.pointer("/resources/requests").and_then(Value::as_object))
        .flat_map(|requests| requests.keys().cloned())
        .collect();
    let Some(resources) = child(spec, "resources") else { return };
    let Some(limits) = child(resources, "limits").cloned() else { return };
    let Some(requests) = ensure(resources, "requests") else { return };
    for (name, limit) in limits {
        if !asked.contains(&name) {
            set(requests, &name, limit);
        }
    }
}

fn host_ports(container: &mut Object) {
    each(container, "ports", |port| {
        if let Some(number) = port.get("containerPort").and_then(Value::as_i64) {
            set_number(port, "hostPort", number);
        }
    });
}

fn container(container: &mut Object) {
    set_text(container, "terminationMessagePath", "/dev/termination-log");
    set_text(container, "terminationMessagePolicy", "File");
    let policy = default_pull_policy(text(container, "image"));
    set_text(container, "imagePullPolicy", policy);
    each(container, "ports", |port| set_text(port, "protocol", "TCP"));
    each(container, "env", |env| {
        let Some(from) = child(env, "valueFrom") else { return };
        field_ref(from);
        if let Some(file) = child(from, "fileKeyRef") {
            set(file, "optional", false);
        }
        if let Some(resource) = child(from, "resourceFieldRef") {
            divisor(resource);
        }
    });
    if let Some(resources) = ensure(container, "resources") {
        canonical_quantities(resources, "limits");
        canonical_quantities(resources, "requests");
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(handler) = child(container, name) {
            probe(handler);
        }
    }
    if let Some(lifecycle) = child(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(get) = child(lifecycle, hook).and_then(|hook| child(hook, "httpGet")) {
                http_get(get);
            }
        }
    }
}

fn probe(probe: &mut Object) {
    set_number(probe, "timeoutSeconds", 1);
    set_number(probe, "periodSeconds", 10);
    set_number(probe, "successThreshold", 1);
    set_number(probe, "failureThreshold", 3);
    if let Some(get) = child(probe, "httpGet") {
        http_get(get);
    }
    if let Some(grpc) = child(probe, "grpc") {
        set(grpc, "service", "");
    }
}

fn http_get(get: &mut Object) {
    set_text(get, "path", "/");
    set_text(get, "scheme", "HTTP");
}

fn field_ref(object: &mut Object) {
    if let Some(field) = child(object, "fieldRef") {
        set_text(field, "apiVersion", "v1");
    }
}

/// An absent divisor is the quantity 0, which means 1; it is stored as `"0"`.
fn divisor(resource: &mut Object) {
    set(resource, "divisor", "0");
    if let Some(value) = resource.get_mut("divisor") {
        super::edit::canonical_quantity(value);
    }
}

fn volume(volume: &mut Object) {
    let source = volume.iter().any(|(key, value)| key != "name" && !value.is_null());
    if !source {
        volume.insert("emptyDir".into(), json!({}));
    }
    if let Some(path) = child(volume, "hostPath") {
        set(path, "type", "");
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = child(volume, kind) {
            set(source, "defaultMode", 0o644);
        }
    }
    if let Some(empty) = child(volume, "emptyDir")
        && let Some(limit) = empty.get_mut("sizeLimit")
    {
        super::edit::canonical_quantity(limit);
    }
    if let Some(down) = child(volume, "downwardAPI") {
        downward_items(down);
    }
    if let Some(projected) = child(volume, "projected") {
        each(projected, "sources", |source| {
            if let Some(down) = child(source, "downwardAPI") {
                downward_items(down);
            }
            if let Some(token) = child(source, "serviceAccountToken") {
                set(token, "expirationSeconds", 3600);
            }
        });
    }
    if let Some(image) = child(volume, "image") {
        let policy = default_pull_policy(text(image, "reference"));
        set_text(image, "pullPolicy", policy);
    }
    if let Some(claim) = ensure_claim(volume) {
        set(claim, "volumeMode", "Filesystem");
    }
    foreign_volume(volume);
}

fn ensure_claim(volume: &mut Object) -> Option<&mut Object> {
    let template = child(child(volume, "ephemeral")?, "volumeClaimTemplate")?;
    ensure(template, "spec")
}

fn downward_items(source: &mut Object) {
    each(source, "items", |item| {
        field_ref(item);
        if let Some(resource) = child(item, "resourceFieldRef") {
            divisor(resource);
        }
    });
}

/// Volumes that only other systems serve; they still get the fields that clients expect to read back.
fn foreign_volume(volume: &mut Object) {
    if let Some(iscsi) = child(volume, "iscsi") {
        set_text(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = child(volume, "rbd") {
        set_text(rbd, "pool", "rbd");
        set_text(rbd, "user", "admin");
        set_text(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = child(volume, "azureDisk") {
        set(disk, "cachingMode", "ReadWrite");
        set(disk, "fsType", "ext4");
        set(disk, "readOnly", false);
        set(disk, "kind", "Shared");
    }
    if let Some(io) = child(volume, "scaleIO") {
        set_text(io, "storageMode", "ThinProvisioned");
        set_text(io, "fsType", "xfs");
    }
}

/// `Always` for an image tagged `latest` (said or implied), else `IfNotPresent`.
pub fn default_pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or_default();
    let latest = match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => digest.is_none() && !last.is_empty(),
    };
    if latest { "Always" } else { "IfNotPresent" }
}
