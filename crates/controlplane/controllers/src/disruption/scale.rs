//! How many pods a controller of any kind wants, by its scale subresource.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use http::Request;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIResourceList, OwnerReference};
use kube::Client;
use sampan_planner::pods;
use serde::de::DeserializeOwned;

use crate::error::{Context, Error, code};

/// The most kinds that are remembered.
const KINDS: usize = 1024;

/// Why a number is not known.
pub(super) enum Unknown {
    /// There is none; looking again would not help.
    For(String),
    /// The API could not be asked.
    Now(Error),
}

/// Reads scales, and remembers where kinds are served.
pub(super) struct Scales {
    client: Client,
    /// By version and kind: the resource that has a scale.
    resources: Mutex<HashMap<(String, String), String>>,
}

impl Scales {
    pub fn new(client: Client) -> Self {
        Self { client, resources: Mutex::new(HashMap::new()) }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Unknown> {
        let request = Request::get(path).body(Vec::new());
        let request = request.map_err(|error| Unknown::For(format!("{path}: {error}")))?;
        match self.client.request::<T>(request).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if code(&error) == 404 => Ok(None),
            Err(error) => {
                let result: Result<T, Error> = Err(error).during(|| format!("reading {path}"));
                result.map(Some).map_err(Unknown::Now)
            }
        }
    }

    /// How many pods the owner wants; `None` when there is no such owner.
    pub async fn of(&self, namespace: &str, owner: &OwnerReference) -> Result<Option<i32>, Unknown> {
        let root = if owner.api_version.contains('/') { "apis" } else { "api" };
        let base = format!("/{root}/{}", owner.api_version);
        let Some(resource) = self.resource(&base, owner).await? else { return Ok(None) };
        let path = format!("{base}/namespaces/{namespace}/{resource}/{}/scale", owner.name);
        let scale: Option<Scale> = self.get(&path).await?;
        let scale = scale.filter(|scale| pods::uid(&scale.metadata) == owner.uid);
        Ok(scale.map(|scale| scale.spec.and_then(|spec| spec.replicas).unwrap_or(0)))
    }

    async fn resource(&self, base: &str, owner: &OwnerReference) -> Result<Option<String>, Unknown> {
        let id = (owner.api_version.clone(), owner.kind.clone());
        let known = self.resources.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let Some(list) = self.get::<APIResourceList>(base).await? else { return Ok(None) };
        let of_kind = |name: &str, kind: &str| kind == owner.kind && !name.contains('/');
        let Some(resource) = list.resources.iter().find(|r| of_kind(&r.name, &r.kind)) else {
            return Ok(None);
        };
        let subresource = format!("{}/scale", resource.name);
        if list.resources.iter().all(|r| r.name != subresource) {
            let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
            let name =
                if group.is_empty() { resource.name.clone() } else { format!("{}.{group}", resource.name) };
            return Err(Unknown::For(format!("{name} does not implement the scale subresource")));
        }
        let mut resources = self.resources.lock().unwrap_or_else(PoisonError::into_inner);
        if resources.len() >= KINDS {
            resources.clear();
        }
        resources.insert(id, resource.name.clone());
        Ok(Some(resource.name.clone()))
    }
}
