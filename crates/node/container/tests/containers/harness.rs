//! A small harness: tests by name, some at a time, each with a runtime of its own that must leave nothing behind.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use futures::FutureExt;
use sampan_container::{
    ContainerConfig, Exit, LogConfig, Options, PodSandbox, PodSandboxConfig, Rootfs, Runtime,
};
use sampan_daemon::Supervisor;

type Body = fn(Env) -> Pin<Box<dyn Future<Output = ()>>>;

/// How many tests run at a time.
const WORKERS: usize = 4;
/// How long one may take.
const BOUND: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Tests {
    all: Vec<(&'static str, Body)>,
}

/// Registers async functions that take an [`Env`].
#[macro_export]
macro_rules! tests {
    ($tests:expr, $($name:ident),* $(,)?) => {
        $( $tests.add(concat!(module_path!(), "::", stringify!($name)), |env| Box::pin($name(env))); )*
    };
}

impl Tests {
    pub fn add(&mut self, name: &'static str, body: Body) {
        self.all.push((name.split_once("::").unwrap().1, body));
    }

    pub fn run(self) {
        let filters: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
        let wanted =
            |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
        let chosen: Vec<_> = self.all.into_iter().filter(|(name, _)| wanted(name)).collect();
        if std::env::args().any(|arg| arg == "--list") {
            chosen.iter().for_each(|(name, _)| println!("{name}: test"));
            return;
        }
        if !nix::unistd::geteuid().is_root() || !Path::new("/bin/busybox").exists() {
            println!("skipped: {} tests need root and busybox-static", chosen.len());
            return;
        }
        rootfs();
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    while let Some((name, body)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let begin = Instant::now();
                        let passed =
                            std::panic::catch_unwind(AssertUnwindSafe(|| run_one(name, *body))).is_ok();
                        println!(
                            "test {name} ... {} ({:?})",
                            if passed { "ok" } else { "FAILED" },
                            begin.elapsed()
                        );
                        if !passed {
                            failed.lock().unwrap().push(*name);
                        }
                    }
                });
            }
        });
        let _ = std::fs::remove_dir_all(rootfs().parent().unwrap());
        let failed = failed.into_inner().unwrap();
        println!("test result: {} passed; {} failed {failed:?}", chosen.len() - failed.len(), failed.len());
        if !failed.is_empty() {
            std::process::exit(101);
        }
    }
}

fn run_one(name: &str, body: Body) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let env = Env::new();
    let dirs = (env.dir.clone(), env.parent.clone());
    let ended = runtime.block_on(async {
        let supervisor = env.supervisor.clone();
        let options = env.options();
        let ended = AssertUnwindSafe(tokio::time::timeout(BOUND, body(env))).catch_unwind().await;
        if !matches!(ended, Ok(Ok(()))) {
            sweep(options).await;
        }
        assert_eq!(supervisor.shutdown(Duration::from_secs(5)).await, Vec::<String>::new(), "{name}: tasks");
        ended
    });
    match ended {
        Ok(ended) => assert!(ended.is_ok(), "{name} took longer than {BOUND:?}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
    nothing_left(&dirs.0, &dirs.1);
}

/// After a failed test: nothing of it may stay.
async fn sweep(options: Options) {
    let (dir, supervisor) = (options.runtime_dir.clone(), Supervisor::new());
    let runtime = Runtime::new(options, supervisor.clone()).unwrap();
    for adopted in runtime.adopt().await.unwrap_or_default() {
        let _ = adopted.sandbox.remove().await;
    }
    runtime.remove_parent_cgroup();
    let _ = std::fs::remove_dir_all(dir.parent().unwrap());
    supervisor.shutdown(Duration::from_secs(5)).await;
}

/// What one test has: a runtime with a directory and a cgroup of its own.
pub struct Env {
    pub dir: PathBuf,
    pub parent: String,
    pub supervisor: Supervisor,
    pub runtime: OnceLock<Runtime>,
}

impl Env {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("sampan-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = PathBuf::from("/run").join(&name);
        std::fs::create_dir_all(&dir).unwrap();
        Self { dir, parent: format!("/{name}"), supervisor: Supervisor::new(), runtime: OnceLock::new() }
    }

    pub fn options(&self) -> Options {
        Options::new(self.dir.join("shim"), &self.parent)
    }

    pub fn runtime(&self) -> &Runtime {
        self.runtime.get_or_init(|| Runtime::new(self.options(), self.supervisor.clone()).unwrap())
    }

    pub async fn pod(&self, id: &str) -> PodSandbox {
        self.runtime().create_pod(PodSandboxConfig { id: id.to_owned(), ..Default::default() }).await.unwrap()
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{id}.log"))
    }

    /// A container over a fresh overlay that runs a shell script.
    pub fn script(&self, id: &str, script: &str) -> ContainerConfig {
        container(&self.dir, id, &["/bin/sh", "-c", script])
    }

    /// Runs a container to its end; gives the exit and what it wrote.
    pub async fn run(&self, pod: &PodSandbox, config: ContainerConfig) -> (Exit, String) {
        let id = config.id.clone();
        pod.create_container(config).await.unwrap();
        pod.start_container(&id).await.unwrap();
        let exit = pod.wait_container(&id).await.unwrap();
        (exit, self.output(&id))
    }

    /// What a container wrote, without time stamps and stream names.
    pub fn output(&self, id: &str) -> String {
        let log = std::fs::read_to_string(self.log_path(id)).unwrap_or_default();
        log.lines().map(|line| format!("{}\n", line.splitn(4, ' ').nth(3).unwrap())).collect()
    }

    pub async fn end(&self, pod: PodSandbox) {
        let shim = pod.shim_pid();
        pod.remove().await.unwrap();
        until("the shim ends", || !alive(shim)).await;
        self.runtime().remove_parent_cgroup();
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

pub fn container(dir: &Path, id: &str, args: &[&str]) -> ContainerConfig {
    let layer = |part: &str| {
        let path = dir.join("layers").join(id).join(part);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    ContainerConfig {
        id: id.to_owned(),
        rootfs: Rootfs::Overlay {
            lower: vec![rootfs().to_owned()],
            upper: Some(layer("upper")),
            work: Some(layer("work")),
            options: Vec::new(),
        },
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        log: Some(LogConfig::new(dir.join("logs").join(format!("{id}.log")))),
        ..Default::default()
    }
}

/// The shared lower layer. Fixed for this process, so that a re-executed one can use it too.
pub fn rootfs() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(given) =
            std::env::args().nth(3).filter(|_| std::env::args().any(|arg| arg.starts_with("as-")))
        {
            return PathBuf::from(given);
        }
        let path = std::env::temp_dir().join(format!("sampan-rootfs-{}", std::process::id())).join("rootfs");
        for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "secret"] {
            std::fs::create_dir_all(path.join(dir)).unwrap();
        }
        std::fs::copy("/bin/busybox", path.join("bin/busybox")).unwrap();
        let list = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap();
        for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|name| *name != "busybox") {
            std::os::unix::fs::symlink("busybox", path.join("bin").join(applet)).unwrap();
        }
        std::fs::write(path.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n")
            .unwrap();
        std::fs::write(path.join("etc/group"), "root:x:0:\nweb:x:34:\nssl:x:50:web\n").unwrap();
        std::fs::write(path.join("etc/not-executable"), "text").unwrap();
        path
    })
}

/// Whether a process runs (a zombie does not).
pub fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !matches!(rest.trim_start().chars().next(), Some('Z' | 'X')))
}

/// Waits for something to become true, within a bound.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(15);
    while !holds() {
        assert!(Instant::now() < end, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn kill9(pid: u32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
}

/// No mount, cgroup or directory of a test is left.
fn nothing_left(dir: &Path, parent: &str) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let name = parent.trim_start_matches('/');
    let left: Vec<&str> =
        mounts.lines().filter(|line| line.contains(&format!("{name}/")) || line.ends_with(name)).collect();
    assert!(left.is_empty(), "mounts are left: {left:?}");
    for entry in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
        let cgroup = entry.unwrap().path().join(name);
        assert!(!cgroup.exists(), "{} is left", cgroup.display());
    }
    assert!(!Path::new("/sys/fs/cgroup").join(name).exists());
    assert!(!dir.exists(), "{} is left", dir.display());
}
