//! Gangs: pods that are placed together or not at all, and that make others leave for all of them or for none.

use std::sync::Arc;

use k8s_openapi::api::scheduling::v1beta1::PodGroup;

use super::cluster::{Cluster, Placement};
use super::pod::{GroupName, PodInfo};
use super::preempt::{Preemption, keeps_room};
use super::reasons::{Hints, Unschedulable};

/// What becomes of the members of a gang, in their order.
#[derive(Debug, Clone)]
pub enum GangDecision {
    /// Each has its node and is counted there; those beyond the minimum may have none.
    Placed(Vec<Option<Placement>>),
    /// Others must leave first: room is to be kept for each on its node; those beyond the minimum may have none.
    Room {
        /// Why they do not fit as things are.
        why: String,
        /// What could help otherwise.
        hints: Hints,
        /// For each member where, and who leaves.
        plans: Vec<Option<Preemption>>,
    },
    /// None of them goes anywhere.
    Refused {
        /// Why.
        why: String,
        /// What could help.
        hints: Hints,
        /// Whether room that was kept for them is still.
        keep: bool,
    },
}

/// What a PodGroup object says of its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupPolicy {
    /// Each is scheduled for itself.
    Basic,
    /// So many are placed together, or none.
    Gang(u32),
}

impl GroupPolicy {
    /// Reads it.
    pub fn of(group: &PodGroup) -> Self {
        match &group.spec.scheduling_policy.gang {
            Some(gang) => Self::Gang(u32::try_from(gang.min_count).unwrap_or(1)),
            None => Self::Basic,
        }
    }
}

impl Cluster {
    /// Takes over what a PodGroup object says, or that it is gone. Whether that changes anything.
    pub fn set_pod_group(&mut self, namespace: &str, name: &str, policy: Option<GroupPolicy>) -> bool {
        let key = (namespace.into(), name.into());
        match policy {
            Some(policy) => self.policies.insert(key, policy) != Some(policy),
            None => self.policies.remove(&key).is_some(),
        }
    }

    /// The gang with which a pod is placed, with what its PodGroup object says where there is one; nothing for a pod that is
    /// placed for itself.
    pub fn gang_of(&self, pod: &PodInfo) -> Option<GroupName> {
        let group = pod.group()?;
        match self.policy_of(group) {
            Some(GroupPolicy::Basic) => None,
            _ => Some(group.clone()),
        }
    }

    fn policy_of(&self, group: &GroupName) -> Option<GroupPolicy> {
        let told = self.policies.get(&(group.namespace.clone(), group.name.clone())).copied();
        told.or((group.min > 0).then_some(GroupPolicy::Gang(group.min)))
    }

    /// How many members of a gang are placed together, or none; nothing is known without its object.
    pub(crate) fn min_of(&self, group: &GroupName) -> Option<u32> {
        Some(match self.policy_of(group)? {
            GroupPolicy::Basic => 1,
            GroupPolicy::Gang(min) => min,
        })
    }

    pub(super) fn count_gang(&mut self, pod: &PodInfo, add: bool) {
        let Some(group) = &pod.shape.group else { return };
        let key = (group.namespace.clone(), group.name.clone());
        let placed = self.gangs.entry(key.clone()).or_insert(0);
        *placed = if add { *placed + 1 } else { placed.saturating_sub(1) };
        if *placed == 0 {
            self.gangs.remove(&key);
        }
    }

    /// How many members of a gang are placed.
    pub fn placed_of(&self, group: &GroupName) -> u32 {
        self.gangs.get(&(group.namespace.clone(), group.name.clone())).copied().unwrap_or(0)
    }

    /// Places the members of a gang, at least so many that with those placed before it is complete, or none of them.
    /// Those placed are counted on their nodes already.
    pub fn schedule_gang(
        &mut self,
        group: &GroupName,
        pods: &[Arc<PodInfo>],
        seed: u64,
    ) -> Result<Vec<Option<Placement>>, Unschedulable> {
        self.schedule_gang_by(group, pods, &mut |cluster, at| cluster.schedule(&pods[at], seed))
    }

    /// The same with a way to place each of the members, by its number.
    fn schedule_gang_by(
        &mut self,
        group: &GroupName,
        pods: &[Arc<PodInfo>],
        place: &mut dyn FnMut(&mut Self, usize) -> Result<Placement, Unschedulable>,
    ) -> Result<Vec<Option<Placement>>, Unschedulable> {
        let missing = self.missing_of(group);
        self.attempt(|cluster| {
            let mut refusal = None;
            let mut placements = Vec::new();
            for (at, pod) in pods.iter().enumerate() {
                let placement = place(cluster, at);
                if let Ok(placement) = &placement {
                    cluster.assume_placed((**pod).clone(), placement);
                }
                placements.push(placement.map_err(|unplaced| refusal = Some(unplaced)).ok());
            }
            let placed = placements.iter().flatten().count();
            match refusal {
                Some(refusal) if placed < missing => (Err(refusal), false),
                _ => (Ok(placements), true),
            }
        })
    }

    fn missing_of(&self, group: &GroupName) -> usize {
        let min = self.min_of(group).unwrap_or(u32::MAX);
        usize::try_from(min.saturating_sub(self.placed_of(group))).unwrap_or(usize::MAX)
    }

    /// Decides about a gang by a way to place each member, by its number. Whether it may make others leave is said, too.
    pub fn decide_gang(
        &mut self,
        group: &GroupName,
        pods: &[Arc<PodInfo>],
        seed: u64,
        preempts: bool,
        mut place: impl FnMut(&mut Self, usize) -> Result<Placement, Unschedulable>,
    ) -> GangDecision {
        let name = &*group.name;
        let there = u32::try_from(pods.len()).unwrap_or(u32::MAX).saturating_add(self.placed_of(group));
        let min = self.min_of(group);
        if min.is_none_or(|min| there < min) {
            let why = match min {
                Some(min) => format!("pod group {name:?} has {there} of {min} members that it needs"),
                None => format!("waiting for PodGroup {name:?}"),
            };
            // A new member takes all of them along, and so does what the object says.
            return GangDecision::Refused { why, hints: Hints::MEMBER, keep: true };
        }
        let unplaced = match self.schedule_gang_by(group, pods, &mut place) {
            Ok(placements) => return GangDecision::Placed(placements),
            Err(unplaced) => unplaced,
        };
        let mut why = format!("pod group {name:?} does not fit as a whole: {unplaced}");
        let hints = unplaced.hints;
        if !preempts || self.is_empty() {
            return GangDecision::Refused { why, hints, keep: true };
        }
        match self.preempt_gang(group, pods, seed) {
            Ok(plans) => GangDecision::Room { why, hints, plans },
            Err(refusal) => {
                let keep = keeps_room(&refusal);
                why.push_str(" preemption: ");
                why.push_str(&refusal);
                GangDecision::Refused { why, hints, keep }
            }
        }
    }

    /// Who must leave where, so that enough members of the gang fit together; or why that does not help.
    fn preempt_gang(
        &mut self,
        group: &GroupName,
        pods: &[Arc<PodInfo>],
        seed: u64,
    ) -> Result<Vec<Option<Preemption>>, String> {
        let missing = self.missing_of(group);
        let plan = |cluster: &mut Self| {
            cluster.attempt(|cluster| {
                let (mut plans, mut refusal) = (Vec::new(), None);
                for pod in pods {
                    // Those beyond the minimum make nobody leave.
                    let enough = plans.iter().flatten().count() >= missing;
                    let plan = match cluster.schedule(pod, seed) {
                        Ok(placement) => Some(Preemption::at(placement.node)),
                        Err(_) if enough => None,
                        Err(_) => cluster.preempt(pod, seed, None).map_err(|why| refusal = Some(why)).ok(),
                    };
                    if let Some(plan) = &plan {
                        for victim in &plan.victims {
                            cluster.remove_pod(victim.uid());
                        }
                        for displaced in &plan.displaced {
                            cluster.withdraw(displaced.uid());
                        }
                        cluster.assume((**pod).clone(), &plan.node);
                    }
                    plans.push(plan);
                }
                let placed = plans.iter().flatten().count();
                let found = match refusal {
                    Some(refusal) if placed < missing => Err(refusal),
                    _ => Ok(plans),
                };
                (found, false)
            })
        };
        self.frozen(plan)
    }
}
