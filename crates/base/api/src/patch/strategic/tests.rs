//! What each directive and each kind of list does, as upstream does it.

use serde_json::json;

use super::*;
use crate::kinds::by_kind;

fn pod(object: &Value, patch: &Value) -> Result<Value, Status> {
    apply(by_kind("", "v1", "Pod").unwrap().gvk(), object, patch)
}

fn spec(object: Value, patch: Value) -> Value {
    let out = pod(&json!({ "spec": object }), &json!({ "spec": patch })).unwrap_or_else(|e| panic!("{e}"));
    out["spec"].clone()
}

fn names(list: &Value, key: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|i| i[key].to_string().trim_matches('"').to_owned()).collect()
}

#[test]
fn scalars_maps_and_nulls() {
    let out = pod(
        &json!({"metadata": {"labels": {"a": "1", "b": "2"}, "annotations": {"x": "y"}}, "spec": {"hostname": "h"}}),
        &json!({"metadata": {"labels": {"b": null, "c": "3"}, "annotations": null}, "spec": {"subdomain": "s", "nodeName": null}}),
    );
    let expected =
        json!({"metadata": {"labels": {"a": "1", "c": "3"}}, "spec": {"hostname": "h", "subdomain": "s"}});
    assert_eq!(out.unwrap(), expected);
}

#[test]
fn lists_of_objects_merge_by_key_and_nested() {
    let out = spec(
        json!({"containers": [
            {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "b", "image": "b:1"},
        ]}),
        json!({"containers": [
            {"name": "b", "image": "b:2"},
            {"name": "a", "env": [{"name": "Y", "value": "3"}, {"name": "Z", "value": "4", "valueFrom": null}]},
            {"name": "c", "image": "c:1"},
        ]}),
    );
    assert_eq!(
        out,
        json!({"containers": [
            {"name": "b", "image": "b:2"},
            {"name": "a", "image": "a:1", "env": [
                {"name": "X", "value": "1"}, {"name": "Y", "value": "3"}, {"name": "Z", "value": "4"},
            ]},
            {"name": "c", "image": "c:1"},
        ]})
    );
}

#[test]
fn atomic_lists_are_replaced() {
    let out = spec(
        json!({"tolerations": [{"key": "a"}], "containers": [{"name": "a", "args": ["1", "2"]}]}),
        json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "args": ["3"]}]}),
    );
    assert_eq!(out, json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "args": ["3"]}]}));
}

#[test]
fn patch_delete_and_replace() {
    let three = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}, {"name": "c", "image": "1"}]});
    let out = spec(three.clone(), json!({"containers": [{"name": "b", "$patch": "delete"}]}));
    assert_eq!(names(&out["containers"], "name"), ["a", "c"]);
    let out = spec(three.clone(), json!({"containers": [{"$patch": "replace"}, {"name": "x"}]}));
    assert_eq!(out, json!({"containers": [{"name": "x"}]}));
    let out = spec(three.clone(), json!({"$patch": "replace", "hostname": "h"}));
    assert_eq!(out, json!({"hostname": "h"}));
    assert_eq!(spec(three, json!({"$patch": "delete"})), json!({}));
    let absent = spec(
        json!({}),
        json!({"securityContext": {"$patch": "delete"}, "volumes": [{"name": "a", "$patch": "delete"}]}),
    );
    assert_eq!(absent, json!({"volumes": []}));
}

#[test]
fn retain_keys_clears_the_others() {
    let volumes =
        json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "hostPath": {"path": "/w"}}]});
    let patch =
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]});
    let out = spec(volumes.clone(), patch);
    assert_eq!(
        out,
        json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}, {"name": "w", "hostPath": {"path": "/w"}}]})
    );
    let foreign = json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "emptyDir": {}}]}});
    let refused = pod(&json!({"spec": volumes}), &foreign).unwrap_err();
    assert_eq!((refused.code, refused.message.as_str()), (400, "invalid patch format of retainKeys"));
    let deployment = by_kind("apps", "v1", "Deployment").unwrap().gvk();
    let out = apply(
        deployment,
        &json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        &json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
    );
    assert_eq!(out.unwrap(), json!({"spec": {"strategy": {"type": "Recreate"}}}));
}

#[test]
fn primitive_lists_merge_and_shrink() {
    let pods = |old: Value, patch: Value| {
        pod(&json!({"metadata": old}), &json!({"metadata": patch})).unwrap()["metadata"].clone()
    };
    let out = pods(json!({"finalizers": ["a", "b"]}), json!({"finalizers": ["c", "a"]}));
    assert_eq!(out, json!({"finalizers": ["c", "a", "b"]}));
    let out = pods(
        json!({"finalizers": ["a", "b", "c"]}),
        json!({"$deleteFromPrimitiveList/finalizers": ["b", "x"]}),
    );
    assert_eq!(out, json!({"finalizers": ["a", "c"]}));
    let out = pods(
        json!({"finalizers": ["a", "b", "c"]}),
        json!({"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["d", "c", "b"], "finalizers": ["d"]}),
    );
    assert_eq!(out, json!({"finalizers": ["d", "c", "b"]}));
    let out = pods(json!({}), json!({"$deleteFromPrimitiveList/finalizers": ["a"]}));
    assert_eq!(out, json!({}));
}

#[test]
fn set_element_order_arranges() {
    let old = json!({"containers": [{"name": "a"}, {"name": "server"}, {"name": "b"}, {"name": "c"}]});
    let order = |names: &[&str]| names.iter().map(|n| json!({"name": n})).collect::<Value>();
    let out = spec(old.clone(), json!({"$setElementOrder/containers": order(&["c", "b", "a"])}));
    assert_eq!(names(&out["containers"], "name"), ["server", "c", "b", "a"]);
    let out = spec(
        old.clone(),
        json!({"$setElementOrder/containers": order(&["new", "a", "b"]), "containers": [{"name": "new"}, {"name": "c", "$patch": "delete"}]}),
    );
    assert_eq!(names(&out["containers"], "name"), ["new", "a", "server", "b"]);
    let out = spec(
        json!({}),
        json!({"$setElementOrder/containers": order(&["b", "a"]), "containers": [{"name": "b"}, {"name": "a"}]}),
    );
    assert_eq!(names(&out["containers"], "name"), ["b", "a"]);
    let none = spec(json!({}), json!({"$setElementOrder/volumes": order(&["b"])}));
    assert_eq!(none, json!({}));
    let wrong =
        json!({"spec": {"$setElementOrder/containers": order(&["a"]), "containers": [{"name": "z"}]}});
    let refused = pod(&json!({ "spec": old }), &wrong).unwrap_err();
    assert!(refused.message.contains("doesn't match $setElementOrder list"), "{}", refused.message);
}

#[test]
fn what_kubectl_apply_sends_works() {
    let out = spec(
        json!({"containers": [{"name": "web", "image": "nginx:1", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}),
        json!({
            "$setElementOrder/containers": [{"name": "web"}, {"name": "side"}],
            "containers": [
                {"$setElementOrder/ports": [{"containerPort": 81}], "name": "web", "ports": [
                    {"containerPort": 81}, {"$patch": "delete", "containerPort": 80},
                ]},
                {"name": "side", "image": "busybox"},
            ],
        }),
    );
    assert_eq!(
        out,
        json!({"containers": [
            {"name": "web", "image": "nginx:1", "ports": [{"containerPort": 81}]},
            {"name": "side", "image": "busybox"},
        ]})
    );
}

#[test]
fn bad_patches_are_told() {
    let old = json!({"spec": {"containers": [{"name": "a"}]}, "metadata": {"finalizers": ["a"]}});
    for (patch, code, message) in [
        (
            json!({"spec": {"containers": [{"image": "x"}]}}),
            400,
            "map: map[image:x] does not contain declared merge key: name",
        ),
        (
            json!({"spec": {"containers": [{"$patch": "delete"}]}}),
            400,
            "map: map[$patch:delete] does not contain declared merge key: name",
        ),
        (
            json!({"spec": {"$patch": "explode"}}),
            400,
            "unknown patch type: explode in map: map[$patch:explode]",
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "$patch": "merge"}]}}),
            400,
            "merging lists cannot yet be specified in the patch",
        ),
        (
            json!({"spec": {"$setElementOrder/containers": 1}}),
            400,
            "invalid patch format of setElementOrder list",
        ),
        (json!({"spec": {"$setElementOrder/": []}}), 400, "invalid patch format of setElementOrder list"),
        (
            json!({"spec": {"$setElementOrder/containers": [{"x": 1}]}}),
            400,
            "map: map[x:1] does not contain declared merge key: name",
        ),
        (
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers/x": []}}),
            400,
            "invalid patch format of primitive list",
        ),
        (
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}),
            400,
            "invalid patch format of primitive list",
        ),
        (json!({"spec": {"$retainKeys": 1}}), 400, "invalid patch format of retainKeys"),
        (json!({"metadata": {"finalizers": [1]}}), 400, "list element types are not identical: [a 1]"),
        (json!({"metadata": {"finalizers": [["a"]]}}), 400, "list element types are not identical: [a [a]]"),
        (
            json!({"spec": {"containers": [null]}}),
            400,
            "list element types are not identical: [map[name:a] <nil>]",
        ),
    ] {
        let refused = pod(&old, &patch).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (code, message), "{patch}");
    }
    let lists = pod(&json!({"metadata": {"finalizers": [[]]}}), &json!({"metadata": {"finalizers": [[]]}}))
        .unwrap_err();
    assert_eq!(lists.code, 422);
    assert_eq!(pod(&old, &json!([])).unwrap_err().message, "invalid JSON document");
}

#[test]
fn a_large_merge_takes_linear_time() {
    let list =
        |prefix: &str| (0..20_000).map(|i| json!({"name": format!("{prefix}{i}")})).collect::<Vec<_>>();
    let started = std::time::Instant::now();
    let out = spec(json!({"containers": list("a")}), json!({"containers": list("b")}));
    assert_eq!(out["containers"].as_array().unwrap().len(), 40_000);
    assert!(started.elapsed() < std::time::Duration::from_secs(20));
}
