//! `sampan why pod/NAME`: why a pod is where it is, or nowhere.
//!
//! The state of the cluster is read through the API and put to the very code that schedules, so the answer is about
//! things as they are now; what was decided before is told by the pod's conditions and events.

use std::{fmt::Write as _, path::Path, process::ExitCode};

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use kube::{Api, ResourceExt, api::ListParams};
use sampan_planner::fairness::{Standing, TenantQueue};
use sampan_planner::numa::NodeTopology;
use sampan_planner::pods;
use sampan_planner::reservation::{CONSUMED, Reservation, Seat};
use sampan_planner::scheduler::{
    Budget, Candidate, Cluster, Explanation, FilterSet, PodInfo, Profile, Queue,
};
use sampan_planner::volumes::{filter::VolumeFilter, listed::Listed, matching::Taken, placement::Unready};
use serde::Serialize;

use crate::{cli::Why, instance::Instance, local, metrics, scheduler_config, terminal};

mod typed;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    pod: String,
    node: Option<String>,
    nominated_node: Option<String>,
    /// What the scheduler said last.
    conditions: Vec<String>,
    events: Vec<String>,
    /// What the queue of its tenant has to do with it.
    queue: Option<Queued>,
    /// What its InstanceType has to do with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    instance_type: Vec<String>,
    /// What reservations have to do with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reservations: Vec<String>,
    #[serde(flatten)]
    explanation: Explanation,
    preemption: Option<String>,
}

/// Reasons of events that are about where pods are.
const TOLD: [&str; 5] = ["Scheduled", "FailedScheduling", "Preempted", "TaintManagerEviction", "Rebalanced"];

/// A pod in the queue of its tenant.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Queued {
    /// Its queue and those above.
    path: Vec<String>,
    /// How they stand, in words.
    standing: Vec<String>,
    /// Why the queue holds the pod back.
    waits: Option<String>,
    /// What would change that.
    remedy: Option<String>,
}

pub(crate) async fn run(data_dir: &Path, options: Why) -> Result<ExitCode> {
    let name = match options.object.split_once('/') {
        Some(("pod" | "pods" | "po", name)) => name,
        None => &options.object,
        Some((kind, name)) => bail!("nothing is known about why of a {kind} (hint: sampan why pod/{name})"),
    };
    let instance = Instance::open(data_dir)?;
    let client = local::client(&instance)?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &options.namespace);
    let Some(pod) = pods.get_opt(name).await? else {
        let told = gone(&client, &options.namespace, name).await?;
        if !told.is_empty() {
            let answer = Gone { pod: format!("{}/{name}", options.namespace), events: told };
            terminal::print(options.output.output, &answer, || answer.text())?;
            return Ok(ExitCode::SUCCESS);
        }
        bail!("there is no pod {name} in namespace {} (hint: -n NAMESPACE)", options.namespace);
    };
    let profiles = scheduler_config::read(options.scheduler_config.as_deref())?.profiles;
    let (mut cluster, all) = read(&client, profiles).await?;
    if cluster.reads_usage() {
        let (of_nodes, of_pods) = metrics::read(&client, &all).await?;
        cluster.observe(&of_nodes, of_pods);
    }
    let uid = pods::uid(&pod.metadata).to_owned();
    cluster.remove_pod(&uid);
    let mut unbound = pod.clone();
    if let Some(spec) = &mut unbound.spec {
        spec.node_name = None;
    }
    let info = PodInfo::of(&unbound);
    let known = if info.has_claims() { storage(&client).await? } else { Listed::default() };
    let volumes = volumes(&unbound, &all, &known, &cluster.profile_of(&info).filters);
    let nobody = Taken::default();
    let allow = |node: Candidate<'_>| match &volumes {
        Ok(Some(filter)) => filter.allow(node, &nobody, &known),
        Ok(None) => Ok(()),
        Err(unready) => Err(unready.to_string()),
    };
    let explanation = cluster.explain(&info, Some(&allow));
    let reservations = reserved(&mut cluster, &pod, &info);
    let queue = queued(&cluster, &info, &all);
    let held = queue.as_ref().is_some_and(|queue| queue.waits.is_some());
    let waits = pods::node_name(&pod).is_empty() && (explanation.feasible == 0 || held);
    let preemption = waits.then(|| match cluster.preempt(&info, 0, Some(&allow)) {
        Ok(plan) => {
            let victims: Vec<&str> = plan.victims.iter().map(|v| v.name()).collect();
            format!("would make {} leave {}", victims.join(", "), plan.node)
        }
        Err(refusal) => refusal,
    });
    let about = format!("involvedObject.uid={uid}");
    let mut events = telling(events(&client, &options.namespace, &about).await?);
    events.extend(before(&client, &pod).await?);
    let instance_type = typed::words(&client, &pod, &cluster).await?;
    let answer =
        Answer { queue, instance_type, reservations, ..answer(&pod, explanation, preemption, events) };
    terminal::print(options.output.output, &answer, || text(&answer))?;
    Ok(ExitCode::SUCCESS)
}

/// The objects that volumes are made of.
async fn storage(client: &kube::Client) -> Result<Listed> {
    let all = ListParams::default();
    let claims = Api::<PersistentVolumeClaim>::all(client.clone()).list(&all).await?;
    let volumes = Api::<PersistentVolume>::all(client.clone()).list(&all).await?;
    let classes = Api::<StorageClass>::all(client.clone()).list(&all).await?;
    let nodes = Api::<CSINode>::all(client.clone()).list(&all).await?;
    Ok(Listed::new(claims, volumes, classes, nodes))
}

/// What the volumes of the pod say about nodes.
fn volumes(
    pod: &Pod,
    all: &[Pod],
    known: &Listed,
    filters: &FilterSet,
) -> Result<Option<VolumeFilter>, Unready> {
    VolumeFilter::of(pod, known, filters, |name| {
        let others = all.iter().filter(|other| {
            other.metadata.namespace == pod.metadata.namespace && other.metadata.uid != pod.metadata.uid
        });
        let mut placed = others.filter(|o| !pods::node_name(o).is_empty() && !pods::finished(o));
        placed.any(|other| pods::claims(other).any(|claim| claim == name))
    })
}

/// The cluster as it is, and its pods.
async fn read(client: &kube::Client, profiles: Vec<Profile>) -> Result<(Cluster, Vec<Pod>)> {
    let all = ListParams::default();
    let mut cluster = Cluster::with_profiles(profiles);
    for namespace in Api::<Namespace>::all(client.clone()).list(&all).await? {
        cluster.set_namespace(&namespace.name_any(), Some(namespace.labels().clone()));
    }
    for node in Api::<Node>::all(client.clone()).list(&all).await? {
        cluster.upsert_node(&node);
    }
    // Beside an API server that does not know our kinds there are none.
    let queues = Api::<TenantQueue>::all(client.clone()).list(&all).await.map(|list| list.items);
    for queue in queues.unwrap_or_default() {
        let history = queue.remembered(k8s_openapi::jiff::Timestamp::now());
        cluster.set_queue(&queue.name_any(), Some((queue.spec, history)));
    }
    cluster.tend(0);
    let topologies = Api::<NodeTopology>::all(client.clone()).list(&all).await.map(|list| list.items);
    for topology in topologies.unwrap_or_default() {
        cluster.set_topology(&topology.name_any(), Some(&topology));
    }
    let known = Api::<Pod>::all(client.clone()).list(&all).await?.items;
    for pod in &known {
        if pods::node_name(pod).is_empty() {
            let info = PodInfo::of(pod);
            if let Some(node) = info.nominated().map(ToOwned::to_owned) {
                cluster.nominate(&info, &node);
            }
        } else {
            cluster.upsert_pod(pod);
        }
    }
    let reservations = Api::<Reservation>::all(client.clone()).list(&all).await.map(|list| list.items);
    for reservation in reservations.unwrap_or_default() {
        let status = reservation.status.clone().unwrap_or_default();
        let over = matches!(status.phase.as_str(), "Expired" | "Failed");
        if let Ok(terms) = reservation.terms(status.priority)
            && !over
        {
            cluster.set_reservation(terms, &reservation.known_seats());
        }
    }
    for budget in Api::<PodDisruptionBudget>::all(client.clone()).list(&all).await? {
        let namespace = budget.namespace().unwrap_or_default();
        cluster.set_budget(&namespace, &budget.name_any(), Some(Budget::of(&budget)));
    }
    Ok((cluster, known))
}

/// Why a pod that is gone has gone.
#[derive(Serialize)]
struct Gone {
    pod: String,
    events: Vec<String>,
}

impl Gone {
    fn text(&self) -> String {
        let told: String = self.events.iter().map(|told| format!("  {told}\n")).collect();
        format!("{} is gone\n{told}", self.pod)
    }
}

/// What was told about pods of that name.
async fn gone(client: &kube::Client, namespace: &str, name: &str) -> Result<Vec<String>> {
    let about = format!("involvedObject.kind=Pod,involvedObject.name={name}");
    Ok(telling(events(client, namespace, &about).await?))
}

/// Why the pod was made in place of one that was moved: its owner was told shortly before it was made.
async fn before(client: &kube::Client, pod: &Pod) -> Result<Vec<String>> {
    let Some(owner) = pods::controller(&pod.metadata) else { return Ok(Vec::new()) };
    let about = format!("involvedObject.uid={},reason=Rebalanced", owner.uid);
    let events = events(client, &pod.namespace().unwrap_or_default(), &about).await?;
    let made = pods::created(&pod.metadata);
    let shortly = |event: &Event| {
        let at = event.last_timestamp.as_ref().map(|t| made.duration_since(t.0).as_secs());
        at.is_some_and(|passed| (-5..=300).contains(&passed))
    };
    let told = events.into_iter().filter(shortly).filter_map(|event| event.message);
    Ok(told.map(|message| format!("made anew: {message}")).collect())
}

/// Events of a namespace that fit a field selector.
async fn events(client: &kube::Client, namespace: &str, fields: &str) -> Result<Vec<Event>> {
    let about = ListParams::default().fields(fields);
    Ok(Api::<Event>::namespaced(client.clone(), namespace).list(&about).await?.items)
}

/// What of events is about where pods are.
fn telling(events: Vec<Event>) -> Vec<String> {
    let mut told: Vec<(String, String)> = Vec::new();
    for event in events {
        let reason = event.reason.unwrap_or_default();
        if TOLD.contains(&reason.as_str()) {
            let when = event.last_timestamp.map(|t| t.0.to_string()).unwrap_or_default();
            told.push((when, format!("{reason}: {}", event.message.unwrap_or_default())));
        }
    }
    told.sort();
    told.into_iter().map(|(_, text)| text).collect()
}

fn answer(pod: &Pod, explanation: Explanation, preemption: Option<String>, events: Vec<String>) -> Answer {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let told = conditions
        .iter()
        .filter(|c| c.type_ == "DisruptionTarget" || (c.type_ == "PodScheduled" && c.status != "True"));
    let say = |c: &k8s_openapi::api::core::v1::PodCondition| {
        let (reason, message) =
            (c.reason.as_deref().unwrap_or_default(), c.message.as_deref().unwrap_or_default());
        format!("{}: {reason}: {message}", c.type_)
    };
    let node = pods::node_name(pod);
    Answer {
        pod: format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
        node: (!node.is_empty()).then(|| node.to_owned()),
        nominated_node: status.and_then(|s| s.nominated_node_name.clone()).filter(|n| !n.is_empty()),
        conditions: told.map(say).collect(),
        events,
        queue: None,
        instance_type: Vec::new(),
        reservations: Vec::new(),
        explanation,
        preemption,
    }
}

/// What the pod's queue has to do with it, where there are queues.
fn queued(cluster: &Cluster, pod: &PodInfo, all: &[Pod]) -> Option<Queued> {
    let tenants = cluster.tenants()?;
    let wait = cluster.admit(pod).err();
    let lane = tenants.lane_of(pod);
    if lane == 0 && wait.is_none() {
        return None;
    }
    let mut queue = Queue::default();
    for other in all.iter().filter(|other| pods::node_name(other).is_empty() && pods::active(other)) {
        let mut info = PodInfo::of(other);
        cluster.assign(&mut info);
        queue.put(std::sync::Arc::new(info), pods::is_gated(other), 0);
    }
    let standings = cluster.standings(&queue);
    let path = tenants.path(lane);
    let words =
        path.iter().filter_map(|name| standings.iter().find(|s| s.name == *name)).map(Standing::words);
    Some(Queued {
        standing: words.collect(),
        path,
        waits: wait.as_ref().map(ToString::to_string),
        remedy: wait.map(|wait| wait.remedy()),
    })
}

/// What reservations hold for the pod, a line each.
fn reserved(cluster: &mut Cluster, pod: &Pod, info: &PodInfo) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(seat) = pods::annotation(&pod.metadata, CONSUMED).and_then(Seat::parse) {
        lines.push(format!("it took seat {} of reservation {}/{}", seat.index, seat.namespace, seat.name));
    }
    let mine = cluster.reservations_for(info);
    let known = !mine.is_empty();
    for (terms, seats) in mine {
        let (all, name) = (terms.count, format!("{}/{}", terms.namespace, terms.name));
        lines.push(match seats {
            0 => format!("reservation {name} is for it, and holds nothing for it now"),
            seats => format!("reservation {name} is for it: {seats} of {all} seats hold something"),
        });
    }
    if known && let Ok(placement) = cluster.schedule(info, 0) {
        lines.extend(placement.seat.map(|seat| {
            let (node, namespace, name) = (&placement.node, &seat.namespace, &seat.name);
            format!("as things are now, it would take seat {} of {namespace}/{name} on {node}", seat.index)
        }));
    }
    lines
}

fn text(answer: &Answer) -> String {
    let mut out = String::new();
    let mut line = |text: &str| {
        let _ = writeln!(out, "{text}");
    };
    match (&answer.node, &answer.nominated_node) {
        (Some(node), _) => line(&format!("{} is on {node}", answer.pod)),
        (None, Some(node)) => line(&format!("{} waits until others have left {node}", answer.pod)),
        (None, None) => line(&format!("{} is on no node", answer.pod)),
    }
    answer.conditions.iter().chain(&answer.events).for_each(|told| line(&format!("  {told}")));
    if let Some(queue) = &answer.queue {
        queue.standing.iter().for_each(|words| line(words));
        if let (Some(waits), Some(remedy)) = (&queue.waits, &queue.remedy) {
            line(&format!("it waits for its queue: {waits}"));
            line(&format!("      to change that: {remedy}"));
        }
    }
    answer.instance_type.iter().chain(&answer.reservations).for_each(|words| line(words));
    let found = &answer.explanation;
    line(&format!("as things are now, {} of {} nodes can take it", found.feasible, found.nodes));
    for fitting in &found.fitting {
        line(&format!("  {} (score {})", fitting.node, fitting.score));
    }
    for refusal in &found.refusals {
        line(&format!("  {} {} ({})", refusal.count, refusal.reason, refusal.nodes.join(", ")));
        line(&format!("      to change that: {}", refusal.remedy));
    }
    if let Some(closest) = &found.closest {
        let lacks: Vec<String> = closest.lacks.iter().map(|lack| lack.words()).collect();
        line(&format!("closest is {}: {}", closest.node, lacks.join("; ")));
    }
    if let Some(preemption) = &answer.preemption {
        line(&format!("preemption: {preemption}"));
    }
    out
}

#[cfg(test)]
mod tests {
    use sampan_planner::scheduler::{Closest, Refusal, Shortage};

    use super::*;

    #[test]
    fn the_text_names_reason_remedy_and_the_closest_node() {
        let answer = Answer {
            pod: "default/p".into(),
            node: None,
            nominated_node: None,
            conditions: Vec::new(),
            queue: None,
            instance_type: Vec::new(),
            reservations: Vec::new(),
            events: vec!["FailedScheduling: 0/1 nodes are available".into()],
            explanation: Explanation {
                nodes: 1,
                refusals: vec![Refusal {
                    reason: "Insufficient cpu".into(),
                    count: 1,
                    nodes: vec!["a".into()],
                    remedy: "ask for less".into(),
                }],
                closest: Some(Closest {
                    node: "a".into(),
                    lacks: vec![Shortage { resource: "cpu".into(), asked: 3000, free: 1, allocatable: 2 }],
                }),
                ..Explanation::default()
            },
            preemption: None,
        };
        let want = "default/p is on no node\n  FailedScheduling: 0/1 nodes are available\nas things are now, 0 of 1 \
                    nodes can take it\n  1 Insufficient cpu (a)\n      to change that: ask for less\nclosest is a: cpu: \
                    asks 3000m, 1m free of 2m\n";
        assert_eq!(text(&answer), want);
    }
}
