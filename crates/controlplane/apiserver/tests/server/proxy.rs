//! What pods and services serve, reached through the server.

use crate::support::Server;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};

/// An address of this machine that is not its loopback; none on a machine without a network.
async fn own_address() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").await.ok()?;
    socket.connect("192.0.2.1:9").await.ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// Answers each request with its head and body, as text or as a page with a link.
async fn echo(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = vec![0; 64 << 10];
        let length = stream.read(&mut seen).await.unwrap();
        let request = String::from_utf8_lossy(&seen[..length]).into_owned();
        let (kind, body) = if request.starts_with("GET /page") {
            ("text/html", r#"<a href="/there">x</a>"#.to_owned())
        } else {
            ("text/plain", request)
        };
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn pods_and_services_are_reached_through_the_server() {
    let Some(address) = own_address().await else { return };
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let backend = tokio::spawn(echo(listener));
    let server = Server::start().await;
    server.account("default").await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": port}]}]},
    });
    let core = "/api/v1/namespaces/default";
    assert_eq!(server.post(&format!("{core}/pods"), &pod).await.code, 201);
    let ip = address.to_string();
    let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
    assert_eq!(server.merge(&format!("{core}/pods/p/status"), &status).await.code, 200);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": [{"name": "web", "port": 80, "targetPort": port}]}});
    assert_eq!(server.post(&format!("{core}/services"), &service).await.code, 201);
    let target = json!({"kind": "Pod", "name": "p", "namespace": "default"});
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "s"},
        "subsets": [{"addresses": [{"ip": ip, "targetRef": target}], "ports": [{"name": "web", "port": port}]}]});
    assert_eq!(server.post(&format!("{core}/endpoints"), &endpoints).await.code, 201);

    let got = server.get(&format!("{core}/pods/p/proxy/a%20b/?q=1&q=2")).await;
    let text = got.body.as_str().unwrap();
    assert!(text.starts_with("GET /a%20b/?q=1&q=2 HTTP/1.1"), "{text}");
    assert!(text.contains(&format!("x-forwarded-uri: {core}/pods/p/proxy/a%20b/")), "{text}");
    for name in ["s:web", "http:s:web", "s:80", "http:s:80"] {
        let got = server.get(&format!("{core}/services/{name}/proxy/")).await;
        assert_eq!(got.code, 200, "{name}: {}", got.body);
        assert!(got.body.as_str().unwrap().starts_with("GET / HTTP/1.1"), "{}", got.body);
    }
    let sent = server.send("PUT", &format!("{core}/pods/p:{port}/proxy/x"), "text/plain", "hello").await;
    let text = sent.body.as_str().unwrap();
    assert!(text.starts_with("PUT /x HTTP/1.1") && text.ends_with("hello"), "{text}");
    let page = server.get(&format!("{core}/pods/p/proxy/page")).await;
    assert_eq!(page.body, json!(format!(r#"<a href="{core}/pods/p/proxy/there">x</a>"#)));
    let moved = server.get(&format!("{core}/pods/p/proxy?a=b")).await;
    assert_eq!(
        (moved.code, &moved.headers["location"]),
        (301, &format!("{core}/pods/p/proxy/?a=b").parse().unwrap())
    );

    let missing = server.get(&format!("{core}/services/s:81/proxy/")).await;
    assert_eq!(
        (missing.code, &missing.body["message"]),
        (503, &json!("no service port 81 found for service \"s\""))
    );
    let wrong = server.get(&format!("{core}/pods/ftp:p:1/proxy/")).await;
    assert_eq!((wrong.code, &wrong.body["message"]), (400, &json!("invalid pod request \"ftp:p:1\"")));
    backend.abort();
    let closed = server.get(&format!("{core}/pods/p:1/proxy/")).await;
    assert_eq!(closed.code, 503);
    let message = closed.body["message"].as_str().unwrap();
    assert!(message.starts_with("error trying to reach service: dial tcp"), "{message}");
}

#[tokio::test]
async fn addresses_of_this_machine_are_not_for_others() {
    let server = Server::start().await;
    server.account("default").await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(server.post(pods, &pod).await.code, 201);
    let refused = server.get(&format!("{pods}/p/proxy/")).await;
    assert_eq!((refused.code, &refused.body["message"]), (400, &json!("address not allowed")));
    let status = json!({"status": {"podIPs": [{"ip": "127.0.0.1"}], "podIP": "127.0.0.1"}});
    assert_eq!(server.merge(&format!("{pods}/p/status"), &status).await.code, 200);
    assert_eq!(server.get(&format!("{pods}/p/proxy/")).await.code, 400);
}
