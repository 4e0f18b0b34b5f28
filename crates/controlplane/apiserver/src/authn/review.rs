//! TokenReview: somebody else asks whose token this is.

use sampan_api::status::Status;
use serde_json::{Value, json};

use crate::{call::text, core::Core};

/// Answers a TokenReview.
pub(crate) async fn review(core: &Core, review: &mut Value) -> Result<(), Status> {
    let list = review.pointer("/spec/audiences").and_then(Value::as_array);
    let asked: Vec<String> =
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let audiences = if asked.is_empty() { &core.options.audiences } else { &asked };
    let token = text(review, "/spec/token").to_owned();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    review["status"] = match core.token_user(&token, audiences).await {
        Ok(accepted) => json!({
            "authenticated": true,
            "user": accepted.user.to_value(),
            "audiences": accepted.audiences,
        }),
        Err(why) => json!({"user": {}, "error": why}),
    };
    Ok(())
}
