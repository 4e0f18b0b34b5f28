//! Which nodes are of a type, and what that gives them.

use serde_json::json;

use super::*;

fn node(labels: Value, cpu: &str, memory: &str, more: Value) -> Node {
    let mut node = json!({
        "metadata": {"name": "n", "labels": labels},
        "status": {"capacity": {"cpu": cpu, "memory": memory, "pods": "110"}},
    });
    if let Value::Object(more) = more {
        node["status"]["capacity"].as_object_mut().unwrap().extend(more);
    }
    serde_json::from_value(node).unwrap()
}

fn shape(name: &str, cpu: &str, memory: &str, more: Value) -> Shape {
    let mut spec = json!({"class": "general", "cpu": cpu, "memory": memory});
    if let Value::Object(more) = more {
        spec.as_object_mut().unwrap().extend(more);
    }
    InstanceType::new(name, spec).shape().unwrap()
}

/// The node as the API server would have it.
fn patched(node: &Node, types: &[Shape]) -> Node {
    let Some(patch) = patch(node, types) else { return node.clone() };
    let value = serde_json::to_value(node).unwrap();
    serde_json::from_value(sampan_api::patch::merge(&value, &patch).unwrap()).unwrap()
}

fn labels(node: &Node) -> Vec<(String, String)> {
    node.metadata.labels.clone().unwrap_or_default().into_iter().collect()
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn a_node_is_of_the_type_that_it_says_or_comes_closest_to() {
    let types = [
        shape("large", "4", "16Gi", json!({})),
        shape("larger", "4", "17Gi", json!({})),
        shape("exact", "8", "32Gi", json!({"tolerance": 0})),
        shape("gpu", "4", "16Gi", json!({"resources": {"sampan.io/gpu": 2}})),
    ];
    let table = [
        (json!({}), "4", "15.6Gi", json!({}), Some("large")),
        (json!({}), "4", "16.9Gi", json!({}), Some("larger")),
        (json!({}), "4", "14Gi", json!({}), None),
        (json!({}), "5", "16Gi", json!({}), None),
        (json!({}), "8", "31Gi", json!({}), None),
        (json!({}), "8", "32Gi", json!({}), Some("exact")),
        (json!({}), "4", "16Gi", json!({"sampan.io/gpu": "2"}), Some("gpu")),
        (json!({}), "4", "16Gi", json!({"sampan.io/gpu": "1"}), None),
        (json!({}), "4", "16Gi", json!({"sampan.io/batch-cpu": "900"}), Some("large")),
        (json!({NODE_TYPE: "exact"}), "1", "1Gi", json!({}), Some("exact")),
        (json!({NODE_TYPE: "m5.large"}), "4", "16Gi", json!({}), None),
    ];
    for (labels, cpu, memory, more, want) in table {
        let node = node(labels, cpu, memory, more);
        assert_eq!(type_of(&node, &types).map(|s| s.name.as_str()), want, "{node:?}");
    }
}

#[test]
fn what_a_type_gives_it_takes_away_and_nothing_else() {
    let taint = json!({"key": "big", "value": "yes", "effect": "NoSchedule"});
    let large =
        shape("large", "4", "16Gi", json!({"labels": {"tier": "a", "own": "type"}, "taints": [taint]}));
    let mut plain = node(json!({"own": "mine"}), "4", "16Gi", json!({}));
    let other = json!([{"key": "other", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]);
    plain.spec = serde_json::from_value(json!({"taints": other})).unwrap();
    let of_type = patched(&plain, std::slice::from_ref(&large));
    let want = pairs(&[(NODE_TYPE, "large"), ("own", "mine"), (CLASS, "general"), ("tier", "a")]);
    assert_eq!(labels(&of_type), want);
    assert_eq!(of_type.spec.as_ref().unwrap().taints.as_ref().unwrap().len(), 2);
    assert_eq!(patch(&of_type, std::slice::from_ref(&large)), None, "once is enough");
    // Another type that fits better takes its place.
    let mut small = shape("small", "4", "16Gi", json!({}));
    small.tolerance = 1;
    let moved = patched(&of_type, std::slice::from_ref(&small));
    assert_eq!(labels(&moved), pairs(&[(NODE_TYPE, "small"), ("own", "mine"), (CLASS, "general")]));
    assert_eq!(moved.spec.as_ref().unwrap().taints, plain.spec.as_ref().unwrap().taints);
    // Without types it is as it was.
    let mut back = patched(&moved, &[]);
    assert!(back.metadata.annotations.as_ref().is_none_or(BTreeMap::is_empty));
    back.metadata.annotations = None;
    assert_eq!(back, plain);
    assert!(!concerns(&back, false) && concerns(&moved, false));
    // A label that somebody else set stays, whatever the node has.
    let named = node(json!({NODE_TYPE: "large"}), "1", "1Gi", json!({}));
    let of_type = patched(&named, std::slice::from_ref(&large));
    assert!(labels(&of_type).contains(&("tier".to_owned(), "a".to_owned())));
    assert_eq!(labels(&patched(&of_type, &[])), labels(&named));
}

#[test]
fn statuses_are_written_when_they_change() {
    let mut kind = InstanceType::new("t", json!({"cpu": 1, "memory": "1Gi"}));
    let status = kind.status_for(2, 3, "then").unwrap();
    assert_eq!((status.nodes, status.pods, status.conditions[0].status.as_str()), (2, 3, "True"));
    kind.status = Some(status);
    assert_eq!(kind.status_for(2, 3, "later"), None);
    assert_eq!(kind.status_for(1, 3, "later").unwrap().conditions[0].last_transition_time, "then");
    kind.spec = json!({"cpu": 1});
    let broken = kind.status_for(2, 3, "later").unwrap();
    assert_eq!(
        (broken.conditions[0].reason.as_str(), broken.conditions[0].message.as_str()),
        ("Invalid", "spec.memory is missing")
    );
}

#[test]
fn pods_and_nodes_of_a_simulation_get_what_types_say() {
    let types = [InstanceType::new("m", json!({"class": "memory", "cpu": 2, "memory": "16Gi"}))];
    let mut nodes = [node(json!({}), "2", "16Gi", json!({}))];
    let ask = json!({"metadata": {"name": "p", "annotations": {"sampan.io/instance-type": "m"}}, "spec": {"containers": [{"name": "c"}]}});
    let mut pods: Vec<Pod> = vec![serde_json::from_value(ask).unwrap()];
    settle(&types, nodes.iter_mut(), pods.iter_mut()).unwrap();
    assert_eq!(nodes[0].metadata.labels.as_ref().unwrap()[CLASS], "memory");
    let requests = crate::scheduler::pod_requests(pods[0].spec.as_ref().unwrap());
    assert_eq!((requests.milli_cpu, requests.memory), (2000, 16 << 30));
    let error = settle(&[], nodes.iter_mut(), pods.iter_mut()).unwrap_err();
    assert!(error.starts_with("Pod p: there is no InstanceType \"m\""), "{error}");
}
