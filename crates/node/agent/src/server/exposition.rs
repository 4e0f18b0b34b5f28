//! Prometheus' text: `/metrics/resource`, `/metrics/cadvisor`, and the agent's own `/metrics`. Names and labels are the
//! kubelet's.

use std::fmt::{Display, Write};
use std::sync::Arc;

use http::Response;
use jiff::Timestamp;

use super::{Body, prometheus};
use crate::context::Context;
use crate::usage::{ContainerUsage, Interface, PodUsage, Usage};

/// Text that is being written, one family after the other.
#[derive(Default)]
struct Text {
    out: String,
    name: &'static str,
}

impl Text {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One series; `at` in milliseconds since the epoch.
    fn put(&mut self, labels: &[(&str, &str)], value: impl Display, at: Option<i64>) {
        self.out.push_str(self.name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.out.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.out, "{label}=\"");
            for letter in text.chars() {
                match letter {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    other => self.out.push(other),
                }
            }
            self.out.push('"');
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        let _ = write!(self.out, " {value}");
        if let Some(at) = at {
            let _ = write!(self.out, " {at}");
        }
        self.out.push('\n');
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn millis(nanos: i64) -> Option<i64> {
    Some(nanos / 1_000_000)
}

fn epoch(at: Timestamp) -> f64 {
    at.as_nanosecond() as f64 / 1e9
}

fn names<'a>(pod: &'a PodUsage, container: &'a str) -> [(&'a str, &'a str); 3] {
    [("container", container), ("namespace", &pod.namespace), ("pod", &pod.name)]
}

fn containers(usage: &Usage) -> impl Iterator<Item = (&PodUsage, &ContainerUsage)> {
    usage.pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)))
}

/// `/metrics/resource`: what a metrics server needs.
pub(super) async fn resource(ctx: &Arc<Context>) -> Response<Body> {
    let measured = ctx.meter.look(ctx, false).await;
    let (usage, mut text) = (&measured.usage, Text::default());
    text.family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative CPU time of the container in core-seconds",
    );
    for (pod, c) in containers(usage) {
        text.put(&names(pod, &c.name), seconds(c.stats.cpu_usage_nanos), millis(c.stats.timestamp));
    }
    text.family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
    );
    for (pod, c) in containers(usage) {
        text.put(&names(pod, &c.name), c.stats.memory_working_set_bytes, millis(c.stats.timestamp));
    }
    text.family(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since the epoch in seconds",
    );
    for (pod, c) in containers(usage) {
        text.put(&names(pod, &c.name), epoch(c.started), None);
    }
    let at = Some(usage.at.as_millisecond());
    text.family("node_cpu_usage_seconds_total", "counter", "Cumulative CPU time of the node in core-seconds");
    text.put(&[], seconds(usage.node.cpu_nanos), at);
    text.family("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes");
    text.put(&[], usage.node.memory.working_set, at);
    let pods = || usage.pods.iter().filter_map(|pod| Some((pod, pod.stats.as_ref()?)));
    text.family("pod_cpu_usage_seconds_total", "counter", "Cumulative CPU time of the pod in core-seconds");
    for (pod, stats) in pods() {
        text.put(&names(pod, "")[1..], seconds(stats.cpu_usage_nanos), millis(stats.timestamp));
    }
    text.family("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes");
    for (pod, stats) in pods() {
        text.put(&names(pod, "")[1..], stats.memory_working_set_bytes, millis(stats.timestamp));
    }
    text.family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    text.put(&[], 0, None);
    prometheus(text.out)
}

type Read = fn(&ContainerUsage) -> f64;

/// Families of `/metrics/cadvisor` with one series a container.
const FAMILIES: [(&str, &str, &str, Read); 11] = [
    ("container_cpu_usage_seconds_total", "counter", "Cumulative CPU time consumed in seconds.", |c| {
        seconds(c.stats.cpu_usage_nanos)
    }),
    ("container_cpu_cfs_periods_total", "counter", "Number of elapsed enforcement period intervals.", |c| {
        c.stats.cpu_periods as f64
    }),
    ("container_cpu_cfs_throttled_periods_total", "counter", "Number of throttled period intervals.", |c| {
        c.stats.cpu_throttled_periods as f64
    }),
    (
        "container_cpu_cfs_throttled_seconds_total",
        "counter",
        "Total time duration the container has been throttled.",
        |c| seconds(c.stats.cpu_throttled_nanos),
    ),
    (
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, all memory whenever it was accessed.",
        |c| c.stats.memory_usage_bytes as f64,
    ),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |c| {
        c.stats.memory_working_set_bytes as f64
    }),
    ("container_memory_rss", "gauge", "Size of anonymous memory in bytes.", |c| {
        c.stats.memory_rss_bytes as f64
    }),
    ("container_spec_memory_limit_bytes", "gauge", "Memory limit of the container, 0 for none.", |c| {
        c.stats.memory_limit_bytes as f64
    }),
    ("container_processes", "gauge", "Number of processes and threads in the container.", |c| {
        c.stats.pids as f64
    }),
    (
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since the epoch in seconds.",
        |c| epoch(c.started),
    ),
    (
        "container_last_seen",
        "gauge",
        "Last time the container was looked at, in seconds since the epoch.",
        |c| c.stats.timestamp as f64 / 1e9,
    ),
];

type Counter = fn(&Interface) -> u64;

const NETWORK: [(&str, &str, Counter); 8] = [
    ("container_network_receive_bytes_total", "Cumulative count of bytes received.", |i| i.rx_bytes),
    ("container_network_receive_packets_total", "Cumulative count of packets received.", |i| i.rx_packets),
    ("container_network_receive_errors_total", "Cumulative count of errors while receiving.", |i| {
        i.rx_errors
    }),
    (
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving.",
        |i| i.rx_dropped,
    ),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted.", |i| i.tx_bytes),
    ("container_network_transmit_packets_total", "Cumulative count of packets transmitted.", |i| {
        i.tx_packets
    }),
    ("container_network_transmit_errors_total", "Cumulative count of errors while transmitting.", |i| {
        i.tx_errors
    }),
    (
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting.",
        |i| i.tx_dropped,
    ),
];

/// `/metrics/cadvisor`: what dashboards and alerts of containers are made of.
pub(super) async fn cadvisor(ctx: &Arc<Context>) -> Response<Body> {
    let measured = ctx.meter.look(ctx, false).await;
    let (usage, mut text) = (&measured.usage, Text::default());
    for (name, kind, help, read) in FAMILIES {
        text.family(name, kind, help);
        for (pod, c) in containers(usage) {
            let id = format!("/pod{}/{}", pod.uid, c.id);
            let mut labels = vec![("container", c.name.as_str())];
            if name == "container_cpu_usage_seconds_total" {
                labels.push(("cpu", "total"));
            }
            let image = c.image.as_str();
            labels.extend([("id", id.as_str()), ("image", image), ("name", c.id.as_str())]);
            labels.extend([("namespace", pod.namespace.as_str()), ("pod", pod.name.as_str())]);
            text.put(&labels, read(c), millis(c.stats.timestamp));
        }
    }
    let at = Some(usage.at.as_millisecond());
    for (name, help, read) in NETWORK {
        text.family(name, "counter", help);
        for pod in &usage.pods {
            let id = format!("/pod{}", pod.uid);
            for interface in pod.interfaces.iter().flatten() {
                let labels = [
                    ("id", id.as_str()),
                    ("interface", interface.name.as_str()),
                    ("namespace", pod.namespace.as_str()),
                    ("pod", pod.name.as_str()),
                ];
                text.put(&labels, read(interface), at);
            }
        }
    }
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    text.family("machine_cpu_cores", "gauge", "Number of logical CPU cores.");
    text.put(&[], processors, None);
    text.family("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.");
    text.put(&[], usage.node.memory.total, None);
    prometheus(text.out)
}

/// `/metrics`: of the agent itself.
pub(super) fn own(ctx: &Arc<Context>) -> Response<Body> {
    let mut text = Text::default();
    let all = ctx.pods.all();
    let records: Vec<_> = all.iter().map(|entry| entry.view.borrow().record.clone()).collect();
    let running = records.iter().flat_map(|record| record.containers.values()).filter(|c| c.is_running());
    text.family("kubelet_node_name", "gauge", "The node's name. The count is always 1.");
    text.put(&[("node", ctx.options.node_name.as_str())], 1, None);
    text.family("kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox");
    text.put(&[], records.iter().filter(|record| record.sandbox_ready).count(), None);
    text.family("kubelet_running_containers", "gauge", "Number of containers currently running");
    text.put(&[("container_state", "running")], running.count(), None);
    text.family("kubelet_desired_pods", "gauge", "The number of pods the kubelet is being instructed to run");
    text.put(&[], all.iter().filter(|entry| !entry.gone).count(), None);
    process(&mut text);
    prometheus(text.out)
}

/// The process that the agent is a part of.
fn process(text: &mut Text) {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
    if let Ok(usage) = usage {
        let (user, system) = (usage.user_time(), usage.system_time());
        let micros = (user.tv_sec() + system.tv_sec()) * 1_000_000 + user.tv_usec() + system.tv_usec();
        text.family(
            "process_cpu_seconds_total",
            "counter",
            "Total user and system CPU time spent in seconds.",
        );
        text.put(&[], micros as f64 / 1e6, None);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
    if let Some(kilobytes) = resident {
        text.family("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.");
        text.put(&[], kilobytes * 1024, None);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        text.family("process_open_fds", "gauge", "Number of open file descriptors.");
        text.put(&[], open.count(), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Text::default();
        text.family("a_total", "counter", "Help.");
        text.put(&[("x", "a\"b\\c\nd"), ("y", "")], 1.5, Some(7));
        text.put(&[], 0, None);
        let want = "# HELP a_total Help.\n# TYPE a_total counter\na_total{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 1.5 7\na_total 0\n";
        assert_eq!(text.out, want);
    }
}
