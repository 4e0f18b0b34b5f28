//! Claims that ask for more than they have.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Patch, PatchParams};
use sampan_planner::pods;
use sampan_planner::rollout::Notice;
use sampan_planner::volumes::{self, HOST_PATH, PROVISIONED_BY};
use serde_json::json;

use super::Volumes;
use crate::apis;
use crate::error::{Context, Result};
use crate::informer::Key;

fn size(
    list: Option<
        &std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
    >,
) -> i64 {
    let text = list.and_then(|list| list.get("storage"));
    text.and_then(|quantity| sampan_planner::quantity::value(&quantity.0)).unwrap_or(0)
}

impl Volumes {
    /// Lets a bound claim grow where that is in our hands: a directory has no size but the one that is written down.
    pub(super) async fn resize(&self, key: &Key, volume: &PersistentVolume) -> Result<()> {
        let Some(claim) = self.caches.claims.get(key) else { return Ok(()) };
        let wanted = volumes::requested(&claim);
        let have = size(claim.status.as_ref().and_then(|s| s.capacity.as_ref()));
        if volumes::claim_phase(&claim) != "Bound" || have == 0 || wanted <= have {
            return Ok(());
        }
        let requests =
            claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
        let Some(text) = requests.and_then(|r| r.get("storage")).map(|q| q.0.clone()) else { return Ok(()) };
        if pods::annotation(&volume.metadata, PROVISIONED_BY) != Some(HOST_PATH) {
            let text = "waiting for an external controller to expand this PVC";
            self.events.notice(&*claim, Notice::normal("ExternalExpanding", text));
            return Ok(());
        }
        if volumes::capacity(volume) < wanted {
            let name = pods::name(&volume.metadata);
            let patch =
                json!({"metadata": {"uid": volume.metadata.uid}, "spec": {"capacity": {"storage": text}}});
            let api = apis::cluster::<PersistentVolume>(&self.client);
            let written = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
            self.caches.volumes.absorb(written.during(|| format!("resizing volume {name}"))?);
        }
        let mut changed = (*claim).clone();
        let status = changed.status.get_or_insert_default();
        let capacity = status.capacity.get_or_insert_default();
        capacity.insert("storage".to_owned(), k8s_openapi::apimachinery::pkg::api::resource::Quantity(text));
        if let Some(conditions) = &mut status.conditions {
            conditions.retain(|c| !matches!(c.type_.as_str(), "Resizing" | "FileSystemResizePending"));
        }
        apis::replace_status(&self.client, &self.caches.claims, &changed).await?;
        let name = pods::name(&volume.metadata);
        let notice =
            Notice::normal("VolumeResizeSuccessful", format!("Resize volume succeeded for volume {name}"));
        self.events.notice::<PersistentVolumeClaim>(&claim, notice);
        Ok(())
    }
}
