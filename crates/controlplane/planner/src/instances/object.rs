//! `instancetypes.sampan.io`, as the API serves it.

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sampan_api::instancetype::Shape;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const API_VERSION: &str = "sampan.io/v1alpha1";
const KIND: &str = "InstanceType";

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

fn api_version() -> String {
    API_VERSION.to_owned()
}

fn kind() -> String {
    KIND.to_owned()
}

impl k8s_openapi::Resource for InstanceType {
    const API_VERSION: &'static str = API_VERSION;
    const GROUP: &'static str = "sampan.io";
    const KIND: &'static str = KIND;
    const VERSION: &'static str = "v1alpha1";
    const URL_PATH_SEGMENT: &'static str = "instancetypes";
    type Scope = ClusterResourceScope;
}

impl k8s_openapi::Metadata for InstanceType {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

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
    pub conditions: Vec<TypeCondition>,
}

/// A condition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TypeCondition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True` or `False`.
    pub status: String,
    /// In one word.
    pub reason: String,
    /// In a sentence.
    pub message: String,
    /// Since when.
    pub last_transition_time: String,
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
        let (state, reason, message) = match self.shape() {
            Ok(_) => ("True", "Usable", String::new()),
            Err(why) => ("False", "Invalid", why),
        };
        let old = self.status.clone().unwrap_or_default();
        let since = old.conditions.iter().find(|c| c.kind == "Ready" && c.status == state);
        let condition = TypeCondition {
            kind: "Ready".to_owned(),
            status: state.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: since.map_or_else(|| now.to_owned(), |c| c.last_transition_time.clone()),
        };
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let new = TypeStatus {
            nodes: count(nodes),
            pods: count(pods),
            observed_generation: self.metadata.generation,
            conditions: vec![condition],
        };
        (self.status.as_ref() != Some(&new)).then_some(new)
    }
}
