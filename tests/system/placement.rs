//! Placement without and with a cluster: simulations, and pods that move.

use serde_json::{Value, json};

use crate::support::{Cluster, eventually};

const NODES: &str = "sn,cpu_milli,memory_mib,gpu,model\nn0,64000,262144,2,P100\nn1,96000,393216,8,G2\n";
const PODS: &str = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,creation_time,deletion_time\n\
    p0,4000,1000,1,500,,0,100\np1,4000,1000,1,810,P100|G2,10,50\np2,8000,1000,2,1000,G2,20,200\np3,1000,1000,0,,,5,6\n";

#[test]
fn simulations_are_exact_and_say_what_is_wrong_with_their_input() {
    let c = Cluster::prepare();
    c.file("nodes.csv", NODES);
    c.file("pods.csv", PODS);
    let openb = "$SAMPAN simulate openb --nodes nodes.csv --pods pods.csv --seeds 3";
    let first = c.sh(&format!("{openb} -o json --plot a.svg --plot a.png")).ok().out;
    assert_eq!(first, c.sh(&format!("{openb} -o json")).ok().out);
    let report: Value = serde_json::from_str(&first).unwrap();
    assert_eq!((report["profile"].as_str(), report["seeds"].as_u64()), (Some("fragmentation"), Some(3)));
    let mean = report["gpu_alloc_pct"]["mean"].as_f64().unwrap();
    assert!((60.0..=100.0).contains(&mean), "{first}");
    c.sh("head -c 8 a.png | tail -c 7; head -1 a.svg").ok().says(&["PNG", "<svg "]);
    c.sh(&format!("{openb} --by-time --profile default --profile fragmentation"))
        .ok()
        .says(&["fragmentation   4"]);
    c.sh(&format!("{openb} --profile best")).fails(&["there is no profile best", "fragmentation, fgd"]);
    c.file("bad.csv", "name,cpu_milli,memory_mib,num_gpu,gpu_milli\np,1,1,1,x\n");
    c.sh("$SAMPAN simulate openb --nodes nodes.csv --pods bad.csv")
        .fails(&["bad.csv, line 2: gpu_milli is \"x\""]);

    c.file("scenario.yaml", include_str!("placement/scenario.yaml"));
    let run = "$SAMPAN simulate run -f scenario.yaml";
    let ran = c.sh(&format!("{run} --lose zone=b --at 50 -o json")).ok().out;
    let played: Value = serde_json::from_str(&ran).unwrap();
    assert_eq!(played[0]["placed"], 60, "{ran}");
    assert_eq!((&played[0]["displaced"], &played[0]["waiting"]), (&json!(0), &json!(0)));
    // Half of the nodes are gone, and 20 pods of one CPU have sixteen.
    assert!(played[1]["displaced"].as_u64() > Some(0) && played[1]["waiting"].as_u64() >= Some(4), "{ran}");
    // With queues it tells what each tenant had, and was due.
    c.file("queues.yaml", include_str!("placement/queues.yaml"));
    let run_queues = format!("{run} -f queues.yaml --plot shares.svg");
    c.sh(&run_queues).ok().says(&["TENANT", "FAIR SHARE %", "LONGEST STARVING"]);
    c.sh("cat shares.svg").ok().says(&["Dominant share of each tenant"]);
    let ran = c.sh(&format!("{run_queues} -o json --samples")).ok().out;
    let played: Value = serde_json::from_str(&ran).unwrap();
    assert_eq!(played[0]["tenants"]["batch"]["placed"], 40, "{ran}");
    assert!(played[0]["samples"][5]["tenants"]["web"]["fair_share"].as_f64() > Some(0.0), "{ran}");
    c.sh(&format!("{run} --lose nope")).fails(&["there is no node nope"]);
    c.sh(&format!("{run} --weight Nope=1")).fails(&["there is no score Nope"]);
    c.file("pvc.yaml", "kind: PersistentVolumeClaim\nmetadata: {name: data}\n");
    c.sh("$SAMPAN simulate run -f pvc.yaml").fails(&["pvc.yaml: document 1", "PersistentVolumeClaim data"]);
}

#[test]
fn pods_move_off_the_fullest_node_and_budgets_hold() {
    // Nobody is evicted for want of room until the node says otherwise.
    let c = Cluster::start_with(&["--overcommit", "cpu=100,memory=100,evict-cpu=100,evict-memory=100"]);
    let container = json!({
        "name": "web", "image": "busybox:1", "command": ["sleep", "infinity"],
        "resources": {"requests": {"cpu": "400m"}},
    });
    c.apply(
        &json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
            }},
        })
        .to_string(),
    );
    c.k("rollout status deployment web --timeout=60s");
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "web"}}},
    });
    c.apply(&budget.to_string());
    c.apply(r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-b"}}"#);
    // A node of the API alone: it says that it lives, and runs nothing.
    let alive = "n=0; while n=$((n+1)); do echo '{\"apiVersion\": \"coordination.k8s.io/v1\", \"kind\": \"Lease\",         \"metadata\": {\"name\": \"node-b\", \"namespace\": \"kube-node-lease\"}, \"spec\": {\"leaseDurationSeconds\": 40,         \"holderIdentity\": \"node-b\", \"leaseTransitions\": '$n', \"renewTime\": \"'$(date -u +%FT%T.%6NZ)'\"}}' | kubectl apply -f -; sleep 5; done";
    let script = c.file("alive.sh", alive);
    let _alive = c.spawn("alive", &format!("bash {}", script.display()));
    let amounts = json!({"cpu": "8", "memory": "16Gi", "pods": "110"});
    let ready = json!({"status": {"capacity": amounts, "allocatable": amounts, "conditions": [
        {"type": "Ready", "status": "True", "reason": "Test", "message": "", "lastHeartbeatTime": null, "lastTransitionTime": null},
    ]}});
    c.k(&format!("patch node node-b --subresource=status --type=merge -p '{ready}'"));
    eventually("node-b takes pods", || c.k("get node node-b -o jsonpath={.spec.taints[*].key}").is_empty());
    eventually("the budget is counted", || {
        c.k("get pdb web -o jsonpath={.status.currentHealthy}:{.status.disruptionsAllowed}") == "3:0"
    });

    let plan = |options: &str| -> Value {
        serde_json::from_str(&c.sh(&format!("$SAMPAN rebalance {options} -o json")).ok().out).unwrap()
    };
    let held = plan("--dry-run");
    assert_eq!(held["moves"], json!([]), "{held}");
    assert!(held["kept"]["a disruption budget allows no more"].as_u64() > Some(0), "{held}");
    c.k("patch pdb web --type=merge -p '{\"spec\":{\"maxUnavailable\":1}}'");
    eventually("the budget allows one", || {
        c.k("get pdb web -o jsonpath={.status.disruptionsAllowed}") == "1"
    });
    let shown = plan("--dry-run");
    let step = &shown["moves"][0];
    assert_eq!((step["from"].as_str(), step["to"].as_str()), (Some("node-a"), Some("node-b")), "{shown}");
    assert!(step["gain"].as_f64() > Some(0.0) && step["cost"].as_f64() >= Some(1.0), "{shown}");
    assert_eq!(shown["moves"].as_array().map(Vec::len), Some(1), "{shown}");
    let on = |node: &str| {
        c.k(&format!("get pods -l app=web --field-selector=spec.nodeName={node} -o name")).lines().count()
    };
    assert_eq!((on("node-a"), on("node-b")), (3, 0), "showing moves nothing");

    let pod = step["pod"].as_str().unwrap().to_owned();
    c.sh("$SAMPAN rebalance").ok().says(&["node-a", "node-b", "1 moves off 1 nodes"]);
    c.sh(&format!("kubectl get pod {pod}")).fails(&["NotFound"]);
    eventually("its successor runs elsewhere", || (on("node-a"), on("node-b")) == (2, 1));
    // Why it was moved is known of the one that is gone and of the one in its place.
    let why = "Moved off node node-a: node-a is the fullest node";
    c.sh(&format!("$SAMPAN why pod/{pod}")).ok().says(&["is gone", &format!("Rebalanced: {why}")]);
    let successor = c.k("get pods -l app=web --field-selector=spec.nodeName=node-b -o name");
    c.sh(&format!("$SAMPAN why {}", successor.trim())).ok().says(&[&format!("made anew: Pod {pod}: {why}")]);
    c.sh("$SAMPAN rebalance --consolidate").ok().says(&["In use stays node-"]);

    // Why a pod waits: what its volumes say counts, too.
    let waits = |name: &str, cpu: &str, volumes: Value| {
        c.apply(
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"volumes": volumes,
                "containers": [{"name": "c", "image": "busybox:1", "resources": {"requests": {"cpu": cpu}}}]}})
            .to_string(),
        );
    };
    waits("greedy", "100", json!([]));
    c.sh("$SAMPAN why pod/greedy").ok().says(&["0 of 2 nodes can take it", "Insufficient cpu", "closest is"]);
    waits("keeper", "1m", json!([{"name": "v", "persistentVolumeClaim": {"claimName": "none"}}]));
    c.sh("$SAMPAN why pod/keeper").ok().says(&["0 of 2", "2 persistentvolumeclaim \"none\" not found"]);
    let told = c.sh("$SAMPAN why pod/greedy -o json").ok().out;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["closest"]["lacks"][0]["asked"], 100_000, "{told}");
    a_pod_waits_for_its_queue(&c);
    batch_pods_leave_when_the_node_gets_short(&c);
}

/// The queue of a tenant may keep a pod waiting, too.
fn a_pod_waits_for_its_queue(c: &Cluster) {
    let queue = json!({"apiVersion": "sampan.io/v1alpha1", "kind": "TenantQueue", "metadata": {"name": "team"},
        "spec": {"limit": {"cpu": "10m"}, "namespaceSelector": {}}});
    c.apply(&queue.to_string());
    eventually("the queue is ready", || {
        c.sh("kubectl get tq team").out.lines().last().is_some_and(|line| line.contains("True"))
    });
    let container = json!({"name": "c", "image": "busybox:1", "resources": {"requests": {"cpu": "100m"}}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "queued"},
        "spec": {"containers": [container]}});
    c.apply(&pod.to_string());
    c.sh("$SAMPAN why pod/queued").ok().says(&[
        "tenant queue \"team\" has",
        "it waits for its queue: tenant queue \"team\" is at its limit: cpu",
        "to change that: wait until pods of queue \"team\" end, ask for less cpu, or raise its spec.limit",
    ]);
    c.k("delete tq team");
    eventually("it is placed without", || !c.k("get pod queued -o jsonpath={.spec.nodeName}").is_empty());
}

/// By what is really measured: a batch pod runs on memory that is promised to nobody or idle, within what it was lent, and
/// is killed when more of the node is used than its bound allows.
fn batch_pods_leave_when_the_node_gets_short(c: &Cluster) {
    eventually("node-a offers what is not used", || {
        let amount = c.get("/api/v1/nodes/node-a")["status"]["allocatable"]["sampan.io/batch-memory"].clone();
        amount.as_str().is_some_and(|amount| amount != "0")
    });
    let lent = json!({"sampan.io/batch-memory": "128Mi"});
    // A number that no other run has.
    let sleep = format!("sleep {}", 1_000_000 + std::process::id());
    let work = format!("dd if=/dev/zero of=/dev/shm/x bs=1M count=40 && exec {sleep}");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "batch"}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "busybox:1", "command": ["sh", "-c", work],
            "resources": {"requests": lent, "limits": lent}}]}});
    c.apply(&pod.to_string());
    c.wait_ready("batch");
    assert_eq!(c.k("get pod batch -o jsonpath={.spec.nodeName}:{.status.qosClass}"), "node-a:BestEffort");
    let limit =
        "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
    assert_eq!(c.exec("batch", limit).trim(), (128 << 20).to_string());
    let weight = "cat /sys/fs/cgroup/cpu.weight 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.shares";
    assert!(["1", "2"].contains(&c.exec("batch", weight).trim()), "the least weight that there is");
    let running = || c.sh(&format!("pgrep -f '^{sleep}$'")).code == 0;
    assert!(running());

    // Of any machine more than a hundredth of the memory is used.
    c.k("annotate node node-a sampan.io/overcommit=evict-memory=1");
    eventually("it is evicted", || c.sh("kubectl get pod batch").err.contains("NotFound"));
    eventually("it is dead", || !running());
    let told = c.k("get events --field-selector reason=Evicted,involvedObject.name=batch -o jsonpath={.items[*].message}");
    assert!(told.contains("of the node's memory are used; batch pods may stay up to 1 %"), "{told}");
    let web =
        c.get("/api/v1/namespaces/default/pods?labelSelector=app%3Dweb&fieldSelector=spec.nodeName%3Dnode-a");
    let restarts = web["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| &pod["status"]["containerStatuses"][0]["restartCount"]);
    assert_eq!(restarts.collect::<Vec<_>>(), [&json!(0), &json!(0)], "nobody else suffers");
}
