//! `sampan down`: end the serving process, stop the pods, take down the network. The data stays.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use futures::future::join_all;
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sampan_container::{AdoptedSandbox, ContainerState};
use sampan_daemon::Supervisor;
use sampan_network::Network;

use crate::{
    cli::Down,
    instance::{self, Instance},
    platform,
};

/// How long the serving process may take to end before it is killed.
const SERVICE_BOUND: Duration = Duration::from_secs(15);
/// How long containers may take after SIGTERM.
const CONTAINER_GRACE: Duration = Duration::from_secs(10);

pub(crate) async fn run(data_dir: &Path, options: Down) -> Result<ExitCode> {
    instance::require_root()?;
    let mut instance = Instance::open(data_dir)?;
    let supervisor = Supervisor::new();
    end_service(&instance, &supervisor).await?;
    // From here on nobody can start it again until everything is down.
    let _lock = instance.lock()?;
    let runtime = platform::runtime(&instance, &supervisor)?;
    let pods = runtime.adopt().await?;
    let count = pods.len();
    for outcome in join_all(pods.into_iter().map(stop_pod)).await {
        outcome?;
    }
    let network = Network::start(platform::network_options(&instance, false)?, &supervisor).await?;
    network.stop().await?;
    for dir in [&instance.dir, &instance.runtime_dir()] {
        unmount_below(dir)?;
    }
    runtime.remove_parent_cgroup();
    remove_dir(&instance.runtime_dir())?;
    // No pod is left that would be in it: the cluster may give this node another.
    instance.facts.node_cidr = None;
    instance.save()?;
    eprintln!("stopped {count} pods");
    if options.purge {
        remove_dir(&instance.dir)?;
        eprintln!("removed {}", instance.dir.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Ask the serving process to end; the lock tells when it has.
async fn end_service(instance: &Instance, supervisor: &Supervisor) -> Result<()> {
    let Some(running) = instance.running() else { return Ok(()) };
    let pid = Pid::from_raw(running.pid);
    kill(pid, Signal::SIGTERM).with_context(|| format!("end process {pid}"))?;
    if !released(instance, supervisor, SERVICE_BOUND).await? {
        eprintln!("process {pid} does not end; killing it");
        kill(pid, Signal::SIGKILL)?;
        if !released(instance, supervisor, SERVICE_BOUND).await? {
            bail!(
                "process {pid} does not end even by SIGKILL (hint: is its disk stuck? see /proc/{pid}/stack)"
            );
        }
    }
    Ok(())
}

/// Wait until the serving process has let go of the lock, however it ends. False when that takes too long.
async fn released(instance: &Instance, supervisor: &Supervisor, bound: Duration) -> Result<bool> {
    let path = instance.dir.join("lock");
    let waiting = supervisor.blocking(move || {
        let file = fs::File::open(path)?;
        Flock::lock(file, FlockArg::LockExclusive).map(drop).map_err(|(_, errno)| std::io::Error::from(errno))
    });
    match tokio::time::timeout(bound, waiting).await {
        Ok(released) => Ok(released.map(|()| true)?),
        Err(_) => Ok(false),
    }
}

async fn stop_pod(pod: AdoptedSandbox) -> Result<()> {
    if !pod.sandbox.is_lost() {
        let running = pod.containers.iter().filter(|c| c.state == ContainerState::Running);
        let stops =
            running.map(|c| pod.sandbox.stop_container(&c.id, Signal::SIGTERM as i32, CONTAINER_GRACE));
        for stopped in join_all(stops).await {
            // One that ended meanwhile is as good as stopped; removal below kills whatever is left.
            if let Err(error) = stopped {
                tracing::debug!("stop: {error}");
            }
        }
    }
    Ok(pod.sandbox.remove().await?)
}

/// Memory-backed volumes and pinned namespaces that the pods had.
fn unmount_below(dir: &Path) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut points: Vec<_> = points.filter(|point| point.starts_with(dir) && point != dir).collect();
    // Deeper ones first.
    points.sort_by_key(|point| std::cmp::Reverse(point.as_os_str().len()));
    for point in points {
        umount2(&point, MntFlags::MNT_DETACH).with_context(|| format!("unmount {}", point.display()))?;
    }
    Ok(())
}

/// mountinfo writes blanks and the like as three octal digits (proc_pid_mountinfo(5)).
fn unescape(field: &str) -> PathBuf {
    let mut out = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) if first == b'\\' => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_blanks_are_read_back() {
        assert_eq!(unescape("/a\\040b/c"), Path::new("/a b/c"));
        assert_eq!(unescape("/plain\\9"), Path::new("/plain\\9"));
    }
}
