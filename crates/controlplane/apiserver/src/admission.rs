//! What is decided about an object on its way in that needs to look at other objects.

pub(crate) mod account;
pub(crate) mod namespace;

use std::sync::Arc;

use sampan_api::status::Status;
use serde_json::Value;

use crate::{call::Call, core::Core};

/// Completes or refuses an object that is to be created.
pub(crate) async fn create(core: &Arc<Core>, call: &Call, object: &mut Value) -> Result<(), Status> {
    match (call.endpoint.resource.group, call.endpoint.resource.plural) {
        ("", "pods") => account::pod(core, call, object).await,
        _ => Ok(()),
    }
}
