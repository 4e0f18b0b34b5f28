//! From formatted text, and back to JSON.

use base64::Engine as _;
use serde_json::{Number, Value as Json};

use super::{Map, Value, time};
use crate::{error::EvalError, types::Type};

/// Values of which the JSON of one value may consist.
const MAX_NODES: u32 = 1 << 20;

/// Text of a declared format.
pub(super) fn formatted<'a>(text: &'a str, ty: &Type) -> Result<Value<'a>, EvalError> {
    let wrong = |what: &str| EvalError::new(format!("Invalid {what} formatted string {text}"));
    match ty {
        Type::Bytes => match base64::engine::general_purpose::STANDARD.decode(text) {
            Ok(bytes) => Ok(Value::Bytes(bytes.into())),
            Err(_) => Err(wrong("byte")),
        },
        Type::Duration => match time::parse_duration(text) {
            Some(nanos) => Ok(Value::Duration(nanos)),
            None => Err(EvalError::new(format!("Invalid duration {text}"))),
        },
        Type::Timestamp => {
            let whole = match text.len() {
                10 => time::parse_timestamp(&format!("{text}T00:00:00Z")),
                _ => time::parse_timestamp(text),
            };
            whole.map(Value::Timestamp).ok_or_else(|| wrong("date-time"))
        }
        _ => Ok(Value::text(text)),
    }
}

impl Value<'_> {
    /// The JSON of it, as it becomes part of an object.
    ///
    /// # Errors
    /// There is none: a type, or a value of the library.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        self.json_within(&mut { MAX_NODES })
    }

    fn json_within(&self, left: &mut u32) -> Result<Json, EvalError> {
        *left = left.checked_sub(1).ok_or(EvalError::CostLimit)?;
        Ok(match self {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Int(value) => Json::Number((*value).into()),
            Value::Uint(value) => Json::Number((*value).into()),
            Value::Double(value) => match Number::from_f64(*value) {
                // Whole numbers keep the form that integers have in JSON.
                Some(_) if value.fract() == 0.0 && value.abs() < 9e15 => Json::Number((*value as i64).into()),
                Some(number) => Json::Number(number),
                None => return Err(EvalError::new("cannot convert a double that is not finite to JSON")),
            },
            Value::String(text) => Json::String(text.to_string()),
            Value::Bytes(bytes) => Json::String(base64::engine::general_purpose::STANDARD.encode(bytes)),
            Value::Duration(nanos) => Json::String(time::show_duration(*nanos)),
            Value::Timestamp(at) => Json::String(time::show_timestamp(at)),
            Value::List(list) => Json::Array(
                list.iter().map(|item| item?.json_within(left)).collect::<Result<_, EvalError>>()?,
            ),
            Value::Map(map) => Json::Object(fields(map, left)?),
            Value::Optional(Some(value)) => value.json_within(left)?,
            Value::Optional(None) => Json::Null,
            Value::Type(_) | Value::Opaque(_) => {
                let ty = self.type_of();
                return Err(EvalError::new(format!(
                    "cannot convert a value of type '{}' to JSON",
                    ty.name()
                )));
            }
        })
    }
}

fn fields(map: &Map<'_>, left: &mut u32) -> Result<serde_json::Map<String, Json>, EvalError> {
    if let Some((fields, _)) = map.json() {
        return Ok(fields.clone());
    }
    let mut object = serde_json::Map::new();
    for (key, value) in map.entries()? {
        let Value::String(key) = key else {
            return Err(EvalError::new("cannot convert a map to JSON: its keys are no strings"));
        };
        object.insert(key.to_string(), value.json_within(left)?);
    }
    Ok(object)
}
