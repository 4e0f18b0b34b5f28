//! Classes that claims and ingresses get when they name none, what a class allows later, and the finalizers of volumes.

use std::{cmp::Reverse, sync::Arc};

use sampan_api::{quantity::Quantity, status::Status};
use serde_json::{Value, json};

use super::{Operation, Review, state};
use crate::{
    call::{self, text},
    core::Core,
    mirror::Mirror,
};

/// Names a claim's class the way of before `spec.storageClassName`.
const OLD_CLASS: &str = "/metadata/annotations/volume.beta.kubernetes.io~1storage-class";
/// Names an Ingress's class the way of before `spec.ingressClassName`.
const OLD_INGRESS_CLASS: &str = "/metadata/annotations/kubernetes.io~1ingress.class";

/// Of classes that are marked as default the newest counts, of those as old the first by name.
async fn default_of(mirror: &Mirror<Value>, annotations: &[&str]) -> Option<Arc<Value>> {
    mirror.settle().await;
    let objects = mirror.objects();
    let marked =
        |class: &&Arc<Value>| annotations.iter().any(|key| class["metadata"]["annotations"][key] == "true");
    let order = |class: &&Arc<Value>| {
        let made = text(class, "/metadata/creationTimestamp").to_owned();
        (Reverse(made), text(class, "/metadata/name").to_owned())
    };
    objects.values().filter(marked).min_by_key(order).cloned()
}

/// DefaultStorageClass.
pub(crate) async fn default_storage(core: &Core, review: &mut Review<'_>) -> Result<(), Status> {
    let Some(mirrors) = core.admission.get() else { return Ok(()) };
    let claim = &review.object;
    let named = claim.pointer("/spec/storageClassName").is_some_and(|v| !v.is_null());
    let creates = review.operation == Operation::Create && review.subresource.is_empty();
    if !creates || named || claim.pointer(OLD_CLASS).is_some() {
        return Ok(());
    }
    let keys =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    if let Some(class) = default_of(&mirrors.storage_classes, &keys).await {
        review.object["spec"]["storageClassName"] = text(&class, "/metadata/name").into();
    }
    Ok(())
}

/// DefaultIngressClass.
pub(crate) async fn default_ingress(core: &Core, review: &mut Review<'_>) -> Result<(), Status> {
    let Some(mirrors) = core.admission.get() else { return Ok(()) };
    let ingress = &review.object;
    let named = ingress.pointer("/spec/ingressClassName").is_some_and(|v| !v.is_null());
    let creates = review.operation == Operation::Create && review.subresource.is_empty();
    if !creates || named || ingress.pointer(OLD_INGRESS_CLASS).is_some() {
        return Ok(());
    }
    let keys = ["ingressclass.kubernetes.io/is-default-class"];
    if let Some(class) = default_of(&mirrors.ingress_classes, &keys).await {
        if !review.object["spec"].is_object() {
            review.object["spec"] = json!({});
        }
        review.object["spec"]["ingressClassName"] = text(&class, "/metadata/name").into();
    }
    Ok(())
}

/// StorageObjectInUseProtection: who uses a volume or a claim keeps it.
pub(crate) fn protect(review: &mut Review<'_>, finalizer: &str) -> Result<(), Status> {
    if review.operation != Operation::Create || !review.subresource.is_empty() {
        return Ok(());
    }
    let metadata = call::metadata(&mut review.object)?;
    let list = metadata.entry("finalizers").or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    if let Some(list) = list.as_array_mut().filter(|list| !list.iter().any(|known| known == finalizer)) {
        list.push(finalizer.into());
    }
    Ok(())
}

fn class_of(claim: &Value) -> &str {
    let old = text(claim, OLD_CLASS);
    if old.is_empty() { text(claim, "/spec/storageClassName") } else { old }
}

/// PersistentVolumeClaimResize: a claim grows where its class allows it.
pub(crate) async fn resize(core: &Core, review: &Review<'_>) -> Result<(), Status> {
    let (Some(old), Some(mirrors)) = (review.old, core.admission.get()) else { return Ok(()) };
    if review.operation != Operation::Update || !review.subresource.is_empty() {
        return Ok(());
    }
    let size = |claim: &Value| {
        let size = claim.pointer("/spec/resources/requests/storage").and_then(Quantity::from_value);
        size.unwrap_or(Quantity::ZERO)
    };
    if size(&review.object) <= size(old) {
        return Ok(());
    }
    if text(old, "/status/phase") != "Bound" {
        return Err(review.forbidden("Only bound persistent volume claims can be expanded"));
    }
    let name = class_of(&review.object);
    if !name.is_empty() && name == class_of(old) {
        let gr = ("storage.k8s.io", "storageclasses");
        let class = state::named(core, &mirrors.storage_classes, gr, name).await?;
        if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
            return Ok(());
        }
    }
    Err(review.forbidden(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    ))
}
