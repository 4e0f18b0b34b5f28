//! Services, names and ports as pods see them.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{phase, ready};
use crate::cluster::{Cluster, eventually};

fn web() -> serde_json::Value {
    json!(["sh", "-c", "mkdir /www; hostname > /www/name; httpd -p 8080 -h /www; exec sleep 1000"])
}

pub async fn services_and_names(cluster: &mut Cluster) {
    cluster
        .run(
            "web",
            json!({"containers": [{"command": web(),
        "readinessProbe": {"httpGet": {"path": "/name", "port": 8080}, "periodSeconds": 1}}]}),
        )
        .await;
    let pod = cluster.wait("web", "ready", ready).await;
    let ip = pod.status.unwrap().pod_ip.unwrap();
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    cluster.create("v1", "Service", json!({"metadata": {"name": "web"}, "spec": {"ports": ports}})).await;
    let slice = json!({"metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}]});
    cluster.create("discovery.k8s.io/v1", "EndpointSlice", slice).await;
    let script = "for i in $(seq 50); do wget -qO- http://web.default.svc.cluster.local/name && break; sleep 0.1; done; \
        wget -qO- http://web/name; wget -qO- http://$WEB_SERVICE_HOST:$WEB_SERVICE_PORT/name";
    cluster
        .run("client", json!({"restartPolicy": "Never", "containers": [{"command": ["sh", "-c", script]}]}))
        .await;
    cluster.wait("client", "ended", |pod| matches!(phase(pod), "Succeeded" | "Failed")).await;
    assert_eq!(cluster.kubectl_ok(&["logs", "client"]).await, "web\nweb\nweb\n");
    cluster.delete("client").await;
    cluster.delete("web").await;
}

pub async fn host_network_and_host_ports(cluster: &mut Cluster) {
    let spec = json!({"containers": [{"command": web(), "ports": [{"containerPort": 8080, "hostPort": 18080}],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}]});
    cluster.run("ported", spec).await;
    cluster.wait("ported", "ready", ready).await;
    eventually("an answer on the host port", async || {
        let Ok(mut stream) = tokio::net::TcpStream::connect("127.0.0.1:18080").await else { return false };
        let mut answer = String::new();
        stream.write_all(b"GET /name HTTP/1.0\r\n\r\n").await.is_ok()
            && stream.read_to_string(&mut answer).await.is_ok()
            && answer.ends_with("ported\n")
    })
    .await;
    cluster.delete("ported").await;
    cluster.run("hosted", json!({"hostNetwork": true, "restartPolicy": "Never", "containers": [{"command": ["cat", "/proc/net/dev"]}]})).await;
    let pod = cluster.wait("hosted", "ended", |pod| phase(pod) == "Succeeded").await;
    assert_eq!(pod.status.unwrap().pod_ip.as_deref(), Some("127.0.0.1"));
    assert!(cluster.kubectl_ok(&["logs", "hosted"]).await.contains("smp-"), "sees the host's links");
    cluster.delete("hosted").await;
}
