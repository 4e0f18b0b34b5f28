//! NamespaceLifecycle: objects are created only in namespaces that exist and are not going away.

use sampan_api::status::Status;
use sampan_store::Compare;

use super::{Operation, Review};
use crate::core::Core;

/// Namespaces that the cluster needs.
const PERMANENT: [&str; 3] = ["default", "kube-public", "kube-system"];

/// The namespace as it was when a create was allowed. The transaction demands that it still is: so nothing can slip
/// into a namespace whose content was just found to be gone.
pub(crate) type Guard = Option<Compare>;

/// Checks the namespace that an object is to be created in, and that a namespace which is to be deleted may be.
pub(crate) async fn admit(core: &Core, review: &mut Review<'_>) -> Result<(), Status> {
    if review.operation == Operation::Delete
        && review.is_main("", "namespaces")
        && PERMANENT.contains(&review.name())
    {
        return Err(review.forbidden("this namespace may not be deleted"));
    }
    if review.operation == Operation::Create {
        review.guard = guard(core, review, false).await?;
    }
    Ok(())
}

/// Checks the namespace again, as it is in the store, after a transaction found it changed.
pub(crate) async fn again(core: &Core, review: &mut Review<'_>) -> Result<(), Status> {
    if review.guard.is_some() {
        review.guard = guard(core, review, true).await?;
    }
    Ok(())
}

async fn guard(core: &Core, review: &Review<'_>, anew: bool) -> Result<Guard, Status> {
    // Questions about access are answered whatever becomes of the namespace: another answer would tell of it.
    if !review.resource.namespaced || review.resource.group == "authorization.k8s.io" {
        return Ok(None);
    }
    let Some(name) = review.call.namespace() else { return Ok(None) };
    let Some(found) = core.namespace(name, anew).await? else {
        return Err(Status::not_found(("", "namespaces"), name));
    };
    if found.terminating {
        return Err(Status::namespace_terminating(review.resource, review.name(), name));
    }
    let key = core.endpoint("", "v1", "namespaces")?.key(None, name);
    Ok(Some(Compare::ModRevision(key, found.revision)))
}
