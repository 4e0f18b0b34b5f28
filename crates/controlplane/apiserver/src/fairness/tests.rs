//! Tests of `fairness`.

use super::*;
use crate::request::Target;

fn place_of(fairness: &Fairness, user: &UserInfo, attributes: &Attributes<'_>) -> (String, String) {
    let place = fairness.place(user, attributes);
    let schema = place.plan.schema(place.at).unwrap();
    (schema.name.to_string(), schema.level.name.to_string())
}

#[test]
fn requests_belong_where_kubernetes_puts_them() {
    let fairness = Fairness::new(600);
    fairness.install(std::iter::empty());
    let target = |group: &str, resource: &str, namespace: Option<&str>| Target {
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.map(str::to_owned),
        ..Target::default()
    };
    let pods = target("", "pods", Some("a"));
    let nodes = target("", "nodes", None);
    let lease = target("coordination.k8s.io", "leases", Some("kube-node-lease"));
    let manager = UserInfo::new("system:kube-controller-manager", &[]);
    let node = UserInfo::new("system:node:a", &["system:nodes"]);
    let robot = |namespace: &str| {
        UserInfo::new(format!("system:serviceaccount:{namespace}:r"), &["system:serviceaccounts"])
    };
    let table = [
        (UserInfo::admin("root"), "list", &pods, "exempt", "exempt"),
        (manager.clone(), "list", &pods, "kube-controller-manager", "workload-high"),
        (manager, "update", &lease, "system-leader-election", "leader-election"),
        (node.clone(), "update", &lease, "system-node-high", "node-high"),
        (node.clone(), "patch", &nodes, "system-node-high", "node-high"),
        (node, "list", &pods, "system-nodes", "system"),
        (robot("kube-system"), "list", &pods, "kube-system-service-accounts", "workload-high"),
        (robot("a"), "list", &pods, "service-accounts", "workload-low"),
        (UserInfo::new("jane", &[]), "list", &pods, "global-default", "global-default"),
        (UserInfo::anonymous(), "list", &nodes, "global-default", "global-default"),
    ];
    for (user, verb, target, schema, level) in table {
        let found = place_of(&fairness, &user, &Attributes::resource(verb, target));
        assert_eq!(found, (schema.to_owned(), level.to_owned()), "{}", user.name);
    }
    let probe = Attributes::Path { verb: "get", path: "/healthz" };
    assert_eq!(place_of(&fairness, &UserInfo::anonymous(), &probe).0, "probes");
    let strange = UserInfo { name: "x".to_owned(), ..UserInfo::default() };
    assert_eq!(place_of(&fairness, &strange, &probe).0, "catch-all");
}

#[test]
fn a_list_takes_a_seat_for_each_hundred_objects() {
    let table = [(0, None, 1), (100, None, 1), (101, None, 2), (100_000, None, 10), (100_000, Some(500), 5)];
    for (objects, limit, seats) in table {
        assert_eq!(list_width(objects, limit), seats, "{objects} {limit:?}");
    }
}
