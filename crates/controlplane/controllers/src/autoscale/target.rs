//! The target of an autoscaler: any object with a scale.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::autoscaling::v2::CrossVersionObjectReference;
use kube::Client;
use sampan_api::selector::LabelSelector;
use sampan_planner::autoscaler::{Scale, Selection};
use serde_json::{Value, json};

use super::metrics::escape;

/// Kinds whose paths are remembered; beyond that, all are looked up anew.
const REMEMBERED: usize = 1024;

/// Finds targets.
pub(super) struct Targets {
    client: Client,
    /// Where the objects of a kind are: `/apis/apps/v1` and `deployments`.
    places: Mutex<HashMap<(String, String), (String, String)>>,
}

/// A target with its scale as it was read.
pub(super) struct Target {
    /// Of its scale.
    path: String,
    metadata: Value,
    /// The scale.
    pub scale: Scale,
    /// Which pods it has.
    pub selector: Option<LabelSelector>,
    /// The same as text.
    pub query: String,
}

/// What an API said, without its structure.
pub(super) fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// Reads JSON.
pub(super) async fn get(client: &Client, path: &str) -> Result<Value, kube::Error> {
    let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request(request).await
}

fn count(value: &Value, pointer: &str) -> i32 {
    value.pointer(pointer).and_then(Value::as_i64).map_or(0, |n| i32::try_from(n.max(0)).unwrap_or(i32::MAX))
}

impl Targets {
    pub fn new(client: Client) -> Self {
        Self { client, places: Mutex::default() }
    }

    /// Reads the scale of a target.
    pub async fn find(&self, namespace: &str, to: &CrossVersionObjectReference) -> Result<Target, String> {
        let api_version = to.api_version.as_deref().unwrap_or_default();
        let (root, plural) = self.place(api_version, &to.kind).await?;
        let path = format!("{root}/namespaces/{namespace}/{plural}/{}/scale", escape(&to.name));
        let object = match get(&self.client, &path).await {
            Ok(object) => object,
            Err(error) => {
                // The kind may be elsewhere by now.
                self.forget(api_version, &to.kind);
                return Err(said(&error));
            }
        };
        let query = object.pointer("/status/selector").and_then(Value::as_str).unwrap_or_default().to_owned();
        let (selection, selector) = match query.as_str() {
            "" => (Selection::Missing, None),
            text => match LabelSelector::parse(text) {
                Ok(selector) => (Selection::Good(query.clone()), Some(selector)),
                Err(why) => (Selection::Bad(why.message), None),
            },
        };
        let scale = Scale {
            wanted: count(&object, "/spec/replicas"),
            present: count(&object, "/status/replicas"),
            selector: selection,
        };
        Ok(Target { path, metadata: object["metadata"].clone(), scale, selector, query })
    }

    /// Sets the size of a target, unless its scale has changed since it was read.
    pub async fn set(&self, target: &Target, replicas: i32) -> Result<(), String> {
        let body = json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale",
            "metadata": target.metadata, "spec": {"replicas": replicas},
        });
        let request = http::Request::put(&target.path).header(http::header::CONTENT_TYPE, "application/json");
        let request = request.body(body.to_string().into_bytes()).map_err(|error| error.to_string())?;
        let done = self.client.request::<Value>(request).await;
        done.map(drop).map_err(|error| said(&error))
    }

    fn forget(&self, api_version: &str, kind: &str) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.remove(&(api_version.to_owned(), kind.to_owned()));
    }

    /// Where the objects of a kind are: under the version that is named, or else under any other of its group.
    pub async fn place(&self, api_version: &str, kind: &str) -> Result<(String, String), String> {
        let key = (api_version.to_owned(), kind.to_owned());
        if let Some(found) = self.places.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(found.clone());
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let mut roots = vec![match group {
            "" => format!("/api/{}", escape(version)),
            group => format!("/apis/{}/{}", escape(group), escape(version)),
        }];
        if !group.is_empty()
            && let Ok(found) = get(&self.client, &format!("/apis/{}", escape(group))).await
        {
            let versions = found["versions"].as_array().cloned().unwrap_or_default();
            let others =
                versions.iter().filter_map(|v| v["groupVersion"].as_str()).map(|v| format!("/apis/{v}"));
            let others: Vec<String> = others.filter(|root| *root != roots[0]).collect();
            roots.extend(others);
        }
        for root in roots {
            let Ok(list) = get(&self.client, &root).await else { continue };
            let resources = list["resources"].as_array().into_iter().flatten();
            let names = resources.filter(|r| r["kind"] == kind).filter_map(|r| r["name"].as_str());
            // A subresource may show the kind of its parent.
            let Some(plural) = names.into_iter().find(|name| !name.contains('/')) else { continue };
            let found = (root, plural.to_owned());
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            if places.len() >= REMEMBERED {
                places.clear();
            }
            places.insert(key, found.clone());
            return Ok(found);
        }
        Err(format!("no matches for kind {kind:?} in group {group:?}"))
    }
}
