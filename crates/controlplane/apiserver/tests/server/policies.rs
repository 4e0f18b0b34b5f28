//! Admission policies in CEL: what they deny, warn of, note and change; with kubectl and real HTTP.

use crate::kubectl::Kubectl;
use crate::support::Server;
use serde_json::{Value, json};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn constraints(plural: &str) -> Value {
    json!({"resourceRules": [{
        "apiGroups": ["*"], "apiVersions": ["*"], "resources": [plural], "operations": ["CREATE", "UPDATE"],
    }]})
}

fn policy(name: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    let fields = spec.as_object_mut().unwrap();
    fields.entry("matchConstraints").or_insert_with(|| constraints("configmaps"));
    fields.entry("failurePolicy").or_insert("Fail".into());
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

fn binding(name: &str, policy: &str, more: &Value) -> Value {
    let mut spec = json!({"policyName": policy, "validationActions": ["Deny"]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name}, "spec": spec,
    })
}

async fn put(server: &Server, plural: &str, object: &Value) {
    let answer = server.post(&format!("{GROUP}/{plural}"), object).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
}

async fn bound(server: &Server, name: &str, spec: Value, more: Value) {
    put(server, "validatingadmissionpolicies", &policy(name, &spec)).await;
    put(server, "validatingadmissionpolicybindings", &binding(&format!("{name}-binding"), name, &more)).await;
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

#[tokio::test]
async fn a_policy_denies_in_its_own_words() {
    let server = Server::start().await;
    let spec = json!({
        "variables": [{"name": "wanted", "expression": "'owner'"},
                      {"name": "has", "expression": "has(object.data) && variables.wanted in object.data"}],
        "matchConditions": [{"name": "only-some", "expression": "!object.metadata.name.startsWith('free')"}],
        "validations": [
            {"expression": "variables.has", "messageExpression": "'the key ' + variables.wanted + ' is missing in ' + request.namespace"},
            {"expression": "object.data.size() < 3", "message": "too many keys", "reason": "Forbidden"},
        ],
    });
    bound(&server, "owners", spec, json!({})).await;
    let refused = server.post(MAPS, &map("a", json!({"x": "y"}))).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    assert_eq!(
        refused.body["message"],
        "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'owners' with binding 'owners-binding' denied request: \
         the key owner is missing in default"
    );
    assert_eq!(refused.body["reason"], "Invalid");
    let refused = server.post(MAPS, &map("a", json!({"owner": "y", "b": "", "c": ""}))).await;
    assert_eq!((refused.code, refused.body["reason"].as_str()), (403, Some("Forbidden")), "{}", refused.body);
    assert!(refused.body["message"].as_str().unwrap().ends_with("denied request: too many keys"));
    assert_eq!(server.post(MAPS, &map("a", json!({"owner": "me"}))).await.code, 201);
    assert_eq!(server.post(MAPS, &map("free-one", json!({"x": "y"}))).await.code, 201);
    let kubectl = Kubectl::new(&server, "root", &["system:masters"]);
    let (code, _, err) = kubectl.run(&["create", "configmap", "b", "--from-literal=x=y"], "").await;
    assert_eq!(code, 1);
    assert!(err.contains("denied request: the key owner is missing in default"), "{err}");
    // Gone as soon as the answer is there.
    let gone = server
        .delete(&format!("{GROUP}/validatingadmissionpolicybindings/owners-binding"), &Value::Null)
        .await;
    assert_eq!(gone.code, 200);
    assert_eq!(server.post(MAPS, &map("c", json!({"x": "y"}))).await.code, 201);
}

#[tokio::test]
async fn a_policy_warns_and_lets_pass() {
    let server = Server::start().await;
    let spec = json!({"validations": [{"expression": "object.metadata.name.startsWith('ok-')"}],
                      "auditAnnotations": [{"key": "named", "valueExpression": "string(object.metadata.name)"}]});
    bound(&server, "names", spec, json!({"validationActions": ["Warn", "Audit"]})).await;
    let passed = server.post(MAPS, &map("bad", json!({}))).await;
    assert_eq!(passed.code, 201, "{}", passed.body);
    let warnings: Vec<&str> = passed.headers.get_all("warning").iter().map(|w| w.to_str().unwrap()).collect();
    assert!(
        warnings.iter().any(|w| w.contains(
            "Validation failed for ValidatingAdmissionPolicy 'names' with binding 'names-binding': \
             failed expression: object.metadata.name.startsWith('ok-')"
        )),
        "{warnings:?}"
    );
    let kubectl = Kubectl::new(&server, "root", &["system:masters"]);
    let (code, _, err) = kubectl.run(&["create", "configmap", "worse"], "").await;
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("Warning: Validation failed for ValidatingAdmissionPolicy 'names'"), "{err}");
}

#[tokio::test]
async fn parameters_are_looked_up() {
    let server = Server::start().await;
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": constraints("secrets"),
        "validations": [{"expression": "object.metadata.name.size() <= int(params.data.max)",
                         "messageExpression": "'longer than ' + params.data.max"}],
    });
    let reference =
        json!({"paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}});
    bound(&server, "lengths", spec, reference).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    let missing = server.post(secrets, &secret("short")).await;
    assert_eq!(missing.code, 422, "{}", missing.body);
    assert!(
        missing.body["message"].as_str().unwrap().ends_with(
            "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
        ),
        "{}",
        missing.body
    );
    assert_eq!(server.post(MAPS, &map("limits", json!({"max": "5"}))).await.code, 201);
    assert_eq!(server.post(secrets, &secret("short")).await.code, 201);
    let refused = server.post(secrets, &secret("muchlonger")).await;
    assert!(refused.body["message"].as_str().unwrap().ends_with("longer than 5"), "{}", refused.body);
}

#[tokio::test]
async fn a_policy_that_does_not_compile_is_refused() {
    let server = Server::start().await;
    let wrong = policy(
        "wrong",
        &json!({"validations": [{"expression": "object.x > nope"}, {"expression": "1 + 1"}]}),
    );
    let refused = server.post(&format!("{GROUP}/validatingadmissionpolicies"), &wrong).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    let message = refused.body["message"].as_str().unwrap();
    assert!(
        message.contains("spec.validations[0].expression: Invalid value: \"object.x > nope\": compilation failed: ERROR: <input>:1:12: undeclared reference to 'nope' (in container '')\n | object.x > nope\n | ...........^"),
        "{message}"
    );
    assert!(message.contains("must evaluate to bool but got int"), "{message}");
    let empty = policy("empty", &json!({}));
    let refused = server.post(&format!("{GROUP}/validatingadmissionpolicies"), &empty).await;
    assert!(
        refused.body["message"]
            .as_str()
            .unwrap()
            .contains("validations or auditAnnotations must contain at least one item"),
        "{}",
        refused.body
    );
}

#[tokio::test]
async fn runaway_and_failing_expressions_follow_the_failure_policy() {
    let server = Server::start().await;
    let runaway =
        "lists.range(1000).all(a, lists.range(1000).all(b, lists.range(1000).all(c, a + b + c >= 0)))";
    let spec = json!({"validations": [{"expression": runaway}]});
    bound(&server, "runaway", spec, json!({})).await;
    let refused = server.post(MAPS, &map("a", json!({}))).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    assert!(
        refused.body["message"]
            .as_str()
            .unwrap()
            .ends_with("operation cancelled: actual cost limit exceeded")
    );
    let patch = json!({"spec": {"failurePolicy": "Ignore"}});
    let path = format!("{GROUP}/validatingadmissionpolicies/runaway");
    assert_eq!(server.merge(&path, &patch).await.code, 200);
    assert_eq!(server.post(MAPS, &map("a", json!({}))).await.code, 201);
    let spec = json!({"validations": [{"expression": "object.spec.missing == 1"}]});
    bound(&server, "failing", spec, json!({})).await;
    let refused = server.post(MAPS, &map("b", json!({}))).await;
    assert!(
        refused.body["message"].as_str().unwrap().ends_with(
            "denied request: expression 'object.spec.missing == 1' resulted in error: no such key: spec"
        ),
        "{}",
        refused.body
    );
}

#[tokio::test]
async fn the_authorizer_and_the_namespace_are_at_hand() {
    let server = Server::start().await;
    let spec = json!({"validations": [
        {"expression": "authorizer.requestResource.check('delete').allowed()", "message": "you could not delete it"},
        {"expression": "namespaceObject.metadata.name == 'default' && request.userInfo.username != ''"},
        {"expression": "!authorizer.serviceAccount('default', 'default').group('').resource('secrets').check('get').allowed()"},
    ]});
    bound(&server, "asking", spec, json!({})).await;
    let allowed = server.post(MAPS, &map("a", json!({}))).await;
    assert_eq!(allowed.code, 201, "{}", allowed.body);
}

#[tokio::test]
async fn a_mutating_policy_changes_the_object() {
    let server = Server::start().await;
    let mutating = |name: &str, mutations: Value| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {"matchConstraints": constraints("configmaps"), "failurePolicy": "Fail",
                     "reinvocationPolicy": "Never", "mutations": mutations},
        })
    };
    let bind = |name: &str| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name}, "spec": {"policyName": name},
        })
    };
    let apply = "Object{metadata: Object.metadata{labels: {'stamped': object.metadata.name}}}";
    let patch = "[JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('a_b'), value: 'patched'}]";
    let mutations = json!([
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": apply}},
        {"patchType": "JSONPatch", "jsonPatch": {"expression": patch}},
    ]);
    put(&server, "mutatingadmissionpolicies", &mutating("stamp", mutations)).await;
    put(&server, "mutatingadmissionpolicybindings", &bind("stamp")).await;
    let made = server.post(MAPS, &map("a", json!({"x": "y"}))).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.body["metadata"]["labels"]["stamped"], "a");
    assert_eq!(made.body["data"], json!({"x": "y", "a_b": "patched"}));
    // A patch that does not fit is a refusal.
    let mutations = json!([{"patchType": "JSONPatch", "jsonPatch": {
        "expression": "[JSONPatch{op: 'remove', path: '/data/nope'}]",
    }}]);
    put(&server, "mutatingadmissionpolicies", &mutating("zz-bad", mutations)).await;
    put(&server, "mutatingadmissionpolicybindings", &bind("zz-bad")).await;
    let refused = server.post(MAPS, &map("b", json!({"x": "y"}))).await;
    assert_eq!(refused.code, 403, "{}", refused.body);
    let message = refused.body["message"].as_str().unwrap();
    assert!(
        message.starts_with("policy 'zz-bad' with binding 'zz-bad' denied request: JSON Patch: "),
        "{message}"
    );
}
