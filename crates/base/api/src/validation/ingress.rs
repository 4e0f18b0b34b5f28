//! Ingresses and their classes.

use serde_json::Value;

use crate::status::{FieldError, FieldPath};

use super::read::{Errors, get, immutable, invalid_each, list, number, text, texts};
use super::{ip, names};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// An ingress.
pub(super) fn ingress(out: &mut Errors, object: &Value, old: Option<&Value>) {
    let (path, spec) = (FieldPath::new("spec"), get(object, "spec"));
    let (rules, backend) = (list(spec, "rules"), get(spec, "defaultBackend"));
    if rules.is_empty() && backend.is_null() {
        let sentence = "either `defaultBackend` or `rules` must be specified";
        out.push(FieldError::invalid(&path, get(spec, "rules").clone(), sentence));
    }
    if !backend.is_null() {
        ingress_backend(out, &path.child("defaultBackend"), backend);
    }
    for (i, rule) in rules.iter().enumerate() {
        ingress_rule(out, &path.child("rules").index(i), rule);
    }
    let old_tls = old.map(|old| list(get(old, "spec"), "tls")).unwrap_or_default();
    let lax = old_tls.iter().any(|tls| !tls_secret(tls).is_empty());
    for (i, tls) in list(spec, "tls").iter().enumerate() {
        let path = path.child("tls").index(i);
        for (j, host) in texts(tls, "hosts").iter().enumerate() {
            invalid_each(out, &path.child("hosts").index(j), host, host_errors(host));
        }
        if !lax {
            invalid_each(out, &path.child("secretName"), text(tls, "secretName"), tls_secret(tls));
        }
    }
    if let Some(class) = get(spec, "ingressClassName").as_str() {
        invalid_each(out, &path.child("ingressClassName"), class, names::dns1123_subdomain(class));
        let annotation = get(get(get(object, "metadata"), "annotations"), CLASS_ANNOTATION).as_str();
        if let Some(annotation) = annotation.filter(|annotation| old.is_none() && *annotation != class) {
            let path = FieldPath::new("annotations").child(CLASS_ANNOTATION);
            let sentence = "must match `ingressClassName` when both are specified";
            out.push(FieldError::invalid(path, annotation, sentence));
        }
    }
}

fn tls_secret(tls: &Value) -> Vec<String> {
    let name = text(tls, "secretName");
    if name.is_empty() { Vec::new() } else { names::dns1123_subdomain(name) }
}

fn host_errors(host: &str) -> Vec<String> {
    if host.contains('*') { names::wildcard_subdomain(host) } else { names::dns1123_subdomain(host) }
}

fn ingress_rule(out: &mut Errors, path: &FieldPath, rule: &Value) {
    let host = text(rule, "host");
    if !host.is_empty() {
        let at = path.child("host");
        if ip::parse(host).is_some() {
            out.push(FieldError::invalid(&at, host, "must be a DNS name, not an IP address"));
        }
        invalid_each(out, &at, host, host_errors(host));
    }
    let http = get(rule, "http");
    if http.is_null() {
        return;
    }
    let path = path.child("http.paths");
    if list(http, "paths").is_empty() {
        out.push(FieldError::required(&path, ""));
    }
    for (i, way) in list(http, "paths").iter().enumerate() {
        ingress_path(out, &path.index(i), way);
    }
}

fn ingress_path(out: &mut Errors, path: &FieldPath, way: &Value) {
    let Some(kind) = get(way, "pathType").as_str() else {
        out.push(FieldError::required(path.child("pathType"), "pathType must be specified"));
        return;
    };
    let (at, target) = (path.child("path"), text(way, "path"));
    match kind {
        "Exact" | "Prefix" => {
            if !target.starts_with('/') {
                out.push(FieldError::invalid(&at, target, "must be an absolute path"));
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|p| target.contains(p)) {
                out.push(FieldError::invalid(&at, target, format!("must not contain '{part}'")));
            }
            for part in ["/..", "/."].into_iter().filter(|p| target.ends_with(p)) {
                out.push(FieldError::invalid(&at, target, format!("cannot end with '{part}'")));
            }
        }
        "ImplementationSpecific" => {
            if !target.is_empty() && !target.starts_with('/') {
                out.push(FieldError::invalid(&at, target, "must be an absolute path"));
            }
        }
        _ => {
            let known = ["Exact", "ImplementationSpecific", "Prefix"];
            out.push(FieldError::not_supported(path.child("pathType"), kind, &known));
        }
    }
    ingress_backend(out, &path.child("backend"), get(way, "backend"));
}

fn ingress_backend(out: &mut Errors, path: &FieldPath, backend: &Value) {
    let (resource, service) = (get(backend, "resource"), get(backend, "service"));
    match (resource.is_null(), service.is_null()) {
        (false, false) => {
            out.push(FieldError::invalid(path, "", "cannot set both resource and service backends"));
        }
        (false, true) => reference(out, &path.child("resource"), resource),
        (true, false) => {
            let (at, name) = (path.child("service"), text(service, "name"));
            if name.is_empty() {
                out.push(FieldError::required(at.child("name"), ""));
            } else {
                invalid_each(out, &at.child("name"), name, names::dns1123_label(name));
            }
            let port = get(service, "port");
            let (name, number) = (text(port, "name"), number(port, "number"));
            match (name.is_empty(), number) {
                (false, 0) => invalid_each(out, &at.child("port.name"), name, names::port_name(name)),
                (false, _) => {
                    out.push(FieldError::invalid(path, "", "cannot set both port name & port number"));
                }
                (true, 0) => out.push(FieldError::required(path, "port name or number is required")),
                (true, number) => {
                    let at = at.child("port.number");
                    let wrong = names::port_number(number);
                    out.extend(wrong.into_iter().map(|w| FieldError::invalid(&at, number, w)));
                }
            }
        }
        (true, true) => {
            out.push(FieldError::invalid(path, "", "resource or service backend is required"));
        }
    }
}

/// A reference to an object of any kind.
fn reference(out: &mut Errors, path: &FieldPath, reference: &Value) {
    if let Some(group) = get(reference, "apiGroup").as_str() {
        invalid_each(out, &path.child("apiGroup"), group, names::dns1123_subdomain(group));
    }
    for key in ["kind", "name"] {
        required_segment(out, &path.child(key), text(reference, key));
    }
}

/// A part of a path that has to be there.
pub(super) fn required_segment(out: &mut Errors, path: &FieldPath, value: &str) {
    if value.is_empty() {
        out.push(FieldError::required(path, ""));
    } else {
        invalid_each(out, path, value, names::path_segment(value));
    }
}

/// The addresses by which an ingress is reached.
pub(super) fn ingress_status(out: &mut Errors, object: &Value, old: &Value) {
    let at = |object: &Value| get(get(get(object, "status"), "loadBalancer"), "ingress").clone();
    let (new, old) = (at(object), at(old));
    let known: Vec<&str> = old.as_array().into_iter().flatten().map(|ingress| text(ingress, "ip")).collect();
    for (i, ingress) in new.as_array().into_iter().flatten().enumerate() {
        let path = FieldPath::new("status.loadBalancer.ingress").index(i);
        let (address, host) = (text(ingress, "ip"), text(ingress, "hostname"));
        if !address.is_empty() && !known.contains(&address) {
            ip::valid(out, &path.child("ip"), address);
        }
        if !host.is_empty() {
            let at = path.child("hostname");
            invalid_each(out, &at, host, names::dns1123_subdomain(host));
            if ip::parse(host).is_some() {
                out.push(FieldError::invalid(&at, host, "must be a DNS name, not an IP address"));
            }
        }
    }
}

/// A class of ingresses; its controller stays.
pub(super) fn class(out: &mut Errors, object: &Value, old: Option<&Value>) {
    const LONGEST: usize = 250;
    let (path, spec) = (FieldPath::new("spec"), get(object, "spec"));
    let at = path.child("controller");
    if let Some(old) = old {
        immutable(out, &at, get(spec, "controller"), get(get(old, "spec"), "controller"));
    }
    let controller = text(spec, "controller");
    if controller.len() > LONGEST {
        out.push(FieldError::too_long(&at, LONGEST));
    }
    names::domain_prefixed_path(out, &at, controller);
    let parameters = get(spec, "parameters");
    if parameters.is_null() {
        return;
    }
    let path = path.child("parameters");
    reference(out, &path, parameters);
    let namespace = get(parameters, "namespace").as_str();
    let at = path.child("namespace");
    match (get(parameters, "scope").as_str(), namespace) {
        (None, _) => out.push(FieldError::required(path.child("scope"), "")),
        (Some("Namespace"), None) => {
            out.push(FieldError::required(at, "`parameters.scope` is set to 'Namespace'"));
        }
        (Some("Namespace"), Some(namespace)) => {
            invalid_each(out, &at, namespace, names::dns1123_label(namespace));
        }
        (Some("Cluster"), Some(_)) => {
            out.push(FieldError::forbidden(at, "`parameters.scope` is set to 'Cluster'"));
        }
        (Some("Cluster"), None) => {}
        (Some(other), _) => {
            out.push(FieldError::not_supported(path.child("scope"), other, &["Cluster", "Namespace"]));
        }
    }
}
