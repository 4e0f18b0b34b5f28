//! Pulling: from Debian's docker-registry with and without a password, and from a server that misbehaves.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sampan_image::{
    Auth, Credentials, Error, ErrorKind, Images, LayerState, Progress, PullOptions, RegistryFailure,
    RegistryOptions,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::import::docker_archive;
use crate::support::*;

pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// docker-registry on a free loopback port.
pub fn docker_registry(fixture: &Fixture, htpasswd: bool, tls: Option<&Path>) -> (Server, String) {
    need("docker-registry");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let name = format!("reg{port}");
    let root = fixture.path(&name);
    fs::create_dir(&root).unwrap();
    let mut config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
        root.display()
    );
    if htpasswd {
        need("htpasswd");
        let line = run("htpasswd", &["-Bbn", "user", "pass:word"]);
        fs::write(root.join("htpasswd"), line).unwrap();
        config +=
            &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", root.join("htpasswd").display());
    }
    if let Some(dir) = tls {
        let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        let lines =
            format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display());
        config += &lines;
    }
    let file = fixture.path(&format!("{name}.yml"));
    fs::write(&file, config).unwrap();
    let child = Command::new("docker-registry")
        .args(["serve", file.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "docker-registry does not listen");
        std::thread::yield_now();
    }
    (Server(child), format!("127.0.0.1:{port}"))
}

fn store_for(fixture: &Fixture, name: &str, hosts: &[(&str, RegistryOptions)]) -> Images {
    let dir = fixture.path(name);
    fs::create_dir_all(&dir).unwrap();
    let mut options = options(&dir);
    options.limits.stall = Duration::from_secs(2);
    options.registries.hosts =
        hosts.iter().map(|(host, options)| ((*host).to_owned(), options.clone())).collect();
    Images::open(options).unwrap()
}

pub fn insecure() -> RegistryOptions {
    RegistryOptions { insecure: true, ..RegistryOptions::default() }
}

fn basic(registry: &str, username: &str, password: &str) -> Credentials {
    let mut credentials = Credentials::none();
    credentials.add(registry, Auth::Basic { username: username.into(), password: password.into() });
    credentials
}

#[tokio::test(flavor = "multi_thread")]
async fn from_docker_registry() {
    need("skopeo");
    let fixture = Fixture::new();
    let tree = fixture.path("tree");
    fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    let tar_file = fixture.path("tree.tar");
    let script = format!(
        "tar -C {} --format=pax --xattrs --xattrs-include=* -Scf {} .",
        tree.display(),
        tar_file.display()
    );
    run("sh", &["-c", &script]);
    let base = fs::read(&tar_file).unwrap();
    let top = tar(&[
        dir("etc/"),
        file("etc/.wh.group", b""),
        dir("var/"),
        dir("var/empty/"),
        file("var/empty/.wh..wh..opq", b""),
    ]);
    let archive = fixture.path("image.tar");
    fs::write(&archive, docker_archive(&[&base, &top], "tree:1", None)).unwrap();
    for (htpasswd, format) in [(false, "v2s2"), (true, "oci")] {
        let (_server, host) = docker_registry(&fixture, htpasswd, None);
        let mut args = vec!["--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "--format", format];
        if htpasswd {
            args.extend(["--dest-creds", "user:pass:word"]);
        }
        let (from, to) =
            (format!("docker-archive:{}", archive.display()), format!("docker://{host}/team/tree:1"));
        run("skopeo", &[&args[..], &[&from, &to]].concat());
        let images = store_for(&fixture, &format!("s-{format}"), &[(&host, insecure())]);
        let name = format!("{host}/team/tree:1");
        let mut options = PullOptions::default();
        if htpasswd {
            let error = images.pull(&name, PullOptions::default()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Registry(RegistryFailure::Denied));
            assert!(
                error.to_string().contains(&host) && error.to_string().contains("no credentials"),
                "{error}"
            );
            let credentials = basic(&host, "user", "wrong");
            let error =
                images.pull(&name, PullOptions { credentials, ..PullOptions::default() }).await.unwrap_err();
            assert!(error.to_string().contains("credentials were refused"), "{error}");
            options.credentials = basic(&host, "user", "pass:word");
        }
        let events = Arc::new(Mutex::new(Vec::new()));
        let to = events.clone();
        options.progress = Some(Arc::new(move |event| to.lock().unwrap().push(event)));
        let image = images.pull(&name, options.clone()).await.unwrap();
        assert_eq!(image.reference, name);
        let done = |events: &[Progress], wanted| {
            events
                .iter()
                .filter(|event| matches!(event, Progress::Layer { state, .. } if *state == wanted))
                .count()
        };
        assert_eq!(done(&events.lock().unwrap(), LayerState::Done), 2);
        let plan = images.rootfs(&name, "c").await.unwrap();
        let copy = fixture.path(&format!("copy-{format}"));
        in_overlay(
            &plan.lower_dirs,
            &fixture.path(&format!("o-{format}")),
            &format!("cp -a $1 {}", copy.display()),
        );
        assert!(!copy.join("etc/group").exists());
        let (mut left, mut right) = (fingerprint(&tree), fingerprint(&copy));
        left.remove("etc/group");
        for changed in ["etc", "var", "var/empty"] {
            left.remove(changed);
            right.remove(changed);
        }
        assert_eq!(left, right);
        // Again: nothing is downloaded; by digest: the same image.
        events.lock().unwrap().clear();
        images.pull(&name, options.clone()).await.unwrap();
        assert_eq!(done(&events.lock().unwrap(), LayerState::Exists), 2);
        let pinned = format!("{host}/team/tree@{}", image.digest);
        assert_eq!(images.pull(&pinned, options.clone()).await.unwrap().digest, image.digest);
        assert!(images.find(&pinned).await.unwrap().is_some());
        let error = images.pull(&format!("{host}/team/none:1"), options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Registry(RegistryFailure::NotFound), "{error}");
    }
}

/// What the misbehaving server does, and what it saw.
#[derive(Default)]
struct Script {
    /// Body and content type by path.
    content: HashMap<String, (String, Vec<u8>)>,
    /// Answers to give first, by path: raw heads, and how much of the body (`None`: none of it).
    faults: HashMap<String, Vec<Fault>>,
    seen: Vec<(String, Option<String>, Option<String>)>,
    /// Bearer token that is asked for.
    token: Option<String>,
    /// Wait for this many requests of a path before the first is answered.
    slow: bool,
}

enum Fault {
    Status(&'static str),
    /// The body is cut after this many bytes of what was asked for.
    Cut(usize),
    /// The body is cut after this many bytes, and the connection stays open.
    Stall(usize),
    /// Ranges are ignored.
    NoRange,
}

struct Fake {
    host: String,
    script: Arc<Mutex<Script>>,
    digest: String,
    layer: String,
    _task: tokio::task::JoinHandle<()>,
}

impl Fake {
    /// A server with one image `team/app:1` of one layer.
    async fn new(size: usize) -> Self {
        let mut noise = vec![0u8; size];
        let mut state = 1u32;
        noise.iter_mut().for_each(|byte| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        });
        let layer = tar(&[file("noise", &noise)]);
        let of = |bytes: &[u8]| sampan_image::Digest::of(bytes).to_string();
        let config = serde_json::json!({"architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [of(&layer)]}}).to_string().into_bytes();
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": manifest_type,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": of(&config), "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": of(&layer), "size": layer.len()}]})
        .to_string()
        .into_bytes();
        let index_type = "application/vnd.oci.image.index.v1+json";
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [
            {"mediaType": manifest_type, "digest": of(b"other"), "size": 5, "platform": {"os": "linux", "architecture": "s390x"}},
            {"mediaType": manifest_type, "digest": of(&manifest), "size": manifest.len(),
             "platform": {"os": "linux", "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }}}]})
        .to_string()
        .into_bytes();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let mut script = Script::default();
        let (digest, layer_digest) = (of(&manifest), of(&layer));
        for (path, kind, body) in [
            ("manifests/1".to_owned(), index_type, index),
            (format!("manifests/{digest}"), manifest_type, manifest),
            (format!("blobs/{}", of(&config)), "application/octet-stream", config),
            (format!("blobs/{layer_digest}"), "application/octet-stream", layer),
        ] {
            script.content.insert(format!("/v2/team/app/{path}"), (kind.to_owned(), body));
        }
        let script = Arc::new(Mutex::new(script));
        let shared = script.clone();
        let own = host.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone(), own.clone()));
            }
        });
        let layer = format!("/v2/team/app/blobs/{layer_digest}");
        Self { host, script, digest, layer, _task: task }
    }

    fn name(&self) -> String {
        format!("{}/team/app:1", self.host)
    }

    fn fault(&self, path: &str, faults: Vec<Fault>) {
        self.script.lock().unwrap().faults.insert(path.to_owned(), faults);
    }

    fn count(&self, path: &str) -> usize {
        self.script.lock().unwrap().seen.iter().filter(|(seen, ..)| seen == path).count()
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Mutex<Script>>, host: String) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let header = |name: &str| {
            head.lines().find_map(|line| {
                line.to_lowercase().starts_with(name).then(|| line.split_once(": ").unwrap().1.to_owned())
            })
        };
        let (range, authorization) = (header("range:"), header("authorization:"));
        let (answer, stall) = answer(&script, &path, range, authorization, &host);
        if script.lock().unwrap().slow && path.contains("blobs") {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let cut = stream.write_all(&answer.0).await.is_err() || answer.1;
        if stall {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        if cut {
            return;
        }
    }
}

/// Bytes to send, whether to close, whether to stall.
fn answer(
    script: &Mutex<Script>,
    path: &str,
    range: Option<String>,
    authorization: Option<String>,
    host: &str,
) -> ((Vec<u8>, bool), bool) {
    let mut script = script.lock().unwrap();
    script.seen.push((path.to_owned(), range.clone(), authorization.clone()));
    if path.starts_with("/token?") {
        let good = authorization.as_deref() == Some("Basic dTpw")
            && path.contains("scope=repository%3Ateam%2Fapp%3Apull");
        let body =
            if good { format!("{{\"token\":\"{}\"}}", script.token.clone().unwrap()) } else { "{}".into() };
        let status = if good { "200 OK" } else { "401 Unauthorized" };
        return (
            (
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes(),
                false,
            ),
            false,
        );
    }
    if let Some(token) = &script.token
        && authorization != Some(format!("Bearer {token}"))
    {
        let ask = format!(
            "Bearer realm=\"http://{host}/token\",service=\"fake\",scope=\"repository:team/app:pull\""
        );
        return (
            (
                format!("HTTP/1.1 401 Unauthorized\r\nwww-authenticate: {ask}\r\ncontent-length: 0\r\n\r\n")
                    .into_bytes(),
                false,
            ),
            false,
        );
    }
    let fault =
        script.faults.get_mut(path).filter(|faults| !faults.is_empty()).map(|faults| faults.remove(0));
    if let Some(Fault::Status(status)) = fault {
        return ((format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into_bytes(), false), false);
    }
    let Some((kind, body)) = script.content.get(path) else {
        let text = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        return (
            (
                format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{text}", text.len())
                    .into_bytes(),
                false,
            ),
            false,
        );
    };
    let offset = range
        .and_then(|range| range.trim().strip_prefix("bytes=")?.trim_end_matches('-').parse::<usize>().ok());
    let (status, body) = match (offset, &fault) {
        (Some(offset), fault) if !matches!(fault, Some(Fault::NoRange)) => {
            ("206 Partial Content", &body[offset..])
        }
        _ => ("200 OK", &body[..]),
    };
    let mut out =
        format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len())
            .into_bytes();
    match fault {
        Some(Fault::Cut(length)) => {
            out.extend_from_slice(&body[..length]);
            ((out, true), false)
        }
        Some(Fault::Stall(length)) => {
            out.extend_from_slice(&body[..length]);
            ((out, true), true)
        }
        _ => {
            out.extend_from_slice(body);
            ((out, false), false)
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_transfers_are_resumed() {
    let fixture = Fixture::new();
    let fake = Fake::new(600_000).await;
    let images = store_for(&fixture, "s", &[(&fake.host, insecure())]);
    fake.fault(
        "/v2/team/app/manifests/1",
        vec![
            Fault::Status("503 Service Unavailable"),
            Fault::Status("429 Too Many Requests\r\nretry-after: 0"),
            Fault::Cut(3),
        ],
    );
    fake.fault(
        &fake.layer,
        vec![Fault::Cut(100_000), Fault::Stall(50_000), Fault::Status("500 Oops"), Fault::NoRange],
    );
    let image = images.pull(&fake.name(), PullOptions::default()).await.unwrap();
    assert_eq!(image.digest.to_string(), fake.digest);
    let ranges: Vec<_> = fake
        .script
        .lock()
        .unwrap()
        .seen
        .iter()
        .filter(|(path, ..)| *path == fake.layer)
        .map(|(_, range, _)| range.clone())
        .collect();
    let at = |offset: usize| Some(format!("bytes={offset}-"));
    assert_eq!(ranges, [None, at(100_000), at(150_000), at(150_000)]);
    let plan = images.rootfs(&fake.name(), "c").await.unwrap();
    assert_eq!(plan.read_file("noise", 1 << 20).unwrap().unwrap().len(), 600_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_pulls_download_once() {
    let fixture = Fixture::new();
    let fake = Fake::new(50_000).await;
    fake.script.lock().unwrap().slow = true;
    let images = store_for(&fixture, "s", &[(&fake.host, insecure())]);
    let other = store_for(&fixture, "s", &[(&fake.host, insecure())]);
    let name = fake.name();
    // One of them gives up in the middle: the others do not notice.
    let cancel = CancellationToken::new();
    let quitter = images.pull(&name, PullOptions { cancel: cancel.clone(), ..PullOptions::default() });
    let rest = futures::future::join_all(
        (0..5)
            .map(|at| if at == 4 { &other } else { &images })
            .map(|images| images.pull(&name, PullOptions::default())),
    );
    let (quit, done, ()) = futures::future::join3(quitter, rest, async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cancel.cancel();
    })
    .await;
    assert_eq!(quit.unwrap_err().kind(), ErrorKind::Cancelled);
    done.into_iter().for_each(|result| drop(result.unwrap()));
    assert_eq!(fake.count(&fake.layer), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_pull_keeps_bytes_and_continues() {
    let fixture = Fixture::new();
    let fake = Fake::new(600_000).await;
    let images = store_for(&fixture, "s", &[(&fake.host, insecure())]);
    fake.fault(&fake.layer, vec![Fault::Stall(200_000)]);
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let progress: sampan_image::ProgressFn = Arc::new(move |event| {
        if matches!(event, Progress::Layer { done: 200_000, .. }) {
            stop.cancel();
        }
    });
    let options = PullOptions { cancel, progress: Some(progress), ..PullOptions::default() };
    assert_eq!(images.pull(&fake.name(), options).await.unwrap_err().kind(), ErrorKind::Cancelled);
    images.pull(&fake.name(), PullOptions::default()).await.unwrap();
    let last = fake.script.lock().unwrap().seen.last().unwrap().1.clone();
    assert!(last.is_some_and(|range| range != "bytes=0-"), "the second pull began anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_is_refused() {
    let fixture = Fixture::new();
    let fake = Fake::new(10_000).await;
    let images = store_for(&fixture, "s", &[(&fake.host, insecure())]);
    let good = fake.script.lock().unwrap().content.clone();
    let change = |path: &str, at: usize| {
        fake.script.lock().unwrap().content.get_mut(path).unwrap().1[at] ^= 1;
    };
    change(&fake.layer, 2000);
    let error = images.pull(&fake.name(), PullOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    // Damage to the tar header is reported as damage, not as a bad tar.
    fake.script.lock().unwrap().content.clone_from(&good);
    change(&fake.layer, 0);
    let error = images.pull(&fake.name(), PullOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    fake.script.lock().unwrap().content.clone_from(&good);
    change(&format!("/v2/team/app/manifests/{}", fake.digest), 20);
    let error = images.pull(&fake.name(), PullOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("manifest sha256:"), "{error}");
    // Leftovers of an earlier attempt that are wrong are replaced.
    fake.script.lock().unwrap().content.clone_from(&good);
    let hex = fake.layer.rsplit(':').next().unwrap();
    fs::write(fixture.path("s/images/partial").join(hex), vec![7; 5000]).unwrap();
    images.pull(&fake.name(), PullOptions::default()).await.unwrap();
    let error = images.pull(&format!("{}/team/app:2", fake.host), PullOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("manifest unknown"), "{error}");
    assert!(images.list().await.unwrap().len() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_mirrors_and_plain_http() {
    let fixture = Fixture::new();
    let fake = Fake::new(10_000).await;
    fake.script.lock().unwrap().token = Some("secret-token".into());
    // Plain HTTP is not spoken unless configured.
    let strict = store_for(&fixture, "strict", &[]);
    let error = strict.pull(&fake.name(), PullOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Registry(RegistryFailure::Unavailable), "{error}");
    assert_eq!(fake.script.lock().unwrap().seen.len(), 0);
    let images = store_for(&fixture, "s", &[(&fake.host, insecure())]);
    let error = images.pull(&fake.name(), PullOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Registry(RegistryFailure::Denied), "{error}");
    let credentials = basic(&fake.host, "u", "p");
    images.pull(&fake.name(), PullOptions { credentials, ..PullOptions::default() }).await.unwrap();
    assert!(
        fake.script.lock().unwrap().seen.iter().filter(|(path, ..)| path.starts_with("/token")).count() <= 2
    );

    // A dead mirror first, then the living one, for a registry that is never reached.
    let mirrors = vec!["127.0.0.1:1".to_owned(), fake.host.clone()];
    let hosts = [
        ("registry.invalid", RegistryOptions { mirrors, ..RegistryOptions::default() }),
        ("127.0.0.1:1", insecure()),
        (fake.host.as_str(), insecure()),
    ];
    let dir = fixture.path("mirrored");
    let mut options = options(&dir);
    options.limits.attempts = 1;
    options.registries.hosts = hosts.into_iter().map(|(host, options)| (host.to_owned(), options)).collect();
    let images = Images::open(options).unwrap();
    let mut credentials = basic(&fake.host, "u", "p");
    credentials
        .add("registry.invalid", Auth::Basic { username: "not".into(), password: "for mirrors".into() });
    let image = images
        .pull("registry.invalid/team/app:1", PullOptions { credentials, ..PullOptions::default() })
        .await
        .unwrap();
    assert_eq!(image.reference, "registry.invalid/team/app:1");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_verified() {
    use sampan_daemon::tls::{Ca, Profile, Usage};
    need("skopeo");
    let fixture = Fixture::new();
    let dir = fixture.path("tls");
    fs::create_dir(&dir).unwrap();
    let ca = Ca::load_or_create(&dir, "test").unwrap();
    let profile = Profile {
        common_name: "registry".into(),
        organizations: Vec::new(),
        dns: Vec::new(),
        ips: vec!["127.0.0.1".parse().unwrap()],
        usage: Usage::Server,
        days: 1,
    };
    let issued = ca.issue(&profile).unwrap();
    fs::write(dir.join("cert.pem"), &issued.cert_pem).unwrap();
    fs::write(dir.join("key.pem"), &issued.key_pem).unwrap();
    fs::write(dir.join("ca-only.pem"), ca.cert_pem()).unwrap();
    let (_server, host) = docker_registry(&fixture, false, Some(&dir));
    let archive = fixture.path("image.tar");
    fs::write(&archive, docker_archive(&[&tar(&[file("x", b"1")])], "x:1", None)).unwrap();
    let (from, to) = (format!("docker-archive:{}", archive.display()), format!("docker://{host}/x:1"));
    run("skopeo", &["--insecure-policy", "copy", "-q", "--dest-tls-verify=false", &from, &to]);
    let name = format!("{host}/x:1");
    let dir_ = fixture.path("stranger");
    let mut options = options(&dir_);
    options.limits.attempts = 1;
    let error = Images::open(options).unwrap().pull(&name, PullOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("certificate") && error.to_string().contains("ca_file"), "{error}");
    let trusting = RegistryOptions { ca_file: Some(dir.join("ca-only.pem")), ..RegistryOptions::default() };
    let images = store_for(&fixture, "friend", &[(&host, trusting)]);
    images.pull(&name, PullOptions::default()).await.unwrap();
}
