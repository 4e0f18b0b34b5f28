//! What the containers of a pod share, and what they do not.

use sampan_container::{Error, ExecConfig, IpcMode, Network, Options, PidMode, PodSandboxConfig, Runtime};
use tokio::io::AsyncReadExt;

use crate::harness::{Env, Tests, alive, until};
use crate::tests;

pub fn register(tests: &mut Tests) {
    tests!(
        tests,
        network_and_ipc_are_shared,
        host_network_and_ipc,
        pids_are_shared,
        host_pids_end_too,
        network_is_pinned,
        sysctls_are_set,
        limits_of_the_pod,
        shim_is_small,
        many_pods_at_once,
        version_1_alone,
        containers_are_bounded,
    );
}

fn config(id: &str) -> PodSandboxConfig {
    PodSandboxConfig { id: id.to_owned(), hostname: "boat".to_owned(), ..Default::default() }
}

async fn network_and_ipc_are_shared(env: Env) {
    let pod = env.runtime().create_pod(config("p")).await.unwrap();
    pod.create_container(env.script("a", "hostname; echo x > /dev/shm/file; nc -lp 80 -e echo hello"))
        .await
        .unwrap();
    pod.start_container("a").await.unwrap();
    until("a listens", || {
        let sockets =
            std::fs::read_to_string(format!("/proc/{}/net/tcp", pod.shim_pid())).unwrap_or_default();
        let sockets6 =
            std::fs::read_to_string(format!("/proc/{}/net/tcp6", pod.shim_pid())).unwrap_or_default();
        sockets.contains(":0050 ") || sockets6.contains(":0050 ")
    })
    .await;
    let script = "cat /dev/shm/file; nc 127.0.0.1 80 < /dev/null; readlink /proc/self/ns/pid";
    let (_, output) = env.run(&pod, env.script("b", script)).await;
    assert!(output.starts_with("x\nhello\npid:"), "{output}");
    assert_eq!(env.output("a").lines().next(), Some("boat"));
    let namespace = |pid: &str, kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    for kind in ["net", "ipc", "uts"] {
        assert_ne!(namespace(&pod.shim_pid().to_string(), kind), namespace("self", kind));
    }
    assert_eq!(std::fs::read_link(pod.netns()).unwrap(), namespace(&pod.shim_pid().to_string(), "net"));
    env.end(pod).await;
}

async fn host_network_and_ipc(env: Env) {
    let pod = PodSandboxConfig { network: Network::Host, ipc: IpcMode::Host, ..config("p") };
    let pod = env.runtime().create_pod(pod).await.unwrap();
    let (_, output) = env
        .run(&pod, env.script("c", "for kind in net ipc uts; do readlink /proc/self/ns/$kind; done"))
        .await;
    let namespace =
        |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    assert_eq!(output, format!("{}\n{}\n{}\n", namespace("net"), namespace("ipc"), namespace("uts")));
    env.end(pod).await;
}

async fn pids_are_shared(env: Env) {
    let pod = env.runtime().create_pod(PodSandboxConfig { pid: PidMode::Pod, ..config("p") }).await.unwrap();
    pod.create_container(env.script("a", "echo ready; (sleep 1000 & ); sleep 1001; true")).await.unwrap();
    let first = pod.start_container("a").await.unwrap().pid;
    until("a runs", || env.output("a").contains("ready")).await;
    let (_, output) = env.run(&pod, env.script("b", "ps; ps | grep -c 'sleep 100[01]$'")).await;
    assert!(output.contains("sampan-init") && output.ends_with("2\n"), "{output}");
    let exec = ExecConfig {
        container: "a".to_owned(),
        args: ["cat", "/proc/1/comm"].map(str::to_owned).to_vec(),
        stdout: true,
        ..Default::default()
    };
    let mut session = pod.exec(exec).await.unwrap();
    let mut out = String::new();
    session.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
    assert_eq!(out, "sampan-init\n");
    // What a container leaves in the shared namespace ends with it.
    pod.signal_container("a", libc::SIGKILL, false).await.unwrap();
    pod.wait_container("a").await.unwrap();
    until("its children end", || pod.container_stats("a").unwrap().pids == 0).await;
    assert!(!alive(first));
    env.end(pod).await;
}

async fn host_pids_end_too(env: Env) {
    let pod = env.runtime().create_pod(PodSandboxConfig { pid: PidMode::Host, ..config("p") }).await.unwrap();
    let script = format!("test -d /proc/{} && echo host; (sleep 1000 & ); exit 0", std::process::id());
    let (_, output) = env.run(&pod, env.script("a", &script)).await;
    assert_eq!(output, "host\n");
    until("its children end", || pod.container_stats("a").unwrap().pids == 0).await;
    env.end(pod).await;
}

async fn network_is_pinned(env: Env) {
    let pin = env.dir.join("netns").join("p");
    let pinned = || PodSandboxConfig { network: Network::Pinned(pin.clone()), ..config("p") };
    let pod = env.runtime().create_pod(pinned()).await.unwrap();
    assert_eq!(pod.netns(), pin);
    let inode = |path: &str| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    let first = inode(pin.to_str().unwrap());
    assert_eq!(first, inode(&format!("/proc/{}/ns/net", pod.shim_pid())));
    // A second pod joins what is pinned, and leaves it when it goes.
    let other = env.runtime().create_pod(PodSandboxConfig { id: "q".to_owned(), ..pinned() }).await.unwrap();
    assert_eq!(first, inode(&format!("/proc/{}/ns/net", other.shim_pid())));
    other.remove().await.unwrap();
    assert_eq!(first, inode(pin.to_str().unwrap()));
    pod.remove().await.unwrap();
    assert!(!pin.exists());
    env.end(pod).await;
}

async fn sysctls_are_set(env: Env) {
    let mut with = config("p");
    with.sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
    with.sysctls.insert("kernel.shmmax".to_owned(), "65536".to_owned());
    let pod = env.runtime().create_pod(with).await.unwrap();
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmax";
    assert_eq!(env.run(&pod, env.script("c", script)).await.1, "0\n65536\n");
    for (name, network) in [("kernel.panic", Network::Private), ("net.ipv4.ip_forward", Network::Host)] {
        let mut bad = PodSandboxConfig { network, ..config("bad") };
        bad.sysctls.insert(name.to_owned(), "1".to_owned());
        let error = env.runtime().create_pod(bad).await.unwrap_err();
        assert!(matches!(&error, Error::Invalid(text) if text.contains(name)), "{error}");
    }
    assert!(env.runtime().pod("bad").is_none());
    env.end(pod).await;
}

async fn limits_of_the_pod(env: Env) {
    let mut with = config("p");
    with.resources.pids_limit = Some(4);
    with.resources.memory_limit = Some(64 << 20);
    with.resources.cpu_shares = Some(256);
    with.resources.cpu_quota = Some(50_000);
    let pod = env.runtime().create_pod(with).await.unwrap();
    let (exit, output) =
        env.run(&pod, env.script("c", "for i in 1 2 3 4 5 6; do sleep 100 & done; echo all")).await;
    assert!(exit.code != 0 && output.contains("fork"), "{exit:?} {output}");
    env.end(pod).await;
}

async fn shim_is_small(env: Env) {
    let pod = env.pod("p").await;
    env.run(&pod, env.script("c", "seq 1 10000")).await;
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pod.shim_pid())).unwrap();
    let field = |name: &str| -> u64 {
        let line = rollup.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let private = field("Private_Clean:") + field("Private_Dirty:");
    println!("shim: {private} KiB private, {} KiB proportional", field("Pss:"));
    assert!(private < 700, "{private} KiB private");
    let threads = std::fs::read_dir(format!("/proc/{}/task", pod.shim_pid())).unwrap().count();
    assert_eq!(threads, 1);
    env.end(pod).await;
}

async fn many_pods_at_once(env: Env) {
    env.runtime();
    let begin = std::time::Instant::now();
    let all = (0..50).map(|number| {
        let env = &env;
        async move {
            let pod = env.pod(&format!("p{number}")).await;
            let (exit, _) = env.run(&pod, env.script(&format!("c{number}"), "true")).await;
            assert_eq!(exit.code, 0);
            pod.remove().await.unwrap();
        }
    });
    futures::future::join_all(all).await;
    println!("50 pods created, run and removed in {:?}", begin.elapsed());
    let pod = env.pod("last").await;
    env.end(pod).await;
}

/// Without a version 2 hierarchy processes are killed one by one.
async fn version_1_alone(env: Env) {
    let root = env.dir.join("cgroups");
    std::fs::create_dir_all(&root).unwrap();
    for controller in ["cpu", "cpuacct", "cpuset", "memory", "pids", "devices"] {
        let mounted = std::path::Path::new("/sys/fs/cgroup").join(controller);
        if mounted.join("cgroup.procs").exists() {
            std::os::unix::fs::symlink(mounted, root.join(controller)).unwrap();
        }
    }
    if std::fs::read_dir(&root).unwrap().count() == 0 {
        let pod = env.pod("p").await;
        return env.end(pod).await;
    }
    let options = Options { cgroup_root: root, ..env.options() };
    env.runtime.set(Runtime::new(options, env.supervisor.clone()).unwrap()).unwrap();
    for (id, pid) in [("p", PidMode::Container), ("q", PidMode::Pod)] {
        let mut with = PodSandboxConfig { pid, ..config(id) };
        with.resources.cpuset_cpus = Some("0".to_owned());
        let pod = env.runtime().create_pod(with).await.unwrap();
        let id = format!("c{id}");
        let mut config = env.script(&id, "(sleep 1000 &); (sleep 1000 &); echo ready; sleep 1000; true");
        config.resources.cpuset_cpus = Some("0".to_owned());
        pod.create_container(config).await.unwrap();
        pod.start_container(&id).await.unwrap();
        until("it runs", || env.output(&id).contains("ready")).await;
        let exec = ExecConfig {
            container: id.clone(),
            args: ["sleep", "1000"].map(str::to_owned).to_vec(),
            ..Default::default()
        };
        let mut session = pod.exec(exec).await.unwrap();
        pod.remove_container(&id).await.unwrap();
        assert_eq!(session.process.wait().await.unwrap().signal, Some(9));
        pod.remove().await.unwrap();
    }
    let pod = env.pod("last").await;
    env.end(pod).await;
}

async fn containers_are_bounded(env: Env) {
    let pod = env.pod("p").await;
    for number in 0..sampan_container::MAX_CONTAINERS {
        pod.create_container(env.script(&format!("c{number}"), "true")).await.unwrap();
    }
    let more = pod.create_container(env.script("more", "true")).await;
    assert!(matches!(more, Err(Error::Limit(_))), "{more:?}");
    pod.remove_container("c0").await.unwrap();
    pod.create_container(env.script("more", "true")).await.unwrap();
    env.end(pod).await;
}
