//! The volumes behind a pod's claims: looked up when they are mounted, refused with a reason until they are bound.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, PersistentVolume, PersistentVolumeClaim, Pod, Volume,
};
use kube::{Api, Client};

use super::VolumeError;
use crate::pod::spec;

/// Who made a volume; ours are directories that belong to the node's agent.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const HOST_PATH: &str = "sampan.io/host-path";

/// The bound volume behind one volume of a pod.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The volume.
    pub volume: PersistentVolume,
    /// The pod wants it read only.
    pub read_only: bool,
}

/// By name of the volume in the pod.
pub type Claims = BTreeMap<String, Claimed>;

/// What kind of thing a volume is on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A path that an administrator chose, of that type.
    Host(PathBuf, String),
    /// A directory that the provisioner has us make.
    Made(PathBuf),
    /// A directory of the node.
    Local(PathBuf),
    /// A block device of the node.
    Device(PathBuf),
}

impl Claimed {
    /// What it is.
    pub fn kind(&self) -> Result<Kind, String> {
        let name = self.volume.metadata.name.as_deref().unwrap_or_default();
        let spec = self.volume.spec.clone().unwrap_or_default();
        let block = spec.volume_mode.as_deref() == Some("Block");
        if let Some(local) = spec.local {
            let path = PathBuf::from(local.path);
            return Ok(if block { Kind::Device(path) } else { Kind::Local(path) });
        }
        if block {
            return Err(format!(
                "volume {name:?} is no local volume, and only those can be block devices here (hint: spec.local.path)"
            ));
        }
        if let Some(host) = spec.host_path {
            let path = PathBuf::from(host.path);
            let made = self.volume.metadata.annotations.as_ref().and_then(|all| all.get(PROVISIONED_BY));
            return Ok(if made.is_some_and(|by| by == HOST_PATH) {
                Kind::Made(path)
            } else {
                Kind::Host(path, host.type_.unwrap_or_default())
            });
        }
        Err(format!(
            "the kind of volume {name:?} is not supported by this node (hint: hostPath and local are)"
        ))
    }
}

fn claim_name(pod: &Pod, volume: &Volume) -> Option<(String, bool)> {
    match &volume.persistent_volume_claim {
        Some(source) => Some((source.claim_name.clone(), source.read_only == Some(true))),
        None => volume.ephemeral.as_ref().map(|_| (format!("{}-{}", spec::name(pod), volume.name), false)),
    }
}

/// Looks up every claim of a pod and the volume that it is bound to.
pub async fn resolve(client: &Client, node: &str, pod: &Pod) -> Result<Claims, VolumeError> {
    let mut claims = Claims::new();
    let mut found: HashMap<String, PersistentVolume> = HashMap::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some((name, read_only)) = claim_name(pod, volume) else { continue };
        let error = |reason| VolumeError { volume: volume.name.clone(), reason };
        let bound = match found.get(&name) {
            Some(known) => known.clone(),
            None => one(client, node, pod, volume, &name).await.map_err(error)?,
        };
        found.insert(name, bound.clone());
        claims.insert(volume.name.clone(), Claimed { volume: bound, read_only });
    }
    Ok(claims)
}

async fn one(
    client: &Client,
    node: &str,
    pod: &Pod,
    volume: &Volume,
    name: &str,
) -> Result<PersistentVolume, String> {
    let namespace = spec::namespace(pod);
    let told = |problem: &str| format!("error processing PVC {namespace}/{name}: {problem}");
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claim = api.get(name).await;
    let claim =
        claim.map_err(|error| told(&format!("failed to fetch PVC from API server: {}", said(&error))))?;
    let wanted = bound_volume(pod, volume, &claim).map_err(|problem| told(&problem))?;
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let found = api.get(&wanted).await;
    let found = found.map_err(|error| told(&format!("failed to fetch PV {wanted:?}: {}", said(&error))))?;
    let uid = found.spec.as_ref().and_then(|s| s.claim_ref.as_ref()).and_then(|r| r.uid.clone());
    if uid.is_none() || uid != claim.metadata.uid {
        return Err(told(&format!("PV {wanted:?} is bound to another claim")));
    }
    if has_affinity(&found) {
        let api: Api<Node> = Api::all(client.clone());
        let node = api.get(node).await.map_err(|error| told(&said(&error)))?;
        if !reaches(&found, &node) {
            return Err(format!(
                "NodeAffinity check failed for volume {wanted:?}: no matching NodeSelectorTerms"
            ));
        }
    }
    Ok(found)
}

fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// The volume that a claim is bound to.
fn bound_volume(pod: &Pod, volume: &Volume, claim: &PersistentVolumeClaim) -> Result<String, String> {
    if volume.ephemeral.is_some() {
        let owners = claim.metadata.owner_references.iter().flatten();
        if !owners.into_iter().any(|o| o.controller == Some(true) && o.uid == spec::uid(pod)) {
            return Err("PVC was not created for the pod (pod is not owner)".to_owned());
        }
    }
    // A pod that runs keeps what it has until it ends, also through a restart of the agent.
    let runs = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    if claim.metadata.deletion_timestamp.is_some() && !runs {
        return Err("PVC is being deleted".to_owned());
    }
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
    match name {
        Some(name) if phase == "Bound" => Ok(name),
        _ => Err(format!("PVC is not bound but {phase} (hint: kubectl describe pvc says what it waits for)")),
    }
}

fn has_affinity(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()).is_some_and(|a| a.required.is_some())
}

/// Whether the volume can be reached from the node.
fn reaches(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|a| a.required.as_ref()) else { return true };
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let name = node.metadata.name.clone();
    required.node_selector_terms.iter().any(|term| {
        let (labelled, fields) = (term.match_expressions.as_deref(), term.match_fields.as_deref());
        let (labelled, fields) = (labelled.unwrap_or_default(), fields.unwrap_or_default());
        !(labelled.is_empty() && fields.is_empty())
            && labelled.iter().all(|r| holds(r, labels.get(&r.key)))
            && fields.iter().all(|r| r.key == "metadata.name" && holds(r, name.as_ref()))
    })
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.contains(value));
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
    let order = number(value).zip(number(values.first()));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => order.is_some_and(|(have, limit)| have > limit),
        "Lt" => order.is_some_and(|(have, limit)| have < limit),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_that_are_not_ready_say_why() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}})).unwrap();
        let volume = |v| serde_json::from_value::<Volume>(v).unwrap();
        let claim = |v| serde_json::from_value::<PersistentVolumeClaim>(v).unwrap();
        let plain = volume(json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}));
        let own = volume(json!({"name": "v", "ephemeral": {}}));
        let bound = json!({"spec": {"volumeName": "x"}, "status": {"phase": "Bound"}});
        assert_eq!(bound_volume(&pod, &plain, &claim(bound.clone())), Ok("x".to_owned()));
        let pending = claim(json!({"spec": {"volumeName": "x"}, "status": {"phase": "Pending"}}));
        assert!(
            bound_volume(&pod, &plain, &pending).unwrap_err().starts_with("PVC is not bound but Pending")
        );
        assert!(bound_volume(&pod, &own, &claim(bound)).unwrap_err().contains("pod is not owner"));
        assert_eq!(claim_name(&pod, &own), Some(("p-v".to_owned(), false)));
    }

    #[test]
    fn kinds_of_volumes() {
        let kind = |spec: serde_json::Value, by: &str| {
            let meta = json!({"name": "v", "annotations": {PROVISIONED_BY: by}});
            let volume = serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap();
            Claimed { volume, read_only: false }.kind()
        };
        assert_eq!(
            kind(json!({"hostPath": {"path": "/x", "type": "Directory"}}), ""),
            Ok(Kind::Host("/x".into(), "Directory".into()))
        );
        assert_eq!(kind(json!({"hostPath": {"path": "/x"}}), HOST_PATH), Ok(Kind::Made("/x".into())));
        assert_eq!(kind(json!({"local": {"path": "/x"}}), ""), Ok(Kind::Local("/x".into())));
        assert_eq!(
            kind(json!({"local": {"path": "/x"}, "volumeMode": "Block"}), ""),
            Ok(Kind::Device("/x".into()))
        );
        assert!(kind(json!({"hostPath": {"path": "/x"}, "volumeMode": "Block"}), "").is_err());
        assert!(
            kind(json!({"nfs": {"path": "/x", "server": "s"}}), "").unwrap_err().contains("not supported")
        );
    }

    #[test]
    fn where_volumes_can_be_reached() {
        let volume: PersistentVolume = serde_json::from_value(json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}, {"key": "gpu", "operator": "DoesNotExist"}]}]}}}})).unwrap();
        let node = |labels: serde_json::Value| {
            serde_json::from_value::<Node>(json!({"metadata": {"name": "n", "labels": labels}})).unwrap()
        };
        assert!(reaches(&volume, &node(json!({"zone": "a"}))));
        assert!(!reaches(&volume, &node(json!({"zone": "b"}))));
        assert!(!reaches(&volume, &node(json!({"zone": "a", "gpu": "1"}))));
        assert!(reaches(&PersistentVolume::default(), &node(json!({}))));
    }
}
