//! Objects are created only in namespaces that exist and are not going away.

use sampan_api::status::Status;
use sampan_store::Compare;

use crate::{
    call::{Call, text},
    core::Core,
    encode,
};

/// Namespaces that the cluster needs.
const PERMANENT: [&str; 3] = ["default", "kube-public", "kube-system"];

/// The namespace as it was when a create was allowed. The transaction demands that it still is: so nothing can slip
/// into a namespace whose content was just found to be gone.
pub(crate) type Guard = Option<Compare>;

/// Checks the namespace that an object is to be created in.
pub(crate) async fn may_create(core: &Core, call: &Call, name: &str) -> Result<Guard, Status> {
    let resource = call.endpoint.resource;
    let Some(namespace) = call.namespace().filter(|_| resource.namespaced) else { return Ok(None) };
    let endpoint = core.endpoint("", "v1", "namespaces")?;
    let Some(kv) = core.fetch(&endpoint, None, namespace).await? else {
        return Err(Status::not_found(("", "namespaces"), namespace));
    };
    let found = encode::parse(&endpoint, &kv.value, kv.mod_revision)?;
    let leaving = !text(&found, "/metadata/deletionTimestamp").is_empty()
        || text(&found, "/status/phase") == "Terminating";
    if leaving {
        return Err(Status::namespace_terminating(resource, name, namespace));
    }
    Ok(Some(Compare::ModRevision(kv.key, kv.mod_revision)))
}

/// Refuses to delete a namespace that the cluster needs.
pub(crate) fn may_delete(call: &Call) -> Result<(), Status> {
    let resource = call.endpoint.resource;
    if resource.group.is_empty() && resource.plural == "namespaces" && PERMANENT.contains(&call.name()) {
        return Err(Status::forbidden(resource, call.name(), "this namespace may not be deleted"));
    }
    Ok(())
}
