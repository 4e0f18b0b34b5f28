//! Files that every container gets: `/etc/hosts` and `/etc/resolv.conf`, and the pod's host name.

use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::spec;

/// Longest search list and most name servers that a resolver file may have.
const MAX_SEARCHES: usize = 32;
const MAX_NAMESERVERS: usize = 3;

/// Cluster DNS as pods see it.
#[derive(Clone, Debug)]
pub struct ClusterDns {
    /// The server, when the cluster runs one.
    pub address: Option<Ipv4Addr>,
    /// The domain, `cluster.local`.
    pub domain: String,
    /// The node's own resolver file, for `dnsPolicy: Default`.
    pub host_resolv_conf: String,
}

/// The host name of a pod: `spec.hostname` or its name, at most 63 bytes.
#[must_use]
pub fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    if let Some(name) = spec.and_then(|spec| spec.hostname_override.clone()) {
        return name;
    }
    let name = spec.and_then(|spec| spec.hostname.as_deref()).unwrap_or_else(|| spec::name(pod));
    let name: String = name.chars().take(63).collect();
    let name = name.trim_end_matches(['-', '.']).to_owned();
    match (spec.and_then(|spec| spec.set_hostname_as_fqdn), spec.and_then(|spec| spec.subdomain.as_deref())) {
        (Some(true), Some(sub)) => format!("{name}.{sub}.{}.svc.cluster.local", spec::namespace(pod)),
        _ => name,
    }
}

/// `/etc/hosts` of a pod.
#[must_use]
pub fn hosts(pod: &Pod, ip: Option<Ipv4Addr>, domain: &str, host_file: &str) -> String {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let mut out = String::new();
    if spec.host_network == Some(true) {
        out.push_str("# Kubernetes-managed hosts file (host network).\n");
        out.push_str(host_file);
    } else {
        out.push_str("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        out.push_str(
            "fe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        if let Some(ip) = ip {
            let name = spec.hostname.as_deref().unwrap_or_else(|| spec::name(pod));
            match &spec.subdomain {
                Some(sub) if !sub.is_empty() => {
                    let full = format!("{name}.{sub}.{}.svc.{domain}", spec::namespace(pod));
                    out.push_str(&format!("{ip}\t{full}\t{name}\n"));
                }
                _ => out.push_str(&format!("{ip}\t{name}\n")),
            }
        }
    }
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            out.push_str(&format!(
                "{}\t{}\n",
                alias.ip,
                alias.hostnames.as_deref().unwrap_or_default().join("\t")
            ));
        }
    }
    out
}

/// `/etc/resolv.conf` of a pod.
#[must_use]
pub fn resolv_conf(pod: &Pod, dns: &ClusterDns) -> String {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let host = Resolver::parse(&dns.host_resolv_conf);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => spec.host_network != Some(true),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut resolver = match (policy, cluster, dns.address) {
        ("None", ..) => Resolver::default(),
        (_, true, Some(address)) => {
            let namespace = spec::namespace(pod);
            let domain = &dns.domain;
            let mut searches =
                vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            searches.extend(host.searches);
            Resolver {
                nameservers: vec![address.to_string()],
                searches,
                options: vec![("ndots".into(), Some("5".into()))],
            }
        }
        _ => host,
    };
    if let Some(config) = &spec.dns_config {
        resolver.nameservers.extend(config.nameservers.iter().flatten().cloned());
        resolver.searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            resolver.options.retain(|(known, _)| known != name);
            resolver.options.push((name.clone(), option.value.clone()));
        }
    }
    resolver.render()
}

#[derive(Default)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<(String, Option<String>)>,
}

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => out.nameservers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => out.searches = words.map(str::to_owned).collect(),
                Some("options") => out.options.extend(words.map(|word| match word.split_once(':') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (word.to_owned(), None),
                })),
                _ => {}
            }
        }
        out
    }

    fn render(mut self) -> String {
        dedup(&mut self.nameservers);
        dedup(&mut self.searches);
        let mut out = String::new();
        if !self.searches.is_empty() {
            self.searches.truncate(MAX_SEARCHES);
            out.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        let valid = self.nameservers.iter().filter(|server| server.parse::<IpAddr>().is_ok());
        for server in valid.take(MAX_NAMESERVERS) {
            out.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            let options = self.options.iter().map(|(name, value)| match value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
            out.push_str(&format!("options {}\n", options.collect::<Vec<_>>().join(" ")));
        }
        out
    }
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).unwrap()
    }

    fn dns() -> ClusterDns {
        ClusterDns {
            address: Some("10.43.0.10".parse().unwrap()),
            domain: "cluster.local".into(),
            host_resolv_conf: "nameserver 192.0.2.53\nsearch corp.example\noptions rotate\n".into(),
        }
    }

    #[test]
    fn resolver_files() {
        let cluster = resolv_conf(&pod(json!({"containers": []})), &dns());
        assert_eq!(
            cluster,
            "search n.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.43.0.10\noptions ndots:5\n"
        );
        let host = resolv_conf(&pod(json!({"containers": [], "dnsPolicy": "Default"})), &dns());
        assert_eq!(host, "search corp.example\nnameserver 192.0.2.53\noptions rotate\n");
        let own =
            pod(json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.9"],
            "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}));
        assert_eq!(resolv_conf(&own, &dns()), "search a.b\nnameserver 192.0.2.9\noptions ndots:2 edns0\n");
    }

    #[test]
    fn hosts_files() {
        let pod = pod(
            json!({"containers": [], "subdomain": "sub", "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["a", "b"]}]}),
        );
        let text = hosts(&pod, Some("10.42.0.9".parse().unwrap()), "cluster.local", "");
        assert!(text.contains("10.42.0.9\tp.sub.n.svc.cluster.local\tp\n"), "{text}");
        assert!(text.ends_with("192.0.2.7\ta\tb\n"), "{text}");
    }
}
