//! Warnings about volumes, quotas, policies and classes.

use serde_json::Value;

use crate::quantity::Quantity;
use crate::status::{FieldPath, go_quote};
use crate::validation::ip;

use super::{items, old_label, text};

fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

pub(super) fn volume(volume: &Value, out: &mut Vec<String>) {
    const ANNOTATIONS: [(&str, &str); 2] = [
        (
            "volume.beta.kubernetes.io/storage-class",
            "deprecated since v1.8; use \"storageClassName\" attribute instead",
        ),
        (
            "volume.beta.kubernetes.io/mount-options",
            "deprecated since v1.31; use \"mountOptions\" attribute instead",
        ),
    ];
    const SOURCES: [(&str, &str, &str); 6] = [
        ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    for (key, sentence) in ANNOTATIONS {
        if annotation(volume, key).is_some() {
            out.push(format!("metadata.annotations[{key}]: {sentence}"));
        }
    }
    let Some(spec) = volume.get("spec") else { return };
    if text(spec, "persistentVolumeReclaimPolicy") == "Recycle" {
        let sentence = "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use \
                        dynamic provisioning.";
        out.push(format!("spec.persistentVolumeReclaimPolicy: {sentence}"));
    }
    if let Some(required) = spec.pointer("/nodeAffinity/required") {
        for (i, term) in items(required, "nodeSelectorTerms") {
            let path = FieldPath::new("spec.nodeAffinity.required.nodeSelectorTerms").index(i);
            expressions(term, &path, out);
        }
    }
    for (key, shown, sentence) in SOURCES {
        if spec.get(key).is_some_and(|source| !source.is_null()) {
            out.push(format!("spec.{shown}: {sentence}"));
        }
    }
}

/// Old labels in match expressions.
fn expressions(term: &Value, path: &FieldPath, out: &mut Vec<String>) {
    for (i, expression) in items(term, "matchExpressions") {
        let key = text(expression, "key");
        if let Some(sentence) = old_label(key) {
            let path = path.child("matchExpressions").index(i).child("key");
            out.push(format!("{path}: {key} is {sentence}"));
        }
    }
}

pub(super) fn claim(claim: &Value, out: &mut Vec<String>) {
    let key = "volume.beta.kubernetes.io/storage-class";
    if annotation(claim, key).is_some() {
        let sentence = "deprecated since v1.8; use \"storageClassName\" attribute instead";
        out.push(format!("metadata.annotations[{key}]: {sentence}"));
    }
    for list in ["requests", "limits"] {
        let size = claim.pointer("/spec/resources").and_then(|r| r.get(list)).and_then(|l| l.get("storage"));
        let Some(size) = size.and_then(Quantity::from_value).filter(|size| !size.is_whole()) else {
            continue;
        };
        let shown = go_quote(&size.canonical());
        out.push(format!(
            "spec.resources.{list}[storage]: fractional byte value {shown} is invalid, must be an integer"
        ));
    }
}

pub(super) fn quota(quota: &Value, out: &mut Vec<String>) {
    let hard = quota.pointer("/spec/hard");
    let at = |name: &str| hard.and_then(|hard| hard.get(name)).and_then(Quantity::from_value);
    for name in ["cpu", "memory", "storage", "ephemeral-storage"] {
        let mut request = (format!("requests.{name}"), at(&format!("requests.{name}")));
        if request.1.is_none() && matches!(name, "cpu" | "memory") {
            request = (name.to_owned(), at(name));
        }
        let limit = format!("limits.{name}");
        if let (Some(asked), Some(most)) = (request.1, at(&limit))
            && asked > most
        {
            let (asked, most) = (asked.canonical(), most.canonical());
            let name = request.0;
            out.push(format!("ResourceQuota {name} ({asked}) should be less than {limit} ({most})"));
        }
    }
}

pub(super) fn network_policy(policy: &Value, out: &mut Vec<String>) {
    let Some(spec) = policy.get("spec") else { return };
    for (way, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in items(spec, way) {
            for (j, peer) in items(rule, peers) {
                let Some(block) = peer.get("ipBlock") else { continue };
                let path = FieldPath::new("spec").child(way).index(i).child(peers).index(j).child("ipBlock");
                out.extend(ip::network_warnings(&path.child("cidr"), text(block, "cidr")));
                for (k, except) in items(block, "except") {
                    let path = path.child("except").index(k);
                    out.extend(ip::network_warnings(&path, except.as_str().unwrap_or_default()));
                }
            }
        }
    }
}

pub(super) fn ingress(ingress: &Value, out: &mut Vec<String>) {
    let key = "kubernetes.io/ingress.class";
    let named = ingress.pointer("/spec/ingressClassName").is_some_and(|name| !name.is_null());
    if annotation(ingress, key).is_some() && !named {
        out.push(format!("annotation \"{key}\" is deprecated, please use 'spec.ingressClassName' instead"));
    }
}

pub(super) fn runtime_class(class: &Value, out: &mut Vec<String>) {
    let selector = class.pointer("/scheduling/nodeSelector").and_then(Value::as_object);
    for (key, _) in selector.into_iter().flatten() {
        out.extend(old_label(key).map(|sentence| format!("scheduling.nodeSelector: {sentence}")));
    }
}

pub(super) fn storage_class(class: &Value, out: &mut Vec<String>) {
    for (i, topology) in items(class, "allowedTopologies") {
        for (j, expression) in items(topology, "matchLabelExpressions") {
            let Some(sentence) = old_label(text(expression, "key")) else { continue };
            let path = FieldPath::new("allowedTopologies").index(i).child("matchLabelExpressions").index(j);
            out.push(format!("{}: {sentence}", path.child("key")));
        }
    }
}

pub(super) fn capacity(capacity: &Value, out: &mut Vec<String>) {
    let Some(topology) = capacity.get("nodeTopology") else { return };
    expressions(topology, &FieldPath::new("nodeTopology"), out);
    for (key, _) in topology.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        out.extend(old_label(key).map(|sentence| format!("nodeTopology.matchLabels.{key}: {sentence}")));
    }
}

pub(super) fn csi_driver(driver: &Value, old: Option<&Value>, out: &mut Vec<String>) {
    let requests = |driver: &Value| driver.pointer("/spec/tokenRequests").cloned().unwrap_or_default();
    let asked = requests(driver).as_array().is_some_and(|list| !list.is_empty());
    let changed = old.is_none_or(|old| requests(old) != requests(driver));
    let said = driver.pointer("/spec/serviceAccountTokenInSecrets").is_some_and(|v| !v.is_null());
    if asked && changed && !said {
        let sentence = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent \
                        possible logging of tokens in volume attributes";
        out.push(sentence.to_owned());
    }
}
