//! `DELETE /hostPathVolumes/NAME`: the data of a volume whose claim is gone is removed.

use std::sync::Arc;

use http::{Response, StatusCode};

use super::{Body, text};
use crate::context::Context;
use crate::volumes::host_path::Refusal;

/// Removes the directory of a volume.
pub async fn remove(ctx: &Arc<Context>, name: &str) -> Response<Body> {
    let (inner, name) = (Arc::clone(ctx), name.to_owned());
    match ctx.supervisor.blocking(move || inner.host_volumes.remove(&name)).await {
        Ok(()) => text(StatusCode::OK, "removed"),
        Err(error) => {
            let status = match error {
                Refusal::Name(_) => StatusCode::BAD_REQUEST,
                Refusal::InUse => StatusCode::CONFLICT,
                Refusal::Io { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            };
            text(status, error.to_string())
        }
    }
}
