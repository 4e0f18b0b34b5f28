//! `serviceaccounts/token`: a token for the account, for an audience and a time, bound to an object or not.

use std::sync::Arc;

use http::{Response, StatusCode};
use sampan_api::status::{FieldError, Status};
use sampan_daemon::clock;
use serde_json::{Value, json};

use crate::{
    admission::{self, Operation, Review},
    body::Body,
    call::{self, Call, text},
    core::Core,
    respond,
};

/// Seconds that a token lives when the request does not say.
const DEFAULT: i64 = 3600;
/// The shortest life.
const SHORTEST: i64 = 600;
/// The longest life that is given, whatever is asked.
const LONGEST: i64 = 365 * 24 * 3600;

/// Issues a token.
pub(crate) async fn request(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Status> {
    respond::accepts_json(&call.headers)?;
    let (mut request, _) = call.decode(call.body_kind())?;
    call::place(call, &mut request)?;
    call::check_name(call, &mut request)?;
    let mut review = Review::new(call, Operation::Create, request, call.query.dry_run()?);
    admission::decide(core, &mut review).await?;
    let mut request = review.object;
    let account = core.find(&call.endpoint, call.namespace(), call.name()).await?.object;
    let life = request.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(DEFAULT);
    check_life(call, life)?;
    let life = life.min(LONGEST);
    let mut audiences: Vec<Value> =
        request.pointer("/spec/audiences").and_then(Value::as_array).cloned().unwrap_or_default();
    if audiences.is_empty() {
        audiences = core.options.audiences.iter().map(|a| a.clone().into()).collect();
    }
    let now = clock::now();
    let until = now.checked_add(jiff::SignedDuration::from_secs(life)).map_err(Status::internal)?;
    let mut private = json!({
        "namespace": call.namespace(),
        "serviceaccount": {"name": call.name(), "uid": account.pointer("/metadata/uid")},
    });
    bind(core, call, &request, &mut private).await?;
    let claims = json!({
        "aud": audiences,
        "exp": until.as_second(),
        "iat": now.as_second(),
        "nbf": now.as_second(),
        "iss": core.options.issuer,
        "jti": uuid::Uuid::new_v4().to_string(),
        "kubernetes.io": private,
        "sub": format!("system:serviceaccount:{}:{}", call.namespace().unwrap_or_default(), call.name()),
    });
    let token = core.options.signing_key.sign(&claims).map_err(Status::internal)?;
    call::metadata(&mut request)?.insert("creationTimestamp".to_owned(), clock::rfc3339(now).into());
    request["spec"]["audiences"] = audiences.into();
    request["spec"]["expirationSeconds"] = life.into();
    if request["spec"].get("boundObjectRef").is_none() {
        request["spec"]["boundObjectRef"] = Value::Null;
    }
    request["status"] = json!({"token": token, "expirationTimestamp": clock::rfc3339(until)});
    Ok(respond::json_value(StatusCode::CREATED, &request))
}

fn check_life(call: &Call, life: i64) -> Result<(), Status> {
    let why = if life < SHORTEST {
        "may not specify a duration less than 10 minutes"
    } else if life > 1 << 32 {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let error = FieldError::invalid("spec.expirationSeconds", life, why);
    Err(Status::invalid(("authentication.k8s.io", "TokenRequest"), call.name(), &[error]))
}

/// Adds the object that the token ends with.
async fn bind(core: &Arc<Core>, call: &Call, request: &Value, private: &mut Value) -> Result<(), Status> {
    let Some(reference) = request.pointer("/spec/boundObjectRef").filter(|r| r.is_object()) else {
        return Ok(());
    };
    let (kind, name) = (text(reference, "/kind"), text(reference, "/name"));
    let (plural, claim) = match (text(reference, "/apiVersion"), kind) {
        ("v1" | "", "Pod") => ("pods", "pod"),
        ("v1" | "", "Secret") => ("secrets", "secret"),
        ("v1" | "", "Node") => ("nodes", "node"),
        (version, _) => {
            let why = format!("cannot bind token to object of type {kind}, apiVersion {version}");
            return Err(Status::bad_request(why));
        }
    };
    let scope = call.namespace().filter(|_| claim != "node");
    let Some(object) = core.look_up("", "v1", plural, scope, name).await? else {
        return Err(Status::not_found(("", plural), name));
    };
    let (asked, uid) = (text(reference, "/uid"), text(&object, "/metadata/uid"));
    if !asked.is_empty() && asked != uid {
        let why = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict_because(("", plural), name, why));
    }
    private[claim] = json!({"name": name, "uid": uid});
    if claim == "pod" {
        let account = text(&object, "/spec/serviceAccountName");
        if account != call.name() {
            let why = format!(
                "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
                call.name()
            );
            return Err(Status::bad_request(why));
        }
        let node = text(&object, "/spec/nodeName");
        if !node.is_empty() {
            let found = core.look_up("", "v1", "nodes", None, node).await?.unwrap_or_default();
            private["node"] = json!({"name": node, "uid": text(&found, "/metadata/uid")});
        }
    }
    Ok(())
}
