//! The rows of the groups from `rbac.authorization.k8s.io` on: how a cluster is set up.

use super::*;

/// The rows.
pub(super) const ROWS: &[Resource] = &[
    Resource {
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        namespaced: false,
        ..RBAC
    },
    Resource {
        kind: "ClusterRole",
        plural: "clusterroles",
        singular: "clusterrole",
        namespaced: false,
        ..RBAC
    },
    Resource { kind: "RoleBinding", plural: "rolebindings", singular: "rolebinding", ..RBAC },
    Resource { kind: "Role", plural: "roles", singular: "role", ..RBAC },
    Resource { kind: "CSIDriver", plural: "csidrivers", singular: "csidriver", ..STORAGE },
    Resource { kind: "CSINode", plural: "csinodes", singular: "csinode", ..STORAGE },
    Resource {
        kind: "CSIStorageCapacity",
        plural: "csistoragecapacities",
        singular: "csistoragecapacity",
        namespaced: true,
        ..STORAGE
    },
    Resource {
        kind: "StorageClass",
        plural: "storageclasses",
        singular: "storageclass",
        short_names: &["sc"],
        ..STORAGE
    },
    Resource {
        kind: "VolumeAttachment",
        plural: "volumeattachments",
        singular: "volumeattachment",
        subresources: &[own("status", "storage.k8s.io", "VolumeAttachment")],
        ..STORAGE
    },
    Resource {
        kind: "VolumeAttributesClass",
        plural: "volumeattributesclasses",
        singular: "volumeattributesclass",
        short_names: &["vac"],
        ..STORAGE
    },
    Resource {
        kind: "MutatingAdmissionPolicy",
        plural: "mutatingadmissionpolicies",
        singular: "mutatingadmissionpolicy",
        ..ADMISSION
    },
    Resource {
        kind: "MutatingAdmissionPolicyBinding",
        plural: "mutatingadmissionpolicybindings",
        singular: "mutatingadmissionpolicybinding",
        ..ADMISSION
    },
    Resource {
        kind: "MutatingWebhookConfiguration",
        plural: "mutatingwebhookconfigurations",
        singular: "mutatingwebhookconfiguration",
        ..ADMISSION
    },
    Resource {
        kind: "ValidatingAdmissionPolicy",
        plural: "validatingadmissionpolicies",
        singular: "validatingadmissionpolicy",
        subresources: &[own("status", "admissionregistration.k8s.io", "ValidatingAdmissionPolicy")],
        ..ADMISSION
    },
    Resource {
        kind: "ValidatingAdmissionPolicyBinding",
        plural: "validatingadmissionpolicybindings",
        singular: "validatingadmissionpolicybinding",
        ..ADMISSION
    },
    Resource {
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        singular: "validatingwebhookconfiguration",
        ..ADMISSION
    },
    Resource {
        group: "apiextensions.k8s.io",
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        singular: "customresourcedefinition",
        short_names: &["crd", "crds"],
        categories: EXTENSIONS,
        subresources: &[own("status", "apiextensions.k8s.io", "CustomResourceDefinition")],
        ..CLUSTER
    },
    Resource {
        group: "scheduling.k8s.io",
        version: "v1beta1",
        kind: "PodGroup",
        plural: "podgroups",
        singular: "podgroup",
        subresources: &[version("v1beta1", own("status", "scheduling.k8s.io", "PodGroup"))],
        ..ROW
    },
    Resource {
        group: "scheduling.k8s.io",
        kind: "PriorityClass",
        plural: "priorityclasses",
        singular: "priorityclass",
        short_names: &["pc"],
        ..CLUSTER
    },
    Resource {
        group: "scheduling.k8s.io",
        version: "v1beta1",
        kind: "Workload",
        plural: "workloads",
        singular: "workload",
        ..ROW
    },
    Resource { group: "coordination.k8s.io", kind: "Lease", plural: "leases", singular: "lease", ..ROW },
    Resource {
        group: "node.k8s.io",
        kind: "RuntimeClass",
        plural: "runtimeclasses",
        singular: "runtimeclass",
        ..CLUSTER
    },
    Resource {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        ..ROW
    },
    Resource {
        kind: "DeviceClass",
        plural: "deviceclasses",
        singular: "deviceclass",
        namespaced: false,
        ..RESOURCE
    },
    Resource {
        kind: "DeviceTaintRule",
        plural: "devicetaintrules",
        singular: "devicetaintrule",
        namespaced: false,
        subresources: &[own("status", "resource.k8s.io", "DeviceTaintRule")],
        ..RESOURCE
    },
    Resource {
        kind: "ResourceClaim",
        plural: "resourceclaims",
        singular: "resourceclaim",
        subresources: &[own("status", "resource.k8s.io", "ResourceClaim")],
        ..RESOURCE
    },
    Resource {
        kind: "ResourceClaimTemplate",
        plural: "resourceclaimtemplates",
        singular: "resourceclaimtemplate",
        ..RESOURCE
    },
    Resource {
        kind: "ResourceSlice",
        plural: "resourceslices",
        singular: "resourceslice",
        namespaced: false,
        fields: &[text("spec.nodeName", &["spec.nodeName"]), text("spec.driver", &["spec.driver"])],
        ..RESOURCE
    },
    Resource {
        kind: "FlowSchema",
        plural: "flowschemas",
        singular: "flowschema",
        subresources: &[own("status", "flowcontrol.apiserver.k8s.io", "FlowSchema")],
        ..FLOW
    },
    Resource {
        kind: "PriorityLevelConfiguration",
        plural: "prioritylevelconfigurations",
        singular: "prioritylevelconfiguration",
        subresources: &[own("status", "flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration")],
        ..FLOW
    },
    Resource {
        group: "storagemigration.k8s.io",
        kind: "StorageVersionMigration",
        plural: "storageversionmigrations",
        singular: "storageversionmigration",
        subresources: &[own("status", "storagemigration.k8s.io", "StorageVersionMigration")],
        ..CLUSTER
    },
];
