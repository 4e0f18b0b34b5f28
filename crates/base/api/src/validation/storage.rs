//! storage.k8s.io: classes of volumes, drivers, attachments, capacities.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::quantity::Quantity;
use crate::status::{FieldError, FieldPath};
use crate::strategy::compare::{same, same_option};

use super::read::{Errors, get, has, immutable, int, invalid_each, list, map, one_of_if_set, text, texts};
use super::{labels, names, volumes};

const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETER_BYTES: usize = 256 << 10;

/// The name of a CSI driver.
pub(super) fn driver_name(out: &mut Errors, path: &FieldPath, name: &str) {
    const LONGEST: usize = 63;
    if name.is_empty() {
        out.push(FieldError::required(path, ""));
        return;
    }
    if name.len() > LONGEST {
        out.push(FieldError::too_long(path, LONGEST));
    }
    invalid_each(out, path, name, names::dns1123_subdomain(&name.to_lowercase()));
}

fn provisioner(out: &mut Errors, path: &str, name: &str) {
    let path = FieldPath::new(path);
    if name.is_empty() {
        out.push(FieldError::required(&path, ""));
    } else {
        let name = name.to_lowercase();
        invalid_each(out, &path, &name, names::qualified(&name));
    }
}

fn parameters(out: &mut Errors, object: &Value, needed: bool) {
    let path = FieldPath::new("parameters");
    let all = map(object, "parameters");
    let count = all.map_or(0, serde_json::Map::len);
    if count > MAX_PARAMETERS {
        out.push(FieldError::too_long(&path, MAX_PARAMETERS));
        return;
    }
    let mut size = 0;
    for (key, value) in all.into_iter().flatten() {
        if key.is_empty() {
            out.push(FieldError::invalid(&path, "", "field can not be empty."));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_PARAMETER_BYTES {
        out.push(FieldError::too_long(&path, MAX_PARAMETER_BYTES));
    }
    if needed && count == 0 {
        out.push(FieldError::required(&path, "must contain at least one key/value pair"));
    }
}

/// A storage class; what volumes are made of stays.
pub(super) fn class(out: &mut Errors, object: &Value, old: Option<&Value>) {
    provisioner(out, "provisioner", text(object, "provisioner"));
    parameters(out, object, false);
    let policy = text(object, "reclaimPolicy");
    if !policy.is_empty() {
        one_of_if_set(out, &FieldPath::new("reclaimPolicy"), &policy.into(), &["Delete", "Retain"]);
    }
    let (path, mode) = (FieldPath::new("volumeBindingMode"), get(object, "volumeBindingMode"));
    if mode.is_null() {
        out.push(FieldError::required(&path, ""));
    }
    one_of_if_set(out, &path, mode, &["Immediate", "WaitForFirstConsumer"]);
    topologies(out, &FieldPath::new("allowedTopologies"), object);
    let Some(old) = old else { return };
    for key in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        immutable(out, &FieldPath::new(key), get(object, key), get(old, key));
    }
}

fn topologies(out: &mut Errors, path: &FieldPath, object: &Value) {
    let mut seen: Vec<BTreeMap<&str, BTreeSet<&str>>> = Vec::new();
    for (i, term) in list(object, "allowedTopologies").iter().enumerate() {
        let path = path.index(i).child("matchLabelExpressions");
        let mut terms = BTreeMap::new();
        for (j, requirement) in list(term, "matchLabelExpressions").iter().enumerate() {
            let path = path.index(j);
            let (key, values) = (text(requirement, "key"), texts(requirement, "values"));
            let at = path.child("values");
            if values.is_empty() {
                out.push(FieldError::required(&at, ""));
            }
            let mut set = BTreeSet::new();
            for (k, value) in values.iter().enumerate() {
                if !set.insert(*value) {
                    out.push(FieldError::duplicate(at.index(k), *value));
                }
            }
            labels::label_name(out, &path.child("key"), key);
            if terms.insert(key, set).is_some() {
                out.push(FieldError::duplicate(path.child("key"), key));
            }
        }
        if seen.contains(&terms) {
            out.push(FieldError::duplicate(&path, ""));
        }
        seen.push(terms);
    }
}

/// A class of volume attributes, which stay.
pub(super) fn attributes_class(out: &mut Errors, object: &Value, old: Option<&Value>) {
    if let Some(old) = old {
        for key in ["driverName", "parameters"] {
            if !same_option(object.get(key), old.get(key)) {
                out.push(FieldError::forbidden(key, format!("updates to {key} are forbidden.")));
            }
        }
    }
    provisioner(out, "driverName", text(object, "driverName"));
    parameters(out, object, true);
}

/// An attachment; its spec stays.
pub(super) fn attachment(out: &mut Errors, object: &Value, old: Option<&Value>) {
    let (path, spec) = (FieldPath::new("spec"), get(object, "spec"));
    driver_name(out, &path.child("attacher"), text(spec, "attacher"));
    let (at, source) = (path.child("source"), get(spec, "source"));
    let name = get(source, "persistentVolumeName").as_str();
    let inline = get(source, "inlineVolumeSpec");
    let sentence = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (name, inline.is_null()) {
        (None, true) => out.push(FieldError::required(&at, sentence)),
        (Some(_), false) => out.push(FieldError::forbidden(&at, sentence)),
        (Some(""), true) => {
            let sentence = "must specify non empty persistentVolumeName";
            out.push(FieldError::required(at.child("persistentVolumeName"), sentence));
        }
        (Some(_), true) => {}
        (None, false) => volumes::spec(out, &at.child("inlineVolumeSpec"), inline, true),
    }
    let node = text(spec, "nodeName");
    invalid_each(out, &path.child("nodeName"), node, names::dns1123_subdomain(node));
    attachment_status(out, object);
    if let Some(name) = name {
        let at = FieldPath::new("spec.source.persistentVolumeName");
        invalid_each(out, &at, name, names::dns1123_subdomain(name));
    }
    if let Some(old) = old {
        immutable(out, &path, spec, get(old, "spec"));
    }
}

/// The status of an attachment.
pub(super) fn attachment_status(out: &mut Errors, object: &Value) {
    const LONGEST_MESSAGE: usize = 1024;
    let (path, status) = (FieldPath::new("status"), get(object, "status"));
    let size: usize = map(status, "attachmentMetadata")
        .into_iter()
        .flatten()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if size > MAX_PARAMETER_BYTES {
        out.push(FieldError::too_long(path.child("attachmentMetadata"), MAX_PARAMETER_BYTES));
    }
    for key in ["attachError", "detachError"] {
        let (path, error) = (path.child(key), get(status, key));
        if text(error, "message").len() > LONGEST_MESSAGE {
            out.push(FieldError::too_long(path.child("message"), MAX_PARAMETER_BYTES));
        }
        if let Some(code) = int(error, "errorCode").filter(|code| *code < 0) {
            let sentence = "must be between 0 and 2147483647, inclusive";
            out.push(FieldError::invalid(path.child("errorCode"), code, sentence));
        }
    }
}

/// The drivers of a node; one that is there keeps its identity.
pub(super) fn node(out: &mut Errors, object: &Value, old: Option<&Value>) {
    const LONGEST_ID: usize = 256;
    let path = FieldPath::new("spec.drivers");
    let drivers = |object: &Value| list(get(object, "spec"), "drivers").to_vec();
    let all = drivers(object);
    let mut seen: Vec<&str> = Vec::new();
    for (i, driver) in all.iter().enumerate() {
        let path = path.index(i);
        let (name, id) = (text(driver, "name"), text(driver, "nodeID"));
        driver_name(out, &path.child("name"), name);
        if id.is_empty() {
            out.push(FieldError::required(path.child("nodeID"), ""));
        }
        if id.len() > LONGEST_ID {
            let sentence = format!("must be {LONGEST_ID} characters or less");
            out.push(FieldError::invalid(path.child("nodeID"), id, sentence));
        }
        super::read::not_negative(out, &path.child("allocatable"), get(driver, "allocatable"), "count");
        if seen.contains(&name) {
            out.push(FieldError::duplicate(path.child("name"), name));
        }
        seen.push(name);
        let mut keys: Vec<&str> = Vec::new();
        for key in texts(driver, "topologyKeys") {
            if key.is_empty() {
                out.push(FieldError::required(&path, ""));
            }
            if keys.contains(&key) {
                out.push(FieldError::duplicate(&path, key));
            }
            keys.push(key);
            invalid_each(out, &path, key, names::qualified(key));
        }
    }
    let bare = |driver: &Value| {
        let mut driver = driver.clone();
        if let Some(members) = driver.as_object_mut() {
            members.shift_remove("allocatable");
        }
        driver
    };
    for before in old.map(drivers).unwrap_or_default() {
        for now in all.iter().filter(|now| text(now, "name") == text(&before, "name")) {
            if !same(&bare(now), &bare(&before)) {
                out.push(FieldError::invalid(&path, bare(now), "field is immutable"));
            }
        }
    }
}

/// A driver; how it attaches stays.
pub(super) fn driver(out: &mut Errors, object: &Value, old: Option<&Value>) {
    let (path, spec) = (FieldPath::new("spec"), get(object, "spec"));
    for (key, shown) in [
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
    ] {
        if !has(spec, key) {
            out.push(FieldError::required(path.child(shown), ""));
        }
    }
    let known = ["File", "None", "ReadWriteOnceWithFSType"];
    one_of_if_set(out, &path.child("fsGroupPolicy"), get(spec, "fsGroupPolicy"), &known);
    token_requests(out, &path.child("tokenRequests"), spec);
    for mode in texts(spec, "volumeLifecycleModes") {
        let known = ["Persistent", "Ephemeral"];
        one_of_if_set(out, &path.child("volumeLifecycleModes"), &mode.into(), &known);
    }
    if let Some(period) = int(spec, "nodeAllocatableUpdatePeriodSeconds").filter(|period| *period < 10) {
        let sentence = "must be greater than or equal to 10 seconds";
        out.push(FieldError::invalid(path.child("nodeAllocatableUpdatePeriodSeconds"), period, sentence));
    }
    if has(spec, "serviceAccountTokenInSecrets") && list(spec, "tokenRequests").is_empty() {
        let key = "serviceAccountTokenInSecrets";
        let sentence = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        out.push(FieldError::invalid(path.child(key), get(spec, key).clone(), sentence));
    }
    let Some(old) = old else { return };
    for (key, shown) in
        [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")]
    {
        immutable(out, &path.child(shown), get(spec, key), get(get(old, "spec"), key));
    }
}

fn token_requests(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, request) in list(spec, "tokenRequests").iter().enumerate() {
        let path = path.index(i);
        let audience = text(request, "audience");
        if seen.contains(&audience) {
            out.push(FieldError::duplicate(path.child("audience"), audience));
            continue;
        }
        seen.push(audience);
        let sentence = match int(request, "expirationSeconds") {
            Some(seconds) if seconds < 600 => "may not specify a duration less than 10 minutes",
            Some(seconds) if seconds > 1 << 32 => "may not specify a duration larger than 2^32 seconds",
            _ => continue,
        };
        let shown = get(request, "expirationSeconds").clone();
        out.push(FieldError::invalid(path.child("expirationSeconds"), shown, sentence));
    }
}

/// A capacity; where and of what it is stays.
pub(super) fn capacity(out: &mut Errors, object: &Value, old: Option<&Value>) {
    labels::selector(out, &FieldPath::new("nodeTopology"), get(object, "nodeTopology"));
    let class = text(object, "storageClassName");
    invalid_each(out, &FieldPath::new("storageClassName"), class, names::dns1123_subdomain(class));
    if let Some(size) = Quantity::from_value(get(object, "capacity")).filter(|size| size.sign() < 0) {
        let sentence = "must be greater than or equal to 0";
        out.push(FieldError::invalid("capacity", size.canonical(), sentence));
    }
    let Some(old) = old else { return };
    for key in ["nodeTopology", "storageClassName"] {
        immutable(out, &FieldPath::new(key), get(object, key), get(old, key));
    }
}
