//! Pods from templates, many at once but not all at once when the first ones fail.

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::PostParams;

use crate::apis;
use crate::error::{Context, Result, namespace_ends};

/// A pod of a template, named after its owner.
pub(crate) fn pod(template: &PodTemplateSpec, namespace: &str, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            generate_name: Some(prefix(&owner.name)),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// `name-`, short enough that a suffix still fits into a pod's name.
fn prefix(owner: &str) -> String {
    format!("{owner}-")
}

/// Creates pods in batches of 1, 2, 4, ... and stops after the first batch with a failure. Returns the names of
/// those created and the first error. That the namespace is going is none: nothing comes of trying again.
pub(crate) async fn create_all(client: &Client, namespace: &str, all: Vec<Pod>) -> (Vec<String>, Result<()>) {
    let api = apis::namespaced::<Pod>(client, namespace);
    let mut created = Vec::with_capacity(all.len());
    let mut rest = all.as_slice();
    let mut batch = 1;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(batch.min(rest.len()));
        let params = PostParams::default();
        let results = join_all(now.iter().map(|pod| api.create(&params, pod))).await;
        let mut failure = None;
        for result in results {
            match result {
                Ok(pod) => created.push(pod.metadata.name.unwrap_or_default()),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if failure.as_ref().is_some_and(namespace_ends) {
            return (created, Ok(()));
        }
        if let Some(error) = failure {
            return (created, Err(error).during(|| format!("creating a pod in {namespace}")));
        }
        (rest, batch) = (later, batch * 2);
    }
    (created, Ok(()))
}
