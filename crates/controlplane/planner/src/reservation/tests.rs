//! What reservations say, when they end, and how they stand.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::scheduler::{Resources, SeatView};

fn reservation(spec: Value) -> Reservation {
    let object = json!({
        "metadata": {"name": "r", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

fn template(spec: Value) -> Value {
    json!({"template": {"spec": spec}})
}

fn cpu() -> Value {
    json!({"resources": {"requests": {"cpu": "2"}}})
}

#[test]
fn seats_are_written_and_read() {
    let seat = Seat { uid: "u-1".into(), index: 7, namespace: "n".into(), name: "r".into() };
    assert_eq!((seat.to_string().as_str(), &*seat.key()), ("n/r/7/u-1", "seat/u-1/7"));
    assert_eq!(Seat::parse(&seat.to_string()), Some(seat));
    for text in ["", "n/r", "n/r/x/u", "n/r/1/", "n/r/1/u/more", "n/r/-1/u"] {
        assert_eq!(Seat::parse(text), None, "{text}");
    }
}

#[test]
fn what_makes_no_sense_is_said() {
    let asks = |name: &str, amount: &str| {
        let mut requests = json!({"cpu": "1"});
        requests[name] = json!(amount);
        template(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
    };
    let mut many = template(cpu());
    many["count"] = json!(1001);
    let mut soon = template(cpu());
    soon["ttl"] = json!("soon");
    let mut never = template(cpu());
    never["expires"] = json!("never");
    let mut nobody = template(cpu());
    nobody["owners"] = json!([{"controller": {"kind": "Job"}}]);
    let table = [
        (json!({}), "spec.template asks for nothing"),
        (template(json!({"containers": [{"name": "c", "image": "i"}]})), "spec.template asks for nothing"),
        (template(json!({"containers": 7})), "spec.template is no pod template"),
        (json!({"template": "odd"}), "spec.template asks for nothing"),
        (asks("cpu", "-2"), "spec.template asks for \"-2\" of cpu"),
        (asks("example.com/gpu", "many"), "spec.template asks for \"many\" of example.com/gpu"),
        (
            template(
                json!({"containers": [{"name": "c"}], "overhead": {"memory": "-1Gi"}, "resources": {"requests": {"cpu": "1"}}}),
            ),
            "spec.template asks for \"-1Gi\" of memory",
        ),
        (
            template(json!({"resources": {"requests": {"cpu": "1"}}, "containers": [], "initContainers": [
                {"name": "i", "resources": {"limits": {"memory": "-1"}}}]})),
            "spec.template asks for \"-1\" of memory",
        ),
        (many, "spec.count is 1001 (hint: 1 to 1000)"),
        (soon, "spec.ttl is \"soon\""),
        (never, "spec.expires is \"never\""),
        (nobody, "spec.owners: a controller has a kind and a name"),
    ];
    for (spec, want) in table {
        let why = reservation(spec.clone()).terms(None).unwrap_err();
        assert!(why.starts_with(want), "{spec}: {why}");
    }
    let terms = reservation(template(cpu())).terms(Some(9)).unwrap();
    assert_eq!((terms.count, terms.gang, terms.once, terms.template.priority()), (1, false, true, 9));
    // How important it is, its class says alone.
    let mut spec = cpu();
    spec["priority"] = json!(2_000_000_000);
    spec["priorityClassName"] = json!("low");
    let low = reservation(template(spec));
    assert_eq!((low.priority_class(), low.terms(Some(1)).unwrap().template.priority()), (Some("low"), 1));
    assert_eq!(low.terms(None).unwrap().template.priority(), 0);
}

#[test]
fn it_ends_when_the_first_of_both_ends() {
    let mut spec = template(cpu());
    let end = |spec: &Value| reservation(spec.clone()).expiry().unwrap().map(|at| at.to_string());
    assert_eq!(end(&spec), None);
    spec["ttl"] = json!("2h");
    assert_eq!(end(&spec).as_deref(), Some("2026-01-01T02:00:00Z"));
    spec["expires"] = json!("2026-01-01T01:00:00Z");
    assert_eq!(end(&spec).as_deref(), Some("2026-01-01T01:00:00Z"));
    spec["ttl"] = json!("0");
    spec["expires"] = json!("2026-03-01T01:00:00Z");
    assert_eq!(end(&spec).as_deref(), Some("2026-03-01T01:00:00Z"));
}

#[test]
fn a_seat_leaves_a_node_as_a_pod_would() {
    let now: Timestamp = "2026-01-01T10:00:00Z".parse().unwrap();
    let taint = |key: &str, effect: &str| {
        let taint = json!({"key": key, "effect": effect, "timeAdded": "2026-01-01T09:59:00Z"});
        serde_json::from_value(json!({"metadata": {}, "spec": {"taints": [taint]}})).unwrap()
    };
    let tolerant = |more: Value| {
        let mut toleration = json!({"key": "k", "operator": "Exists"});
        toleration.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut spec = cpu();
        spec["tolerations"] = json!([toleration]);
        reservation(template(spec))
    };
    let at = |r: &Reservation, key: &str, effect: &str| {
        leaves_at(&r.tolerations(), &taint(key, effect), now).map(|at| at.duration_since(now).as_secs())
    };
    let plain = reservation(template(cpu()));
    assert_eq!(at(&plain, "k", "NoExecute"), Some(-60));
    assert_eq!(at(&plain, "k", "NoSchedule"), None);
    assert_eq!(at(&plain, "node.kubernetes.io/unreachable", "NoExecute"), Some(240));
    assert_eq!(at(&tolerant(json!({})), "k", "NoExecute"), None);
    assert_eq!(at(&tolerant(json!({"tolerationSeconds": 90})), "k", "NoExecute"), Some(30));
}

#[test]
fn statuses_tell_and_are_read_again() {
    let now: Timestamp = "2026-01-01T10:00:00Z".parse().unwrap();
    let mut held = reservation(template(cpu()));
    let left = Resources { milli_cpu: 1500, memory: 1 << 30, ..Resources::default() };
    let view = |index, node: Option<&str>, left: Option<Resources>, done| SeatView {
        index,
        node: node.map(Into::into),
        left,
        done,
        ..SeatView::default()
    };
    let facts = |seats: Vec<SeatView>| Facts { seats, ..Facts::default() };
    let status = held.status_for(&facts(vec![view(0, None, None, false)]), now).unwrap();
    assert_eq!((status.phase.as_str(), status.held.as_str()), ("Pending", "0/1"));
    let seats = vec![
        view(0, Some("a"), Some(left), false),
        view(1, Some("b"), None, false),
        view(2, Some("c"), None, true),
    ];
    let status = held.status_for(&facts(seats), now).unwrap();
    assert_eq!((status.phase.as_str(), status.held.as_str()), ("Available", "2/3"));
    let phases: Vec<&str> = status.seats.iter().map(|seat| seat.phase.as_str()).collect();
    assert_eq!(phases, ["Available", "Allocated", "Succeeded"]);
    assert_eq!(
        (status.seats[0].left["cpu"].0.as_str(), status.seats[0].left["memory"].0.as_str()),
        ("1500m", "1Gi")
    );
    held.status = Some(status);
    let known = held.known_seats();
    assert_eq!(
        known.iter().map(|seat| (seat.node.as_deref(), seat.done)).collect::<Vec<_>>(),
        [(Some("a"), false), (Some("b"), false), (Some("c"), true)]
    );
    // Of another template these seats are not.
    held.spec.template = json!({"spec": {"resources": {"requests": {"cpu": "3"}}}});
    assert!(held.known_seats().is_empty());
    let problem = Facts { problem: Some("no".to_owned()), ..Facts::default() };
    assert_eq!(held.status_for(&problem, now).unwrap().phase, "Failed");
    let over = Facts { expired: true, ..Facts::default() };
    assert_eq!(held.status_for(&over, now).unwrap().phase, "Expired");
}
