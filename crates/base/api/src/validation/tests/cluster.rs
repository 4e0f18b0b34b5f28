//! Services, endpoints, configuration, nodes, namespaces, events, leases.

use serde_json::{Value, json};

use super::*;

fn service() -> Value {
    json!({ "spec": { "selector": { "app": "a" }, "ports": [{ "port": 80 }] } })
}

#[test]
fn services() {
    let spec = |spec: Value| json!({ "spec": spec });
    let cases: [(Value, &[&str]); 12] = [
        (spec(json!({ "ports": null })), &["spec.ports: Required value"]),
        (
            spec(json!({ "ports": [{ "port": 80 }, { "port": 81, "name": "b" }] })),
            &["spec.ports[0].name: Required value"],
        ),
        (
            spec(json!({ "ports": [{ "port": 0, "protocol": "X", "targetPort": "a_b" }] })),
            &[
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "spec.ports[0].targetPort: Invalid value: \"a_b\": must contain only alpha-numeric characters \
                 (a-z, 0-9), and hyphens (-)",
            ],
        ),
        (
            spec(json!({ "ports": [{ "port": 80, "name": "a" }, { "port": 80, "name": "b" }] })),
            &["spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\
               \"Port\":80,\"TargetPort\":0,\"NodePort\":0}"],
        ),
        (
            spec(json!({ "ports": [{ "port": 80, "nodePort": 30000 }] })),
            &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (
            spec(json!({ "type": "Magic" })),
            &["spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \
             \"LoadBalancer\", \"NodePort\""],
        ),
        (spec(json!({ "type": "ExternalName" })), &["spec.externalName: Required value"]),
        (
            spec(json!({ "type": "NodePort", "clusterIP": "None" })),
            &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
        ),
        (
            spec(json!({ "clusterIP": "1.2.3" })),
            &["spec.clusterIPs[0]: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or \
               2001:db8::ffff)"],
        ),
        (
            spec(json!({ "externalIPs": ["127.0.0.1"], "sessionAffinity": "ClientIP",
                         "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 90000 } } })),
            &[
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 90000: must be greater than 0 \
                 and less than 86400",
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, \
                 ::1/128)",
            ],
        ),
        (
            spec(json!({ "loadBalancerClass": "a/b", "externalTrafficPolicy": "Local" })),
            &[
                "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible \
                 services",
            ],
        ),
        (json!({ "metadata": { "name": "1a" } }), &[]),
    ];
    check_creates("", "Service", &service(), &cases);
}

#[test]
fn a_service_keeps_its_address() {
    let mut old = created("", "Service", service());
    merge(&mut old, json!({ "spec": { "clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"] } }));
    let again = json!({ "spec": { "clusterIP": null, "clusterIPs": null } });
    assert!(update_errors("", "Service", &old, again).is_empty(), "the manifest may be sent again");
    assert_eq!(
        update_errors("", "Service", &old, json!({ "spec": { "clusterIP": "10.43.0.8" } })),
        ["spec.clusterIPs[0]: Invalid value: [\"10.43.0.8\"]: may not change once set"]
    );
    let external = json!({ "spec": { "type": "ExternalName", "externalName": "example.com" } });
    assert!(update_errors("", "Service", &old, external).is_empty());
    let mut new = old.clone();
    new["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "1.2.3.4" }] } });
    assert_eq!(
        update_status(resource("", "Service"), &new, &old)[0].to_string(),
        "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"
    );
}

#[test]
fn configuration() {
    let none = Vec::<String>::new();
    assert_eq!(create_errors("", "ConfigMap", json!({ "data": { "a.b": "x" } })), none);
    assert_eq!(
        create_errors(
            "",
            "ConfigMap",
            json!({ "data": { "a b": "x", "c": "y" }, "binaryData": { "c": "" } })
        ),
        [
            "data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', \
             '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
             '[-._a-zA-Z0-9]+')",
            "data[c]: Invalid value: \"c\": duplicate of key present in binaryData",
        ]
    );
    assert_eq!(
        create_errors("", "ConfigMap", json!({ "data": { "a": "x".repeat(1024 * 1024 + 1) } })),
        ["[]: Too long: may not be more than 1048576 bytes"]
    );
    assert_eq!(
        create_errors("", "Secret", json!({ "type": "kubernetes.io/tls", "data": { "tls.crt": "" } })),
        ["data[tls.key]: Required value"]
    );
    assert_eq!(
        create_errors(
            "",
            "Secret",
            json!({ "type": "kubernetes.io/dockerconfigjson",
            "stringData": { ".dockerconfigjson": "{" } })
        ),
        [
            "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": unexpected end of JSON input"
        ]
    );
    assert_eq!(
        create_errors("", "Secret", json!({ "type": "kubernetes.io/service-account-token" })),
        ["metadata.annotations[kubernetes.io/service-account.name]: Required value"]
    );
    let old = created("", "Secret", json!({ "immutable": true, "data": { "a": "eA==" } }));
    assert_eq!(
        update_errors(
            "",
            "Secret",
            &old,
            json!({ "data": { "a": "eQ==" }, "immutable": false, "type": "x" })
        ),
        [
            "type: Invalid value: \"x\": field is immutable",
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set",
        ]
    );
}

#[test]
fn nodes_and_namespaces() {
    assert_eq!(
        create_errors(
            "",
            "Node",
            json!({ "spec": { "podCIDRs": ["10.0.0.0"], "taints": [
            { "key": "a", "effect": "NoSchedule" }, { "key": "a", "effect": "NoSchedule" }, { "key": "b" } ] } })
        ),
        [
            "metadata.taints[1]: Duplicate value: {\"key\":\"a\",\"effect\":\"NoSchedule\"}: taints must be unique \
             by key and effect pair",
            "metadata.taints[2].effect: Required value",
            "spec.podCIDRs[0]: Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or \
             2001:db8::/64)",
        ]
    );
    let old =
        created("", "Node", json!({ "spec": { "podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24"] } }));
    assert_eq!(
        update_errors("", "Node", &old, json!({ "spec": { "podCIDRs": ["10.42.1.0/24"] } })),
        ["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"]
    );
    assert_eq!(
        create_errors("", "Namespace", json!({ "metadata": { "name": "a.b", "namespace": "x" } })),
        [
            "metadata.name: Invalid value: \"a.b\": must not contain dots",
            "metadata.namespace: Forbidden: not allowed on this type",
        ]
    );
    let old = created("", "Namespace", json!({}));
    let mut new = old.clone();
    new["status"]["phase"] = json!("Terminating");
    assert_eq!(
        update_status(resource("", "Namespace"), &new, &old)[0].to_string(),
        "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
    );
    new["spec"]["finalizers"] = json!(["mine"]);
    assert_eq!(
        finalize(&new, &old)[0].to_string(),
        "spec.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully \
         qualified"
    );
}

#[test]
fn endpoints_and_slices() {
    assert_eq!(
        create_errors(
            "",
            "Endpoints",
            json!({ "subsets": [{}, { "addresses": [{ "ip": "127.0.0.1" }],
            "ports": [{ "port": 80 }, { "port": 0, "name": "b" }] }] })
        ),
        [
            "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
            "subsets[1].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range \
             (127.0.0.0/8, ::1/128)",
            "subsets[1].ports[0].name: Required value",
            "subsets[1].ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ]
    );
    let slice = json!({ "addressType": "IPv4", "endpoints": [{ "addresses": ["10.0.0.1"] }],
                        "ports": [{ "port": 80 }] });
    let cases: [(Value, &[&str]); 4] = [
        (json!({ "addressType": null }), &["addressType: Required value"]),
        (
            json!({ "addressType": "MAC" }),
            &["addressType: Unsupported value: \"MAC\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""],
        ),
        (
            json!({ "endpoints": [{ "addresses": [] }, { "addresses": ["fd00::1"] }] }),
            &[
                "endpoints[0].addresses: Required value: must contain at least 1 address",
                "endpoints[1].addresses: Invalid value: \"fd00::1\": must be an IPv4 address",
            ],
        ),
        (json!({ "ports": [{}, {}] }), &["ports[1].name: Duplicate value: \"\""]),
    ];
    check_creates("discovery.k8s.io", "EndpointSlice", &slice, &cases);
    let old = created("discovery.k8s.io", "EndpointSlice", slice);
    assert_eq!(
        update_errors("discovery.k8s.io", "EndpointSlice", &old, json!({ "addressType": "FQDN" })),
        ["addressType: Invalid value: \"FQDN\": field is immutable"]
    );
}

#[test]
fn events_and_leases() {
    let event = json!({ "involvedObject": { "kind": "Pod", "namespace": "default", "name": "p" } });
    assert_eq!(create_errors("", "Event", event.clone()), Vec::<String>::new());
    let mut other = event.clone();
    other["involvedObject"]["namespace"] = json!("elsewhere");
    assert_eq!(
        create_errors("", "Event", other),
        ["involvedObject.namespace: Invalid value: \"elsewhere\": does not match event.namespace"]
    );
    let mut timed = event;
    timed["eventTime"] = json!("2026-01-01T00:00:00.000000Z");
    timed["reportingComponent"] = json!("a.b/c");
    assert_eq!(
        create_errors("", "Event", timed),
        ["reportingInstance: Required value", "action: Required value", "reason: Required value",]
    );
    assert_eq!(
        create_errors("coordination.k8s.io", "Lease", json!({ "spec": { "leaseDurationSeconds": 0 } })),
        ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]
    );
}
