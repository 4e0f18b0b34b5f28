//! Requests for certificates, over real HTTP.

use crate::support::Server;
use base64::{Engine, engine::general_purpose::STANDARD};
use sampan_daemon::tls;
use serde_json::{Value, json};

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// A request of a client, made by openssl.
fn request(subject: &str) -> String {
    let args = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let made = std::process::Command::new("openssl")
        .args(args)
        .args(["-keyout", "/dev/null", "-subj", subject])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap()
}

fn csr(name: &str, pem: &str) -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {
            "request": STANDARD.encode(pem), "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth", "digital signature"], "username": "somebody else",
        },
    })
}

#[tokio::test]
async fn who_asks_is_written_down_and_what_was_asked_stays() {
    let server = Server::start().await;
    let made = server.post(PATH, &csr("jane", &request("/CN=jane/O=one/O=two"))).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.body["spec"]["username"], "tester");
    assert_eq!(made.body["spec"]["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(made.body["status"], json!({}));
    let mut other = made.body.clone();
    other["spec"]["signerName"] = "example.com/other".into();
    other["metadata"]["labels"] = json!({"a": "b"});
    let put = server.put(&format!("{PATH}/jane"), &other).await;
    assert_eq!(put.code, 200, "{}", put.body);
    assert_eq!(put.body["spec"], made.body["spec"]);
    assert_eq!(put.body["metadata"]["labels"]["a"], "b");

    // It is decided through /approval only, and signed through /status only.
    let mut decided = put.body.clone();
    decided["status"] = json!({"conditions": [{"type": "Approved", "status": "True", "reason": "Test"}]});
    let put = server.put(&format!("{PATH}/jane/status"), &decided).await;
    let text = "updates may not add a condition of type \"Approved\"";
    assert!(put.code == 422 && put.body["message"].as_str().unwrap().contains(text), "{}", put.body);
    let put = server.put(&format!("{PATH}/jane/approval"), &decided).await;
    assert_eq!(put.code, 200, "{}", put.body);
    let condition = &put.body["status"]["conditions"][0];
    assert!(condition["lastUpdateTime"].is_string() && condition["lastTransitionTime"].is_string());
    let mut both = put.body.clone();
    both["status"]["conditions"] = json!([condition, {"type": "Denied", "status": "True"}]);
    let put = server.put(&format!("{PATH}/jane/approval"), &both).await;
    assert!(put.body["message"].as_str().unwrap().contains("mutually exclusive"), "{}", put.body);
    let gone = server.merge(&format!("{PATH}/jane/approval"), &json!({"status": {"conditions": []}})).await;
    let text = "updates may not remove a condition of type \"Approved\"";
    assert!(gone.body["message"].as_str().unwrap().contains(text), "{}", gone.body);

    let signed = |pem: &str| json!({"status": {"certificate": STANDARD.encode(pem)}});
    let path = format!("{PATH}/jane/status");
    let bad = server.merge(&path, &signed("nonsense")).await;
    let text = "must contain at least one CERTIFICATE PEM block";
    assert!(bad.body["message"].as_str().unwrap().contains(text), "{}", bad.body);
    assert_eq!(server.merge(&path, &signed(server.ca.cert_pem())).await.code, 200);
    let dir = tempfile::tempdir().unwrap();
    let other = tls::Ca::load_or_create(dir.path(), "other").unwrap();
    let again = server.merge(&path, &signed(other.cert_pem())).await;
    let text = "updates may not modify existing certificate content";
    assert!(again.body["message"].as_str().unwrap().contains(text), "{}", again.body);
}

#[tokio::test]
async fn what_cannot_be_signed_is_refused_with_all_reasons() {
    let server = Server::start().await;
    let good = request("/CN=jane");
    let mut bad = csr("bad", "nonsense");
    bad["spec"]["usages"] = json!(["client auth", "client auth", "world peace"]);
    bad["spec"]["signerName"] = "nobody".into();
    bad["spec"]["expirationSeconds"] = 599.into();
    let answer = server.post(PATH, &bad).await;
    assert_eq!(answer.code, 422);
    let text = answer.body["message"].as_str().unwrap();
    for part in [
        "PEM block type must be CERTIFICATE REQUEST",
        "spec.usages[2]: Unsupported value: \"world peace\"",
        "spec.usages[1]: Duplicate value: \"client auth\"",
        "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        "may not specify a duration less than 600 seconds (10 minutes)",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    for (signer, why) in [
        ("kubernetes.io/legacy-unknown", "the legacy signerName is not allowed via this API version"),
        ("local/x", "should be a domain with at least two segments separated by dots"),
        ("Example.com/x", "validating label \"Example\": "),
    ] {
        let mut csr = csr("bad", &good);
        csr["spec"]["signerName"] = signer.into();
        let answer = server.post(PATH, &csr).await;
        let text = answer.body["message"].as_str().unwrap();
        assert!(answer.code == 422 && text.contains(why), "{text}");
    }
    // A request that somebody changed on the way is not its sender's.
    let mut changed = good.into_bytes();
    let at = changed.len() / 2;
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    let answer = server.post(PATH, &csr("bad", &String::from_utf8(changed).unwrap())).await;
    assert_eq!(answer.code, 422, "{}", answer.body);
}
