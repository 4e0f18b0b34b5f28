//! The pods behind a Service, each as an endpoint with the ports that it serves.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sampan_planner::pods;

/// An address family of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    /// The addressType of slices.
    pub fn address_type(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn of(address: &str) -> Option<Self> {
        let address: IpAddr = address.parse().ok()?;
        Some(if address.is_ipv4() { Self::V4 } else { Self::V6 })
    }
}

/// One endpoint and its ports.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    pub family: Family,
    pub endpoint: Endpoint,
    pub ports: Vec<EndpointPort>,
    pub ready: bool,
    pub terminating: bool,
}

/// The families of a Service; IPv4 when it does not say.
pub(super) fn families(service: &Service) -> Vec<Family> {
    let spec = service.spec.as_ref();
    let named: Vec<Family> = spec
        .and_then(|s| s.ip_families.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|family| match family.as_str() {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        })
        .collect();
    if !named.is_empty() {
        return named;
    }
    let own = spec.and_then(|s| s.cluster_ip.as_deref()).and_then(Family::of);
    vec![own.unwrap_or(Family::V4)]
}

/// All endpoints of a Service.
pub(super) fn of(
    service: &Service,
    pods: &[Arc<Pod>],
    families: &[Family],
    zones: &HashMap<String, String>,
) -> Vec<Backend> {
    let mut backends = Vec::new();
    for pod in pods.iter().filter(|pod| !pods::finished(pod)) {
        let ports = ports(service, pod);
        for family in families {
            if let Some(address) = address(pod, *family) {
                backends.push(backend(service, pod, *family, address, ports.clone(), zones));
            }
        }
    }
    backends
}

fn address(pod: &Pod, family: Family) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
    all.chain(&status.pod_ip).find(|ip| Family::of(ip) == Some(family)).cloned()
}

fn backend(
    service: &Service,
    pod: &Pod,
    family: Family,
    address: String,
    ports: Vec<EndpointPort>,
    zones: &HashMap<String, String>,
) -> Backend {
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
    let (serving, terminating) = (pods::ready(pod), pods::terminating(pod));
    let ready = publish || (serving && !terminating);
    let node = Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty());
    let zone = node.as_ref().and_then(|node| zones.get(node)).cloned();
    let endpoint = Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        hints: hints(service, zone.as_ref(), node.as_ref()).filter(|_| ready),
        zone,
        node_name: node,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        deprecated_topology: None,
    };
    Backend { family, endpoint, ports, ready, terminating }
}

/// Whom the Service would rather have served by an endpoint: those near it.
fn hints(service: &Service, zone: Option<&String>, node: Option<&String>) -> Option<EndpointHints> {
    let wish = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    if !matches!(wish, "PreferClose" | "PreferSameZone" | "PreferSameNode") {
        return None;
    }
    let for_zones = zone.map(|name| vec![ForZone { name: name.clone() }]);
    let node = node.filter(|_| wish == "PreferSameNode");
    let for_nodes = node.map(|name| vec![ForNode { name: name.clone() }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_nodes, for_zones })
}

/// A pod that names this Service as its subdomain is found under its own name, too.
fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_ref().filter(|name| !name.is_empty())?;
    (spec.subdomain.as_deref() == service.metadata.name.as_deref()).then(|| hostname.clone())
}

/// The ports of the Service as this pod serves them; one that it has no name for is left out.
fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let wanted = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    wanted
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target(port, pod)?),
                protocol: Some(protocol(port.protocol.as_deref()).to_owned()),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn protocol(given: Option<&str>) -> &str {
    given.unwrap_or("TCP")
}

fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
            let containers =
                spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar));
            let mut ports = containers.flat_map(|c| c.ports.iter().flatten());
            let wanted = protocol(port.protocol.as_deref());
            ports
                .find(|p| p.name.as_ref() == Some(name) && protocol(p.protocol.as_deref()) == wanted)
                .map(|p| p.container_port)
        }
    }
}
