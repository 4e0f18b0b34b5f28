//! What the kernel says about a container's privileges and limits.

use crate::{
    pods::{pod, status},
    support::Cluster,
};

fn process_status(c: &Cluster, name: &str, field: &str) -> String {
    let all = c.exec(name, "cat /proc/1/status");
    let line = all.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap_or_else(|| panic!("no {field} in {all}")).trim().to_owned()
}

#[test]
fn containers_are_confined_by_default_and_as_asked() {
    let c = Cluster::start();
    let sleep = "image: 'busybox:1', command: [sleep, infinity]";
    c.apply(&(pod("plain", &format!("  containers: [{{name: main, {sleep}}}]"))
        + &pod("tight", &format!("  securityContext: {{runAsUser: 1000, runAsGroup: 3000, runAsNonRoot: true, supplementalGroups: [4000], seccompProfile: {{type: RuntimeDefault}}}}\n  containers: [{{name: main, {sleep}, securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL], add: [NET_BIND_SERVICE]}}}}}}]"))
        + &pod("loose", &format!("  containers: [{{name: main, {sleep}, securityContext: {{privileged: true}}}}]"))
        + &pod("refused", &format!("  containers: [{{name: main, {sleep}, securityContext: {{runAsNonRoot: true}}}}]"))
        + &pod("limited", &format!("  containers: [{{name: main, {sleep}, resources: {{limits: {{cpu: 250m, memory: 48Mi}}, requests: {{cpu: 100m}}}}}}]"))));
    for name in ["plain", "tight", "loose", "limited"] {
        c.wait_ready(name);
    }
    // The default: Docker's and containerd's fourteen capabilities, a seccomp filter.
    assert_eq!(process_status(&c, "plain", "CapEff"), "00000000a80425fb");
    assert_eq!(process_status(&c, "plain", "Seccomp"), "2");
    c.sh("kubectl exec plain -- mount -t tmpfs none /mnt").fails(&["ermi"]);
    c.sh("kubectl exec plain -- sh -c 'echo 1 > /proc/sys/vm/swappiness'").fails(&["Read-only file system"]);
    assert_eq!(c.exec("plain", "cat /proc/kcore | wc -c").trim(), "0");
    assert_eq!(c.exec("plain", "cat /proc/1/cmdline | tr '\\0' ' '").trim(), "sleep infinity");
    // No file system of the host beyond the few files made for it.
    let points = c.exec("plain", "awk '{print $2, $3}' /proc/mounts");
    let own = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log"];
    let of_disk = points
        .lines()
        .filter(|line| line.ends_with(" ext4") || line.ends_with(" xfs") || line.ends_with(" btrfs"));
    let strange: Vec<&str> = of_disk.filter(|line| !own.iter().any(|file| line.starts_with(file))).collect();
    assert!(strange.is_empty(), "{strange:?}");

    assert_eq!(c.exec("tight", "id -u; id -g; id -G"), "1000\n3000\n3000 4000\n");
    assert_eq!(process_status(&c, "tight", "NoNewPrivs"), "1");
    assert_eq!(process_status(&c, "tight", "Seccomp"), "2");
    assert_eq!(process_status(&c, "tight", "CapBnd"), "0000000000000400");
    c.sh("kubectl exec tight -- touch /file").fails(&["Read-only file system"]);

    assert_eq!(process_status(&c, "loose", "Seccomp"), "0");
    c.exec("loose", "mkdir -p /m && mount -t tmpfs none /m");

    c.wait_pod("refused", "is not run as root", |pod| {
        let waiting = &status(pod)["state"]["waiting"];
        waiting["reason"] == "CreateContainerConfigError"
            && waiting["message"]
                .as_str()
                .is_some_and(|m| m.contains("container has runAsNonRoot and image will run as root"))
    });

    let uid = c.pod("limited")["metadata"]["uid"].as_str().unwrap().to_owned();
    let group = |file: &str| {
        let controller = file.split('.').next().unwrap();
        c.sh(&format!("cat /sys/fs/cgroup/{controller}/sampan-{}/pod{uid}/*/{file}", c.id().unwrap()))
            .ok()
            .out
            .trim()
            .to_owned()
    };
    assert_eq!(group("memory.limit_in_bytes"), (48 << 20).to_string());
    assert_eq!(group("cpu.cfs_quota_us"), "25000");
    assert_eq!(group("cpu.shares"), "102");
}
