//! The HTTP face: which request is which, and what all answers have in common.

use std::{net::IpAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::{
    auth::{Action, Caller, SERVICE},
    core::{Access, Core},
    error::{ApiError, ApiResult},
    name::is_repository,
};

mod admin;
mod blobs;
mod direct;
mod listing;
mod manifests;
mod projects;
mod query;
pub(crate) mod server;
mod token;
mod uploads;

pub(crate) use query::Query;

/// Body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
pub(crate) type Answer = ApiResult<Response<Body>>;

/// Bytes of a JSON body of the administration.
const ADMIN_BODY: usize = 256 << 10;

/// What is asked for.
#[derive(Debug)]
enum Route {
    Base,
    Token,
    Catalog,
    Tags(String),
    Referrers(String, String),
    Manifest(String, String),
    Blob(String, String),
    Uploads(String),
    Upload(String, String),
    Admin(String),
    Metrics,
    Health,
    Unknown,
}

impl Route {
    fn of(path: &str) -> Self {
        match path {
            "/v2" | "/v2/" => return Self::Base,
            "/v2/token" => return Self::Token,
            "/v2/_catalog" => return Self::Catalog,
            "/metrics" => return Self::Metrics,
            "/healthz" | "/readyz" | "/livez" => return Self::Health,
            _ => {}
        }
        if let Some(rest) = path.strip_prefix("/api/v1/") {
            return Self::Admin(rest.to_owned());
        }
        let Some(rest) = path.strip_prefix("/v2/") else { return Self::Unknown };
        let owned = |text: &str| text.to_owned();
        // From the end: names may contain any of these words.
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Self::Tags(owned(name));
        }
        if let Some(name) =
            rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads"))
        {
            return Self::Uploads(owned(name));
        }
        let Some((head, last)) = rest.rsplit_once('/') else { return Self::Unknown };
        if let Some(name) = head.strip_suffix("/blobs/uploads") {
            return Self::Upload(owned(name), owned(last));
        }
        if let Some(name) = head.strip_suffix("/blobs") {
            return Self::Blob(owned(name), owned(last));
        }
        if let Some(name) = head.strip_suffix("/manifests") {
            return Self::Manifest(owned(name), owned(last));
        }
        if let Some(name) = head.strip_suffix("/referrers") {
            return Self::Referrers(owned(name), owned(last));
        }
        Self::Unknown
    }

    /// Position in [`crate::metrics::ROUTES`].
    fn number(&self) -> usize {
        match self {
            Self::Base | Self::Token => 0,
            Self::Manifest(..) => 1,
            Self::Blob(..) => 2,
            Self::Uploads(_) | Self::Upload(..) => 3,
            Self::Tags(_) | Self::Catalog => 4,
            Self::Referrers(..) => 5,
            Self::Admin(_) => 6,
            _ => 7,
        }
    }

    fn repository(&self) -> Option<&str> {
        match self {
            Self::Tags(name) | Self::Uploads(name) => Some(name),
            Self::Referrers(name, _)
            | Self::Manifest(name, _)
            | Self::Blob(name, _)
            | Self::Upload(name, _) => Some(name),
            _ => None,
        }
    }
}

/// A request with everything that is known about it.
pub(crate) struct Ask {
    pub(crate) core: Arc<Core>,
    pub(crate) parts: Parts,
    pub(crate) query: Query,
    pub(crate) from: IpAddr,
    pub(crate) caller: Caller,
    /// It came over TLS.
    secure: bool,
    /// Files can be sent by the kernel.
    notes: Option<Arc<direct::Notes>>,
}

impl Ask {
    pub(crate) async fn access(&self, repository: &str, action: Action) -> ApiResult<Access> {
        self.core.access(&self.caller, self.from, repository, action).await
    }

    pub(crate) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.parts.headers.get(name)?.to_str().ok()
    }

    /// `https://host:port` as the client knows it.
    fn origin(&self) -> String {
        if let Some(url) = &self.core.options.external_url {
            return url.trim_end_matches('/').to_owned();
        }
        let scheme = if self.secure { "https" } else { "http" };
        let host = self.header(header::HOST).or_else(|| self.parts.uri.authority().map(|a| a.as_str()));
        format!("{scheme}://{}", host.unwrap_or("localhost"))
    }

    /// How to become somebody who may.
    fn challenge(&self, route: &Route, error: ApiError) -> ApiError {
        let scope = match (route, route.repository()) {
            (Route::Catalog, _) => ",scope=\"registry:catalog:*\"".to_owned(),
            (_, Some(name)) if is_repository(name) => {
                let actions = match self.parts.method {
                    Method::GET | Method::HEAD => "pull",
                    Method::DELETE if !matches!(route, Route::Upload(..)) => "delete",
                    _ => "pull,push",
                };
                format!(",scope=\"repository:{name}:{actions}\"")
            }
            _ => String::new(),
        };
        if matches!(route, Route::Admin(_) | Route::Token | Route::Metrics) {
            return error.with_header(header::WWW_AUTHENTICATE, "Basic realm=\"sampan-registry\"");
        }
        let value = format!("Bearer realm=\"{}/v2/token\",service=\"{SERVICE}\"{scope}", self.origin());
        error.with_header(header::WWW_AUTHENTICATE, &value)
    }
}

/// How a connection came in.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) from: IpAddr,
    pub(crate) tls: bool,
    /// Our own socket.
    pub(crate) local: bool,
    /// It is plain TCP, on which files can be sent by the kernel.
    pub(crate) notes: Option<Arc<direct::Notes>>,
}

/// Answer one request.
pub(crate) async fn answer(core: Arc<Core>, peer: Peer, request: Request<Incoming>) -> Response<Body> {
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    let path = query::decode(parts.uri.path());
    let route = path.as_deref().map_or(Route::Unknown, Route::of);
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let head_only = parts.method == Method::HEAD;
    let caller = if peer.local {
        Ok(Caller::System("administrator"))
    } else if core.options.open {
        Ok(Caller::System("anonymous"))
    } else {
        core.auth.caller(&core.meta, &parts.headers, peer.from).await
    };
    let (caller, refused) = match caller {
        Ok(caller) => (caller, None),
        Err(error) => (Caller::Anonymous, Some(error)),
    };
    // HTTP/2 would cut bodies into frames of its own.
    let notes = peer.notes.filter(|_| parts.version <= http::Version::HTTP_11);
    let ask = Ask { core: core.clone(), parts, query, from: peer.from, caller, secure: peer.tls, notes };
    let (ask, route, outcome) = match refused {
        Some(error) => (ask, route, Err(error)),
        None if matches!(ask.parts.method, Method::GET | Method::HEAD) => {
            let outcome = dispatch(&ask, &route, body).await;
            (ask, route, outcome)
        }
        None => match to_its_end(ask, route, body).await {
            Some(done) => done,
            None => return failure(&ApiError::unavailable("the registry ends"), false),
        },
    };
    let mut response = outcome.unwrap_or_else(|error| {
        let error =
            if error.status == StatusCode::UNAUTHORIZED { ask.challenge(&route, error) } else { error };
        if error.status.is_server_error() {
            tracing::warn!(path = ask.parts.uri.path(), status = error.status.as_u16(), "{}", error.message);
        }
        failure(&error, head_only)
    });
    let headers = response.headers_mut();
    headers.insert("docker-distribution-api-version", HeaderValue::from_static("registry/2.0"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    core.metrics.request(route.number(), response.status().as_u16(), micros);
    response
}

/// What changes something is a task of its own: a client that goes away in the middle would leave it between two steps
/// otherwise, for example with a link that is stored and not counted.
async fn to_its_end(ask: Ask, route: Route, body: Incoming) -> Option<(Ask, Route, Answer)> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    ask.core.supervisor.clone().spawn("request", async move {
        let outcome = dispatch(&ask, &route, body).await;
        // Nobody may be waiting any more.
        let _ = sender.send((ask, route, outcome));
    });
    receiver.await.ok()
}

async fn dispatch(ask: &Ask, route: &Route, body: Incoming) -> Answer {
    match route {
        Route::Base => base(ask),
        Route::Token => token::answer(ask, body).await,
        Route::Catalog => listing::catalog(ask).await,
        Route::Tags(name) => listing::tags(ask, name).await,
        Route::Referrers(name, digest) => listing::referrers(ask, name, digest).await,
        Route::Manifest(name, reference) => manifests::answer(ask, name, reference, body).await,
        Route::Blob(name, digest) => blobs::answer(ask, name, digest).await,
        Route::Uploads(name) => uploads::begin(ask, name, body).await,
        Route::Upload(name, id) => uploads::answer(ask, name, id, body).await,
        Route::Admin(path) => admin::answer(ask, path, body).await,
        Route::Metrics => metrics(ask),
        Route::Health => health(ask).await,
        Route::Unknown => {
            Err(ApiError::not_found("there is no such thing here (hint: /v2/, /api/v1/, /metrics, /healthz)"))
        }
    }
}

fn base(ask: &Ask) -> Answer {
    only(ask, &[Method::GET, Method::HEAD])?;
    if ask.caller.is_anonymous() && !matches!(ask.caller, Caller::Token { .. }) {
        return Err(crate::auth::unauthorized("authentication required (hint: log in)"));
    }
    Ok(json_response(StatusCode::OK, &json!({})))
}

/// Numbers are for administrators, unless the registry is open.
fn metrics(ask: &Ask) -> Answer {
    if !ask.caller.is_admin() {
        return Err(refuse_admin(&ask.caller));
    }
    let (linked, free) = ask.core.counts.totals();
    let gauges = [
        ("contents", "Contents that repositories have.", linked as u64),
        ("contents_free", "Contents that wait to be collected.", free as u64),
        ("uploads", "Uploads in progress.", ask.core.uploads.count() as u64),
        ("cache_bytes", "Memory of manifests that were read lately.", ask.core.contents.cached() as u64),
        ("hot_bytes", "Whole copies of packed contents that are read.", ask.core.contents.hot.bytes()),
        (
            "hot_copies_made",
            "Whole copies that were made since the start.",
            ask.core.contents.hot.made.load(std::sync::atomic::Ordering::Relaxed),
        ),
        (
            "events_waiting",
            "Events that webhooks and rules are to be told.",
            ask.core.outbox.waiting() as u64,
        ),
        (
            "events_dropped",
            "Events that found the queue full.",
            ask.core.events.dropped.load(std::sync::atomic::Ordering::Relaxed),
        ),
    ];
    let mut response = Response::new(full(ask.core.metrics.text(&gauges)));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Metadata answers. Storage is not asked: a bucket that is away must not have us restarted.
async fn health(ask: &Ask) -> Answer {
    ask.core.meta.project("library").await?;
    Ok(json_response(StatusCode::OK, &json!({ "status": "ok" })))
}

pub(crate) fn refuse_admin(caller: &Caller) -> ApiError {
    if caller.is_anonymous() {
        return crate::auth::unauthorized("authentication required (hint: log in as an administrator)");
    }
    ApiError::denied(format!("{} is no administrator", caller.name()))
}

pub(crate) fn only(ask: &Ask, methods: &[Method]) -> ApiResult<()> {
    if methods.contains(&ask.parts.method) { Ok(()) } else { Err(ApiError::method_not_allowed()) }
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

pub(crate) fn set(response: &mut Response<Body>, name: impl TryInto<header::HeaderName>, value: &str) {
    if let (Ok(name), Ok(value)) = (name.try_into(), HeaderValue::try_from(value)) {
        response.headers_mut().insert(name, value);
    }
}

fn failure(error: &ApiError, head_only: bool) -> Response<Body> {
    let mut response = json_response(error.status, &error.body());
    if head_only {
        *response.body_mut() = full(Bytes::new());
    }
    for (name, value) in &error.headers {
        response.headers_mut().insert(name.clone(), value.clone());
    }
    response
}

/// Read what is left of a body that is refused, within a bound: a client that is still sending would not see the
/// answer otherwise.
pub(crate) async fn drain(body: &mut Incoming) {
    const MOST: usize = 64 << 20;
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
    let reading = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > MOST {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, reading).await;
}

/// A body as a whole, within a bound of bytes and time.
pub(crate) async fn whole(
    ask: &Ask,
    mut body: Incoming,
    limit: usize,
    too_large: impl FnOnce(String) -> ApiError,
) -> ApiResult<Bytes> {
    let limits = &ask.core.options.limits;
    let mut all = Vec::new();
    loop {
        let (parts, failed) = crate::upload::read_batch(&mut body, 64 << 10, limits.stall, limits.slow).await;
        if let Some(error) = failed {
            return Err(error);
        }
        if parts.is_empty() {
            break;
        }
        for part in parts {
            if all.len() + part.len() > limit {
                let mut error = too_large(format!("the body may have at most {limit} bytes"));
                error.status = StatusCode::PAYLOAD_TOO_LARGE;
                drain(&mut body).await;
                return Err(error);
            }
            all.extend_from_slice(&part);
        }
    }
    ask.core.metrics.received.fetch_add(all.len() as u64, std::sync::atomic::Ordering::Relaxed);
    Ok(all.into())
}
