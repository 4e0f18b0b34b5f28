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
    let dir = std::path::PathBuf::from(format!("/run/sampan-measure-{}", std::process::id()));
    let parent = format!("/sampan-measure-{}", std::process::id());
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let runtime = Runtime::new(Options::new(dir.join("shim"), &parent), Supervisor::new()).unwrap();
        let keep = runtime.create_pod(PodSandboxConfig { id: "keep".to_owned(), ..Default::default() }).await.unwrap();
        let mut walls = Vec::new();
        let idle = busy();
        let begin = Instant::now();
        for number in 0..count {
            let start = Instant::now();
            let id = format!("p{number}");
            let pod = runtime.create_pod(PodSandboxConfig { id, ..Default::default() }).await.unwrap();
            pod.create_container(container(&dir, "c", &["/bin/true"])).await.unwrap();
            pod.start_container("c").await.unwrap();
            walls.push(start.elapsed());
            assert_eq!(pod.wait_container("c").await.unwrap().code, 0);
            pod.remove().await.unwrap();
            let _ = std::fs::remove_dir_all(dir.join("layers/c"));
        }
        let whole = begin.elapsed();
        let used = busy() - idle;
        walls.sort();
        println!(
            "{count} pods: {:.2} CPU-ms each over the whole machine (idle it must be), {:.2} ms wall each, start p50 {:?}",
            used / f64::from(count), whole.as_secs_f64() * 1000.0 / f64::from(count), walls[walls.len() / 2]
        );
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", keep.shim_pid())).unwrap();
        rollup.lines().filter(|line| line.starts_with("Private") || line.starts_with("Pss:") || line.starts_with("Rss")).for_each(|line| println!("shim {line}"));
        keep.remove().await.unwrap();
        runtime.remove_parent_cgroup();
    });
    std::fs::remove_dir_all(&dir).unwrap();
    true
}

/// CPU time that the whole machine has spent so far, in milliseconds.
fn busy() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let fields: Vec<f64> = stat.lines().next().unwrap().split_whitespace().skip(1).map(|field| field.parse().unwrap()).collect();
    // user, nice, system, irq, softirq; in hundredths of a second.
    (fields[0] + fields[1] + fields[2] + fields[5] + fields[6]) * 10.0
}
