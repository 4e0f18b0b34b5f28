//! What a StatefulSet does next: pods with a stable name, one after the other.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use crate::pods;

/// The label with the name of the revision that a pod was made from.
pub const REVISION: &str = "controller-revision-hash";

/// One step.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    /// Ordinals to create, each with the name of the revision to make it from.
    pub create: Vec<(i32, String)>,
    /// Pods to delete.
    pub delete: Vec<&'a Pod>,
    /// The status, as it should be now.
    pub status: StatefulSetStatus,
    /// When to look again although nothing happened.
    pub again_at: Option<Timestamp>,
}

/// The ordinal of a pod by its name, when it is one of the set's.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let rest = pods::name(&pod.metadata).strip_prefix(pods::name(&set.metadata))?;
    rest.strip_prefix('-')?.parse().ok().filter(|ordinal| *ordinal >= 0)
}

struct Work<'a, 's> {
    set: &'s StatefulSet,
    current: &'s str,
    update: &'s str,
    pods: BTreeMap<i32, &'a Pod>,
    now: Timestamp,
    plan: Plan<'a>,
}

/// One step of the set. `current` and `update` are the names of the revision that it comes from and the one that
/// it goes to.
pub fn plan<'a>(
    set: &StatefulSet,
    owned: &[&'a Pod],
    current: &str,
    update: &str,
    now: Timestamp,
) -> Plan<'a> {
    let pods = owned.iter().filter_map(|pod| Some((ordinal(set, pod)?, *pod))).collect();
    let mut work = Work { set, current, update, pods, now, plan: Plan::default() };
    if set.metadata.deletion_timestamp.is_none() && work.fill() && work.condemn() {
        work.roll();
    }
    work.status();
    work.plan
}

impl Work<'_, '_> {
    fn replicas(&self) -> i32 {
        self.set.spec.replicas.unwrap_or(1)
    }

    fn first(&self) -> i32 {
        self.set.spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0)
    }

    fn in_order(&self) -> bool {
        self.set.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn partition(&self) -> Option<i32> {
        let strategy = self.set.spec.update_strategy.as_ref()?;
        strategy.rolling_update.as_ref()?.partition
    }

    fn on_delete(&self) -> bool {
        let strategy = self.set.spec.update_strategy.as_ref();
        strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete")
    }

    fn wanted(&self) -> std::ops::Range<i32> {
        self.first()..self.first() + self.replicas()
    }

    fn healthy(&self, pod: &Pod) -> bool {
        let min_ready = self.set.spec.min_ready_seconds.unwrap_or(0);
        pods::phase(pod) == "Running" && !pods::terminating(pod) && pods::available(pod, min_ready, self.now)
    }

    /// The revision that a missing ordinal is made from.
    fn revision_for(&self, ordinal: i32) -> String {
        let old = !self.on_delete() && ordinal < self.first() + self.partition().unwrap_or(0);
        if old { self.current } else { self.update }.to_owned()
    }

    /// Creates what is missing, in order unless all may come at once; whether all is there and well.
    fn fill(&mut self) -> bool {
        let in_order = self.in_order();
        for ordinal in self.wanted() {
            match self.pods.get(&ordinal).copied() {
                None => self.plan.create.push((ordinal, self.revision_for(ordinal))),
                Some(pod) if pods::finished(pod) && !pods::terminating(pod) => self.plan.delete.push(pod),
                Some(pod) if in_order && !self.healthy(pod) => {
                    let min_ready = self.set.spec.min_ready_seconds.unwrap_or(0);
                    self.plan.again_at = pods::available_at(pod, min_ready).filter(|at| *at > self.now);
                }
                Some(_) => continue,
            }
            if in_order {
                return false;
            }
        }
        self.plan.create.is_empty() && self.plan.delete.is_empty()
    }

    /// Deletes what is too much, the highest ordinal first; whether nothing is.
    fn condemn(&mut self) -> bool {
        let wanted = self.wanted();
        let condemned: Vec<_> =
            self.pods.iter().rev().filter(|(o, _)| !wanted.contains(o)).map(|(_, pod)| *pod).collect();
        let none = condemned.is_empty();
        for pod in condemned {
            if !pods::terminating(pod) {
                self.plan.delete.push(pod);
            }
            if self.in_order() {
                return false;
            }
        }
        none
    }

    /// Replaces pods of another revision, the highest ordinal first, each once those above are well.
    fn roll(&mut self) {
        if self.on_delete() {
            return;
        }
        let lowest = self.first() + self.partition().unwrap_or(0);
        for ordinal in self.wanted().rev().take_while(|o| *o >= lowest) {
            let Some(pod) = self.pods.get(&ordinal).copied() else { return };
            if revision(pod) != self.update && !pods::terminating(pod) {
                self.plan.delete.push(pod);
                return;
            }
            if !self.healthy(pod) {
                return;
            }
        }
    }

    fn status(&mut self) {
        let old = self.set.status.clone().unwrap_or_default();
        let all: Vec<&Pod> = self.pods.values().copied().filter(|pod| !pods::finished(pod)).collect();
        let count = |test: &dyn Fn(&Pod) -> bool| {
            i32::try_from(all.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
        };
        let running_ready = |pod: &Pod| pods::phase(pod) == "Running" && pods::ready(pod);
        let mut status = StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            replicas: count(&|_| true),
            ready_replicas: Some(count(&running_ready)),
            available_replicas: Some(count(&|pod| self.healthy(pod))),
            current_replicas: Some(count(&|pod| !pods::terminating(pod) && revision(pod) == self.current)),
            updated_replicas: Some(count(&|pod| !pods::terminating(pod) && revision(pod) == self.update)),
            current_revision: Some(self.current.to_owned()),
            update_revision: Some(self.update.to_owned()),
            collision_count: old.collision_count,
            conditions: old.conditions,
        };
        let rolled = status.updated_replicas == Some(status.replicas)
            && status.ready_replicas == Some(status.replicas)
            && status.replicas == self.replicas();
        if rolled && !self.on_delete() {
            status.current_revision.clone_from(&status.update_revision);
            status.current_replicas = status.updated_replicas;
        }
        self.plan.status = status;
    }
}

fn revision(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|l| l.get(REVISION)).map(String::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    struct World {
        set: StatefulSet,
        pods: Vec<Pod>,
        current: String,
        update: String,
    }

    impl World {
        fn new(replicas: i32, spec: Value) -> Self {
            let mut value = json!({"metadata": {"name": "db", "generation": 1},
                "spec": {"replicas": replicas, "selector": {}, "template": {}, "serviceName": "db"}});
            value["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            let set = serde_json::from_value(value).unwrap();
            Self { set, pods: Vec::new(), current: "r1".into(), update: "r1".into() }
        }

        /// One step; what it did, in words.
        fn step(&mut self) -> String {
            let pods = self.pods.clone();
            let refs: Vec<&Pod> = pods.iter().collect();
            let now = "2026-01-01T00:00:00Z".parse().unwrap();
            let plan = plan(&self.set, &refs, &self.current, &self.update, now);
            self.current = plan.status.current_revision.clone().unwrap();
            let mut words = Vec::new();
            for pod in plan.delete {
                words.push(format!("-{}", pods::name(&pod.metadata)));
                self.pods.retain(|p| p.metadata.name != pod.metadata.name);
            }
            for (ordinal, revision) in plan.create {
                words.push(format!("+db-{ordinal}/{revision}"));
                let pod = json!({"metadata": {"name": format!("db-{ordinal}"), "labels": {REVISION: revision}},
                    "spec": {"containers": []}, "status": {"phase": "Pending"}});
                self.pods.push(serde_json::from_value(pod).unwrap());
            }
            self.set.status = Some(plan.status);
            words.join(" ")
        }

        fn ready(&mut self) {
            for pod in &mut self.pods {
                pod.status = serde_json::from_value(
                    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
                )
                .unwrap();
            }
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
    fn all_at_once_when_asked() {
        let mut world = World::new(3, json!({"podManagementPolicy": "Parallel", "ordinals": {"start": 5}}));
        assert_eq!(world.step(), "+db-5/r1 +db-6/r1 +db-7/r1");
    }

    #[test]
    fn rolls_from_the_top_and_stops_at_the_partition() {
        let mut world = World::new(
            3,
            json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}}),
        );
        world.history(6);
        world.update = "r2".into();
        assert_eq!(world.history(8), ["-db-2", "+db-2/r2", "-db-1", "+db-1/r2"]);
        world.set.spec.update_strategy = None;
        assert_eq!(world.history(8), ["-db-0", "+db-0/r2"]);
        assert_eq!(world.current, "r2");
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
}
