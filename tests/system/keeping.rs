//! What goes in which order, and what does not go: drains against budgets, foreground deletion, mirrored endpoints.

use crate::support::{Cluster, eventually, until};

#[test]
fn a_drain_waits_for_budgets_and_owners_for_what_they_own() {
    let c = Cluster::start();
    c.k("create deployment web --image=busybox:1 --replicas=2 -- sh -c 'trap exit TERM; while :; do sleep 0.1; done'");
    c.k("create poddisruptionbudget web --selector=app=web --min-available=2");
    c.k("rollout status deployment/web --timeout=60s");
    eventually("the budget counts", || c.k("get pdb web -o jsonpath={.status.currentHealthy}") == "2");
    let names = || c.k("get pods -l app=web -o jsonpath={.items[*].metadata.uid}");
    let before = names();
    let drained = c.sh("kubectl drain node-a --ignore-daemonsets --timeout=4s");
    assert_ne!(drained.code, 0);
    assert!(drained.err.contains("would violate the pod's disruption budget"), "{}", drained.err);
    assert_eq!(names(), before, "nobody was evicted");
    assert!(c.k("get nodes").contains("SchedulingDisabled"));
    c.k("patch pdb web --type=merge -p '{\"spec\":{\"minAvailable\":0}}'");
    c.k("drain node-a --ignore-daemonsets --timeout=60s");
    until("others wait for a node", || {
        let pods = c.k("get pods -l app=web --no-headers");
        let waiting = pods.lines().filter(|line| line.contains("Pending")).count();
        if waiting == 2 && pods.lines().count() == 2 { Ok(()) } else { Err(pods) }
    });
    c.k("uncordon node-a");
    c.k("rollout status deployment/web --timeout=60s");

    // In the foreground the owner goes last: as long as one pod is held, so are its ReplicaSet and its Deployment.
    let pod = c.k("get pods -l app=web -o jsonpath={.items[0].metadata.name}");
    c.k(&format!(
        r#"patch pod {pod} --type=merge -p '{{"metadata":{{"finalizers":["example.com/held"]}}}}'"#
    ));
    c.k("delete deployment web --cascade=foreground --wait=false");
    until("only what is held is left", || {
        let left = c.k("get pods,replicasets,deployments -l app=web -o name");
        if left.lines().count() == 3 && left.contains(&pod) { Ok(()) } else { Err(left) }
    });
    let waiting = c.k("get deployment web -o jsonpath={.metadata.deletionTimestamp}{.metadata.finalizers}");
    assert!(waiting.contains("foregroundDeletion"), "{waiting}");
    c.k(&format!(r#"patch pod {pod} --type=merge -p '{{"metadata":{{"finalizers":null}}}}'"#));
    c.k("wait deployment/web --for=delete --timeout=60s");
    assert_eq!(c.k("get pods,replicasets -l app=web -o name"), "");
}

#[test]
fn a_service_of_addresses_that_somebody_else_keeps() {
    let c = Cluster::start();
    // The host's side of the cluster's network serves a page; no pod does.
    c.file("index.html", "from outside");
    let gateway = c.k("get endpoints kubernetes -o jsonpath={.subsets[0].addresses[0].ip}");
    let _server = c.spawn("httpd", &format!("busybox httpd -f -p {gateway}:8088 -h {}", c.work().display()));
    c.apply(&format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: outside}}\nspec: {{ports: [{{port: 80, targetPort: 8088}}]}}\n---\napiVersion: v1\nkind: Endpoints\nmetadata: {{name: outside}}\nsubsets: [{{addresses: [{{ip: {gateway}}}], ports: [{{port: 8088}}]}}]\n"
    ));
    c.k("run client --image=busybox:1 -- sleep infinity");
    c.wait_ready("client");
    let ip = c.k("get service outside -o jsonpath={.spec.clusterIP}");
    until("the page behind the Service's address", || {
        let ran = c.sh(&format!("kubectl exec client -- wget -q -O - http://{ip}/"));
        if ran.out == "from outside" { Ok(()) } else { Err(ran.err) }
    });
}
