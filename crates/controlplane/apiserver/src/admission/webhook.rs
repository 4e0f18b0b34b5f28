//! Admission webhooks.

use std::sync::Arc;

use sampan_api::status::Status;

use super::Review;
use crate::core::Core;

/// Lets the mutating webhooks that match change the object, one after the other.
#[expect(clippy::unused_async, reason = "webhooks are called over the network")]
pub(crate) async fn mutate(_core: &Arc<Core>, _review: &mut Review<'_>) -> Result<(), Status> {
    Ok(())
}

/// Asks the validating webhooks that match, all at once.
#[expect(clippy::unused_async, reason = "webhooks are called over the network")]
pub(crate) async fn validate(_core: &Arc<Core>, _review: &mut Review<'_>) -> Result<(), Status> {
    Ok(())
}
