//! Which objects a quota looks at.

use serde_json::Value;

use super::pods;
use crate::kinds::Resource;

/// One condition of a quota.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scope {
    name: String,
    operator: String,
    values: Vec<String>,
}

/// The scopes of a quota: an object has to be in all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(Vec<Scope>);

impl Scopes {
    /// From a quota's `spec.scopes` and `spec.scopeSelector`.
    pub fn of(quota: &Value) -> Self {
        let text =
            |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let list = |pointer: &str| quota.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
        let plain = list("/spec/scopes").filter_map(Value::as_str).map(|name| Scope {
            name: name.to_owned(),
            operator: "Exists".to_owned(),
            values: Vec::new(),
        });
        let selected = list("/spec/scopeSelector/matchExpressions").map(|expression| {
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            Scope {
                name: text(expression, "scopeName"),
                operator: text(expression, "operator"),
                values: values.filter_map(Value::as_str).map(str::to_owned).collect(),
            }
        });
        Self(plain.chain(selected).collect())
    }

    /// Whether there are none, so that every object counts.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the object is in every scope. Kinds without scopes are in none.
    pub fn hold(&self, resource: &Resource, object: &Value) -> bool {
        self.0.iter().all(|scope| match (resource.group, resource.plural) {
            ("", "pods") => scope.of_pod(object),
            ("", "persistentvolumeclaims") => scope.of_claim(object),
            _ => false,
        })
    }
}

impl Scope {
    fn of_pod(&self, pod: &Value) -> bool {
        match self.name.as_str() {
            "Terminating" => pods::is_terminating(pod),
            "NotTerminating" => !pods::is_terminating(pod),
            "BestEffort" => crate::strategy::qos_class(pod) == "BestEffort",
            "NotBestEffort" => crate::strategy::qos_class(pod) != "BestEffort",
            "PriorityClass" => {
                let class = pod.pointer("/spec/priorityClassName").and_then(Value::as_str);
                self.selects(class.filter(|class| !class.is_empty()))
            }
            "CrossNamespacePodAffinity" => pods::crosses_namespaces(pod),
            _ => false,
        }
    }

    fn of_claim(&self, claim: &Value) -> bool {
        if self.name != "VolumeAttributesClass" {
            return false;
        }
        let at =
            |pointer: &str| claim.pointer(pointer).and_then(Value::as_str).filter(|class| !class.is_empty());
        let classes: Vec<&str> = [
            at("/spec/volumeAttributesClassName"),
            at("/status/currentVolumeAttributesClassName"),
            at("/status/modifyVolumeStatus/targetVolumeAttributesClassName"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if classes.is_empty() {
            return self.selects(None);
        }
        classes.into_iter().any(|class| self.selects(Some(class)))
    }

    fn selects(&self, value: Option<&str>) -> bool {
        let among = |value: &str| self.values.iter().any(|known| known == value);
        match self.operator.as_str() {
            "In" => value.is_some_and(among),
            "NotIn" => !value.is_some_and(among),
            "DoesNotExist" => value.is_none(),
            _ => value.is_some(),
        }
    }
}
