//! Tests of `node`.

use super::*;

fn pod(value: &serde_json::Value) -> Option<Pod> {
    let kv = sampan_store::KeyValue {
        key: "/registry/core/pods/a/p".into(),
        value: value.to_string().into(),
        create_revision: 1,
        mod_revision: 1,
        version: 1,
        lease: 0,
    };
    Interner::default().pod(&kv)
}

#[test]
fn a_pod_tells_what_it_needs() {
    let object = serde_json::json!({
        "metadata": {"name": "p"},
        "spec": {
            "nodeName": "n", "serviceAccountName": "robot",
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{
                "name": "c",
                "env": [
                    {"name": "A", "valueFrom": {"secretKeyRef": {"name": "env-s", "key": "k"}}},
                    {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "env-c", "key": "k"}}},
                    {"name": "C", "value": "plain \"quoted\""},
                ],
                "envFrom": [{"secretRef": {"name": "from-s"}}, {"configMapRef": {"name": "from-c"}}],
            }],
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "init-s"}}]}],
            "ephemeralContainers": [{"name": "e", "envFrom": [{"configMapRef": {"name": "eph-c"}}]}],
            "volumes": [
                {"name": "s", "secret": {"secretName": "vol-s"}},
                {"name": "c", "configMap": {"name": "vol-c"}},
                {"name": "d", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "x", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
                {"name": "j", "projected": {"sources": [
                    {"secret": {"name": "pro-s"}}, {"configMap": {"name": "pro-c"}},
                    {"serviceAccountToken": {"path": "t"}},
                ]}},
                {"name": "k", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi-s"}}},
                {"name": "r", "rbd": {"secretRef": {"name": "rbd-s"}}},
                {"name": "q", "emptyDir": {}},
            ],
        },
    });
    let found = pod(&object).unwrap();
    for name in ["pull", "env-s", "from-s", "init-s", "vol-s", "pro-s", "csi-s", "rbd-s"] {
        assert!(found.needs(Needed::Secret, name), "{name}");
    }
    for name in ["env-c", "from-c", "eph-c", "vol-c", "pro-c"] {
        assert!(found.needs(Needed::ConfigMap, name), "{name}");
    }
    assert!(found.needs(Needed::Claim, "claim") && found.needs(Needed::Claim, "p-x"));
    assert!(found.needs(Needed::ServiceAccount, "robot"));
    assert!(!found.needs(Needed::Secret, "vol-c"));
    assert!(pod(&serde_json::json!({"metadata": {"name": "p"}, "spec": {}})).is_none());
}

#[test]
fn reasons_are_those_of_kubernetes() {
    let nodes = Nodes::default();
    let user = UserInfo::new("system:node:a", &["system:nodes"]);
    let ask = |user: &UserInfo, verb: &str, full: &str, namespace: &str, name: &str, fields: Option<&str>| {
        let (group, resource) = full.split_once(' ').unwrap_or(("", full));
        let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let target = Target {
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: some(sub),
            namespace: some(namespace),
            name: some(name),
        };
        nodes.decide(user, &Attributes::Resource { verb, target: &target, fields })
    };
    assert_eq!(ask(&UserInfo::new("jane", &["system:nodes"]), "get", "nodes", "", "a", None), None);
    assert_eq!(ask(&UserInfo::new("system:node:a", &[]), "get", "nodes", "", "a", None), None);
    let says = |verb: &str, full: &str, namespace: &str, name: &str| {
        let verdict = ask(&user, verb, full, namespace, name, None).unwrap();
        if verdict.allowed { "yes".to_owned() } else { verdict.reason }
    };
    let lease = "coordination.k8s.io leases";
    let table = [
        ("get", "secrets", "n", "s", "no relationship found between node 'a' and this object"),
        ("get", "secrets", "n", "", "No Object name found"),
        ("update", "secrets", "n", "s", "can only read resources of this type"),
        ("get", "configmaps", "", "s", "can only read namespaced object of this type"),
        ("list", "persistentvolumes", "", "", "can only get individual resources of this type"),
        ("create", "serviceaccounts", "n", "s", "can only create token subresource of serviceaccount"),
        ("list", "serviceaccounts", "n", "", "can only create tokens for individual service accounts"),
        ("get", lease, "kube-node-lease", "a", "yes"),
        ("create", lease, "kube-node-lease", "", "yes"),
        (
            "get",
            lease,
            "kube-node-lease",
            "b",
            "can only access node lease with the same name as the requesting node",
        ),
        ("get", lease, "x", "a", "can only access leases in the \"kube-node-lease\" system namespace"),
        ("list", lease, "x", "a", "can only get, create, update, patch, or delete a node lease"),
        ("get", "nodes", "", "a", "yes"),
        ("get", "nodes", "", "b", "node 'a' cannot read 'b', only its own Node object"),
        ("list", "nodes", "", "", "node 'a' cannot read all nodes, only its own Node object"),
        ("patch", "nodes/status", "", "a", "yes"),
        ("delete", "nodes", "", "a", ""),
        ("list", "pods", "", "", "can only list/watch pods with spec.nodeName field selector"),
        ("patch", "pods/status", "n", "p", "yes"),
        ("create", "pods/exec", "n", "p", ""),
        ("list", "services", "", "", "yes"),
        ("create", "events", "n", "", "yes"),
        ("delete", "events", "n", "e", ""),
    ];
    for (verb, full, namespace, name, wanted) in table {
        assert_eq!(says(verb, full, namespace, name), wanted, "{verb} {full} {namespace} {name}");
    }
    let watch = |fields| ask(&user, "watch", "pods", "", "", Some(fields)).unwrap().allowed;
    assert!(watch("spec.nodeName=a") && watch("status.phase!=Failed,spec.nodeName==a"));
    assert!(!watch("spec.nodeName=b") && !watch("spec.nodeName!=a"));
}
