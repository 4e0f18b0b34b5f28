//! `sampan store …`: looking after the state, and moving it, with the real binary, kubectl and etcd.

use std::fs;

use serde_json::Value;

use crate::support::{
    fleet::{Fleet, HUB, Machine},
    until,
};

fn up(machine: &Machine, more: &str) {
    machine
        .sampan(&format!(
            "up --detach --node-name node-a --pod-cidr 10.142.0.0/16 --service-cidr 10.143.0.0/16 {more}"
        ))
        .ok();
}

fn status(machine: &Machine) -> Value {
    serde_json::from_str(&machine.sampan("store status -o json").out).unwrap_or_default()
}

fn version_of(machine: &Machine, what: &str) -> u64 {
    machine.k(&format!("get {what} -o jsonpath='{{.metadata.resourceVersion}}'")).parse().unwrap()
}

/// There and back, with a kill in the middle; nothing is lost and no version goes backwards.
#[test]
fn a_state_moves_to_etcd_and_back() {
    let fleet = Fleet::new(1);
    let machine = fleet.machine(31);
    up(&machine, "");
    machine.k("create configmap one --from-literal=a=1");
    machine.k("create secret generic hidden --from-literal=a=secret");
    // Large enough that a copy takes a moment.
    machine.sh("for i in $(seq 40); do kubectl create configmap big-$i --from-literal=x=$(head -c 60000 /dev/zero | tr '\\0' x); done").ok();
    let before = version_of(&machine, "configmap big-40");
    assert!(status(&machine)["revision"].as_u64().unwrap() >= before);
    machine.sampan("store migrate --to etcd://nowhere").fails(&["is served by process"]);
    stop(&machine);

    // Killed at several moments: begun anew, nothing lost.
    let to = fleet.store("moved");
    for delay in ["0.05", "0.2", "0.4"] {
        machine.sh(&format!("timeout -s KILL {delay} $SAMPAN store migrate --to {to}"));
    }
    let moved = machine.sampan(&format!("store migrate --to {to}"));
    // The last kill may have come after the last step.
    assert!(moved.code == 0, "{}", moved.err);
    let text = fs::read_to_string(machine.data().join("instance.json")).unwrap();
    assert!(text.contains(&to), "{text}");
    machine.sampan("up --store embedded").fails(&["the state of this instance is in", "hint"]);
    machine.sampan("store verify").ok().says(&["revision", "MEMBER", HUB]);

    up(&machine, "");
    assert_eq!(machine.k("get configmap one -o jsonpath='{.data.a}'"), "1");
    assert_eq!(machine.k("get secret hidden -o jsonpath='{.data.a}'"), "c2VjcmV0");
    assert_eq!(machine.k("get configmaps --no-headers | grep -c big-").trim(), "40");
    assert!(version_of(&machine, "configmap big-40") > before, "time never goes backwards");
    // Who comes back with what it knew must list anew.
    let watch = format!("get --raw '/api/v1/configmaps?watch=1&timeoutSeconds=5&resourceVersion={before}'");
    machine.sh(&format!("kubectl {watch}")).says(&["410", "Expired"]);
    machine.k("create configmap two --from-literal=a=2");
    let there = version_of(&machine, "configmap two");
    machine.sampan("store migrate --to embedded").fails(&["is served by process"]);
    stop(&machine);
    machine.sampan("store migrate --to embedded").ok().says(&["moved", "SHA-256"]);
    // Another server does not find a state there that nobody looks after.
    let other = fleet.machine(32);
    other.server(&fleet, "moved").fails(&["moved away", "hint"]);
    up(&machine, "");
    assert_eq!(
        version_of(&machine, "configmap two"),
        there,
        "an embedded store takes versions over as they were"
    );
    assert_eq!(machine.k("get secret hidden -o jsonpath='{.data.a}'"), "c2VjcmV0");
    machine.sampan("store verify").ok().says(&["embedded"]);

    // Killed before the etcd was told that its state is gone, a move can be ended later.
    let file = machine.data().join("instance.json");
    let mut facts: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    facts["leaving"] = serde_json::json!({"url": to});
    stop(&machine);
    fs::write(&file, facts.to_string()).unwrap();
    machine.sampan("store migrate --to embedded").ok().says(&["already"]);
    assert!(!fs::read_to_string(&file).unwrap().contains("leaving"));
    up(&machine, "");

    // Keys that are made meanwhile count when the state goes back.
    machine.sampan("secrets rotate-key").ok();
    machine.k("create secret generic later --from-literal=a=two");
    stop(&machine);
    machine.sampan(&format!("store migrate --to {to}")).ok();
    up(&machine, "");
    for (name, value) in [("hidden", "c2VjcmV0"), ("later", "dHdv")] {
        assert_eq!(machine.k(&format!("get secret {name} -o jsonpath='{{.data.a}}'")), value);
    }
}

fn stop(machine: &Machine) {
    nix::sys::signal::kill(machine.pid().unwrap(), nix::sys::signal::Signal::SIGTERM).unwrap();
    until("the service ends", || machine.pid().map_or(Ok(()), |pid| Err(pid.to_string())));
}

/// A flipped bit is found, named and not served; what came before it can be saved.
#[test]
fn a_damaged_store_is_named_and_what_is_whole_is_saved() {
    let fleet = Fleet::new(0);
    let machine = fleet.machine(33);
    up(&machine, "");
    machine.k("create configmap early --from-literal=a=1");
    machine.sampan("store compact").ok();
    machine.k("create configmap late --from-literal=a=2");
    machine.k("create configmap last --from-literal=a=3");
    machine.kill();
    machine.sampan("store verify").ok();
    let log = fs::read_dir(machine.data().join("store")).unwrap().flatten().map(|file| file.path());
    let log =
        log.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("log-")).max().unwrap();
    let mut bytes = fs::read(&log).unwrap();
    let at = bytes.windows(4).position(|window| window == b"late").unwrap();
    bytes[at] ^= 1;
    fs::write(&log, &bytes).unwrap();
    let name = log.display().to_string();
    machine.sampan("store verify").fails(&[&name, "at byte", "hint"]);
    machine.sampan("up").fails(&[&name, "at byte", "hint"]);
    machine.sampan("store salvage").ok().says(&["what was written after that is lost", "store.damaged-1"]);
    up(&machine, "");
    assert_eq!(machine.k("get configmap early -o jsonpath='{.data.a}'"), "1");
    machine.sh("kubectl get configmap last").fails(&["not found"]);
}

/// Cut off from etcd, a server answers with an error, leads no more, and goes on by itself when the way is free again. A
/// full etcd is told of, and given its space back.
#[test]
fn a_server_without_its_etcd_steps_back_and_returns() {
    let mut fleet = Fleet::new(1);
    let servers = [fleet.machine(41), fleet.machine(42)];
    for server in &servers {
        server.server(&fleet, "cut").ok();
    }
    let holder = |server: &Machine| {
        let line = "-n kube-system get lease kube-controller-manager -o jsonpath='{.spec.holderIdentity}'";
        server.sh(&format!("kubectl --request-timeout=10s {line}")).out
    };
    let first = until("somebody leads", || {
        let name = holder(&servers[0]);
        if name.is_empty() { Err(servers[0].log()) } else { Ok(name) }
    });
    let (n, other) = if first.contains(&servers[0].ip) { (0, 1) } else { (1, 0) };
    let (cut, other) = (&servers[n], &servers[other]);
    let port = 41 + u8::try_from(n).unwrap();
    fleet.plug(port, false);
    assert_ne!(cut.sh("kubectl --request-timeout=15s create configmap cut-off").code, 0);
    until("another leads", || {
        let name = holder(other);
        if !name.is_empty() && name != first { Ok(()) } else { Err(name) }
    });
    // It stopped before the other began, and says so.
    assert!(cut.log().contains("leads no more"), "{}", cut.log());
    other.k("create configmap meanwhile");
    fleet.plug(port, true);
    cut.k_says("get configmap meanwhile -o name", |out| out.contains("meanwhile"));
    cut.k_says("get endpointslice kubernetes -o jsonpath='{.endpoints[*].addresses[*]}'", |out| {
        servers.iter().all(|server| out.contains(&server.ip))
    });
    a_full_etcd_is_told_of(&mut fleet, &servers);
}

fn a_full_etcd_is_told_of(fleet: &mut Fleet, servers: &[Machine; 2]) {
    fleet.etcd[0].kill();
    fleet.etcd[0].flag("--quota-backend-bytes=6291456");
    fleet.etcd[0].up();
    let [one, two] = servers;
    one.k_says("get configmap meanwhile -o name", |out| out.contains("meanwhile"));
    // History is what fills it.
    let write = "head -c 600000 /dev/urandom | base64 -w0 | kubectl create configmap fill --from-file=x=/dev/stdin \
        --dry-run=client -o yaml | kubectl apply --server-side --force-conflicts -f -";
    let full = until("etcd is full", || {
        let ran = one.sh(write);
        if ran.err.contains("no space left") { Ok(ran) } else { Err(ran.err) }
    });
    full.fails(&["no space left", "hint"]);
    two.k("get configmap meanwhile");
    two.sampan("store status").fails(&["problem", "NOSPACE"]);
    two.sampan("store compact").ok();
    one.k_says("create configmap room -o name", |out| out.contains("room"));
    two.sampan("store status").ok();
}
