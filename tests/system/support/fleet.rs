//! Several machines: network namespaces on one bridge, with an etcd beside them.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;
use tempfile::TempDir;

use super::{NetNs, Ran, alive, busybox, eventually, finish, leaks, until};

const BINARY: &str = env!("CARGO_BIN_EXE_sampan");
/// Seconds that one command may take.
const COMMAND_BOUND: &str = "120";
/// The address of the bridge, where etcd listens.
pub const HUB: &str = "10.99.0.1";

/// The machines' network. What is on it goes before it.
pub struct Fleet {
    hub: NetNs,
    dir: TempDir,
    pub etcd: Vec<Etcd>,
}

/// One member of an etcd.
pub struct Etcd {
    hub: NetNs,
    dir: PathBuf,
    args: Vec<String>,
    child: Option<Child>,
    pub port: u16,
}

/// One machine.
pub struct Machine {
    pub ns: NetNs,
    pub ip: String,
    dir: TempDir,
}

fn inside(ns: &NetNs, line: &str) -> Ran {
    let mut command = Command::new("sh");
    command.args(["-ec", line]);
    finish(ns.enter(&mut command), b"")
}

impl Fleet {
    /// A bridge, and an etcd of so many members on it.
    pub fn new(members: u16) -> Self {
        let hub = NetNs::new();
        inside(
            &hub,
            &format!("ip link add br0 type bridge; ip addr add {HUB}/24 dev br0; ip link set br0 up"),
        )
        .ok();
        let dir = tempfile::Builder::new().prefix("sampan-fleet-").tempdir().unwrap();
        fs::write(dir.path().join("secret"), "a secret that all servers have\n").unwrap();
        let peers: Vec<String> =
            (0..members).map(|n| format!("m{n}=http://{HUB}:{}", 2380 + 10 * n)).collect();
        let etcd = (0..members).map(|n| {
            let (port, peer) = (2379 + 10 * n, 2380 + 10 * n);
            let args = [
                format!("--name=m{n}"),
                format!("--data-dir={}", dir.path().join(format!("etcd-{n}")).display()),
                format!("--listen-client-urls=http://{HUB}:{port}"),
                format!("--advertise-client-urls=http://{HUB}:{port}"),
                format!("--listen-peer-urls=http://{HUB}:{peer}"),
                format!("--initial-advertise-peer-urls=http://{HUB}:{peer}"),
                format!("--initial-cluster={}", peers.join(",")),
                // The machine is busy: an election for every stall would be a test of that.
                "--heartbeat-interval=300".to_owned(),
                "--election-timeout=3000".to_owned(),
                "--log-level=error".to_owned(),
            ];
            let mut etcd =
                Etcd { hub: hub.clone(), dir: dir.path().to_owned(), args: args.to_vec(), child: None, port };
            etcd.up();
            etcd
        });
        let etcd = etcd.collect();
        Self { hub, dir, etcd }
    }

    /// `etcd://…` of all members.
    pub fn store(&self, prefix: &str) -> String {
        let members: Vec<String> = self.etcd.iter().map(|etcd| format!("{HUB}:{}", etcd.port)).collect();
        format!("etcd://{}/{prefix}", members.join(","))
    }

    /// The file with the cluster's secret.
    pub fn secret(&self) -> PathBuf {
        self.dir.path().join("secret")
    }

    /// A machine with the address `10.99.0.N`.
    pub fn machine(&self, n: u8) -> Machine {
        let ns = NetNs::new();
        let ip = format!("10.99.0.{n}");
        inside(
            &self.hub,
            &format!(
                "ip link add v{n} type veth peer name eth0 netns {}; ip link set v{n} master br0 up",
                ns.path()
            ),
        )
        .ok();
        inside(
            &ns,
            &format!("ip addr add {ip}/24 dev eth0; ip link set eth0 up; ip route add default via {HUB}"),
        )
        .ok();
        let dir = tempfile::Builder::new().prefix("sampan-machine-").tempdir().unwrap();
        fs::create_dir(dir.path().join("home")).unwrap();
        Machine { ns, ip, dir }
    }

    /// Takes a machine off the network, or puts it back.
    pub fn plug(&self, n: u8, on: bool) {
        inside(&self.hub, &format!("ip link set v{n} {}", if on { "up" } else { "down" })).ok();
    }
}

impl Etcd {
    pub fn up(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join(format!("etcd-{}.log", self.port)));
        let mut command = Command::new("etcd");
        command.args(&self.args).stdout(Stdio::null()).stderr(log.unwrap());
        self.child = Some(self.hub.enter(&mut command).spawn().expect("etcd is installed"));
    }

    /// A further flag from the next start on.
    pub fn flag(&mut self, flag: &str) {
        self.args.push(flag.to_owned());
    }

    /// kill -9
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Machine {
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn id(&self) -> Option<String> {
        let text = fs::read_to_string(self.data().join("instance.json")).ok()?;
        serde_json::from_str::<Value>(&text).ok()?["id"].as_str().map(str::to_owned)
    }

    /// A command on this machine; ended at the bound.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--foreground", "-k", "1", COMMAND_BOUND, "env", "--", program]);
        command.env("HOME", self.dir.path().join("home")).env("KUBECONFIG", self.data().join("kubeconfig"));
        command.env("KUBECACHEDIR", self.dir.path().join("home/cache")).env("SAMPAN_DATA_DIR", self.data());
        command.env("SAMPAN", BINARY).current_dir(self.dir.path());
        self.ns.enter(&mut command);
        command
    }

    pub fn sampan(&self, line: &str) -> Ran {
        finish(self.command(BINARY).args(line.split_whitespace()), b"")
    }

    pub fn sh(&self, line: &str) -> Ran {
        finish(self.command("bash").args(["-o", "pipefail", "-c", line]), b"")
    }

    #[track_caller]
    pub fn apply(&self, manifest: &str) {
        let mut command = self.command("kubectl");
        finish(command.args(["apply", "-f", "-"]), manifest.as_bytes()).ok();
    }

    /// `kubectl LINE`, which must succeed; what it wrote to stdout.
    #[track_caller]
    pub fn k(&self, line: &str) -> String {
        self.sh(&format!("kubectl {line}")).ok().out
    }

    /// `kubectl LINE` until it says this.
    #[track_caller]
    pub fn k_says(&self, line: &str, good: impl Fn(&str) -> bool) -> String {
        until(&format!("kubectl {line}"), || {
            let ran = self.sh(&format!("kubectl --request-timeout=10s {line}"));
            if ran.code == 0 && good(&ran.out) { Ok(ran.out) } else { Err(format!("{}{}", ran.out, ran.err)) }
        })
    }

    /// In the background: all of its output goes to a file.
    pub fn spawn(&self, line: &str) -> Open {
        let path = self.dir.path().join(format!("out-{}", line.len()));
        let out = fs::File::create(&path).unwrap();
        let mut command = self.command("bash");
        command.args(["-c", &format!("exec {line}")]).stdin(Stdio::null());
        command.stderr(out.try_clone().unwrap()).stdout(out).process_group(0);
        Open { child: command.spawn().unwrap(), path }
    }

    /// The image `busybox:1` for pods here.
    pub fn import(&self) {
        self.sampan(&format!("image import {} busybox:1 --cmd sh", busybox().display())).ok();
    }

    /// `sampan server` over a store, with the fleet's secret.
    pub fn server(&self, fleet: &Fleet, prefix: &str) -> Ran {
        let (store, secret) = (fleet.store(prefix), fleet.secret());
        let cidrs = "--pod-cidr 10.142.0.0/16 --service-cidr 10.143.0.0/16";
        self.sampan(&format!(
            "server --detach --store {store} --cluster-secret-file {} {cidrs}",
            secret.display()
        ))
    }

    pub fn pid(&self) -> Option<Pid> {
        let file = format!("/run/sampan/{}/running.json", self.id()?);
        let running: Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
        Some(Pid::from_raw(i32::try_from(running["pid"].as_i64()?).ok()?)).filter(|pid| alive(*pid))
    }

    /// kill -9 of what serves here; returns when it is gone.
    pub fn kill(&self) {
        let pid = self.pid().unwrap();
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
        eventually("the process ends", || !alive(pid));
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.data().join("sampan.log")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let Some(id) = self.id() else { return };
        if failed {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            eprintln!(
                "--- {} ({})\n{}",
                self.ip,
                self.data().display(),
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
        let down = self.sampan("down --purge");
        let left = || leaks::find(&id, &self.data(), &self.ns);
        for _ in 0..40 {
            if left().is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let left = left();
        leaks::force(&id, &self.data());
        if !failed {
            down.ok();
            assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
        }
    }
}

/// A command that runs on while the test does; killed with everything it started when dropped.
pub struct Open {
    child: Child,
    path: PathBuf,
}

impl Open {
    /// How often it said this.
    pub fn count(&self, words: &str) -> usize {
        fs::read_to_string(&self.path).unwrap().matches(words).count()
    }

    /// Wait until it said this so often.
    #[track_caller]
    pub fn says(&self, times: usize, words: &str) {
        until(&format!("says {words:?} {times} times"), || {
            if self.count(words) >= times { Ok(()) } else { Err(fs::read_to_string(&self.path).unwrap()) }
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        // Only while it has not been waited for is the number ours.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = nix::sys::signal::killpg(group, Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}
