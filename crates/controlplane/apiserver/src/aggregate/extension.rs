//! One extension server: where it is, how it proves who it is, and whether it answers.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty, Limited, combinators::UnsyncBoxBody};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use sampan_daemon::tls;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::proxy::identity;
use crate::{
    admission::webhook::client::Service, body::BoxError, call::text, core::Core, options::FrontProxy,
    user::UserInfo,
};

/// Time to reach an extension server.
const CONNECT: Duration = Duration::from_secs(10);
/// Time for its discovery document.
const CHECK: Duration = Duration::from_secs(5);
/// A longer discovery document is none.
const DISCOVERY: usize = 1 << 20;

pub(super) type Sender = http1::SendRequest<UnsyncBoxBody<Bytes, BoxError>>;

/// An extension server.
pub(crate) struct Extension {
    pub(super) name: String,
    pub(super) group: String,
    pub(super) version: String,
    pub(super) priority: i64,
    service: Service,
    tls: Result<TlsConnector, String>,
    available: AtomicBool,
    resources: RwLock<Arc<Value>>,
}

/// Whether an extension server answers.
pub(super) struct Verdict {
    pub(super) available: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Verdict {
    fn bad(reason: &'static str, message: String) -> Self {
        Self { available: false, reason, message }
    }
}

impl Extension {
    /// From an APIService.
    pub(super) fn new(object: &Value, front_proxy: Option<&FrontProxy>) -> Self {
        let spec = &object["spec"];
        let service = Service {
            namespace: text(spec, "/service/namespace").to_owned(),
            name: text(spec, "/service/name").to_owned(),
            port: spec["service"]["port"].as_i64().unwrap_or(443),
        };
        Self {
            name: text(object, "/metadata/name").to_owned(),
            group: text(spec, "/group").to_owned(),
            version: text(spec, "/version").to_owned(),
            priority: spec["versionPriority"].as_i64().unwrap_or(0),
            service,
            tls: connector(spec, front_proxy),
            available: AtomicBool::new(false),
            resources: RwLock::default(),
        }
    }

    /// Whether it answered when it was last asked.
    pub(crate) fn is_available(&self) -> bool {
        self.available.load(Ordering::Acquire)
    }

    /// The resources that it last said it has.
    pub(super) fn resources(&self) -> Arc<Value> {
        self.resources.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks for its discovery document.
    pub(super) async fn check(&self, core: &Core) -> Verdict {
        let verdict = match tokio::time::timeout(CHECK, self.discover(core)).await {
            Ok(verdict) => verdict,
            Err(_) => {
                let url = self.url();
                Verdict::bad(
                    "FailedDiscoveryCheck",
                    format!("failing or missing response from {url}: timed out"),
                )
            }
        };
        self.available.store(verdict.available, Ordering::Release);
        verdict
    }

    fn url(&self) -> String {
        let Service { name, namespace, port } = &self.service;
        format!("https://{name}.{namespace}.svc:{port}/apis/{}/{}", self.group, self.version)
    }

    async fn discover(&self, core: &Core) -> Verdict {
        let Service { name, namespace, .. } = &self.service;
        if let Ok(None) = core.look_up("", "v1", "services", Some(namespace), name).await {
            let message = format!("service/{name} in \"{namespace}\" is not present");
            return Verdict::bad("ServiceNotFound", message);
        }
        if let Err(why) = self.service.endpoint(core).await {
            let reason =
                if why.starts_with("no service port") { "ServicePortError" } else { "MissingEndpoints" };
            let message = match reason {
                "MissingEndpoints" => {
                    format!("endpoints for service/{name} in \"{namespace}\" have no addresses ({why})")
                }
                _ => why,
            };
            return Verdict::bad(reason, message);
        }
        let failed = |why: String| {
            let message = format!("failing or missing response from {}: {why}", self.url());
            Verdict::bad("FailedDiscoveryCheck", message)
        };
        let mut request = Request::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
        let path = format!("/apis/{}/{}", self.group, self.version);
        let Ok(uri) = path.parse() else { return failed("bad path".to_owned()) };
        *request.uri_mut() = uri;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        identity(request.headers_mut(), &UserInfo::admin("system:kube-aggregator"));
        let response = match self.send(core, request).await {
            Ok(response) => response,
            Err(why) => return failed(why),
        };
        let code = response.status();
        let read = Limited::new(response.into_body(), DISCOVERY).collect().await;
        let bytes = match read {
            Ok(read) => read.to_bytes(),
            Err(error) => return failed(error.to_string()),
        };
        // Who asks for credentials is there.
        if !code.is_success() && !matches!(code.as_u16(), 401 | 403) {
            return failed(format!("bad status from {}: {}", self.url(), code.as_u16()));
        }
        if let Ok(list) = serde_json::from_slice::<Value>(&bytes)
            && list["kind"] == "APIResourceList"
        {
            *self.resources.write().unwrap_or_else(PoisonError::into_inner) =
                Arc::new(list["resources"].clone());
        }
        Verdict { available: true, reason: "Passed", message: "all checks passed".to_owned() }
    }

    /// Sends a request over a connection of its own.
    pub(super) async fn send(
        &self,
        core: &Core,
        mut request: Request<UnsyncBoxBody<Bytes, BoxError>>,
    ) -> Result<http::Response<hyper::body::Incoming>, String> {
        let host = format!("{}.{}.svc", self.service.name, self.service.namespace);
        if let Ok(value) = HeaderValue::from_str(&host) {
            request.headers_mut().insert(header::HOST, value);
        }
        let mut sender = match tokio::time::timeout(CONNECT, self.dial(core, &host)).await {
            Ok(dialled) => dialled?,
            Err(_) => return Err("timed out".to_owned()),
        };
        sender.send_request(request).await.map_err(|error| error.to_string())
    }

    async fn dial(&self, core: &Core, host: &str) -> Result<Sender, String> {
        let connector = self.tls.as_ref().map_err(Clone::clone)?;
        let (to, port) = self.service.endpoint(core).await?;
        let tcp = TcpStream::connect((to.as_str(), port)).await.map_err(|error| error.to_string())?;
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let tls = connector.connect(name, tcp).await.map_err(|error| error.to_string())?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(tls)).await.map_err(|error| error.to_string())?;
        let closing = core.closing.clone();
        core.supervisor.spawn(format!("extension/{}", self.name), async move {
            tokio::select! {
                ended = connection.with_upgrades() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection to an extension server ended");
                    }
                }
                () = closing.cancelled() => {}
            }
        });
        Ok(sender)
    }
}

fn connector(spec: &Value, front_proxy: Option<&FrontProxy>) -> Result<TlsConnector, String> {
    let bundle = STANDARD.decode(text(spec, "/caBundle")).map_err(|error| format!("caBundle: {error}"))?;
    let pem = String::from_utf8(bundle).map_err(|error| format!("caBundle: {error}"))?;
    let identity = front_proxy.map(|proxy| &proxy.identity);
    let config = if spec["insecureSkipTLSVerify"] == true {
        tls::unverified_client_config(identity)
    } else {
        tls::client_config(&pem, identity)
    };
    config.map(TlsConnector::from).map_err(|error| error.to_string())
}
