//! What the server decides at creation, at updates, and at deletion.

use serde_json::{Value, json};

use crate::kinds;

use super::*;

fn resource(group: &str, kind: &str) -> &'static Resource {
    kinds::by_kind(group, "v1", kind).unwrap()
}

fn created(group: &str, kind: &str, mut object: Value) -> Value {
    crate::defaults::apply(resource(group, kind), &mut object);
    prepare_create(resource(group, kind), &mut object);
    object
}

fn updated(group: &str, kind: &str, old: &Value, change: impl FnOnce(&mut Value)) -> Value {
    let mut new = old.clone();
    change(&mut new);
    crate::defaults::apply(resource(group, kind), &mut new);
    prepare_update(resource(group, kind), &mut new, old);
    new
}

#[test]
fn a_new_object_has_the_servers_status() {
    let mut pod = created(
        "",
        "Pod",
        json!({ "metadata": { "name": "p", "resourceVersion": "7", "generation": 9,
                              "deletionTimestamp": "2026-01-01T00:00:00Z" },
                "spec": { "containers": [], "schedulingGates": [{ "name": "g" }] },
                "status": { "phase": "Running" } }),
    );
    assert_eq!(pod["metadata"], json!({ "name": "p", "generation": 1 }));
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    assert_eq!(pod["status"]["conditions"][0]["reason"], "SchedulingGated");
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    add_default_tolerations(&mut pod);
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
    let namespace = created("", "Namespace", json!({ "metadata": { "name": "n" } }));
    assert_eq!(namespace["status"]["phase"], "Active");
    assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
    let deployment = created("apps", "Deployment", json!({ "status": { "replicas": 3 } }));
    assert_eq!((&deployment["status"], &deployment["metadata"]["generation"]), (&json!({}), &json!(1)));
    let node = created("", "Node", json!({ "status": { "phase": "x" } }));
    assert_eq!(node["status"], json!({ "phase": "x" }), "a node says its own status");
    let config = created("", "ConfigMap", json!({ "metadata": {} }));
    assert_eq!(config["metadata"].get("generation"), None);
}

#[test]
fn tolerations_of_ones_own_stay() {
    let mut pod = created(
        "",
        "Pod",
        json!({ "spec": { "tolerations": [{ "key": "node.kubernetes.io/not-ready", "effect": "NoExecute" }] } }),
    );
    add_default_tolerations(&mut pod);
    let keys: Vec<&str> =
        pod["spec"]["tolerations"].as_array().unwrap().iter().map(|t| t["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]);
    let mut all = created("", "Pod", json!({ "spec": { "tolerations": [{ "operator": "Exists" }] } }));
    add_default_tolerations(&mut all);
    assert_eq!(all["spec"]["tolerations"].as_array().unwrap().len(), 1);
}

#[test]
fn a_jobs_selector_is_its_uid() {
    let job = created("batch", "Job", json!({ "metadata": { "name": "j", "uid": "u" } }));
    assert_eq!(
        job["spec"]["selector"],
        json!({ "matchLabels": { "batch.kubernetes.io/controller-uid": "u" } })
    );
    assert_eq!(
        job["spec"]["template"]["metadata"]["labels"],
        json!({ "batch.kubernetes.io/controller-uid": "u", "batch.kubernetes.io/job-name": "j",
                "controller-uid": "u", "job-name": "j" })
    );
    let manual = created("batch", "Job", json!({ "spec": { "manualSelector": true } }));
    assert_eq!(manual["spec"].get("selector"), None);
}

#[test]
fn the_generation_counts_changes_of_the_spec() {
    let metadata = json!({ "name": "d", "uid": "u", "creationTimestamp": "t", "resourceVersion": "1" });
    let old = created("apps", "Deployment", json!({ "metadata": metadata, "spec": { "replicas": 1 } }));
    let generation = |new: &Value| new["metadata"]["generation"].as_i64().unwrap();
    let same = updated("apps", "Deployment", &old, |new| {
        new["metadata"]["labels"] = json!({ "a": "b" });
        new["metadata"]["generation"] = json!(7);
        new["metadata"]["creationTimestamp"] = json!("later");
        new["metadata"].as_object_mut().unwrap().shift_remove("uid");
        new["spec"]["paused"] = json!(false);
        new["spec"]["template"]["metadata"] = json!({ "labels": {} });
        new["status"] = json!({ "replicas": 5 });
    });
    assert_eq!(generation(&same), 2, "an empty metadata is not the same as none to Kubernetes either");
    assert_eq!(
        (&same["metadata"]["uid"], &same["metadata"]["creationTimestamp"]),
        (&json!("u"), &json!("t"))
    );
    assert_eq!(same["status"], json!({}));
    let idle = updated("apps", "Deployment", &old, |new| new["spec"]["paused"] = json!(false));
    assert_eq!(generation(&idle), 1);
    let scaled = updated("apps", "Deployment", &old, |new| new["spec"]["replicas"] = json!(2));
    assert_eq!(generation(&scaled), 2);
    let annotated =
        updated("apps", "Deployment", &old, |new| new["metadata"]["annotations"] = json!({ "a": "b" }));
    assert_eq!(generation(&annotated), 2);
    let slice = created("discovery.k8s.io", "EndpointSlice", json!({ "addressType": "IPv4" }));
    let more = updated("discovery.k8s.io", "EndpointSlice", &slice, |new| {
        new["endpoints"] = json!([{ "addresses": ["10.0.0.1"] }]);
    });
    assert_eq!(generation(&more), 2);
}

#[test]
fn deletion_cannot_be_taken_back() {
    let mut old = created("", "ConfigMap", json!({ "metadata": { "name": "c" } }));
    old["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    old["metadata"]["deletionGracePeriodSeconds"] = json!(0);
    let new = updated("", "ConfigMap", &old, |new| {
        let metadata = new["metadata"].as_object_mut().unwrap();
        metadata.shift_remove("deletionTimestamp");
        metadata.shift_remove("deletionGracePeriodSeconds");
    });
    assert_eq!(new["metadata"], old["metadata"]);
}

#[test]
fn a_status_update_changes_the_status() {
    let old = created("", "Pod", json!({ "metadata": { "name": "p" }, "spec": { "nodeName": "n" } }));
    let mut new = json!({ "metadata": { "name": "p", "labels": { "a": "b" }, "ownerReferences": [] },
                          "spec": { "nodeName": "other" }, "status": { "phase": "Running" } });
    prepare_status_update(resource("", "Pod"), &mut new, &old);
    assert_eq!(new["spec"], old["spec"]);
    assert_eq!(new["status"], json!({ "phase": "Running", "qosClass": "BestEffort" }));
    assert_eq!(new["metadata"].get("ownerReferences"), None);
}

#[test]
fn secrets_written_as_text() {
    let secret =
        created("", "Secret", json!({ "stringData": { "a": "hello", "b": "" }, "data": { "a": "eA==" } }));
    assert_eq!(secret["data"], json!({ "a": "aGVsbG8=", "b": "" }));
    assert_eq!(secret.get("stringData"), None);
}

#[test]
fn services_keep_what_was_allocated() {
    let mut old =
        created("", "Service", json!({ "spec": { "type": "NodePort", "ports": [{ "port": 80 }] } }));
    old["spec"]["clusterIP"] = json!("10.43.0.9");
    old["spec"]["clusterIPs"] = json!(["10.43.0.9"]);
    old["spec"]["ports"][0]["nodePort"] = json!(30001);
    let manifest = json!({ "type": "NodePort", "ports": [{ "port": 80, "targetPort": 8080 }] });
    let again = updated("", "Service", &old, |new| new["spec"] = manifest);
    assert_eq!(again["spec"]["clusterIPs"], json!(["10.43.0.9"]));
    assert_eq!(again["spec"]["ports"][0]["nodePort"], 30001);
    let inner = updated("", "Service", &old, |new| new["spec"]["type"] = json!("ClusterIP"));
    assert_eq!(inner["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(inner["spec"].get("externalTrafficPolicy"), None);
    let named = updated("", "Service", &old, |new| {
        new["spec"]["type"] = json!("ExternalName");
        new["spec"]["externalName"] = json!("a.b");
    });
    for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        assert_eq!(named["spec"].get(key), None, "{key}");
    }
    let given = created("", "Service", json!({ "spec": { "clusterIP": "None" } }));
    assert_eq!(given["spec"]["clusterIPs"], json!(["None"]));
}

#[test]
fn classes_of_service() {
    let class = |containers: Value| qos_class(&json!({ "spec": { "containers": containers } }));
    assert_eq!(class(json!([{}])), "BestEffort");
    assert_eq!(class(json!([{ "resources": { "requests": { "cpu": "1" } } }])), "Burstable");
    let full = json!({ "resources": { "limits": { "cpu": "1", "memory": "1Gi" } } });
    assert_eq!(class(json!([full])), "Guaranteed");
    assert_eq!(class(json!([full, {}])), "Burstable");
    let written = json!({ "resources": { "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "1000m", "memory": "1024Mi" } } });
    assert_eq!(class(json!([written])), "Guaranteed");
    assert_eq!(class(json!([{ "resources": { "requests": { "cpu": "0" } } }])), "BestEffort");
    assert_eq!(
        qos_class(&json!({ "spec": { "resources": { "limits": { "cpu": "1", "memory": "1" } } } })),
        "Guaranteed"
    );
}

#[test]
fn grace_and_propagation() {
    let pod = resource("", "Pod");
    let on_node = json!({ "spec": { "nodeName": "n", "terminationGracePeriodSeconds": 5 } });
    assert_eq!(default_grace(pod, &on_node), Some(5));
    assert_eq!(grace_for(pod, &on_node, None), Some(5));
    assert_eq!(grace_for(pod, &on_node, Some(0)), Some(0));
    assert_eq!(grace_for(pod, &on_node, Some(-3)), Some(1));
    assert_eq!(grace_for(pod, &json!({ "spec": { "terminationGracePeriodSeconds": 5 } }), None), Some(0));
    let ended = json!({ "spec": { "nodeName": "n" }, "status": { "phase": "Failed" } });
    assert_eq!(grace_for(pod, &ended, Some(30)), Some(0));
    assert_eq!(grace_for(resource("", "ConfigMap"), &json!({}), Some(30)), None);
    assert_eq!(default_propagation(resource("batch", "Job")), Propagation::Orphan);
    assert_eq!(default_propagation(resource("apps", "Deployment")), Propagation::Background);
}

#[test]
fn scales() {
    let deployment = json!({
        "metadata": { "name": "d", "namespace": "n", "uid": "u", "resourceVersion": "4", "labels": {} },
        "spec": { "replicas": 3, "selector": { "matchLabels": { "b": "2", "a": "1" },
            "matchExpressions": [{ "key": "c", "operator": "In", "values": ["y", "x"] },
                                 { "key": "d", "operator": "DoesNotExist" }] } },
        "status": { "replicas": 2 },
    });
    let scale = scale_of(resource("apps", "Deployment"), &deployment).unwrap();
    assert_eq!(
        scale,
        json!({ "kind": "Scale", "apiVersion": "autoscaling/v1",
                "metadata": { "name": "d", "namespace": "n", "uid": "u", "resourceVersion": "4" },
                "spec": { "replicas": 3 },
                "status": { "replicas": 2, "selector": "a=1,b=2,c in (x,y),!d" } })
    );
    let mut object = deployment;
    apply_scale(
        resource("apps", "Deployment"),
        &mut object,
        &json!({ "metadata": { "resourceVersion": "9" }, "spec": { "replicas": 7 } }),
    );
    assert_eq!(
        (&object["spec"]["replicas"], &object["metadata"]["resourceVersion"]),
        (&json!(7), &json!("9"))
    );
    assert_eq!(scale_of(resource("", "Pod"), &object), None);
}

#[test]
fn generated_names() {
    let name = generate_name("web-");
    assert_eq!(name.len(), 9);
    assert!(
        name.starts_with("web-") && name[4..].bytes().all(|c| b"bcdfghjklmnpqrstvwxz2456789".contains(&c))
    );
    assert_eq!(generate_name(&"é".repeat(60)).len(), 63);
    let many: std::collections::HashSet<String> = (0..200).map(|_| generate_name("")).collect();
    assert!(many.len() > 190);
}

#[test]
fn tokens_are_mounted_once() {
    let mut pod = json!({ "spec": { "containers": [
        { "name": "a" },
        { "name": "b", "volumeMounts": [{ "name": "x",
            "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" }] },
    ] } });
    apply_service_account(&mut pod, &json!({ "imagePullSecrets": [{ "name": "pull" }] }));
    assert_eq!(pod["spec"]["imagePullSecrets"], json!([{ "name": "pull" }]));
    assert_eq!(pod["spec"]["volumes"].as_array().unwrap().len(), 1);
    assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], pod["spec"]["volumes"][0]["name"]);
    assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
    let mut none = json!({ "spec": { "containers": [{}] } });
    apply_service_account(&mut none, &json!({ "automountServiceAccountToken": false }));
    assert_eq!(none, json!({ "spec": { "containers": [{}] } }));
}

#[test]
fn warnings_of_what_is_accepted() {
    let pod = json!({ "metadata": { "name": "a.b" }, "spec": {
        "terminationGracePeriodSeconds": -1,
        "imagePullSecrets": [{ "name": "s" }, { "name": "s" }],
        "containers": [
            { "env": [{ "name": "A", "value": "1" }, { "name": "A", "value": "2" },
                      { "name": "A", "value": "$(A)x" }],
              "ports": [{ "containerPort": 80, "protocol": "TCP", "name": "w" }] },
            { "ports": [{ "containerPort": 80, "protocol": "TCP", "name": "w" }] },
        ],
        "topologySpreadConstraints": [{}],
        "volumes": [{ "gitRepo": {} }],
    } });
    assert_eq!(
        warnings(resource("", "Pod"), &pod, None),
        [
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS \
             label is recommended: [must not contain dots]",
            "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
            "spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
            "spec.imagePullSecrets[1].name: duplicate name \"s\"",
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            "spec.containers[1].ports[0]: duplicate port definition with spec.containers[0].ports[0]",
            "spec.containers[1].ports[0]: duplicate port name \"w\" with spec.containers[0].ports[0], services and \
             probes that select ports by name will use spec.containers[0].ports[0]",
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
        ]
    );
}

#[test]
fn warnings_of_a_template() {
    let deployment = json!({ "metadata": { "name": "d", "generation": 2 }, "spec": { "template": { "spec": {
        "nodeSelector": { "beta.kubernetes.io/os": "linux" },
        "containers": [{ "resources": { "limits": { "memory": "100m" } } }],
    } } } });
    let expected = [
        "spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" \
         instead",
        "spec.template.spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must \
         be an integer",
    ];
    let apps = resource("apps", "Deployment");
    assert_eq!(warnings(apps, &deployment, None), expected);
    assert_eq!(warnings(apps, &deployment, Some(&deployment)), Vec::<String>::new(), "nothing of it is new");
}
