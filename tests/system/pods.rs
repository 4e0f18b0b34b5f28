//! The life of pods: environment, init containers and sidecars, probes, hooks, restarts, deadlines, endings.

use serde_json::Value;

use crate::support::{Cluster, condition, eventually, until};

/// A manifest of one pod in the default namespace; `spec` is YAML of two spaces' indentation.
pub fn pod(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n{spec}\n"
    )
}

/// The only container's status.
pub fn status(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

#[test]
fn environment_from_everywhere() {
    let c = Cluster::start();
    c.k("create configmap settings --from-literal=colour=blue --from-literal=size=big");
    c.k("create secret generic keys --from-literal=password=hunter2");
    c.apply(
        &pod(
            "env",
            r#"
  containers:
  - name: main
    image: busybox:1
    command: [sleep, infinity]
    args: ['$(COMPOSED)']
    resources: {limits: {cpu: 500m, memory: 32Mi}}
    envFrom: [{configMapRef: {name: settings}, prefix: S_}, {configMapRef: {name: nosuch, optional: true}}]
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
    - {name: ABSENT, valueFrom: {secretKeyRef: {name: keys, key: nosuch, optional: true}}}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: LABEL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: COMPOSED, value: '10$(NOSUCH)$$(COLOUR)-$(COLOUR)'}
"#,
        )
        .replace(
            "command: [sleep, infinity]\n    args: ['$(COMPOSED)']",
            "command: [sh, -c, 'echo $0; exec sleep infinity', $(COMPOSED)]",
        ),
    );
    let env = c.wait_ready("env");
    let said = c.exec("env", "env");
    let ip = env["status"]["podIP"].as_str().unwrap();
    for line in [
        "S_colour=blue",
        "S_size=big",
        "COLOUR=blue",
        "PASSWORD=hunter2",
        "POD=env",
        &format!("POD_IP={ip}"),
        "NODE=node-a",
        "LABEL=env",
        "MEMORY=32",
        "COMPOSED=10$(NOSUCH)$(COLOUR)-blue",
        "HOSTNAME=env",
        "KUBERNETES_SERVICE_HOST=10.43.0.1",
        "KUBERNETES_SERVICE_PORT=443",
    ] {
        assert!(said.lines().any(|have| have == line), "no {line} in\n{said}");
    }
    assert!(!said.contains("ABSENT"), "{said}");
    assert_eq!(c.k("logs env"), "10$(NOSUCH)$(COLOUR)-blue\n");
    assert_eq!(env["status"]["qosClass"], "Guaranteed");

    // What is missing is named, and the pod starts when it comes.
    c.apply(&pod("late", "  containers: [{name: main, image: 'busybox:1', command: [sleep, infinity], envFrom: [{configMapRef: {name: later}}]}]"));
    c.wait_pod("late", "waits for its ConfigMap", |pod| {
        let waiting = &status(pod)["state"]["waiting"];
        waiting["reason"] == "CreateContainerConfigError"
            && waiting["message"].as_str().is_some_and(|m| m.contains(r#"configmap "later" not found"#))
    });
    c.k("create configmap later --from-literal=a=1");
    c.wait_ready("late");
}

#[test]
fn init_containers_sidecars_and_hooks() {
    let c = Cluster::start();
    c.apply(&pod("steps", r#"
  terminationGracePeriodSeconds: 5
  volumes: [{name: shared, emptyDir: {}}, {name: outside, hostPath: {path: WORK}}]
  initContainers:
  - {name: first, image: 'busybox:1', command: [sh, -c, 'echo first >> /s/order'], volumeMounts: [{name: shared, mountPath: /s}]}
  - name: sidecar
    image: busybox:1
    restartPolicy: Always
    command: [sh, -c, 'trap "echo sidecar >> /o/ended; exit 0" TERM; echo sidecar >> /s/order; touch /s/ready; while :; do sleep 0.1; done']
    startupProbe: {exec: {command: [test, -e, /s/ready]}, periodSeconds: 1}
    volumeMounts: [{name: shared, mountPath: /s}, {name: outside, mountPath: /o}]
  - {name: third, image: 'busybox:1', command: [sh, -c, 'echo third >> /s/order'], volumeMounts: [{name: shared, mountPath: /s}]}
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, 'trap "echo main >> /o/ended; exit 0" TERM; echo main >> /s/order; while :; do sleep 0.1; done']
    lifecycle:
      postStart: {exec: {command: [sh, -c, 'echo poststart >> /s/order']}}
      preStop: {exec: {command: [sh, -c, 'echo prestop >> /o/ended']}}
    volumeMounts: [{name: shared, mountPath: /s}, {name: outside, mountPath: /o}]
"#).replace("WORK", c.work().to_str().unwrap()));
    let ready = c.wait_ready("steps");
    assert_eq!(c.k("get pod steps --no-headers").split_whitespace().nth(1), Some("2/2"));
    assert_eq!(ready["status"]["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    let order = until("the hook ran", || {
        let order = c.exec("steps", "cat /s/order");
        if order.contains("poststart") { Ok(order) } else { Err(order) }
    });
    assert!(order.starts_with("first\nsidecar\nthird\n"), "{order}");
    c.k("delete pod steps --timeout=60s");
    assert_eq!(std::fs::read_to_string(c.work().join("ended")).unwrap(), "prestop\nmain\nsidecar\n");

    // An init container that fails keeps the others back; with restartPolicy Never the pod has failed.
    c.apply(&(pod("stuck", "  initContainers: [{name: i, image: 'busybox:1', command: [sh, -c, 'exit 9']}]\n  containers: [{name: main, image: 'busybox:1', command: [sleep, infinity]}]")
        + &pod("lost", "  restartPolicy: Never\n  initContainers: [{name: i, image: 'busybox:1', command: [sh, -c, 'exit 9']}]\n  containers: [{name: main, image: 'busybox:1', command: [sleep, infinity]}]")));
    let lost = c.wait_phase("lost", "Failed");
    assert_eq!(lost["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 9);
    until("Init:CrashLoopBackOff", || {
        let line = c.k("get pod stuck --no-headers");
        if line.contains("Init:CrashLoopBackOff") { Ok(()) } else { Err(line) }
    });
    // A hook that fails kills its container.
    c.apply(&pod("hooked", "  containers: [{name: main, image: 'busybox:1', command: [sleep, infinity], lifecycle: {postStart: {exec: {command: [sh, -c, 'exit 3']}}}}]\n  terminationGracePeriodSeconds: 0"));
    until("the hook's failure is an event", || {
        let events = c.k("get events --field-selector involvedObject.name=hooked");
        if events.contains("FailedPostStartHook") { Ok(()) } else { Err(events) }
    });
}

#[test]
fn probes_gate_and_restart() {
    let c = Cluster::start();
    c.apply(&(pod("probed", r"
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, 'mkdir -p /www; echo ok > /www/live; sleep 1; touch /started; exec httpd -f -p 8080 -h /www']
    startupProbe: {exec: {command: [test, -e, /started]}, periodSeconds: 1, failureThreshold: 30}
    livenessProbe: {httpGet: {port: 8080, path: /live}, periodSeconds: 1, failureThreshold: 2}
    readinessProbe: {exec: {command: [test, -e, /www/ready]}, periodSeconds: 1, failureThreshold: 1}
") + &pod("tcp", r"
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox:1
    command: [httpd, -f, -p, '8080']
    ports: [{name: http, containerPort: 8080}]
    readinessProbe: {tcpSocket: {port: http}, periodSeconds: 1}
    livenessProbe: {tcpSocket: {port: 9}, periodSeconds: 1, failureThreshold: 2, initialDelaySeconds: 2}
")));
    c.wait_pod("probed", "started", |pod| status(pod)["started"] == true);
    assert_eq!(condition(&c.pod("probed"), "Ready"), "False");
    c.exec("probed", "touch /www/ready");
    c.wait_ready("probed");
    c.exec("probed", "rm /www/ready");
    c.wait_pod("probed", "unready again", |pod| condition(pod, "Ready") == "False");
    assert_eq!(status(&c.pod("probed"))["restartCount"], 0);
    c.exec("probed", "rm /www/live");
    c.wait_pod("probed", "restarted", |pod| status(pod)["restartCount"] == 1);
    until("the reason is an event", || {
        let events = c.k("get events --field-selector involvedObject.name=probed");
        let both = events.contains("Liveness probe failed: HTTP probe failed with statuscode: 404")
            && events.contains("Killing");
        if both { Ok(()) } else { Err(events) }
    });
    c.wait_pod("tcp", "restarted", |pod| status(pod)["restartCount"].as_i64() >= Some(1));
}

#[test]
fn restarts_back_off_and_endings_have_reasons() {
    let c = Cluster::start();
    let sleepy = "  restartPolicy: Never\n  containers: [{name: main, image: 'busybox:1', command: [sh, -c, 'SCRIPT']}]";
    c.apply(&(pod("crash", "  containers: [{name: main, image: 'busybox:1', command: [sh, -c, 'echo because > /dev/termination-log; exit 3']}]")
        + &pod("good", &sleepy.replace("SCRIPT", "exit 0"))
        + &pod("bad", &sleepy.replace("SCRIPT", "echo last words; exit 5").replace("name: main,", "name: main, terminationMessagePolicy: FallbackToLogsOnError,"))
        + &pod("onfailure", &sleepy.replace("SCRIPT", "test -e /s/x || { touch /s/x; exit 1; }").replace("Never", "OnFailure").replace("name: main,", "name: main, volumeMounts: [{name: s, mountPath: /s}],").replace("  containers", "  volumes: [{name: s, emptyDir: {}}]\n  containers"))
        + &pod("late", &(sleepy.replace("SCRIPT", "sleep 100") + "\n  activeDeadlineSeconds: 2\n  terminationGracePeriodSeconds: 1"))
        + &pod("noimage", "  containers: [{name: main, image: 'nosuch:9', imagePullPolicy: Never}]")
        + &pod("nocommand", "  containers: [{name: main, image: 'busybox:1', command: [/nosuch]}]")
        + &pod("hungry", &sleepy.replace("SCRIPT", "a=x; while :; do a=$a$a$a; done").replace("name: main,", "name: main, resources: {limits: {memory: 16Mi}},"))));
    c.wait_phase("good", "Succeeded");
    let bad = c.wait_phase("bad", "Failed");
    let ended = &status(&bad)["state"]["terminated"];
    assert_eq!(
        (ended["exitCode"].as_i64(), ended["reason"].as_str(), ended["message"].as_str()),
        (Some(5), Some("Error"), Some("last words\n"))
    );
    let once = c.wait_phase("onfailure", "Succeeded");
    assert_eq!(status(&once)["restartCount"], 1);
    let late = c.wait_phase("late", "Failed");
    assert_eq!(late["status"]["reason"], "DeadlineExceeded");
    c.wait_pod("noimage", "ErrImageNeverPull", |pod| {
        status(pod)["state"]["waiting"]["reason"] == "ErrImageNeverPull"
    });
    c.wait_pod("nocommand", "cannot start", |pod| {
        let state = [&status(pod)["state"], &status(pod)["lastState"]];
        state.iter().any(|s| {
            s["terminated"]["reason"] == "StartError"
                && s["terminated"]["message"].as_str().is_some_and(|m| m.contains("/nosuch"))
        })
    });
    let hungry = c.wait_phase("hungry", "Failed");
    let ended = &status(&hungry)["state"]["terminated"];
    assert_eq!((ended["exitCode"].as_i64(), ended["reason"].as_str()), (Some(137), Some("OOMKilled")));
    let crash = c.wait_pod("crash", "backs off", |pod| {
        status(pod)["state"]["waiting"]["reason"] == "CrashLoopBackOff"
            && status(pod)["restartCount"].as_i64() >= Some(1)
    });
    let last = &status(&crash)["lastState"]["terminated"];
    assert_eq!((last["exitCode"].as_i64(), last["message"].as_str()), (Some(3), Some("because\n")));
    assert!(
        status(&crash)["state"]["waiting"]["message"].as_str().unwrap().contains("back-off"),
        "{crash:#}"
    );
    let table = c.k("get pods");
    for word in ["CrashLoopBackOff", "OOMKilled", "Completed", "ErrImageNeverPull"] {
        assert!(table.contains(word), "no {word} in\n{table}");
    }
}

#[test]
fn termination_is_graceful_and_bounded() {
    let c = Cluster::start();
    let outside = format!("  volumes: [{{name: o, hostPath: {{path: {}}}}}]\n", c.work().display());
    let main = "  containers: [{name: main, image: 'busybox:1', volumeMounts: [{name: o, mountPath: /o}], command: [sh, -c, 'SCRIPT']}]\n";
    c.apply(
        &(pod(
            "polite",
            &(outside.clone()
                + &main.replace(
                    "SCRIPT",
                    r#"trap "echo term > /o/polite; exit 0" TERM; while :; do sleep 0.1; done"#,
                )),
        ) + &pod(
            "deaf",
            &(outside
                + &main.replace("SCRIPT", r#"trap "echo term > /o/deaf" TERM; while :; do sleep 0.1; done"#)
                + "  terminationGracePeriodSeconds: 2\n"),
        )),
    );
    c.wait_ready("polite");
    c.wait_ready("deaf");
    let begun = std::time::Instant::now();
    c.k("delete pod deaf polite --wait=false");
    c.wait_gone("polite");
    assert_eq!(std::fs::read_to_string(c.work().join("polite")).unwrap(), "term\n");
    c.wait_gone("deaf");
    assert!(begun.elapsed().as_secs() >= 2, "killed before its grace was over");
    assert_eq!(std::fs::read_to_string(c.work().join("deaf")).unwrap(), "term\n");
    let bridge = format!("smp-{}", &c.id().unwrap()[..6]);
    eventually("no link of theirs is left", || {
        c.sh(&format!("ip -o link show master {bridge}")).ok().out.is_empty()
    });
}

#[test]
fn namespaces_are_shared_as_asked() {
    let c = Cluster::start();
    c.apply(&(pod("host", "  hostNetwork: true\n  hostPID: true\n  containers: [{name: main, image: 'busybox:1', command: [httpd, -f, -p, '8099']}]")
        + &pod("shared", "  shareProcessNamespace: true\n  hostname: chosen\n  subdomain: sub\n  hostAliases: [{ip: 10.9.9.9, hostnames: [friend]}]\n  containers:\n  - {name: a, image: 'busybox:1', command: [sleep, '12345']}\n  - {name: b, image: 'busybox:1', command: [httpd, -f, -p, '8098']}")));
    let host = c.wait_ready("host");
    assert_eq!(host["status"]["podIP"], host["status"]["hostIP"]);
    c.sh("curl -sS http://127.0.0.1:8099/").ok();
    assert!(c.exec("host", "ip link").contains("smp-"));
    let shared = c.wait_ready("shared");
    let seen = c.sh("kubectl exec shared -c b -- ps").ok().out;
    assert!(seen.contains("sleep 12345"), "{seen}");
    // One network for both.
    c.sh("kubectl exec shared -c a -- wget -q -O - http://127.0.0.1:8098/").says(&["404"]);
    assert_eq!(c.exec("shared", "hostname"), "chosen\n");
    let hosts = c.exec("shared", "cat /etc/hosts");
    let ip = shared["status"]["podIP"].as_str().unwrap();
    assert!(
        hosts.contains("10.9.9.9\tfriend")
            && hosts.contains(&format!("{ip}\tchosen.sub.default.svc.cluster.local\tchosen")),
        "{hosts}"
    );
    let resolv = c.exec("shared", "cat /etc/resolv.conf");
    assert!(
        resolv.contains("nameserver 10.43.0.10")
            && resolv.contains("default.svc.cluster.local svc.cluster.local cluster.local"),
        "{resolv}"
    );
}
