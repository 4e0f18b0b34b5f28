//! A registry in this process or in one of its own, and a plain HTTP client that does what it is told.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use sampan_daemon::Supervisor;
use sampan_registry::{Digest, Options, Registry};
use serde_json::{Value, json};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const BOUND: Duration = Duration::from_secs(60);

/// A registry in this process.
pub struct Server {
    pub address: SocketAddr,
    pub dir: PathBuf,
    pub socket: PathBuf,
    supervisor: Supervisor,
    runtime: Option<tokio::runtime::Runtime>,
    _keep: Option<tempfile::TempDir>,
}

impl Server {
    /// One in a fresh directory, open to anybody unless `change` says otherwise.
    pub fn start(change: impl FnOnce(&mut Options)) -> Self {
        let keep = tempfile::tempdir().unwrap();
        let dir = keep.path().join("registry");
        let mut server = Self::on(&dir, change);
        server._keep = Some(keep);
        server
    }

    pub fn on(dir: &Path, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::new(dir, vec![([127, 0, 0, 1], 0).into()]);
        options.open = true;
        change(&mut options);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let supervisor = Supervisor::new();
        let handle = runtime.block_on(Registry::start(options, &supervisor)).unwrap();
        Self {
            address: handle.addresses()[0],
            dir: dir.to_owned(),
            socket: handle.socket().to_owned(),
            supervisor,
            runtime: Some(runtime),
            _keep: None,
        }
    }

    /// End it as a service manager would.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            let late = runtime.block_on(self.supervisor.shutdown(Duration::from_secs(20)));
            assert!(late.is_empty(), "did not end: {late:?}");
            // The store's lock is free when this returns.
            runtime.shutdown_timeout(Duration::from_secs(20));
        }
    }

    pub fn client(&self) -> Client {
        Client { address: self.address, authorization: None }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.address.port())
    }

    /// Ask as the administrator, through the socket.
    pub fn admin(&self, method: &str, path: &str, body: Value) -> Answer {
        let stream = std::os::unix::net::UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        exchange(stream, method, &format!("/api/v1/{path}"), &[], body.as_bytes()).unwrap()
    }

    /// Collect everything that was not needed for a second.
    pub fn collect(&self, pack: bool) -> Value {
        std::thread::sleep(Duration::from_millis(2100));
        self.admin("POST", "gc", json!({ "graceSeconds": 1, "pack": pack })).is(201).json()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {}", self.headers, String::from_utf8_lossy(&self.body));
        self
    }

    /// A refusal with this status and code.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Self {
        let said = String::from_utf8_lossy(&self.body).into_owned();
        let value: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        assert_eq!((self.status, value["errors"][0]["code"].as_str()), (status, Some(code)), "{said}");
        assert!(value["errors"][0]["message"].as_str().is_some_and(|message| !message.is_empty()), "{said}");
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers))
    }
}

/// A client of one registry.
#[derive(Clone, Debug)]
pub struct Client {
    pub address: SocketAddr,
    pub authorization: Option<String>,
}

impl Client {
    pub fn basic(&self, user: &str, password: &str) -> Self {
        let value = STANDARD.encode(format!("{user}:{password}"));
        Self { authorization: Some(format!("Basic {value}")), ..self.clone() }
    }

    pub fn bearer(&self, token: &str) -> Self {
        Self { authorization: Some(format!("Bearer {token}")), ..self.clone() }
    }

    pub fn try_ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(BOUND))?;
        let mut all = headers.to_vec();
        if let Some(value) = &self.authorization {
            all.push(("authorization", value));
        }
        exchange(stream, method, path, &all, body)
    }

    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_ask(method, path, headers, body).unwrap()
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    pub fn begin(&self, name: &str) -> String {
        self.ask("POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"")
            .is(202)
            .header("location")
            .to_owned()
    }

    /// Push in one request.
    pub fn push_blob(&self, name: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        self.ask("POST", &path, &[], bytes).is(201);
        digest
    }

    pub fn put_manifest(&self, name: &str, reference: &str, kind: &str, manifest: &Value) -> Answer {
        let path = format!("/v2/{name}/manifests/{reference}");
        self.ask("PUT", &path, &[("content-type", kind)], manifest.to_string().as_bytes())
    }

    /// An image of these layers under a tag. Returns the manifest's digest.
    pub fn push_image(&self, name: &str, tag: &str, layers: &[&[u8]]) -> Digest {
        let layers: Vec<Value> = layers
            .iter()
            .map(|layer| {
                let digest = self.push_blob(name, layer);
                json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": layer.len() })
            })
            .collect();
        let config = format!("{{\"made\":\"for {name}:{tag}\"}}");
        let digest = self.push_blob(name, config.as_bytes());
        let config = json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": config.len() });
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        self.put_manifest(name, tag, MANIFEST, &manifest).is(201);
        Digest::of(manifest.to_string().as_bytes())
    }
}

/// One request on one connection.
pub fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Answer> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: registry.test\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() || matches!(method, "PUT" | "PATCH" | "POST") {
        head += &format!("content-length: {}\r\n", body.len());
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    // A server that refuses early may not read it all.
    let sent = stream.write_all(body);
    let answer = read_answer(&mut stream, method == "HEAD");
    match answer {
        Err(error) => sent.and(Err(error)),
        answer => answer,
    }
}

pub fn read_answer(stream: &mut impl Read, head_only: bool) -> std::io::Result<Answer> {
    let mut all = Vec::new();
    let cut = |what: &str| std::io::Error::new(std::io::ErrorKind::UnexpectedEof, what.to_owned());
    let end = loop {
        let mut buffer = [0; 16 << 10];
        let read = stream.read(&mut buffer)?;
        all.extend_from_slice(&buffer[..read]);
        if let Some(end) = all.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if read == 0 {
            return Err(cut("no head"));
        }
    };
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    let mut body = all.split_off(end + 4);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    if !head_only {
        let chunked = headers.get("transfer-encoding").is_some_and(|value| value == "chunked");
        match headers.get("content-length").map(|length| length.parse::<usize>().unwrap()) {
            Some(length) => {
                let before = body.len().min(length);
                body.resize(length, 0);
                stream.read_exact(&mut body[before..])?;
            }
            None if status == 204 => {}
            None => {
                stream.read_to_end(&mut body)?;
                if chunked {
                    body = unchunk(&body).ok_or_else(|| cut("the last chunk is missing"))?;
                }
            }
        }
    }
    Ok(Answer { status, headers, body })
}

fn unchunk(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let line = body.windows(2).position(|w| w == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&body[..line]).ok()?, 16).ok()?;
        if length == 0 {
            return Some(out);
        }
        out.extend_from_slice(body.get(line + 2..line + 2 + length)?);
        body = &body[line + 2 + length + 2..];
    }
}

/// Bytes that do not compress, the same each time.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

/// Text that compresses, the same each time.
pub fn text(seed: u64, length: usize) -> Vec<u8> {
    let words = noise(seed, length / 3 + 8);
    let mut out = Vec::with_capacity(length + 16);
    for pair in words.chunks(2) {
        out.extend_from_slice(
            format!("word{} ", u16::from(pair[0]) << 2 | u16::from(*pair.get(1).unwrap_or(&0)) & 3)
                .as_bytes(),
        );
        if out.len() >= length {
            break;
        }
    }
    out.truncate(length);
    out
}

pub fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[track_caller]
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !check() {
        assert!(begun.elapsed() < BOUND, "not so in time: {what}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// Run to the end; its output when it succeeded.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// All bytes of files below a directory.
pub fn disk(dir: &Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let meta = entry.metadata().unwrap();
        sum += if meta.is_dir() { disk(&entry.path()) } else { meta.len() };
    }
    sum
}

/// A registry in a process of its own, which can be killed.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
}

const CHILD: &str = "SAMPAN_REGISTRY_TEST_CHILD";

impl Process {
    /// This test program again, as a registry. `options`: JSON that [`child`] understands.
    pub fn start(dir: &Path, options: &Value) -> Self {
        let port_file = dir.with_extension("port");
        let _ = std::fs::remove_file(&port_file);
        let options = json!({ "dir": dir, "port": port_file, "options": options });
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "support::child", "--nocapture"])
            .env(CHILD, options.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut process = Self { child, address: ([127, 0, 0, 1], 0).into() };
        eventually("the registry runs", || {
            assert!(process.child.try_wait().unwrap().is_none(), "it ended");
            match std::fs::read_to_string(&port_file).ok().and_then(|text| text.parse().ok()) {
                Some(address) => {
                    process.address = address;
                    true
                }
                None => false,
            }
        });
        process
    }

    pub fn client(&self) -> Client {
        Client { address: self.address, authorization: None }
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: the body of [`Process`].
#[test]
fn child() {
    let Ok(given) = std::env::var(CHILD) else { return };
    let given: Value = serde_json::from_str(&given).unwrap();
    let dir = given["dir"].as_str().unwrap();
    let options = given["options"].clone();
    let server = Server::on(Path::new(dir), move |all| {
        if let Some(bucket) = options["bucket"].as_object() {
            let word = |name: &str| bucket[name].as_str().unwrap().to_owned();
            all.bucket = Some(sampan_registry::Bucket {
                endpoint: Some(word("endpoint")),
                name: word("name"),
                prefix: "registry".into(),
                region: "us-east-1".into(),
                access_key: word("key"),
                secret_key: word("secret"),
            });
        }
        if let Some(bytes) = options["fileBytes"].as_u64() {
            // A disk of this size, for files.
            nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_FSIZE, bytes, bytes).unwrap();
            // SAFETY: the handler is one of the system's.
            unsafe {
                nix::sys::signal::signal(
                    nix::sys::signal::Signal::SIGXFSZ,
                    nix::sys::signal::SigHandler::SigIgn,
                )
            }
            .unwrap();
        }
    });
    let port = Path::new(given["port"].as_str().unwrap());
    std::fs::write(port.with_extension("new"), server.address.to_string()).unwrap();
    std::fs::rename(port.with_extension("new"), port).unwrap();
    loop {
        std::thread::park();
    }
}
