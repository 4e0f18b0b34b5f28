//! Tests of `podsecurity`.

use serde_json::json;

use super::*;

fn said(standard: &str, spec: Value) -> String {
    let (level, version) = standard.split_once(':').unwrap();
    let labels = json!({
        "pod-security.kubernetes.io/enforce": level, "pod-security.kubernetes.io/enforce-version": version,
    });
    let policy = Policy::of(&labels);
    assert_eq!(policy.enforce.to_string(), standard);
    details(&policy.enforce.broken(&json!({}), &spec))
}

#[test]
fn a_plain_pod_is_baseline_but_not_restricted() {
    let plain = || json!({"containers": [{"name": "a", "image": "x"}]});
    assert_eq!(said("baseline:latest", plain()), "");
    assert_eq!(
        said("restricted:latest", plain()),
        "allowPrivilegeEscalation != false (container \"a\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"a\" must set \
         securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"a\" must set \
         securityContext.runAsNonRoot=true), seccompProfile (pod or container \"a\" must set \
         securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(
        said("restricted:v1.18", plain()),
        "allowPrivilegeEscalation != false (container \"a\" must set \
         securityContext.allowPrivilegeEscalation=false), runAsNonRoot != true (pod or container \"a\" must set \
         securityContext.runAsNonRoot=true)"
    );
}

#[test]
fn baseline_refuses_the_host() {
    let container = |context: Value| json!({"containers": [{"name": "a", "securityContext": context}]});
    let table = [
        (json!({"hostNetwork": true, "hostPID": true}), "host namespaces (hostNetwork=true, hostPID=true)"),
        (
            container(json!({"privileged": true})),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
        (
            container(json!({"capabilities": {"add": ["NET_ADMIN", "CHOWN", "BPF"]}})),
            "non-default capabilities (container \"a\" must not include \"BPF\", \"NET_ADMIN\" in \
          securityContext.capabilities.add)",
        ),
        (
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "hostPath": {}}]}),
            "hostPath volumes (volumes \"v\", \"w\")",
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}]},
                               {"name": "b", "ports": [{"hostPort": 443}]}]}),
            "hostPort (containers \"a\", \"b\" use hostPorts 443, 80)",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}, {"name": "kernel.msgmax"}]}}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            container(json!({"procMount": "Unmasked"})),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            json!({"securityContext": {"seLinuxOptions": {"type": "spc_t", "user": "u"}}}),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)",
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "h"}}}]}),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"h\")",
        ),
        (
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
            "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
        ),
    ];
    for (spec, expected) in table {
        assert_eq!(said("baseline:latest", spec), expected);
    }
}

#[test]
fn restricted_takes_the_place_of_weaker_checks() {
    let fine = json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "a", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        }}],
        "volumes": [{"name": "c", "configMap": {"name": "c"}}],
    });
    assert_eq!(said("restricted:latest", fine.clone()), "");
    let mut host = fine.clone();
    host["volumes"] = json!([{"name": "v", "hostPath": {"path": "/"}}, {"name": "n", "nfs": {}}]);
    assert_eq!(
        said("restricted:latest", host),
        "restricted volume types (volumes \"v\", \"n\" use restricted volume types \"hostPath\", \"nfs\")"
    );
    let mut root = fine;
    root["securityContext"]["runAsUser"] = 0.into();
    assert_eq!(said("restricted:latest", root.clone()), "runAsUser=0 (pod must not set runAsUser=0)");
    root["hostUsers"] = false.into();
    assert_eq!(said("restricted:latest", root), "");
}

#[test]
fn labels_say_what_is_demanded() {
    let of = |labels: Value| Policy::of(&labels);
    let enforced = of(json!({"pod-security.kubernetes.io/enforce": "baseline"}));
    assert_eq!(enforced.warn.level, Level::Baseline, "who enforces warns as well");
    let bad = of(
        json!({"pod-security.kubernetes.io/enforce": "x", "pod-security.kubernetes.io/warn-version": "v2"}),
    );
    assert_eq!(bad.enforce.level, Level::Restricted);
    assert_eq!(bad.warn.level, Level::Privileged);
    let said: Vec<String> = bad.errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"x\": must be one of privileged, \
         baseline, restricted",
            "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"v2\": must be \"latest\" or \
         \"v1.x\"",
        ]
    );
}
