//! Sets, and their JSON.

use serde_json::json;

use super::*;

fn set(fields: serde_json::Value) -> Set {
    Set::from_fields(&fields).unwrap()
}

#[test]
fn json_goes_round() {
    let fields = json!({
        "f:metadata": {"f:finalizers": {".": {}, "v:\"a\"": {}}},
        "f:spec": {
            "f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}},
            "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}}},
            "f:replicas": {},
        },
    });
    let read = set(fields.clone());
    let keyed = "k:{\"port\":80,\"protocol\":\"TCP\"}";
    assert_eq!(read.to_fields()["f:spec"]["f:ports"], json!({ keyed: {} }));
    assert_eq!(read.to_fields()["f:metadata"], fields["f:metadata"]);
    assert_eq!(Set::from_fields(&read.to_fields()).unwrap(), read);
    let shown: Vec<String> = read.paths().iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            ".metadata.finalizers",
            ".metadata.finalizers[=\"a\"]",
            ".spec.replicas",
            ".spec.containers[name=\"a\"]",
            ".spec.containers[name=\"a\"].image",
            ".spec.ports[port=80,protocol=\"TCP\"]",
        ]
    );
    assert!(read.paths().iter().all(|path| read.has(&path.0)));
}

#[test]
fn what_a_client_may_send() {
    assert_eq!(set(json!({"f:a": {}, "x:b": {"f:c": {}}})), set(json!({"f:a": {}})));
    assert_eq!(set(json!({"f:a": {"x:b": {}}})), set(json!({"f:a": {}})), "nothing known below: a member");
    assert!(set(json!({})).is_empty());
    assert_eq!(set(json!({"f:a": null})).len(), 1);
    assert_eq!(set(json!({"i:3": {}})).paths()[0].to_string(), "[3]");
    assert_eq!(set(json!({"k:{\"b\":1,\"a\":2}": {}})), set(json!({"k:{\"a\":2,\"b\":1}": {}})));
    for bad in ["x", "fa", "v:{", "k:[]", "i:x", "é"] {
        assert!(Set::from_fields(&json!({ bad: {} })).is_err(), "{bad}");
    }
    assert!(Set::from_fields(&json!([])).is_err());
    assert!(Set::from_fields(&json!({"f:a": 1})).is_err());
}

#[test]
fn keys_are_escaped_as_go_does() {
    let element = PathElement::Value(json!("a<b>&\"\u{2028}é"));
    assert_eq!(element.encode(), "v:\"a\\u003cb\\u003e\\u0026\\\"\\u2028é\"");
    assert_eq!(PathElement::decode(&element.encode()).unwrap().unwrap(), element);
}

#[test]
fn parents_and_children() {
    let all = set(json!({"f:a": {".": {}, "f:b": {".": {}, "f:c": {}}}, "f:d": {}}));
    let parent = set(json!({"f:a": {"f:b": {}}}));
    assert_eq!(all.difference(&parent), set(json!({"f:a": {".": {}, "f:b": {"f:c": {}}}, "f:d": {}})));
    assert_eq!(all.recursive_difference(&parent), set(json!({"f:a": {}, "f:d": {}})));
    assert_eq!(all.intersection(&parent), parent);
    assert_eq!(all.leaves().len(), 2);
    assert_eq!(parent.union(&set(json!({"f:z": {}}))), set(json!({"f:a": {"f:b": {}}, "f:z": {}})));
    assert!(covers(&all.to_fields(), &parent) && touches(&all.to_fields(), &parent));
    let other = set(json!({"f:a": {"f:b": {"f:x": {}}}}));
    assert!(!covers(&all.to_fields(), &other) && !touches(&all.to_fields(), &other));
}
