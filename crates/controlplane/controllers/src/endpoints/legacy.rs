//! The Endpoints object of a Service, for clients older than EndpointSlices.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use sampan_planner::pods;

use super::backends::Backend;
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
    let family = backends.first().map(|b| b.family);
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
    let mut shown: Vec<&Backend> =
        backends.iter().filter(|b| Some(b.family) == family && (!b.terminating || publish)).collect();
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
