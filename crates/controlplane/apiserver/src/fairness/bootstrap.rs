//! The schemas and levels that every cluster has from the start, as Kubernetes defines them
//! (staging/src/k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap, as of 1.36), and what the server keeps true of all.

use sampan_api::status::Status;
use sampan_store::{Compare, Op, Range, Txn, prefix_end};
use serde_json::{Value, json};

use super::{GROUP, PREFIX};
use crate::{call::text, core::Core, encode, endpoint::Endpoint, storage::store_error};

/// Name, shares, percent that may be lent, queues and hand size.
const LEVELS: [(&str, u32, u32, u32, u32); 6] = [
    ("system", 30, 33, 64, 6),
    ("node-high", 40, 25, 64, 6),
    ("leader-election", 10, 0, 16, 4),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
    ("global-default", 20, 50, 128, 6),
];

const AUTO: &str = "apf.kubernetes.io/autoupdate-spec";

/// One that a cluster has.
pub(super) struct Wanted {
    pub(super) plural: &'static str,
    pub(super) name: &'static str,
    pub(super) spec: Value,
    /// Nobody may change it.
    fixed: bool,
}

fn level(name: &'static str, spec: Value, fixed: bool) -> Wanted {
    Wanted { plural: "prioritylevelconfigurations", name, spec, fixed }
}

fn schema(
    name: &'static str,
    level: &str,
    precedence: u32,
    by: &str,
    subjects: &[(&str, &str)],
    rules: &[Value],
) -> Wanted {
    let subjects: Vec<Value> = subjects
        .iter()
        .map(|(kind, name)| match *kind {
            "Group" => json!({"kind": "Group", "group": {"name": name}}),
            "User" => json!({"kind": "User", "user": {"name": name}}),
            _ => json!({
                "kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name},
            }),
        })
        .collect();
    let part = |name: &str| -> Vec<Value> {
        rules.iter().filter(|rule| rule.get(name).is_some()).cloned().collect()
    };
    let mut rule = json!({"subjects": subjects});
    for (field, member) in [("resourceRules", "resources"), ("nonResourceRules", "nonResourceURLs")] {
        let rules = part(member);
        if !rules.is_empty() {
            rule[field] = rules.into();
        }
    }
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level},
        "matchingPrecedence": precedence,
    });
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    spec["rules"] = json!([rule]);
    Wanted { plural: "flowschemas", name, spec, fixed: matches!(name, "exempt" | "catch-all") }
}

fn resource(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

/// Everything that there is at the start.
pub(super) fn wanted() -> Vec<Wanted> {
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let reject = json!({
        "type": "Limited",
        "limited": {
            "nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}, "lendablePercent": 0,
        },
    });
    let mut all = vec![level("exempt", exempt, true), level("catch-all", reject, true)];
    all.extend(LEVELS.iter().map(|(name, shares, lendable, queues, hand)| {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
        let limited = json!({
            "nominalConcurrencyShares": shares,
            "limitResponse": {"type": "Queue", "queuing": queuing},
            "lendablePercent": lendable,
        });
        level(name, json!({"type": "Limited", "limited": limited}), false)
    }));
    let paths = |verb: &str, urls: &[&str]| json!({"verbs": [verb], "nonResourceURLs": urls});
    let everything = [resource(&["*"], "*", &["*"], true), paths("*", &["*"])];
    let leases = |verbs: &[&str]| resource(verbs, "coordination.k8s.io", &["leases"], false);
    let masters = [("Group", "system:masters")];
    let everybody = [("Group", "system:unauthenticated"), ("Group", "system:authenticated")];
    let nodes = [("Group", "system:nodes")];
    let (manager, scheduler) =
        (("User", "system:kube-controller-manager"), ("User", "system:kube-scheduler"));
    let system = ("ServiceAccount", "*");
    let probes = [paths("get", &["/healthz", "/readyz", "/livez"])];
    let election = [leases(&["get", "create", "update"])];
    let own = [resource(&["*"], "", &["nodes", "nodes/status"], true), leases(&["*"])];
    all.extend([
        schema("exempt", "exempt", 1, "", &masters, &everything),
        schema("catch-all", "catch-all", 10_000, "ByUser", &everybody, &everything),
        schema("system-nodes", "system", 500, "ByUser", &nodes, &everything),
        schema("system-node-high", "node-high", 400, "ByUser", &nodes, &own),
        schema("probes", "exempt", 2, "", &everybody, &probes),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            &[manager, scheduler, system],
            &election,
        ),
        schema("kube-controller-manager", "workload-high", 800, "ByNamespace", &[manager], &everything),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", &[scheduler], &everything),
        schema("kube-system-service-accounts", "workload-high", 900, "ByNamespace", &[system], &everything),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            "ByUser",
            &[("Group", "system:serviceaccounts")],
            &everything,
        ),
        schema("global-default", "global-default", 9900, "ByUser", &everybody, &everything),
    ]);
    all
}

fn new(endpoint: &Endpoint, want: &Wanted, now: &str) -> Value {
    json!({
        "apiVersion": endpoint.resource.api_version(),
        "kind": endpoint.resource.kind,
        "metadata": {
            "name": want.name,
            "uid": uuid::Uuid::new_v4().to_string(),
            "generation": 1,
            "creationTimestamp": now,
            "annotations": {AUTO: "true"},
        },
        "spec": want.spec,
        "status": {},
    })
}

/// What is stored with what the server keeps true of it.
fn mended(want: Option<&Wanted>, mut object: Value) -> Value {
    if let Some(want) = want
        && (want.fixed || object["metadata"]["annotations"][AUTO] == "true")
        && object["spec"] != want.spec
        // The level that has no limits may lend more or less.
        && !(want.name == "exempt" && want.plural == "prioritylevelconfigurations")
    {
        object["spec"] = want.spec.clone();
        let generation = object["metadata"]["generation"].as_i64().unwrap_or(1) + 1;
        object["metadata"]["generation"] = generation.into();
    }
    object
}

/// Says in a schema's status whether its level is there.
fn judge(object: &mut Value, levels: &[String], now: &str) {
    let level = text(object, "/spec/priorityLevelConfiguration/name").to_owned();
    let found = levels.contains(&level);
    let (status, reason, message) = if found {
        let message = format!(
            "This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists"
        );
        ("False", "Found", message)
    } else {
        let message = format!(
            "This FlowSchema references the PriorityLevelConfiguration object named {level:?} but there is no such object"
        );
        ("True", "NotFound", message)
    };
    let condition = json!({
        "type": "Dangling", "status": status, "lastTransitionTime": now, "reason": reason, "message": message,
    });
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    let conditions = &mut object["status"]["conditions"];
    match conditions.as_array_mut() {
        None => *conditions = json!([condition]),
        Some(all) => match all.iter_mut().find(|known| known["type"] == "Dangling") {
            Some(known) if known["status"] == status && known["message"] == condition["message"] => {}
            Some(known) => *known = condition,
            None => all.push(condition),
        },
    }
}

/// The steps that make everything true: missing objects, specs that keep themselves up to date, conditions.
pub(crate) async fn plan(core: &Core) -> Result<Txn, Status> {
    let range = Range { start: PREFIX.into(), end: prefix_end(PREFIX.as_bytes()), ..Range::default() };
    let stored = core.store().range(range).await.map_err(|error| store_error(&error))?.kvs;
    let now = sampan_daemon::clock::rfc3339(sampan_daemon::clock::now());
    let wanted = wanted();
    let endpoint = |plural: &str| core.endpoint(GROUP, "v1", plural);
    let (schemas, configurations) = (endpoint("flowschemas")?, endpoint("prioritylevelconfigurations")?);
    let mut txn = Txn::default();
    let mut levels: Vec<String> =
        wanted.iter().filter(|w| w.plural != "flowschemas").map(|w| w.name.into()).collect();
    let is_level = |key: &[u8]| key.starts_with(configurations.prefix.as_bytes());
    for kv in stored.iter().filter(|kv| is_level(&kv.key)) {
        levels.push(configurations.names(&kv.key).1.to_owned());
    }
    let mut put = |endpoint: &Endpoint, key: bytes::Bytes, revision: i64, object: &Value| {
        txn.compare.push(Compare::ModRevision(key.clone(), revision));
        txn.ops.push(Op::Put { key, value: encode::canonical(endpoint, object)?, lease: 0 });
        Ok::<(), Status>(())
    };
    for kv in &stored {
        let endpoint = if is_level(&kv.key) { &configurations } else { &schemas };
        let before = encode::parse(endpoint, &kv.value, kv.mod_revision)?;
        let name = endpoint.names(&kv.key).1;
        let want = wanted.iter().find(|w| w.name == name && w.plural == endpoint.resource.plural);
        let mut object = mended(want, before.clone());
        if !is_level(&kv.key) {
            judge(&mut object, &levels, &now);
        }
        if object != before {
            put(endpoint, kv.key.clone(), kv.mod_revision, &object)?;
        }
    }
    for want in &wanted {
        let endpoint = if want.plural == "flowschemas" { &schemas } else { &configurations };
        let key = endpoint.key(None, want.name);
        if stored.iter().any(|kv| kv.key == key) {
            continue;
        }
        let mut object = new(endpoint, want, &now);
        if want.plural == "flowschemas" {
            judge(&mut object, &levels, &now);
        }
        put(endpoint, key, 0, &object)?;
    }
    Ok(txn)
}
