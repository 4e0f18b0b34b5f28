//! Which type is chosen, and what that makes of a pod.

use serde_json::{Value, json};

use super::*;

fn shape(name: &str, class: &str, cpu: &str, memory: &str, more: Value) -> Shape {
    let mut object =
        json!({"metadata": {"name": name}, "spec": {"class": class, "cpu": cpu, "memory": memory}});
    if let Value::Object(more) = more {
        object["spec"].as_object_mut().unwrap().extend(more);
    }
    Shape::read(&object).unwrap()
}

fn types() -> Vec<Shape> {
    vec![
        shape("general.small", "general", "1", "4Gi", json!({})),
        shape("general.large", "general", "4", "16Gi", json!({})),
        shape("compute.large", "compute", "4", "8Gi", json!({})),
        shape(
            "memory.large",
            "memory",
            "2",
            "16Gi",
            json!({"taints": [{"key": "big", "effect": "NoSchedule"}]}),
        ),
        shape(
            "gpu.one",
            "gpu",
            "4",
            "16Gi",
            json!({"resources": {"sampan.io/gpu": 1}, "ephemeralStorage": "10Gi"}),
        ),
    ]
}

fn pod(annotations: Value, spec: Value) -> Value {
    let mut pod = json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "c"}]}});
    if let Value::Object(spec) = spec {
        pod["spec"].as_object_mut().unwrap().extend(spec);
    }
    pod
}

fn applied(pod: &mut Value) -> Result<Option<String>, String> {
    let types = types();
    apply(pod, &types.iter().collect::<Vec<_>>())
}

fn ask(requests: Value) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})
}

#[test]
fn the_smallest_that_fits_is_chosen() {
    let table = [
        (json!({}), None, "general.small"),
        (json!({"cpu": "1"}), None, "general.small"),
        (json!({"cpu": "1100m"}), None, "memory.large"),
        (json!({"cpu": "3"}), None, "compute.large"),
        (json!({"cpu": "3", "memory": "9Gi"}), None, "general.large"),
        (json!({"memory": "9Gi"}), None, "memory.large"),
        (json!({"sampan.io/gpu": "1"}), None, "gpu.one"),
        (json!({"cpu": "1"}), Some("compute"), "compute.large"),
        (json!({}), Some("gpu"), "gpu.one"),
    ];
    for (need, class, want) in table {
        let mut annotations = json!({TYPE: AUTO});
        if let Some(class) = class {
            annotations = json!({CLASS: class});
        }
        let mut pod = pod(annotations, ask(need.clone()));
        assert_eq!(applied(&mut pod).as_ref().map(|g| g.as_deref()), Ok(Some(want)), "{need} {class:?}");
        assert_eq!(pod["metadata"]["labels"][TYPE], want);
    }
    let mut huge = pod(json!({TYPE: AUTO}), ask(json!({"cpu": "5"})));
    assert_eq!(
        applied(&mut huge).unwrap_err(),
        "no InstanceType is large enough for what the pod asks: cpu=5 (hint: the largest is general.large, cpu=4,memory=16Gi)"
    );
}

#[test]
fn a_shape_is_the_size_of_the_whole_pod_and_doing_it_twice_changes_nothing() {
    let mut pod = pod(
        json!({TYPE: "gpu.one"}),
        json!({"containers": [{"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "1"}}}]}),
    );
    assert_eq!(applied(&mut pod), Ok(Some("gpu.one".to_owned())));
    let level = json!({"cpu": "4", "memory": "16Gi"});
    assert_eq!(pod["spec"]["resources"], json!({"requests": level, "limits": level}));
    // What only containers can have goes to the first.
    let own = json!({"sampan.io/gpu": "1", "ephemeral-storage": "10Gi"});
    assert_eq!(pod["spec"]["containers"][0]["resources"], json!({"requests": own, "limits": own}));
    assert_eq!(pod["spec"]["containers"][1]["resources"], json!({"requests": {"cpu": "1"}}));
    let wish = &pod["spec"]["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
    let expression = json!([{"key": CLASS, "operator": "In", "values": ["gpu"]}]);
    assert_eq!(*wish, json!([{"weight": 10, "preference": {"matchExpressions": expression}}]));
    for annotations in [json!({TYPE: "gpu.one"}), json!({TYPE: AUTO})] {
        let mut again = pod.clone();
        again["metadata"]["annotations"] = annotations.clone();
        let before = again.clone();
        assert_eq!(applied(&mut again), Ok(Some("gpu.one".to_owned())));
        assert_eq!(again, before, "{annotations}");
    }
    let mut anywhere = super::tests::pod(json!({TYPE: "general.small", NODES: "Any"}), json!({}));
    applied(&mut anywhere).unwrap();
    assert!(anywhere["spec"]["affinity"].is_null());
    let mut nothing = super::tests::pod(json!({"other": "x"}), json!({}));
    let before = nothing.clone();
    assert_eq!((applied(&mut nothing), nothing), (Ok(None), before));
}

#[test]
fn who_asks_for_nodes_keeps_its_size() {
    let mut pod = pod(json!({TYPE: "memory.large", NODES: "Require"}), ask(json!({"cpu": "1"})));
    let before = pod["spec"]["containers"].clone();
    assert_eq!(applied(&mut pod), Ok(None));
    assert_eq!(pod["spec"]["containers"], before);
    assert_eq!(pod["spec"]["nodeSelector"], json!({NODE_TYPE: "memory.large"}));
    assert_eq!(
        pod["spec"]["tolerations"],
        json!([{"key": "big", "operator": "Equal", "effect": "NoSchedule"}])
    );
    let again = pod.clone();
    applied(&mut pod).unwrap();
    assert_eq!(pod, again);
    // Any type that fits will do, the smallest is preferred, and what else is required still is.
    let zone = json!({"key": "zone", "operator": "In", "values": ["a"]});
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [zone]}]}}});
    let mut spec = ask(json!({"cpu": "2", "memory": "10Gi"}));
    spec["affinity"] = affinity;
    let mut flexible = super::tests::pod(json!({TYPE: AUTO, NODES: "Require"}), spec);
    applied(&mut flexible).unwrap();
    let terms = &flexible["spec"]["affinity"]["nodeAffinity"];
    let of_type =
        json!({"key": NODE_TYPE, "operator": "In", "values": ["memory.large", "general.large", "gpu.one"]});
    assert_eq!(
        terms["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"],
        json!([{"matchExpressions": [zone, of_type]}])
    );
    assert_eq!(terms["preferredDuringSchedulingIgnoredDuringExecution"][0]["weight"], 100);
    assert!(flexible["metadata"]["labels"].is_null());
}

#[test]
fn what_cannot_be_is_said() {
    let sized = |amount: &str| json!({"resources": {"limits": {"cpu": amount}}});
    let table = [
        (
            json!({TYPE: "none.such"}),
            json!({}),
            "there is no InstanceType \"none.such\" that can be used (hint: kubectl get instancetypes: compute.large, general.large",
        ),
        (json!({TYPE: ""}), json!({}), "annotation sampan.io/instance-type is empty"),
        (
            json!({CLASS: "huge"}),
            json!({}),
            "annotation sampan.io/instance-class is \"huge\" (hint: one of general, compute, memory, gpu)",
        ),
        (
            json!({TYPE: AUTO, NODES: "Some"}),
            json!({}),
            "annotation sampan.io/instance-nodes is \"Some\" (hint: Prefer, Any or Require)",
        ),
        (json!({NODES: "Any"}), json!({}), "annotation sampan.io/instance-nodes says nothing without"),
        (
            json!({TYPE: "memory.large", CLASS: "gpu"}),
            json!({}),
            "InstanceType \"memory.large\" is of class memory, not gpu",
        ),
        (
            json!({TYPE: "general.small"}),
            ask(json!({"cpu": "2"})),
            "its containers ask for 2 of cpu, InstanceType \"general.small\" has 1 (hint: a larger type",
        ),
        (
            json!({TYPE: "general.small"}),
            ask(json!({"sampan.io/gpu": "1"})),
            "its containers ask for sampan.io/gpu, of which InstanceType \"general.small\" has none",
        ),
        (
            json!({TYPE: "general.small"}),
            sized("2"),
            "spec.resources.limits says cpu is 2, InstanceType \"general.small\" says 1 (hint: leave out",
        ),
        (
            json!({TYPE: "general.small"}),
            json!({"containers": [{"name": "c", "resources": {"limits": {"memory": "5Gi"}}}]}),
            "a container may use 5Gi of memory",
        ),
        (
            json!({TYPE: "general.small", NODES: "Require"}),
            json!({"nodeSelector": {NODE_TYPE: "x"}}),
            "spec.nodeSelector asks for nodes of type \"x\"",
        ),
    ];
    for (annotations, spec, want) in table {
        let got = applied(&mut pod(annotations, spec)).unwrap_err();
        assert!(got.starts_with(want), "{got}");
    }
    let mut labelled = pod(json!({TYPE: "general.small"}), json!({}));
    labelled["metadata"]["labels"] = json!({TYPE: "other"});
    assert!(applied(&mut labelled).unwrap_err().starts_with("label sampan.io/instance-type says \"other\""));
    // Sizes that contradict nothing are fine.
    assert_eq!(
        applied(&mut pod(json!({TYPE: "general.small"}), sized("1"))),
        Ok(Some("general.small".into()))
    );
    assert_eq!(applied(&mut pod(json!({TYPE: AUTO}), sized("2"))), Ok(Some("memory.large".into())));
}

#[test]
fn objects_that_make_no_sense() {
    let table = [
        (json!({"cpu": "1"}), "spec.memory is missing"),
        (json!({"cpu": "0", "memory": "1Gi"}), "spec.cpu is \"0\""),
        (json!({"cpu": "1", "memory": "lots"}), "spec.memory is \"lots\""),
        (json!({"cpu": "1", "memory": "1Gi", "class": "odd"}), "spec.class is \"odd\""),
        (json!({"cpu": "1", "memory": "1Gi", "resources": {"cpu": 1}}), "spec.resources names \"cpu\""),
        (json!({"cpu": "1", "memory": "1Gi", "resources": {"gpu": 1}}), "spec.resources names \"gpu\""),
    ];
    for (spec, want) in table {
        let got = Shape::read(&json!({"metadata": {"name": "x"}, "spec": spec})).unwrap_err();
        assert!(got.starts_with(want), "{got}");
    }
}

#[test]
fn the_types_that_ship_make_sense() {
    let text = include_str!("../../../../../examples/instance-types.yaml");
    let mut names = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let object: Value = serde::Deserialize::deserialize(document).unwrap();
        let shape = Shape::read(&object).unwrap();
        assert!(shape.name.starts_with(&shape.class), "{}", shape.name);
        names.push(shape.name);
    }
    assert_eq!(names.len(), 15);
}
