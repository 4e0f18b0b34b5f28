//! `GET /pods` and `GET /stats/summary`.

use std::sync::Arc;

use http::Response;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use sampan_container::Stats;
use sampan_daemon::clock;
use serde_json::{Value, json};

use super::{Body, json as answer};
use crate::context::Context;
use crate::usage::window::Rate;
use crate::usage::{ContainerUsage, Interface, Measured, NODE, NodeUsage, PodUsage};

pub(super) fn pods(ctx: &Arc<Context>) -> Response<Body> {
    let items: Vec<Arc<Pod>> =
        ctx.pods.all().iter().map(|entry| Arc::clone(&entry.view.borrow().pod)).collect();
    let items: Vec<&Pod> = items.iter().map(Arc::as_ref).collect();
    answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// `windowSeconds` is ours: over which time the rate was taken.
fn cpu(time: &str, used: u64, rate: Option<Rate>) -> Value {
    let mut value = json!({"time": time, "usageCoreNanoSeconds": used});
    if let Some(rate) = rate {
        value["usageNanoCores"] = rate.nanocores.into();
        value["windowSeconds"] = rate.window.as_secs_f64().into();
    }
    value
}

fn usage(stats: &Stats, rate: Option<Rate>) -> Value {
    let time = Timestamp::from_nanosecond(stats.timestamp.into()).unwrap_or(Timestamp::UNIX_EPOCH);
    let time = clock::rfc3339(time);
    let mut memory = json!({
        "time": time,
        "usageBytes": stats.memory_usage_bytes,
        "workingSetBytes": stats.memory_working_set_bytes,
        "rssBytes": stats.memory_rss_bytes,
        "pageFaults": stats.page_faults,
        "majorPageFaults": stats.major_page_faults,
    });
    if stats.memory_limit_bytes > 0 {
        let left = stats.memory_limit_bytes.saturating_sub(stats.memory_working_set_bytes);
        memory["availableBytes"] = left.into();
    }
    json!({
        "cpu": cpu(&time, stats.cpu_usage_nanos, rate),
        "memory": memory,
    })
}

fn network(time: &str, interfaces: &[Interface]) -> Value {
    let one = |interface: &Interface| {
        json!({
            "name": interface.name,
            "rxBytes": interface.rx_bytes, "rxErrors": interface.rx_errors,
            "txBytes": interface.tx_bytes, "txErrors": interface.tx_errors,
        })
    };
    let mut value = json!({"time": time, "interfaces": interfaces.iter().map(one).collect::<Vec<_>>()});
    // The first one stands for all, as the kubelet has it.
    if let (Some(first), Some(members)) = (interfaces.first().map(one), value.as_object_mut()) {
        members.extend(first.as_object().cloned().unwrap_or_default());
    }
    value
}

fn container(measured: &Measured, used: &ContainerUsage, brief: bool) -> Value {
    let mut value = usage(&used.stats, measured.rate(&used.id));
    value["name"] = used.name.as_str().into();
    value["startTime"] = clock::rfc3339(used.started).into();
    if !brief {
        let time = clock::rfc3339(measured.usage.at);
        value["logs"] = json!({"time": time, "usedBytes": used.logs});
    }
    value
}

fn pod(measured: &Measured, used: &PodUsage, brief: bool) -> Value {
    let rate = measured.rate(&used.uid);
    let mut value = used.stats.as_ref().map_or_else(|| json!({}), |stats| usage(stats, rate));
    value["podRef"] = json!({"name": used.name, "namespace": used.namespace, "uid": used.uid});
    if let Some(started) = used.started {
        value["startTime"] = clock::rfc3339(started).into();
    }
    let containers = used.containers.iter().map(|used| container(measured, used, brief));
    value["containers"] = containers.collect();
    if brief {
        return value;
    }
    if let Some(interfaces) = &used.interfaces {
        value["network"] = network(&clock::rfc3339(measured.usage.at), interfaces);
    }
    if let Some(stats) = &used.stats {
        value["process_stats"] = json!({"process_count": stats.pids});
    }
    value
}

fn node(measured: &Measured, name: &str, used: &NodeUsage, brief: bool) -> Value {
    let time = clock::rfc3339(measured.usage.at);
    let memory = &used.memory;
    let mut value = json!({
        "nodeName": name,
        "cpu": cpu(&time, used.cpu_nanos, measured.rate(NODE)),
        "memory": {
            "time": time,
            "availableBytes": memory.total.saturating_sub(memory.working_set),
            "usageBytes": memory.usage,
            "workingSetBytes": memory.working_set,
            "rssBytes": memory.rss,
        },
    });
    if let Some(started) = used.started {
        value["startTime"] = clock::rfc3339(started).into();
    }
    if brief {
        return value;
    }
    let ((total, free), (inodes, inodes_free)) = (used.disk, used.inodes);
    let fs = json!({
        "time": time,
        "capacityBytes": total, "availableBytes": free, "usedBytes": total.saturating_sub(free),
        "inodes": inodes, "inodesFree": inodes_free, "inodesUsed": inodes.saturating_sub(inodes_free),
    });
    value["network"] = network(&time, &used.interfaces);
    value["runtime"] = json!({"imageFs": fs});
    value["fs"] = fs;
    value
}

/// `brief`: CPU and memory only.
pub(super) async fn summary(ctx: &Arc<Context>, brief: bool) -> Response<Body> {
    let measured = ctx.meter.look(ctx, true).await;
    let pods: Vec<Value> = measured.usage.pods.iter().map(|used| pod(&measured, used, brief)).collect();
    let node = node(&measured, &ctx.options.node_name, &measured.usage.node, brief);
    answer(&json!({"node": node, "pods": pods}))
}
