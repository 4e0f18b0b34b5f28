//! Values. JSON stays where it is and is read as its declared type when an expression looks at it.

mod collection;
pub(crate) mod compare;
mod convert;
pub(crate) mod opaque;
pub(crate) mod time;

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use jiff::Timestamp;
use serde_json::Value as Json;

pub(crate) use collection::OwnedMap;
pub use collection::{List, Map};
use opaque::Inner;

use crate::{
    declare::{Declared, Shape},
    error::EvalError,
    types::Type,
};

/// A value of an expression.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// Null.
    Null,
    /// A truth value.
    Bool(bool),
    /// A signed number.
    Int(i64),
    /// An unsigned number.
    Uint(u64),
    /// A floating point number.
    Double(f64),
    /// Text.
    String(Text<'a>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A span of time, in nanoseconds.
    Duration(i64),
    /// A point in time.
    Timestamp(Timestamp),
    /// A list.
    List(List<'a>),
    /// A map, or an object with fields.
    Map(Map<'a>),
    /// An optional value.
    Optional(Option<Arc<Value<'a>>>),
    /// A type.
    Type(Type),
    /// A value of Kubernetes' library.
    Opaque(Arc<Inner>),
}

/// Text, borrowed from JSON or from the program where that is possible.
#[derive(Debug, Clone)]
pub enum Text<'a> {
    /// Somebody else's.
    Borrowed(&'a str),
    /// Made by the expression.
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        self
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl<'a> Value<'a> {
    /// Text that is borrowed.
    pub fn text(text: &'a str) -> Value<'a> {
        Value::String(Text::Borrowed(text))
    }

    /// Text of one's own.
    pub fn string(text: impl Into<Arc<str>>) -> Value<'a> {
        Value::String(Text::Shared(text.into()))
    }

    /// A list of values.
    pub fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::Owned(Arc::new(items)))
    }

    /// The value of `authorizer` variables.
    pub fn authorizer() -> Value<'a> {
        Value::Opaque(Arc::new(Inner::Authorizer(None)))
    }

    /// The value of `authorizer.requestResource` variables.
    pub fn resource_check(
        group: &str,
        resource: &str,
        subresource: &str,
        namespace: &str,
        name: &str,
    ) -> Value<'a> {
        let check = opaque::ResourceCheck {
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..opaque::ResourceCheck::default()
        };
        Value::Opaque(Arc::new(Inner::ResourceCheck(Box::new(check))))
    }

    /// Present or absent.
    pub fn optional(value: Option<Value<'a>>) -> Value<'a> {
        Value::Optional(value.map(Arc::new))
    }

    pub(crate) fn opaque(inner: Inner) -> Value<'a> {
        Value::Opaque(Arc::new(inner))
    }

    /// JSON of which nothing is declared.
    pub fn dynamic(json: &'a Json) -> Value<'a> {
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => number
                .as_i64()
                .map(Value::Int)
                .or_else(|| number.as_u64().map(Value::Uint))
                .unwrap_or_else(|| Value::Double(number.as_f64().unwrap_or(f64::NAN))),
            Json::String(text) => Value::text(text),
            Json::Array(items) => Value::List(List::Json(items, None)),
            Json::Object(fields) => Value::Map(Map::Json(fields, None)),
        }
    }

    /// JSON, read as its declared type.
    ///
    /// # Errors
    /// It is no value of that type.
    pub fn read(json: &'a Json, declared: &'a Declared) -> Result<Value<'a>, EvalError> {
        let wrong = |expected: &str| {
            Err(EvalError::new(format!("invalid data, expected {expected}, got {}", json_type(json))))
        };
        match (&declared.shape, json) {
            (Shape::Simple(Type::Dyn), _) => Ok(Value::dynamic(json)),
            (_, Json::Null) if declared.nullable => Ok(Value::Null),
            (_, Json::Null) => Err(EvalError::new("invalid data, got null for schema with nullable=false")),
            (Shape::IntOrString, Json::String(text)) => Ok(Value::text(text)),
            (Shape::IntOrString, Json::Number(number)) if number.is_i64() => {
                Ok(Value::Int(number.as_i64().unwrap_or_default()))
            }
            (Shape::IntOrString, _) => Err(EvalError::new(
                "invalid data, expected XIntOrString value to be either a string or integer",
            )),
            (Shape::List(..), Json::Array(items)) => Ok(Value::List(List::Json(items, Some(declared)))),
            (Shape::List(..), _) => {
                Err(EvalError::new("invalid data, expected an array for the provided schema with type=array"))
            }
            (Shape::Map(values), Json::Object(fields)) => Ok(Value::Map(Map::Json(fields, Some(values)))),
            (Shape::Object(object), Json::Object(fields)) => Ok(Value::Map(Map::Object(fields, object))),
            (Shape::Map(_) | Shape::Object(_), _) => {
                Err(EvalError::new("invalid data, expected a map for the provided schema with type=object"))
            }
            (Shape::Simple(Type::Bool), Json::Bool(value)) => Ok(Value::Bool(*value)),
            (Shape::Simple(Type::Bool), _) => wrong("bool"),
            (Shape::Simple(Type::Int), Json::Number(number)) => match number.as_i64() {
                Some(value) => Ok(Value::Int(value)),
                None => wrong("int"),
            },
            (Shape::Simple(Type::Int), _) => wrong("int"),
            (Shape::Simple(Type::Double), Json::Number(number)) => {
                Ok(Value::Double(number.as_f64().unwrap_or(f64::NAN)))
            }
            (Shape::Simple(Type::Double), _) => wrong("float"),
            (Shape::Simple(ty), Json::String(text)) => convert::formatted(text, ty),
            (Shape::Simple(Type::String | Type::Bytes | Type::Duration | Type::Timestamp), _) => {
                wrong("string")
            }
            (Shape::Simple(_), json) => Ok(Value::dynamic(json)),
        }
    }

    /// What `type(x)` yields.
    pub fn type_of(&self) -> Type {
        match self {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Uint(_) => Type::Uint,
            Value::Double(_) => Type::Double,
            Value::String(_) => Type::String,
            Value::Bytes(_) => Type::Bytes,
            Value::Duration(_) => Type::Duration,
            Value::Timestamp(_) => Type::Timestamp,
            Value::List(_) => Type::list(Type::Dyn),
            Value::Map(Map::Struct(name, _)) => {
                let object = crate::declare::ObjectType { name: name.to_string(), ..Default::default() };
                Type::Object(Arc::new(object))
            }
            Value::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Value::Optional(_) => Type::optional(Type::Dyn),
            Value::Type(_) => Type::Type(Arc::new(Type::Dyn)),
            Value::Opaque(inner) => Type::Opaque(inner.opaque()),
        }
    }

    /// The text, when it is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value, when it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }
}

fn json_type(json: &Json) -> &'static str {
    match json {
        Json::Null => "<nil>",
        Json::Bool(_) => "bool",
        Json::Number(number) if number.is_f64() => "float64",
        Json::Number(_) => "int64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    }
}
