//! `GET /pods` and `GET /stats/summary`.

use std::sync::Arc;

use http::Response;
use k8s_openapi::api::core::v1::Pod;
use sampan_container::Stats;
use sampan_daemon::clock;
use serde_json::{Value, json};

use super::{Body, json as answer};
use crate::context::Context;
use crate::pod::record::Run;

pub(super) fn pods(ctx: &Arc<Context>) -> Response<Body> {
    let items: Vec<Arc<Pod>> =
        ctx.pods.all().iter().map(|entry| Arc::clone(&entry.view.borrow().pod)).collect();
    let items: Vec<&Pod> = items.iter().map(Arc::as_ref).collect();
    answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

fn usage(stats: &Stats) -> Value {
    let time = clock::rfc3339(clock::now());
    json!({
        "cpu": {"time": time, "usageCoreNanoSeconds": stats.cpu_usage_nanos},
        "memory": {
            "time": time,
            "usageBytes": stats.memory_usage_bytes,
            "workingSetBytes": stats.memory_working_set_bytes,
            "rssBytes": stats.memory_rss_bytes,
        },
    })
}

pub(super) async fn summary(ctx: &Arc<Context>) -> Response<Body> {
    let work = Arc::clone(ctx);
    // Each number is a small file of a cgroup: short, but many.
    let pods = ctx.supervisor.blocking(move || {
        let mut pods = Vec::new();
        for entry in work.pods.all() {
            let view = entry.view.borrow().clone();
            let Some(sandbox) = work.options.runtime.pod(&entry.uid) else { continue };
            let mut containers = Vec::new();
            for (name, seen) in &view.record.containers {
                if let Run::Running { id, .. } = &seen.run
                    && let Ok(stats) = sandbox.container_stats(id)
                {
                    let mut value = usage(&stats);
                    value["name"] = json!(name);
                    containers.push(value);
                }
            }
            let mut value = sandbox.stats().map_or_else(|_| json!({}), |stats| usage(&stats));
            value["podRef"] =
                json!({"name": view.record.name, "namespace": view.record.namespace, "uid": entry.uid});
            value["containers"] = json!(containers);
            pods.push(value);
        }
        pods
    });
    answer(&json!({"node": {"nodeName": ctx.options.node_name}, "pods": pods.await}))
}
