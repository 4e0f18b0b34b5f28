//! What the administrator of a node can ask of its agent, over a unix socket that only root can open.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use anyhow::Result;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use sampan_apiserver::Body;
use serde_json::{Value, json};

use super::certificate::Keeper;
use crate::manage::{CERTIFICATES, ROTATE_CERTIFICATES, respond};

/// The node's certificates, and nothing else: objects are asked for at a server.
#[derive(Clone)]
pub(super) struct Service(Arc<Keeper>);

impl Service {
    pub(super) fn new(keeper: Arc<Keeper>) -> Self {
        Self(keeper)
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
        let keeper = self.0.clone();
        Box::pin(async move {
            let answer: Option<Result<Value>> = match (request.method().as_str(), request.uri().path()) {
                ("GET", CERTIFICATES) => Some(Ok(json!(keeper.list()))),
                ("POST", ROTATE_CERTIFICATES) => {
                    Some(keeper.renew(true).await.map(|count| json!({"renewed": count})))
                }
                _ => None,
            };
            let nothing =
                "this machine is a node only (hint: ask a server, with its kubeconfig or its data directory)";
            Ok(match answer {
                Some(answer) => respond(answer),
                None => respond_with(nothing),
            })
        })
    }
}

fn respond_with(message: &str) -> Response<Body> {
    let mut response = respond(Err(anyhow::anyhow!("{message}")));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
