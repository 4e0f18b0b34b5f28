//! A small world that carries plans out, so that bounds are checked at every step of a whole rollout.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DeploymentSpec, ReplicaSetStatus};
use k8s_openapi::jiff::SignedDuration;
use serde_json::{Value, json};

use super::*;

struct World {
    deployment: Deployment,
    sets: BTreeMap<String, ReplicaSet>,
    now: Timestamp,
    created: i64,
    notices: Vec<String>,
}

impl World {
    fn new(replicas: i32, strategy: Value) -> Self {
        let deployment = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1},
            "spec": {
                "replicas": replicas, "strategy": strategy, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 2,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "v1"}]}},
            },
        }));
        let now = "2026-01-01T12:00:00Z".parse().unwrap();
        Self { deployment: deployment.unwrap(), sets: BTreeMap::new(), now, created: 0, notices: Vec::new() }
    }

    fn rolling(replicas: i32, surge: impl Into<Value>, missing: impl Into<Value>) -> Self {
        let rolling = json!({"maxSurge": surge.into(), "maxUnavailable": missing.into()});
        Self::new(replicas, json!({"type": "RollingUpdate", "rollingUpdate": rolling}))
    }

    fn spec(&mut self) -> &mut DeploymentSpec {
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
        &mut self.deployment.spec
    }

    fn image(&mut self, image: &str) {
        self.spec().template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
    }

    /// One step; whether it changed anything.
    fn step(&mut self) -> bool {
        let owned: Vec<&ReplicaSet> = self.sets.values().collect();
        let plan = plan(&self.deployment, &owned, &[], self.now);
        let busy = plan.create.is_some()
            || !plan.changes.is_empty()
            || !plan.delete.is_empty()
            || plan.revision.is_some()
            || plan.status.is_some();
        if let Some(mut created) = plan.create {
            self.created += 1;
            let at = self.now.checked_add(SignedDuration::from_millis(self.created)).unwrap();
            created.metadata.creation_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at));
            created.metadata.uid = created.metadata.name.clone();
            self.sets.insert(created.metadata.name.clone().unwrap(), *created);
        }
        for change in plan.changes {
            let set = self.sets.get_mut(&change.name).unwrap();
            let spec = &mut set.spec;
            spec.replicas = change.replicas.or(spec.replicas);
            spec.min_ready_seconds = change.min_ready_seconds.or(spec.min_ready_seconds);
            set.metadata.annotations.get_or_insert_default().extend(change.annotations);
        }
        for name in plan.delete {
            self.sets.remove(&name);
        }
        if let Some(revision) = plan.revision {
            self.deployment.metadata.annotations.get_or_insert_default().insert(REVISION.into(), revision);
        }
        if let Some(status) = plan.status {
            self.deployment.status = Some(status);
        }
        self.notices.extend(plan.notices.into_iter().map(|n| n.message));
        busy
    }

    /// The ReplicaSet controller and the kubelet at once: pods appear, and those of `ready` sets become available.
    fn run_pods(&mut self, healthy: impl Fn(&ReplicaSet) -> bool) {
        for set in self.sets.values_mut() {
            let size = spec_replicas(set);
            let had = set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0);
            let available = if healthy(set) { size } else { had.min(size) };
            set.status = Some(ReplicaSetStatus {
                replicas: size,
                ready_replicas: Some(available),
                available_replicas: Some(available),
                observed_generation: set.metadata.generation,
                ..ReplicaSetStatus::default()
            });
        }
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            let busy = self.step();
            self.run_pods(|_| true);
            if !busy && !self.step() {
                return;
            }
        }
        panic!("the rollout does not come to rest: {:?}", self.sizes());
    }

    fn sizes(&self) -> Vec<i32> {
        let mut sets: Vec<&ReplicaSet> = self.sets.values().collect();
        sets.sort_by_key(|rs| pods::created(&rs.metadata));
        sets.into_iter().map(spec_replicas).collect()
    }

    fn available(&self) -> i32 {
        self.sets.values().filter_map(|rs| rs.status.as_ref()?.available_replicas).sum()
    }

    fn progressing(&self) -> (String, String) {
        let status = self.deployment.status.as_ref().unwrap();
        let condition =
            status.conditions.iter().flatten().find(|c| c.type_.as_deref() == Some("Progressing")).unwrap();
        (condition.status.clone().unwrap(), condition.reason.clone().unwrap())
    }
}

fn image(set: &ReplicaSet) -> &str {
    let template = set.spec.template.as_ref().unwrap();
    template.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()
}

#[test]
fn creates_names_and_labels_the_first() {
    let mut world = World::rolling(3, "25%", "25%");
    world.settle();
    assert_eq!(world.sizes(), [3]);
    let set = world.sets.values().next().unwrap();
    let hash = set.metadata.labels.as_ref().unwrap()[hash::POD_TEMPLATE_HASH].clone();
    assert_eq!(set.metadata.name.as_deref(), Some(format!("web-{hash}").as_str()));
    assert_eq!(set.spec.selector.match_labels.as_ref().unwrap()[hash::POD_TEMPLATE_HASH], hash);
    assert_eq!(pods::annotation(&set.metadata, REVISION), Some("1"));
    assert_eq!(pods::annotation(&set.metadata, DESIRED), Some("3"));
    assert_eq!(pods::annotation(&set.metadata, MAX), Some("4"));
    assert_eq!(pods::annotation(&world.deployment.metadata, REVISION), Some("1"));
    assert_eq!(world.notices, [format!("Scaled up replica set web-{hash} from 0 to 3")]);
    assert_eq!(world.progressing(), ("True".into(), "NewReplicaSetAvailable".into()));
}

/// At no step of any rollout, resize in the middle included, are there more replicas than allowed, and while old
/// and new stay healthy never fewer available ones.
#[test]
fn surge_and_unavailable_are_never_broken() {
    for replicas in [1, 2, 3, 5, 10, 17] {
        for (surge, missing) in [(1, 0), (0, 1), (2, 1), (3, 3), (10, 0)] {
            let mut world = World::rolling(replicas, surge, missing);
            world.settle();
            world.image("v2");
            for step in 0..200 {
                let busy = world.step();
                let total: i32 = world.sizes().iter().sum();
                assert!(total <= replicas + surge, "{replicas} {surge} {missing} step {step}: {total}");
                world.run_pods(|set| image(set) == "v1" || step % 3 == 0);
                let floor = replicas - missing.min(replicas);
                assert!(
                    world.available() >= floor,
                    "{replicas} {surge} {missing} step {step}: {:?}",
                    world.sizes()
                );
                if !busy && step % 3 == 0 && !world.step() {
                    break;
                }
            }
            assert_eq!(world.sizes(), [0, replicas], "{replicas} {surge} {missing}");
        }
    }
}

#[test]
fn unhealthy_old_replicas_go_first() {
    let mut world = World::rolling(10, 0, 2);
    world.settle();
    world.image("bad");
    world.step();
    world.run_pods(|set| image(set) == "v1");
    for _ in 0..10 {
        world.step();
        world.run_pods(|set| image(set) == "v1");
    }
    assert_eq!(world.sizes(), [8, 2]);
    // The bad one is replaced without waiting for it: none of the good ones is touched.
    world.image("v3");
    for _ in 0..10 {
        world.step();
        world.run_pods(|set| image(set) == "v1");
    }
    assert_eq!(world.sizes(), [8, 0, 2]);
    world.settle();
    assert_eq!(world.sizes().last(), Some(&10));
}

#[test]
fn resized_in_the_middle_each_gets_its_share() {
    let mut world = World::rolling(10, 3, 2);
    world.settle();
    world.image("v2");
    for _ in 0..4 {
        world.step();
        world.run_pods(|set| image(set) == "v1");
    }
    assert_eq!(world.sizes(), [8, 5]);
    world.spec().replicas = Some(15);
    world.step();
    // 18 allowed where 13 were: 8 and 5 grow to 11 and 7.
    assert_eq!(world.sizes(), [11, 7]);
    world.spec().replicas = Some(5);
    world.step();
    assert_eq!(world.sizes().iter().sum::<i32>(), 8);
    world.settle();
    assert_eq!(world.sizes().last(), Some(&5));
}

#[test]
fn undo_makes_the_old_new_again_with_a_new_revision() {
    let mut world = World::rolling(2, 1, 0);
    world.settle();
    world.image("v2");
    world.settle();
    world.image("v1");
    world.settle();
    assert_eq!(world.sizes(), [2, 0]);
    let first = world.sets.values().find(|rs| image(rs) == "v1").unwrap();
    assert_eq!(pods::annotation(&first.metadata, REVISION), Some("3"));
    assert_eq!(pods::annotation(&first.metadata, REVISION_HISTORY), Some("1"));
    assert_eq!(pods::annotation(&world.deployment.metadata, REVISION), Some("3"));
}

#[test]
fn history_is_bounded() {
    let mut world = World::rolling(1, 1, 0);
    for version in 1..=6 {
        world.image(&format!("v{version}"));
        world.settle();
    }
    assert_eq!(world.sizes(), [0, 0, 1]);
    assert!(world.sets.values().any(|rs| image(rs) == "v4"), "the newest of the history are kept");
}

#[test]
fn recreate_ends_the_old_first() {
    let mut world = World::new(3, json!({"type": "Recreate"}));
    world.settle();
    world.image("v2");
    world.step();
    assert_eq!(world.sizes(), [0], "nothing new while old pods run");
    world.step();
    assert_eq!(world.sizes(), [0]);
    world.run_pods(|_| true);
    world.step();
    assert_eq!(world.sizes(), [0, 3]);
}

#[test]
fn a_pause_stops_the_rollout_but_not_scaling() {
    let mut world = World::rolling(2, 1, 0);
    world.settle();
    world.spec().paused = Some(true);
    world.image("v2");
    world.settle();
    assert_eq!(world.sizes(), [2]);
    assert_eq!(world.progressing(), ("Unknown".into(), "DeploymentPaused".into()));
    world.spec().replicas = Some(4);
    world.settle();
    assert_eq!(world.sizes(), [4]);
    world.spec().paused = Some(false);
    world.settle();
    assert_eq!(world.sizes(), [0, 4]);
    assert_eq!(world.progressing(), ("True".into(), "NewReplicaSetAvailable".into()));
}

#[test]
fn the_progress_deadline_passes() {
    let mut world = World::rolling(2, 1, 0);
    world.settle();
    world.image("bad");
    for _ in 0..5 {
        world.step();
        world.run_pods(|set| image(set) == "v1");
    }
    let owned: Vec<&ReplicaSet> = world.sets.values().collect();
    let again = plan(&world.deployment, &owned, &[], world.now).again_at.unwrap();
    assert_eq!(again, world.now.checked_add(SignedDuration::from_secs(601)).unwrap());
    world.now = again;
    world.step();
    assert_eq!(world.progressing(), ("False".into(), "ProgressDeadlineExceeded".into()));
    world.image("v3");
    world.settle();
    assert_eq!(world.progressing(), ("True".into(), "NewReplicaSetAvailable".into()));
}

#[test]
fn clients_of_long_ago_roll_back_by_annotation() {
    let mut world = World::rolling(2, 1, 0);
    world.deployment.metadata.annotations =
        Some([("kubernetes.io/change-cause".to_owned(), "first".to_owned())].into());
    world.settle();
    world.image("v2");
    world
        .deployment
        .metadata
        .annotations
        .as_mut()
        .unwrap()
        .insert("kubernetes.io/change-cause".into(), "second".into());
    world.settle();
    let go_back = |world: &mut World, to: &str| {
        world.deployment.metadata.annotations.as_mut().unwrap().insert(ROLLBACK_TO.into(), to.into());
        let owned: Vec<&ReplicaSet> = world.sets.values().collect();
        rollback(&world.deployment, &owned)
    };
    for (to, image, reason) in [
        ("0", Some("v1"), "DeploymentRollback"),
        ("1", Some("v1"), "DeploymentRollback"),
        ("2", None, "DeploymentRollbackTemplateUnchanged"),
        ("7", None, "DeploymentRollbackRevisionNotFound"),
    ] {
        let back = go_back(&mut world, to).unwrap();
        assert_eq!(back.notice.reason, reason, "{to}");
        assert_eq!(back.to.is_some(), image.is_some());
        let Some((template, annotations)) = back.to else { continue };
        assert_eq!(template.spec.unwrap().containers[0].image.as_deref(), image);
        assert!(!template.metadata.unwrap().labels.unwrap().contains_key(hash::POD_TEMPLATE_HASH));
        assert_eq!(annotations["kubernetes.io/change-cause"], "first");
        assert_eq!(annotations[REVISION], "2");
        assert!(!annotations.contains_key(ROLLBACK_TO));
    }
    assert_eq!(go_back(&mut world, "x"), None);
}

#[test]
fn bounds_that_round_to_nothing_still_move() {
    for (replicas, surge, missing, bounds) in [
        (2, "0%", "1%", (0, 1)),
        (1, "0%", "1%", (0, 1)),
        (2, "1%", "25%", (1, 0)),
        (1, "1%", "0%", (1, 0)),
        (10, "25%", "25%", (3, 2)),
        (3, "100%", "100%", (3, 3)),
    ] {
        let world = World::rolling(replicas, surge, missing);
        assert_eq!(
            Work::new(&world.deployment, &[], world.now).bounds(),
            bounds,
            "{replicas} {surge} {missing}"
        );
    }
}

#[test]
fn the_largest_numbers_do_no_harm() {
    let mut world = World::rolling(i32::MAX, "100%", "100%");
    world.step();
    assert_eq!(world.sizes(), [i32::MAX]);
    world.run_pods(|_| true);
    world.image("v2");
    for _ in 0..5 {
        world.step();
        world.run_pods(|_| true);
    }
    let first = world.sets.values_mut().next().unwrap();
    first.metadata.annotations.get_or_insert_default().insert(REVISION.into(), i64::MAX.to_string());
    world.image("v3");
    world.step();
    assert!(world.deployment.status.as_ref().unwrap().replicas.unwrap() > 0);
}

/// Resized while it is paused in the middle of a rollout: each ReplicaSet gets its share, and what is left over goes
/// to the largest.
#[test]
fn shares_of_a_resize() {
    let cases: &[(i32, &[i32], i32, &[i32])] = &[
        (10, &[8, 2], 12, &[10, 2]),
        (10, &[8, 2], 5, &[4, 1]),
        (10, &[5, 5], 20, &[10, 10]),
        (10, &[7, 3], 0, &[0, 0]),
        (10, &[4, 3, 3], 6, &[2, 2, 2]),
        (7, &[5, 1, 1], 10, &[8, 1, 1]),
    ];
    for (before, sizes, after, expected) in cases {
        let mut world = World::rolling(*before, 0, 1);
        world.spec().paused = Some(true);
        for (at, size) in sizes.iter().enumerate() {
            let created =
                world.now.checked_add(SignedDuration::from_secs(i64::try_from(at).unwrap())).unwrap();
            let name = format!("web-{at}");
            let set = json!({"metadata": {"name": name, "uid": name, "creationTimestamp": created.to_string(),
                    "annotations": {DESIRED: before.to_string(), MAX: before.to_string()}},
                "spec": {"replicas": size, "selector": {}, "template": {"spec": {"containers": [{"name": "c", "image": name}]}}}});
            world.sets.insert(name, serde_json::from_value(set).unwrap());
        }
        world.run_pods(|_| true);
        world.spec().replicas = Some(*after);
        world.step();
        assert_eq!(world.sizes(), *expected, "{before} {sizes:?} to {after}");
        assert_eq!(world.sizes().iter().sum::<i32>(), *after);
    }
}

#[test]
fn the_status_sums_up_terminating_replicas_once_all_tell() {
    let mut world = World::rolling(2, 1, 0);
    world.settle();
    assert_eq!(
        world.deployment.status.as_ref().unwrap().terminating_replicas,
        Some(0),
        "none was ever looked at"
    );
    for set in world.sets.values_mut() {
        set.status.as_mut().unwrap().observed_generation = Some(1);
    }
    world.step();
    assert_eq!(world.deployment.status.as_ref().unwrap().terminating_replicas, None);
    for set in world.sets.values_mut() {
        set.status.as_mut().unwrap().terminating_replicas = Some(3);
    }
    world.step();
    assert_eq!(world.deployment.status.as_ref().unwrap().terminating_replicas, Some(3));
}

#[test]
fn a_replica_set_that_cannot_be_created_stops_the_progress() {
    let world = World::rolling(2, 1, 0);
    let status = create_failed(&world.deployment, "exceeded quota", world.now).unwrap();
    let condition = &status.conditions.as_ref().unwrap()[0];
    assert_eq!(
        (condition.status.as_deref(), condition.reason.as_deref(), condition.message.as_deref()),
        (Some("False"), Some(CREATE_FAILED), Some("exceeded quota"))
    );
    let mut again = world.deployment.clone();
    again.status = Some(status);
    assert_eq!(create_failed(&again, "exceeded quota", world.now), None, "told once");
}
