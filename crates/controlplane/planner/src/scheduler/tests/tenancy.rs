//! Making room where tenants have queues.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{bound, merge, node, pod};
use crate::fairness::QUEUE;
use crate::random::Random;
use crate::reservation::{CONSUMED, Reservation};
use crate::scheduler::{Budget, Cluster, GroupName, GroupPolicy, Hints, PodInfo, Preemption, Queue};
use crate::selector::{Requirement, Selector};

fn queues(cluster: &mut Cluster, all: &[(&str, Value)]) {
    for (name, spec) in all {
        cluster.set_namespace(name, Some([(QUEUE.to_owned(), (*name).to_owned())].into()));
        cluster.set_queue(name, Some((serde_json::from_value(spec.clone()).unwrap(), 0.0)));
    }
    cluster.tend(1_000);
}

fn of(namespace: &str, extra: Value) -> Value {
    let mut all = json!({"metadata": {"namespace": namespace}});
    merge(&mut all, extra);
    all
}

fn plan(cluster: &mut Cluster, pod: &PodInfo) -> Result<(String, Vec<String>), String> {
    let plan = cluster.preempt(pod, 1, None)?;
    let mut names: Vec<String> = plan.victims.iter().map(|v| v.name().to_owned()).collect();
    names.sort();
    Ok((plan.node, names))
}

fn full(spec_a: Value, spec_b: Value) -> Cluster {
    let mut cluster = Cluster::new();
    for name in ["n1", "n2"] {
        cluster.upsert_node(&node(name, "4", json!({})));
    }
    queues(&mut cluster, &[("a", spec_a), ("b", spec_b)]);
    for at in 0..8 {
        let name = format!("a{at}");
        let extra = of("a", json!({"status": {"startTime": format!("2026-01-01T00:00:0{at}Z")}}));
        let on = if at < 4 { "n1" } else { "n2" };
        cluster.upsert_pod(&bound(pod(&name, "1", extra), &name, on));
    }
    cluster
}

#[test]
fn the_youngest_of_who_borrowed_leave_and_no_more_than_needed() {
    let mut cluster = full(json!({"guaranteed": {"cpu": "2"}}), json!({"guaranteed": {"cpu": "3"}}));
    let one = PodInfo::of(&pod("b1", "2", of("b", json!({}))));
    let (on, victims) = plan(&mut cluster, &one).unwrap();
    assert_eq!((on.as_str(), victims), ("n2", vec!["a6".to_owned(), "a7".to_owned()]));
    // Room is kept against those who come back, and counts as had: another one is too much for b.
    let chosen = cluster.preempt(&one, 1, None).unwrap();
    cluster.promise(&one, &chosen);
    let two = PodInfo::of(&pod("b2", "2", of("b", json!({}))));
    assert!(plan(&mut cluster, &two).is_err(), "b would have 4 of 3");
    // Who was promised room makes nobody else leave while those who were told to are still there.
    let again = plan(&mut cluster, &one).unwrap_err();
    assert!(again.starts_with("not eligible"), "{again}");
    cluster.remove_pod("a6");
    cluster.remove_pod("a7");
    let mut back = json!({});
    merge(&mut back, of("a", json!({"spec": {"priority": 1000}})));
    let back = PodInfo::of(&pod("a8", "1", back));
    assert!(cluster.schedule(&back, 1).is_err(), "however important");
    assert_eq!(cluster.schedule(&one, 1).unwrap().node, "n2");
}

#[test]
fn a_guarantee_guards_against_the_important_of_others_and_not_of_its_own() {
    let mut cluster = full(json!({"guaranteed": {"cpu": "8"}}), json!({}));
    let high =
        |namespace: &str| PodInfo::of(&pod("h", "1", of(namespace, json!({"spec": {"priority": 50}}))));
    assert!(plan(&mut cluster, &high("b")).is_err());
    assert_eq!(plan(&mut cluster, &high("a")).unwrap().1, ["a7"]);
    let critical =
        PodInfo::of(&pod("s", "1", of("kube-system", json!({"spec": {"priority": 2_000_000_000}}))));
    assert!(plan(&mut cluster, &critical).is_ok());
}

#[test]
fn who_took_a_seat_is_as_important_as_the_seat_among_tenants_too() {
    let mut cluster = full(json!({}), json!({}));
    let spec = json!({"template": {"spec": {"resources": {"requests": {"cpu": "1"}}}}, "owners": [{}], "allocateOnce": false});
    let r = json!({"metadata": {"name": "r", "namespace": "a", "uid": "r"}, "spec": spec});
    let r: Reservation = serde_json::from_value(r).unwrap();
    cluster.remove_pod("a7");
    cluster.set_reservation(r.terms(Some(100)).unwrap(), &[]);
    let seat = cluster.waiting_seats("r").remove(0);
    let placement = cluster.schedule(&seat, 1).unwrap();
    cluster.assume_placed(seat, &placement);
    let said = json!({"metadata": {"annotations": {CONSUMED: "a/r/0/r"}}});
    let owner = of("a", json!({"status": {"startTime": "2026-01-01T00:00:09Z"}}));
    let mut extra = owner.clone();
    merge(&mut extra, said);
    cluster.upsert_pod(&bound(pod("owner", "1", extra), "owner", &placement.node));
    let mid = PodInfo::of(&pod("m", "1", of("a", json!({"spec": {"priority": 50}}))));
    assert_eq!(plan(&mut cluster, &mid).unwrap().1, ["a6"], "the youngest but the owner");
    let high = PodInfo::of(&pod("h", "1", of("a", json!({"spec": {"priority": 200}}))));
    assert_eq!(plan(&mut cluster, &high).unwrap().1, ["owner"]);
}

#[test]
fn who_is_at_its_limit_makes_room_among_its_own() {
    let mut cluster = full(json!({"limit": {"cpu": "8"}}), json!({}));
    cluster.upsert_node(&node("n3", "4", json!({})));
    let high = PodInfo::of(&pod("h", "1", of("a", json!({"spec": {"priority": 50}}))));
    let refused = cluster.schedule(&high, 1).unwrap_err().to_string();
    assert_eq!(refused, "tenant queue \"a\" is at its limit: cpu 8 of 8 used, the pod asks 1.");
    assert_eq!(plan(&mut cluster, &high).unwrap().1.len(), 1);
    assert!(plan(&mut cluster, &PodInfo::of(&pod("l", "1", of("a", json!({}))))).is_err());
}

#[test]
fn budgets_are_kept_and_gangs_go_whole() {
    let mut cluster = full(json!({}), json!({"guaranteed": {"cpu": "2"}}));
    // All on n2 are guarded.
    for at in 4..8 {
        let name = format!("a{at}");
        let guarded = of("a", json!({"metadata": {"labels": {"app": "guarded"}}}));
        cluster.upsert_pod(&bound(pod(&name, "1", guarded), &name, "n2"));
    }
    let mut selector = Selector::everything();
    selector.require(Requirement::equals("app", "guarded"));
    let budget = Budget { namespace: "a".into(), selector, allowed: 0, disrupted: Default::default() };
    cluster.set_budget("a", "guard", Some(budget));
    let one = PodInfo::of(&pod("b1", "1", of("b", json!({}))));
    let (on, victims) = plan(&mut cluster, &one).unwrap();
    assert_eq!((on.as_str(), victims), ("n1", vec!["a3".to_owned()]));
    // A gang on n1 of which one member stands on n3: all of it goes, for nothing else may.
    cluster.upsert_node(&node("n3", "1", json!({})));
    for (at, on) in [(0, "n1"), (1, "n1"), (2, "n1"), (3, "n1"), (8, "n3")] {
        let name = format!("a{at}");
        let member = of(
            "a",
            json!({"metadata": {
            "labels": {"sampan.io/pod-group": "g"}, "annotations": {"sampan.io/pod-group-min": "5"}}}),
        );
        cluster.upsert_pod(&bound(pod(&name, "1", member), &name, on));
    }
    let (_, victims) = plan(&mut cluster, &one).unwrap();
    assert_eq!(victims, ["a0", "a1", "a2", "a3", "a8"]);
}

#[test]
fn a_gang_makes_the_less_important_leave_for_all_of_it_or_for_none() {
    let mut cluster = Cluster::new();
    for name in ["n1", "n2"] {
        cluster.upsert_node(&node(name, "2", json!({})));
        cluster.upsert_pod(&bound(pod("x", "2", json!({})), &format!("low-{name}"), name));
    }
    let gang = |count: usize| -> Vec<Arc<PodInfo>> {
        let member = |at: usize| {
            Arc::new(PodInfo::of(&pod(
                &format!("g{at}"),
                "2",
                json!({
                    "metadata": {"uid": format!("g{at}"), "labels": {"sampan.io/pod-group": "g"},
                        "annotations": {"sampan.io/pod-group-min": count.to_string()}},
                    "spec": {"priority": 10},
                }),
            )))
        };
        (0..count).map(member).collect()
    };
    let mut decide = |count: usize| {
        let pods = gang(count);
        let group = pods[0].group().unwrap().clone();
        cluster.decide_gang(&group, &pods, 1, true, |cluster, at| cluster.schedule(&pods[at], 1))
    };
    match decide(3) {
        super::GangDecision::Refused { why, keep, .. } => {
            assert!(why.contains("does not fit as a whole") && why.contains("preemption: 0/2"), "{why}");
            assert!(!keep);
        }
        other => panic!("{other:?}"),
    }
    let super::GangDecision::Room { plans, .. } = decide(2) else { panic!("there is room to be made") };
    let victims: Vec<&str> = plans.iter().flatten().flat_map(|p| &p.victims).map(|v| v.name()).collect();
    assert_eq!(victims.len(), 2);
    assert_eq!(cluster.pod_count(), 2, "nothing is done yet");
}

/// A cluster in which gangs are more important than single pods, and whatever is decided happens at once.
struct Gangs {
    cluster: Cluster,
    queue: Queue,
    mins: BTreeMap<String, u32>,
    now: u64,
    made_room: usize,
}

impl Gangs {
    fn put(&mut self, mut info: PodInfo) {
        self.cluster.intern(&mut info);
        self.queue.put(Arc::new(info), false, self.now);
    }

    fn wake(&mut self, hints: Hints) {
        let Self { cluster, queue, now, .. } = self;
        queue.wake(hints, *now, |pod| cluster.would_fit(pod));
    }

    fn waits(&mut self, pod: &PodInfo, hints: Hints) {
        let Self { cluster, queue, now, .. } = self;
        queue.waits_for(pod.uid(), hints, *now, |pod| cluster.would_fit(pod));
    }

    fn placed(&mut self, pod: &PodInfo) {
        let Self { cluster, queue, now, .. } = self;
        queue.placed(pod.uid(), *now, |pod| cluster.would_fit(pod));
    }

    /// Decides until nobody is left who could be decided. Bounded: a livelock fails.
    fn settle(&mut self) {
        for _ in 0..2_000 {
            let Some(popped) = self.cluster.next(&mut self.queue, self.now) else { return };
            let Some(group) = self.cluster.gang_of(&popped.pod) else {
                match self.cluster.schedule(&popped.pod, self.now) {
                    Ok(placement) => {
                        self.cluster.assume_placed((*popped.pod).clone(), &placement);
                        self.placed(&popped.pod);
                    }
                    Err(unplaced) => self.waits(&popped.pod, unplaced.hints),
                }
                continue;
            };
            let members = self.queue.pop_gang(&group, popped).expect("nobody is away");
            let members: Vec<_> = members.into_iter().map(|p| p.pod).collect();
            let before = self.cluster.pod_count();
            let place = |cluster: &mut Cluster, at: usize| cluster.schedule(&members[at], 1);
            match self.cluster.decide_gang(&group, &members, 1, true, place) {
                super::GangDecision::Placed(placements) => {
                    for (member, placement) in members.iter().zip(placements) {
                        match placement {
                            Some(_) => self.placed(member),
                            None => self.waits(member, Hints::POD_GONE),
                        }
                    }
                }
                super::GangDecision::Room { plans, hints, .. } => {
                    self.make_room(&members, &plans, hints);
                }
                super::GangDecision::Refused { hints, keep, .. } => {
                    assert_eq!(self.cluster.pod_count(), before, "a gang that goes nowhere moves nobody");
                    for member in &members {
                        if !keep {
                            self.cluster.withdraw(member.uid());
                        }
                        self.waits(member, hints);
                    }
                }
            }
        }
        panic!("this never ends");
    }

    fn make_room(&mut self, members: &[Arc<PodInfo>], plans: &[Option<Preemption>], hints: Hints) {
        self.made_room += 1;
        let mut victims = Vec::new();
        for (member, plan) in members.iter().zip(plans) {
            if let Some(plan) = plan {
                self.cluster.promise(member, plan);
                self.queue.promised(member.uid(), self.now);
                victims.extend(plan.victims.iter().cloned());
            }
        }
        assert!(!victims.is_empty());
        for (at, victim) in victims.iter().enumerate() {
            assert!(victim.priority() < members[0].priority());
            self.cluster.remove_pod(victim.uid());
            self.put((**victim).clone().again(self.made_room * 1000 + at));
        }
        // Nothing else happened: now they fit together.
        let group = self.cluster.gang_of(&members[0]).unwrap();
        let fits = self.cluster.attempt(|c| (c.schedule_gang(&group, members, 1).is_ok(), false));
        assert!(fits, "others left in vain");
        members.iter().for_each(|member| self.waits(member, hints));
        self.wake(Hints::POD_GONE);
    }

    fn check(&self) {
        for node in self.cluster.nodes() {
            assert!(node.used().milli_cpu <= node.allocatable().milli_cpu, "promised twice");
        }
        for (name, min) in &self.mins {
            let group = GroupName { namespace: "default".into(), name: name.as_str().into(), min: *min };
            let placed = self.cluster.placed_of(&group);
            assert!(placed == 0 || placed >= *min, "{name}: {placed} of {min}");
        }
    }
}

#[test]
fn gangs_are_whole_and_nobody_waits_for_ever_under_any_load() {
    let mut made_room = 0;
    for seed in 0..80 {
        let mut random = Random::new(seed);
        let mut all = Gangs {
            cluster: Cluster::new(),
            queue: Queue::default(),
            mins: BTreeMap::new(),
            now: 0,
            made_room: 0,
        };
        for n in 0..2 + random.below(4) {
            all.cluster.upsert_node(&node(&format!("n{n}"), &(1 + random.below(6)).to_string(), json!({})));
        }
        for step in 0..30 {
            all.now += 20_000;
            match random.below(3) {
                0 => {
                    let (name, min) = (format!("g{step}"), 2 + random.below(4));
                    // Some of them by an object, others by themselves.
                    let by_object = random.below(2) == 0;
                    let cpu = (1 + random.below(2)).to_string();
                    for at in 0..min + random.below(2) {
                        let uid = format!("{name}-{at}");
                        let own = json!({"labels": {"sampan.io/pod-group": name},
                            "annotations": {"sampan.io/pod-group-min": min.to_string()}});
                        let mut extra = json!({"metadata": {"uid": uid}, "spec": {"priority": 10}});
                        if by_object {
                            extra["spec"]["schedulingGroup"] = json!({"podGroupName": name});
                        } else {
                            merge(&mut extra, json!({"metadata": own}));
                        }
                        all.put(PodInfo::of(&pod(&uid, &cpu, extra)));
                    }
                    let min = u32::try_from(min).unwrap();
                    if by_object {
                        all.settle();
                        assert_eq!(
                            all.cluster.placed_of(&GroupName {
                                namespace: "default".into(),
                                name: name.as_str().into(),
                                min: 0,
                            }),
                            0,
                            "nobody knows yet how many belong together"
                        );
                        assert!(all.cluster.set_pod_group("default", &name, Some(GroupPolicy::Gang(min))));
                        all.queue.again_gang("default", &name);
                    }
                    all.mins.insert(name, min);
                }
                1 => {
                    for at in 0..1 + random.below(6) {
                        let uid = format!("s{step}-{at}");
                        let extra = json!({"metadata": {"uid": uid}});
                        all.put(PodInfo::of(&pod(&uid, "1", extra)));
                    }
                }
                _ => {
                    // A whole gang or a single pod ends.
                    let node = all.cluster.nodes().find(|n| n.pod_count() > 0);
                    let Some(pod) = node.map(|n| n.pods()[0].clone()) else { continue };
                    let name = pod.group().map(|g| g.name.to_string());
                    let nodes: Vec<Arc<PodInfo>> =
                        all.cluster.nodes().flat_map(|n| n.pods().to_vec()).collect();
                    for other in nodes {
                        let mate = name.is_some() && other.group().map(|g| g.name.to_string()) == name;
                        if mate || other.uid() == pod.uid() {
                            all.cluster.remove_pod(other.uid());
                        }
                    }
                    all.wake(Hints::POD_GONE);
                }
            }
            all.settle();
            all.check();
        }
        // After a pause everybody who fits has a place.
        all.now += 600_000;
        all.settle();
        all.check();
        made_room += all.made_room;
    }
    assert!(made_room > 40, "{made_room}: this shows nothing");
}
