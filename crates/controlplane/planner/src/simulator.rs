//! The planner's own decisions under a virtual clock.
//!
//! A [`Scenario`] is nodes, pods that come (and go), and changes of the cluster. [`run`] plays it from a seed: what is
//! decided, and how waiting pods are woken, is what the scheduler does that ships; only API, network and kubelets are
//! left out. The same scenario, profiles and seed give the same [`Outcome`], to the last digit.

mod fairness;
mod queue;
mod sample;
#[cfg(test)]
mod tests;
mod trace;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::pods;
use crate::random::Random;
use crate::scheduler::{Cluster, Hints, PodInfo, Profile};
use queue::{Event, Queue};

pub use fairness::jain;
pub use sample::{Sample, Waits};
pub use trace::{Trace, TraceError, TraceNode, TraceOutcome, TracePod};

/// A pod that comes.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// When, in seconds from the start.
    pub at: f64,
    /// What.
    pub pod: Pod,
    /// How long it runs once it was placed, in seconds; `None` for ever.
    pub lasts: Option<f64>,
}

/// Something that happens to the cluster.
#[derive(Debug, Clone)]
pub enum Change {
    /// A node joins.
    Join(Box<Node>),
    /// A node is lost. Its pods come again, as their controllers would make them anew.
    Lose(String),
    /// All nodes with a label are lost: key and value.
    LoseLabelled(String, String),
}

/// What is played.
#[derive(Debug, Clone, Default)]
pub struct Scenario {
    /// Nodes at the start.
    pub nodes: Vec<Node>,
    /// Pods that run at the start; those without a node come at once.
    pub pods: Vec<Pod>,
    /// Labels of namespaces.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Pods that come.
    pub arrivals: Vec<Arrival>,
    /// What happens, and when (seconds).
    pub changes: Vec<(f64, Change)>,
}

/// How it is played.
#[derive(Debug, Clone)]
pub struct Options {
    /// The scheduler's profiles.
    pub profiles: Vec<Profile>,
    /// Decides among equals, and nothing else.
    pub seed: u64,
    /// Seconds between samples; 0 takes one at each event.
    pub every: f64,
    /// Stop at this time (seconds), whatever is left.
    pub until: Option<f64>,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The cluster over time.
    pub samples: Vec<Sample>,
    /// Pods that came, those made anew included.
    pub arrived: usize,
    /// Pods that were placed at some time.
    pub placed: usize,
    /// Pods that lost their node.
    pub displaced: usize,
    /// Pods still waiting at the end, by the reason the scheduler gives.
    pub waiting: BTreeMap<String, usize>,
    /// How long those placed had waited.
    pub waits: Waits,
    /// When the last event was, in seconds.
    pub end: f64,
}

/// A pod that waits.
struct Waiting {
    pod: PodInfo,
    lasts: Option<f64>,
    since: f64,
    hints: Hints,
    attempts: u32,
    why: String,
}

struct Play {
    cluster: Cluster,
    queue: Queue,
    random: Random,
    waiting: BTreeMap<u64, Waiting>,
    /// uid -> what runs, so that it can be made anew.
    running: HashMap<Box<str>, (PodInfo, Option<f64>)>,
    labels: BTreeMap<String, BTreeMap<String, String>>,
    tenants: BTreeSet<Box<str>>,
    next: u64,
    outcome: Outcome,
}

/// First and last pause before a pod is looked at again, in seconds, as the scheduler has them.
const FIRST_BACKOFF: f64 = 1.0;
const LAST_BACKOFF: f64 = 10.0;

/// Plays a scenario.
pub fn run(scenario: &Scenario, options: &Options) -> Outcome {
    let mut play = Play {
        cluster: Cluster::with_profiles(options.profiles.clone()),
        queue: Queue::default(),
        random: Random::new(options.seed),
        waiting: BTreeMap::new(),
        running: HashMap::new(),
        labels: BTreeMap::new(),
        tenants: BTreeSet::new(),
        next: 0,
        outcome: Outcome::default(),
    };
    play.set_up(scenario);
    let mut sampled: Option<f64> = None;
    while let Some((now, event)) = play.queue.pop() {
        if options.until.is_some_and(|until| now > until) {
            break;
        }
        // What is there just before: a step that lasts shows as one.
        let due = sampled.is_none_or(|last| now - last >= options.every);
        if due && sampled != Some(now) {
            play.sample(play.outcome.end.max(sampled.unwrap_or(0.0)));
            sampled = Some(now);
        }
        play.outcome.end = now;
        play.apply(now, event);
    }
    play.sample(play.outcome.end);
    for waiting in play.waiting.values() {
        *play.outcome.waiting.entry(waiting.why.clone()).or_default() += 1;
    }
    play.outcome
}

impl Play {
    fn set_up(&mut self, scenario: &Scenario) {
        for (name, labels) in &scenario.namespaces {
            self.cluster.set_namespace(name, Some(labels.clone()));
        }
        scenario.nodes.iter().for_each(|node| self.join(node));
        for pod in &scenario.pods {
            let bound = !pods::node_name(pod).is_empty();
            if bound && !pods::finished(pod) {
                self.cluster.upsert_pod(pod);
                let info = PodInfo::pending(pod);
                self.tenants.insert(info.namespace().into());
                self.running.insert(info.uid().into(), (info, None));
            } else if !bound && pods::active(pod) {
                self.queue.push(0.0, Event::Arrival(Box::new(PodInfo::pending(pod)), None));
            }
        }
        for arrival in &scenario.arrivals {
            let info = Box::new(PodInfo::pending(&arrival.pod));
            self.queue.push(arrival.at, Event::Arrival(info, arrival.lasts));
        }
        for (at, change) in &scenario.changes {
            self.queue.push(*at, Event::Change(Box::new(change.clone())));
        }
    }

    fn join(&mut self, node: &Node) {
        let name = pods::name(&node.metadata).to_owned();
        self.labels.insert(name, node.metadata.labels.clone().unwrap_or_default());
        self.cluster.upsert_node(node);
    }

    fn apply(&mut self, now: f64, event: Event) {
        match event {
            Event::Arrival(pod, lasts) => {
                self.outcome.arrived += 1;
                self.tenants.insert(pod.namespace().into());
                let id = self.next;
                self.next += 1;
                let waiting = Waiting {
                    pod: *pod,
                    lasts,
                    since: now,
                    hints: Hints::none(),
                    attempts: 0,
                    why: String::new(),
                };
                self.waiting.insert(id, waiting);
                self.attempt(now, id);
            }
            Event::Retry(id) => self.attempt(now, id),
            Event::End(uid) => {
                if self.running.remove(&uid).is_some() {
                    let hints = self.cluster.remove_pod(&uid);
                    self.wake(now, hints);
                }
            }
            Event::Change(change) => self.change(now, *change),
        }
    }

    fn attempt(&mut self, now: f64, id: u64) {
        let Some(waiting) = self.waiting.get_mut(&id) else { return };
        match self.cluster.schedule(&waiting.pod, self.random.bits()) {
            Ok(placement) => {
                let Some(waiting) = self.waiting.remove(&id) else { return };
                let uid: Box<str> = waiting.pod.uid().into();
                self.cluster.assume_placed(waiting.pod.clone(), &placement);
                self.outcome.placed += 1;
                self.outcome.waits.add(now - waiting.since);
                if let Some(lasts) = waiting.lasts {
                    self.queue.push(now + lasts, Event::End(uid.clone()));
                }
                self.running.insert(uid, (waiting.pod, waiting.lasts));
                self.wake(now, Hints::POD_ADDED);
            }
            Err(unplaced) => {
                waiting.hints = unplaced.hints;
                waiting.attempts += 1;
                waiting.why = unplaced.to_string();
            }
        }
    }

    fn wake(&mut self, now: f64, hints: Hints) {
        if hints == Hints::none() {
            return;
        }
        for (id, waiting) in self.waiting.iter_mut().filter(|(_, w)| w.hints.intersects(hints)) {
            // Once: what comes until then is seen at that time.
            waiting.hints = Hints::none();
            let exponent = i32::try_from(waiting.attempts.saturating_sub(1)).unwrap_or(i32::MAX).min(10);
            let pause = (FIRST_BACKOFF * 2_f64.powi(exponent)).min(LAST_BACKOFF);
            self.queue.push(now + pause, Event::Retry(*id));
        }
    }

    fn change(&mut self, now: f64, change: Change) {
        match change {
            Change::Join(node) => {
                self.join(&node);
                self.wake(now, Hints::NODE_ADDED);
            }
            Change::Lose(name) => self.lose(now, &name),
            Change::LoseLabelled(key, value) => {
                let has = |labels: &BTreeMap<String, String>| labels.get(&key) == Some(&value);
                let names =
                    self.labels.iter().filter(|(_, labels)| has(labels)).map(|(name, _)| name.clone());
                names.collect::<Vec<_>>().iter().for_each(|name| self.lose(now, name));
            }
        }
    }

    fn lose(&mut self, now: f64, name: &str) {
        if self.labels.remove(name).is_none() {
            return;
        }
        let there = self.cluster.node(name).map(|node| node.pods().to_vec()).unwrap_or_default();
        self.cluster.remove_node(name);
        for pod in there {
            self.cluster.remove_pod(pod.uid());
            self.outcome.displaced += 1;
            if let Some((info, lasts)) = self.running.remove(pod.uid()) {
                self.queue.push(now, Event::Arrival(Box::new(info.again(self.outcome.displaced)), lasts));
            }
        }
    }
}
