//! Volumes whose claims are gone: kept, or deleted with their data.

use std::time::Duration;

use http::{Request, StatusCode};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{DeleteParams, Preconditions};
use sampan_planner::pods;
use sampan_planner::rollout::Notice;
use sampan_planner::volumes::{self, HOST_PATH, PROVISIONED_BY, volume};

use super::Volumes;
use crate::apis;
use crate::error::{Context, Result, code, gone_is_fine};

/// Keeps a volume until its data is removed.
pub(super) const FINALIZER: &str = "kubernetes.io/pv-controller";
/// A deletion that failed is tried again after this, and then ever more slowly.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(300);

/// How an attempt to remove data ended.
enum Removal {
    Done,
    /// The volume is still in use; that is no failure.
    InUse(String),
    Failed(String),
}

impl Volumes {
    pub(super) async fn reclaim(
        &self,
        volume: PersistentVolume,
        policy: volume::Reclaim,
    ) -> Result<Option<Duration>> {
        let volume = if volume::must_be_released(&volume) {
            self.set_phase(volume, "Released", None).await?
        } else {
            volume
        };
        match policy {
            volume::Reclaim::Retain => Ok(None),
            volume::Reclaim::Recycle => {
                self.fail(volume, "VolumeFailedRecycle", "No recycler plugin found for the volume!").await?;
                Ok(None)
            }
            volume::Reclaim::Unknown => {
                let text = "Volume has unrecognized PersistentVolumeReclaimPolicy";
                self.fail(volume, "VolumeUnknownReclaimPolicy", text).await?;
                Ok(None)
            }
            volume::Reclaim::Delete => self.remove(volume).await,
        }
    }

    async fn fail(&self, volume: PersistentVolume, reason: &'static str, text: &str) -> Result<()> {
        let known = volume.status.as_ref().and_then(|s| s.message.as_deref()) == Some(text);
        if !known || volumes::phase(&volume) != "Failed" {
            self.events.notice(&volume, Notice::warning(reason, text));
        }
        self.set_phase(volume, "Failed", Some(text)).await.map(drop)
    }

    async fn remove(&self, volume: PersistentVolume) -> Result<Option<Duration>> {
        match pods::annotation(&volume.metadata, PROVISIONED_BY) {
            Some(HOST_PATH) => {}
            // Whoever made it removes it.
            Some(_) => return Ok(None),
            None => {
                let text = "error getting deleter volume plugin for volume: nobody made it, so nobody knows how to \
                            delete its data (hint: remove the data, then the volume, or set \
                            persistentVolumeReclaimPolicy: Retain)";
                self.fail(volume, "VolumeFailedDelete", text).await?;
                return Ok(None);
            }
        }
        let name = pods::name(&volume.metadata).to_owned();
        let tries = self.tries(&name);
        let delay = FIRST_RETRY.saturating_mul(1 << tries.min(16)).min(LAST_RETRY);
        match self.remove_data(&volume).await {
            Removal::Done => {
                self.forget_tries(&name);
                if volume.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER) {
                    self.drop_finalizer(&volume).await?;
                }
                let preconditions =
                    Preconditions { uid: volume.metadata.uid.clone(), resource_version: None };
                let params = DeleteParams::background().preconditions(preconditions);
                let api = apis::cluster::<PersistentVolume>(&self.client);
                gone_is_fine(api.delete(&name, &params).await)
                    .during(|| format!("deleting volume {name}"))?;
                Ok(None)
            }
            Removal::InUse(text) => {
                self.events.notice(&volume, Notice::normal("VolumeDelete", text));
                Ok(Some(delay))
            }
            Removal::Failed(text) => {
                self.fail(volume, "VolumeFailedDelete", &text).await?;
                Ok(Some(delay))
            }
        }
    }

    /// Asks the node that has the directory to remove it.
    async fn remove_data(&self, volume: &PersistentVolume) -> Removal {
        let path = volume.spec.as_ref().and_then(|s| s.host_path.as_ref()).map(|source| source.path.as_str());
        let directory = path.and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        let reach = volumes::Reach::of(volume);
        let hosts = reach.hosts();
        let nodes = self.caches.nodes.all();
        let node = nodes.iter().find(|node| {
            let labels = node.metadata.labels.as_ref();
            let host = labels.and_then(|l| l.get("kubernetes.io/hostname")).map(String::as_str);
            host.is_some_and(|host| hosts.contains(&host)) || hosts.contains(&pods::name(&node.metadata))
        });
        let Some(node) = node else {
            return Removal::Failed(format!(
                "node {} is not there, and the data is on it (hint: when it does not come back, delete the volume \
                 and its finalizer {FINALIZER})",
                hosts.join(", ")
            ));
        };
        let node = pods::name(&node.metadata);
        let uri = format!("/api/v1/nodes/{node}/proxy/hostPathVolumes/{directory}");
        let request = match Request::delete(&uri).body(Vec::new()) {
            Ok(request) => request,
            Err(error) => return Removal::Failed(format!("directory {directory:?}: {error}")),
        };
        match self.client.request_text(request).await {
            Ok(_) => Removal::Done,
            Err(error) if code(&error) == StatusCode::CONFLICT.as_u16() => {
                Removal::InUse(format!("Volume is used on node {node}: {error}"))
            }
            Err(error) => Removal::Failed(format!("node {node} did not remove the data: {error}")),
        }
    }

    /// What is not to be deleted needs nobody to delete its data first.
    pub(super) fn finalizer_is_wrong(&self, volume: &PersistentVolume) -> bool {
        volume::policy(volume) != volume::Reclaim::Delete
            && volume.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
    }

    pub(super) async fn drop_finalizer(&self, volume: &PersistentVolume) -> Result<()> {
        let name = pods::name(&volume.metadata);
        let Some(mut live) = self.live_volume(name).await? else { return Ok(()) };
        if live.metadata.uid != volume.metadata.uid {
            return Ok(());
        }
        if let Some(finalizers) = &mut live.metadata.finalizers {
            finalizers.retain(|f| f != FINALIZER);
        }
        match self.replace_volume(&live).await {
            Err(error) if error.is_gone() => Ok(()),
            other => other.map(drop),
        }
    }
}
