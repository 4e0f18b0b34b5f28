//! Volumes for claims that ask for a class: ours are directories on nodes, everybody else's are asked for by annotation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::PostParams;
use sampan_planner::pods;
use sampan_planner::rollout::Notice;
use sampan_planner::volumes::{
    self, BOUND_BY_CONTROLLER, HOST_PATH, NO_PROVISIONER, OLD_PROVISIONER, PROVISIONED_BY, PROVISIONER,
    SELECTED_NODE, claim, topology_allows,
};
use serde_json::json;

use super::Volumes;
use super::reclaim::FINALIZER;
use crate::apis;
use crate::error::{Context, Result, code};
use crate::informer::Key;

/// The annotation by which a node's agent tells in which directory it keeps volumes.
pub(super) const DIRECTORY: &str = "sampan.io/host-path-volumes";
/// Of a claim's name as much goes into the name of its directory: with namespace and uid a name must stay below 255.
const SHOWN_NAME: usize = 100;
/// A node that is not ready yet is looked at again.
const RECHECK: Duration = Duration::from_secs(10);

/// Why no volume is made.
enum Refusal {
    /// It will not help to try again.
    Final(String),
    /// The node that was chosen is no good: the scheduler is to choose another.
    Node(String),
    /// Another try may help.
    Later(String),
}

impl Volumes {
    pub(super) async fn provision(
        &self,
        key: &Key,
        claim: &Arc<PersistentVolumeClaim>,
        class: &StorageClass,
    ) -> Result<Option<Duration>> {
        if claim.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let provisioner = class.provisioner.as_str();
        if provisioner == NO_PROVISIONER {
            let text = format!("no volume plugin matched name: {provisioner}");
            self.events.notice(&**claim, Notice::warning("ProvisioningFailed", text));
            self.set_status(claim, "Pending", None).await?;
            return Ok(None);
        }
        self.ask(key, claim, provisioner).await?;
        if provisioner != HOST_PATH {
            let text = format!(
                "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually \
                 by the system administrator. If volume creation is delayed, please verify that the provisioner \
                 is running and correctly registered."
            );
            self.events.notice(&**claim, Notice::normal("ExternalProvisioning", text));
            return Ok(None);
        }
        let refusal = match self.host_path_volume(claim, class) {
            Ok(volume) => return self.create(key, claim, &volume).await.map(|()| None),
            Err(refusal) => refusal,
        };
        let (text, again) = match refusal {
            Refusal::Final(text) => (text, None),
            Refusal::Later(text) => (text, Some(RECHECK)),
            Refusal::Node(text) => {
                self.give_node_back(key, claim).await?;
                (text, None)
            }
        };
        let name = pods::name(&class.metadata);
        let text = format!("Failed to provision volume with StorageClass {name:?}: {text}");
        self.events.notice(&**claim, Notice::warning("ProvisioningFailed", text));
        Ok(again)
    }

    /// Writes into the claim who is to make its volume.
    async fn ask(&self, key: &Key, claim: &PersistentVolumeClaim, provisioner: &str) -> Result<()> {
        let asked = [PROVISIONER, OLD_PROVISIONER];
        if asked.iter().all(|name| pods::annotation(&claim.metadata, name) == Some(provisioner)) {
            return Ok(());
        }
        let annotations = asked.map(|name| (name, provisioner));
        let annotations: BTreeMap<&str, &str> = annotations.into_iter().collect();
        let patch = json!({"metadata": {"uid": claim.metadata.uid, "annotations": annotations}});
        apis::merge(&self.client, &self.caches.claims, key, &patch).await.map(drop)
    }

    async fn give_node_back(&self, key: &Key, claim: &PersistentVolumeClaim) -> Result<()> {
        let patch = json!({"metadata": {"uid": claim.metadata.uid, "annotations": {SELECTED_NODE: null}}});
        apis::merge(&self.client, &self.caches.claims, key, &patch).await.map(drop)
    }

    async fn create(
        &self,
        key: &Key,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<()> {
        let name = pods::name(&volume.metadata);
        let api = apis::cluster::<PersistentVolume>(&self.client);
        match api.create(&PostParams::default(), volume).await {
            // An earlier try came that far.
            Err(error) if code(&error) == 409 => return Ok(()),
            other => drop(other.during(|| format!("creating volume {name} for claim {key}"))?),
        }
        let text = format!("Successfully provisioned volume {name} using {HOST_PATH}");
        self.events.notice(claim, Notice::normal("ProvisioningSucceeded", text));
        Ok(())
    }

    fn host_path_volume(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
    ) -> Result<PersistentVolume, Refusal> {
        refuse(claim, class)?;
        let node = self.node_for(claim, class)?;
        let root = pods::annotation(&node.metadata, DIRECTORY).unwrap_or_default();
        let labels = node.metadata.labels.as_ref();
        let node_name = pods::name(&node.metadata);
        let host = labels.and_then(|l| l.get("kubernetes.io/hostname")).map_or(node_name, String::as_str);
        let name = format!("pvc-{}", pods::uid(&claim.metadata));
        let shown: String = pods::name(&claim.metadata).chars().take(SHOWN_NAME).collect();
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let policy = class.reclaim_policy.as_deref().unwrap_or("Delete");
        let finalizers = if policy == "Delete" { vec![FINALIZER] } else { Vec::new() };
        let requests =
            claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
        let size = requests.and_then(|r| r.get("storage")).map_or("0", |quantity| quantity.0.as_str());
        let volume = json!({
            "metadata": {
                "name": name,
                "finalizers": finalizers,
                "annotations": {BOUND_BY_CONTROLLER: "yes", PROVISIONED_BY: HOST_PATH},
            },
            "spec": {
                "accessModes": claim.spec.as_ref().and_then(|s| s.access_modes.clone()),
                "capacity": {"storage": size},
                "claimRef": claim::reference(claim),
                "hostPath": {"path": format!("{root}/{namespace}_{shown}_{name}"), "type": "DirectoryOrCreate"},
                "persistentVolumeReclaimPolicy": policy,
                "storageClassName": volumes::class_of(claim),
                "volumeMode": "Filesystem",
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}},
            },
        });
        serde_json::from_str(&volume.to_string()).map_err(|error| Refusal::Final(error.to_string()))
    }

    /// The node whose directory it becomes: the one that the scheduler chose, or, for claims that do not wait for a pod,
    /// the one with the fewest volumes.
    fn node_for(&self, claim: &PersistentVolumeClaim, class: &StorageClass) -> Result<Arc<Node>, Refusal> {
        let offers = |node: &Node| pods::annotation(&node.metadata, DIRECTORY).is_some_and(|d| !d.is_empty());
        if let Some(name) = pods::annotation(&claim.metadata, SELECTED_NODE).filter(|name| !name.is_empty()) {
            let gone = || Refusal::Node(format!("Failed to get target node: node {name:?} not found"));
            let node = self.caches.nodes.get(&Key::new("", name)).ok_or_else(gone)?;
            if offers(&node) {
                return Ok(node);
            }
            return Err(Refusal::Later(format!(
                "node {name:?} keeps no volumes (hint: its agent says where in the annotation {DIRECTORY}; is it \
                 a Sampan agent, and did it register?)"
            )));
        }
        let fits = |node: &Arc<Node>| {
            let labels = node.metadata.labels.clone().unwrap_or_default();
            offers(node) && topology_allows(class, &labels) && is_ready(node)
        };
        let mut used: BTreeMap<String, usize> = BTreeMap::new();
        for volume in self.caches.volumes.all() {
            for host in volumes::Reach::of(&volume).hosts() {
                *used.entry(host.to_owned()).or_insert(0) += 1;
            }
        }
        let load = |node: &Arc<Node>| {
            let name = pods::name(&node.metadata).to_owned();
            (used.get(&name).copied().unwrap_or(0), name)
        };
        let nodes = self.caches.nodes.all();
        let best = nodes.into_iter().filter(fits).min_by_key(load);
        best.ok_or_else(|| {
            Refusal::Later("no node is ready and keeps volumes where the class allows them".to_owned())
        })
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let cordoned = node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true);
    !cordoned && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// What a directory cannot be.
fn refuse(claim: &PersistentVolumeClaim, class: &StorageClass) -> Result<(), Refusal> {
    let spec = claim.spec.as_ref();
    let problem = if spec.is_some_and(|s| s.data_source.is_some() || s.data_source_ref.is_some()) {
        format!("provisioner {HOST_PATH:?} cannot fill a volume from a dataSource")
    } else if spec.and_then(|s| s.volume_mode.as_deref()) == Some("Block") {
        format!(
            "provisioner {HOST_PATH:?} makes directories, no block devices (hint: volumeMode: Filesystem)"
        )
    } else if spec.is_some_and(|s| s.selector.is_some()) {
        "claim.spec.selector is not supported for dynamic provisioning".to_owned()
    } else if class.mount_options.as_ref().is_some_and(|options| !options.is_empty()) {
        let options = class.mount_options.clone().unwrap_or_default();
        format!("mount options are not supported by the provisioner but the class has {options:?}")
    } else if let Some((name, _)) = class.parameters.iter().flatten().next() {
        format!("invalid parameter {name:?} (hint: {HOST_PATH} takes none)")
    } else {
        return Ok(());
    };
    Err(Refusal::Final(problem))
}
