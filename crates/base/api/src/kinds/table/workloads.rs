//! The rows of the groups from `apiregistration.k8s.io` to `policy`: what runs, and what it is reached by.

use super::*;

/// The rows.
pub(super) const ROWS: &[Resource] = &[
    Resource {
        group: "apiregistration.k8s.io",
        kind: "APIService",
        plural: "apiservices",
        singular: "apiservice",
        categories: EXTENSIONS,
        subresources: &[own("status", "apiregistration.k8s.io", "APIService")],
        ..CLUSTER
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
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        ..AUTHENTICATION
    },
    Resource { kind: "TokenReview", plural: "tokenreviews", singular: "tokenreview", ..AUTHENTICATION },
    Resource {
        kind: "LocalSubjectAccessReview",
        plural: "localsubjectaccessreviews",
        singular: "localsubjectaccessreview",
        namespaced: true,
        ..AUTHORIZATION
    },
    Resource {
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        ..AUTHORIZATION
    },
    Resource {
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        ..AUTHORIZATION
    },
    Resource {
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        ..AUTHORIZATION
    },
    Resource {
        kind: "HorizontalPodAutoscaler",
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        short_names: &["hpa"],
        version: "v2",
        categories: ALL,
        subresources: &[version("v2", own("status", "autoscaling", "HorizontalPodAutoscaler"))],
        ..AUTOSCALING
    },
    Resource {
        kind: "HorizontalPodAutoscaler",
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        short_names: &["hpa"],
        categories: ALL,
        subresources: &[own("status", "autoscaling", "HorizontalPodAutoscaler")],
        storage: Storage::Shared("autoscaling", "v2", "horizontalpodautoscalers"),
        ..AUTOSCALING
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
    Resource {
        kind: "CertificateSigningRequest",
        plural: "certificatesigningrequests",
        singular: "certificatesigningrequest",
        short_names: &["csr"],
        subresources: &[
            own("approval", "certificates.k8s.io", "CertificateSigningRequest"),
            own("status", "certificates.k8s.io", "CertificateSigningRequest"),
        ],
        fields: &[SIGNER],
        ..CERTIFICATES
    },
    Resource {
        kind: "ClusterTrustBundle",
        plural: "clustertrustbundles",
        singular: "clustertrustbundle",
        fields: &[SIGNER],
        ..CERTIFICATES
    },
    Resource {
        kind: "PodCertificateRequest",
        plural: "podcertificaterequests",
        singular: "podcertificaterequest",
        namespaced: true,
        subresources: &[own("status", "certificates.k8s.io", "PodCertificateRequest")],
        fields: &[SIGNER, text("spec.podName", &["spec.podName"]), text("spec.nodeName", &["spec.nodeName"])],
        ..CERTIFICATES
    },
    Resource {
        kind: "IngressClass",
        plural: "ingressclasses",
        singular: "ingressclass",
        namespaced: false,
        ..NETWORKING
    },
    Resource {
        kind: "Ingress",
        plural: "ingresses",
        singular: "ingress",
        short_names: &["ing"],
        subresources: &[own("status", "networking.k8s.io", "Ingress")],
        ..NETWORKING
    },
    Resource {
        kind: "IPAddress",
        plural: "ipaddresses",
        singular: "ipaddress",
        short_names: &["ip"],
        namespaced: false,
        ..NETWORKING
    },
    Resource {
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: &["netpol"],
        ..NETWORKING
    },
    Resource {
        kind: "ServiceCIDR",
        plural: "servicecidrs",
        singular: "servicecidr",
        namespaced: false,
        subresources: &[own("status", "networking.k8s.io", "ServiceCIDR")],
        ..NETWORKING
    },
    Resource {
        group: "policy",
        kind: "PodDisruptionBudget",
        plural: "poddisruptionbudgets",
        singular: "poddisruptionbudget",
        short_names: &["pdb"],
        subresources: &[own("status", "policy", "PodDisruptionBudget")],
        ..ROW
    },
];
