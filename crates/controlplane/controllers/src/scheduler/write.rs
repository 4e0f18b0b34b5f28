//! Writing what was decided.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use sampan_daemon::clock;
use sampan_planner::pods;
use sampan_planner::reservation::CONSUMED;
use sampan_planner::scheduler::{Hints, Placement, PodInfo, Preemption, gpu};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};

use super::claims::Volumes;
use super::{AT_ONCE, Decision, Nomination, SETTLING, Scheduler, State, Taken};
use crate::apis;
use crate::error::{Context, Error, Result};
use crate::informer::Key;

/// A `Binding` as it is sent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Binding<'a> {
    api_version: &'a str,
    kind: &'a str,
    metadata: Bound<'a>,
    target: Target<'a>,
}

#[derive(Serialize)]
struct Bound<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'a str, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Target<'a> {
    api_version: &'a str,
    kind: &'a str,
    name: &'a str,
}

type Decisions = Mutex<mpsc::Receiver<(Taken, Decision)>>;

impl Scheduler {
    /// Writes decisions, many at once, until there will be no more.
    pub(super) async fn write_all(self: &Arc<Self>, decisions: &Decisions) {
        let mut running = FuturesUnordered::new();
        // Volumes may take minutes to be made: whoever waits for them holds up nobody else.
        let mut settling = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(()) = running.next(), if !running.is_empty() => {}
                Some(settled) = settling.next(), if !settling.is_empty() && running.len() < AT_ONCE => {
                    if let Some((taken, decision)) = settled {
                        running.push(self.write(taken, decision));
                    }
                }
                next = async { decisions.lock().await.recv().await }, if running.len() < AT_ONCE => {
                    match next {
                        Some((taken, Decision::Bind { placement, volumes: Some(volumes) }))
                            if !volumes.1.is_empty() =>
                        {
                            if settling.len() < SETTLING {
                                settling.push(self.settle(taken, placement, volumes));
                            } else {
                                tracing::debug!(pod = %taken.key, "too many pods wait for volumes: it backs off");
                            }
                        }
                        Some((taken, decision)) => running.push(self.write(taken, decision)),
                        None => return,
                    }
                }
            }
        }
    }

    /// Sees to it that the pod's volumes are there; what is to be written then. Without them the pod is tried again.
    async fn settle(
        &self,
        taken: Taken,
        placement: Placement,
        volumes: Volumes,
    ) -> Option<(Taken, Decision)> {
        match self.volumes.prebind(&volumes.0, &placement.node, &volumes.1).await {
            Ok(()) => Some((taken, Decision::Bind { placement, volumes: None })),
            Err(error) => {
                again(&taken, &error);
                None
            }
        }
    }

    async fn write(&self, mut taken: Taken, decision: Decision) {
        let result = match decision {
            Decision::Bind { placement, .. } => self.bind(&taken, &placement).await,
            Decision::Refuse { why, nomination } => {
                let node = (nomination == Nomination::Clear).then_some(Value::Null);
                self.refuse(&taken, &why, node).await
            }
            Decision::Preempt { why, mut plan } => match self.may_preempt(&taken, &mut plan).await {
                Ok(()) => self.make_room(&taken, &why, &plan).await,
                Err(forbidden) => {
                    self.give_up_room(&taken, &plan);
                    self.refuse(&taken, &format!("{why} preemption: {forbidden}"), Some(Value::Null)).await
                }
            },
        };
        match result {
            Ok(()) => {
                taken.done = true;
                let Some(hints) = taken.hints else { return };
                // The queue knows what happened while this was written.
                self.change(|state, now| {
                    let State { cluster, queue } = state;
                    queue.waits_for(taken.popped.pod.uid(), hints, now, |pod| cluster.would_fit(pod));
                    Hints::none()
                });
            }
            Err(error) => again(&taken, &error),
        }
    }

    async fn bind(&self, taken: &Taken, placement: &Placement) -> Result<()> {
        let Placement { node, devices, seat, .. } = placement;
        let key = &taken.key;
        let pod = &taken.popped.pod;
        if let Some(held) = pod.holds() {
            self.book.waits(held, None);
            return Ok(());
        }
        if let Some(extender) = self.extenders_of(pod).find(|e| !e.settings.bind_verb.is_empty()) {
            let bound = extender.bind(pod, node).await;
            return bound.map_err(|problem| Error::Object { object: format!("Pod {key}"), problem });
        }
        let mut annotations = BTreeMap::new();
        if !devices.is_empty() {
            annotations.insert(gpu::GPU_DEVICES, gpu::format_devices(devices));
        }
        if let Some(seat) = seat {
            annotations.insert(CONSUMED, seat.to_string());
        }
        let binding = Binding {
            api_version: "v1",
            kind: "Binding",
            metadata: Bound { namespace: &key.namespace, name: &key.name, uid: pod.uid(), annotations },
            target: Target { api_version: "v1", kind: "Node", name: node },
        };
        let body = serde_json::to_vec(&binding).map_err(kube::Error::SerdeError);
        let path = format!("/api/v1/namespaces/{}/pods/{}/binding", key.namespace, key.name);
        let request = Request::post(path).header("content-type", "application/json");
        let request = body.and_then(|body| request.body(body).map_err(kube::Error::HttpError));
        let during = || format!("binding pod {key} to node {node}");
        self.client.request_text(request.during(during)?).await.during(during)?;
        if let Some(pod) = self.current(key, &taken.popped.pod) {
            let text = format!("Successfully assigned {}/{} to {node}", key.namespace, key.name);
            self.events.normal(&*pod, "Scheduled", text);
        }
        Ok(())
    }

    /// The pod as it is now, if it is still the same.
    pub(super) fn current(&self, key: &Key, pod: &PodInfo) -> Option<Arc<Pod>> {
        self.caches.pods.get(key).filter(|current| pods::uid(&current.metadata) == pod.uid())
    }

    /// Says why the pod fits nowhere, and which node it waits for, if that changed.
    async fn refuse(&self, taken: &Taken, why: &str, nominated: Option<Value>) -> Result<()> {
        if let Some(seat) = taken.popped.pod.holds() {
            self.book.waits(seat, Some(why));
            return Ok(());
        }
        let Some(pod) = self.current(&taken.key, &taken.popped.pod) else { return Ok(()) };
        self.events.warning(&*pod, "FailedScheduling", why.to_owned());
        let current = pods::condition(&pod, "PodScheduled");
        let same = current.is_some_and(|c| {
            c.status == "False"
                && c.reason.as_deref() == Some("Unschedulable")
                && c.message.as_deref() == Some(why)
        });
        if same && nominated.is_none() {
            return Ok(());
        }
        let mut condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why,
        });
        if current.is_none_or(|c| c.status != "False") {
            condition["lastTransitionTime"] = clock::rfc3339(clock::now()).into();
        }
        let mut patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        if let Some(node) = nominated {
            patch["status"]["nominatedNodeName"] = node;
        }
        apis::patch_status::<Pod>(&self.client, &taken.key, &patch).await
    }

    /// Asks others to leave: first it is written where the pod waits, then each is marked and deleted gracefully.
    async fn make_room(&self, taken: &Taken, why: &str, plan: &Preemption) -> Result<()> {
        let told = self.refuse(taken, why, Some(plan.node.as_str().into())).await;
        if told.is_err() {
            self.give_up_room(taken, plan);
            return told;
        }
        for displaced in plan.displaced.iter().filter(|displaced| displaced.holds().is_none()) {
            let key = Key::new(displaced.namespace(), displaced.name());
            let patch = json!({"metadata": {"uid": displaced.uid()}, "status": {"nominatedNodeName": null}});
            // It looks for another node whether this is written or not.
            if let Err(error) = apis::patch_status::<Pod>(&self.client, &key, &patch).await {
                tracing::debug!(pod = %key, "its nomination stays for now: {error}");
            }
        }
        let evictions = plan.victims.iter().map(|victim| self.evict(taken, victim, &plan.node));
        let mut evictions: FuturesUnordered<_> = evictions.collect();
        let mut outcome = Ok(());
        while let Some(result) = evictions.next().await {
            outcome = outcome.and(result);
        }
        if outcome.is_err() {
            // The node is not kept for what may never fit there.
            self.give_up_room(taken, plan);
        }
        outcome
    }

    /// Keeps no room for the pod any more, and counts on nobody's leaving.
    fn give_up_room(&self, taken: &Taken, plan: &Preemption) {
        self.change(|state, _| {
            plan.victims.iter().for_each(|victim| state.cluster.spare(victim));
            let freed = state.cluster.withdraw(taken.popped.pod.uid());
            if freed { Hints::POD_GONE } else { Hints::none() }
        });
    }

    async fn evict(&self, taken: &Taken, victim: &PodInfo, node: &str) -> Result<()> {
        let winner = match taken.popped.pod.holds() {
            Some(seat) => format!("reservation {}/{}", seat.namespace, seat.name),
            None => format!("pod {}", taken.popped.pod.uid()),
        };
        if let Some(seat) = victim.holds() {
            // It has given way already: see [`Cluster::promise`](sampan_planner::scheduler::Cluster::promise).
            self.seat_lost(
                seat,
                "Preempted",
                format!("seat {} gives way to {winner} on node {node}", seat.index),
            );
            return Ok(());
        }
        let key = Key::new(victim.namespace(), victim.name());
        let Some(pod) = self.current(&key, victim) else { return Ok(()) };
        if pods::terminating(&pod) {
            return Ok(());
        }
        let scheduler = self.current(&taken.key, &taken.popped.pod);
        let scheduler = scheduler.and_then(|p| p.spec.as_ref().and_then(|s| s.scheduler_name.clone()));
        let scheduler = scheduler.unwrap_or_else(|| "default-scheduler".to_owned());
        let less = victim.priority() < taken.popped.pod.priority();
        let message = match less {
            true => format!("{scheduler}: preempting to accommodate a higher priority pod"),
            false => format!("{scheduler}: a tenant's queue takes back what it is guaranteed"),
        };
        if !apis::disrupt(&self.client, &pod, "PreemptionByScheduler", &message).await? {
            return Ok(());
        }
        let (reason, by) =
            if less { ("Preempted", "Preempted") } else { ("Reclaimed", "Its room is taken back") };
        let text = format!("{by} by {winner} on node {node}");
        self.events.normal(&*pod, reason, text);
        Ok(())
    }
}

/// Says that a pod is tried again.
pub(super) fn again(taken: &Taken, error: &Error) {
    if error.is_race() {
        tracing::debug!(pod = %taken.key, "will be tried again: {error}");
    } else {
        tracing::warn!(pod = %taken.key, "will be tried again: {error}");
    }
}
