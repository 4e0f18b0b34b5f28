//! Objects of one version as objects of another: only their apiVersion changes, or a webhook does it.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use sampan_api::{
    custom::{Conversion, Definition, Webhook},
    kinds::Resource,
    status::Status,
};
use serde_json::{Map, Value, json};

use crate::{admission::webhook::client::Remote, core::Core};

/// A webhook has so long to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Objects that one review carries at most; more go in several, one after the other.
const BATCH: usize = 500;

/// How objects of a definition are converted.
pub(super) struct Converter {
    webhook: Option<(Remote, Webhook)>,
    /// Endpoints live in the core, so that they must not hold it.
    core: Weak<Core>,
}

impl Converter {
    pub(super) fn new(definition: &Definition, core: &Arc<Core>) -> Self {
        let webhook = match &definition.conversion {
            Conversion::None => None,
            Conversion::Webhook(webhook) => Some((Remote::new(&webhook.client), webhook.clone())),
        };
        Self { webhook, core: Arc::downgrade(core) }
    }

    /// The objects in the version of the resource, in their order.
    ///
    /// # Errors
    /// What the webhook said, or what is wrong with its answer.
    pub(super) fn convert<'a>(
        &'a self,
        objects: Vec<Value>,
        to: &'a Resource,
    ) -> BoxFuture<'a, Result<Vec<Value>, Status>> {
        // Boxed: finding the webhook's Service reads objects, which the compiler takes for a way back here.
        Box::pin(self.run(objects, to))
    }

    async fn run(&self, mut objects: Vec<Value>, to: &Resource) -> Result<Vec<Value>, Status> {
        let wanted = to.api_version();
        let others: Vec<usize> =
            (0..objects.len()).filter(|i| objects[*i]["apiVersion"] != wanted.as_str()).collect();
        let Some((remote, webhook)) = &self.webhook else {
            for i in others {
                objects[i]["apiVersion"] = wanted.as_str().into();
            }
            return Ok(objects);
        };
        for batch in others.chunks(BATCH) {
            let sent: Vec<&Value> = batch.iter().map(|i| &objects[*i]).collect();
            let what = kind_of(sent[0]);
            let told = |why: String| Status::new(500, "", format!("conversion webhook for {what} {why}"));
            let Some(core) = self.core.upgrade() else {
                return Err(Status::service_unavailable("the server is going away"));
            };
            let answer = ask(&core, remote, webhook, &sent, &wanted).await;
            let converted = answer.map_err(|why| told(format!("failed: {why}")))?;
            if converted.len() != sent.len() {
                return Err(told(format!("returned {} objects, expected {}", converted.len(), sent.len())));
            }
            for (n, (i, new)) in batch.iter().zip(converted).enumerate() {
                let accepted = accept(&objects[*i], new, &wanted);
                objects[*i] = accepted
                    .map_err(|why| told(format!("returned invalid converted object at index {n}: {why}")))?;
            }
        }
        Ok(objects)
    }
}

/// `group/version, Kind=Kind`, as upstream prints it.
fn kind_of(object: &Value) -> String {
    let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
    format!("{}, Kind={}", text("apiVersion"), text("kind"))
}

async fn ask(
    core: &Core,
    remote: &Remote,
    webhook: &Webhook,
    objects: &[&Value],
    wanted: &str,
) -> Result<Vec<Value>, String> {
    let known = webhook.reviews.iter().find(|v| matches!(v.as_str(), "v1" | "v1beta1"));
    let version = known.ok_or_else(|| "no supported conversion review versions".to_owned())?;
    let api_version = format!("apiextensions.k8s.io/{version}");
    let uid = uuid::Uuid::new_v4().to_string();
    let review = json!({
        "kind": "ConversionReview",
        "apiVersion": api_version,
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects},
    });
    let reply = remote.post(core, Bytes::from(review.to_string()), PATIENCE).await?;
    let mut reply: Value = serde_json::from_slice(&reply).map_err(|error| error.to_string())?;
    if version == "v1" && (reply["kind"] != "ConversionReview" || reply["apiVersion"] != api_version.as_str())
    {
        return Err(format!(
            "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {}",
            kind_of(&reply)
        ));
    }
    let response = reply.get_mut("response").filter(|response| response.is_object());
    let response = response.ok_or_else(|| "no response provided".to_owned())?;
    let said = response["uid"].as_str().unwrap_or_default();
    if version == "v1" && said != uid {
        return Err(format!("expected response.uid=\"{uid}\", got \"{said}\""));
    }
    let status = response.pointer("/result/status").and_then(Value::as_str).unwrap_or_default();
    if status != "Success" {
        let message = response.pointer("/result/message").and_then(Value::as_str).unwrap_or_default();
        return Err(if message.is_empty() {
            format!("response.result.status was '{status}', not 'Success'")
        } else {
            message.to_owned()
        });
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// What the webhook made of an object, with the metadata that it may not change put back.
fn accept(original: &Value, mut new: Value, wanted: &str) -> Result<Value, String> {
    let version = new["apiVersion"].as_str().unwrap_or_default();
    if version != wanted {
        return Err(format!("invalid groupVersion (expected {wanted}, received {version})"));
    }
    if new["kind"] != original["kind"] {
        return Err(format!("invalid kind (expected {}, received {})", original["kind"], new["kind"]));
    }
    for (field, name) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (before, after) = (&original["metadata"][field], &new["metadata"][field]);
        if before != after && !(before.is_null() && after == "") {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            return Err(format!("must have the same {name}: {} != {}", text(before), text(after)));
        }
    }
    let Some(answered) = new.get("metadata").and_then(Value::as_object) else {
        return Err("missing metadata in converted object".to_owned());
    };
    let mut metadata = original["metadata"].as_object().cloned().unwrap_or_else(Map::new);
    for field in ["labels", "annotations"] {
        match answered.get(field) {
            None | Some(Value::Null) => drop(metadata.shift_remove(field)),
            Some(Value::Object(map)) => {
                if let Some((key, value)) = map.iter().find(|(_, value)| !value.is_string()) {
                    return Err(format!(
                        "metadata.{field}[{key}] must be a string, but is {value} in converted object"
                    ));
                }
                metadata.insert(field.to_owned(), Value::Object(map.clone()));
            }
            Some(other) => return Err(format!("invalid metadata.{field} {other} in converted object")),
        }
    }
    new["metadata"] = Value::Object(metadata);
    Ok(new)
}
