//! Deployments and their kin, Jobs, CronJobs.

use serde_json::{Value, json};

use super::*;

fn template() -> Value {
    json!({ "metadata": { "labels": { "app": "a" } },
            "spec": { "containers": [{ "name": "c", "image": "i" }] } })
}

fn workload() -> Value {
    json!({ "spec": { "selector": { "matchLabels": { "app": "a" } }, "template": template() } })
}

const NO_MATCH: &str = "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match \
                        template `labels`";

#[test]
fn deployments() {
    let spec = |spec: Value| json!({ "spec": spec });
    let cases: [(Value, &[&str]); 10] = [
        (spec(json!({ "selector": null })), &["spec.selector: Required value", NO_MATCH]),
        (
            spec(json!({ "selector": { "matchLabels": null } })),
            &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
        ),
        (spec(json!({ "selector": { "matchLabels": { "app": "b" } } })), &[NO_MATCH]),
        (
            spec(json!({ "selector": { "matchExpressions": [{ "key": "app", "operator": "In" }] } })),
            &[
                "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is \
                 'In' or 'NotIn'",
                "spec.selector: Invalid value: \
                 {\"matchLabels\":{\"app\":\"a\"},\"matchExpressions\":[{\"key\":\"app\",\"operator\":\"In\"}]}: \
                 invalid label selector",
            ],
        ),
        (
            spec(json!({ "replicas": -1, "progressDeadlineSeconds": 5, "minReadySeconds": 5 })),
            &[
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds",
            ],
        ),
        (
            spec(json!({ "strategy": { "rollingUpdate": { "maxSurge": 0, "maxUnavailable": "0%" } } })),
            &[
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is \
               0",
            ],
        ),
        (
            spec(json!({ "strategy": { "rollingUpdate": { "maxSurge": "x", "maxUnavailable": "101%" } } })),
            &[
                "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"x\": a valid percent string must be a \
                 numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is \
                 '[0-9]+%')",
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than \
                 100%",
            ],
        ),
        (
            spec(json!({ "strategy": { "type": "Recreate", "rollingUpdate": {} } })),
            &[
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ],
        ),
        (
            spec(json!({ "template": { "spec": { "restartPolicy": "Never", "activeDeadlineSeconds": 3 } } })),
            &[
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not \
                 Supported",
            ],
        ),
        (
            spec(json!({ "template": { "spec": { "containers": null } } })),
            &["spec.template.spec.containers: Required value"],
        ),
    ];
    check_creates("apps", "Deployment", &workload(), &cases);
    let old = created("apps", "Deployment", workload());
    assert_eq!(
        update_errors(
            "apps",
            "Deployment",
            &old,
            json!({ "spec": { "selector": { "matchLabels": { "b": "c" } },
            "template": { "metadata": { "labels": { "b": "c" } } } } })
        ),
        ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"a\",\"b\":\"c\"}}: field is immutable"]
    );
}

#[test]
fn the_others_of_apps() {
    let errors = |kind: &str, patch: Value| {
        let mut object = workload();
        merge(&mut object, patch);
        create_errors("apps", kind, object)
    };
    let none = Vec::<String>::new();
    for kind in ["ReplicaSet", "DaemonSet", "StatefulSet"] {
        assert_eq!(errors(kind, json!({})), none);
        let other = json!({ "spec": { "selector": { "matchLabels": { "app": "b" } } } });
        assert_eq!(errors(kind, other), [NO_MATCH]);
    }
    assert_eq!(
        errors("DaemonSet", json!({ "spec": { "updateStrategy": { "rollingUpdate": { "maxSurge": 1 } } } })),
        [
            "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is \
          non-zero"
        ]
    );
    assert_eq!(
        errors(
            "StatefulSet",
            json!({ "spec": { "podManagementPolicy": "Any",
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0 } } } })
        ),
        [
            "spec.podManagementPolicy: Invalid value: \"Any\": must be 'OrderedReady' or 'Parallel'",
            "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0",
        ]
    );
    let claims = json!({ "spec": { "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": {} }],
        "template": { "spec": { "containers": [{ "name": "c", "image": "i",
            "volumeMounts": [{ "name": "data", "mountPath": "/d" }] }] } } } });
    assert_eq!(
        errors("StatefulSet", claims),
        [
            "spec.volumeClaimTemplates[0].spec.accessModes: Required value: at least 1 access mode is required",
            "spec.volumeClaimTemplates[0].spec.resources[storage]: Required value",
        ]
    );
    let old = created("apps", "StatefulSet", workload());
    assert_eq!(
        update_errors("apps", "StatefulSet", &old, json!({ "spec": { "serviceName": "s" } })),
        [
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
          'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' \
          are forbidden"
        ]
    );
    assert_eq!(
        create_errors("apps", "ControllerRevision", json!({})),
        ["data: Required value: data is mandatory"]
    );
}

#[test]
fn counts_of_a_status() {
    let old = created("apps", "Deployment", workload());
    let mut new = old.clone();
    new["status"] = json!({ "replicas": 1, "readyReplicas": 2, "updatedReplicas": -1 });
    let texts: Vec<String> =
        update_status(resource("apps", "Deployment"), &new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "status.updatedReplicas: Invalid value: -1: must be greater than or equal to 0",
            "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
        ]
    );
}

fn job() -> Value {
    let mut template = template();
    template["spec"]["restartPolicy"] = json!("Never");
    json!({ "spec": { "template": template } })
}

#[test]
fn jobs() {
    let spec = |spec: Value| json!({ "spec": spec });
    let cases: [(Value, &[&str]); 7] = [
        (
            spec(json!({ "template": { "spec": { "restartPolicy": null } } })),
            &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
        ),
        (
            spec(json!({ "parallelism": -1, "backoffLimit": -2, "completionMode": "Sorted" })),
            &[
                "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
                "spec.backoffLimit: Invalid value: -2: must be greater than or equal to 0",
                "spec.completionMode: Unsupported value: \"Sorted\": supported values: \"NonIndexed\", \
                 \"Indexed\"",
            ],
        ),
        (
            spec(json!({ "completionMode": "Indexed", "parallelism": 2 })),
            &["spec.completions: Required value: when completion mode is Indexed"],
        ),
        (spec(json!({ "manualSelector": true })), &["spec.selector: Required value", NO_MATCH]),
        (
            spec(json!({ "selector": { "matchLabels": { "app": "b" } } })),
            &[
                "spec.selector: Invalid value: \
                 {\"matchLabels\":{\"app\":\"b\",\"batch.kubernetes.io/controller-uid\":\"u1\"}}: `selector` not \
                 auto-generated",
                "spec.template.metadata.labels: Invalid value: \
                 {\"app\":\"a\",\"batch.kubernetes.io/controller-uid\":\"u1\",\
                 \"batch.kubernetes.io/job-name\":\"x\",\"controller-uid\":\"u1\",\"job-name\":\"x\"}: `selector` \
                 does not match template `labels`",
            ],
        ),
        (
            spec(json!({ "podFailurePolicy": { "rules": [{ "action": "Stop" }] } })),
            &[
                "spec.podFailurePolicy.rules[0].action: Unsupported value: \"Stop\": supported values: \"Count\", \
                 \"FailIndex\", \"FailJob\", \"Ignore\"",
                "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions \
                 is required",
            ],
        ),
        (
            spec(json!({ "backoffLimitPerIndex": 1 })),
            &["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"],
        ),
    ];
    check_creates("batch", "Job", &job(), &cases);
    let old = created("batch", "Job", job());
    let mut template = old["spec"]["template"].clone();
    template["spec"]["hostname"] = json!("h");
    let errors =
        update_errors("batch", "Job", &old, json!({ "spec": { "template": template, "completions": 3 } }));
    assert_eq!(errors.len(), 2);
    assert_eq!(errors[0], "spec.completions: Invalid value: 3: field is immutable");
    assert!(
        errors[1].starts_with("spec.template: Invalid value: {")
            && errors[1].ends_with(": field is immutable")
    );
    assert!(update_errors("batch", "Job", &old, json!({ "spec": { "parallelism": 5 } })).is_empty());
}

#[test]
fn a_job_that_ended_stays_so() {
    let mut old = created("batch", "Job", job());
    old["status"] = json!({ "succeeded": 1, "startTime": "2026-01-01T00:00:00Z",
        "completionTime": "2026-01-01T00:00:01Z", "conditions": [{ "type": "Complete", "status": "True" }] });
    let mut new = old.clone();
    new["status"] = json!({ "active": 1 });
    let texts: Vec<String> =
        update_status(resource("batch", "Job"), &new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
            "status.succeeded: Invalid value: 0: cannot decrease the succeeded counter",
        ]
    );
}

#[test]
fn cron_jobs() {
    let base = json!({ "spec": { "schedule": "*/5 * * * *", "jobTemplate": job() } });
    let spec = |spec: Value| json!({ "spec": spec });
    let cases: [(Value, &[&str]); 6] = [
        (spec(json!({ "schedule": null })), &["spec.schedule: Required value"]),
        (
            spec(json!({ "schedule": "* * *" })),
            &["spec.schedule: Invalid value: \"* * *\": expected exactly 5 fields, found 3: [* * *]"],
        ),
        (
            spec(json!({ "schedule": "TZ=UTC * * * * *" })),
            &[
                "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use \
               timeZone field instead",
            ],
        ),
        (
            spec(json!({ "timeZone": "Mars/Olympus", "concurrencyPolicy": "Skip" })),
            &[
                "spec.timeZone: Invalid value: \"Mars/Olympus\": unknown time zone Mars/Olympus",
                "spec.concurrencyPolicy: Unsupported value: \"Skip\": supported values: \"Allow\", \"Forbid\", \
                 \"Replace\"",
            ],
        ),
        (
            spec(json!({ "jobTemplate": { "spec": { "selector": {}, "manualSelector": true } } })),
            &[
                "spec.jobTemplate.spec.selector: Invalid value: {}: `selector` will be auto-generated",
                "spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \"nil\", \
                 \"false\"",
            ],
        ),
        (
            json!({ "metadata": { "name": "n".repeat(53) } }),
            &[
                "metadata.name: Invalid value: \"nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn\": must be no \
               more than 52 characters",
            ],
        ),
    ];
    check_creates("batch", "CronJob", &base, &cases);
}

#[test]
fn schedules() {
    for fine in
        ["0 0 * * 0", "*/15 0-5,7 1 jan-mar MON-FRI", "@daily", "@every 1h30m", "? * * * ?", "5/10 * * * *"]
    {
        assert_eq!(check_schedule(fine), Ok(()), "{fine}");
    }
    let wrong = [
        ("", "empty spec string"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("* * * * 7", "end of range (7) above maximum (6): 7"),
        ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("1/2/3 * * * *", "too many slashes: 1/2/3"),
        ("@often", "unrecognized descriptor: @often"),
        ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
    ];
    for (schedule, message) in wrong {
        assert_eq!(check_schedule(schedule).unwrap_err().to_string(), message, "{schedule}");
    }
}

#[test]
fn of_the_core_group_only_replication_controllers_scale() {
    let scales = |version: &str, kind: &str| {
        let spec = json!({ "maxReplicas": 3, "scaleTargetRef": { "apiVersion": version, "kind": kind, "name": "x" } });
        create_errors("autoscaling", "HorizontalPodAutoscaler", json!({ "spec": spec }))
    };
    assert_eq!(scales("v1", "ReplicationController"), Vec::<String>::new());
    assert_eq!(scales("apps/v1", "Deployment"), Vec::<String>::new());
    assert_eq!(scales("v1", "Deployment").len(), 1);
}
