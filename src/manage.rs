//! What the administrator can ask of the running instance beside the Kubernetes API, over the same unix socket.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use anyhow::Result;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use sampan_apiserver::{Body, LocalService};
use sampan_store::{Range, Store, embedded::Embedded};
use serde_json::{Value, json};

use crate::{
    encryption::Keys,
    identity::{self, Identity},
    instance::Instance,
};

/// All certificates.
pub(crate) const CERTIFICATES: &str = "/sampan/certificates";
/// Make new ones.
pub(crate) const ROTATE_CERTIFICATES: &str = "/sampan/certificates/rotate";
/// Make a new key for Secrets.
pub(crate) const ROTATE_KEY: &str = "/sampan/secrets/rotate-key";

/// How the store in this process is.
pub(crate) const STORE: &str = "/sampan/store";
/// Give the space back that it no longer needs.
pub(crate) const TIDY_STORE: &str = "/sampan/store/compact";

/// What is managed.
pub(crate) struct Manager {
    pub(crate) identity: Arc<Identity>,
    pub(crate) keys: Keys,
    pub(crate) instance: Instance,
    pub(crate) server: String,
    pub(crate) store: Option<Arc<Embedded>>,
}

impl Manager {
    async fn answer(&self, method: &http::Method, path: &str) -> Option<Result<Value>> {
        Some(match (method.as_str(), path) {
            ("GET", CERTIFICATES) => Ok(json!(self.identity.list())),
            ("POST", ROTATE_CERTIFICATES) => self.rotate(),
            ("POST", ROTATE_KEY) => self.keys.rotate().await.map(|count| json!({ "rewritten": count })),
            ("GET", STORE) => self.store_now().await,
            ("POST", TIDY_STORE) => self.tidy_store().await,
            _ => return None,
        })
    }

    async fn store_now(&self) -> Result<Value> {
        let Some(store) = &self.store else { anyhow::bail!("the state is not in this process") };
        let range = Range {
            start: "/".into(),
            end: bytes::Bytes::from_static(&[0]),
            count_only: true,
            ..Range::default()
        };
        let found = store.range(range).await?;
        Ok(json!({ "revision": found.revision, "keys": found.count }))
    }

    async fn tidy_store(&self) -> Result<Value> {
        let Some(store) = &self.store else { anyhow::bail!("the state is not in this process") };
        let now = store.tidy().await?;
        Ok(json!({ "revision": now }))
    }

    fn rotate(&self) -> Result<Value> {
        let count = self.identity.renew(true)?;
        identity::write_kubeconfig(&self.instance, &self.identity, &self.server)?;
        Ok(json!({ "renewed": count }))
    }
}

/// The Kubernetes API, with what is managed before it.
#[derive(Clone)]
pub(crate) struct Service {
    manager: Arc<Manager>,
    api: LocalService,
}

impl Service {
    pub(crate) fn new(manager: Manager, api: LocalService) -> Self {
        Self { manager: Arc::new(manager), api }
    }
}

impl tower::Service<Request<Incoming>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        if !request.uri().path().starts_with("/sampan/") {
            return tower::Service::call(&mut self.api, request);
        }
        let manager = self.manager.clone();
        Box::pin(async move {
            let answer = manager.answer(request.method(), request.uri().path()).await;
            let missing = || {
                let mut response = respond(Err(anyhow::anyhow!("there is no such thing to manage")));
                *response.status_mut() = StatusCode::NOT_FOUND;
                response
            };
            Ok(answer.map_or_else(missing, respond))
        })
    }
}

/// An answer as JSON.
pub(crate) fn respond(answer: Result<Value>) -> Response<Body> {
    let (code, value) = match answer {
        Ok(value) => (StatusCode::OK, value),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, failure(500, &format!("{error:#}"))),
    };
    let mut response = Response::new(Body::full(value.to_string()));
    *response.status_mut() = code;
    let kind = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

/// As the Kubernetes API says it, so that one client reads both.
fn failure(code: u16, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": "", "code": code,
    })
}
