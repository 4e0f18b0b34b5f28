//! The rows: one for each kind that is served, as they share them; a file for some groups.

mod cluster;
mod core;
mod workloads;

use std::sync::OnceLock;

use super::{Gvk, Resource, SelectableField, Storage, Subresource};

/// The registry: the groups in the order of their priority, in a group by plural.
pub(super) fn resources() -> &'static [Resource] {
    static ALL: OnceLock<Vec<Resource>> = OnceLock::new();
    ALL.get_or_init(|| [core::ROWS, workloads::ROWS, cluster::ROWS].concat())
}

const EVERY: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const NO_COLLECTION_DELETE: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const CREATE: &[&str] = &["create"];
const GET: &[&str] = &["get"];
const READ: &[&str] = &["get", "list"];
const CONNECT: &[&str] = &["create", "get"];
const CHANGE: &[&str] = &["get", "patch", "update"];
const UPDATE: &[&str] = &["update"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
const ALL: &[&str] = &["all"];
const EXTENSIONS: &[&str] = &["api-extensions"];

/// Every group with its versions, the preferred first.
pub(super) const GROUPS: &[(&str, &[&str])] = &[
    ("", &["v1"]),
    ("apiregistration.k8s.io", &["v1"]),
    ("apps", &["v1"]),
    ("events.k8s.io", &["v1"]),
    ("authentication.k8s.io", &["v1"]),
    ("authorization.k8s.io", &["v1"]),
    ("autoscaling", &["v2", "v1"]),
    ("batch", &["v1"]),
    ("certificates.k8s.io", &["v1"]),
    ("networking.k8s.io", &["v1"]),
    ("policy", &["v1"]),
    ("rbac.authorization.k8s.io", &["v1"]),
    ("storage.k8s.io", &["v1"]),
    ("admissionregistration.k8s.io", &["v1"]),
    ("apiextensions.k8s.io", &["v1"]),
    ("scheduling.k8s.io", &["v1", "v1beta1"]),
    ("coordination.k8s.io", &["v1"]),
    ("node.k8s.io", &["v1"]),
    ("discovery.k8s.io", &["v1"]),
    ("resource.k8s.io", &["v1"]),
    ("flowcontrol.apiserver.k8s.io", &["v1"]),
    ("storagemigration.k8s.io", &["v1"]),
];

/// Kinds that travel but have no path of their own.
pub(super) const OTHER_KINDS: &[Gvk] = &[
    Gvk { group: "", version: "v1", kind: "Status" },
    Gvk { group: "", version: "v1", kind: "List" },
    Gvk { group: "", version: "v1", kind: "DeleteOptions" },
    Gvk { group: "", version: "v1", kind: "APIResourceList" },
    Gvk { group: "", version: "v1", kind: "APIGroupList" },
    Gvk { group: "", version: "v1", kind: "APIVersions" },
    Gvk { group: "", version: "v1", kind: "WatchEvent" },
];

/// What most rows say: a namespaced core kind with every verb.
const ROW: Resource = Resource {
    group: "",
    version: "v1",
    kind: "",
    listed_as: "",
    plural: "",
    singular: "",
    short_names: &[],
    namespaced: true,
    verbs: EVERY,
    categories: &[],
    subresources: &[],
    fields: &[],
    storage: Storage::Own,
};

/// What every custom kind says, but for its names.
pub(super) const fn custom(group: &'static str, version: &'static str) -> Resource {
    Resource { group, version, ..ROW }
}

/// What most rows say of a kind that belongs to no namespace.
const CLUSTER: Resource = Resource { namespaced: false, ..ROW };

const APPS: Resource = Resource { group: "apps", ..ROW };
const AUTOSCALING: Resource = Resource { group: "autoscaling", ..ROW };
const BATCH: Resource = Resource { group: "batch", ..ROW };
const NETWORKING: Resource = Resource { group: "networking.k8s.io", ..ROW };
const RBAC: Resource = Resource { group: "rbac.authorization.k8s.io", ..ROW };
const RESOURCE: Resource = Resource { group: "resource.k8s.io", ..ROW };
const CERTIFICATES: Resource = Resource { group: "certificates.k8s.io", ..CLUSTER };
const FLOW: Resource = Resource { group: "flowcontrol.apiserver.k8s.io", ..CLUSTER };
const STORAGE: Resource = Resource { group: "storage.k8s.io", ..CLUSTER };
const ADMISSION: Resource =
    Resource { group: "admissionregistration.k8s.io", categories: EXTENSIONS, ..CLUSTER };

/// A question that is answered at once and never kept.
const REVIEW: Resource = Resource { verbs: CREATE, storage: Storage::Virtual, ..CLUSTER };
const AUTHENTICATION: Resource = Resource { group: "authentication.k8s.io", ..REVIEW };
const AUTHORIZATION: Resource = Resource { group: "authorization.k8s.io", ..REVIEW };

const fn own(name: &'static str, group: &'static str, kind: &'static str) -> Subresource {
    Subresource { name, group, version: "v1", kind, verbs: CHANGE }
}

const fn verbs(sub: Subresource, verbs: &'static [&'static str]) -> Subresource {
    Subresource { verbs, ..sub }
}

const fn version(version: &'static str, sub: Subresource) -> Subresource {
    Subresource { version, ..sub }
}

const SCALE: Subresource = own("scale", "autoscaling", "Scale");

const fn text(label: &'static str, paths: &'static [&'static str]) -> SelectableField {
    SelectableField { label, paths, absent: "" }
}

const fn typed(label: &'static str, paths: &'static [&'static str], absent: &'static str) -> SelectableField {
    SelectableField { label, paths, absent }
}

const POD_FIELDS: &[SelectableField] = &[
    text("spec.nodeName", &["spec.nodeName"]),
    text("spec.restartPolicy", &["spec.restartPolicy"]),
    text("spec.schedulerName", &["spec.schedulerName"]),
    text("spec.serviceAccountName", &["spec.serviceAccountName"]),
    typed("spec.hostNetwork", &["spec.hostNetwork"], "false"),
    text("status.phase", &["status.phase"]),
    text("status.podIP", &["status.podIP"]),
    text("status.podIPs", &["status.podIP"]),
    text("status.nominatedNodeName", &["status.nominatedNodeName"]),
    text("spec.host", &["spec.nodeName"]),
];

const EVENT_FIELDS: &[SelectableField] = &[
    text("involvedObject.kind", &["involvedObject.kind"]),
    text("involvedObject.namespace", &["involvedObject.namespace"]),
    text("involvedObject.name", &["involvedObject.name"]),
    text("involvedObject.uid", &["involvedObject.uid"]),
    text("involvedObject.apiVersion", &["involvedObject.apiVersion"]),
    text("involvedObject.resourceVersion", &["involvedObject.resourceVersion"]),
    text("involvedObject.fieldPath", &["involvedObject.fieldPath"]),
    text("reason", &["reason"]),
    text("reportingComponent", &["reportingComponent"]),
    text("source", &["source.component", "reportingComponent"]),
    text("type", &["type"]),
];

const NEW_EVENT_FIELDS: &[SelectableField] = &[
    text("regarding.kind", &["involvedObject.kind"]),
    text("regarding.namespace", &["involvedObject.namespace"]),
    text("regarding.name", &["involvedObject.name"]),
    text("regarding.uid", &["involvedObject.uid"]),
    text("regarding.apiVersion", &["involvedObject.apiVersion"]),
    text("regarding.resourceVersion", &["involvedObject.resourceVersion"]),
    text("regarding.fieldPath", &["involvedObject.fieldPath"]),
    text("reason", &["reason"]),
    text("reportingController", &["reportingComponent"]),
    text("type", &["type"]),
];

const REPLICAS: &[SelectableField] = &[typed("status.replicas", &["status.replicas"], "0")];

const SIGNER: SelectableField = text("spec.signerName", &["spec.signerName"]);
