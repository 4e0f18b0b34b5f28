//! Limits and usage of a cgroup, in the words of version 1 and version 2.

use std::fs;
use std::path::Path;

use super::{CgroupPlan, set, set_if_there};
use crate::config::Resources;
use crate::error::{Error, Result};
use crate::state;
use crate::status::Stats;

/// A memory limit from here on is none.
const UNLIMITED: u64 = 1 << 62;

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
    find(&fs::read_to_string(file).ok()?, name)
}

/// The same in a text that was read.
fn find(text: &str, name: &str) -> Option<u64> {
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
    if let Some((dir, v2)) = plan.controller("cpu") {
        let text = fs::read_to_string(dir.join("cpu.stat")).unwrap_or_default();
        let get = |name: &str| find(&text, name).unwrap_or(0);
        stats.cpu_periods = get("nr_periods");
        stats.cpu_throttled_periods = get("nr_throttled");
        stats.cpu_throttled_nanos =
            if v2 { get("throttled_usec").saturating_mul(1000) } else { get("throttled_time") };
    }
    if let Some((dir, v2)) = plan.controller("memory") {
        memory(&mut stats, &dir, v2);
    }
    if let Some((dir, _)) = plan.controller("pids") {
        stats.pids = number(&dir.join("pids.current"));
    }
    stats
}

fn memory(stats: &mut Stats, dir: &Path, v2: bool) {
    let (usage, limit) = match v2 {
        true => ("memory.current", "memory.max"),
        false => ("memory.usage_in_bytes", "memory.limit_in_bytes"),
    };
    let (inactive, anonymous, faults, major) = match v2 {
        true => ("inactive_file", "anon", "pgfault", "pgmajfault"),
        false => ("total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault"),
    };
    let text = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let get = |name: &str| find(&text, name).unwrap_or(0);
    stats.memory_usage_bytes = number(&dir.join(usage));
    stats.memory_working_set_bytes = stats.memory_usage_bytes.saturating_sub(get(inactive));
    stats.memory_rss_bytes = get(anonymous);
    stats.page_faults = get(faults);
    stats.major_page_faults = get(major);
    // Version 1 writes no limit as a number that no machine has; version 2 writes `max`.
    stats.memory_limit_bytes = match number(&dir.join(limit)) {
        limit if limit < UNLIMITED => limit,
        _ => 0,
    };
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::cgroup::Layout;

    fn write(dir: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(dir).unwrap();
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
    }

    #[test]
    fn usage_is_read_from_version_1() {
        let root = tempfile::tempdir().unwrap();
        for name in ["cpuacct", "cpu", "memory", "pids"] {
            write(&root.path().join(name), &[("cgroup.procs", "")]);
        }
        let pod = PathBuf::from("x/podp");
        write(&root.path().join("cpuacct").join(&pod), &[("cpuacct.usage", "1234567890\n")]);
        write(
            &root.path().join("cpu").join(&pod),
            &[("cpu.stat", "nr_periods 10\nnr_throttled 4\nthrottled_time 5000\n")],
        );
        let stat = "cache 4096\ninactive_file 1\ntotal_rss 700\ntotal_inactive_file 300\ntotal_pgfault 9\ntotal_pgmajfault 2\n";
        write(
            &root.path().join("memory").join(&pod),
            &[
                ("memory.usage_in_bytes", "1000\n"),
                ("memory.stat", stat),
                ("memory.limit_in_bytes", "9223372036854771712\n"),
            ],
        );
        write(&root.path().join("pids").join(&pod), &[("pids.current", "3\n")]);
        let plan = Layout::detect(root.path()).unwrap().plan("/x", "p");
        let found = stats(&plan);
        assert_eq!(found.cpu_usage_nanos, 1_234_567_890);
        assert_eq!(
            (found.cpu_periods, found.cpu_throttled_periods, found.cpu_throttled_nanos),
            (10, 4, 5000)
        );
        assert_eq!((found.memory_usage_bytes, found.memory_working_set_bytes), (1000, 700));
        assert_eq!((found.memory_rss_bytes, found.memory_limit_bytes), (700, 0));
        assert_eq!((found.page_faults, found.major_page_faults, found.pids), (9, 2, 3));
    }

    #[test]
    fn usage_is_read_from_version_2() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &[("cgroup.controllers", "cpuset cpu io memory pids\n"), ("cgroup.procs", "")]);
        let cpu = "usage_usec 2500\nuser_usec 1\nnr_periods 7\nnr_throttled 1\nthrottled_usec 3\n";
        write(
            &root.path().join("x/podp"),
            &[
                ("cpu.stat", cpu),
                ("memory.current", "5000\n"),
                ("memory.stat", "anon 4000\ninactive_file 800\npgfault 1\npgmajfault 0\n"),
                ("memory.max", "8192\n"),
                ("pids.current", "2\n"),
            ],
        );
        let found = stats(&Layout::detect(root.path()).unwrap().plan("/x", "p"));
        assert_eq!((found.cpu_usage_nanos, found.cpu_throttled_nanos), (2_500_000, 3000));
        assert_eq!((found.memory_working_set_bytes, found.memory_rss_bytes), (4200, 4000));
        assert_eq!((found.memory_limit_bytes, found.pids), (8192, 2));
    }
}
