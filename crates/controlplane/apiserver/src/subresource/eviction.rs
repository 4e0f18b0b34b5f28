//! `pods/eviction`: a delete that a disruption budget may refuse. There are no budgets yet, so none does.

use std::sync::Arc;

use http::Response;
use sampan_api::status::Status;

use crate::{
    admission::{self, Operation, Review},
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
    let dry_run = call.query.dry_run()?;
    let mut review = Review::new(call, Operation::Create, eviction, dry_run);
    admission::decide(core, &mut review).await?;
    let mut wishes = Wishes::from_options(call, &review.object["deleteOptions"])?;
    wishes.dry_run |= dry_run;
    delete::remove(core, call, call.name(), &wishes, false).await?;
    Ok(done())
}
