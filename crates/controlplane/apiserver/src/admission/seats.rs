//! Seats of reservations: that a pod took one is said where it is bound, and nowhere else.

use sampan_api::{kinds::RESERVATION_SEAT, status::Status};
use serde_json::Value;

use super::{Operation, Review};

fn seat(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("annotations")?.get(RESERVATION_SEAT)
}

/// Refuses pods that say themselves that they took a seat: they would have others' room, and be spared for it.
pub(crate) fn check(review: &Review<'_>) -> Result<(), Status> {
    let before = match review.operation {
        Operation::Create if review.subresource.is_empty() => None,
        Operation::Update => review.old.and_then(seat),
        _ => return Ok(()),
    };
    if seat(&review.object) == before {
        return Ok(());
    }
    let hint = "hint: leave it out; sampan.io/reservation names a reservation to use";
    Err(review.forbidden(format!(
        "the annotation {RESERVATION_SEAT} is set by the binding of the pod alone ({hint})"
    )))
}
