//! The columns of each kind.

mod cluster;

use super::Column;

const fn column(name: &'static str, kind: &'static str, priority: i32, description: &'static str) -> Column {
    Column { name, kind, format: "", description, priority }
}

/// A column of text.
const fn text(name: &'static str, description: &'static str) -> Column {
    column(name, "string", 0, description)
}

/// A column of text that only the wide output shows.
const fn wide(name: &'static str, description: &'static str) -> Column {
    column(name, "string", 1, description)
}

/// A column of whole numbers.
const fn count(name: &'static str, description: &'static str) -> Column {
    column(name, "integer", 0, description)
}

const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "The object's name, unique in its namespace.",
    priority: 0,
};
const AGE: Column = text("Age", "The time since the object was created.");
const CONTAINERS: Column = wide("Containers", "Names of each container in the template.");
const IMAGES: Column = wide("Images", "Images referenced by each container in the template.");
const SELECTOR: Column = wide("Selector", "Which pods belong to the object.");

const DEFAULT: &[Column] = &[NAME, AGE];

const POD: &[Column] = &[
    NAME,
    text("Ready", "How many containers are ready, of how many."),
    text("Status", "The state of the containers in one word."),
    text("Restarts", "How often the containers were restarted, and when the last time was."),
    AGE,
    wide("IP", "The pod's address."),
    wide("Node", "The node that runs the pod."),
    wide("Nominated Node", "The node where room is being made for the pod."),
    wide("Readiness Gates", "How many of the pod's readiness gates are open, of how many."),
];

const POD_TEMPLATE: &[Column] = &[
    NAME,
    text("Containers", "Names of each container in the template."),
    text("Images", "Images referenced by each container in the template."),
    text("Pod Labels", "The labels of the template."),
];

const REPLICA_SET: &[Column] = &[
    NAME,
    count("Desired", "How many pods there should be."),
    count("Current", "How many pods there are."),
    count("Ready", "How many pods are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

const DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready", "How many pods are ready, of how many."),
    text("Up-to-date", "How many pods have the newest template."),
    text("Available", "How many pods have been ready for long enough."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

const DAEMON_SET: &[Column] = &[
    NAME,
    count("Desired", "How many nodes should run the pod."),
    count("Current", "How many nodes that should run the pod do."),
    count("Ready", "How many of these pods are ready."),
    count("Up-to-date", "How many nodes run the newest template."),
    count("Available", "How many of these pods have been ready for long enough."),
    text("Node Selector", "Which nodes run the pod."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

const STATEFUL_SET: &[Column] =
    &[NAME, text("Ready", "How many pods are ready, of how many."), AGE, CONTAINERS, IMAGES];

const CONTROLLER_REVISION: &[Column] = &[
    NAME,
    text("Controller", "The object that the revision belongs to."),
    text("Revision", "The revision's number."),
    AGE,
];

const JOB: &[Column] = &[
    NAME,
    text("Status", "The state of the job in one word."),
    text("Completions", "How many pods have succeeded, of how many."),
    text("Duration", "How long the job took, or has been running."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

const CRON_JOB: &[Column] = &[
    NAME,
    text("Schedule", "When jobs are made, in cron's words."),
    text("Timezone", "The time zone of the schedule."),
    column("Suspend", "boolean", 0, "Whether no more jobs are made."),
    count("Active", "How many jobs are running."),
    text("Last Schedule", "How long ago the last job was made."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

const SERVICE: &[Column] = &[
    NAME,
    text("Type", "How the service can be reached."),
    text("Cluster-IP", "The address inside the cluster."),
    text("External-IP", "Addresses that are reached from outside."),
    text("Port(s)", "The ports, with the node's port after a colon."),
    AGE,
    wide("Selector", "Which pods serve."),
];

const ENDPOINTS: &[Column] = &[NAME, text("Endpoints", "Addresses and ports that serve."), AGE];

const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    text("AddressType", "What the addresses are."),
    text("Ports", "The ports of each endpoint."),
    text("Endpoints", "The addresses that serve."),
    AGE,
];

const NODE: &[Column] = &[
    NAME,
    text("Status", "Whether the node is ready, and takes pods."),
    text("Roles", "The roles that labels give the node."),
    AGE,
    text("Version", "The version of the node's agent."),
    wide("Internal-IP", "The address inside the cluster."),
    wide("External-IP", "The address outside of the cluster."),
    wide("OS-Image", "The operating system."),
    wide("Kernel-Version", "The kernel."),
    wide("Container-Runtime", "What runs the containers."),
];

const NAMESPACE: &[Column] = &[NAME, text("Status", "Whether the namespace is active or going."), AGE];
const CONFIG_MAP: &[Column] = &[NAME, text("Data", "How many keys there are."), AGE];
const SECRET: &[Column] =
    &[NAME, text("Type", "What the secret is for."), text("Data", "How many keys there are."), AGE];

const EVENT: &[Column] = &[
    text("Last Seen", "How long ago it happened last."),
    text("Type", "Normal or Warning."),
    text("Reason", "Why, in one word."),
    text("Object", "The object that it is about."),
    wide("Subobject", "The part of the object that it is about."),
    wide("Source", "Who noticed it."),
    text("Message", "What happened."),
    wide("First Seen", "How long ago it happened first."),
    wide("Count", "How often it happened."),
    wide("Name", "The event's name."),
];

const LEASE: &[Column] = &[NAME, text("Holder", "Who holds the lease."), AGE];

const VOLUME: &[Column] = &[
    NAME,
    text("Capacity", "The volume's size."),
    text("Access Modes", "How the volume can be mounted."),
    text("Reclaim Policy", "What becomes of the volume when its claim goes."),
    text("Status", "The volume's state in one word."),
    text("Claim", "The claim that has the volume."),
    text("StorageClass", "The class that the volume belongs to."),
    text("VolumeAttributesClass", "The class of the volume's attributes."),
    text("Reason", "Why the volume is in its state."),
    AGE,
    wide("VolumeMode", "A file system or a block device."),
];

const CLAIM: &[Column] = &[
    NAME,
    text("Status", "The claim's state in one word."),
    text("Volume", "The volume that the claim has."),
    text("Capacity", "The volume's size."),
    text("Access Modes", "How the volume can be mounted."),
    text("StorageClass", "The class that the claim asks for."),
    text("VolumeAttributesClass", "The class of the volume's attributes."),
    AGE,
    wide("VolumeMode", "A file system or a block device."),
];

const ROLE: &[Column] = &[NAME, text("Created At", "When the object was created.")];

const BINDING: &[Column] = &[
    NAME,
    text("Role", "What is granted."),
    AGE,
    wide("Users", "The users to whom it is granted."),
    wide("Groups", "The groups to whom it is granted."),
    wide("ServiceAccounts", "The service accounts to whom it is granted."),
];

const FLOW_SCHEMA: &[Column] = &[
    NAME,
    text("PriorityLevel", "The level of the requests that match."),
    count("MatchingPrecedence", "The lowest matching one counts."),
    text("DistinguisherMethod", "What tells the flows apart."),
    AGE,
    text("MissingPL", "Whether the level is not there."),
];

const PRIORITY_LEVEL: &[Column] = &[
    NAME,
    text("Type", "Whether the level has limits."),
    text("NominalConcurrencyShares", "The level's part of the requests at once."),
    text("Queues", "How many queues the level has."),
    text("HandSize", "How many queues a flow may use."),
    text("QueueLengthLimit", "How many requests wait in a queue."),
    AGE,
];

pub(super) fn of(group: &str, kind: &str) -> &'static [Column] {
    match (group, kind) {
        ("", "Pod") => POD,
        ("", "PodTemplate") => POD_TEMPLATE,
        ("", "ReplicationController") | ("apps", "ReplicaSet") => REPLICA_SET,
        ("apps", "Deployment") => DEPLOYMENT,
        ("apps", "DaemonSet") => DAEMON_SET,
        ("apps", "StatefulSet") => STATEFUL_SET,
        ("apps", "ControllerRevision") => CONTROLLER_REVISION,
        ("batch", "Job") => JOB,
        ("batch", "CronJob") => CRON_JOB,
        ("", "Service") => SERVICE,
        ("", "Endpoints") => ENDPOINTS,
        ("discovery.k8s.io", "EndpointSlice") => ENDPOINT_SLICE,
        ("", "Node") => NODE,
        ("", "Namespace") => NAMESPACE,
        ("", "ConfigMap") => CONFIG_MAP,
        ("", "Secret") => SECRET,
        ("", "PersistentVolume") => VOLUME,
        ("", "PersistentVolumeClaim") => CLAIM,
        ("" | "events.k8s.io", "Event") => EVENT,
        ("coordination.k8s.io", "Lease") => LEASE,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => BINDING,
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => ROLE,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => FLOW_SCHEMA,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => PRIORITY_LEVEL,
        _ => cluster::of(group, kind).unwrap_or(DEFAULT),
    }
}
