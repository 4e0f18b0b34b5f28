//! Objects are created only in namespaces that exist and are not going away.

use sampan_api::status::Status;

use crate::{
    call::{Call, text},
    core::Core,
};

/// Namespaces that the cluster needs.
const PERMANENT: [&str; 3] = ["default", "kube-public", "kube-system"];

/// Checks the namespace that an object is to be created in.
pub(crate) async fn may_create(core: &Core, call: &Call, name: &str) -> Result<(), Status> {
    let resource = call.endpoint.resource;
    let Some(namespace) = call.namespace().filter(|_| resource.namespaced) else { return Ok(()) };
    let Some(found) = core.look_up("", "v1", "namespaces", None, namespace).await? else {
        return Err(Status::not_found(("", "namespaces"), namespace));
    };
    let leaving = !text(&found, "/metadata/deletionTimestamp").is_empty()
        || text(&found, "/status/phase") == "Terminating";
    if leaving { Err(Status::namespace_terminating(resource, name, namespace)) } else { Ok(()) }
}

/// Refuses to delete a namespace that the cluster needs.
pub(crate) fn may_delete(call: &Call) -> Result<(), Status> {
    let resource = call.endpoint.resource;
    if resource.group.is_empty() && resource.plural == "namespaces" && PERMANENT.contains(&call.name()) {
        return Err(Status::forbidden(resource, call.name(), "this namespace may not be deleted"));
    }
    Ok(())
}
