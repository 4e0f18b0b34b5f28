//! Endpoints and EndpointSlices.

use serde_json::Value;

use crate::status::{FieldError, FieldPath};
use crate::strategy::compare::same_option;

use super::read::{Errors, get, has, immutable, invalid_each, list, number, one_of, text, texts};
use super::{ip, labels, names};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20000;
const MAX_HINTS: usize = 8;

/// An Endpoints object; subsets that did not change are not checked again.
pub(super) fn endpoints(out: &mut Errors, object: &Value, old: Option<&Value>) {
    if old.is_some_and(|old| same_option(object.get("subsets"), old.get("subsets"))) {
        return;
    }
    for (i, subset) in list(object, "subsets").iter().enumerate() {
        let path = FieldPath::new("subsets").index(i);
        if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
            out.push(FieldError::required(&path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for key in ["addresses", "notReadyAddresses"] {
            for (j, address) in list(subset, key).iter().enumerate() {
                endpoint_address(out, &path.child(key).index(j), address);
            }
        }
        let ports = list(subset, "ports");
        for (j, port) in ports.iter().enumerate() {
            let path = path.child("ports").index(j);
            let name = text(port, "name");
            if name.is_empty() && ports.len() > 1 {
                out.push(FieldError::required(path.child("name"), ""));
            } else if !name.is_empty() {
                invalid_each(out, &path.child("name"), name, names::dns1123_label(name));
            }
            let at = path.child("port");
            let number = number(port, "port");
            out.extend(names::port_number(number).into_iter().map(|w| FieldError::invalid(&at, number, w)));
            one_of(out, &path.child("protocol"), text(port, "protocol"), &PROTOCOLS);
            app_protocol(out, &path, port);
        }
    }
}

fn endpoint_address(out: &mut Errors, path: &FieldPath, address: &Value) {
    let at = path.child("ip");
    let ok = ip::valid(out, &at, text(address, "ip"));
    let hostname = text(address, "hostname");
    if !hostname.is_empty() {
        invalid_each(out, &path.child("hostname"), hostname, names::dns1123_label(hostname));
    }
    node_name(out, path, address);
    if ok {
        ip::valid_endpoint(out, &at, text(address, "ip"));
    }
}

fn node_name(out: &mut Errors, path: &FieldPath, endpoint: &Value) {
    if has(endpoint, "nodeName") {
        let name = text(endpoint, "nodeName");
        invalid_each(out, &path.child("nodeName"), name, names::dns1123_subdomain(name));
    }
}

/// The protocol above the port's.
pub(super) fn app_protocol(out: &mut Errors, path: &FieldPath, port: &Value) {
    if has(port, "appProtocol") {
        let protocol = text(port, "appProtocol");
        invalid_each(out, &path.child("appProtocol"), protocol, names::qualified(protocol));
    }
}

pub(super) fn slice(out: &mut Errors, object: &Value, old: Option<&Value>) {
    let kind = text(object, "addressType");
    one_of(out, &FieldPath::new("addressType"), kind, &["FQDN", "IPv4", "IPv6"]);
    ports(out, object);
    let unchanged = old.is_some_and(|old| same_option(object.get("endpoints"), old.get("endpoints")));
    if !unchanged {
        slice_endpoints(out, object, kind);
    }
    if let Some(old) = old {
        let path = FieldPath::new("addressType");
        immutable(out, &path, get(object, "addressType"), get(old, "addressType"));
    }
}

fn ports(out: &mut Errors, object: &Value) {
    let all = list(object, "ports");
    if all.len() > MAX_PORTS {
        out.push(FieldError::too_many("ports", all.len(), MAX_PORTS));
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, port) in all.iter().enumerate() {
        let path = FieldPath::new("ports").index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            invalid_each(out, &path.child("name"), name, names::dns1123_label(name));
        }
        if seen.contains(&name) {
            out.push(FieldError::duplicate(path.child("name"), name));
        } else {
            seen.push(name);
        }
        one_of(out, &path.child("protocol"), text(port, "protocol"), &PROTOCOLS);
        app_protocol(out, &path, port);
    }
}

fn slice_endpoints(out: &mut Errors, object: &Value, kind: &str) {
    let all = list(object, "endpoints");
    if all.len() > MAX_ENDPOINTS {
        out.push(FieldError::too_many("endpoints", all.len(), MAX_ENDPOINTS));
        return;
    }
    for (i, endpoint) in all.iter().enumerate() {
        let path = FieldPath::new("endpoints").index(i);
        addresses(out, &path.child("addresses"), endpoint, kind);
        node_name(out, &path, endpoint);
        labels::labels(out, &path, endpoint, "deprecatedTopology");
        if has(endpoint, "hostname") {
            let name = text(endpoint, "hostname");
            invalid_each(out, &path.child("hostname"), name, names::dns1123_label(name));
        }
        hints(out, &path.child("hints"), get(endpoint, "hints"));
    }
}

fn addresses(out: &mut Errors, path: &FieldPath, endpoint: &Value, kind: &str) {
    let all = texts(endpoint, "addresses");
    if all.is_empty() {
        out.push(FieldError::required(path, "must contain at least 1 address"));
    } else if all.len() > MAX_ADDRESSES {
        out.push(FieldError::too_many(path, all.len(), MAX_ADDRESSES));
    }
    for (i, address) in all.iter().enumerate() {
        let item = path.index(i);
        match kind {
            "IPv4" | "IPv6" => {
                if !ip::valid(out, &item, address) {
                    continue;
                }
                let six = ip::parse(address).is_some_and(|ip| ip.is_ipv6());
                if six != (kind == "IPv6") {
                    out.push(FieldError::invalid(path, *address, format!("must be an {kind} address")));
                }
                ip::valid_endpoint(out, &item, address);
            }
            "FQDN" => {
                let name = address.strip_suffix('.').unwrap_or(address);
                let wrong = names::dns1123_subdomain(name);
                if name.is_empty() {
                    out.push(FieldError::required(&item, ""));
                } else if !wrong.is_empty() {
                    out.push(FieldError::invalid(&item, name, wrong.join(",")));
                } else if !name.contains('.') {
                    let sentence = "should be a domain with at least two segments separated by dots";
                    out.push(FieldError::invalid(&item, name, sentence));
                }
            }
            _ => {}
        }
    }
}

fn hints(out: &mut Errors, path: &FieldPath, hints: &Value) {
    for key in ["forZones", "forNodes"] {
        let path = path.child(key);
        let all = list(hints, key);
        if all.len() > MAX_HINTS {
            out.push(FieldError::too_many(&path, all.len(), MAX_HINTS));
            return;
        }
        let mut seen: Vec<&str> = Vec::new();
        for (i, hint) in all.iter().enumerate() {
            let path = path.index(i).child("name");
            let name = text(hint, "name");
            if seen.contains(&name) {
                out.push(FieldError::duplicate(&path, name));
            }
            seen.push(name);
            let wrong =
                if key == "forZones" { names::label_value(name) } else { names::dns1123_subdomain(name) };
            invalid_each(out, &path, name, wrong);
        }
    }
}
