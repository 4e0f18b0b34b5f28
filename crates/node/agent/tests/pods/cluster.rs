//! One node and its API server in this process.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use sampan_agent::{Agent, ApiOptions, Capacity, Handle, Options, ZoneOptions};
use sampan_apiserver::{ApiServer, SigningKey, UserInfo};
use sampan_container::Runtime;
use sampan_daemon::Supervisor;
use sampan_daemon::tls::{self, Ca, Profile, Usage};
use sampan_image::{Images, ImportOptions};
use sampan_network::{Cidr, DnsOptions, Network};
use serde_json::{Value, json};

pub struct Cluster {
    pub client: Client,
    pub dir: tempfile::TempDir,
    pub node: Supervisor,
    pub handle: Handle,
    /// Of the next start of the agent.
    pub zones: ZoneOptions,
    control: Supervisor,
    ca: Arc<Ca>,
    id: String,
    images: Images,
    runtime: Runtime,
    server: sampan_apiserver::Handle,
}

fn profile(name: &str, groups: &[&str], usage: Usage) -> Profile {
    Profile {
        common_name: name.to_owned(),
        organizations: groups.iter().map(|group| (*group).to_owned()).collect(),
        dns: vec!["localhost".to_owned()],
        ips: vec!["127.0.0.1".parse().unwrap()],
        usage,
        days: 1,
    }
}

impl Cluster {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let id = format!("t{:07x}", std::process::id());
        std::fs::create_dir_all(dir.path().join("tls")).unwrap();
        let ca = Arc::new(Ca::load_or_create(&dir.path().join("tls"), "test").unwrap());
        let control = Supervisor::new();
        let server = start_server(dir.path(), &ca, &control).await;
        write_kubeconfig(dir.path(), &ca, server.addresses()[0]);
        let client = Client::new(server.client(UserInfo::admin("admin")), "default");
        let images = Images::open(sampan_image::Options::new(dir.path().join("images"))).unwrap();
        import_busybox(&images, dir.path()).await;
        let node = Supervisor::new();
        let zones = ZoneOptions::default();
        let place = (dir.path(), id.as_str(), &zones);
        let (handle, runtime) = start_agent(place, &ca, &server, &images, &node).await;
        assert!(handle.wait_ready(Duration::from_secs(10)).await, "node did not become Ready");
        let cluster = Self { client, dir, node, handle, zones, control, ca, id, images, runtime, server };
        cluster.create("v1", "ServiceAccount", json!({"metadata": {"name": "default"}})).await;
        cluster
    }

    /// As after kill -9 of the main process: every task of the agent ends, shims stay.
    pub async fn restart_agent(&mut self) {
        let left = self.node.shutdown(Duration::from_secs(5)).await;
        assert!(left.is_empty(), "tasks that did not end: {left:?}");
        self.start_agent().await;
    }

    /// Stop the agent and start it again after `between` ran.
    pub async fn restart_agent_after(&mut self, between: impl AsyncFnOnce(&Self)) {
        self.node.shutdown(Duration::from_secs(5)).await;
        between(self).await;
        self.start_agent().await;
    }

    /// Another agent where the last one was.
    async fn start_agent(&mut self) {
        self.node = Supervisor::new();
        let place = (self.dir.path(), self.id.as_str(), &self.zones);
        (self.handle, self.runtime) =
            start_agent(place, &self.ca, &self.server, &self.images, &self.node).await;
    }

    pub async fn stop(self) {
        self.node.shutdown(Duration::from_secs(5)).await;
        drop(self.handle);
        self.control.shutdown(Duration::from_secs(5)).await;
        let run = run_dir(&self.id);
        let runtime = runtime(&self.id, &Supervisor::new());
        for adopted in runtime.adopt().await.unwrap() {
            adopted.sandbox.remove().await.unwrap();
        }
        let _ = std::fs::remove_dir_all(run);
        for entry in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let _ = std::fs::remove_dir(entry.path().join(format!("sampan-{}", self.id)));
        }
        let _ = std::fs::remove_dir(format!("/sys/fs/cgroup/sampan-{}", self.id));
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    /// Create any object in the default namespace.
    pub async fn create(&self, api_version: &str, kind: &str, body: Value) {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource =
            kube::api::ApiResource::from_gvk(&kube::api::GroupVersionKind::gvk(group, version, kind));
        let api: Api<kube::api::DynamicObject> = Api::default_namespaced_with(self.client.clone(), &resource);
        let mut body = body;
        body["apiVersion"] = json!(api_version);
        body["kind"] = json!(kind);
        api.create(&PostParams::default(), &serde_json::from_value(body).unwrap()).await.unwrap();
    }

    /// Create a pod bound to this node.
    pub async fn run(&self, name: &str, mut spec: Value) -> Pod {
        let object = spec.as_object_mut().unwrap();
        object.insert("nodeName".into(), json!("node-a"));
        object.entry("automountServiceAccountToken").or_insert(json!(false));
        object.entry("terminationGracePeriodSeconds").or_insert(json!(1));
        for list in ["containers", "initContainers"] {
            for container in object.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                let container = container.as_object_mut().unwrap();
                container.entry("image").or_insert(json!("busybox:test"));
                container.entry("name").or_insert(json!("c"));
            }
        }
        let labels = json!({"app": name});
        let pod = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "spec": spec}))
            .unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap()
    }

    /// Wait until the pod is as `good` says.
    pub async fn wait(&self, name: &str, what: &str, good: impl Fn(&Pod) -> bool) -> Pod {
        self.wait_for(name, what, Duration::from_secs(20), good).await
    }

    pub async fn wait_for(
        &self,
        name: &str,
        what: &str,
        bound: Duration,
        good: impl Fn(&Pod) -> bool,
    ) -> Pod {
        let start = Instant::now();
        loop {
            let pod = self.pods().get_opt(name).await.unwrap();
            if let Some(pod) = &pod
                && good(pod)
            {
                return pod.clone();
            }
            if start.elapsed() > bound {
                let status = pod.map(|pod| serde_json::to_string_pretty(&pod.status).unwrap());
                let events = self.kubectl(&["get", "events"]).await;
                panic!(
                    "{name}: not {what}: {}\n{}",
                    status.unwrap_or_default(),
                    String::from_utf8_lossy(&events.stdout)
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn wait_gone(&self, name: &str) {
        let start = Instant::now();
        while self.pods().get_opt(name).await.unwrap().is_some() {
            assert!(start.elapsed() < Duration::from_secs(20), "{name} is not gone");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn delete(&self, name: &str) {
        self.pods().delete(name, &DeleteParams::default()).await.unwrap();
        self.wait_gone(name).await;
    }

    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("/usr/bin/kubectl");
        command.arg("--kubeconfig").arg(self.dir.path().join("kubeconfig")).args(arguments);
        command.env("HOME", self.dir.path()).kill_on_drop(true);
        command
    }

    pub async fn kubectl(&self, arguments: &[&str]) -> Output {
        let run = self.command(arguments).stdin(std::process::Stdio::null()).output();
        let output = tokio::time::timeout(Duration::from_secs(30), run).await;
        output.unwrap_or_else(|_| panic!("kubectl {arguments:?} took longer than 30 s")).unwrap()
    }

    /// kubectl that must succeed; its stdout.
    pub async fn kubectl_ok(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn spawn_kubectl(&self, arguments: &[&str]) -> tokio::process::Child {
        self.spawn_kubectl_with(arguments, &[])
    }

    pub fn spawn_kubectl_with(
        &self,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> tokio::process::Child {
        use std::process::Stdio;
        let mut command = self.command(arguments);
        command.envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub fn record_path(&self, uid: &str) -> PathBuf {
        run_dir(&self.id).join("records").join(format!("{uid}.json"))
    }

    /// Whether anything of a pod runs here.
    pub fn runs(&self, uid: &str) -> bool {
        self.runtime.pod(uid).is_some()
    }

    /// How many containers a pod's shim knows.
    pub async fn containers(&self, uid: &str) -> usize {
        self.runtime.pod(uid).unwrap().containers().await.unwrap().len()
    }

    /// Process id of a pod's shim.
    pub fn shim_pid(&self, uid: &str) -> i32 {
        i32::try_from(self.runtime.pod(uid).unwrap().shim_pid()).unwrap()
    }

    pub fn kubectl_script(&self, arguments: &str) -> String {
        format!("/usr/bin/kubectl --kubeconfig {} {arguments}", self.dir.path().join("kubeconfig").display())
    }
}

async fn start_server(dir: &Path, ca: &Ca, supervisor: &Supervisor) -> sampan_apiserver::Handle {
    let serving = ca.issue(&profile("kube-apiserver", &["system:masters"], Usage::Both)).unwrap();
    let store =
        sampan_store::embedded::Embedded::open(sampan_store::embedded::Options::new(dir.join("store")))
            .unwrap();
    let key = SigningKey::from_pem(&SigningKey::generate_pem().unwrap()).unwrap();
    let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
    let options = sampan_apiserver::Options {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        tls: tls::server_config(&serving, Some(ca.cert_pem()), false).unwrap(),
        node_tls: tls::client_config(ca.cert_pem(), Some(&serving)).unwrap(),
        signing_key: Arc::new(key),
        audiences: vec![issuer.clone()],
        issuer,
        static_tokens: Vec::new(),
        service_cidr: "10.143.0.0/16".parse().unwrap(),
        node_ports: (30000, 32767),
        advertise: None,
        store: Arc::new(store),
        front_proxy: None,
        limits: sampan_apiserver::Limits::default(),
    };
    ApiServer::bind(options).await.unwrap().start(supervisor).await.unwrap()
}

fn run_dir(id: &str) -> PathBuf {
    PathBuf::from(format!("/run/sampan/{id}"))
}

fn runtime(id: &str, supervisor: &Supervisor) -> Runtime {
    let options = sampan_container::Options::new(run_dir(id).join("shim"), format!("/sampan-{id}"));
    Runtime::new(options, supervisor.clone()).unwrap()
}

async fn start_agent(
    (dir, id, zones): (&Path, &str, &ZoneOptions),
    ca: &Ca,
    server: &sampan_apiserver::Handle,
    images: &Images,
    supervisor: &Supervisor,
) -> (Handle, Runtime) {
    let runtime = runtime(id, supervisor);
    let cidr = |a, b, prefix| Cidr::new(Ipv4Addr::new(10, a, b, 0), prefix).unwrap();
    let network = sampan_network::Options {
        bridge: format!("smp-{}", &id[..6]),
        node_cidr: cidr(142, 0, 24),
        pod_cidr: cidr(142, 0, 16),
        service_cidr: cidr(143, 0, 16),
        dns_address: Ipv4Addr::new(10, 143, 0, 10),
        dns: Some(DnsOptions {
            port: 53,
            domain: "cluster.local".to_owned(),
            upstreams: Vec::new(),
            ttl: Duration::from_secs(5),
        }),
        table: format!("sampan-{id}"),
        state_dir: dir.join("network"),
        mtu: 1500,
        masquerade: true,
    };
    let options = Options {
        client: Client::new(server.client(UserInfo::new("system:node:node-a", &["system:nodes"])), "default"),
        node_name: "node-a".to_owned(),
        node_ip: Ipv4Addr::LOCALHOST,
        labels: BTreeMap::from([("team".to_owned(), "test".to_owned())]),
        capacity: Capacity::default(),
        zones: zones.clone(),
        pod_cidr: Some("10.142.0.0/24".to_owned()),
        cluster_dns: Some(Ipv4Addr::new(10, 143, 0, 10)),
        cluster_domain: "cluster.local".to_owned(),
        host_resolv_conf: "nameserver 192.0.2.53\n".to_owned(),
        service_env: Vec::new(),
        pods_dir: dir.join("pods"),
        run_dir: run_dir(id),
        runtime: runtime.clone(),
        images: images.clone(),
        network: Network::start(network, supervisor).await.unwrap(),
        api: ApiOptions {
            port: 0,
            identity: sampan_daemon::tls::Identity::new(
                ca.issue(&profile("system:node:node-a", &["system:nodes"], Usage::Both)).unwrap(),
            )
            .unwrap(),
            client_ca: ca.cert_pem().to_owned(),
        },
        version: "v1.37.0+sampan".to_owned(),
        runtime_version: "0.1.0".to_owned(),
    };
    (Agent::start(options, supervisor).await.unwrap(), runtime)
}

fn write_kubeconfig(dir: &Path, ca: &Ca, address: SocketAddr) {
    let admin = ca.issue(&profile("admin", &["system:masters"], Usage::Client)).unwrap();
    for (name, text) in
        [("ca.pem", ca.cert_pem()), ("admin.pem", &admin.cert_pem), ("admin.key", &admin.key_pem)]
    {
        std::fs::write(dir.join(name), text).unwrap();
    }
    let path = |name: &str| dir.join(name).display().to_string();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "t",
        "clusters": [{"name": "t", "cluster": {"server": format!("https://{address}"), "certificate-authority": path("ca.pem")}}],
        "users": [{"name": "t", "user": {"client-certificate": path("admin.pem"), "client-key": path("admin.key")}}],
        "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
    });
    std::fs::write(dir.join("kubeconfig"), config.to_string()).unwrap();
}

/// An image of busybox alone, made without any registry.
async fn import_busybox(images: &Images, dir: &Path) {
    let root = dir.join("root");
    for sub in ["bin", "etc", "tmp", "root", "proc", "sys", "dev"] {
        std::fs::create_dir_all(root.join(sub)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let applets = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines().filter(|name| *name != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33::/tmp:/bin/sh\n")
        .unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nwww:x:33:\n").unwrap();
    let tar = dir.join("busybox.tar");
    let status =
        std::process::Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status();
    assert!(status.unwrap().success());
    let options = ImportOptions {
        name: Some("busybox:test".into()),
        cmd: vec!["/bin/sh".into()],
        ..ImportOptions::default()
    };
    images.import(&tar, options).await.unwrap();
}

/// Poll a condition with a bound.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let start = Instant::now();
    while !check().await {
        assert!(start.elapsed() < Duration::from_secs(20), "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
