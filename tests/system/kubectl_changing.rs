//! kubectl: apply, create, edit, patch, label, scale, rollouts, delete.

use crate::support::{Cluster, eventually, until};

const WEB: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: httpd, image: 'busybox:1', command: [httpd, -f, -p, '80'], env: [{name: V, value: '1'}]}]
";

#[test]
fn apply_diff_replace_and_patch() {
    let c = Cluster::start();
    c.sh_with("kubectl apply -f -", WEB.as_bytes()).ok().says(&["deployment.apps/web created"]);
    c.sh_with("kubectl apply -f -", WEB.as_bytes()).ok().says(&["deployment.apps/web unchanged"]);
    let more = WEB.replace("replicas: 2", "replicas: 3");
    let diff = c.sh_with("kubectl diff -f -", more.as_bytes());
    assert_eq!(diff.code, 1, "{diff:?}");
    diff.says(&["-  replicas: 2", "+  replicas: 3"]);
    c.sh_with("kubectl apply --dry-run=server -f -", more.as_bytes())
        .ok()
        .says(&["configured (server dry run)"]);
    assert_eq!(c.k("get deployment web -o jsonpath={.spec.replicas}"), "2");
    c.sh_with("kubectl apply -f -", more.as_bytes()).ok().says(&["configured"]);
    assert_eq!(c.k("get deployment web -o jsonpath={.spec.replicas}"), "3");
    // What a manifest no longer says goes away; what others set stays.
    c.k("set env deployment/web OTHER=kept");
    let without = more.replace("env: [{name: V, value: '1'}]", "env: []");
    c.apply(&without);
    assert_eq!(
        c.k("get deployment web -o jsonpath='{.spec.template.spec.containers[0].env[*].name}'"),
        "OTHER"
    );

    // Who applies on the server learns who else holds a field, and may take it all the same.
    let two = without.replace("replicas: 3", "replicas: 2");
    assert_ne!(two, without);
    c.k("scale deployment web --replicas=4");
    let refused = c.sh_with("kubectl apply --server-side -f -", two.as_bytes());
    refused.fails(&["Apply failed with", "conflict with \"kubectl\"", ".spec.replicas"]);
    c.sh_with("kubectl apply --server-side --force-conflicts -f -", two.as_bytes()).ok();
    assert_eq!(c.k("get deployment web -o jsonpath={.spec.replicas}"), "2");
    c.k("scale deployment web --replicas=3");

    c.k(r#"patch deployment web -p '{"spec":{"template":{"spec":{"containers":[{"name":"httpd","image":"busybox:2"}]}}}}'"#);
    let containers = "get deployment web -o jsonpath='{range .spec.template.spec.containers[*]}{.name}={.image} {.command[0]}{end}'";
    assert_eq!(c.k(containers), "httpd=busybox:2 httpd");
    c.k(r#"patch deployment web --type=json -p '[{"op":"test","path":"/spec/replicas","value":3},{"op":"replace","path":"/spec/replicas","value":1}]'"#);
    c.k(r#"patch deployment web --type=merge -p '{"metadata":{"annotations":{"team":"a"}},"spec":{"paused":true}}'"#);
    assert_eq!(
        c.k("get deployment web -o jsonpath='{.spec.replicas} {.metadata.annotations.team} {.spec.paused}'"),
        "1 a true"
    );
    c.sh(
        r#"kubectl patch deployment web --type=json -p '[{"op":"test","path":"/spec/replicas","value":9}]'"#,
    )
    .fails(&["test"]);
    c.sh(r#"kubectl patch deployment web --type=merge -p '{"spec":{"replicas":-1}}'"#).fails(&[
        "is invalid",
        "spec.replicas",
        "must be greater than or equal to 0",
    ]);

    c.k("create configmap m --from-literal=a=1 --from-literal=b=2");
    c.sh("kubectl get configmap m -o yaml | sed 's/^  a:/  z:/' | kubectl replace -f -").ok();
    assert_eq!(c.k("get configmap m -o jsonpath={.data}"), r#"{"b":"2","z":"1"}"#);
    c.sh("kubectl get configmap m -o yaml > m.yaml; kubectl annotate configmap m x=y; kubectl replace -f m.yaml")
        .fails(&["Error from server (Conflict)", "the object has been modified"]);
    c.k("replace --force -f m.yaml");
}

/// A pod that ends at once.
fn run(c: &Cluster, name: &str) {
    let quick = r#"--overrides='{"spec":{"terminationGracePeriodSeconds":1}}'"#;
    c.k(&format!("run {name} --image=busybox:1 {quick} -- sleep infinity"));
}

#[test]
fn edit_label_annotate_and_taint() {
    let c = Cluster::start();
    c.k("create configmap m --from-literal=colour=blue");
    c.sh("KUBE_EDITOR='sed -i s/blue/green/' kubectl edit configmap m").ok().says(&["configmap/m edited"]);
    assert_eq!(c.k("get configmap m -o jsonpath={.data.colour}"), "green");
    c.sh("KUBE_EDITOR=true kubectl edit configmap m").ok().says(&["Edit cancelled, no changes made"]);
    c.k("label configmap m a=1 b=2");
    c.sh("kubectl label configmap m a=3").fails(&["already has a value"]);
    c.k("label --overwrite configmap m a=3 b-");
    assert_eq!(c.k("get configmap m -o jsonpath={.metadata.labels}"), r#"{"a":"3"}"#);
    c.sh("kubectl label configmap m 'bad key=1'").fails(&["bad key"]);
    c.k("annotate configmap m note='some words'");
    assert_eq!(c.k("get configmap m -o jsonpath={.metadata.annotations.note}"), "some words");

    c.k("cordon node-a");
    assert!(c.k("get node node-a").contains("Ready,SchedulingDisabled"));
    run(&c, "late");
    c.wait_pod("late", "is refused by the scheduler", |pod| {
        pod["status"]["conditions"][0]["message"].as_str().is_some_and(|m| m.contains("were unschedulable"))
    });
    c.k("uncordon node-a");
    c.wait_ready("late");
    c.k("taint node node-a dedicated=db:NoSchedule");
    run(&c, "tainted");
    c.wait_pod("tainted", "is kept away by the taint", |pod| {
        pod["status"]["conditions"][0]["message"].as_str().is_some_and(|m| m.contains("untolerated taint"))
    });
    c.k("taint node node-a dedicated-");
    c.wait_ready("tainted");
    c.k("taint node node-a broken=yes:NoExecute");
    c.wait_gone("tainted");
    c.k("taint node node-a broken-");
    run(&c, "evicted");
    c.wait_ready("evicted");
    c.k("drain node-a --force --grace-period=1 --timeout=60s");
    assert_eq!(c.k("get pods -o name"), "");
    c.k("uncordon node-a");
}

#[test]
fn create_makes_every_kind() {
    let c = Cluster::start();
    c.k("create namespace team");
    c.k("create configmap m --from-literal=a=1 --from-file=/etc/hostname");
    c.k("create secret generic s --from-literal=password=hunter2");
    assert_eq!(c.k("get secret s -o jsonpath={.data.password}"), "aHVudGVyMg==");
    c.k(
        "create secret docker-registry reg --docker-server=r.example --docker-username=u --docker-password=p",
    );
    c.k("create serviceaccount robot");
    let token = c.k("create token robot --duration=1h");
    assert_eq!(token.trim().split('.').count(), 3);
    let whoami = c.sh(&format!("kubectl --kubeconfig=/dev/null --server=https://127.0.0.1:6443 --insecure-skip-tls-verify --token={} auth whoami", token.trim()));
    whoami.ok().says(&["system:serviceaccount:default:robot", "system:serviceaccounts:default"]);
    c.k("create job once --image=busybox:1 -- true");
    c.k("create cronjob often --image=busybox:1 --schedule='*/5 * * * *' -- true");
    c.k("create job now --from=cronjob/often");
    c.k("create deployment app --image=busybox:1 --port=80 -- httpd -f -p 80");
    c.k("expose deployment app --port=8000 --target-port=80");
    c.k("create service nodeport np --tcp=80:80 --node-port=30123");
    assert_eq!(c.k("get service np -o jsonpath={.spec.ports[0].nodePort}"), "30123");
    c.sh("kubectl create service nodeport np2 --tcp=80:80 --node-port=30123")
        .fails(&["provided port is already allocated"]);
    c.k("run shell --image=busybox:1 --labels=a=b --env=X=1 -- sleep infinity");
    c.k("wait job/once job/now --for=condition=Complete --timeout=60s");
    c.k("wait deployment/app --for=condition=Available --timeout=60s");
    c.wait_ready("shell");
    c.sh("kubectl create configmap m").fails(&[r#"configmaps "m" already exists"#]);
    c.sh("kubectl create -n nosuch configmap m").fails(&[r#"namespaces "nosuch" not found"#]);
    c.k("-n team create configmap m");
    c.k("delete namespace team --timeout=60s");
    let out = c.k("run quick --image=busybox:1 --restart=Never --rm -i --quiet -- echo hello");
    assert_eq!(out, "hello\n");
}

#[test]
fn a_rollout_goes_forth_and_back() {
    let c = Cluster::start();
    c.apply(WEB);
    c.k("annotate deployment/web kubernetes.io/change-cause=first");
    c.k("rollout status deployment/web --timeout=60s");
    c.k("scale deployment/web --replicas=3 --current-replicas=2");
    c.sh("kubectl scale deployment/web --replicas=5 --current-replicas=2")
        .fails(&["Expected replicas to be 2, was 3"]);
    c.k("rollout status deployment/web --timeout=60s");
    assert_eq!(c.k("get pods -l app=web -o name").lines().count(), 3);

    c.k("set env deployment/web V=2");
    c.k("annotate deployment/web kubernetes.io/change-cause=second");
    let status = c.k("rollout status deployment/web --timeout=60s");
    assert!(status.contains("successfully rolled out"), "{status}");
    let values = "get pods -l app=web --field-selector status.phase=Running -o jsonpath='{.items[*].spec.containers[0].env[0].value}'";
    until("only new pods", || {
        let seen = c.k(values);
        if seen == "2 2 2" { Ok(()) } else { Err(seen) }
    });
    let history = c.k("rollout history deployment/web");
    assert!(history.contains("1         first") && history.contains("2         second"), "{history}");
    c.k("rollout undo deployment/web");
    c.k("rollout status deployment/web --timeout=60s");
    eventually("the old pods again", || c.k(values) == "1 1 1");
    assert!(c.k("rollout history deployment/web").contains("3         first"));

    c.k("rollout pause deployment/web");
    c.k("set env deployment/web V=4");
    c.k("set env deployment/web W=5");
    c.k("rollout resume deployment/web");
    c.k("rollout status deployment/web --timeout=60s");
    assert_eq!(c.k("get replicasets -l app=web -o name").lines().count(), 3);
    let before = c.k("get pods -l app=web -o jsonpath={.items[*].metadata.name}");
    c.k("rollout restart deployment/web");
    c.k("rollout status deployment/web --timeout=60s");
    eventually("all pods are new", || {
        let after = c.k("get pods -l app=web -o jsonpath={.items[*].metadata.name}");
        before.split(' ').all(|name| !after.contains(name))
    });
    // An image that is not there stops the rollout; old pods serve on.
    c.k("set image deployment/web httpd=localhost:1/nosuch:9");
    c.sh("kubectl rollout status deployment/web --timeout=3s")
        .fails(&["timed out waiting for the condition"]);
    until("the pull error is shown", || {
        let pods = c.k("get pods -l app=web");
        if pods.contains("ErrImagePull") || pods.contains("ImagePullBackOff") { Ok(()) } else { Err(pods) }
    });
    assert!(c.k("get deployment web -o jsonpath={.status.availableReplicas}").parse::<u32>().unwrap() >= 2);
    c.k("rollout undo deployment/web --to-revision=3");
    c.k("rollout status deployment/web --timeout=60s");
}

#[test]
fn delete_in_all_its_ways() {
    let c = Cluster::start();
    c.apply(WEB);
    c.k("rollout status deployment/web --timeout=60s");
    c.k("delete deployment web --cascade=orphan");
    assert_eq!(c.k("get replicasets -o name").lines().count(), 1);
    assert_eq!(c.k("get pods -o name").lines().count(), 2);
    c.k("delete replicasets -l app=web --cascade=foreground --timeout=60s");
    // Foreground: the pods went first.
    assert_eq!(c.k("get pods -o name"), "");

    c.apply(WEB);
    c.k("rollout status deployment/web --timeout=60s");
    c.k("delete deployment web --cascade=background");
    eventually("garbage is collected", || c.k("get pods,replicasets -o name").is_empty());

    // The shell ends on SIGTERM only after it has written what it does.
    c.k("run polite --image=busybox:1 -- sh -c 'trap \"sleep 1; exit 0\" TERM; while :; do sleep 0.1; done'");
    c.wait_ready("polite");
    c.k("delete pod polite --wait=false");
    assert!(c.k("get pod polite").contains("Terminating"));
    c.wait_gone("polite");
    c.k("run rude --image=busybox:1 -- sleep infinity");
    let rude = c.wait_ready("rude");
    let processes = c.processes(&rude);
    assert!(!processes.is_empty());
    c.sh("kubectl delete pod rude --force --grace-period=0 --timeout=5s").ok().says(&["force deleted"]);
    eventually("its processes are gone", || c.processes(&rude).is_empty());

    c.k("create configmap one");
    c.k("create configmap two");
    c.k("label configmap one two doomed=yes");
    c.k("delete configmap -l doomed=yes");
    c.sh("kubectl delete configmap one").fails(&["NotFound"]);
    c.k("delete configmap one --ignore-not-found");
    // A finalizer holds it.
    c.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held, finalizers: [example.com/hold]}");
    c.k("delete configmap held --wait=false");
    assert!(!c.k("get configmap held -o jsonpath={.metadata.deletionTimestamp}").is_empty());
    c.k(r#"patch configmap held --type=merge -p '{"metadata":{"finalizers":null}}'"#);
    c.sh("kubectl get configmap held").fails(&["NotFound"]);
}
