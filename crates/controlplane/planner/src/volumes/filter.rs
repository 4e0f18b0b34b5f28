//! What the volumes of a pod say about each node: the filters VolumeRestrictions, VolumeBinding, VolumeZone and
//! NodeVolumeLimits of Kubernetes' scheduler.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PersistentVolume, Pod};

use super::matching::Taken;
use super::placement::{PodVolumes, Source, Unready};
use super::{class_of, volume_name};
use crate::pods;
use crate::scheduler::{Candidate, FilterSet, PodInfo};
use crate::selector::Labels;

const IN_USE: &str = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use \
                      by another pod";
const ZONE: &str = "node(s) had no available volume zone";
const LIMIT: &str = "node(s) exceed max volume count";

/// The labels of volumes that say where they can be reached, and their names of today.
const TOPOLOGY: [(&str, &str); 4] = [
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
];

/// A volume as its driver attaches it to a node: the driver, and its handle there.
type Attachment = (String, String);

/// The volumes of one pod, read once and asked about every node.
#[derive(Debug, Clone, Default)]
pub struct VolumeFilter {
    volumes: Option<PodVolumes>,
    /// Labels that a node which has any of them must have with one of these values.
    zones: Vec<(usize, Vec<String>)>,
    attached: BTreeSet<Attachment>,
}

impl VolumeFilter {
    /// Reads what a pod needs; `None` when it has no claims. `used` says whether another pod on a node uses a claim.
    ///
    /// # Errors
    /// It can go nowhere now.
    pub fn of(
        pod: &Pod,
        source: &impl Source,
        filters: &FilterSet,
        used: impl Fn(&str) -> bool,
    ) -> Result<Option<Self>, Unready> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let names: BTreeSet<String> = pods::claims(pod).collect();
        if names.is_empty() {
            return Ok(None);
        }
        let volumes = if filters.volume_binding { PodVolumes::of(pod, source)? } else { None };
        let mut this = Self { volumes, ..Self::default() };
        for name in names {
            let Some(claim) = source.claim(namespace, &name) else { continue };
            let modes = claim.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
            let once = modes.iter().any(|mode| mode == "ReadWriteOncePod");
            if filters.volume_restrictions && once && used(&name) {
                return Err(Unready(IN_USE.to_owned()));
            }
            if filters.volume_limits {
                this.attached.extend(attachment(source, namespace, &name));
            }
            let volume = source.volume(volume_name(&claim)).filter(|_| filters.volume_zone);
            this.zones.extend(volume.iter().flat_map(|volume| zones(volume)));
        }
        Ok(Some(this))
    }

    /// What the claims allow and what is to be bound on a node.
    pub fn volumes(&self) -> Option<&PodVolumes> {
        self.volumes.as_ref()
    }

    /// Whether a node will do.
    ///
    /// # Errors
    /// The reason when it does not, in the words of Kubernetes' scheduler.
    pub fn allow(&self, node: Candidate<'_>, taken: &Taken, source: &impl Source) -> Result<(), String> {
        if let Some(volumes) = &self.volumes {
            volumes.on(node.name, node.labels, taken).map_err(|conflict| conflict.text().to_owned())?;
        }
        if !self.is_in_zone(node.labels) {
            return Err(ZONE.to_owned());
        }
        let drivers: BTreeSet<&str> = self.attached.iter().map(|(driver, _)| driver.as_str()).collect();
        for driver in drivers {
            let Some(limit) = source.limit(node.name, driver) else { continue };
            let there: BTreeSet<Attachment> =
                node.pods.iter().flat_map(|pod| attachments(source, pod)).filter(|a| a.0 == driver).collect();
            let new = self.attached.iter().filter(|a| a.0 == driver && !there.contains(*a)).count();
            if new > 0 && there.len() + new > limit {
                return Err(LIMIT.to_owned());
            }
        }
        Ok(())
    }

    fn is_in_zone(&self, labels: &Labels) -> bool {
        let reaches = |(at, values): &(usize, Vec<String>)| {
            let (key, today) = TOPOLOGY[*at];
            labels.get(key).or_else(|| labels.get(today)).is_some_and(|value| values.contains(value))
        };
        !TOPOLOGY.iter().any(|(key, _)| labels.contains_key(*key)) || self.zones.iter().all(reaches)
    }
}

/// Where a volume can be reached, by the number of the label.
fn zones(volume: &PersistentVolume) -> Vec<(usize, Vec<String>)> {
    let labels = volume.metadata.labels.iter();
    let of = |labels: &Labels| -> Vec<(usize, Vec<String>)> {
        let at = |(at, (key, _)): (usize, &(&str, &str))| {
            let values = labels.get(*key)?.split("__").map(ToOwned::to_owned).collect();
            Some((at, values))
        };
        TOPOLOGY.iter().enumerate().filter_map(at).collect()
    };
    labels.flat_map(of).collect()
}

/// What the driver of a claim's volume attaches; a volume that is not made yet has the name of its claim.
fn attachment(source: &impl Source, namespace: &str, name: &str) -> Option<Attachment> {
    let claim = source.claim(namespace, name)?;
    if let Some(volume) = source.volume(volume_name(&claim)) {
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        return Some((csi.driver.clone(), csi.volume_handle.clone()));
    }
    let class = source.class(class_of(&claim))?;
    Some((class.provisioner.clone(), format!("{namespace}/{name}")))
}

fn attachments(source: &impl Source, pod: &PodInfo) -> Vec<Attachment> {
    pod.claims().filter_map(|name| attachment(source, pod.namespace(), name)).collect()
}
