//! From a request to its response: bounds, identity, permission, then the verb.

use std::{borrow::Cow, sync::Arc, time::Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;
use sampan_api::status::Status;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    aggregate::{self, Extension, Passed},
    audit::{Arrival, Audit, Trail},
    authn,
    authz::Attributes,
    body::{Body, RequestBody},
    call::{Call, Notes},
    core::Core,
    discovery,
    endpoint::Endpoint,
    fairness::BUSY,
    fixed, gate, impersonate,
    negotiate::{self, Accepted},
    request::{self, Query, Route, Target},
    respond, reviews, subresource,
    usage::{self, Ask},
    user::UserInfo,
    verbs,
};

/// How many times the body's limit is read and thrown away before the connection of a body that is too large is closed.
const DISCARDED: usize = 8;

/// Who is at the other end, as far as the connection tells.
#[derive(Clone)]
pub(crate) enum Peer {
    /// Over the network, with a verified client certificate or without.
    Network(Option<Arc<authn::Certificate>>),
    /// In this process, as this user.
    Local(Arc<UserInfo>),
}

/// The address of the client, among a request's extensions.
#[derive(Clone, Copy)]
pub(crate) struct Source(pub(crate) std::net::IpAddr);

/// A request taken apart.
struct Incoming {
    method: Method,
    path: String,
    raw_query: String,
    /// Path and query as they came.
    target: String,
    query: Query,
    headers: HeaderMap,
    /// None when nothing that is there is accepted.
    accepted: Option<Accepted>,
    upgrade: Option<hyper::upgrade::OnUpgrade>,
    /// Where the request comes from.
    source: Option<std::net::IpAddr>,
    /// Path and query, when it is recorded.
    uri: String,
    /// The record that is kept of it.
    trail: Option<Arc<Trail>>,
}

impl Core {
    /// Serves one request; a refusal is a response like any other.
    pub(crate) async fn serve(
        self: Arc<Self>,
        mut request: Request<RequestBody>,
        peer: Peer,
    ) -> Response<Body> {
        let started = Instant::now();
        let upgrade =
            request.headers().contains_key(http::header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let length = parts.uri.path_and_query().map_or(0, |both| both.as_str().len());
        let (route, query) = (Route::parse(parts.uri.path()), Query::parse(parts.uri.query()));
        let endpoint = self.endpoint_of(&route);
        let asked = endpoint.as_ref().map_or_else(|| usage::asked(&route), |endpoint| endpoint.asked());
        let accepted = Accepted::read(&parts.headers, &query, asked);
        let (packed, negotiated) = (respond::takes_gzip(&parts.headers), route.is_negotiated());
        let incoming = Incoming {
            target: parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            query,
            path: parts.uri.path().to_owned(),
            raw_query: parts.uri.query().unwrap_or_default().to_owned(),
            method: parts.method,
            headers: parts.headers,
            accepted,
            upgrade,
            source: parts.extensions.get::<Source>().map(|source| source.0),
            uri: self.audit.as_ref().map(|_| parts.uri.to_string()).unwrap_or_default(),
            trail: None,
        };
        let (verb, resource) = label(&incoming, &route, endpoint.as_deref());
        let result = if length > self.options.limits.uri {
            Err(Status::new(414, "RequestURITooLong", "the request's path and query are too long"))
        } else {
            self.route(incoming, route, body, &peer).await
        };
        let mut response = result.unwrap_or_else(|status| respond::status(&status));
        if negotiated || response.status().is_client_error() {
            negotiate::finish(accepted.unwrap_or_default(), &mut response);
        }
        if packed && matches!(peer, Peer::Network(_)) {
            respond::compress(&mut response);
        }
        // Nothing is measured of a watch but its beginning.
        self.metrics.record(verb, resource, response.status().as_u16(), started.elapsed());
        response
    }

    async fn route(
        self: &Arc<Self>,
        mut incoming: Incoming,
        route: Route,
        body: RequestBody,
        peer: &Peer,
    ) -> Result<Response<Body>, Status> {
        // Whoever asks for health is answered, also before there are roles.
        if let Route::Health(which) = route {
            return Ok(fixed::health(self, which, &incoming.query).await);
        }
        let user = match peer {
            Peer::Local(user) => UserInfo::clone(user),
            Peer::Network(certificate) => {
                match self.authenticate(certificate.as_deref(), &mut incoming.headers, &incoming.path).await {
                    Ok(user) => user,
                    Err(status) => return Err(self.unknown(&incoming, &route, status)),
                }
            }
        };
        if let Some(audit) = &self.audit {
            incoming.trail = trail(audit, &incoming, &route, &user);
        }
        let trail = incoming.trail.clone();
        let result = match impersonate::wanted(self, &user, &incoming.headers) {
            Ok(None) => Ok(self.fairly(incoming, route, body, user).await),
            Ok(Some(other)) => {
                trail.iter().for_each(|trail| trail.impersonates(&other));
                Ok(self.fairly(incoming, route, body, other).await)
            }
            Err(status) => Err(status),
        };
        let Some(trail) = trail else { return result };
        let response = result.unwrap_or_else(|status| respond::status(&status));
        Ok(recorded(trail, response))
    }

    /// Records that nobody knows who asks.
    fn unknown(&self, incoming: &Incoming, route: &Route, status: Status) -> Status {
        let trail = self.audit.as_ref().and_then(|audit| trail(audit, incoming, route, &UserInfo::default()));
        if let Some(trail) = trail {
            trail.response(status.code, Some(&status.to_bytes().into()), false);
        }
        status
    }

    /// Carries a request out when its turn comes, and says in the answer where it belonged.
    async fn fairly(
        self: &Arc<Self>,
        incoming: Incoming,
        route: Route,
        body: RequestBody,
        user: UserInfo,
    ) -> Response<Body> {
        let verb = gate::verb(&incoming.method, &route, &incoming.query);
        let attributes = gate::attributes(&verb, &incoming.path, &route);
        let (place, width) = self.place(&user, &attributes, &incoming.query);
        let seat = match width {
            Some(width) => place.enter(&user, attributes.namespace(), width).await,
            None => Ok(None),
        };
        if let Some(trail) = &incoming.trail {
            let verdict = self.decide(&user, &attributes);
            let decision = if verdict.allowed { "allow" } else { "forbid" };
            trail.annotate("authorization.k8s.io/decision", decision);
            trail.annotate("authorization.k8s.io/reason", &verdict.reason);
        }
        let elsewhere = match &route {
            Route::Object(target) => self.aggregated.get(&target.group, &target.version),
            Route::Resources(group, version) => self.aggregated.get(group, version),
            _ => None,
        };
        let result = match (seat, elsewhere, route) {
            (Err(busy), ..) => {
                self.metrics.refuse();
                Err(busy)
            }
            // The seat is kept until the answer is there.
            (Ok(_seat), Some(extension), route) => {
                self.pass_on(incoming, &route, body, &user, &extension).await
            }
            (Ok(_seat), None, Route::Object(target)) if self.measures(&target) => {
                let Incoming { method, query, accepted, .. } = &incoming;
                let (accepted, target, user) = (*accepted, &target, &user);
                self.usage_of(&Ask { method, query, accepted, target, user }).await
            }
            (Ok(_seat), None, Route::Object(target)) => self.object(incoming, target, body, user).await,
            (Ok(_seat), None, route) => self.path(&incoming, &route, &user),
        };
        let mut response = result.unwrap_or_else(|status| respond::status(&status));
        place.mark(response.headers_mut());
        response
    }

    /// Passes a request on to the server that has its group and version.
    async fn pass_on(
        self: &Arc<Self>,
        incoming: Incoming,
        route: &Route,
        body: RequestBody,
        user: &UserInfo,
        extension: &Extension,
    ) -> Result<Response<Body>, Status> {
        let permit = match route {
            Route::Object(target) => {
                let Some(verb) = request::verb(&incoming.method, target, &incoming.query) else {
                    return Err(Status::method_not_allowed());
                };
                self.permit(user, verb, target, &incoming.query).await?;
                self.admit(verb, target)?
            }
            _ => {
                let verb = incoming.method.as_str().to_ascii_lowercase();
                self.authorize(user, &Attributes::Path { verb: &verb, path: &incoming.path })?;
                None
            }
        };
        let Incoming { method, target, headers, upgrade, .. } = incoming;
        let passed = Passed { method, target, headers, body, upgrade, permit };
        Ok(aggregate::pass(self, extension, user, passed).await)
    }

    fn path(&self, incoming: &Incoming, route: &Route, user: &UserInfo) -> Result<Response<Body>, Status> {
        let verb = incoming.method.as_str().to_ascii_lowercase();
        self.authorize(user, &Attributes::Path { verb: &verb, path: &incoming.path })?;
        if *route == Route::Unknown {
            return Err(Status::no_such_resource());
        }
        if incoming.method != Method::GET && incoming.method != Method::HEAD {
            return Err(Status::method_not_allowed());
        }
        let headers = &incoming.headers;
        match route {
            Route::Version => Ok(fixed::version()),
            Route::Root => Ok(fixed::root(self)),
            Route::Metrics => Ok(fixed::metrics(self)),
            Route::Versions => discovery::versions(self, headers, &self.server_address()),
            Route::Groups => discovery::groups(self, headers),
            Route::Group(group) => discovery::group(self, headers, group),
            Route::Resources(group, version) => discovery::resources(self, headers, group, version),
            Route::OpenApiV2 => Ok(fixed::openapi_v2(self, headers)),
            Route::OpenApiV3 => Ok(fixed::openapi_v3_index(self, headers)),
            Route::OpenApiV3Group(..) => {
                let path = incoming.path.trim_start_matches("/openapi/v3/");
                fixed::openapi_v3(self, headers, &incoming.query, path)
            }
            Route::OidcConfig => Ok(fixed::oidc(self)),
            Route::Jwks => Ok(fixed::jwks(self)),
            Route::Health(_) | Route::Object(_) | Route::Unknown => Err(Status::no_such_resource()),
        }
    }

    fn server_address(&self) -> String {
        self.options.advertise.map(|address| address.to_string()).unwrap_or_default()
    }

    async fn object(
        self: &Arc<Self>,
        incoming: Incoming,
        target: Target,
        body: RequestBody,
        user: UserInfo,
    ) -> Result<Response<Body>, Status> {
        let Some(verb) = request::verb(&incoming.method, &target, &incoming.query) else {
            return Err(Status::method_not_allowed());
        };
        self.permit(&user, verb, &target, &incoming.query).await?;
        let endpoint = self.endpoint(&target.group, &target.version, &target.resource)?;
        if !endpoint.resource.namespaced && target.namespace.is_some() {
            return Err(Status::no_such_resource());
        }
        if let Some(origin) = &endpoint.origin {
            origin.admits(verb, endpoint.resource).await?;
        }
        let needs_namespace = target.name.is_some() || verb == "create";
        if endpoint.resource.namespaced && target.namespace.is_none() && needs_namespace {
            // Only lists and watches go across namespaces.
            return Err(if verb == "create" {
                Status::bad_request("an empty namespace may not be set during creation")
            } else {
                Status::no_such_resource()
            });
        }
        let asked = endpoint.asked();
        // What a backend answers is between it and the client.
        let proxied = target.subresource.as_deref() == Some("proxy");
        let accepted = incoming.accepted.or_else(|| proxied.then(Accepted::default));
        let accepted = accepted.ok_or_else(|| negotiate::refusal(asked))?;
        let permit = self.admit(verb, &target)?;
        let mut call = Call {
            path: incoming.path,
            raw_query: incoming.raw_query,
            user,
            method: incoming.method,
            verb,
            target,
            endpoint,
            query: incoming.query,
            headers: incoming.headers,
            accepted,
            body: Bytes::new(),
            permit,
            upgrade: incoming.upgrade,
            notes: Notes::default(),
        };
        if let Some(warning) = call.endpoint.custom.as_ref().and_then(|kind| kind.deprecation()) {
            call.notes.warn(warning);
        }
        if !matches!(verb, "get" | "list" | "watch") && call.upgrade.is_none() {
            call.body = self.read(body).await?;
        }
        if let Some(trail) = &incoming.trail {
            trail.request(&call.body);
        }
        let result = self.carry_out(&mut call).await;
        if call.target.group == "rbac.authorization.k8s.io" && !matches!(verb, "get" | "list" | "watch") {
            self.authz.settle().await;
        }
        if let Some(trail) = &incoming.trail {
            call.notes.annotations().iter().for_each(|(key, value)| trail.annotate(key, value));
        }
        let warnings = call.notes.warnings();
        if warnings.is_empty() {
            return result;
        }
        // A refusal carries them as well.
        let mut response = result.unwrap_or_else(|status| respond::status(&status));
        respond::warn(&mut response, &warnings);
        Ok(response)
    }

    /// A place among the watches and streams under way for one of these, or 429.
    fn admit(&self, verb: &str, target: &Target) -> Result<Option<OwnedSemaphorePermit>, Status> {
        if verb != "watch" && !gate::is_stream(target) {
            return Ok(None);
        }
        self.long_running.clone().try_acquire_owned().map(Some).map_err(|_| {
            self.metrics.refuse();
            Status::too_many_requests(BUSY, 1)
        })
    }

    /// The whole body, within its bounds of size and time.
    async fn read(&self, body: RequestBody) -> Result<Bytes, Status> {
        let limits = &self.options.limits;
        match tokio::time::timeout(limits.body_read, gather(body, limits.body)).await {
            Err(_) => Err(Status::new(408, "Timeout", "the request's body did not arrive in time")),
            Ok(read) => read,
        }
    }

    /// Boxed: the verbs' futures are large, and most requests need one of them only. What is asked for most often
    /// has a small one of its own.
    fn carry_out<'a>(
        self: &'a Arc<Self>,
        call: &'a mut Call,
    ) -> BoxFuture<'a, Result<Response<Body>, Status>> {
        let resource = call.endpoint.resource;
        if call.verb == "get"
            && call.target.subresource.is_none()
            && !resource.is_virtual()
            && resource.allows("get")
        {
            return Box::pin(verbs::read::get(self, call));
        }
        Box::pin(self.dispatch(call))
    }

    async fn dispatch(self: &Arc<Self>, call: &mut Call) -> Result<Response<Body>, Status> {
        let resource = call.endpoint.resource;
        if call.target.subresource.is_some() {
            return subresource::run(self, call).await;
        }
        if !resource.allows(call.verb) {
            return Err(Status::method_not_supported(resource, call.verb));
        }
        if resource.is_virtual() {
            return match (resource.group, resource.plural) {
                ("", "bindings") => subresource::binding::bind_named(self, call).await,
                _ => reviews::answer(self, call).await,
            };
        }
        match call.verb {
            "get" => verbs::read::get(self, call).await,
            "list" => verbs::list::list(self, call).await,
            "watch" => verbs::watch::watch(self, call).await,
            "create" if call.target.name.is_none() => verbs::create::create(self, call).await,
            "update" if call.target.name.is_some() => verbs::update::update(self, call).await,
            "patch" if call.target.name.is_some() => verbs::patch::run(self, call).await,
            "delete" => verbs::delete::delete(self, call).await,
            // Nobody deletes across namespaces.
            "deletecollection" if resource.namespaced && call.target.namespace.is_none() => {
                Err(Status::method_not_allowed())
            }
            "deletecollection" => verbs::delete::delete_collection(self, call).await,
            _ => Err(Status::method_not_allowed()),
        }
    }
}

/// Begins the record of a request, if there is to be one.
fn trail(audit: &Arc<Audit>, incoming: &Incoming, route: &Route, user: &UserInfo) -> Option<Arc<Trail>> {
    let verb = gate::verb(&incoming.method, route, &incoming.query);
    let attributes = gate::attributes(&verb, &incoming.path, route);
    let arrival = Arrival { uri: incoming.uri.clone(), headers: &incoming.headers, source: incoming.source };
    Trail::begin(audit, user, &attributes, &arrival)
}

/// Records an answer; of one that goes on, its end when that comes.
fn recorded(trail: Arc<Trail>, mut response: Response<Body>) -> Response<Body> {
    let streams = response.body().is_stream();
    trail.response(response.status().as_u16(), response.body().bytes(), streams);
    trail.mark(response.headers_mut());
    if streams { response.map(|body| body.holding(trail)) } else { response }
}

/// Reads a body to its end; more than `limit` bytes are 413.
async fn gather(mut body: RequestBody, limit: usize) -> Result<Bytes, Status> {
    let mut first = Bytes::new();
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| Status::bad_request(format!("the request's body could not be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > limit {
            discard(body, DISCARDED * limit).await;
            return Err(Status::too_large(limit));
        }
        // Most bodies come in one piece, which is then not copied.
        if first.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&data);
        }
    }
    if rest.is_empty() {
        return Ok(first);
    }
    rest.splice(0..0, first);
    Ok(rest.into())
}

/// Read on without keeping anything, up to `most` bytes: closing a connection on bytes that nobody has read resets it,
/// and takes the answer along before the client has seen it (RFC 9112, section 9.6).
async fn discard(mut body: RequestBody, most: usize) {
    let mut seen = 0;
    while seen < most
        && let Some(Ok(frame)) = body.frame().await
    {
        seen += frame.data_ref().map_or(0, Bytes::len);
    }
}

impl Core {
    /// The resource that a path is about.
    fn endpoint_of(&self, route: &Route) -> Option<Arc<Endpoint>> {
        let Route::Object(target) = route else { return None };
        self.endpoints.get(&target.group, &target.version, &target.resource)
    }
}

/// How a request is counted: bounded, whatever a client sends.
fn label(
    incoming: &Incoming,
    route: &Route,
    endpoint: Option<&Endpoint>,
) -> (&'static str, Cow<'static, str>) {
    let Route::Object(target) = route else {
        let unknown = *route == Route::Unknown;
        return if unknown { ("other", "unknown".into()) } else { ("path", "fixed".into()) };
    };
    let verb = request::verb(&incoming.method, target, &incoming.query).unwrap_or("other");
    let Some(resource) = endpoint.map(|endpoint| endpoint.resource) else { return (verb, "unknown".into()) };
    let sub = target.subresource.as_deref().and_then(|name| resource.subresource(name));
    match sub {
        Some(sub) => (verb, format!("{}/{}", resource.plural, sub.name).into()),
        None => (verb, resource.plural.into()),
    }
}
