//! A request passed on to an extension server, with who asks in headers, and its answer passed back as it comes.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;

use super::extension::Extension;
use crate::{
    body::{Body, RequestBody},
    core::Core,
    respond,
    user::UserInfo,
};

/// Headers that are between two neighbours, or that only this server may set.
const OWN: [&str; 8] = [
    "authorization",
    "connection",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
];

/// What is passed on.
pub(crate) struct Passed {
    pub(crate) method: http::Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: RequestBody,
    pub(crate) upgrade: Option<hyper::upgrade::OnUpgrade>,
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

/// Says who asks.
pub(super) fn identity(headers: &mut HeaderMap, user: &UserInfo) {
    let mine = |name: &HeaderName| name.as_str().starts_with("x-remote-");
    let forged: Vec<HeaderName> = headers.keys().filter(|name| mine(name)).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
    let mut add = |name: &str, value: &str| {
        let name = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    add("X-Remote-User", &user.name);
    if let Some(uid) = &user.uid {
        add("X-Remote-Uid", uid);
    }
    for group in &user.groups {
        add("X-Remote-Group", group);
    }
    for (key, values) in &user.extra {
        let key = percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC);
        for value in values {
            add(&format!("X-Remote-Extra-{key}"), value);
        }
    }
}

/// Plain text, as upstream's proxy refuses.
fn refusal(code: StatusCode, why: &str) -> Response<Body> {
    respond::typed(code, "text/plain; charset=utf-8", format!("{why}\n"))
}

/// Passes a request on.
pub(crate) async fn pass(
    core: &Arc<Core>,
    extension: &Extension,
    user: &UserInfo,
    passed: Passed,
) -> Response<Body> {
    if !extension.is_available() {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "service unavailable");
    }
    let Passed { method, target, headers, body, upgrade, permit } = passed;
    let mut request = Request::new(body);
    *request.method_mut() = method;
    match target.parse() {
        Ok(uri) => *request.uri_mut() = uri,
        Err(_) => return refusal(StatusCode::BAD_REQUEST, "bad path"),
    }
    *request.headers_mut() = headers;
    let switching = request.headers().get(header::UPGRADE).cloned().filter(|_| upgrade.is_some());
    for name in OWN {
        request.headers_mut().remove(name);
    }
    identity(request.headers_mut(), user);
    if let Some(protocol) = switching {
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        request.headers_mut().insert(header::UPGRADE, protocol);
    } else {
        request.headers_mut().remove(header::UPGRADE);
    }
    let mut response = match extension.send(core, request).await {
        Ok(response) => response,
        Err(why) => {
            let why = format!("error trying to reach service: {why}");
            return refusal(StatusCode::SERVICE_UNAVAILABLE, &why);
        }
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = upgrade else { return refusal(StatusCode::BAD_GATEWAY, "unexpected upgrade") };
        return join(core, extension, client, &mut response, permit);
    }
    let (parts, body) = response.into_parts();
    let mut out = Response::new(Body::node(body, Box::new(permit)));
    *out.status_mut() = parts.status;
    *out.headers_mut() = parts.headers;
    for name in OWN {
        out.headers_mut().remove(name);
    }
    out
}

/// Joins the two connections after a switch of protocols.
fn join(
    core: &Arc<Core>,
    extension: &Extension,
    client: hyper::upgrade::OnUpgrade,
    response: &mut Response<hyper::body::Incoming>,
    permit: Option<OwnedSemaphorePermit>,
) -> Response<Body> {
    let server = hyper::upgrade::on(&mut *response);
    let shutdown = core.closing.clone();
    core.supervisor.spawn(format!("extension-stream/{}", extension.name), async move {
        let _permit = permit;
        let (Ok(client), Ok(server)) = (client.await, server.await) else { return };
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        tokio::select! {
            result = tokio::io::copy_bidirectional(&mut client, &mut server) => {
                if let Err(error) = result {
                    tracing::debug!(%error, "stream ended");
                }
            }
            () = shutdown.cancelled() => {}
        }
    });
    let mut out = Response::new(Body::empty());
    *out.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *out.headers_mut() = response.headers().clone();
    out
}
