//! The columns of the kinds that say how a cluster is set up.

use super::{AGE, Column, NAME, column, count, text, wide};

const BUDGET: &[Column] = &[
    NAME,
    text("Min Available", "How many pods have to stay."),
    text("Max Unavailable", "How many pods may be missing."),
    count("Allowed Disruptions", "How many pods may be evicted now."),
    AGE,
];

const INGRESS: &[Column] = &[
    NAME,
    text("Class", "The class that the ingress belongs to."),
    text("Hosts", "The names under which it answers."),
    text("Address", "The addresses of the load balancer."),
    text("Ports", "The ports of the load balancer."),
    AGE,
];

const INGRESS_CLASS: &[Column] = &[
    NAME,
    text("Controller", "Who serves the ingresses of the class."),
    text("Parameters", "The object with more parameters."),
    AGE,
];

const NETWORK_POLICY: &[Column] = &[NAME, text("Pod-Selector", "Which pods the policy is for."), AGE];
const SERVICE_CIDR: &[Column] = &[NAME, text("CIDRs", "The networks of services."), AGE];
const IP_ADDRESS: &[Column] = &[NAME, text("ParentRef", "The object that has the address."), AGE];

const COMPONENT_STATUS: &[Column] = &[
    NAME,
    text("Status", "Whether the component is healthy."),
    text("Message", "What it says."),
    text("Error", "What is wrong."),
];

const AUTOSCALER: &[Column] = &[
    NAME,
    text("Reference", "What is scaled."),
    text("Targets", "Each metric, as it is and as it should be."),
    text("MinPods", "How few pods there may be."),
    text("MaxPods", "How many pods there may be."),
    text("Replicas", "How many pods there are."),
    AGE,
];

const QUOTA: &[Column] = &[
    NAME,
    text("Request", "What is used of what may be asked for."),
    text("Limit", "What is used of the limits."),
    AGE,
];

const PRIORITY_CLASS: &[Column] = &[
    NAME,
    count("Value", "The priority of the class's pods."),
    column("Global-Default", "boolean", 0, "Whether pods that name no class get this one."),
    AGE,
    wide("PreemptionPolicy", "Whether pods of the class drive others out."),
];

const RUNTIME_CLASS: &[Column] = &[NAME, text("Handler", "What runs the class's pods."), AGE];

const STORAGE_CLASS: &[Column] = &[
    NAME,
    text("Provisioner", "Who makes the class's volumes."),
    text("ReclaimPolicy", "What becomes of a volume when its claim goes."),
    text("VolumeBindingMode", "When claims get their volumes."),
    text("AllowVolumeExpansion", "Whether volumes may grow."),
    AGE,
];

const ATTRIBUTES_CLASS: &[Column] = &[NAME, text("DriverName", "The driver that knows the attributes."), AGE];

const ATTACHMENT: &[Column] = &[
    NAME,
    Column { format: "name", ..text("Attacher", "The driver that attaches.") },
    text("PV", "The volume."),
    text("Node", "The node."),
    column("Attached", "boolean", 0, "Whether the volume is there."),
    AGE,
];

const CSI_NODE: &[Column] = &[NAME, count("Drivers", "How many drivers the node has."), AGE];

const CSI_DRIVER: &[Column] = &[
    NAME,
    column("AttachRequired", "boolean", 0, "Whether volumes have to be attached."),
    column("PodInfoOnMount", "boolean", 0, "Whether the driver is told about the pod."),
    column("StorageCapacity", "boolean", 0, "Whether the driver says how much room there is."),
    text("TokenRequests", "For whom the driver wants tokens."),
    column("RequiresRepublish", "boolean", 0, "Whether volumes are published again and again."),
    text("Modes", "How long the driver's volumes live."),
    AGE,
];

const CAPACITY: &[Column] = &[
    NAME,
    text("StorageClassName", "The class whose room it is."),
    text("Capacity", "How much room there is."),
];

const WEBHOOKS: &[Column] = &[NAME, count("Webhooks", "How many webhooks there are."), AGE];

const VALIDATING_POLICY: &[Column] = &[
    NAME,
    count("Validations", "How many expressions are checked."),
    text("ParamKind", "The kind of the parameters."),
    AGE,
];

const MUTATING_POLICY: &[Column] = &[
    NAME,
    count("Mutations", "How many changes are made."),
    text("ParamKind", "The kind of the parameters."),
    AGE,
];

const POLICY_BINDING: &[Column] = &[
    NAME,
    text("PolicyName", "The policy that is bound."),
    text("ParamRef", "The parameters that it gets."),
    AGE,
];

const SIGNING_REQUEST: &[Column] = &[
    NAME,
    AGE,
    text("SignerName", "Who is asked to sign."),
    text("Requestor", "Who asks."),
    text("RequestedDuration", "For how long the certificate is asked for."),
    text("Condition", "What became of the request."),
];

const TRUST_BUNDLE: &[Column] = &[NAME, text("SignerName", "The signer whom the bundle is about.")];

const POD_CERTIFICATE: &[Column] = &[
    NAME,
    text("PodName", "The pod that asks."),
    text("ServiceAccountName", "Its service account."),
    text("NodeName", "Its node."),
    text("SignerName", "Who is asked to sign."),
    text("State", "What became of the request."),
    wide("UnverifiedUserAnnotations", "What the pod says about itself."),
];

const CLAIM: &[Column] = &[NAME, text("State", "Whether the claim has its devices."), AGE];

const SLICE: &[Column] = &[
    NAME,
    text("Node", "The node that has the devices."),
    text("Driver", "The driver of the devices."),
    text("Pool", "The pool that they belong to."),
    AGE,
];

const MIGRATION: &[Column] =
    &[NAME, text("Resource", "What is written anew."), text("Status", "How far it is.")];

const TAINT_RULE: &[Column] = &[NAME, AGE];

pub(super) fn of(group: &str, kind: &str) -> Option<&'static [Column]> {
    Some(match (group, kind) {
        ("", "ComponentStatus") => COMPONENT_STATUS,
        ("", "ResourceQuota") => QUOTA,
        ("autoscaling", "HorizontalPodAutoscaler") => AUTOSCALER,
        ("policy", "PodDisruptionBudget") => BUDGET,
        ("networking.k8s.io", "Ingress") => INGRESS,
        ("networking.k8s.io", "IngressClass") => INGRESS_CLASS,
        ("networking.k8s.io", "NetworkPolicy") => NETWORK_POLICY,
        ("networking.k8s.io", "ServiceCIDR") => SERVICE_CIDR,
        ("networking.k8s.io", "IPAddress") => IP_ADDRESS,
        ("scheduling.k8s.io", "PriorityClass") => PRIORITY_CLASS,
        ("node.k8s.io", "RuntimeClass") => RUNTIME_CLASS,
        ("storage.k8s.io", "StorageClass") => STORAGE_CLASS,
        ("storage.k8s.io", "VolumeAttributesClass") => ATTRIBUTES_CLASS,
        ("storage.k8s.io", "VolumeAttachment") => ATTACHMENT,
        ("storage.k8s.io", "CSINode") => CSI_NODE,
        ("storage.k8s.io", "CSIDriver") => CSI_DRIVER,
        ("storage.k8s.io", "CSIStorageCapacity") => CAPACITY,
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration",
        ) => WEBHOOKS,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => VALIDATING_POLICY,
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => MUTATING_POLICY,
        ("admissionregistration.k8s.io", _) => POLICY_BINDING,
        ("certificates.k8s.io", "CertificateSigningRequest") => SIGNING_REQUEST,
        ("certificates.k8s.io", "ClusterTrustBundle") => TRUST_BUNDLE,
        ("certificates.k8s.io", "PodCertificateRequest") => POD_CERTIFICATE,
        ("resource.k8s.io", "ResourceClaim") => CLAIM,
        ("resource.k8s.io", "ResourceSlice") => SLICE,
        ("resource.k8s.io", "DeviceTaintRule") => TAINT_RULE,
        ("storagemigration.k8s.io", _) => MIGRATION,
        _ => return None,
    })
}
