//! Control groups: version 1, hybrid and version 2 behind one plan.
//!
//! A plan is a path below the parent, present in every hierarchy that matters here. Groups that exist already are left
//! alone; only those named by a plan are made, and removed again.

mod devices;
mod limits;

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use serde::{Deserialize, Serialize};

pub(crate) use devices::Rule as DeviceRule;

use crate::config::Resources;
use crate::error::{Error, Result};
use crate::status::Stats;
use crate::sys;

/// The version 1 controllers that are used. `cpuset` only where it is asked for.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuacct", "cpuset", "memory", "pids", "devices"];
/// How long killed processes may take to end.
const KILL_BOUND: Duration = Duration::from_secs(5);

/// What is mounted on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    /// Version 1 hierarchies: controllers and mount point.
    v1: Vec<Hierarchy>,
    /// Mount point of version 2, if there is one.
    v2: Option<PathBuf>,
    /// Its controllers.
    v2_controllers: Vec<String>,
}

/// A version 1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hierarchy {
    /// Where it is mounted; the name in `/sys/fs/cgroup` is the last part.
    pub(crate) root: PathBuf,
    /// Of [`CONTROLLERS`].
    pub(crate) controllers: Vec<String>,
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }
}

/// A cgroup that is to be, in every hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CgroupPlan {
    layout: Layout,
    /// Relative to each root.
    path: PathBuf,
}

impl Layout {
    /// Looks at what is mounted below `root`.
    pub(crate) fn detect(root: &Path) -> Result<Self> {
        let is_v2 = |path: &Path| path.join("cgroup.controllers").exists();
        let v2 = [root.to_owned(), root.join("unified")].into_iter().find(|path| is_v2(path));
        let mut v1: Vec<Hierarchy> = Vec::new();
        for controller in CONTROLLERS {
            // Controllers mounted together are links to one directory.
            let Ok(path) = fs::canonicalize(root.join(controller)) else { continue };
            if !path.join("cgroup.procs").exists() || is_v2(&path) {
                continue;
            }
            match v1.iter_mut().find(|known| known.root == path) {
                Some(known) => known.controllers.push(controller.to_owned()),
                None => v1.push(Hierarchy { root: path, controllers: vec![controller.to_owned()] }),
            }
        }
        if v1.is_empty() && v2.is_none() {
            let text = format!("no cgroups at {} (hint: mount cgroup2 there)", root.display());
            return Err(Error::Invalid(text));
        }
        let controllers =
            v2.as_ref().and_then(|path| fs::read_to_string(path.join("cgroup.controllers")).ok());
        let known = |name: &&str| CONTROLLERS.contains(name);
        let v2_controllers = controllers.unwrap_or_default();
        let v2_controllers =
            v2_controllers.split_ascii_whitespace().filter(known).map(str::to_owned).collect();
        Ok(Self { v1, v2, v2_controllers })
    }

    /// The cgroup of a pod.
    pub(crate) fn plan(&self, parent: &str, pod: &str) -> CgroupPlan {
        let path = PathBuf::from(parent.trim_matches('/')).join(format!("pod{pod}"));
        CgroupPlan { layout: self.clone(), path }
    }

    /// Removes an empty parent cgroup.
    pub(crate) fn remove_parent(&self, parent: &str) {
        let parent = parent.trim_matches('/');
        for root in self.v1.iter().map(|hierarchy| &hierarchy.root).chain(&self.v2) {
            // Still in use, or never made: both are fine.
            let _ = fs::remove_dir(root.join(parent));
        }
    }
}

/// Readable when a child ended, and what reaps it.
pub(crate) type Children<'a> = (BorrowedFd<'a>, &'a mut dyn FnMut());

/// Writes to a file of a cgroup.
fn set(path: &Path, value: &str) -> Result<()> {
    let written =
        fs::OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|error| Error::os(format!("write {value:?} to {}", path.display()), error))
}

/// The same where the kernel may lack the file.
fn set_if_there(path: &Path, value: &str) -> Result<()> {
    match set(path, value) {
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

impl CgroupPlan {
    /// A cgroup below this one.
    pub(crate) fn child(&self, name: &str) -> Self {
        Self { layout: self.layout.clone(), path: self.path.join(name) }
    }

    /// Its directories: version 1 ones, then version 2.
    fn dirs(&self) -> impl Iterator<Item = PathBuf> {
        let v1 = self.layout.v1.iter().map(|hierarchy| &hierarchy.root);
        v1.chain(&self.layout.v2).map(|root| root.join(&self.path))
    }

    /// Its directory in the hierarchy of a controller, and whether that is version 2.
    fn controller(&self, name: &str) -> Option<(PathBuf, bool)> {
        if let Some(found) = self.layout.v1.iter().find(|hierarchy| hierarchy.has(name)) {
            return Some((found.root.join(&self.path), false));
        }
        let v2 = self.layout.v2.as_ref()?;
        self.layout.v2_controllers.iter().any(|known| known == name).then(|| (v2.join(&self.path), true))
    }

    /// Makes the cgroup with its limits. `devices` confines access to devices.
    pub(crate) fn create(&self, resources: &Resources, devices: Option<&[DeviceRule]>) -> Result<()> {
        let made = self.create_dirs(resources, devices.is_some()).and_then(|()| self.apply(resources));
        let made = made.and_then(|()| devices.map_or(Ok(()), |rules| self.confine_devices(rules)));
        if made.is_err() {
            let _ = self.remove();
        }
        made
    }

    fn create_dirs(&self, resources: &Resources, devices: bool) -> Result<()> {
        let cpuset = resources.cpuset_cpus.is_some() || resources.cpuset_mems.is_some();
        for hierarchy in &self.layout.v1 {
            let needed = hierarchy.controllers.iter().any(|name| match name.as_str() {
                "cpuset" => cpuset,
                "devices" => devices,
                _ => true,
            });
            if needed {
                make(&hierarchy.root, &self.path, &|made| match hierarchy.has("cpuset") {
                    true => limits::inherit_cpuset(made),
                    false => Ok(()),
                })?;
            }
        }
        if let Some(root) = &self.layout.v2 {
            let controllers = &self.layout.v2_controllers;
            make(root, &self.path, &|made| limits::enable_controllers(made, controllers))?;
        }
        Ok(())
    }

    /// Moves the calling process into it. Where the cgroup has no directory, its parent's applies.
    pub(crate) fn join(&self, v2_joined: bool) -> Result<()> {
        let v2 = self.layout.v2.as_ref().filter(|_| !v2_joined);
        for root in self.layout.v1.iter().map(|hierarchy| &hierarchy.root).chain(v2) {
            set_if_there(&root.join(&self.path).join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// Its version 2 directory, to fork into.
    pub(crate) fn v2_fd(&self) -> Option<OwnedFd> {
        let dir = self.layout.v2.as_ref()?.join(&self.path);
        fs::File::open(dir).ok().map(OwnedFd::from)
    }

    /// Name below `/sys/fs/cgroup` (`None`: that directory itself) and directory of each hierarchy, to show inside. A
    /// directory may be missing, where its controller is not used.
    pub(crate) fn visible(&self) -> Vec<(Option<String>, PathBuf)> {
        let mut shown = Vec::new();
        for hierarchy in &self.layout.v1 {
            let dir = hierarchy.root.join(&self.path);
            let name = hierarchy.root.file_name().map(|name| name.to_string_lossy().into_owned());
            shown.push((name, dir));
        }
        if let Some(root) = &self.layout.v2 {
            let name = (!self.layout.v1.is_empty()).then(|| "unified".to_owned());
            shown.push((name, root.join(&self.path)));
        }
        shown
    }

    /// Kills everything inside, and waits until it is gone.
    pub(crate) fn kill(&self) -> Result<()> {
        self.kill_reaping(None)
    }

    /// The same for a parent of what is inside: `children` becomes readable, and its function is called, when a child
    /// ended. The first process of a PID namespace ends only after all others in it were reaped.
    pub(crate) fn kill_reaping(&self, mut children: Option<Children<'_>>) -> Result<()> {
        let failed = |error| {
            let text = format!(
                "wait for the processes in cgroup {} (hint: they hang in the kernel)",
                self.path.display()
            );
            Error::os(text, error)
        };
        match self.layout.v2.as_ref().map(|root| root.join(&self.path)) {
            Some(dir) if dir.join("cgroup.kill").exists() => {
                self.kill_v2(&dir, &mut children).map_err(failed)
            }
            _ => self.kill_one_by_one(&mut children).map_err(failed),
        }
    }

    /// Version 2 kills a whole tree at once, and says when it is empty.
    fn kill_v2(&self, dir: &Path, children: &mut Option<Children<'_>>) -> io::Result<()> {
        let mut events = match fs::File::open(dir.join("cgroup.events")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let end = Instant::now() + KILL_BOUND;
        let mut killed = false;
        loop {
            // Reading again also arms the notification of the next change.
            let mut text = String::new();
            events.seek(SeekFrom::Start(0))?;
            events.read_to_string(&mut text)?;
            if text.lines().any(|line| line == "populated 0") {
                return Ok(());
            }
            if !killed {
                fs::write(dir.join("cgroup.kill"), "1")?;
                killed = true;
            }
            wait_for(events.as_fd(), PollFlags::POLLPRI, end, children)?;
        }
    }

    fn kill_one_by_one(&self, children: &mut Option<Children<'_>>) -> io::Result<()> {
        let end = Instant::now() + KILL_BOUND;
        loop {
            let pids = self.processes();
            if pids.is_empty() {
                return Ok(());
            }
            // Opened before the kill: the wait is for these very processes.
            let waiting: Vec<OwnedFd> = pids.iter().filter_map(|pid| sys::pidfd_open(*pid).ok()).collect();
            self.signal(libc::SIGKILL);
            for process in &waiting {
                while !wait_for(process.as_fd(), PollFlags::POLLIN, end, children)? {}
            }
            if let Some((_, reap)) = children {
                reap();
            }
        }
    }

    /// Every process inside, and below.
    fn processes(&self) -> Vec<libc::pid_t> {
        let mut pids = Vec::new();
        // All are in each hierarchy that has the cgroup; which these are depends on what was asked for.
        if let Some(dir) = self.dirs().find(|dir| dir.exists()) {
            processes(&dir, &mut pids);
        }
        pids
    }

    /// Sends SIGKILL to everything inside in one go, where the kernel can. Does not wait.
    pub(crate) fn kill_at_once(&self) -> bool {
        let v2 = self.layout.v2.as_ref().map(|root| root.join(&self.path).join("cgroup.kill"));
        v2.is_some_and(|file| set(&file, "1").is_ok())
    }

    /// Sends a signal to every process inside.
    pub(crate) fn signal(&self, signal: i32) {
        for pid in self.processes() {
            // SAFETY: sends a signal to another process. One that ended meanwhile is no error.
            unsafe { libc::kill(pid, signal) };
        }
    }

    /// Removes the empty cgroup, with those that were made in it.
    pub(crate) fn remove(&self) -> Result<()> {
        for dir in self.dirs() {
            remove_tree(&dir)
                .map_err(|error| Error::os(format!("remove cgroup {}", dir.display()), error))?;
        }
        Ok(())
    }

    /// Both.
    pub(crate) fn kill_and_remove(&self) -> Result<()> {
        if self.dirs().all(|dir| !dir.exists()) {
            return Ok(());
        }
        self.kill()?;
        self.remove()
    }

    /// How many processes inside were killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let Some((dir, v2)) = self.controller("memory") else { return 0 };
        let file = dir.join(if v2 { "memory.events" } else { "memory.oom_control" });
        limits::field(&file, "oom_kill").unwrap_or(0)
    }

    /// Resource usage.
    pub(crate) fn stats(&self) -> Result<Stats> {
        if self.dirs().all(|dir| !dir.exists()) {
            return Err(Error::NotFound { kind: "cgroup".to_owned(), id: self.path.display().to_string() });
        }
        Ok(limits::stats(self))
    }
}

/// Waits until a descriptor is ready, or a child was reaped. Returns whether it is the former.
fn wait_for(
    fd: BorrowedFd<'_>,
    flags: PollFlags,
    end: Instant,
    children: &mut Option<Children<'_>>,
) -> io::Result<bool> {
    let mut watched = vec![PollFd::new(fd, flags)];
    watched.extend(children.as_ref().map(|(fd, _)| PollFd::new(*fd, PollFlags::POLLIN)));
    let left = end.saturating_duration_since(Instant::now());
    match nix::poll::poll(&mut watched, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
        Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
        Err(nix::Error::EINTR) => return Ok(false),
        other => other?,
    };
    let ready = |index: usize| watched.get(index).and_then(PollFd::any).unwrap_or(false);
    let (ended, child) = (ready(0), ready(1));
    if let (true, Some((_, reap))) = (child, children.as_mut()) {
        reap();
    }
    Ok(ended)
}

/// Makes a cgroup and its parents; `prepare` is called for each one made.
fn make(root: &Path, path: &Path, prepare: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
    let dir = root.join(path);
    match fs::create_dir(&dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
                return Err(Error::os(format!("make cgroup {}", dir.display()), error));
            };
            make(root, parent, prepare)?;
            match fs::create_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::os(format!("make cgroup {}", dir.display()), error));
                }
                _ => {}
            }
        }
        Err(error) => return Err(Error::os(format!("make cgroup {}", dir.display()), error)),
    }
    // Whoever runs in it may read its own limits, whatever the umask: that is how runtimes size themselves.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))
        .map_err(|error| Error::os(format!("make cgroup {} readable", dir.display()), error))?;
    prepare(&dir)
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
        Err(error) => return Err(error),
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

/// The processes in a cgroup and those below it.
fn processes(dir: &Path, pids: &mut Vec<libc::pid_t>) {
    let Ok(text) = fs::read_to_string(dir.join("cgroup.procs")) else { return };
    pids.extend(text.lines().filter_map(|line| line.parse::<libc::pid_t>().ok()).filter(|pid| *pid > 0));
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            processes(&entry.path(), pids);
        }
    }
}
