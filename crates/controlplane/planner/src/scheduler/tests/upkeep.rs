//! What is remembered is bounded, shared, and looked at again exactly when it must be.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{bound, cluster, node, pod, why, with_priority};
use crate::scheduler::{Candidate, Cluster, Hints, PodInfo, Profile, Queue};

fn of_owner(name: &str, owner: &str, image: &str, cpu: &str) -> PodInfo {
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true});
    let mut info = pod(name, cpu, json!({"metadata": {"ownerReferences": [owner]}}));
    info.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
    PodInfo::of(&info)
}

#[test]
fn pods_of_many_owners_that_wait_share_what_is_known() {
    let mut cluster = cluster(&[node("a", "1", json!({})), node("b", "1", json!({}))]);
    for owner in 0..50 {
        let owner = format!("owner-{owner}");
        let large = of_owner(&format!("large-{owner}"), &owner, &owner, "2");
        assert!(cluster.schedule(&large, 1).is_err());
        assert!(cluster.would_fit(&large).is_err());
        assert!(cluster.preempt(&large, 1, None).is_err());
    }
    assert_eq!((cluster.fits.len(), cluster.classes.len()), (1, 0), "nobody had to know which node is best");
    assert!(cluster.schedule(&of_owner("small", "o", "i", "1"), 1).is_ok());
    assert_eq!((cluster.fits.len(), cluster.classes.len()), (2, 1));
}

#[test]
fn what_pods_name_and_no_node_has_is_forgotten() {
    let nodes: Vec<_> = (0..3)
        .map(|n| {
            node(
                &format!("n{n}"),
                "4",
                json!({"metadata": {"labels": {"disk": "ssd"}},
        "status": {"allocatable": {"example.com/real": "2"}}}),
            )
        })
        .collect();
    let mut cluster = cluster(&nodes);
    let held = pod(
        "held",
        "1",
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"example.com/real": "1"}}}]}}),
    );
    cluster.upsert_pod(&bound(held, "held", "n1"));
    let wants = |extra: Value| pod("p", "1", extra);
    let fits = wants(
        json!({"spec": {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "c", "resources": {"requests": {"example.com/real": "2"}}}]}}),
    );
    let placed = why(&mut cluster, &fits);
    assert!(placed == "-> n0" || placed == "-> n2", "{placed}");
    for n in 0..1000 {
        let resource = format!("example.com/r{n}");
        let hostile = wants(json!({"spec": {
            "nodeSelector": {format!("key-{n}"): "x", "disk": format!("value-{n}")},
            "containers": [{"name": "c", "resources": {"requests": {resource: "1"}}}],
        }}));
        assert!(why(&mut cluster, &hostile).contains("3 node(s) didn't match Pod's node affinity/selector"));
        let nodes = &cluster.world.nodes;
        assert!(nodes.columns.len() < 300 && nodes.further.len() < 300, "{n}");
    }
    for n in 0..20_000 {
        let hostile = wants(json!({"spec": {"nodeSelector": {"disk": format!("value-{n}")}}}));
        assert!(cluster.would_fit(&PodInfo::of(&hostile)).is_err());
    }
    let values: usize = cluster.world.nodes.columns.iter().map(|c| c.len()).sum();
    assert!(values < 17_000, "{values}");
    assert_eq!(why(&mut cluster, &fits), placed, "what matters is still known");
    cluster.remove_pod("held");
    assert_eq!(cluster.evaluate(&PodInfo::of(&fits)).len(), 3);
}

#[test]
fn other_images_are_noticed_however_many_there_are() {
    let with = |name: &str, image: &str| {
        node(
            name,
            "4",
            json!({"status": {"images": [{"names": [format!("{image}:latest")], "sizeBytes": 900_000_000}]}}),
        )
    };
    let mut cluster = cluster(&[with("a", "busybox"), with("b", "other"), with("c", "third")]);
    assert_eq!(why(&mut cluster, &pod("p", "0", json!({}))), "-> a");
    cluster.upsert_node(&with("a", "other"));
    cluster.upsert_node(&with("c", "busybox"));
    assert_eq!(why(&mut cluster, &pod("p", "0", json!({}))), "-> c");
}

#[test]
fn labels_of_namespaces_matter_to_who_reads_them_alone() {
    let mut cluster = cluster(&[node("a", "4", json!({}))]);
    let term = json!({"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": "kubernetes.io/hostname",
        "namespaceSelector": {"matchLabels": {"team": "x"}}});
    let near = pod(
        "p",
        "1",
        json!({"spec": {"affinity": {"podAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}}),
    );
    assert_eq!(
        why(&mut cluster, &near),
        "0/1 nodes are available: 1 node(s) didn't match pod affinity rules."
    );
    assert!(cluster.would_fit(&PodInfo::of(&near)).unwrap_err().intersects(Hints::NAMESPACE));
    let team = [("team".to_owned(), "x".to_owned())].into();
    assert_eq!(cluster.set_namespace("default", Some(team)), Hints::NAMESPACE);
    // It is the first of its kind now.
    assert_eq!(why(&mut cluster, &near), "-> a");
    let large = cluster.schedule(&PodInfo::of(&pod("q", "9", json!({}))), 1).unwrap_err();
    assert!(!large.hints.intersects(Hints::NAMESPACE), "room does not come from labels");
}

#[test]
fn nobody_is_made_to_leave_where_something_else_forbids_the_pod() {
    let mut cluster = cluster(&[node("a", "1", json!({})), node("b", "1", json!({}))]);
    for (name, priority) in [("a", 0), ("b", 5)] {
        cluster.upsert_pod(&with_priority(bound(pod(name, "1", json!({})), name, name), priority));
    }
    let high = PodInfo::of(&with_priority(pod("high", "1", json!({})), 9));
    let only = |allowed: &'static str| {
        move |node: Candidate<'_>| {
            if node.name == allowed { Ok(()) } else { Err("its volume is elsewhere".to_owned()) }
        }
    };
    assert_eq!(cluster.preempt(&high, 1, None).unwrap().node, "a");
    assert_eq!(cluster.preempt(&high, 1, Some(&only("b"))).unwrap().node, "b");
    assert!(cluster.preempt(&high, 1, Some(&only("c"))).is_err());
    // The same where neighbours have a say.
    let apart = json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"labelSelector": {"matchLabels": {"app": "nobody"}}, "topologyKey": "kubernetes.io/hostname"}]}}}});
    let high = PodInfo::of(&with_priority(pod("high", "1", apart), 9));
    assert_eq!(cluster.preempt(&high, 1, Some(&only("b"))).unwrap().node, "b");
    assert!(cluster.preempt(&high, 1, Some(&only("c"))).is_err());
}

#[test]
fn packing_learns_from_each_pod_once() {
    let mut cluster = Cluster::with_profiles(vec![Profile::shipped("fragmentation").unwrap()]);
    cluster.upsert_node(&node("a", "100", json!({})));
    let learned = |cluster: &Cluster| cluster.packs[0].as_ref().unwrap().news();
    let running = bound(pod("one", "1", json!({})), "one", "a");
    cluster.upsert_pod(&running);
    let mut ending = running.clone();
    ending.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    cluster.upsert_pod(&ending);
    assert_eq!(learned(&cluster), 1.0, "that it ends is no news");
    cluster.attempt(|c| {
        c.remove_pod("one");
        c.assume(PodInfo::of(&pod("tried", "1", json!({}))), "a");
        ((), false)
    });
    assert_eq!(learned(&cluster), 1.0, "nor is what was only tried");
    let gang = json!({"metadata": {"labels": {"sampan.io/pod-group": "g"}, "annotations": {"sampan.io/pod-group-min": "2"}}});
    let members = ["g1", "g2"].map(|name| Arc::new(PodInfo::of(&pod(name, "1", gang.clone()))));
    let group = members[0].group().unwrap().clone();
    cluster.schedule_gang(&group, &members, 1).unwrap();
    assert_eq!(learned(&cluster), 3.0, "members of gangs come, too");
    cluster.upsert_pod(&bound(pod("g1", "1", gang), "g1", "a"));
    assert_eq!(learned(&cluster), 3.0);
}

#[test]
fn pods_that_name_their_nodes_share_what_is_known_and_do_not_wait_for_each_other() {
    let mut cluster = cluster(&[node("a", "1", json!({})), node("b", "1", json!({}))]);
    let mut queue = Queue::default();
    for name in ["a", "b"] {
        cluster.upsert_pod(&bound(pod(name, "1", json!({})), &format!("on-{name}"), name));
        let names = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]);
        let only = json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": names}}}}});
        let mut daemon = PodInfo::of(&pod(&format!("daemon-{name}"), "1", only));
        cluster.intern(&mut daemon);
        queue.put(Arc::new(daemon), false, 0);
    }
    let popped: Vec<Arc<PodInfo>> = std::iter::from_fn(|| queue.pop(0)).map(|popped| popped.pod).collect();
    assert!(Arc::ptr_eq(&popped[0].shape, &popped[1].shape));
    for pod in &popped {
        let refused = cluster.schedule(pod, 1).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't satisfy plugin(s) [NodeAffinity]."
        );
        queue.waits_for(pod.uid(), refused.hints, 0, |pod| cluster.would_fit(pod));
    }
    assert_eq!(cluster.fits.len(), 1);
    let hints = cluster.remove_pod("on-b");
    queue.wake(hints, 0, |pod| cluster.would_fit(pod));
    let woken = queue.pop(0).map(|popped| popped.pod);
    assert_eq!(woken.as_ref().map(|pod| pod.uid()), Some("daemon-b"), "the first of them still waits");
    assert_eq!(cluster.schedule(&woken.unwrap(), 1).unwrap().node, "b");
}
