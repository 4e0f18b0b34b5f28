//! What can be done with a part of an object, or through it.

pub(crate) mod binding;
pub(crate) mod eviction;
pub(crate) mod idle;
pub(crate) mod node;
pub(crate) mod proxy;
pub(crate) mod scale;
pub(crate) mod token;

use std::sync::Arc;

use http::{Response, StatusCode};
use sampan_api::status::Status;

use crate::{body::Body, call::Call, core::Core, respond, verbs};

/// Carries out a request to a subresource.
pub(crate) async fn run(core: &Arc<Core>, call: &mut Call) -> Result<Response<Body>, Status> {
    let resource = call.endpoint.resource;
    let name = call.target.subresource.clone().unwrap_or_default();
    let Some(subresource) = resource.subresource(&name) else { return Err(Status::no_such_resource()) };
    if !subresource.verbs.contains(&call.verb) {
        return Err(unsupported(call, &name));
    }
    match (name.as_str(), call.verb) {
        ("scale", _) => scale::run(core, call).await,
        ("binding", _) => binding::bind(core, call).await,
        ("eviction", _) => eviction::evict(core, call).await,
        ("token", _) => token::request(core, call).await,
        ("log" | "exec" | "attach" | "portforward", _) => node::connect(core, call, &name).await,
        ("proxy", _) => proxy::run(core, call).await,
        (_, "get") => verbs::read::get(core, call).await,
        (_, "update") => verbs::update::update(core, call).await,
        (_, "patch") => verbs::patch::run(core, call).await,
        _ => Err(unsupported(call, &name)),
    }
}

fn unsupported(call: &Call, subresource: &str) -> Status {
    let resource = call.endpoint.resource;
    let plural = format!("{}/{subresource}", resource.plural);
    Status::method_not_supported((resource.group, plural.as_str()), call.verb)
}

/// 201 with a `Status` that says success.
pub(crate) fn done() -> Response<Body> {
    let mut success = Status::new(201, "", "").to_value();
    success["code"] = 201.into();
    respond::json_value(StatusCode::CREATED, &success)
}
