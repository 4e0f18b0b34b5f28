//! Gangs: pods that are placed together or not at all.

use std::sync::Arc;

use super::cluster::{Cluster, Placement};
use super::pod::{GroupName, PodInfo};
use super::reasons::Unschedulable;

impl Cluster {
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
        self.schedule_gang_by(group, pods, |cluster, at| cluster.schedule(&pods[at], seed))
    }

    /// The same with a way to place each of the members, by its number.
    pub fn schedule_gang_by(
        &mut self,
        group: &GroupName,
        pods: &[Arc<PodInfo>],
        mut place: impl FnMut(&mut Self, usize) -> Result<Placement, Unschedulable>,
    ) -> Result<Vec<Option<Placement>>, Unschedulable> {
        let missing = group.min.saturating_sub(self.placed_of(group));
        let missing = usize::try_from(missing).unwrap_or(usize::MAX);
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
}
