//! The Endpoints object of a Service, for clients older than EndpointSlices.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use sampan_planner::pods;

use super::backends::{Backend, families};
use super::{HEADLESS, is_headless};

/// The label that says who keeps an Endpoints object.
pub(super) const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// The most addresses in one object; beyond that readers must use slices.
const MAX_ADDRESSES: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

type PortKey = Vec<(String, i32, String)>;

#[derive(Default)]
struct Subset {
    ready: Vec<EndpointAddress>,
    not_ready: Vec<EndpointAddress>,
}

/// The object as it should be, when it is not so already.
pub(super) fn plan(
    service: &Service,
    backends: &[Backend],
    existing: Option<&Endpoints>,
) -> Option<Endpoints> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.to_owned(), "endpoint-controller".to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    // The first family of the Service: readers of these know no more than one.
    let family = families(service).first().copied();
    // A pod that has none of the Service's ports is not there, unless the Service has no ports at all.
    let portless = service.spec.as_ref().is_none_or(|s| s.ports.iter().flatten().next().is_none());
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
    let is_shown = |b: &&Backend| {
        Some(b.family) == family && (!b.terminating || publish) && (portless || !b.ports.is_empty())
    };
    let mut shown: Vec<&Backend> = backends.iter().filter(is_shown).collect();
    let cut = shown.len() > MAX_ADDRESSES;
    if cut {
        // Those that serve come before those that do not.
        shown.sort_by_key(|backend| !backend.ready);
    }
    let subsets = subsets(&shown[..shown.len().min(MAX_ADDRESSES)]);
    let subsets = (!subsets.is_empty()).then_some(subsets);
    if existing.is_some_and(|e| {
        e.subsets.as_deref().unwrap_or_default() == subsets.as_deref().unwrap_or_default()
            && e.metadata.labels.as_ref() == Some(&labels)
            && (pods::annotation(&e.metadata, OVER_CAPACITY) == Some("truncated")) == cut
    }) {
        return None;
    }
    let mut metadata = existing.map_or_else(
        || ObjectMeta {
            namespace: service.metadata.namespace.clone(),
            name: service.metadata.name.clone(),
            ..ObjectMeta::default()
        },
        |existing| existing.metadata.clone(),
    );
    metadata.labels = Some(labels);
    let annotations = metadata.annotations.get_or_insert_default();
    if cut {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    Some(Endpoints { metadata, subsets })
}

fn subsets(backends: &[&Backend]) -> Vec<EndpointSubset> {
    let mut groups: BTreeMap<PortKey, Subset> = BTreeMap::new();
    for backend in backends {
        let key = backend
            .ports
            .iter()
            .map(|p| {
                (
                    p.name.clone().unwrap_or_default(),
                    p.port.unwrap_or(0),
                    p.protocol.clone().unwrap_or_default(),
                )
            })
            .collect();
        let address = EndpointAddress {
            ip: backend.endpoint.addresses.first().cloned().unwrap_or_default(),
            hostname: backend.endpoint.hostname.clone(),
            node_name: backend.endpoint.node_name.clone(),
            target_ref: backend.endpoint.target_ref.clone(),
        };
        let subset = groups.entry(key).or_default();
        if backend.ready { &mut subset.ready } else { &mut subset.not_ready }.push(address);
    }
    let sorted = |mut list: Vec<EndpointAddress>| {
        list.sort_by(|a, b| a.ip.cmp(&b.ip));
        (!list.is_empty()).then_some(list)
    };
    let mut subsets = Vec::new();
    for (key, subset) in groups {
        let ports = key.into_iter().map(|(name, port, protocol)| EndpointPort {
            name: Some(name).filter(|name| !name.is_empty()),
            port,
            protocol: Some(protocol),
            app_protocol: None,
        });
        let ports: Vec<EndpointPort> = ports.collect();
        subsets.push(EndpointSubset {
            addresses: sorted(subset.ready),
            not_ready_addresses: sorted(subset.not_ready),
            ports: (!ports.is_empty()).then_some(ports),
        });
    }
    subsets
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::super::backends;
    use super::*;

    fn pod(name: &str, ips: &[&str], port: &str) -> Arc<Pod> {
        let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let pod = json!({
            "metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": port, "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIPs": ips, "conditions": [{"type": "Ready", "status": "True"}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn one_family_and_only_pods_that_serve_a_port_are_shown() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "n"},
            "spec": {"ipFamilies": ["IPv4", "IPv6"], "ports": [{"port": 80, "targetPort": "http"}]},
        }))
        .unwrap();
        let pods = [
            pod("a", &["fd00::1"], "http"),
            pod("b", &["10.0.0.2", "fd00::2"], "http"),
            pod("c", &["10.0.0.3"], "other"),
        ];
        let families = backends::families(&service);
        let backends = backends::of(&service, &pods, &families, &HashMap::new());
        let subsets = plan(&service, &backends, None).unwrap().subsets.unwrap();
        let shown: Vec<&str> =
            subsets.iter().flat_map(|s| s.addresses.iter().flatten()).map(|a| a.ip.as_str()).collect();
        assert_eq!(shown, ["10.0.0.2"]);
    }
}
