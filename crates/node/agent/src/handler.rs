//! Doing what probes and lifecycle hooks ask: run a command, fetch a URL, open a connection, ask a health service.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{
    ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sampan_container::{ExecConfig, PodSandbox};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

/// Most bytes of output or body that are kept for messages.
const OUTPUT: usize = 10 * 1024;
/// Redirects followed.
const REDIRECTS: usize = 10;

/// The container that a handler is aimed at.
#[derive(Clone)]
pub struct Target {
    /// Its pod.
    pub sandbox: PodSandbox,
    /// Its runtime id.
    pub id: String,
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// Its named ports.
    pub ports: Vec<(String, u16)>,
}

impl Target {
    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        match port {
            IntOrString::Int(number) => {
                u16::try_from(*number).map_err(|_| format!("invalid port number: {number}"))
            }
            IntOrString::String(name) => self
                .ports
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, port)| *port)
                .or_else(|| name.parse().ok())
                .ok_or_else(|| format!("couldn't find port: {name}")),
        }
    }
}

/// Run a probe once within its timeout. The error is what an event says.
pub async fn probe(probe: &Probe, target: &Target) -> Result<(), String> {
    let timeout = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1).max(1)).unwrap_or(1));
    if let Some(action) = &probe.exec {
        return exec(action, target, Some(timeout)).await;
    }
    let run = async {
        if let Some(action) = &probe.http_get {
            http_get(action, target).await
        } else if let Some(action) = &probe.tcp_socket {
            tcp_socket(action, target).await
        } else if let Some(action) = &probe.grpc {
            grpc(action, target).await
        } else {
            Ok(())
        }
    };
    match tokio::time::timeout(timeout, run).await {
        Ok(result) => result,
        Err(_) if probe.http_get.is_some() => {
            Err("Get: context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned())
        }
        Err(_) => Err(format!("probe timed out after {}s", timeout.as_secs())),
    }
}

/// Run a lifecycle hook to its end.
pub async fn lifecycle(hook: &LifecycleHandler, target: &Target) -> Result<(), String> {
    if let Some(action) = &hook.exec {
        return exec(action, target, None).await;
    }
    if let Some(action) = &hook.http_get {
        return http_get(action, target).await;
    }
    if let Some(action) = &hook.tcp_socket {
        return tcp_socket(action, target).await;
    }
    if let Some(action) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
    }
    Ok(())
}

async fn exec(action: &ExecAction, target: &Target, timeout: Option<Duration>) -> Result<(), String> {
    let config = ExecConfig {
        container: target.id.clone(),
        args: action.command.clone().unwrap_or_default(),
        stdout: true,
        stderr: true,
        ..ExecConfig::default()
    };
    let mut session = target.sandbox.exec(config).await.map_err(|error| error.to_string())?;
    let control = session.process.control();
    let (mut stdout, mut stderr) = (session.stdout.take(), session.stderr.take());
    let run = async {
        let (out, err, exit) =
            tokio::join!(drain(stdout.as_mut()), drain(stderr.as_mut()), session.process.wait());
        (out + &err, exit)
    };
    let limit = timeout.unwrap_or(Duration::from_secs(365 * 24 * 3600));
    match tokio::time::timeout(limit, run).await {
        Ok((_, Ok(exit))) if exit.code == 0 => Ok(()),
        Ok((output, Ok(_))) => Err(output),
        Ok((_, Err(error))) => Err(error.to_string()),
        Err(_) => {
            let _ = control.signal(nix::libc::SIGKILL).await;
            Err(format!(
                "command timed out: {:?} timed out after {}s",
                action.command.as_deref().unwrap_or_default().join(" "),
                limit.as_secs()
            ))
        }
    }
}

/// Read a stream to its end, keeping the beginning.
async fn drain<R: AsyncRead + Unpin>(stream: Option<&mut R>) -> String {
    let Some(stream) = stream else { return String::new() };
    let mut kept = Vec::new();
    let mut buffer = vec![0u8; 4096];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        let room = OUTPUT.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

async fn connect(host: Option<&str>, target: &Target, port: u16) -> Result<TcpStream, String> {
    let host = host.filter(|host| !host.is_empty());
    let result = match host {
        Some(host) => match host.parse::<IpAddr>() {
            Ok(ip) => TcpStream::connect(SocketAddr::new(ip, port)).await,
            Err(_) => TcpStream::connect((host, port)).await,
        },
        None => TcpStream::connect((target.ip, port)).await,
    };
    let name = host.map_or_else(|| target.ip.to_string(), str::to_owned);
    result.map_err(|error| format!("dial tcp {name}:{port}: connect: {}", reason(&error)))
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        _ => error.to_string(),
    }
}

async fn tcp_socket(action: &TCPSocketAction, target: &Target) -> Result<(), String> {
    let port = target.port(&action.port)?;
    connect(action.host.as_deref(), target, port).await.map(drop)
}

async fn http_get(action: &HTTPGetAction, target: &Target) -> Result<(), String> {
    let port = target.port(&action.port)?;
    let https = action.scheme.as_deref() == Some("HTTPS");
    let mut path = action.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned());
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| target.ip.to_string());
    let scheme = if https { "https" } else { "http" };
    for _ in 0..=REDIRECTS {
        let url = format!("{scheme}://{host}:{port}{path}");
        let failed = |error: String| format!("Get \"{url}\": {error}");
        let stream = connect(action.host.as_deref(), target, port).await.map_err(failed)?;
        let request = http_request(action, &path, &format!("{host}:{port}")).map_err(failed)?;
        let answer = if https {
            fetch(tls(stream).await.map_err(failed)?, request).await
        } else {
            fetch(stream, request).await
        };
        let (status, location, body) = answer.map_err(failed)?;
        match (status, location) {
            (300..400, Some(location)) => match same_host(&location, &format!("{scheme}://{host}:{port}")) {
                Some(next) => path = next,
                // Elsewhere is none of the probe's business: upstream warns and succeeds.
                None => return Ok(()),
            },
            (200..400, _) => return Ok(()),
            (status, _) => {
                tracing::trace!(status, body, "probe answer");
                return Err(format!("HTTP probe failed with statuscode: {status}"));
            }
        }
    }
    Err("stopped after 10 redirects".to_owned())
}

fn same_host(location: &str, base: &str) -> Option<String> {
    match location.strip_prefix(base) {
        Some(path) => Some(if path.is_empty() { "/".to_owned() } else { path.to_owned() }),
        None => location.starts_with('/').then(|| location.to_owned()),
    }
}

fn http_request(action: &HTTPGetAction, path: &str, host: &str) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::get(path);
    let mut named = (false, false, false);
    for header in action.http_headers.iter().flatten() {
        match header.name.to_ascii_lowercase().as_str() {
            "host" => named.0 = true,
            "user-agent" => named.1 = true,
            "accept" => named.2 = true,
            _ => {}
        }
        request = request.header(&header.name, &header.value);
    }
    if !named.0 {
        request = request.header("Host", host);
    }
    if !named.1 {
        request = request.header("User-Agent", "kube-probe/1.37");
    }
    if !named.2 {
        request = request.header("Accept", "*/*");
    }
    request.header("Connection", "close").body(Full::default()).map_err(|error| error.to_string())
}

async fn fetch<IO>(io: IO, request: Request<Full<Bytes>>) -> Result<(u16, Option<String>, String), String>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|error| error.to_string())?;
    let ask = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let location =
            response.headers().get("location").and_then(|value| value.to_str().ok()).map(str::to_owned);
        // A body that is longer than what is kept does not fail the probe.
        let body = Limited::new(response.into_body(), OUTPUT).collect().await;
        let text =
            body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
        Ok((status, location, text))
    };
    with_connection(ask, connection).await
}

/// Poll a request together with the connection that carries it.
async fn with_connection<T, E: std::fmt::Display>(
    ask: impl Future<Output = Result<T, String>>,
    connection: impl Future<Output = Result<(), E>>,
) -> Result<T, String> {
    let mut ask = std::pin::pin!(ask);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        result = &mut ask => result,
        // The connection may end first, with the answer already received.
        _ = &mut connection => ask.await,
    }
}

/// TLS that trusts any certificate: a probe asks whether it answers, not who it is.
async fn tls(stream: TcpStream) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let peer = stream.peer_addr().map_err(|error| error.to_string())?;
    let name = rustls::pki_types::ServerName::from(peer.ip());
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map_err(|error| error.to_string())
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

async fn grpc(action: &GRPCAction, target: &Target) -> Result<(), String> {
    let port = u16::try_from(action.port).map_err(|_| format!("invalid port number: {}", action.port))?;
    let stream = connect(None, target, port)
        .await
        .map_err(|_| format!("timeout: failed to connect service \"{}:{port}\" within 1s", target.ip))?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let request = Request::post(format!("http://{}:{port}/grpc.health.v1.Health/Check", target.ip))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(health_request(action.service.as_deref().unwrap_or_default())))
        .map_err(|error| error.to_string())?;
    let ask = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let early = response.headers().get("grpc-status").cloned();
        let body =
            Limited::new(response.into_body(), OUTPUT).collect().await.map_err(|error| error.to_string())?;
        let status = body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned().or(early);
        let code = status.as_ref().and_then(|status| status.to_str().ok()).unwrap_or("0").to_owned();
        if code != "0" {
            return Err(format!("error: health rpc failed with gRPC status {code}"));
        }
        Ok(body.to_bytes())
    };
    let message = with_connection(ask, connection).await?;
    // HealthCheckResponse { status = 1: varint }, after five bytes of framing; SERVING is 1.
    let serving = message.get(5..).is_some_and(|message| message.starts_with(&[0x08, 0x01]));
    if serving { Ok(()) } else { Err("service unhealthy (responded with \"NOT_SERVING\")".to_owned()) }
}

/// HealthCheckRequest { service = 1: string } with gRPC framing.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if let (false, Ok(length)) = (service.is_empty(), u8::try_from(service.len()))
        && length < 128
    {
        message.extend_from_slice(&[0x0a, length]);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    framed.extend(message);
    framed.into()
}
