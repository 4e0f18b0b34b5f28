//! Addresses and node ports of Services.
//!
//! Each one in use has a key of its own, written and deleted in the same transaction as the Service. So it is exact
//! whatever happens at once, and survives restarts by being what is stored. Addresses have an IPAddress beside it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use bytes::Bytes;
use rand::Rng;
use sampan_api::status::{FieldError, Status};
use sampan_store::{Compare, KeyValue, Op, Range, Txn, prefix_end};
use serde_json::{Value, json};

use crate::{
    call::{Call, text},
    core::Core,
    encode,
    options::Cidr,
    storage::store_error,
    verbs::create::refuse,
};

const IPS: &str = "/registry/ranges/serviceips/";
/// Where IPAddresses are stored.
const ADDRESSES: &str = "/registry/networking.k8s.io/ipaddresses/";
const PORTS: &str = "/registry/ranges/servicenodeports/";

/// The group of IPAddresses.
const NETWORKING: &str = "networking.k8s.io";

/// Random picks before all that is taken is read.
const PICKS: usize = 8;

/// Addresses of the block that are given only to those who ask: the network, `kubernetes`, the cluster DNS.
const KEPT: [u128; 3] = [0, 1, 10];

/// One address or port that a transaction takes.
#[derive(Clone, Debug)]
struct Claim {
    key: Bytes,
    /// What is written there; the key of the Service where there is nothing else to say.
    object: Option<Bytes>,
    /// Where the user asked for it; none when it was chosen.
    asked: Option<FieldError>,
}

/// What a transaction takes and gives back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    take: Vec<Claim>,
    give: Vec<Bytes>,
    owner: Bytes,
}

impl Claims {
    /// The conditions and steps to add to the transaction.
    pub(crate) fn txn(&self) -> Txn {
        let absent = |claim: &Claim| Compare::ModRevision(claim.key.clone(), 0);
        let put = |claim: &Claim| Op::Put {
            key: claim.key.clone(),
            value: claim.object.as_ref().unwrap_or(&self.owner).clone(),
            lease: 0,
        };
        let delete = |key: &Bytes| Op::Delete { key: key.clone() };
        Txn {
            compare: self.take.iter().map(absent).collect(),
            ops: self.take.iter().map(put).chain(self.give.iter().map(delete)).collect(),
        }
    }

    /// Takes an address, with the object that says who has it.
    fn address(
        &mut self,
        core: &Core,
        ip: IpAddr,
        service: &Value,
        asked: Option<FieldError>,
    ) -> Result<(), Status> {
        let object =
            encode::canonical(&*core.endpoint(NETWORKING, "v1", "ipaddresses")?, &mirrored(ip, service))?;
        self.take.push(Claim { key: format!("{IPS}{ip}").into(), object: None, asked: asked.clone() });
        self.take.push(Claim { key: format!("{ADDRESSES}{ip}").into(), object: Some(object), asked });
        Ok(())
    }

    /// What a conflict means: a refusal when something that was asked for is taken; otherwise one may choose again.
    pub(crate) fn taken(
        &self,
        call: &Call,
        object: &Value,
        state: &[Option<KeyValue>],
    ) -> Result<(), Status> {
        let mut errors: Vec<FieldError> = self
            .take
            .iter()
            .zip(state)
            .filter(|(_, found)| found.is_some())
            .filter_map(|(claim, _)| claim.asked.clone())
            .collect();
        // An address and its IPAddress are one.
        errors.dedup();
        refuse(call, text(object, "/metadata/name"), &errors)
    }
}

/// The IPAddress of a Service's address.
fn mirrored(ip: IpAddr, service: &Value) -> Value {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": ip.to_string(),
            "uid": uuid::Uuid::new_v4().to_string(),
            "generation": 1,
            "creationTimestamp": sampan_daemon::clock::rfc3339(sampan_daemon::clock::now()),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": family,
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": {
            "resource": "services",
            "namespace": text(service, "/metadata/namespace"),
            "name": text(service, "/metadata/name"),
        }},
    })
}

/// Whether the request is about a Service, which holds addresses and ports.
pub(crate) fn is_service(call: &Call) -> bool {
    call.endpoint.resource.group.is_empty() && call.endpoint.resource.plural == "services"
}

/// Completes a new Service.
pub(crate) async fn create(core: &Arc<Core>, call: &Call, service: &mut Value) -> Result<Claims, Status> {
    if !is_service(call) {
        return Ok(Claims::default());
    }
    allocate(core, call, service, &[]).await
}

/// Completes a changed Service; what the old one has and the new one has not is given back.
pub(crate) async fn update(
    core: &Arc<Core>,
    call: &Call,
    service: &mut Value,
    old: &Value,
) -> Result<Claims, Status> {
    if !is_service(call) {
        return Ok(Claims::default());
    }
    let before = keys(old);
    let mut claims = allocate(core, call, service, &before).await?;
    let after = keys(service);
    claims.give = before.into_iter().filter(|key| !after.contains(key)).collect();
    Ok(claims)
}

/// The steps that give back what a deleted object held.
pub(crate) fn release(call: &Call, object: &Value) -> Vec<Op> {
    if !is_service(call) {
        return Vec::new();
    }
    keys(object).into_iter().map(|key| Op::Delete { key }).collect()
}

/// The keys of everything a Service holds.
fn keys(service: &Value) -> Vec<Bytes> {
    let mut out: Vec<Bytes> = ips(service)
        .into_iter()
        .filter_map(|ip| ip.parse::<IpAddr>().ok())
        .flat_map(|ip| [format!("{IPS}{ip}").into(), format!("{ADDRESSES}{ip}").into()])
        .collect();
    for (_, _, port) in ports(service) {
        if port != 0 {
            out.push(port_key(port));
        }
    }
    out.sort();
    out.dedup();
    out
}

fn port_key(port: i64) -> Bytes {
    format!("{PORTS}{port}").into()
}

fn ips(service: &Value) -> Vec<String> {
    let list = service.pointer("/spec/clusterIPs").and_then(Value::as_array);
    let listed: Vec<String> =
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    if !listed.is_empty() {
        return listed;
    }
    Some(text(service, "/spec/clusterIP").to_owned()).filter(|ip| !ip.is_empty()).into_iter().collect()
}

/// Index, protocol and node port of each port.
fn ports(service: &Value) -> Vec<(usize, String, i64)> {
    let list = service.pointer("/spec/ports").and_then(Value::as_array);
    let port = |(index, port): (usize, &Value)| {
        let number = port["nodePort"].as_i64().unwrap_or(0);
        (index, port["protocol"].as_str().unwrap_or("TCP").to_owned(), number)
    };
    list.into_iter().flatten().enumerate().map(port).collect()
}

async fn allocate(
    core: &Arc<Core>,
    call: &Call,
    service: &mut Value,
    held: &[Bytes],
) -> Result<Claims, Status> {
    let name = text(service, "/metadata/name").to_owned();
    let owner = call.endpoint.key(call.namespace(), &name);
    let mut claims = Claims { owner, ..Claims::default() };
    let kind = text(service, "/spec/type").to_owned();
    if kind != "ExternalName" && text(service, "/spec/clusterIP") != "None" {
        address(core, call, service, held, &mut claims).await?;
    }
    if kind == "NodePort" || kind == "LoadBalancer" {
        node_ports(core, call, service, held, &mut claims).await?;
    }
    Ok(claims)
}

async fn address(
    core: &Arc<Core>,
    call: &Call,
    service: &mut Value,
    held: &[Bytes],
    claims: &mut Claims,
) -> Result<(), Status> {
    let block = core.options.service_cidr;
    let wanted = ips(service);
    let Some(wanted_ip) = wanted.first() else {
        let ip = choose_address(core, &block).await?;
        claims.address(core, ip, service, None)?;
        let spec = service.get_mut("spec").and_then(Value::as_object_mut);
        if let Some(spec) = spec {
            spec.insert("clusterIP".to_owned(), ip.to_string().into());
            spec.insert("clusterIPs".to_owned(), json!([ip.to_string()]));
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            spec.entry("ipFamilies").or_insert_with(|| json!([family]));
            spec.entry("ipFamilyPolicy").or_insert_with(|| json!("SingleStack"));
        }
        return Ok(());
    };
    let invalid = |why: String| {
        let why = format!("failed to allocate IP {wanted_ip}: {why}");
        FieldError::invalid("spec.clusterIPs", json!(wanted), why)
    };
    let name = text(service, "/metadata/name").to_owned();
    let Ok(ip) = wanted_ip.parse::<IpAddr>() else { return Ok(()) };
    if !contains(&block, ip) {
        let why = format!(
            "the provided network does not match the current range: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {block}"
        );
        let error = invalid(why.replacen("the provided network does not match the current range: ", "", 1));
        return refuse(call, &name, &[error]);
    }
    let key: Bytes = format!("{IPS}{ip}").into();
    if !held.contains(&key) {
        let asked = Some(invalid("provided IP is already allocated".to_owned()));
        claims.address(core, ip, service, asked)?;
    }
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    if let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("clusterIP".to_owned(), wanted_ip.clone().into());
        spec.insert("clusterIPs".to_owned(), json!([wanted_ip]));
        spec.entry("ipFamilies").or_insert_with(|| json!([family]));
        spec.entry("ipFamilyPolicy").or_insert_with(|| json!("SingleStack"));
    }
    Ok(())
}

async fn node_ports(
    core: &Arc<Core>,
    call: &Call,
    service: &mut Value,
    held: &[Bytes],
    claims: &mut Claims,
) -> Result<(), Status> {
    let (first, last) = core.options.node_ports;
    let name = text(service, "/metadata/name").to_owned();
    let mut errors = Vec::new();
    let mut mine: Vec<i64> = ports(service).iter().map(|(_, _, port)| *port).filter(|p| *p != 0).collect();
    for (index, _, asked) in ports(service) {
        let mut port = asked;
        let field = format!("spec.ports[{index}].nodePort");
        if port == 0 {
            port = choose_port(core, &mine).await?;
            mine.push(port);
            claims.take.push(Claim { key: port_key(port), object: None, asked: None });
            if let Some(slot) = service.pointer_mut(&format!("/spec/ports/{index}")) {
                slot["nodePort"] = port.into();
            }
        } else if port < i64::from(first) || port > i64::from(last) {
            let why = format!(
                "provided port is not in the valid range. The range of valid ports is {first}-{last}"
            );
            errors.push(FieldError::invalid(field, port, why));
        } else {
            let key = port_key(port);
            // Two protocols may share a number within one Service.
            if !held.contains(&key) && !claims.take.iter().any(|claim| claim.key == key) {
                let error = FieldError::invalid(field, port, "provided port is already allocated");
                claims.take.push(Claim { key, object: None, asked: Some(error) });
            }
        }
    }
    refuse(call, &name, &errors)
}

async fn choose_address(core: &Core, block: &Cidr) -> Result<IpAddr, Status> {
    let size = size(block);
    for _ in 0..PICKS {
        let offset = rand::rng().random_range(0..size);
        let ip = at(block, offset);
        if !KEPT.contains(&offset) && !is_last(block, offset) && !exists(core, format!("{IPS}{ip}")).await? {
            return Ok(ip);
        }
    }
    let taken = taken(core, IPS).await?;
    (0..size.min(1 << 20))
        .filter(|offset| !KEPT.contains(offset) && !is_last(block, *offset))
        .map(|offset| at(block, offset))
        .find(|ip| !taken.contains(&ip.to_string()))
        .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))
}

async fn choose_port(core: &Core, mine: &[i64]) -> Result<i64, Status> {
    let (first, last) = core.options.node_ports;
    for _ in 0..PICKS {
        let port = i64::from(rand::rng().random_range(first..=last));
        if !mine.contains(&port) && !exists(core, format!("{PORTS}{port}")).await? {
            return Ok(port);
        }
    }
    let taken = taken(core, PORTS).await?;
    (i64::from(first)..=i64::from(last))
        .find(|port| !mine.contains(port) && !taken.contains(&port.to_string()))
        .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))
}

async fn exists(core: &Core, key: String) -> Result<bool, Status> {
    let range = Range { start: key.into(), count_only: true, ..Range::default() };
    Ok(core.store().range(range).await.map_err(|e| store_error(&e))?.count > 0)
}

async fn taken(core: &Core, prefix: &str) -> Result<std::collections::HashSet<String>, Status> {
    let start = Bytes::from(prefix.to_owned());
    let range = Range { end: prefix_end(&start), start, ..Range::default() };
    let found = core.store().range(range).await.map_err(|e| store_error(&e))?;
    let tail = |kv: &KeyValue| String::from_utf8_lossy(&kv.key[prefix.len()..]).into_owned();
    Ok(found.kvs.iter().map(tail).collect())
}

/// Number of addresses in a block; never 0.
fn size(block: &Cidr) -> u128 {
    let bits = if block.address.is_ipv4() { 32 } else { 128 };
    1_u128.checked_shl(u32::from(bits - block.prefix.min(bits))).unwrap_or(u128::MAX)
}

fn is_last(block: &Cidr, offset: u128) -> bool {
    block.address.is_ipv4() && offset == size(block) - 1
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// The address at an offset in the block.
pub(crate) fn at(block: &Cidr, offset: u128) -> IpAddr {
    let base = number(block.address) & !(size(block) - 1);
    let address = base.wrapping_add(offset);
    match block.address {
        IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(address & 0xffff_ffff).unwrap_or(0)).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(address).into(),
    }
}

fn contains(block: &Cidr, ip: IpAddr) -> bool {
    ip.is_ipv4() == block.address.is_ipv4() && {
        let mask = !(size(block) - 1);
        let offset = number(ip) & (size(block) - 1);
        number(ip) & mask == number(block.address) & mask && offset != 0 && !is_last(block, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_count_right() {
        let block: Cidr = "10.43.0.0/16".parse().unwrap();
        assert_eq!(size(&block), 65536);
        assert_eq!(at(&block, 1).to_string(), "10.43.0.1");
        assert_eq!(at(&block, 258).to_string(), "10.43.1.2");
        assert!(contains(&block, "10.43.255.254".parse().unwrap()));
        assert!(!contains(&block, "10.43.255.255".parse().unwrap()));
        assert!(!contains(&block, "10.43.0.0".parse().unwrap()));
        assert!(!contains(&block, "10.44.0.1".parse().unwrap()));
        assert!(!contains(&block, "::1".parse().unwrap()));
        assert!("10.0.0.0/33".parse::<Cidr>().is_err());
    }
}
