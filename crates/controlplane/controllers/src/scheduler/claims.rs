//! What the claims of a pod say about where it may go.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use sampan_planner::pods;
use sampan_planner::scheduler::{Cluster, PodInfo};
use sampan_planner::selector::Labels;
use sampan_planner::volumes::matching::Taken;
use sampan_planner::volumes::placement::PodVolumes;

use super::Scheduler;
use crate::cache::{claim_of, uses_claim};
use crate::informer::Key;

const IN_USE: &str = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use \
                      by another pod";
const ZONE: &str = "node(s) had no available volume zone";

/// The labels of volumes that say where they can be reached.
const TOPOLOGY: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// A pod with claims, and what they say.
pub(super) struct Claims {
    pub pod: Arc<Pod>,
    pub volumes: PodVolumes,
    /// Labels that a node which has any of them must have with one of these values.
    zones: Vec<(&'static str, Vec<String>)>,
    taken: Taken,
}

impl Claims {
    /// Whether a node will do; the reason when it does not.
    pub fn allow(&self, node: &str, labels: &Labels) -> Result<(), String> {
        self.volumes.on(node, labels, &self.taken).map_err(|conflict| conflict.text().to_owned())?;
        let placed = TOPOLOGY.iter().any(|key| labels.contains_key(*key));
        let reaches =
            |(key, values): &(&str, Vec<String>)| labels.get(*key).is_some_and(|v| values.contains(v));
        if placed && !self.zones.iter().all(reaches) { Err(ZONE.to_owned()) } else { Ok(()) }
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
        let Some(volumes) = self.volumes.look(&pod).map_err(|unready| unready.0)? else { return Ok(None) };
        let mut zones = Vec::new();
        let names = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        for name in names.filter_map(|volume| claim_of(info.name(), volume)) {
            let Some(claim) = self.caches.claims.get(&Key::new(info.namespace(), &name)) else { continue };
            let spec = claim.spec.as_ref();
            let modes = spec.and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
            let once = modes.iter().any(|mode| mode == "ReadWriteOncePod");
            if once && self.is_used(cluster, info, &name) {
                return Err(IN_USE.to_owned());
            }
            let volume = spec.and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
            let Some(volume) = self.caches.volumes.get(&Key::new("", volume)) else { continue };
            for key in TOPOLOGY {
                if let Some(value) = volume.metadata.labels.as_ref().and_then(|l| l.get(key)) {
                    zones.push((key, value.split("__").map(ToOwned::to_owned).collect()));
                }
            }
        }
        Ok(Some(Claims { pod, volumes, zones, taken: self.volumes.taken() }))
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
