//! Who did what, when, with what result: `audit.k8s.io/v1` events, one JSON line each.
//!
//! Nothing is done for a request when auditing is off. When it is on, a request queues finished events and never waits
//! for the disk or a receiver; what finds no room is counted in `apiserver_audit_error_total` and lost. Lists that are made while they
//! are sent, and streams, are recorded without their bodies.

mod log;
mod policy;
mod webhook;

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use sampan_daemon::clock;
use serde_json::{Map, Value, json};

use self::webhook::Webhook;
use self::{
    log::Log,
    policy::{Scope, Stage},
};
pub use self::{
    log::LogOptions,
    policy::{Level, Policy},
    webhook::WebhookOptions,
};
use crate::{authz::Attributes, core::Core, user::UserInfo};

/// A body that is longer is not recorded.
const MOST_BODY: usize = 3 << 20;

/// Auditing, once it is on.
pub(crate) struct Audit {
    policy: Policy,
    log: Option<Log>,
    webhook: Option<Webhook>,
    events: AtomicU64,
    lost: AtomicU64,
    lost_by_webhook: AtomicU64,
}

/// Why auditing cannot be switched on.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the audit log {path}: {source} (hint: its directory must be writable)")]
pub struct AuditError {
    path: String,
    source: std::io::Error,
}

impl Audit {
    /// Nothing is recorded anywhere yet.
    pub(crate) fn new(policy: Policy) -> Self {
        let none = AtomicU64::default;
        Self { policy, log: None, webhook: None, events: none(), lost: none(), lost_by_webhook: none() }
    }

    /// Opens the log.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn log_to(&mut self, log: LogOptions) -> Result<(), AuditError> {
        let path = log.path.display().to_string();
        self.log = Some(Log::open(log).map_err(|source| AuditError { path, source })?);
        Ok(())
    }

    /// Sends events, once it is [started](Audit::start).
    pub(crate) fn post_to(&mut self, webhook: WebhookOptions) {
        self.webhook = Some(Webhook::new(webhook));
    }

    /// Starts what needs the server.
    pub(crate) fn start(self: &Arc<Self>, core: &Arc<Core>) {
        if let Some(webhook) = &self.webhook {
            webhook.start(core, self);
        }
    }

    fn push(&self, event: &Value) {
        let mut line = event.to_string().into_bytes();
        self.events.fetch_add(1, Ordering::Relaxed);
        if let Some(webhook) = &self.webhook
            && !webhook.push(line.clone().into())
            && self.lost_by_webhook.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::error!("audit events are lost: their receiver does not keep up");
        }
        let Some(log) = &self.log else { return };
        line.push(b'\n');
        if !log.push(line) && self.lost.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::error!("audit events are lost: the disk does not keep up");
        }
    }

    /// What is measured.
    pub(crate) fn metrics(&self) -> String {
        let mut out = format!(
            "# TYPE apiserver_audit_event_total counter\napiserver_audit_event_total {}\n\
             # TYPE apiserver_audit_error_total counter\n",
            self.events.load(Ordering::Relaxed),
        );
        let plugins = [
            ("log", self.log.is_some(), &self.lost),
            ("webhook", self.webhook.is_some(), &self.lost_by_webhook),
        ];
        for (plugin, _, lost) in plugins.into_iter().filter(|(_, is_on, _)| *is_on) {
            let lost = lost.load(Ordering::Relaxed);
            out.push_str(&format!("apiserver_audit_error_total{{plugin=\"{plugin}\"}} {lost}\n"));
        }
        out
    }
}

/// The record of one request: written at each stage, the last when it is dropped.
pub(crate) struct Trail {
    audit: Arc<Audit>,
    scope: Scope,
    received: Timestamp,
    event: Mutex<Map<String, Value>>,
}

/// What is known of a request when it comes.
pub(crate) struct Arrival<'a> {
    pub(crate) uri: String,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) source: Option<IpAddr>,
}

impl Trail {
    /// Begins a record; nothing when the policy wants none.
    pub(crate) fn begin(
        audit: &Arc<Audit>,
        user: &UserInfo,
        attributes: &Attributes<'_>,
        arrival: &Arrival<'_>,
    ) -> Option<Arc<Self>> {
        let scope = audit.policy.scope(user, attributes);
        if scope.level == Level::None {
            return None;
        }
        let received = clock::now();
        let text = |name: &str| arrival.headers.get(name).and_then(|value| value.to_str().ok());
        let mut event = Map::new();
        event.insert("kind".into(), "Event".into());
        event.insert("apiVersion".into(), "audit.k8s.io/v1".into());
        event.insert("level".into(), scope.level.name().into());
        let given = text("audit-id").filter(|id| !id.is_empty() && id.len() <= 64);
        let id = given.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
        event.insert("auditID".into(), id.into());
        event.insert("stage".into(), Value::Null);
        event.insert("requestURI".into(), arrival.uri.clone().into());
        event.insert("verb".into(), attributes.verb().into());
        event.insert("user".into(), user.to_value());
        let forwarded = text("x-forwarded-for").into_iter().flat_map(|all| all.split(',')).map(str::trim);
        let mut sources: Vec<String> =
            forwarded.filter(|ip| ip.parse::<IpAddr>().is_ok()).take(16).map(str::to_owned).collect();
        sources.extend(arrival.source.map(|ip| ip.to_string()));
        if !sources.is_empty() {
            event.insert("sourceIPs".into(), sources.into());
        }
        if let Some(agent) = text("user-agent") {
            event.insert("userAgent".into(), agent.chars().take(1024).collect::<String>().into());
        }
        if let Some(reference) = reference(attributes) {
            event.insert("objectRef".into(), reference);
        }
        let trail = Self { audit: audit.clone(), scope, received, event: Mutex::new(event) };
        trail.write(Stage::RequestReceived);
        Some(Arc::new(trail))
    }

    fn set(&self, field: &str, value: Value) {
        self.event.lock().unwrap_or_else(PoisonError::into_inner).insert(field.to_owned(), value);
    }

    /// As whom the user acts.
    pub(crate) fn impersonates(&self, user: &UserInfo) {
        self.set("impersonatedUser", user.to_value());
    }

    /// Notes something; the first value of a key stays.
    pub(crate) fn annotate(&self, key: &str, value: &str) {
        let mut event = self.event.lock().unwrap_or_else(PoisonError::into_inner);
        let all = event.entry("annotations").or_insert_with(|| json!({}));
        if let Some(all) = all.as_object_mut() {
            all.entry(key.to_owned()).or_insert_with(|| value.into());
        }
    }

    /// What was sent.
    pub(crate) fn request(&self, body: &Bytes) {
        if self.scope.level >= Level::Request
            && let Some(object) = self.read(body)
        {
            self.set("requestObject", object);
        }
    }

    /// A body that is JSON, without what the policy leaves out.
    fn read(&self, body: &[u8]) -> Option<Value> {
        if body.is_empty() || body.len() > MOST_BODY {
            return None;
        }
        let mut object: Value = serde_json::from_slice(body).ok()?;
        if self.scope.omit_managed_fields {
            strip(&mut object);
            object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(strip);
        }
        Some(object)
    }

    /// What is answered. `body` is what there is of it, `streams` says that more is to come.
    pub(crate) fn response(&self, code: u16, body: Option<&Bytes>, streams: bool) {
        let object = body.and_then(|body| self.read(body));
        let status = object.as_ref().filter(|object| object["kind"] == "Status");
        let mut said = json!({"metadata": {}, "code": code});
        for field in ["status", "message", "reason", "details"] {
            if let Some(value) = status.and_then(|status| status.get(field)) {
                said[field] = value.clone();
            }
        }
        self.set("responseStatus", said);
        if self.scope.level >= Level::RequestResponse
            && let Some(object) = object
        {
            self.set("responseObject", object);
        }
        if streams {
            self.write(Stage::ResponseStarted);
        }
    }

    /// The header that tells the client the record's id.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        let event = self.event.lock().unwrap_or_else(PoisonError::into_inner);
        let id = event.get("auditID").and_then(Value::as_str);
        if let Some(id) = id.and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert("audit-id", id);
        }
    }

    fn write(&self, stage: Stage) {
        if self.scope.omit.contains(&stage) {
            return;
        }
        let mut event = self.event.lock().unwrap_or_else(PoisonError::into_inner).clone();
        event.insert("stage".into(), stage.name().into());
        let stamps = [("requestReceivedTimestamp", self.received), ("stageTimestamp", clock::now())];
        for (field, at) in stamps {
            event.insert(field.into(), clock::rfc3339_micro(at).into());
        }
        // Last, as clients know it.
        if let Some(annotations) = event.shift_remove("annotations") {
            event.insert("annotations".into(), annotations);
        }
        self.audit.push(&Value::Object(event));
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.set(
                "responseStatus",
                json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500}),
            );
            self.write(Stage::Panic);
        } else {
            self.write(Stage::ResponseComplete);
        }
    }
}

fn strip(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
}

fn reference(attributes: &Attributes<'_>) -> Option<Value> {
    let Attributes::Resource { target, .. } = attributes else { return None };
    let mut reference = Map::new();
    let fields = [
        ("resource", Some(&target.resource)),
        ("namespace", target.namespace.as_ref()),
        ("name", target.name.as_ref()),
        ("apiGroup", Some(&target.group)),
        ("apiVersion", Some(&target.version)),
        ("subresource", target.subresource.as_ref()),
    ];
    for (field, value) in fields {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            reference.insert(field.into(), value.clone().into());
        }
    }
    Some(Value::Object(reference))
}
