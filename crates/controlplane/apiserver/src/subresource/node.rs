//! `pods/log`, `exec`, `attach` and `portforward`: passed on to the node that runs the pod.
//!
//! The server authorizes, finds the node, forwards the request with its upgrade headers, and after a switch of
//! protocols copies bytes both ways. What the bytes mean is between the client and the node.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use sampan_api::status::Status;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    admission::{self, Operation, Review},
    body::Body,
    call::{Call, text},
    core::Core,
    request::Query,
    subresource::idle::{Lent, Sender},
};

/// Time to reach a node.
const CONNECT: Duration = Duration::from_secs(10);

/// Time for a node to answer a request's head.
const ANSWER: Duration = Duration::from_secs(60);

/// What of a node's error is passed on.
const ERROR_BYTES: usize = 16 << 10;

/// Headers that make an upgrade.
const FORWARDED: [&str; 8] = [
    "connection",
    "upgrade",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "x-stream-protocol-version",
    "origin",
];

/// Passes the request on.
pub(crate) async fn connect(core: &Arc<Core>, call: &mut Call, what: &str) -> Result<Response<Body>, Status> {
    let pod = core.find(&call.endpoint, call.namespace(), call.name()).await?.object;
    let path = path(call, what, &pod)?;
    if what != "log" {
        let options = stream_options(call, what);
        let mut review = Review::new(call, Operation::Connect, options, false);
        admission::decide(core, &mut review).await?;
    }
    let node = text(&pod, "/spec/nodeName").to_owned();
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", call.name())));
    }
    let (host, port) = address(core, &node).await?;
    let mut request = Request::new(Empty::<bytes::Bytes>::new());
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = path.parse().map_err(|e| Status::bad_request(format!("{e}")))?;
    for name in FORWARDED {
        for value in call.headers.get_all(name) {
            request.headers_mut().append(HeaderName::from_static(name), value.clone());
        }
    }
    let again = what == "log" && !call.headers.contains_key(header::UPGRADE);
    let to = Target { node: node.clone(), authority: format!("{host}:{port}"), host, port, again };
    if let Ok(value) = HeaderValue::from_str(&to.authority) {
        request.headers_mut().insert(header::HOST, value);
    }
    let unreachable = |why: String| {
        Status::internal(format!("error dialing backend of node {node} at {}: {why}", to.authority))
    };
    let (response, lent) = send(core, &to, request).await.map_err(unreachable)?;
    answer(core, call, response, lent).await
}

/// What the query asks of a stream, as the object that admission sees.
fn stream_options(call: &Call, what: &str) -> Value {
    let mut options = json!({"apiVersion": "v1", "kind": call.body_kind().kind});
    if what == "portforward" {
        let ports = call.query.all("ports").flat_map(|list| list.split(','));
        let ports: Vec<i64> = ports.filter_map(|port| port.parse().ok()).collect();
        if !ports.is_empty() {
            options["ports"] = ports.into();
        }
        return options;
    }
    for key in ["stdin", "stdout", "stderr", "tty"] {
        if call.query.flag(key) == Some(true) {
            options[key] = true.into();
        }
    }
    if let Some(container) = call.query.get("container") {
        options["container"] = container.into();
    }
    if what == "exec" {
        options["command"] = call.query.all("command").collect();
    }
    options
}

/// Where a request goes.
struct Target {
    /// The node's name, which its certificate has where another is reached at the same address.
    node: String,
    host: String,
    port: u16,
    authority: String,
    /// Whether it changes nothing and upgrades nothing, so that it may be sent twice and on a used connection.
    again: bool,
}

type Answer = (Response<hyper::body::Incoming>, Option<Lent>);

/// Reads something of a node in whole.
pub(crate) async fn read(core: &Core, node: &str, path: &str, most: usize) -> Result<bytes::Bytes, String> {
    let (host, port) = address(core, node).await.map_err(|status| status.message)?;
    let to = Target { node: node.to_owned(), authority: format!("{host}:{port}"), host, port, again: true };
    let mut request = Request::new(Empty::<bytes::Bytes>::new());
    *request.uri_mut() = path.parse().map_err(|error| format!("{error}"))?;
    if let Ok(value) = HeaderValue::from_str(&to.authority) {
        request.headers_mut().insert(header::HOST, value);
    }
    let (response, lent) = send(core, &to, request).await?;
    let (parts, body) = response.into_parts();
    if !parts.status.is_success() {
        return Err(refusal(parts.status, body).await.message);
    }
    let read = Limited::new(body, most).collect().await.map_err(|error| error.to_string())?;
    // The connection can be used again now.
    drop(lent);
    Ok(read.to_bytes())
}

/// Sends the request's head, on an idle connection when that will do.
async fn send(core: &Core, to: &Target, request: Request<Empty<bytes::Bytes>>) -> Result<Answer, String> {
    let lend = |sender| to.again.then(|| Lent::new(core.idle.clone(), to.authority.clone(), sender));
    if to.again
        && let Some(mut sender) = core.idle.take(&to.authority).await
        // The node may close it in this very moment; then the request goes over a new one.
        && let Ok(response) = ask(&mut sender, request.clone()).await?
    {
        return Ok((response, lend(sender)));
    }
    let mut sender = dial(core, to).await?;
    let response = ask(&mut sender, request).await?.map_err(|e| e.to_string())?;
    Ok((response, lend(sender)))
}

/// The inner result is the connection's, the outer one tells of a node that does not answer.
async fn ask(
    sender: &mut Sender,
    request: Request<Empty<bytes::Bytes>>,
) -> Result<hyper::Result<Response<hyper::body::Incoming>>, String> {
    let answer = tokio::time::timeout(ANSWER, sender.send_request(request)).await;
    answer.map_err(|_| "the node did not answer in time".to_owned())
}

/// Opens a connection to the node.
async fn dial(core: &Core, to: &Target) -> Result<Sender, String> {
    let dial = reach(core, &to.node, (&to.host, to.port));
    let tls = tokio::time::timeout(CONNECT, dial).await.map_err(|_| "timed out".to_owned())??;
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(|e| e.to_string())?;
    let (idle, closing) = (core.idle.clone(), core.closing.clone());
    // Ends when nobody can send on it any more, or with the stream after an upgrade.
    core.supervisor.spawn(format!("node-connection/{}", to.authority), async move {
        let mut connection = std::pin::pin!(connection.with_upgrades());
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = closing.cancelled() => {
                idle.clear();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection to a node ended");
        }
    });
    Ok(sender)
}

/// Connects to a node that proves that it is the one at this address, or of this name.
pub(super) async fn reach(
    core: &Core,
    node: &str,
    (host, port): (&str, u16),
) -> Result<TlsStream<TcpStream>, String> {
    let connector = TlsConnector::from(core.options.node_tls.clone());
    let connect = async |name: &str| {
        let tcp = TcpStream::connect((host, port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).map_err(std::io::Error::other)?;
        connector.connect(name, tcp).await
    };
    match connect(host).await {
        // Beside an API server a node has a certificate for its name alone, which no other node is given.
        Err(error) if other_name(&error) => {
            connect(node).await.map_err(|second| format!("{error}; as {node}: {second}"))
        }
        other => other.map_err(|error| error.to_string()),
    }
}

/// The certificate is good, but not for the name that was asked for.
fn other_name(error: &std::io::Error) -> bool {
    use rustls::{
        CertificateError::{NotValidForName, NotValidForNameContext},
        Error::InvalidCertificate,
    };
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(InvalidCertificate(NotValidForName | NotValidForNameContext { .. })))
}

/// Hands the node's answer to the client; after `101` joins the two connections.
async fn answer(
    core: &Core,
    call: &mut Call,
    response: Response<hyper::body::Incoming>,
    lent: Option<Lent>,
) -> Result<Response<Body>, Status> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return join(core, call, response);
    }
    let permit = call.permit.take();
    let (parts, body) = response.into_parts();
    if !parts.status.is_success() {
        return Err(refusal(parts.status, body).await);
    }
    let mut out = Response::new(Body::node(body, Box::new((permit, lent))));
    *out.status_mut() = parts.status;
    let plain = HeaderValue::from_static("text/plain");
    let kind = parts.headers.get(header::CONTENT_TYPE).cloned().unwrap_or(plain);
    out.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(out)
}

/// Joins the client's connection with the other side's after a switch of protocols.
pub(super) fn join(
    core: &Core,
    call: &mut Call,
    mut response: Response<hyper::body::Incoming>,
) -> Result<Response<Body>, Status> {
    let permit = call.permit.take();
    let Some(client) = call.upgrade.take() else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let node = hyper::upgrade::on(&mut response);
    let shutdown = core.closing.clone();
    core.supervisor.spawn(format!("stream/{}", call.name()), async move {
        let _permit = permit;
        let (Ok(client), Ok(node)) = (client.await, node.await) else { return };
        let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
        tokio::select! {
            result = tokio::io::copy_bidirectional(&mut client, &mut node) => {
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
    Ok(out)
}

/// The node's refusal as a Status: its own when it sent one, its text otherwise.
async fn refusal(code: StatusCode, body: hyper::body::Incoming) -> Status {
    let text = match Limited::new(body, ERROR_BYTES).collect().await {
        Ok(bytes) => String::from_utf8_lossy(&bytes.to_bytes()).trim().to_owned(),
        Err(_) => String::new(),
    };
    if let Some(status) = serde_json::from_str(&text).ok().and_then(|value: Value| Status::from_value(&value))
    {
        return status;
    }
    let reason = match code.as_u16() {
        400 => "BadRequest",
        403 => "Forbidden",
        404 => "NotFound",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        _ => "",
    };
    let text = if text.is_empty() { format!("the node answered {code}") } else { text };
    Status::new(code.as_u16(), reason, text)
}

/// The node's address and port, as it publishes them.
pub(super) async fn address(core: &Core, node: &str) -> Result<(String, u16), Status> {
    let Some(found) = core.look_up("", "v1", "nodes", None, node).await? else {
        return Err(Status::not_found(("", "nodes"), node));
    };
    let addresses = found.pointer("/status/addresses").and_then(Value::as_array);
    let by_kind = |kind: &str| {
        let mut list = addresses.into_iter().flatten();
        list.find(|a| a["type"] == kind).and_then(|a| a["address"].as_str()).map(str::to_owned)
    };
    let host = ["InternalIP", "Hostname", "ExternalIP"].into_iter().find_map(by_kind);
    let port = found.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
    match (host, port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)) {
        (Some(host), Some(port)) => Ok((host, port)),
        _ => Err(Status::internal(format!("node {node} has not published an address and port yet"))),
    }
}

/// The path and query on the node.
fn path(call: &Call, what: &str, pod: &Value) -> Result<String, Status> {
    let (namespace, name) = (call.namespace().unwrap_or_default(), call.name());
    let query = &call.query;
    let mut out = form_urlencoded::Serializer::new(String::new());
    let head = match what {
        "portforward" => {
            for ports in query.all("ports") {
                out.append_pair("ports", ports);
            }
            format!("/portForward/{namespace}/{name}")
        }
        "log" => {
            let container = container(query, pod, name)?;
            check_log(query)?;
            for key in ["follow", "previous", "timestamps"] {
                if let Some(flag) = query.flag(key) {
                    out.append_pair(key, if flag { "true" } else { "false" });
                }
            }
            for key in ["tailLines", "sinceSeconds", "sinceTime", "limitBytes", "stream"] {
                if let Some(value) = query.get(key) {
                    out.append_pair(key, value);
                }
            }
            format!("/containerLogs/{namespace}/{name}/{container}")
        }
        _ => {
            let container = container(query, pod, name)?;
            for (ours, theirs) in
                [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
            {
                if query.flag(ours).unwrap_or(false) {
                    out.append_pair(theirs, "1");
                }
            }
            for part in query.all("command") {
                out.append_pair("command", part);
            }
            format!("/{what}/{namespace}/{name}/{container}")
        }
    };
    let query = out.finish();
    Ok(if query.is_empty() { head } else { format!("{head}?{query}") })
}

fn check_log(query: &Query) -> Result<(), Status> {
    use sampan_api::status::FieldError;
    let mut errors = Vec::new();
    for (key, least) in [("tailLines", 0), ("sinceSeconds", 1), ("limitBytes", 1)] {
        if let Some(number) = query.number(key)?
            && number < least
        {
            let why =
                if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            errors.push(FieldError::invalid(key, number, why));
        }
    }
    if query.get("sinceSeconds").is_some() && query.get("sinceTime").is_some() {
        errors
            .push(FieldError::forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(("", "PodLogOptions"), "", &errors)) }
}

/// The container that is meant; the only one when none is named.
fn container(query: &Query, pod: &Value, name: &str) -> Result<String, Status> {
    let names = |pointer: &str| -> Vec<String> {
        let list = pod.pointer(pointer).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|c| c["name"].as_str()).map(str::to_owned).collect()
    };
    let (main, init) = (names("/spec/containers"), names("/spec/initContainers"));
    let ephemeral = names("/spec/ephemeralContainers");
    if let Some(wanted) = query.get("container") {
        if main.iter().chain(&init).chain(&ephemeral).any(|c| c == wanted) {
            return Ok(wanted.to_owned());
        }
        return Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}")));
    }
    match main.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
        several => {
            let mut why = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                several.join(" ")
            );
            if !init.is_empty() {
                why.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            if !ephemeral.is_empty() {
                why.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
            }
            Err(Status::bad_request(why))
        }
    }
}
