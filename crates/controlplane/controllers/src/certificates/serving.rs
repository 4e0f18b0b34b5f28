//! Under which names and addresses a node may serve. What its Node object says was written by the node itself, so it
//! counts only as far as it takes nothing from anybody else.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Service};
use sampan_daemon::tls;
use sampan_planner::pods;

/// What is taken.
#[derive(Default)]
pub(super) struct Taken {
    /// Names of the API server, in small letters.
    names: BTreeSet<String>,
    /// Addresses of API servers.
    servers: BTreeSet<IpAddr>,
    /// Addresses of Services.
    services: BTreeSet<IpAddr>,
    /// Addresses of other nodes, with their names.
    nodes: Vec<(IpAddr, String)>,
}

impl Taken {
    /// What API servers are called and reached at: names, addresses, or one that is both.
    pub fn servers<'a>(&mut self, all: impl IntoIterator<Item = &'a str>) {
        for one in all {
            match address(one) {
                Some(ip) => drop(self.servers.insert(ip)),
                None => drop(self.names.insert(one.to_ascii_lowercase())),
            }
        }
    }

    /// A Service has its addresses.
    pub fn service(&mut self, service: &Service) {
        let Some(spec) = &service.spec else { return };
        let all = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
        self.services.extend(all.filter_map(|ip| address(ip)));
    }

    /// A node other than the one that asks.
    pub fn node(&mut self, node: &Node) {
        let name = pods::name(&node.metadata);
        self.nodes.extend(addresses(node, None).map(|ip| (ip, name.to_owned())));
    }

    /// Why the node may not serve under what it asks for; nothing when it may.
    pub fn refusal(&self, request: &tls::Request, node: &Node) -> Option<String> {
        let own = pods::name(&node.metadata);
        let name = request.dns.iter().find_map(|name| self.refuses_name(name, own));
        let internal: BTreeSet<IpAddr> = addresses(node, Some("InternalIP")).collect();
        name.or_else(|| request.ips.iter().find_map(|ip| self.refuses_address(*ip, &internal)))
    }

    fn refuses_name(&self, name: &str, own: &str) -> Option<String> {
        if name != own {
            return Some(format!("{name}, which is not its name"));
        }
        let reserved = self.names.contains(name)
            || name.split('.').next() == Some("kubernetes")
            || name.rsplit('.').next() == Some("localhost")
            // Services have such names; webhooks are believed by them.
            || name.split('.').any(|label| label == "svc");
        reserved.then(|| format!("{name}, which servers or Services are called (hint: another --node-name)"))
    }

    fn refuses_address(&self, ip: IpAddr, internal: &BTreeSet<IpAddr>) -> Option<String> {
        let ip = ip.to_canonical();
        if !internal.contains(&ip) {
            return Some(format!("{ip}, which is not its InternalIP"));
        }
        let special = match ip {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        if special || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
            return Some(format!("{ip}, which is no address of one machine"));
        }
        if self.servers.contains(&ip) {
            return Some(format!(
                "{ip}, which is an API server's (hint: a node beside one asks for its name alone)"
            ));
        }
        if self.services.contains(&ip) {
            return Some(format!("{ip}, which is a Service's"));
        }
        let other = self.nodes.iter().find(|(taken, _)| *taken == ip);
        other.map(|(_, name)| format!("{ip}, which node {name} has too (hint: delete the one that is gone)"))
    }
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn addresses(node: &Node, kind: Option<&'static str>) -> impl Iterator<Item = IpAddr> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    all.filter(move |entry| kind.is_none_or(|kind| entry.type_ == kind))
        .filter_map(|entry| address(&entry.address))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, addresses: &[(&str, &str)]) -> Node {
        let addresses: Vec<_> =
            addresses.iter().map(|(kind, address)| json!({"type": kind, "address": address})).collect();
        serde_json::from_value(json!({"metadata": {"name": name}, "status": {"addresses": addresses}}))
            .unwrap()
    }

    fn asks(own: &Node, names: &[&str]) -> Option<String> {
        let mut taken = Taken::default();
        taken.servers(["api.example.com", "10.0.0.7", "10.0.0.8"]);
        let service = json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "10.43.0.1", "clusterIPs": ["10.43.0.1"]}});
        taken.service(&serde_json::from_value(service).unwrap());
        taken.node(&node("other", &[("InternalIP", "10.0.0.2"), ("ExternalIP", "192.0.2.2")]));
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let (pem, _) = tls::ask("system:node:x", &["system:nodes"], &names).unwrap();
        taken.refusal(&tls::Request::parse(pem.as_bytes()).unwrap(), own)
    }

    #[test]
    fn a_node_serves_under_what_is_its_own_and_nobody_elses() {
        assert_eq!(asks(&node("one", &[("InternalIP", "10.0.0.1")]), &["one", "10.0.0.1"]), None);
        assert_eq!(asks(&node("one", &[]), &["one"]), None);
        // What the node says of itself does not make it so.
        let liar = node(
            "one",
            &[
                ("Hostname", "kubernetes"),
                ("InternalDNS", "two"),
                ("ExternalIP", "192.0.2.1"),
                ("InternalIP", "10.0.0.2"),
                ("InternalIP", "192.0.2.2"),
                ("InternalIP", "10.0.0.7"),
                ("InternalIP", "::ffff:10.0.0.8"),
                ("InternalIP", "10.43.0.1"),
                ("InternalIP", "127.0.0.1"),
                ("InternalIP", "169.254.1.1"),
                ("InternalIP", "::1"),
                ("InternalIP", "fe80::1"),
                ("InternalIP", "0.0.0.0"),
            ],
        );
        let names = [
            "kubernetes",
            "two",
            "192.0.2.1",
            "10.0.0.2",
            "192.0.2.2",
            "10.0.0.7",
            "10.0.0.8",
            "::ffff:10.0.0.8",
        ];
        for name in names.into_iter().chain([
            "10.43.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "::1",
            "fe80::1",
            "0.0.0.0",
            "10.9.9.9",
        ]) {
            let why = asks(&liar, &["one", name]);
            assert!(why.as_ref().is_some_and(|why| why.contains("which")), "{name}: {why:?}");
        }
        for name in [
            "kubernetes",
            "kubernetes.default.svc",
            "localhost",
            "a.localhost",
            "hook.ns.svc",
            "api.example.com",
        ] {
            assert!(asks(&node(name, &[]), &[name]).is_some(), "{name}");
        }
        assert_eq!(asks(&node("kubernetes-1", &[]), &["kubernetes-1"]), None);
    }
}
