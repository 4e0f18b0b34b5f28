//! Tests of `quota`.

use serde_json::json;

use super::*;
use crate::kinds;

fn of(group: &str, version: &str, plural: &str) -> &'static Resource {
    kinds::by_path(group, version, plural).unwrap()
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": spec})
}

#[test]
fn pods_use_what_they_ask_for() {
    let pod = pod(json!({
        "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "5"}, "limits": {"cpu": "5"}}}],
        "containers": [
            {"name": "a", "resources": {"requests": {"cpu": "1", "memory": "50M", "example.com/dongle": "3"},
                                        "limits": {"cpu": "2", "memory": "100M"}}},
            {"name": "b", "resources": {"requests": {"memory": "25M", "hugepages-2Mi": "100Mi"}}},
        ],
        "overhead": {"cpu": "1", "memory": "1M"},
    }));
    let used = print(&usage(of("", "v1", "pods"), &pod, 0));
    assert_eq!(
        used,
        "count/pods=1,cpu=6,hugepages-2Mi=100Mi,limits.cpu=6,limits.memory=101M,memory=76M,pods=1,\
         requests.cpu=6,requests.example.com/dongle=3,requests.hugepages-2Mi=100Mi,requests.memory=76M"
    );
    let mut ended = pod.clone();
    ended["status"] = json!({"phase": "Succeeded"});
    assert_eq!(print(&usage(of("", "v1", "pods"), &ended, 0)), "count/pods=1");
    let mut late = pod;
    late["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    late["metadata"]["deletionGracePeriodSeconds"] = 30.into();
    assert_eq!(print(&usage(of("", "v1", "pods"), &late, 4_000_000_000)), "count/pods=1");
}

#[test]
fn what_quotas_demand_is_named() {
    let pod = pod(json!({
        "initContainers": [{"name": "c"}],
        "containers": [
            {"name": "a", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}, {"name": "b"},
        ],
    }));
    let names = ["requests.cpu", "limits.cpu", "requests.memory", "pods"];
    assert_eq!(
        constraints(&pod, names).unwrap_err(),
        "must specify limits.cpu for: b,c; requests.cpu for: b,c; requests.memory for: a,b,c"
    );
    assert_eq!(constraints(&pod, ["pods", "limits.ephemeral-storage"]), Ok(()));
}

#[test]
fn names_are_tracked_by_their_kinds() {
    for (plural, name, tracked) in [
        ("pods", "requests.example.com/gpu", true),
        ("pods", "requests.cpu", true),
        ("pods", "requests.storage", false),
        ("pods", "count/pods", true),
        ("services", "services.nodeports", true),
        ("services", "pods", false),
        ("persistentvolumeclaims", "gold.storageclass.storage.k8s.io/requests.storage", true),
        ("persistentvolumeclaims", "requests.storage", true),
        ("configmaps", "configmaps", true),
        ("configmaps", "count/configmaps", true),
    ] {
        assert_eq!(tracks(of("", "v1", plural), name), tracked, "{plural} {name}");
    }
    assert!(tracks(of("apps", "v1", "deployments"), "count/deployments.apps"));
}

#[test]
fn services_and_claims() {
    let services = of("", "v1", "services");
    let used = |spec: Value| print(&usage(services, &json!({"spec": spec}), 0));
    let ports = json!([{"port": 1}, {"port": 2, "nodePort": 30000}]);
    assert_eq!(
        used(json!({"type": "LoadBalancer", "ports": ports})),
        "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2"
    );
    assert_eq!(
        used(json!({"type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false})),
        "count/services=1,services=1,services.loadbalancers=1,services.nodeports=1"
    );
    let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "10Gi"}}}});
    assert_eq!(
        print(&usage(of("", "v1", "persistentvolumeclaims"), &claim, 0)),
        "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
         gold.storageclass.storage.k8s.io/requests.storage=10Gi,persistentvolumeclaims=1,requests.storage=10Gi"
    );
}

#[test]
fn scopes_choose_objects() {
    let pods = of("", "v1", "pods");
    let holds = |quota: Value, spec: Value| Scopes::of(&json!({"spec": quota})).hold(pods, &pod(spec));
    let plain = || json!({"containers": [{"name": "a"}]});
    assert!(holds(json!({"scopes": ["BestEffort", "NotTerminating"]}), plain()));
    assert!(!holds(json!({"scopes": ["NotBestEffort"]}), plain()));
    assert!(holds(json!({"scopes": ["Terminating"]}), json!({"activeDeadlineSeconds": 5})));
    let among = json!({"scopeSelector": {"matchExpressions": [
        {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]},
    ]}});
    assert!(holds(among.clone(), json!({"priorityClassName": "high"})));
    assert!(!holds(among, plain()));
    let cross = json!({"scopes": ["CrossNamespacePodAffinity"]});
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "x", "namespaces": ["other"]},
    ]}}});
    assert!(holds(cross.clone(), near));
    assert!(!holds(cross, plain()));
    assert!(
        !Scopes::of(&json!({"spec": {"scopes": ["BestEffort"]}})).hold(of("", "v1", "services"), &plain())
    );
}
