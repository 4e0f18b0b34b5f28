//! What clients accept and send: forms, refusals, indentation, compression.

use std::io::Read;

use crate::support::{Answer, Server, answer};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn accept(server: &Server, path: &str, accept: &str) -> Answer {
    let request = http::Request::get(path).header("accept", accept).body(Full::new(Bytes::new())).unwrap();
    answer(server.client(), request).await
}

#[tokio::test]
async fn what_cannot_be_given_is_refused_with_what_can() {
    let server = Server::start().await;
    server.config_map("m").await;
    let known = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
    for unknown in ["text/html", "application/cbor", "application/json;as=Widget;g=meta.k8s.io;v=v1"] {
        let refused = accept(&server, &format!("{MAPS}/m"), unknown).await;
        assert_eq!(refused.code, 406, "{unknown}");
        assert_eq!(refused.body["reason"], "NotAcceptable");
        assert_eq!(refused.body["message"], format!("only the following media types are accepted: {known}"));
    }
    assert_eq!(accept(&server, "/apis/apps/v1", "text/html").await.code, 406);
    let watch = accept(&server, &format!("{MAPS}?watch=1"), "application/yaml").await;
    let streams = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    assert_eq!(watch.code, 406);
    // The refusal is in the form that was asked for.
    let text = watch.body.as_str().unwrap();
    assert!(text.contains(&format!("only the following media types are accepted: {streams}")), "{text}");
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}).to_string();
    for unknown in ["application/cbor", "text/plain"] {
        let refused = server.send("POST", MAPS, unknown, body.clone()).await;
        assert_eq!(
            (refused.code, &refused.body["reason"]),
            (415, &Value::from("UnsupportedMediaType")),
            "{unknown}"
        );
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {known}"
        );
        assert_eq!(refused.body["message"], message);
    }
    // Nothing was made by a request whose answer could not be given.
    let request = http::Request::post(MAPS)
        .header("accept", "text/html")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    assert_eq!(answer(server.client(), request).await.code, 406);
    assert_eq!(server.get(&format!("{MAPS}/x")).await.code, 404);
}

#[tokio::test]
async fn yaml_and_indented_json_are_for_people() {
    let server = Server::start().await;
    server.config_map("m").await;
    let yaml = accept(&server, &format!("{MAPS}/m"), "application/yaml").await;
    assert_eq!(yaml.headers["content-type"], "application/yaml");
    let text = yaml.body.as_str().unwrap();
    assert!(text.contains("kind: ConfigMap\n") && text.contains("\n  name: m\n"), "{text}");
    let list = accept(&server, MAPS, "application/yaml").await;
    assert!(list.body.as_str().unwrap().contains("items:\n- "), "{}", list.body);
    let refused = accept(&server, &format!("{MAPS}/none"), "application/yaml").await;
    assert_eq!((refused.code, refused.headers["content-type"].to_str().unwrap()), (404, "application/yaml"));
    let request = http::Request::get(format!("{MAPS}/m?pretty=true")).body(Full::new(Bytes::new())).unwrap();
    let response = tower::ServiceExt::oneshot(server.client(), request).await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let object: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(bytes, serde_json::to_string_pretty(&object).unwrap());
    assert_eq!(object, server.get(&format!("{MAPS}/m")).await.body);
}

#[tokio::test]
async fn tables_and_metadata_come_as_asked() {
    let server = Server::start().await;
    server.config_map("m").await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let answer = accept(&server, MAPS, &format!("application/yaml;q=0.5,{table}")).await;
    assert_eq!((&answer.body["kind"], &answer.body["rows"][0]["cells"][0]), (&"Table".into(), &"m".into()));
    assert_eq!(answer.body["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let whole = accept(&server, &format!("{MAPS}?includeObject=Object"), table).await;
    assert_eq!(whole.body["rows"][0]["object"]["data"]["a"], "b");
    let none = accept(&server, &format!("{MAPS}?includeObject=None"), table).await;
    assert!(none.body["rows"][0].get("object").is_none_or(Value::is_null));
    let refused = accept(&server, &format!("{MAPS}?includeObject=Some"), table).await;
    assert_eq!(refused.code, 400);
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let answer = accept(&server, MAPS, partial).await;
    assert_eq!(answer.body["kind"], "PartialObjectMetadataList");
    assert_eq!(answer.body["items"][0]["metadata"]["name"], "m");
    assert!(answer.body["items"][0].get("data").is_none());
}

#[tokio::test]
async fn large_answers_are_packed_for_who_takes_it() {
    let server = Server::start().await;
    let tls = support_client(&server).await;
    let filler: String = (0..20_000).map(|n| char::from(b'a' + u8::try_from(n % 26).unwrap())).collect();
    for index in 0..12 {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{index}")},
            "data": {"filler": filler}});
        assert_eq!(server.post(MAPS, &body).await.code, 201);
    }
    let plain = fetch(tls.clone(), &server, MAPS, false).await;
    let packed = fetch(tls.clone(), &server, MAPS, true).await;
    assert_eq!(packed.0.as_deref(), Some("gzip"));
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&packed.1[..]).read_to_end(&mut unpacked).unwrap();
    assert!(plain.0.is_none() && unpacked == plain.1 && packed.1.len() * 4 < plain.1.len());
    let small = fetch(tls, &server, &format!("{MAPS}/m1"), true).await;
    assert_eq!(small.0, None);
}

/// A client over real TLS: packing is for the network only.
async fn support_client(server: &Server) -> std::sync::Arc<rustls::ClientConfig> {
    sampan_daemon::tls::client_config(server.ca.cert_pem(), None).unwrap()
}

async fn fetch(
    tls: std::sync::Arc<rustls::ClientConfig>,
    server: &Server,
    path: &str,
    gzip: bool,
) -> (Option<String>, Vec<u8>) {
    let tcp = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::get(path)
        .header("host", "localhost")
        .header("authorization", "Bearer secret-admin-token")
        .header("accept-encoding", if gzip { "gzip" } else { "identity" })
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let encoding = response.headers().get("content-encoding").map(|value| value.to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.unwrap().to_bytes().to_vec();
    connection.abort();
    (encoding, body)
}
