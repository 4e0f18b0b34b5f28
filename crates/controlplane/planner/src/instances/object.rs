//! `instancetypes.sampan.io`, as the API serves it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sampan_api::instancetype::Shape;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::object::{Condition, object};

/// A named shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceType {
    #[serde(default = "api_version")]
    api_version: String,
    #[serde(default = "kind")]
    kind: String,
    /// Name and so on.
    pub metadata: ObjectMeta,
    /// What it is, as [`Shape::read`] reads it.
    #[serde(default)]
    pub spec: Value,
    /// How it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<TypeStatus>,
}

object!(InstanceType: "sampan.io", "v1alpha1", "InstanceType", "instancetypes", ClusterResourceScope);

/// How a type is used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TypeStatus {
    /// How many nodes are of it.
    pub nodes: i64,
    /// How many pods have its size.
    pub pods: i64,
    /// Of which spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What is right and wrong.
    pub conditions: Vec<Condition>,
}

impl InstanceType {
    /// A type of that name.
    pub fn new(name: &str, spec: Value) -> Self {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        Self { api_version: api_version(), kind: kind(), metadata, spec, status: None }
    }

    /// What it says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn shape(&self) -> Result<Shape, String> {
        Shape::read(&json!({"metadata": {"name": self.metadata.name}, "spec": self.spec}))
    }

    /// The status with so many nodes and pods, at that time; `None` when the object says so already.
    pub fn status_for(&self, nodes: usize, pods: usize, now: &str) -> Option<TypeStatus> {
        let ready = match self.shape() {
            Ok(_) => (true, "Usable", String::new()),
            Err(why) => (false, "Invalid", why),
        };
        let old = self.status.as_ref().map_or(&[][..], |status| &status.conditions);
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let new = TypeStatus {
            nodes: count(nodes),
            pods: count(pods),
            observed_generation: self.metadata.generation,
            conditions: vec![Condition::after(old, "Ready", ready, now)],
        };
        (self.status.as_ref() != Some(&new)).then_some(new)
    }
}
