//! Which nodes can take a pod, in upstream's order of checks, with upstream's reasons.

use std::borrow::Cow;
use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::cluster::{Cluster, NodeInfo};
use super::interpod::InterPod;
use super::pod::{PodInfo, Wishes};
use super::reasons::{Hints, Reason, Unschedulable};
use super::spread::Spread;

/// The taint that `kubectl cordon` stands for.
const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// Everything about one pod that is computed once for all nodes.
pub(super) struct Filters<'a> {
    pod: &'a PodInfo,
    wishes: &'a Wishes,
    only: Option<HashSet<&'a str>>,
    pub inter_pod: InterPod,
    pub spread: Spread,
}

impl<'a> Filters<'a> {
    pub fn new(cluster: &Cluster, pod: &'a PodInfo, wishes: &'a Wishes) -> Self {
        Self {
            pod,
            wishes,
            only: wishes.node.only_nodes().map(|names| names.into_iter().collect()),
            inter_pod: InterPod::new(cluster, pod),
            spread: Spread::new(cluster, pod, wishes),
        }
    }

    /// Whether the node can take the pod; if not, its reasons are counted.
    pub fn check(&self, node: &NodeInfo, unplaced: &mut Unschedulable) -> bool {
        if self.only.as_ref().is_some_and(|names| !names.contains(node.name())) {
            unplaced.count(Reason::new("node(s) didn't satisfy plugin(s) [NodeAffinity]", Hints::none()));
            return false;
        }
        if let Some(reason) = self.node_itself(node) {
            unplaced.count(reason);
            return false;
        }
        let lacking = insufficient(self.pod, node);
        if !lacking.is_empty() {
            lacking.into_iter().for_each(|reason| unplaced.count(reason));
            return false;
        }
        let neighbours =
            self.spread.filter(node.labels()).or_else(|| self.inter_pod.filter(self.pod, node.labels()));
        let fits = neighbours.is_none();
        neighbours.into_iter().for_each(|reason| unplaced.count(reason));
        fits
    }

    fn node_itself(&self, node: &NodeInfo) -> Option<Reason> {
        let wishes = self.wishes;
        if node.unschedulable && !tolerated(&wishes.tolerations, &cordon_taint()) {
            return Some(Reason::new("node(s) were unschedulable", Hints::NODE_TAINTS));
        }
        if wishes.node_name.as_deref().is_some_and(|name| name != node.name()) {
            return Some(Reason::new("node(s) didn't match the requested node name", Hints::none()));
        }
        if let Some(taint) = node.taints.iter().find(|t| is_hard(t) && !tolerated(&wishes.tolerations, t)) {
            let value = taint.value.as_deref().unwrap_or_default();
            let text = format!("node(s) had untolerated taint {{{}: {value}}}", taint.key);
            return Some(Reason { text: Cow::Owned(text), hints: Hints::NODE_TAINTS });
        }
        if !wishes.node.matches(node.name(), node.labels()) {
            return Some(Reason::new(
                "node(s) didn't match Pod's node affinity/selector",
                Hints::NODE_LABELS,
            ));
        }
        let clash = |port| node.pods().any(|p| p.ports.iter().any(|taken| taken.conflicts(port)));
        if self.pod.ports.iter().any(clash) {
            return Some(Reason::new(
                "node(s) didn't have free ports for the requested pod ports",
                Hints::POD_GONE,
            ));
        }
        None
    }
}

fn cordon_taint() -> Taint {
    Taint { key: UNSCHEDULABLE_TAINT.into(), effect: "NoSchedule".into(), ..Taint::default() }
}

fn is_hard(taint: &Taint) -> bool {
    matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
}

/// Whether one toleration covers the taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.as_deref().unwrap_or_default().to_owned();
    let (key, effect, value) = (given(&toleration.key), given(&toleration.effect), given(&toleration.value));
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let operator = toleration.operator.as_deref().unwrap_or_default();
    if key.is_empty() {
        return operator == "Exists";
    }
    let have = taint.value.as_deref().unwrap_or_default();
    key == taint.key
        && match operator {
            "" | "Equal" => value == have,
            "Exists" => true,
            "Gt" | "Lt" => {
                numbers(have, &value).is_some_and(|(a, b)| if operator == "Gt" { a > b } else { a < b })
            }
            _ => false,
        }
}

fn numbers(a: &str, b: &str) -> Option<(i64, i64)> {
    Some((a.parse().ok()?, b.parse().ok()?))
}

/// Whether any toleration covers the taint.
pub(super) fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| tolerates(t, taint))
}

pub(super) fn tolerates_hard_taints(wishes: &Wishes, node: &NodeInfo) -> bool {
    node.taints.iter().filter(|t| is_hard(t)).all(|t| tolerated(&wishes.tolerations, t))
}

const FIT: Hints = Hints::NODE_ALLOCATABLE.union(Hints::POD_GONE);

/// The resources that the node lacks for the pod.
fn insufficient(pod: &PodInfo, node: &NodeInfo) -> Vec<Reason> {
    let mut lacking = Vec::new();
    if node.pod_count() + 1 > node.max_pods {
        lacking.push(Reason::new("Too many pods", FIT));
    }
    let (need, have, used) = (&pod.requests, &node.allocatable, &node.used);
    let mut check = |need: i64, have: i64, used: i64, text: Cow<'static, str>| {
        // A pod that asks for nothing fits even where too much was promised already.
        if need > 0 && need > have.saturating_sub(used) {
            lacking.push(Reason { text, hints: FIT });
        }
    };
    check(need.milli_cpu, have.milli_cpu, used.milli_cpu, Cow::Borrowed("Insufficient cpu"));
    check(need.memory, have.memory, used.memory, Cow::Borrowed("Insufficient memory"));
    check(need.ephemeral, have.ephemeral, used.ephemeral, Cow::Borrowed("Insufficient ephemeral-storage"));
    for (name, amount) in &need.extended {
        check(*amount, have.get(name), used.get(name), Cow::Owned(format!("Insufficient {name}")));
    }
    lacking
}
