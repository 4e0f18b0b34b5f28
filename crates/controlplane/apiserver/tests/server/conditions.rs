//! Conditions in CEL of webhooks, and what configurations of admission have to look like.

use crate::hook::{Hook, configuration};
use crate::support::{Answer, Server};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const REGISTRATION: &str = "/apis/admissionregistration.k8s.io/v1";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

fn message(answer: &Answer) -> &str {
    answer.body["message"].as_str().unwrap_or_default()
}

fn causes(answer: &Answer) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let causes = answer.body["details"]["causes"].as_array().cloned().unwrap_or_default();
    causes.iter().map(|cause| (text(&cause["field"]), text(&cause["message"]))).collect()
}

#[tokio::test]
async fn a_webhook_is_asked_where_its_conditions_hold() {
    let server = Server::start().await;
    let hook = Hook::start(|_| json!({"allowed": false})).await;
    let conditions = json!({"matchConditions": [
        {"name": "not-free", "expression": "!object.metadata.name.startsWith('free')"},
        {"name": "who", "expression": "request.userInfo.username == 'tester' && authorizer.group('').resource('secrets').check('get').allowed()"},
        {"name": "new", "expression": "oldObject == null || request.operation == 'CREATE'"},
    ]});
    let with = configuration("ValidatingWebhookConfiguration", "some", hook.client_config(), conditions);
    let made = server.post(VALIDATING, &with).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(server.post(MAPS, &map("free-one")).await.code, 201);
    assert_eq!(hook.count(), 0);
    let refused = server.post(MAPS, &map("bound")).await;
    assert_eq!(refused.code, 400, "{}", refused.body);
    assert_eq!(hook.count(), 1);
}

#[tokio::test]
async fn conditions_that_fail_follow_the_failure_policy() {
    let server = Server::start().await;
    let hook = Hook::start(|_| json!({"allowed": false})).await;
    for (name, policy) in [("open", "Ignore"), ("shut", "Fail")] {
        let with = json!({"failurePolicy": policy, "matchConditions": [
            {"name": "x", "expression": "object.spec.missing == 1"},
            {"name": "y", "expression": "object.metadata.name != 'out'"},
        ]});
        let made = configuration("ValidatingWebhookConfiguration", name, hook.client_config(), with);
        assert_eq!(server.post(VALIDATING, &made).await.code, 201);
        let answer = server.post(MAPS, &map(&format!("of-{name}"))).await;
        if policy == "Ignore" {
            assert_eq!(answer.code, 201, "{}", answer.body);
            continue;
        }
        assert_eq!(answer.code, 403, "{}", answer.body);
        assert_eq!(
            message(&answer),
            "configmaps \"of-shut\" is forbidden: expression 'object.spec.missing == 1' resulted in error: no such key: spec"
        );
        // What is false wins over what fails.
        assert_eq!(server.post(MAPS, &map("out")).await.code, 201);
    }
    assert_eq!(hook.count(), 0);
}

#[tokio::test]
async fn a_configuration_gets_defaults_and_is_checked() {
    let server = Server::start().await;
    let hook = Hook::start(|_| json!({"allowed": true})).await;
    let good = configuration(
        "MutatingWebhookConfiguration",
        "good",
        hook.client_config(),
        json!({"rules": [{
            "apiGroups": [""], "apiVersions": ["v1"], "resources": ["secrets"], "operations": ["CREATE"],
        }]}),
    );
    let made = server.post(&format!("{REGISTRATION}/mutatingwebhookconfigurations"), &good).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let stored = &made.body["webhooks"][0];
    assert_eq!(
        (&stored["failurePolicy"], &stored["matchPolicy"], &stored["reinvocationPolicy"]),
        (&json!("Fail"), &json!("Equivalent"), &json!("Never"))
    );
    assert_eq!((&stored["rules"][0]["scope"], &stored["timeoutSeconds"]), (&json!("*"), &json!(10)));
    let bad = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "bad"},
        "webhooks": [
            {
                "name": "short.name", "sideEffects": "Some", "admissionReviewVersions": ["v7"],
                "timeoutSeconds": 31, "clientConfig": {"url": "http://user@host/path?x=y#z"},
                "rules": [{"apiGroups": ["", "*"], "apiVersions": [""], "operations": ["READ"],
                           "resources": ["*", "pods", "pods/*", "pods/log"]}],
                "matchConditions": [{"name": "a b", "expression": "nope"}, {"name": "ok", "expression": "1 + 1"},
                                    {"name": "ok", "expression": " "}],
            },
            {"name": "two.example.com", "admissionReviewVersions": [], "clientConfig": {}},
            {"name": "two.example.com", "admissionReviewVersions": ["v1", "v1"], "sideEffects": "None",
             "clientConfig": {"service": {"name": "s", "namespace": "n", "port": 0, "path": "/a//B"}}},
        ],
    });
    let refused = server.post(VALIDATING, &bad).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    let causes = causes(&refused);
    let has = |field: &str, part: &str| {
        assert!(causes.iter().any(|(f, m)| f == field && m.contains(part)), "{field}: {part}: {causes:#?}");
    };
    let domain = "should be a domain with at least three segments separated by dots";
    has("webhooks[0].name", domain);
    has(
        "webhooks[0].sideEffects",
        "Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
    );
    has("webhooks[0].admissionReviewVersions", "must include at least one of v1, v1beta1");
    has(
        "webhooks[0].timeoutSeconds",
        "Invalid value: 31: the timeout value must be between 1 and 30 seconds",
    );
    let url = "webhooks[0].clientConfig.url";
    has(
        url,
        "Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
    );
    has(url, "user information is not permitted in the URL");
    has(url, "fragments are not permitted in the URL");
    has(url, "query parameters are not permitted in the URL");
    has("webhooks[0].rules[0].apiGroups", "if '*' is present, must not specify other API groups");
    has("webhooks[0].rules[0].apiVersions[0]", "Required value");
    has("webhooks[0].rules[0].operations[0]", "Unsupported value: \"READ\"");
    has("webhooks[0].rules[0].resources[3]", "if 'pods/*' is present, must not specify pods/log");
    has(
        "webhooks[0].rules[0].resources",
        "if '*' is present, must not specify other resources without subresources",
    );
    has("webhooks[0].matchConditions[0].name", "name part must consist of");
    has("webhooks[0].matchConditions[0].expression", "undeclared reference to 'nope'");
    has("webhooks[0].matchConditions[1].expression", "must evaluate to bool but got int");
    has("webhooks[0].matchConditions[2].expression", "Required value");
    has("webhooks[0].matchConditions[2].name", "Duplicate value: \"ok\"");
    has("webhooks[1].sideEffects", "Required value: must specify one of None, NoneOnDryRun");
    has("webhooks[1].admissionReviewVersions", "Required value: must specify one of v1, v1beta1");
    has("webhooks[1].clientConfig", "exactly one of url or service is required");
    has("webhooks[2].name", "Duplicate value: \"two.example.com\"");
    has("webhooks[2].admissionReviewVersions[1]", "Invalid value: \"v1\": duplicate version");
    has("webhooks[2].clientConfig.service.port", "port is not valid: must be between 1 and 65535, inclusive");
    has("webhooks[2].clientConfig.service.path", "segment[1] may not be empty");
    has("webhooks[2].clientConfig.service.path", "segment[2]: a lowercase RFC 1123 subdomain");
}

#[tokio::test]
async fn a_binding_is_checked() {
    let server = Server::start().await;
    let binding = |kind: &str, spec: Value| json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "b"}, "spec": spec});
    let spec = json!({
        "validationActions": ["Deny", "Warn", "Warn", "Shout"],
        "paramRef": {"name": "x", "selector": {}, "parameterNotFoundAction": "Maybe"},
        "matchResources": {"resourceRules": [{"operations": []}]},
    });
    let path = format!("{REGISTRATION}/validatingadmissionpolicybindings");
    let refused = server.post(&path, &binding("ValidatingAdmissionPolicyBinding", spec)).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    let causes = causes(&refused);
    for (field, part) in [
        ("spec.policyName", "Required value"),
        ("spec.paramRef.name", "name and selector are mutually exclusive"),
        ("spec.paramRef.parameterNotFoundAction", "supported values: \"Deny\", \"Allow\""),
        ("spec.matchResources.resourceRules[0].operations", "Required value"),
        ("spec.validationActions", "must not contain both Deny and Warn"),
        ("spec.validationActions[2]", "Duplicate value: \"Warn\""),
        ("spec.validationActions[3]", "supported values: \"Audit\", \"Deny\", \"Warn\""),
    ] {
        assert!(causes.iter().any(|(f, m)| f == field && m.contains(part)), "{field}: {part}: {causes:#?}");
    }
    let made = binding("MutatingAdmissionPolicyBinding", json!({"policyName": "p", "matchResources": {}}));
    let made = server.post(&format!("{REGISTRATION}/mutatingadmissionpolicybindings"), &made).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.body["spec"]["matchResources"]["matchPolicy"], "Equivalent");
}
