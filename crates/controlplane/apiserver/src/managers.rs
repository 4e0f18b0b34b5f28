//! Field managers: who is noted as the owner of what a request writes, and server-side apply.

use http::header;
use sampan_api::{
    apply::{self, Reset, Root, Writer},
    decode::{self, FieldValidation, Parsed},
    kinds::Resource,
    status::{FieldError, Status},
};
use serde_json::Value;

use crate::{call::Call, endpoint::Endpoint};

/// The content type of an apply.
pub(crate) const APPLY: &str = "application/apply-patch+yaml";

/// What managed fields have to know of a kind and its paths.
pub(crate) struct Fields {
    /// None for kinds whose form is not known; nobody is tracked there.
    root: Option<Root>,
    /// What a write to the object does not set.
    main: Reset,
    /// The same for each subresource.
    parts: Vec<(&'static str, Reset)>,
}

impl Fields {
    fn new(endpoint: &Endpoint) -> Self {
        let resource = endpoint.resource;
        let has_status = resource.subresource("status").is_some();
        let reset = |part: &str| match &endpoint.custom {
            Some(_) => Reset::custom(part, has_status),
            None => Reset::of(resource.group, resource.kind, part, has_status),
        };
        let parts = resource.subresources.iter().map(|part| (part.name, reset(part.name)));
        let root = match &endpoint.custom {
            Some(kind) => Some(kind.apply_type().clone()),
            None => Root::builtin(resource.group, resource.version, resource.kind),
        };
        Self { root, main: reset(""), parts: parts.collect() }
    }

    fn reset(&self, part: &str) -> &Reset {
        self.parts.iter().find(|(name, _)| *name == part).map_or(&self.main, |(_, reset)| reset)
    }
}

impl Endpoint {
    fn fields(&self) -> &Fields {
        self.fields.get_or_init(|| Fields::new(self))
    }
}

/// What a request's body is: the object, or a part of it that has a kind of its own (a Scale).
fn root<'a>(call: &'a Call, resource: &Resource) -> Option<(std::borrow::Cow<'a, Root>, String)> {
    use std::borrow::Cow;
    let kind = call.body_kind();
    if kind == resource.gvk() {
        let root = call.endpoint.fields().root.as_ref()?;
        return Some((Cow::Borrowed(root), resource.api_version()));
    }
    let root = Root::builtin(kind.group, kind.version, kind.kind)?;
    Some((Cow::Owned(root), kind.api_version()))
}

/// Whether the request is a server-side apply.
pub(crate) fn is_apply(call: &Call) -> bool {
    call.verb == "patch" && call.content_type() == APPLY
}

/// Notes who wrote what: sets the managed fields of an object on its way in, once it has its defaults and before
/// admission. `live` is what is stored. An apply has done so itself.
pub(crate) fn track(call: &Call, live: Option<&Value>, new: &mut Value) {
    if is_apply(call) {
        return;
    }
    let subresource = call.target.subresource.as_deref().unwrap_or_default();
    let Some((root, api_version)) = root(call, call.endpoint.resource) else { return };
    let manager = manager(call);
    let now = sampan_daemon::clock::rfc3339(sampan_daemon::clock::now());
    let writer = Writer { manager: &manager, api_version: &api_version, subresource, now: &now };
    apply::track(&root, live, new, &writer, call.endpoint.fields().reset(subresource));
}

/// The manager that a request is of.
fn manager(call: &Call) -> String {
    let said = call.query.get("fieldManager").unwrap_or_default();
    let agent = call.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    match agent {
        // Clients in this process have no agent, but a name.
        None if said.is_empty() => component(&call.user.name).to_owned(),
        agent => apply::manager_of(said, agent.unwrap_or_default()),
    }
}

/// The program behind a user that is one of Kubernetes' components.
fn component(user: &str) -> &str {
    if user.starts_with("system:node:") {
        return "kubelet";
    }
    match user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some((_, name)) => name,
        None => user.strip_prefix("system:").filter(|name| name.starts_with("kube-")).unwrap_or_default(),
    }
}

/// Checks `fieldManager`; `options` is the kind that the query stands for.
pub(crate) fn check(call: &Call, options: &str) -> Result<(), Status> {
    let errors = check_name(call.query.get("fieldManager").unwrap_or_default());
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(("meta.k8s.io", options), "", &errors)) }
}

fn check_name(name: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if name.len() > apply::MAX_MANAGER {
        errors.push(FieldError::too_long("fieldManager", apply::MAX_MANAGER));
    }
    let printable = |c: char| !c.is_control() && (c == ' ' || !c.is_whitespace());
    if let Some((at, c)) = name.char_indices().find(|(_, c)| !printable(*c)) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        errors.push(FieldError::invalid("fieldManager", name, why));
    }
    errors
}

/// Checks the query of a patch.
pub(crate) fn check_patch(call: &Call) -> Result<(), Status> {
    let mut errors = Vec::new();
    let name = call.query.get("fieldManager").unwrap_or_default();
    if is_apply(call) {
        if name.is_empty() {
            errors.push(FieldError::required("fieldManager", "is required for apply patch"));
        }
    } else if call.query.flag("force").is_some() {
        errors.push(FieldError::forbidden("force", "may not be specified for non-apply patch"));
    }
    errors.extend(check_name(name));
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(("meta.k8s.io", "PatchOptions"), "", &errors))
    }
}

/// The configuration in the body of an apply.
pub(crate) fn configuration(call: &Call, validation: FieldValidation) -> Result<Value, Status> {
    let bad = |why: &str| {
        let why = why.rsplit("json parse error: ").next().unwrap_or_default();
        Status::bad_request(format!("error decoding YAML: {why}"))
    };
    let json = call.body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    // JSON that is none may still be YAML: `{a: 1}`.
    let parsed = json.then(|| decode::parse_json(&call.body).ok()).flatten();
    let parsed = parsed.map_or_else(|| decode::parse_yaml(&call.body), Ok);
    let Parsed { value, duplicates } = parsed.map_err(|status| bad(&status.message))?;
    if !value.is_object() {
        return Err(bad("json: cannot unmarshal the document into Go value of type map[string]interface {}"));
    }
    if duplicates.is_empty() || validation == FieldValidation::Ignore {
        return Ok(value);
    }
    let text = String::from_utf8_lossy(&call.body);
    let last = |path: &String| {
        let key = path.rsplit('.').next().unwrap_or_default();
        let line = second_line(&text, key).map(|line| format!("line {line}: ")).unwrap_or_default();
        format!("\n  {line}key {} already set in map", sampan_api::status::go_quote(key))
    };
    let keys: String = duplicates.iter().map(last).collect();
    let why = format!("error converting YAML to JSON: yaml: unmarshal errors:{keys}");
    if validation == FieldValidation::Strict {
        return Err(Status::bad_request(format!("error strict decoding YAML: {why}")));
    }
    call.notes.warn(why);
    Ok(value)
}

/// The line of a YAML document, counted from 1, that has a key for the second time at the same depth.
fn second_line(text: &str, key: &str) -> Option<usize> {
    let mut depths = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let bare = line.trim_start_matches([' ', '-']);
        let Some(rest) = bare.trim_start_matches('"').strip_prefix(key) else { continue };
        if rest.trim_start_matches('"').starts_with(':') {
            let depth = line.len() - bare.len();
            if depths.contains(&depth) {
                return Some(number);
            }
            depths.push(depth);
        }
    }
    (text.lines().count() == 1).then_some(1)
}

/// Applies a configuration to what the request's path shows; `live` is none where nothing is yet.
pub(crate) fn apply(call: &Call, live: Option<&Value>, config: &Value) -> Result<Value, Status> {
    let subresource = call.target.subresource.as_deref().unwrap_or_default();
    let kind = call.body_kind();
    let Some((root, api_version)) = root(call, call.endpoint.resource) else {
        return Err(Status::unsupported_media_type(&[]));
    };
    let now = sampan_daemon::clock::rfc3339(sampan_daemon::clock::now());
    let manager = call.query.get("fieldManager").unwrap_or_default();
    let writer = Writer { manager, api_version: &api_version, subresource, now: &now };
    let force = call.query.flag("force").unwrap_or_default();
    apply::apply(&root, &kind, live, config, &writer, force, call.endpoint.fields().reset(subresource))
}

/// Where the replicas of an object lie.
pub(crate) fn replicas(call: &Call) -> apply::Path {
    let paths = call.endpoint.custom.as_ref().and_then(|kind| kind.scale());
    match paths {
        Some(paths) => apply::Path::of(paths.replicas().map(str::to_owned)),
        None => apply::Path::fields(&["spec", "replicas"]),
    }
}
