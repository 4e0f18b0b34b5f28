//! Clients in this process: a tower service that is bound to a user. No TCP, no TLS, no copies.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;

use crate::{
    body::{Body, BoxError},
    core::Core,
    handler::Peer,
    user::UserInfo,
};

/// The API as one user sees it. `kube::Client::new(service, "default")` takes it.
#[derive(Clone)]
pub struct LocalService {
    core: Arc<Core>,
    peer: Peer,
}

impl LocalService {
    pub(crate) fn new(core: Arc<Core>, user: UserInfo) -> Self {
        Self { core, peer: Peer::Local(Arc::new(user)) }
    }
}

impl<B> tower::Service<Request<B>> for LocalService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (core, peer) = (self.core.clone(), self.peer.clone());
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move { Ok(core.serve(request, peer).await) })
    }
}
