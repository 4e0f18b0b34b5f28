//! `AdmissionReview`: the question and the answer.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sampan_api::{
    kinds::{Gvk, Resource},
    status::{Status, go_quote},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Matched, config::Hook};
use crate::{admission::Review, call::text};

/// Why a webhook did not let the request pass.
pub(super) enum Failure {
    /// It could not be asked, or did not answer as it should.
    Call(String),
    /// It refused, or what it asked for cannot be done.
    Refused(Box<Status>),
}

impl Failure {
    pub(super) fn status(self, name: &str) -> Status {
        match self {
            Self::Refused(status) => *status,
            Self::Call(why) => Status::internal(format!("failed calling webhook {}: {why}", go_quote(name))),
        }
    }
}

/// What a webhook said.
pub(super) struct Verdict {
    pub(super) allowed: bool,
    pub(super) warnings: Vec<String>,
    pub(super) annotations: Vec<(String, String)>,
    response: Value,
    lenient: bool,
}

#[derive(Serialize)]
struct Question<'a> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: String,
    request: Request<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: &'a str,
    kind: Value,
    resource: Value,
    #[serde(skip_serializing_if = "str::is_empty")]
    sub_resource: &'a str,
    request_kind: Value,
    request_resource: Value,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_sub_resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    operation: &'static str,
    user_info: Value,
    object: &'a Value,
    old_object: Option<&'a Value>,
    dry_run: bool,
    options: Value,
}

fn of_kind(kind: Gvk) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn of_resource(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "resource": resource.plural})
}

/// The question's id and bytes.
pub(super) fn request(
    matched: &Matched,
    review: &Review<'_>,
    object: &Value,
    old: Option<&Value>,
) -> Result<(String, Vec<u8>), Failure> {
    let Some(version) = matched.hook.version else {
        let why = "could not create admission objects: webhook does not accept known AdmissionReview versions \
                   (v1, v1beta1)";
        return Err(Failure::Call(why.to_owned()));
    };
    let uid = uuid::Uuid::new_v4().to_string();
    let question = Question {
        kind: "AdmissionReview",
        api_version: format!("admission.k8s.io/{version}"),
        request: Request {
            uid: &uid,
            kind: of_kind(matched.kind),
            resource: of_resource(matched.resource),
            sub_resource: review.subresource,
            request_kind: of_kind(review.kind),
            request_resource: of_resource(review.resource),
            request_sub_resource: review.subresource,
            name: review.name(),
            namespace: review.namespace().unwrap_or_default(),
            operation: review.operation.name(),
            user_info: review.call.user.to_value(),
            object,
            old_object: old,
            dry_run: review.dry_run,
            options: super::options(review),
        },
    };
    let body = serde_json::to_vec(&question).map_err(|error| Failure::Call(error.to_string()))?;
    Ok((uid, body))
}

/// Reads an answer; one that does not fit the question is as good as none.
pub(super) fn read(uid: &str, hook: &Hook, reply: &[u8]) -> Result<Verdict, Failure> {
    let lenient = hook.version == Some("v1beta1");
    let invalid = |why: String| Failure::Call(format!("received invalid webhook response: {why}"));
    let mut answer: Value = serde_json::from_slice(reply)
        .map_err(|error| Failure::Call(format!("failed to call webhook: the reply is no JSON: {error}")))?;
    let response = answer.get_mut("response").map(Value::take).filter(Value::is_object);
    let Some(response) = response else { return Err(invalid("webhook response was absent".to_owned())) };
    if !lenient {
        let got = text(&response, "/uid");
        if got != uid {
            return Err(invalid(format!("expected response.uid={}, got {}", go_quote(uid), go_quote(got))));
        }
        let (version, kind) = (text(&answer, "/apiVersion"), text(&answer, "/kind"));
        if (version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
            return Err(invalid(format!(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {version}, Kind={kind}"
            )));
        }
    }
    let strings = |key: &str| response.get(key).and_then(Value::as_array).into_iter().flatten();
    let warnings = strings("warnings").filter_map(Value::as_str).map(str::to_owned).collect();
    let annotations = response.get("auditAnnotations").and_then(Value::as_object).into_iter().flatten();
    let annotations =
        annotations.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    let allowed = response.get("allowed") == Some(&Value::Bool(true));
    Ok(Verdict { allowed, warnings, annotations, response, lenient })
}

impl Verdict {
    /// The refusal, with the webhook's own code and reason where it gives some.
    pub(super) fn refusal(&self, name: &str) -> Status {
        let mut result = self.response.get("status").cloned().filter(Value::is_object).unwrap_or(json!({}));
        result["kind"] = "Status".into();
        result["status"] = "Failure".into();
        let code = result.get("code").and_then(Value::as_u64).filter(|code| (400..600).contains(code));
        result["code"] = code.unwrap_or(400).into();
        let denied = format!("admission webhook {} denied the request", go_quote(name));
        let mut status = Status::from_value(&result).unwrap_or_else(|| Status::new(400, "", ""));
        status.message = match (status.message.as_str(), status.reason.as_str()) {
            ("", "") => format!("{denied} without explanation"),
            ("", reason) => format!("{denied}: {reason}"),
            (message, _) => format!("{denied}: {message}"),
        };
        status
    }
}

/// The patch of a mutating webhook's answer.
pub(super) fn patch_of(verdict: &Verdict) -> Result<Option<Vec<u8>>, Failure> {
    let invalid = |why: &str| Err(Failure::Call(format!("received invalid webhook response: {why}")));
    let patch = text(&verdict.response, "/patch");
    let kind = verdict
        .response
        .get("patchType")
        .filter(|kind| !kind.is_null())
        .map(|_| text(&verdict.response, "/patchType"));
    match (patch.is_empty(), kind) {
        (true, None) => return Ok(None),
        (true, Some(_)) if verdict.lenient => return Ok(None),
        (true, Some(_)) => return invalid("webhook returned response.patchType but not response.patch"),
        (false, None) if !verdict.lenient => {
            return invalid("webhook returned response.patch but not response.patchType");
        }
        (false, Some("")) => return invalid("webhook returned invalid response.patchType of \"\""),
        (false, Some("JSONPatch") | None) => {}
        (false, Some(other)) => {
            return Err(Failure::Call(format!("unsupported patch type {}", go_quote(other))));
        }
    }
    let undecodable =
        |why: String| Failure::Call(format!("received undecodable patch in webhook response: {why}"));
    let bytes = STANDARD.decode(patch).map_err(|error| undecodable(error.to_string()))?;
    let parsed: Value = serde_json::from_slice(&bytes).map_err(|error| undecodable(error.to_string()))?;
    match parsed.as_array() {
        None => Err(undecodable("a JSON patch must be an array of operations".to_owned())),
        Some(operations) => Ok((!operations.is_empty()).then_some(bytes)),
    }
}

/// A validating webhook changes nothing.
pub(super) fn no_patch(verdict: &Verdict) -> Result<(), Failure> {
    let given = |key: &str| verdict.response.get(key).is_some_and(|value| !value.is_null());
    for key in ["patch", "patchType"] {
        if !verdict.lenient && given(key) {
            let why = format!("validating webhook may not return response.{key}");
            return Err(Failure::Call(format!("received invalid webhook response: {why}")));
        }
    }
    Ok(())
}
