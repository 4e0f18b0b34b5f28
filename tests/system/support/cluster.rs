//! One instance: its own network namespace and data directory, the real binary, the real kubectl.

use std::{
    fs,
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;
use tempfile::TempDir;

use super::{NetNs, Ran, eventually, finish, leaks, until};

const BINARY: &str = env!("CARGO_BIN_EXE_sampan");
/// Seconds that one command may take.
const COMMAND_BOUND: &str = "90";

/// `sampan up` in a place of its own; taken down, and checked for leftovers, when dropped.
pub struct Cluster {
    pub ns: NetNs,
    dir: TempDir,
    /// The data directory is on a small disk of its own.
    small: bool,
}

impl Cluster {
    /// Up, with the image `busybox:1`, and the default service account made.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further options of `up`.
    pub fn start_with(options: &[&str]) -> Self {
        let cluster = Self::prepare();
        cluster.import();
        cluster.up_with(options);
        cluster
    }

    /// Nothing runs yet.
    pub fn prepare() -> Self {
        let dir = tempfile::Builder::new().prefix("sampan-system-").tempdir().unwrap();
        for sub in ["home", "work"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        Self { ns: NetNs::new(), dir, small: false }
    }

    /// Like `start`, on a disk of this many megabytes.
    pub fn start_on_small_disk(megabytes: u32) -> Self {
        let mut cluster = Self::prepare();
        let disk = cluster.dir.path().join("disk");
        fs::create_dir(&disk).unwrap();
        cluster.sh(&format!("mount -t tmpfs -o size={megabytes}m small {}", disk.display())).ok();
        cluster.small = true;
        cluster.import();
        cluster.up();
        cluster
    }

    fn import(&self) {
        self.sampan(&["image", "import", busybox().to_str().unwrap(), "busybox:1", "--cmd", "sh"]).ok();
    }

    /// `sampan up --detach`, until pods can be made in the default namespace.
    pub fn up(&self) {
        self.up_with(&[]);
    }

    fn up_with(&self, options: &[&str]) {
        self.sampan(&[&["up", "--detach", "--node-name", "node-a"], options].concat()).ok();
        until("the default service account", || {
            let account = self.get("/api/v1/namespaces/default/serviceaccounts/default");
            if account["kind"] == "ServiceAccount" { Ok(()) } else { Err(account.to_string()) }
        });
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join(if self.small { "disk/data" } else { "data" })
    }

    /// A directory that goes with the cluster.
    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// Write a file into the work directory.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.work().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub fn id(&self) -> Option<String> {
        let text = fs::read_to_string(self.data().join("instance.json")).ok()?;
        serde_json::from_str::<Value>(&text).ok()?["id"].as_str().map(str::to_owned)
    }

    /// A command in the cluster's network and environment; ended at the bound.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--foreground", "-k", "1", COMMAND_BOUND, "env", "--", program]);
        command.env("HOME", self.dir.path().join("home")).env("KUBECONFIG", self.data().join("kubeconfig"));
        command.env("KUBECACHEDIR", self.dir.path().join("home/cache")).env("SAMPAN_DATA_DIR", self.data());
        command.env("SAMPAN", BINARY).current_dir(self.work());
        self.ns.enter(&mut command);
        command
    }

    pub fn sampan(&self, arguments: &[&str]) -> Ran {
        finish(self.command(BINARY).args(arguments), b"")
    }

    /// A line of shell: `kubectl`, `sampan` as `$SAMPAN`, pipes.
    pub fn sh(&self, line: &str) -> Ran {
        self.sh_with(line, b"")
    }

    pub fn sh_with(&self, line: &str, stdin: &[u8]) -> Ran {
        finish(self.command("bash").args(["-o", "pipefail", "-c", line]), stdin)
    }

    /// `kubectl LINE`, which must succeed; what it wrote to stdout.
    #[track_caller]
    pub fn k(&self, line: &str) -> String {
        self.sh(&format!("kubectl {line}")).ok().out
    }

    #[track_caller]
    pub fn apply(&self, manifest: &str) {
        self.sh_with("kubectl apply -f -", manifest.as_bytes()).ok();
    }

    /// In the background: all of its output goes to a file.
    pub fn spawn(&self, name: &str, line: &str) -> Background {
        let path = self.work().join(name);
        let out = fs::File::create(&path).unwrap();
        let mut command = self.command("bash");
        command.args(["-c", &format!("exec {line}")]).stdin(Stdio::piped());
        command.stderr(out.try_clone().unwrap()).stdout(out).process_group(0);
        Background { child: command.spawn().unwrap(), path }
    }

    /// Raw GET as the administrator, parsed; `Null` where that is not possible.
    pub fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.curl(&format!("'https://127.0.0.1:6443{path}'")).out).unwrap_or_default()
    }

    /// `curl ARGUMENTS` with the administrator's certificate.
    pub fn curl(&self, arguments: &str) -> Ran {
        let pems = self.credentials();
        let dir = pems.display();
        self.sh(&format!(
            "curl -sS --cacert {dir}/ca.pem --cert {dir}/admin.pem --key {dir}/admin.key {arguments}"
        ))
    }

    /// `curl` with a method and a body; the status code and the parsed answer.
    pub fn send(&self, method: &str, path: &str, media: &str, body: &[u8]) -> (u16, Value) {
        let file = self.file("body", body);
        let ran = self.curl(&format!(
            "-X {method} -H 'Content-Type: {media}' --data-binary @{} -w '\\n%{{http_code}}' 'https://127.0.0.1:6443{path}'",
            file.display()
        ));
        let ran = ran.ok();
        let (answer, code) = ran.out.rsplit_once('\n').unwrap();
        (code.parse().unwrap(), serde_json::from_str(answer).unwrap_or_default())
    }

    /// The files that the kubeconfig carries, as curl wants them.
    pub fn credentials(&self) -> PathBuf {
        let dir = self.work().join("pems");
        let config = fs::read_to_string(self.data().join("kubeconfig")).unwrap_or_default();
        // A restart issues new ones.
        if fs::read_to_string(dir.join("of")).is_ok_and(|of| of == config) {
            return dir;
        }
        fs::create_dir_all(&dir).unwrap();
        for (key, file) in [
            ("certificate-authority-data", "ca.pem"),
            ("client-certificate-data", "admin.pem"),
            ("client-key-data", "admin.key"),
        ] {
            let line = config.lines().find_map(|line| line.trim().strip_prefix(&format!("{key}: ")));
            let decoded = finish(Command::new("base64").arg("-d"), line.unwrap_or_default().as_bytes());
            fs::write(dir.join(file), decoded.out).unwrap();
        }
        fs::write(dir.join("of"), config).unwrap();
        dir
    }

    /// A pod by name in the default namespace.
    pub fn pod(&self, name: &str) -> Value {
        self.get(&format!("/api/v1/namespaces/default/pods/{name}"))
    }

    /// Wait until a pod is as `good` says.
    #[track_caller]
    pub fn wait_pod(&self, name: &str, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        until(&format!("{name} {what}"), || {
            let pod = self.pod(name);
            if good(&pod) { Ok(pod) } else { Err(format!("{:#}", pod["status"])) }
        })
    }

    #[track_caller]
    pub fn wait_ready(&self, name: &str) -> Value {
        self.wait_pod(name, "Ready", |pod| condition(pod, "Ready") == "True")
    }

    #[track_caller]
    pub fn wait_phase(&self, name: &str, phase: &str) -> Value {
        self.wait_pod(name, phase, |pod| pod["status"]["phase"] == phase)
    }

    #[track_caller]
    pub fn wait_gone(&self, name: &str) {
        self.wait_pod(name, "gone", |pod| pod["code"] == 404);
    }

    /// What `sh -c SCRIPT` prints in a pod's container.
    #[track_caller]
    pub fn exec(&self, pod: &str, script: &str) -> String {
        self.sh_with(&format!("kubectl exec -i {pod} -- sh"), script.as_bytes()).ok().out
    }

    /// Process that serves.
    pub fn pid(&self) -> Pid {
        let file = format!("/run/sampan/{}/running.json", self.id().unwrap());
        let running: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        Pid::from_raw(i32::try_from(running["pid"].as_i64().unwrap()).unwrap())
    }

    /// kill -9 of `sampan up`; returns when it is gone.
    pub fn kill(&self) {
        let pid = self.pid();
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
        eventually("the process ends", || !alive(pid));
    }

    /// Process ids of a pod's containers, as its cgroups have them; the lowest is the first process.
    pub fn processes(&self, pod: &Value) -> Vec<i32> {
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let line = format!(
            "find /sys/fs/cgroup/cpu/sampan-{}/pod{uid}/*/ -name cgroup.procs -exec cat {{}} +",
            self.id().unwrap()
        );
        let mut pids: Vec<i32> = self.sh(&line).out.lines().filter_map(|pid| pid.parse().ok()).collect();
        pids.sort_unstable();
        pids
    }

    fn diagnose(&self) {
        let say = self.sh("kubectl get all -A -o wide; kubectl get events -A --sort-by=.lastTimestamp | tail -n 25; tail -n 30 $SAMPAN_DATA_DIR/sampan.log");
        // Written whole, so that tests in parallel do not mix lines.
        let _ =
            std::io::stderr().write_all(format!("--- the cluster\n{}{}---\n", say.out, say.err).as_bytes());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let Some(id) = self.id() else { return };
        if failed {
            self.diagnose();
        }
        let down = self.sampan(&["down", "--purge"]);
        let mut left = leaks::find(&id, &self.data(), &self.ns);
        // The kernel takes its time to tear a killed process down.
        for _ in 0..40 {
            if left.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
            left = leaks::find(&id, &self.data(), &self.ns);
        }
        leaks::force(&id, &self.data());
        if self.small {
            let _ = nix::mount::umount2(&self.dir.path().join("disk"), nix::mount::MntFlags::MNT_DETACH);
        }
        if !failed {
            down.ok();
            assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
        }
    }
}

/// A command that runs on while the test does; killed with everything it started when dropped.
pub struct Background {
    pub child: Child,
    path: PathBuf,
}

impl Background {
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.path).unwrap()).into_owned()
    }

    /// Wait until it said this.
    #[track_caller]
    pub fn says(&self, words: &str) {
        until(&format!("says {words:?}"), || {
            let output = self.output();
            if output.contains(words) { Ok(()) } else { Err(output) }
        });
    }

    /// Type into it.
    pub fn write(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Wait for its end; its exit code.
    pub fn wait(&mut self) -> i32 {
        drop(self.child.stdin.take());
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        // Only while it has not been waited for is the number ours.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = nix::sys::signal::killpg(group, Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// Status of a condition, empty where there is none.
pub fn condition<'a>(object: &'a Value, name: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.and_then(|all| all.iter().find(|c| c["type"] == name));
    found.and_then(|c| c["status"].as_str()).unwrap_or_default()
}

pub fn alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// A tar of a root file system that has busybox and nothing else; made once.
pub fn busybox() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let script = "mkdir -p r/bin r/etc r/tmp r/root r/proc r/sys r/dev && cp /bin/busybox r/bin/
            for a in $(busybox --list); do [ $a = busybox ] || ln -s busybox r/bin/$a; done
            printf 'root:x:0:0:root:/root:/bin/sh\\nwww:x:33:33::/tmp:/bin/sh\\n' > r/etc/passwd
            chmod 1777 r/tmp && tar -C r -cf busybox.tar .";
        finish(Command::new("sh").args(["-ec", script]).current_dir(dir.path()), b"").ok();
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("busybox.tar");
        let fresh = path.with_extension(std::process::id().to_string());
        fs::copy(dir.path().join("busybox.tar"), &fresh).unwrap();
        // Whole or not at all, whoever else makes it at the same time.
        fs::rename(&fresh, &path).unwrap();
        path
    })
}
