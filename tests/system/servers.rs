//! Several servers over one etcd, and nodes that join them: machines are network namespaces on a bridge.

use serde_json::Value;

use crate::support::{
    fleet::{Fleet, Machine},
    until,
};

/// Addresses of the servers that live, as the `kubernetes` Service has them.
fn endpoints(server: &Machine) -> Vec<String> {
    let line = "kubectl get endpointslice kubernetes -o jsonpath='{.endpoints[*].addresses[*]}'";
    let mut all: Vec<String> = server.sh(line).out.split_whitespace().map(str::to_owned).collect();
    all.sort();
    all
}

fn holder(server: &Machine, lease: &str) -> String {
    let line = format!("kubectl -n kube-system get lease {lease} -o jsonpath='{{.spec.holderIdentity}}'");
    server.sh(&line).out
}

#[track_caller]
fn ready_nodes(server: &Machine, count: usize) {
    server.k_says("get nodes --no-headers", |out| {
        out.lines().filter(|line| line.split_whitespace().nth(1) == Some("Ready")).count() == count
    });
}

const AGENTS: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: c, image: 'busybox:1', command: [sh, -c, 'echo hello from $NODE; exec sleep 10000'],
         env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]}
";

/// Three servers, two nodes, and everything that makes them one cluster; then a server dies.
#[test]
fn three_servers_and_two_nodes_are_one_cluster() {
    let fleet = Fleet::new(1);
    let servers: Vec<Machine> = (11..14).map(|n| fleet.machine(n)).collect();
    // At once: one founds the cluster, the others enter it.
    std::thread::scope(|scope| {
        for server in &servers {
            scope.spawn(|| server.server(&fleet, "three").ok());
        }
    });
    let all: Vec<String> = servers.iter().map(|server| server.ip.clone()).collect();
    until("all three serve", || {
        let seen = endpoints(&servers[2]);
        if seen == all { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    // A server that is not told the secret, or another one, does not get in.
    let stranger = fleet.machine(19);
    let store = fleet.store("three");
    stranger.sampan(&format!("server --store {store}")).fails(&["secret", "hint"]);
    let wrong = format!(
        "echo a secret that nobody has > $HOME/wrong; $SAMPAN server --store {store} --cluster-secret-file $HOME/wrong"
    );
    stranger.sh(&wrong).fails(&["the cluster secret is wrong", "hint"]);

    // Nodes: what they are told on one server is good for all.
    let join = servers[1].sampan("token create --print-join-command").ok().out;
    let join = join.trim().strip_prefix("sampan ").unwrap().to_owned();
    for server in &servers {
        assert!(join.contains(&format!("https://{}:6443", server.ip)), "{join}");
    }
    let nodes: Vec<Machine> = (21..23).map(|n| fleet.machine(n)).collect();
    let (address, rest) = join.split_once(" --ca-hash ").unwrap();
    let forged = format!("{address} --ca-hash sha256:{}", "0".repeat(64));
    nodes[0].sampan(&format!("{forged} --node-name node-0")).fails(&["is not the one of --ca-hash", "hint"]);
    nodes[0].sampan(address).fails(&["hint: --ca-hash"]);
    assert!(!rest.is_empty());
    std::thread::scope(|scope| {
        for (n, node) in nodes.iter().enumerate() {
            let join = &join;
            scope.spawn(move || {
                node.import();
                node.sampan(&format!("{join} --detach --node-name node-{n}")).ok();
            });
        }
    });
    ready_nodes(&servers[0], 2);
    // Whoever lists processes learns no token.
    let token = join.split_once("--token ").unwrap().1.split(' ').next().unwrap();
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", nodes[0].pid().unwrap())).unwrap();
    assert!(line.contains("--join") && !line.contains(token), "{line}");
    // Neither takes the other's directory.
    servers[0].sampan(&join).fails(&["is a server's", "hint"]);
    nodes[0].sampan(&format!("server --store {store}")).fails(&["is of a node", "hint"]);
    let blocks = servers[0].k("get nodes -o jsonpath='{.items[*].spec.podCIDR}'");
    let blocks: Vec<&str> = blocks.split_whitespace().collect();
    assert!(blocks.len() == 2 && blocks[0] != blocks[1], "{blocks:?}");

    servers[0].apply(AGENTS);
    let pods = servers[1].k_says("get pods -l app=everywhere -o json", |out| {
        let list: Value = serde_json::from_str(out).unwrap_or_default();
        let running = |pod: &&Value| pod["status"]["phase"] == "Running";
        list["items"].as_array().is_some_and(|items| items.iter().filter(running).count() == 2)
    });
    let pods: Value = serde_json::from_str(&pods).unwrap();
    for server in &servers {
        for pod in pods["items"].as_array().unwrap() {
            let (name, node) =
                (pod["metadata"]["name"].as_str().unwrap(), pod["spec"]["nodeName"].as_str().unwrap());
            // The node's serving certificate comes a moment after the node.
            server.k_says(&format!("logs {name}"), |out| out.trim() == format!("hello from {node}"));
            let said = server.k(&format!("exec {name} -- sh -c 'echo $NODE'"));
            assert_eq!(said.trim(), node);
        }
    }

    a_key_that_one_server_makes_is_used_by_all(&servers);
    certificates_change_while_clients_stay(&servers, &nodes);
    a_leader_that_dies_is_replaced(&fleet, &servers, &nodes);
    a_node_that_is_down_forgets_its_network(&servers[0], &nodes[1]);
}

/// What was stopped for good may be given another network.
fn a_node_that_is_down_forgets_its_network(server: &Machine, node: &Machine) {
    let facts = || std::fs::read_to_string(node.data().join("instance.json")).unwrap();
    assert!(facts().contains("nodeCidr"));
    node.sampan("down").ok();
    assert!(!facts().contains("nodeCidr"), "{}", facts());
    node.sampan("agent --detach").ok();
    ready_nodes(server, 2);
}

fn a_key_that_one_server_makes_is_used_by_all(servers: &[Machine]) {
    servers[0].k("create secret generic before --from-literal=a=one");
    servers[1].sampan("secrets rotate-key").ok();
    servers[2].k("create secret generic after --from-literal=a=two");
    for server in servers {
        for (name, value) in [("before", "b25l"), ("after", "dHdv")] {
            assert_eq!(server.k(&format!("get secret {name} -o jsonpath='{{.data.a}}'")), value);
        }
    }
}

/// New certificates of a server and of a node, while a watch and a shell are open.
fn certificates_change_while_clients_stay(servers: &[Machine], nodes: &[Machine]) {
    let pod = servers[0].k("get pods -l app=everywhere --field-selector spec.nodeName=node-0 -o name");
    let open = servers[0]
        .spawn(&format!("kubectl exec {} -- sh -c 'while :; do echo tick; sleep 1; done'", pod.trim()));
    let watch = servers[0].spawn("kubectl get configmaps -w -o name");
    open.says(1, "tick");
    let serial = |machine: &Machine| machine.sampan("certs list -o json").ok().out;
    let (server_before, node_before) = (serial(&servers[0]), serial(&nodes[0]));
    servers[0].sampan("certs rotate").ok();
    nodes[0].sampan("certs rotate").ok().says(&["renewed 2"]);
    assert_ne!(serial(&servers[0]), server_before);
    assert_ne!(serial(&nodes[0]), node_before);
    servers[1].k("create configmap after-rotation");
    watch.says(1, "configmap/after-rotation");
    let seen = open.count("tick");
    open.says(seen + 2, "tick");
    // And what is new works with the new ones.
    let said = servers[2].k(&format!("exec {} -- echo fresh", pod.trim()));
    assert_eq!(said.trim(), "fresh");
    ready_nodes(&servers[2], 2);
}

fn a_leader_that_dies_is_replaced(fleet: &Fleet, servers: &[Machine], nodes: &[Machine]) {
    // `kubectl` on a server asks that server: find out which process leads by stopping it.
    let before = holder(&servers[0], "kube-controller-manager");
    assert!(!before.is_empty());
    for (n, server) in servers.iter().enumerate() {
        server.kill();
        let other = &servers[(n + 1) % 3];
        until("the dead one is off the list", || {
            let seen = endpoints(other);
            if !seen.is_empty() && !seen.contains(&server.ip) { Ok(()) } else { Err(format!("{seen:?}")) }
        });
        // Controllers and scheduler work again, whoever had them.
        other.k(&format!("create deployment d{n} --image=busybox:1 --replicas=2 -- sleep 10000"));
        other.k(&format!("rollout status deployment/d{n} --timeout=90s"));
        server.server(fleet, "three").ok();
        ready_nodes(server, 2);
    }
    assert_ne!(holder(&servers[0], "kube-controller-manager"), before, "whoever led was killed once");
    for node in nodes {
        let facts = std::fs::read_to_string(node.data().join("cluster.json")).unwrap();
        for server in servers {
            assert!(facts.contains(&server.ip), "{facts}");
        }
    }
}
