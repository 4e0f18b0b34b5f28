//! The columns and cells that `kubectl get` prints, of which `-o wide` shows those with priority 1 too.

mod access;
mod autoscaler;
mod cells;
mod cluster;
mod columns;
mod duration;
mod pod;
mod rows;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::Resource;

pub use self::duration::human;

/// A column of `metav1.Table`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
        json!({
            "name": self.name,
            "type": self.kind,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }
}

/// The columns of the resource's kind; name and age for a kind without columns of its own.
pub fn columns(resource: &Resource) -> &'static [Column] {
    columns::of(resource.group, resource.kind)
}

/// The cells of one object, as many as there are columns.
pub fn row(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    rows::of(resource.group, resource.kind, object, now)
}

/// The conditions of one object's row: clients that hide what has ended go by them.
pub fn row_conditions(resource: &Resource, object: &Value) -> Vec<Value> {
    if (resource.group, resource.kind) != ("", "Pod") {
        return Vec::new();
    }
    let message = match cells::text(object, "/status/phase") {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return Vec::new(),
    };
    vec![json!({
        "type": "Completed",
        "status": "True",
        "reason": cells::text(object, "/status/phase"),
        "message": message,
    })]
}

#[cfg(test)]
mod tests;
