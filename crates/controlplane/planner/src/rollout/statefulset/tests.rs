//! A StatefulSet carried out step by step against a pretended API, its volume claims and their garbage included.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-01-01T00:00:00Z";

struct World {
    set: StatefulSet,
    pods: Vec<Pod>,
    claims: BTreeMap<String, PersistentVolumeClaim>,
    current: String,
    update: String,
    now: Timestamp,
    made: u32,
    notices: Vec<String>,
    failures: Failures,
    again_at: Option<Timestamp>,
    problems: Vec<String>,
    /// Deleted pods stay and terminate.
    lingering: bool,
}

impl World {
    fn new(replicas: i32, spec: Value) -> Self {
        let mut value = json!({"metadata": {"name": "db", "namespace": "ns", "uid": "set", "generation": 1},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "db"}}, "template": {}, "serviceName": "db"}});
        value["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        Self {
            set: serde_json::from_value(value).unwrap(),
            pods: Vec::new(),
            claims: BTreeMap::new(),
            current: "r1".into(),
            update: "r1".into(),
            now: NOW.parse().unwrap(),
            made: 0,
            notices: Vec::new(),
            failures: Failures::default(),
            again_at: None,
            problems: Vec::new(),
            lingering: false,
        }
    }

    fn with_claims(replicas: i32, policy: (&str, &str)) -> Self {
        Self::new(
            replicas,
            json!({
                "podManagementPolicy": "Parallel",
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": policy.0, "whenScaled": policy.1},
                "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"tier": "gold"}}, "spec": {}}],
            }),
        )
    }

    /// One step; what it did, in words.
    fn step(&mut self) -> String {
        let pods = self.pods.clone();
        let refs: Vec<&Pod> = pods.iter().collect();
        let claims = self.claims.clone();
        let find = |name: &str| claims.get(name).cloned().map(Arc::new);
        let plan = plan(Input {
            set: &self.set,
            owned: &refs,
            claim: &find,
            current: &self.current,
            update: &self.update,
            collisions: None,
            failures: std::mem::take(&mut self.failures),
            now: self.now,
        });
        self.current = plan.status.current_revision.clone().unwrap();
        self.problems = plan.problems;
        self.failures = plan.failures;
        self.again_at = plan.again_at;
        self.notices.extend(plan.notices.into_iter().map(|n| n.reason.to_owned()));
        let mut words = Vec::new();
        for (_, claim) in plan.claims {
            words.push(format!("+{}", pods::name(&claim.metadata)));
            self.claims.insert(claim.metadata.name.clone().unwrap(), claim);
        }
        for Ownership { claim, owners } in plan.ownerships {
            let names: Vec<&str> = owners.iter().map(|o| o.name.as_str()).collect();
            let name = pods::name(&claim.metadata);
            words.push(format!("{name}<-[{}]", names.join(" ")));
            self.claims.get_mut(name).unwrap().metadata.owner_references = Some(owners);
        }
        for pod in plan.relabel {
            words.push(format!("~{}", pods::name(&pod.metadata)));
        }
        for pod in plan.delete {
            words.push(format!("-{}", pods::name(&pod.metadata)));
            let now = self.now;
            for p in self.pods.iter_mut().filter(|p| p.metadata.uid == pod.metadata.uid) {
                p.metadata.deletion_timestamp = Some(Time(now));
            }
            if !self.lingering {
                self.pods.retain(|p| p.metadata.uid != pod.metadata.uid);
            }
        }
        for (ordinal, revision) in plan.create {
            words.push(format!("+db-{ordinal}/{revision}"));
            self.make(ordinal, &revision);
        }
        self.set.status = Some(plan.status);
        words.join(" ")
    }

    fn make(&mut self, ordinal: i32, revision: &str) {
        self.made += 1;
        let name = format!("db-{ordinal}");
        let pod = json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("u{}", self.made),
                "labels": {REVISION: revision, POD_NAME: name}},
            "spec": {"containers": []}, "status": {"phase": "Pending"}});
        let mut pod: Pod = serde_json::from_value(pod).unwrap();
        mount(&self.set, &mut pod, ordinal);
        self.pods.push(pod);
    }

    fn pod(&mut self, name: &str) -> &mut Pod {
        self.pods.iter_mut().find(|p| p.metadata.name.as_deref() == Some(name)).unwrap()
    }

    fn set_phase(&mut self, name: &str, phase: &str, ready: bool) {
        let ready = if ready { "True" } else { "False" };
        self.pod(name).status = serde_json::from_value(json!({"phase": phase,
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": NOW}]}))
        .unwrap();
    }

    fn ready(&mut self) {
        let names: Vec<String> = self.pods.iter().map(|p| p.metadata.name.clone().unwrap()).collect();
        names.iter().for_each(|name| self.set_phase(name, "Running", true));
    }

    fn history(&mut self, steps: usize) -> Vec<String> {
        let mut history = Vec::new();
        for _ in 0..steps {
            let words = self.step();
            self.ready();
            if !words.is_empty() {
                history.push(words);
            }
        }
        history
    }

    fn status(&self) -> [i32; 5] {
        let s = self.set.status.as_ref().unwrap();
        let n = |n: Option<i32>| n.unwrap();
        [
            s.replicas,
            n(s.ready_replicas),
            n(s.available_replicas),
            n(s.current_replicas),
            n(s.updated_replicas),
        ]
    }
}

#[test]
fn one_after_the_other_up_and_down() {
    let mut world = World::new(3, json!({}));
    assert_eq!(world.step(), "+db-0/r1");
    assert_eq!(world.step(), "", "the first is not ready yet");
    world.ready();
    assert_eq!(world.history(4), ["+db-1/r1", "+db-2/r1"]);
    world.set.spec.replicas = Some(1);
    assert_eq!(world.history(4), ["-db-2", "-db-1"]);
}

#[test]
fn a_terminating_pod_is_waited_for() {
    let mut world = World::new(3, json!({}));
    world.history(6);
    world.lingering = true;
    world.set.spec.replicas = Some(1);
    assert_eq!(world.step(), "-db-2");
    assert_eq!(world.step(), "", "db-2 has not ended");
    assert_eq!(world.status(), [3, 3, 3, 2, 2], "what terminates is still there, and of no revision");
    world.pods.pop();
    assert_eq!(world.step(), "-db-1");
    // Growing again waits, too.
    world.set.spec.replicas = Some(3);
    assert_eq!(world.step(), "");
    world.pods.pop();
    assert_eq!(world.step(), "+db-1/r1");
}

#[test]
fn scaling_down_stops_at_what_is_ill() {
    // The ill one below holds up the well one above; the lowest ill one may go.
    let mut world = World::new(4, json!({}));
    world.history(8);
    world.set.spec.replicas = Some(1);
    world.set_phase("db-2", "Running", false);
    assert_eq!(world.step(), "-db-3");
    assert_eq!(world.step(), "-db-2");
    world.set_phase("db-1", "Running", false);
    assert_eq!(world.step(), "-db-1");

    let mut world = World::new(4, json!({}));
    world.history(8);
    world.set.spec.replicas = Some(1);
    world.set_phase("db-3", "Running", false);
    world.set_phase("db-2", "Running", false);
    assert_eq!(world.step(), "", "db-3 is ill and not the first that is");
    // A replica that stays and is ill holds up everything.
    world.ready();
    world.set_phase("db-0", "Running", false);
    assert_eq!(world.step(), "");
}

#[test]
fn failed_and_succeeded_pods_are_replaced() {
    for phase in ["Failed", "Succeeded"] {
        let mut world = World::new(2, json!({}));
        world.history(5);
        world.set_phase("db-0", phase, false);
        assert_eq!(world.step(), "-db-0");
        assert_eq!(world.step(), "+db-0/r1");
    }
}

#[test]
fn a_pod_that_fails_again_and_again_is_replaced_ever_more_slowly() {
    let mut world = World::new(1, json!({}));
    world.history(2);
    let mut waits = Vec::new();
    for _ in 0..12 {
        world.set_phase("db-0", "Failed", false);
        let words = world.step();
        if words.is_empty() {
            let until = world.again_at.unwrap();
            waits.push(until.duration_since(world.now).as_secs());
            world.now = until;
            assert_eq!(world.step(), "-db-0");
        }
        assert_eq!(world.step(), "+db-0/r1");
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900]);
    // Another generation starts anew.
    world.set_phase("db-0", "Failed", false);
    world.set.metadata.generation = Some(2);
    assert_eq!(world.step(), "-db-0");
}

#[test]
fn all_at_once_when_asked() {
    let mut world = World::new(3, json!({"podManagementPolicy": "Parallel", "ordinals": {"start": 5}}));
    assert_eq!(world.step(), "+db-5/r1 +db-6/r1 +db-7/r1");
    world.set.spec.ordinals = serde_json::from_value(json!({"start": 7})).unwrap();
    assert_eq!(world.step(), "-db-6 -db-5 +db-8/r1 +db-9/r1");
}

#[test]
fn min_ready_seconds_hold_up_the_next() {
    let mut world = World::new(2, json!({"minReadySeconds": 10}));
    world.step();
    world.set_phase("db-0", "Running", true);
    assert_eq!(world.step(), "", "ready, not available");
    assert_eq!(world.status()[1..3], [1, 0]);
    world.now = "2026-01-01T00:00:10Z".parse().unwrap();
    assert_eq!(world.step(), "+db-1/r1");
}

#[test]
fn rolls_from_the_top_and_stops_at_the_partition() {
    let rolling = json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}});
    let mut world = World::new(3, rolling);
    world.history(6);
    world.update = "r2".into();
    assert_eq!(world.history(8), ["-db-2", "+db-2/r2", "-db-1", "+db-1/r2"]);
    assert_eq!(world.status(), [3, 3, 3, 1, 2]);
    world.set.spec.update_strategy = None;
    assert_eq!(world.history(8), ["-db-0", "+db-0/r2"]);
    assert_eq!(world.current, "r2");
    assert_eq!(world.status(), [3, 3, 3, 3, 3]);
}

#[test]
fn the_partition_counts_from_the_first_ordinal() {
    let rolling = json!({"ordinals": {"start": 10},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}});
    let mut world = World::new(3, rolling);
    world.history(8);
    world.update = "r2".into();
    assert_eq!(world.history(8), ["-db-12", "+db-12/r2"]);
    world.pods.retain(|p| p.metadata.name.as_deref() == Some("db-12"));
    assert_eq!(world.history(8), ["+db-10/r1", "+db-11/r1"]);
}

#[test]
fn a_pod_lost_below_the_partition_comes_back_as_it_was() {
    let mut world = World::new(3, json!({"updateStrategy": {"rollingUpdate": {"partition": 2}}}));
    world.history(6);
    world.update = "r2".into();
    world.history(4);
    world.pods.retain(|p| p.metadata.name.as_deref() != Some("db-0"));
    assert_eq!(world.history(1), ["+db-0/r1"]);
}

#[test]
fn on_delete_leaves_updates_to_the_user() {
    let mut world = World::new(2, json!({"updateStrategy": {"type": "OnDelete"}}));
    world.history(5);
    world.update = "r2".into();
    assert!(world.history(4).is_empty());
    world.pods.remove(0);
    assert_eq!(world.history(3), ["+db-0/r2"]);
    assert_eq!(world.current, "r1", "so it stays with this strategy");
}

#[test]
fn several_may_be_unavailable_at_once() {
    for (most, expected) in [
        (json!(2), vec!["-db-4 -db-3", "+db-4/r2 +db-3/r2"]),
        (json!("50%"), vec!["-db-4 -db-3", "+db-4/r2 +db-3/r2"]),
        (json!("10%"), vec!["-db-4", "+db-4/r2"]),
    ] {
        let mut world = World::new(
            5,
            json!({"podManagementPolicy": "Parallel",
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": most}}}),
        );
        world.history(2);
        world.update = "r2".into();
        let first = world.step();
        assert_eq!(first, expected[0], "{most}");
        let mut second: Vec<String> = world.step().split(' ').map(str::to_owned).collect();
        second.reverse();
        assert_eq!(second.join(" "), expected[1], "{most}");
        assert_eq!(world.step(), "", "the new ones are not ready");
        world.set_phase("db-0", "Running", false);
        world.set_phase("db-4", "Running", true);
        assert_eq!(world.step(), "", "one that is ill counts, wherever it is");
        world.ready();
        world.history(12);
        assert_eq!(world.current, "r2");
    }
}

/// Ordered, a broken rollout waits for its pod to be deleted; in parallel it is repaired by the next template.
#[test]
fn a_broken_rollout_is_repaired() {
    let mut world = World::new(2, json!({}));
    world.history(5);
    world.update = "broken".into();
    assert_eq!(world.step(), "-db-1");
    assert_eq!(world.step(), "+db-1/broken");
    world.update = "r1".into();
    assert_eq!(world.step(), "", "db-1 never becomes ready");
    world.pods.pop();
    assert_eq!(world.history(4), ["+db-1/r1"]);

    let mut world = World::new(2, json!({"podManagementPolicy": "Parallel"}));
    world.history(3);
    world.update = "broken".into();
    world.step();
    world.step();
    world.update = "r3".into();
    assert_eq!(world.step(), "-db-1");
    assert_eq!(world.history(5), ["+db-1/r3", "-db-0", "+db-0/r3"]);
}

#[test]
fn a_set_that_is_deleted_only_counts() {
    let mut world = World::new(3, json!({}));
    world.history(3);
    world.set.metadata.deletion_timestamp = Some(Time(world.now));
    world.pods.pop();
    assert_eq!(world.step(), "");
    assert_eq!(world.status()[0], i32::try_from(world.pods.len()).unwrap());
}

#[test]
fn the_identity_is_repaired() {
    let mut world = World::new(1, json!({}));
    world.history(2);
    world.pod("db-0").metadata.labels.as_mut().unwrap().remove(POD_NAME);
    assert_eq!(world.step(), "~db-0");
    for (name, expected) in [
        ("db-0", Some(0)),
        ("db-12", Some(12)),
        ("db-", None),
        ("db-+1", None),
        ("dbx-1", None),
        ("db-1-2", None),
    ] {
        let meta = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
        assert_eq!(ordinal(&world.set, &meta), expected, "{name}");
    }
}

#[test]
fn claims_come_first_and_are_used() {
    let mut world = World::with_claims(2, ("Retain", "Retain"));
    assert_eq!(world.step(), "+data-db-0 +data-db-1 +db-0/r1 +db-1/r1");
    let claim = &world.claims["data-db-0"];
    let labels: Vec<_> =
        claim.metadata.labels.as_ref().unwrap().iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(labels, ["app=db", "tier=gold"]);
    let volume = &world.pods[0].spec.as_ref().unwrap().volumes.as_ref().unwrap()[0];
    assert_eq!(volume.persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-0");
    // A claim that is lost while its pod waits comes back; one of a running pod does not.
    world.claims.clear();
    assert_eq!(world.step(), "+data-db-0 +data-db-1");
    world.claims.clear();
    world.ready();
    assert_eq!(world.step(), "");
    // A claim that is being deleted is waited for.
    world.pods.clear();
    world.step();
    world.pods.clear();
    world.claims.get_mut("data-db-0").unwrap().metadata.deletion_timestamp = Some(Time(world.now));
    assert_eq!(world.step(), "+db-1/r1");
    assert_eq!(world.problems, ["pvc data-db-0 is being deleted"]);
}

#[test]
fn owners_by_the_retention_policy() {
    let cases = [
        (("Retain", "Retain"), "", ""),
        (("Delete", "Retain"), "data-db-0<-[db] data-db-1<-[db]", ""),
        (("Retain", "Delete"), "", "data-db-1<-[db-1] "),
        (("Delete", "Delete"), "data-db-0<-[db] data-db-1<-[db]", "data-db-1<-[db-1] "),
    ];
    for (policy, up, down) in cases {
        let mut world = World::with_claims(2, policy);
        world.step();
        world.ready();
        assert_eq!(world.step(), up, "{policy:?}");
        assert_eq!(world.step(), "", "{policy:?}");
        world.set.spec.replicas = Some(1);
        assert_eq!(world.step(), format!("{down}-db-1"), "{policy:?}");
    }
}

#[test]
fn a_pod_waits_until_the_claim_of_its_predecessor_is_gone() {
    let mut world = World::with_claims(2, ("Retain", "Delete"));
    world.history(2);
    world.set.spec.replicas = Some(1);
    world.step();
    world.set.spec.replicas = Some(2);
    assert_eq!(world.step(), "", "data-db-1 goes with the old db-1");
    world.claims.remove("data-db-1");
    assert_eq!(world.step(), "+data-db-1 +db-1/r1");
}

#[test]
fn a_policy_that_changes_takes_the_owners_along() {
    let mut world = World::with_claims(1, ("Delete", "Delete"));
    world.history(3);
    let policy = |world: &mut World, deleted: &str, scaled: &str| {
        world.set.spec.persistent_volume_claim_retention_policy =
            serde_json::from_value(json!({"whenDeleted": deleted, "whenScaled": scaled})).unwrap();
    };
    policy(&mut world, "Retain", "Retain");
    assert_eq!(world.step(), "data-db-0<-[]");
    policy(&mut world, "Delete", "Retain");
    assert_eq!(world.step(), "data-db-0<-[db]");
    // What somebody else controls is left to them.
    let reference = |kind: &str, name: &str, uid: &str| json!({"apiVersion": "example.com/v1", "kind": kind, "name": name, "uid": uid, "controller": true});
    let ours = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "set", "controller": true});
    world.claims.get_mut("data-db-0").unwrap().metadata.owner_references =
        serde_json::from_value(json!([reference("Backup", "b", "other"), ours])).unwrap();
    assert_eq!(world.step(), "data-db-0<-[b]");
    assert_eq!(world.notices, ["ConflictingController"]);
    assert_eq!(world.step(), "");
    // A claim of a set that was there before under the same name is not touched.
    let stale = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "before", "controller": true}]);
    world.claims.get_mut("data-db-0").unwrap().metadata.owner_references =
        serde_json::from_value(stale).unwrap();
    assert_eq!(world.step(), "");
}

/// Ordered sets never have two pods on their way at a time, and never one above another that is missing.
#[test]
fn the_order_holds_whatever_happens() {
    let mut seed = 3_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..100 {
        let mut world = World::new(i32::try_from(random(6)).unwrap(), json!({}));
        for _ in 0..120 {
            let well: Vec<String> =
                world.pods.iter().filter(|p| running(p)).map(|p| p.metadata.name.clone().unwrap()).collect();
            let words = world.step();
            assert!(!words.contains(' '), "{words}");
            if let Some(made) = words.strip_prefix("+db-") {
                let ordinal: usize = made[..1].parse().unwrap();
                assert!((0..ordinal).all(|o| well.contains(&format!("db-{o}"))), "{words} with {well:?}");
            }
            match random(4) {
                0 => world.ready(),
                1 if !world.pods.is_empty() => {
                    let at = usize::try_from(random(world.pods.len() as u64)).unwrap();
                    world.pods.remove(at);
                }
                2 => world.set.spec.replicas = Some(i32::try_from(random(6)).unwrap()),
                _ => {}
            }
        }
    }
}
