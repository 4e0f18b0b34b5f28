//! Aggregated roles, by the real controllers over a real API server.

use crate::support::Cluster;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

#[tokio::test]
async fn an_aggregated_role_has_the_rules_of_those_it_selects() {
    let cluster = Cluster::start().await;
    let roles: Api<ClusterRole> = Api::all(cluster.client.clone());
    let make = async |role: serde_json::Value| {
        roles.create(&PostParams::default(), &serde_json::from_value(role).unwrap()).await.unwrap()
    };
    let rule = |resource: &str| json!([{"verbs": ["get"], "apiGroups": ["x.io"], "resources": [resource]}]);
    make(json!({"metadata": {"name": "all"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "all"}}]}})).await;
    make(json!({"metadata": {"name": "one", "labels": {"to": "all"}}, "rules": rule("ones")})).await;
    make(json!({"metadata": {"name": "two", "labels": {"to": "all"}}, "rules": rule("twos")})).await;
    let has = async |wanted: &[&str]| {
        let all = roles.get("all").await.unwrap();
        let found: Vec<String> = all
            .rules
            .unwrap_or_default()
            .into_iter()
            .flat_map(|rule| rule.resources.unwrap_or_default())
            .collect();
        (found == wanted).then_some(())
    };
    cluster.until("both to be gathered", || has(&["ones", "twos"])).await;
    let without = json!({"metadata": {"labels": {"to": null}}});
    roles.patch("one", &PatchParams::default(), &Patch::Merge(&without)).await.unwrap();
    cluster.until("one to go", || has(&["twos"])).await;
    roles.delete("two", &DeleteParams::default()).await.unwrap();
    cluster.until("two to go", || has(&[])).await;
    // A rule that a user adds to one of Kubernetes' own reaches the admin.
    make(json!({
        "metadata": {"name": "crontabs", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": rule("crontabs"),
    }))
    .await;
    cluster
        .until("the admin to see", || async {
            let admin = roles.get("admin").await.unwrap();
            serde_json::to_string(&admin.rules).unwrap().contains("crontabs").then_some(())
        })
        .await;
}
