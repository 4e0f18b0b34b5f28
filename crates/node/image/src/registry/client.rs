//! Requests to one registry: authentication, redirects, retries, bounds.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use sampan_daemon::backoff::Backoff;

use super::challenge::{self, Challenge};
use super::connect::Connector;
use super::token;
use crate::auth::Auth;
use crate::error::{Error, RegistryFailure, Result};
use crate::options::{Limits, Registries};
use crate::reference::{DEFAULT_REGISTRY, Reference};

/// Where Docker Hub really answers.
const DOCKER_HOST: &str = "registry-1.docker.io";
const MAX_REDIRECTS: usize = 5;
/// Bytes of an error's or a token's body that are read.
const SMALL_BODY: u64 = 256 << 10;
/// A server may not make us wait longer than this before a retry.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// What a request carries.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A body that is here.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    whole_body(Full::new(bytes.into()))
}

/// One request, which may have to be sent again.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) body: &'a (dyn Fn() -> Body + Send + Sync),
    /// The body takes as long as it takes: whoever makes it watches.
    pub(crate) patient: bool,
    /// For messages.
    pub(crate) action: &'a str,
}

impl<'a> Call<'a> {
    fn get(headers: &HeaderMap, action: &'a str) -> Self {
        Self { method: Method::GET, headers: headers.clone(), body: &|| whole(""), patient: false, action }
    }
}

/// Why an attempt failed.
pub(crate) struct Refused {
    pub(crate) error: Error,
    /// The other side asked to wait that long.
    pub(crate) wait: Option<Duration>,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { error, wait: None }
    }
}

/// What all requests of one pull share.
pub(crate) struct Client {
    http: legacy::Client<Connector, Body>,
    user_agent: HeaderValue,
    limits: Limits,
}

impl Client {
    /// A client that trusts the system's authorities and those configured for this registry.
    pub(crate) fn new(options: &Registries, limits: &Limits, registry: &str) -> Result<Self> {
        let mut pem = String::new();
        if let Some(path) = options.ca_bundles.iter().find(|path| path.is_file()) {
            pem = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        }
        let mirrors = options.hosts.get(registry).map(|host| host.mirrors.as_slice()).unwrap_or_default();
        for host in mirrors.iter().map(String::as_str).chain([registry]) {
            if let Some(path) = options.hosts.get(host).and_then(|host| host.ca_file.as_ref()) {
                pem.push('\n');
                pem.push_str(&std::fs::read_to_string(path).map_err(Error::io("read", path))?);
            }
        }
        let tls = trust(&pem)
            .map_err(|error| failure(registry, "preparing TLS", error, RegistryFailure::Unavailable))?;
        let connector = Connector { tls, timeout: limits.stall };
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(10))
            .pool_max_idle_per_host(limits.parallel_downloads)
            .build(connector);
        let user_agent =
            HeaderValue::try_from(&options.user_agent).unwrap_or_else(|_| HeaderValue::from_static("sampan"));
        Ok(Self { http, user_agent, limits: limits.clone() })
    }
}

/// Trust these authorities; one that cannot be read (old ones in system bundles) is passed over.
fn trust(pem: &str) -> std::result::Result<Arc<rustls::ClientConfig>, rustls::Error> {
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    let certificates = rustls::pki_types::CertificateDer::pem_slice_iter(pem.as_bytes());
    roots.add_parsable_certificates(certificates.filter_map(std::result::Result::ok));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// One repository at one host, with what is known about how to get in.
pub(crate) struct Registry {
    client: Arc<Client>,
    host: String,
    insecure: bool,
    repository: String,
    auths: Vec<Auth>,
    authorization: Mutex<Option<HeaderValue>>,
}

impl Registry {
    /// The places that may serve this image, mirrors first.
    pub(crate) fn endpoints(
        client: &Arc<Client>,
        options: &Registries,
        reference: &Reference,
        credentials: &crate::auth::Credentials,
    ) -> Vec<Registry> {
        let name = reference.registry();
        let mirrors = options.hosts.get(name).map(|host| host.mirrors.clone()).unwrap_or_default();
        mirrors
            .iter()
            .map(String::as_str)
            .chain([name])
            .map(|host| Registry {
                client: client.clone(),
                host: if host == DEFAULT_REGISTRY { DOCKER_HOST.into() } else { host.to_owned() },
                insecure: options.hosts.get(host).is_some_and(|options| options.insecure),
                repository: reference.repository().to_owned(),
                auths: credentials.matching(host, reference.repository()),
                authorization: Mutex::default(),
            })
            .collect()
    }

    /// A place on the web that is no registry.
    pub(crate) fn site(client: &Arc<Client>, uri: &Uri) -> Registry {
        Registry {
            client: client.clone(),
            host: uri.authority().map(ToString::to_string).unwrap_or_default(),
            insecure: uri.scheme_str() == Some("http"),
            repository: String::new(),
            auths: Vec::new(),
            authorization: Mutex::default(),
        }
    }

    /// Open an address; only success comes back.
    pub(crate) async fn open(&self, uri: &Uri, action: &str) -> Result<Response<Incoming>> {
        let mut retry = Retry::new(&self.client.limits);
        loop {
            let refused = match self.follow(uri, None, &Call::get(&HeaderMap::new(), action)).await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => self.refused(response, action).await,
                Err(error) => error.into(),
            };
            retry.again(refused).await?;
        }
    }

    pub(crate) fn repository(&self) -> &str {
        &self.repository
    }

    /// The address of a path here.
    pub(crate) fn uri(&self, path: &str, action: &str) -> Result<Uri> {
        let scheme = if self.insecure { "http" } else { "https" };
        format!("{scheme}://{}{path}", self.host)
            .parse()
            .map_err(|error| self.fail(action, error, RegistryFailure::Protocol))
    }

    /// An address that the registry gave, if it may be spoken to.
    pub(crate) fn resolve(&self, base: &Uri, location: &str, action: &str) -> Result<Uri> {
        let bad = |reason: &str| self.fail(action, reason, RegistryFailure::Protocol);
        let next = resolve(base, location).ok_or_else(|| bad("a redirect to no address"))?;
        if next.scheme_str() != Some("https") && !self.insecure {
            return Err(bad("a redirect away from HTTPS (refused)"));
        }
        Ok(next)
    }

    /// Send once, with what it takes to get in. Any status comes back.
    pub(crate) async fn send_once(&self, uri: &Uri, call: &Call<'_>) -> Result<Response<Incoming>> {
        let known = self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let response = self.follow(uri, known, call).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return self.authenticate(response, uri, call).await;
        }
        Ok(response)
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn fail(&self, action: &str, reason: impl std::fmt::Display, class: RegistryFailure) -> Error {
        failure(&self.host, action, reason, class)
    }

    /// A manifest or index: media type and bytes.
    pub(crate) async fn manifest(&self, selector: &str, accept: &'static str) -> Result<(String, Bytes)> {
        let action = format!("manifest {}:{selector}", self.repository);
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        let uri = format!("/v2/{}/manifests/{selector}", self.repository);
        let limit = self.client.limits.metadata_bytes;
        let mut retry = Retry::new(&self.client.limits);
        loop {
            let response = self.get(&uri, &headers, &action).await?;
            let media_type = response
                .headers()
                .get(header::CONTENT_TYPE)
                .and_then(|value| value.to_str().ok())
                .and_then(|value| value.split(';').next())
                .unwrap_or_default()
                .trim()
                .to_owned();
            match self.body(response, limit, &action).await {
                Ok(bytes) => return Ok((media_type, bytes)),
                Err(error) => retry.wait(error, None).await?,
            }
        }
    }

    /// A small blob.
    pub(crate) async fn small_blob(&self, digest: &crate::Digest) -> Result<Bytes> {
        let action = format!("blob {digest} of {}", self.repository);
        let mut retry = Retry::new(&self.client.limits);
        loop {
            let response = self.blob(digest, 0).await?;
            match self.body(response, self.client.limits.metadata_bytes, &action).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => retry.wait(error, None).await?,
            }
        }
    }

    /// Open a blob at an offset; the answer may begin earlier (status 200 instead of 206).
    pub(crate) async fn blob(&self, digest: &crate::Digest, offset: u64) -> Result<Response<Incoming>> {
        let action = format!("blob {digest} of {}", self.repository);
        let mut headers = HeaderMap::new();
        if offset > 0
            && let Ok(range) = HeaderValue::try_from(format!("bytes={offset}-"))
        {
            headers.insert(header::RANGE, range);
        }
        self.get(&format!("/v2/{}/blobs/{digest}", self.repository), &headers, &action).await
    }

    /// Send with all retries; only success comes back.
    async fn get(&self, path: &str, headers: &HeaderMap, action: &str) -> Result<Response<Incoming>> {
        let mut retry = Retry::new(&self.client.limits);
        loop {
            let uri = self.uri(path, action)?;
            match self.succeed(&uri, &Call::get(headers, action)).await {
                Ok(response) => return Ok(response),
                Err(refused) => retry.again(refused).await?,
            }
        }
    }

    /// Send once, with what it takes to get in; only success comes back.
    pub(crate) async fn succeed(&self, uri: &Uri, call: &Call<'_>) -> Result<Response<Incoming>, Refused> {
        let response = self.send_once(uri, call).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refused(response, call.action).await)
    }

    /// What an answer without success means, and how long the other side asks to wait.
    pub(crate) async fn refused(&self, response: Response<Incoming>, action: &str) -> Refused {
        let wait = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        Refused { error: self.refusal(response, action).await, wait }
    }

    /// Answer a challenge with each of the credentials in turn, then with none.
    async fn authenticate(
        &self,
        mut response: Response<Incoming>,
        uri: &Uri,
        call: &Call<'_>,
    ) -> Result<Response<Incoming>> {
        let asked: Vec<Challenge> = response
            .headers()
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| challenge::parse(value.to_str().ok()?))
            .collect();
        let Some(challenge) = asked.into_iter().next() else { return Ok(response) };
        let mut candidates: Vec<Option<&Auth>> = self.auths.iter().map(Some).collect();
        if matches!(challenge, Challenge::Bearer { .. }) {
            candidates.push(None);
        }
        let mut refused = None;
        for auth in candidates {
            let value = match (&challenge, auth) {
                (_, Some(Auth::RegistryToken(token))) => token::bearer(token),
                (Challenge::Basic, auth) => auth.and_then(token::basic),
                (Challenge::Bearer { realm, service, scope }, auth) => {
                    let default = format!("repository:{}:pull", self.repository);
                    let scope = scope.as_deref().unwrap_or(&default);
                    match self.token(realm, service.as_deref(), scope, auth).await {
                        Ok(value) => Some(value),
                        Err(error)
                            if matches!(&error, Error::Registry { class: RegistryFailure::Denied, .. }) =>
                        {
                            refused = refused.or(Some(error));
                            None
                        }
                        Err(error) => return Err(error),
                    }
                }
            };
            let Some(value) = value else { continue };
            response = self.follow(uri, Some(value.clone()), call).await?;
            if !matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                *self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(value);
                return Ok(response);
            }
        }
        match refused {
            Some(error) if response.status() == StatusCode::UNAUTHORIZED => Err(error),
            _ => Ok(response),
        }
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        auth: Option<&Auth>,
    ) -> Result<HeaderValue> {
        let action = "asking for a token";
        let bad = |reason: String| self.fail(action, reason, RegistryFailure::Protocol);
        let mut request = token::request(realm, service, scope, auth).map_err(bad)?;
        if request.uri().scheme_str() != Some("https") && !self.insecure {
            let reason = format!("its token service {realm:?} is not HTTPS (refused)");
            return Err(self.fail(action, reason, RegistryFailure::Protocol));
        }
        request.headers_mut().insert(header::USER_AGENT, self.client.user_agent.clone());
        let response = self.send(request.map(whole_body), action, false).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response, action).await);
        }
        let body = self.body(response, SMALL_BODY, action).await?;
        token::header_of(&body).map_err(bad)
    }

    /// Send; redirects of what reads are followed. Credentials go only to the host they are for.
    async fn follow(
        &self,
        uri: &Uri,
        authorization: Option<HeaderValue>,
        call: &Call<'_>,
    ) -> Result<Response<Incoming>> {
        let action = call.action;
        let reads = matches!(call.method, Method::GET | Method::HEAD);
        let mut target = uri.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::new((call.body)());
            *request.method_mut() = call.method.clone();
            *request.uri_mut() = target.clone();
            *request.headers_mut() = call.headers.clone();
            request.headers_mut().insert(header::USER_AGENT, self.client.user_agent.clone());
            if let Some(value) = &authorization
                && target.authority() == uri.authority()
                && target.scheme() == uri.scheme()
            {
                request.headers_mut().insert(header::AUTHORIZATION, value.clone());
            }
            let response = self.send(request, action, call.patient).await?;
            if !response.status().is_redirection() || !reads {
                return Ok(response);
            }
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let location = location.ok_or_else(|| {
                self.fail(action, "a redirect without a location", RegistryFailure::Protocol)
            })?;
            target = self.resolve(&target, location, action)?;
        }
        Err(self.fail(action, format!("more than {MAX_REDIRECTS} redirects"), RegistryFailure::Protocol))
    }

    async fn send(&self, request: Request<Body>, action: &str, patient: bool) -> Result<Response<Incoming>> {
        let stall = self.client.limits.stall;
        let response = self.client.http.request(request);
        let response =
            async { if patient { Ok(response.await) } else { tokio::time::timeout(stall, response).await } };
        match response.await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let mut reason = root_cause(&error);
                if !self.insecure
                    && (reason.contains("corrupt message") || reason.contains("InvalidContentType"))
                {
                    reason.push_str(" (hint: if this registry speaks plain HTTP, configure it as insecure)");
                } else if reason.contains("certificate") || reason.contains("UnknownIssuer") {
                    reason.push_str(" (hint: configure the registry's ca_file)");
                }
                Err(self.fail(action, reason, RegistryFailure::Unavailable))
            }
            Err(_) => {
                Err(self.fail(action, format!("no answer within {stall:?}"), RegistryFailure::Unavailable))
            }
        }
    }

    /// A body as a whole, within a bound.
    async fn body(&self, response: Response<Incoming>, limit: u64, action: &str) -> Result<Bytes> {
        let mut body = response.into_body();
        let mut bytes = bytes::BytesMut::new();
        while let Some(chunk) = self.chunk(&mut body, action).await? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                let what = format!("{action} from {}", self.host);
                return Err(Error::Limit { what, limit, unit: "bytes" });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    /// The next bytes of a body; a stall is an error.
    pub(crate) async fn chunk(&self, body: &mut Incoming, action: &str) -> Result<Option<Bytes>> {
        let stall = self.client.limits.stall;
        loop {
            let frame = tokio::time::timeout(stall, body.frame()).await.map_err(|_| {
                self.fail(action, format!("no byte for {stall:?}"), RegistryFailure::Unavailable)
            })?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    return Err(self.fail(action, root_cause(&error), RegistryFailure::Unavailable));
                }
            }
        }
    }

    /// An error out of a response that is no success.
    pub(crate) async fn refusal(&self, response: Response<Incoming>, action: &str) -> Error {
        let status = response.status();
        let class = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryFailure::Denied,
            StatusCode::NOT_FOUND => RegistryFailure::NotFound,
            StatusCode::TOO_MANY_REQUESTS => RegistryFailure::RateLimited,
            status if status.is_server_error() => RegistryFailure::Unavailable,
            _ => RegistryFailure::Protocol,
        };
        let detail = match self.body(response, SMALL_BODY, action).await {
            Ok(body) => detail(&body),
            Err(_) => String::new(),
        };
        let hint = match class {
            RegistryFailure::Denied if self.auths.is_empty() => {
                " (hint: no credentials were given for this registry)"
            }
            RegistryFailure::Denied => " (hint: the credentials were refused)",
            RegistryFailure::NotFound => " (hint: check repository and tag)",
            _ => "",
        };
        self.fail(action, format!("{status}{detail}{hint}"), class)
    }
}

/// Attempts at one request, with back-off between them.
pub(crate) struct Retry {
    left: u32,
    attempts: u32,
    backoff: Backoff,
}

impl Retry {
    pub(crate) fn new(limits: &Limits) -> Self {
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        Self { left: limits.attempts, attempts: limits.attempts, backoff }
    }

    /// Progress was made: count from the beginning.
    pub(crate) fn reset(&mut self) {
        self.left = self.attempts;
        self.backoff.reset();
    }

    /// As [`Retry::wait`].
    pub(crate) async fn again(&mut self, refused: Refused) -> Result<()> {
        self.wait(refused.error, refused.wait).await
    }

    /// Wait before the next attempt, or give the error back when there is none or it would be useless.
    pub(crate) async fn wait(&mut self, error: Error, asked: Option<Duration>) -> Result<()> {
        let temporary = matches!(
            &error,
            Error::Registry { class: RegistryFailure::Unavailable | RegistryFailure::RateLimited, .. }
        );
        self.left = self.left.saturating_sub(1);
        if !temporary || self.left == 0 {
            return Err(error);
        }
        let delay = asked.map_or_else(|| self.backoff.next_delay(), |asked| asked.min(MAX_WAIT));
        tracing::debug!(%error, ?delay, "a registry request is tried again");
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

fn whole_body(body: Full<Bytes>) -> Body {
    body.map_err(|never| match never {}).boxed_unsync()
}

fn failure(host: &str, action: &str, reason: impl std::fmt::Display, class: RegistryFailure) -> Error {
    Error::Registry {
        registry: host.to_owned(),
        action: action.to_owned(),
        reason: reason.to_string(),
        class,
    }
}

/// The innermost reason, which is the one that helps.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The message of a registry's JSON error.
fn detail(body: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let first = &value["errors"][0];
    let text = first["message"].as_str().or_else(|| value["details"].as_str()).unwrap_or_default();
    if text.is_empty() { String::new() } else { format!(": {}", text.chars().take(300).collect::<String>()) }
}

/// A redirect's target, which may be relative.
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.parse().ok();
    }
    let authority = base.authority()?;
    let scheme = base.scheme_str()?;
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{scheme}://{rest}").parse().ok();
    }
    if location.starts_with('/') {
        return format!("{scheme}://{authority}{location}").parse().ok();
    }
    let dir = base.path().rsplit_once('/').map_or("", |(dir, _)| dir);
    format!("{scheme}://{authority}{dir}/{location}").parse().ok()
}
