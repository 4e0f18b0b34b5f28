//! The rows of the core group.

use super::*;

/// The rows.
pub(super) const ROWS: &[Resource] = &[
    Resource {
        kind: "Binding",
        plural: "bindings",
        singular: "binding",
        verbs: CREATE,
        storage: Storage::Virtual,
        ..ROW
    },
    Resource {
        kind: "ComponentStatus",
        plural: "componentstatuses",
        singular: "componentstatus",
        short_names: &["cs"],
        verbs: READ,
        ..CLUSTER
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
        kind: "LimitRange",
        plural: "limitranges",
        singular: "limitrange",
        short_names: &["limits"],
        ..ROW
    },
    Resource {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        verbs: NO_COLLECTION_DELETE,
        subresources: &[verbs(own("finalize", "", "Namespace"), UPDATE), own("status", "", "Namespace")],
        fields: &[text("status.phase", &["status.phase"])],
        ..CLUSTER
    },
    Resource {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        subresources: &[verbs(own("proxy", "", "NodeProxyOptions"), PROXY), own("status", "", "Node")],
        fields: &[typed("spec.unschedulable", &["spec.unschedulable"], "false")],
        ..CLUSTER
    },
    Resource {
        kind: "PersistentVolumeClaim",
        plural: "persistentvolumeclaims",
        singular: "persistentvolumeclaim",
        short_names: &["pvc"],
        subresources: &[own("status", "", "PersistentVolumeClaim")],
        ..ROW
    },
    Resource {
        kind: "PersistentVolume",
        plural: "persistentvolumes",
        singular: "persistentvolume",
        short_names: &["pv"],
        subresources: &[own("status", "", "PersistentVolume")],
        ..CLUSTER
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
            own("ephemeralcontainers", "", "Pod"),
            verbs(own("eviction", "policy", "Eviction"), CREATE),
            verbs(own("exec", "", "PodExecOptions"), CONNECT),
            verbs(own("log", "", "Pod"), GET),
            verbs(own("portforward", "", "PodPortForwardOptions"), CONNECT),
            verbs(own("proxy", "", "PodProxyOptions"), PROXY),
            own("resize", "", "Pod"),
            own("status", "", "Pod"),
        ],
        fields: POD_FIELDS,
        ..ROW
    },
    Resource { kind: "PodTemplate", plural: "podtemplates", singular: "podtemplate", ..ROW },
    Resource {
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        singular: "replicationcontroller",
        short_names: &["rc"],
        categories: ALL,
        subresources: &[SCALE, own("status", "", "ReplicationController")],
        fields: REPLICAS,
        ..ROW
    },
    Resource {
        kind: "ResourceQuota",
        plural: "resourcequotas",
        singular: "resourcequota",
        short_names: &["quota"],
        subresources: &[own("status", "", "ResourceQuota")],
        ..ROW
    },
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
        subresources: &[verbs(own("proxy", "", "ServiceProxyOptions"), PROXY), own("status", "", "Service")],
        fields: &[text("spec.clusterIP", &["spec.clusterIP"]), text("spec.type", &["spec.type"])],
        ..ROW
    },
];
