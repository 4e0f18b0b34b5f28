//! What a node says of its zones.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::hints::{Policy, Scope};
use super::object::{Attribute, Cost, NodeTopology, ResourceInfo, Zone};
use super::place::{Holding, Machine, Rules};
use super::{CPU_MANAGER, MEMORY_MANAGER, POLICY, SCOPE};

/// The annotation with the uids of the pods that what is available is without, by commas.
pub const PODS: &str = "sampan.io/pods";

/// What a node of that name says when pods hold that, by uid.
#[must_use]
pub fn report<'a>(
    name: &str,
    machine: &Machine,
    rules: &Rules,
    holdings: impl Iterator<Item = (&'a str, &'a Holding)>,
) -> NodeTopology {
    let mut said = NodeTopology::new(name);
    let all = machine.count(&machine.all());
    let given = machine.count(&machine.all().without(&rules.reserved_cpus));
    let mut free = given.clone();
    let mut memory: Vec<i64> = machine.zones.iter().map(|zone| zone.memory).collect();
    for (zone, bytes) in machine.zones.iter().zip(&mut memory) {
        *bytes -= rules.reserved_memory.get(&zone.id).copied().unwrap_or(0);
    }
    let allocatable = memory.clone();
    let mut uids: Vec<&str> = Vec::new();
    for (uid, holding) in holdings.filter(|(_, holding)| !holding.is_empty()) {
        uids.push(uid);
        for (at, held) in machine.count(&holding.cpus).into_iter().enumerate() {
            free[at] -= held;
        }
        for (at, zone) in machine.zones.iter().enumerate() {
            memory[at] -= holding.memory.get(&zone.id).copied().unwrap_or(0);
        }
    }
    uids.sort_unstable();
    let amount = |number: i64| Quantity(number.max(0).to_string());
    let zone_name = |id: u32| format!("node-{id}");
    for (at, zone) in machine.zones.iter().enumerate() {
        let costs = machine.distances.get(at).into_iter().flatten().zip(&machine.zones);
        let mut resources = vec![ResourceInfo {
            name: "memory".to_owned(),
            capacity: amount(zone.memory),
            allocatable: amount(allocatable[at]),
            available: amount(memory[at]),
        }];
        // A zone may have memory alone.
        if all[at] > 0 {
            resources.insert(
                0,
                ResourceInfo {
                    name: "cpu".to_owned(),
                    capacity: amount(all[at]),
                    allocatable: amount(given[at]),
                    available: amount(free[at]),
                },
            );
        }
        said.zones.push(Zone {
            name: zone_name(zone.id),
            kind: "Node".to_owned(),
            costs: costs.map(|(cost, to)| Cost { name: zone_name(to.id), value: i64::from(*cost) }).collect(),
            resources,
            ..Zone::default()
        });
    }
    let manager = |on: bool| if on { "static" } else { "none" };
    said.topology_policies = vec![of_old(rules).to_owned()];
    said.attributes = vec![
        Attribute::new(POLICY, rules.policy.as_str()),
        Attribute::new(SCOPE, rules.scope.as_str()),
        Attribute::new(CPU_MANAGER, manager(rules.cpus)),
        Attribute::new(MEMORY_MANAGER, manager(rules.memory)),
    ];
    said.metadata.annotations = Some([(PODS.to_owned(), uids.join(","))].into());
    said
}

/// The word for policy and scope that was used before there were attributes.
fn of_old(rules: &Rules) -> &'static str {
    match (rules.policy, rules.scope) {
        (Policy::None, _) => "None",
        (Policy::BestEffort, Scope::Container) => "BestEffortContainerLevel",
        (Policy::BestEffort, Scope::Pod) => "BestEffortPodLevel",
        (Policy::Restricted, Scope::Container) => "RestrictedContainerLevel",
        (Policy::Restricted, Scope::Pod) => "RestrictedPodLevel",
        (Policy::SingleNumaNode, Scope::Container) => "SingleNUMANodeContainerLevel",
        (Policy::SingleNumaNode, Scope::Pod) => "SingleNUMANodePodLevel",
    }
}
