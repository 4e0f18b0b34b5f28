//! A network namespace that lives as long as its value.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    process::Command,
    sync::Arc,
};

use nix::sched::{CloneFlags, setns, unshare};

/// The namespace is held by this descriptor alone: nothing is pinned in the file system.
#[derive(Clone, Debug)]
pub struct NetNs(Arc<OwnedFd>);

impl NetNs {
    /// A new one, with its loopback link up.
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("tests need root");
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
            assert!(up.success());
            OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
        });
        Self(Arc::new(made.join().unwrap()))
    }

    /// Have the command run inside.
    pub fn enter<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let ns = self.0.clone();
        // SAFETY: one system call between fork and exec.
        unsafe { command.pre_exec(move || setns(&*ns, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)) }
    }

    /// Run `work` on a thread inside.
    pub fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let ns = self.0.clone();
        let thread = std::thread::spawn(move || {
            setns(&*ns, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Where others find it, as long as this process lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Processes that are inside.
    pub fn members(&self) -> Vec<String> {
        let ours = std::fs::metadata(format!("/proc/self/fd/{}", self.0.as_raw_fd())).unwrap().ino();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let dir = entry.path();
            if std::fs::metadata(dir.join("ns/net")).is_ok_and(|ns| ns.ino() == ours) {
                let words = std::fs::read(dir.join("cmdline")).unwrap_or_default();
                let words = String::from_utf8_lossy(&words).replace('\0', " ");
                found.push(format!("{} {words}", entry.file_name().to_string_lossy()));
            }
        }
        found
    }
}
