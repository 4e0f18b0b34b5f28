//! What `kubectl get` prints of custom objects: the name, and the columns of the definition.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::jsonpath::JsonPath;
use crate::table::human;

/// What a name column says, as for every kind.
const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources \
                    may allow a client to request the generation of an appropriate name automatically.";

/// A column of the definition.
#[derive(Debug, Clone)]
pub struct Column {
    definition: Value,
    kind: String,
    path: Option<JsonPath>,
}

impl Column {
    /// The columns of a version; the age for one without.
    pub fn all(printer: Option<&Value>) -> Vec<Column> {
        let given = printer.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if given.is_empty() {
            let age = json!({
                "name": "Age",
                "type": "date",
                "description": "CreationTimestamp is a timestamp representing the server time when this object was created.",
                "jsonPath": ".metadata.creationTimestamp",
            });
            return vec![Column::parse(&age)];
        }
        given.iter().map(Column::parse).collect()
    }

    fn parse(from: &Value) -> Column {
        let text = |name: &str| from.get(name).and_then(Value::as_str).unwrap_or_default();
        let path = text("jsonPath");
        let description = match text("description") {
            "" => format!("Custom resource definition column (in JSONPath format): {path}"),
            text => text.to_owned(),
        };
        Column {
            definition: json!({
                "name": text("name"),
                "type": text("type"),
                "format": text("format"),
                "description": description,
                "priority": from.get("priority").and_then(Value::as_i64).unwrap_or(0),
            }),
            kind: text("type").to_owned(),
            path: JsonPath::parse(path),
        }
    }

    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self.path.as_ref().map(|path| path.find(object)).unwrap_or_default();
        let Some(value) = found.first() else { return Value::Null };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "what does not fit saturates, as upstream's does"
        )]
        match (self.kind.as_str(), value) {
            ("string", Value::String(_)) => (*value).clone(),
            ("string", Value::Null) => "<nil>".into(),
            ("string", Value::Number(n)) if !n.is_i64() => {
                super::check::go_float(n.as_f64().unwrap_or_default()).into()
            }
            ("string", value) => value.to_string().into(),
            ("integer", Value::Number(n)) => {
                n.as_i64().unwrap_or_else(|| n.as_f64().unwrap_or_default() as i64).into()
            }
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*value).clone(),
            ("date", Value::String(text)) => match text.parse::<Timestamp>() {
                Ok(at) => human(now.duration_since(at).as_secs()).into(),
                Err(_) => "<invalid>".into(),
            },
            _ => Value::Null,
        }
    }
}

/// The column definitions, the name first.
pub(super) fn definitions(columns: &[Column]) -> Vec<Value> {
    let name =
        json!({ "name": "Name", "type": "string", "format": "name", "description": NAME, "priority": 0 });
    std::iter::once(name).chain(columns.iter().map(|c| c.definition.clone())).collect()
}

/// The cells of one object.
pub(super) fn row(columns: &[Column], object: &Value, now: Timestamp) -> Vec<Value> {
    let name = object.pointer("/metadata/name").cloned().unwrap_or_default();
    std::iter::once(name).chain(columns.iter().map(|c| c.cell(object, now))).collect()
}
