//! Responses.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use sampan_api::status::Status;
use serde_json::Value;

use crate::{
    body::Body,
    negotiate::{self, Accepted, Asked},
    request::Query,
};

/// Answers above this size are compressed when the client takes it.
const COMPRESS_ABOVE: usize = 128 << 10;

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

/// Whether what is no object of a resource can be had in a form that the client takes.
pub(crate) fn accepts_json(headers: &HeaderMap) -> Result<(), Status> {
    let accepted = Accepted::read(headers, &Query::default(), Asked::Other);
    accepted.map(drop).ok_or_else(|| negotiate::refusal(Asked::Other))
}

/// Whether the client takes gzip.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    let value = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| value.split(',').any(|part| part.trim().split(';').next() == Some("gzip")))
}

/// Compresses a large answer.
pub(crate) fn compress(response: &mut Response<Body>) {
    if response.headers().contains_key(header::CONTENT_ENCODING) {
        return;
    }
    let body = std::mem::replace(response.body_mut(), Body::empty());
    let (body, packed) = body.compress(COMPRESS_ABOVE);
    *response.body_mut() = body;
    if packed {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}
