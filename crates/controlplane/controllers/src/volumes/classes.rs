//! The default class of a new cluster.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use sampan_planner::pods;
use sampan_planner::volumes::{HOST_PATH, default_class};
use serde_json::json;

use crate::apis;
use crate::cache::Caches;
use crate::error::{Context, Error, Result, code};
use crate::queue::Queue;
use crate::worker::Reconciler;

/// The name of the class.
const STANDARD: &str = "standard";
/// Says on `kube-system` that the class was made: who deletes it does not want it back.
const MADE: &str = "sampan.io/default-storage-class";

/// The only piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Once;

impl fmt::Display for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the default class")
    }
}

/// Makes the class, once in the life of a cluster.
pub(crate) struct Classes {
    client: Client,
    caches: Arc<Caches>,
    queue: Queue<Once>,
}

impl Classes {
    pub fn new(client: Client, caches: Arc<Caches>) -> Arc<Self> {
        let this = Arc::new(Self { client, caches, queue: Queue::new() });
        this.queue.add(Once);
        this
    }
}

impl Reconciler for Classes {
    type Key = Once;

    fn queue(&self) -> &Queue<Once> {
        &self.queue
    }

    async fn reconcile(&self, _: &Once) -> Result<Option<Duration>> {
        let namespaces = apis::cluster::<Namespace>(&self.client);
        let system = namespaces.get_opt("kube-system").await;
        let Some(system) = system.during(|| "reading namespace kube-system".to_owned())? else {
            // It is made when the server starts, and will be there at the next look.
            return Err(Error::Object {
                object: "namespace kube-system".into(),
                problem: "is not there yet".into(),
            });
        };
        if pods::annotation(&system.metadata, MADE).is_some() {
            return Ok(None);
        }
        let known = self.caches.classes.all();
        if default_class(known.iter().map(|class| &**class)).is_none() {
            let class: StorageClass = serde_json::from_value(json!({
                "metadata": {
                    "name": STANDARD,
                    "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
                },
                "provisioner": HOST_PATH,
                "reclaimPolicy": "Delete",
                "volumeBindingMode": "WaitForFirstConsumer",
                "allowVolumeExpansion": true,
            }))
            .map_err(|error| Error::Object { object: STANDARD.into(), problem: error.to_string() })?;
            match apis::cluster::<StorageClass>(&self.client).create(&PostParams::default(), &class).await {
                Err(error) if code(&error) == 409 => {}
                other => drop(other.during(|| format!("creating StorageClass {STANDARD}"))?),
            }
        }
        let patch = json!({"metadata": {"annotations": {MADE: STANDARD}}});
        let done =
            namespaces.patch_metadata("kube-system", &PatchParams::default(), &Patch::Merge(patch)).await;
        done.during(|| "marking namespace kube-system".to_owned())?;
        Ok(None)
    }
}
