//! Real clients: docker, skopeo, umoci, helm, podman, buildah. Over TLS with a name and a password, as people use them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use sampan_daemon::tls::{Ca, Identity, Profile, Usage};
use serde_json::{Value, json};

use crate::support::{Server, noise, run, text};

struct Secure {
    server: Server,
    dir: tempfile::TempDir,
    user: String,
}

/// A registry as it is by default: TLS, and nobody comes in without a password.
fn secure() -> Secure {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::load_or_create(dir.path(), "test-ca").unwrap();
    let profile = Profile {
        common_name: "registry".into(),
        organizations: vec![],
        dns: vec!["localhost".into()],
        ips: vec![[127, 0, 0, 1].into()],
        usage: Usage::Server,
        days: 1,
    };
    let identity = Identity::new(ca.issue(&profile).unwrap()).unwrap();
    let server = Server::start(|options| {
        options.open = false;
        options.identity = Some(identity);
    });
    let password = std::fs::read_to_string(server.dir.join("admin-password")).unwrap();
    server.admin("POST", "projects", json!({ "name": "apps" })).is(201);
    // Clients take a key beside it for their own.
    let certs = dir.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    std::fs::copy(dir.path().join("ca.crt"), certs.join("ca.crt")).unwrap();
    Secure { user: format!("admin:{}", password.trim()), server, dir }
}

/// An OCI layout with one image, made by umoci.
fn layout(dir: &Path, file: &[u8]) -> PathBuf {
    let path = dir.join("layout");
    std::fs::write(dir.join("payload"), file).unwrap();
    run(Command::new("umoci").arg("init").arg("--layout").arg(&path));
    let image = format!("{}:v1", path.display());
    run(Command::new("umoci").args(["new", "--image", &image]));
    run(Command::new("umoci").args(["insert", "--image", &image]).arg(dir.join("payload")).arg("/payload"));
    path
}

#[test]
fn skopeo_copies_inspects_syncs_and_deletes() {
    let Secure { server, dir, user } = secure();
    let path = layout(dir.path(), &noise(1, 3 << 20));
    let host = server.host();
    let certs = dir.path().join("certs");
    let skopeo = |arguments: &[&str]| {
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy"]).args(arguments);
        run(&mut command)
    };
    let certs = certs.to_str().unwrap();
    let source = format!("oci:{}:v1", path.display());
    let target = format!("docker://{host}/apps/tool:v1");
    let to = ["--dest-creds", &user, "--dest-cert-dir", certs];
    let from = ["--src-creds", &user, "--src-cert-dir", certs];
    skopeo(&[&["copy"][..], &to, &[&source, &target]].concat());
    // As Docker has it, and compressed with zstd.
    skopeo(
        &[&["copy", "--format", "v2s2"][..], &to, &[&source, &format!("docker://{host}/apps/tool:docker")]]
            .concat(),
    );
    skopeo(
        &[
            &["copy", "--dest-compress-format", "zstd"][..],
            &to,
            &[&source, &format!("docker://{host}/apps/zstd:v1")],
        ]
        .concat(),
    );
    let inspected: Value =
        serde_json::from_str(&skopeo(&["inspect", "--creds", &user, "--cert-dir", certs, &target])).unwrap();
    assert_eq!(inspected["RepoTags"], json!(["docker", "v1"]));
    let tags: Value = serde_json::from_str(&skopeo(&[
        "list-tags",
        "--creds",
        &user,
        "--cert-dir",
        certs,
        &format!("docker://{host}/apps/tool"),
    ]))
    .unwrap();
    assert_eq!(tags["Tags"], json!(["docker", "v1"]));
    // Back, and unpacked it is what it was.
    let back = dir.path().join("back");
    let copy = format!("oci:{}:v1", back.display());
    skopeo(&[&["copy"][..], &from, &[&target, &copy]].concat());
    let bundle = dir.path().join("bundle");
    run(Command::new("umoci").args(["unpack", "--image", &format!("{}:v1", back.display())]).arg(&bundle));
    assert!(std::fs::read(bundle.join("rootfs/payload")).unwrap() == noise(1, 3 << 20));
    // A whole repository to another place here, and to a directory.
    let synced = dir.path().join("synced");
    std::fs::create_dir(&synced).unwrap();
    skopeo(
        &[
            &["sync", "--src", "docker", "--dest", "dir"][..],
            &from,
            &[&format!("{host}/apps/tool"), synced.to_str().unwrap()],
        ]
        .concat(),
    );
    assert!(
        synced.join("tool:v1/manifest.json").exists() && synced.join("tool:docker/manifest.json").exists()
    );
    skopeo(&["delete", "--creds", &user, "--cert-dir", certs, &format!("docker://{host}/apps/tool:docker")]);
    let tags: Value = serde_json::from_str(&skopeo(&[
        "list-tags",
        "--creds",
        &user,
        "--cert-dir",
        certs,
        &format!("docker://{host}/apps/tool"),
    ]))
    .unwrap();
    assert_eq!(tags["Tags"], json!(["v1"]));
    // Without a password, and with a wrong one.
    let refused = Command::new("skopeo")
        .args(["inspect", "--no-creds", "--cert-dir", certs, &target])
        .output()
        .unwrap();
    assert!(
        !refused.status.success()
            && String::from_utf8_lossy(&refused.stderr).contains("authentication required")
    );
    let refused = Command::new("skopeo")
        .args(["inspect", "--creds", "admin:no", "--cert-dir", certs, &target])
        .output()
        .unwrap();
    assert!(!refused.status.success());
    // Everything is still the same after it was packed.
    server.collect(true);
    skopeo(
        &[&["copy"][..], &from, &[&target, &format!("oci:{}:again", dir.path().join("again").display())]]
            .concat(),
    );
}

#[test]
fn helm_pushes_and_pulls_charts() {
    let helm = PathBuf::from(std::env::var("HOME").unwrap()).join(".cache/sampan/clients/helm/helm");
    let helm = if helm.exists() { helm } else { "helm".into() };
    let Secure { server, dir, user } = secure();
    let (user, password) = user.split_once(':').unwrap();
    let home = dir.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let ca = dir.path().join("ca.crt");
    let run_helm = |arguments: &[&str]| {
        run(Command::new(&helm)
            .args(arguments)
            .env("HOME", &home)
            .env("HELM_REGISTRY_CONFIG", home.join("config.json"))
            .current_dir(&home))
    };
    let host = server.host();
    run_helm(&["create", "boat"]);
    run_helm(&["package", "boat"]);
    run_helm(&["registry", "login", &host, "-u", user, "-p", password, "--ca-file", ca.to_str().unwrap()]);
    run_helm(&["push", "boat-0.1.0.tgz", &format!("oci://{host}/apps"), "--ca-file", ca.to_str().unwrap()]);
    std::fs::remove_file(home.join("boat-0.1.0.tgz")).unwrap();
    run_helm(&[
        "pull",
        &format!("oci://{host}/apps/boat"),
        "--version",
        "0.1.0",
        "--ca-file",
        ca.to_str().unwrap(),
    ]);
    assert!(home.join("boat-0.1.0.tgz").exists());
    let artifacts = server.admin("GET", "artifacts?repository=apps/boat", Value::Null).is(200).json();
    assert_eq!(artifacts[0]["artifactType"], "application/vnd.cncf.helm.config.v1+json");
}

#[test]
fn buildah_and_podman_push_and_pull() {
    let Secure { server, dir, user } = secure();
    let host = server.host();
    let (root, runroot) = (dir.path().join("storage"), dir.path().join("run"));
    let common =
        ["--root", root.to_str().unwrap(), "--runroot", runroot.to_str().unwrap(), "--storage-driver", "vfs"];
    let policy = dir.path().join("policy.json");
    std::fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    let certs = dir.path().join("certs");
    let certs = certs.to_str().unwrap();
    let with = ["--creds", &user, "--cert-dir", certs];
    let payload = dir.path().join("payload");
    std::fs::write(&payload, noise(3, 500_000)).unwrap();
    let tool = |program: &str, arguments: &[&str]| {
        run(Command::new(program).args(common).args(arguments).env("TMPDIR", dir.path()))
    };
    let image = format!("{host}/apps/built:v1");
    let container = tool("buildah", &["from", "scratch"]);
    tool("buildah", &["copy", container.trim(), payload.to_str().unwrap(), "/payload"]);
    tool("buildah", &["commit", "--signature-policy", policy.to_str().unwrap(), container.trim(), &image]);
    tool(
        "buildah",
        &[&["push", "--signature-policy", policy.to_str().unwrap()][..], &with, &[&image]].concat(),
    );
    tool("podman", &["rmi", "--force", &image]);
    tool(
        "podman",
        &[&["pull", "--signature-policy", policy.to_str().unwrap()][..], &with, &[&image]].concat(),
    );
    assert!(
        tool("podman", &["images", "--noheading", "--format", "{{.Repository}}:{{.Tag}}"]).contains(&image)
    );
    tool("podman", &["tag", &image, &format!("{host}/apps/built:v2")]);
    tool(
        "podman",
        &[
            &["push", "--signature-policy", policy.to_str().unwrap()][..],
            &with,
            &[&format!("{host}/apps/built:v2")],
        ]
        .concat(),
    );
    let artifacts = server.admin("GET", "artifacts?repository=apps/built", Value::Null).is(200).json();
    assert!(
        artifacts
            .as_array()
            .unwrap()
            .iter()
            .any(|artifact| artifact["tags"].as_array().unwrap().contains(&json!("v2")))
    );
    tool("buildah", &["rm", "--all"]);
    tool("podman", &["rmi", "--all", "--force"]);
}

/// A docker daemon that touches nothing but its own directories.
struct Dockerd {
    child: std::process::Child,
    socket: String,
}

impl Dockerd {
    fn start(dir: &Path) -> Self {
        let socket = format!("unix://{}", dir.join("docker.sock").display());
        let log = std::fs::File::create(dir.join("dockerd.log")).unwrap();
        let child = Command::new("dockerd")
            .args([
                "--bridge=none",
                "--iptables=false",
                "--ip-forward=false",
                "--ip-masq=false",
                "-H",
                &socket,
            ])
            .arg("--data-root")
            .arg(dir.join("data"))
            .arg("--exec-root")
            .arg(dir.join("exec"))
            .arg("--pidfile")
            .arg(dir.join("docker.pid"))
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Self { child, socket };
        let answers = || {
            let asked = Command::new("docker").args(["-H", &daemon.socket, "version"]).output().unwrap();
            asked.status.success()
        };
        crate::support::eventually("dockerd answers", answers);
        daemon
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // It ends its containerd, too, and unmounts.
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

#[test]
fn docker_pushes_and_pulls_also_what_was_packed() {
    let Secure { server, dir, user } = secure();
    let (user, password) = user.split_once(':').unwrap();
    let daemon = Dockerd::start(dir.path());
    let config = dir.path().join("docker-config");
    let docker = |arguments: &[&str]| {
        run(Command::new("docker").arg("--config").arg(&config).args(["-H", &daemon.socket]).args(arguments))
    };
    let host = server.host();
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("words"), text(3, 2 << 20)).unwrap();
    std::fs::write(tree.join("noise"), noise(3, 300_000)).unwrap();
    let tar = dir.path().join("tree.tar");
    run(Command::new("tar").arg("cf").arg(&tar).arg("-C").arg(&tree).arg("."));
    let image = format!("{host}/apps/docked:v1");
    docker(&["import", tar.to_str().unwrap(), &image]);
    docker(&["login", &host, "-u", user, "-p", password]);
    docker(&["push", &image]);
    let id = docker(&["image", "inspect", "--format", "{{.Id}}", &image]);
    docker(&["rmi", &image]);
    docker(&["pull", &image]);
    assert_eq!(docker(&["image", "inspect", "--format", "{{.Id}}", &image]), id);
    // The layer is Go's gzip. It is taken apart, and comes back as it was: the daemon compares the digest.
    let report = server.collect(true);
    assert_eq!(report["packed"], 1, "{report}");
    docker(&["rmi", &image]);
    docker(&["pull", &image]);
    assert_eq!(docker(&["image", "inspect", "--format", "{{.Id}}", &image]), id);
    // Nothing of it is sent twice, and another repository takes it over.
    let other = format!("{host}/apps/other:v1");
    docker(&["tag", &image, &other]);
    assert!(docker(&["push", &other]).contains("Mounted from apps/docked"));
    docker(&["logout", &host]);
    let refused = Command::new("docker")
        .arg("--config")
        .arg(&config)
        .args(["-H", &daemon.socket, "pull", &image])
        .output()
        .unwrap();
    assert!(!refused.status.success());
}
