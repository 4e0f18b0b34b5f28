//! A Job carried out step by step against a pretended API.

use serde_json::{Value, json};

use super::*;

struct World {
    job: Job,
    pods: Vec<Pod>,
    now: Timestamp,
    made: u32,
    notices: Vec<String>,
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
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            made: 0,
            notices: Vec::new(),
        }
    }

    fn step(&mut self) -> bool {
        let pods = self.pods.clone();
        let plan = plan(&self.job, &pods.iter().collect::<Vec<_>>(), true, self.now);
        let busy = plan.status.is_some()
            || !plan.release.is_empty()
            || !plan.delete.is_empty()
            || !plan.create.is_empty();
        if let Some(status) = plan.status {
            self.job.status = Some(status);
        }
        let named = |list: &[&Pod], pod: &Pod| list.iter().any(|p| p.metadata.uid == pod.metadata.uid);
        for pod in &mut self.pods {
            if named(&plan.release, pod) {
                pod.metadata.finalizers = None;
            }
            if named(&plan.delete, pod) {
                pod.metadata.deletion_timestamp = Some(Time(self.now));
            }
        }
        self.pods.retain(|p| p.metadata.deletion_timestamp.is_none() || is_tracked(p));
        for index in plan.create {
            self.made += 1;
            let mut pod = json!({
                "metadata": {"name": format!("p{}", self.made), "uid": format!("p{}", self.made), "finalizers": [TRACKING],
                    "creationTimestamp": self.now.to_string(), "annotations": {}},
                "spec": {"containers": []}, "status": {"phase": "Running"},
            });
            if let Some(index) = index {
                pod["metadata"]["annotations"][INDEX] = index.to_string().into();
            }
            self.pods.push(serde_json::from_value(pod).unwrap());
        }
        self.notices.extend(plan.notices.into_iter().map(|n| n.message));
        busy
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
        let now = self.now;
        for pod in self.running().into_iter().take(count) {
            let status = pod.status.as_mut().unwrap();
            status.phase = Some(phase.into());
            status.conditions = serde_json::from_value(json!([
                {"type": "Ready", "status": "False", "lastTransitionTime": now.to_string()}]))
            .unwrap();
        }
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
    assert_eq!(world.notices, ["Job completed"]);
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
