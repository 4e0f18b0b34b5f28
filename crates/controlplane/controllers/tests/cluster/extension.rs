//! An extension server over real TLS that answers for groups of the API.

use http::{Response, StatusCode};
use http_body_util::Full;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Api, PostParams};
use sampan_daemon::tls;
use serde_json::{Value, json};

use crate::support::Cluster;

/// Serves the groups and versions with what `answer` says, and 404 where it says nothing.
pub async fn serve(
    cluster: &Cluster,
    groups: &[(&str, &str)],
    answer: impl Fn(&http::Uri) -> Option<Value> + Send + Sync + 'static,
) {
    let dir = tempfile::tempdir().unwrap();
    let ca = tls::Ca::load_or_create(dir.path(), "extension-ca").unwrap();
    let handle = move |request: http::Request<()>, _: bytes::Bytes| {
        let found = answer(request.uri());
        let mut response = Response::new(Full::from(found.clone().unwrap_or_default().to_string()));
        if found.is_none() {
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
        response.headers_mut().insert("content-type", "application/json".parse().unwrap());
        response
    };
    let address = crate::https::serve(&cluster.supervisor, &ca, &["metrics.default.svc"], None, handle).await;
    let outside = json!({"metadata": {"name": "metrics"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    cluster.create::<Service>("default", outside).await;
    let services = Api::<APIService>::all(cluster.client.clone());
    for (group, version) in groups {
        let object = json!({
            "metadata": {"name": format!("{version}.{group}")},
            "spec": {
                "group": group, "version": version, "groupPriorityMinimum": 100, "versionPriority": 100,
                "insecureSkipTLSVerify": true,
                "service": {"namespace": "default", "name": "metrics", "port": address.port()},
            },
        });
        let object = serde_json::from_value(object).unwrap();
        services.create(&PostParams::default(), &object).await.unwrap();
    }
}
