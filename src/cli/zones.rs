//! Options about the NUMA nodes of the machine.

use clap::{Args, ValueEnum};
use sampan_planner::numa;

/// How the node gives CPUs and memory of its NUMA nodes to pods, in the words of a kubelet.
#[derive(Clone, Debug, Args)]
pub(crate) struct ZoneArgs {
    /// What happens to pods whose CPUs and memory would not come from the same NUMA nodes: none, best-effort, restricted,
    /// single-numa-node.
    #[arg(long, value_name = "POLICY", default_value_t)]
    pub(crate) topology_manager_policy: numa::Policy,
    /// What is aligned: container or pod.
    #[arg(long, value_name = "SCOPE", default_value_t)]
    pub(crate) topology_manager_scope: numa::Scope,
    /// Of equally many NUMA nodes take those that are closest to each other.
    #[arg(long)]
    pub(crate) prefer_closest_numa_nodes: bool,
    /// static: containers of Guaranteed pods that ask for whole CPUs have them alone. Or none.
    #[arg(long, value_name = "POLICY", value_enum, default_value_t)]
    pub(crate) cpu_manager_policy: Manager,
    /// static: containers of Guaranteed pods have their memory from certain NUMA nodes. Or none.
    #[arg(long, value_name = "POLICY", value_enum, default_value_t)]
    pub(crate) memory_manager_policy: Manager,
    /// CPUs that no pod has alone, and that pods get nothing of: 0-1,8. The static CPU manager needs at least one.
    #[arg(long, value_name = "CPUS", default_value_t, hide_default_value = true)]
    pub(crate) reserved_cpus: numa::CpuSet,
    /// Memory of a NUMA node that pods get nothing of: 0:memory=1Gi; may be repeated.
    #[arg(long, value_name = "NODE:memory=QUANTITY", value_parser = parse_reserved)]
    pub(crate) reserved_memory: Vec<(u32, i64)>,
}

impl ZoneArgs {
    /// What the agent is told.
    pub(crate) fn options(self) -> sampan_agent::ZoneOptions {
        let rules = numa::Rules {
            policy: self.topology_manager_policy,
            scope: self.topology_manager_scope,
            closest: self.prefer_closest_numa_nodes,
            cpus: self.cpu_manager_policy == Manager::Static,
            memory: self.memory_manager_policy == Manager::Static,
            reserved_cpus: self.reserved_cpus,
            reserved_memory: self.reserved_memory.into_iter().collect(),
        };
        sampan_agent::ZoneOptions { rules, ..Default::default() }
    }
}

/// Whether something is given away for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Manager {
    /// No.
    #[default]
    None,
    /// Yes.
    Static,
}

/// Memory of a NUMA node.
fn parse_reserved(text: &str) -> Result<(u32, i64), String> {
    let wrong = || format!("{text:?} is no memory of a NUMA node (hint: 0:memory=1Gi)");
    let (zone, amount) = text.split_once(":memory=").ok_or_else(wrong)?;
    let bytes = sampan_planner::quantity::value(amount).filter(|bytes| *bytes > 0).ok_or_else(wrong)?;
    Ok((zone.parse().map_err(|_| wrong())?, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_numa_node() {
        assert_eq!(parse_reserved("1:memory=1Gi"), Ok((1, 1 << 30)));
        for text in ["1Gi", "x:memory=1Gi", "0:memory=-1", "0:memory=much", "0:cpu=1"] {
            assert!(parse_reserved(text).unwrap_err().contains("hint"), "{text}");
        }
    }
}
