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
/// What kubelets ask for by default: such tokens are told to be renewed after that, and live on for [`EXTENDED`], for
/// clients that read the file once only.
const WARN_ONLY: i64 = 3600 + 7;
const EXTENDED: i64 = 365 * 24 * 3600;

/// The kind, as refusals name it.
const KIND: (&str, &str) = ("authentication.k8s.io", "TokenRequest");

/// Issues a token.
pub(crate) async fn request(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Status> {
    respond::accepts_json(&call.headers)?;
    let (mut request, _) = call.decode(call.body_kind())?;
    check_names(call, &request)?;
    let account = core.find(&call.endpoint, call.namespace(), call.name()).await?.object;
    complete(core, call, &account, &mut request)?;
    check_life(&request)?;
    let mut review = Review::new(call, Operation::Create, request, call.query.dry_run()?);
    admission::decide(core, &mut review).await?;
    let mut request = review.object;
    check_life(&request)?;
    let life = life(&request);
    let audiences = request["spec"]["audiences"].clone();
    let mut private = json!({
        "namespace": call.namespace(),
        "serviceaccount": {"name": call.name(), "uid": account.pointer("/metadata/uid")},
    });
    bind(core, call, &request, &mut private).await?;
    let now = clock::now();
    let after = |seconds| now.checked_add(jiff::SignedDuration::from_secs(seconds)).map_err(Status::internal);
    let mut until = after(life)?;
    let ours = |audience: &Value| core.options.audiences.iter().any(|own| audience == own.as_str());
    if life == WARN_ONLY
        && private.get("pod").is_some()
        && audiences.as_array().is_some_and(|list| list.iter().all(ours))
    {
        private["warnafter"] = until.as_second().into();
        until = after(EXTENDED)?;
    }
    let claims = json!({
        "aud": audiences,
        "exp": until.as_second(),
        "iat": now.as_second(),
        "iss": core.options.issuer,
        "jti": uuid::Uuid::new_v4().to_string(),
        "kubernetes.io": private,
        "nbf": now.as_second(),
        "sub": format!("system:serviceaccount:{}:{}", call.namespace().unwrap_or_default(), call.name()),
    });
    let token = core.options.signing_key.sign(&claims).map_err(Status::internal)?;
    call.notes.annotate(
        "authentication.kubernetes.io/issued-credential-id",
        format!("JTI={}", text(&claims, "/jti")),
    );
    request["status"] = json!({"token": token, "expirationTimestamp": clock::rfc3339(after(life)?)});
    Ok(respond::json_value(StatusCode::CREATED, &request))
}

/// What the body says of its name and namespace must be what the path says.
fn check_names(call: &Call, request: &Value) -> Result<(), Status> {
    for (field, own) in [("name", call.name()), ("namespace", call.namespace().unwrap_or_default())] {
        let said = text(request, &format!("/metadata/{field}"));
        if !said.is_empty() && said != own {
            let why = format!("must match the service account {field} if specified");
            let error = FieldError::invalid(format!("metadata.{field}"), said, why);
            return Err(Status::invalid(KIND, call.name(), &[error]));
        }
    }
    Ok(())
}

/// Fills in what the request leaves open.
fn complete(core: &Core, call: &Call, account: &Value, request: &mut Value) -> Result<(), Status> {
    let (said, uid) = (text(request, "/metadata/uid").to_owned(), text(account, "/metadata/uid"));
    if !said.is_empty() && said != uid {
        let why = format!(
            "the UID in the token request ({said}) does not match the UID of the service account ({uid})"
        );
        return Err(Status::conflict_because(KIND, call.name(), why));
    }
    let metadata = call::metadata(request)?;
    metadata.insert("name".to_owned(), call.name().into());
    metadata.insert("namespace".to_owned(), call.namespace().into());
    metadata.insert("uid".to_owned(), uid.into());
    metadata.insert("creationTimestamp".to_owned(), clock::rfc3339(clock::now()).into());
    let body = request.as_object_mut().ok_or_else(|| Status::bad_request("the body must be an object"))?;
    body.remove("status");
    let spec = body.entry("spec").or_insert_with(|| json!({}));
    if spec.is_null() {
        *spec = json!({});
    }
    if spec["audiences"].as_array().is_none_or(Vec::is_empty) {
        spec["audiences"] = core.options.audiences.clone().into();
    }
    if spec["expirationSeconds"].is_null() {
        spec["expirationSeconds"] = DEFAULT.into();
    }
    if spec.get("boundObjectRef").is_none() {
        spec["boundObjectRef"] = Value::Null;
    }
    Ok(())
}

fn life(request: &Value) -> i64 {
    request.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(DEFAULT)
}

fn check_life(request: &Value) -> Result<(), Status> {
    let life = life(request);
    let why = if life < SHORTEST {
        "may not specify a duration less than 10 minutes"
    } else if life > 1 << 32 {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let error = FieldError::invalid("spec.expirationSeconds", life, why);
    Err(Status::invalid(KIND, "", &[error]))
}

/// Adds the object that the token ends with.
async fn bind(core: &Arc<Core>, call: &Call, request: &Value, private: &mut Value) -> Result<(), Status> {
    let Some(reference) = request.pointer("/spec/boundObjectRef").filter(|r| r.is_object()) else {
        return Ok(());
    };
    let (kind, name) = (text(reference, "/kind"), text(reference, "/name"));
    let version = text(reference, "/apiVersion");
    let (plural, claim) = match (version.contains('/'), kind) {
        (false, "Pod") => ("pods", "pod"),
        (false, "Secret") => ("secrets", "secret"),
        (false, "Node") => ("nodes", "node"),
        _ => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let why = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(Status::bad_request(why));
        }
    };
    let scope = call.namespace().filter(|_| claim != "node");
    let Some(object) = core.look_up("", "v1", plural, scope, name).await? else {
        return Err(Status::not_found(("", plural), name));
    };
    if claim == "pod" && text(&object, "/spec/serviceAccountName") != call.name() {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            call.name()
        )));
    }
    let (asked, uid) = (text(reference, "/uid"), text(&object, "/metadata/uid"));
    if !asked.is_empty() && asked != uid {
        let why = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict_because(("", kind), name, why));
    }
    private[claim] = json!({"name": name, "uid": uid});
    let node = text(&object, "/spec/nodeName");
    if claim == "pod" && !node.is_empty() {
        private["node"] = match core.look_up("", "v1", "nodes", None, node).await? {
            Some(found) => json!({"name": node, "uid": text(&found, "/metadata/uid")}),
            None => json!({ "name": node }),
        };
    }
    Ok(())
}
