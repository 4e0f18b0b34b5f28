//! Limits and usage of a cgroup, in the words of version 1 and version 2.

use std::fs;
use std::path::Path;

use super::{CgroupPlan, set, set_if_there};
use crate::config::Resources;
use crate::error::{Error, Result};
use crate::state;
use crate::status::Stats;

/// A fresh version 1 cpuset is empty and takes no process: give it its parent's.
pub(super) fn inherit_cpuset(dir: &Path) -> Result<()> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let path = parent.join(file);
        let value = fs::read_to_string(&path)
            .map_err(|error| Error::os(format!("read {}", path.display()), error))?;
        set(&dir.join(file), value.trim())?;
    }
    Ok(())
}

/// Lets the version 2 controllers of a cgroup's parent reach it.
pub(super) fn enable_controllers(dir: &Path, controllers: &[String]) -> Result<()> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    for controller in controllers {
        set(&parent.join("cgroup.subtree_control"), &format!("+{controller}"))?;
    }
    Ok(())
}

/// A field of a file with `name value` lines.
pub(super) fn field(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.trim().parse().ok()
}

fn number(file: &Path) -> u64 {
    fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// A CPU weight of version 2 from the shares of version 1.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn or_max(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

impl CgroupPlan {
    /// Sets the limits that are given.
    pub(crate) fn apply(&self, resources: &Resources) -> Result<()> {
        let wanted = [
            ("cpu", resources.cpu_shares.is_some() || resources.cpu_quota.is_some()),
            ("memory", resources.memory_limit.is_some()),
            ("pids", resources.pids_limit.is_some()),
            ("cpuset", resources.cpuset_cpus.is_some() || resources.cpuset_mems.is_some()),
        ];
        for (controller, _) in wanted.into_iter().filter(|(_, wanted)| *wanted) {
            let Some((dir, v2)) = self.controller(controller) else {
                let text = format!(
                    "the kernel has no {controller} cgroup controller (hint: enable it on its command line)"
                );
                return Err(Error::Invalid(text));
            };
            match (controller, v2) {
                ("cpu", v2) => apply_cpu(&dir, resources, v2)?,
                ("memory", v2) => apply_memory(&dir, resources.memory_limit.unwrap_or(-1), v2)?,
                ("pids", _) => set(&dir.join("pids.max"), &or_max(resources.pids_limit.unwrap_or(-1)))?,
                _ => apply_cpuset(&dir, resources)?,
            }
        }
        Ok(())
    }
}

fn apply_cpu(dir: &Path, resources: &Resources, v2: bool) -> Result<()> {
    let period = resources.cpu_period.unwrap_or(100_000);
    if let Some(shares) = resources.cpu_shares {
        match v2 {
            true => set(&dir.join("cpu.weight"), &weight(shares).to_string())?,
            false => set(&dir.join("cpu.shares"), &shares.to_string())?,
        }
    }
    if let Some(quota) = resources.cpu_quota {
        if v2 {
            set(&dir.join("cpu.max"), &format!("{} {period}", or_max(quota)))?;
        } else {
            // A kernel without bandwidth control lacks the files; then shares alone apply.
            set_if_there(&dir.join("cpu.cfs_period_us"), &period.to_string())?;
            set_if_there(&dir.join("cpu.cfs_quota_us"), &quota.to_string())?;
        }
    }
    Ok(())
}

fn apply_memory(dir: &Path, limit: i64, v2: bool) -> Result<()> {
    if v2 {
        set(&dir.join("memory.max"), &or_max(limit))?;
        return set_if_there(&dir.join("memory.swap.max"), "0");
    }
    let (memory, swap) = (dir.join("memory.limit_in_bytes"), dir.join("memory.memsw.limit_in_bytes"));
    let limit = limit.to_string();
    // The limit with swap may never be below the one without: which comes first depends on the direction.
    match set(&memory, &limit) {
        Err(error) if error.errno() == Some(libc::EINVAL) => {
            set(&swap, &limit)?;
            set(&memory, &limit)
        }
        Err(error) => Err(error),
        Ok(()) => set_if_there(&swap, &limit),
    }
}

fn apply_cpuset(dir: &Path, resources: &Resources) -> Result<()> {
    if let Some(cpus) = &resources.cpuset_cpus {
        set(&dir.join("cpuset.cpus"), cpus)?;
    }
    if let Some(mems) = &resources.cpuset_mems {
        set(&dir.join("cpuset.mems"), mems)?;
    }
    Ok(())
}

/// Reads what has been used; what a kernel does not count is 0.
pub(super) fn stats(plan: &CgroupPlan) -> Stats {
    let mut stats = Stats { timestamp: state::now(), ..Stats::default() };
    if let Some((dir, false)) = plan.controller("cpuacct") {
        stats.cpu_usage_nanos = number(&dir.join("cpuacct.usage"));
    } else if let Some(root) = &plan.layout.v2 {
        // Counted in version 2 without any controller.
        let usage = field(&root.join(&plan.path).join("cpu.stat"), "usage_usec");
        stats.cpu_usage_nanos = usage.unwrap_or(0).saturating_mul(1000);
    }
    if let Some((dir, v2)) = plan.controller("memory") {
        let (usage, inactive, anonymous) = match v2 {
            true => ("memory.current", "inactive_file", "anon"),
            false => ("memory.usage_in_bytes", "total_inactive_file", "total_rss"),
        };
        stats.memory_usage_bytes = number(&dir.join(usage));
        let detail = dir.join("memory.stat");
        stats.memory_rss_bytes = field(&detail, anonymous).unwrap_or(0);
        stats.memory_working_set_bytes =
            stats.memory_usage_bytes.saturating_sub(field(&detail, inactive).unwrap_or(0));
    }
    if let Some((dir, _)) = plan.controller("pids") {
        stats.pids = number(&dir.join("pids.current"));
    }
    stats
}
