//! Questions about users and what they may do: answered at once, never kept.

mod access;

use std::sync::Arc;

use http::{Response, StatusCode};
use sampan_api::status::Status;
use serde_json::{Value, json};

use crate::{
    admission::{self, Operation, Review},
    authn,
    body::Body,
    call::Call,
    core::Core,
    respond,
};

/// Answers a question that was posted.
pub(crate) async fn answer(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Status> {
    respond::accepts_json(&call.headers)?;
    let (review, _) = call.decode(call.endpoint.resource.gvk())?;
    let mut asked = Review::new(call, Operation::Create, review, call.query.dry_run()?);
    admission::decide(core, &mut asked).await?;
    let mut review = asked.object;
    match call.endpoint.resource.plural {
        "selfsubjectreviews" => review["status"] = json!({"userInfo": call.user.to_value()}),
        "tokenreviews" => authn::review::review(core, &mut review).await?,
        "selfsubjectrulesreviews" => access::rules(core, call, &mut review)?,
        "selfsubjectaccessreviews" | "subjectaccessreviews" | "localsubjectaccessreviews" => {
            access::access(core, call, &mut review)?;
        }
        _ => return Err(Status::no_such_resource()),
    }
    if review.get("metadata").is_none() {
        review["metadata"] = json!({"creationTimestamp": null});
    }
    Ok(respond::json_value(StatusCode::CREATED, &review))
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
