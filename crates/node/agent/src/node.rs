//! The Node object: registration, status, and the lease that says the node is alive.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
    NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use sampan_daemon::{Backoff, Policy, clock};
use serde_json::json;

use crate::context::Context;
use crate::options::Options;
use crate::zones::Zones;

/// Between two renewals of the lease.
const RENEW: Duration = Duration::from_secs(10);
/// How long others believe a lease.
const LEASE_SECONDS: i32 = 40;
/// Status is written at least this often.
const STATUS: Duration = Duration::from_secs(300);
/// Between two writes of the status, at least.
const BETWEEN: Duration = Duration::from_secs(1);
/// How old the list of images in the status may be.
const IMAGES: Duration = Duration::from_secs(60);
/// Images listed in the status.
const MAX_IMAGES: usize = 50;
/// Less available memory than this is pressure.
const MEMORY_PRESSURE: u64 = 100 << 20;
/// Less than this share of disk free is pressure.
const DISK_PRESSURE_PERCENT: u64 = 10;
/// Where the provisioner of claims may have directories made.
const VOLUMES: &str = "sampan.io/host-path-volumes";
/// Namespace of node leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// What the machine has.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Processors, thousandths.
    pub cpu_milli: u64,
    /// Memory, bytes.
    pub memory: u64,
    /// Disk under the pods' directory, bytes.
    pub disk: u64,
    /// Most pods.
    pub pods: u32,
    /// Processors, thousandths, and bytes of memory that pods get nothing of.
    pub reserved: (u64, u64),
}

impl Machine {
    /// Look at this machine; options win.
    #[must_use]
    pub fn detect(options: &Options, zones: &Zones) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
        let (total, _) = memory();
        Self {
            cpu_milli: options.capacity.cpu_milli.unwrap_or(processors * 1000),
            memory: options.capacity.memory.unwrap_or(total),
            disk: disk(&options.pods_dir).0,
            pods: options.capacity.pods,
            reserved: (zones.reserved_cpus() as u64 * 1000, zones.reserved_memory()),
        }
    }

    /// What pods may use of it, as the API writes it.
    #[must_use]
    pub fn allocatable(&self) -> BTreeMap<String, Quantity> {
        let (cpu, memory) = self.reserved;
        let left = Self {
            cpu_milli: self.cpu_milli.saturating_sub(cpu),
            memory: self.memory.saturating_sub(memory),
            ..self.clone()
        };
        left.resources()
    }

    /// As the API writes it.
    #[must_use]
    pub fn resources(&self) -> BTreeMap<String, Quantity> {
        let cpu = if self.cpu_milli.is_multiple_of(1000) {
            (self.cpu_milli / 1000).to_string()
        } else {
            format!("{}m", self.cpu_milli)
        };
        let all = [
            ("cpu", cpu),
            ("memory", format!("{}Ki", self.memory / 1024)),
            ("ephemeral-storage", format!("{}Ki", self.disk / 1024)),
            ("pods", self.pods.to_string()),
            ("hugepages-1Gi", "0".to_owned()),
            ("hugepages-2Mi", "0".to_owned()),
        ];
        all.into_iter().map(|(name, value)| (name.to_owned(), Quantity(value))).collect()
    }
}

/// Total and available memory in bytes.
pub(crate) fn memory() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let find = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
        number.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    (find("MemTotal"), find("MemAvailable"))
}

/// Total and available bytes of a file system.
pub(crate) fn disk(path: &Path) -> (u64, u64) {
    nix::sys::statvfs::statvfs(path).map_or((0, 0), |found| {
        let size = found.fragment_size();
        (found.blocks() * size, found.blocks_available() * size)
    })
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn system(options: &Options) -> NodeSystemInfo {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let machine = read("/etc/machine-id");
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: format!("sampan://{}", options.runtime_version),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: options.version.clone(),
        machine_id: machine.clone(),
        running_in_user_namespace: None,
        operating_system: "linux".to_owned(),
        os_image: pretty.unwrap_or("Linux").trim_matches('"').to_owned(),
        swap: None,
        system_uuid: Some(read("/sys/class/dmi/id/product_uuid"))
            .filter(|id| !id.is_empty())
            .unwrap_or(machine),
    }
}

/// Registers the node and keeps its status and lease fresh.
pub struct NodeKeeper {
    ctx: Arc<Context>,
    machine: Machine,
    port: u16,
    ready: tokio::sync::watch::Sender<bool>,
}

impl NodeKeeper {
    /// Start keeping. The receiver turns true once the node has been Ready in the API.
    pub fn start(ctx: &Arc<Context>, machine: Machine, port: u16) -> tokio::sync::watch::Receiver<bool> {
        let (ready, seen) = tokio::sync::watch::channel(false);
        let keeper = Arc::new(Self { ctx: Arc::clone(ctx), machine, port, ready });
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let one = Arc::clone(&keeper);
        ctx.supervisor.supervise("node-status", Policy::Restart(backoff.clone()), move || {
            let keeper = Arc::clone(&one);
            async move { keeper.keep_status().await }
        });
        ctx.supervisor.supervise("node-lease", Policy::Restart(backoff), move || {
            let keeper = Arc::clone(&keeper);
            async move { keeper.keep_lease().await }
        });
        seen
    }

    fn metadata(&self) -> ObjectMeta {
        let options = &self.ctx.options;
        let name = options.node_name.clone();
        let mut labels = options.labels.clone();
        labels.insert("kubernetes.io/hostname".to_owned(), name.clone());
        for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
            labels.insert(format!("{prefix}/os"), "linux".to_owned());
            labels.insert(format!("{prefix}/arch"), architecture().to_owned());
        }
        let directory = self.ctx.host_volumes.root().display().to_string();
        let annotations = Some([(VOLUMES.to_owned(), directory)].into());
        ObjectMeta { name: Some(name), labels: Some(labels), annotations, ..ObjectMeta::default() }
    }

    async fn keep_status(&self) -> Result<(), kube::Error> {
        let api: Api<Node> = Api::all(self.ctx.options.client.clone());
        let mut known = self.register(&api).await?.status.unwrap_or_default();
        // What was told of its zones went with the node, if that was another one.
        self.ctx.zones.tell_again();
        let mut written = None::<tokio::time::Instant>;
        let mut images = None::<(tokio::time::Instant, Vec<ContainerImage>)>;
        let name = &self.ctx.options.node_name;
        // What others say of this node, that it is lost for example, is set right at once and not when a status is due.
        let own = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = std::pin::pin!(watcher(api.clone(), own).default_backoff());
        loop {
            // Listing reads a file an image: worth it once a minute, not with every heartbeat.
            let fresh = images.take().filter(|(read, _)| read.elapsed() < IMAGES);
            let listed = match fresh {
                Some(known) => known,
                None => (tokio::time::Instant::now(), self.images().await),
            };
            let status = self.status(&known, listed.1.clone());
            images = Some(listed);
            let changed = differs(&known, &status);
            if changed || written.is_none_or(|written| written.elapsed() >= STATUS) {
                let patch = json!({"status": status});
                let patched =
                    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
                known = patched.status.unwrap_or_default();
                if !self.ready.send_replace(true) {
                    self.ctx
                        .recorder
                        .node(name)
                        .normal("NodeReady", format!("Node {name} status is now: NodeReady"));
                }
                written = Some(tokio::time::Instant::now());
            }
            tokio::select! {
                () = tokio::time::sleep(RENEW) => {}
                seen = seen_by_others(&mut events) => {
                    known = seen;
                    // Should somebody write the opposite each time, it is no race.
                    if let Some(at) = written {
                        tokio::time::sleep_until(at + BETWEEN).await;
                    }
                }
            }
        }
    }

    /// Make the Node, or bring the labels of an existing one up to date. A new one is Ready at once.
    async fn register(&self, api: &Api<Node>) -> Result<Node, kube::Error> {
        let metadata = self.metadata();
        let name = self.ctx.options.node_name.clone();
        let pod_cidr = self.ctx.options.pod_cidr.clone();
        let spec = NodeSpec {
            pod_cidrs: pod_cidr.clone().map(|cidr| vec![cidr]),
            pod_cidr,
            provider_id: Some(format!("sampan://{name}")),
            ..NodeSpec::default()
        };
        let status = self.status(&NodeStatus::default(), self.images().await);
        let node = Node { metadata, spec: Some(spec.clone()), status: Some(status) };
        match api.create(&PostParams::default(), &node).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => return other,
        }
        let existing = api.get(&name).await?;
        let meta = &node.metadata;
        let mut patch = json!({"metadata": {"labels": meta.labels, "annotations": meta.annotations}});
        if existing.spec.as_ref().is_none_or(|spec| spec.pod_cidr.is_none()) {
            patch["spec"] = json!({"podCIDR": spec.pod_cidr, "podCIDRs": spec.pod_cidrs});
        }
        api.patch(&name, &PatchParams::default(), &Patch::Strategic(patch)).await
    }

    async fn images(&self) -> Vec<ContainerImage> {
        let images = self.ctx.options.images.list().await.unwrap_or_default();
        let mut images: Vec<ContainerImage> = images
            .into_iter()
            .map(|image| ContainerImage {
                names: Some(vec![image.reference]),
                size_bytes: i64::try_from(image.size).ok(),
            })
            .collect();
        images.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
        images.truncate(MAX_IMAGES);
        images
    }

    fn status(&self, known: &NodeStatus, images: Vec<ContainerImage>) -> NodeStatus {
        let options = &self.ctx.options;
        let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
        NodeStatus {
            addresses: Some(vec![
                address("InternalIP", options.node_ip.to_string()),
                address("Hostname", options.node_name.clone()),
            ]),
            allocatable: Some(self.machine.allocatable()),
            capacity: Some(self.machine.resources()),
            conditions: Some(conditions(known, &options.pods_dir, clock::now())),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(self.port) }),
            }),
            images: Some(images),
            node_info: Some(system(options)),
            ..NodeStatus::default()
        }
    }

    async fn keep_lease(&self) -> Result<(), kube::Error> {
        let client = self.ctx.options.client.clone();
        let name = &self.ctx.options.node_name;
        let api: Api<Lease> = Api::namespaced(client.clone(), LEASE_NAMESPACE);
        let mut ready = self.ready.subscribe();
        // The lease is owned by the Node, which must exist first. The sender lives in self.
        let _ = ready.wait_for(|ready| *ready).await;
        let nodes = Api::<Node>::all(client);
        loop {
            let now = MicroTime(clock::now());
            let patch = json!({"spec": {"renewTime": now, "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS}});
            match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    // Read now: a lease that belongs to a Node of before is collected as soon as it is made.
                    if let Some(node) = nodes.get_opt(name).await? {
                        api.create(&PostParams::default(), &new_lease(&node, now)).await?;
                    }
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(RENEW).await;
        }
    }
}

/// The status of the node as somebody wrote it.
async fn seen_by_others(
    events: &mut (impl Stream<Item = watcher::Result<watcher::Event<Node>>> + Unpin),
) -> NodeStatus {
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node)) => {
                return node.status.unwrap_or_default();
            }
            // It is gone: what is written now fails, and the node is registered anew.
            Ok(watcher::Event::Delete(_)) => return NodeStatus::default(),
            Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
            Err(error) => tracing::debug!(%error, "watch of the node"),
        }
    }
    std::future::pending().await
}

/// What goes with the node refers to it so.
pub fn owner(node: &Node) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    }
}

fn new_lease(node: &Node, now: MicroTime) -> Lease {
    let name = node.metadata.name.clone().unwrap_or_default();
    Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
            owner_references: Some(vec![owner(node)]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    }
}

fn conditions(known: &NodeStatus, pods_dir: &Path, now: Timestamp) -> Vec<NodeCondition> {
    let (_, available) = memory();
    let (total, free) = disk(pods_dir);
    let low_memory = available < MEMORY_PRESSURE;
    let low_disk = total > 0 && free * 100 / total < DISK_PRESSURE_PERCENT;
    let low_pids = pids_are_short();
    let pressure = |kind: &'static str, on: bool, short: &str| {
        let (yes, no) = (
            format!("KubeletHas{short}"),
            format!("KubeletHasSufficient{}", kind.trim_end_matches("Pressure")),
        );
        let no = if kind == "DiskPressure" { "KubeletHasNoDiskPressure".to_owned() } else { no };
        let message = match (kind, on) {
            ("MemoryPressure", true) => "kubelet has insufficient memory available",
            ("MemoryPressure", false) => "kubelet has sufficient memory available",
            ("DiskPressure", true) => "kubelet has disk pressure",
            ("DiskPressure", false) => "kubelet has no disk pressure",
            (_, true) => "kubelet has insufficient PID available",
            (_, false) => "kubelet has sufficient PID available",
        };
        (kind, on, if on { yes } else { no }, message)
    };
    let wanted = [
        pressure("MemoryPressure", low_memory, "InsufficientMemory"),
        pressure("DiskPressure", low_disk, "DiskPressure"),
        pressure("PIDPressure", low_pids, "InsufficientPID"),
        ("Ready", true, "KubeletReady".to_owned(), "kubelet is posting ready status"),
    ];
    let build = |(kind, on, reason, message): (&str, bool, String, &str)| {
        let status = if on { "True" } else { "False" };
        let before = known.conditions.iter().flatten().find(|condition| condition.type_ == kind);
        let since = before
            .filter(|before| before.status == status)
            .and_then(|before| before.last_transition_time.clone());
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
            last_transition_time: since
                .or_else(|| Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)))),
        }
    };
    wanted.into_iter().map(build).collect()
}

fn pids_are_short() -> bool {
    let load = read("/proc/loadavg");
    let used = load
        .split_whitespace()
        .nth(3)
        .and_then(|field| field.split('/').nth(1))
        .and_then(|n| n.parse::<u64>().ok());
    let most = read("/proc/sys/kernel/pid_max").parse::<u64>().ok();
    matches!((used, most), (Some(used), Some(most)) if used * 10 > most * 9)
}

/// Whether a status says more than that time has passed. Conditions and resources of others are none of ours.
fn differs(old: &NodeStatus, new: &NodeStatus) -> bool {
    let condition = |wanted: &NodeCondition| {
        let known = old.conditions.iter().flatten().find(|known| known.type_ == wanted.type_);
        known.map(|known| NodeCondition {
            last_heartbeat_time: wanted.last_heartbeat_time.clone(),
            ..known.clone()
        })
    };
    let resources = |old: &Option<BTreeMap<String, Quantity>>, new: &Option<BTreeMap<String, Quantity>>| {
        let known = |name: &String| old.as_ref().and_then(|old| old.get(name));
        new.iter().flatten().any(|(name, amount)| known(name) != Some(amount))
    };
    new.conditions.iter().flatten().any(|wanted| condition(wanted).as_ref() != Some(wanted))
        || resources(&old.capacity, &new.capacity)
        || resources(&old.allocatable, &new.allocatable)
        || (&old.addresses, &old.images) != (&new.addresses, &new.images)
        || (&old.node_info, &old.daemon_endpoints) != (&new.node_info, &new.daemon_endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_alone_are_no_change() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = NodeStatus {
            conditions: Some(conditions(&NodeStatus::default(), Path::new("/"), at(10))),
            ..Default::default()
        };
        let second =
            NodeStatus { conditions: Some(conditions(&first, Path::new("/"), at(20))), ..Default::default() };
        assert!(!differs(&first, &second));
        let mut others = first.clone();
        let foreign = NodeCondition { type_: "KernelDeadlock".to_owned(), ..NodeCondition::default() };
        others.conditions.get_or_insert_default().push(foreign);
        others.capacity = Some([("example.com/dongle".to_owned(), Quantity("4".to_owned()))].into());
        assert!(!differs(&others, &second), "what others added stays");
        let mut lost = first.clone();
        lost.conditions.iter_mut().flatten().for_each(|condition| condition.status = "Unknown".to_owned());
        assert!(differs(&lost, &second));
        let ready = second.conditions.unwrap().into_iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!(ready.last_transition_time, Some(Time(at(10))));
        assert_eq!(ready.last_heartbeat_time, Some(Time(at(20))));
    }
}
