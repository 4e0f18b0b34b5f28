//! Writes that are no applies.

use serde_json::{Value, json};

use super::support::{DEPLOYMENT, Store};
use crate::apply::{MAX_UPDATE_MANAGERS, Path, manager_of, scale_managers, set_scale_managers};
use crate::kinds::Gvk;

const POD: Gvk = Gvk { group: "", version: "v1", kind: "Pod" };

#[test]
fn a_created_deployment_is_owned_as_upstream_shows_it() {
    let mut store = Store::new(DEPLOYMENT);
    store.update(
        "kubectl-create",
        json!({
            "metadata": {"uid": "1", "labels": {"app": "web"}, "ownerReferences": [{"uid": "u", "name": "n"}]},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": "web"}},
                "strategy": {"rollingUpdate": {"maxSurge": "25%"}, "type": "RollingUpdate"},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {
                        "containers": [{
                            "name": "web", "image": "nginx", "env": [{"name": "A", "value": "b"}],
                            "ports": [{"containerPort": 80, "protocol": "TCP"}],
                        }],
                        "volumes": [{"name": "v", "emptyDir": {}}],
                        "securityContext": {},
                        "tolerations": [{"key": "a"}],
                    },
                },
            },
            "status": {"replicas": 3},
        }),
    );
    let container = json!({
        ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
        "f:env": {".": {}, "k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}},
        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}},
    });
    let expected = json!({
        "f:metadata": {
            "f:labels": {".": {}, "f:app": {}},
            "f:ownerReferences": {".": {}, "k:{\"uid\":\"u\"}": {}},
        },
        "f:spec": {
            "f:replicas": {},
            "f:selector": {},
            "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:containers": {"k:{\"name\":\"web\"}": container},
                    "f:securityContext": {},
                    "f:tolerations": {},
                    "f:volumes": {".": {}, "k:{\"name\":\"v\"}": {".": {}, "f:emptyDir": {}, "f:name": {}}},
                },
            },
        },
    });
    assert_eq!(store.fields("kubectl-create"), expected);
    let entry = store.entry("kubectl-create");
    assert_eq!(
        (&entry["operation"], &entry["apiVersion"], &entry["fieldsType"], &entry["time"]),
        (&json!("Update"), &json!("apps/v1"), &json!("FieldsV1"), &json!("2026-01-01T00:00:01Z"))
    );
}

#[test]
fn who_changes_a_field_takes_it() {
    let mut store = Store::new(DEPLOYMENT);
    store.update("a", json!({"metadata": {"labels": {"x": "1", "y": "1"}}, "spec": {"replicas": 1}}));
    store.edit("b", |o| o["spec"]["replicas"] = 2.into());
    assert_eq!(store.fields("b"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(store.fields("a"), json!({"f:metadata": {"f:labels": {".": {}, "f:x": {}, "f:y": {}}}}));
    store.edit("b", |o| {
        o["metadata"]["labels"].as_object_mut().unwrap().shift_remove("x");
    });
    assert_eq!(store.fields("a"), json!({"f:metadata": {"f:labels": {".": {}, "f:y": {}}}}));
    store.edit("b", |o| {
        o["metadata"].as_object_mut().unwrap().shift_remove("labels");
    });
    assert_eq!(store.managers(), ["b"]);
}

#[test]
fn times_change_when_something_does() {
    let mut store = Store::new(DEPLOYMENT);
    store.update("a", json!({"spec": {"replicas": 1}}));
    store.edit("a", |_| {});
    assert_eq!(store.entry("a")["time"], "2026-01-01T00:00:01Z");
    store.edit("a", |o| o["spec"]["replicas"] = 2.into());
    assert_eq!(store.entry("a")["time"], "2026-01-01T00:00:03Z");
    store.edit("b", |o| o["spec"]["paused"] = true.into());
    assert_eq!(store.managers(), ["a", "b"]);
    store.edit("a", |o| o["spec"]["replicas"] = 3.into());
    assert_eq!(store.managers(), ["b", "a"], "in the order of their times");
}

#[test]
fn managers_are_reset_and_kept() {
    for reset in [json!([]), json!([{}])] {
        let mut store = Store::new(DEPLOYMENT);
        store.update("a", json!({"metadata": {"uid": "1"}, "spec": {"replicas": 1}}));
        store.edit("b", |o| o["metadata"]["managedFields"] = reset.clone());
        assert!(store.managers().is_empty());
        store.edit("b", |o| o["spec"]["replicas"] = 2.into());
        assert!(store.managers().is_empty(), "not tracked again before an apply");
        store.apply("c", json!({"spec": {"paused": true}})).unwrap();
        assert_eq!(store.managers(), ["c", "before-first-apply"]);
        assert_eq!(store.fields("before-first-apply"), json!({"f:spec": {"f:replicas": {}}}));
    }
    let mut store = Store::new(DEPLOYMENT);
    store.update("a", json!({"spec": {"replicas": 1}}));
    for kept in [Value::Null, json!([{"manager": "x", "operation": "Explode"}]), json!("text")] {
        store.edit("a", |o| o["metadata"]["managedFields"] = kept);
        assert_eq!(store.managers(), ["a"]);
    }
    store.edit("a", |o| o["metadata"]["managedFields"][0]["manager"] = "renamed".into());
    assert_eq!(store.managers(), ["renamed"], "who asks may edit them");
    store.update_as("k", "status", {
        let mut object = store.live.clone().unwrap();
        object["metadata"]["managedFields"] = json!([]);
        object["status"] = json!({"replicas": 1});
        object
    });
    assert_eq!(store.managers(), ["renamed", "k"], "but not through a subresource");
}

#[test]
fn a_status_is_its_writers() {
    let mut store = Store::new(POD);
    store.update("a", json!({"spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Pending"}}));
    assert!(store.fields("a").get("f:status").is_none());
    let mut object = store.live.clone().unwrap();
    object["spec"]["nodeName"] = "n".into();
    object["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    store.update_as("kubelet", "status", object);
    let entry = store.entry("kubelet");
    assert_eq!(entry["subresource"], "status");
    let condition = json!({".": {}, "f:status": {}, "f:type": {}});
    assert_eq!(
        entry["fieldsV1"],
        json!({"f:status": {"f:conditions": {".": {}, "k:{\"type\":\"Ready\"}": condition}, "f:phase": {}}})
    );
}

#[test]
fn too_many_updates_are_gathered() {
    let mut store = Store::new(DEPLOYMENT);
    store.update("m00", json!({"metadata": {"labels": {"l00": "1"}}}));
    for n in 1..MAX_UPDATE_MANAGERS + 4 {
        store.edit(&format!("m{n:02}"), |o| o["metadata"]["labels"][format!("l{n:02}")] = "1".into());
    }
    let managers = store.managers();
    assert_eq!(managers.len(), MAX_UPDATE_MANAGERS);
    assert_eq!(managers[0], "ancient-changes");
    let ancient = store.fields("ancient-changes");
    let labels = ancient["f:metadata"]["f:labels"].as_object().unwrap();
    assert_eq!(labels.keys().collect::<Vec<_>>(), [".", "f:l00", "f:l01", "f:l02", "f:l03", "f:l04"]);
    assert_eq!(store.entry("ancient-changes")["time"], "2026-01-01T00:00:05Z", "the newest of what it holds");
}

#[test]
fn duplicates_do_not_stop_an_update() {
    let mut store = Store::new(POD);
    let env = json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]);
    store.update("a", json!({"spec": {"containers": [{"name": "c", "env": env}]}}));
    let env = |store: &Store, manager: &str| {
        store.fields(manager)["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"]["f:env"]["k:{\"name\":\"A\"}"]
            .clone()
    };
    assert_eq!(env(&store, "a"), json!({}));
    store.edit("b", |o| o["spec"]["containers"][0]["env"][1]["value"] = "3".into());
    assert_eq!((env(&store, "a"), env(&store, "b")), (Value::Null, json!({})));
    store.edit("c", |o| {
        o["spec"]["containers"][0]["env"].as_array_mut().unwrap().pop();
    });
    assert_eq!(env(&store, "c"), json!({"f:name": {}, "f:value": {}, ".": {}}));
}

#[test]
fn names_of_managers() {
    assert_eq!(manager_of("", "kubectl/v1.32 (linux)"), "kubectl");
    assert_eq!(manager_of("me", "kubectl/v1"), "me");
    assert_eq!(manager_of("", "a\u{7}b\tc/1"), "abc");
    assert_eq!(manager_of("", &"é".repeat(100)).len(), 128);
    let mut store = Store::new(DEPLOYMENT);
    store.update("", json!({"spec": {"replicas": 1}}));
    assert_eq!(store.managers(), ["unknown"]);
}

#[test]
fn replicas_move_between_an_object_and_its_scale() {
    let mut store = Store::new(DEPLOYMENT);
    store.apply("a", json!({"spec": {"replicas": 1, "paused": true}})).unwrap();
    let path = Path::fields(&["spec", "replicas"]);
    let mut object = store.live.clone().unwrap();
    let managers = scale_managers(&object, &path).unwrap();
    assert_eq!(managers[0]["apiVersion"], "autoscaling/v1");
    assert_eq!(managers[0]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    let unchanged = json!({"metadata": {"managedFields": managers}});
    set_scale_managers(&mut object, &unchanged, &path, "apps/v1");
    assert_eq!(Some(&object), store.live.as_ref());
    let taken = json!({"metadata": {"managedFields": [{
        "manager": "hpa", "operation": "Update", "apiVersion": "autoscaling/v1", "subresource": "scale",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}},
    }]}});
    set_scale_managers(&mut object, &taken, &path, "apps/v1");
    store.live = Some(object);
    assert_eq!(store.fields("a"), json!({"f:spec": {"f:paused": {}}}));
    let hpa = store.entry("hpa");
    assert_eq!((&hpa["apiVersion"], &hpa["subresource"]), (&json!("apps/v1"), &json!("scale")));
    let refused = store.apply("a", json!({"spec": {"replicas": 1, "paused": true}}));
    assert!(refused.is_ok(), "the value is the same: no conflict");
}
