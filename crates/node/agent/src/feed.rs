//! Feeding the network: Services and EndpointSlices become service tables and DNS names, one service at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use sampan_daemon::{Backoff, Policy};
use sampan_network::{DnsEndpoint, DnsPort, DnsRecords, DnsTarget, Protocol, ServiceEntry, ServicePort};

use crate::context::Context;

type Key = (String, String);

/// Label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Session affinity when the Service names no time.
const AFFINITY: Duration = Duration::from_secs(10_800);

/// Start feeding.
pub fn start(ctx: &Arc<Context>) {
    let ctx = Arc::clone(ctx);
    let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    ctx.clone().supervisor.supervise("service-feed", Policy::Restart(backoff), move || {
        let feed = Feed::new(Arc::clone(&ctx));
        feed.run()
    });
}

struct Feed {
    ctx: Arc<Context>,
    services: HashMap<Key, Arc<Service>>,
    slices: HashMap<Key, BTreeMap<String, EndpointSlice>>,
    /// Which service each slice belongs to.
    owners: HashMap<Key, Key>,
    /// What the network has.
    entries: HashMap<Key, ServiceEntry>,
    records: HashMap<Key, DnsRecords>,
    dirty: BTreeSet<Key>,
    relisting: (Option<BTreeSet<Key>>, Option<BTreeSet<Key>>),
    listed: (bool, bool),
    applied: bool,
}

impl Feed {
    fn new(ctx: Arc<Context>) -> Self {
        Self {
            ctx,
            services: HashMap::new(),
            slices: HashMap::new(),
            owners: HashMap::new(),
            entries: HashMap::new(),
            records: HashMap::new(),
            dirty: BTreeSet::new(),
            relisting: (None, None),
            listed: (false, false),
            applied: false,
        }
    }

    async fn run(mut self) -> Result<(), sampan_network::Error> {
        let client = self.ctx.options.client.clone();
        let services =
            watcher(Api::<Service>::all(client.clone()), watcher::Config::default()).default_backoff();
        let slices = watcher(Api::<EndpointSlice>::all(client), watcher::Config::default()).default_backoff();
        let (mut services, mut slices) = (std::pin::pin!(services), std::pin::pin!(slices));
        loop {
            tokio::select! {
                Some(event) = services.next() => self.service(event),
                Some(event) = slices.next() => self.slice(event),
                else => return Ok(()),
            }
            if self.listed == (true, true) {
                self.flush().await?;
            }
        }
    }

    fn service(&mut self, event: watcher::Result<watcher::Event<Service>>) {
        match event {
            Ok(watcher::Event::Init) => self.relisting.0 = Some(BTreeSet::new()),
            Ok(watcher::Event::InitApply(service) | watcher::Event::Apply(service)) => {
                let key = key(&service);
                if let Some(seen) = &mut self.relisting.0 {
                    seen.insert(key.clone());
                }
                self.set_service(key, Some(service));
            }
            Ok(watcher::Event::Delete(service)) => self.set_service(key(&service), None),
            Ok(watcher::Event::InitDone) => {
                let seen = self.relisting.0.take().unwrap_or_default();
                let stale: Vec<Key> =
                    self.services.keys().filter(|key| !seen.contains(*key)).cloned().collect();
                stale.into_iter().for_each(|key| self.set_service(key, None));
                self.listed.0 = true;
                self.ctx.services.set_synced();
            }
            Err(error) => tracing::debug!(%error, "watch of services"),
        }
    }

    fn set_service(&mut self, key: Key, service: Option<Service>) {
        let service = service.map(Arc::new);
        self.ctx.services.set(key.clone(), service.clone());
        match service {
            Some(service) => drop(self.services.insert(key.clone(), service)),
            None => drop(self.services.remove(&key)),
        }
        self.dirty.insert(key);
    }

    fn slice(&mut self, event: watcher::Result<watcher::Event<EndpointSlice>>) {
        match event {
            Ok(watcher::Event::Init) => self.relisting.1 = Some(BTreeSet::new()),
            Ok(watcher::Event::InitApply(slice) | watcher::Event::Apply(slice)) => {
                let own = key(&slice);
                if let Some(seen) = &mut self.relisting.1 {
                    seen.insert(own.clone());
                }
                self.set_slice(own, Some(slice));
            }
            Ok(watcher::Event::Delete(slice)) => self.set_slice(key(&slice), None),
            Ok(watcher::Event::InitDone) => {
                let seen = self.relisting.1.take().unwrap_or_default();
                let stale: Vec<Key> =
                    self.owners.keys().filter(|key| !seen.contains(*key)).cloned().collect();
                stale.into_iter().for_each(|key| self.set_slice(key, None));
                self.listed.1 = true;
            }
            Err(error) => tracing::debug!(%error, "watch of endpoint slices"),
        }
    }

    fn set_slice(&mut self, own: Key, slice: Option<EndpointSlice>) {
        if let Some(owner) = self.owners.remove(&own) {
            if let Some(slices) = self.slices.get_mut(&owner) {
                slices.remove(&own.1);
                if slices.is_empty() {
                    self.slices.remove(&owner);
                }
            }
            self.dirty.insert(owner);
        }
        let Some(slice) = slice.filter(|slice| slice.address_type == "IPv4") else { return };
        let Some(name) = slice.labels().get(SERVICE_NAME) else { return };
        let owner = (own.0.clone(), name.clone());
        self.dirty.insert(owner.clone());
        self.owners.insert(own.clone(), owner.clone());
        self.slices.entry(owner).or_default().insert(own.1, slice);
    }

    /// Tell the network what changed.
    async fn flush(&mut self) -> Result<(), sampan_network::Error> {
        let dirty = std::mem::take(&mut self.dirty);
        let network = self.ctx.options.network.clone();
        let node = self.ctx.options.node_name.clone();
        let mut changed = Vec::new();
        for key in dirty {
            let slices = self.slices.get(&key);
            let built = self.services.get(&key).map(|service| build(&key, service, slices, &node));
            let (entry, records) = built.unwrap_or_default();
            if self.entries.get(&key) != entry.as_ref() || self.records.get(&key) != records.as_ref() {
                changed.push(key.clone());
            }
            set(&mut self.entries, &key, entry);
            set(&mut self.records, &key, records);
        }
        if !self.applied {
            network.apply(self.entries.values().cloned().collect()).await?;
            if let Some(dns) = network.dns() {
                dns.apply(self.records.values().cloned().collect())?;
            }
            self.applied = true;
            return Ok(());
        }
        for key in changed {
            let id = format!("{}/{}", key.0, key.1);
            network.update(&id, self.entries.get(&key).cloned()).await?;
            if let Some(dns) = network.dns() {
                dns.update(&key.0, &key.1, self.records.get(&key).cloned())?;
            }
        }
        Ok(())
    }
}

fn set<T>(map: &mut HashMap<Key, T>, key: &Key, value: Option<T>) {
    match value {
        Some(value) => drop(map.insert(key.clone(), value)),
        None => drop(map.remove(key)),
    }
}

fn key<K: kube::Resource>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn protocol(name: Option<&str>) -> Protocol {
    match name {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

fn addresses(all: Option<&Vec<String>>) -> Vec<Ipv4Addr> {
    all.into_iter().flatten().filter_map(|ip| ip.parse().ok()).collect()
}

/// The table entry and the names of one service.
fn build(
    key: &Key,
    service: &Service,
    slices: Option<&BTreeMap<String, EndpointSlice>>,
    node: &str,
) -> (Option<ServiceEntry>, Option<DnsRecords>) {
    let empty = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let named = |target| Some(DnsRecords { name: key.1.clone(), namespace: key.0.clone(), target });
    if spec.type_.as_deref() == Some("ExternalName") {
        let name = spec.external_name.clone().unwrap_or_default();
        return (None, named(DnsTarget::External { name }));
    }
    let cluster_ips = match &spec.cluster_ips {
        Some(ips) => addresses(Some(ips)),
        None => spec.cluster_ip.iter().filter_map(|ip| ip.parse().ok()).collect(),
    };
    if cluster_ips.is_empty() {
        let headless = spec.cluster_ip.as_deref() == Some("None");
        return (None, headless.then(|| named(headless_target(slices))).flatten());
    }
    let ports = dns_ports(spec);
    let entry = table_entry(key, service, spec, cluster_ips.clone(), slices, node);
    (Some(entry), named(DnsTarget::Cluster { ips: cluster_ips, ports }))
}

fn dns_ports(spec: &ServiceSpec) -> Vec<DnsPort> {
    let ports = spec.ports.iter().flatten();
    ports
        .filter_map(|port| {
            let name = port.name.clone().filter(|name| !name.is_empty())?;
            Some(DnsPort {
                name,
                protocol: protocol(port.protocol.as_deref()),
                port: u16::try_from(port.port).ok()?,
            })
        })
        .collect()
}

fn table_entry(
    key: &Key,
    service: &Service,
    spec: &ServiceSpec,
    cluster_ips: Vec<Ipv4Addr>,
    slices: Option<&BTreeMap<String, EndpointSlice>>,
    node: &str,
) -> ServiceEntry {
    let local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let name = port.name.as_deref().unwrap_or_default();
        Some(ServicePort {
            protocol: protocol(port.protocol.as_deref()),
            port: u16::try_from(port.port).ok()?,
            node_port: port.node_port.and_then(|port| u16::try_from(port).ok()),
            endpoints: endpoints(slices, name, local.then_some(node)),
        })
    });
    let ports = ports.collect();
    let mut external_ips = addresses(spec.external_ips.as_ref());
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    external_ips.extend(ingress.filter_map(|ingress| ingress.ip.as_ref()?.parse::<Ipv4Addr>().ok()));
    let sticky = spec.session_affinity.as_deref() == Some("ClientIP");
    let configured = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|client| client.timeout_seconds)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs);
    ServiceEntry {
        id: format!("{}/{}", key.0, key.1),
        cluster_ips,
        external_ips,
        ports,
        session_affinity: sticky.then(|| configured.unwrap_or(AFFINITY)),
    }
}

/// Where a port's connections go: ready endpoints; while there are none, those that still serve though they end.
fn endpoints(
    slices: Option<&BTreeMap<String, EndpointSlice>>,
    port: &str,
    node: Option<&str>,
) -> Vec<SocketAddrV4> {
    let (mut ready, mut serving) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices.into_iter().flat_map(BTreeMap::values) {
        let number = slice
            .ports
            .iter()
            .flatten()
            .find(|candidate| candidate.name.as_deref().unwrap_or_default() == port)
            .and_then(|found| found.port)
            .and_then(|number| u16::try_from(number).ok());
        let Some(number) = number else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            if node.is_some_and(|node| endpoint.node_name.as_deref() != Some(node)) {
                continue;
            }
            let sockets = endpoint.addresses.iter().filter_map(|ip| ip.parse().ok());
            let sockets = sockets.map(|ip| SocketAddrV4::new(ip, number));
            if is_ready(endpoint) {
                ready.extend(sockets);
            } else if serves(endpoint) {
                serving.extend(sockets);
            }
        }
    }
    if ready.is_empty() { serving } else { ready }.into_iter().collect()
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

fn serves(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    conditions
        .is_some_and(|conditions| conditions.serving == Some(true) && conditions.terminating == Some(true))
}

fn headless_target(slices: Option<&BTreeMap<String, EndpointSlice>>) -> DnsTarget {
    let mut endpoints = Vec::new();
    for slice in slices.into_iter().flat_map(BTreeMap::values) {
        let ports: Vec<DnsPort> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                let name = port.name.clone().filter(|name| !name.is_empty())?;
                let number = u16::try_from(port.port?).ok()?;
                Some(DnsPort { name, protocol: protocol(port.protocol.as_deref()), port: number })
            })
            .collect();
        for endpoint in slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint)) {
            endpoints.extend(
                endpoint.addresses.iter().filter_map(|ip| ip.parse().ok()).map(|ip| DnsEndpoint {
                    ip,
                    hostname: endpoint.hostname.clone(),
                    ports: ports.clone(),
                }),
            );
        }
    }
    DnsTarget::Headless { endpoints }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slices(ready: [bool; 2]) -> BTreeMap<String, EndpointSlice> {
        let endpoint = |ip: &str, ready: bool| {
            json!({"addresses": [ip], "nodeName": ip, "hostname": "h",
            "conditions": {"ready": ready, "serving": true, "terminating": !ready}})
        };
        let slice =
            serde_json::from_value(json!({"addressType": "IPv4", "ports": [{"name": "web", "port": 8080}],
            "endpoints": [endpoint("10.42.0.2", ready[0]), endpoint("10.42.0.3", ready[1])]}));
        BTreeMap::from([("a".to_owned(), slice.unwrap())])
    }

    fn service(spec: serde_json::Value) -> Service {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn key() -> Key {
        ("n".into(), "s".into())
    }

    #[test]
    fn cluster_services() {
        let web = service(
            json!({"clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5"], "sessionAffinity": "ClientIP",
            "ports": [{"name": "web", "port": 80, "nodePort": 30080, "protocol": "TCP"}]}),
        );
        let endpoints = |ready| {
            let (entry, _) = build(&key(), &web, Some(&slices(ready)), "10.42.0.3");
            entry.unwrap().ports[0].endpoints.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(endpoints([true, true]), ["10.42.0.2:8080", "10.42.0.3:8080"]);
        assert_eq!(endpoints([true, false]), ["10.42.0.2:8080"]);
        assert_eq!(
            endpoints([false, false]),
            ["10.42.0.2:8080", "10.42.0.3:8080"],
            "terminating ones still serve"
        );
        let (entry, records) = build(&key(), &web, None, "x");
        let entry = entry.unwrap();
        assert_eq!((entry.ports[0].node_port, entry.session_affinity), (Some(30080), Some(AFFINITY)));
        assert!(matches!(records.unwrap().target, DnsTarget::Cluster { .. }));
    }

    #[test]
    fn headless_and_external() {
        let headless = service(json!({"clusterIP": "None", "clusterIPs": ["None"]}));
        let (entry, records) = build(&key(), &headless, Some(&slices([true, false])), "x");
        assert!(entry.is_none());
        let DnsTarget::Headless { endpoints } = records.unwrap().target else { panic!("not headless") };
        assert_eq!((endpoints.len(), endpoints[0].hostname.as_deref()), (1, Some("h")));
        let external = service(json!({"type": "ExternalName", "externalName": "example.org"}));
        let (entry, records) = build(&key(), &external, None, "x");
        assert!(entry.is_none() && matches!(records.unwrap().target, DnsTarget::External { .. }));
    }
}
