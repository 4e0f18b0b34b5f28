//! Tables of records and the statuses that they must give.

use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1}, "spec": spec}),
    )
    .unwrap()
}

fn running() -> ContainerRecord {
    let run = Run::Running { id: "r".into(), at: at(5) };
    ContainerRecord { runs: 1, run, ready: true, started: true, ..Default::default() }
}

fn exited(code: i32) -> ContainerRecord {
    let reason = if code == 0 { "Completed" } else { "Error" };
    let termination = Termination {
        id: "x".into(),
        exit_code: code,
        signal: None,
        reason: reason.into(),
        message: String::new(),
        started_at: Some(at(5)),
        finished_at: at(6),
    };
    ContainerRecord { runs: 1, run: Run::Exited(termination), ..Default::default() }
}

fn record(containers: &[(&str, ContainerRecord)]) -> PodRecord {
    PodRecord {
        sandbox_ready: true,
        ip: Some("10.42.0.9".parse().unwrap()),
        containers: containers.iter().map(|(name, seen)| ((*name).to_owned(), seen.clone())).collect(),
        ..Default::default()
    }
}

fn status(spec: Value, containers: &[(&str, ContainerRecord)]) -> PodStatus {
    compute(&pod(spec), &record(containers), &PodStatus::default(), "192.0.2.1".parse().unwrap(), at(10))
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> &'a PodCondition {
    status.conditions.as_ref().unwrap().iter().find(|condition| condition.type_ == kind).unwrap()
}

#[test]
fn phases() {
    let one = |policy: &str| json!({"containers": [{"name": "a"}], "restartPolicy": policy});
    let two = |policy: &str| json!({"containers": [{"name": "a"}, {"name": "b"}], "restartPolicy": policy});
    type Row = (Value, Vec<(&'static str, ContainerRecord)>, &'static str);
    let table: Vec<Row> = vec![
        (one("Always"), vec![], "Pending"),
        (one("Always"), vec![("a", running())], "Running"),
        (one("Always"), vec![("a", exited(0))], "Running"),
        (one("OnFailure"), vec![("a", exited(0))], "Succeeded"),
        (one("OnFailure"), vec![("a", exited(1))], "Running"),
        (one("Never"), vec![("a", exited(1))], "Failed"),
        (two("Never"), vec![("a", exited(1)), ("b", running())], "Running"),
        (two("Never"), vec![("a", exited(1)), ("b", exited(0))], "Failed"),
        (two("Always"), vec![("a", running())], "Pending"),
    ];
    for (spec, containers, want) in table {
        assert_eq!(status(spec.clone(), &containers).phase.as_deref(), Some(want), "{spec} {containers:?}");
    }
}

#[test]
fn init_containers_hold_the_pod_back() {
    let spec = |policy: &str| json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}], "restartPolicy": policy});
    let seen = status(spec("Always"), &[("i", running())]);
    assert_eq!(seen.phase.as_deref(), Some("Pending"));
    let initialized = condition(&seen, "Initialized");
    assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [i]"));
    assert_eq!(initialized.reason.as_deref(), Some("ContainersNotInitialized"));
    let waiting = seen.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
    assert_eq!(status(spec("Never"), &[("i", exited(1))]).phase.as_deref(), Some("Failed"));
    assert_eq!(status(spec("Always"), &[("i", exited(1))]).phase.as_deref(), Some("Pending"));
    let seen = status(spec("Always"), &[("i", exited(0)), ("a", running())]);
    assert_eq!(seen.phase.as_deref(), Some("Running"));
    assert_eq!(condition(&seen, "Ready").status, "True");
    assert!(seen.init_container_statuses.unwrap()[0].ready);
}

#[test]
fn a_crash_loop_shows_the_last_end() {
    let mut crashed = exited(3);
    crashed.runs = 4;
    crashed.waiting =
        Some(super::super::record::Waiting { reason: "CrashLoopBackOff".into(), message: "m".into() });
    let seen = status(json!({"containers": [{"name": "a"}]}), &[("a", crashed)]);
    let container = &seen.container_statuses.as_ref().unwrap()[0];
    assert_eq!(container.restart_count, 3);
    assert_eq!(
        container.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(),
        Some("CrashLoopBackOff")
    );
    assert_eq!(container.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 3);
    assert_eq!(seen.phase.as_deref(), Some("Running"));
    assert_eq!(condition(&seen, "Ready").message.as_deref(), Some("containers with unready status: [a]"));
}

#[test]
fn readiness_gates_and_foreign_conditions() {
    let pod = pod(json!({"containers": [{"name": "a"}], "readinessGates": [{"conditionType": "x.io/ok"}]}));
    let record = record(&[("a", running())]);
    let host = "192.0.2.1".parse().unwrap();
    let first = compute(&pod, &record, &PodStatus::default(), host, at(10));
    assert_eq!(
        condition(&first, "Ready").message.as_deref(),
        Some("corresponding condition of pod readiness gate \"x.io/ok\" does not exist.")
    );
    let mut with_gate = first.clone();
    with_gate.conditions.as_mut().unwrap().push(PodCondition {
        type_: "x.io/ok".into(),
        status: "True".into(),
        ..Default::default()
    });
    let second = compute(&pod, &record, &with_gate, host, at(20));
    assert_eq!(condition(&second, "Ready").status, "True");
    assert_eq!(condition(&second, "x.io/ok").status, "True");
    assert_eq!(condition(&second, "ContainersReady").last_transition_time, Some(Time(at(10))));
    assert_eq!(condition(&second, "Ready").last_transition_time, Some(Time(at(20))));
}

#[test]
fn sidecars_run_beside() {
    let spec = json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}],
        "restartPolicy": "Never"});
    let seen = status(spec.clone(), &[("s", running()), ("a", running())]);
    assert_eq!((seen.phase.as_deref(), condition(&seen, "Ready").status.as_str()), (Some("Running"), "True"));
    let mut unstarted = running();
    unstarted.started = false;
    let seen = status(spec, &[("s", unstarted)]);
    assert_eq!(seen.phase.as_deref(), Some("Pending"));
    assert_eq!(condition(&seen, "Initialized").status, "False");
}
