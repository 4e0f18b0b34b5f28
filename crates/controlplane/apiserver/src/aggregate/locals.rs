//! The APIServices of what this server has itself: there is one for each group and version, so that one can see what is
//! served and by whom.

use std::{collections::BTreeMap, sync::Arc};

use sampan_api::status::Status;
use sampan_daemon::{Backoff, Policy};
use sampan_store::{Compare, Op, Txn};
use serde_json::{Value, json};

use super::{GROUP, PLURAL, Stored};
use crate::{call::text, core::Core, encode, mirror::Mirror};

/// Marks those that this server keeps.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Writes in one transaction at most.
const BATCH: usize = 64;

/// Keeps the APIServices of local groups: now, and when custom kinds come and go.
pub(super) async fn start(core: &Arc<Core>, mirror: &Arc<Mirror<Stored>>) -> Result<(), Status> {
    let mut changes = core.endpoints.changes();
    changes.borrow_and_update();
    keep(core, mirror).await?;
    let (core, mirror) = (core.clone(), mirror.clone());
    let policy = Policy::Restart(Backoff::new(
        std::time::Duration::from_millis(200),
        std::time::Duration::from_secs(10),
    ));
    let supervisor = core.supervisor.clone();
    supervisor.supervise("local-api-services", policy, move || {
        let (core, mirror, mut changes) = (core.clone(), mirror.clone(), changes.clone());
        changes.mark_changed();
        async move {
            while changes.changed().await.is_ok() {
                keep(&core, &mirror).await?;
            }
            Ok::<(), Status>(())
        }
    });
    Ok(())
}

/// Priorities as upstream gives them: groups that belong together stand together.
fn priorities(group: &str, version: &str, custom: bool) -> (i64, i64) {
    if custom {
        return (1000, 100);
    }
    let group = match group {
        "" => 18000,
        "apps" => 17800,
        "events.k8s.io" => 17750,
        "authentication.k8s.io" => 17700,
        "authorization.k8s.io" => 17600,
        "autoscaling" => 17500,
        "batch" => 17400,
        "certificates.k8s.io" => 17300,
        "networking.k8s.io" => 17200,
        "policy" => 17100,
        "rbac.authorization.k8s.io" => 17000,
        "storage.k8s.io" => 16800,
        "apiextensions.k8s.io" | "admissionregistration.k8s.io" => 16700,
        "scheduling.k8s.io" => 16600,
        "coordination.k8s.io" => 16500,
        "node.k8s.io" => 16300,
        "discovery.k8s.io" => 16200,
        "flowcontrol.apiserver.k8s.io" => 16100,
        "internal.apiserver.k8s.io" => 16000,
        "resource.k8s.io" => 15900,
        _ => 10000,
    };
    (group, if version == "v1" && group == 18000 { 1 } else { 15 })
}

fn wanted(core: &Core) -> BTreeMap<String, Value> {
    let served = core.endpoints.served();
    let mut out = BTreeMap::new();
    for endpoint in &served.endpoints {
        let resource = endpoint.resource;
        let (group, version, custom) = (resource.group, resource.version, endpoint.custom.is_some());
        // The group of APIServices is everywhere and has none itself.
        if group == GROUP {
            continue;
        }
        let (first, second) = priorities(group, version, custom);
        let name = format!("{version}.{group}");
        out.entry(name.clone()).or_insert_with(|| {
            json!({
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": name, "labels": {MANAGED: if custom { "true" } else { "onstart" }}},
                "spec": {
                    "group": group, "version": version,
                    "groupPriorityMinimum": first, "versionPriority": second,
                },
            })
        });
    }
    out
}

async fn keep(core: &Core, mirror: &Mirror<Stored>) -> Result<(), Status> {
    let endpoint = core.endpoint(GROUP, "v1", PLURAL)?;
    let wanted = wanted(core);
    let objects = mirror.objects();
    let now = sampan_daemon::clock::rfc3339(sampan_daemon::clock::now());
    let mut steps = Vec::new();
    for (name, object) in &wanted {
        let key = endpoint.key(None, name);
        if objects.contains_key(&key) {
            continue;
        }
        let mut object = object.clone();
        object["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
        object["metadata"]["creationTimestamp"] = now.as_str().into();
        object["status"] = json!({"conditions": [{
            "type": "Available", "status": "True", "lastTransitionTime": now, "reason": "Local",
            "message": "Local APIServices are always available",
        }]});
        let value = encode::canonical(&endpoint, &object)?;
        steps.push((Compare::ModRevision(key.clone(), 0), Op::Put { key, value, lease: 0 }));
    }
    for (key, stored) in objects.iter() {
        let Ok(object) = serde_json::from_slice::<Value>(&stored.value) else { continue };
        let managed = object["metadata"]["labels"][MANAGED] == "true";
        if managed && !wanted.contains_key(text(&object, "/metadata/name")) {
            let compare = Compare::ModRevision(key.clone(), stored.revision);
            steps.push((compare, Op::Delete { key: key.clone() }));
        }
    }
    for batch in steps.chunks(BATCH) {
        let (compare, ops) = batch.iter().cloned().unzip();
        // Who was faster did the same.
        core.commit(Txn { compare, ops }).await?;
    }
    Ok(())
}
