//! Which pods must leave where tenants have queues: not only the less important, but whoever has more than it is guaranteed
//! for who has less; and nobody who has not.
//!
//! On each node, those who could leave go in the order of what their queues deserve, then as many as fit come back, the most
//! deserving first. A disruption budget is never violated to take something back. A gang that would be left with fewer
//! members than it needs goes as a whole, if nothing else helps.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::class::Class;
use super::cluster::{Cluster, NodeFilter};
use super::pod::PodInfo;
use super::preempt::{self, Budgets, Choice, Rank, Room, by_importance, refusal, split};
use super::seats::Reserved;
use super::world::World;
use crate::fairness::{Claim, Tenants, Yield};

/// How bad it is to let these pods go: violated budgets, broken gangs, how many where something is taken back, how much their
/// queue deserves them, and then as without queues.
type Cost = (usize, usize, usize, i64, Rank);

/// Pods that could leave, and whether that would violate a budget.
type Potential = Vec<(Arc<PodInfo>, bool)>;

/// A node on which pods are taken off and put back, to see what it takes.
trait Trial {
    fn yields(&self, pod: &PodInfo) -> Option<Yield>;
    fn take_off(&mut self, pod: &Arc<PodInfo>);
    fn put_back(&mut self, pod: &Arc<PodInfo>);
    fn fits(&mut self) -> bool;
}

/// On paper: where only the node itself and the queues matter.
struct Sketch<'a> {
    room: Room<'a>,
    world: &'a World,
    tenants: &'a mut Tenants,
    pod: &'a PodInfo,
    claim: &'a Claim,
    /// What is off now.
    off: HashMap<Box<str>, Arc<PodInfo>>,
    on: Vec<&'a Arc<PodInfo>>,
}

impl Trial for Sketch<'_> {
    fn yields(&self, pod: &PodInfo) -> Option<Yield> {
        self.tenants.yields(self.claim, pod)
    }

    fn take_off(&mut self, pod: &Arc<PodInfo>) {
        self.room.give(self.world, pod);
        self.tenants.count(pod, false);
        self.off.insert(pod.uid.clone(), pod.clone());
    }

    fn put_back(&mut self, pod: &Arc<PodInfo>) {
        // The room keeps ports of who is there by reference.
        if let Some(there) = self.on.iter().find(|there| there.uid == pod.uid) {
            self.room.take(self.world, there);
        }
        self.tenants.count(pod, true);
        self.off.remove(&pod.uid);
    }

    fn fits(&mut self) -> bool {
        self.room.status().is_ok() && self.tenants.admit(self.pod).is_ok()
    }
}

impl Drop for Sketch<'_> {
    fn drop(&mut self) {
        self.off.values().for_each(|pod| self.tenants.count(pod, true));
    }
}

/// For real, to be taken back: where other nodes have a say.
struct Real<'a> {
    cluster: &'a mut Cluster,
    pod: &'a PodInfo,
    node: &'a str,
    claim: &'a Claim,
}

impl Trial for Real<'_> {
    fn yields(&self, pod: &PodInfo) -> Option<Yield> {
        self.cluster.tenants.as_ref()?.yields(self.claim, pod)
    }

    fn take_off(&mut self, pod: &Arc<PodInfo>) {
        self.cluster.remove_pod(&pod.uid);
    }

    fn put_back(&mut self, pod: &Arc<PodInfo>) {
        self.cluster.assume((**pod).clone(), self.node);
    }

    fn fits(&mut self) -> bool {
        self.cluster.admit(self.pod).is_ok() && self.cluster.fits_on(self.pod, self.node)
    }
}

/// Who must leave, and how many budgets that violates; nothing when it would not help.
fn victims(trial: &mut impl Trial, potential: &Potential) -> Option<(Vec<Arc<PodInfo>>, usize)> {
    let mut off: Vec<&(Arc<PodInfo>, bool)> = Vec::new();
    for one in potential {
        // What goes before may leave its queue with no more than it is guaranteed.
        if trial.yields(&one.0).is_some() {
            trial.take_off(&one.0);
            off.push(one);
        }
    }
    if off.is_empty() || !trial.fits() {
        return None;
    }
    let (mut gone, mut violations) = (Vec::new(), 0);
    // Those that a budget keeps come back first.
    off.reverse();
    off.sort_by_key(|(_, violates)| !violates);
    for (pod, violates) in off {
        trial.put_back(pod);
        if !trial.fits() {
            trial.take_off(pod);
            violations += usize::from(*violates);
            gone.push(pod.clone());
        }
    }
    gone.sort_by(by_importance);
    Some((gone, violations))
}

/// Whether a pod could leave for the claim, and why: who took a seat is not less important than the seat.
fn yields(tenants: &Tenants, reserved: Option<&Reserved>, claim: &Claim, pod: &PodInfo) -> Option<Yield> {
    let shield = || reserved.and_then(|reserved| reserved.shield(pod));
    let why = tenants.yields(claim, pod)?;
    (why != Yield::Preempted || shield().is_none_or(|shield| shield < claim.priority())).then_some(why)
}

/// Who could leave a node for the claim, the least deserving first.
fn potential(
    tenants: &Tenants,
    reserved: Option<&Reserved>,
    (claim, budgets): (&Claim, &Budgets),
    pods: &[Arc<PodInfo>],
) -> Potential {
    let mut able: Vec<Arc<PodInfo>> =
        pods.iter().filter(|p| yields(tenants, reserved, claim, p).is_some()).cloned().collect();
    able.sort_by(by_importance);
    let (violating, others) = if budgets.is_empty() { (Vec::new(), able) } else { split(budgets, able) };
    let spared = violating.into_iter().filter(|p| tenants.yields(claim, p) == Some(Yield::Preempted));
    let mut all: Potential =
        spared.map(|p| (p, true)).chain(others.into_iter().map(|p| (p, false))).collect();
    all.sort_by_cached_key(|(pod, _)| (tenants.deserts(pod), pod.uid.clone()));
    all
}

/// What can be known of a node before anybody is taken off it.
struct Scan<'a> {
    pod: &'a PodInfo,
    claim: &'a Claim,
    budgets: &'a Budgets,
}

impl Scan<'_> {
    fn sketch(
        &self,
        class: &Class,
        world: &World,
        (tenants, reserved): (&mut Tenants, Option<&Reserved>),
        node: usize,
    ) -> Result<(Vec<Arc<PodInfo>>, usize), bool> {
        let on: Vec<&Arc<PodInfo>> = world.nodes[node].pods.iter().collect();
        let potential = potential(tenants, reserved, (self.claim, self.budgets), &world.nodes[node].pods);
        if potential.is_empty() {
            return Err(false);
        }
        if !preempt::zones_without(class, world, node, potential.iter().map(|(pod, _)| pod)).is_ok() {
            return Err(true);
        }
        let room = Room::new(class, world, node);
        let (pod, claim) = (self.pod, self.claim);
        let mut sketch = Sketch { room, world, tenants, pod, claim, off: HashMap::new(), on };
        victims(&mut sketch, &potential).ok_or(true)
    }
}

impl Cluster {
    /// Who must leave where, so that the pod fits and its queue lets it in, or why that does not help.
    pub(super) fn reclaim(
        &mut self,
        pod: &PodInfo,
        seed: u64,
        filter: Option<NodeFilter<'_>>,
    ) -> Result<Choice, String> {
        let Some(claim) = self.tenants.as_ref().map(|tenants| tenants.claim(pod)) else {
            return Err("there are no queues".to_owned());
        };
        let budgets = std::mem::take(&mut self.budgets);
        let pins = self.pins(pod).map(|pins| pins.nodes);
        let (class, world) = self.needs_of(pod);
        let dependent = preempt::depends_on_others(class);
        let able = |node: &usize| {
            let status = class.status(*node);
            let may = filter.is_none_or(|filter| filter(world.nodes.candidate(*node)).is_ok());
            may && (status.is_ok() || status.is_resolvable())
        };
        let all = pins.unwrap_or_else(|| world.nodes.live_nodes().collect());
        let nodes: Vec<usize> = all.into_iter().filter(able).collect();
        let scan = Scan { pod, claim: &claim, budgets: &budgets };
        let (mut found, no_victims, unfit) =
            if dependent { self.try_nodes(&scan, &nodes, seed) } else { self.sketch_nodes(&scan, &nodes) };
        found.sort_by(|(cost, a), (other, b)| (cost, a.0).cmp(&(other, b.0)));
        let best = found.into_iter().find_map(|(_, choice)| self.whole(&claim, &budgets, choice));
        self.budgets = budgets;
        best.ok_or_else(|| {
            let text = "node(s) would not fit the pod without those that could leave";
            let reasons =
                if unfit > 0 { BTreeMap::from([(text.to_owned(), unfit)]) } else { BTreeMap::new() };
            refusal(&self.world, no_victims, unfit, reasons)
        })
    }

    fn sketch_nodes(&mut self, scan: &Scan<'_>, nodes: &[usize]) -> (Vec<(Cost, Choice)>, usize, usize) {
        let Some(mut tenants) = self.tenants.take() else { return (Vec::new(), 0, 0) };
        let reserved = self.reserved.take();
        let (class, world) = self.needs_of(scan.pod);
        let (mut found, mut no_victims, mut unfit) = (Vec::new(), 0, 0);
        for node in nodes {
            match scan.sketch(class, world, (&mut tenants, reserved.as_deref()), *node) {
                Ok((victims, violations)) => found.push((*node, victims, violations)),
                Err(false) => no_victims += 1,
                Err(true) => unfit += 1,
            }
        }
        self.tenants = Some(tenants);
        self.reserved = reserved;
        let costed = found.into_iter().map(|choice| (self.cost(scan.claim, &choice), choice));
        (costed.collect(), no_victims, unfit)
    }

    /// At most a tenth of the nodes, and a hundred: each is tried out for real.
    fn try_nodes(
        &mut self,
        scan: &Scan<'_>,
        nodes: &[usize],
        seed: u64,
    ) -> (Vec<(Cost, Choice)>, usize, usize) {
        let enough = (nodes.len() / 10).max(100);
        let offset = usize::try_from(seed % nodes.len().max(1) as u64).unwrap_or(0);
        let (mut found, mut no_victims, mut unfit) = (Vec::new(), 0, 0);
        for at in 0..nodes.len() {
            if found.len() >= enough {
                break;
            }
            let node = nodes[(offset + at) % nodes.len()];
            let Some(tenants) = &self.tenants else { break };
            let spares = (scan.claim, scan.budgets);
            let potential =
                potential(tenants, self.reserved.as_deref(), spares, &self.world.nodes[node].pods);
            if potential.is_empty() {
                no_victims += 1;
                continue;
            }
            let name = self.world.nodes[node].name.clone();
            let tried = self.attempt(|cluster| {
                let mut real = Real { cluster, pod: scan.pod, node: &name, claim: scan.claim };
                (victims(&mut real, &potential), false)
            });
            match tried {
                Some((victims, violations)) => {
                    let choice = (node, victims, violations);
                    found.push((self.cost(scan.claim, &choice), choice));
                }
                None => unfit += 1,
            }
        }
        (found, no_victims, unfit)
    }

    fn cost(&self, claim: &Claim, (_, victims, violations): &Choice) -> Cost {
        let broken = self.broken(victims).len();
        let deserts = victims.iter().filter_map(|v| Some(self.tenants.as_ref()?.deserts(v).0.0));
        let (count, deserves) =
            if claim.is_of_right() { (victims.len(), -deserts.min().unwrap_or(0)) } else { (0, 0) };
        (*violations, broken, count, deserves, preempt::rank(victims, *violations))
    }

    /// The gangs that would be left with fewer members than they need.
    fn broken(&self, victims: &[Arc<PodInfo>]) -> HashSet<(Box<str>, Box<str>)> {
        let mut lost: HashMap<(Box<str>, Box<str>), (u32, u32)> = HashMap::new();
        for group in victims.iter().filter_map(|victim| victim.group()) {
            let min = self.min_of(group).unwrap_or(0);
            lost.entry((group.namespace.clone(), group.name.clone())).or_insert((0, min)).0 += 1;
        }
        let placed = |key: &(Box<str>, Box<str>)| self.gangs.get(key).copied().unwrap_or(0);
        let breaks = |key: &(Box<str>, Box<str>), (lost, min): &(u32, u32)| {
            placed(key) > *lost && placed(key) - lost < *min
        };
        lost.into_iter().filter(|(key, counts)| breaks(key, counts)).map(|(key, _)| key).collect()
    }

    /// The same with all members of gangs that would be of no use without those that leave; nothing when they may not go.
    fn whole(
        &self,
        claim: &Claim,
        budgets: &Budgets,
        (node, mut victims, violations): Choice,
    ) -> Option<Choice> {
        let broken = self.broken(&victims);
        if broken.is_empty() {
            return Some((node, victims, violations));
        }
        let tenants = self.tenants.as_ref()?;
        let known: HashSet<Box<str>> = victims.iter().map(|v| v.uid.clone()).collect();
        let of_broken = |pod: &&Arc<PodInfo>| {
            let group = pod.group().map(|g| (g.namespace.clone(), g.name.clone()));
            group.is_some_and(|key| broken.contains(&key)) && !known.contains(&pod.uid)
        };
        let mut mates: Vec<Arc<PodInfo>> =
            self.pods.values().map(|bound| &bound.pod).filter(of_broken).cloned().collect();
        mates.sort_by(by_importance);
        let reserved = self.reserved.as_deref();
        if mates.iter().any(|mate| yields(tenants, reserved, claim, mate).is_none()) {
            return None;
        }
        victims.extend(mates);
        victims.sort_by(by_importance);
        let (violating, _) = split(budgets, victims.clone());
        let kept = violating.iter().any(|v| tenants.yields(claim, v) != Some(Yield::Preempted));
        (!kept).then_some((node, victims, violations.max(violating.len())))
    }
}
