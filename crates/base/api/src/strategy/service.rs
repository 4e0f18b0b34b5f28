//! Services: the two spellings of the cluster address, and what an update keeps that was allocated.

use serde_json::{Value, json};

use crate::defaults::Object;
use crate::defaults::edit::{child, each, text};

use super::compare::same_option;

pub(super) fn prepare_create(service: &mut Object) {
    let Some(spec) = child(service, "spec") else { return };
    let ip = text(spec, "clusterIP").to_owned();
    if !ip.is_empty() && addresses(spec).is_empty() {
        spec.insert("clusterIPs".into(), json!([ip]));
    }
}

pub(super) fn prepare_update(service: &mut Object, before: &Object) {
    let Some(old) = before.get("spec").and_then(Value::as_object) else { return };
    let Some(spec) = child(service, "spec") else { return };
    same_address_twice(spec, old);
    keep_allocated(spec, old);
    drop_what_the_type_has_not(spec, old);
    if text(spec, "type") != "LoadBalancer"
        && let Some(status) = child(service, "status")
    {
        status.insert("loadBalancer".into(), json!({}));
    }
}

fn addresses(spec: &Object) -> &[Value] {
    spec.get("clusterIPs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn has_address(spec: &Object) -> bool {
    text(spec, "type") != "ExternalName"
}

fn has_node_ports(spec: &Object) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
}

fn has_health_port(spec: &Object) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

fn externally_accessible(spec: &Object) -> bool {
    match text(spec, "type") {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty()),
        _ => false,
    }
}

fn same_field(spec: &Object, old: &Object, key: &str) -> bool {
    same_option(spec.get(key), old.get(key))
}

/// Old clients know only `clusterIP`: what they did to it was meant for `clusterIPs` too.
fn same_address_twice(spec: &mut Object, old: &Object) {
    let same_ip = same_field(spec, old, "clusterIP");
    let same_list = same_field(spec, old, "clusterIPs");
    if same_ip {
        if addresses(spec).is_empty() && !addresses(old).is_empty() {
            spec.insert("clusterIPs".into(), Value::from(addresses(old).to_vec()));
        }
        return;
    }
    if !same_list {
        return;
    }
    let ip = text(spec, "clusterIP").to_owned();
    if ip.is_empty() {
        spec.shift_remove("clusterIPs");
    } else {
        spec.insert("clusterIPs".into(), json!([ip]));
    }
}

/// Whoever sends a manifest again without the allocated address and ports means to keep them.
fn keep_allocated(spec: &mut Object, old: &Object) {
    if has_address(spec) && has_address(old) {
        if text(spec, "clusterIP").is_empty() && !text(old, "clusterIP").is_empty() {
            spec.insert("clusterIP".into(), text(old, "clusterIP").into());
        }
        if addresses(spec).is_empty() && !addresses(old).is_empty() {
            spec.insert("clusterIPs".into(), Value::from(addresses(old).to_vec()));
        }
    }
    if has_node_ports(spec) && has_node_ports(old) {
        let before = node_ports(old);
        let now: Vec<i64> = node_ports(spec).into_iter().map(|(_, port)| port).collect();
        each(spec, "ports", |port| {
            if port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0 {
                return;
            }
            let name = text(port, "name").to_owned();
            if let Some((_, number)) = before.iter().find(|(n, _)| *n == name)
                && !now.contains(number)
            {
                port.insert("nodePort".into(), (*number).into());
            }
        });
    }
    if has_health_port(spec)
        && has_health_port(old)
        && spec.get("healthCheckNodePort").and_then(Value::as_i64).unwrap_or(0) == 0
        && let Some(port) = old.get("healthCheckNodePort")
    {
        spec.insert("healthCheckNodePort".into(), port.clone());
    }
}

/// Names and node ports of the ports that have one.
fn node_ports(spec: &Object) -> Vec<(String, i64)> {
    let ports = spec.get("ports").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    ports
        .iter()
        .filter_map(Value::as_object)
        .filter_map(|p| Some((text(p, "name").to_owned(), p.get("nodePort")?.as_i64().filter(|n| *n != 0)?)))
        .collect()
}

/// A changed type gives up what the new one has no use for, unless the user changed that as well.
fn drop_what_the_type_has_not(spec: &mut Object, old: &Object) {
    if has_address(old) && !has_address(spec) {
        if same_field(spec, old, "clusterIP") && same_field(spec, old, "clusterIPs") {
            spec.shift_remove("clusterIP");
            spec.shift_remove("clusterIPs");
        }
        for key in ["ipFamilies", "ipFamilyPolicy"] {
            if same_field(spec, old, key) {
                spec.shift_remove(key);
            }
        }
    }
    if has_node_ports(old) && !has_node_ports(spec) {
        let before: Vec<i64> = node_ports(old).into_iter().map(|(_, port)| port).collect();
        if node_ports(spec).iter().all(|(_, port)| before.contains(port)) {
            each(spec, "ports", |port| {
                port.shift_remove("nodePort");
            });
        }
    }
    let balanced = |spec: &Object| text(spec, "type") == "LoadBalancer";
    let gone = [
        ("healthCheckNodePort", has_health_port(old) && !has_health_port(spec)),
        ("allocateLoadBalancerNodePorts", balanced(old) && !balanced(spec)),
        ("loadBalancerClass", balanced(old) && !balanced(spec)),
        ("externalTrafficPolicy", externally_accessible(old) && !externally_accessible(spec)),
    ];
    for (key, gone) in gone {
        if gone && same_field(spec, old, key) {
            spec.shift_remove(key);
        }
    }
}
