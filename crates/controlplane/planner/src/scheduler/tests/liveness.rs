//! The queue and the cluster together, over random events: nobody is lost, nobody sleeps through a chance, no node is
//! promised twice, and gangs are whole.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use serde_json::json;

use super::differential::{Random, node, pod};
use super::{bound, with_priority};
use crate::scheduler::{Cluster, Hints, PodInfo, Queue};

struct World {
    cluster: Cluster,
    queue: Queue,
    pods: BTreeMap<String, Pod>,
    bound: HashMap<String, String>,
    now: u64,
}

impl World {
    fn wake(&mut self, hints: Hints) {
        let Self { cluster, queue, now, .. } = self;
        queue.wake(hints, *now, |pod| cluster.would_fit(pod));
    }

    fn waits(&mut self, uid: &str, hints: Hints) {
        let Self { cluster, queue, now, .. } = self;
        queue.waits_for(uid, hints, *now, |pod| cluster.would_fit(pod));
    }

    fn arrive(&mut self, pod: Pod) {
        let mut info = PodInfo::of(&pod);
        self.cluster.intern(&mut info);
        self.pods.insert(info.uid().to_owned(), pod);
        self.queue.put(Arc::new(info), false, self.now);
    }

    /// Decides until nobody is left who could be decided now. Bounded: a livelock fails.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let Some(popped) = self.queue.pop(self.now) else { return };
            if let Some(group) = popped.pod.group().cloned() {
                let members = self.queue.pop_gang(&group, popped).expect("nobody is away");
                let members: Vec<_> = members.into_iter().map(|p| p.pod).collect();
                let before = self.cluster.placed_of(&group);
                match self.cluster.schedule_gang(&group, &members, self.now) {
                    Ok(placements) => {
                        for (member, placement) in members.iter().zip(placements) {
                            match placement {
                                Some(placement) => self.placed(member, placement.node),
                                None => self.waits(member.uid(), Hints::POD_GONE),
                            }
                        }
                        let after = self.cluster.placed_of(&group);
                        assert!(after == 0 || after >= group.min || before > 0, "a gang in parts");
                    }
                    Err(unplaced) => {
                        assert_eq!(
                            self.cluster.placed_of(&group),
                            before,
                            "something is left of a failed gang"
                        );
                        for member in &members {
                            self.waits(member.uid(), unplaced.hints);
                        }
                    }
                }
                continue;
            }
            let pod = popped.pod;
            match self.cluster.schedule(&pod, self.now) {
                Ok(placement) => {
                    self.cluster.assume_placed((*pod).clone(), &placement);
                    self.placed(&pod, placement.node);
                }
                Err(unplaced) => self.waits(pod.uid(), unplaced.hints),
            }
        }
        panic!("it never settles");
    }

    fn placed(&mut self, pod: &PodInfo, node: String) {
        self.bound.insert(pod.uid().to_owned(), node);
        let Self { cluster, queue, now, .. } = self;
        queue.placed(pod.uid(), *now, |pod| cluster.would_fit(pod));
        // The watch tells of it, as it does of every bound pod.
        self.wake(Hints::POD_ADDED);
    }

    fn check(&mut self) {
        for (uid, pod) in &self.pods {
            let waits = self.queue.contains(uid);
            assert_ne!(waits, self.bound.contains_key(uid), "{uid} is lost, or in two places");
            let info = PodInfo::of(pod);
            // A gang waits for its members, too.
            if waits && info.group().is_none() {
                assert!(self.cluster.would_fit(&info).is_err(), "{uid} sleeps although it would fit");
            }
        }
        for node in self.cluster.nodes() {
            let (used, have) = (node.used(), node.allocatable());
            let over = used.milli_cpu > have.milli_cpu || used.memory > have.memory;
            assert!(!over || node.name().starts_with("shrunk"), "{} is promised twice", node.name());
        }
    }
}

fn run(seed: u64) {
    let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut world = World {
        cluster: Cluster::new(),
        queue: Queue::default(),
        pods: BTreeMap::new(),
        bound: HashMap::new(),
        now: 0,
    };
    for at in 0..150_u64 {
        world.now += 20_000;
        match r.below(10) {
            0..=1 => {
                // Nodes only come and go: what runs on one that shrinks is nobody's promise.
                let mut node = node(&mut r, &format!("n{at}"));
                if let Some(spec) = &mut node.spec {
                    spec.taints = None;
                }
                let hints = world.cluster.upsert_node(&node);
                world.wake(hints);
            }
            2 => {
                if let Some(uid) = world.bound.keys().min().cloned() {
                    world.bound.remove(&uid);
                    world.pods.remove(&uid);
                    let hints = world.cluster.remove_pod(&uid);
                    world.wake(hints);
                }
            }
            3 => {
                let members = 2 + r.below(3);
                for member in 0..members {
                    let mut pod = pod(&mut r, &format!("g{at}-{member}"));
                    let labels = pod.metadata.labels.get_or_insert_default();
                    labels.insert("sampan.io/pod-group".into(), format!("g{at}"));
                    pod.metadata.namespace = Some("one".into());
                    let annotations = pod.metadata.annotations.get_or_insert_default();
                    annotations.insert("sampan.io/pod-group-min".into(), members.to_string());
                    world.arrive(pod);
                }
            }
            _ => world.arrive(pod(&mut r, &format!("p{at}"))),
        }
        world.settle();
        world.check();
    }
    assert!(world.bound.len() > 20, "hardly anything was placed");
}

#[test]
fn nobody_is_lost_and_nobody_sleeps_through_a_chance() {
    (1..=12).for_each(run);
}

/// Three important pods were refused by a taint; the pods on that node are worth less.
#[test]
fn when_a_taint_goes_all_of_a_shape_may_make_others_leave() {
    let taint = json!({"spec": {"taints": [{"key": "new", "effect": "NoSchedule"}]}});
    let mut cluster = super::cluster(&[super::node("a", "3", taint)]);
    for name in ["x", "y", "z"] {
        cluster.upsert_pod(&bound(super::pod(name, "1", json!({})), name, "a"));
    }
    let mut queue = Queue::default();
    for name in ["p", "q", "r", "s"] {
        let mut info = PodInfo::of(&with_priority(super::pod(name, "1", json!({})), 5));
        cluster.intern(&mut info);
        queue.put(Arc::new(info), false, 0);
    }
    let decide = |cluster: &mut Cluster, queue: &mut Queue, now: u64| -> Option<Result<String, String>> {
        let pod = queue.pop(now)?.pod;
        let unplaced = cluster.schedule(&pod, 1).expect_err("nothing is free");
        let plan = cluster.preempt(&pod, 1, None);
        if let Ok(plan) = &plan {
            cluster.promise(&pod, plan);
            queue.promised(pod.uid(), now);
        }
        queue.waits_for(pod.uid(), unplaced.hints, now, |pod| cluster.would_fit(pod));
        Some(plan.map(|plan| plan.victims[0].uid().to_owned()).map_err(|_| unplaced.to_string()))
    };
    for _ in 0..4 {
        assert!(decide(&mut cluster, &mut queue, 0).unwrap().unwrap_err().contains("untolerated taint"));
    }
    assert_eq!(decide(&mut cluster, &mut queue, 100_000), None);
    let hints = cluster.upsert_node(&super::node("a", "3", json!({})));
    queue.wake(hints, 100_000, |pod| cluster.would_fit(pod));
    let decided: Vec<_> = std::iter::from_fn(|| decide(&mut cluster, &mut queue, 100_000)).collect();
    let mut victims: Vec<_> = decided.iter().flatten().map(String::as_str).collect();
    victims.sort_unstable();
    assert_eq!(victims, ["x", "y", "z"]);
    assert!(decided[3].as_ref().unwrap_err().contains("Insufficient cpu"), "what is in its way now is told");
    assert_eq!(decided.len(), 4);
}
