//! Every filter and score again, slow and obvious: all nodes and all pods looked at for each question, straight from
//! the API objects.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{Node, Pod, PodAffinityTerm, TopologySpreadConstraint};

use super::super::resources::{Resources, nonzero_requests, pod_requests};
use super::super::tolerates_taint;
use crate::pods;
use crate::quantity;
use crate::selector::{Labels, Requirement, Selector};

/// Nodes, bound pods, labels of namespaces.
#[derive(Debug, Clone, Default)]
pub struct Reference {
    pub nodes: BTreeMap<String, Node>,
    pub pods: BTreeMap<String, Pod>,
    pub namespaces: HashMap<String, Labels>,
}

fn labels(node: &Node) -> Labels {
    node.metadata.labels.clone().unwrap_or_default()
}

fn pod_labels(pod: &Pod) -> Labels {
    pod.metadata.labels.clone().unwrap_or_default()
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

fn allocatable(node: &Node) -> (Resources, i64) {
    let list = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    let pods = list.and_then(|l| l.get("pods")).and_then(|q| quantity::value(&q.0)).unwrap_or(0);
    (Resources::new(list), pods)
}

impl Reference {
    fn on(&self, node: &str) -> Vec<&Pod> {
        self.pods.values().filter(|p| pods::node_name(p) == node).collect()
    }

    fn used(&self, node: &str) -> (Resources, i64, i64) {
        let mut used = Resources::default();
        let (mut cpu, mut memory) = (0, 0);
        for pod in self.on(node) {
            let spec = pod.spec.as_ref().unwrap();
            used.add(&pod_requests(spec));
            let nonzero = nonzero_requests(spec);
            cpu += nonzero.0;
            memory += nonzero.1;
        }
        (used, cpu, memory)
    }

    fn term_matches(&self, term: &PodAffinityTerm, owner: &Pod, target: &Pod) -> bool {
        let names = term.namespaces.clone().unwrap_or_default();
        let here = match &term.namespace_selector {
            None if names.is_empty() => namespace(target) == namespace(owner),
            None => names.iter().any(|n| n == namespace(target)),
            Some(selector) => {
                names.iter().any(|n| n == namespace(target))
                    || Selector::new(Some(selector)).matches(self.namespaces.get(namespace(target)))
            }
        };
        here && Selector::new(term.label_selector.as_ref()).matches(Some(&pod_labels(target)))
    }

    fn required(pod: &Pod, anti: bool) -> Vec<PodAffinityTerm> {
        let Some(affinity) = pod.spec.as_ref().and_then(|s| s.affinity.clone()) else { return Vec::new() };
        let list = if anti {
            affinity.pod_anti_affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution)
        } else {
            affinity.pod_affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution)
        };
        list.unwrap_or_default()
    }

    fn preferred(pod: &Pod) -> Vec<(i64, PodAffinityTerm)> {
        let Some(affinity) = pod.spec.as_ref().and_then(|s| s.affinity.clone()) else { return Vec::new() };
        let with = affinity.pod_affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution);
        let against =
            affinity.pod_anti_affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution);
        let with = with.unwrap_or_default().into_iter().map(|w| (i64::from(w.weight), w.pod_affinity_term));
        let against =
            against.unwrap_or_default().into_iter().map(|w| (-i64::from(w.weight), w.pod_affinity_term));
        with.chain(against).collect()
    }

    fn suits(pod: &Pod, node: &Node) -> bool {
        super::super::matches_node(pod.spec.as_ref().unwrap(), node)
    }

    fn tolerated(pod: &Pod, node: &Node, effects: &[&str]) -> bool {
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.clone()).unwrap_or_default();
        let taints = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        taints
            .iter()
            .filter(|t| effects.contains(&t.effect.as_str()))
            .all(|taint| tolerations.iter().any(|t| tolerates_taint(t, taint)))
    }

    fn constraints(pod: &Pod, hard: bool) -> Vec<TopologySpreadConstraint> {
        let all = pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.clone()).unwrap_or_default();
        all.into_iter().filter(|c| (c.when_unsatisfiable == "DoNotSchedule") == hard).collect()
    }

    fn spread_selector(pod: &Pod, constraint: &TopologySpreadConstraint) -> Selector {
        let mut selector = Selector::new(constraint.label_selector.as_ref());
        for key in constraint.match_label_keys.iter().flatten() {
            if let Some(value) = pod_labels(pod).get(key) {
                selector.require(Requirement::equals(key, value));
            }
        }
        selector
    }

    /// The pods on a node that a constraint counts.
    fn spread_count(&self, pod: &Pod, node: &str, selector: &Selector) -> i64 {
        if selector.is_everything() {
            return 0;
        }
        let counted = |p: &&Pod| {
            !pods::terminating(p) && namespace(p) == namespace(pod) && selector.matches(Some(&pod_labels(p)))
        };
        self.on(node).into_iter().filter(counted).count() as i64
    }

    fn eligible(pod: &Pod, node: &Node, constraint: &TopologySpreadConstraint, all: &[String]) -> bool {
        let honor_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
        let honor_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
        all.iter().all(|key| labels(node).contains_key(key))
            && (!honor_affinity || Self::suits(pod, node))
            && (!honor_taints || Self::tolerated(pod, node, &["NoSchedule", "NoExecute"]))
    }

    /// Why the node cannot take the pod; nothing when it can.
    pub fn against(&self, pod: &Pod, name: &str) -> Vec<String> {
        let node = &self.nodes[name];
        let spec = pod.spec.as_ref().unwrap();
        let one = |text: &str| vec![text.to_owned()];
        let cordoned = node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
        let tolerations = spec.tolerations.clone().unwrap_or_default();
        let cordon = k8s_openapi::api::core::v1::Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: "NoSchedule".into(),
            ..Default::default()
        };
        if cordoned && !tolerations.iter().any(|t| tolerates_taint(t, &cordon)) {
            return one("node(s) were unschedulable");
        }
        if !Self::tolerated(pod, node, &["NoSchedule", "NoExecute"]) {
            return one("node(s) had untolerated taint(s)");
        }
        if !Self::suits(pod, node) {
            return one("node(s) didn't match Pod's node affinity/selector");
        }
        if self.ports_clash(pod, name) {
            return one("node(s) didn't have free ports for the requested pod ports");
        }
        let lacking = self.lacking(pod, name);
        if !lacking.is_empty() {
            return lacking;
        }
        if let Some(reason) = self.spread_against(pod, node) {
            return one(reason);
        }
        self.neighbours_against(pod, node).map(one).unwrap_or_default()
    }

    fn ports_clash(&self, pod: &Pod, name: &str) -> bool {
        let ports = |pod: &Pod| {
            let containers = pod.spec.as_ref().map(|s| s.containers.clone()).unwrap_or_default();
            containers.into_iter().flat_map(|c| c.ports.unwrap_or_default()).filter_map(|p| {
                let ip = p.host_ip.unwrap_or_default();
                let ip = if ip.is_empty() { "0.0.0.0".to_owned() } else { ip };
                Some((ip, p.protocol.unwrap_or("TCP".into()), p.host_port.filter(|p| *p > 0)?))
            })
        };
        let wanted: Vec<_> = ports(pod).collect();
        self.on(name).into_iter().flat_map(ports).any(|(ip, protocol, port)| {
            wanted.iter().any(|(want_ip, want_protocol, want)| {
                port == *want
                    && protocol == *want_protocol
                    && (ip == *want_ip || ip == "0.0.0.0" || want_ip == "0.0.0.0")
            })
        })
    }

    fn lacking(&self, pod: &Pod, name: &str) -> Vec<String> {
        let (have, max_pods) = allocatable(&self.nodes[name]);
        let (used, _, _) = self.used(name);
        let need = pod_requests(pod.spec.as_ref().unwrap());
        let mut lacking = Vec::new();
        if self.on(name).len() as i64 + 1 > max_pods {
            lacking.push("Too many pods".to_owned());
        }
        let mut check = |name: &str, need: i64, have: i64, used: i64| {
            if need > 0 && need > have - used {
                lacking.push(format!("Insufficient {name}"));
            }
        };
        check("cpu", need.milli_cpu, have.milli_cpu, used.milli_cpu);
        check("memory", need.memory, have.memory, used.memory);
        check("ephemeral-storage", need.ephemeral, have.ephemeral, used.ephemeral);
        for (name, amount) in &need.extended {
            check(name, *amount, have.get(name), used.get(name));
        }
        lacking
    }

    fn spread_against(&self, pod: &Pod, node: &Node) -> Option<&'static str> {
        let constraints = Self::constraints(pod, true);
        let keys: Vec<String> = constraints.iter().map(|c| c.topology_key.clone()).collect();
        for constraint in &constraints {
            let Some(mine) = labels(node).get(&constraint.topology_key).cloned() else {
                return Some("node(s) didn't match pod topology spread constraints (missing required label)");
            };
            let selector = Self::spread_selector(pod, constraint);
            let mut domains: BTreeMap<String, i64> = BTreeMap::new();
            for (name, other) in &self.nodes {
                if Self::eligible(pod, other, constraint, &keys) {
                    let value = labels(other)[&constraint.topology_key].clone();
                    *domains.entry(value).or_default() += self.spread_count(pod, name, &selector);
                }
            }
            let enough = domains.len() as i64 >= constraint.min_domains.unwrap_or(1).into();
            let least = if enough { domains.values().min().copied().unwrap_or(0) } else { 0 };
            let itself = i64::from(selector.matches(Some(&pod_labels(pod))));
            let here = domains.get(&mine).copied().unwrap_or(0);
            if here + itself - least > constraint.max_skew.into() {
                return Some("node(s) didn't match pod topology spread constraints");
            }
        }
        None
    }

    /// How many bound pods in the node's domain of a topology satisfy the test.
    fn in_domain(&self, node: &Node, key: &str, test: impl Fn(&Pod) -> bool) -> Option<i64> {
        let mine = labels(node).get(key).cloned()?;
        let same = |pod: &&Pod| {
            let there = self.nodes.get(pods::node_name(pod));
            there.is_some_and(|n| labels(n).get(key) == Some(&mine)) && test(pod)
        };
        Some(self.pods.values().filter(same).count() as i64)
    }

    fn neighbours_against(&self, pod: &Pod, node: &Node) -> Option<&'static str> {
        let near = Self::required(pod, false);
        let all = |target: &Pod| near.iter().all(|t| self.term_matches(t, pod, target));
        let mut exists = true;
        for term in &near {
            match self.in_domain(node, &term.topology_key, all) {
                None => return Some("node(s) didn't match pod affinity rules"),
                Some(count) => exists &= count > 0,
            }
        }
        if !exists {
            let anywhere = self.nodes.values().any(|n| {
                near.iter().any(|t| self.in_domain(n, &t.topology_key, all).is_some_and(|count| count > 0))
            });
            if anywhere || !all(pod) {
                return Some("node(s) didn't match pod affinity rules");
            }
        }
        for term in Self::required(pod, true) {
            let one = |target: &Pod| self.term_matches(&term, pod, target);
            if self.in_domain(node, &term.topology_key, one).is_some_and(|count| count > 0) {
                return Some("node(s) didn't match pod anti-affinity rules");
            }
        }
        for other in self.pods.values() {
            let Some(there) = self.nodes.get(pods::node_name(other)) else { continue };
            for term in Self::required(other, true) {
                let (mine, theirs) = (labels(node), labels(there));
                let (mine, theirs) = (mine.get(&term.topology_key), theirs.get(&term.topology_key));
                if mine.is_some() && mine == theirs && self.term_matches(&term, other, pod) {
                    return Some("node(s) didn't satisfy existing pods anti-affinity rules");
                }
            }
        }
        None
    }

    /// The nodes that can take the pod, with their scores by the default profile.
    pub fn evaluate(&self, pod: &Pod) -> BTreeMap<String, i64> {
        let names: Vec<&String> = self.nodes.keys().filter(|n| self.against(pod, n).is_empty()).collect();
        let raw = |f: &dyn Fn(&str) -> i64| -> Vec<i64> { names.iter().map(|n| f(n)).collect() };
        let mut totals = vec![0; names.len()];
        let mut add = |weight: i64, scores: Vec<i64>| {
            totals.iter_mut().zip(scores).for_each(|(total, score)| *total += weight * score);
        };
        add(1, raw(&|n| self.least_allocated(pod, n)));
        add(1, raw(&|n| self.balanced(pod, n)));
        let soft = raw(&|n| self.soft_taints(pod, n));
        let most = soft.iter().max().copied().unwrap_or(0);
        add(3, soft.iter().map(|s| if most == 0 { 100 } else { 100 - s * 100 / most }).collect());
        let affinity = raw(&|n| self.preferred_affinity(pod, n));
        let most = affinity.iter().max().copied().unwrap_or(0);
        add(2, affinity.iter().map(|s| if most == 0 { 0 } else { s * 100 / most }).collect());
        add(2, self.preference(pod, &names));
        add(2, self.spreading(pod, &names));
        add(1, raw(&|n| self.images(pod, n)));
        names.into_iter().cloned().zip(totals).collect()
    }

    fn least_allocated(&self, pod: &Pod, name: &str) -> i64 {
        let (have, _) = allocatable(&self.nodes[name]);
        let (_, cpu, memory) = self.used(name);
        let need = nonzero_requests(pod.spec.as_ref().unwrap());
        let (mut total, mut count) = (0, 0);
        for (have, used) in [(have.milli_cpu, cpu + need.0), (have.memory, memory + need.1)] {
            if have > 0 {
                total += if used > have { 0 } else { (have - used) * 100 / have };
                count += 1;
            }
        }
        if count == 0 { 0 } else { total / count }
    }

    fn balanced(&self, pod: &Pod, name: &str) -> i64 {
        let (have, _) = allocatable(&self.nodes[name]);
        let (used, _, _) = self.used(name);
        let need = pod_requests(pod.spec.as_ref().unwrap());
        if need.milli_cpu == 0 && need.memory == 0 {
            return 0;
        }
        let evenness = |cpu: i64, memory: i64| {
            let mut parts = Vec::new();
            for (used, have) in [(cpu, have.milli_cpu), (memory, have.memory)] {
                if have > 0 {
                    parts.push((used as f64 / have as f64).min(1.0));
                }
            }
            let deviation = if let [a, b] = parts[..] { f64::abs(a - b) / 2.0 } else { 0.0 };
            ((1.0 - deviation) * 100.0) as i64
        };
        let with = evenness(used.milli_cpu + need.milli_cpu, used.memory + need.memory);
        50 + (50 + with - evenness(used.milli_cpu, used.memory)) / 2
    }

    fn soft_taints(&self, pod: &Pod, name: &str) -> i64 {
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.clone()).unwrap_or_default();
        let taints = self.nodes[name].spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        let soft = taints.iter().filter(|t| t.effect == "PreferNoSchedule");
        soft.filter(|taint| !tolerations.iter().any(|t| tolerates_taint(t, taint))).count() as i64
    }

    fn preferred_affinity(&self, pod: &Pod, name: &str) -> i64 {
        let affinity = super::super::affinity::NodeAffinity::new(pod.spec.as_ref().unwrap());
        if affinity.has_preferred() { affinity.score(name, &labels(&self.nodes[name])) } else { 0 }
    }

    fn preference(&self, pod: &Pod, names: &[&String]) -> Vec<i64> {
        let one = |name: &&String| -> i64 {
            let mine = labels(&self.nodes[*name]);
            let mut total = 0;
            for other in self.pods.values() {
                let Some(there) = self.nodes.get(pods::node_name(other)) else { continue };
                let theirs = labels(there);
                let near = |key: &str| mine.contains_key(key) && mine.get(key) == theirs.get(key);
                for (weight, term) in Self::preferred(pod) {
                    if near(&term.topology_key) && self.term_matches(&term, pod, other) {
                        total += weight;
                    }
                }
                let required = Self::required(other, false).into_iter().map(|t| (1, t));
                for (weight, term) in required.chain(Self::preferred(other)) {
                    if near(&term.topology_key) && self.term_matches(&term, other, pod) {
                        total += weight;
                    }
                }
            }
            total
        };
        let raw: Vec<i64> = names.iter().map(one).collect();
        let (least, most) = (raw.iter().min().copied().unwrap_or(0), raw.iter().max().copied().unwrap_or(0));
        let scale = |s: &i64| {
            if most > least { (100.0 * ((s - least) as f64 / (most - least) as f64)) as i64 } else { 0 }
        };
        raw.iter().map(scale).collect()
    }

    fn spreading(&self, pod: &Pod, names: &[&String]) -> Vec<i64> {
        let own = pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_ref()).is_some();
        let constraints = Self::constraints(pod, false);
        if constraints.is_empty() || !own {
            return vec![0; names.len()];
        }
        let keys: Vec<String> = constraints.iter().map(|c| c.topology_key.clone()).collect();
        let ignored = |name: &str| keys.iter().any(|k| !labels(&self.nodes[name]).contains_key(k));
        let scored: Vec<&str> = names.iter().map(|n| n.as_str()).filter(|n| !ignored(n)).collect();
        let mut raw: HashMap<&str, f64> = HashMap::new();
        for constraint in &constraints {
            let selector = Self::spread_selector(pod, constraint);
            let key = &constraint.topology_key;
            let values: BTreeSet<String> =
                scored.iter().map(|n| labels(&self.nodes[*n])[key].clone()).collect();
            let weight = ((values.len() + 2) as f64).ln();
            for name in &scored {
                let mine = &labels(&self.nodes[*name])[key];
                let there = self.nodes.iter().filter(|(_, n)| {
                    labels(n).get(key) == Some(mine) && Self::eligible(pod, n, constraint, &keys)
                });
                let count: i64 = there.map(|(n, _)| self.spread_count(pod, n, &selector)).sum();
                *raw.entry(name).or_default() += count as f64 * weight + f64::from(constraint.max_skew - 1);
            }
        }
        let raw: HashMap<&str, i64> = raw.into_iter().map(|(n, s)| (n, s.round() as i64)).collect();
        let least = raw.values().min().copied().unwrap_or(0);
        let most = raw.values().max().copied().unwrap_or(0);
        let score = |name: &&String| match raw.get(name.as_str()) {
            None => 0,
            Some(_) if most == 0 => 100,
            Some(s) => 100 * (most + least - s) / most,
        };
        names.iter().map(score).collect()
    }

    fn images(&self, pod: &Pod, name: &str) -> i64 {
        let held = |node: &Node, image: &str| -> Option<i64> {
            let images = node.status.as_ref()?.images.as_ref()?;
            let found = images.iter().find(|i| i.names.iter().flatten().any(|n| n == image))?;
            found.size_bytes
        };
        let containers = &pod.spec.as_ref().unwrap().containers;
        let mut sum = 0;
        for container in containers {
            let image = format!("{}:latest", container.image.clone().unwrap_or_default());
            if let Some(size) = held(&self.nodes[name], &image) {
                let holders = self.nodes.values().filter(|n| held(n, &image).is_some()).count();
                sum += (size as f64 * (holders as f64 / self.nodes.len() as f64)) as i64;
            }
        }
        let (small, large) = (23 << 20, (1000 << 20) * containers.len() as i64);
        100 * (sum.clamp(small, large) - small) / (large - small)
    }
}
