//! Which CPUs and which memory of a machine a pod's containers get, where both lie in several zones (NUMA nodes).
//!
//! What a kubelet does in its topology, CPU and memory managers is here one question, [`place`]: a machine, what others
//! hold of it and what a pod asks for in, what it gets out, or why it is refused. Each resource says in [`Hint`]s on which
//! sets of zones its share could come; [`merge`] finds the set on which all of them agree, by the node's policy. The
//! scheduler asks the same of what nodes publish ([`NodeTopology`]), so that it need not send pods where they would be refused.

mod cpuset;
mod hints;
mod object;
mod place;
mod report;
#[cfg(test)]
mod tests;

pub use cpuset::CpuSet;
pub(crate) use hints::spread;
pub use hints::{Hint, MOST_ZONES, Mask, Policy, Scope, Verdict, hints, merge};
pub use object::{Attribute, Cost, NodeTopology, ResourceInfo, Zone};
pub(crate) use place::containers;
pub use place::{
    Ask, Cpu, Holding, Kind, Machine, MachineZone, Pin, Refusal, Rules, asks, is_guaranteed, place,
};
pub use report::{PODS, report};

/// The attribute of a node that names its policy.
pub const POLICY: &str = "topologyManagerPolicy";
/// The attribute of a node that names what is aligned: containers or pods.
pub const SCOPE: &str = "topologyManagerScope";
/// The attribute of a node that says whether whole CPUs are given away: `static` or `none`.
pub const CPU_MANAGER: &str = "cpuManagerPolicy";
/// The attribute of a node that says whether memory of zones is given away: `static` or `none`.
pub const MEMORY_MANAGER: &str = "memoryManagerPolicy";
