//! Services.

use serde_json::{Value, json};

use crate::status::{FieldError, FieldPath};

use super::discovery::app_protocol;
use super::read::{
    Errors, deep, get, has, int, invalid_each, list, number, one_of, one_of_if_set, text, texts,
};
use super::{ip, labels, meta, names};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const LONGEST_AFFINITY: i64 = 86400;

fn spec_path() -> FieldPath {
    FieldPath::new("spec")
}

/// A service without an address of its own.
fn headless(spec: &Value) -> bool {
    texts(spec, "clusterIPs") == ["None"]
}

/// A Service; with the one before, for an update.
pub(super) fn service(out: &mut Errors, object: &Value, old: Option<&Value>) {
    let spec = get(object, "spec");
    let path = spec_path();
    if let Some(old) = old {
        changes(out, spec, get(old, "spec"));
    }
    let kind = text(spec, "type");
    let ports_ = list(spec, "ports");
    if ports_.is_empty() && !headless(spec) && kind != "ExternalName" {
        out.push(FieldError::required(path.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless(spec) => {
            let sentence = format!("may not be set to 'None' for {kind} services");
            out.push(FieldError::invalid(path.child("clusterIPs").index(0), "None", sentence));
        }
        "ExternalName" => external_name(out, &path, spec),
        _ => {}
    }
    ports(out, &path.child("ports"), spec);
    labels::labels(out, &path, spec, "selector");
    affinity(out, &path, spec);
    if kind != "ExternalName" {
        addresses(out, &path, spec);
    }
    for (i, address) in texts(spec, "externalIPs").iter().enumerate() {
        let path = path.child("externalIPs").index(i);
        if ip::valid(out, &path, address) {
            ip::valid_endpoint(out, &path, address);
        }
    }
    one_of(out, &path.child("type"), kind, &TYPES);
    unique_ports(out, &path.child("ports"), spec);
    source_ranges(out, object);
    load_balancer_fields(out, &path, spec);
    traffic(out, &path, spec);
}

fn external_name(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let sentence = "may not be set for ExternalName services";
    for key in ["clusterIPs", "ipFamilies"] {
        if !list(spec, key).is_empty() {
            out.push(FieldError::forbidden(path.child(key), sentence));
        }
    }
    if has(spec, "ipFamilyPolicy") {
        out.push(FieldError::forbidden(path.child("ipFamilyPolicy"), sentence));
    }
    let name = text(spec, "externalName");
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        out.push(FieldError::required(path.child("externalName"), ""));
    } else {
        invalid_each(out, &path.child("externalName"), name, names::dns1123_subdomain(name));
    }
}

fn ports(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let all = list(spec, "ports");
    let mut seen: Vec<&str> = Vec::new();
    for (i, port) in all.iter().enumerate() {
        let path = path.index(i);
        let name = text(port, "name");
        if name.is_empty() && all.len() > 1 {
            out.push(FieldError::required(path.child("name"), ""));
        } else if !name.is_empty() {
            invalid_each(out, &path.child("name"), name, names::dns1123_label(name));
            if seen.contains(&name) {
                out.push(FieldError::duplicate(path.child("name"), name));
            } else {
                seen.push(name);
            }
        }
        let number = number(port, "port");
        let at = path.child("port");
        out.extend(names::port_number(number).into_iter().map(|w| FieldError::invalid(&at, number, w)));
        one_of(out, &path.child("protocol"), text(port, "protocol"), &PROTOCOLS);
        let target = get(port, "targetPort");
        let at = path.child("targetPort");
        match target.as_str() {
            Some(name) => invalid_each(out, &at, name, names::port_name(name)),
            None => {
                let number = target.as_i64().unwrap_or(0);
                let wrong = names::port_number(number).into_iter();
                out.extend(wrong.map(|w| FieldError::invalid(&at, number, w)));
            }
        }
        app_protocol(out, &path, port);
    }
}

/// No node port for services that have none, and nothing twice.
fn unique_ports(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let all = list(spec, "ports");
    if text(spec, "type") == "ClusterIP" {
        for (i, port) in all.iter().enumerate() {
            if number(port, "nodePort") != 0 {
                let sentence = "may not be used when `type` is 'ClusterIP'";
                out.push(FieldError::forbidden(path.index(i).child("nodePort"), sentence));
            }
        }
    }
    let key = |port: &Value, which: &str| (text(port, "protocol").to_owned(), number(port, which));
    for (i, port) in all.iter().enumerate() {
        let node = number(port, "nodePort");
        if node != 0 && all[..i].iter().any(|other| key(other, "nodePort") == key(port, "nodePort")) {
            out.push(FieldError::duplicate(path.index(i).child("nodePort"), node));
        }
    }
    for (i, port) in all.iter().enumerate() {
        if all[..i].iter().any(|other| key(other, "port") == key(port, "port")) {
            let shown = json!({
                "Name": "",
                "Protocol": text(port, "protocol"),
                "AppProtocol": null,
                "Port": number(port, "port"),
                "TargetPort": 0,
                "NodePort": 0,
            });
            out.push(FieldError::duplicate(path.index(i), shown));
        }
    }
}

fn affinity(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let kind = text(spec, "sessionAffinity");
    one_of(out, &path.child("sessionAffinity"), kind, &["ClientIP", "None"]);
    let at = path.child("sessionAffinityConfig");
    let config = get(spec, "sessionAffinityConfig");
    match kind {
        "ClientIP" => {
            let needed = "when session affinity type is ClientIP";
            let client = get(config, "clientIP");
            let at = if config.is_null() { at } else { at.child("clientIP") };
            if client.is_null() {
                out.push(FieldError::required(at, needed));
                return;
            }
            match int(client, "timeoutSeconds") {
                None => out.push(FieldError::required(at.child("timeoutSeconds"), needed)),
                Some(seconds) if !(1..=LONGEST_AFFINITY).contains(&seconds) => {
                    let sentence = format!("must be greater than 0 and less than {LONGEST_AFFINITY}");
                    out.push(FieldError::invalid(at.child("timeoutSeconds"), seconds, sentence));
                }
                Some(_) => {}
            }
        }
        "None" if !config.is_null() => {
            out.push(FieldError::forbidden(at, "must not be set when session affinity is None"));
        }
        _ => {}
    }
}

/// `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` go together.
fn addresses(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let at = path.child("clusterIPs");
    let (first, all) = (text(spec, "clusterIP"), texts(spec, "clusterIPs"));
    let shown = || get(spec, "clusterIPs").clone();
    match (first.is_empty(), all.first()) {
        (false, None) => out.push(FieldError::required(&at, "")),
        (false, Some(ip)) if *ip != first => {
            out.push(FieldError::invalid(&at, shown(), "first value must match `clusterIP`"));
        }
        (true, Some(_)) => {
            let sentence = "must be empty when `clusterIP` is not specified";
            out.push(FieldError::invalid(&at, shown(), sentence));
        }
        _ => {}
    }
    let families = texts(spec, "ipFamilies");
    for (i, family) in families.iter().enumerate() {
        let path = path.child("ipFamilies").index(i);
        if !FAMILIES.contains(family) {
            out.push(FieldError::not_supported(&path, *family, &FAMILIES));
        }
        if families[..i].contains(family) {
            out.push(FieldError::duplicate(&path, *family));
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    one_of_if_set(out, &path.child("ipFamilyPolicy"), get(spec, "ipFamilyPolicy"), &policies);
    let mut bad = false;
    for (i, address) in all.iter().enumerate() {
        if i == 0 && *address == "None" {
            if all.len() > 1 {
                bad = true;
                out.push(FieldError::invalid(&at, shown(), "'None' must be the first and only value"));
            }
            continue;
        }
        bad |= !ip::valid(out, &at.index(i), address);
    }
    if all.len() > 2 {
        out.push(FieldError::invalid(&at, shown(), "may only hold up to 2 values"));
    }
    if bad {
        return;
    }
    let six = all.iter().filter(|address| address.contains(':')).count();
    if all.len() > 1 && (six == 0 || six == all.len()) {
        let sentence = "may specify no more than one IP for each IP family";
        out.push(FieldError::invalid(&at, shown(), sentence));
    }
    if headless(spec) {
        return;
    }
    for (i, (address, family)) in all.iter().zip(&families).enumerate() {
        let own = if address.contains(':') { "IPv6" } else { "IPv4" };
        if FAMILIES.contains(family) && own != *family {
            let sentence = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            out.push(FieldError::invalid(at.index(i), *address, sentence));
        }
    }
}

fn source_ranges(out: &mut Errors, object: &Value) {
    let spec = get(object, "spec");
    let sentence = "may only be used when `type` is 'LoadBalancer'";
    let balanced = text(spec, "type") == "LoadBalancer";
    let ranges = texts(spec, "loadBalancerSourceRanges");
    let key = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let annotation = meta::annotation(object, key);
    if !ranges.is_empty() {
        let path = FieldPath::new("spec.LoadBalancerSourceRanges");
        if !balanced {
            out.push(FieldError::forbidden(&path, sentence));
        }
        for (i, range) in ranges.iter().enumerate() {
            ip::valid_cidr(out, &path.index(i), range.trim());
        }
    } else if !annotation.is_empty() {
        let path = FieldPath::new("metadata.annotations").key(key);
        if !balanced {
            out.push(FieldError::forbidden(&path, sentence));
        }
        for range in annotation.split(',').map(str::trim) {
            ip::valid_cidr(out, &path, range);
        }
    }
}

fn load_balancer_fields(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let sentence = "may only be used when `type` is 'LoadBalancer'";
    let balanced = text(spec, "type") == "LoadBalancer";
    if has(spec, "allocateLoadBalancerNodePorts") && !balanced {
        out.push(FieldError::forbidden(path.child("allocateLoadBalancerNodePorts"), sentence));
    }
    if has(spec, "loadBalancerClass") {
        let (at, class) = (path.child("loadBalancerClass"), text(spec, "loadBalancerClass"));
        if balanced {
            invalid_each(out, &at, class, names::qualified(class));
        } else {
            out.push(FieldError::forbidden(at, sentence));
        }
    }
}

fn externally_accessible(spec: &Value) -> bool {
    match text(spec, "type") {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !list(spec, "externalIPs").is_empty(),
        _ => false,
    }
}

fn needs_health_port(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

fn traffic(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let (at, policy) = (path.child("externalTrafficPolicy"), text(spec, "externalTrafficPolicy"));
    if externally_accessible(spec) {
        one_of(out, &at, policy, &["Cluster", "Local"]);
    } else if !policy.is_empty() {
        out.push(FieldError::invalid(at, policy, "may only be set for externally-accessible services"));
    }
    let (at, health) = (path.child("healthCheckNodePort"), number(spec, "healthCheckNodePort"));
    if health != 0 {
        if needs_health_port(spec) {
            out.extend(names::port_number(health).into_iter().map(|w| FieldError::invalid(&at, health, w)));
        } else {
            let sentence =
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            out.push(FieldError::invalid(at, health, sentence));
        }
    }
    let at = path.child("internalTrafficPolicy");
    let inside = matches!(text(spec, "type"), "ClusterIP" | "NodePort" | "LoadBalancer");
    if inside && !has(spec, "internalTrafficPolicy") {
        out.push(FieldError::required(&at, ""));
    }
    one_of_if_set(out, &at, get(spec, "internalTrafficPolicy"), &["Cluster", "Local"]);
    let supported = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    one_of_if_set(out, &path.child("trafficDistribution"), get(spec, "trafficDistribution"), &supported);
}

/// What may not change once it is set.
fn changes(out: &mut Errors, spec: &Value, before: &Value) {
    let path = spec_path();
    let once = "may not change once set";
    if text(spec, "type") != "ExternalName" && text(before, "type") != "ExternalName" {
        cluster_ips(out, &path.child("clusterIPs"), spec, before);
        if headless(spec) == headless(before) && !headless(spec) {
            let (now, was) = (texts(spec, "ipFamilies"), texts(before, "ipFamilies"));
            if let (Some(now), Some(was)) = (now.first(), was.first())
                && now != was
            {
                let shown = get(spec, "ipFamilies").clone();
                out.push(FieldError::invalid(path.child("ipFamilies").index(0), shown, once));
            }
        }
    }
    let balanced = |spec: &Value| text(spec, "type") == "LoadBalancer";
    let class = "loadBalancerClass";
    if balanced(spec) && balanced(before) && get(spec, class) != get(before, class) {
        out.push(FieldError::invalid(path.child(class), get(spec, class).clone(), once));
    }
    let port = "healthCheckNodePort";
    let both = needs_health_port(spec) && needs_health_port(before);
    if both && number(before, port) != 0 && number(spec, port) != number(before, port) {
        out.push(FieldError::forbidden(path.child(port), "field is immutable"));
    }
}

fn cluster_ips(out: &mut Errors, path: &FieldPath, spec: &Value, before: &Value) {
    if headless(spec) && headless(before) {
        return;
    }
    let (now, was) = (texts(spec, "clusterIPs"), texts(before, "clusterIPs"));
    let shown = || get(spec, "clusterIPs").clone();
    if now.is_empty() && !was.is_empty() {
        out.push(FieldError::invalid(path.index(0), json!([]), "primary clusterIP can not be unset"));
        return;
    }
    let compared = if now.len() == was.len() { was.len() } else { was.len().min(1) };
    for i in (0..compared).filter(|i| now.get(*i) != was.get(*i)) {
        out.push(FieldError::invalid(path.index(i), shown(), "may not change once set"));
    }
    if now.len() == 1 && was.len() > 1 && text(spec, "ipFamilyPolicy") != "SingleStack" {
        let policy = get(spec, "ipFamilyPolicy").clone();
        let sentence = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        out.push(FieldError::invalid("spec.ipFamilyPolicy", policy, sentence));
    }
}

/// `status.loadBalancer`.
pub(super) fn load_balancer_status(out: &mut Errors, object: &Value) {
    let path = FieldPath::new("status.loadBalancer.ingress");
    let all = list(deep(object, "status.loadBalancer"), "ingress");
    if text(get(object, "spec"), "type") != "LoadBalancer" && !all.is_empty() {
        let sentence = "may only be used when `spec.type` is 'LoadBalancer'";
        out.push(FieldError::forbidden(&path, sentence));
        return;
    }
    for (i, ingress) in all.iter().enumerate() {
        let path = path.index(i);
        let (address, hostname) = (text(ingress, "ip"), text(ingress, "hostname"));
        if !address.is_empty() {
            ip::valid(out, &path.child("ip"), address);
        }
        let at = path.child("ipMode");
        match (has(ingress, "ipMode"), address.is_empty()) {
            (false, false) => out.push(FieldError::required(at, "must be specified when `ip` is set")),
            (true, true) => {
                out.push(FieldError::forbidden(at, "may not be specified when `ip` is not set"));
            }
            (true, false) => one_of_if_set(out, &at, get(ingress, "ipMode"), &["Proxy", "VIP"]),
            (false, true) => {}
        }
        if !hostname.is_empty() {
            let at = path.child("hostname");
            invalid_each(out, &at, hostname, names::dns1123_subdomain(hostname));
            if ip::parse(hostname).is_some() {
                let sentence = "must be a DNS name, not an IP address";
                out.push(FieldError::invalid(at, hostname, sentence));
            }
        }
    }
}
