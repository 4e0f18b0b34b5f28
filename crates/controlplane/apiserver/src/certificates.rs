//! CertificateSigningRequests: who asked is written down by the server, what was asked cannot be changed, and what was
//! decided about it only through `/approval` and `/status`
//! (<https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/>).

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sampan_api::{status::FieldError, validation::names};
use sampan_daemon::{clock, tls};
use serde_json::{Value, json};

use crate::{
    call::{Call, text},
    verbs::update::Part,
};

const LEGACY: &str = "kubernetes.io/legacy-unknown";

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// Conditions that can only be true.
const DECIDED: [&str; 3] = ["Approved", "Denied", "Failed"];

/// Whether the request is about these objects.
pub(crate) fn concerns(call: &Call) -> bool {
    let resource = call.endpoint.resource;
    resource.group == "certificates.k8s.io" && resource.plural == "certificatesigningrequests"
}

/// Writes down who asks.
pub(crate) fn prepare_create(call: &Call, object: &mut Value) {
    if !concerns(call) {
        return;
    }
    object["status"] = json!({});
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for field in ["username", "uid", "groups", "extra"] {
        spec.shift_remove(field);
    }
    let user = &call.user;
    spec.insert("username".to_owned(), user.name.clone().into());
    if let Some(uid) = user.uid.as_ref().filter(|uid| !uid.is_empty()) {
        spec.insert("uid".to_owned(), uid.clone().into());
    }
    spec.insert("groups".to_owned(), user.groups.clone().into());
    if !user.extra.is_empty() {
        let extra = user.extra.iter().map(|(key, values)| (key.clone(), values.clone().into()));
        spec.insert("extra".to_owned(), Value::Object(extra.collect()));
    }
}

/// Checks a new one.
pub(crate) fn create_errors(call: &Call, object: &Value) -> Vec<FieldError> {
    if concerns(call) { errors(object, None) } else { Vec::new() }
}

/// Keeps back what this part of the object may not change.
pub(crate) fn prepare_update(call: &Call, part: Part, new: &mut Value, old: &Value) {
    if !concerns(call) {
        return;
    }
    new["spec"] = old["spec"].clone();
    match part {
        Part::Status => {
            preserve(new, old, "Approved");
            preserve(new, old, "Denied");
            stamp(new, old);
        }
        Part::Approval => {
            stamp(new, old);
            let conditions = new.pointer("/status/conditions").cloned();
            new["status"] = old["status"].clone();
            if let (Some(conditions), Some(status)) = (conditions, new["status"].as_object_mut()) {
                status.insert("conditions".to_owned(), conditions);
            }
        }
        _ => new["status"] = old["status"].clone(),
    }
}

/// Checks a changed one.
pub(crate) fn update_errors(call: &Call, part: Part, new: &Value, old: &Value) -> Vec<FieldError> {
    if !concerns(call) {
        return Vec::new();
    }
    let mut found = errors(new, Some(old));
    for kind in DECIDED {
        if of_kind(new, kind).count() < of_kind(old, kind).count() {
            let why = format!("updates may not remove a condition of type \"{kind}\"");
            found.push(FieldError::forbidden("status.conditions", why));
        }
    }
    if part != Part::Approval {
        for kind in ["Approved", "Denied"] {
            let (before, after) = (of_kind(old, kind).count(), of_kind(new, kind).count());
            let word = if after > before {
                "add"
            } else if after == before && !of_kind(new, kind).eq(of_kind(old, kind)) {
                "modify"
            } else {
                continue;
            };
            let why = format!("updates may not {word} a condition of type \"{kind}\"");
            found.push(FieldError::forbidden("status.conditions", why));
        }
    }
    let (before, after) = (text(old, "/status/certificate"), text(new, "/status/certificate"));
    if before != after {
        let why = if part != Part::Status {
            Some("updates may not set certificate content")
        } else if before.is_empty() {
            None
        } else {
            Some("updates may not modify existing certificate content")
        };
        found.extend(why.map(|why| FieldError::forbidden("status.certificate", why)));
    }
    found
}

fn conditions(object: &Value) -> &[Value] {
    object.pointer("/status/conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn of_kind<'a>(object: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    conditions(object).iter().filter(move |condition| condition["type"] == kind)
}

/// Puts the old conditions of a kind where the new ones are, when there are as many.
fn preserve(new: &mut Value, old: &Value, kind: &str) {
    let before: Vec<Value> = of_kind(old, kind).cloned().collect();
    if of_kind(new, kind).count() != before.len() {
        return;
    }
    let list = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    let after = list.into_iter().flatten().filter(|condition| condition["type"] == kind);
    for (slot, value) in after.zip(before) {
        *slot = value;
    }
}

/// Sets the times of conditions that have none.
fn stamp(new: &mut Value, old: &Value) {
    let now = Value::from(clock::rfc3339(clock::now()));
    let Some(list) = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else { return };
    for condition in list.iter_mut().filter(|condition| condition.is_object()) {
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = now.clone();
        }
        if condition["lastTransitionTime"].is_null() {
            let kind = condition["type"].as_str().unwrap_or_default();
            let same = of_kind(old, kind).find(|before| before["status"] == condition["status"]);
            let before = same.map(|before| before["lastTransitionTime"].clone());
            condition["lastTransitionTime"] = before.filter(Value::is_string).unwrap_or_else(|| now.clone());
        }
    }
}

fn errors(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut out = Vec::new();
    let sent = text(object, "/spec/request");
    // What cannot be changed was checked when it came.
    if old.is_none() {
        let parsed = STANDARD
            .decode(sent)
            .map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())
            .and_then(|pem| tls::Request::parse(&pem));
        if let Err(why) = parsed {
            out.push(FieldError::invalid("spec.request", sent, why));
        }
        usages(object, &mut out);
        signer(text(object, "/spec/signerName"), &mut out);
        let seconds = object.pointer("/spec/expirationSeconds").and_then(Value::as_i64);
        if let Some(seconds) = seconds.filter(|seconds| *seconds < 600) {
            let why = "may not specify a duration less than 600 seconds (10 minutes)";
            out.push(FieldError::invalid("spec.expirationSeconds", seconds, why));
        }
    }
    check_conditions(object, old, &mut out);
    let certificate = text(object, "/status/certificate");
    let same = old.is_some_and(|old| text(old, "/status/certificate") == certificate);
    if !same && let Err(why) = check_certificate(certificate) {
        out.push(FieldError::invalid("status.certificate", "<certificate data>", why));
    }
    out
}

fn usages(object: &Value, out: &mut Vec<FieldError>) {
    let list =
        object.pointer("/spec/usages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        out.push(FieldError::required("spec.usages", ""));
    }
    for (index, usage) in list.iter().enumerate() {
        let name = usage.as_str().unwrap_or_default();
        if !USAGES.contains(&name) {
            out.push(FieldError::not_supported(format!("spec.usages[{index}]"), name, &USAGES));
        }
    }
    for (index, usage) in list.iter().enumerate() {
        if list[..index].contains(usage) {
            out.push(FieldError::duplicate(format!("spec.usages[{index}]"), usage.clone()));
        }
    }
}

/// A domain and a path, `example.com/signer-name`.
fn signer(name: &str, out: &mut Vec<FieldError>) {
    const FIELD: &str = "spec.signerName";
    if name == LEGACY {
        let why = "the legacy signerName is not allowed via this API version";
        out.push(FieldError::invalid(FIELD, name, why));
        return;
    }
    if name.is_empty() {
        out.push(FieldError::required(FIELD, ""));
        return;
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, path] = parts[..] else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        out.push(FieldError::invalid(FIELD, name, why));
        return;
    };
    if domain.len() > 253 {
        out.push(FieldError::too_long(FIELD, 253));
    }
    for label in domain.split('.') {
        let wrong = names::dns1123_label(label);
        if !wrong.is_empty() {
            out.extend(wrong.iter().map(|why| {
                FieldError::invalid(FIELD, domain, format!("validating label \"{label}\": {why}"))
            }));
            break;
        }
    }
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        out.push(FieldError::invalid(FIELD, domain, why));
    }
    for label in path.split('.') {
        let wrong = names::dns1123_subdomain(label);
        if !wrong.is_empty() {
            out.extend(
                wrong.iter().map(|why| {
                    FieldError::invalid(FIELD, path, format!("validating label \"{label}\": {why}"))
                }),
            );
            break;
        }
    }
    if path.len() > 253 + 63 + 1 {
        out.push(FieldError::too_long(FIELD, 253 + 63 + 1));
    }
}

fn check_conditions(object: &Value, old: Option<&Value>, out: &mut Vec<FieldError>) {
    let has = |object: &Value, kind: &str| of_kind(object, kind).next().is_some();
    let both_before = old.is_some_and(|old| has(old, "Approved") && has(old, "Denied"));
    let list = conditions(object);
    for (index, condition) in list.iter().enumerate() {
        let at = format!("status.conditions[{index}]");
        let kind = condition["type"].as_str().unwrap_or_default();
        if kind.is_empty() {
            out.push(FieldError::required(format!("{at}.type"), ""));
        }
        let supported: &[&str] =
            if DECIDED.contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        match condition["status"].as_str().unwrap_or_default() {
            "" => out.push(FieldError::required(format!("{at}.status"), "")),
            status if !supported.contains(&status) => {
                out.push(FieldError::not_supported(format!("{at}.status"), status, supported));
            }
            _ => {}
        }
        let other = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        let before = |kind: &str| list[..index].iter().any(|condition| condition["type"] == kind);
        if !both_before && !other.is_empty() && before(other) {
            let why = "Approved and Denied conditions are mutually exclusive";
            out.push(FieldError::invalid("status.conditions", kind, why));
        }
        if before(kind) {
            out.push(FieldError::duplicate(format!("{at}.type"), kind));
        }
    }
}

/// Nothing, or one certificate after the other and nothing else.
fn check_certificate(encoded: &str) -> Result<(), String> {
    if encoded.is_empty() {
        return Ok(());
    }
    let pem = STANDARD.decode(encoded).unwrap_or_default();
    let text = String::from_utf8_lossy(&pem);
    let mut labels = text.lines().filter_map(|line| line.trim().strip_prefix("-----BEGIN "));
    if let Some(other) = labels.find(|label| *label != "CERTIFICATE-----") {
        let other = other.trim_end_matches('-');
        return Err(format!("only CERTIFICATE PEM blocks are allowed, found \"{other}\""));
    }
    let mut blocks = 0;
    for block in CertificateDer::pem_slice_iter(&pem) {
        let der = block.map_err(|error| error.to_string())?;
        if tls::Facts::of_der(&der).is_none() {
            return Err("x509: malformed certificate".to_owned());
        }
        blocks += 1;
    }
    if blocks == 0 { Err("must contain at least one CERTIFICATE PEM block".to_owned()) } else { Ok(()) }
}
