//! Pods.

use serde_json::{Value, json};

use super::*;

fn pod() -> Value {
    json!({ "spec": { "containers": [{ "name": "c", "image": "busybox" }] } })
}

fn container(patch: Value) -> Value {
    let mut container = json!({ "name": "c", "image": "busybox" });
    merge(&mut container, patch);
    json!({ "spec": { "containers": [container] } })
}

#[test]
fn metadata() {
    let cases: [(Value, &[&str]); 7] = [
        (
            json!({ "metadata": { "name": "A_b" } }),
            &[
                "metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must consist of lower case \
               alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
               'example.com', regex used for validation is \
               '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            ],
        ),
        (
            json!({ "metadata": { "name": "" } }),
            &["metadata.name: Required value: name or generateName is required"],
        ),
        (json!({ "metadata": { "namespace": "" } }), &["metadata.namespace: Required value"]),
        (
            json!({ "metadata": { "labels": { "a b": "x", "k": "-" } } }),
            &[
                "metadata.labels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', \
                 '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or \
                 'my.name',  or '123-abc', regex used for validation is \
                 '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                "metadata.labels: Invalid value: \"-\": a valid label must be an empty string or consist of \
                 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character \
                 (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
                 '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ],
        ),
        (
            json!({ "metadata": { "finalizers": ["orphan", "foregroundDeletion"] } }),
            &[
                "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and \
               foregroundDeletion cannot be both set",
            ],
        ),
        (
            json!({ "metadata": { "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": "n" }] } }),
            &["metadata.ownerReferences.uid: Invalid value: \"\": must not be empty"],
        ),
        (
            json!({ "metadata": { "annotations": { "big": "x".repeat(256 * 1024) } } }),
            &["metadata.annotations: Too long: may not be more than 262144 bytes"],
        ),
    ];
    check_creates("", "Pod", &pod(), &cases);
}

#[test]
fn containers() {
    let cases: [(Value, &[&str]); 10] = [
        (json!({ "spec": { "containers": null } }), &["spec.containers: Required value"]),
        (container(json!({ "image": null })), &["spec.containers[0].image: Required value"]),
        (
            container(json!({ "image": " busybox" })),
            &[
                "spec.containers[0].image: Invalid value: \" busybox\": must not have leading or trailing whitespace",
            ],
        ),
        (
            container(json!({ "name": "a.b" })),
            &["spec.containers[0].name: Invalid value: \"a.b\": must not contain dots"],
        ),
        (
            json!({ "spec": { "containers": [
                { "name": "c", "image": "a" }, { "name": "c", "image": "b" },
            ] } }),
            &["spec.containers[1].name: Duplicate value: \"c\""],
        ),
        (
            container(json!({ "imagePullPolicy": "Sometimes", "terminationMessagePolicy": "x" })),
            &[
                "spec.containers[0].terminationMessagePolicy: Unsupported value: \"x\": supported values: \
                 \"File\", \"FallbackToLogsOnError\"",
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \
                 \"Always\", \"IfNotPresent\", \"Never\"",
            ],
        ),
        (
            container(json!({ "ports": [
                { "containerPort": 70000 },
                { "containerPort": 0, "name": "Web" },
                { "containerPort": 80, "hostPort": 80 },
                { "containerPort": 81, "hostPort": 80, "protocol": "tcp" },
                { "containerPort": 82, "hostPort": 80 },
            ] })),
            &[
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, \
                 inclusive",
                "spec.containers[0].ports[1].name: Invalid value: \"Web\": must contain only alpha-numeric \
                 characters (a-z, 0-9), and hyphens (-)",
                "spec.containers[0].ports[1].containerPort: Required value",
                "spec.containers[0].ports[3].protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \
                 \"TCP\", \"UDP\"",
                "spec.containers[0].ports[4].hostPort: Duplicate value: \"TCP//80\"",
            ],
        ),
        (
            json!({ "spec": { "initContainers": [
                { "name": "c", "image": "a", "livenessProbe": { "exec": { "command": ["x"] } } },
                { "name": "s", "image": "a", "restartPolicy": "Maybe" },
            ] } }),
            &[
                "spec.initContainers[0].name: Duplicate value: \"c\"",
                "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without \
                 restartPolicy=Always",
                "spec.initContainers[1].restartPolicy: Unsupported value: \"Maybe\": supported values: \
                 \"Always\", \"Never\", \"OnFailure\"",
            ],
        ),
        (
            json!({ "spec": { "initContainers": [{ "name": "s", "image": "a", "restartPolicy": "Always",
                "startupProbe": { "tcpSocket": { "port": 80 } } }] } }),
            &[],
        ),
        (
            json!({ "spec": { "ephemeralContainers": [{ "name": "d", "image": "a" }] } }),
            &["spec.ephemeralContainers: Forbidden: cannot be set on create"],
        ),
    ];
    check_creates("", "Pod", &pod(), &cases);
}

#[test]
fn environment() {
    let from = |source: Value| container(json!({ "env": [{ "name": "A", "valueFrom": source }] }));
    let cases: [(Value, &[&str]); 8] = [
        (
            container(json!({ "env": [{ "name": "" }, { "name": "a=b" }, { "name": "1 ok" }] })),
            &[
                "spec.containers[0].env[0].name: Required value",
                "spec.containers[0].env[1].name: Invalid value: \"a=b\": a valid environment variable name must \
                 consist only of printable ASCII characters other than '='",
            ],
        ),
        (
            from(json!({})),
            &["spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, \
               `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"],
        ),
        (
            from(json!({ "fieldRef": { "fieldPath": "spec.nodeName" },
                         "secretKeyRef": { "name": "s", "key": "k" } })),
            &["spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not have more than one field \
               specified at a time"],
        ),
        (
            from(json!({ "fieldRef": { "fieldPath": "status.phase" } })),
            &[
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": \
               supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \
               \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \
               \"status.podIPs\"",
            ],
        ),
        (
            from(json!({ "fieldRef": { "fieldPath": "spec.nope" } })),
            &["spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nope\": error \
               converting fieldPath: field label not supported: spec.nope"],
        ),
        (from(json!({ "fieldRef": { "fieldPath": "metadata.labels['app']" } })), &[]),
        (
            from(json!({ "resourceFieldRef": { "resource": "limits.cpu", "divisor": "5m" } })),
            &[
                "spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only \
               divisor's values 1m and 1 are supported with the cpu resource",
            ],
        ),
        (
            container(json!({ "envFrom": [{}, { "configMapRef": { "name": "" } }] })),
            &[
                "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or \
                 `secretRef`",
                "spec.containers[0].envFrom[1].configMapRef.name: Required value",
            ],
        ),
    ];
    check_creates("", "Pod", &pod(), &cases);
}

#[test]
fn probes_and_hooks() {
    let cases: [(Value, &[&str]); 5] = [
        (
            container(json!({ "livenessProbe": {}, "readinessProbe": {
                "httpGet": { "port": "http!" }, "exec": { "command": ["x"] } } })),
            &[
                "spec.containers[0].livenessProbe: Required value: must specify a handler type",
                "spec.containers[0].readinessProbe.httpGet: Forbidden: may not specify more than 1 handler type",
            ],
        ),
        (
            container(json!({ "livenessProbe": { "httpGet": { "port": 0, "scheme": "ftp" },
                "successThreshold": 2, "periodSeconds": -1 } })),
            &[
                "spec.containers[0].livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, \
                 inclusive",
                "spec.containers[0].livenessProbe.httpGet.scheme: Unsupported value: \"ftp\": supported values: \
                 \"HTTP\", \"HTTPS\"",
                "spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal \
                 to 0",
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ],
        ),
        (
            container(
                json!({ "readinessProbe": { "grpc": { "port": 1 }, "terminationGracePeriodSeconds": 3 } }),
            ),
            &[
                "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 3: must not be set \
               for readinessProbes",
            ],
        ),
        (
            container(json!({ "lifecycle": { "preStop": { "sleep": { "seconds": 31 } },
                                             "postStart": { "exec": {} } } })),
            &[
                "spec.containers[0].lifecycle.postStart.exec.command: Required value",
                "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than \
                 terminationGracePeriodSeconds (30)",
            ],
        ),
        (
            container(json!({ "lifecycle": { "stopSignal": "SIGUSR1" } })),
            &[
                "spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty \
               `spec.os.name`",
            ],
        ),
    ];
    check_creates("", "Pod", &pod(), &cases);
}

#[test]
fn resources() {
    let cases: [(Value, &[&str]); 5] = [
        (
            container(json!({ "resources": { "requests": { "cpu": "2" }, "limits": { "cpu": "1" } } })),
            &[
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu \
               limit of 1",
            ],
        ),
        (
            container(json!({ "resources": { "limits": { "gpu": "1", "memory": "-1Gi" } } })),
            &[
                "spec.containers[0].resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource \
                 type or fully qualified",
                "spec.containers[0].resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for \
                 containers",
                "spec.containers[0].resources.limits[memory]: Invalid value: \"-1Gi\": must be greater than or \
                 equal to 0",
                "spec.containers[0].resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource \
                 type or fully qualified",
                "spec.containers[0].resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource \
                 for containers",
                "spec.containers[0].resources.requests[memory]: Invalid value: \"-1Gi\": must be greater than or \
                 equal to 0",
            ],
        ),
        (
            container(json!({ "resources": { "requests": { "example.com/gpu": "1" } } })),
            &[
                "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable \
               resources",
            ],
        ),
        (
            container(json!({ "resources": { "limits": { "example.com/gpu": "500m" } } })),
            &[
                "spec.containers[0].resources.limits[example.com/gpu]: Invalid value: \"500m\": must be an integer",
                "spec.containers[0].resources.requests[example.com/gpu]: Invalid value: \"500m\": must be an \
                 integer",
            ],
        ),
        (
            container(json!({ "resources": { "claims": [{ "name": "dev" }] } })),
            &["spec.containers[0].resources.claims[0]: Not found: \"dev\": must be one of the names in \
               pod.spec.resourceClaims which is empty"],
        ),
    ];
    check_creates("", "Pod", &pod(), &cases);
}

#[test]
fn volumes() {
    let volume = |source: Value| {
        let mut volume = json!({ "name": "v" });
        merge(&mut volume, source);
        json!({ "spec": { "volumes": [volume] } })
    };
    let cases: [(Value, &[&str]); 9] = [
        (
            json!({ "spec": { "volumes": [{ "name": "v" }, { "name": "v" }, { "name": "A" }] } }),
            &[
                "spec.volumes[1].name: Duplicate value: \"v\"",
                "spec.volumes[2].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case \
                 alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. \
                 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ],
        ),
        (
            volume(json!({ "emptyDir": {}, "hostPath": { "path": "/x" } })),
            &["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            volume(json!({ "hostPath": { "path": "/a/../b", "type": "Dir" } })),
            &[
                "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "spec.volumes[0].hostPath.type: Unsupported value: \"Dir\": supported values: \"\", \
                 \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \
                 \"FileOrCreate\", \"Socket\"",
            ],
        ),
        (volume(json!({ "hostPath": {} })), &["spec.volumes[0].hostPath.path: Required value"]),
        (
            volume(json!({ "secret": { "items": [{ "key": "k", "path": "/etc" }], "defaultMode": 1000 } })),
            &[
                "spec.volumes[0].secret.secretName: Required value",
                "spec.volumes[0].secret.defaultMode: Invalid value: 1000: must be a number between 0 and 0777 \
                 (octal), both inclusive",
                "spec.volumes[0].secret.items[0].path: Invalid value: \"/etc\": must be a relative path",
            ],
        ),
        (
            volume(json!({ "configMap": { "name": "c", "items": [{ "key": "", "path": "..x" }] } })),
            &[
                "spec.volumes[0].configMap.items[0].key: Required value",
                "spec.volumes[0].configMap.items[0].path: Invalid value: \"..x\": must not start with '..'",
            ],
        ),
        (
            volume(json!({ "downwardAPI": { "items": [
                { "path": "a" }, { "path": "b", "fieldRef": { "fieldPath": "spec.nodeName" } },
            ] } })),
            &[
                "spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
                "spec.volumes[0].downwardAPI.fieldRef.fieldPath: Unsupported value: \"spec.nodeName\": supported \
                 values: \"metadata.annotations\", \"metadata.labels\", \"metadata.name\", \
                 \"metadata.namespace\", \"metadata.uid\"",
            ],
        ),
        (
            volume(json!({ "projected": { "sources": [
                { "serviceAccountToken": { "path": "t", "expirationSeconds": 1 } },
                { "secret": { "name": "s", "items": [{ "key": "k", "path": "p" }] } },
                { "configMap": { "name": "c", "items": [{ "key": "k", "path": "p" }] }, "secret": {} },
            ] } })),
            &[
                "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 1: may \
                 not specify a duration less than 10 minutes",
                "spec.volumes[0].projected.sources[2].secret.name: Required value",
                "spec.volumes[0].projected: Invalid value: \"c\": conflicting duplicate paths",
                "spec.volumes[0].projected.sources[2]: Forbidden: may not specify more than 1 volume type per \
                 source",
            ],
        ),
        (
            volume(json!({ "nfs": { "server": "s", "path": "rel" } })),
            &["spec.volumes[0].nfs.path: Invalid value: \"rel\": must be an absolute path"],
        ),
    ];
    check_creates("", "Pod", &pod(), &cases);
}

#[test]
fn volume_mounts() {
    let cases: [(Value, &[&str]); 2] = [
        (
            container(json!({ "volumeMounts": [
                { "name": "nope", "mountPath": "/a" }, { "name": "nope", "mountPath": "/a" }, { "name": "" },
            ] })),
            &[
                "spec.containers[0].volumeMounts[0].name: Not found: \"nope\"",
                "spec.containers[0].volumeMounts[1].name: Not found: \"nope\"",
                "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
                "spec.containers[0].volumeMounts[2].name: Required value",
                "spec.containers[0].volumeMounts[2].name: Not found: \"\"",
                "spec.containers[0].volumeMounts[2].mountPath: Required value",
            ],
        ),
        (
            json!({ "spec": { "volumes": [{ "name": "v" }], "containers": [{ "name": "c", "image": "i",
                "volumeMounts": [{ "name": "v", "mountPath": "/a", "mountPropagation": "Bidirectional",
                                   "subPath": "../x" }] }] } }),
            &[
                "spec.containers[0].volumeMounts.subPath: Invalid value: \"../x\": must not contain '..'",
                "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is \
                 available only to privileged containers",
            ],
        ),
    ];
    check_creates("", "Pod", &pod(), &cases);
}

#[test]
fn scheduling_and_dns() {
    let spec = |spec: Value| json!({ "spec": spec });
    let cases: [(Value, &[&str]); 8] = [
        (
            spec(json!({ "restartPolicy": "Sometimes", "dnsPolicy": "x" })),
            &[
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
                 \"OnFailure\", \"Never\"",
                "spec.dnsPolicy: Unsupported value: \"x\": supported values: \"ClusterFirstWithHostNet\", \
                 \"ClusterFirst\", \"Default\", \"None\"",
            ],
        ),
        (
            spec(json!({ "dnsPolicy": "None" })),
            &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
        ),
        (
            spec(json!({ "dnsConfig": { "nameservers": ["1.2.3"], "searches": ["A b"] } })),
            &[
                "spec.dnsConfig.nameservers[0]: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. \
                 10.9.8.7 or 2001:db8::ffff)",
                "spec.dnsConfig.searches[0]: Invalid value: \"A b\": a lowercase RFC 1123 subdomain must consist of \
                 lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric \
                 character (e.g. 'example.com', regex used for validation is \
                 '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')",
            ],
        ),
        (
            spec(json!({ "activeDeadlineSeconds": 0 })),
            &["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
        ),
        (
            spec(json!({ "tolerations": [
                { "value": "x" },
                { "key": "k", "operator": "Exists", "value": "x", "effect": "Never" },
                { "key": "k", "operator": "Is", "tolerationSeconds": 1 },
            ] })),
            &[
                "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, \
                 which means \"match all values and all keys\"",
                "spec.tolerations[1].operator: Invalid value: \"x\": value must be empty when `operator` is \
                 'Exists'",
                "spec.tolerations[1].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \
                 \"PreferNoSchedule\", \"NoExecute\"",
                "spec.tolerations[2].effect: Invalid value: \"\": effect must be 'NoExecute' when \
                 `tolerationSeconds` is set",
                "spec.tolerations[2].operator: Unsupported value: \"Is\": supported values: \"Equal\", \"Exists\"",
            ],
        ),
        (
            spec(json!({ "affinity": { "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [] },
                "preferredDuringSchedulingIgnoredDuringExecution": [{ "weight": 0, "preference": {
                    "matchExpressions": [{ "key": "a", "operator": "In" }] } }],
            } } })),
            &[
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: \
                 Required value: must have at least one node selector term",
                "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid \
                 value: 0: must be in the range 1-100",
                "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.\
                 matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            ],
        ),
        (
            spec(json!({ "affinity": { "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{ "labelSelector": {} }] } } })),
            &[
                "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: \
                 Required value: can not be empty",
                "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: \
                 Invalid value: \"\": name part must be non-empty",
                "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: \
                 Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must \
                 start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex \
                 used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ],
        ),
        (
            spec(json!({ "topologySpreadConstraints": [
                { "maxSkew": 0, "topologyKey": "zone", "whenUnsatisfiable": "Wait", "minDomains": 0 },
            ] })),
            &[
                "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
                "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"Wait\": supported \
                 values: \"DoNotSchedule\", \"ScheduleAnyway\"",
                "spec.topologySpreadConstraints[0].minDomains: Invalid value: 0: must be greater than zero",
                "spec.topologySpreadConstraints[0].minDomains: Invalid value: 0: can only use minDomains if \
                 whenUnsatisfiable=DoNotSchedule, not Wait",
            ],
        ),
    ];
    check_creates("", "Pod", &pod(), &cases);
}

#[test]
fn network_and_security() {
    let spec = |spec: Value| json!({ "spec": spec });
    let cases: [(Value, &[&str]); 6] = [
        (
            spec(json!({ "schedulingGates": [{ "name": "a" }, { "name": "a" }], "nodeName": "n" })),
            &[
                "spec.schedulingGates[1]: Duplicate value: \"a\"",
                "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
            ],
        ),
        (
            spec(json!({ "hostAliases": [{ "ip": "x", "hostnames": ["ok"] }] })),
            &["spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or \
               2001:db8::ffff)"],
        ),
        (
            json!({ "spec": { "hostNetwork": true, "containers": [{ "name": "c", "image": "i",
                "ports": [{ "containerPort": 80, "hostPort": 8080 }] }] } }),
            &["spec.containers[0].ports[0].hostPort: Invalid value: 8080: must match `containerPort` when \
               `hostNetwork` is true"],
        ),
        (
            spec(json!({ "securityContext": { "runAsUser": -1, "seccompProfile": { "type": "Localhost" },
                         "sysctls": [{ "name": "net.core.somaxconn" }, { "name": "!" }] } })),
            &[
                "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                "spec.securityContext.sysctls[1].name: Invalid value: \"!\": must have at most 253 characters and \
                 match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
                "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp \
                 type is Localhost",
            ],
        ),
        (
            container(
                json!({ "securityContext": { "allowPrivilegeEscalation": false, "privileged": true } }),
            ),
            &["spec.containers[0].securityContext: Invalid value: \
               {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set `allowPrivilegeEscalation` to \
               false and `privileged` to true"],
        ),
        (
            spec(json!({ "hostUsers": false, "hostPID": true })),
            &["spec.HostPID: Forbidden: when `hostUsers` is false"],
        ),
    ];
    check_creates("", "Pod", &pod(), &cases);
}

#[test]
fn updates_change_images_and_little_else() {
    let mut old = created("", "Pod", pod());
    crate::strategy::add_default_tolerations(&mut old);
    let image = json!({ "spec": { "containers": [{ "name": "c", "image": "other" }] } });
    assert!(update_errors("", "Pod", &old, image).is_empty());
    let hostname = update_errors("", "Pod", &old, json!({ "spec": { "hostname": "h" } }));
    assert_eq!(
        hostname,
        ["spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
          `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
          existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously \
          negative)\n- spec.hostname: null\n+ spec.hostname: \"h\""]
    );
    let more = json!({ "spec": { "containers": [
        { "name": "c", "image": "busybox" }, { "name": "d", "image": "busybox" } ] } });
    assert_eq!(
        update_errors("", "Pod", &old, more),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
    assert_eq!(
        update_errors("", "Pod", &old, json!({ "spec": { "tolerations": [] } })),
        ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]
    );
    assert!(update_errors("", "Pod", &old, json!({ "spec": { "activeDeadlineSeconds": 5 } })).is_empty());
    assert_eq!(
        update_errors("", "Pod", &old, json!({ "metadata": { "uid": "other", "name": "y" } })),
        [
            "metadata.name: Invalid value: \"y\": field is immutable",
            "metadata.uid: Invalid value: \"other\": field is immutable",
        ]
    );
    assert_eq!(
        update_errors("", "Pod", &old, json!({ "metadata": { "resourceVersion": "" } })),
        ["metadata.resourceVersion: Invalid value: \"\": must be specified for an update"]
    );
}

#[test]
fn no_finalizer_comes_to_a_pod_that_goes() {
    let old = created("", "Pod", pod());
    let mut going = old.clone();
    merge(
        &mut going,
        json!({ "metadata": { "deletionTimestamp": "2026-01-02T00:00:00Z",
                                            "deletionGracePeriodSeconds": 30 } }),
    );
    assert_eq!(
        update_errors("", "Pod", &going, json!({ "metadata": { "finalizers": ["a.b/c"] } })),
        [
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
          finalizers []string{\"a.b/c\"}"
        ]
    );
    assert_eq!(
        update_errors(
            "",
            "Pod",
            &old,
            json!({ "metadata": { "deletionTimestamp": "2026-01-02T00:00:00Z" } })
        ),
        ["metadata.deletionTimestamp: Invalid value: \"2026-01-02T00:00:00Z\": field is immutable"]
    );
}

#[test]
fn a_container_that_ended_stays_ended() {
    let mut object = pod();
    object["spec"]["restartPolicy"] = json!("Never");
    let mut old = created("", "Pod", object);
    old["status"]["containerStatuses"] =
        json!([{ "name": "c", "state": { "terminated": { "exitCode": 0 } } }]);
    let mut new = old.clone();
    new["status"]["containerStatuses"] = json!([{ "name": "c", "state": { "running": {} } }]);
    new["status"]["qosClass"] = json!("Guaranteed");
    let texts: Vec<String> =
        update_status(resource("", "Pod"), &new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "status.qosClass: Invalid value: \"Guaranteed\": field is immutable",
            "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state",
        ]
    );
}

#[test]
fn bindings_resizes_and_debuggers() {
    let texts = |errors: Vec<crate::status::FieldError>| -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        texts(binding(&json!({ "target": { "kind": "Pod" } }))),
        [
            "target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\"",
            "target.name: Required value",
        ]
    );
    let mut object = pod();
    object["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": "1" } });
    let old = created("", "Pod", object);
    let mut new = old.clone();
    new["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("2");
    assert_eq!(texts(resize(&new, &old)), Vec::<String>::new());
    new["spec"]["containers"][0]["resources"]["requests"] = json!({ "memory": "1Gi" });
    assert_eq!(
        texts(resize(&new, &old)),
        ["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"]
    );
    let mut running = old.clone();
    running["status"]["containerStatuses"] = json!([{ "name": "c", "state": { "running": {} } }]);
    let mut new = running.clone();
    new["spec"]["containers"][0]["resources"] =
        json!({ "requests": { "cpu": "2", "ephemeral-storage": "1Gi" } });
    assert_eq!(
        texts(resize(&new, &running)),
        [
            "spec: Forbidden: Pod running on node without support for resize",
            "spec: Forbidden: only cpu and memory resources are mutable",
        ]
    );
    let mut new = old.clone();
    new["spec"]["containers"][0]["name"] = json!("other");
    let renamed = "containers may not be renamed or reordered on resize";
    assert_eq!(texts(resize(&new, &old)), [format!("spec.containers[0].name: Forbidden: {renamed}")]);
    let mut new = old.clone();
    new["spec"]["containers"][0]["resources"] =
        json!({ "requests": { "cpu": "1", "memory": "1Gi" }, "limits": { "cpu": "1", "memory": "1Gi" } });
    let class = "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing";
    assert_eq!(texts(resize(&new, &old)), [class]);
    let mut new = old.clone();
    new["spec"]["ephemeralContainers"] = json!([{ "name": "d", "image": "i", "imagePullPolicy": "Always",
        "terminationMessagePolicy": "File", "targetContainerName": "nope", "ports": [{ "containerPort": 1 }] }]);
    let found = texts(ephemeral_containers(&new, &old));
    assert!(
        found.contains(&"spec.ephemeralContainers[0].targetContainerName: Not found: \"nope\"".to_owned())
    );
    assert!(found.contains(
        &"spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container".to_owned()
    ));
}
