//! The scale subresource of custom kinds: the paths at which replicas and the selector lie.

use serde_json::{Map, Value, json};

use crate::status::FieldError;

/// Where in an object the numbers of a Scale lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    spec: String,
    status: String,
    selector: Option<String>,
}

/// What lies at a path of fields: nothing, a value, or an obstacle.
fn at<'a>(object: &'a Value, path: &str) -> Result<Option<&'a Value>, String> {
    let path = path.trim_start_matches('.');
    let mut value = object;
    let mut walked = String::new();
    for name in path.split('.') {
        let Value::Object(members) = value else {
            return Err(format!(
                "{walked} accessor error: {value} is of the type {}, expected map[string]interface{{}}",
                go_type(value)
            ));
        };
        match members.get(name) {
            Some(next) => value = next,
            None => return Ok(None),
        }
        walked.push('.');
        walked.push_str(name);
    }
    Ok(Some(value))
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn number(object: &Value, path: &str) -> Result<Option<i64>, String> {
    match at(object, path)? {
        None => Ok(None),
        Some(value) => value.as_i64().map(Some).ok_or_else(|| {
            format!(
                ".{} accessor error: {value} is of the type {}, expected int64",
                path.trim_start_matches('.'),
                go_type(value)
            )
        }),
    }
}

impl ScalePaths {
    /// From `subresources.scale`.
    pub fn parse(scale: &Value) -> Option<ScalePaths> {
        let text = |name: &str| scale.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(ScalePaths {
            spec: text("specReplicasPath")?,
            status: text("statusReplicasPath")?,
            selector: text("labelSelectorPath").filter(|path| !path.is_empty()),
        })
    }

    /// The names on the way to the replicas that are wanted.
    pub fn replicas(&self) -> impl Iterator<Item = &str> {
        self.spec.trim_start_matches('.').split('.')
    }

    /// The Scale of an object.
    ///
    /// # Errors
    /// The replicas are not set.
    pub fn of(&self, object: &Value) -> Result<Value, String> {
        let Some(replicas) = number(object, &self.spec)? else {
            return Err(format!("the spec replicas field \"{}\" does not exist", self.spec));
        };
        let seen = number(object, &self.status)?.unwrap_or(0);
        let mut metadata = Map::new();
        for name in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if let Some(value) = object.pointer("/metadata").and_then(|m| m.get(name)) {
                metadata.insert(name.to_owned(), value.clone());
            }
        }
        let mut status = json!({ "replicas": seen });
        if let Some(path) = &self.selector
            && let Ok(Some(Value::String(selector))) = at(object, path)
        {
            status["selector"] = selector.as_str().into();
        }
        Ok(json!({
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": metadata,
            "spec": if replicas == 0 { json!({}) } else { json!({ "replicas": replicas }) },
            "status": status,
        }))
    }

    /// Puts the replicas of a Scale into an object.
    ///
    /// # Errors
    /// Something that is no object lies in the way.
    pub fn apply(&self, object: &mut Value, scale: &Value) -> Result<(), String> {
        let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
        let mut place = object;
        for name in self.spec.trim_start_matches('.').split('.') {
            let Value::Object(members) = place else {
                return Err(format!("value cannot be set because {} is not a map", self.spec));
            };
            place = members.entry(name).or_insert_with(|| Value::Object(Map::new()));
        }
        *place = replicas.into();
        Ok(())
    }

    /// Checks the replicas that an object asks for.
    pub(super) fn check_spec(&self, object: &Value, out: &mut Vec<FieldError>) {
        check(object, &self.spec, out);
    }

    /// Checks what an object says of its replicas.
    pub(super) fn check_status(&self, object: &Value, out: &mut Vec<FieldError>) {
        check(object, &self.status, out);
        let Some(path) = &self.selector else { return };
        let wrong = match at(object, path) {
            Ok(None | Some(Value::String(_))) => return,
            Ok(Some(value)) => {
                format!("{path} accessor error: {value} is of the type {}, expected string", go_type(value))
            }
            Err(why) => why,
        };
        out.push(FieldError::invalid(path.as_str(), "", wrong));
    }
}

fn check(object: &Value, path: &str, out: &mut Vec<FieldError>) {
    let most = i64::from(i32::MAX);
    match number(object, path) {
        Err(why) => out.push(FieldError::invalid(path, 0, why)),
        Ok(Some(n)) if n < 0 => {
            out.push(FieldError::invalid(path, n, "should be a non-negative integer"));
        }
        Ok(Some(n)) if n > most => {
            out.push(FieldError::invalid(path, n, format!("should be less than or equal to {most}")));
        }
        Ok(_) => {}
    }
}
