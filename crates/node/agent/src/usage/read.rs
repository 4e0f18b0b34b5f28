//! One look at everything: cgroups of pods and containers, `/proc` for the node and for networks.

use std::collections::HashMap;
use std::path::Path;

use jiff::Timestamp;
use sampan_container::Stats;
use sampan_daemon::clock;

use super::window::{Counter, Counters};
use crate::context::Context;
use crate::node;
use crate::pod::record::Run;

/// The key of the node's counter; a pod's is its uid, a container's its id.
pub(crate) const NODE: &str = "node";

/// What everything uses.
pub(crate) struct Usage {
    pub at: Timestamp,
    pub node: NodeUsage,
    pub pods: Vec<PodUsage>,
    pub counters: Counters,
}

/// What the node uses.
#[derive(Default)]
pub(crate) struct NodeUsage {
    /// CPU time since the machine started, nanoseconds.
    pub cpu_nanos: u64,
    pub memory: Memory,
    pub interfaces: Vec<Interface>,
    /// Total and available bytes of the disk that holds pods and images.
    pub disk: (u64, u64),
    /// Total and free inodes of that disk.
    pub inodes: (u64, u64),
    /// Since when the machine runs.
    pub started: Option<Timestamp>,
}

/// Memory of the node, bytes.
#[derive(Default)]
pub(crate) struct Memory {
    pub total: u64,
    pub usage: u64,
    pub working_set: u64,
    pub rss: u64,
}

/// What a pod uses.
pub(crate) struct PodUsage {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub started: Option<Timestamp>,
    pub stats: Option<Stats>,
    /// None for a pod that shares the node's network, and for one whose shim is gone.
    pub interfaces: Option<Vec<Interface>>,
    pub containers: Vec<ContainerUsage>,
}

/// What a running container uses.
pub(crate) struct ContainerUsage {
    pub name: String,
    pub id: String,
    pub image: String,
    pub started: Timestamp,
    pub stats: Stats,
    /// Bytes of its logs on disk.
    pub logs: u64,
}

/// A network interface's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

fn nanos(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX)
}

/// Reads everything.
pub(super) fn all(ctx: &Context) -> Usage {
    let at = clock::now();
    let mut counters = Counters { at: nanos(at), all: HashMap::new() };
    let node = node_usage(ctx);
    counters.all.insert(NODE.to_owned(), Counter { at: nanos(at), used: node.cpu_nanos, began: None });
    let mut pods = Vec::new();
    for entry in ctx.pods.all() {
        let view = entry.view.borrow().clone();
        let Some(sandbox) = ctx.options.runtime.pod(&entry.uid) else { continue };
        let mut containers = Vec::new();
        for (name, seen) in &view.record.containers {
            let Run::Running { id, at: started } = &seen.run else { continue };
            // It may have ended this very moment.
            let Ok(stats) = sandbox.container_stats(id) else { continue };
            let began = Some(nanos(*started));
            counters
                .all
                .insert(id.clone(), Counter { at: stats.timestamp, used: stats.cpu_usage_nanos, began });
            let log_dir = ctx.log_dir(&view.record.namespace, &view.record.name, &entry.uid).join(name);
            containers.push(ContainerUsage {
                name: name.clone(),
                id: id.clone(),
                image: seen.image.clone(),
                started: *started,
                stats,
                logs: size_of_files(&log_dir),
            });
        }
        let stats = sandbox.stats().ok();
        let began = view.record.start_time.map(nanos);
        if let Some(stats) = &stats {
            let counter = Counter { at: stats.timestamp, used: stats.cpu_usage_nanos, began };
            counters.all.insert(entry.uid.clone(), counter);
        }
        let host = view.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        let table = format!("/proc/{}/net/dev", sandbox.shim_pid());
        pods.push(PodUsage {
            namespace: view.record.namespace.clone(),
            name: view.record.name.clone(),
            uid: entry.uid.clone(),
            started: view.record.start_time,
            stats,
            interfaces: (!host && !sandbox.is_lost()).then(|| interfaces(&text(&table))),
            containers,
        });
    }
    pods.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
    Usage { at, node, pods, counters }
}

fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn node_usage(ctx: &Context) -> NodeUsage {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    let stat = text("/proc/stat");
    let started = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
    NodeUsage {
        cpu_nanos: busy(&stat, u64::try_from(ticks).unwrap_or(100)),
        memory: memory(&text("/proc/meminfo")),
        interfaces: interfaces(&text("/proc/net/dev")),
        disk: node::disk(&ctx.options.pods_dir),
        inodes: nix::sys::statvfs::statvfs(ctx.options.pods_dir.as_path())
            .map_or((0, 0), |found| (found.files(), found.files_available())),
        started: started.and_then(|second| Timestamp::from_second(second).ok()),
    }
}

/// CPU time of all processors together, nanoseconds, out of `/proc/stat`: user, nice, system, irq and softirq.
fn busy(stat: &str, ticks: u64) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let fields: Vec<u64> =
        line.unwrap_or_default().split_ascii_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let sum: u64 = [0, 1, 2, 5, 6].iter().filter_map(|at| fields.get(*at)).sum();
    sum.saturating_mul(1_000_000_000 / ticks.max(1))
}

/// As cgroups count it: everything in use, without the file cache that has not been used of late.
fn memory(meminfo: &str) -> Memory {
    let find = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or(0).saturating_mul(1024)
    };
    let total = find("MemTotal");
    let usage = total.saturating_sub(find("MemFree"));
    Memory { total, usage, working_set: usage.saturating_sub(find("Inactive(file)")), rss: find("AnonPages") }
}

/// The interfaces of a `/proc/<pid>/net/dev`, without the loopback.
fn interfaces(table: &str) -> Vec<Interface> {
    let one = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map(|n| n.parse().unwrap_or(0)).collect();
        let [
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            _,
            _,
            _,
            _,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
            ..,
        ] = numbers[..]
        else {
            return None;
        };
        let name = name.trim().to_owned();
        (name != "lo").then_some(Interface {
            name,
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        })
    };
    table.lines().filter_map(one).collect()
}

/// Of the files right in a directory.
fn size_of_files(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).filter(std::fs::Metadata::is_file).map(|m| m.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        assert_eq!(busy("cpu  10 20 30 400 50 6 7 8 0 0\ncpu0 1 1 1 1\nbtime 5\n", 100), 730_000_000);
        assert_eq!(busy("", 100), 0);
        let memory = memory("MemTotal: 1000 kB\nMemFree: 200 kB\nInactive(file):  300 kB\nAnonPages: 5 kB\n");
        assert_eq!((memory.total, memory.usage, memory.working_set), (1_024_000, 819_200, 512_000));
        let table = "Inter-| Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 1500 12 1 2 0 0 0 0 700 9 3 4 0 0 0 0\n";
        let found = interfaces(table);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].rx_bytes, found[0].tx_dropped), ("eth0", 1500, 4));
    }
}
