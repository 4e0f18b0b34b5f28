//! The cluster's names, by the Kubernetes DNS specification.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{PoisonError, RwLock},
};

use rand::Rng;

use super::{
    DnsRecords, DnsTarget,
    name::Name,
    wire::{Query, Rcode, Rdata, Reply, Section, kind},
};
use crate::{Cidr, Error, Result};

/// The version of the DNS specification that the zone follows.
const SPECIFICATION: &str = "1.1.0";
/// Names of ours that lead to names of ours; a chain of ExternalNames longer than that is a circle.
const MAX_CHAIN: usize = 8;

/// A zone and the reverse zones of its addresses.
#[derive(Debug)]
pub struct Zone {
    domain: Name,
    services: Name,
    pods: Name,
    pod_cidr: Cidr,
    service_cidr: Cidr,
    ttl: u32,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    nodes: HashMap<Name, Node>,
    owners: HashMap<(String, String), Vec<(Name, Rdata)>>,
    serial: u32,
}

/// A name that exists.
#[derive(Debug, Default)]
struct Node {
    records: Vec<Rdata>,
    /// How many names one label below exist: a name without records exists because of them.
    below: usize,
}

/// What the zone says to a question.
#[derive(Debug)]
pub enum Outcome {
    /// This.
    Reply(Vec<u8>),
    /// The name leads, by these records, to one that is not ours.
    Elsewhere(Vec<(Name, Rdata)>, Name),
    /// The name is not ours.
    NotOurs,
}

enum Found {
    Records(Vec<Rdata>),
    NoData,
    NxDomain,
    NotOurs,
}

impl Zone {
    /// A zone without services.
    pub fn new(domain: &str, dns: Ipv4Addr, pod_cidr: Cidr, service_cidr: Cidr, ttl: u32) -> Result<Self> {
        let wrong = || Error::Options(format!("DNS domain {domain:?} is no domain name"));
        let domain = Name::parse(domain).filter(|name| *name != Name::root()).ok_or_else(wrong)?;
        let below = |name: &Name, labels: &str| {
            labels.rsplit('.').try_fold(name.clone(), |name, label| name.child(label)).ok_or_else(wrong)
        };
        let (services, pods) = (below(&domain, "svc")?, below(&domain, "pod")?);
        let server = below(&domain, "ns.dns")?;
        let zone = Self { services, pods, pod_cidr, service_cidr, ttl, state: RwLock::default(), domain };
        {
            let mut state = zone.write();
            state.add(&zone.domain, Rdata::Ns(server.clone()));
            state.add(&zone.domain, zone.soa(0));
            state.add(&server, Rdata::A(dns));
            state.add(&below(&zone.domain, "dns-version")?, Rdata::Txt(SPECIFICATION.to_owned()));
        }
        Ok(zone)
    }

    /// Replace all services.
    pub fn apply(&self, all: Vec<DnsRecords>) -> Result<()> {
        let mut wanted = HashMap::new();
        for records in all {
            let list = self.expand(&records)?;
            wanted.insert((records.namespace, records.name), list);
        }
        let mut state = self.write();
        let gone: Vec<_> =
            state.owners.keys().filter(|owner| !wanted.contains_key(*owner)).cloned().collect();
        for owner in gone {
            state.replace(owner, Vec::new());
        }
        for (owner, list) in wanted {
            state.replace(owner, list);
        }
        Ok(())
    }

    /// Replace or remove one service.
    pub fn update(&self, namespace: &str, name: &str, records: Option<&DnsRecords>) -> Result<()> {
        let list = records.map(|records| self.expand(records)).transpose()?.unwrap_or_default();
        self.write().replace((namespace.to_owned(), name.to_owned()), list);
        Ok(())
    }

    /// Answer a question.
    pub fn answer(&self, query: &Query) -> Outcome {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut chain: Vec<(Name, Rdata)> = Vec::new();
        let mut name = query.name.clone();
        loop {
            let mut records = match self.find(&state, &name) {
                Found::Records(records) => records,
                Found::NotOurs if chain.is_empty() => return Outcome::NotOurs,
                Found::NotOurs => return Outcome::Elsewhere(chain, name),
                Found::NoData => return self.negative(&state, query, Rcode::NoError, &chain),
                Found::NxDomain => return self.negative(&state, query, Rcode::NxDomain, &chain),
            };
            let alias = records.iter().find_map(|data| match data {
                Rdata::Cname(target) if query.kind != kind::CNAME => Some(target.clone()),
                _ => None,
            });
            if let Some(target) = alias {
                chain.push((name, Rdata::Cname(target.clone())));
                if chain.len() > MAX_CHAIN {
                    return Outcome::Reply(Reply::new(query, Rcode::ServFail).finish());
                }
                name = target;
                continue;
            }
            records.retain(|data| query.kind == kind::ANY || data.kind() == query.kind);
            if records.is_empty() {
                return self.negative(&state, query, Rcode::NoError, &chain);
            }
            // Whoever takes the first one should not always get the same.
            let first = rand::rng().random_range(0..records.len());
            records.rotate_left(first);
            chain.extend(records.into_iter().map(|data| (name.clone(), data)));
            return Outcome::Reply(self.positive(&state, query, &chain));
        }
    }

    /// How long answers are good for.
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    fn positive(&self, state: &State, query: &Query, answers: &[(Name, Rdata)]) -> Vec<u8> {
        let mut reply = Reply::new(query, Rcode::NoError).authoritative();
        for (owner, data) in answers {
            let stamped = match data {
                Rdata::Soa { .. } => self.soa(state.serial),
                other => other.clone(),
            };
            reply.push(Section::Answer, owner, self.ttl, &stamped);
        }
        let mut told: Vec<&Name> = Vec::new();
        for (_, data) in answers {
            let Rdata::Srv { target, .. } = data else { continue };
            if told.contains(&target) {
                continue;
            }
            told.push(target);
            for data in state.nodes.get(target).map(|node| node.records.as_slice()).unwrap_or_default() {
                if data.kind() == kind::A {
                    reply.push(Section::Additional, target, self.ttl, data);
                }
            }
        }
        reply.finish()
    }

    fn negative(&self, state: &State, query: &Query, rcode: Rcode, chain: &[(Name, Rdata)]) -> Outcome {
        let mut reply = Reply::new(query, rcode).authoritative();
        for (owner, data) in chain {
            reply.push(Section::Answer, owner, self.ttl, data);
        }
        reply.push(Section::Authority, &self.domain, self.ttl, &self.soa(state.serial));
        Outcome::Reply(reply.finish())
    }

    fn soa(&self, serial: u32) -> Rdata {
        let at = |label: &str| self.domain.child(label).unwrap_or_else(Name::root);
        Rdata::Soa { server: at("ns"), contact: at("hostmaster"), serial, ttl: self.ttl }
    }

    fn find(&self, state: &State, name: &Name) -> Found {
        let node = state.nodes.get(name);
        if let Some(node) = node.filter(|node| !node.records.is_empty()) {
            return Found::Records(node.records.clone());
        }
        let reverse = || {
            name.reversed().is_some_and(|(ip, prefix)| {
                let nets = [self.pod_cidr, self.service_cidr];
                nets.iter().any(|net| net.contains(ip) && net.prefix() <= prefix)
            })
        };
        if name.below(&self.domain).is_none() && !reverse() {
            return Found::NotOurs;
        }
        if node.is_some() {
            return Found::NoData;
        }
        if let Some(labels) = name.below(&self.pods) {
            return match labels.as_slice() {
                // The specification gives every pod a name made of its address; nothing needs to be kept for it.
                [address, _] => match dashed(address).filter(|ip| self.pod_cidr.contains(*ip)) {
                    Some(ip) => Found::Records(vec![Rdata::A(ip)]),
                    None => Found::NxDomain,
                },
                [] | [_] => Found::NoData,
                _ => Found::NxDomain,
            };
        }
        if *name == self.services { Found::NoData } else { Found::NxDomain }
    }

    /// The records of a service.
    fn expand(&self, records: &DnsRecords) -> Result<Vec<(Name, Rdata)>> {
        let wrong = |what: &str| Error::Service {
            id: format!("{}/{}", records.namespace, records.name),
            reason: format!("{what} makes no domain name"),
        };
        let below = |name: &Name, label: &str| name.child(label).ok_or_else(|| wrong(label));
        let base = below(&below(&self.services, &records.namespace)?, &records.name)?;
        let mut list = Vec::new();
        let reverse = |ip| Name::reverse(ip).ok_or_else(|| wrong("address"));
        let service = |port: &super::DnsPort| {
            let proto = below(&base, &format!("_{}", port.protocol))?;
            below(&proto, &format!("_{}", port.name))
        };
        match &records.target {
            DnsTarget::Cluster { ips, ports } => {
                for ip in ips {
                    list.push((base.clone(), Rdata::A(*ip)));
                    list.push((reverse(*ip)?, Rdata::Ptr(base.clone())));
                }
                for port in ports.iter().filter(|port| !port.name.is_empty()) {
                    list.push((service(port)?, Rdata::Srv { port: port.port, target: base.clone() }));
                }
            }
            DnsTarget::Headless { endpoints } => {
                for endpoint in endpoints {
                    let dashes = endpoint.ip.to_string().replace('.', "-");
                    let host = below(&base, endpoint.hostname.as_deref().unwrap_or(&dashes))?;
                    list.push((base.clone(), Rdata::A(endpoint.ip)));
                    list.push((host.clone(), Rdata::A(endpoint.ip)));
                    list.push((reverse(endpoint.ip)?, Rdata::Ptr(host.clone())));
                    for port in endpoint.ports.iter().filter(|port| !port.name.is_empty()) {
                        list.push((service(port)?, Rdata::Srv { port: port.port, target: host.clone() }));
                    }
                }
            }
            DnsTarget::External { name } => {
                let target = Name::parse(name).filter(|name| *name != Name::root());
                list.push((base, Rdata::Cname(target.ok_or_else(|| wrong(name))?)));
            }
        }
        Ok(list)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn replace(&mut self, owner: (String, String), list: Vec<(Name, Rdata)>) {
        let old = self.owners.remove(&owner).unwrap_or_default();
        if old == list {
            if !list.is_empty() {
                self.owners.insert(owner, list);
            }
            return;
        }
        self.serial = self.serial.wrapping_add(1);
        for (name, data) in &old {
            self.remove(name, data);
        }
        for (name, data) in &list {
            self.add(name, data.clone());
        }
        if !list.is_empty() {
            self.owners.insert(owner, list);
        }
    }

    /// Add a record. The same one twice (two endpoints with one address) is kept twice, and told once.
    fn add(&mut self, name: &Name, data: Rdata) {
        let known = self.nodes.contains_key(name);
        self.nodes.entry(name.clone()).or_default().records.push(data);
        if !known {
            self.count_above(name);
        }
    }

    /// A name came to be: so do those above it.
    fn count_above(&mut self, name: &Name) {
        let mut above = name.parent();
        while let Some(parent) = above {
            let known = self.nodes.contains_key(&parent);
            self.nodes.entry(parent.clone()).or_default().below += 1;
            above = if known { None } else { parent.parent() };
        }
    }

    fn remove(&mut self, name: &Name, data: &Rdata) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        if let Some(at) = node.records.iter().position(|record| record == data) {
            node.records.swap_remove(at);
        }
        let mut empty = Some(name.clone());
        while let Some(name) = empty {
            let gone = self.nodes.get(&name).is_some_and(|node| node.records.is_empty() && node.below == 0);
            if !gone {
                return;
            }
            self.nodes.remove(&name);
            empty = name.parent();
            if let Some(parent) = empty.as_ref().and_then(|parent| self.nodes.get_mut(parent)) {
                parent.below -= 1;
            }
        }
    }
}

/// `1-2-3-4` as an address.
fn dashed(label: &[u8]) -> Option<Ipv4Addr> {
    let text = std::str::from_utf8(label).ok()?;
    if text.contains('.') { None } else { text.replace('-', ".").parse().ok() }
}
