//! Services and cluster DNS, with packets; rollouts that lose no request.

use serde_json::Value;

use crate::{
    pods::pod,
    support::{Background, Cluster, eventually, until},
};

/// Two servers that say their names, and somebody who asks.
const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 3
      containers:
      - name: httpd
        image: busybox:1
        command: [sh, -c, 'mkdir /www; hostname > /www/name; echo $V > /www/version; touch /www/ready; exec httpd -f -p 8080 -h /www']
        env: [{name: V, value: v1}]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {exec: {command: [test, -e, /www/ready]}, periodSeconds: 1, failureThreshold: 1}
        lifecycle: {preStop: {sleep: {seconds: 1}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{name: http, port: 8080, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: db.example.com}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
"#;

fn client(c: &Cluster) {
    c.apply(&pod("client", "  terminationGracePeriodSeconds: 0\n  containers: [{name: main, image: 'busybox:1', command: [sleep, infinity]}]"));
    c.wait_ready("client");
}

fn service_ip(c: &Cluster, name: &str) -> String {
    c.k(&format!("get service {name} -o jsonpath={{.spec.clusterIP}}"))
}

/// Ready addresses of a Service, by its slices.
fn endpoints(c: &Cluster, service: &str) -> Vec<String> {
    let list = c.get(&format!("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name={service}"));
    let slices = list["items"].as_array().into_iter().flatten();
    let all = slices.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let ready = all.filter(|e| e["conditions"]["ready"] == true);
    let mut ips: Vec<String> = ready.filter_map(|e| e["addresses"][0].as_str().map(str::to_owned)).collect();
    ips.sort();
    ips
}

fn pod_ips(c: &Cluster) -> Vec<String> {
    let list = c.get("/api/v1/namespaces/default/pods?labelSelector=app=web");
    let mut ips: Vec<String> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|p: &Value| p["status"]["podIP"].as_str().map(str::to_owned))
        .collect();
    ips.sort();
    ips
}

#[test]
fn traffic_reaches_ready_pods() {
    let c = Cluster::start();
    c.apply(WEB);
    client(&c);
    c.k("rollout status deployment/web --timeout=60s");
    eventually("two endpoints", || endpoints(&c, "web").len() == 2);
    let ip = service_ip(&c, "web");
    // From a pod, by ClusterIP: both servers answer.
    let ask = format!("for i in $(seq 40); do wget -q -O - http://{ip}/name; done | sort | uniq -c");
    let answers = c.exec("client", &ask);
    assert_eq!(answers.lines().count(), 2, "{answers}");
    // From the node, and on its port.
    for url in [
        format!("http://{ip}/version"),
        "http://127.0.0.1:30080/version".to_owned(),
        "http://10.42.0.1:30080/version".to_owned(),
    ] {
        assert_eq!(c.sh(&format!("curl -sSf -m 10 {url}")).ok().out, "v1\n", "{url}");
    }
    assert_eq!(c.exec("client", "wget -q -O - http://10.42.0.1:30080/version"), "v1\n");
    // A server reaches itself through its own Service.
    let name = c.k("get pods -l app=web -o jsonpath={.items[0].metadata.name}");
    let hairpin = c.exec(
        &name,
        &format!("for i in $(seq 20); do wget -q -O - http://{ip}/version; done | sort | uniq -c"),
    );
    assert_eq!(hairpin.split_whitespace().collect::<Vec<_>>(), ["20", "v1"]);
    // Nobody behind it: refused at once, and not by running into a bound.
    let nobody = service_ip(&c, "nobody");
    let ran = c.sh(&format!("curl -sS -m 30 http://{nobody}/"));
    assert_eq!(ran.code, 7, "{ran:?}");
    c.sh(&format!("kubectl exec client -- wget -q -O - http://{nobody}/")).fails(&["refused"]);

    // An unready pod leaves, and comes back.
    c.exec(&name, "rm /www/ready");
    let gone = c.pod(&name)["status"]["podIP"].as_str().unwrap().to_owned();
    until("it left the Service", || {
        let now = endpoints(&c, "web");
        if now.len() == 1 && !now.contains(&gone) { Ok(()) } else { Err(format!("{now:?}")) }
    });
    eventually("no answer is its own", || {
        let answers = c.exec("client", &ask);
        answers.lines().count() == 1 && !answers.contains(&name)
    });
    c.exec(&name, "touch /www/ready");
    eventually("it is back", || c.exec("client", &ask).lines().count() == 2);
    // Deleting the Service takes its address and port away.
    c.k("delete service web");
    eventually("the port is closed", || c.sh("curl -sS -m 5 http://127.0.0.1:30080/").code == 7);
}

#[test]
fn names_resolve_as_in_kubernetes() {
    let c = Cluster::start();
    c.apply(WEB);
    client(&c);
    c.k("rollout status deployment/web --timeout=60s");
    eventually("two endpoints", || endpoints(&c, "headless").len() == 2);
    let dig = |query: &str| -> Vec<String> {
        let ran = c.sh(&format!("dig +short +time=5 @10.43.0.10 {query}")).ok();
        let mut lines: Vec<String> = ran.out.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let ip = service_ip(&c, "web");
    assert_eq!(dig("web.default.svc.cluster.local"), [ip.as_str()]);
    assert_eq!(dig("+tcp web.default.svc.cluster.local"), [ip.as_str()]);
    assert_eq!(dig("kubernetes.default.svc.cluster.local"), ["10.43.0.1"]);
    until("the headless Service has the pods' addresses", || {
        let seen = dig("headless.default.svc.cluster.local");
        if seen == pod_ips(&c) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    assert_eq!(dig("elsewhere.default.svc.cluster.local CNAME"), ["db.example.com."]);
    assert_eq!(
        dig("_http._tcp.web.default.svc.cluster.local SRV"),
        ["0 100 80 web.default.svc.cluster.local."]
    );
    assert_eq!(dig(&format!("-x {ip}")), ["web.default.svc.cluster.local."]);
    let status = c.sh("dig +time=5 @10.43.0.10 nosuch.default.svc.cluster.local").ok().out;
    assert!(status.contains("status: NXDOMAIN"), "{status}");
    assert!(dig("web.default.svc.cluster.local AAAA").is_empty());
    // Inside a pod, by its search list.
    for name in ["web.default.svc.cluster.local", "web"] {
        let full = c.sh(&format!("kubectl exec client -- nslookup -type=a {name}"));
        assert!(full.out.contains(&format!("Address: {ip}")), "{name}: {full:?}");
    }
    // A pod of a StatefulSet has a name under its Service.
    c.apply(r"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: 'busybox:1', command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 5432}]}
");
    let db = c.wait_ready("db-0");
    let ip = db["status"]["podIP"].as_str().unwrap();
    until("db-0.db", || {
        let seen = dig("db-0.db.default.svc.cluster.local");
        if seen == [ip] { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

#[test]
fn a_rolling_update_under_load_loses_no_request() {
    let c = Cluster::start();
    c.apply(WEB);
    client(&c);
    c.k("rollout status deployment/web --timeout=60s");
    eventually("two endpoints", || endpoints(&c, "web").len() == 2);
    let ip = service_ip(&c, "web");
    let count = |name: &str, url: &str| {
        format!(
            "sh -c 'ok=0; bad=0; while [ ! -e /tmp/stop ]; do if wget -q -O /tmp/{name} {url}; then ok=$((ok+1)); else bad=$((bad+1)); fi; done; echo {name} $ok good $bad bad'"
        )
    };
    let by_ip =
        c.spawn("by-ip", &format!("kubectl exec client -- {}", count("ip", &format!("http://{ip}/version"))));
    let by_port = c.spawn(
        "by-port",
        &format!("kubectl exec client -- {}", count("port", "http://10.42.0.1:30080/version")),
    );
    let counted = |mut load: Background| {
        let code = load.wait();
        let said = load.output();
        assert_eq!(code, 0, "{said}");
        let line =
            said.lines().find(|line| line.ends_with(" bad")).unwrap_or_else(|| panic!("{said}")).to_owned();
        let words: Vec<&str> = line.split(' ').collect();
        assert!(words[1].parse::<u32>().unwrap() > 20 && words[3] == "0", "{said}");
    };
    eventually("the load has begun", || {
        c.exec("client", "cat /tmp/ip /tmp/port 2>&1 || true").starts_with("v1\nv1")
    });
    c.k("set env deployment/web V=v2");
    c.k("rollout status deployment/web --timeout=90s");
    eventually("only the new version answers", || {
        c.exec("client", &format!("for i in $(seq 20); do wget -q -O - http://{ip}/version; done | sort -u"))
            == "v2\n"
    });
    c.k("scale deployment/web --replicas=4");
    c.k("rollout status deployment/web --timeout=60s");
    c.k("scale deployment/web --replicas=1");
    eventually("one is left", || {
        c.get("/api/v1/namespaces/default/pods?labelSelector=app=web")["items"]
            .as_array()
            .is_some_and(|pods| pods.len() == 1)
    });
    c.exec("client", "touch /tmp/stop");
    counted(by_ip);
    counted(by_port);
}

#[test]
fn what_a_cluster_set_up_in_the_kernel_is_there_and_goes() {
    let c = Cluster::start();
    c.apply(WEB);
    c.k("rollout status deployment/web --timeout=60s");
    let id = c.id().unwrap();
    let links = c.sh("ip -o link").ok().out;
    assert!(links.contains(&format!("smp-{}", &id[..6])), "{links}");
    c.sampan(&["down"]).ok();
    let links = c.sh("ip -o link").ok().out;
    assert_eq!(links.lines().count(), 1, "{links}");
    if c.sh("command -v nft").code == 0 {
        assert_eq!(c.sh("nft list tables").ok().out, "");
    }
    assert_eq!(c.sh("ip route; ip rule | wc -l").ok().out.trim(), "3");
}
