//! Strategic merge patch.

use serde_json::Value;

use crate::kinds::Gvk;
use crate::status::Status;

pub(super) fn apply(kind: Gvk, object: &Value, patch: &Value) -> Result<Value, Status> {
    let _ = kind;
    super::merge::apply(object, patch)
}
