//! Windows, policies and limits, over time.

use serde_json::json;

use super::*;

/// An autoscaler that follows a queue: one replica for each ten in it.
struct Run {
    behavior: Option<Value>,
    limits: (i32, i32),
    history: History,
    size: i32,
}

impl Run {
    fn new(size: i32, limits: (i32, i32), behavior: Option<Value>) -> Self {
        Self { behavior, limits, history: History::default(), size }
    }

    /// Looks at `seconds` when the metric calls for `wanted`.
    fn step(&mut self, seconds: i64, wanted: i32) -> Plan {
        let metric = external(&json!({"type": "AverageValue", "averageValue": "1"}));
        let autoscaler = autoscaler(self.limits, &json!([metric]), self.behavior.as_ref());
        let mut case = Case::new(autoscaler, self.size, vec![Reading::Value(i64::from(wanted) * 1000)]);
        case.now = at(seconds);
        let plan = case.run(&mut self.history);
        self.size = plan.status.desired_replicas;
        plan
    }

    fn sizes(&mut self, steps: &[(i64, i32)]) -> Vec<i32> {
        steps.iter().map(|(seconds, wanted)| self.step(*seconds, *wanted).status.desired_replicas).collect()
    }
}

#[test]
fn without_a_behavior_up_doubles_and_down_waits_five_minutes() {
    let mut run = Run::new(2, (1, 50), None);
    let plan = run.step(0, 40);
    assert_eq!((run.size, says(&plan, "ScalingLimited")), (4, ("True", "ScaleUpLimit")));
    assert_eq!(run.sizes(&[(15, 40), (30, 40), (45, 40), (60, 40)]), [8, 16, 32, 40]);
    let plan = run.step(75, 5);
    assert_eq!((run.size, says(&plan, "AbleToScale")), (40, ("True", "ScaleDownStabilized")));
    assert_eq!(run.sizes(&[(200, 5), (360, 5), (361, 5)]), [40, 40, 5]);
    let plan = run.step(700, 60);
    assert_eq!((run.size, says(&plan, "ScalingLimited")), (10, ("True", "ScaleUpLimit")));
    run.sizes(&[(715, 60), (730, 60)]);
    let plan = run.step(745, 60);
    assert_eq!((run.size, says(&plan, "ScalingLimited")), (50, ("True", "TooManyReplicas")));
    let plan = run.step(5000, 0);
    assert_eq!((run.size, says(&plan, "ScalingLimited")), (1, ("True", "TooFewReplicas")));
    let plan = run.step(10_000, 1);
    assert_eq!(says(&plan, "ScalingLimited"), ("False", "DesiredWithinRange"));
    assert_eq!(says(&plan, "AbleToScale"), ("True", "ReadyForNewScale"));
}

#[test]
fn a_restart_scales_nothing_down_at_once() {
    let mut run = Run::new(10, (1, 50), None);
    assert_eq!(run.sizes(&[(0, 2), (299, 2), (301, 2)]), [10, 10, 2]);
}

#[test]
fn windows_take_the_lowest_up_and_the_highest_down() {
    let behavior = json!({
        "scaleUp": {"stabilizationWindowSeconds": 60, "policies": [{"type": "Pods", "value": 100, "periodSeconds": 15}]},
        "scaleDown": {"stabilizationWindowSeconds": 120},
    });
    let mut run = Run::new(4, (1, 50), Some(behavior));
    let plan = run.step(0, 10);
    assert_eq!((run.size, says(&plan, "AbleToScale")), (4, ("True", "ScaleUpStabilized")));
    // The lowest of the last minute is 8 once the size at the start has left the window.
    assert_eq!(run.sizes(&[(15, 8), (30, 12), (45, 11), (61, 12)]), [4, 4, 4, 8]);
    let plan = run.step(70, 3);
    assert_eq!((run.size, says(&plan, "AbleToScale")), (8, ("True", "ScaleDownStabilized")));
    assert_eq!(run.sizes(&[(100, 3), (181, 3), (191, 3)]), [8, 3, 3]);
}

#[test]
fn policies_bound_what_changes_in_a_period() {
    let policies = json!([
        {"type": "Pods", "value": 5, "periodSeconds": 60},
        {"type": "Percent", "value": 100, "periodSeconds": 60},
    ]);
    let behavior = |up: &str, down: &str| {
        json!({
            "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": up, "policies": policies},
            "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": down, "policies": [
                {"type": "Pods", "value": 4, "periodSeconds": 60},
                {"type": "Percent", "value": 10, "periodSeconds": 60},
            ]},
        })
    };
    let mut most = Run::new(2, (1, 100), Some(behavior("Max", "Max")));
    // Five more than at the start of the minute, then twice as many.
    assert_eq!(most.sizes(&[(0, 80), (15, 80), (59, 80), (60, 80), (121, 80)]), [7, 7, 7, 14, 28]);
    let plan = most.step(182, 1);
    assert_eq!((most.size, says(&plan, "ScalingLimited")), (24, ("True", "ScaleDownLimit")));
    assert_eq!(most.sizes(&[(190, 1), (243, 1)]), [24, 20]);
    let mut least = Run::new(2, (1, 100), Some(behavior("Min", "Min")));
    assert_eq!(least.sizes(&[(0, 80), (61, 80), (122, 80), (183, 80)]), [4, 8, 13, 18]);
    assert_eq!(least.sizes(&[(244, 1), (305, 1)]), [16, 14]);
    let mut none = Run::new(2, (1, 100), Some(behavior("Disabled", "Disabled")));
    assert_eq!(none.sizes(&[(0, 80), (61, 1)]), [2, 2]);
}

#[test]
fn what_was_taken_away_in_a_period_counts_when_it_comes_back() {
    let policy = json!([{"type": "Pods", "value": 3, "periodSeconds": 60}]);
    let behavior = json!({
        "scaleUp": {"stabilizationWindowSeconds": 0, "policies": policy},
        "scaleDown": {"stabilizationWindowSeconds": 0, "policies": policy},
    });
    let mut run = Run::new(10, (1, 100), Some(behavior));
    // Down by three; then up: the period began with ten, so that thirteen are allowed.
    assert_eq!(run.sizes(&[(0, 1), (15, 40), (30, 40)]), [7, 13, 13]);
}

#[test]
fn defaults_of_a_behavior() {
    let mut run = Run::new(3, (1, 100), Some(json!({"scaleDown": {"stabilizationWindowSeconds": 10}})));
    // Four more or twice as many in fifteen seconds; everything at once on the way down.
    assert_eq!(run.sizes(&[(0, 90), (16, 90), (32, 90), (60, 1)]), [7, 14, 28, 1]);
}

#[test]
fn a_history_is_bounded() {
    let behavior = json!({"scaleDown": {"stabilizationWindowSeconds": 3600}});
    let autoscaler = autoscaler((1, 9), &json!([cpu(50)]), Some(&behavior));
    let mut case = Case::new(autoscaler, 1, vec![samples(&[10])]);
    let mut history = History::default();
    for step in 0..4000_i64 {
        case.now = now().checked_add(SignedDuration::from_millis(step * 100)).unwrap();
        case.run(&mut history);
    }
    assert_eq!(format!("{history:?}").matches("2027-").count(), 3600);
}
