//! Questions about users and what they may do: answered at once, never kept.

use std::sync::Arc;

use http::{Response, StatusCode};
use sampan_api::status::{FieldError, Status};
use serde_json::{Value, json};

use crate::{
    admission::{self, Operation, Review},
    authz::{self, Attributes},
    body::Body,
    call::{Call, text},
    core::Core,
    request::Target,
    respond,
    user::UserInfo,
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
        "tokenreviews" => token(core, &mut review).await?,
        "selfsubjectaccessreviews" => {
            let allowed = may(&call.user, &review);
            decide(&mut review, allowed);
        }
        "selfsubjectrulesreviews" => rules(call, &mut review),
        "subjectaccessreviews" | "localsubjectaccessreviews" => {
            let user = subject(call, &review)?;
            let allowed = may(&user, &review);
            decide(&mut review, allowed);
        }
        _ => return Err(Status::no_such_resource()),
    }
    if review.get("metadata").is_none() {
        review["metadata"] = json!({"creationTimestamp": null});
    }
    Ok(respond::json_value(StatusCode::CREATED, &review))
}

async fn token(core: &Core, review: &mut Value) -> Result<(), Status> {
    let asked: Vec<String> = strings(review.pointer("/spec/audiences"));
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

fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn subject(call: &Call, review: &Value) -> Result<UserInfo, Status> {
    let (name, groups) = (text(review, "/spec/user"), strings(review.pointer("/spec/groups")));
    if name.is_empty() && groups.is_empty() {
        let error = FieldError::required("spec.user", "at least one of user or group must be specified");
        return Err(Status::invalid(call.endpoint.resource, "", &[error]));
    }
    Ok(UserInfo { name: name.to_owned(), groups, ..UserInfo::default() })
}

/// What the review asks, put to the authorizer.
fn may(user: &UserInfo, review: &Value) -> bool {
    if let Some(attributes) = review.pointer("/spec/nonResourceAttributes").filter(|v| v.is_object()) {
        let (verb, path) = (text(attributes, "/verb"), text(attributes, "/path"));
        return authz::allowed(user, &Attributes::Path { verb, path });
    }
    let Some(attributes) = review.pointer("/spec/resourceAttributes") else { return false };
    let field = |name: &str| Some(text(attributes, name).to_owned()).filter(|text| !text.is_empty());
    let target = Target {
        group: field("/group").unwrap_or_default(),
        version: field("/version").unwrap_or_default(),
        resource: field("/resource").unwrap_or_default(),
        namespace: field("/namespace"),
        name: field("/name"),
        subresource: field("/subresource"),
    };
    authz::allowed(user, &Attributes::Resource { verb: text(attributes, "/verb"), target: &target })
}

fn decide(review: &mut Value, allowed: bool) {
    review["status"] = json!({"allowed": allowed});
}

/// All that the user may do, as far as it can be listed.
fn rules(call: &Call, review: &mut Value) {
    let anything = Target { group: "*".into(), resource: "*".into(), ..Target::default() };
    let all = authz::allowed(&call.user, &Attributes::Resource { verb: "*", target: &anything });
    review["status"] = if all {
        json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        })
    } else {
        json!({
            "resourceRules": [
                {"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]},
                {"verbs": ["create"], "apiGroups": ["authorization.k8s.io"],
                 "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]},
            ],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": [
                "/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz",
                "/version", "/version/",
            ]}],
            "incomplete": false,
        })
    };
}
