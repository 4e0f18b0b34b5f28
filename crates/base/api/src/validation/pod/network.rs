//! DNS, host names and ports of the node.

use serde_json::Value;

use crate::status::{FieldError, FieldPath};
use crate::validation::read::{Errors, flag, get, has, invalid_each, list, number, text, texts};
use crate::validation::{ip, names};

use super::{Context, host_network};

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_LIST_MAX: usize = 2048;

pub(super) fn dns(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let config = get(spec, "dnsConfig");
    if text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            let sentence = "must provide `dnsConfig` when `dnsPolicy` is None";
            out.push(FieldError::required(path, sentence));
            return;
        }
        if list(config, "nameservers").is_empty() {
            let sentence = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            out.push(FieldError::required(path.child("nameservers"), sentence));
            return;
        }
    }
    let (servers, searches) = (texts(config, "nameservers"), texts(config, "searches"));
    let at = path.child("nameservers");
    if servers.len() > NAMESERVERS_MAX {
        let sentence = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        out.push(FieldError::invalid(&at, get(config, "nameservers").clone(), sentence));
    }
    for (i, server) in servers.iter().enumerate() {
        ip::valid(out, &at.index(i), server);
    }
    let at = path.child("searches");
    if searches.len() > SEARCHES_MAX {
        let sentence = format!("must not have more than {SEARCHES_MAX} search paths");
        out.push(FieldError::invalid(&at, get(config, "searches").clone(), sentence));
    }
    if searches.join(" ").len() > SEARCH_LIST_MAX {
        let sentence = format!(
            "must not have more than {SEARCH_LIST_MAX} characters (including spaces) in the search list"
        );
        out.push(FieldError::invalid(&at, get(config, "searches").clone(), sentence));
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, search)| **search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        invalid_each(out, &at.index(i), search, names::dns1123_subdomain_with_underscore(search));
    }
    for (i, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            out.push(FieldError::required(path.child("options").index(i), "must not be empty"));
        }
    }
}

pub(super) fn host_aliases(out: &mut Errors, path: &FieldPath, spec: &Value) {
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let path = path.index(i);
        ip::valid(out, &path.child("ip"), text(alias, "ip"));
        for (j, name) in texts(alias, "hostnames").iter().enumerate() {
            invalid_each(out, &path.child("hostnames").index(j), name, names::dns1123_subdomain(name));
        }
    }
}

/// With the network of the node a container's port is the node's.
pub(super) fn host_ports(out: &mut Errors, path: &FieldPath, context: &Context<'_>) {
    if !host_network(context.spec) {
        return;
    }
    for (i, container) in list(context.spec, "containers").iter().enumerate() {
        for (j, port) in list(container, "ports").iter().enumerate() {
            let (host, own) = (number(port, "hostPort"), number(port, "containerPort"));
            if (context.is_pod || host != 0) && host != own {
                let path = path.index(i).child("ports").index(j).child("hostPort");
                let sentence = "must match `containerPort` when `hostNetwork` is true";
                out.push(FieldError::invalid(path, host, sentence));
            }
        }
    }
}

pub(super) fn hostname_override(out: &mut Errors, path: &FieldPath, spec: &Value) {
    if !has(spec, "hostnameOverride") {
        return;
    }
    let path = path.child("hostnameOverride");
    let name = text(spec, "hostnameOverride");
    if flag(spec, "setHostnameAsFQDN") {
        out.push(FieldError::forbidden(&path, "may not be specified when setHostnameAsFQDN is true"));
    }
    if host_network(spec) {
        out.push(FieldError::forbidden(&path, "may not be specified when hostNetwork is true"));
    }
    if name.len() > 64 {
        out.push(FieldError::too_long(&path, 64));
    }
    invalid_each(out, &path, name, names::dns1123_subdomain(name));
}
