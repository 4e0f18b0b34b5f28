//! What a stored pod, volume or attachment says about who needs what: the edges from objects to nodes.

use std::{
    borrow::Cow,
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use sampan_store::KeyValue;
use serde::Deserialize;

/// What kind of object is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Needed {
    Secret,
    ConfigMap,
    Claim,
    ResourceClaim,
    ServiceAccount,
}

/// Everything that a pod needs, sorted. Pods of one template share one.
pub(crate) type Needs = Vec<(Needed, Box<str>)>;

/// A pod that is bound to a node.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) node: Arc<str>,
    needs: Arc<Needs>,
}

impl Pod {
    pub(crate) fn needs(&self, kind: Needed, name: &str) -> bool {
        self.needs.binary_search_by(|(k, n)| (*k, &**n).cmp(&(kind, name))).is_ok()
    }
}

/// A persistent volume that is bound to a claim.
#[derive(Debug)]
pub(crate) struct Volume {
    /// Namespace and name of the claim.
    pub(crate) claim: (Box<str>, Box<str>),
    /// Namespace and name of the secrets that mounting it takes.
    pub(crate) secrets: Vec<(Box<str>, Box<str>)>,
}

/// An object that names its node.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) node: Box<str>,
}

/// Keeps one copy of what many pods have in common.
#[derive(Default)]
pub(crate) struct Interner {
    nodes: Mutex<HashSet<Arc<str>>>,
    needs: Mutex<(HashSet<Arc<Needs>>, usize)>,
}

impl Interner {
    fn node(&self, name: &str) -> Arc<str> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = nodes.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        nodes.insert(name.clone());
        name
    }

    fn needs(&self, needs: Needs) -> Arc<Needs> {
        let mut guard = self.needs.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, sweep_at) = &mut *guard;
        if let Some(same) = known.get(&needs) {
            return same.clone();
        }
        if known.len() >= *sweep_at {
            known.retain(|needs| Arc::strong_count(needs) > 1);
            *sweep_at = (known.len() * 2).max(256);
        }
        let needs = Arc::new(needs);
        known.insert(needs.clone());
        needs
    }

    /// A stored pod; nothing when it has no node.
    pub(crate) fn pod(&self, kv: &KeyValue) -> Option<Pod> {
        // Most of what is heard of pods that wait is not read.
        memchr::memmem::find(&kv.value, b"\"nodeName\":")?;
        let stored: StoredPod<'_> = serde_json::from_slice(&kv.value).ok()?;
        let node = stored.spec.node_name.as_deref().filter(|name| !name.is_empty())?;
        Some(Pod { node: self.node(node), needs: self.needs(stored.needs()) })
    }
}

/// A stored persistent volume; nothing when no claim has it.
pub(crate) fn volume(kv: &KeyValue) -> Option<Volume> {
    let stored: serde_json::Value = serde_json::from_slice(&kv.value).ok()?;
    let claim = stored.pointer("/spec/claimRef")?;
    let text = |value: &serde_json::Value, key: &str| -> Option<Box<str>> {
        value.get(key)?.as_str().filter(|text| !text.is_empty()).map(Into::into)
    };
    let claim = (text(claim, "namespace")?, text(claim, "name")?);
    let mut secrets = Vec::new();
    for (source, field) in stored["spec"].as_object()?.iter().flat_map(|(_, source)| {
        let fields = source.as_object().into_iter().flatten();
        fields.map(move |(key, value)| (source, (key.as_str(), value)))
    }) {
        match field {
            (
                "secretRef"
                | "controllerPublishSecretRef"
                | "nodePublishSecretRef"
                | "nodeStageSecretRef"
                | "nodeExpandSecretRef"
                | "controllerExpandSecretRef",
                reference,
            ) => {
                // The controller's own secrets are none of the node's business.
                if field.0.starts_with("controller") {
                    continue;
                }
                if let Some(name) = text(reference, "name") {
                    let namespace = text(reference, "namespace").unwrap_or_else(|| claim.0.clone());
                    secrets.push((namespace, name));
                }
            }
            // Azure files name their secret in place.
            ("secretName", name) => {
                if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
                    let namespace = text(source, "secretNamespace").unwrap_or_else(|| claim.0.clone());
                    secrets.push((namespace, name.into()));
                }
            }
            _ => {}
        }
    }
    Some(Volume { claim, secrets })
}

/// An object whose `spec.nodeName` says where it belongs.
pub(crate) fn attached(kv: &KeyValue) -> Option<Attached> {
    #[derive(Deserialize)]
    struct Stored<'a> {
        #[serde(borrow)]
        spec: Spec<'a>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec<'a> {
        #[serde(borrow)]
        node_name: Cow<'a, str>,
    }
    let stored: Stored<'_> = serde_json::from_slice(&kv.value).ok()?;
    Some(Attached { node: stored.spec.node_name.into() })
}

/// Names something, perhaps.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Reference<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    secret_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    claim_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    secret_ref: Option<Box<Reference<'a>>>,
    #[serde(borrow)]
    node_publish_secret_ref: Option<Box<Reference<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StoredPod<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow)]
    spec: Spec<'a>,
    #[serde(borrow)]
    status: PodStatus<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodStatus<'a> {
    #[serde(borrow)]
    resource_claim_statuses: Vec<ResourceClaim<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ResourceClaim<'a> {
    #[serde(borrow)]
    resource_claim_name: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow)]
    node_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    service_account_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    image_pull_secrets: Vec<Reference<'a>>,
    #[serde(borrow)]
    volumes: Vec<PodVolume<'a>>,
    #[serde(borrow)]
    containers: Vec<Container<'a>>,
    #[serde(borrow)]
    init_containers: Vec<Container<'a>>,
    #[serde(borrow)]
    ephemeral_containers: Vec<Container<'a>>,
    #[serde(borrow)]
    resource_claims: Vec<ResourceClaim<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container<'a> {
    #[serde(borrow)]
    env: Vec<EnvVar<'a>>,
    #[serde(borrow)]
    env_from: Vec<EnvFrom<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct EnvVar<'a> {
    #[serde(borrow)]
    value_from: Option<ValueFrom<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ValueFrom<'a> {
    #[serde(borrow)]
    secret_key_ref: Option<Reference<'a>>,
    #[serde(borrow)]
    config_map_key_ref: Option<Reference<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct EnvFrom<'a> {
    #[serde(borrow)]
    secret_ref: Option<Reference<'a>>,
    #[serde(borrow)]
    config_map_ref: Option<Reference<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodVolume<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    secret: Option<Reference<'a>>,
    #[serde(borrow)]
    config_map: Option<Reference<'a>>,
    #[serde(borrow)]
    persistent_volume_claim: Option<Reference<'a>>,
    ephemeral: Option<serde::de::IgnoredAny>,
    #[serde(borrow)]
    projected: Option<Projected<'a>>,
    #[serde(borrow)]
    azure_file: Option<Reference<'a>>,
    #[serde(borrow)]
    cephfs: Option<Reference<'a>>,
    #[serde(borrow)]
    cinder: Option<Reference<'a>>,
    #[serde(borrow)]
    flex_volume: Option<Reference<'a>>,
    #[serde(borrow)]
    rbd: Option<Reference<'a>>,
    #[serde(borrow, rename = "scaleIO")]
    scale_io: Option<Reference<'a>>,
    #[serde(borrow)]
    iscsi: Option<Reference<'a>>,
    #[serde(borrow)]
    storageos: Option<Reference<'a>>,
    #[serde(borrow)]
    csi: Option<Reference<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Projected<'a> {
    #[serde(borrow)]
    sources: Vec<Source<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Source<'a> {
    #[serde(borrow)]
    secret: Option<Reference<'a>>,
    #[serde(borrow)]
    config_map: Option<Reference<'a>>,
}

impl StoredPod<'_> {
    fn needs(&self) -> Needs {
        let mut out = Collector(Vec::new());
        let spec = &self.spec;
        out.add(Needed::ServiceAccount, spec.service_account_name.as_deref());
        for secret in &spec.image_pull_secrets {
            out.add(Needed::Secret, secret.name.as_deref());
        }
        for container in spec.containers.iter().chain(&spec.init_containers).chain(&spec.ephemeral_containers)
        {
            out.container(container);
        }
        for volume in &spec.volumes {
            out.volume(volume, &self.metadata.name);
        }
        for claim in spec.resource_claims.iter().chain(&self.status.resource_claim_statuses) {
            out.add(Needed::ResourceClaim, claim.resource_claim_name.as_deref());
        }
        out.0.sort_unstable();
        out.0.dedup();
        out.0
    }
}

struct Collector(Needs);

impl Collector {
    fn add(&mut self, kind: Needed, name: Option<&str>) {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            self.0.push((kind, name.into()));
        }
    }

    fn named(&mut self, kind: Needed, reference: Option<&Reference<'_>>) {
        self.add(kind, reference.and_then(|reference| reference.name.as_deref()));
    }

    fn container(&mut self, container: &Container<'_>) {
        for from in &container.env_from {
            self.named(Needed::Secret, from.secret_ref.as_ref());
            self.named(Needed::ConfigMap, from.config_map_ref.as_ref());
        }
        for from in container.env.iter().filter_map(|env| env.value_from.as_ref()) {
            self.named(Needed::Secret, from.secret_key_ref.as_ref());
            self.named(Needed::ConfigMap, from.config_map_key_ref.as_ref());
        }
    }

    fn volume(&mut self, volume: &PodVolume<'_>, pod: &str) {
        for source in [&volume.secret, &volume.azure_file].into_iter().flatten() {
            self.add(Needed::Secret, source.secret_name.as_deref());
        }
        self.named(Needed::ConfigMap, volume.config_map.as_ref());
        if let Some(claim) = &volume.persistent_volume_claim {
            self.add(Needed::Claim, claim.claim_name.as_deref());
        }
        if volume.ephemeral.is_some() {
            self.add(Needed::Claim, Some(&format!("{pod}-{}", volume.name)));
        }
        for source in volume.projected.iter().flat_map(|projected| &projected.sources) {
            self.named(Needed::Secret, source.secret.as_ref());
            self.named(Needed::ConfigMap, source.config_map.as_ref());
        }
        let drivers = [
            &volume.cephfs,
            &volume.cinder,
            &volume.flex_volume,
            &volume.rbd,
            &volume.scale_io,
            &volume.iscsi,
            &volume.storageos,
            &volume.csi,
        ];
        for driver in drivers.into_iter().flatten() {
            self.named(Needed::Secret, driver.secret_ref.as_deref());
            self.named(Needed::Secret, driver.node_publish_secret_ref.as_deref());
        }
    }
}
