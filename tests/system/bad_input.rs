//! What must be refused, with the code and the words of Kubernetes, and nothing lost.

use serde_json::Value;

use crate::support::{Cluster, within};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const JSON: &str = "application/json";

fn map(name: &str) -> String {
    format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}}}}"#)
}

/// A `Status` of this code and reason that says these words.
#[track_caller]
fn refused((code, status): (u16, Value), expected: u16, reason: &str, words: &[&str]) {
    assert_eq!((code, status["kind"].as_str()), (expected, Some("Status")), "{status:#}");
    assert_eq!(
        (status["reason"].as_str().unwrap_or_default(), status["code"].as_u64()),
        (reason, Some(expected.into())),
        "{status:#}"
    );
    for word in words {
        assert!(status["message"].as_str().unwrap().contains(word), "no {word:?} in {status:#}");
    }
}

#[test]
fn bodies_that_cannot_be_read() {
    let c = Cluster::start();
    refused(c.send("POST", MAPS, JSON, b"{\"apiVersion\": "), 400, "BadRequest", &[]);
    refused(c.send("POST", MAPS, JSON, b""), 400, "BadRequest", &[]);
    refused(c.send("POST", MAPS, JSON, b"[1, 2]"), 400, "BadRequest", &[]);
    refused(c.send("POST", MAPS, JSON, b"\xff\xfe{}"), 400, "BadRequest", &[]);
    refused(c.send("POST", MAPS, JSON, "[".repeat(200_000).as_bytes()), 400, "BadRequest", &[]);
    refused(c.send("POST", MAPS, "application/yaml", b"a: b: c"), 400, "BadRequest", &[]);
    refused(c.send("POST", MAPS, "text/plain", b"hello"), 415, "UnsupportedMediaType", &["application/json"]);
    // 4 MiB: over the limit, and said at once.
    let big = map("big")
        .replace("\"metadata\"", &format!("\"data\":{{\"a\":\"{}\"}},\"metadata\"", "x".repeat(4 << 20)));
    c.file("big", big);
    // Debian's curl drops an answer that comes before the body is sent when it speaks HTTP/2.
    let ran = c.curl(&format!("--http1.1 -H 'Content-Type: {JSON}' --data-binary @big -w '\\n%{{http_code}}' https://127.0.0.1:6443{MAPS}"));
    let (answer, code) = ran.out.rsplit_once('\n').unwrap();
    refused(
        (code.parse().unwrap(), serde_json::from_str(answer).unwrap()),
        413,
        "RequestEntityTooLarge",
        &[],
    );
    c.sh("kubectl create -f big").fails(&["RequestEntityTooLarge"]);
    let large = map("large")
        .replace("\"metadata\"", &format!("\"data\":{{\"a\":\"{}\"}},\"metadata\"", "x".repeat(2 << 20)));
    refused(
        c.send("POST", MAPS, JSON, large.as_bytes()),
        422,
        "Invalid",
        &["Too long: may not be more than 1048576 bytes"],
    );
    let chunked = c.curl(&format!("-X POST -H 'Content-Type: {JSON}' -H 'Transfer-Encoding: chunked' --data-binary @body -o /dev/null -w '%{{http_code}}' https://127.0.0.1:6443{MAPS}"));
    assert_eq!(chunked.out, "422", "{chunked:?}");
    refused(c.send("POST", PODS, JSON, map("other").as_bytes()), 400, "BadRequest", &["ConfigMap", "Pod"]);
    refused(
        c.send("POST", MAPS, JSON, map("other").replace("\"v1\"", "\"v7\"").as_bytes()),
        400,
        "BadRequest",
        &["v7"],
    );
    c.sh_with("kubectl apply -f -", b"a: [b\n").fails(&["error converting YAML to JSON"]);
    c.sh_with("kubectl apply -f -", b"apiVersion: v1\nkind: Gadget\nmetadata: {name: a}\n")
        .fails(&[r#"no matches for kind "Gadget" in version "v1""#]);
    assert_eq!(c.k("get configmaps -o name").trim(), "configmap/kube-root-ca.crt");
}

#[test]
fn fields_that_are_wrong() {
    let c = Cluster::start();
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let odd = map("odd").replace("\"metadata\"", "\"colour\":1,\"metadata\"");
    refused(
        c.send("POST", &strict, JSON, odd.as_bytes()),
        400,
        "BadRequest",
        &["strict decoding error", "unknown field \"colour\""],
    );
    let twice = map("odd").replace("\"metadata\"", "\"data\":{\"a\":\"1\"},\"data\":{},\"metadata\"");
    refused(
        c.send("POST", &strict, JSON, twice.as_bytes()),
        400,
        "BadRequest",
        &["duplicate field \"data\""],
    );
    let (code, made) = c.send("POST", &format!("{MAPS}?fieldValidation=Ignore"), JSON, odd.as_bytes());
    assert_eq!((code, &made["colour"]), (201, &Value::Null));
    refused(
        c.send(
            "POST",
            MAPS,
            JSON,
            map("a").replace("\"metadata\"", "\"data\":{\"a\":1},\"metadata\"").as_bytes(),
        ),
        400,
        "BadRequest",
        &["cannot unmarshal number into Go"],
    );
    refused(
        c.send("POST", MAPS, JSON, map("Bad_Name").as_bytes()),
        422,
        "Invalid",
        &["metadata.name: Invalid value: \"Bad_Name\"", "RFC 1123"],
    );
    refused(
        c.send("POST", MAPS, JSON, map("").as_bytes()),
        422,
        "Invalid",
        &["name or generateName is required"],
    );

    c.sh_with("kubectl apply -f -", b"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: i, comand: [x]}]}\n")
        .fails(&["strict decoding error", "unknown field \"spec.containers[0].comand\""]);
    c.sh_with("kubectl apply -f -", b"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: i, ports: [{containerPort: high}]}]}\n").fails(&["containerPort"]);
    let ran = c.sh_with("kubectl apply -f -", b"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  restartPolicy: Sometimes\n  containers:\n  - {name: c, ports: [{containerPort: 99999}]}\n  - {name: c, image: i, volumeMounts: [{name: none, mountPath: /x}]}\n");
    ran.fails(&[
        "The Pod \"a\" is invalid",
        "spec.containers[0].image: Required value",
        "spec.containers[0].ports[0].containerPort: Invalid value: 99999: must be between 1 and 65535, inclusive",
        "spec.containers[1].name: Duplicate value: \"c\"",
        "spec.containers[1].volumeMounts[0].name: Not found: \"none\"",
        "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
    ]);
    let ran = c.sh_with("kubectl apply -f -", b"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n  selector: {matchLabels: {a: b}}\n  template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: i}]}}\n");
    ran.fails(&["`selector` does not match template `labels`"]);
    // What may not change.
    c.k("run fixed --image=busybox:1 -- sleep infinity");
    c.sh(r#"kubectl patch pod fixed -p '{"spec":{"restartPolicy":"Never"}}'"#)
        .fails(&["pod updates may not change fields other than"]);
    c.k("create deployment d --image=busybox:1");
    c.sh(r#"kubectl patch deployment d --type=merge -p '{"spec":{"selector":{"matchLabels":{"app":"e"}}}}'"#)
        .fails(&["field is immutable"]);
}

#[test]
fn paths_verbs_and_versions_that_do_not_fit() {
    let c = Cluster::start();
    for path in ["/api/v1/gadgets", "/apis/nosuch.example/v1/things", "/nosuch", "/api/v9/pods"] {
        let ran = c.curl(&format!("-o /dev/null -w '%{{http_code}}' https://127.0.0.1:6443{path}"));
        assert_eq!(ran.out, "404", "{path}");
    }
    refused(
        c.send("GET", &format!("{PODS}/nosuch"), JSON, b""),
        404,
        "NotFound",
        &[r#"pods "nosuch" not found"#],
    );
    refused(c.send("PUT", PODS, JSON, b"{}"), 405, "MethodNotAllowed", &[]);
    refused(c.send("GET", &format!("{MAPS}?labelSelector=a%3D%3D%3Db"), JSON, b""), 400, "BadRequest", &[]);
    refused(
        c.send("GET", &format!("{PODS}?fieldSelector=spec.nosuch%3Da"), JSON, b""),
        400,
        "BadRequest",
        &["spec.nosuch"],
    );
    refused(c.send("GET", &format!("{MAPS}?limit=many"), JSON, b""), 400, "BadRequest", &[]);
    refused(c.send("GET", &format!("{MAPS}?continue=garbage"), JSON, b""), 400, "BadRequest", &["continue"]);
    refused(
        c.send("GET", &format!("{MAPS}?resourceVersion=99999999"), JSON, b""),
        504,
        "Timeout",
        &["Too large resource version"],
    );
    refused(
        c.send("PATCH", &format!("{MAPS}/kube-root-ca.crt"), "application/x-yaml", b"{}"),
        415,
        "UnsupportedMediaType",
        &[],
    );
    refused(
        c.send(
            "PATCH",
            &format!("{MAPS}/kube-root-ca.crt"),
            "application/json-patch+json",
            br#"[{"op":"remove","path":"/data/nosuch"}]"#,
        ),
        422,
        "Invalid",
        &[],
    );
    // Two who change the same version: one wins, the other hears of it.
    c.k("create configmap m --from-literal=a=1");
    let old = c.get(&format!("{MAPS}/m"));
    let mut new = old.clone();
    new["data"]["a"] = "2".into();
    assert_eq!(c.send("PUT", &format!("{MAPS}/m"), JSON, new.to_string().as_bytes()).0, 200);
    new["data"]["a"] = "3".into();
    refused(
        c.send("PUT", &format!("{MAPS}/m"), JSON, new.to_string().as_bytes()),
        409,
        "Conflict",
        &["the object has been modified; please apply your changes to the latest version and try again"],
    );
    refused(
        c.send("POST", MAPS, JSON, map("m").as_bytes()),
        409,
        "AlreadyExists",
        &[r#"configmaps "m" already exists"#],
    );
    let wrong = r#"{"preconditions":{"uid":"other"}}"#;
    refused(
        c.send("DELETE", &format!("{MAPS}/m"), JSON, wrong.as_bytes()),
        409,
        "Conflict",
        &["the UID in the precondition (other) does not match the UID in record"],
    );
    assert_eq!(c.k("get configmap m -o jsonpath={.data.a}"), "2");
}

#[test]
fn who_is_not_known_or_not_allowed() {
    let c = Cluster::start();
    let pems = c.credentials();
    let bare = |arguments: &str| {
        let ran = c
            .sh(&format!(
                "curl -sS --cacert {}/ca.pem {arguments} -w '\\n%{{http_code}}' https://127.0.0.1:6443{PODS}",
                pems.display()
            ))
            .ok();
        let (body, code) = ran.out.rsplit_once('\n').unwrap();
        (code.parse().unwrap(), serde_json::from_str::<Value>(body).unwrap())
    };
    refused(bare(""), 403, "Forbidden", &["User \"system:anonymous\" cannot list resource \"pods\""]);
    refused(bare("-H 'Authorization: Bearer nonsense'"), 401, "Unauthorized", &[]);
    let token = c.k("create token default");
    let mut forged = token.trim().to_owned();
    forged.truncate(forged.len() - 8);
    refused(bare(&format!("-H 'Authorization: Bearer {forged}AAAAAAAA'")), 401, "Unauthorized", &[]);
    refused(
        bare(&format!("-H 'Authorization: Bearer {}'", token.trim())),
        403,
        "Forbidden",
        &[r#"pods is forbidden: User "system:serviceaccount:default:default" cannot list resource "pods""#],
    );
    // A certificate of somebody else's CA is no credential.
    c.sh("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout own.key -out own.pem -subj '/O=system:masters/CN=admin' -days 1").ok();
    let ran = c.sh(&format!("curl -sS --cacert {}/ca.pem --cert own.pem --key own.key -o answer -w '%{{http_code}}' https://127.0.0.1:6443{PODS}", pems.display()));
    assert!(ran.code != 0 || ran.out == "401", "{ran:?}");
    // Plain HTTP gets no answer that looks like one.
    let plain = c.sh(&format!("curl -sS -m 10 -o answer -w '%{{http_code}}' http://127.0.0.1:6443{PODS}"));
    assert!(plain.out != "200", "{plain:?}");
    c.sh("curl -sS https://127.0.0.1:6443/").fails(&["certificate"]);
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        let ran = c.sh(&format!(
            "curl -sS --cacert {}/ca.pem -o /dev/null -w '%{{http_code}}' https://127.0.0.1:6443{path}",
            pems.display()
        ));
        assert!(["200", "401"].contains(&ran.out.as_str()), "{path}: {ran:?}");
    }
}

/// History is bounded by its size; what is older is gone, and is said to be gone.
#[test]
fn history_that_is_forgotten_is_410() {
    let c = Cluster::start();
    for name in ["a", "b", "c"] {
        c.k(&format!("create configmap {name}"));
    }
    let page = c.get(&format!("{MAPS}?limit=1"));
    let token = page["metadata"]["continue"].as_str().unwrap().to_owned();
    let version = page["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let next = c.get(&format!("{MAPS}?limit=1&continue={token}"));
    assert_eq!(
        (next["items"][0]["metadata"]["name"].as_str(), next["metadata"]["remainingItemCount"].as_u64()),
        (Some("b"), Some(2)),
        "{next:#}"
    );
    // One megabyte a time.
    let fill = c.file("fill.sh", format!(
        "pems={}; head -c 1000000 /dev/zero | tr '\\0' x > blob
        for i in $(seq 20); do
            (printf '{{\"data\":{{\"n\":\"%s\",\"v\":\"' $i$1; cat blob; printf '\"}}}}') > patch
            curl -sS --cacert $pems/ca.pem --cert $pems/admin.pem --key $pems/admin.key -o /dev/null -X PATCH \
                -H 'Content-Type: application/merge-patch+json' --data-binary @patch https://127.0.0.1:6443{MAPS}/c || exit 1
        done",
        c.credentials().display()
    ));
    let mut rounds = 0;
    let gone = within(std::time::Duration::from_secs(120), "the token expires", || {
        rounds += 1;
        c.sh(&format!("bash {} {rounds}", fill.display())).ok();
        let answer = c.send("GET", &format!("{MAPS}?limit=1&continue={token}"), JSON, b"");
        if answer.0 == 410 { Ok(answer) } else { Err(format!("{} after {rounds} rounds", answer.0)) }
    });
    let again = gone.1["metadata"]["continue"].as_str().map(str::to_owned);
    refused(
        gone,
        410,
        "Expired",
        &["The provided continue parameter is too old to display a consistent list result"],
    );
    // The answer carries a token that goes on, inconsistently.
    let next = c.get(&format!("{MAPS}?limit=1&continue={}", again.unwrap()));
    assert_eq!(next["items"][0]["metadata"]["name"], "b");
    let ran = c.curl(&format!("-m 20 'https://127.0.0.1:6443{MAPS}?watch=1&resourceVersion={version}'"));
    // A refusal before the watch is one object, written for people to read.
    let first: Value = serde_json::from_str(&ran.out)
        .unwrap_or_else(|_| serde_json::from_str(ran.out.lines().next().unwrap_or_default()).unwrap());
    let status = if first["type"] == "ERROR" { &first["object"] } else { &first };
    assert_eq!(
        (status["code"].as_u64(), status["reason"].as_str()),
        (Some(410), Some("Expired")),
        "{status}"
    );
    assert!(status["message"].as_str().unwrap().contains("too old resource version"), "{status}");
    assert_eq!(c.k("get configmap c -o jsonpath={.data.v} | wc -c").trim(), "1000000");
}
