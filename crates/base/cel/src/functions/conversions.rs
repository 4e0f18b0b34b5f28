//! From one type to another.

use super::Implementation;
use crate::{
    error::EvalError,
    eval::{no_overload, type_name},
    types::Type,
    value::{Value, opaque::Inner, time},
};

type Result<T> = std::result::Result<T, EvalError>;

pub(super) fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "bool" => |_, args| one(args, boolean),
        "bytes" => |_, args| one(args, bytes),
        "double" => |_, args| one(args, double),
        "dyn" => |_, args| one(args, Ok),
        "duration" => |_, args| one(args, duration),
        "int" => |_, args| one(args, int),
        "string" => |_, args| one(args, string),
        "timestamp" => |_, args| one(args, timestamp),
        "type" => |_, args| one(args, |value| Ok(Value::Type(value.type_of()))),
        "uint" => |_, args| one(args, uint),
        _ => return None,
    })
}

fn one<'a>(args: Vec<Value<'a>>, convert: fn(Value<'a>) -> Result<Value<'a>>) -> Result<Value<'a>> {
    args.into_iter().next().map_or_else(|| Err(no_overload()), convert)
}

fn wrong(from: &Value<'_>, to: &Type) -> EvalError {
    EvalError::new(format!("type conversion error from '{}' to '{}'", type_name(from), to.name()))
}

fn boolean(value: Value<'_>) -> Result<Value<'_>> {
    match &value {
        Value::Bool(_) => Ok(value),
        Value::String(text) => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => Err(wrong(&value, &Type::Bool)),
        },
        _ => Err(wrong(&value, &Type::Bool)),
    }
}

fn bytes(value: Value<'_>) -> Result<Value<'_>> {
    match &value {
        Value::Bytes(_) => Ok(value),
        Value::String(text) => Ok(Value::Bytes(text.as_bytes().into())),
        _ => Err(wrong(&value, &Type::Bytes)),
    }
}

fn double(value: Value<'_>) -> Result<Value<'_>> {
    match &value {
        Value::Double(_) => Ok(value),
        Value::Int(number) => Ok(Value::Double(*number as f64)),
        Value::Uint(number) => Ok(Value::Double(*number as f64)),
        Value::String(text) => match text.parse::<f64>() {
            Ok(number) => Ok(Value::Double(number)),
            Err(_) => Err(wrong(&value, &Type::Double)),
        },
        _ => Err(wrong(&value, &Type::Double)),
    }
}

fn duration(value: Value<'_>) -> Result<Value<'_>> {
    match &value {
        Value::Duration(_) => Ok(value),
        Value::Int(nanos) => Ok(Value::Duration(*nanos)),
        Value::String(text) => {
            time::parse_duration(text).map(Value::Duration).ok_or_else(|| wrong(&value, &Type::Duration))
        }
        _ => Err(wrong(&value, &Type::Duration)),
    }
}

fn int(value: Value<'_>) -> Result<Value<'_>> {
    let overflow = || EvalError::new("integer overflow");
    match &value {
        Value::Int(_) => Ok(value),
        Value::Uint(number) => i64::try_from(*number).map(Value::Int).map_err(|_| overflow()),
        // The range in which every whole number has a place on both sides.
        Value::Double(number) if number.abs() < 9.223_372_036_854_775e18 => Ok(Value::Int(*number as i64)),
        Value::Double(_) => Err(overflow()),
        Value::Timestamp(at) => Ok(Value::Int(at.as_second())),
        Value::Duration(nanos) => Ok(Value::Int(*nanos)),
        Value::String(text) => text.parse().map(Value::Int).map_err(|_| wrong(&value, &Type::Int)),
        _ => Err(wrong(&value, &Type::Int)),
    }
}

fn uint(value: Value<'_>) -> Result<Value<'_>> {
    let overflow = || EvalError::new("unsigned integer overflow");
    match &value {
        Value::Uint(_) => Ok(value),
        Value::Int(number) => u64::try_from(*number).map(Value::Uint).map_err(|_| overflow()),
        Value::Double(number) if (0.0..1.844_674_407_370_955e19).contains(number) => {
            Ok(Value::Uint(*number as u64))
        }
        Value::Double(_) => Err(overflow()),
        Value::String(text) => text.parse().map(Value::Uint).map_err(|_| wrong(&value, &Type::Uint)),
        _ => Err(wrong(&value, &Type::Uint)),
    }
}

fn timestamp(value: Value<'_>) -> Result<Value<'_>> {
    match &value {
        Value::Timestamp(_) => Ok(value),
        Value::Int(seconds) => time::from_seconds(*seconds)
            .map(Value::Timestamp)
            .ok_or_else(|| EvalError::new("timestamp overflow")),
        Value::String(text) => {
            time::parse_timestamp(text).map(Value::Timestamp).ok_or_else(|| wrong(&value, &Type::Timestamp))
        }
        _ => Err(wrong(&value, &Type::Timestamp)),
    }
}

fn string(value: Value<'_>) -> Result<Value<'_>> {
    if let Value::Bytes(bytes) = &value {
        return match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Value::string(text)),
            Err(_) => Err(EvalError::new("invalid UTF-8 in bytes, cannot convert to string")),
        };
    }
    match &value {
        Value::String(_) => Ok(value),
        other => text(other).map(Value::string).ok_or_else(|| wrong(&value, &Type::String)),
    }
}

/// The text of a value that has one.
pub(crate) fn text(value: &Value<'_>) -> Option<String> {
    Some(match value {
        Value::String(text) => text.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => show_double(*value),
        Value::Duration(nanos) => time::show_duration(*nanos),
        Value::Timestamp(at) => time::show_timestamp(at),
        Value::Type(ty) => ty.name().to_owned(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Opaque(inner) => match &**inner {
            Inner::Ip(ip) => ip.to_string(),
            Inner::Cidr(ip, bits) => format!("{ip}/{bits}"),
            _ => return None,
        },
        _ => return None,
    })
}

/// As Go's `%g` writes it: plain between 1e-4 and 1e21.
fn show_double(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if value == 0.0 || (1e-4..1e21).contains(&value.abs()) {
        return value.to_string();
    }
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}
