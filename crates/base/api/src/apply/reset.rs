//! Which fields a write does not set, whatever its body says: nobody comes to own them by it.

use std::sync::OnceLock;

use super::set::{Path, PathElement, Set};

/// Fields that a write does not set, and what never belongs to anybody. Make one for each path of a kind and keep it.
#[derive(Debug, Clone)]
pub struct Reset {
    fields: Set,
    skip: Set,
    /// Where there are any, only what is on the way to one of these or below it is set. `*` stands for any element.
    only: Paths,
}

/// What never belongs to anybody.
const STRIPPED: [&[&str]; 11] = [
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

impl Reset {
    /// A write that does not set these fields.
    pub fn new(fields: impl IntoIterator<Item = Path>) -> Reset {
        let fields = Set::of(fields);
        let skip = stripped().union(&fields);
        Reset { fields, skip, only: &[] }
    }

    /// What the write to a kind, or to a subresource of it, does not set. `has_status`: the status has a subresource.
    pub fn of(group: &str, kind: &str, subresource: &str, has_status: bool) -> Reset {
        let paths = paths(group, kind, subresource, has_status).iter();
        let only: Paths = match (group, kind, subresource) {
            ("", "Pod", "ephemeralcontainers") => &[&["spec", "ephemeralContainers"]],
            ("", "Pod", "resize") => &RESIZED,
            _ => &[],
        };
        Reset { only, ..Reset::new(paths.map(|names| Path::fields(names))) }
    }

    /// What of a set the write does set.
    pub(super) fn set_by(&self, set: Set) -> Set {
        if self.only.is_empty() { set } else { within(&set, self.only) }
    }

    /// The same for a custom resource.
    pub fn custom(subresource: &str, has_status: bool) -> Reset {
        let paths: Paths = match subresource {
            "status" => &[SPEC, METADATA],
            "" if has_status => &[STATUS],
            _ => &[],
        };
        Reset::new(paths.iter().map(|names| Path::fields(names)))
    }

    /// What the write does not set.
    pub fn fields(&self) -> &Set {
        &self.fields
    }

    /// What a comparison leaves out.
    pub(super) fn skip(&self) -> &Set {
        &self.skip
    }
}

/// What `pods/resize` sets.
const RESIZED: [&[&str]; 4] = [
    &["spec", "containers", "*", "resources"],
    &["spec", "containers", "*", "resizePolicy"],
    &["spec", "initContainers", "*", "resources"],
    &["spec", "initContainers", "*", "resizePolicy"],
];

/// The part of a set that is on the way to one of the paths, or below it.
fn within(set: &Set, paths: &[&[&'static str]]) -> Set {
    let mut out = Set::default();
    for node in set.nodes() {
        let fits =
            |name: &str| name == "*" || matches!(&node.element, PathElement::Field(own) if **own == *name);
        let rests: Vec<&[&'static str]> = paths
            .iter()
            .filter_map(|path| path.split_first())
            .filter(|(first, _)| fits(first))
            .map(|(_, rest)| rest)
            .collect();
        if rests.is_empty() {
            continue;
        }
        let below = if rests.iter().any(|rest| rest.is_empty()) {
            node.below.clone()
        } else {
            within(&node.below, &rests)
        };
        if node.member || !below.is_empty() {
            out.push(node.element.clone(), node.member, below);
        }
    }
    out
}

type Paths = &'static [&'static [&'static str]];

const SPEC: &[&str] = &["spec"];
const STATUS: &[&str] = &["status"];
const METADATA: &[&str] = &["metadata"];

/// Upstream's `GetResetFields` of each strategy.
fn paths(group: &str, kind: &str, subresource: &str, has_status: bool) -> Paths {
    match (group, kind, subresource) {
        ("certificates.k8s.io", "CertificateSigningRequest", "") => &[SPEC, STATUS],
        ("certificates.k8s.io", "CertificateSigningRequest", "status") => &[SPEC, &["status", "conditions"]],
        ("certificates.k8s.io", "CertificateSigningRequest", "approval") => {
            &[SPEC, &["status", "certificate"]]
        }
        ("", "Namespace", "finalize") => &[STATUS],
        ("", "Pod", "status") => {
            &[SPEC, &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]]
        }
        ("apps", "Deployment", "status") => &[SPEC, &["metadata", "labels"]],
        (
            "storage.k8s.io"
            | "resource.k8s.io"
            | "networking.k8s.io"
            | "flowcontrol.apiserver.k8s.io"
            | "apiregistration.k8s.io"
            | "admissionregistration.k8s.io",
            kind,
            "status",
        ) if status_keeps_metadata(kind) => &[SPEC, METADATA],
        (_, _, "status") => &[SPEC],
        (_, _, "") if has_status => &[STATUS],
        _ => &[],
    }
}

/// Kinds whose status write leaves all of the metadata alone.
fn status_keeps_metadata(kind: &str) -> bool {
    matches!(
        kind,
        "VolumeAttachment"
            | "ResourceClaim"
            | "DeviceTaintRule"
            | "ValidatingAdmissionPolicy"
            | "FlowSchema"
            | "PriorityLevelConfiguration"
            | "APIService"
            | "ServiceCIDR"
    )
}

pub(super) fn stripped() -> &'static Set {
    static STRIPPED_SET: OnceLock<Set> = OnceLock::new();
    STRIPPED_SET.get_or_init(|| Set::of(STRIPPED.iter().map(|names| Path::fields(names))))
}
