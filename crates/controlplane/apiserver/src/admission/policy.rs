//! `MutatingAdmissionPolicy` and `ValidatingAdmissionPolicy`.

use std::sync::Arc;

use sampan_api::status::Status;

use super::Review;
use crate::core::Core;

/// Applies the mutating policies that match.
#[expect(clippy::unused_async, reason = "policies may have to look up their parameters")]
pub(crate) async fn mutate(_core: &Arc<Core>, _review: &mut Review<'_>) -> Result<(), Status> {
    Ok(())
}

/// Asks the validating policies that match.
#[expect(clippy::unused_async, reason = "policies may have to look up their parameters")]
pub(crate) async fn validate(_core: &Arc<Core>, _review: &mut Review<'_>) -> Result<(), Status> {
    Ok(())
}
