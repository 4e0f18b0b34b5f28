//! `pods/eviction`: a delete that a disruption budget may refuse. There are no budgets yet, so none does.

use std::sync::Arc;

use http::Response;
use sampan_api::status::Status;

use crate::{
    body::Body,
    call::{self, Call},
    core::Core,
    subresource::done,
    verbs::delete::{self, Wishes},
};

/// Evicts a pod.
pub(crate) async fn evict(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Status> {
    let (mut eviction, _) = call.decode(call.body_kind())?;
    call::place(call, &mut eviction)?;
    call::check_name(call, &mut eviction)?;
    let mut wishes = Wishes::from_options(call, &eviction["deleteOptions"])?;
    wishes.dry_run |= call.query.dry_run()?;
    delete::remove(core, call, call.name(), &wishes).await?;
    Ok(done())
}
