//! Responses, and what form of them the client accepts.

use std::io::Write;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use sampan_api::status::Status;
use serde_json::Value;

use crate::{
    body::Body,
    encode::{Form, Include},
    request::Query,
};

/// Answers above this size are compressed when the client takes it.
const COMPRESS_ABOVE: usize = 128 << 10;

/// What can be had.
const ACCEPTED: [&str; 1] = ["application/json"];

/// A JSON answer.
pub(crate) fn json_bytes(code: StatusCode, bytes: impl Into<Bytes>) -> Response<Body> {
    typed(code, "application/json", bytes)
}

/// A JSON answer from a value.
pub(crate) fn json_value(code: StatusCode, value: &Value) -> Response<Body> {
    json_bytes(code, value.to_string())
}

/// An answer of some content type.
pub(crate) fn typed(code: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A refusal (or a success that is only a Status).
pub(crate) fn status(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_bytes(code, status.to_bytes());
    if let Some(seconds) = status.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    if code == StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"kubernetes\""));
    }
    response
}

/// Adds `Warning` headers. Their number and size are bounded, as in Kubernetes.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    let mut room = 4 << 10;
    for warning in warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        let line = format!("299 - \"{text}\"");
        let Ok(value) = HeaderValue::from_bytes(line.as_bytes()) else { continue };
        if line.len() > room {
            break;
        }
        room -= line.len();
        response.headers_mut().append(header::WARNING, value);
    }
}

/// One media range of an Accept header.
struct Media<'a> {
    kind: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Media<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let parameters = parts.filter_map(|p| p.split_once('=')).map(|(k, v)| (k.trim(), v.trim())).collect();
        Self { kind, parameters }
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(k, _)| *k == name).map(|(_, v)| *v)
    }

    fn is_json(&self) -> bool {
        matches!(self.kind, "application/json" | "*/*" | "application/*" | "")
    }
}

fn accept(headers: &HeaderMap) -> &str {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*")
}

/// The form in which the client wants objects; the first acceptable one counts.
pub(crate) fn form(headers: &HeaderMap, query: &Query) -> Result<Form, Status> {
    for part in accept(headers).split(',') {
        let media = Media::parse(part.trim());
        if !media.is_json() {
            continue;
        }
        let Some(kind) = media.get("as") else { return Ok(Form::Object) };
        if media.get("g") != Some("meta.k8s.io") || !matches!(media.get("v"), Some("v1")) {
            continue;
        }
        match kind {
            "Table" => return Ok(Form::Table(include(query)?)),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => return Ok(Form::Partial),
            _ => {}
        }
    }
    Err(Status::not_acceptable(&ACCEPTED))
}

fn include(query: &Query) -> Result<Include, Status> {
    match query.get("includeObject") {
        None | Some("Metadata") => Ok(Include::Metadata),
        Some("Object") => Ok(Include::Object),
        Some("None") => Ok(Include::Nothing),
        Some(other) => Err(Status::bad_request(format!(
            "unrecognized includeObject value \"{other}\": must be one of None, Metadata, Object"
        ))),
    }
}

/// Which version of aggregated discovery the client wants, when it wants it.
pub(crate) fn aggregated(headers: &HeaderMap) -> Option<&'static str> {
    for part in accept(headers).split(',') {
        let media = Media::parse(part.trim());
        if !media.is_json() {
            continue;
        }
        match (media.get("g"), media.get("v"), media.get("as")) {
            (Some("apidiscovery.k8s.io"), Some("v2"), Some("APIGroupDiscoveryList")) => return Some("v2"),
            (Some("apidiscovery.k8s.io"), Some("v2beta1"), Some("APIGroupDiscoveryList")) => {
                return Some("v2beta1");
            }
            (None, None, None) => return None,
            _ => {}
        }
    }
    None
}

/// Whether plain JSON will do.
pub(crate) fn accepts_json(headers: &HeaderMap) -> Result<(), Status> {
    let any = accept(headers).split(',').any(|part| Media::parse(part.trim()).is_json());
    if any { Ok(()) } else { Err(Status::not_acceptable(&ACCEPTED)) }
}

/// Compresses a large answer when the client takes gzip.
pub(crate) fn compress(headers: &HeaderMap, response: &mut Response<Body>) {
    let takes = headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.split(',').any(|part| part.trim().split(';').next() == Some("gzip")));
    if !takes || response.headers().contains_key(header::CONTENT_ENCODING) {
        return;
    }
    let Some(bytes) = response.body().bytes().filter(|bytes| bytes.len() > COMPRESS_ABOVE) else { return };
    let mut encoder =
        flate2::write::GzEncoder::new(Vec::with_capacity(bytes.len() / 4), flate2::Compression::fast());
    if encoder.write_all(bytes).is_err() {
        return;
    }
    if let Ok(packed) = encoder.finish() {
        *response.body_mut() = Body::full(packed);
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form_of(accept: &str) -> Result<Form, Status> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
        form(&headers, &Query::default())
    }

    #[test]
    fn the_first_acceptable_form_counts() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form_of(kubectl).unwrap(), Form::Table(Include::Metadata));
        assert_eq!(form_of("application/vnd.kubernetes.protobuf, application/json").unwrap(), Form::Object);
        assert_eq!(form_of("*/*").unwrap(), Form::Object);
        assert_eq!(form_of("text/html").unwrap_err().code, 406);
        assert_eq!(form_of("application/json;as=Nonsense;v=v1;g=meta.k8s.io").unwrap_err().code, 406);
    }
}
