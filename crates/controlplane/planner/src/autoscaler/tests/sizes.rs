//! From samples to sizes.

use serde_json::json;

use super::*;

fn by_cpu(target: i32, present: i32, levels: &[i64]) -> Case {
    Case::new(autoscaler((1, 100), &json!([cpu(target)]), None), present, vec![samples(levels)])
}

/// What the metrics call for, before any limit: the message of the plan without limits of pace.
fn wants(case: &Case) -> i32 {
    let free = json!({
        "scaleUp": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 1000, "periodSeconds": 15}]},
        "scaleDown": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]},
    });
    let mut autoscaler = case.autoscaler.clone();
    autoscaler.spec.behavior.get_or_insert_with(|| serde_json::from_value(free).unwrap());
    let free = Case {
        autoscaler,
        scale: case.scale.clone(),
        pods: case.pods.clone(),
        owners: case.owners.clone(),
        readings: case.readings.clone(),
        now: case.now,
    };
    free.size()
}

#[test]
fn utilization_moves_the_size() {
    for (target, present, levels, want) in [
        // 50% against 30%.
        (30, 3, &[300, 500, 700][..], 5),
        (50, 5, &[100, 300, 500, 250, 250], 3),
        // Within a tenth of the target nothing moves, either way.
        (100, 3, &[1010, 1030, 1020], 3),
        (100, 3, &[1090, 1090, 1090], 3),
        (100, 3, &[1110, 1110, 1120], 4),
        (100, 3, &[910, 900, 920], 3),
        // Idle.
        (50, 3, &[0, 0, 0], 1),
        // Above what was asked for.
        (200, 2, &[4000, 4000], 4),
    ] {
        assert_eq!(wants(&by_cpu(target, present, levels)), want, "{target}% of {present}: {levels:?}");
    }
}

#[test]
fn what_is_not_measured_counts_against_a_change() {
    for (target, present, levels, want) in [
        (100, 2, &[1000][..], 2),
        // The other one idle: 95%, which would be the other direction.
        (100, 2, &[1900], 2),
        // The other one as busy as it may be: 80%.
        (100, 2, &[600], 2),
        // 30% of three, with one as busy as asked for: (300 + 300 + 1000) / 3000.
        (100, 3, &[300, 300], 2),
        (50, 4, &[1000, 1000], 4),
        (20, 4, &[1000, 1000], 10),
        // A target above what was asked for: who is not measured uses the target.
        (200, 3, &[500, 500], 2),
    ] {
        assert_eq!(wants(&by_cpu(target, present, levels)), want, "{target}% of {present}: {levels:?}");
    }
}

#[test]
fn pods_that_start_do_not_count_for_cpu() {
    let young = |ready: &str, since: i64| {
        let mut young = pod("p0", Some("1"));
        let status = young.status.as_mut().unwrap();
        status.start_time = Some(status::time(at(-60)));
        let condition = &mut status.conditions.as_mut().unwrap()[0];
        ready.clone_into(&mut condition.status);
        condition.last_transition_time = Some(status::time(at(since)));
        young
    };
    let old = |started: i64, changed: i64| {
        let mut old = young("False", changed);
        old.status.as_mut().unwrap().start_time = Some(status::time(at(started)));
        old
    };
    for (what, first, levels, want) in [
        ("counts", young("True", -30), [300, 500, 700], 5),
        ("not ready yet", young("False", -55), [300, 500, 700], 4),
        ("ready, but not for a whole window", young("True", -10), [300, 500, 700], 4),
        ("hot while it starts", young("False", -55), [3000, 500, 700], 4),
        ("never was ready", old(-3600, -3580), [3000, 500, 700], 4),
        ("was ready once", old(-3600, -600), [300, 500, 700], 5),
    ] {
        let mut case = by_cpu(30, 3, &levels);
        case.pods[0] = first;
        assert_eq!(wants(&case), want, "{what}");
    }
    // On the way down nothing is made up for those.
    let mut case = by_cpu(50, 3, &[3000, 100, 100]);
    case.pods[0] = young("False", -55);
    assert_eq!(wants(&case), 1);
    // Memory is what it is.
    let memory = json!([{"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1"}}}]);
    let mut case = Case::new(autoscaler((1, 100), &memory, None), 2, vec![samples(&[3000, 1000])]);
    case.pods[0] = young("False", -55);
    assert_eq!(wants(&case), 4);
}

#[test]
fn pods_that_go_or_wait_are_told_apart() {
    let change = |index: usize, phase: &str, deleted: bool| {
        let mut case = by_cpu(50, 3, &[1000, 1000, 1000]);
        let pod = &mut case.pods[index];
        phase.clone_into(pod.status.as_mut().unwrap().phase.as_mut().unwrap());
        pod.metadata.deletion_timestamp = deleted.then(|| status::time(at(-1)));
        wants(&case)
    };
    // Two remain, at twice the target.
    assert_eq!(change(0, "Running", true), 4);
    assert_eq!(change(0, "Failed", false), 4);
    // One that waits for a node is an idle one: 66%.
    assert_eq!(change(0, "Pending", false), 4);
    let mut case = by_cpu(50, 3, &[]);
    case.pods.clear();
    let plan = case.run(&mut History::default());
    assert_eq!(says(&plan, "ScalingActive"), ("False", "FailedGetResourceMetric"));
}

#[test]
fn requests_are_those_of_the_pod_its_containers_or_one_of_them() {
    let mut case = by_cpu(50, 1, &[1000]);
    case.pods[0] = pod("p0", None);
    let plan = case.run(&mut History::default());
    let why = condition(&plan, "ScalingActive").message.clone().unwrap();
    assert!(why.ends_with("missing request for cpu in container main of Pod p0"), "{why}");
    let spec = |spec: Value| {
        let mut case = by_cpu(50, 1, &[1000]);
        case.pods[0].spec = Some(serde_json::from_value(spec).unwrap());
        case.run(&mut History::default()).status.current_metrics.unwrap()[0].resource.clone().unwrap().current
    };
    let container = |name: &str, cpu: &str, more: Value| {
        let mut container = json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        container
    };
    let percent = |value: Value| spec(value).average_utilization;
    assert_eq!(
        percent(json!({"containers": [container("a", "1", json!({})), container("b", "1", json!({}))]})),
        Some(50)
    );
    let sidecar = container("s", "3", json!({"restartPolicy": "Always"}));
    let once = container("i", "7", json!({}));
    let both = json!({"containers": [container("a", "1", json!({}))], "initContainers": [sidecar, once]});
    assert_eq!(percent(both), Some(25));
    let whole = json!({"containers": [{"name": "a"}], "resources": {"requests": {"cpu": "4"}}});
    assert_eq!(percent(whole), Some(25));
    // One container.
    let metric = json!([{"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "b", "target": {"type": "Utilization", "averageUtilization": 50}}}]);
    let mut case = Case::new(autoscaler((1, 9), &metric, None), 1, vec![samples(&[400])]);
    let two = json!({"containers": [{"name": "a"}, container("b", "200m", json!({}))]});
    case.pods[0].spec = Some(serde_json::from_value(two).unwrap());
    let plan = case.run(&mut History::default());
    assert_eq!(plan.status.desired_replicas, 4);
    let active = condition(&plan, "ScalingActive").message.clone().unwrap();
    assert!(active.contains("cpu container resource utilization (percentage of request)"), "{active}");
}

#[test]
fn averages_values_and_shares() {
    let average = |metric: &str| json!({"type": "AverageValue", "averageValue": metric});
    let value = |metric: &str| json!({"type": "Value", "value": metric});
    let pods = |target: Value| json!({"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": target}});
    let object = |target: Value| {
        json!({"type": "Object", "object": {"metric": {"name": "rps"}, "target": target,
            "describedObject": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "main"}}})
    };
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": average("100m")}});
    for (metric, present, reading, want) in [
        (pods(average("15")), 3, samples(&[20_000, 10_000, 30_000]), 4),
        (pods(average("20")), 3, samples(&[10_000, 10_000, 10_000]), 2),
        // One is not measured: it counts as one at the target on the way down, as idle on the way up.
        (pods(average("20")), 3, samples(&[10_000, 10_000]), 2),
        (pods(average("10")), 3, samples(&[30_000, 30_000]), 6),
        (pods(average("20")), 3, samples(&[21_000, 21_000]), 3),
        (cpu, 2, samples(&[200, 300]), 5),
        (object(value("15")), 3, Reading::Value(20_000), 4),
        (object(value("20")), 3, Reading::Value(19_000), 3),
        (object(average("15")), 3, Reading::Value(100_000), 7),
        (object(average("15")), 3, Reading::Value(46_000), 3),
        (external(&value("4400m")), 3, Reading::Value(8600), 6),
        (external(&average("2150m")), 3, Reading::Value(8600), 4),
        (external(&average("1k")), 3, Reading::Value(0), 1),
    ] {
        let case = Case::new(autoscaler((1, 100), &json!([metric]), None), present, vec![reading]);
        assert_eq!(wants(&case), want, "{metric}");
    }
    // Only ready pods share a value.
    let mut case =
        Case::new(autoscaler((1, 9), &json!([object(value("10"))]), None), 4, vec![Reading::Value(30_000)]);
    for pod in &mut case.pods[..2] {
        "False".clone_into(&mut pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status);
    }
    assert_eq!(wants(&case), 6);
    let current =
        case.run(&mut History::default()).status.current_metrics.unwrap()[0].object.clone().unwrap();
    assert_eq!(current.current.value.unwrap().0, "30");
    assert_eq!(current.described_object.name, "main");
}

#[test]
fn each_direction_has_its_tolerance() {
    let behavior = |way: &str, tolerance: &str| {
        let mut behavior = json!({"scaleUp": {"stabilizationWindowSeconds": 0}, "scaleDown": {"stabilizationWindowSeconds": 0}});
        behavior[way]["tolerance"] = tolerance.into();
        behavior
    };
    for (way, tolerance, level, want) in [
        ("scaleUp", "0.5", 1400, 2),
        ("scaleUp", "0.5", 1600, 4),
        ("scaleUp", "0", 1010, 3),
        ("scaleDown", "50m", 940, 2),
        ("scaleDown", "0.6", 450, 2),
        ("scaleDown", "0.6", 390, 1),
        // The other direction keeps the default.
        ("scaleDown", "0.6", 1200, 3),
    ] {
        let behavior = behavior(way, tolerance);
        let autoscaler = autoscaler((1, 100), &json!([cpu(100)]), Some(&behavior));
        let case = Case::new(autoscaler, 2, vec![samples(&[level, level])]);
        assert_eq!(case.size(), want, "{way} {tolerance}: {level}");
    }
}
