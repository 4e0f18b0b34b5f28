//! A webhook configuration, compiled.

use std::{sync::Arc, time::Duration};

use sampan_api::selector::LabelSelector;
use sampan_store::KeyValue;
use serde_json::Value;

use super::{
    client::Remote,
    rules::{Rule, selector},
};
use crate::{admission::policy::Conditions, call::text};

/// Seconds that a webhook has when its configuration does not say.
const TIMEOUT: u64 = 10;

/// The webhooks of one configuration, in their order.
pub(crate) struct Configuration {
    pub(super) hooks: Vec<Arc<Hook>>,
}

/// One webhook.
pub(crate) struct Hook {
    /// Unlike any other's.
    pub(super) id: String,
    pub(super) configuration: String,
    pub(super) name: String,
    pub(super) rules: Vec<Rule>,
    /// Requests to equivalent resources count too.
    pub(super) equivalent: bool,
    pub(super) namespaces: LabelSelector,
    pub(super) objects: LabelSelector,
    /// What has to hold of a request besides.
    pub(super) conditions: Option<Conditions>,
    pub(super) timeout: Duration,
    /// A call that fails is no refusal.
    pub(super) ignore: bool,
    /// It may be asked about what is not done in earnest.
    pub(super) no_side_effects: bool,
    /// It wants to see what others change after it.
    pub(super) reinvoke: bool,
    /// The first version of `AdmissionReview` that both sides know.
    pub(super) version: Option<&'static str>,
    pub(super) remote: Remote,
}

/// Compiles a configuration of either kind.
pub(crate) fn parse(kv: &KeyValue) -> Option<Configuration> {
    let object: Value = serde_json::from_slice(&kv.value).ok()?;
    let name = text(&object, "/metadata/name");
    let hooks = object.get("webhooks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let compiled = hooks.iter().enumerate().filter_map(|(index, hook)| compile(name, index, hook));
    Some(Configuration { hooks: compiled.map(Arc::new).collect() })
}

fn compile(configuration: &str, index: usize, hook: &Value) -> Option<Hook> {
    let name = text(hook, "/name").to_owned();
    let rules = hook.get("rules").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let versions = hook.get("admissionReviewVersions").and_then(Value::as_array);
    let known = |version: &Value| match version.as_str() {
        Some("v1") => Some("v1"),
        Some("v1beta1") => Some("v1beta1"),
        _ => None,
    };
    Some(Hook {
        id: format!("{configuration}/{name}/{index}"),
        configuration: configuration.to_owned(),
        rules: rules.iter().map(Rule::parse).collect(),
        equivalent: text(hook, "/matchPolicy") != "Exact",
        namespaces: selector(hook.get("namespaceSelector"))?,
        objects: selector(hook.get("objectSelector"))?,
        conditions: Conditions::compile(hook),
        timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(TIMEOUT).clamp(1, 30)),
        ignore: text(hook, "/failurePolicy") == "Ignore",
        no_side_effects: matches!(text(hook, "/sideEffects"), "None" | "NoneOnDryRun"),
        reinvoke: text(hook, "/reinvocationPolicy") == "IfNeeded",
        version: versions.into_iter().flatten().find_map(known),
        remote: Remote::new(&hook["clientConfig"]),
        name,
    })
}
