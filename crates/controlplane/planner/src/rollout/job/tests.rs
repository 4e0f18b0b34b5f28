//! A Job carried out step by step against a pretended API.

use serde_json::{Value, json};

use super::*;

struct World {
    job: Job,
    pods: Vec<Pod>,
    backoff: Option<Backoff>,
    now: Timestamp,
    made: u32,
    notices: Vec<String>,
}

/// Effects that are carried out before the controller dies.
struct Crash(usize);

impl Crash {
    fn survives(&mut self) -> bool {
        let alive = self.0 > 0;
        self.0 = self.0.saturating_sub(1);
        alive
    }
}

impl World {
    fn new(spec: Value) -> Self {
        let mut job: Job = serde_json::from_value(json!({"metadata": {"name": "j", "uid": "j"}, "spec": {
            "template": {"spec": {"restartPolicy": "Never", "containers": []}}}}))
        .unwrap();
        let mut base = serde_json::to_value(job.spec.take().unwrap()).unwrap();
        base.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        job.spec = Some(serde_json::from_value(base).unwrap());
        Self {
            job,
            pods: Vec::new(),
            backoff: None,
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            made: 0,
            notices: Vec::new(),
        }
    }

    fn step(&mut self) -> bool {
        self.step_until(&mut Crash(usize::MAX))
    }

    /// One step, of which only the first effects happen. Whether it had anything to do.
    fn step_until(&mut self, crash: &mut Crash) -> bool {
        let pods = self.pods.clone();
        let plan = plan(&self.job, &pods.iter().collect::<Vec<_>>(), true, self.backoff, self.now);
        let busy = plan.status.is_some()
            || !plan.release.is_empty()
            || !plan.excess.is_empty()
            || !plan.kill.is_empty()
            || !plan.create.is_empty();
        for (pod, release) in
            plan.excess.iter().map(|pod| (pod, true)).chain(plan.kill.iter().map(|pod| (pod, false)))
        {
            if release && crash.survives() {
                self.change(pod, |pod| pod.metadata.finalizers = None);
            }
            let now = self.now;
            if crash.survives() {
                self.change(pod, |pod| pod.metadata.deletion_timestamp = Some(Time(now)));
            }
        }
        for replica in plan.create {
            if crash.survives() {
                self.make(replica);
            }
        }
        if let Some(status) = plan.status
            && crash.survives()
        {
            self.job.status = Some(status);
        }
        for pod in plan.release {
            if crash.survives() {
                self.change(pod, |pod| pod.metadata.finalizers = None);
            }
        }
        self.backoff = crash.survives().then_some(plan.backoff);
        self.notices.extend(plan.notices.into_iter().map(|n| format!("{}: {}", n.reason, n.message)));
        busy
    }

    fn change(&mut self, pod: &Pod, change: impl Fn(&mut Pod)) {
        self.pods.iter_mut().filter(|p| p.metadata.uid == pod.metadata.uid).for_each(change);
        self.sweep();
    }

    /// What is deleted and held by nothing is gone.
    fn sweep(&mut self) {
        self.pods.retain(|p| p.metadata.deletion_timestamp.is_none() || is_tracked(p));
    }

    fn make(&mut self, replica: Replica) {
        self.made += 1;
        let name = format!("p{}", self.made);
        let mut pod = json!({
            "metadata": {"name": name, "uid": name, "finalizers": [TRACKING], "namespace": "ns",
                "creationTimestamp": self.now.to_string(), "annotations": {}},
            "spec": {"containers": []}, "status": {"phase": "Running"},
        });
        let annotations = &mut pod["metadata"]["annotations"];
        if let Some(index) = replica.index {
            annotations[INDEX] = index.to_string().into();
        }
        if let Some((counted, ignored)) = replica.failures {
            annotations[FAILURES] = counted.to_string().into();
            annotations[IGNORED_FAILURES] = ignored.to_string().into();
        }
        self.pods.push(serde_json::from_value(pod).unwrap());
    }

    fn settle(&mut self) {
        for _ in 0..50 {
            if !self.step() {
                return;
            }
        }
        panic!("the Job does not come to rest: {:?}", self.job.status);
    }

    fn running(&mut self) -> Vec<&mut Pod> {
        self.pods.iter_mut().filter(|p| pods::active(p)).collect()
    }

    fn end(&mut self, count: usize, phase: &str) {
        let uids: Vec<String> =
            self.running().into_iter().take(count).map(|p| p.metadata.uid.clone().unwrap()).collect();
        uids.iter().for_each(|uid| self.finish(uid, phase, i32::from(phase == "Failed")));
    }

    fn finish(&mut self, uid: &str, phase: &str, code: i32) {
        let now = self.now.to_string();
        let pod = self.pods.iter_mut().find(|p| p.metadata.uid.as_deref() == Some(uid)).unwrap();
        pod.status = serde_json::from_value(json!({"phase": phase,
            "containerStatuses": [{"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code, "finishedAt": now}}}]}))
        .unwrap();
    }

    /// Ends the running pod of an index.
    fn end_index(&mut self, index: i32, code: i32) {
        let mut running = self.running().into_iter().filter(|p| index_of(p) == Some(index));
        let uid = running.next().unwrap().metadata.uid.clone().unwrap();
        drop(running);
        self.finish(&uid, if code == 0 { "Succeeded" } else { "Failed" }, code);
    }

    fn indexes(&mut self) -> Vec<i32> {
        let mut all: Vec<i32> = self.running().iter().filter_map(|p| index_of(p)).collect();
        all.sort_unstable();
        all
    }

    fn status(&self) -> &JobStatus {
        self.job.status.as_ref().unwrap()
    }

    fn later(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
    }

    fn conditions(&self) -> Vec<String> {
        let conditions = self.job.status.as_ref().unwrap().conditions.clone().unwrap_or_default();
        conditions
            .into_iter()
            .map(|c| format!("{}={} {}", c.type_, c.status, c.reason.unwrap_or_default()))
            .collect()
    }

    fn numbers(&self) -> (i32, i32, i32) {
        let status = self.job.status.as_ref().unwrap();
        (status.active.unwrap_or(0), status.succeeded.unwrap_or(0), status.failed.unwrap_or(0))
    }
}

#[test]
fn one_pod_to_completion() {
    let mut world = World::new(json!({"completions": 1, "parallelism": 1}));
    world.settle();
    assert_eq!(world.running().len(), 1);
    assert!(world.job.status.as_ref().unwrap().start_time.is_some());
    world.end(1, "Succeeded");
    world.settle();
    assert_eq!(
        world.conditions(),
        ["SuccessCriteriaMet=True CompletionsReached", "Complete=True CompletionsReached"]
    );
    assert_eq!(world.numbers(), (0, 1, 0));
    assert!(!is_tracked(&world.pods[0]) && world.job.status.as_ref().unwrap().completion_time.is_some());
    assert_eq!(world.notices, ["Completed: Job completed"]);
    assert!(finished_at(&world.job).is_some());
}

#[test]
fn never_more_than_parallelism_nor_more_than_needed() {
    let mut world = World::new(json!({"completions": 7, "parallelism": 3}));
    for _ in 0..12 {
        world.settle();
        let (running, done) = (world.running().len(), usize::try_from(world.numbers().1).unwrap());
        assert!(running <= 3 && running + done <= 7, "{running} {done}");
        world.end(2, "Succeeded");
    }
    assert_eq!(world.numbers(), (0, 7, 0));
    assert_eq!(world.made, 7);
}

#[test]
fn failures_back_off_and_then_fail_the_job() {
    let mut world = World::new(json!({"completions": 1, "parallelism": 1, "backoffLimit": 2}));
    world.settle();
    world.end(1, "Failed");
    world.settle();
    assert_eq!(world.running().len(), 0, "ten seconds to wait");
    world.later(10);
    world.settle();
    assert_eq!(world.running().len(), 1);
    world.end(1, "Failed");
    world.later(19);
    world.settle();
    assert_eq!(world.running().len(), 0, "twenty seconds to wait");
    world.later(1);
    world.settle();
    world.end(1, "Failed");
    world.settle();
    assert_eq!(
        world.conditions(),
        ["FailureTarget=True BackoffLimitExceeded", "Failed=True BackoffLimitExceeded"]
    );
    assert_eq!(world.numbers(), (0, 0, 3));
}

#[test]
fn indexes_are_each_completed_once() {
    let mut world = World::new(json!({"completions": 5, "parallelism": 2, "completionMode": "Indexed"}));
    world.settle();
    let mut first: Vec<i32> = world.running().iter().filter_map(|p| index_of(p)).collect();
    first.sort_unstable();
    assert_eq!(first, [0, 1]);
    world.end(2, "Succeeded");
    world.settle();
    assert_eq!(world.job.status.as_ref().unwrap().completed_indexes.as_deref(), Some("0,1"));
    for _ in 0..4 {
        world.end(2, "Succeeded");
        world.settle();
    }
    assert_eq!(world.job.status.as_ref().unwrap().completed_indexes.as_deref(), Some("0-4"));
    assert_eq!((world.numbers(), world.made), ((0, 5, 0), 5));
    assert_eq!(world.conditions().len(), 2);
}

#[test]
fn deadline_suspend_and_resume() {
    let mut world = World::new(json!({"completions": 2, "parallelism": 2, "activeDeadlineSeconds": 30}));
    world.settle();
    world.later(20);
    world.job.spec.as_mut().unwrap().suspend = Some(true);
    world.settle();
    assert_eq!(world.running().len(), 0);
    assert_eq!(world.conditions(), ["Suspended=True JobSuspended"]);
    assert_eq!(world.status().start_time, None, "no clock runs");
    world.later(3600);
    world.settle();
    world.job.spec.as_mut().unwrap().suspend = Some(false);
    world.later(700);
    world.settle();
    assert_eq!(world.running().len(), 2);
    world.later(30);
    world.settle();
    assert_eq!(
        world.conditions()[1..],
        ["FailureTarget=True DeadlineExceeded", "Failed=True DeadlineExceeded"]
    );
    assert_eq!(world.running().len(), 0);
}

#[test]
fn a_work_queue_ends_with_its_last_worker() {
    let mut world = World::new(json!({"parallelism": 3}));
    world.settle();
    world.end(1, "Succeeded");
    world.settle();
    assert_eq!((world.running().len(), world.made), (2, 3), "nobody new begins");
    world.end(2, "Succeeded");
    world.settle();
    assert_eq!(world.numbers(), (0, 3, 0));
    assert!(world.conditions().contains(&"Complete=True CompletionsReached".to_owned()));
}

/// What was running when the Job failed was killed, and counts as failed; none is missed.
#[test]
fn the_pods_of_a_failed_job_are_killed_and_counted() {
    let mut world = World::new(json!({"completions": 5, "parallelism": 5, "backoffLimit": 0}));
    world.settle();
    world.end(2, "Failed");
    world.step();
    assert_eq!(world.conditions(), ["FailureTarget=True BackoffLimitExceeded"]);
    assert_eq!(world.running().len(), 0);
    world.settle();
    assert_eq!(world.numbers(), (0, 0, 5));
    assert_eq!(world.conditions().len(), 2);
    assert_eq!(world.notices, ["BackoffLimitExceeded: Job has reached the specified backoff limit"]);
}

#[test]
fn a_deleted_pod_is_a_failure_unless_only_failed_ones_are_replaced() {
    for (policy, running, failed) in [("TerminatingOrFailed", 1, 1), ("Failed", 0, 0)] {
        let mut world =
            World::new(json!({"completions": 1, "parallelism": 1, "podReplacementPolicy": policy}));
        world.settle();
        let now = world.now;
        world.pods[0].metadata.deletion_timestamp = Some(Time(now));
        world.pods[0].metadata.deletion_grace_period_seconds = Some(30);
        world.later(40);
        // The pod still runs: nothing may take it away yet but its own end.
        world.pods[0].metadata.finalizers.get_or_insert_default().push("held".into());
        for _ in 0..6 {
            world.step();
        }
        let replaced = world.pods.iter().filter(|p| pods::active(p)).count();
        assert_eq!((replaced, world.numbers().2), (running, failed), "{policy}");
        if policy == "Failed" {
            assert_eq!(world.status().terminating, Some(1));
            world.end_terminating();
            world.later(10);
            world.settle();
            assert_eq!(world.pods.iter().filter(|p| pods::active(p)).count(), 1);
            assert_eq!(world.numbers().2, 1);
        }
    }
}

impl World {
    fn end_terminating(&mut self) {
        let ending: Vec<String> = self
            .pods
            .iter()
            .filter(|p| pods::terminating(p))
            .map(|p| p.metadata.uid.clone().unwrap())
            .collect();
        ending.iter().for_each(|uid| self.finish(uid, "Failed", 143));
        for pod in &mut self.pods {
            if let Some(list) = &mut pod.metadata.finalizers {
                list.retain(|f| f != "held");
            }
        }
    }
}

#[test]
fn a_failure_policy_decides_by_exit_code_and_condition() {
    let rules = json!({"rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}},
        {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [1, 2]}},
        {"action": "FailJob", "onExitCodes": {"containerName": "other", "operator": "NotIn", "values": [0]}},
    ]});
    let spec = json!({"completions": 3, "parallelism": 3, "backoffLimit": 1, "podFailurePolicy": rules});
    // Ignored: as often as one likes.
    let mut world = World::new(spec.clone());
    for _ in 0..4 {
        world.settle();
        let uid = world.running()[0].metadata.uid.clone().unwrap();
        world.finish(&uid, "Failed", 7);
        world.later(3600);
        world.settle();
        assert_eq!((world.numbers().2, world.running().len()), (0, 3));
    }
    let uid = world.running()[0].metadata.uid.clone().unwrap();
    world.finish(&uid, "Failed", 42);
    let target = world.pods.iter_mut().find(|p| p.metadata.uid.as_deref() == Some(uid.as_str())).unwrap();
    target.status.as_mut().unwrap().conditions =
        serde_json::from_value(json!([{"type": "DisruptionTarget", "status": "True"}])).unwrap();
    world.later(3600);
    world.settle();
    assert_eq!((world.numbers().2, world.running().len()), (0, 3), "the first rule counts");

    let mut world = World::new(spec.clone());
    world.settle();
    world.finish("p2", "Failed", 42);
    world.settle();
    assert_eq!(world.conditions(), ["FailureTarget=True PodFailurePolicy", "Failed=True PodFailurePolicy"]);
    let text = "Container main for pod ns/p2 failed with exit code 42 matching FailJob rule at index 1";
    assert_eq!(world.status().conditions.as_ref().unwrap()[1].message.as_deref(), Some(text));
    assert_eq!(world.numbers(), (0, 0, 3));

    let mut world = World::new(spec);
    world.settle();
    world.finish("p1", "Failed", 9);
    world.finish("p2", "Failed", 1);
    world.settle();
    assert_eq!(world.conditions().last().unwrap(), "Failed=True BackoffLimitExceeded", "both count");
}

#[test]
fn indexes_fail_one_by_one_each_with_its_own_back_off() {
    let mut world = World::new(json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed",
        "backoffLimitPerIndex": 1}));
    world.settle();
    world.end_index(0, 0);
    world.end_index(1, 1);
    world.settle();
    assert_eq!(world.indexes(), [2, 3], "index 1 waits ten seconds");
    let kept = world.pods.iter().find(|p| index_of(p) == Some(1)).unwrap();
    assert!(is_tracked(kept), "a failed pod is kept until its successor has inherited the count");
    world.later(10);
    world.settle();
    assert_eq!(world.indexes(), [1, 2, 3]);
    let successor = world.pods.iter().rfind(|p| index_of(p) == Some(1)).unwrap();
    assert_eq!(pods::annotation(&successor.metadata, FAILURES), Some("1"));
    assert!(world.pods.iter().filter(|p| index_of(p) == Some(1) && is_tracked(p)).count() == 1);
    world.end_index(1, 1);
    world.end_index(2, 0);
    world.settle();
    assert_eq!(world.status().failed_indexes.as_deref(), Some("1"));
    assert_eq!(world.indexes(), [3], "the others go on");
    world.end_index(3, 0);
    world.settle();
    assert_eq!(world.status().completed_indexes.as_deref(), Some("0,2,3"));
    assert_eq!(world.conditions(), ["FailureTarget=True FailedIndexes", "Failed=True FailedIndexes"]);
    assert_eq!(world.numbers(), (0, 3, 2));
}

#[test]
fn too_many_failed_indexes_fail_the_job_at_once() {
    let rules =
        json!({"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [42]}}]});
    let mut world = World::new(json!({"completions": 6, "parallelism": 3, "completionMode": "Indexed",
        "backoffLimitPerIndex": 5, "maxFailedIndexes": 1, "podFailurePolicy": rules}));
    world.settle();
    assert_eq!(world.status().failed_indexes.as_deref(), Some(""));
    world.end_index(1, 42);
    world.settle();
    assert_eq!(world.status().failed_indexes.as_deref(), Some("1"), "at once, whatever its limit");
    assert_eq!(world.indexes(), [0, 2, 3]);
    world.end_index(2, 42);
    world.settle();
    assert_eq!(world.conditions().last().unwrap(), "Failed=True MaxFailedIndexesExceeded");
    assert_eq!(world.numbers(), (0, 0, 4));
}

#[test]
fn a_success_policy_ends_the_job_early() {
    let cases = [
        (json!({"succeededIndexes": "0,2-3"}), vec![0, 2, 3]),
        (json!({"succeededIndexes": "0-3", "succeededCount": 2}), vec![1, 3]),
        (json!({"succeededCount": 3}), vec![4, 0, 1]),
    ];
    for (rule, order) in cases {
        let mut world = World::new(json!({"completions": 6, "parallelism": 6, "completionMode": "Indexed",
            "successPolicy": {"rules": [{"succeededIndexes": "5"}, rule]}}));
        world.settle();
        for (at, index) in order.iter().enumerate() {
            assert!(world.conditions().is_empty(), "{rule} after {at}");
            world.end_index(*index, 0);
            world.settle();
        }
        assert_eq!(
            world.conditions(),
            ["SuccessCriteriaMet=True SuccessPolicy", "Complete=True SuccessPolicy"]
        );
        let succeeded = i32::try_from(order.len()).unwrap();
        assert_eq!(world.numbers(), (0, succeeded, 0), "what is killed after success has not failed");
        let message = world.status().conditions.as_ref().unwrap()[0].message.clone();
        assert_eq!(message.as_deref(), Some("Matched rules at index 1"));
    }
}

#[test]
fn an_elastic_job_shrinks_and_grows() {
    let mut world = World::new(json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed"}));
    world.settle();
    world.end_index(3, 0);
    world.settle();
    let resize = |world: &mut World, size| {
        let spec = world.job.spec.as_mut().unwrap();
        (spec.completions, spec.parallelism) = (Some(size), Some(size));
        world.settle();
    };
    resize(&mut world, 2);
    assert_eq!(world.indexes(), [0, 1]);
    assert_eq!(world.numbers(), (2, 0, 0), "what is out of range counts no more");
    resize(&mut world, 5);
    assert_eq!(world.indexes(), [0, 1, 2, 3, 4]);
    for index in 0..5 {
        world.end_index(index, 0);
    }
    world.settle();
    assert_eq!(world.numbers(), (0, 5, 0));
    assert_eq!(world.conditions().last().unwrap(), "Complete=True CompletionsReached");
}

#[test]
fn of_two_pods_with_one_index_the_younger_goes() {
    let mut world = World::new(json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed"}));
    world.settle();
    world.later(60);
    world.make(Replica { index: Some(1), failures: None });
    world.make(Replica { index: Some(7), failures: None });
    world.make(Replica { index: None, failures: None });
    world.settle();
    let left: Vec<_> = world.running().iter().map(|p| pods::name(&p.metadata).to_owned()).collect();
    assert_eq!(left, ["p1", "p2"]);
    assert_eq!(world.numbers(), (2, 0, 0));
}

#[test]
fn a_job_that_is_suspended_from_the_start_runs_later() {
    let mut world = World::new(json!({"completions": 1, "parallelism": 1, "suspend": true}));
    world.settle();
    assert_eq!((world.made, world.status().start_time.clone()), (0, None));
    assert_eq!(world.conditions(), ["Suspended=True JobSuspended"]);
    world.job.spec.as_mut().unwrap().suspend = Some(false);
    world.settle();
    assert_eq!(world.conditions(), ["Suspended=False JobResumed"]);
    assert_eq!(world.notices, ["Suspended: Job suspended", "Resumed: Job resumed"]);
    world.end(1, "Succeeded");
    world.settle();
    assert_eq!(world.conditions().last().unwrap(), "Complete=True CompletionsReached");
}

#[test]
fn restarts_count_with_on_failure() {
    for (limit, restarts, over) in [(3, 2, false), (3, 3, true), (0, 0, false), (0, 1, true)] {
        let mut world = World::new(json!({"completions": 1, "parallelism": 1, "backoffLimit": limit,
            "template": {"spec": {"restartPolicy": "OnFailure", "containers": []}}}));
        world.settle();
        world.pods[0].status = serde_json::from_value(json!({"phase": "Running", "containerStatuses": [
            {"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": restarts}]}))
        .unwrap();
        world.settle();
        assert_eq!(world.conditions().len() == 2, over, "{limit} {restarts}");
    }
}

#[test]
fn back_off_doubles_and_forgets_with_success() {
    let at = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).unwrap();
    let mut expected = Vec::new();
    for failures in 1..=9 {
        expected.push(backoff::until(failures, at(0)).unwrap().as_second() - 1_000_000);
    }
    assert_eq!(expected, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
    let ended = |seconds: i64| -> Pod {
        serde_json::from_value(
            json!({"status": {"containerStatuses": [{"name": "c", "image": "", "imageID": "",
            "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 1, "finishedAt": at(seconds).to_string()}}}]}}),
        )
        .unwrap()
    };
    let (one, two, three) = (ended(1), ended(2), ended(3));
    let memory = Backoff::default().and(&[], &[&two, &one]);
    assert_eq!(memory.until(), Some(at(2 + 20)));
    let memory = memory.and(&[], &[&three]);
    assert_eq!(memory.until(), Some(at(3 + 40)));
    assert_eq!(memory.and(&[&two], &[&one, &three]).until(), Some(at(3 + 10)));
    assert_eq!(memory.and(&[&three], &[&one]).until(), None);
    assert_eq!(memory.and(&[], &[]), memory);
}

/// Whenever the controller dies, and however often: each pod is counted exactly once, and no index twice.
#[test]
fn counts_are_exact_through_crashes() {
    let mut seed = 42_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for round in 0..200 {
        let mode = if round % 2 == 0 { "Indexed" } else { "NonIndexed" };
        let mut world = World::new(json!({"completions": 12, "parallelism": 5, "backoffLimit": 1000,
            "completionMode": mode}));
        let (mut succeeded, mut failed) = (0, 0);
        for _ in 0..2000 {
            let crash = if random(3) == 0 { random(6) } else { 1000 };
            world.step_until(&mut Crash(usize::try_from(crash).unwrap()));
            if random(2) == 0 && !world.running().is_empty() {
                let well = random(3) > 0;
                world.end(1, if well { "Succeeded" } else { "Failed" });
                *(if well { &mut succeeded } else { &mut failed }) += 1;
            }
            world.later(700);
            if finished_at(&world.job).is_some() {
                break;
            }
        }
        assert_eq!(world.conditions().last().unwrap(), "Complete=True CompletionsReached", "{round}");
        assert_eq!(world.numbers(), (0, 12, failed), "{round}");
        assert!(succeeded >= 12);
    }
}
