//! The columns and cells that `kubectl get` prints.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::Resource;

/// A column of `metav1.Table`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The heading.
    pub name: &'static str,
    /// The OpenAPI type: `string`, `integer`, `boolean` or `number`.
    pub kind: &'static str,
    /// The OpenAPI format; `name` marks the column that names the object.
    pub format: &'static str,
    /// What the column says.
    pub description: &'static str,
    /// 0 is always shown, 1 only in the wide output.
    pub priority: i32,
}

impl Column {
    /// The `TableColumnDefinition` as JSON.
    pub fn to_value(&self) -> Value {
        serde_json::json!({
            "name": self.name,
            "type": self.kind,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }
}

/// The columns of the resource's kind.
pub fn columns(resource: &Resource) -> &'static [Column] {
    let _ = resource;
    &[]
}

/// The cells of one object, as many as there are columns.
pub fn row(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    let _ = (resource, object, now);
    Vec::new()
}
