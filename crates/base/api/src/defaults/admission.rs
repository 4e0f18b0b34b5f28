//! Defaults of `admissionregistration.k8s.io`.

use serde_json::json;

use super::edit::{self, Object};

/// Defaults of webhook configurations, policies and bindings.
pub(super) fn registration(kind: &str, object: &mut Object) {
    match kind {
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => {
            edit::each(object, "webhooks", |hook| webhook(kind.starts_with('M'), hook));
        }
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => {
            let Some(spec) = edit::ensure(object, "spec") else { return };
            edit::set(spec, "failurePolicy", "Fail");
            if let Some(resources) = edit::child(spec, "matchConstraints") {
                matched(resources);
            }
        }
        _ => {
            let spec = edit::child(object, "spec");
            if let Some(resources) = spec.and_then(|spec| edit::child(spec, "matchResources")) {
                matched(resources);
            }
        }
    }
}

fn webhook(mutating: bool, hook: &mut Object) {
    edit::set(hook, "failurePolicy", "Fail");
    selectors(hook);
    edit::set(hook, "timeoutSeconds", 10);
    if mutating {
        edit::set(hook, "reinvocationPolicy", "Never");
    }
    edit::each(hook, "rules", |rule| edit::set(rule, "scope", "*"));
    let service = edit::child(hook, "clientConfig").and_then(|client| edit::child(client, "service"));
    if let Some(service) = service {
        edit::set(service, "port", 443);
    }
}

fn matched(resources: &mut Object) {
    selectors(resources);
    for rules in ["resourceRules", "excludeResourceRules"] {
        edit::each(resources, rules, |rule| edit::set(rule, "scope", "*"));
    }
}

fn selectors(object: &mut Object) {
    edit::set(object, "matchPolicy", "Equivalent");
    edit::set(object, "namespaceSelector", json!({}));
    edit::set(object, "objectSelector", json!({}));
}
