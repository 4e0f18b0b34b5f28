//! `sampan registry …`: serves one, or asks the one that runs through its socket.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use sampan_daemon::{
    Supervisor, clock,
    tls::{Ca, Identity, Issued, Profile, Usage},
};
use sampan_registry::{Bucket, Options, Registry};
use serde_json::{Value, json};
use tokio::{
    net::UnixStream,
    signal::unix::{SignalKind, signal},
};

use crate::{
    cli::{self, RegistryAt, RegistryServe},
    terminal,
};

/// Bytes of an answer of the administration.
const ANSWER: usize = 64 << 20;

pub(crate) fn run(data_dir: &Path, command: cli::Registry) -> Result<ExitCode> {
    if let cli::Registry::Serve(options) = command {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8)))
            .thread_name("registry")
            .enable_all()
            .build()?;
        let outcome = runtime.block_on(serve(data_dir, *options));
        runtime.shutdown_timeout(Duration::from_secs(2));
        return outcome;
    }
    super::wait(manage(data_dir, command))
}

async fn serve(data_dir: &Path, options: RegistryServe) -> Result<ExitCode> {
    let supervisor = Supervisor::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    clock::follow(&supervisor);
    let dir = options.dir.clone().unwrap_or_else(|| directory(data_dir));
    let (open, plain) = (options.open, options.plain_http);
    let handle = Registry::start(serve_alone(&dir, options)?, &supervisor).await?;
    let scheme = if plain { "http" } else { "https" };
    for address in handle.addresses() {
        eprintln!("registry at {scheme}://{address}");
    }
    if !open {
        eprintln!("  user admin, password in {}", dir.join("admin-password").display());
    }
    if !plain && dir.join("tls/ca.crt").exists() {
        eprintln!("  clients trust {}", dir.join("tls/ca.crt").display());
    }
    let cancelled = supervisor.token();
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = cancelled.cancelled() => {}
    }
    let late = supervisor.shutdown(Duration::from_secs(10)).await;
    if !late.is_empty() {
        tracing::warn!("did not end in time: {}", late.join(", "));
    }
    match supervisor.failure() {
        Some(reason) => bail!("{reason}"),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn serve_alone(dir: &Path, options: RegistryServe) -> Result<Options> {
    let read = |path: &PathBuf| fs::read_to_string(path).with_context(|| path.display().to_string());
    let issued = match (&options.tls_cert, &options.tls_key) {
        _ if options.plain_http => None,
        (Some(cert), Some(key)) => Some(Issued { cert_pem: read(cert)?, key_pem: read(key)? }),
        _ => {
            let tls = dir.join("tls");
            fs::create_dir_all(&tls).with_context(|| tls.display().to_string())?;
            let addresses =
                options.listen.iter().map(|address| address.ip()).filter(|ip| !ip.is_unspecified());
            let mut ips: Vec<_> = addresses.collect();
            ips.extend(sampan_network::host_address().ok().flatten().map(std::net::IpAddr::from));
            ips.push([127, 0, 0, 1].into());
            let profile = Profile {
                common_name: "sampan-registry".to_owned(),
                organizations: Vec::new(),
                dns: vec!["localhost".to_owned(), nix::unistd::gethostname()?.to_string_lossy().into_owned()],
                ips,
                usage: Usage::Server,
                days: 365,
            };
            Some(Ca::load_or_create(&tls, "sampan-registry-ca")?.issue(&profile)?)
        }
    };
    let mut all = Options::new(dir, options.listen);
    all.identity = issued.map(Identity::new).transpose()?;
    all.bucket = options.s3.map(|name| Bucket {
        endpoint: options.s3_endpoint,
        name,
        prefix: options.s3_prefix,
        region: options.s3_region,
        access_key: options.s3_access_key,
        secret_key: options.s3_secret_key,
    });
    all.open = options.open;
    all.external_url = options.external_url;
    all.audit_pulls = options.audit_pulls;
    all.extra_ca = options.ca_file.as_ref().map(read).transpose()?;
    all.upkeep.grace = Duration::from_secs(options.gc_grace);
    all.upkeep.every = Duration::from_secs(options.gc_every.max(1));
    all.upkeep.pack_after = (options.pack_after > 0).then(|| Duration::from_secs(options.pack_after));
    all.upkeep.hot_bytes = options.hot_bytes;
    Ok(all)
}

/// One request for each command.
async fn manage(data_dir: &Path, command: cli::Registry) -> Result<ExitCode> {
    let (method, path, body, at) = request(command)?;
    let dir = at.dir.clone().unwrap_or_else(|| directory(data_dir));
    let value = ask(&dir, &method, &path, body).await?;
    terminal::print(at.output.output, &value, || text(&value))?;
    Ok(ExitCode::SUCCESS)
}

fn request(command: cli::Registry) -> Result<(String, String, Option<Value>, RegistryAt)> {
    use cli::Registry as R;
    let of = |method: &str, path: String, body: Option<Value>, at| (method.to_owned(), path, body, at);
    Ok(match command {
        R::Serve(_) => bail!("serve is no question"),
        R::Status(at) => of("GET", "status".into(), None, at),
        R::Api { method, path, json, at } => {
            let body =
                json.map(|json| serde_json::from_str(&json).context("the body is no JSON")).transpose()?;
            of(&method.to_uppercase(), path, body, at)
        }
        R::ProjectCreate { name, public, quota, proxy, at } => {
            let mut body = json!({ "name": name, "public": public, "quota": quota });
            if let Some(upstream) = proxy {
                body["proxy"] = json!({ "upstream": upstream });
            }
            of("POST", "projects".into(), Some(body), at)
        }
        R::Projects(at) => of("GET", "projects".into(), None, at),
        R::Member { project, user, role, at } if role == "none" => {
            of("DELETE", format!("projects/{project}/members/{user}"), None, at)
        }
        R::Member { project, user, role, at } => {
            of("PUT", format!("projects/{project}/members/{user}"), Some(json!({ "role": role })), at)
        }
        R::UserCreate { name, password, admin, at } => {
            let mut body = json!({ "name": name, "admin": admin });
            if let Some(password) = password {
                body["password"] = password.into();
            }
            of("POST", "users".into(), Some(body), at)
        }
        R::Users(at) => of("GET", "users".into(), None, at),
        R::RobotCreate { project, name, actions, ttl, at } => {
            let body = json!({ "name": name, "actions": actions, "ttlSeconds": ttl });
            of("POST", format!("projects/{project}/robots"), Some(body), at)
        }
        R::Robots { project, at } => of("GET", format!("projects/{project}/robots"), None, at),
        R::Gc { grace, pack, at } => {
            of("POST", "gc".into(), Some(json!({ "graceSeconds": grace, "pack": pack })), at)
        }
        R::Scrub(at) => of("POST", "scrub".into(), None, at),
        R::Search { word, at } => of("GET", format!("search?q={}", encoded(&word)), None, at),
        R::Audit { limit, at } => of("GET", format!("audit?limit={limit}"), None, at),
    })
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

async fn ask(dir: &Path, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
    let socket = dir.join("admin.sock");
    let stream = UnixStream::connect(&socket).await.with_context(|| {
        format!(
            "no registry runs on {} (hint: `sampan up` or `sampan registry serve`; --dir names another)",
            dir.display()
        )
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    Supervisor::new().spawn("registry-connection", async move {
        // How it ended is in the answer.
        let _ = connection.await;
    });
    let body = body.map_or_else(String::new, |body| body.to_string());
    let request = http::Request::builder()
        .method(method)
        .uri(format!("/api/v1/{path}"))
        .header("host", "localhost")
        .body(Full::new(bytes::Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let bytes = Limited::new(response.into_body(), ANSWER).collect().await;
    let bytes = bytes.map_err(|error| anyhow::anyhow!("the answer cannot be read: {error}"))?.to_bytes();
    let value: Value = serde_json::from_slice(&bytes).context("the answer is no JSON")?;
    if !status.is_success() {
        bail!("{}", value["errors"][0]["message"].as_str().unwrap_or(status.as_str()));
    }
    Ok(value)
}

/// A list of records as a table, a record as lines.
fn text(value: &Value) -> String {
    let cell = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(list) => list
            .iter()
            .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(","),
        other => other.to_string(),
    };
    match value {
        Value::Array(list) => {
            let Some(Value::Object(first)) = list.first() else {
                return list.iter().map(|line| cell(line) + "\n").collect();
            };
            // What is nested is for JSON.
            let columns: Vec<&String> =
                first.iter().filter(|(_, v)| !v.is_object()).map(|(name, _)| name).collect();
            let header: Vec<String> = columns.iter().map(|name| name.to_uppercase()).collect();
            let header: Vec<&str> = header.iter().map(String::as_str).collect();
            let rows: Vec<Vec<String>> = list
                .iter()
                .map(|row| columns.iter().map(|name| cell(&row[name.as_str()])).collect())
                .collect();
            terminal::table(&header, &rows)
        }
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name}: {}\n", cell(value))).collect()
        }
        other => cell(other) + "\n",
    }
}

/// Where an instance has its registry.
pub(crate) fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("registry")
}

/// The port of the registry of an instance, once it has run.
fn known_port(data_dir: &Path) -> Option<u16> {
    fs::read_to_string(directory(data_dir).join("port")).ok()?.trim().parse().ok()
}

/// Names under which images of the registry of an instance are known on its machine; none before it ran.
pub(crate) fn hosts(data_dir: &Path) -> Vec<String> {
    let hosts = |port| ["localhost", "127.0.0.1"].map(|host| format!("{host}:{port}")).into();
    known_port(data_dir).map(hosts).unwrap_or_default()
}

/// The password of the first administrator, unless somebody took it away or may not see it.
pub(crate) fn admin_password(data_dir: &Path) -> Option<String> {
    let password = fs::read_to_string(directory(data_dir).join("admin-password")).ok()?;
    Some(password.trim().to_owned())
}

/// Where people find the registry of an instance.
pub(crate) fn place(data_dir: &Path) -> String {
    let port = known_port(data_dir).map(|port| port.to_string()).unwrap_or_default();
    let password = directory(data_dir).join("admin-password");
    format!("localhost:{port}, user admin, password in {}", password.display())
}

/// The usual port of registries.
const PORT: u16 = 5000;

/// The port that was asked for; else that of the last time; else the usual one, or a free one where that is taken.
pub(crate) fn remembered_port(data_dir: &Path, asked: Option<u16>) -> Result<u16> {
    let dir = directory(data_dir);
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let file = dir.join("port");
    let free = |port: u16| {
        let listener = std::net::TcpListener::bind(("0.0.0.0", port))?;
        listener.local_addr().map(|address| address.port())
    };
    let port = match (asked, known_port(data_dir)) {
        (Some(0), _) => free(0)?,
        (Some(port), _) => port,
        (None, Some(port)) => port,
        (None, None) => free(PORT).or_else(|_| free(0))?,
    };
    fs::write(&file, format!("{port}\n")).with_context(|| file.display().to_string())?;
    Ok(port)
}
