//! `pods/proxy`, `services/proxy` and `nodes/proxy`: HTTP requests and upgrades passed on to what a pod, a service's
//! pod or a node serves. Links that lead to the root of the server are made to lead through the proxy again.

mod html;
mod tls;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use sampan_api::status::Status;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::node;
use crate::{
    admission::{self, Operation, Review},
    body::Body,
    call::{Call, text},
    core::Core,
};

/// Time to reach a backend.
const CONNECT: Duration = Duration::from_secs(10);

/// Time for a backend to answer a request's head.
const ANSWER: Duration = Duration::from_secs(60);

/// A longer page is passed on as it is.
const MAX_PAGE: usize = 4 << 20;

/// Headers of one connection, which are not passed on.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// How a backend's certificate is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Secure {
    /// Plain HTTP.
    No,
    /// Anyone's: nobody knows who issues the certificates of what pods serve.
    Any,
    /// The cluster's: a node's own server.
    Node,
}

/// Where a request goes.
struct Target {
    host: String,
    port: u16,
    secure: Secure,
    /// Which node it is, when it is one.
    node: String,
}

/// The name of an object with the port and scheme that go with it: `name`, `name:port`, `scheme:name:port`.
struct Id<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Id<'a> {
    fn parse(id: &'a str) -> Option<Self> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match parts[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        (!name.is_empty() && matches!(scheme, "" | "http" | "https")).then_some(Self { scheme, name, port })
    }

    fn secure(&self) -> Secure {
        if self.scheme == "https" { Secure::Any } else { Secure::No }
    }
}

/// Passes the request on.
pub(crate) async fn run(core: &Arc<Core>, call: &mut Call) -> Result<Response<Body>, Status> {
    let (prefix, rest) = split(&call.path);
    let (prefix, rest) = (prefix.to_owned(), rest.to_owned());
    let what = call.endpoint.resource.singular;
    let id = call.name().to_owned();
    let Some(id) = Id::parse(&id) else {
        let shown = sampan_api::status::go_quote(&id);
        return Err(Status::bad_request(format!("invalid {what} request {shown}")));
    };
    let target = match what {
        "pod" => of_pod(core, call, &id).await?,
        "service" => of_service(core, call, &id).await?,
        _ => of_node(core, &id).await?,
    };
    let options = json!({"apiVersion": "v1", "kind": call.body_kind().kind, "path": rest});
    let mut review = Review::new(call, Operation::Connect, options, false);
    admission::decide(core, &mut review).await?;
    if rest.is_empty() && call.upgrade.is_none() && matches!(call.method, Method::GET | Method::HEAD) {
        return moved(call);
    }
    let path = if rest.is_empty() { "/" } else { rest.as_str() };
    let response = send(core, call, &target, &prefix, path).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return node::join(core, call, response);
    }
    pass_on(call, response, &prefix).await
}

/// The path up to `proxy`, and what follows.
fn split(path: &str) -> (&str, &str) {
    match path.find("/proxy/") {
        Some(at) => path.split_at(at + "/proxy".len()),
        None => (path, ""),
    }
}

/// A page at the root has links relative to it: its path ends in a slash.
fn moved(call: &Call) -> Result<Response<Body>, Status> {
    let query = if call.raw_query.is_empty() { String::new() } else { format!("?{}", call.raw_query) };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let location = HeaderValue::from_str(&format!("{}/{query}", call.path)).map_err(Status::internal)?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

fn port_of(text: &str, otherwise: u16) -> Result<u16, Status> {
    if text.is_empty() {
        return Ok(otherwise);
    }
    text.parse().map_err(|_| Status::bad_request(format!("invalid port {text}")))
}

/// Addresses that lead to this machine or nowhere are not for others to reach through the server.
fn allowed(address: &str) -> bool {
    let Ok(address) = address.parse::<std::net::IpAddr>() else { return false };
    let link_local = match address {
        std::net::IpAddr::V4(four) => four.is_link_local() || four.is_broadcast(),
        std::net::IpAddr::V6(six) => six.segments()[0] & 0xffc0 == 0xfe80,
    };
    !address.is_loopback() && !address.is_unspecified() && !address.is_multicast() && !link_local
}

fn pod_address(pod: &Value) -> &str {
    let first = pod.pointer("/status/podIPs/0/ip").and_then(Value::as_str);
    first.filter(|address| !address.is_empty()).unwrap_or_else(|| text(pod, "/status/podIP"))
}

async fn of_pod(core: &Core, call: &Call, id: &Id<'_>) -> Result<Target, Status> {
    let pod = core.find(&call.endpoint, call.namespace(), id.name).await?.object;
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let first = containers.into_iter().flatten().find_map(|c| c.pointer("/ports/0/containerPort")?.as_u64());
    let first = first.and_then(|port| u16::try_from(port).ok());
    let otherwise = first.unwrap_or(if id.scheme == "https" { 443 } else { 80 });
    let host = pod_address(&pod);
    if !allowed(host) {
        return Err(Status::bad_request("address not allowed"));
    }
    Ok(Target {
        host: host.to_owned(),
        port: port_of(id.port, otherwise)?,
        secure: id.secure(),
        node: String::new(),
    })
}

async fn of_service(core: &Core, call: &Call, id: &Id<'_>) -> Result<Target, Status> {
    let unavailable = |why: String| Status::service_unavailable(why);
    let namespace = call.namespace();
    let mut port = id.port.to_owned();
    if let Ok(number) = port.parse::<i64>() {
        let service = core.find(&call.endpoint, namespace, id.name).await?.object;
        let ports = service.pointer("/spec/ports").and_then(Value::as_array);
        let Some(found) = ports.into_iter().flatten().find(|p| p["port"].as_i64() == Some(number)) else {
            let name = id.name;
            return Err(unavailable(format!("no service port {number} found for service \"{name}\"")));
        };
        port = text(found, "/name").to_owned();
    }
    let Some(endpoints) = core.look_up("", "v1", "endpoints", namespace, id.name).await? else {
        return Err(Status::not_found(("", "endpoints"), id.name));
    };
    let items = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    if items(&endpoints, "subsets").is_empty() {
        return Err(unavailable(format!("no endpoints available for service \"{}\"", id.name)));
    }
    let mut places = Vec::new();
    for subset in items(&endpoints, "subsets") {
        for found in items(&subset, "ports").iter().filter(|p| text(p, "/name") == port) {
            let number = found["port"].as_u64().and_then(|port| u16::try_from(port).ok());
            let addresses = items(&subset, "addresses");
            places.extend(addresses.into_iter().filter_map(|address| Some((address, number?))));
        }
    }
    let start = rand::random_range(0..places.len().max(1));
    places.rotate_left(start);
    for (address, port) in places {
        let ip = text(&address, "/ip");
        let name = text(&address, "/targetRef/name");
        if text(&address, "/targetRef/kind") != "Pod" || !allowed(ip) {
            continue;
        }
        let pod = core.look_up("", "v1", "pods", namespace, name).await?.unwrap_or_default();
        let more = pod.pointer("/status/podIPs").and_then(Value::as_array);
        if pod_address(&pod) == ip || more.into_iter().flatten().any(|p| p["ip"] == ip) {
            return Ok(Target { host: ip.to_owned(), port, secure: id.secure(), node: String::new() });
        }
    }
    Err(unavailable(format!("no endpoints available for service \"{}\"", call.name())))
}

async fn of_node(core: &Core, id: &Id<'_>) -> Result<Target, Status> {
    let (host, own) = node::address(core, id.name).await?;
    let port = port_of(id.port, own)?;
    let secure = if port == own { Secure::Node } else { id.secure() };
    Ok(Target { host, port, secure, node: id.name.to_owned() })
}

/// Sends the request over a connection of its own.
async fn send(
    core: &Core,
    call: &Call,
    target: &Target,
    prefix: &str,
    path: &str,
) -> Result<Response<Incoming>, Status> {
    let authority = if target.host.contains(':') {
        format!("[{}]:{}", target.host, target.port)
    } else {
        format!("{}:{}", target.host, target.port)
    };
    let query = if call.raw_query.is_empty() { String::new() } else { format!("?{}", call.raw_query) };
    let mut request = Request::new(Full::new(call.body.clone()));
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = format!("{path}{query}").parse().map_err(|e| Status::bad_request(format!("{e}")))?;
    *request.headers_mut() = headers(call, prefix, path);
    if !request.headers().contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(&authority)
    {
        request.headers_mut().insert(header::HOST, host);
    }
    let unreachable =
        |why: String| Status::service_unavailable(format!("error trying to reach service: {why}"));
    let dialled = |why: &dyn std::fmt::Display| unreachable(format!("dial tcp {authority}: {why}"));
    if target.secure == Secure::Node {
        let stream = node::reach(core, &target.node, (&target.host, target.port));
        let stream = tokio::time::timeout(CONNECT, stream).await.map_err(|_| dialled(&"i/o timeout"))?;
        return exchange(core, &authority, stream.map_err(|e| dialled(&e))?, request)
            .await
            .map_err(unreachable);
    }
    let tcp = tokio::time::timeout(CONNECT, TcpStream::connect((target.host.as_str(), target.port))).await;
    let tcp = tcp.map_err(|_| dialled(&"i/o timeout"))?.map_err(|e| dialled(&e))?;
    let answer = if target.secure == Secure::No {
        exchange(core, &authority, tcp, request).await
    } else {
        let config = tls::anyone(&core.options.node_tls);
        let name = ServerName::try_from(target.host.clone()).map_err(|e| dialled(&e))?;
        let stream = tokio::time::timeout(CONNECT, TlsConnector::from(config).connect(name, tcp)).await;
        let stream = stream.map_err(|_| dialled(&"TLS handshake timeout"))?.map_err(|e| dialled(&e))?;
        exchange(core, &authority, stream, request).await
    };
    answer.map_err(unreachable)
}

async fn exchange(
    core: &Core,
    authority: &str,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let closing = core.closing.clone();
    core.supervisor.spawn(format!("proxy/{authority}"), async move {
        let connection = connection.with_upgrades();
        tokio::select! {
            ended = connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection to a backend ended");
                }
            }
            () = closing.cancelled() => {}
        }
    });
    let answer = tokio::time::timeout(ANSWER, sender.send_request(request)).await;
    answer.map_err(|_| "the backend did not answer in time".to_owned())?.map_err(|e| e.to_string())
}

/// The client's headers without those that are the connection's or that say who it is, and where the request came by.
fn headers(call: &Call, prefix: &str, path: &str) -> HeaderMap {
    let mut out = HeaderMap::new();
    let upgrade = call.upgrade.is_some();
    for (name, value) in &call.headers {
        let hop = HOP_BY_HOP.contains(&name.as_str());
        let kept = !hop || (upgrade && matches!(name.as_str(), "connection" | "upgrade"));
        let secret = *name == header::AUTHORIZATION || name.as_str().starts_with("impersonate-");
        if kept && !secret && *name != header::CONTENT_LENGTH {
            out.append(name.clone(), value.clone());
        }
    }
    if let Ok(uri) = HeaderValue::from_str(&format!("{prefix}{path}")) {
        out.insert(HeaderName::from_static("x-forwarded-uri"), uri);
    }
    if let Some(host) = call.headers.get(header::HOST) {
        out.insert(HeaderName::from_static("x-forwarded-host"), host.clone());
        out.insert(HeaderName::from_static("x-forwarded-proto"), HeaderValue::from_static("https"));
    }
    out
}

/// Hands the backend's answer to the client.
async fn pass_on(
    call: &mut Call,
    response: Response<Incoming>,
    prefix: &str,
) -> Result<Response<Body>, Status> {
    let (mut parts, body) = response.into_parts();
    for name in HOP_BY_HOP {
        parts.headers.remove(name);
    }
    let location = parts.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    if let Some(location) = location
        && let Some(through) = html::through(location, prefix)
        && let Ok(value) = HeaderValue::from_str(&through)
    {
        parts.headers.insert(header::LOCATION, value);
    }
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let page = kind.is_some_and(|kind| kind.split(';').next().unwrap_or_default().trim() == "text/html");
    let plain = !parts.headers.contains_key(header::CONTENT_ENCODING);
    let length =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    let short = length.is_none_or(|length| length <= MAX_PAGE);
    if page && plain && short && call.method != Method::HEAD && parts.headers.get(header::LOCATION).is_none()
    {
        let bytes = Limited::new(body, MAX_PAGE).collect().await.map_err(|error| {
            Status::service_unavailable(format!("error trying to reach service: {error}"))
        })?;
        parts.headers.remove(header::CONTENT_LENGTH);
        let bytes = html::rewrite(&bytes.to_bytes(), prefix);
        return Ok(Response::from_parts(parts, Body::full(bytes)));
    }
    let permit = call.permit.take();
    Ok(Response::from_parts(parts, Body::node(body, Box::new(permit))))
}
