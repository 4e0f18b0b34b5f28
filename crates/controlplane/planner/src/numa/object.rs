//! `noderesourcetopologies.topology.node.k8s.io`, in which nodes say what their zones have.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::object::object;

/// What the zones of a node have; it bears the node's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeTopology {
    #[serde(default = "api_version")]
    api_version: String,
    #[serde(default = "kind")]
    kind: String,
    /// Name and so on.
    pub metadata: ObjectMeta,
    /// The policy in a word of old.
    #[serde(default)]
    pub topology_policies: Vec<String>,
    /// The zones.
    #[serde(default)]
    pub zones: Vec<Zone>,
    /// The policy and what else holds for the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<Attribute>,
}

object!(NodeTopology: "topology.node.k8s.io", "v1alpha2", "NodeResourceTopology", "noderesourcetopologies", ClusterResourceScope);

impl NodeTopology {
    /// Of the node of that name, with nothing in it.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            api_version: api_version(),
            kind: kind(),
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            topology_policies: Vec::new(),
            zones: Vec::new(),
            attributes: Vec::new(),
        }
    }

    /// The value of an attribute.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|attribute| attribute.name == name)
            .map(|attribute| attribute.value.as_str())
    }
}

/// A zone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Zone {
    /// Its name: `node-0`.
    pub name: String,
    /// What it is: `Node`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The zone that it is part of.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub parent: String,
    /// How far it is to others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<Cost>,
    /// What else holds for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<Attribute>,
    /// What it has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<ResourceInfo>,
}

/// How far it is to a zone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cost {
    /// Which.
    pub name: String,
    /// As the firmware has it: 10 is here.
    pub value: i64,
}

/// A name and a value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attribute {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
}

impl Attribute {
    /// Both.
    #[must_use]
    pub fn new(name: &str, value: impl Into<String>) -> Self {
        Self { name: name.to_owned(), value: value.into() }
    }
}

/// What a zone has of a resource.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceInfo {
    /// Which.
    pub name: String,
    /// Altogether.
    pub capacity: Quantity,
    /// For pods.
    pub allocatable: Quantity,
    /// Of that, what nobody holds.
    pub available: Quantity,
}
