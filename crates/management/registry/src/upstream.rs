//! Another registry, as a client: for proxied projects and for replication.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use serde::Deserialize;

use crate::{
    connect::{HttpClient, RequestBody, box_body, cause},
    digest::Digest,
    http::Query,
    manifest::ACCEPT,
    objects::ByteStream,
};

/// The head of an answer must be there by then.
const PATIENCE: Duration = Duration::from_secs(30);
const REDIRECTS: usize = 5;
/// Bytes of a manifest, and of other small answers.
const MANIFEST: usize = 4 << 20;
const SMALL: usize = 8 << 20;
/// Pages of a listing.
const PAGES: usize = 1000;
/// Names of a listing.
const NAMES: usize = 1_000_000;

/// Why another registry did not do what was asked.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It does not have it.
    NotFound,
    /// It does not let us.
    Denied(String),
    /// It does not answer, or not sensibly.
    Failed(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFound => f.write_str("the other registry does not have it"),
            Self::Denied(why) => {
                write!(f, "the other registry denies it: {why} (hint: check the credentials)")
            }
            Self::Failed(why) => write!(f, "the other registry fails: {why}"),
        }
    }
}

type Outcome<T> = Result<T, Refusal>;

/// See the module.
pub(crate) struct Upstream {
    client: HttpClient,
    /// `https://host:port`.
    origin: String,
    /// Put before names, with a slash at the end, or empty.
    prefix: String,
    credentials: Option<HeaderValue>,
    password: Option<(String, String)>,
    tokens: Mutex<HashMap<String, HeaderValue>>,
}

/// A manifest as it was fetched.
pub(crate) struct Found {
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
}

impl Upstream {
    /// `url`: `https://host[:port][/prefix]`; without a scheme it is HTTPS.
    pub(crate) fn new(client: HttpClient, url: &str, username: &str, password: &str) -> Outcome<Self> {
        let whole = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
        let bad = || {
            Refusal::Failed(format!(
                "{url:?} is no address of a registry (hint: https://host[:port][/prefix])"
            ))
        };
        let uri: Uri = whole.parse().map_err(|_| bad())?;
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.authority()) else { return Err(bad()) };
        if !matches!(scheme, "http" | "https") {
            return Err(bad());
        }
        // What people call docker.io answers elsewhere.
        let host = if host.as_str() == "docker.io" { "registry-1.docker.io" } else { host.as_str() };
        let prefix = uri.path().trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let (mut credentials, mut pair) = (None, None);
        if !username.is_empty() {
            let value = format!("Basic {}", STANDARD.encode(format!("{username}:{password}")));
            credentials = HeaderValue::try_from(value).ok();
            pair = Some((username.to_owned(), password.to_owned()));
        }
        let origin = format!("{scheme}://{host}");
        Ok(Self { client, origin, prefix, credentials, password: pair, tokens: Mutex::default() })
    }

    fn name(&self, repository: &str) -> String {
        let hub = self.origin.ends_with("//registry-1.docker.io") && self.prefix.is_empty();
        let library = if hub && !repository.contains('/') { "library/" } else { "" };
        format!("{}{library}{repository}", self.prefix)
    }

    /// One request with authentication and, for reading, redirects. Any status but 401, 403, 404 and 5xx comes back.
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        (scope, body): (&str, Option<RequestBody>),
    ) -> Outcome<Response<Incoming>> {
        let uri = if path.contains("://") { path.to_owned() } else { format!("{}{path}", self.origin) };
        let own = uri.starts_with(&format!("{}/", self.origin));
        let known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(scope).cloned();
        let once = body.is_some();
        let (mut response, led_away) =
            self.follow(&method, &uri, &headers, known.filter(|_| own), body).await?;
        // Somebody else's challenge is not answered with our password.
        if response.status() == StatusCode::UNAUTHORIZED && !once && own && !led_away {
            let authorization = self.authorize(&response, scope).await?;
            self.tokens
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(scope.to_owned(), authorization.clone());
            response = self.follow(&method, &uri, &headers, Some(authorization), None).await?.0;
        }
        match response.status() {
            StatusCode::NOT_FOUND => Err(Refusal::NotFound),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Refusal::Denied(reason(response).await)),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(Refusal::Failed(reason(response).await))
            }
            _ => Ok(response),
        }
    }

    /// The answer, and whether it is that of another host than the one that was asked.
    async fn follow(
        &self,
        method: &Method,
        uri: &str,
        headers: &HeaderMap,
        authorization: Option<HeaderValue>,
        body: Option<RequestBody>,
    ) -> Outcome<(Response<Incoming>, bool)> {
        let failed = |error: &dyn std::fmt::Display| Refusal::Failed(error.to_string());
        let mut target: Uri = uri.parse().map_err(|error| failed(&error))?;
        let first = target.authority().cloned();
        let mut body = body;
        for _ in 0..=REDIRECTS {
            let mut request = Request::new(body.take().unwrap_or_else(|| box_body(Full::new(Bytes::new()))));
            *request.method_mut() = method.clone();
            *request.uri_mut() = target.clone();
            *request.headers_mut() = headers.clone();
            let agent = HeaderValue::from_static(concat!("sampan-registry/", env!("CARGO_PKG_VERSION")));
            request.headers_mut().insert(header::USER_AGENT, agent);
            // Credentials are only for whom they are for.
            if let Some(value) = authorization.as_ref().filter(|_| target.authority() == first.as_ref()) {
                request.headers_mut().insert(header::AUTHORIZATION, value.clone());
            }
            let asked = tokio::time::timeout(PATIENCE, self.client.request(request)).await;
            let response =
                asked.map_err(|_| failed(&"no answer in time"))?.map_err(|error| failed(&cause(&error)))?;
            let reading = matches!(*method, Method::GET | Method::HEAD);
            if !response.status().is_redirection() || !reading {
                return Ok((response, target.authority() != first.as_ref()));
            }
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let location = location.ok_or_else(|| failed(&"a redirect to nowhere"))?;
            let next = absolute(&target, location);
            if self.origin.starts_with("https:") && !next.starts_with("https:") {
                return Err(failed(&"a redirect away from HTTPS (refused)"));
            }
            target = next.parse().map_err(|error| failed(&error))?;
        }
        Err(failed(&"too many redirects"))
    }

    /// What a challenge asks for.
    async fn authorize(&self, response: &Response<Incoming>, scope: &str) -> Outcome<HeaderValue> {
        let denied = |why: &str| Refusal::Denied(why.to_owned());
        let challenge =
            response.headers().get(header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        let challenge = challenge.ok_or_else(|| denied("without saying how to log in"))?;
        let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return self.credentials.clone().ok_or_else(|| denied("it wants a user and a password"));
        }
        let parameter = |name: &str| {
            let rest = parameters.split(&format!("{name}=\"")).nth(1)?;
            rest.split('"').next().map(str::to_owned)
        };
        let realm = parameter("realm").ok_or_else(|| denied("its challenge cannot be understood"))?;
        if self.origin.starts_with("https:") && !realm.starts_with("https:") {
            return Err(denied("its token service is not HTTPS"));
        }
        let encode =
            |text: &str| {
                text.bytes()
                    .map(|b| {
                        if b.is_ascii_alphanumeric() {
                            char::from(b).to_string()
                        } else {
                            format!("%{b:02X}")
                        }
                    })
                    .collect::<String>()
            };
        let mut uri =
            format!("{realm}{}scope={}", if realm.contains('?') { "&" } else { "?" }, encode(scope));
        if let Some(service) = parameter("service") {
            uri.push_str(&format!("&service={}", encode(&service)));
        }
        if let Some((user, _)) = &self.password {
            uri.push_str(&format!("&account={}", encode(user)));
        }
        let (answer, _) =
            self.follow(&Method::GET, &uri, &HeaderMap::new(), self.credentials.clone(), None).await?;
        if !answer.status().is_success() {
            return Err(Refusal::Denied(reason(answer).await));
        }
        #[derive(Deserialize)]
        struct Token {
            #[serde(default)]
            token: String,
            #[serde(default)]
            access_token: String,
        }
        let bytes = whole(answer, SMALL).await?;
        let token: Token =
            serde_json::from_slice(&bytes).map_err(|_| denied("its token cannot be understood"))?;
        let token = if token.token.is_empty() { token.access_token } else { token.token };
        HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| denied("its token cannot be understood"))
    }

    fn pull_scope(&self, repository: &str) -> String {
        format!("repository:{}:pull", self.name(repository))
    }

    fn push_scope(&self, repository: &str) -> String {
        format!("repository:{}:pull,push", self.name(repository))
    }

    /// The digest that a tag points to there.
    pub(crate) async fn head(&self, repository: &str, reference: &str) -> Outcome<Option<Digest>> {
        let path = format!("/v2/{}/manifests/{reference}", self.name(repository));
        let scope = self.pull_scope(repository);
        let response = self.send(Method::HEAD, &path, accept(), (&scope, None)).await?;
        if !response.status().is_success() {
            return Err(Refusal::Failed(format!("status {}", response.status())));
        }
        let digest = response
            .headers()
            .get("docker-content-digest")
            .and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(digest)
    }

    pub(crate) async fn manifest(&self, repository: &str, reference: &str) -> Outcome<Found> {
        let path = format!("/v2/{}/manifests/{reference}", self.name(repository));
        let scope = self.pull_scope(repository);
        let response = self.send(Method::GET, &path, accept(), (&scope, None)).await?;
        let response = success(response).await?;
        let media_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or_default().to_owned();
        let bytes = whole(response, MANIFEST).await?;
        let asked: Option<Digest> = reference.parse().ok();
        let algorithm = asked.as_ref().map_or_else(Default::default, Digest::algorithm);
        let digest = Digest::with(algorithm, &bytes);
        if asked.is_some_and(|asked| asked != digest) {
            return Err(Refusal::Failed(format!("its manifest {reference} has the digest {digest}")));
        }
        Ok(Found { media_type, bytes })
    }

    /// Size, and bytes that are not verified yet.
    pub(crate) async fn blob(&self, repository: &str, digest: &Digest) -> Outcome<(Option<u64>, ByteStream)> {
        let path = format!("/v2/{}/blobs/{digest}", self.name(repository));
        let scope = self.pull_scope(repository);
        let response =
            success(self.send(Method::GET, &path, HeaderMap::new(), (&scope, None)).await?).await?;
        let size = content_length(&response);
        let stream = response.into_body().into_data_stream().map_err(std::io::Error::other);
        Ok((size, stream.boxed()))
    }

    pub(crate) async fn blob_size(&self, repository: &str, digest: &Digest) -> Outcome<Option<u64>> {
        let path = format!("/v2/{}/blobs/{digest}", self.name(repository));
        let scope = self.pull_scope(repository);
        let response =
            success(self.send(Method::HEAD, &path, HeaderMap::new(), (&scope, None)).await?).await?;
        Ok(content_length(&response))
    }

    pub(crate) async fn push_blob(
        &self,
        repository: &str,
        digest: &Digest,
        size: u64,
        stream: ByteStream,
    ) -> Outcome<()> {
        let scope = self.push_scope(repository);
        let path = format!("/v2/{}/blobs/uploads/", self.name(repository));
        let begun = success(self.send(Method::POST, &path, HeaderMap::new(), (&scope, None)).await?).await?;
        let location = begun.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| Refusal::Failed("an upload without a location".into()))?;
        let base: Uri =
            format!("{}{path}", self.origin).parse().map_err(|_| Refusal::Failed("address".into()))?;
        let location = absolute(&base, location);
        let separator = if location.contains('?') { '&' } else { '?' };
        let target = format!("{location}{separator}digest={}", digest.to_string().replace(':', "%3A"));
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let body = box_body(StreamBody::new(stream.map_ok(Frame::data)));
        success(self.send(Method::PUT, &target, headers, (&scope, Some(body))).await?).await?;
        Ok(())
    }

    pub(crate) async fn push_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Outcome<()> {
        let scope = self.push_scope(repository);
        // Log in first: a body can be sent once only.
        let base = format!("/v2/{}/blobs/uploads/", self.name(repository));
        if !self.tokens.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&scope) {
            let begun = self.send(Method::POST, &base, HeaderMap::new(), (&scope, None)).await?;
            if let Some(location) =
                begun.headers().get(header::LOCATION).and_then(|value| value.to_str().ok())
            {
                let uri: Option<Uri> = format!("{}{base}", self.origin).parse().ok();
                if let Some(uri) = uri {
                    let location = absolute(&uri, location);
                    // Nobody needs it; the other side drops it at some time otherwise.
                    let _ = self.send(Method::DELETE, &location, HeaderMap::new(), (&scope, None)).await;
                }
            }
        }
        let path = format!("/v2/{}/manifests/{reference}", self.name(repository));
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::try_from(media_type) {
            headers.insert(header::CONTENT_TYPE, value);
        }
        let body = box_body(Full::new(bytes));
        success(self.send(Method::PUT, &path, headers, (&scope, Some(body))).await?).await?;
        Ok(())
    }

    pub(crate) async fn delete_manifest(&self, repository: &str, reference: &str) -> Outcome<()> {
        let path = format!("/v2/{}/manifests/{reference}", self.name(repository));
        let scope = format!("repository:{}:pull,push,delete", self.name(repository));
        success(self.send(Method::DELETE, &path, HeaderMap::new(), (&scope, None)).await?).await?;
        Ok(())
    }

    /// What refers to a manifest there, by the API or by the tag that stands for it.
    pub(crate) async fn referrers(&self, repository: &str, digest: &Digest) -> Outcome<Vec<Digest>> {
        let path = format!("/v2/{}/referrers/{digest}", self.name(repository));
        let (mut all, mut next) = (Vec::new(), Some(path));
        let scope = self.pull_scope(repository);
        for _ in 0..PAGES {
            let Some(path) = next else { return Ok(all) };
            let answer = match self.send(Method::GET, &path, HeaderMap::new(), (&scope, None)).await {
                Err(Refusal::NotFound) => {
                    return match self.manifest(repository, &digest.referrers_tag()).await {
                        Ok(found) => Ok(digests_of_index(&found.bytes)),
                        Err(Refusal::NotFound) => Ok(all),
                        Err(refusal) => Err(refusal),
                    };
                }
                answer => success(answer?).await?,
            };
            next = self.next_page(&answer, &path);
            all.extend(digests_of_index(&whole(answer, SMALL).await?));
            if all.len() > NAMES {
                return Err(Refusal::Failed(format!("more than {NAMES} manifests refer to {digest}")));
            }
        }
        Ok(all)
    }

    fn next_page(&self, answer: &Response<Incoming>, path: &str) -> Option<String> {
        let link = answer.headers().get(header::LINK)?.to_str().ok()?;
        let base: Uri = format!("{}{}", self.origin, path.replace(&self.origin, "")).parse().ok()?;
        let target = link.strip_prefix('<')?.split('>').next()?;
        Some(absolute(&base, target))
    }

    pub(crate) async fn tags(&self, repository: &str) -> Outcome<Vec<String>> {
        let path = format!("/v2/{}/tags/list?n=1000", self.name(repository));
        self.list(path, &self.pull_scope(repository), "tags").await
    }

    /// Names without the prefix; only those below it.
    pub(crate) async fn repositories(&self) -> Outcome<Vec<String>> {
        let all = self.list("/v2/_catalog?n=1000".to_owned(), "registry:catalog:*", "repositories").await?;
        Ok(all.into_iter().filter_map(|name| name.strip_prefix(&self.prefix).map(str::to_owned)).collect())
    }

    async fn list(&self, first: String, scope: &str, field: &str) -> Outcome<Vec<String>> {
        let (mut all, mut next) = (Vec::new(), Some(first));
        for _ in 0..PAGES {
            let Some(path) = next else { return Ok(all) };
            let response =
                success(self.send(Method::GET, &path, HeaderMap::new(), (scope, None)).await?).await?;
            next = self.next_page(&response, &path);
            let value: serde_json::Value = serde_json::from_slice(&whole(response, SMALL).await?)
                .map_err(|error| Refusal::Failed(format!("its listing cannot be read: {error}")))?;
            let names = value[field].as_array().into_iter().flatten();
            all.extend(names.filter_map(|name| name.as_str()).map(str::to_owned));
            if all.len() > NAMES {
                return Err(Refusal::Failed(format!("its listing has more than {NAMES} names")));
            }
        }
        Ok(all)
    }
}

fn digests_of_index(bytes: &[u8]) -> Vec<Digest> {
    let index: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let all = index["manifests"].as_array().into_iter().flatten();
    all.filter_map(|found| found["digest"].as_str()?.parse().ok()).collect()
}

fn accept() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static(ACCEPT));
    headers
}

fn content_length(response: &Response<Incoming>) -> Option<u64> {
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn success(response: Response<Incoming>) -> Outcome<Response<Incoming>> {
    if response.status().is_success() {
        return Ok(response);
    }
    Err(Refusal::Failed(reason(response).await))
}

/// Status, and what the body says.
async fn reason(response: Response<Incoming>) -> String {
    let status = response.status();
    let bytes = whole(response, 64 << 10).await.unwrap_or_default();
    let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let said = value["errors"][0]["message"].as_str().unwrap_or_default();
    format!("{status} {said:.300}").trim().to_owned()
}

async fn whole(response: Response<Incoming>, limit: usize) -> Outcome<Bytes> {
    let body = http_body_util::Limited::new(response.into_body(), limit);
    let collected = tokio::time::timeout(PATIENCE, body.collect()).await;
    let collected = collected.map_err(|_| Refusal::Failed("its answer does not end".into()))?;
    Ok(collected.map_err(|error| Refusal::Failed(error.to_string()))?.to_bytes())
}

/// A location as an absolute address.
fn absolute(base: &Uri, location: &str) -> String {
    if location.contains("://") {
        return location.to_owned();
    }
    let origin =
        format!("{}://{}", base.scheme_str().unwrap_or("https"), base.authority().map_or("", |a| a.as_str()));
    if location.starts_with('/') {
        return format!("{origin}{location}");
    }
    let dir = base.path().rsplit_once('/').map_or("", |(dir, _)| dir);
    format!("{origin}{dir}/{location}")
}

/// The page that a client asked a proxied listing for.
pub(crate) fn page_of(query: Option<&str>, most: usize) -> (usize, String) {
    let query = Query::parse(query.unwrap_or_default());
    (query.page(most).unwrap_or(most), query.get("last").unwrap_or_default().to_owned())
}
