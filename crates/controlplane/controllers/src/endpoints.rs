//! Which pods stand behind a Service: EndpointSlices, and Endpoints for those who still read them.

mod backends;
mod legacy;
mod mirroring;
mod slices;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join;
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::PostParams;
use sampan_planner::pods;
use sampan_planner::selector::Selector;

use self::backends::{Backend, Family};
pub(crate) use self::mirroring::Mirroring;
use crate::apis;
use crate::cache::{Caches, SERVICE_NAME, of_service, on_node, selects_label};
use crate::error::{Context, Result, namespace_ends};
use crate::informer::{Change, Key, of_namespace};
use crate::queue::Queue;
use crate::worker::Reconciler;

/// The label that says who keeps a slice.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";
/// The label of slices and Endpoints of Services without an address of their own.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// The controller.
pub(crate) struct ServiceEndpoints {
    client: Client,
    caches: Arc<Caches>,
    queue: Queue<Key>,
}

impl ServiceEndpoints {
    pub fn new(client: Client, caches: Arc<Caches>) -> Arc<Self> {
        let this = Arc::new(Self { client, caches, queue: Queue::new() });
        let own = this.clone();
        this.caches.services.on(move |change| own.queue.add(Key::of(&change.object().metadata)));
        let own = this.clone();
        this.caches.pods.on(move |change| own.pod_changed(change));
        let own = this.clone();
        this.caches.slices.on(move |change| own.slice_changed(change));
        let own = this.clone();
        this.caches.endpoints.on(move |change| {
            let key = Key::of(&change.object().metadata);
            if matches!(change, Change::Deleted(_)) && own.caches.services.get(&key).is_some() {
                own.queue.add(key);
            }
        });
        let own = this.clone();
        this.caches.nodes.on(move |change| own.node_changed(change));
        this
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let (pod, old) = (change.object(), change.old());
        if let Change::Updated { old, new } = change
            && same_backend(old, new)
        {
            return;
        }
        self.enqueue_services_of(pod);
        if let Some(old) = old.filter(|old| old.metadata.labels != pod.metadata.labels) {
            self.enqueue_services_of(old);
        }
    }

    /// The Services that select the pod are looked at.
    fn enqueue_services_of(&self, pod: &Pod) {
        let labels = pod.metadata.labels.as_ref();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for (name, value) in labels.into_iter().flatten() {
            for service in self.caches.services.indexed(&selects_label(namespace, name, value)) {
                if selector_of(&service).is_some_and(|selector| selector.matches(labels)) {
                    self.queue.add(Key::of(&service.metadata));
                }
            }
        }
    }

    /// Endpoints say in which zone they are.
    fn node_changed(&self, change: &Change<'_, Node>) {
        let node = change.object();
        if change.old().map(|old| zone(old)) == Some(zone(node))
            || (change.old().is_none() && zone(node).is_none())
        {
            return;
        }
        for pod in self.caches.pods.indexed(&on_node(pods::name(&node.metadata))) {
            self.enqueue_services_of(&pod);
        }
    }

    fn slice_changed(&self, change: &Change<'_, EndpointSlice>) {
        let labels = change.object().metadata.labels.as_ref();
        let ours = labels.and_then(|l| l.get(MANAGED_BY)).is_some_and(|by| by == CONTROLLER);
        if let Some(name) = labels.and_then(|l| l.get(SERVICE_NAME)).filter(|_| ours) {
            let namespace = change.object().metadata.namespace.as_deref().unwrap_or_default();
            self.queue.add(Key::new(namespace, name));
        }
    }

    /// The zone of each node that pods are on.
    fn zones(&self, pods: &[Arc<Pod>]) -> HashMap<String, String> {
        let mut zones = HashMap::new();
        for name in pods.iter().map(|pod| pods::node_name(pod)).filter(|name| !name.is_empty()) {
            let node = self.caches.nodes.get(&Key::new("", name));
            if let Some(zone) = node.as_deref().and_then(zone) {
                zones.insert(name.to_owned(), zone.to_owned());
            }
        }
        zones
    }

    async fn write_slices(&self, service: &Service, backends: &[Backend], families: &[Family]) -> Result<()> {
        let key = Key::of(&service.metadata);
        let existing: Vec<Arc<EndpointSlice>> = self
            .caches
            .slices
            .indexed(&of_service(&key.namespace, &key.name))
            .into_iter()
            .filter(|slice| {
                let by = slice.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY));
                slice.metadata.deletion_timestamp.is_none() && by.is_some_and(|by| by == CONTROLLER)
            })
            .collect();
        let plan = slices::plan(service, backends, families, &existing);
        let api = apis::namespaced::<EndpointSlice>(&self.client, &key.namespace);
        let what = || format!("writing EndpointSlices of Service {key}");
        plan.create(&api).await.during(what)?;
        plan.settle(&self.client, &self.caches, &api, what).await
    }

    async fn write_endpoints(&self, service: &Service, backends: &[Backend]) -> Result<()> {
        let key = Key::of(&service.metadata);
        let existing = self.caches.endpoints.get(&key);
        let Some(wanted) = legacy::plan(service, backends, existing.as_deref()) else { return Ok(()) };
        let api = apis::namespaced::<Endpoints>(&self.client, &key.namespace);
        let params = PostParams::default();
        let result = match existing {
            Some(_) => api.replace(&key.name, &params, &wanted).await,
            None => api.create(&params, &wanted).await,
        };
        match result {
            // The namespace goes away and takes no new objects. What forbids it otherwise may pass.
            Err(error) if namespace_ends(&error) => Ok(()),
            other => {
                self.caches.endpoints.absorb(other.during(|| format!("writing Endpoints {key}"))?);
                Ok(())
            }
        }
    }
}

fn zone(node: &Node) -> Option<&str> {
    node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").map(String::as_str)
}

/// Whether nothing that slices show differs between two states of a pod.
fn same_backend(old: &Pod, new: &Pod) -> bool {
    let facts = |pod: &Pod| {
        let status = pod.status.as_ref();
        (
            pods::ready(pod),
            pods::terminating(pod),
            pods::finished(pod),
            pods::node_name(pod).to_owned(),
            status.and_then(|s| s.pod_ip.clone()),
            status.and_then(|s| s.pod_ips.clone()),
        )
    };
    old.metadata.labels == new.metadata.labels && facts(old) == facts(new)
}

/// The selector of a Service that pods are found by; `None` when somebody else fills its endpoints.
fn selector_of(service: &Service) -> Option<Selector> {
    let spec = service.spec.as_ref()?;
    let labels = spec.selector.as_ref().filter(|labels| !labels.is_empty())?;
    (spec.type_.as_deref() != Some("ExternalName")).then(|| Selector::from_map(Some(labels)))
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

impl Reconciler for ServiceEndpoints {
    type Key = Key;

    /// Of ten thousand endpoints a second's changes are written together.
    const LONGEST_REST: Duration = Duration::from_secs(1);

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(service) = self.caches.services.get(key) else {
            // Whoever filled them: they go with their Service. Others of such a name are no Service's.
            if let Some(left) = self.caches.endpoints.get(key)
                && pods::annotation(&left.metadata, mirroring::LEADER).is_none()
            {
                apis::delete(&self.client, &*left).await?;
            }
            return Ok(None);
        };
        let Some(selector) = selector_of(&service) else { return Ok(None) };
        if service.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let pods =
            self.caches.pods.selected(&of_namespace(&key.namespace), |labels| selector.matches(labels));
        let zones = self.zones(&pods);
        let families = backends::families(&service);
        let backends = backends::of(&service, &pods, &families, &zones);
        let slices = self.write_slices(&service, &backends, &families);
        try_join(slices, self.write_endpoints(&service, &backends)).await?;
        Ok(None)
    }
}
