//! What is done and said, beyond sizes.

use serde_json::json;

use super::*;

fn value(target: &str) -> Value {
    external(&json!({"type": "Value", "value": target}))
}

#[test]
fn sizes_outside_the_limits_need_no_metrics() {
    for (present, want, reason) in [
        (9, 5, "Current number of replicas above Spec.MaxReplicas"),
        (1, 2, "Current number of replicas below Spec.MinReplicas"),
    ] {
        let case = Case::new(autoscaler((2, 5), &json!([cpu(50)]), None), present, Vec::new());
        let plan = case.run(&mut History::default());
        assert_eq!(plan.status.desired_replicas, want);
        assert_eq!(plan.status.current_replicas, Some(present));
        assert_eq!(plan.status.last_scale_time, Some(status::time(now())));
        assert_eq!(says(&plan, "AbleToScale"), ("True", "SucceededRescale"));
        let text = format!("New size: {want}; reason: {reason}");
        assert_eq!(plan.notices, [Notice::normal("SuccessfulRescale", text)]);
    }
}

#[test]
fn a_scale_that_cannot_be_written_is_told() {
    let case = Case::new(autoscaler((1, 5), &json!([cpu(50)]), None), 1, vec![samples(&[1000])]);
    let mut history = History::default();
    let plan = case.run_with(&mut history, Err("the object has been modified"));
    assert_eq!(says(&plan, "AbleToScale"), ("False", "FailedUpdateScale"));
    assert_eq!(reasons(&plan), ["FailedRescale"]);
    assert!(plan.notices[0].warning);
    assert_eq!((plan.status.desired_replicas, &plan.status.last_scale_time), (0, &None));
}

#[test]
fn a_scale_that_cannot_be_read_is_told() {
    let mut autoscaler = autoscaler((1, 5), &json!([cpu(50)]), None);
    let before = json!({"desiredReplicas": 3, "currentReplicas": 3, "conditions": [
        {"type": "AbleToScale", "status": "True", "lastTransitionTime": at(-60)},
    ]});
    autoscaler.status = Some(serde_json::from_value(before).unwrap());
    let plan = scale_unknown(&autoscaler, "no matches for kind \"Toy\"", now());
    let condition = condition(&plan, "AbleToScale");
    assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("False", Some("FailedGetScale")));
    assert_eq!(condition.last_transition_time, Some(status::time(now())));
    assert_eq!((plan.status.desired_replicas, reasons(&plan)), (3, vec!["FailedGetScale"]));
}

#[test]
fn conditions_keep_their_time_while_they_stay() {
    let mut case = Case::new(autoscaler((1, 5), &json!([cpu(50)]), None), 1, vec![samples(&[500])]);
    case.autoscaler.status = Some(case.run(&mut History::default()).status);
    case.now = at(60);
    let plan = case.run(&mut History::default());
    assert_eq!(Some(plan.status.clone()), case.autoscaler.status, "nothing is to be written");
    case.readings = vec![Err("no metrics returned from resource metrics API".to_owned())];
    let plan = case.run(&mut History::default());
    let active = condition(&plan, "ScalingActive");
    assert_eq!(active.last_transition_time, Some(status::time(at(60))));
    assert_eq!(
        active.message.as_deref(),
        Some(
            "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get \
             metrics for resource cpu: no metrics returned from resource metrics API"
        )
    );
    assert_eq!(reasons(&plan), ["FailedGetResourceMetric", "FailedComputeMetricsReplicas"]);
    assert_eq!(
        plan.notices[1].message,
        "invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: failed \
         to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource \
         metrics API"
    );
}

#[test]
fn the_highest_of_several_metrics_counts_and_half_knowledge_scales_up_only() {
    let metrics = json!([cpu(50), value("10")]);
    for (readings, want, active) in [
        (vec![Ok(samples(&[500, 500])), Ok(Reading::Value(30_000))], 4, "ValidMetricFound"),
        (vec![Ok(samples(&[800, 700])), Ok(Reading::Value(9000))], 3, "ValidMetricFound"),
        (vec![Err("gone".to_owned()), Ok(Reading::Value(15_000))], 3, "ValidMetricFound"),
        (vec![Ok(samples(&[100, 100])), Err("gone".to_owned())], 0, "FailedGetExternalMetric"),
        (vec![Err("gone".to_owned()), Err("gone".to_owned())], 0, "FailedGetResourceMetric"),
        // Staying is not scaling down.
        (vec![Ok(samples(&[500, 500])), Err("gone".to_owned())], 2, "ValidMetricFound"),
    ] {
        let mut case = Case::new(autoscaler((1, 9), &metrics, None), 2, Vec::new());
        case.readings = readings.clone();
        let plan = case.run(&mut History::default());
        assert_eq!(plan.status.desired_replicas, want, "{readings:?}");
        assert_eq!(says(&plan, "ScalingActive").1, active, "{readings:?}");
        // Clients find the status of a metric by its place.
        assert_eq!(plan.status.current_metrics.unwrap().len(), 2);
    }
}

#[test]
fn selectors_must_name_pods_of_one_autoscaler() {
    let mut case = Case::new(autoscaler((1, 9), &json!([cpu(50)]), None), 1, vec![samples(&[900])]);
    case.owners.push("shop/other".to_owned());
    let plan = case.run(&mut History::default());
    assert_eq!(says(&plan, "ScalingActive"), ("False", "AmbiguousSelector"));
    assert_eq!(reasons(&plan), ["AmbiguousSelector", "FailedComputeMetricsReplicas"]);
    assert!(plan.notices[0].message.contains("[shop/web shop/other]"), "{:?}", plan.notices);
    assert!(plan.rescale.is_none());
    case.scale.selector = Selection::Missing;
    let plan = case.run(&mut History::default());
    assert_eq!(says(&plan, "ScalingActive"), ("False", "InvalidSelector"));
    assert_eq!(reasons(&plan)[0], "SelectorRequired");
    case.scale.selector = Selection::Bad("unable to parse requirement".to_owned());
    let plan = case.run(&mut History::default());
    assert_eq!((says(&plan, "ScalingActive").1, reasons(&plan)[0]), ("InvalidSelector", "InvalidSelector"));
}

#[test]
fn a_zero_of_its_own_making_ends_and_anybody_elses_stays() {
    let metrics = json!([value("10")]);
    let quick = json!({"scaleDown": {"stabilizationWindowSeconds": 0}});
    let mut history = History::default();
    let mut case = Case::new(autoscaler((0, 9), &metrics, Some(&quick)), 2, vec![Reading::Value(0)]);
    let down = case.run(&mut history);
    assert_eq!((down.status.desired_replicas, says(&down, "ScaledToZero")), (0, ("True", "ScaledToZero")));
    // It stays at zero, and knows that it was its own.
    let zero = Case::new(case.autoscaler.clone(), 0, vec![Reading::Value(0)]);
    case = zero;
    case.autoscaler.status = Some(down.status);
    let idle = case.run(&mut history);
    assert_eq!((idle.status.desired_replicas, says(&idle, "ScalingActive").0), (0, "True"));
    case.autoscaler.status = Some(idle.status.clone());
    case.readings = vec![Ok(Reading::Value(25_000))];
    let up = case.run(&mut history);
    assert_eq!((up.status.desired_replicas, says(&up, "ScaledToZero")), (3, ("False", "NotScaledToZero")));
    // The least was raised meanwhile.
    case.autoscaler.spec.min_replicas = Some(2);
    case.readings = vec![Ok(Reading::Value(0))];
    assert_eq!(case.run(&mut history).status.desired_replicas, 2);
    // Somebody else's zero.
    case.autoscaler.status = None;
    case.readings = vec![Ok(Reading::Value(25_000))];
    let off = case.run(&mut history);
    assert_eq!((&off.rescale, says(&off, "ScalingActive")), (&None, ("False", "ScalingDisabled")));
    assert_eq!(wants(&case.autoscaler, &case.scale), Course::Off);
}

#[test]
fn metrics_that_make_no_sense_are_named() {
    let none = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}}]);
    let odd = json!([{"type": "Moon"}]);
    for (metrics, reason) in [(none, "FailedGetResourceMetric"), (odd, "InvalidMetricSourceType")] {
        let case = Case::new(autoscaler((1, 9), &metrics, None), 1, vec![samples(&[1])]);
        assert_eq!(says(&case.run(&mut History::default()), "ScalingActive"), ("False", reason));
    }
}
