//! Claims, volumes and classes as lists give them.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::placement::Source;
use crate::pods;

/// All of them, to be looked up.
#[derive(Debug, Default)]
pub struct Listed {
    claims: HashMap<(String, String), Arc<PersistentVolumeClaim>>,
    volumes: HashMap<String, Arc<PersistentVolume>>,
    classes: HashMap<String, Arc<StorageClass>>,
    limits: HashMap<(String, String), usize>,
}

impl Listed {
    /// Takes the lists in.
    pub fn new(
        claims: impl IntoIterator<Item = PersistentVolumeClaim>,
        volumes: impl IntoIterator<Item = PersistentVolume>,
        classes: impl IntoIterator<Item = StorageClass>,
        nodes: impl IntoIterator<Item = CSINode>,
    ) -> Self {
        let name = |meta: &ObjectMeta| pods::name(meta).to_owned();
        let by_key = |c: PersistentVolumeClaim| {
            ((c.metadata.namespace.clone().unwrap_or_default(), name(&c.metadata)), Arc::new(c))
        };
        let mut limits = HashMap::new();
        for node in nodes {
            for driver in &node.spec.drivers {
                let limit = limit(&node, &driver.name);
                limits.extend(limit.map(|limit| ((name(&node.metadata), driver.name.clone()), limit)));
            }
        }
        Self {
            claims: claims.into_iter().map(by_key).collect(),
            volumes: volumes.into_iter().map(|v| (name(&v.metadata), Arc::new(v))).collect(),
            classes: classes.into_iter().map(|c| (name(&c.metadata), Arc::new(c))).collect(),
            limits,
        }
    }
}

/// How many volumes of a driver a node can have; `None` for any number.
pub fn limit(node: &CSINode, driver: &str) -> Option<usize> {
    let driver = node.spec.drivers.iter().find(|d| d.name == driver)?;
    usize::try_from(driver.allocatable.as_ref()?.count?).ok()
}

impl Source for Listed {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get(name).cloned()
    }

    fn candidates(&self, _: &PersistentVolumeClaim) -> Vec<Arc<PersistentVolume>> {
        self.volumes.values().cloned().collect()
    }

    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.get(name).cloned()
    }

    fn limit(&self, node: &str, driver: &str) -> Option<usize> {
        self.limits.get(&(node.to_owned(), driver.to_owned())).copied()
    }
}
