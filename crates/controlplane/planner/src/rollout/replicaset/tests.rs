//! Which pods a ReplicaSet creates and gives up, and what it says of itself.

use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn pod(name: &str, value: Value) -> Pod {
    let mut pod: Pod = serde_json::from_value(value).unwrap();
    pod.metadata.name = Some(name.into());
    pod.metadata.uid = Some(name.into());
    pod
}

fn running(name: &str, node: &str, ready: &str, created: &str, restarts: i32) -> Pod {
    pod(
        name,
        json!({
            "metadata": {"creationTimestamp": created},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": if ready.is_empty() { "False" } else { "True" },
                 "lastTransitionTime": if ready.is_empty() { created } else { ready }}],
                "containerStatuses": [{"name": "c", "restartCount": restarts, "image": "", "imageID": "", "ready": true}]},
        }),
    )
}

#[test]
fn the_order_of_deletion() {
    let day = "2025-12-31T12:00:00Z";
    let minute = "2026-01-01T11:59:00Z";
    let unassigned = pod("1-unassigned", json!({"spec": {"containers": []}}));
    let pending = pod(
        "2-pending",
        json!({"spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Pending"}}),
    );
    let unready = running("3-unready", "n", "", day, 0);
    let mut cheap = running("4-cheap", "m", day, day, 0);
    cheap.metadata.annotations = Some([(DELETION_COST.to_owned(), "-5".to_owned())].into());
    let crowded = running("5-crowded", "n", day, day, 0);
    let fresh = running("6-freshly-ready", "m", minute, day, 0);
    let restarted = running("7-restarted", "m", day, day, 3);
    let young = running("8-young", "m", day, "2025-12-31T23:00:00Z", 0);
    let oldest = running("9-old", "m", day, "2025-11-01T12:00:00Z", 0);
    let all = [&oldest, &young, &restarted, &fresh, &crowded, &cheap, &unready, &pending, &unassigned];
    let extra = (0..9).map(|i| running(&format!("x{i}"), "n", day, day, 0)).collect::<Vec<_>>();
    let related: Vec<&Pod> = all.into_iter().chain(extra.iter()).collect();
    let Plan::Delete(order) = plan(1, &all, &related, now()) else { panic!("a deletion was due") };
    let names: Vec<char> = order.iter().map(|p| pods::name(&p.metadata).chars().next().unwrap()).collect();
    assert_eq!(names.iter().collect::<String>(), "12345678");
}

#[test]
fn counts() {
    let one = running("a", "n", "2026-01-01T11:00:00Z", "2026-01-01T11:00:00Z", 0);
    let gone = pod("b", json!({"metadata": {"deletionTimestamp": "2026-01-01T11:00:00Z"}}));
    let done = pod("c", json!({"status": {"phase": "Succeeded"}}));
    let owned = [&one, &gone, &done];
    assert_eq!(plan(3, &owned, &[], now()), Plan::Create(2));
    assert_eq!(plan(1, &owned, &[], now()), Plan::Keep);
    assert_eq!(plan(0, &owned, &[], now()), Plan::Delete(vec![&one]));
    assert_eq!(plan(9999, &owned, &[], now()), Plan::Create(BURST));
}

#[test]
fn availability_waits_for_min_ready_seconds() {
    let pod = running("a", "n", "2026-01-01T11:59:55Z", "2026-01-01T11:00:00Z", 0);
    let set: ReplicaSet = serde_json::from_value(json!({
        "metadata": {"generation": 4},
        "spec": {"minReadySeconds": 10, "selector": {}, "template": {"metadata": {"labels": {"a": "b"}}}},
    }))
    .unwrap();
    let status = status(&set, &[&pod], None, now());
    assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (1, Some(1), Some(0)));
    assert_eq!(status.fully_labeled_replicas, Some(0));
    assert_eq!(status.observed_generation, Some(4));
    assert_eq!(next_available(&[&pod], 10, now()), Some("2026-01-01T12:00:05Z".parse().unwrap()));
}

#[test]
fn restarts_count_by_the_worst_container_and_then_by_sidecars() {
    let statuses = |restarts: &[i32]| -> Value {
        let one = |(at, count): (usize, &i32)| json!({"name": format!("c{at}"), "restartCount": count, "image": "", "imageID": "", "ready": true});
        restarts.iter().enumerate().map(one).collect()
    };
    let make = |name: &str, restarts: &[i32], sidecars: &[i32], init: &str| {
        let mut pod = running(name, "n", "2026-01-01T11:00:00Z", "2026-01-01T11:00:00Z", 0);
        let status = pod.status.as_mut().unwrap();
        status.container_statuses = serde_json::from_value(statuses(restarts)).unwrap();
        status.init_container_statuses = serde_json::from_value(statuses(sidecars)).unwrap();
        let policy = if init.is_empty() { Value::Null } else { init.into() };
        pod.spec.as_mut().unwrap().init_containers =
            serde_json::from_value(json!([{"name": "c0", "restartPolicy": policy}])).unwrap();
        pod
    };
    let cases = [
        (make("a", &[3, 3], &[], ""), make("b", &[5, 0], &[], ""), "b"),
        (make("a", &[1], &[9], ""), make("b", &[1], &[2], "Always"), "b"),
        (make("a", &[1], &[3], "Always"), make("b", &[1], &[2], "Always"), "a"),
    ];
    for (first, second, victim) in cases {
        let both = [&first, &second];
        let Plan::Delete(order) = plan(1, &both, &both, now()) else { panic!("a deletion was due") };
        assert_eq!(pods::name(&order[0].metadata), victim);
    }
}

#[test]
fn the_first_failure_is_told_until_all_is_well() {
    let set = |conditions: Value| -> ReplicaSet {
        serde_json::from_value(
            json!({"spec": {"selector": {}}, "status": {"replicas": 0, "conditions": conditions}}),
        )
        .unwrap()
    };
    let failure = |reason| Some(Failure { reason, message: format!("{reason}: no") });
    let first = status(&set(json!([])), &[], failure("FailedCreate"), now()).conditions.unwrap();
    assert_eq!((first.len(), first[0].message.as_deref()), (1, Some("FailedCreate: no")));
    let second = status(&set(json!(first)), &[], failure("FailedDelete"), now()).conditions.unwrap();
    assert_eq!(first, second);
    assert_eq!(status(&set(json!(first)), &[], None, now()).conditions, None);
}

#[test]
fn terminating_replicas_are_counted_apart() {
    let set: ReplicaSet = serde_json::from_value(json!({"spec": {"selector": {}}})).unwrap();
    let gone = |name: &str, phase: &str| {
        pod(
            name,
            json!({"metadata": {"deletionTimestamp": "2026-01-01T11:00:00Z"}, "status": {"phase": phase}}),
        )
    };
    let all = [
        running("a", "n", "2026-01-01T11:00:00Z", "2026-01-01T11:00:00Z", 0),
        gone("b", "Running"),
        gone("c", "Failed"),
    ];
    let status = status(&set, &all.iter().collect::<Vec<_>>(), None, now());
    assert_eq!((status.replicas, status.terminating_replicas), (1, Some(1)));
}

#[test]
fn pods_that_fail_as_soon_as_they_come_are_replaced_ever_more_slowly() {
    let failed = |name: &str, created: i64, ended: i64| {
        let at = |seconds: i64| now().checked_add(SignedDuration::from_secs(seconds)).unwrap().to_string();
        pod(
            name,
            json!({"metadata": {"creationTimestamp": at(created)}, "status": {"phase": "Failed",
            "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": at(ended)}]}}),
        )
    };
    let waits = |replicas: i32, all: &[Pod]| match plan(replicas, &all.iter().collect::<Vec<_>>(), &[], now())
    {
        Plan::Wait(until) => until.duration_since(now()).as_secs(),
        Plan::Create(count) => -i64::try_from(count).unwrap(),
        other => panic!("{other:?}"),
    };
    let many =
        |count: i64| -> Vec<Pod> { (0..count).map(|i| failed(&format!("p{i}"), -3 - i, -i)).collect() };
    assert_eq!(waits(1, &many(1)), 2);
    assert_eq!(waits(1, &many(2)), 4);
    assert_eq!(waits(1, &many(5)), 32);
    assert_eq!(waits(1, &many(50)), 300);
    assert_eq!(waits(50, &many(50)), 2, "one round of fifty");
    assert_eq!(waits(1, &[failed("a", -10, -5)]), -1, "long enough ago");
    assert_eq!(waits(3, &[failed("a", -3600, 0), failed("b", -120, 0)]), -3, "they had worked for a while");
}
