//! Applies.

use serde_json::{Value, json};

use super::support::{DEPLOYMENT, Store};
use crate::apply::{Root, extract, field_set, keep_times, merge_configuration};
use crate::kinds::Gvk;

fn containers(list: Value) -> Value {
    json!({"spec": {"template": {"spec": {"containers": list}}}})
}

const CONTAINERS: &str = "/spec/template/spec/containers";

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect()
}

#[test]
fn what_is_no_longer_applied_goes() {
    let mut store = Store::new(DEPLOYMENT);
    store
        .apply(
            "a",
            json!({"metadata": {"labels": {"x": "1", "y": "1"}}, "spec": {"replicas": 3, "paused": true}}),
        )
        .unwrap();
    assert_eq!(
        store.fields("a"),
        json!({"f:metadata": {"f:labels": {"f:x": {}, "f:y": {}}}, "f:spec": {"f:paused": {}, "f:replicas": {}}})
    );
    store.apply("a", json!({"metadata": {"labels": {"y": "1"}}, "spec": {"replicas": 3}})).unwrap();
    assert_eq!(store.at("/metadata/labels"), json!({"y": "1"}));
    assert_eq!(store.at("/spec"), json!({"replicas": 3}));
    assert_eq!(store.entry("a")["time"], "2026-01-01T00:00:02Z");
    store.apply("a", json!({"metadata": {"labels": {"y": "1"}}, "spec": {"replicas": 3}})).unwrap();
    assert_eq!(store.entry("a")["time"], "2026-01-01T00:00:02Z", "nothing changed");
}

#[test]
fn what_others_own_stays() {
    let mut store = Store::new(DEPLOYMENT);
    store.apply("a", json!({"spec": {"replicas": 3, "paused": true}})).unwrap();
    store.apply("b", json!({"spec": {"replicas": 3}})).unwrap();
    assert_eq!(store.managers(), ["b", "a"], "b changed nothing: it has no time and comes first");
    store.apply("a", json!({"spec": {"paused": true}})).unwrap();
    assert_eq!(store.at("/spec"), json!({"replicas": 3, "paused": true}));
    store.apply("b", json!({})).unwrap();
    assert_eq!(store.at("/spec/replicas"), Value::Null);
    assert_eq!(store.managers(), ["a"]);
    store.edit("u", |o| o["spec"]["paused"] = false.into());
    assert_eq!(store.managers(), ["u"]);
    store.apply("a", json!({})).unwrap();
    assert_eq!(store.at("/spec/paused"), false, "lost to the update: not a's to remove");
}

#[test]
fn conflicts_name_the_fields_and_their_managers() {
    let mut store = Store::new(DEPLOYMENT);
    store.update("x", json!({"spec": {"replicas": 1}}));
    let one = store.apply("a", json!({"spec": {"replicas": 2}})).unwrap_err();
    assert_eq!((one.code, one.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        one.message,
        "Apply failed with 1 conflict: conflict with \"x\" using apps/v1: .spec.replicas"
    );
    let cause = &one.details.unwrap().causes[0];
    assert_eq!(
        (cause.reason.as_str(), cause.message.as_str(), cause.field.as_str()),
        ("FieldManagerConflict", "conflict with \"x\" using apps/v1", ".spec.replicas")
    );
    store.apply("y", containers(json!([{"name": "c", "image": "1"}]))).unwrap();
    let body =
        json!({"spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "c", "image": "2"}]}}}});
    let two = store.apply("a", body.clone()).unwrap_err();
    assert_eq!(
        two.message,
        "Apply failed with 2 conflicts: conflicts with \"x\" using apps/v1:\n- .spec.replicas\nconflicts with \"y\":\n\
         - .spec.template.spec.containers[name=\"c\"].image"
    );
    store.force("a", body);
    assert_eq!(store.managers(), ["y", "a"]);
    assert_eq!(store.at("/spec/replicas"), 2);
    store.update_as("s", "status", {
        let mut object = store.live.clone().unwrap();
        object["status"] = json!({"replicas": 1});
        object
    });
    let status = store.apply_as("a", "status", json!({"status": {"replicas": 2}}), false).unwrap_err();
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"s\" with subresource \"status\" using apps/v1: .status.replicas"
    );
}

#[test]
fn lists_merge_by_key_in_the_order_of_the_configuration() {
    let mut store = Store::new(DEPLOYMENT);
    store.apply("a", containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]))).unwrap();
    store.apply("s", containers(json!([{"name": "side", "image": "s"}]))).unwrap();
    assert_eq!(names(&store.at(CONTAINERS)), ["a", "b", "side"]);
    store.apply("a", containers(json!([{"name": "b", "image": "1"}, {"name": "c", "image": "1"}]))).unwrap();
    assert_eq!(names(&store.at(CONTAINERS)), ["b", "side", "c"]);
    store.apply("s", containers(json!([]))).unwrap();
    assert_eq!(names(&store.at(CONTAINERS)), ["b", "c"]);
}

#[test]
fn keys_that_are_left_out_have_their_default() {
    let mut store = Store::new(Gvk { group: "", version: "v1", kind: "Service" });
    store.apply("a", json!({"spec": {"ports": [{"port": 53, "name": "tcp"}]}})).unwrap();
    store.apply("b", json!({"spec": {"ports": [{"port": 53, "protocol": "UDP", "name": "udp"}]}})).unwrap();
    let conflict =
        store.apply("c", json!({"spec": {"ports": [{"port": 53, "protocol": "TCP", "name": "x"}]}}));
    let message = conflict.unwrap_err().message;
    assert!(
        message.ends_with("conflict with \"a\": .spec.ports[port=53,protocol=\"TCP\"].name"),
        "{message}"
    );
    assert_eq!(store.at("/spec/ports").as_array().unwrap().len(), 2);
}

#[test]
fn sets_and_atomic_values() {
    let mut store = Store::new(DEPLOYMENT);
    store.apply("a", json!({"metadata": {"finalizers": ["x/a"]}})).unwrap();
    store.apply("b", json!({"metadata": {"finalizers": ["x/b"]}})).unwrap();
    assert_eq!(store.at("/metadata/finalizers"), json!(["x/a", "x/b"]));
    store.apply("a", json!({})).unwrap();
    assert_eq!(store.at("/metadata/finalizers"), json!(["x/b"]));
    let selector = |name: &str| json!({"spec": {"selector": {"matchLabels": {name: "1"}}}});
    store.apply("a", selector("p")).unwrap();
    let refused = store.apply("b", selector("q")).unwrap_err();
    assert!(refused.message.ends_with("conflict with \"a\": .spec.selector"), "{}", refused.message);
    store.force("b", selector("q"));
    assert_eq!(store.at("/spec/selector/matchLabels"), json!({"q": "1"}));
}

#[test]
fn what_does_not_fit_is_told() {
    let mut store = Store::new(DEPLOYMENT);
    let long = "failed to create typed patch object (/x; apps/v1, Kind=Deployment): ";
    for (body, why) in [
        (json!({"spec": {"foo": 1}}), ".spec.foo: field not declared in schema"),
        (json!({"spec": {"replicas": "x"}}), ".spec.replicas: expected numeric (int or float), got string"),
        (json!({"spec": {"template": "x"}}), ".spec.template: expected map, got &{x}"),
        (
            containers(json!([{"name": "a"}, {"name": "a"}])),
            ".spec.template.spec.containers: duplicate entries for key [name=\"a\"]",
        ),
        (
            json!({"metadata": {"finalizers": [null]}}),
            ".metadata.finalizers: element 0: associative list without keys has an element that's an explicit null",
        ),
        (
            json!({"metadata": {"labels": {"a": 1}}, "spec": {"paused": "yes"}}),
            "errors:\n  .metadata.labels.a: expected string, got &value.valueUnstructured{Value:1}\n  .spec.paused: \
             expected boolean, got &{yes}",
        ),
    ] {
        let refused = store.apply("a", body).unwrap_err();
        assert_eq!((refused.code, refused.message), (500, format!("{long}{why}")));
    }
    let refused = store.apply("a", json!({"kind": "Pod"})).unwrap_err();
    assert_eq!((refused.code, refused.message.as_str()), (400, "invalid object type: apps/v1, Kind=Pod"));
    let refused = store.apply("a", json!({"metadata": {"managedFields": []}})).unwrap_err();
    assert_eq!((refused.code, refused.message.as_str()), (400, "metadata.managedFields must be nil"));
}

#[test]
fn kubectl_moves_from_client_side_apply_without_conflict() {
    let mut store = Store::new(DEPLOYMENT);
    let last = "{\"apiVersion\":\"apps/v1\",\"kind\":\"Deployment\",\"metadata\":{\"name\":\"x\"},\"spec\":{\"replicas\":3}}\n";
    let annotated = |replicas: i32| {
        json!({
            "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": last}},
            "spec": {"replicas": replicas},
        })
    };
    store.update("kubectl-client-side-apply", annotated(3));
    assert!(store.apply("other", json!({"spec": {"replicas": 5}})).is_err());
    store.apply("kubectl", json!({"spec": {"replicas": 5}})).unwrap();
    assert_eq!(store.at("/spec/replicas"), 5);
    let renewed = store.at("/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration");
    assert_eq!(renewed.as_str().unwrap(), last.replace('3', "5"));

    let mut store = Store::new(DEPLOYMENT);
    store.update("kubectl-client-side-apply", annotated(3));
    store.edit("hpa", |o| o["spec"]["replicas"] = 4.into());
    let refused = store.apply("kubectl", json!({"spec": {"replicas": 5}})).unwrap_err();
    assert!(refused.message.contains("conflict with \"hpa\""), "{}", refused.message);
}

#[test]
fn custom_resources_with_and_without_a_schema() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "rules": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
            "items": {"type": "object", "properties": {"id": {"type": "string"}, "do": {"type": "string"}}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }}}});
    let kind = Gvk { group: "x.io", version: "v1", kind: "Thing" };
    let mut store = Store { root: Root::structural(&schema, false), kind, live: None, clock: 0 };
    store
        .apply("a", json!({"spec": {"rules": [{"id": "1", "do": "a"}], "free": {"p": {"q": [1, 2]}}}}))
        .unwrap();
    store.apply("b", json!({"spec": {"rules": [{"id": "2", "do": "b"}], "free": {"p": {"r": 1}}}})).unwrap();
    assert_eq!(store.at("/spec/rules").as_array().unwrap().len(), 2);
    assert_eq!(store.at("/spec/free"), json!({"p": {"q": [1, 2], "r": 1}}));
    assert!(store.apply("a", json!({"spec": {"unknown": 1}})).is_err());
    store.apply("a", json!({})).unwrap();
    assert_eq!(store.at("/spec"), json!({"rules": [{"id": "2", "do": "b"}], "free": {"p": {"r": 1}}}));

    let mut store = Store { root: Root::deduced(), kind, live: None, clock: 0 };
    store.apply("a", json!({"spec": {"list": [{"id": "1"}], "x": 1}})).unwrap();
    let refused = store.apply("b", json!({"spec": {"list": [{"id": "2"}]}})).unwrap_err();
    assert!(
        refused.message.ends_with("conflict with \"a\": .spec.list"),
        "lists are whole: {}",
        refused.message
    );
    store.force("b", json!({"spec": {"x": {"y": 1}}}));
    assert_eq!(store.at("/spec/x"), json!({"y": 1}));
}

#[test]
fn a_configuration_can_be_taken_out_and_merged() {
    let mut store = Store::new(DEPLOYMENT);
    let mine = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    store.apply("a", mine).unwrap();
    store.edit("b", |o| o["spec"]["replicas"] = 2.into());
    let out = extract(&store.root, store.live.as_ref().unwrap(), "a", "").unwrap();
    assert_eq!(out["spec"], containers(json!([{"name": "c", "image": "i"}]))["spec"]);
    assert_eq!(out["metadata"], json!({"labels": {"a": "1"}}));
    assert!(extract(&store.root, store.live.as_ref().unwrap(), "b", "").is_none(), "only applies");

    let part = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "j"}, {"name": "d"}]}}}});
    let merged = merge_configuration(&store.root, store.live.as_ref().unwrap(), &part).unwrap();
    assert_eq!(merged.pointer(CONTAINERS).unwrap(), &json!([{"name": "c", "image": "j"}, {"name": "d"}]));
    assert_eq!(merged.pointer("/spec/replicas").unwrap(), 2);
    let atomic =
        json!({"spec": {"selector": {"matchLabels": {}}, "template": {"spec": {"tolerations": []}}}});
    assert_eq!(
        merge_configuration(&store.root, store.live.as_ref().unwrap(), &atomic).unwrap_err(),
        "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector, \
         .spec.template.spec.tolerations"
    );
    assert!(field_set(&store.root, &part).unwrap().len() > 3);
}

#[test]
fn a_write_that_changes_only_times_is_none() {
    let mut store = Store::new(DEPLOYMENT);
    store.update("a", json!({"spec": {"replicas": 1}}));
    let live = store.live.clone().unwrap();
    let mut new = live.clone();
    new["metadata"]["managedFields"][0]["time"] = "2026-02-02T00:00:00Z".into();
    let mut changed = new.clone();
    keep_times(&live, &mut new);
    assert_eq!(new, live);
    changed["spec"]["replicas"] = 2.into();
    let before = changed.clone();
    keep_times(&live, &mut changed);
    assert_eq!(changed, before);
}
