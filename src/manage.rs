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

/// What is managed.
pub(crate) struct Manager {
    pub(crate) identity: Arc<Identity>,
    pub(crate) keys: Keys,
    pub(crate) instance: Instance,
    pub(crate) server: String,
}

impl Manager {
    async fn answer(&self, method: &http::Method, path: &str) -> Option<Result<Value>> {
        Some(match (method.as_str(), path) {
            ("GET", CERTIFICATES) => Ok(json!(self.identity.list())),
            ("POST", ROTATE_CERTIFICATES) => self.rotate(),
            ("POST", ROTATE_KEY) => self.keys.rotate().await.map(|count| json!({ "rewritten": count })),
            _ => return None,
        })
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
            let (code, value) = match manager.answer(request.method(), request.uri().path()).await {
                Some(Ok(value)) => (StatusCode::OK, value),
                Some(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, failure(500, &format!("{error:#}"))),
                None => (StatusCode::NOT_FOUND, failure(404, "there is no such thing to manage")),
            };
            let mut response = Response::new(Body::full(value.to_string()));
            *response.status_mut() = code;
            let kind = http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
            Ok(response)
        })
    }
}

/// As the Kubernetes API says it, so that one client reads both.
fn failure(code: u16, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": "", "code": code,
    })
}
