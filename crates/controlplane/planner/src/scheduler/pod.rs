//! A pod as the scheduler keeps it: only what decisions read.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::affinity::NodeAffinity;
use super::gpu::{self, GpuRequest};
use super::interpod::PodTerms;
use super::numa::ZoneNeed;
use super::resources::{Resources, nonzero_requests, pod_requests};
use super::spread::Constraint;
use super::taints::Tolerates;
use crate::fairness::Lane;
use crate::reservation::{CONSUMED, Maker, Seat, Wish};
use crate::selector::Labels;
use crate::{pods, prefetch};

/// A port taken on the node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct HostPort {
    pub ip: Box<str>,
    pub protocol: Box<str>,
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be open at once: a wildcard address takes the port everywhere.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// What pods of one template have in common: all that decides where they fit. Shared by all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub namespace: Box<str>,
    pub labels: Arc<Labels>,
    pub owner: Option<Box<str>>,
    pub profile: Box<str>,
    pub priority: i32,
    pub requests: Resources,
    pub nonzero: (i64, i64),
    pub gpu: GpuRequest,
    pub ports: Box<[HostPort]>,
    pub terms: PodTerms,
    pub node: NodeAffinity,
    pub tolerations: Box<[Tolerates]>,
    pub spread: Box<[Constraint]>,
    pub images: Box<[Box<str>]>,
    pub group: Option<GroupName>,
    /// The claims that it mounts: pods with different ones wait for different things.
    pub claims: Box<[Box<str>]>,
    /// One of those that run on each node.
    pub of_daemon: bool,
    pub maker: Maker,
    /// What it says of reservations.
    pub wish: Option<Box<Wish>>,
    /// What it asks of the zones of its node.
    pub zones: Option<Arc<ZoneNeed>>,
}

/// The label that makes a pod a member of a gang.
pub const POD_GROUP: &str = "sampan.io/pod-group";
/// The annotation that says how many members must be placed together.
pub const POD_GROUP_MIN: &str = "sampan.io/pod-group-min";

/// The gang of a pod, in its namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupName {
    /// The namespace.
    pub namespace: Box<str>,
    /// The name.
    pub name: Box<str>,
    /// How many members must be placed together, or none is; 0 when only a PodGroup object says so.
    pub min: u32,
}

/// A pod, compact.
#[derive(Debug, Clone, Default)]
pub struct PodInfo {
    pub(super) uid: Box<str>,
    pub(super) name: Box<str>,
    /// The same text as that of the node, once the pod is there.
    pub(super) node: Arc<str>,
    pub(super) shape: Arc<Shape>,
    /// The only nodes it may go to, when it names them.
    pub(super) only: Option<Box<[Box<str>]>>,
    pub(super) terminating: bool,
    pub(super) preempted: bool,
    /// Whether it may make others go.
    pub(super) preempts: bool,
    /// When it started, in seconds; pods that run longer are more important.
    pub(super) started: i64,
    pub(super) nominated: Option<Box<str>>,
    pub(super) devices: Box<[u8]>,
    /// Its tenant's queue, while it waits.
    pub(super) lane: Lane,
    /// The seat of a reservation that it took.
    pub(super) seat: Option<Arc<Seat>>,
    /// The seat of a reservation that it is: no pod then, but room for one.
    pub(super) holds: Option<Arc<Seat>>,
}

impl PodInfo {
    /// The uid.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.shape.namespace
    }

    /// What it asks of its node.
    pub fn requests(&self) -> &Resources {
        &self.shape.requests
    }

    /// What it asks of GPUs.
    pub fn gpu(&self) -> GpuRequest {
        self.shape.gpu
    }

    /// Its priority.
    pub fn priority(&self) -> i32 {
        self.shape.priority
    }

    /// Its labels.
    pub fn labels(&self) -> &Labels {
        &self.shape.labels
    }

    /// The node that others were asked to leave for it.
    pub fn nominated(&self) -> Option<&str> {
        self.nominated.as_deref()
    }

    /// The gang it belongs to.
    pub fn group(&self) -> Option<&GroupName> {
        self.shape.group.as_ref()
    }

    /// When it started, in seconds.
    pub fn started(&self) -> i64 {
        self.started
    }

    /// Whether it is about to go.
    pub fn is_leaving(&self) -> bool {
        self.terminating
    }

    /// The same pod, as more important as that, where it is not already.
    pub(super) fn raised(&self, least: i32) -> Self {
        if self.shape.priority >= least {
            return self.clone();
        }
        let shape = Arc::new(Shape { priority: least, ..(*self.shape).clone() });
        Self { shape, ..self.clone() }
    }

    /// The seat of a reservation that it took.
    pub fn seat(&self) -> Option<&Arc<Seat>> {
        self.seat.as_ref()
    }

    /// The seat of a reservation that this stands for, when it is no pod.
    pub fn holds(&self) -> Option<&Arc<Seat>> {
        self.holds.as_ref()
    }

    /// What it says of reservations.
    pub(crate) fn wish(&self) -> Option<&Wish> {
        self.shape.wish.as_deref()
    }

    /// What made it.
    pub(crate) fn maker(&self) -> &Maker {
        &self.shape.maker
    }

    /// The claims that it mounts, by name.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.shape.claims.iter().map(AsRef::as_ref)
    }

    /// Whether it mounts claims.
    pub fn has_claims(&self) -> bool {
        !self.shape.claims.is_empty()
    }

    /// The GPUs it holds.
    pub fn devices(&self) -> &[u8] {
        &self.devices
    }

    /// The same pod, as bound to a node.
    #[must_use]
    pub fn on(mut self, node: &str) -> Self {
        self.node = node.into();
        self
    }

    /// The same pod, as holding these GPUs.
    #[must_use]
    pub fn with_devices(mut self, devices: &[u8]) -> Self {
        self.devices = devices.into();
        self
    }

    /// The same pod made anew: with another uid, on no node.
    #[must_use]
    pub fn again(mut self, number: usize) -> Self {
        self.uid = format!("{}+{number}", self.uid.split('+').next().unwrap_or_default()).into();
        self.unbound()
    }

    /// The same pod, as on no node yet.
    #[must_use]
    pub fn unbound(&self) -> Self {
        Self { node: "".into(), devices: Box::default(), terminating: false, seat: None, ..self.clone() }
    }

    /// It is looked at soon.
    pub(super) fn expect(&self) {
        prefetch::soon(&self.uid);
        prefetch::soon(&self.shape);
        prefetch::soon(&self.started);
    }

    /// Whether it asks for the same.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.shape == other.shape && self.only == other.only
    }

    /// Whether it can run on no other node, as the pods of a DaemonSet.
    pub fn is_bound_to_its_node(&self) -> bool {
        self.only.is_some()
    }

    /// Reads a pod, on a node or not.
    pub fn of(pod: &Pod) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let node = spec.node_name.as_deref().unwrap_or_default();
        let status = pod.status.as_ref();
        let started =
            status.and_then(|s| s.start_time.as_ref()).map_or(pods::created(&pod.metadata), |t| t.0);
        let mut shape = shape(pod, spec);
        let only = shape.node.only_nodes().map(|names| names.into_iter().map(Into::into).collect());
        if only.is_some() {
            shape.node.strip_names();
        }
        let target = pods::condition(pod, "DisruptionTarget");
        let preempted = target
            .is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler"));
        Self {
            uid: pods::uid(&pod.metadata).into(),
            name: pods::name(&pod.metadata).into(),
            node: node.into(),
            shape: Arc::new(shape),
            only,
            terminating: pods::terminating(pod),
            preempted,
            preempts: spec.preemption_policy.as_deref() != Some("Never"),
            started: started.as_second(),
            nominated: status
                .and_then(|s| s.nominated_node_name.as_deref())
                .filter(|n| !n.is_empty())
                .map(Into::into),
            lane: 0,
            seat: pods::annotation(&pod.metadata, CONSUMED).and_then(Seat::parse).map(Arc::new),
            holds: None,
            devices: pods::annotation(&pod.metadata, gpu::GPU_DEVICES)
                .map(gpu::parse_devices)
                .unwrap_or_default()
                .into(),
        }
    }
}

fn shape(pod: &Pod, spec: &PodSpec) -> Shape {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let owner = pods::controller(&pod.metadata);
    let requests = pod_requests(spec);
    Shape {
        namespace: namespace.into(),
        owner: owner.map(|owner| owner.uid.as_str().into()),
        profile: spec.scheduler_name.as_deref().unwrap_or("default-scheduler").into(),
        priority: spec.priority.unwrap_or(0),
        gpu: GpuRequest::of(&requests),
        zones: ZoneNeed::of(spec, &requests),
        requests,
        nonzero: nonzero_requests(spec),
        ports: host_ports(spec),
        terms: PodTerms::new(spec.affinity.as_ref(), namespace, &labels),
        node: NodeAffinity::new(spec),
        tolerations: spec.tolerations.iter().flatten().map(Tolerates::new).collect(),
        spread: spec
            .topology_spread_constraints
            .iter()
            .flatten()
            .map(|c| Constraint::new(c, &labels))
            .collect(),
        images: images(spec),
        group: group(pod, namespace),
        claims: pods::claims(pod).map(Into::into).collect(),
        of_daemon: owner.is_some_and(|owner| owner.kind == "DaemonSet"),
        maker: Maker::of(owner),
        wish: Wish::of(&pod.metadata),
        labels: Arc::new(labels),
    }
}

/// The gang that `spec.schedulingGroup` or the label names. A label without a number is a gang of one: no gang.
fn group(pod: &Pod, namespace: &str) -> Option<GroupName> {
    let named = pods::group(pod);
    let labelled = pod.metadata.labels.as_ref().and_then(|l| l.get(POD_GROUP)).map(String::as_str);
    let min = pods::annotation(&pod.metadata, POD_GROUP_MIN).and_then(|min| min.parse().ok());
    let min: Option<u32> = min.filter(|min| *min > 1);
    let (name, min) = match named {
        Some(name) => (name, min.unwrap_or(0)),
        None => (labelled?, min?),
    };
    Some(GroupName { namespace: namespace.into(), name: name.into(), min })
}

/// The images that the pod needs on its node, with a tag each, sorted.
fn images(spec: &PodSpec) -> Box<[Box<str>]> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut images: Vec<Box<str>> =
        containers.map(|c| tagged(c.image.as_deref().unwrap_or_default())).collect();
    images.sort();
    images.into()
}

fn tagged(image: &str) -> Box<str> {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains(':') || name.contains('@') { image.into() } else { format!("{image}:latest").into() }
}

fn host_ports(spec: &PodSpec) -> Box<[HostPort]> {
    let init =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let host_network = spec.host_network == Some(true);
    spec.containers
        .iter()
        .chain(init)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let port = p.host_port.or(host_network.then_some(p.container_port)).filter(|port| *port > 0)?;
            let ip = p.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
            Some(HostPort { ip: ip.into(), protocol: p.protocol.as_deref().unwrap_or("TCP").into(), port })
        })
        .collect()
}
