//! The rows: one for each kind that is served.

use super::{Gvk, Resource, SelectableField, Storage, Subresource};

const EVERY: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const NO_COLLECTION_DELETE: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const CREATE: &[&str] = &["create"];
const GET: &[&str] = &["get"];
const CONNECT: &[&str] = &["create", "get"];
const CHANGE: &[&str] = &["get", "patch", "update"];
const UPDATE: &[&str] = &["update"];
const ALL: &[&str] = &["all"];

/// Every group with its versions, the preferred first.
pub(super) const GROUPS: &[(&str, &[&str])] = &[
    ("", &["v1"]),
    ("apps", &["v1"]),
    ("events.k8s.io", &["v1"]),
    ("authentication.k8s.io", &["v1"]),
    ("authorization.k8s.io", &["v1"]),
    ("batch", &["v1"]),
    ("coordination.k8s.io", &["v1"]),
    ("discovery.k8s.io", &["v1"]),
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

const APPS: Resource = Resource { group: "apps", ..ROW };
const BATCH: Resource = Resource { group: "batch", ..ROW };

/// A question of a cluster-wide group that is answered at once and never kept.
const REVIEW: Resource = Resource { namespaced: false, verbs: CREATE, storage: Storage::Virtual, ..ROW };

const fn own(name: &'static str, group: &'static str, kind: &'static str) -> Subresource {
    Subresource { name, group, version: "v1", kind, verbs: CHANGE }
}

const fn verbs(sub: Subresource, verbs: &'static [&'static str]) -> Subresource {
    Subresource { verbs, ..sub }
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

/// The registry.
pub(super) const RESOURCES: &[Resource] = &[
    Resource {
        kind: "Binding",
        plural: "bindings",
        singular: "binding",
        verbs: CREATE,
        storage: Storage::Virtual,
        ..ROW
    },
    Resource { kind: "ConfigMap", plural: "configmaps", singular: "configmap", short_names: &["cm"], ..ROW },
    Resource { kind: "Endpoints", plural: "endpoints", singular: "endpoints", short_names: &["ep"], ..ROW },
    Resource {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        fields: EVENT_FIELDS,
        ..ROW
    },
    Resource {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        namespaced: false,
        verbs: NO_COLLECTION_DELETE,
        subresources: &[verbs(own("finalize", "", "Namespace"), UPDATE), own("status", "", "Namespace")],
        fields: &[text("status.phase", &["status.phase"])],
        ..ROW
    },
    Resource {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        namespaced: false,
        subresources: &[own("status", "", "Node")],
        fields: &[typed("spec.unschedulable", &["spec.unschedulable"], "false")],
        ..ROW
    },
    Resource {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: ALL,
        subresources: &[
            verbs(own("attach", "", "PodAttachOptions"), CONNECT),
            verbs(own("binding", "", "Binding"), CREATE),
            verbs(own("eviction", "policy", "Eviction"), CREATE),
            verbs(own("exec", "", "PodExecOptions"), CONNECT),
            verbs(own("log", "", "Pod"), GET),
            verbs(own("portforward", "", "PodPortForwardOptions"), CONNECT),
            own("status", "", "Pod"),
        ],
        fields: POD_FIELDS,
        ..ROW
    },
    Resource { kind: "PodTemplate", plural: "podtemplates", singular: "podtemplate", ..ROW },
    Resource {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        fields: &[text("type", &["type"])],
        ..ROW
    },
    Resource {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        subresources: &[verbs(own("token", "authentication.k8s.io", "TokenRequest"), CREATE)],
        ..ROW
    },
    Resource {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: ALL,
        subresources: &[own("status", "", "Service")],
        fields: &[text("spec.clusterIP", &["spec.clusterIP"]), text("spec.type", &["spec.type"])],
        ..ROW
    },
    Resource {
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        ..APPS
    },
    Resource {
        kind: "DaemonSet",
        plural: "daemonsets",
        singular: "daemonset",
        short_names: &["ds"],
        categories: ALL,
        subresources: &[own("status", "apps", "DaemonSet")],
        ..APPS
    },
    Resource {
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: ALL,
        subresources: &[SCALE, own("status", "apps", "Deployment")],
        ..APPS
    },
    Resource {
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: ALL,
        subresources: &[SCALE, own("status", "apps", "ReplicaSet")],
        fields: &[typed("status.replicas", &["status.replicas"], "0")],
        ..APPS
    },
    Resource {
        kind: "StatefulSet",
        plural: "statefulsets",
        singular: "statefulset",
        short_names: &["sts"],
        categories: ALL,
        subresources: &[SCALE, own("status", "apps", "StatefulSet")],
        ..APPS
    },
    Resource {
        group: "events.k8s.io",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        fields: NEW_EVENT_FIELDS,
        storage: Storage::Shared("", "v1", "events"),
        ..ROW
    },
    Resource {
        group: "authentication.k8s.io",
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        ..REVIEW
    },
    Resource {
        group: "authentication.k8s.io",
        kind: "TokenReview",
        plural: "tokenreviews",
        singular: "tokenreview",
        ..REVIEW
    },
    Resource {
        group: "authorization.k8s.io",
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        ..REVIEW
    },
    Resource {
        group: "authorization.k8s.io",
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        ..REVIEW
    },
    Resource {
        kind: "CronJob",
        plural: "cronjobs",
        singular: "cronjob",
        short_names: &["cj"],
        categories: ALL,
        subresources: &[own("status", "batch", "CronJob")],
        ..BATCH
    },
    Resource {
        kind: "Job",
        plural: "jobs",
        singular: "job",
        categories: ALL,
        subresources: &[own("status", "batch", "Job")],
        fields: &[typed("status.successful", &["status.succeeded"], "0")],
        ..BATCH
    },
    Resource { group: "coordination.k8s.io", kind: "Lease", plural: "leases", singular: "lease", ..ROW },
    Resource {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        ..ROW
    },
];
