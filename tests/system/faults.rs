//! What dies, and what goes on: the service, shims, containers, the disk; starts that must be refused.

use std::{fs, net::TcpListener, path::PathBuf};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    pods::{pod, status},
    support::{Cluster, alive, eventually, until},
};

const SERVER: &str = "  terminationGracePeriodSeconds: 0\n  containers: [{name: main, image: 'busybox:1', command: [sh, -c, 'echo up; exec httpd -f -p 8080']}]";

fn deployment(replicas: u32, value: &str) -> String {
    format!(
        r"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{{name: main, image: 'busybox:1', command: [httpd, -f, -p, '8080'], env: [{{name: V, value: {value}}}]}}]
"
    )
}

/// What must be the same before and after: name, container id, process, restarts.
fn identities(c: &Cluster) -> Vec<(String, String, i32, u64)> {
    let list = c.get("/api/v1/namespaces/default/pods");
    let pods = list["items"].as_array().unwrap_or_else(|| panic!("{list}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let identity = |pod: &Value| {
        let restarts = status(pod)["restartCount"].as_u64().unwrap();
        (text(&pod["metadata"]["name"]), text(&status(pod)["containerID"]), c.processes(pod)[0], restarts)
    };
    let mut all: Vec<_> = pods.iter().map(identity).collect();
    all.sort();
    all
}

/// Every pod cgroup belongs to a pod that exists.
fn no_orphans(c: &Cluster) {
    until("every pod cgroup has its pod", || {
        let list = c.get("/api/v1/pods");
        let uids: Vec<&str> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|pod| pod["metadata"]["uid"].as_str())
            .collect();
        let root = format!("/sys/fs/cgroup/cpu/sampan-{}", c.id().unwrap());
        let dirs = fs::read_dir(root).unwrap().flatten().filter(|entry| entry.path().is_dir());
        let groups: Vec<String> = dirs
            .filter_map(|entry| entry.file_name().to_string_lossy().strip_prefix("pod").map(str::to_owned))
            .collect();
        let orphans: Vec<&String> = groups.iter().filter(|uid| !uids.contains(&uid.as_str())).collect();
        if orphans.is_empty() { Ok(()) } else { Err(format!("{orphans:?}")) }
    });
}

#[test]
fn pods_outlive_the_service_and_are_adopted() {
    let c = Cluster::start();
    c.apply(&(pod("server", SERVER) + "---" + &deployment(2, "v1")
        + &pod("brief", "  restartPolicy: Never\n  containers: [{name: main, image: 'busybox:1', command: [sh, -c, 'while [ ! -e /tmp/end ]; do sleep 0.1; done; echo bye; exit 7']}]")));
    c.k("expose pod server --type=NodePort --port=80 --target-port=8080");
    c.k("rollout status deployment/web --timeout=60s");
    let server = c.wait_ready("server");
    let brief = c.wait_ready("brief");
    let port = c.k("get service server -o jsonpath={.spec.ports[0].nodePort}");
    let answers = || {
        c.sh(&format!("curl -sS -m 10 -o /dev/null -w '%{{http_code}}' http://127.0.0.1:{port}/")).out
            == "404"
    };
    eventually("the port answers", answers);
    let before = identities(&c);
    c.kill();
    assert!(answers(), "the datapath ended with the service");
    // One ends while nobody looks.
    let root = format!("/proc/{}/root/tmp/end", c.processes(&brief)[0]);
    fs::write(root, "").unwrap();
    eventually("brief ends", || c.processes(&brief).is_empty());
    assert_eq!(c.sampan(&["status"]).code, 3);
    c.up();
    let ended = c.wait_phase("brief", "Failed");
    assert_eq!(status(&ended)["state"]["terminated"]["exitCode"], 7);
    assert_eq!(c.k("logs brief"), "bye\n");
    let gone: Vec<_> = before.into_iter().filter(|(name, ..)| name != "brief").collect();
    c.k("delete pod brief");
    assert_eq!(identities(&c), gone);
    assert!(answers());
    // All that worked works.
    assert_eq!(c.k("logs server"), "up\n");
    assert_eq!(c.exec("server", "echo $((40+2))"), "42\n");
    c.k("scale deployment web --replicas=3");
    c.k("rollout status deployment/web --timeout=60s");
    kill(Pid::from_raw(c.processes(&server)[0]), Signal::SIGKILL).unwrap();
    c.wait_pod("server", "restarted", |pod| status(pod)["restartCount"] == 1 && status(pod)["ready"] == true);
    eventually("the port answers again", answers);
    // An orderly end leaves pods alone too.
    let before = identities(&c);
    let pid = c.pid();
    kill(pid, Signal::SIGTERM).unwrap();
    eventually("it ends", || !alive(pid));
    c.up();
    assert_eq!(identities(&c), before);
    no_orphans(&c);
}

#[test]
fn killed_in_the_middle_of_work_it_goes_on() {
    let c = Cluster::start();
    c.apply(&deployment(4, "v1"));
    // While it creates pods: at once, and a little later each time.
    for wait in [0, 150, 400] {
        std::thread::sleep(std::time::Duration::from_millis(wait));
        c.kill();
        c.up();
    }
    c.k("rollout status deployment/web --timeout=90s");
    // In the middle of a rollout.
    for (wait, value) in [(50, "v2"), (400, "v3")] {
        c.apply(&deployment(4, value));
        std::thread::sleep(std::time::Duration::from_millis(wait));
        c.kill();
        c.up();
        c.k("rollout status deployment/web --timeout=90s");
    }
    until("four pods of the last version", || {
        let values = c.k("get pods -l app=web -o jsonpath='{.items[*].spec.containers[0].env[0].value}'");
        if values == "v3 v3 v3 v3" { Ok(()) } else { Err(values) }
    });
    no_orphans(&c);
    let ips = c.k("get pods -o jsonpath={.items[*].status.podIP}");
    for ip in ips.split(' ') {
        assert_eq!(
            c.sh(&format!("curl -sS -m 10 -o /dev/null -w '%{{http_code}}' http://{ip}:8080/")).ok().out,
            "404"
        );
    }
    // While it deletes them.
    c.k("delete deployment web --wait=false");
    c.kill();
    c.up();
    eventually("everything is gone", || c.k("get pods,replicasets -o name").is_empty());
    no_orphans(&c);
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    let c = Cluster::start();
    let script = c.file("write.sh", format!(
        "pems={}; for i in $(seq 1000); do
            curl -sSf --cacert $pems/ca.pem --cert $pems/admin.pem --key $pems/admin.key -o /dev/null -H 'Content-Type: application/json' \
                -d '{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"w'$i'\"}}}}' \
                https://127.0.0.1:6443/api/v1/namespaces/default/configmaps || exit 0
            echo w$i
        done",
        c.credentials().display()
    ));
    let mut writer = c.spawn("written", &format!("bash {}", script.display()));
    eventually("thirty are written", || {
        writer.output().lines().filter(|line| line.starts_with('w')).count() > 30
    });
    c.kill();
    writer.wait();
    let written = writer.output();
    c.up();
    let there = c.k("get configmaps -o name");
    for name in written.lines().filter(|line| line.starts_with('w')) {
        assert!(
            there.lines().any(|line| line == format!("configmap/{name}")),
            "{name} was acknowledged and is lost"
        );
    }
}

#[test]
fn shims_and_containers_that_die_come_back() {
    let c = Cluster::start();
    c.apply(&pod("server", SERVER));
    let server = c.wait_ready("server");
    let main = c.processes(&server)[0];
    kill(Pid::from_raw(main), Signal::SIGKILL).unwrap();
    let again = c.wait_pod("server", "restarted", |pod| {
        status(pod)["restartCount"] == 1 && status(pod)["ready"] == true
    });
    let last = &status(&again)["lastState"]["terminated"];
    assert_eq!((last["exitCode"].as_i64(), last["reason"].as_str()), (Some(137), Some("Error")), "{last}");
    assert_eq!(again["status"]["podIP"], server["status"]["podIP"]);

    let main = c.processes(&again)[0];
    let stat = fs::read_to_string(format!("/proc/{main}/stat")).unwrap();
    let shim: i32 = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    assert!(shim > 1, "{stat}");
    kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
    eventually("the container goes with its shim", || !alive(Pid::from_raw(main)));
    c.wait_pod("server", "is made anew", |pod| {
        status(pod)["restartCount"] == 2 && status(pod)["ready"] == true
    });
    let ip = c.pod("server")["status"]["podIP"].as_str().unwrap().to_owned();
    assert_eq!(
        c.sh(&format!("curl -sS -m 10 -o /dev/null -w '%{{http_code}}' http://{ip}:8080/")).ok().out,
        "404"
    );
    assert_eq!(c.exec("server", "echo fine"), "fine\n");

    // Both at once: the service and a shim.
    let main = c.processes(&c.pod("server"))[0];
    let stat = fs::read_to_string(format!("/proc/{main}/stat")).unwrap();
    let shim: i32 = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    c.kill();
    kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
    eventually("the container goes with its shim", || !alive(Pid::from_raw(main)));
    c.up();
    c.wait_pod("server", "is made anew", |pod| {
        status(pod)["restartCount"] == 3 && status(pod)["ready"] == true
    });
    no_orphans(&c);
}

#[test]
fn starts_that_are_refused_say_why() {
    let c = Cluster::prepare();
    let taken = c.ns.inside(|| TcpListener::bind("127.0.0.1:6443").unwrap());
    for line in ["$SAMPAN up", "$SAMPAN up --detach"] {
        let ran = c.sh(line);
        assert_eq!(ran.code, 1, "{ran:?}");
        ran.says(&["6443", "ddress already in use", "hint:", "--api-port"]);
    }
    c.sampan(&["up", "--detach", "--api-port", "7443"]).ok().says(&["https://127.0.0.1:7443"]);
    drop(taken);
    for line in ["$SAMPAN up", "$SAMPAN up --detach"] {
        let ran = c.sh(line);
        assert_eq!(ran.code, 1, "{ran:?}");
        ran.says(&[&c.pid().to_string(), "error: "]);
    }
    c.sh("kubectl get --raw /readyz").ok().says(&["ok"]);
    c.sampan(&["up", "--pod-cidr", "10.99.0.0/16"]).fails(&["error: "]);
    c.sampan(&["up", "--api-port", "many"]).fails(&["invalid value 'many'"]);
    c.sampan(&["down"]).ok();

    // Somebody else than root. The binary may be where they cannot look: opened first, executed by descriptor.
    let script = "import os, sys; f = os.open(os.environ['SAMPAN'], os.O_RDONLY); os.setgroups([]); os.setgid(65534); os.setuid(65534); os.execve(f, ['sampan', '--data-dir', '/tmp/nobody-here'] + sys.argv[1:], os.environ)";
    let script = c.file("nobody.py", script);
    for command in ["up", "image list", "down"] {
        c.sh(&format!("python3 {} {command}", script.display()))
            .fails(&["needs root", "hint: run it with sudo"]);
    }

    let file = c.data().join("instance.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"format\": 1", "\"format\": 9")).unwrap();
    c.sampan(&["up"]).fails(&["format 9", "newer version", "hint:"]);
    fs::write(&file, &text[..text.len() / 2]).unwrap();
    c.sampan(&["up"]).fails(&["instance.json", "hint:"]);
    fs::write(&file, text).unwrap();
    c.sampan(&["up", "--detach"]).ok();
}

#[test]
fn a_corrupt_store_is_named_and_nothing_is_thrown_away() {
    let c = Cluster::start();
    for i in 0..5 {
        c.k(&format!("create configmap m{i} --from-literal=a={}", "x".repeat(1000)));
    }
    c.sampan(&["down"]).ok();
    let files = fs::read_dir(c.data().join("store")).unwrap().flatten().map(|entry| entry.path());
    let largest: PathBuf =
        files.filter(|path| path.is_file()).max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let whole = fs::read(&largest).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
    let mut broken = whole.clone();
    broken[used / 2] ^= 0x55;
    fs::write(&largest, &broken).unwrap();
    let name = largest.file_name().unwrap().to_str().unwrap();
    let ran = c.sampan(&["up", "--detach"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    ran.says(&["corrupt store", name, "hint"]);
    assert_eq!(fs::read(&largest).unwrap(), broken, "the evidence was changed");
    fs::write(&largest, whole).unwrap();
    c.up();
    assert_eq!(c.k("get configmaps -o name").lines().count(), 6);
}

#[test]
fn a_full_disk_refuses_writes_and_heals() {
    let c = Cluster::start_on_small_disk(64);
    c.apply(&pod("server", SERVER));
    let server = c.wait_ready("server");
    let ip = server["status"]["podIP"].as_str().unwrap().to_owned();
    let fetch = format!("curl -sS -m 10 -o /dev/null -w '%{{http_code}}' http://{ip}:8080/");
    let fill = c.data().join("../fill");
    c.sh(&format!("dd if=/dev/zero of={} bs=64k; dd if=/dev/zero of={0}2 bs=1", fill.display()))
        .says(&["No space left on device"]);
    let value = "x".repeat(100_000);
    let refused = until("a write is refused", || {
        let ran = c.sh(&format!("kubectl create configmap m{} --from-literal=a={value}", rand()));
        if ran.code == 0 { Err(ran.out) } else { Ok(ran) }
    });
    refused.says(&["no space left"]);
    // Reads and pods go on; so does the service, through several heartbeats of the node.
    assert_eq!(c.sh(&fetch).ok().out, "404");
    assert_eq!(c.k("get pod server -o jsonpath={.status.phase}"), "Running");
    assert_eq!(c.exec("server", "echo fine"), "fine\n");
    c.sh("kubectl label pod server a=b").fails(&["no space left"]);
    c.sampan(&["status"]).ok().says(&["node-a Ready"]);
    let pid = c.pid();
    c.sh(&format!("rm {} {0}2", fill.display())).ok();
    until("writes resume", || {
        let ran = c.sh("kubectl label --overwrite pod server a=b");
        if ran.code == 0 { Ok(()) } else { Err(ran.err) }
    });
    assert_eq!(c.pid(), pid);
    c.apply(&pod("later", SERVER));
    c.wait_ready("later");
    assert_eq!(status(&c.pod("server"))["restartCount"], 0);
    // And nothing of it is lost.
    c.kill();
    c.up();
    assert_eq!(c.k("get pod server -o jsonpath={.metadata.labels.a}"), "b");
}

/// Something that has not been used yet.
fn rand() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()
}
