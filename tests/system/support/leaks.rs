//! What an instance may leave on the machine after `sampan down --purge`: nothing.

use std::{fs, path::Path};

use super::NetNs;

/// Everything that is left of an instance, one line each.
pub fn find(id: &str, data: &Path, ns: &NetNs) -> Vec<String> {
    let mut found = Vec::new();
    let run = Path::new("/run/sampan").join(id);
    found.extend([data, &run].iter().filter(|path| path.exists()).map(|path| path.display().to_string()));
    found.extend(cgroups(id).iter().map(|path| format!("cgroup {path}")));
    let marks = [data.display().to_string(), run.display().to_string()];
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        // A process that ends meanwhile has nothing to say.
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let mounts = read("mountinfo");
        for line in mounts.lines().filter(|line| marks.iter().any(|mark| line.contains(mark.as_str()))) {
            found.push(format!("mount of process {pid} {}: {line}", read("comm").trim()));
        }
        if read("cgroup").contains(&format!("/sampan-{id}")) {
            found.push(format!("process {pid} {}", read("comm").trim()));
        }
    }
    found.extend(ns.members().into_iter().map(|process| format!("process in its network: {process}")));
    found
}

fn cgroups(id: &str) -> Vec<String> {
    let hierarchies =
        fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    let all = hierarchies.chain([Path::new("/sys/fs/cgroup").to_owned()]);
    let all = all.map(|root| root.join(format!("sampan-{id}")));
    all.filter(|path| path.exists()).map(|path| path.display().to_string()).collect()
}

/// Last resort after a failure, so that one test does not spoil the machine for the others.
pub fn force(id: &str, data: &Path) {
    for root in cgroups(id) {
        let mut queue = vec![root];
        while let Some(dir) = queue.pop() {
            let pids = fs::read_to_string(format!("{dir}/cgroup.procs")).unwrap_or_default();
            for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
            }
            let below = fs::read_dir(&dir).into_iter().flatten().flatten();
            queue.extend(below.filter(|e| e.path().is_dir()).map(|e| e.path().display().to_string()));
        }
    }
    let run = format!("/run/sampan/{id}");
    let marks = [data.display().to_string(), run.clone()];
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines().rev() {
        let point = line.split(' ').nth(4).unwrap_or_default();
        if marks.iter().any(|mark| point.starts_with(mark)) {
            let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
        }
    }
    let _ = fs::remove_dir_all(run);
}
