//! Room that is held: by whom, for whom, and never twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::{bound, cluster, node, pod, why, with_priority};
use crate::random::Random;
use crate::reservation::{CONSUMED, POLICY, RESERVATION, Reservation, Seat, Terms};
use crate::scheduler::{Cluster, Hints, PodInfo, Queue, gpu};

/// Seats of so many cores for pods with the label `app: NAME`.
fn terms(name: &str, cpu: &str, more: Value) -> Terms {
    let requests = json!({"requests": {"cpu": cpu}});
    let mut spec = json!({
        "template": {"spec": {"resources": requests}},
        "owners": [{"labelSelector": {"matchLabels": {"app": name}}}],
        "allocateOnce": false,
    });
    super::merge(&mut spec, more);
    // What its class stands for.
    let priority =
        spec["template"]["spec"]["priority"].as_i64().map(|priority| i32::try_from(priority).unwrap());
    let reservation = json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": spec});
    let reservation: Reservation = serde_json::from_value(reservation).unwrap();
    reservation.terms(priority).unwrap()
}

/// Gives every seat that waits a node, if there is one.
fn place(cluster: &mut Cluster, uid: &str) -> usize {
    let seats = cluster.waiting_seats(uid);
    let place = |seat: PodInfo| {
        let placement = cluster.schedule(&seat, 1).ok()?;
        cluster.assume_placed(seat, &placement);
        Some(())
    };
    seats.into_iter().filter_map(place).count()
}

fn of_app(name: &str, cpu: &str, app: &str, more: Value) -> Pod {
    let mut all = json!({"metadata": {"labels": {"app": app}}});
    super::merge(&mut all, more);
    pod(name, cpu, all)
}

/// Places the pod and counts it; the seat that it took.
fn run(cluster: &mut Cluster, pod: &Pod) -> Result<Option<Arc<Seat>>, String> {
    let info = PodInfo::of(pod);
    let placement = cluster.schedule(&info, 1).map_err(|unplaced| unplaced.to_string())?;
    cluster.assume_placed(info, &placement);
    Ok(placement.seat)
}

fn left(cluster: &Cluster, uid: &str) -> Vec<i64> {
    cluster.seats(uid).iter().map(|seat| seat.left.as_ref().map_or(0, |left| left.milli_cpu)).collect()
}

fn used(cluster: &Cluster, node: &str) -> i64 {
    cluster.node(node).unwrap().used().milli_cpu
}

#[test]
fn what_is_held_is_held_against_others_and_given_to_owners() {
    let mut cluster = cluster(&[node("a", "4", json!({})), node("b", "2", json!({}))]);
    cluster.set_reservation(terms("web", "3", json!({})), &[]);
    assert_eq!(place(&mut cluster, "web"), 1);
    assert_eq!((used(&cluster, "a"), left(&cluster, "web")), (3000, vec![3000]));
    // Others have what is left, and are told who has the rest.
    let other = of_app("other", "2500m", "x", json!({}));
    assert_eq!(why(&mut cluster, &other), "0/2 nodes are available: 2 Insufficient cpu.");
    let explained = cluster.explain(&PodInfo::of(&other), None);
    let held = explained.refusals.iter().find(|r| r.reason.contains("reservation")).unwrap();
    assert_eq!(
        (held.reason.as_str(), &*held.nodes),
        ("node(s) whose room is held by reservation default/web", &["a".to_owned()][..])
    );
    // An owner takes some of it, the rest stays held; nothing is counted twice.
    let seat = run(&mut cluster, &of_app("one", "1", "web", json!({}))).unwrap().unwrap();
    assert_eq!((&*seat.name, seat.index), ("web", 0));
    assert_eq!((used(&cluster, "a"), left(&cluster, "web")), (3000, vec![2000]));
    // More than is left: with what is free beside it.
    run(&mut cluster, &of_app("two", "2500m", "web", json!({}))).unwrap().unwrap();
    assert_eq!((used(&cluster, "a"), left(&cluster, "web")), (3500, vec![0]));
    // Nothing is left: the next goes where any pod goes.
    assert_eq!(run(&mut cluster, &of_app("three", "1", "web", json!({}))), Ok(None));
    assert_eq!(used(&cluster, "b"), 1000);
    // Who leaves gives back what it took, for the next one.
    assert_eq!(cluster.remove_pod("two"), Hints::POD_GONE);
    assert_eq!((used(&cluster, "a"), left(&cluster, "web")), (3000, vec![2000]));
    // A reservation that goes holds nothing, and takes nobody along.
    cluster.remove_reservation("web");
    assert_eq!(used(&cluster, "a"), 1000);
    assert!(run(&mut cluster, &other).is_ok());
}

#[test]
fn owners_say_how_much_they_want_reserved_room() {
    let wish = |policy: &str| json!({"metadata": {"annotations": {POLICY: policy}}});
    let mut cluster = cluster(&[node("a", "2", json!({})), node("b", "8", json!({}))]);
    let mut on_a =
        terms("web", "2", json!({"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "a"}}}}));
    on_a.once = false;
    let required = of_app("required", "1", "web", wish("Required"));
    let text = "0/2 nodes are available: 2 node(s) where no reservation holds room for the pod.";
    assert_eq!(why(&mut cluster, &required), text);
    assert!(cluster.preempt(&PodInfo::of(&required), 1, None).unwrap_err().starts_with("not eligible"));
    assert!(cluster.would_fit(&PodInfo::of(&required)).unwrap_err().intersects(Hints::RESERVATION));
    cluster.set_reservation(on_a, &[]);
    place(&mut cluster, "web");
    assert!(cluster.would_fit(&PodInfo::of(&required)).is_ok());
    // The emptier node would be b.
    assert_eq!(why(&mut cluster, &of_app("p", "1", "web", json!({}))), "-> a");
    assert_eq!(why(&mut cluster, &of_app("p", "1", "web", wish("Never"))), "-> b");
    assert_eq!(why(&mut cluster, &of_app("p", "1", "other", json!({}))), "-> b");
    assert_eq!(why(&mut cluster, &of_app("p", "3", "web", json!({}))), "-> b", "it does not fit there");
    assert_eq!(
        why(&mut cluster, &of_app("p", "3", "web", wish("Required"))),
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    );
    let named = |name: &str| json!({"metadata": {"annotations": {RESERVATION: name}}});
    assert_eq!(why(&mut cluster, &of_app("p", "1", "web", named("web"))), "-> a");
    assert_eq!(why(&mut cluster, &of_app("p", "1", "web", named("else"))), "-> b");
    assert_eq!(why(&mut cluster, &required), "-> a");
}

#[test]
fn who_may_take_it() {
    let made_by = |kind: &str, name: &str| {
        let owner =
            json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": name, "controller": true});
        json!({"metadata": {"ownerReferences": [owner], "labels": {"pod-template-hash": "5d4"}}})
    };
    let controller = |kind: &str, name: &str| json!([{"controller": {"kind": kind, "name": name}}]);
    let elsewhere = json!([{"namespace": "other"}]);
    let named = |name: &str| json!({"metadata": {"namespace": "other", "annotations": {RESERVATION: name}}});
    let table = [
        (controller("ReplicaSet", "web-5d4"), made_by("ReplicaSet", "web-5d4"), true),
        (controller("Deployment", "web"), made_by("ReplicaSet", "web-5d4"), true),
        (controller("Deployment", "we"), made_by("ReplicaSet", "web-5d4"), false),
        (controller("Deployment", "web"), made_by("StatefulSet", "web-5d4"), false),
        (controller("StatefulSet", "db"), made_by("StatefulSet", "db"), true),
        (json!([{}]), json!({}), true),
        (json!([{}]), json!({"metadata": {"namespace": "other"}}), false),
        (elsewhere.clone(), json!({"metadata": {"namespace": "other"}}), false),
        (elsewhere.clone(), named("default/r"), true),
        (elsewhere, named("r"), false),
        (json!([]), json!({}), false),
        (json!([]), json!({"metadata": {"annotations": {RESERVATION: "r"}}}), true),
        (json!([]), named("default/r"), false),
    ];
    for (owners, more, want) in table {
        let mut r = json!({"metadata": {"name": "r", "namespace": "default", "uid": "r"}});
        r["spec"] =
            json!({"template": {"spec": {"resources": {"requests": {"cpu": "1"}}}}, "owners": owners});
        let r: Reservation = serde_json::from_value(r).unwrap();
        let pod = PodInfo::of(&pod("p", "1", more.clone()));
        assert_eq!(r.terms(None).unwrap().is_for(&pod), want, "{owners} {more}");
    }
}

#[test]
fn a_seat_for_one_pod_is_used_up_by_it() {
    let mut cluster = cluster(&[node("a", "8", json!({}))]);
    cluster.set_reservation(terms("web", "3", json!({"count": 2, "allocateOnce": true})), &[]);
    assert_eq!(place(&mut cluster, "web"), 2);
    let seat = run(&mut cluster, &of_app("one", "1", "web", json!({}))).unwrap().unwrap();
    // Until it is certain that the pod is there, the rest stays held; for nobody else.
    assert_eq!(left(&cluster, "web"), [2000, 3000]);
    let other = run(&mut cluster, &of_app("two", "3", "web", json!({}))).unwrap().unwrap();
    assert_ne!(seat.index, other.index);
    assert_eq!(run(&mut cluster, &of_app("three", "1", "web", json!({}))), Ok(None));
    assert_eq!(used(&cluster, "a"), 7000);
    assert_eq!(cluster.spend_seat(&seat), Hints::POD_GONE);
    assert_eq!(used(&cluster, "a"), 5000);
    // It does not come back.
    cluster.remove_pod("one");
    assert_eq!((used(&cluster, "a"), cluster.waiting_seats("web").len()), (4000, 0));
}

#[test]
fn the_important_make_seats_and_their_owners_give_way_and_others_do_not() {
    let important =
        |name: &str, priority: i32| PodInfo::of(&with_priority(of_app(name, "4", "x", json!({})), priority));
    let template = json!({"template": {"spec": {"priority": 100}}});
    let mut cluster = cluster(&[node("a", "4", json!({}))]);
    cluster.set_reservation(terms("web", "4", template), &[]);
    place(&mut cluster, "web");
    assert!(cluster.preempt(&important("low", 50), 1, None).is_err());
    // An owner is as important as its seat.
    run(&mut cluster, &of_app("owner", "1", "web", json!({}))).unwrap().unwrap();
    assert!(cluster.preempt(&important("low", 50), 1, None).is_err());
    let high = important("high", 200);
    let plan = cluster.preempt(&high, 1, None).unwrap();
    let mut names: Vec<&str> = plan.victims.iter().map(|victim| victim.name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["owner", "web (seat 0)"]);
    assert_eq!(left(&cluster, "web"), [3000], "as it was");
    // The seat goes at once, and does not grow into the room of its owner when that leaves.
    cluster.promise(&high, &plan);
    assert_eq!(used(&cluster, "a"), 1000);
    cluster.remove_pod("owner");
    assert_eq!(used(&cluster, "a"), 0);
    assert!(cluster.schedule(&high, 1).is_ok());
    assert_eq!(place(&mut cluster, "web"), 0, "room is kept for the other");
    // A seat makes room for itself, too.
    cluster.withdraw("high");
    cluster.upsert_pod(&bound(of_app("small", "4", "x", json!({})), "small", "a"));
    let seat = cluster.waiting_seats("web").remove(0);
    assert_eq!(cluster.preempt(&seat, 1, None).unwrap().victims[0].name(), "small");
}

/// A pod on a node that says that it took a seat.
fn claims(name: &str, cpu: &str, app: &str, node: &str, uid: &str) -> Pod {
    let seat = Seat { uid: uid.into(), index: 0, namespace: "default".into(), name: uid.into() };
    let said = json!({"metadata": {"annotations": {CONSUMED: seat.to_string()}}});
    bound(of_app(name, cpu, app, said), name, node)
}

#[test]
fn who_merely_says_that_it_took_a_seat_has_nothing_of_it() {
    let template = json!({"template": {"spec": {"priority": 100}}});
    let mut cluster = cluster(&[node("a", "4", json!({})), node("b", "4", json!({}))]);
    cluster.set_reservation(terms("web", "2", template), &[]);
    place(&mut cluster, "web");
    let on = cluster.seats("web")[0].node.clone().unwrap().to_string();
    let off = if on == "a" { "b" } else { "a" };
    cluster.upsert_pod(&claims("forged", "2", "x", &on, "web"));
    cluster.upsert_pod(&claims("elsewhere", "4", "web", off, "web"));
    assert_eq!((used(&cluster, &on), left(&cluster, "web")), (4000, vec![2000]), "nobody took any of it");
    let on_it = json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": on}}});
    let mid = PodInfo::of(&with_priority(of_app("mid", "2", "x", on_it), 50));
    let plan = cluster.preempt(&mid, 1, None).unwrap();
    assert_eq!((plan.victims.len(), plan.victims[0].name()), (1, "forged"));
    let large = with_priority(of_app("large", "4", "x", json!({})), 50);
    let large = PodInfo::of(&large);
    let plan = cluster.preempt(&large, 1, None).unwrap();
    assert_eq!((plan.node.as_str(), plan.victims[0].name()), (off, "elsewhere"));
    cluster.promise(&large, &plan);
    assert_eq!(cluster.seats("web")[0].node.as_deref(), Some(&*on), "that seat is not on the victim's node");
    // Whoever may take it is spared again, as important as the seat, and no more once the seat is less important.
    cluster.remove_pod("forged");
    cluster.upsert_pod(&claims("owner", "2", "web", &on, "web"));
    assert_eq!(left(&cluster, "web"), [0]);
    cluster.upsert_pod(&bound(with_priority(of_app("rest", "2", "x", json!({})), 90), "rest", &on));
    assert!(cluster.preempt(&mid, 1, None).is_err());
    cluster.remove_reservation("web");
    assert_eq!(cluster.preempt(&mid, 1, None).unwrap().victims[0].name(), "owner");
}

#[test]
fn what_is_tried_in_vain_leaves_seats_as_they_were() {
    let place_of = |zone: &str| json!({"metadata": {"labels": {"zone": zone}}});
    let mut objects = Objects::default();
    let mut cluster = Cluster::new();
    for (name, zone) in [("a", "1"), ("b", "2")] {
        let node = node(name, "4", place_of(zone));
        cluster.upsert_node(&node);
        objects.nodes.insert(name.to_owned(), node);
    }
    let pinned = json!({"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "a"}}}});
    let terms = terms("web", "3", pinned);
    cluster.set_reservation(terms.clone(), &[]);
    objects.terms.insert("web".to_owned(), terms);
    place(&mut cluster, "web");
    come(&mut objects, &mut cluster, of_app("owner", "1", "web", json!({})), (&mut 0, &mut 0));
    assert_eq!((used(&cluster, "a"), left(&cluster, "web")), (3000, vec![2000]));
    let spread = json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "x"}}}]}});
    let vain = with_priority(of_app("vain", "5", "x", spread.clone()), 100);
    let fine = with_priority(of_app("fine", "4", "x", spread), 100);
    for random in 0..8 {
        let _ = cluster.preempt(&PodInfo::of(&fine), random, None);
        let refused = cluster.preempt(&PodInfo::of(&vain), random, None);
        assert!(refused.is_err(), "{refused:?}");
        assert_eq!((used(&cluster, "a"), left(&cluster, "web")), (3000, vec![2000]));
        objects.check(&cluster, &mut Random::new(random), "what was tried in vain");
    }
}

#[test]
fn no_room_is_kept_for_seats_that_are_not_what_they_were() {
    let template = json!({"template": {"spec": {"priority": 100}}});
    let mut cluster = cluster(&[node("a", "4", json!({}))]);
    cluster.upsert_pod(&bound(of_app("small", "4", "x", json!({})), "small", "a"));
    cluster.set_reservation(terms("web", "4", template), &[]);
    let seat = cluster.waiting_seats("web").remove(0);
    let plan = cluster.preempt(&seat, 1, None).unwrap();
    cluster.promise(&seat, &plan);
    assert_eq!(cluster.nominated_node(seat.uid()), Some("a"));
    cluster.set_reservation(
        terms("web", "4", json!({"template": {"spec": {"priority": 100}}, "ttl": "2h"})),
        &[],
    );
    assert_eq!(cluster.nominated_node(seat.uid()), Some("a"), "the same");
    cluster.set_reservation(terms("web", "2", json!({})), &[]);
    assert_eq!(cluster.nominated_node(seat.uid()), None);
}

#[test]
fn seats_come_together_or_not_at_all_and_are_placed_anew_when_their_node_is_lost() {
    let mut cluster = cluster(&[node("a", "2", json!({})), node("b", "2", json!({}))]);
    let all = json!({"count": 3, "allOrNothing": true});
    cluster.set_reservation(terms("web", "2", all), &[]);
    let decide = |cluster: &mut Cluster| {
        let seats: Vec<Arc<PodInfo>> = cluster.waiting_seats("web").into_iter().map(Arc::new).collect();
        match cluster.gang_of(&seats[0]) {
            Some(group) => cluster.schedule_gang(&group, &seats, 1).is_ok(),
            None => place(cluster, "web") == seats.len(),
        }
    };
    assert!(!decide(&mut cluster));
    assert_eq!((used(&cluster, "a"), used(&cluster, "b")), (0, 0));
    cluster.upsert_node(&node("c", "2", json!({})));
    assert!(decide(&mut cluster));
    assert_eq!(left(&cluster, "web"), [2000; 3]);
    let owner = of_app("owner", "1", "web", json!({}));
    let seat = run(&mut cluster, &owner).unwrap().unwrap();
    let lost = cluster.seats("web")[seat.index as usize].node.clone().unwrap();
    cluster.remove_node(&lost);
    assert_eq!(cluster.waiting_seats("web").len(), 1);
    assert!(!decide(&mut cluster));
    cluster.upsert_node(&node("d", "2", json!({})));
    assert!(decide(&mut cluster));
    assert_eq!((used(&cluster, "d"), left(&cluster, "web")), (2000, vec![2000; 3]));
}

#[test]
fn what_wakes_owners_and_who_waits_for_what_is_held() {
    let mut cluster = cluster(&[node("a", "2", json!({}))]);
    let mut queue = Queue::default();
    let required = of_app("p", "1", "web", json!({"metadata": {"annotations": {POLICY: "Required"}}}));
    let mut info = PodInfo::of(&required);
    cluster.intern(&mut info);
    queue.put(Arc::new(info), false, 0);
    let popped = queue.pop(0).unwrap();
    let unplaced = cluster.schedule(&popped.pod, 1).unwrap_err();
    queue.waits_for("p", unplaced.hints, 0, |pod| cluster.would_fit(pod));
    assert!(queue.pop(1).is_none());
    let hints = cluster.set_reservation(terms("web", "1", json!({})), &[]);
    queue.wake(hints, 1, |pod| cluster.would_fit(pod));
    assert!(queue.pop(1).is_none(), "nothing is held yet");
    place(&mut cluster, "web");
    queue.wake(Hints::RESERVATION, 2, |pod| cluster.would_fit(pod));
    assert_eq!(queue.pop(2).unwrap().pod.name(), "p");
}

/// What is known outside, from which a cluster can be built anew.
#[derive(Default)]
struct Objects {
    nodes: BTreeMap<String, Node>,
    pods: BTreeMap<String, Pod>,
    terms: BTreeMap<String, Terms>,
}

impl Objects {
    fn rebuilt(&self, like: &Cluster, random: &mut Random) -> Cluster {
        let mut cluster = Cluster::new();
        let first = random.below(2) == 0;
        let reserve = |cluster: &mut Cluster| {
            for (uid, terms) in &self.terms {
                cluster.set_reservation(terms.clone(), &like.seats(uid));
            }
        };
        if first {
            reserve(&mut cluster);
        }
        let mut pods: Vec<&Pod> = self.pods.values().collect();
        while !pods.is_empty() {
            cluster.upsert_pod(pods.swap_remove(random.below(pods.len())));
        }
        self.nodes.values().for_each(|node| _ = cluster.upsert_node(node));
        if !first {
            reserve(&mut cluster);
        }
        cluster
    }

    fn check(&self, cluster: &Cluster, random: &mut Random, what: &str) {
        let rebuilt = self.rebuilt(cluster, random);
        for name in self.nodes.keys() {
            let (node, anew) = (cluster.node(name).unwrap(), rebuilt.node(name).unwrap());
            assert_eq!(node.used(), anew.used(), "{name} after {what}");
            assert!(node.used().milli_cpu <= node.allocatable().milli_cpu, "{name} after {what}");
            let overdrawn = |gpus: &[i32]| gpus.iter().any(|free| *free < 0);
            assert!(!overdrawn(node.gpus()) && !overdrawn(anew.gpus()), "{name} after {what}");
        }
        for uid in self.terms.keys() {
            let sum = |cluster: &Cluster| -> Vec<_> {
                let seats = cluster.seats(uid);
                seats.into_iter().map(|s| (s.node, s.done, s.left, s.consumers.len())).collect()
            };
            assert_eq!(sum(cluster), sum(&rebuilt), "{uid} after {what}");
        }
    }
}

/// Whatever happens: never over capacity, and a cluster that is built anew is the same.
#[test]
fn in_any_order_nothing_is_counted_twice() {
    let (mut taken, mut preempted, mut partly) = (0, 0, 0);
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut objects = Objects::default();
        let mut cluster = Cluster::new();
        for step in 0..120 {
            let what = act(&mut objects, &mut cluster, &mut random, step, (&mut taken, &mut preempted));
            objects.check(&cluster, &mut random, &format!("{what} (seed {seed}, step {step})"));
            let seats = objects.terms.keys().flat_map(|uid| cluster.seats(uid));
            partly += seats.filter(|seat| seat.left.is_some() && !seat.consumers.is_empty()).count();
        }
    }
    assert!(taken > 100 && preempted > 50 && partly > 300, "{taken} {preempted} {partly}");
}

fn act(
    objects: &mut Objects,
    cluster: &mut Cluster,
    random: &mut Random,
    step: usize,
    (taken, preempted): (&mut usize, &mut usize),
) -> &'static str {
    let pick = |random: &mut Random, names: Vec<&String>| -> Option<String> {
        if names.is_empty() { None } else { Some(names[random.below(names.len())].clone()) }
    };
    match random.below(12) {
        0 => {
            let name = format!("n{}", random.below(5));
            let gpus = json!({"status": {"allocatable": {"sampan.io/gpu": "2"}}});
            let node = node(&name, "6", gpus);
            cluster.upsert_node(&node);
            objects.nodes.insert(name, node);
            "a node"
        }
        1 => {
            let app = format!("r{}", random.below(3));
            let gpu = [json!({}), json!({"sampan.io/gpu": "1"}), json!({"sampan.io/gpu-milli": "500"})];
            let more = json!({
                "count": 1 + random.below(3), "allocateOnce": random.below(2) == 0,
                "template": {"spec": {"priority": 10 * random.below(3)}},
            });
            let mut terms = terms(&app, &format!("{}", 1 + random.below(3)), more);
            let requests = gpu[random.below(3)].clone();
            let with_gpu = json!({"containers": [{"name": "c", "resources": {"requests": requests}}]});
            if random.below(2) == 0 {
                let cpu = format!("{}", 1 + random.below(3));
                let mut spec = json!({"template": {"spec": with_gpu}, "count": 2});
                super::merge(
                    &mut spec,
                    json!({"template": {"spec": {"resources": {"requests": {"cpu": cpu}}}}}),
                );
                terms = self::terms(&app, "1", spec);
            }
            cluster.set_reservation(terms.clone(), &[]);
            objects.terms.insert(app, terms);
            "a reservation"
        }
        2 => {
            let Some(uid) = pick(random, objects.terms.keys().collect()) else { return "nothing" };
            cluster.remove_reservation(&uid);
            objects.terms.remove(&uid);
            "a reservation that goes"
        }
        3 | 4 => {
            for uid in objects.terms.keys() {
                place(cluster, uid);
            }
            "seats"
        }
        5 | 6 => {
            let Some(name) = pick(random, objects.pods.keys().collect()) else { return "nothing" };
            objects.pods.remove(&name);
            cluster.remove_pod(&name);
            "a pod that leaves"
        }
        7 => {
            let once: Vec<Seat> = objects
                .terms
                .values()
                .filter(|terms| terms.once)
                .flat_map(|terms| cluster.seats(&terms.uid).into_iter().map(move |seat| (terms, seat)))
                .filter(|(_, seat)| !seat.consumers.is_empty())
                .map(|(terms, seat)| terms.seat(seat.index))
                .collect();
            once.iter().for_each(|seat| _ = cluster.spend_seat(seat));
            "seats that are used up"
        }
        8 if random.below(3) == 0 => {
            let Some(name) = pick(random, objects.nodes.keys().collect()) else { return "nothing" };
            cluster.remove_node(&name);
            objects.nodes.remove(&name);
            let there = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some(&*name);
            let lost: Vec<String> =
                objects.pods.iter().filter(|(_, pod)| there(pod)).map(|(uid, _)| uid.clone()).collect();
            for uid in lost {
                objects.pods.remove(&uid);
                cluster.remove_pod(&uid);
            }
            "a node that is lost"
        }
        _ => {
            let app = format!("r{}", random.below(4));
            let gpu = [json!({}), json!({"sampan.io/gpu": "1"}), json!({"sampan.io/gpu-milli": "250"})];
            let cpu = format!("{}m", 250 * (1 + random.below(12)));
            let mut requests = gpu[random.below(3)].clone();
            requests["cpu"] = cpu.into();
            let priority = 5 * i32::try_from(random.below(6)).unwrap();
            let spec = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}});
            let pod = with_priority(of_app(&format!("p{step}"), "1", &app, spec), priority);
            come(objects, cluster, pod, (taken, preempted));
            "a pod"
        }
    }
}

/// A pod comes, and makes others leave if it has to.
fn come(
    objects: &mut Objects,
    cluster: &mut Cluster,
    mut pod: Pod,
    (taken, preempted): (&mut usize, &mut usize),
) {
    let info = PodInfo::of(&pod);
    let placement = match cluster.schedule(&info, 7) {
        Ok(placement) => placement,
        Err(_) => {
            let Ok(plan) = cluster.preempt(&info, 7, None) else { return };
            cluster.promise(&info, &plan);
            for victim in plan.victims.iter().filter(|victim| victim.holds().is_none()) {
                objects.pods.remove(victim.uid());
                cluster.remove_pod(victim.uid());
            }
            *preempted += 1;
            cluster.schedule(&info, 7).expect("room was made for it")
        }
    };
    cluster.assume_placed(info, &placement);
    *taken += usize::from(placement.seat.is_some());
    pod.spec.as_mut().unwrap().node_name = Some(placement.node.clone());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    if let Some(seat) = &placement.seat {
        annotations.insert(CONSUMED.to_owned(), seat.to_string());
    }
    if !placement.devices.is_empty() {
        annotations.insert(gpu::GPU_DEVICES.to_owned(), gpu::format_devices(&placement.devices));
    }
    objects.pods.insert(pod.metadata.uid.clone().unwrap(), pod);
}
