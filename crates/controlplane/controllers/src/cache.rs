//! The caches that all controllers share: one informer per kind.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ContainerStatus, Endpoints, EphemeralVolumeSource, Namespace, Node,
    PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota, Secret, Service,
    ServiceAccount, Volume,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::scheduling::v1beta1::PodGroup;
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::Config;
use kube::{Api, Client, Resource};
use sampan_daemon::{Backoff, Policy, Supervisor};
use sampan_planner::fairness::TenantQueue;
use sampan_planner::instances::{self, InstanceType};
use sampan_planner::numa::NodeTopology;
use sampan_planner::reservation::Reservation;
use sampan_planner::{pods, volumes};
use serde::de::DeserializeOwned;

use crate::definitions::Definitions;
use crate::informer::{Informer, Rules};
use crate::whole::Whole;

/// The label by which slices belong to a Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The ConfigMap that carries the CA of the API server into each namespace.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";
/// The ConfigMap that tells who wants to join about the cluster.
pub(crate) const CLUSTER_INFO: &str = "cluster-info";
/// Where nodes renew their leases.
pub(crate) const NODE_LEASES: &str = "kube-node-lease";

/// One cache per kind.
pub(crate) struct Caches {
    pub pods: Arc<Informer<Pod>>,
    pub nodes: Arc<Informer<Node>>,
    pub leases: Arc<Informer<Lease>>,
    pub namespaces: Arc<Informer<Namespace>>,
    pub services: Arc<Informer<Service>>,
    pub slices: Arc<Informer<EndpointSlice>>,
    pub endpoints: Arc<Informer<Endpoints>>,
    pub accounts: Arc<Informer<ServiceAccount>>,
    pub root_cas: Arc<Informer<ConfigMap>>,
    pub tokens: Arc<Informer<Secret>>,
    pub replica_sets: Arc<Informer<ReplicaSet>>,
    pub deployments: Arc<Informer<Deployment>>,
    pub stateful_sets: Arc<Informer<StatefulSet>>,
    pub daemon_sets: Arc<Informer<DaemonSet>>,
    pub revisions: Arc<Informer<ControllerRevision>>,
    pub jobs: Arc<Informer<Job>>,
    pub cron_jobs: Arc<Informer<CronJob>>,
    pub replication_controllers: Arc<Informer<ReplicationController>>,
    pub budgets: Arc<Informer<PodDisruptionBudget>>,
    pub autoscalers: Arc<Informer<HorizontalPodAutoscaler>>,
    pub certificate_requests: Arc<Informer<CertificateSigningRequest>>,
    pub bootstrap_tokens: Arc<Informer<Secret>>,
    pub cluster_info: Arc<Informer<ConfigMap>>,
    pub cluster_roles: Arc<Informer<ClusterRole>>,
    pub quotas: Arc<Informer<ResourceQuota>>,
    pub claims: Arc<Informer<PersistentVolumeClaim>>,
    pub volumes: Arc<Informer<PersistentVolume>>,
    pub classes: Arc<Informer<StorageClass>>,
    pub csi_nodes: Arc<Informer<CSINode>>,
    pub tenant_queues: Arc<Informer<TenantQueue>>,
    pub instance_types: Arc<Informer<InstanceType>>,
    pub reservations: Arc<Informer<Reservation>>,
    pub topologies: Arc<Informer<NodeTopology>>,
    pub pod_groups: Arc<Informer<PodGroup>>,
}

/// The index entry of what a controller owns.
pub(crate) fn owned_by(uid: &str) -> String {
    format!("owner/{uid}")
}

/// The index entry of what nobody controls in a namespace.
pub(crate) fn orphans_in(namespace: &str) -> String {
    format!("orphan/{namespace}")
}

/// The index entry of pods on a node.
pub(crate) fn on_node(name: &str) -> String {
    format!("node/{name}")
}

/// The index entry of the slices of a Service.
pub(crate) fn of_service(namespace: &str, name: &str) -> String {
    format!("service/{namespace}/{name}")
}

fn by_owner(meta: &ObjectMeta) -> Vec<String> {
    vec![match pods::controller(meta) {
        Some(owner) => owned_by(&owner.uid),
        None => orphans_in(meta.namespace.as_deref().unwrap_or_default()),
    }]
}

/// The index entry of the pods that use a claim.
pub(crate) fn uses_claim(namespace: &str, name: &str) -> String {
    format!("claim/{namespace}/{name}")
}

fn index_pod(pod: &Pod) -> Vec<String> {
    let mut entries = by_owner(&pod.metadata);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    entries.extend(pods::claims(pod).map(|claim| uses_claim(namespace, &claim)));
    if let Some(group) = pods::group(pod) {
        entries.push(in_group(namespace, group));
    }
    entries.extend(instances::of_pod(&pod.metadata).map(of_type));
    if !pods::node_name(pod).is_empty() {
        entries.push(on_node(pods::node_name(pod)));
    }
    entries
}

/// The index entry of the pods of a group.
pub(crate) fn in_group(namespace: &str, name: &str) -> String {
    format!("group/{namespace}/{name}")
}

/// The index entry of the pods that have the size of an InstanceType.
pub(crate) fn of_type(name: &str) -> String {
    format!("type/{name}")
}

/// The index entry of claims without a volume, by the class they ask for.
pub(crate) fn open_of_class(class: &str) -> String {
    format!("open/{class}")
}

/// The index entry of the claims that name a volume.
pub(crate) fn names_volume(name: &str) -> String {
    format!("volume/{name}")
}

/// The index entry of the volumes of a class.
pub(crate) fn of_class(class: &str) -> String {
    format!("class/{class}")
}

fn index_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let mut entries = by_owner(&claim.metadata);
    entries.push(match volumes::volume_name(claim) {
        "" => open_of_class(volumes::class_of(claim)),
        name => names_volume(name),
    });
    entries
}

fn index_volume(volume: &PersistentVolume) -> Vec<String> {
    let mut entries = vec![of_class(volumes::class_of_volume(volume))];
    if let Some(reference) = volumes::claim_ref(volume) {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        entries.push(uses_claim(&text(&reference.namespace), &text(&reference.name)));
    }
    entries
}

/// The index entry of Services by a label that they select: one of theirs, of which the pods that they select have all.
pub(crate) fn selects_label(namespace: &str, name: &str, value: &str) -> String {
    format!("selects/{namespace}/{name}={value}")
}

/// The index entry of what has an address: nodes, and Services with one of their own.
pub(crate) fn at_address(ip: IpAddr) -> String {
    format!("address/{}", ip.to_canonical())
}

fn index_service(service: &Service) -> Vec<String> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let label = spec.selector.iter().flatten().next();
    let label = label.map(|(name, value)| selects_label(namespace, name, value));
    let all = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
    label.into_iter().chain(all.filter_map(|ip| ip.parse().ok()).map(at_address)).collect()
}

fn index_node(node: &Node) -> Vec<String> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    all.filter_map(|entry| entry.address.parse().ok()).map(at_address).collect()
}

fn index_slice(slice: &EndpointSlice) -> Vec<String> {
    let service = slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME));
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    service.map(|name| of_service(namespace, name)).into_iter().collect()
}

/// Pods that are kept as they are: 180 MB. Whoever works on a packed one reads its JSON each time, so these are more than
/// a Deployment of ten thousand that is rolled out.
const WHOLE_PODS: usize = 32_768;

/// Conditions of a pod that its node reports and nobody here reads.
const UNREAD_CONDITIONS: [&str; 3] = ["Initialized", "PodReadyToStartContainers", "ContainersReady"];

/// Of a pod, controllers read where it runs and how it is; how it is run concerns its node alone. There may be a
/// hundred thousand: what is left is also given no more room than it needs.
fn slim_pod(pod: &mut Pod) {
    if let Some(spec) = &mut pod.spec {
        slim_containers(&mut spec.containers);
        spec.init_containers.iter_mut().for_each(slim_containers);
        spec.ephemeral_containers = None;
        let volumes = spec.volumes.take().into_iter().flatten();
        let claims = volumes.filter_map(|volume| {
            let ephemeral = volume.ephemeral.map(|_| EphemeralVolumeSource::default());
            let claim = volume.persistent_volume_claim;
            (claim.is_some() || ephemeral.is_some()).then(|| Volume {
                name: volume.name,
                persistent_volume_claim: claim,
                ephemeral,
                ..Volume::default()
            })
        });
        spec.volumes = Some(claims.collect::<Vec<_>>()).filter(|claims| !claims.is_empty());
        spec.tolerations.iter_mut().for_each(Vec::shrink_to_fit);
        spec.dns_config = None;
        spec.host_aliases = None;
        spec.security_context = None;
    }
    if let Some(status) = &mut pod.status {
        status.ephemeral_container_statuses = None;
        slim_statuses([&mut status.container_statuses, &mut status.init_container_statuses]);
        if let Some(conditions) = &mut status.conditions {
            conditions.retain(|condition| !UNREAD_CONDITIONS.contains(&condition.type_.as_str()));
            conditions.shrink_to_fit();
        }
        status.host_ip = None;
        status.host_ips = None;
        status.pod_ips.iter_mut().for_each(Vec::shrink_to_fit);
    }
}

fn slim_containers(containers: &mut Vec<Container>) {
    for container in containers.iter_mut() {
        let full = std::mem::take(container);
        *container = Container {
            name: full.name,
            image: full.image,
            ports: full.ports,
            resources: full.resources,
            restart_policy: full.restart_policy,
            ..Container::default()
        };
        container.ports.iter_mut().for_each(Vec::shrink_to_fit);
    }
    containers.shrink_to_fit();
}

/// Of a pod whose containers all simply run there is nothing to tell.
fn slim_statuses(lists: [&mut Option<Vec<ContainerStatus>>; 2]) {
    let is_telling = |status: &ContainerStatus| {
        status.restart_count > 0 || status.state.as_ref().is_none_or(|state| state.running.is_none())
    };
    let tells = lists.iter().any(|list| list.iter().flatten().any(is_telling));
    for list in lists {
        if !tells {
            *list = None;
        }
        for status in list.iter_mut().flatten() {
            status.volume_mounts = None;
            status.resources = None;
            status.last_state = None;
        }
        list.iter_mut().for_each(Vec::shrink_to_fit);
    }
}

impl Caches {
    pub fn new() -> Self {
        fn plain<K>() -> Arc<Informer<K>>
        where
            K: Resource<DynamicType = ()>
                + Clone
                + DeserializeOwned
                + std::fmt::Debug
                + Send
                + Sync
                + 'static,
        {
            Arc::new(Informer::new(Rules::PLAIN))
        }
        fn owned<K>() -> Arc<Informer<K>>
        where
            K: Resource<DynamicType = ()>
                + Clone
                + DeserializeOwned
                + std::fmt::Debug
                + Send
                + Sync
                + 'static,
        {
            Arc::new(Informer::new(Rules { slim: |_| {}, index: |object: &K| by_owner(object.meta()) }))
        }
        Self {
            pods: Arc::new(Informer::new(Rules { slim: slim_pod, index: index_pod }).packing(WHOLE_PODS)),
            nodes: Arc::new(Informer::new(Rules { slim: |_| {}, index: index_node })),
            leases: plain(),
            namespaces: plain(),
            services: Arc::new(Informer::new(Rules { slim: |_| {}, index: index_service })),
            slices: Arc::new(Informer::new(Rules { slim: |_| {}, index: index_slice })),
            endpoints: plain(),
            accounts: plain(),
            root_cas: plain(),
            tokens: plain(),
            replica_sets: owned(),
            deployments: plain(),
            stateful_sets: plain(),
            daemon_sets: plain(),
            revisions: owned(),
            jobs: owned(),
            cron_jobs: plain(),
            replication_controllers: plain(),
            budgets: plain(),
            autoscalers: plain(),
            certificate_requests: plain(),
            bootstrap_tokens: plain(),
            cluster_info: plain(),
            cluster_roles: plain(),
            quotas: plain(),
            claims: Arc::new(Informer::new(Rules { slim: |_| {}, index: index_claim })),
            volumes: Arc::new(Informer::new(Rules { slim: |_| {}, index: index_volume })),
            classes: plain(),
            csi_nodes: plain(),
            tenant_queues: plain(),
            instance_types: plain(),
            reservations: plain(),
            topologies: plain(),
            pod_groups: plain(),
        }
    }

    /// Starts all watches; those of our own kinds begin once their definitions are there.
    pub fn run(&self, supervisor: &Supervisor, client: &Client) -> Definitions {
        let definitions = Definitions::apply(supervisor, client.clone());
        self.run_own(supervisor, client, &definitions);
        let all = Config::default;
        follow(supervisor, "pods", &self.pods, Api::all(client.clone()), all());
        follow(supervisor, "nodes", &self.nodes, Api::all(client.clone()), all());
        follow(supervisor, "leases", &self.leases, Api::all(client.clone()), all());
        follow(supervisor, "namespaces", &self.namespaces, Api::all(client.clone()), all());
        follow(supervisor, "services", &self.services, Api::all(client.clone()), all());
        follow(supervisor, "endpointslices", &self.slices, Api::all(client.clone()), all());
        follow(supervisor, "endpoints", &self.endpoints, Api::all(client.clone()), all());
        follow(supervisor, "serviceaccounts", &self.accounts, Api::all(client.clone()), all());
        let root_ca = all().fields(&format!("metadata.name={ROOT_CA}"));
        follow(supervisor, "root-cas", &self.root_cas, Api::all(client.clone()), root_ca);
        let tokens = all().fields("type=kubernetes.io/service-account-token");
        follow(supervisor, "tokens", &self.tokens, Api::all(client.clone()), tokens);
        follow(supervisor, "replicasets", &self.replica_sets, Api::all(client.clone()), all());
        follow(supervisor, "deployments", &self.deployments, Api::all(client.clone()), all());
        follow(supervisor, "statefulsets", &self.stateful_sets, Api::all(client.clone()), all());
        follow(supervisor, "daemonsets", &self.daemon_sets, Api::all(client.clone()), all());
        follow(supervisor, "controllerrevisions", &self.revisions, Api::all(client.clone()), all());
        follow(supervisor, "jobs", &self.jobs, Api::all(client.clone()), all());
        follow(supervisor, "cronjobs", &self.cron_jobs, Api::all(client.clone()), all());
        let controllers = &self.replication_controllers;
        follow(supervisor, "replicationcontrollers", controllers, Api::all(client.clone()), all());
        follow(supervisor, "poddisruptionbudgets", &self.budgets, Api::all(client.clone()), all());
        let autoscalers = &self.autoscalers;
        follow(supervisor, "horizontalpodautoscalers", autoscalers, Api::all(client.clone()), all());
        let requests = &self.certificate_requests;
        follow(supervisor, "certificatesigningrequests", requests, Api::all(client.clone()), all());
        let tokens = all().fields("type=bootstrap.kubernetes.io/token");
        let system = Api::namespaced(client.clone(), "kube-system");
        follow(supervisor, "bootstrap-tokens", &self.bootstrap_tokens, system, tokens);
        let info = all().fields(&format!("metadata.name={CLUSTER_INFO}"));
        let public = Api::namespaced(client.clone(), "kube-public");
        follow(supervisor, "cluster-info", &self.cluster_info, public, info);
        follow(supervisor, "clusterroles", &self.cluster_roles, Api::all(client.clone()), all());
        follow(supervisor, "resourcequotas", &self.quotas, Api::all(client.clone()), all());
        follow(supervisor, "persistentvolumeclaims", &self.claims, Api::all(client.clone()), all());
        follow(supervisor, "persistentvolumes", &self.volumes, Api::all(client.clone()), all());
        follow(supervisor, "storageclasses", &self.classes, Api::all(client.clone()), all());
        follow(supervisor, "csinodes", &self.csi_nodes, Api::all(client.clone()), all());
        follow(supervisor, "podgroups", &self.pod_groups, Api::all(client.clone()), all());
        definitions
    }

    /// Starts the watches of our own kinds once they are served.
    fn run_own(&self, supervisor: &Supervisor, client: &Client, definitions: &Definitions) {
        let (queues, types) = (Api::all(client.clone()), Api::all(client.clone()));
        let reservations = Api::all(client.clone());
        follow_own(supervisor, "watch-tenantqueues", &self.tenant_queues, queues, definitions);
        follow_own(supervisor, "watch-instancetypes", &self.instance_types, types, definitions);
        follow_own(supervisor, "watch-reservations", &self.reservations, reservations, definitions);
        let topologies = Api::all(client.clone());
        follow_own(supervisor, "watch-noderesourcetopologies", &self.topologies, topologies, definitions);
    }

    /// Returns once every cache of a built-in kind has its first complete list.
    pub async fn synced(&self) {
        let waits: [std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>>; 30] = [
            Box::pin(self.pods.synced()),
            Box::pin(self.nodes.synced()),
            Box::pin(self.leases.synced()),
            Box::pin(self.namespaces.synced()),
            Box::pin(self.services.synced()),
            Box::pin(self.slices.synced()),
            Box::pin(self.endpoints.synced()),
            Box::pin(self.accounts.synced()),
            Box::pin(self.root_cas.synced()),
            Box::pin(self.tokens.synced()),
            Box::pin(self.replica_sets.synced()),
            Box::pin(self.deployments.synced()),
            Box::pin(self.stateful_sets.synced()),
            Box::pin(self.daemon_sets.synced()),
            Box::pin(self.revisions.synced()),
            Box::pin(self.jobs.synced()),
            Box::pin(self.cron_jobs.synced()),
            Box::pin(self.replication_controllers.synced()),
            Box::pin(self.budgets.synced()),
            Box::pin(self.autoscalers.synced()),
            Box::pin(self.certificate_requests.synced()),
            Box::pin(self.bootstrap_tokens.synced()),
            Box::pin(self.cluster_info.synced()),
            Box::pin(self.cluster_roles.synced()),
            Box::pin(self.quotas.synced()),
            Box::pin(self.claims.synced()),
            Box::pin(self.volumes.synced()),
            Box::pin(self.classes.synced()),
            Box::pin(self.csi_nodes.synced()),
            Box::pin(self.pod_groups.synced()),
        ];
        join_all(waits).await;
    }
}

/// The same for a kind of our own.
fn follow_own<K>(
    supervisor: &Supervisor,
    name: &'static str,
    cache: &Arc<Informer<K>>,
    api: Api<Whole<K>>,
    definitions: &Definitions,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (cache, definitions) = (cache.clone(), definitions.clone());
    supervisor.supervise(name, Policy::Restart(Backoff::default()), move || {
        let (cache, api, definitions) = (cache.clone(), api.clone(), definitions.clone());
        async move {
            definitions.served().await;
            cache.run(api, Config::default()).await;
            Err::<(), _>("the watch ended")
        }
    });
}

fn follow<K>(
    supervisor: &Supervisor,
    name: &'static str,
    cache: &Arc<Informer<K>>,
    api: Api<Whole<K>>,
    config: Config,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let cache = cache.clone();
    supervisor.supervise(format!("watch-{name}"), Policy::Restart(Backoff::default()), move || {
        let (cache, api, config) = (cache.clone(), api.clone(), config.clone());
        async move {
            cache.run(api, config).await;
            Err("the watch ended")
        }
    });
}
