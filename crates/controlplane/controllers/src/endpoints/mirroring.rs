//! EndpointSlices for Endpoints that somebody else keeps: those of Services without a selector.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort as LegacyPort, EndpointSubset, Endpoints, Service,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use sampan_planner::pods;

use super::slices::{Plan, port_key};
use super::{MANAGED_BY, legacy};
use crate::apis;
use crate::cache::{Caches, SERVICE_NAME, of_service};
use crate::claim::controller_reference;
use crate::error::{Context, Result, namespace_ends};
use crate::events::Recorder;
use crate::informer::Key;
use crate::queue::Queue;
use crate::worker::Reconciler;

const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// The annotation of Endpoints by which leaders are elected: no Service is behind them.
pub(super) const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that speak of the Endpoints object alone.
const OWN: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];
/// The most addresses of one subset that are mirrored.
const MAX_ADDRESSES: usize = 1000;

/// The controller. Its keys are Services and their Endpoints.
pub(crate) struct Mirroring {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    queue: Queue<Key>,
}

impl Mirroring {
    pub fn new(client: Client, caches: Arc<Caches>, events: &Recorder) -> Arc<Self> {
        let events = events.of("endpoint-slice-mirroring-controller");
        let this = Arc::new(Self { client, caches, events, queue: Queue::new() });
        let own = this.clone();
        this.caches.endpoints.on(move |change| {
            if is_mirrored(change.object()) || change.old().is_some_and(|old| is_mirrored(old)) {
                own.queue.add(Key::of(&change.object().metadata));
            }
        });
        let own = this.clone();
        this.caches.services.on(move |change| {
            let key = Key::of(&change.object().metadata);
            let now = has_selector(change.object());
            let changed = change.old().is_none_or(|old| has_selector(old) != now);
            if changed && own.caches.endpoints.get(&key).is_some_and(|e| is_mirrored(&e)) {
                own.queue.add(key);
            }
        });
        let own = this.clone();
        this.caches.slices.on(move |change| {
            let slice = change.object();
            if let Some(name) = service_of(slice) {
                let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
                own.queue.add(Key::new(namespace, name));
            }
        });
        this
    }

    fn existing(&self, key: &Key) -> Vec<Arc<EndpointSlice>> {
        let mut slices = self.caches.slices.indexed(&of_service(&key.namespace, &key.name));
        slices.retain(|s| service_of(s).is_some() && s.metadata.deletion_timestamp.is_none());
        slices
    }

    async fn remove_all(&self, key: &Key) -> Result<()> {
        for slice in self.existing(key) {
            apis::delete(&self.client, &*slice).await?;
        }
        Ok(())
    }
}

/// The Service of a slice that this controller keeps.
fn service_of(slice: &EndpointSlice) -> Option<&str> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGED_BY).is_some_and(|by| by == CONTROLLER);
    labels.get(SERVICE_NAME).filter(|_| ours).map(String::as_str)
}

fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|selector| !selector.is_empty())
}

/// Whether somebody else keeps the object and wants it mirrored.
fn is_mirrored(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    let label = |name: &str| labels.and_then(|labels| labels.get(name));
    label(SKIP).is_none_or(|skip| skip != "true")
        && label(legacy::MANAGED_BY).is_none()
        && pods::annotation(&endpoints.metadata, LEADER).is_none()
}

type Group = (&'static str, Vec<(String, i32, String, String)>);

/// What slices should say, and what had to be left out.
#[derive(Debug, Default)]
struct Wanted {
    groups: BTreeMap<Group, (Vec<EndpointPort>, Vec<Endpoint>)>,
    invalid: usize,
    skipped: usize,
}

impl Wanted {
    fn of(subsets: &[EndpointSubset]) -> Self {
        let mut wanted = Self::default();
        for subset in subsets {
            let ports: Vec<EndpointPort> = subset.ports.iter().flatten().map(port).collect();
            let (ready, other) =
                (subset.addresses.iter().flatten(), subset.not_ready_addresses.iter().flatten());
            let all = ready.map(|a| (a, true)).chain(other.map(|a| (a, false)));
            let mut added = 0;
            for (address, is_ready) in all {
                let Some((family, endpoint)) = endpoint(address, is_ready) else {
                    wanted.invalid += 1;
                    continue;
                };
                if added >= MAX_ADDRESSES {
                    wanted.skipped += 1;
                    continue;
                }
                added += 1;
                let group = wanted.groups.entry((family, port_key(&ports)));
                let (_, endpoints) = group.or_insert_with(|| (ports.clone(), Vec::new()));
                // Named twice: the first, which is ready when any is, counts.
                let same =
                    |e: &Endpoint| e.addresses == endpoint.addresses && e.target_ref == endpoint.target_ref;
                if !endpoints.iter().any(same) {
                    endpoints.push(endpoint);
                }
            }
        }
        for (_, endpoints) in wanted.groups.values_mut() {
            endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        }
        wanted
    }
}

fn port(port: &LegacyPort) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    }
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(&'static str, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    Some((if ip.is_ipv4() { "IPv4" } else { "IPv6" }, endpoint))
}

fn metadata(endpoints: &Endpoints) -> ObjectMeta {
    let name = pods::name(&endpoints.metadata);
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.to_owned());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| !OWN.contains(&name.as_str()));
    ObjectMeta {
        namespace: endpoints.metadata.namespace.clone(),
        generate_name: Some(format!("{name}-")),
        labels: Some(labels),
        annotations: (!annotations.is_empty()).then_some(annotations),
        owner_references: Some(vec![controller_reference(endpoints)]),
        ..ObjectMeta::default()
    }
}

fn plan(endpoints: &Endpoints, wanted: Wanted, existing: &[Arc<EndpointSlice>]) -> Plan {
    let meta = metadata(endpoints);
    let mut left: Vec<&Arc<EndpointSlice>> = existing.iter().collect();
    let (mut plan, mut missing) = (Plan::default(), Vec::new());
    for ((family, key), (ports, endpoints)) in wanted.groups {
        let same = |slice: &&Arc<EndpointSlice>| {
            slice.address_type == family && port_key(slice.ports.as_deref().unwrap_or_default()) == key
        };
        let wanted = EndpointSlice {
            metadata: meta.clone(),
            address_type: family.to_owned(),
            endpoints: Some(endpoints),
            ports: Some(ports),
        };
        match left.iter().position(same) {
            Some(at) => plan.update.extend(changed(left.remove(at), &wanted)),
            None => missing.push(wanted),
        }
    }
    for wanted in missing {
        // One that would go is used again: fewer changes for those who watch.
        match left.iter().position(|slice| slice.address_type == wanted.address_type) {
            Some(at) => plan.update.extend(changed(left.remove(at), &wanted)),
            None => plan.create.push(wanted),
        }
    }
    plan.delete.extend(left.into_iter().cloned());
    plan
}

/// The slice as it should be, when it is not so.
fn changed(slice: &EndpointSlice, wanted: &EndpointSlice) -> Option<EndpointSlice> {
    let mut changed = slice.clone();
    changed.metadata.labels.clone_from(&wanted.metadata.labels);
    changed.metadata.annotations.clone_from(&wanted.metadata.annotations);
    changed.metadata.owner_references.clone_from(&wanted.metadata.owner_references);
    changed.ports.clone_from(&wanted.ports);
    changed.endpoints.clone_from(&wanted.endpoints);
    (changed != *slice).then_some(changed)
}

impl Reconciler for Mirroring {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let endpoints = self.caches.endpoints.get(key).filter(|e| is_mirrored(e));
        let service = self.caches.services.get(key).filter(|service| !has_selector(service));
        let (Some(endpoints), Some(_)) = (endpoints, service) else {
            self.remove_all(key).await?;
            return Ok(None);
        };
        if endpoints.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let wanted = Wanted::of(endpoints.subsets.as_deref().unwrap_or_default());
        if wanted.invalid > 0 {
            let text =
                format!("Skipped {} invalid IP addresses when mirroring to EndpointSlices", wanted.invalid);
            self.events.warning(&*endpoints, "InvalidIPAddress", text);
        }
        if wanted.skipped > 0 {
            let text = format!(
                "A max of {MAX_ADDRESSES} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
                wanted.skipped + wanted.invalid
            );
            self.events.warning(&*endpoints, "TooManyAddressesToMirror", text);
        }
        let plan = plan(&endpoints, wanted, &self.existing(key));
        let api = apis::namespaced::<EndpointSlice>(&self.client, &key.namespace);
        let what = || format!("mirroring Endpoints {key}");
        match plan.create(&api).await {
            // The namespace goes away and takes no new objects.
            Err(error) if namespace_ends(&error) => return Ok(None),
            other => other.during(what)?,
        }
        plan.settle(&self.client, &self.caches, &api, what).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn endpoints(subsets: Value) -> Endpoints {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "ns", "uid": "e", "labels": {"team": "x"},
                "annotations": {"note": "n", "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
            "subsets": subsets,
        }))
        .unwrap()
    }

    fn planned(endpoints: &Endpoints, existing: &[Arc<EndpointSlice>]) -> Plan {
        plan(endpoints, Wanted::of(endpoints.subsets.as_deref().unwrap_or_default()), existing)
    }

    fn named(mut slice: EndpointSlice, name: &str) -> Arc<EndpointSlice> {
        slice.metadata.name = Some(name.into());
        Arc::new(slice)
    }

    #[test]
    fn subsets_become_slices_by_family_and_ports() {
        let both = json!([
            {"addresses": [{"ip": "10.0.0.2"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.1", "hostname": "h"}],
                "ports": [{"name": "pg", "port": 5432}]},
            {"addresses": [{"ip": "10.0.0.9"}], "ports": [{"port": 80, "protocol": "TCP"}]}]);
        let plan = planned(&endpoints(both), &[]);
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (3, 0, 0));
        let slice =
            plan.create.iter().find(|s| s.address_type == "IPv4" && s.endpoints.as_ref().unwrap().len() == 2);
        let slice = slice.unwrap();
        let shown: Vec<_> = slice
            .endpoints
            .iter()
            .flatten()
            .map(|e| (e.addresses[0].as_str(), e.conditions.as_ref().unwrap().ready))
            .collect();
        assert_eq!(shown, [("10.0.0.1", Some(false)), ("10.0.0.2", Some(true))]);
        let labels = slice.metadata.labels.as_ref().unwrap();
        assert_eq!(
            (labels["team"].as_str(), labels[SERVICE_NAME].as_str(), labels[MANAGED_BY].as_str()),
            ("x", "db", CONTROLLER)
        );
        assert_eq!(slice.metadata.annotations.as_ref().unwrap().len(), 1);
        assert_eq!(slice.metadata.owner_references.as_ref().unwrap()[0].kind, "Endpoints");
    }

    #[test]
    fn nothing_is_written_twice_and_slices_are_used_again() {
        let one =
            endpoints(json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "a", "port": 1}]}]));
        let first = named(planned(&one, &[]).create.remove(0), "s1");
        let again = planned(&one, std::slice::from_ref(&first));
        assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
        let other =
            endpoints(json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "b", "port": 2}]}]));
        let plan = planned(&other, std::slice::from_ref(&first));
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
        assert_eq!(plan.update[0].metadata.name.as_deref(), Some("s1"));
        let none = planned(&endpoints(json!([])), &[first]);
        assert_eq!(none.delete.len(), 1);
    }

    #[test]
    fn what_cannot_be_mirrored_is_counted() {
        let many: Vec<Value> =
            (0..1100).map(|n| json!({"ip": format!("10.1.{}.{}", n / 250, n % 250 + 1)})).collect();
        let wanted = Wanted::of(
            &endpoints(json!([{"addresses": many, "notReadyAddresses": [{"ip": "bad"}]}])).subsets.unwrap(),
        );
        assert_eq!((wanted.invalid, wanted.skipped), (1, 100));
        assert_eq!(wanted.groups.values().next().unwrap().1.len(), MAX_ADDRESSES);
        let mut skipped = endpoints(json!([]));
        assert!(is_mirrored(&skipped));
        skipped.metadata.labels.as_mut().unwrap().insert(SKIP.into(), "true".into());
        assert!(!is_mirrored(&skipped));
    }
}
