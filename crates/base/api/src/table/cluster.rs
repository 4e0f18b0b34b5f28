//! The cells of the kinds that say how a cluster is set up.

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{age, labels, list, name, number, or, selector, text};
use super::duration;

pub(super) fn of(group: &str, kind: &str, object: &Value, now: Timestamp) -> Option<Vec<Value>> {
    let at = |pointer: &str| Value::from(text(object, pointer));
    let age = || age(object, now);
    let items = |pointer: &str| Value::from(list(object, pointer).len());
    Some(match (group, kind) {
        ("", "ComponentStatus") => component(object),
        ("", "ResourceQuota") => quota(object, age()),
        ("autoscaling", "HorizontalPodAutoscaler") => super::autoscaler::row(object, age()),
        ("policy", "PodDisruptionBudget") => {
            let amount = |pointer: &str| or(&plain(object.pointer(pointer)), "N/A").to_owned().into();
            let allowed = number(object, "/status/disruptionsAllowed").into();
            vec![name(object), amount("/spec/minAvailable"), amount("/spec/maxUnavailable"), allowed, age()]
        }
        ("networking.k8s.io", _) => return networking(kind, object, age()),
        ("scheduling.k8s.io", "PriorityClass") => vec![
            name(object),
            number(object, "/value").into(),
            flag(object, "/globalDefault", false),
            age(),
            at("/preemptionPolicy"),
        ],
        ("node.k8s.io", "RuntimeClass") => vec![name(object), at("/handler"), age()],
        ("storage.k8s.io", _) => return storage(kind, object, age()),
        ("admissionregistration.k8s.io", _) => admission(kind, object, age()),
        ("certificates.k8s.io", _) => certificates(kind, object, age()),
        ("resource.k8s.io", "ResourceClaim") => vec![name(object), claim_state(object).into(), age()],
        ("resource.k8s.io", "ResourceSlice") => {
            vec![name(object), at("/spec/nodeName"), at("/spec/driver"), at("/spec/pool/name"), age()]
        }
        ("storagemigration.k8s.io", _) => {
            let (group, resource) =
                (text(object, "/spec/resource/group"), text(object, "/spec/resource/resource"));
            let shown = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
            let known = ["Running", "Failed", "Succeeded"];
            let state =
                conditions(object).filter(|(kind, status)| *status == "True" && known.contains(kind)).last();
            vec![name(object), shown.into(), state.map_or("Unknown", |(kind, _)| kind).into()]
        }
        ("apiregistration.k8s.io" | "apiextensions.k8s.io", _) => return None,
        ("", "LimitRange") => return None,
        _ if items("/webhooks") != 0 => vec![name(object), items("/webhooks"), age()],
        _ => return None,
    })
}

/// A text or a number as text.
fn plain(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn flag(object: &Value, pointer: &str, otherwise: bool) -> Value {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or(otherwise).into()
}

/// Type and status of each condition.
fn conditions(object: &Value) -> impl Iterator<Item = (&str, &str)> {
    list(object, "/status/conditions").iter().map(|c| (text(c, "/type"), text(c, "/status")))
}

fn marked(object: &Value, annotations: &[&str]) -> Value {
    let all = object.pointer("/metadata/annotations");
    let marked = annotations.iter().any(|key| all.and_then(|all| all.get(*key)) == Some(&"true".into()));
    let name = text(object, "/metadata/name");
    if marked { format!("{name} (default)").into() } else { name.into() }
}

fn component(object: &Value) -> Vec<Value> {
    let healthy = list(object, "/conditions").iter().find(|c| text(c, "/type") == "Healthy");
    let (state, message, error) = match healthy {
        None => ("Unknown", "", ""),
        Some(c) => {
            let state = if text(c, "/status") == "True" { "Healthy" } else { "Unhealthy" };
            (state, text(c, "/message"), text(c, "/error"))
        }
    };
    vec![name(object), state.into(), message.into(), error.into()]
}

fn quota(object: &Value, age: Value) -> Vec<Value> {
    let hard = object.pointer("/status/hard").and_then(Value::as_object);
    let mut hard: Vec<(&String, &Value)> = hard.into_iter().flatten().collect();
    hard.sort_by_key(|(name, _)| name.as_str());
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, most) in hard {
        let used = object.pointer("/status/used").and_then(|used| used.get(resource));
        let used = used.map_or("0".to_owned(), |used| plain(Some(used)));
        let cell = format!("{resource}: {used}/{}", plain(Some(most)));
        if resource.starts_with("limits.") { limits.push(cell) } else { requests.push(cell) }
    }
    vec![name(object), requests.join(", ").into(), limits.join(", ").into(), age]
}

fn networking(kind: &str, object: &Value, age: Value) -> Option<Vec<Value>> {
    Some(match kind {
        "NetworkPolicy" => vec![name(object), selector(object, "/spec/podSelector"), age],
        "Ingress" => {
            let ports = if list(object, "/spec/tls").is_empty() { "80" } else { "80, 443" };
            let class = or(text(object, "/spec/ingressClassName"), "<none>");
            let [hosts, addresses] = [hosts(object), addresses(object)];
            vec![name(object), class.into(), hosts.into(), addresses.into(), ports.into(), age]
        }
        "IngressClass" => {
            let shown = marked(object, &["ingressclass.kubernetes.io/is-default-class"]);
            let parameters = match object.pointer("/spec/parameters").filter(|p| !p.is_null()) {
                None => "<none>".to_owned(),
                Some(p) => {
                    let group = match text(p, "/apiGroup") {
                        "" => String::new(),
                        group => format!(".{group}"),
                    };
                    format!("{}{group}/{}", text(p, "/kind"), text(p, "/name"))
                }
            };
            vec![shown, text(object, "/spec/controller").into(), parameters.into(), age]
        }
        "ServiceCIDR" => {
            let cidrs: Vec<&str> = list(object, "/spec/cidrs").iter().filter_map(Value::as_str).collect();
            vec![name(object), cidrs.join(",").into(), age]
        }
        "IPAddress" => {
            let parent = object.pointer("/spec/parentRef").filter(|p| !p.is_null());
            let shown = parent.map_or("<none>".to_owned(), |parent| {
                let mut out = text(parent, "/resource").to_lowercase();
                if !text(parent, "/group").is_empty() {
                    out = format!("{out}.{}", text(parent, "/group"));
                }
                for part in ["/namespace", "/name"].map(|p| text(parent, p)) {
                    if !part.is_empty() {
                        out = format!("{out}/{part}");
                    }
                }
                out
            });
            vec![name(object), shown.into(), age]
        }
        _ => return None,
    })
}

fn hosts(ingress: &Value) -> String {
    const SHOWN: usize = 3;
    let rules = list(ingress, "/spec/rules");
    let mut shown: Vec<&str> = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= shown.len() == SHOWN;
        let host = text(rule, "/host");
        if !more && !host.is_empty() {
            shown.push(host);
        }
    }
    match (shown.is_empty(), more) {
        (true, _) => "*".to_owned(),
        (false, true) => format!("{} + {} more...", shown.join(","), rules.len() - SHOWN),
        (false, false) => shown.join(","),
    }
}

fn addresses(ingress: &Value) -> String {
    let mut all: Vec<&str> = list(ingress, "/status/loadBalancer/ingress")
        .iter()
        .map(|i| or(text(i, "/ip"), text(i, "/hostname")))
        .filter(|address| !address.is_empty())
        .collect();
    all.sort_unstable();
    all.dedup();
    all.join(",")
}

fn storage(kind: &str, object: &Value, age: Value) -> Option<Vec<Value>> {
    let at = |pointer: &str| Value::from(text(object, pointer));
    Some(match kind {
        "StorageClass" => {
            let annotations = [
                "storageclass.kubernetes.io/is-default-class",
                "storageclass.beta.kubernetes.io/is-default-class",
            ];
            vec![
                marked(object, &annotations),
                at("/provisioner"),
                or(text(object, "/reclaimPolicy"), "Delete").into(),
                or(text(object, "/volumeBindingMode"), "Immediate").into(),
                flag(object, "/allowVolumeExpansion", false),
                age,
            ]
        }
        "VolumeAttributesClass" => vec![name(object), at("/driverName"), age],
        "VolumeAttachment" => vec![
            name(object),
            at("/spec/attacher"),
            at("/spec/source/persistentVolumeName"),
            at("/spec/nodeName"),
            flag(object, "/status/attached", false),
            age,
        ],
        "CSINode" => vec![name(object), list(object, "/spec/drivers").len().into(), age],
        "CSIDriver" => {
            let modes: Vec<&str> =
                list(object, "/spec/volumeLifecycleModes").iter().filter_map(Value::as_str).collect();
            let requests = object.pointer("/spec/tokenRequests").and_then(Value::as_array);
            let audiences = requests.map_or("<unset>".to_owned(), |requests| {
                requests.iter().map(|r| text(r, "/audience")).collect::<Vec<_>>().join(",")
            });
            vec![
                name(object),
                flag(object, "/spec/attachRequired", true),
                flag(object, "/spec/podInfoOnMount", false),
                flag(object, "/spec/storageCapacity", false),
                audiences.into(),
                flag(object, "/spec/requiresRepublish", false),
                or(&modes.join(","), "<none>").into(),
                age,
            ]
        }
        "CSIStorageCapacity" => {
            vec![name(object), at("/storageClassName"), or(text(object, "/capacity"), "<unset>").into()]
        }
        _ => return None,
    })
}

fn admission(kind: &str, object: &Value, age: Value) -> Vec<Value> {
    let count = |pointer: &str| Value::from(list(object, pointer).len());
    let kind_of_parameters = || match object.pointer("/spec/paramKind").filter(|p| !p.is_null()) {
        None => "<unset>".to_owned(),
        Some(p) => format!("{}/{}", text(p, "/apiVersion"), text(p, "/kind")),
    };
    match kind {
        "ValidatingAdmissionPolicy" => {
            vec![name(object), count("/spec/validations"), kind_of_parameters().into(), age]
        }
        "MutatingAdmissionPolicy" => {
            vec![name(object), count("/spec/mutations"), kind_of_parameters().into(), age]
        }
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => {
            let (namespace, named) =
                (text(object, "/spec/paramRef/namespace"), text(object, "/spec/paramRef/name"));
            let shown = match (named, namespace) {
                ("", _) => match object.pointer("/spec/paramRef/selector").filter(|s| !s.is_null()) {
                    Some(selector) => crate::strategy::selector_text(selector),
                    None => "<unset>".to_owned(),
                },
                (named, "") => format!("*/{named}"),
                (named, namespace) => format!("{namespace}/{named}"),
            };
            vec![name(object), text(object, "/spec/policyName").into(), shown.into(), age]
        }
        _ => vec![name(object), count("/webhooks"), age],
    }
}

fn certificates(kind: &str, object: &Value, age: Value) -> Vec<Value> {
    let at = |pointer: &str| Value::from(text(object, pointer));
    let signer = or(text(object, "/spec/signerName"), "<none>");
    match kind {
        "CertificateSigningRequest" => {
            let asked = number(object, "/spec/expirationSeconds");
            let asked = if asked == 0 { "<none>".to_owned() } else { duration::human(asked) };
            let state = signing_state(object);
            vec![name(object), age, signer.into(), at("/spec/username"), asked.into(), state.into()]
        }
        "ClusterTrustBundle" => vec![name(object), signer.into()],
        _ => {
            let known = ["Issued", "Denied", "Failed"];
            let state = conditions(object).map(|(kind, _)| kind).filter(|kind| known.contains(kind)).last();
            vec![
                name(object),
                at("/spec/podName"),
                at("/spec/serviceAccountName"),
                at("/spec/nodeName"),
                at("/spec/signerName"),
                state.unwrap_or("Pending").into(),
                labels(object, "/spec/unverifiedUserAnnotations"),
            ]
        }
    }
}

fn signing_state(object: &Value) -> String {
    let has = |kind: &str| conditions(object).any(|(k, _)| k == kind);
    let mut state = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !text(object, "/status/certificate").is_empty() {
        state.push_str(",Issued");
    }
    state
}

fn claim_state(object: &Value) -> String {
    let going = object.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null());
    let allocated = object.pointer("/status/allocation").is_some_and(|a| !a.is_null());
    let mut states = Vec::new();
    if going {
        states.push("deleted");
    }
    match allocated {
        true => {
            states.push("allocated");
            if !list(object, "/status/reservedFor").is_empty() {
                states.push("reserved");
            }
        }
        false if !going => states.push("pending"),
        false => {}
    }
    states.join(",")
}
