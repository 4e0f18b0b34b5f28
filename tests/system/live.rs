//! What can be changed of a pod while it runs: what it may use, and who looks into it.

use serde_json::Value;

use crate::pods::pod;
use crate::support::{Cluster, condition, until};

/// What a container's cgroup says about memory, in either version.
const MEMORY: &str =
    "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";

/// The least that it and the groups around it may have; version 2 tells of the own group alone.
const LEAST: &str = "grep hierarchical_memory_limit /sys/fs/cgroup/memory/memory.stat 2>/dev/null || cat /sys/fs/cgroup/memory.max";

fn has_resized(pod: &Value, index: usize, memory: &str) -> bool {
    let has = &pod["status"]["containerStatuses"][index];
    has["resources"]["limits"]["memory"] == memory
        && pod["status"]["observedGeneration"] == pod["metadata"]["generation"]
        && condition(pod, "PodResizeInProgress").is_empty()
        && condition(pod, "Ready") == "True"
}

#[test]
fn a_running_pod_gets_other_limits_and_another_container() {
    let c = Cluster::start();
    c.apply(&pod(
        "live",
        "
  terminationGracePeriodSeconds: 0
  volumes: [{name: tools, image: {reference: 'busybox:1', pullPolicy: IfNotPresent}}]
  containers:
  - name: calm
    image: busybox:1
    command: [sh, -c, 'exec sleep 98765']
    securityContext: {runAsUser: 1000}
    volumeMounts: [{name: tools, mountPath: /tools}]
    resources: &some {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 100m, memory: 32Mi}}
  - name: anew
    image: busybox:1
    command: [sleep, infinity]
    resources: *some
    resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]
",
    ));
    let before = c.wait_ready("live");
    let first = &before["status"]["containerStatuses"];
    let index =
        |name: &str| first.as_array().unwrap().iter().position(|status| status["name"] == name).unwrap();
    let (calm, anew) = (index("calm"), index("anew"));
    assert_eq!(first[calm]["allocatedResources"]["memory"], "16Mi");
    // The files of an image, for reading only.
    assert_eq!(c.k("exec live -c calm -- /tools/bin/busybox echo there").trim(), "there");
    c.sh("kubectl exec live -c calm -- touch /tools/new").fails(&["Read-only file system"]);
    let resize = |patch: &str| c.sh(&format!("kubectl patch pod live --subresource resize -p '{patch}'"));

    // One gets more as it is, the other starts anew for it.
    let to = |memory: &str| {
        let one = |name: &str| {
            format!(r#"{{"name":"{name}","resources":{{"limits":{{"cpu":"200m","memory":"{memory}"}}}}}}"#)
        };
        format!(r#"{{"spec":{{"containers":[{},{}]}}}}"#, one("calm"), one("anew"))
    };
    resize(&to("64Mi")).ok();
    let after = c
        .wait_pod("live", "has more", |pod| has_resized(pod, calm, "64Mi") && has_resized(pod, anew, "64Mi"));
    let statuses = &after["status"]["containerStatuses"];
    assert_eq!(statuses[calm]["restartCount"], 0);
    assert_eq!(statuses[calm]["containerID"], first[calm]["containerID"]);
    assert_eq!(statuses[anew]["restartCount"], 1);
    for container in ["calm", "anew"] {
        let limit = c.k(&format!("exec live -c {container} -- sh -c '{MEMORY}'"));
        assert_eq!(limit.trim(), (64 << 20).to_string(), "{container}");
    }
    resize(&to("24Mi")).ok();
    c.wait_pod("live", "has less", |pod| has_resized(pod, calm, "24Mi") && has_resized(pod, anew, "24Mi"));
    assert_eq!(c.k(&format!("exec live -c calm -- sh -c '{MEMORY}'")).trim(), (24 << 20).to_string());

    // The pod as a whole gets more, too, when all that changes is a container that starts anew.
    resize(r#"{"spec":{"containers":[{"name":"anew","resources":{"limits":{"memory":"256Mi"}}}]}}"#).ok();
    c.wait_pod("live", "has much more", |pod| has_resized(pod, anew, "256Mi"));
    until("nothing around the container has less", || {
        let least = c.k(&format!("exec live -c anew -- sh -c '{LEAST}'"));
        if least.trim().ends_with(&(256 << 20).to_string()) { Ok(()) } else { Err(least) }
    });

    // What no node has is refused by the node, and what runs keeps what it has.
    resize(r#"{"spec":{"containers":[{"name":"calm","resources":{"requests":{"memory":"900Ti"},"limits":{"memory":"900Ti"}}}]}}"#)
        .ok();
    let pending = c.wait_pod("live", "cannot have it", |pod| condition(pod, "PodResizePending") == "True");
    let why = pending["status"]["conditions"].as_array().unwrap().iter();
    let why = why.clone().find(|condition| condition["type"] == "PodResizePending").unwrap();
    assert_eq!(why["reason"], "Infeasible");
    assert!(why["message"].as_str().unwrap().contains("Node didn't have enough capacity: memory"), "{why}");
    assert_eq!(c.k(&format!("exec live -c calm -- sh -c '{MEMORY}'")).trim(), (24 << 20).to_string());
    resize(r#"{"spec":{"containers":[{"name":"calm","resources":{"requests":{"memory":"16Mi"},"limits":{"memory":"24Mi"}}}]}}"#)
        .ok();
    c.wait_pod("live", "asks for less again", |pod| condition(pod, "PodResizePending").is_empty());

    look_into_it(&c);
    sizes_and_seats(&c);
}

/// A pod that asks for a size by name really has it, and room that is held is there for its owner and for nobody else.
fn sizes_and_seats(c: &Cluster) {
    c.apply(concat!(include_str!("../../examples/instance-types.yaml"), "---\n\
        apiVersion: sampan.io/v1alpha1\nkind: InstanceType\nmetadata: {name: tiny}\nspec: {cpu: 100m, memory: 48Mi}\n"));
    let sized = |name: &str, size: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}, annotations: {{sampan.io/instance-type: {size}}}}}\n\
             spec:\n  terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: 'busybox:1', command: [sleep, infinity]}}]\n"
        )
    };
    c.apply(&sized("sized", "tiny"));
    let pod = c.wait_ready("sized");
    assert_eq!(
        (&pod["status"]["qosClass"], &pod["metadata"]["labels"]["sampan.io/instance-type"]),
        (&"Guaranteed".into(), &"tiny".into())
    );
    let least = c.exec("sized", LEAST);
    assert!(least.trim().ends_with(&(48 << 20).to_string()), "{least}");
    assert!(c.k("get it tiny").contains("tiny"));
    let file = c.file("huge.yaml", sized("huge", "gigantic"));
    c.sh(&format!("kubectl apply -f {}", file.display())).fails(&["gigantic"]);

    // All that the node has left is held.
    let cpu = c.k("get node -o jsonpath={.items[0].status.allocatable.cpu}");
    let room: f64 = cpu
        .trim()
        .strip_suffix('m')
        .map_or_else(|| cpu.trim().parse(), |m| m.parse().map(|m: f64| m / 1e3))
        .unwrap();
    let held = format!("{}m", (room * 1e3) as u64 - 300);
    c.apply(&format!(
        "apiVersion: sampan.io/v1alpha1\nkind: Reservation\nmetadata: {{name: later}}\nspec:\n  owners: [{{labelSelector: {{matchLabels: {{app: owner}}}}}}]\n\
         \x20 template: {{spec: {{resources: {{requests: {{cpu: {held}, memory: 16Mi}}}}}}}}\n"
    ));
    until("the room is held", || {
        let phase = c.k("get rsv later -o jsonpath={.status.phase}");
        if phase.trim() == "Available" { Ok(()) } else { Err(phase) }
    });
    let wants = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
             containers: [{{name: c, image: 'busybox:1', command: [sleep, infinity], resources: {{requests: {{cpu: {held}}}}}}}]\n"
        )
    };
    c.apply(&wants("other"));
    c.wait_pod("other", "has no room", |pod| condition(pod, "PodScheduled") == "False");
    c.sampan(&["why", "pod/other"]).says(&["reservation", "later"]);
    c.apply(&wants("owner"));
    c.wait_ready("owner");
    c.k("delete pod sized other owner --timeout=60s");
}

/// An ephemeral container sees the processes of its target, can be attached to, and ends with the pod.
fn look_into_it(c: &Cluster) {
    let said = c.sh_with(
        "kubectl debug live -i -q --image busybox:1 --target calm -c peek -- sh -c 'read word; echo got $word; ps -o args'",
        b"hello\n",
    );
    said.ok().says(&["got hello", "sleep 98765"]);
    let seen = c.wait_pod("live", "shows how it ended", |pod| {
        pod["status"]["ephemeralContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
    });
    assert_eq!(condition(&seen, "Ready"), "True");
    assert!(c.k("logs live -c peek").contains("got hello"));
    c.k("debug live -q --image busybox:1 -c stays -- sleep infinity");
    c.wait_pod("live", "is watched", |pod| {
        !pod["status"]["ephemeralContainerStatuses"][1]["state"]["running"].is_null()
    });
    assert_eq!(c.k("exec live -c stays -- echo inside").trim(), "inside");
    c.k("delete pod live --timeout=60s");
    c.wait_gone("live");
}
