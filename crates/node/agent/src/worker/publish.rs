//! Telling the API server: status patches merged into as few as possible, and the final delete.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use sampan_daemon::{Backoff, clock};
use serde_json::{Map, Value, json};
use std::sync::Arc;

use super::{Done, Worker};
use crate::context::{Context, View};
use crate::pod::{spec, status};

/// How long a change that nobody waits for may be held back, to be written with the next one.
const MERGE: Duration = Duration::from_millis(150);

/// What was written and what is to be written.
pub struct Publisher {
    /// The status that the API server has, as last heard.
    server: PodStatus,
    /// Its resource version, as a number.
    version: u64,
    in_flight: bool,
    /// A change is held back since then.
    held: Option<Timestamp>,
    /// The last patch that succeeded; the same again would change nothing.
    last: Option<Value>,
    settled: bool,
    backoff: Backoff,
    retry: Option<Timestamp>,
    absent: bool,
}

impl Publisher {
    /// For a pod as first seen.
    pub fn new(pod: &Pod) -> Self {
        Self {
            server: pod.status.clone().unwrap_or_default(),
            version: version(pod),
            in_flight: false,
            held: None,
            last: None,
            settled: false,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(10)),
            retry: None,
            absent: false,
        }
    }

    /// Take note of what the API server has.
    pub fn observe(&mut self, pod: &Pod) {
        let version = version(pod);
        if version >= self.version {
            self.version = version;
            let status = pod.status.clone().unwrap_or_default();
            if status != self.server {
                self.last = None;
            }
            self.server = status;
        }
    }

    /// The API server has everything.
    pub fn is_settled(&self) -> bool {
        self.settled || self.absent
    }

    /// A write ended.
    pub(super) fn done(&mut self, result: Result<Option<Pod>, kube::Error>, now: Timestamp) {
        self.in_flight = false;
        match result {
            Ok(Some(pod)) => {
                self.backoff.reset();
                let version = version(&pod);
                if version >= self.version {
                    self.version = version;
                    self.server = pod.status.unwrap_or_default();
                }
            }
            Ok(None) => self.absent = true,
            Err(error) => {
                tracing::debug!(%error, "pod status not written; trying again");
                self.last = None;
                self.retry = Some(now + self.backoff.next_delay());
            }
        }
    }
}

fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

impl Worker {
    /// Compute the status, show it, and write it when it is worth a write.
    pub(super) fn publish(&mut self, now: Timestamp) {
        let host = self.ctx.options.node_ip.into();
        let computed = status::compute(&self.pod, &self.record, &self.publisher.server, host, now);
        self.show(&computed);
        let patch = difference(&self.publisher.server, &computed);
        let publisher = &mut self.publisher;
        let patch = patch.filter(|patch| publisher.last.as_ref() != Some(patch));
        let Some(patch) = patch else {
            publisher.settled = !publisher.in_flight;
            publisher.held = None;
            return;
        };
        publisher.settled = false;
        if publisher.in_flight || publisher.absent || self.gone {
            return;
        }
        if let Some(at) = publisher.retry.filter(|at| *at > now) {
            self.wake_at(at);
            return;
        }
        if !is_urgent(&publisher.server, &computed) && !self.record.terminating {
            let since = *publisher.held.get_or_insert(now);
            let due = since + MERGE;
            if due > now {
                self.wake_at(due);
                return;
            }
        }
        publisher.held = None;
        publisher.retry = None;
        publisher.in_flight = true;
        publisher.last = Some(patch.clone());
        let (ctx, pod) = (self.ctx.clone(), self.pod.clone());
        self.ops.push(Box::pin(async move { Done::Published(Box::new(write(&ctx, &pod, patch).await)) }));
    }

    /// Show others of this node what the record says now.
    pub(super) fn show_record(&self) {
        let pod = self.view.borrow().pod.clone();
        self.view.send_replace(View { pod, record: Arc::new(self.record.clone()) });
    }

    fn show(&self, computed: &PodStatus) {
        let shown = self.view.borrow();
        let same = shown.pod.status.as_ref() == Some(computed)
            && shown.pod.metadata.resource_version == self.pod.metadata.resource_version
            && *shown.record == self.record;
        drop(shown);
        if !same {
            let mut pod = Pod::clone(&self.pod);
            pod.status = Some(computed.clone());
            self.view.send_replace(View { pod: Arc::new(pod), record: Arc::new(self.record.clone()) });
        }
    }
}

/// Whether somebody waits for this: readiness, the end of a container, the end of the pod, a first trouble.
fn is_urgent(old: &PodStatus, new: &PodStatus) -> bool {
    let ready = |status: &PodStatus| {
        let conditions = status.conditions.iter().flatten();
        conditions.filter(|condition| condition.type_ == "Ready" && condition.status == "True").count()
    };
    let ended = |status: &PodStatus| {
        let all = status.init_container_statuses.iter().chain(status.container_statuses.iter()).flatten();
        let ended =
            all.filter(|status| status.state.as_ref().is_some_and(|state| state.terminated.is_some()));
        ended.map(|status| (status.name.clone(), status.restart_count)).collect::<Vec<_>>()
    };
    ready(old) != ready(new)
        || (old.phase != new.phase && new.phase.as_deref() != Some("Pending"))
        || ended(old) != ended(new)
}

/// A strategic merge patch from one status to the other; `None` when they are the same.
fn difference(old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let to_map = |status: &PodStatus| match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let (old, new) = (to_map(old), to_map(new));
    let mut patch = Map::new();
    for (key, value) in &new {
        if old.get(key) == Some(value) {
            continue;
        }
        let value = if key == "conditions" { changed_conditions(old.get(key), value) } else { value.clone() };
        patch.insert(key.clone(), value);
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    if patch.is_empty() { None } else { Some(Value::Object(patch)) }
}

/// Only conditions that changed, with fields that went away set to null: the rest belongs to others.
fn changed_conditions(old: Option<&Value>, new: &Value) -> Value {
    let empty = Vec::new();
    let old = old.and_then(Value::as_array).unwrap_or(&empty);
    let mut out = Vec::new();
    for condition in new.as_array().unwrap_or(&empty) {
        let before = old.iter().find(|before| before["type"] == condition["type"]);
        if before == Some(condition) {
            continue;
        }
        let mut condition = condition.clone();
        if let (Some(fields), Some(before)) = (condition.as_object_mut(), before.and_then(Value::as_object)) {
            for key in before.keys().filter(|key| *key != "lastProbeTime") {
                fields.entry(key.clone()).or_insert(Value::Null);
            }
        }
        out.push(condition);
    }
    // Foreign ones are kept by whoever computed the new status, so what is absent there is ours and over.
    let kept =
        |kind: &Value| new.as_array().into_iter().flatten().any(|condition| condition["type"] == *kind);
    for gone in old.iter().map(|before| &before["type"]).filter(|kind| !kept(kind)) {
        out.push(json!({"$patch": "delete", "type": gone}));
    }
    Value::Array(out)
}

/// Write a status. `None` when the pod is gone or another of its name took its place.
async fn write(ctx: &Context, pod: &Pod, status: Value) -> Result<Option<Pod>, kube::Error> {
    let api: Api<Pod> = Api::namespaced(ctx.options.client.clone(), spec::namespace(pod));
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
    let patched = api.patch_status(spec::name(pod), &PatchParams::default(), &Patch::Strategic(patch)).await;
    match patched {
        Ok(pod) => Ok(Some(pod)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(kube::Error::Api(status)) if status.code == 409 && status.message.contains("uid") => Ok(None),
        Err(kube::Error::Api(status)) if status.code == 422 => {
            tracing::warn!(pod = spec::display(pod), message = status.message, "pod status refused");
            Err(kube::Error::Api(status))
        }
        Err(error) => Err(error),
    }
}

/// Remove a pod that has ended from the API.
pub async fn delete(ctx: &Context, pod: &Pod) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(ctx.options.client.clone(), spec::namespace(pod));
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    let started = clock::now();
    match api.delete(spec::name(pod), &params).await {
        Ok(_) => Ok(()),
        // Gone already, or replaced by another of the same name: both are what was wanted.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => {
            tracing::trace!(%error, %started, "delete");
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_holds_only_what_changed() {
        let from = |value: Value| -> PodStatus { serde_json::from_value(value).unwrap() };
        let old = from(json!({"phase": "Running", "reason": "x", "conditions": [
            {"type": "Ready", "status": "False", "reason": "r", "message": "m"}, {"type": "Mine", "status": "True"}]}));
        let new = from(json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "Mine", "status": "True"}]}));
        let patch = difference(&old, &new).unwrap();
        assert_eq!(
            patch["conditions"],
            json!([{"type": "Ready", "status": "True", "reason": null, "message": null}])
        );
        assert_eq!(patch["reason"], Value::Null);
        assert!(patch.get("phase").is_none());
        assert_eq!(difference(&new, &new), None);
        let fewer = from(json!({"phase": "Running", "conditions": [{"type": "Mine", "status": "True"}]}));
        let patch = difference(&new, &fewer).unwrap();
        assert_eq!(patch["conditions"], json!([{"$patch": "delete", "type": "Ready"}]));
        assert!(is_urgent(&old, &new));
    }
}
