//! What the claims of a pod say about where it may go.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use sampan_planner::pods;
use sampan_planner::scheduler::{Candidate, Cluster, PodInfo};
use sampan_planner::volumes::filter::VolumeFilter;
use sampan_planner::volumes::matching::Taken;
use sampan_planner::volumes::placement::Choice;

use super::Scheduler;
use crate::cache::{Caches, uses_claim};
use crate::informer::Key;

/// A pod with claims, and what they say.
pub(super) struct Claims {
    pod: Arc<Pod>,
    filter: VolumeFilter,
    taken: Taken,
    caches: Arc<Caches>,
}

/// What is to be written for a pod's volumes before it is bound.
pub(super) type Volumes = Box<(Arc<Pod>, Choice)>;

impl Claims {
    /// Whether a node will do; the reason when it does not.
    pub fn allow(&self, node: Candidate<'_>) -> Result<(), String> {
        self.filter.allow(node, &self.taken, &*self.caches)
    }
}

impl Scheduler {
    /// What the claims of a pod say, `None` when it has none; the error is why it can go nowhere now.
    pub(super) fn claims(&self, cluster: &Cluster, info: &PodInfo) -> Result<Option<Claims>, String> {
        if !info.has_claims() {
            return Ok(None);
        }
        let Some(pod) = self.caches.pods.get(&Key::new(info.namespace(), info.name())) else {
            return Ok(None);
        };
        let used = |claim: &str| self.is_used(cluster, info, claim);
        let filters = &cluster.profile_of(info).filters;
        let filter = VolumeFilter::of(&pod, &*self.caches, filters, used).map_err(|unready| unready.0)?;
        let taken = self.volumes.taken();
        Ok(filter.map(|filter| Claims { pod, filter, taken, caches: self.caches.clone() }))
    }

    /// What is to be done for the pod's volumes on the node; they are spoken for from now on.
    pub(super) fn choose(&self, claims: Claims, node: &str) -> Option<Volumes> {
        let choice = self.volumes.choose(&claims.pod, claims.filter.volumes()?, node);
        Some(Box::new((claims.pod, choice)))
    }

    /// Whether another pod that has a node uses the claim.
    fn is_used(&self, cluster: &Cluster, info: &PodInfo, claim: &str) -> bool {
        let users = self.caches.pods.indexed(&uses_claim(info.namespace(), claim));
        users.iter().any(|user| {
            let uid = pods::uid(&user.metadata);
            let placed = !pods::node_name(user).is_empty() || cluster.node_of(uid).is_some();
            uid != info.uid() && placed && !pods::finished(user)
        })
    }
}
