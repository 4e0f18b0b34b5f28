//! The kinds of our own, and those of others that we serve: their definitions are applied at each start, so that they are there as this version knows them.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use sampan_daemon::{Backoff, Policy, Supervisor};
use serde_json::Value;
use tokio::sync::watch;

use crate::error::{Context, Error, Result};

/// One definition a file.
const ALL: &[&str] = &[
    include_str!("definitions/tenantqueues.json"),
    include_str!("definitions/instancetypes.json"),
    include_str!("definitions/reservations.json"),
    include_str!("definitions/noderesourcetopologies.json"),
];
/// Who waits for the definitions goes on without them after this long: beside an API server that does not let us define
/// anything, everything else works.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tells when our own kinds are served.
#[derive(Clone)]
pub(crate) struct Definitions {
    done: watch::Receiver<bool>,
}

impl Definitions {
    /// Applies all definitions, and again until that succeeds.
    pub fn apply(supervisor: &Supervisor, client: Client) -> Self {
        let (done, receiver) = watch::channel(false);
        let done = Arc::new(done);
        supervisor.supervise("definitions", Policy::Restart(Backoff::default()), move || {
            let (client, done) = (client.clone(), done.clone());
            async move {
                futures::future::try_join_all(ALL.iter().map(|text| apply(&client, text))).await?;
                done.send_replace(true);
                // Whoever asks later hears it, too.
                std::future::pending::<Result<()>>().await
            }
        });
        Self { done: receiver }
    }

    /// Returns once our kinds are served.
    pub async fn served(&self) {
        if self.done.clone().wait_for(|done| *done).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns once that, which needs our kinds, is there; or after a while, as it never will be where nobody may define them.
    pub async fn or_without(&self, what: impl Future<Output = ()>) {
        if tokio::time::timeout(PATIENCE, what).await.is_err() {
            tracing::warn!("the kinds of sampan.io are not served yet: everything else goes on without them");
        }
    }
}

async fn apply(client: &Client, text: &str) -> Result<()> {
    let wanted: Value = serde_json::from_str(text).map_err(|error| Error::Object {
        object: "a definition of ours".to_owned(),
        problem: error.to_string(),
    })?;
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let resource = ApiResource::erase::<CustomResourceDefinition>(&());
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let params = PatchParams::apply("sampan").force();
    let applied = api.patch(&name, &params, &Patch::Apply(&wanted)).await;
    let applied = applied.during(|| format!("applying CustomResourceDefinition {name}"))?;
    if is_established(Some(&applied)) {
        return Ok(());
    }
    // Its names are weighed against those of others; that takes a moment.
    let established = await_condition(api, &name, is_established).await;
    established.map(drop).map_err(|error| Error::Object {
        object: format!("CustomResourceDefinition {name}"),
        problem: error.to_string(),
    })
}

fn is_established(definition: Option<&DynamicObject>) -> bool {
    let conditions = definition.and_then(|object| object.data["status"]["conditions"].as_array());
    conditions.into_iter().flatten().any(|c| c["type"] == "Established" && c["status"] == "True")
}
