//! Requests for certificates and tokens to join with, carried out against a whole control plane.

use crate::support::Cluster;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use sampan_daemon::tls;
use serde_json::json;

/// A request, made by openssl.
fn request(subject: &str) -> Vec<u8> {
    let made = std::process::Command::new("openssl")
        .args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-keyout", "/dev/null", "-subj", subject])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

fn csr(name: &str, signer: &str, subject: &str, usages: &[&str]) -> CertificateSigningRequest {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "request": k8s_openapi::ByteString(request(subject)),
            "signerName": signer, "usages": usages, "expirationSeconds": 3600,
        },
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_approved_is_signed_and_what_does_not_fit_is_not() {
    let cluster = Cluster::start().await;
    let api: Api<CertificateSigningRequest> = Api::all(cluster.client.clone());
    let client = "kubernetes.io/kube-apiserver-client";
    let usages = ["client auth", "digital signature"];
    let made = PostParams::default();
    api.create(&made, &csr("jane", client, "/CN=jane/O=one/O=two", &usages)).await.unwrap();
    api.create(&made, &csr("wrong", client, "/CN=joe", &["server auth"])).await.unwrap();
    let approve = Patch::Merge(json!({"status": {"conditions": [
        {"type": "Approved", "status": "True", "reason": "Test", "message": "by hand"}
    ]}}));
    for name in ["jane", "wrong"] {
        api.patch_subresource("approval", name, &PatchParams::default(), &approve).await.unwrap();
    }
    let pem = cluster
        .until("the signed certificate", || async {
            api.get("jane").await.unwrap().status.and_then(|status| status.certificate)
        })
        .await;
    let facts = tls::Facts::of(&String::from_utf8(pem.0).unwrap()).unwrap();
    assert_eq!(
        (facts.common_name.as_str(), &facts.organizations[..]),
        ("jane", &["one".to_owned(), "two".to_owned()][..])
    );
    let life = facts.not_after.duration_since(facts.not_before).as_secs();
    assert_eq!(life, 3600 + 300);
    let failed = cluster
        .until("the refusal", || async {
            let conditions = api.get("wrong").await.unwrap().status?.conditions?;
            conditions.into_iter().find(|condition| condition.type_ == "Failed")
        })
        .await;
    assert_eq!(failed.message.as_deref(), Some("invalid usage for client certificate: server auth"));

    // Its sender (an administrator) may have a node's certificate: nobody has to approve it.
    let kubelet = "kubernetes.io/kube-apiserver-client-kubelet";
    api.create(&made, &csr("node", kubelet, "/O=system:nodes/CN=system:node:a", &usages)).await.unwrap();
    cluster
        .until("the node's certificate", || async {
            api.get("node").await.unwrap().status.and_then(|status| status.certificate)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_sign_what_joins_trust_and_go_when_they_are_over() {
    let cluster = Cluster::start().await;
    let secrets: Api<Secret> = cluster.api("kube-system");
    let token = |id: &str, expiration: &str| -> Secret {
        serde_json::from_value(json!({
            "metadata": {"name": format!("bootstrap-token-{id}")}, "type": "bootstrap.kubernetes.io/token",
            "stringData": {
                "token-id": id, "token-secret": "0123456789abcdef", "expiration": expiration,
                "usage-bootstrap-signing": "true",
            },
        }))
        .unwrap()
    };
    let made = PostParams::default();
    secrets.create(&made, &token("abcdef", "2999-01-01T00:00:00Z")).await.unwrap();
    secrets.create(&made, &token("over00", "2001-01-01T00:00:00Z")).await.unwrap();
    let info: Api<ConfigMap> = cluster.api("kube-public");
    let signed = cluster
        .until("the signature", || async {
            info.get_opt("cluster-info").await.unwrap()?.data?.get("jws-kubeconfig-abcdef").cloned()
        })
        .await;
    assert!(signed.starts_with("eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9.."), "{signed}");
    cluster
        .until("the end of the old token", || async {
            secrets.get_opt("bootstrap-token-over00").await.unwrap().is_none().then_some(())
        })
        .await;
    secrets.delete("bootstrap-token-abcdef", &kube::api::DeleteParams::default()).await.unwrap();
    cluster
        .until("the end of the signature", || async {
            let data = info.get("cluster-info").await.unwrap().data.unwrap_or_default();
            (!data.contains_key("jws-kubeconfig-abcdef")).then_some(())
        })
        .await;
}
