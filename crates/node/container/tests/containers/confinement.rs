//! What a container cannot do.

use std::path::PathBuf;

use sampan_container::{Device, Mount, MountSource, Options, Propagation, Rlimit, Runtime, Seccomp};

use crate::harness::{Env, Tests, until};
use crate::tests;

pub fn register(tests: &mut Tests) {
    tests!(
        tests,
        only_its_own_world,
        paths_are_hidden,
        system_calls_are_filtered,
        capabilities_are_few,
        no_new_privileges,
        read_only_root,
        privileged_has_all,
        binds_and_their_modes,
        sub_paths_stay_inside,
        links_in_the_image_stay_inside,
        devices_are_confined,
        limits_are_set,
        no_descriptor_leaks,
        version_2_alone,
    );
}

fn bind(path: impl Into<PathBuf>, to: &str) -> Mount {
    Mount {
        destination: to.into(),
        source: MountSource::Bind { path: path.into(), sub_path: None },
        read_only: false,
        recursive_read_only: false,
        propagation: Propagation::Private,
    }
}

async fn only_its_own_world(env: Env) {
    let pod = env.pod("p").await;
    let script =
        "echo $$; ps | wc -l; ls /; cat /proc/mounts; cat /proc/self/cgroup; ls -a /sys/fs/cgroup; ls /dev";
    let (_, output) = env.run(&pod, env.script("c", script)).await;
    assert!(output.starts_with("1\n"), "{output}");
    let mounts = output.lines().filter(|line| line.ends_with(" 0 0")).count();
    assert!(mounts < 30, "{mounts} mounts: {output}");
    assert!(output.contains("overlay / overlay rw,"), "{output}");
    assert!(output.contains(":/\n") && !output.contains("podp"), "{output}");
    assert!(
        output.contains("proc /proc proc rw,nosuid,nodev,noexec") && output.contains("mqueue"),
        "{output}"
    );
    assert!(output.contains("sysfs /sys sysfs ro,"), "{output}");
    assert!(output.contains("\nurandom\n") && output.contains("\nptmx\n"), "{output}");
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mountinfo.contains(env.dir.to_str().unwrap()), "the container's mounts show on the host");
    env.end(pod).await;
}

async fn paths_are_hidden(env: Env) {
    let pod = env.pod("p").await;
    let script = "wc -c < /proc/keys; ls /sys/firmware | wc -l; wc -c < /proc/timer_list; \
        echo 1 > /proc/sys/kernel/panic; echo 1 > /proc/sysrq-trigger; \
        mkdir /sys/fs/cgroup/memory/x /sys/fs/cgroup/x; echo end";
    let (_, output) = env.run(&pod, env.script("c", script)).await;
    assert!(output.starts_with("0\n0\n0\n") && output.matches("Read-only").count() >= 3, "{output}");
    let mut config = env.script("d", "test $(wc -c < /proc/timer_list) -gt 0 && echo seen");
    config.masked_paths = Some(Vec::new());
    config.readonly_paths = Some(Vec::new());
    let (_, output) = env.run(&pod, config).await;
    assert!(output.ends_with("seen\n"), "{output}");
    env.end(pod).await;
}

async fn system_calls_are_filtered(env: Env) {
    let pod = env.pod("p").await;
    let script = "unshare -U true 2>&1; mount -t tmpfs x /tmp 2>&1; grep Seccomp: /proc/self/status; chroot / true && echo chroot";
    let (_, output) = env.run(&pod, env.script("c", script)).await;
    assert_eq!(
        output.matches("Operation not permitted").count() + output.matches("permission denied").count(),
        2,
        "{output}"
    );
    assert!(output.contains("Seccomp:\t2\n") && output.contains("chroot\n"), "{output}");
    let mut config = env.script("d", "unshare -U true && echo unshared; grep Seccomp: /proc/self/status");
    config.seccomp = Seccomp::Unconfined;
    let (_, output) = env.run(&pod, config).await;
    assert_eq!(output, "unshared\nSeccomp:\t0\n");
    // With the capability the filter lets it through.
    let mut config = env.script("e", "mount -t tmpfs x /tmp && echo mounted");
    config.capabilities.add = vec!["SYS_ADMIN".to_owned()];
    let (_, output) = env.run(&pod, config).await;
    assert_eq!(output, "mounted\n");
    env.end(pod).await;
}

async fn capabilities_are_few(env: Env) {
    let pod = env.pod("p").await;
    let show = "grep ^Cap /proc/self/status | cut -f2";
    let none = "0000000000000000";
    let set = "00000000a80425fb";
    let (_, output) = env.run(&pod, env.script("c", show)).await;
    assert_eq!(output, format!("{none}\n{set}\n{set}\n{set}\n{none}\n"));
    let mut config = env.script("d", show);
    config.user.name = "web".to_owned();
    let (_, output) = env.run(&pod, config).await;
    assert_eq!(output, format!("{none}\n{none}\n{none}\n{set}\n{none}\n"));
    let mut config = env.script("e", show);
    config.capabilities.drop = vec!["ALL".to_owned()];
    config.capabilities.add = vec!["NET_BIND_SERVICE".to_owned()];
    let (_, output) = env.run(&pod, config).await;
    let one = "0000000000000400";
    assert_eq!(output, format!("{none}\n{one}\n{one}\n{one}\n{none}\n"));
    let mut config = env.script("bad", show);
    config.capabilities.add = vec!["NOT_ONE".to_owned()];
    assert!(pod.create_container(config).await.is_err());
    env.end(pod).await;
}

async fn no_new_privileges(env: Env) {
    let pod = env.pod("p").await;
    let mut config = env.script("c", "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status");
    config.no_new_privs = true;
    config.user.name = "web".to_owned();
    let (_, output) = env.run(&pod, config).await;
    assert_eq!(output, "NoNewPrivs:\t1\nSeccomp:\t2\n");
    env.end(pod).await;
}

async fn read_only_root(env: Env) {
    let pod = env.pod("p").await;
    let mut config = env.script("c", "touch /x; touch /data/y && echo data; touch /dev/shm/z && echo shm");
    config.read_only_rootfs = true;
    config.mounts =
        vec![Mount { source: MountSource::Tmpfs { size: Some(1 << 20), mode: None }, ..bind("/", "/data") }];
    let (_, output) = env.run(&pod, config).await;
    assert!(output.contains("Read-only file system") && output.ends_with("data\nshm\n"), "{output}");
    env.end(pod).await;
}

async fn privileged_has_all(env: Env) {
    let pod = env.pod("p").await;
    let script = "mount -t tmpfs x /tmp && echo mounted; grep Seccomp: /proc/self/status; \
        ls /dev | wc -l; test -w /proc/sys/kernel && echo sys";
    let mut config = env.script("c", script);
    config.privileged = true;
    let (_, output) = env.run(&pod, config).await;
    assert!(output.starts_with("mounted\nSeccomp:\t0\n") && output.ends_with("sys\n"), "{output}");
    env.end(pod).await;
}

async fn binds_and_their_modes(env: Env) {
    let pod = env.pod("p").await;
    let volume = env.dir.join("volume");
    std::fs::create_dir_all(volume.join("deep")).unwrap();
    std::fs::write(volume.join("file"), "from the host\n").unwrap();
    let mut config = env.script(
        "c",
        "cat /a/file /one; touch /a/made && echo wrote; touch /b/no; mkdir -p /made/up && ls /made/up/new",
    );
    config.mounts = vec![
        bind(&volume, "/a"),
        Mount { read_only: true, ..bind(&volume, "/b") },
        Mount { read_only: true, recursive_read_only: true, ..bind(&volume, "/made/up/new") },
        bind(volume.join("file"), "/one"),
    ];
    let (_, output) = env.run(&pod, config).await;
    assert!(output.starts_with("from the host\nfrom the host\nwrote\n"), "{output}");
    assert!(output.contains("Read-only") && output.contains("deep"), "{output}");
    assert!(volume.join("made").exists());
    let mut config = env.script("d", "true");
    config.mounts = vec![bind("/no/such/source", "/a")];
    pod.create_container(config).await.unwrap();
    let error = pod.start_container("d").await.unwrap_err().to_string();
    assert!(error.contains("/no/such/source"), "{error}");
    env.end(pod).await;
}

async fn sub_paths_stay_inside(env: Env) {
    let pod = env.pod("p").await;
    let volume = env.dir.join("volume");
    std::fs::create_dir_all(volume.join("inside")).unwrap();
    std::fs::write(volume.join("inside/file"), "inside\n").unwrap();
    std::os::unix::fs::symlink("/etc", volume.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../../../../../../etc", volume.join("relative")).unwrap();
    std::os::unix::fs::symlink("inside", volume.join("good")).unwrap();
    for (number, (sub, works)) in
        [("good", true), ("absolute", false), ("relative", false), ("../../../etc", false)]
            .into_iter()
            .enumerate()
    {
        let id = format!("c{number}");
        let mut config = env.script(&id, "cat /m/file; ls /m");
        config.mounts = vec![Mount {
            source: MountSource::Bind { path: volume.clone(), sub_path: Some(sub.into()) },
            ..bind("/", "/m")
        }];
        pod.create_container(config).await.unwrap();
        match pod.start_container(&id).await {
            Ok(_) if works => {
                pod.wait_container(&id).await.unwrap();
                assert!(env.output(&id).starts_with("inside\n"));
            }
            Err(error) if !works => assert!(error.to_string().contains(sub), "{error}"),
            other => panic!("{sub}: {other:?}"),
        }
    }
    env.end(pod).await;
}

async fn links_in_the_image_stay_inside(env: Env) {
    let pod = env.pod("p").await;
    let outside = env.dir.join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    let config = env.script("c", "ls /link; cat /proc/self/mountinfo");
    // A hostile image: a link where a volume is to be mounted.
    let upper = env.dir.join("layers/c/upper");
    std::os::unix::fs::symlink(&outside, upper.join("link")).unwrap();
    let mut config = config;
    let volume = env.dir.join("volume");
    std::fs::create_dir_all(volume.join("mounted-here")).unwrap();
    config.mounts = vec![bind(&volume, "/link")];
    let (_, output) = env.run(&pod, config).await;
    assert!(output.starts_with("mounted-here\n"), "{output}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    env.end(pod).await;
}

async fn devices_are_confined(env: Env) {
    let pod = env.pod("p").await;
    let script = "mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg 2>&1 | head -1; echo x > /dev/null && head -c 1 /dev/zero | wc -c; ls /dev/fuse";
    let (_, output) = env.run(&pod, env.script("c", script)).await;
    assert!(output.contains("Operation not permitted") && output.contains("\n1\n"), "{output}");
    assert!(!output.contains("\n/dev/fuse\n"), "{output}");
    let mut config = env.script("d", "head -c 1 /dev/special | wc -c");
    config.devices = vec![Device {
        host_path: "/dev/zero".into(),
        container_path: "/dev/special".into(),
        permissions: "r".to_owned(),
    }];
    assert_eq!(env.run(&pod, config).await.1, "1\n");
    env.end(pod).await;
}

async fn limits_are_set(env: Env) {
    let pod = env.pod("p").await;
    let mut config = env.script("c", "ulimit -n; cat /proc/self/oom_score_adj");
    config.rlimits = vec![
        Rlimit { name: "RLIMIT_NOFILE".to_owned(), soft: 123, hard: 456 },
        // More than this process may give: as much as possible is given.
        Rlimit { name: "memlock".to_owned(), soft: u64::MAX, hard: u64::MAX },
    ];
    config.oom_score_adj = Some(500);
    assert_eq!(env.run(&pod, config).await.1, "123\n500\n");
    let mut config = env.script("d", "echo runs");
    config.oom_score_adj = Some(-900);
    assert_eq!(env.run(&pod, config).await.1, "runs\n");
    env.end(pod).await;
}

async fn no_descriptor_leaks(env: Env) {
    let pod = env.pod("p").await;
    let mut config = env.script("c", "");
    config.args = ["ls", "-l", "/proc/self/fd"].map(str::to_owned).to_vec();
    let (_, output) = env.run(&pod, config).await;
    // 0, 1, 2 and the directory that is listed.
    assert_eq!(
        output.lines().filter(|line| line.starts_with('l') && !line.starts_with("ls:")).count(),
        4,
        "{output}"
    );
    env.end(pod).await;
}

/// Hybrid machines have a version 2 hierarchy as well; used alone, it must do.
async fn version_2_alone(env: Env) {
    let root = std::path::Path::new("/sys/fs/cgroup/unified");
    if !root.join("cgroup.kill").exists() {
        let pod = env.pod("p").await;
        return env.end(pod).await;
    }
    let options = Options { cgroup_root: root.to_owned(), ..env.options() };
    env.runtime.set(Runtime::new(options, env.supervisor.clone()).unwrap()).unwrap();
    let pod = env.pod("p").await;
    let script = "cat /proc/self/cgroup | tail -1; mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg 2>&1 | head -1; \
        head -c 1 /dev/zero | wc -c; ls /sys/fs/cgroup/cgroup.procs; (sleep 1000 &) ; sleep 1000; true";
    pod.create_container(env.script("c", script)).await.unwrap();
    pod.start_container("c").await.unwrap();
    until("it looked", || env.output("c").contains("cgroup.procs")).await;
    let output = env.output("c");
    assert!(output.starts_with("0::/\n") && output.contains("Operation not permitted\n1\n"), "{output}");
    assert!(pod.container_stats("c").unwrap().cpu_usage_nanos > 0);
    pod.remove_container("c").await.unwrap();
    assert!(pod.container_stats("c").is_err());
    env.end(pod).await;
}
