//! A client that notes what is asked of the API.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use tower::Service;

/// What was asked so far.
#[derive(Clone, Default)]
pub struct Counted(Arc<Mutex<Vec<String>>>);

impl Counted {
    /// A client that does what the other does.
    pub fn around(&self, inner: Client) -> Client {
        Client::new(Noting { inner, log: self.clone() }, "default")
    }

    /// What was asked since the last time.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

struct Noting {
    inner: Client,
    log: Counted,
}

impl Service<Request<Body>> for Noting {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, kube::Result<Response<Body>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<kube::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let line = format!("{} {}", request.method(), request.uri().path());
        self.log.0.lock().unwrap().push(line);
        let inner = self.inner.clone();
        Box::pin(async move { inner.send(request).await })
    }
}
