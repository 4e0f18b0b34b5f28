//! Roles and bindings: what they grant, how refusals read, who may grant what; with kubectl and real HTTP.

use crate::kubectl::Kubectl;
use crate::support::{Server, call};
use http_body_util::Full;
use sampan_apiserver::UserInfo;
use serde_json::{Value, json};

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
const CLUSTER_ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const CLUSTER_BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";

/// Headers, and the status code and message that they give.
type Row<'a> = (&'a [(&'a str, &'a str)], u16, &'a str);

fn role(kind: &str, name: &str, rules: Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "rules": rules,
    })
}

fn binding(kind: &str, name: &str, role: (&str, &str), subject: Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role.0, "name": role.1},
        "subjects": [subject],
    })
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "name": name})
}

#[tokio::test]
async fn what_is_granted_holds_at_once_and_what_is_taken_back_too() {
    let server = Server::start().await;
    let jane = server.handle.client(UserInfo::new("jane", &[]));
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(call(&jane, "GET", pods, Value::Null).await.code, 403);
    let rules = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]);
    assert_eq!(server.post(ROLES, &role("Role", "reader", rules)).await.code, 201);
    let bound =
        server.post(BINDINGS, &binding("RoleBinding", "jane", ("Role", "reader"), user("jane"))).await;
    assert_eq!(bound.code, 201, "{}", bound.body);
    assert_eq!(bound.body["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!(call(&jane, "GET", pods, Value::Null).await.code, 200);
    let all = call(&jane, "GET", "/api/v1/pods", Value::Null).await;
    assert_eq!(
        all.body["message"],
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" at the cluster scope"
    );
    assert_eq!(
        (all.body["reason"].as_str(), &all.body["details"]),
        (Some("Forbidden"), &json!({"kind": "pods"}))
    );
    let log = call(&jane, "GET", &format!("{pods}/x/log"), Value::Null).await;
    assert_eq!(
        log.body["message"],
        "pods \"x\" is forbidden: User \"jane\" cannot get resource \"pods/log\" in API group \"\" in the namespace \"default\""
    );
    assert_eq!(server.delete(&format!("{ROLES}/reader"), &Value::Null).await.code, 200);
    let lost = call(&jane, "GET", pods, Value::Null).await;
    assert!(
        lost.body["message"].as_str().unwrap().ends_with(
            "in the namespace \"default\": RBAC: role.rbac.authorization.k8s.io \"reader\" not found"
        ),
        "{}",
        lost.body
    );
}

#[tokio::test]
async fn nobody_grants_what_he_does_not_have() {
    let server = Server::start().await;
    let admin = server.handle.client(UserInfo::new("boss", &["bosses"]));
    let subject = json!({"kind": "Group", "name": "bosses"});
    assert_eq!(
        server.post(BINDINGS, &binding("RoleBinding", "b", ("ClusterRole", "admin"), subject)).await.code,
        201
    );
    let rules = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]);
    assert_eq!(call(&admin, "POST", ROLES, role("Role", "mine", rules)).await.code, 201);
    let much = json!([
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
        {"verbs": ["get", "update"], "apiGroups": ["x.io"], "resources": ["things"]},
    ]);
    let refused = call(&admin, "POST", ROLES, role("Role", "more", much)).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.body["message"],
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"boss\" (groups=[\"bosses\" \"system:authenticated\"]) \
         is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"x.io\"], Resources:[\"things\"], Verbs:[\"get\" \"update\"]}"
    );
    let more = json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
    assert_eq!(call(&admin, "PATCH", &format!("{ROLES}/mine"), more).await.code, 403);
    let own = binding("RoleBinding", "v", ("ClusterRole", "view"), user("joe"));
    assert_eq!(call(&admin, "POST", BINDINGS, own).await.code, 201);
    let all = binding("RoleBinding", "c", ("ClusterRole", "cluster-admin"), user("joe"));
    let refused = call(&admin, "POST", BINDINGS, all.clone()).await;
    assert!(
        refused.body["message"]
            .as_str()
            .unwrap()
            .contains("is attempting to grant RBAC permissions not currently held:\n"),
        "{}",
        refused.body
    );
    let gone = binding("RoleBinding", "g", ("ClusterRole", "nothing"), user("joe"));
    let refused = call(&admin, "POST", BINDINGS, gone).await;
    assert_eq!(refused.code, 404);
    assert_eq!(refused.body["message"], "clusterrole.rbac.authorization.k8s.io \"nothing\" not found");
    // `bind` and `escalate` let somebody grant more than he has.
    let rules = json!([{
        "verbs": ["bind"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"],
        "resourceNames": ["cluster-admin"],
    }, {
        "verbs": ["escalate"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"],
    }]);
    assert_eq!(server.post(CLUSTER_ROLES, &role("ClusterRole", "binder", rules)).await.code, 201);
    let may = binding("ClusterRoleBinding", "binder", ("ClusterRole", "binder"), user("boss"));
    assert_eq!(server.post(CLUSTER_BINDINGS, &may).await.code, 201);
    assert_eq!(call(&admin, "POST", BINDINGS, all).await.code, 201);
    let more = json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
    assert_eq!(call(&admin, "PATCH", &format!("{ROLES}/mine"), more).await.code, 200);
}

#[tokio::test]
async fn what_is_wrong_with_a_role_is_said() {
    let server = Server::start().await;
    let table = [
        (
            ROLES,
            role("Role", "r", json!([{"verbs": ["get"], "nonResourceURLs": ["/x"]}])),
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
        ),
        (
            ROLES,
            role("Role", "r", json!([{"apiGroups": [""], "resources": ["pods"], "verbs": []}])),
            "rules[0].verbs: Required value: verbs must contain at least one value",
        ),
        (
            ROLES,
            role("Role", "r", json!([{"verbs": ["get"], "resources": ["pods"]}])),
            "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
        ),
        (
            BINDINGS,
            binding("RoleBinding", "b", ("Thing", "x"), user("j")),
            "roleRef.kind: Unsupported value: \"Thing\": supported values: \"ClusterRole\", \"Role\"",
        ),
        (
            BINDINGS,
            binding("RoleBinding", "b", ("Role", "x"), json!({"kind": "Robot", "name": "r"})),
            "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
        ),
        (
            CLUSTER_BINDINGS,
            binding(
                "ClusterRoleBinding",
                "b",
                ("ClusterRole", "x"),
                json!({"kind": "ServiceAccount", "name": "r"}),
            ),
            "subjects[0].namespace: Required value",
        ),
    ];
    for (path, object, wanted) in table {
        let answer = server.post(path, &object).await;
        let message = answer.body["message"].as_str().unwrap_or_default();
        assert!(answer.code == 422 && message.contains(wanted), "{wanted}: {}", answer.body);
    }
    let first = binding("RoleBinding", "b", ("Role", "x"), user("j"));
    assert_eq!(server.post(BINDINGS, &first).await.code, 201);
    let other = json!({"roleRef": {"name": "y"}});
    let answer = server.merge(&format!("{BINDINGS}/b"), &other).await;
    assert!(answer.body["message"].as_str().unwrap().contains("cannot change roleRef"), "{}", answer.body);
}

#[tokio::test]
async fn every_cluster_begins_with_kubernetes_roles() {
    let server = Server::start().await;
    let count = |body: &Value| body["items"].as_array().unwrap().len();
    let roles = server.get(CLUSTER_ROLES).await.body;
    assert!(count(&roles) > 70, "{}", count(&roles));
    let view = server.get(&format!("{CLUSTER_ROLES}/view")).await.body;
    assert!(view["rules"].as_array().unwrap().len() > 5, "complete from the first moment");
    // What is cut is mended at the next start, what is added stays, what opts out is left alone.
    let labels = json!({"rules": [{"verbs": ["sing"], "apiGroups": [""], "resources": ["pods"]}]});
    assert_eq!(server.merge(&format!("{CLUSTER_ROLES}/system:discovery"), &labels).await.code, 200);
    let out = json!({"rules": null, "metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}});
    assert_eq!(server.merge(&format!("{CLUSTER_ROLES}/system:basic-user"), &out).await.code, 200);
    assert_eq!(server.delete(&format!("{CLUSTER_BINDINGS}/system:kube-dns"), &Value::Null).await.code, 200);
    let server = server.restart("192.0.2.10:6443").await;
    let discovery = server.get(&format!("{CLUSTER_ROLES}/system:discovery")).await.body;
    let text = discovery["rules"].to_string();
    assert!(text.contains("sing") && text.contains("/openapi"), "{text}");
    assert!(
        server.get(&format!("{CLUSTER_ROLES}/system:basic-user")).await.body["rules"]
            .as_array()
            .is_none_or(Vec::is_empty)
    );
    assert_eq!(server.get(&format!("{CLUSTER_BINDINGS}/system:kube-dns")).await.code, 200);
    let nobody = server.handle.client(UserInfo::anonymous());
    for path in ["/version", "/healthz", "/livez", "/readyz"] {
        assert_eq!(call(&nobody, "GET", path, Value::Null).await.code, 200, "{path}");
    }
    let refused = call(&nobody, "GET", "/api/v1/pods", Value::Null).await;
    assert_eq!(refused.code, 403);
    let somebody = server.handle.client(UserInfo::new("jane", &[]));
    for path in ["/api", "/apis", "/api/v1", "/apis/apps/v1", "/openapi/v3", "/version"] {
        assert_eq!(call(&somebody, "GET", path, Value::Null).await.code, 200, "{path}");
    }
    assert_eq!(call(&somebody, "GET", "/metrics", Value::Null).await.code, 403);
}

#[tokio::test]
async fn acting_as_another_takes_a_permission_for_each_part() {
    let server = Server::start().await;
    let rules = json!([
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["joe"]},
        {"verbs": ["impersonate"], "apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"], "resourceNames": ["view"]},
    ]);
    assert_eq!(server.post(CLUSTER_ROLES, &role("ClusterRole", "actor", rules)).await.code, 201);
    let bound = binding("ClusterRoleBinding", "actor", ("ClusterRole", "actor"), user("jane"));
    assert_eq!(server.post(CLUSTER_BINDINGS, &bound).await.code, 201);
    let jane = server.handle.client(UserInfo::new("jane", &[]));
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let ask = async |headers: &[(&str, &str)]| {
        let mut request = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(review.to_string().into())).unwrap();
        crate::support::answer(jane.clone(), request).await
    };
    let answer = ask(&[("Impersonate-User", "joe"), ("Impersonate-Extra-Scopes", "view")]).await;
    assert_eq!(
        answer.body["status"]["userInfo"],
        json!({"username": "joe", "groups": ["system:authenticated"], "extra": {"scopes": ["view"]}}),
        "{}",
        answer.body
    );
    let table: [Row<'_>; 5] = [
        (
            &[("Impersonate-User", "jim")],
            403,
            "users \"jim\" is forbidden: User \"jane\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
        ),
        (
            &[("Impersonate-User", "joe"), ("Impersonate-Group", "g")],
            403,
            "groups \"g\" is forbidden: User \"jane\" cannot impersonate resource \"groups\" in API group \"\" at the cluster scope",
        ),
        (
            &[("Impersonate-User", "joe"), ("Impersonate-Uid", "u")],
            403,
            "uids.authentication.k8s.io \"u\" is forbidden: User \"jane\" cannot impersonate resource \"uids\" in API group \"authentication.k8s.io\" at the cluster scope",
        ),
        (
            &[("Impersonate-User", "system:serviceaccount:a:b")],
            403,
            "serviceaccounts \"b\" is forbidden: User \"jane\" cannot impersonate resource \"serviceaccounts\" in API group \"\" in the namespace \"a\"",
        ),
        (&[("Impersonate-Group", "g")], 400, "requested [{Group  g    }] without impersonating a user"),
    ];
    for (headers, code, message) in table {
        let answer = ask(headers).await;
        assert_eq!((answer.code, answer.body["message"].as_str()), (code, Some(message)));
    }
}

#[tokio::test]
async fn kubectl_auth_tells_what_one_may() {
    let server = Server::start().await;
    let admin = Kubectl::new(&server, "root", &["system:masters"]);
    let jane = Kubectl::new(&server, "jane", &["people"]);
    admin.ok(&["create", "rolebinding", "jane", "--clusterrole=view", "--user=jane"], "").await;
    admin
        .ok(&["create", "clusterrole", "scaler", "--verb=update,get", "--resource=deployments/scale"], "")
        .await;
    admin.ok(&["create", "clusterrolebinding", "scaler", "--clusterrole=scaler", "--group=people"], "").await;
    for (args, answer) in [
        (&["auth", "can-i", "list", "pods"][..], "yes"),
        (&["auth", "can-i", "list", "secrets"], "no"),
        (&["auth", "can-i", "update", "deployments", "--subresource=scale"], "yes"),
        (&["auth", "can-i", "list", "pods", "-n", "kube-system"], "no"),
        (&["auth", "can-i", "get", "/version"], "yes"),
        (&["auth", "can-i", "get", "/metrics"], "no"),
    ] {
        let (code, out, err) = jane.run(args, "").await;
        assert_eq!(
            (out.trim().lines().last(), code),
            (Some(answer), i32::from(answer == "no")),
            "{args:?} {err}"
        );
    }
    let (_, out, _) = admin.run(&["auth", "can-i", "list", "secrets", "--as=jane", "-v=6"], "").await;
    assert_eq!(out.trim(), "no");
    let list = jane.ok(&["auth", "can-i", "--list"], "").await;
    assert!(list.contains("selfsubjectaccessreviews.authorization.k8s.io"), "{list}");
    assert!(list.contains("deployments.apps/scale") && list.contains("[/healthz]"), "{list}");
    let who = jane.ok(&["auth", "whoami"], "").await;
    assert!(who.contains("jane") && who.contains("people") && who.contains("system:authenticated"), "{who}");
    let reconcile = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: scaler}\nrules:\n\
        - {apiGroups: [apps], resources: [deployments/scale], verbs: [get, patch]}\n";
    let said = admin.ok(&["auth", "reconcile", "-f", "-"], reconcile).await;
    assert!(said.contains("clusterrole.rbac.authorization.k8s.io/scaler reconciled"), "{said}");
    let scaler = admin.ok(&["get", "clusterrole", "scaler", "-o", "json"], "").await;
    let verbs = serde_json::from_str::<Value>(&scaler).unwrap()["rules"].to_string();
    assert!(verbs.contains("patch") && verbs.contains("update"), "{verbs}");
    let table = admin.ok(&["get", "rolebindings,clusterrolebindings", "-o", "wide"], "").await;
    assert!(table.contains("ClusterRole/view") && table.contains("SERVICEACCOUNTS"), "{table}");
    let (_, _, refused) = jane.run(&["delete", "pod", "x"], "").await;
    assert!(
        refused.contains("Error from server (Forbidden): pods \"x\" is forbidden: User \"jane\" cannot delete resource \"pods\" in API group \"\" in the namespace \"default\""),
        "{refused}"
    );
}

#[tokio::test]
async fn reviews_say_why() {
    let server = Server::start().await;
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let review = |spec: Value| json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
    let answer = server
        .post(path, &review(json!({"user": "system:kube-scheduler", "resourceAttributes": {"verb": "list", "resource": "pods"}})))
        .await;
    assert_eq!(
        answer.body["status"],
        json!({"allowed": true, "reason": "RBAC: allowed by ClusterRoleBinding \"system:kube-scheduler\" of ClusterRole \"system:kube-scheduler\" to User \"system:kube-scheduler\""}),
        "{}",
        answer.body
    );
    let answer = server
        .post(
            path,
            &review(
                json!({"groups": ["system:masters"], "nonResourceAttributes": {"verb": "get", "path": "/x"}}),
            ),
        )
        .await;
    assert_eq!(answer.body["status"], json!({"allowed": true}));
    for (spec, wanted) in [
        (
            json!({"user": "u"}),
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        (
            json!({"resourceAttributes": {"verb": "get"}}),
            "spec.user: Invalid value: \"\": at least one of user or group must be specified",
        ),
        (
            json!({"user": "u", "resourceAttributes": {"verb": "get"}, "nonResourceAttributes": {"path": "/"}}),
            "cannot be specified in combination with resourceAttributes",
        ),
    ] {
        let answer = server.post(path, &review(spec)).await;
        assert!(
            answer.code == 422 && answer.body["message"].as_str().unwrap().contains(wanted),
            "{}",
            answer.body
        );
    }
    let local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "LocalSubjectAccessReview",
        "spec": {"user": "u", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "other"}},
    });
    let answer = server.post(local, &review).await;
    assert!(
        answer.body["message"].as_str().unwrap().contains("must match metadata.namespace"),
        "{}",
        answer.body
    );
}
