//! What a pod costs: `containers as-measure <count> <rootfs>` prints CPU time of everything involved, and wall time.

use std::time::Instant;

use sampan_container::{Options, PodSandboxConfig, Runtime};
use sampan_daemon::Supervisor;

use crate::harness::container;

pub fn dispatch() -> bool {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).map(String::as_str) != Some("as-measure") {
        return false;
    }
    let count: u32 = args[2].parse().unwrap();
    let dir = std::path::PathBuf::from(format!("/dev/shm/sampan-measure-{}", std::process::id()));
    let parent = format!("/sampan-measure-{}", std::process::id());
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let runtime = Runtime::new(Options::new(dir.join("shim"), &parent), Supervisor::new()).unwrap();
        // Everything that is started from here on is counted in this cgroup, the containers below it as well.
        let group = std::path::Path::new("/sys/fs/cgroup/cpuacct").join(parent.trim_start_matches('/'));
        std::fs::create_dir_all(&group).unwrap();
        std::fs::write(group.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        let keep = runtime.create_pod(PodSandboxConfig { id: "keep".to_owned(), ..Default::default() }).await.unwrap();
        // Layers are the image store's business: made before, removed after.
        let configs: Vec<_> = (0..count).map(|number| container(&dir, &format!("c{number}"), &["/bin/true"])).collect();
        let mut walls = Vec::new();
        let (idle, used, user) = (busy(), usage(&group, "usage"), usage(&group, "usage_user"));
        let begin = Instant::now();
        for (number, config) in configs.into_iter().enumerate() {
            let start = Instant::now();
            let id = format!("p{number}");
            let pod = runtime.create_pod(PodSandboxConfig { id, ..Default::default() }).await.unwrap();
            let id = config.id.clone();
            pod.create_container(config).await.unwrap();
            pod.start_container(&id).await.unwrap();
            walls.push(start.elapsed());
            assert_eq!(pod.wait_container(&id).await.unwrap().code, 0);
            pod.remove().await.unwrap();
        }
        let whole = begin.elapsed();
        let (machine, used) = (busy() - idle, usage(&group, "usage") - used);
        let user = usage(&group, "usage_user") - user;
        walls.sort();
        println!(
            "{count} pods: {:.2} CPU-ms each in all our processes ({:.2} of it in user space), {:.2} over the whole machine, {:.2} ms wall each, start p50 {:?}",
            used / f64::from(count), user / f64::from(count), machine / f64::from(count), whole.as_secs_f64() * 1000.0 / f64::from(count), walls[walls.len() / 2]
        );
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", keep.shim_pid())).unwrap();
        rollup.lines().filter(|line| line.starts_with("Private") || line.starts_with("Pss:") || line.starts_with("Rss")).for_each(|line| println!("shim {line}"));
        keep.remove().await.unwrap();
        std::fs::write("/sys/fs/cgroup/cpuacct/cgroup.procs", std::process::id().to_string()).unwrap();
        drop(runtime);
    });
    std::fs::remove_dir_all(&dir).unwrap();
    println!("left: cgroup {parent}");
    true
}

/// CPU time that the whole machine has spent so far, in milliseconds.
fn busy() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let fields: Vec<f64> =
        stat.lines().next().unwrap().split_whitespace().skip(1).map(|field| field.parse().unwrap()).collect();
    // user, nice, system, irq, softirq; in hundredths of a second.
    (fields[0] + fields[1] + fields[2] + fields[5] + fields[6]) * 10.0
}

/// CPU time of a cgroup, in milliseconds.
fn usage(group: &std::path::Path, what: &str) -> f64 {
    std::fs::read_to_string(group.join(format!("cpuacct.{what}"))).unwrap().trim().parse::<f64>().unwrap()
        / 1e6
}
