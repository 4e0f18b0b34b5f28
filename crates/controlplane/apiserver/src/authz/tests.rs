//! Tests of `authz`.

use std::collections::BTreeMap;

use bytes::Bytes;
use sampan_store::KeyValue;
use serde_json::{Value, json};

use super::{policy::Stored, rule::Rule, *};

fn policy(objects: &[(&str, Value)]) -> Policy {
    let parsed = objects.iter().map(|(key, value)| {
        let kv = KeyValue {
            key: Bytes::from(format!("{PREFIX}{key}")),
            value: value.to_string().into(),
            create_revision: 1,
            mod_revision: 1,
            version: 1,
            lease: 0,
        };
        (kv.key.clone(), Arc::new(policy::parse(&kv).unwrap()))
    });
    Policy::compile(&parsed.collect::<BTreeMap<Bytes, Arc<Stored>>>())
}

fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Value {
    let split = |text: &str| -> Vec<String> { text.split(',').map(str::to_owned).collect() };
    let names = if names.is_empty() { Vec::new() } else { split(names) };
    json!({"verbs": split(verbs), "apiGroups": split(groups), "resources": split(resources), "resourceNames": names})
}

fn binding(kind: &str, role: &str, subjects: &[(&str, &str, &str)]) -> Value {
    let subjects: Vec<Value> = subjects
        .iter()
        .map(|(kind, namespace, name)| match *namespace {
            "" => json!({"kind": kind, "name": name}),
            _ => json!({"kind": kind, "name": name, "namespace": namespace}),
        })
        .collect();
    json!({"roleRef": {"kind": kind, "name": role}, "subjects": subjects})
}

/// `verb group resource[/sub] namespace name`; `-` is empty.
fn target(text: &str) -> (String, Target) {
    let words: Vec<&str> = text.split(' ').map(|word| if word == "-" { "" } else { word }).collect();
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let (resource, sub) = words[2].split_once('/').unwrap_or((words[2], ""));
    let target = Target {
        group: words[1].to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        subresource: some(sub),
        namespace: some(words[3]),
        name: some(words[4]),
    };
    (words[0].to_owned(), target)
}

fn may(policy: &Policy, user: &UserInfo, text: &str) -> bool {
    let (verb, target) = target(text);
    policy.allows(user, &Attributes::resource(&verb, &target))
}

#[test]
fn rules_name_groups_resources_subresources_and_names() {
    let table = [
        (rule("*", "*", "*", ""), "get - pods/log a x", true),
        (rule("get", "", "pods", ""), "get - pods a x", true),
        (rule("get", "", "pods", ""), "get - pods/log a x", false),
        (rule("get", "", "pods", ""), "get apps pods a x", false),
        (rule("get", "", "pods", ""), "list - pods a -", false),
        (rule("get", "", "pods/log", ""), "get - pods/log a x", true),
        (rule("get", "", "*/scale", ""), "get - deployments/scale a x", true),
        (rule("get", "", "*/scale", ""), "get - deployments a x", false),
        (rule("get", "", "*/scale", ""), "get - deployments/status a x", false),
        (rule("update", "*", "*/scale", ""), "update apps foo/scale a x", true),
        (rule("get", "apps,batch", "jobs", ""), "get batch jobs a x", true),
        (rule("get", "", "secrets", "a,b"), "get - secrets ns b", true),
        (rule("get", "", "secrets", "a,b"), "get - secrets ns c", false),
        (rule("list", "", "secrets", "a"), "list - secrets ns -", false),
        (rule("sing", "", "pods", ""), "sing - pods a x", true),
        (rule("*", "", "pods", ""), "sing - pods a x", true),
        (rule("get", "", "pods", ""), "sing - pods a x", false),
    ];
    for (rule, text, allowed) in table {
        let rule: Rule = serde_json::from_value::<Rule>(rule).unwrap().compile();
        let (verb, target) = target(text);
        let attributes = Attributes::resource(&verb, &target);
        assert_eq!(rule.allows(&attributes, rule::verb_bit(&verb)), allowed, "{rule} {text}");
    }
}

#[test]
fn rules_name_paths() {
    let table = [
        (vec!["*"], "/anything", true),
        (vec!["/healthz"], "/healthz", true),
        (vec!["/healthz"], "/healthz/etcd", false),
        (vec!["/healthz/*"], "/healthz/etcd", true),
        (vec!["/healthz*"], "/healthz", true),
        (vec!["/apis", "/api/*"], "/api/v1", true),
        (vec!["/apis", "/api/*"], "/api", false),
    ];
    for (urls, path, allowed) in table {
        let rule = json!({"verbs": ["get"], "nonResourceURLs": urls});
        let rule: Rule = serde_json::from_value::<Rule>(rule).unwrap().compile();
        let attributes = Attributes::Path { verb: "get", path };
        assert_eq!(rule.allows(&attributes, rule::verb_bit("get")), allowed, "{rule} {path}");
    }
}

#[test]
fn bindings_grant_where_they_are() {
    let policy = policy(&[
        ("clusterroles/reader", json!({"rules": [rule("get,list", "", "pods", "")]})),
        ("clusterroles/empty", json!({"rules": null})),
        ("roles/a/writer", json!({"rules": [rule("create", "", "pods", "")]})),
        ("clusterrolebindings/all", binding("ClusterRole", "reader", &[("User", "", "jane")])),
        ("clusterrolebindings/none", binding("ClusterRole", "empty", &[("User", "", "jane")])),
        ("clusterrolebindings/sa", binding("ClusterRole", "reader", &[("ServiceAccount", "b", "robot")])),
        ("rolebindings/a/group", binding("Role", "writer", &[("Group", "", "people")])),
        ("rolebindings/a/local", binding("ClusterRole", "reader", &[("ServiceAccount", "", "robot")])),
        ("rolebindings/a/lost", binding("Role", "gone", &[("User", "", "joe")])),
        ("rolebindings/b/lost", binding("Role", "writer", &[("User", "", "joe")])),
    ]);
    let jane = UserInfo::new("jane", &["people"]);
    assert!(may(&policy, &jane, "get - pods a x") && may(&policy, &jane, "list - pods - -"));
    assert!(may(&policy, &jane, "create - pods a -") && !may(&policy, &jane, "create - pods b -"));
    let robot = |namespace: &str| UserInfo::new(format!("system:serviceaccount:{namespace}:robot"), &[]);
    assert!(may(&policy, &robot("b"), "get - pods c x"));
    assert!(may(&policy, &robot("a"), "get - pods a x") && !may(&policy, &robot("a"), "get - pods b x"));
    let joe = UserInfo::new("joe", &[]);
    let (verb, place) = target("create - pods a -");
    assert_eq!(
        policy.decide(&joe, &Attributes::resource(&verb, &place)),
        (false, "RBAC: role.rbac.authorization.k8s.io \"gone\" not found".to_owned())
    );
    let (verb, place) = target("create - pods b -");
    assert!(!policy.decide(&joe, &Attributes::resource(&verb, &place)).0);
    let why = |user: &UserInfo, text: &str| {
        let (verb, target) = target(text);
        policy.decide(user, &Attributes::resource(&verb, &target)).1
    };
    assert_eq!(
        why(&jane, "get - pods a x"),
        "RBAC: allowed by ClusterRoleBinding \"all\" of ClusterRole \"reader\" to User \"jane\""
    );
    assert_eq!(
        why(&jane, "create - pods a -"),
        "RBAC: allowed by RoleBinding \"group/a\" of Role \"writer\" to Group \"people\""
    );
    assert_eq!(
        why(&robot("a"), "get - pods a x"),
        "RBAC: allowed by RoleBinding \"local/a\" of ClusterRole \"reader\" to ServiceAccount \"robot/a\""
    );
}

#[test]
fn refusals_read_as_in_kubernetes() {
    let jane = UserInfo::new("jane", &[]);
    let (verb, target) = target("list - pods a -");
    let status = forbidden(&jane, &Attributes::resource(&verb, &target), "");
    assert_eq!(
        status.message,
        r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "a""#
    );
    assert_eq!(status.code, 403);
    let status = forbidden(&jane, &Attributes::Path { verb: "get", path: "/metrics" }, "RBAC: no");
    assert_eq!(status.message, r#"forbidden: User "jane" cannot get path "/metrics": RBAC: no"#);
    let status = forbidden(&UserInfo::new("<b>", &[]), &Attributes::Path { verb: "get", path: "/a&b" }, "");
    assert_eq!(status.message, r#"forbidden: User "&lt;b&gt;" cannot get path "/a&amp;b""#);
}

#[test]
fn an_owner_covers_what_he_has() {
    let read = |value: Value| serde_json::from_value::<Rule>(value).unwrap().compile();
    let covers = |own: &[Value], asked: Value| {
        let own: Vec<Rule> = own.iter().cloned().map(read).collect();
        read(asked).atoms().iter().all(|atom| own.iter().any(|rule| rule.covers(atom)))
    };
    assert!(covers(&[rule("get,list", "", "pods", "")], rule("list", "", "pods", "")));
    assert!(!covers(&[rule("get", "", "pods", "")], rule("get,list", "", "pods", "")));
    assert!(covers(
        &[rule("get", "", "pods", ""), rule("list", "", "pods", "")],
        rule("get,list", "", "pods", "")
    ));
    assert!(covers(&[rule("*", "*", "*", "")], rule("fly", "x", "y/z", "a")));
    assert!(!covers(&[rule("*", "*", "*", "")], json!({"verbs": ["get"], "nonResourceURLs": ["/x"]})));
    assert!(covers(&[rule("get", "", "*/scale", "")], rule("get", "", "pods/scale", "")));
    assert!(!covers(&[rule("get", "", "*/scale", "")], rule("get", "", "pods", "")));
    assert!(covers(&[rule("get", "", "pods", "")], rule("get", "", "pods", "a")));
    assert!(!covers(&[rule("get", "", "pods", "a")], rule("get", "", "pods", "")));
    assert!(!covers(&[rule("get", "", "pods", "a")], rule("get", "", "pods", "a,b")));
    let url = |url: &str| json!({"verbs": ["get"], "nonResourceURLs": [url]});
    assert!(covers(&[url("/a/*")], url("/a/b")) && covers(&[url("*")], url("/a/*")));
    assert!(!covers(&[url("/a/b")], url("/a/*")));
    assert_eq!(
        read(rule("get", "", "pods", "a")).to_string(),
        r#"{APIGroups:[""], Resources:["pods"], ResourceNames:["a"], Verbs:["get"]}"#
    );
}

#[test]
fn the_table_is_read_whole() {
    let node = bootstrap::rules_of("system:node");
    assert!(node.len() > 20 && bootstrap::rules_of("cluster-admin").len() == 2);
}
