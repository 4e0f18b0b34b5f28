//! `application/vnd.kubernetes.protobuf` over the API: objects, lists, refusals, watches, and back again.

use crate::support::Server;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn ask(server: &Server, method: &str, path: &str, accept: &str, body: Bytes) -> (u16, String, Bytes) {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("accept", accept)
        .header("content-type", PROTOBUF)
        .body(Full::new(body))
        .unwrap();
    let response = server.client().oneshot(request).await.unwrap();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    let code = response.status().as_u16();
    (code, kind, response.into_body().collect().await.unwrap().to_bytes())
}

/// The fields of a message that hold bytes.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let varint = |bytes: &mut &[u8]| {
        let mut value = 0_u64;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    };
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let value = varint(&mut bytes);
        if tag & 7 == 2 {
            let (inner, rest) = bytes.split_at(usize::try_from(value).unwrap());
            out.push((tag >> 3, inner));
            bytes = rest;
        }
    }
    out
}

fn field(bytes: &[u8], number: u64) -> &[u8] {
    fields(bytes).into_iter().find(|(found, _)| *found == number).unwrap().1
}

/// The message inside an envelope of this kind.
fn opened<'a>(bytes: &'a [u8], kind: &str) -> &'a [u8] {
    let envelope = bytes.strip_prefix(b"k8s\0").expect("it begins with the magic");
    assert_eq!(field(field(envelope, 1), 2), kind.as_bytes());
    field(envelope, 2)
}

#[tokio::test]
async fn what_comes_out_goes_in_again() {
    let server = Server::start().await;
    server.account("default").await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
        "spec": {
            "containers": [{
                "name": "c", "image": "i", "env": [{"name": "E", "value": "\u{e9}"}],
                "resources": {"limits": {"cpu": "100m"}}, "ports": [{"containerPort": 80}],
                "livenessProbe": {"httpGet": {"path": "/", "port": "http"}},
            }],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
    });
    let made = server.post("/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let path = "/api/v1/namespaces/default/pods/p";
    let (code, kind, bytes) = ask(&server, "GET", path, PROTOBUF, Bytes::new()).await;
    assert_eq!((code, kind.as_str()), (200, PROTOBUF));
    opened(&bytes, "Pod");
    // Written back as it is, it changes nothing: nothing was lost or added on the way.
    let (code, _, answer) = ask(&server, "PUT", path, PROTOBUF, bytes.clone()).await;
    assert_eq!((code, answer), (200, bytes));
    assert_eq!(server.get(path).await.body, made.body);
}

#[tokio::test]
async fn creates_refusals_and_deletes_are_in_protobuf() {
    let server = Server::start().await;
    let map = server.config_map("m").await;
    let (_, _, bytes) = ask(&server, "GET", &format!("{MAPS}/m"), PROTOBUF, Bytes::new()).await;
    let (code, kind, refused) = ask(&server, "POST", MAPS, PROTOBUF, bytes).await;
    // It has a resourceVersion.
    assert_eq!((code, kind.as_str()), (500, PROTOBUF));
    opened(&refused, "Status");
    let (code, _, missing) = ask(&server, "GET", &format!("{MAPS}/none"), PROTOBUF, Bytes::new()).await;
    assert_eq!(code, 404);
    let status = opened(&missing, "Status");
    assert_eq!(field(status, 4), b"NotFound");
    assert_eq!(field(status, 3), b"configmaps \"none\" not found");
    assert_eq!(field(field(status, 5), 1), b"none");
    // DeleteOptions with a condition that does not hold.
    let options = |uid: &str| {
        let mut out = b"k8s\0\x0a\x13\x0a\x02v1\x12\x0dDeleteOptions".to_vec();
        let condition = [b"\x0a", &[u8::try_from(uid.len()).unwrap()][..], uid.as_bytes()].concat();
        let raw = [b"\x12", &[u8::try_from(condition.len()).unwrap()][..], &condition].concat();
        out.extend([b"\x12", &[u8::try_from(raw.len()).unwrap()][..], &raw].concat());
        Bytes::from(out)
    };
    let (code, ..) = ask(&server, "DELETE", &format!("{MAPS}/m"), PROTOBUF, options("other")).await;
    assert_eq!(code, 409);
    let uid = map["metadata"]["uid"].as_str().unwrap();
    let (code, _, gone) = ask(&server, "DELETE", &format!("{MAPS}/m"), PROTOBUF, options(uid)).await;
    assert_eq!(code, 200);
    assert_eq!(field(opened(&gone, "Status"), 2), b"Success");
}

#[tokio::test]
async fn lists_come_in_pages_and_as_metadata() {
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        server.config_map(name).await;
    }
    let (_, _, bytes) = ask(&server, "GET", &format!("{MAPS}?limit=2"), PROTOBUF, Bytes::new()).await;
    let list = opened(&bytes, "ConfigMapList");
    let items: Vec<_> = fields(list).into_iter().filter(|(number, _)| *number == 2).collect();
    assert_eq!(items.len(), 2);
    assert_eq!(field(field(items[1].1, 1), 1), b"b");
    // The continue token.
    let token = String::from_utf8(field(field(list, 1), 3).to_vec()).unwrap();
    let rest = server.get(&format!("{MAPS}?continue={token}")).await;
    assert_eq!(rest.body["items"][0]["metadata"]["name"], "c");
    let metadata = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let (_, kind, bytes) = ask(&server, "GET", MAPS, &metadata, Bytes::new()).await;
    assert_eq!(kind, PROTOBUF);
    let list = opened(&bytes, "PartialObjectMetadataList");
    let items: Vec<_> = fields(list).into_iter().filter(|(number, _)| *number == 2).collect();
    assert_eq!(items.len(), 3);
    assert!(items.iter().all(|(_, item)| fields(item).iter().all(|(number, _)| *number == 1)));
    let one = format!("{PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
    let (_, _, bytes) = ask(&server, "GET", &format!("{MAPS}/a"), &one, Bytes::new()).await;
    assert_eq!(field(field(opened(&bytes, "PartialObjectMetadata"), 1), 1), b"a");
    let (code, ..) =
        ask(&server, "GET", MAPS, &format!("{PROTOBUF};as=Table;g=meta.k8s.io;v=v1"), Bytes::new()).await;
    assert_eq!(code, 406);
}

#[tokio::test]
async fn watches_send_frames_with_their_length() {
    let server = Server::start().await;
    server.config_map("a").await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let request = http::Request::get(format!("{MAPS}?{query}&timeoutSeconds=1"))
        .header("accept", format!("{PROTOBUF};stream=watch"))
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = server.client().oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let body = tokio::spawn(response.into_body().collect());
    server.config_map("b").await;
    server.merge(&format!("{MAPS}/b"), &json!({"data": {"x": "y"}})).await;
    let bytes = body.await.unwrap().unwrap().to_bytes();
    let (mut rest, mut heard) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let length = usize::try_from(u32::from_be_bytes(rest[..4].try_into().unwrap())).unwrap();
        let event = &rest[4..4 + length];
        rest = &rest[4 + length..];
        let object = opened(field(field(event, 2), 1), "ConfigMap");
        let metadata = field(object, 1);
        let name =
            fields(metadata).into_iter().find(|(number, _)| *number == 1).map_or(&b""[..], |(_, name)| name);
        heard.push((String::from_utf8_lossy(field(event, 1)).into_owned(), name.to_vec()));
    }
    let pair = |kind: &str, name: &str| (kind.to_owned(), name.as_bytes().to_vec());
    let expected = [pair("ADDED", "a"), pair("BOOKMARK", ""), pair("ADDED", "b"), pair("MODIFIED", "b")];
    assert_eq!(heard[..4], expected);
    // A start that is gone is told in the same form.
    let now = server.get(MAPS).await.body["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    sampan_store::Store::compact(&*server.store, now).await.unwrap();
    let (code, _, frame) =
        ask(&server, "GET", &format!("{MAPS}?watch=1&resourceVersion=2"), PROTOBUF, Bytes::new()).await;
    assert_eq!((code, field(&frame[4..], 1)), (200, &b"ERROR"[..]));
    assert_eq!(field(opened(field(field(&frame[4..], 2), 1), "Status"), 4), b"Expired");
}

#[tokio::test]
async fn reviews_and_discovery_answer_in_protobuf() {
    let server = Server::start().await;
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let request = http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
        .header("accept", PROTOBUF)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(review.to_string())))
        .unwrap();
    let response = server.client().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 201);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    opened(&bytes, "SelfSubjectAccessReview");
    for (path, kind) in [
        ("/api", "APIVersions"),
        ("/apis", "APIGroupList"),
        ("/apis/apps", "APIGroup"),
        ("/apis/apps/v1", "APIResourceList"),
    ] {
        let (code, media, bytes) = ask(&server, "GET", path, PROTOBUF, Bytes::new()).await;
        assert_eq!((code, media.as_str()), (200, PROTOBUF), "{path}");
        opened(&bytes, kind);
    }
    assert_eq!(server.get("/api").await.body["kind"], Value::from("APIVersions"));
}

#[tokio::test]
async fn definitions_and_extension_servers_have_their_form() {
    let server = Server::start().await;
    let schema = json!({
        "type": "object", "description": "d", "required": ["spec"],
        "x-kubernetes-validations": [{"rule": "self.spec.a > 0", "message": "m", "reason": "FieldValueInvalid",
            "fieldPath": ".spec.a", "messageExpression": "'m'"}],
        "properties": {"spec": {"type": "object", "properties": {
            "a": {"type": "integer", "format": "int32", "minimum": 0.5, "maximum": 7, "exclusiveMaximum": true,
                "default": 3},
            "list": {"type": "array", "maxItems": 0, "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}},
            "any": {"x-kubernetes-preserve-unknown-fields": true, "nullable": true},
            "either": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "map": {"type": "object", "additionalProperties": {"type": "string", "enum": ["x", "y"]},
                "default": {"q": "x"}, "x-kubernetes-map-type": "atomic"},
            "text": {"type": "string", "pattern": "^a$", "maxLength": 4, "not": {"pattern": "b"}},
        }}},
    });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Cluster",
            "names": {"plural": "things", "kind": "Thing", "shortNames": ["th"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "deprecated": true, "deprecationWarning": "w",
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.a", "statusReplicasPath": ".status.a",
                }},
                "selectableFields": [{"jsonPath": ".spec.text"}],
                "additionalPrinterColumns": [{"name": "A", "type": "integer", "jsonPath": ".spec.a", "priority": 1}],
            }],
        },
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let made = server.post(definitions, &definition).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let mut watch = server.watch(&format!("{definitions}?watch=1")).await;
    let established = |object: &Value| {
        let conditions = object["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Established" && c["status"] == "True"))
    };
    while !established(&watch.next().await.unwrap()["object"]) {}
    let path = format!("{definitions}/things.example.com");
    same(&server, &path, "CustomResourceDefinition").await;
    let (code, kind, list) = ask(&server, "GET", definitions, PROTOBUF, Bytes::new()).await;
    assert_eq!((code, kind.as_str()), (200, PROTOBUF));
    opened(&list, "CustomResourceDefinitionList");
    // A client that speaks both gets custom objects in JSON.
    let both = format!("{PROTOBUF},application/json");
    let (code, kind, _) = ask(&server, "GET", "/apis/example.com/v1/things", &both, Bytes::new()).await;
    assert_eq!((code, kind.as_str()), (200, "application/json"));

    let service = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.remote.example.com"},
        "spec": {
            "group": "remote.example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
            "insecureSkipTLSVerify": true, "service": {"namespace": "default", "name": "s", "port": 444},
        },
    });
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    let made = server.post(services, &service).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let mut watch =
        server.watch(&format!("{services}?watch=1&fieldSelector=metadata.name=v1.remote.example.com")).await;
    while watch.next().await.unwrap()["object"]["status"]["conditions"].is_null() {}
    same(&server, &format!("{services}/v1.remote.example.com"), "APIService").await;
}

/// Written back in protobuf as it came, an object stays what it is: nothing was lost or added on the way.
async fn same(server: &Server, path: &str, kind: &str) {
    let before = server.get(path).await.body;
    let (code, _, bytes) = ask(server, "GET", path, PROTOBUF, Bytes::new()).await;
    assert_eq!(code, 200);
    opened(&bytes, kind);
    let (code, _, answer) = ask(server, "PUT", path, PROTOBUF, bytes.clone()).await;
    assert_eq!(code, 200, "{answer:?}");
    assert_eq!(server.get(path).await.body, before);
    assert_eq!(answer, bytes);
}

#[tokio::test]
async fn openapi_is_there_in_protobuf() {
    let server = Server::start().await;
    let accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let (code, kind, bytes) = ask(&server, "GET", "/openapi/v2", accept, Bytes::new()).await;
    assert_eq!((code, kind.as_str()), (200, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"));
    let json = server.get("/openapi/v2").await.body;
    let named = |bytes, number| -> Vec<String> {
        let all = fields(bytes).into_iter().filter(|(found, _)| *found == number);
        all.map(|(_, entry)| String::from_utf8(field(entry, 1).to_vec()).unwrap()).collect()
    };
    let keys = |name: &str| json[name].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(named(field(&bytes, 9), 1), keys("definitions"));
    assert_eq!(named(field(&bytes, 8), 2), keys("paths"));
    let pod = fields(field(&bytes, 9)).into_iter().map(|(_, entry)| entry);
    let pod = pod.into_iter().find(|entry| field(entry, 1) == b"io.k8s.api.core.v1.Pod").unwrap();
    let extension = field(field(pod, 2), 31);
    assert_eq!(field(extension, 1), b"x-kubernetes-group-version-kind");
    assert_eq!(field(field(extension, 2), 2), br#"[{"group":"","kind":"Pod","version":"v1"}]"#);

    // Who has it already is told so.
    let asked = |tag: Option<&str>| {
        let request = http::Request::builder().uri("/openapi/v2").header("accept", accept);
        let request = tag.into_iter().fold(request, |request, tag| request.header("if-none-match", tag));
        request.body(Full::new(Bytes::new())).unwrap()
    };
    let response = server.client().oneshot(asked(None)).await.unwrap();
    let tag = response.headers()["etag"].to_str().unwrap().to_owned();
    let response = server.client().oneshot(asked(Some(&tag))).await.unwrap();
    assert_eq!(response.status(), 304);
    let (_, _, plain) = ask(&server, "GET", "/openapi/v2", "application/json", Bytes::new()).await;
    assert!(plain.starts_with(b"{"));
}
