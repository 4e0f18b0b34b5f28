//! Options in, controllers running, a handle out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use kube::Client;
use sampan_daemon::{Supervisor, tls};
use sampan_planner::autoscaler;
use sampan_planner::election::Terms;
use sampan_planner::ipam::Block;
use sampan_planner::overcommit::Bounds;
use sampan_planner::scheduler::config::Config;
use tokio::sync::watch;

use crate::autoscale::Autoscalers;
use crate::bootstrap::Bootstrap;
use crate::cache::Caches;
use crate::certificates::Certificates;
use crate::clusterrole::ClusterRoles;
use crate::cronjob::CronJobs;
use crate::daemonset::DaemonSets;
use crate::definitions::Definitions;
use crate::deployment::Deployments;
use crate::disruption::{Budgets, StaleMarks};
use crate::endpoints::{Mirroring, ServiceEndpoints};
use crate::events::Recorder;
use crate::eviction::Evictions;
use crate::gc::Garbage;
use crate::instances::Instances;
use crate::ipam::Ipam;
use crate::job::Jobs;
use crate::leader::{self, Election, Leadership};
use crate::namespace::Namespaces;
use crate::node::Nodes;
use crate::overcommit::Overcommit;
use crate::podgc::PodGc;
use crate::protection::Protection;
use crate::quota::Quotas;
use crate::rebalancer::{Rebalance, Rebalancer};
use crate::replicaset::ReplicaSets;
use crate::scheduler::Scheduler;
use crate::serviceaccount::{Accounts, Tokens};
use crate::statefulset::StatefulSets;
use crate::usage::Usage;
use crate::volumes::{Classes, Ephemeral, Volumes};
use crate::worker;

/// What the controllers need to know.
#[derive(Clone)]
pub struct Options {
    /// The client of the controllers, as user `system:kube-controller-manager`.
    pub client: Client,
    /// The client of the scheduler, as user `system:kube-scheduler`.
    pub scheduler_client: Client,
    /// The CA of the API server, which every namespace and token Secret carries.
    pub ca_pem: String,
    /// Signs approved requests for certificates; without it they wait for another signer.
    pub ca: Option<Arc<tls::Ca>>,
    /// Names and addresses of the API server: no node gets a certificate for serving under them.
    pub server_names: Vec<String>,
    /// The kubeconfig of who wants to join: address and CA, no user. Published as `kube-public/cluster-info`.
    pub cluster_info: Option<String>,
    /// How pods are placed, and by which `schedulerName`s they ask for it.
    pub scheduler: Config,
    /// A node whose lease is older than this counts as lost.
    pub node_grace: Duration,
    /// Finished pods beyond this many are deleted, the oldest first.
    pub finished_pods: usize,
    /// The system's time zone database, which CronJobs with a `timeZone` need.
    pub zoneinfo: PathBuf,
    /// The network of all pods: nodes that come without a part of it are given one.
    pub pod_network: Option<Block>,
    /// How HorizontalPodAutoscalers are treated.
    pub autoscaler: autoscaler::Settings,
    /// How often nodes are asked what they use, when something is decided by that.
    pub usage_every: Duration,
    /// Whether and how pods are moved to where they run better.
    pub rebalance: Option<Rebalance>,
    /// Whether and up to which bounds nodes offer to batch pods what others asked for and do not use.
    pub overcommit: Option<Bounds>,
    /// What is to run.
    pub parts: Parts,
}

/// What is to run here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parts {
    /// Controllers and scheduler, over one cache.
    #[default]
    All,
    /// The controllers.
    Controllers,
    /// The scheduler.
    Scheduler,
}

impl Options {
    /// Kubernetes' own defaults: 40 s until a node is lost, 12,500 finished pods kept.
    pub fn new(client: Client, scheduler_client: Client, ca_pem: impl Into<String>) -> Self {
        Self {
            client,
            scheduler_client,
            ca_pem: ca_pem.into(),
            ca: None,
            server_names: Vec::new(),
            cluster_info: None,
            scheduler: Config::default(),
            node_grace: Duration::from_secs(40),
            finished_pods: 12_500,
            zoneinfo: PathBuf::from("/usr/share/zoneinfo"),
            pod_network: None,
            parts: Parts::All,
            autoscaler: autoscaler::Settings::default(),
            usage_every: Duration::from_secs(15),
            rebalance: None,
            overcommit: None,
        }
    }
}

/// Running controllers. Dropping it leaves them running: they end with their supervisor.
#[derive(Debug, Clone)]
pub struct Handle {
    ready: watch::Receiver<bool>,
}

impl Handle {
    /// Returns once every cache is filled and the controllers work.
    pub async fn ready(&mut self) {
        if self.ready.wait_for(|ready| *ready).await.is_err() {
            // Shut down before it came to that: whoever waits is cancelled as well.
            std::future::pending::<()>().await;
        }
    }
}

/// Candidacies for the two leases that upstream has: `kube-controller-manager` and `kube-scheduler`.
#[derive(Debug)]
pub struct Elected {
    /// Of the controllers.
    pub controllers: Leadership,
    /// Of the scheduler.
    pub scheduler: Leadership,
}

impl Elected {
    /// Gives both back; see [`Leadership::leave`].
    pub async fn leave(self) {
        futures::join!(self.controllers.leave(), self.scheduler.leave());
    }
}

/// Runs the controllers, and the scheduler, whenever this process is elected to: for servers that share a store.
/// `identity` must be this process's alone.
pub fn start_elected(options: Options, identity: &str, terms: Terms, supervisor: &Supervisor) -> Elected {
    let stand = |name, client: &Client, parts| {
        let (client, identity) = (client.clone(), identity.to_owned());
        let options = Options { parts, ..options.clone() };
        leader::stand(Election { client, name, identity, terms }, supervisor, move |term| {
            start(options.clone(), term);
        })
    };
    Elected {
        controllers: stand("kube-controller-manager", &options.client, Parts::Controllers),
        scheduler: stand("kube-scheduler", &options.scheduler_client, Parts::Scheduler),
    }
}

/// Starts all controllers under the supervisor.
pub fn start(options: Options, supervisor: &Supervisor) -> Handle {
    if options.parts == Parts::Scheduler {
        return start_scheduler(options, supervisor);
    }
    let supervisor = supervisor.child("controllers");
    let caches = Arc::new(Caches::new());
    let (client, ca_pem, parts) = (options.client.clone(), options.ca_pem.clone(), options.parts);
    let events = Recorder::start(&supervisor, client.clone());

    // Handlers are registered before the watches begin, so that they hear of every object.
    let usage = Usage::new(client.clone(), caches.clone(), options.usage_every);
    let rebalancer = options.rebalance.map(|settings| {
        let how = (settings, options.scheduler.profiles.clone());
        Rebalancer::new(client.clone(), caches.clone(), &events, how, &usage)
    });
    let overcommit = Overcommit::new(client.clone(), caches.clone(), &events, options.overcommit, &usage);
    let scheduler = (parts != Parts::Controllers).then(|| {
        let (config, own) = (options.scheduler, options.scheduler_client);
        Scheduler::new(config, own, client.clone(), caches.clone(), &events, &usage)
    });
    let replica_sets = ReplicaSets::<ReplicaSet>::new(client.clone(), caches.clone(), &events);
    let controllers = ReplicaSets::<ReplicationController>::new(client.clone(), caches.clone(), &events);
    let budgets = Budgets::new(client.clone(), caches.clone(), &events);
    let stale_marks = StaleMarks::new(client.clone(), caches.clone());
    let autoscalers = Autoscalers::new(client.clone(), caches.clone(), &events, options.autoscaler);
    let deployments = Deployments::new(client.clone(), caches.clone(), &events);
    let endpoints = ServiceEndpoints::new(client.clone(), caches.clone());
    let mirroring = Mirroring::new(client.clone(), caches.clone(), &events);
    let namespaces = Namespaces::new(client.clone(), caches.clone());
    let accounts = Accounts::new(client.clone(), caches.clone(), ca_pem.clone());
    let tokens = Tokens::new(client.clone(), caches.clone(), ca_pem);
    let jobs = Jobs::new(client.clone(), caches.clone(), &events);
    let cron_jobs = CronJobs::new(client.clone(), caches.clone(), &events, options.zoneinfo);
    let stateful_sets = StatefulSets::new(client.clone(), caches.clone(), &events);
    let daemon_sets = DaemonSets::new(client.clone(), caches.clone(), &events);
    let nodes = Nodes::new(client.clone(), caches.clone(), &events, options.node_grace);
    Instances::start(&supervisor, client.clone(), caches.clone(), &events);
    let ipam = options.pod_network.map(|network| Ipam::new(client.clone(), caches.clone(), &events, network));
    let evictions = Evictions::new(client.clone(), caches.clone(), &events);
    let pod_gc = PodGc::new(client.clone(), caches.clone(), options.finished_pods);
    let cluster_roles = ClusterRoles::new(client.clone(), caches.clone());
    let quotas = Quotas::new(client.clone(), caches.clone());
    let protection = Protection::new(client.clone(), caches.clone());
    let volumes = Volumes::new(client.clone(), caches.clone(), &events);
    let ephemeral = Ephemeral::new(client.clone(), caches.clone(), &events);
    let classes = Classes::new(client.clone(), caches.clone());
    let freed = (quotas.clone(), namespaces.clone());
    let garbage = Garbage::new(client.clone(), &caches, &events, move |namespace| {
        freed.0.freed_in(namespace);
        freed.1.freed_in(namespace);
    });
    let certificates = Certificates::new(client.clone(), caches.clone(), options.ca, options.server_names);
    let bootstrap = Bootstrap::new(client.clone(), caches.clone(), options.cluster_info);
    let definitions = caches.run(&supervisor, &client);

    let (done, ready) = watch::channel(false);
    let inner = supervisor.clone();
    supervisor.spawn("start", async move {
        caches.synced().await;
        usage.run(&inner);
        worker::run(&inner, "accounts", 4, accounts);
        worker::run(&inner, "tokens", 2, tokens);
        worker::run(&inner, "replicasets", 8, replica_sets);
        worker::run(&inner, "replicationcontrollers", 4, controllers);
        worker::run(&inner, "budgets", 4, budgets);
        worker::run(&inner, "stale-disruption-marks", 2, stale_marks);
        worker::run(&inner, "deployments", 8, deployments);
        worker::run(&inner, "autoscalers", 8, autoscalers);
        worker::run(&inner, "endpoints", 8, endpoints);
        worker::run(&inner, "endpoint-mirroring", 4, mirroring);
        worker::run(&inner, "namespaces", 4, namespaces);
        worker::run(&inner, "jobs", 8, jobs);
        worker::run(&inner, "cronjobs", 4, cron_jobs);
        worker::run(&inner, "statefulsets", 8, stateful_sets);
        worker::run(&inner, "daemonsets", 4, daemon_sets);
        worker::run(&inner, "nodes", 8, nodes);
        ipam.into_iter().for_each(|ipam| worker::run(&inner, "ipam", 4, ipam));
        worker::run(&inner, "evictions", 8, evictions);
        worker::run(&inner, "pod-gc", 1, pod_gc);
        worker::run(&inner, "clusterroles", 2, cluster_roles);
        worker::run(&inner, "quotas", 4, quotas);
        worker::run(&inner, "protection", 4, protection);
        worker::run(&inner, "volumes", 8, volumes);
        worker::run(&inner, "ephemeral-volumes", 4, ephemeral);
        worker::run(&inner, "storage-classes", 1, classes);
        worker::run(&inner, "certificates", 4, certificates);
        worker::run(&inner, "bootstrap", 1, bootstrap);
        worker::run(&inner, "overcommit", 4, overcommit);
        rebalancer.into_iter().for_each(|rebalancer| rebalancer.run(&inner));
        if let Some(scheduler) = scheduler {
            run_scheduler(&scheduler, &caches, &definitions, &inner).await;
        }
        done.send_replace(true);
        garbage.watch(&inner).await;
        worker::run(&inner, "garbage", 16, garbage);
        // The channel must stay open for those who ask later.
        std::future::pending::<()>().await;
    });
    Handle { ready }
}

/// Pods are placed once it is known whose turn it is, what is held for whom, and what the zones of nodes have.
async fn run_scheduler(
    scheduler: &Arc<Scheduler>,
    caches: &Caches,
    definitions: &Definitions,
    supervisor: &Supervisor,
) {
    definitions
        .or_without(async {
            futures::join!(
                caches.tenant_queues.synced(),
                caches.reservations.synced(),
                caches.topologies.synced()
            );
        })
        .await;
    scheduler.run(supervisor);
    worker::run(supervisor, "tenant-queues", 1, scheduler.standings());
    worker::run(supervisor, "pod-groups", 4, scheduler.groups());
    worker::run(supervisor, "reservations", 4, scheduler.reservations());
}

/// The scheduler alone, over caches of its own.
fn start_scheduler(options: Options, supervisor: &Supervisor) -> Handle {
    let supervisor = supervisor.child("scheduler");
    let caches = Arc::new(Caches::new());
    // The scheduler's user reads what the scheduler needs; the caches hold more, as the controllers' does.
    let Options { client, scheduler_client, scheduler, usage_every, .. } = options;
    let events = Recorder::start(&supervisor, client.clone());
    let usage = Usage::new(client.clone(), caches.clone(), usage_every);
    let scheduler =
        Scheduler::new(scheduler, scheduler_client, client.clone(), caches.clone(), &events, &usage);
    let definitions = caches.run(&supervisor, &client);
    let (done, ready) = watch::channel(false);
    let inner = supervisor.clone();
    supervisor.spawn("start", async move {
        caches.synced().await;
        usage.run(&inner);
        run_scheduler(&scheduler, &caches, &definitions, &inner).await;
        done.send_replace(true);
        std::future::pending::<()>().await;
    });
    Handle { ready }
}
