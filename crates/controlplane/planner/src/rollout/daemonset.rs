//! What a DaemonSet does next: one pod on each node that it may run on; while it surges, an old and a new one.

mod rolling;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Toleration};
use k8s_openapi::jiff::Timestamp;

use super::Notice;
use super::failures::Failures;
use crate::pods;
use crate::scheduler::{matches_node, tolerates_taint};

/// The label with the hash of the template that a pod was made from.
pub const REVISION: &str = super::statefulset::REVISION;
/// The generation of the template, on the set: its pods carry it as [`GENERATION_LABEL`].
const GENERATION: &str = "deprecated.daemonset.template.generation";
/// The generation of the template that a pod was made from.
pub const GENERATION_LABEL: &str = "pod-template-generation";

/// The most pods that one step creates, and the most that it deletes.
const BURST: usize = 250;

/// One step.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    /// Pods to delete.
    pub delete: Vec<&'a Pod>,
    /// Nodes to create a pod for.
    pub create: Vec<String>,
    /// The status, as it should be now.
    pub status: DaemonSetStatus,
    /// Events to record.
    pub notices: Vec<Notice>,
    /// When to look again although nothing happened.
    pub again_at: Option<Timestamp>,
    /// What to hand in at the next step.
    pub failures: Failures,
}

/// The tolerations that each pod of a DaemonSet has: trouble of a node is no reason to leave it.
fn tolerations(host_network: bool) -> Vec<Toleration> {
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

/// Gives a pod's spec the tolerations of a DaemonSet; its own that say the same are replaced.
pub fn tolerate(spec: &mut PodSpec) {
    let identity = |t: &Toleration| {
        let operator = t.operator.clone().unwrap_or_else(|| "Equal".to_owned());
        (t.key.clone(), operator, t.effect.clone(), t.value.clone().unwrap_or_default())
    };
    let added = tolerations(spec.host_network == Some(true));
    let list = spec.tolerations.get_or_insert_default();
    list.retain(|own| !added.iter().any(|new| identity(new) == identity(own)));
    list.extend(added);
}

/// The generation of the template by the set's annotation.
pub fn generation(set: &DaemonSet) -> Option<i64> {
    pods::annotation(&set.metadata, GENERATION)?.parse().ok()
}

/// The node that a pod is on or is meant for.
pub fn target(pod: &Pod) -> Option<&str> {
    let bound = pods::node_name(pod);
    if !bound.is_empty() {
        return Some(bound);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let mut fields = terms.node_selector_terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    let named = fields.find(|f| f.key == "metadata.name" && f.operator == "In")?;
    match named.values.as_deref() {
        Some([name]) => Some(name),
        _ => None,
    }
}

/// Where the pods of a set may be.
struct Place {
    spec: PodSpec,
}

impl Place {
    fn new(set: &DaemonSet) -> Self {
        let mut spec = set.spec.template.spec.clone().unwrap_or_default();
        tolerate(&mut spec);
        Self { spec }
    }

    /// Whether a pod should be started on the node, and whether one that is there may stay.
    fn fits(&self, node: &Node) -> (bool, bool) {
        let named = self.spec.node_name.as_deref().filter(|name| !name.is_empty());
        if named.is_some_and(|name| name != pods::name(&node.metadata)) || !matches_node(&self.spec, node) {
            return (false, false);
        }
        let tolerations = self.spec.tolerations.as_deref().unwrap_or_default();
        let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
        let (mut run, mut stay) = (true, true);
        for taint in taints.filter(|t| !tolerations.iter().any(|tol| tolerates_taint(tol, t))) {
            run &= taint.effect == "PreferNoSchedule";
            stay &= taint.effect != "NoExecute";
        }
        (run, stay)
    }
}

/// Whether a set has to be looked at because of a node that came or changed. `scheduled` tells whether it has a
/// pod there.
pub fn concerns(set: &DaemonSet, node: &Node, scheduled: bool) -> bool {
    let (run, stay) = Place::new(set).fits(node);
    let misscheduled = set.status.as_ref().is_some_and(|s| s.number_misscheduled > 0);
    if scheduled { !stay || misscheduled } else { run }
}

/// What there is.
pub struct Input<'i, 'a> {
    /// The set.
    pub set: &'i DaemonSet,
    /// All nodes.
    pub nodes: &'i [&'i Node],
    /// The pods that the set controls.
    pub owned: &'i [&'a Pod],
    /// The hash of its template.
    pub hash: &'i str,
    /// False while creations or deletions of an earlier step have not been seen yet.
    pub settled: bool,
    /// What the last step left.
    pub failures: Failures,
    /// The time.
    pub now: Timestamp,
}

struct Work<'i, 'a> {
    input: Input<'i, 'a>,
    /// Per node: its pods, and whether one should be there.
    places: BTreeMap<&'i str, Here<'a>>,
    plan: Plan<'a>,
}

#[derive(Default)]
struct Here<'a> {
    pods: Vec<&'a Pod>,
    run: bool,
    stay: bool,
    known: bool,
}

/// One step of the set.
pub fn plan<'a>(input: Input<'_, 'a>) -> Plan<'a> {
    let place = Place::new(input.set);
    let mut places: BTreeMap<&str, Here<'a>> = BTreeMap::new();
    for node in input.nodes {
        let (run, stay) = place.fits(node);
        places.insert(pods::name(&node.metadata), Here { pods: Vec::new(), run, stay, known: true });
    }
    for pod in input.owned.iter().copied() {
        // One that has ended and is being deleted is held by somebody else.
        if let Some(node) = target(pod).filter(|_| !(pods::finished(pod) && pods::terminating(pod))) {
            places.entry(node).or_default().pods.push(pod);
        }
    }
    for here in places.values_mut() {
        here.pods.sort_by_key(|pod| {
            (pods::node_name(pod).is_empty(), pods::created(&pod.metadata), pods::name(&pod.metadata))
        });
    }
    let mut work = Work { input, places, plan: Plan::default() };
    work.keep_failures();
    work.status();
    if work.input.settled {
        work.manage();
        if work.plan.create.is_empty() && work.plan.delete.is_empty() {
            work.roll();
        }
        work.plan.create.truncate(BURST);
        work.plan.delete.truncate(BURST);
    }
    let min_ready = work.min_ready();
    let available = super::replicaset::next_available(work.input.owned, min_ready, work.input.now);
    work.plan.again_at = [work.plan.again_at, available].into_iter().flatten().min();
    work.plan
}

impl<'a> Work<'_, 'a> {
    fn min_ready(&self) -> i32 {
        self.input.set.spec.min_ready_seconds.unwrap_or(0)
    }

    fn available(&self, pod: &Pod) -> bool {
        pods::available(pod, self.min_ready(), self.input.now)
    }

    fn is_current(&self, pod: &Pod) -> bool {
        let label = |key: &str| pod.metadata.labels.as_ref().and_then(|l| l.get(key)).map(String::as_str);
        let generation = generation(self.input.set).map(|g| g.to_string());
        self.has_hash(pod) || generation.is_some() && label(GENERATION_LABEL) == generation.as_deref()
    }

    /// Another generation of the set, or a node that is gone, starts anew.
    fn keep_failures(&mut self) {
        let failures = std::mem::take(&mut self.input.failures);
        let mut failures = failures.of_generation(self.input.set.metadata.generation);
        let places = &self.places;
        failures.retain(|node| places.get(node).is_some_and(|here| here.known));
        self.plan.failures = failures;
    }

    fn status(&mut self) {
        let set = self.input.set;
        let old = set.status.clone().unwrap_or_default();
        let mut status = DaemonSetStatus {
            observed_generation: if self.input.settled {
                set.metadata.generation
            } else {
                old.observed_generation
            },
            collision_count: old.collision_count,
            conditions: old.conditions,
            ..DaemonSetStatus::default()
        };
        let (mut available, mut updated) = (0, 0);
        for here in self.places.values().filter(|here| here.known) {
            let first = here.pods.first();
            if !here.run {
                status.number_misscheduled += i32::from(first.is_some());
                continue;
            }
            status.desired_number_scheduled += 1;
            let Some(pod) = first else { continue };
            status.current_number_scheduled += 1;
            status.number_ready += i32::from(pods::ready(pod));
            available += i32::from(self.available(pod));
            updated += i32::from(self.is_current(pod));
        }
        status.number_available = Some(available);
        status.number_unavailable = Some(status.desired_number_scheduled - available);
        status.updated_number_scheduled = Some(updated);
        self.plan.status = status;
    }

    /// One pod on each node that should have one, none where none may stay.
    fn manage(&mut self) {
        let surges = self.bounds().0 > 0;
        for (node, here) in std::mem::take(&mut self.places) {
            if !here.known {
                // Its node is gone: what was never bound nobody else deletes.
                let unbound = here.pods.iter().filter(|pod| pods::node_name(pod).is_empty());
                self.plan.delete.extend(unbound.filter(|pod| !pods::terminating(pod)));
            } else if here.run && here.pods.is_empty() {
                self.plan.create.push(node.to_owned());
            } else if here.stay {
                let running = self.sort_out_ended(node, &here.pods);
                self.sort_out_running(node, here.run, surges, &running);
            } else {
                self.plan.delete.extend(here.pods.iter().filter(|pod| !pods::terminating(pod)));
            }
            self.places.insert(node, here);
        }
    }

    /// Deletes pods that ended, failed ones after a while; what runs.
    fn sort_out_ended(&mut self, node: &str, here: &[&'a Pod]) -> Vec<&'a Pod> {
        let mut running = Vec::new();
        for pod in here.iter().copied().filter(|pod| !pods::terminating(pod)) {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let name = format!("{namespace}/{}", pods::name(&pod.metadata));
            match pods::phase(pod) {
                "Failed" => {
                    if let Some(until) = self.plan.failures.wait(node, self.input.now) {
                        let before = self.plan.again_at.unwrap_or(until);
                        self.plan.again_at = Some(before.min(until));
                        continue;
                    }
                    self.plan.failures.note(node, self.input.now);
                    let text = format!("Found failed daemon pod {name} on node {node}, will try to kill it");
                    self.plan.notices.push(Notice::warning("FailedDaemonPod", text));
                    self.plan.delete.push(pod);
                }
                "Succeeded" => {
                    let text =
                        format!("Found succeeded daemon pod {name} on node {node}, will try to delete it");
                    self.plan.notices.push(Notice::normal("SucceededDaemonPod", text));
                    self.plan.delete.push(pod);
                }
                _ => running.push(pod),
            }
        }
        running
    }

    /// Of the pods that run on one node, the oldest stays; while surging, the oldest of either revision.
    fn sort_out_running(&mut self, node: &str, run: bool, surges: bool, running: &[&'a Pod]) {
        if !surges {
            self.plan.delete.extend(running.iter().skip(1));
            return;
        }
        if running.is_empty() && run {
            self.plan.create.push(node.to_owned());
        }
        if running.len() < 2 {
            return;
        }
        let (new, old): (Vec<&Pod>, Vec<&Pod>) = running.iter().partition(|pod| self.has_hash(pod));
        self.plan.delete.extend(new.iter().skip(1).chain(old.iter().skip(1)));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!pods::ready(old) || self.available(new))
        {
            self.plan.delete.push(old);
        }
    }

    fn has_hash(&self, pod: &Pod) -> bool {
        let label = pod.metadata.labels.as_ref().and_then(|l| l.get(REVISION));
        label.is_some_and(|hash| hash == self.input.hash)
    }

    /// The nodes that have or should have a pod.
    fn counted(&self) -> impl Iterator<Item = (&str, &Here<'a>)> {
        self.places
            .iter()
            .filter(|(_, here)| here.run || !here.pods.is_empty())
            .map(|(node, here)| (*node, here))
    }
}
