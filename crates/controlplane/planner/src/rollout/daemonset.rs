//! What a DaemonSet does next: one pod on each node that it may run on.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Toleration};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;

use super::resolve;
use crate::pods;
use crate::scheduler::{matches_node, tolerates_taint};

/// The label with the hash of the template that a pod was made from.
pub const REVISION: &str = super::statefulset::REVISION;

/// One step.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    /// Nodes to create a pod for.
    pub create: Vec<String>,
    /// Pods to delete.
    pub delete: Vec<&'a Pod>,
    /// The status, as it should be now.
    pub status: DaemonSetStatus,
    /// When to look again although nothing happened.
    pub again_at: Option<Timestamp>,
}

/// The tolerations that each pod of a DaemonSet has: trouble of a node is no reason to leave it.
pub fn tolerations(host_network: bool) -> Vec<Toleration> {
    let tolerate = |key: &str, effect: &str| Toleration {
        key: Some(format!("node.kubernetes.io/{key}")),
        operator: Some("Exists".into()),
        effect: Some(effect.into()),
        ..Toleration::default()
    };
    let mut list = vec![
        tolerate("not-ready", "NoExecute"),
        tolerate("unreachable", "NoExecute"),
        tolerate("disk-pressure", "NoSchedule"),
        tolerate("memory-pressure", "NoSchedule"),
        tolerate("pid-pressure", "NoSchedule"),
        tolerate("unschedulable", "NoSchedule"),
    ];
    if host_network {
        list.push(tolerate("network-unavailable", "NoSchedule"));
    }
    list
}

/// The node that a pod is on or is meant for.
pub fn target(pod: &Pod) -> Option<&str> {
    let bound = pods::node_name(pod);
    if !bound.is_empty() {
        return Some(bound);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = terms.node_selector_terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    let mut named = fields.filter(|f| f.key == "metadata.name");
    named.find_map(|f| f.values.as_ref()?.first()).map(String::as_str)
}

/// Whether a pod should be started on the node, and whether one that is there may stay.
fn fits(spec: &PodSpec, tolerations: &[Toleration], node: &Node) -> (bool, bool) {
    if !matches_node(spec, node) {
        return (false, false);
    }
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let (mut run, mut stay) = (true, true);
    for taint in taints.filter(|t| !tolerations.iter().any(|tol| tolerates_taint(tol, t))) {
        run &= taint.effect == "PreferNoSchedule";
        stay &= taint.effect != "NoExecute";
    }
    (run, stay)
}

/// One step of the set. `hash` is that of its template.
pub fn plan<'a>(set: &DaemonSet, nodes: &[&Node], owned: &[&'a Pod], hash: &str, now: Timestamp) -> Plan<'a> {
    let mut plan = Plan::default();
    let template = set.spec.template.spec.clone().unwrap_or_default();
    let mut tolerated = template.tolerations.clone().unwrap_or_default();
    tolerated.extend(tolerations(template.host_network == Some(true)));
    let min_ready = set.spec.min_ready_seconds.unwrap_or(0);
    let mut by_node: BTreeMap<&str, Vec<&'a Pod>> = BTreeMap::new();
    for pod in owned {
        by_node.entry(target(pod).unwrap_or_default()).or_default().push(pod);
    }
    let mut status = DaemonSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: set.status.as_ref().and_then(|s| s.collision_count),
        conditions: set.status.as_ref().and_then(|s| s.conditions.clone()),
        ..DaemonSetStatus::default()
    };
    let (mut available, mut updated) = (0, 0);
    let mut outdated: Vec<&'a Pod> = Vec::new();
    for node in nodes {
        let name = pods::name(&node.metadata);
        let (run, stay) = fits(&template, &tolerated, node);
        let here = by_node.remove(name).unwrap_or_default();
        let alive = sort_out(&here, run, stay, &mut plan);
        status.desired_number_scheduled += i32::from(run);
        status.current_number_scheduled += i32::from(run && !here.is_empty());
        status.number_misscheduled += i32::from(!run && !here.is_empty());
        if run && here.is_empty() {
            plan.create.push(name.to_owned());
        }
        let Some(pod) = alive.filter(|_| run) else { continue };
        status.number_ready += i32::from(pods::ready(pod));
        let is_available = pods::available(pod, min_ready, now);
        available += i32::from(is_available);
        if is_current(pod, hash) {
            updated += 1;
        } else {
            outdated.push(pod);
        }
    }
    // Pods of nodes that are gone are the garbage collector's.
    status.number_available = Some(available);
    status.number_unavailable = Some(status.desired_number_scheduled - available);
    status.updated_number_scheduled = Some(updated);
    roll(set, &status, outdated, min_ready, now, &mut plan);
    plan.again_at = super::replicaset::next_available(owned, min_ready, now);
    plan.status = status;
    plan
}

fn is_current(pod: &Pod, hash: &str) -> bool {
    pod.metadata.labels.as_ref().and_then(|l| l.get(REVISION)).is_some_and(|h| h == hash)
}

/// Of the pods on one node, the oldest living one stays, if any may.
fn sort_out<'a>(here: &[&'a Pod], run: bool, stay: bool, plan: &mut Plan<'a>) -> Option<&'a Pod> {
    let mut alive: Vec<&'a Pod> = here.iter().copied().filter(|pod| !pods::terminating(pod)).collect();
    let (ended, mut living): (Vec<_>, Vec<_>) = alive.drain(..).partition(|pod| pods::finished(pod));
    plan.delete.extend(ended);
    if !run && !stay {
        plan.delete.append(&mut living);
    }
    living.sort_by_key(|pod| (pods::created(&pod.metadata), pods::name(&pod.metadata)));
    let mut living = living.into_iter();
    let first = living.next();
    plan.delete.extend(living);
    first
}

/// Deletes outdated pods, those that are not available first, within maxUnavailable.
fn roll<'a>(
    set: &DaemonSet,
    status: &DaemonSetStatus,
    outdated: Vec<&'a Pod>,
    min_ready: i32,
    now: Timestamp,
    plan: &mut Plan<'a>,
) {
    let strategy = set.spec.update_strategy.as_ref();
    if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
        return;
    }
    let given = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.max_unavailable.as_ref());
    let desired = status.desired_number_scheduled;
    let most = resolve(given, desired, true, &IntOrString::Int(1)).max(1);
    let mut budget = most - status.number_unavailable.unwrap_or(0);
    let (well, ill): (Vec<_>, Vec<_>) =
        outdated.into_iter().partition(|pod| pods::available(pod, min_ready, now));
    plan.delete.extend(ill);
    for pod in well {
        if budget <= 0 {
            break;
        }
        budget -= 1;
        plan.delete.push(pod);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, extra: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {"disk": "ssd"}}, "spec": extra}))
            .unwrap()
    }

    fn pod(name: &str, node: &str, hash: &str, ready: bool) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {REVISION: hash}}, "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]},
        }))
        .unwrap()
    }

    fn set() -> DaemonSet {
        serde_json::from_value(json!({"metadata": {"name": "d", "generation": 2}, "spec": {"selector": {},
            "template": {"spec": {"containers": [], "nodeSelector": {"disk": "ssd"}}}}}))
        .unwrap()
    }

    fn names(pods: &[&Pod]) -> Vec<String> {
        pods.iter().map(|p| pods::name(&p.metadata).to_owned()).collect()
    }

    #[test]
    fn one_on_each_node_that_fits() {
        let now = Timestamp::UNIX_EPOCH;
        let tainted = node("t", json!({"taints": [{"key": "k", "effect": "NoExecute"}]}));
        let cordoned = node(
            "c",
            json!({"unschedulable": true,
            "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}),
        );
        let (plain, twice) = (node("p", json!({})), node("w", json!({})));
        let nodes = [&plain, &tainted, &cordoned, &twice];
        let owned = [pod("x", "t", "h", true), pod("y1", "w", "h", true), pod("y2", "w", "h", true)];
        let refs: Vec<&Pod> = owned.iter().collect();
        let plan = plan(&set(), &nodes, &refs, "h", now);
        assert_eq!(plan.create, ["p", "c"]);
        assert_eq!(names(&plan.delete), ["x", "y2"]);
        let status = plan.status;
        assert_eq!((status.desired_number_scheduled, status.current_number_scheduled), (3, 1));
        assert_eq!((status.number_misscheduled, status.number_ready), (1, 1));
    }

    #[test]
    fn rolls_within_max_unavailable() {
        let nodes = [node("a", json!({})), node("b", json!({})), node("c", json!({}))];
        let refs: Vec<&Node> = nodes.iter().collect();
        let old = [pod("x", "a", "old", true), pod("y", "b", "old", true), pod("z", "c", "old", true)];
        let all: Vec<&Pod> = old.iter().collect();
        assert_eq!(names(&plan(&set(), &refs, &all, "new", Timestamp::UNIX_EPOCH).delete), ["x"]);
        let ill = pod("z", "c", "old", false);
        let some = [&old[0], &old[1], &ill];
        assert_eq!(names(&plan(&set(), &refs, &some, "new", Timestamp::UNIX_EPOCH).delete), ["z"]);
    }
}
