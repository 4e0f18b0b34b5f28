//! How one profile decides: which filters and scores take part, with what weights and arguments.

use std::collections::HashSet;

use super::affinity::NodeAffinity;
use super::load::LoadAware;
use super::numa::ZoneScoring;
use super::pack::Packing;
use super::spread::Constraint;
use crate::packing::Measure;

/// How the amounts that a pod would leave are scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    /// The emptier the better: spreads.
    LeastAllocated,
    /// The fuller the better: packs.
    MostAllocated,
    /// By a broken line of (utilisation in percent, score of 0 to 10).
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// A resource with its weight in scores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weighted {
    /// Its name.
    pub name: String,
    /// Its weight, 1 to 100.
    pub weight: i64,
}

/// Weights of the scores; 0 switches one off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// Soft taints.
    pub taint_toleration: i64,
    /// Preferred node affinity.
    pub node_affinity: i64,
    /// What is left of resources.
    pub resources_fit: i64,
    /// Soft spreading.
    pub topology_spread: i64,
    /// Preferred affinity between pods.
    pub inter_pod_affinity: i64,
    /// Evenness of what is left.
    pub balanced_allocation: i64,
    /// Images that are there already.
    pub image_locality: i64,
    /// What is really used; off unless a profile switches it on.
    pub load_aware: i64,
    /// What zones have left; off unless a profile switches it on.
    pub zones: i64,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            taint_toleration: 3,
            node_affinity: 2,
            resources_fit: 1,
            topology_spread: 2,
            inter_pod_affinity: 2,
            balanced_allocation: 1,
            image_locality: 1,
            load_aware: 0,
            zones: 0,
        }
    }
}

/// Which filters take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterSet {
    /// `NodeUnschedulable`.
    pub unschedulable: bool,
    /// `NodeName`.
    pub node_name: bool,
    /// `TaintToleration`.
    pub taint_toleration: bool,
    /// `NodeAffinity`.
    pub node_affinity: bool,
    /// `NodePorts`.
    pub node_ports: bool,
    /// `NodeResourcesFit`.
    pub resources_fit: bool,
    /// `VolumeRestrictions`.
    pub volume_restrictions: bool,
    /// `NodeVolumeLimits`.
    pub volume_limits: bool,
    /// `VolumeBinding`.
    pub volume_binding: bool,
    /// `VolumeZone`.
    pub volume_zone: bool,
    /// `PodTopologySpread`.
    pub topology_spread: bool,
    /// `InterPodAffinity`.
    pub inter_pod_affinity: bool,
    /// `LoadAware`; off unless a profile switches it on.
    pub load_aware: bool,
    /// `NodeResourceTopologyMatch`.
    pub zones: bool,
}

impl Default for FilterSet {
    fn default() -> Self {
        Self {
            unschedulable: true,
            node_name: true,
            taint_toleration: true,
            node_affinity: true,
            node_ports: true,
            resources_fit: true,
            volume_restrictions: true,
            volume_limits: true,
            volume_binding: true,
            volume_zone: true,
            topology_spread: true,
            inter_pod_affinity: true,
            load_aware: false,
            zones: true,
        }
    }
}

/// A profile.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Pods name it in `schedulerName`.
    pub name: String,
    /// Which filters take part.
    pub filters: FilterSet,
    /// What scores weigh.
    pub weights: Weights,
    /// How resources are scored.
    pub strategy: Strategy,
    /// Which resources are scored.
    pub resources: Vec<Weighted>,
    /// Which resources should be used evenly.
    pub balanced: Vec<String>,
    /// Extended resources that are not checked.
    pub ignored_resources: HashSet<String>,
    /// Prefixes of extended resources that are not checked.
    pub ignored_groups: HashSet<String>,
    /// The weight with which pods that must be near others draw those to them.
    pub hard_pod_affinity_weight: i64,
    /// Whether wishes of other pods count for pods without wishes.
    pub ignore_preferred_of_existing: bool,
    /// Whether pods may be preempted.
    pub preemption: bool,
    /// Whether nodes are chosen by what a pod would spoil there. Scores then hold only what pods wish for.
    pub packing: Option<Packing>,
    /// How what is really used is read, where `LoadAware` takes part.
    pub load: LoadAware,
    /// How nodes are scored by their zones, where `NodeResourceTopologyMatch` takes part in that.
    pub zones: ZoneScoring,
    pub(super) added_affinity: NodeAffinity,
    pub(super) default_spread: Vec<Constraint>,
    /// Nodes without a label that a default constraint names take part all the same.
    pub(super) system_spread: bool,
}

impl Profile {
    /// The default plugins with their default weights.
    pub fn new(name: &str) -> Self {
        let of = |name: &str| Weighted { name: name.to_owned(), weight: 1 };
        Self {
            name: name.to_owned(),
            filters: FilterSet::default(),
            weights: Weights::default(),
            strategy: Strategy::LeastAllocated,
            resources: vec![of("cpu"), of("memory")],
            balanced: vec!["cpu".to_owned(), "memory".to_owned()],
            ignored_resources: HashSet::new(),
            ignored_groups: HashSet::new(),
            hard_pod_affinity_weight: 1,
            ignore_preferred_of_existing: false,
            preemption: true,
            packing: None,
            load: LoadAware::default(),
            zones: ZoneScoring::default(),
            added_affinity: NodeAffinity::default(),
            default_spread: Constraint::system_defaults(),
            system_spread: true,
        }
    }

    /// The names of the profiles that ship.
    pub const SHIPPED: [&str; 4] = ["default", "fragmentation", "fgd", "random"];

    /// A profile that ships, for pods of the default scheduler.
    pub fn shipped(name: &str) -> Option<Self> {
        let mut profile = Self::new("default-scheduler");
        match name {
            "default" => {}
            "fragmentation" => profile.pack(Packing::By(Measure::Prices)),
            "fgd" => profile.pack(Packing::By(Measure::Gradient)),
            "random" => profile.pack(Packing::Random),
            _ => return None,
        }
        Some(profile)
    }

    /// Chooses nodes by what a pod would spoil there, among those that its own wishes leave.
    pub(super) fn pack(&mut self, packing: Packing) {
        self.packing = Some(packing);
        let weights = &mut self.weights;
        (weights.resources_fit, weights.balanced_allocation, weights.image_locality) = (0, 0, 0);
        (weights.load_aware, weights.zones) = (0, 0);
        self.default_spread.clear();
        self.system_spread = false;
    }

    /// Sets the weight of a score by its plugin's name; false when there is no such score.
    pub fn set_weight(&mut self, plugin: &str, weight: i64) -> bool {
        let slot = super::config::weight_slot(&mut self.weights, plugin);
        slot.map(|(slot, _)| *slot = weight).is_some()
    }

    /// The same without what only makes some nodes better than others: for knowing where pods may go at all.
    pub(super) fn of_needs(&self) -> Self {
        let none = Weights {
            taint_toleration: 0,
            node_affinity: 0,
            resources_fit: 0,
            topology_spread: 0,
            inter_pod_affinity: 0,
            balanced_allocation: 0,
            image_locality: 0,
            load_aware: 0,
            zones: 0,
        };
        let mut needs = Self { weights: none, resources: Vec::new(), balanced: Vec::new(), ..self.clone() };
        needs.added_affinity.forget_wishes();
        needs.default_spread.retain(|c| c.hard);
        needs
    }

    /// Whether it reads what is measured of nodes.
    pub fn reads_usage(&self) -> bool {
        self.filters.load_aware || self.weights.load_aware > 0
    }

    /// Whether an extended resource is left unchecked.
    pub(super) fn ignores(&self, resource: &str) -> bool {
        let group = resource.split('/').next().unwrap_or_default();
        self.ignored_resources.contains(resource) || self.ignored_groups.contains(group)
    }
}
