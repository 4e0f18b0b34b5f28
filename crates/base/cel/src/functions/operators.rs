//! Operators and what belongs to the language itself.

use std::{cmp::Ordering, sync::Arc};

use super::{Context, Implementation, bounded, lists};
use crate::{
    error::EvalError,
    eval::no_overload,
    value::{Map, OwnedMap, Value, compare, time},
};

type Result<T> = std::result::Result<T, EvalError>;

pub(super) fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "!_" => not,
        "_==_" => equals,
        "_!=_" => differs,
        "_<_" => |_, args| ordered(&args, Ordering::is_lt),
        "_<=_" => |_, args| ordered(&args, Ordering::is_le),
        "_>_" => |_, args| ordered(&args, Ordering::is_gt),
        "_>=_" => |_, args| ordered(&args, Ordering::is_ge),
        "_+_" => add,
        "_-_" => subtract,
        "_*_" => multiply,
        "_/_" => divide,
        "_%_" => modulo,
        "-_" => negate,
        "@in" => contains,
        "size" => size,
        "cel.@mapInsert" => insert,
        "optional.of" => |_, args| Ok(Value::optional(args.into_iter().next())),
        "optional.ofNonZeroValue" => of_non_zero,
        "optional.none" => |_, _| Ok(Value::Optional(None)),
        "value" => value,
        "hasValue" => has_value,
        "optional.unwrap" | "unwrapOpt" => unwrap,
        "jsonpatch.escapeKey" => escape_key,
        _ => return None,
    })
}

fn not<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    match args.as_slice() {
        [Value::Bool(value)] => Ok(Value::Bool(!value)),
        _ => Err(no_overload()),
    }
}

fn equals<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    match args.as_slice() {
        [a, b] => Ok(Value::Bool(compare::try_equal(a, b)?)),
        _ => Err(no_overload()),
    }
}

fn differs<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    match args.as_slice() {
        [a, b] => Ok(Value::Bool(!compare::try_equal(a, b)?)),
        _ => Err(no_overload()),
    }
}

fn ordered<'a>(args: &[Value<'_>], holds: fn(Ordering) -> bool) -> Result<Value<'a>> {
    let [a, b] = args else { return Err(no_overload()) };
    match compare::order(a, b) {
        Some(order) => Ok(Value::Bool(holds(order))),
        None if compare::nan(a, b) => Err(EvalError::new("NaN values cannot be ordered")),
        None => Err(no_overload()),
    }
}

fn overflow() -> EvalError {
    EvalError::new("integer overflow")
}

fn unsigned() -> EvalError {
    EvalError::new("unsigned integer overflow")
}

fn duration_overflow() -> EvalError {
    EvalError::new("duration overflow")
}

fn timestamp_overflow() -> EvalError {
    EvalError::new("timestamp overflow")
}

fn pair<'a>(args: Vec<Value<'a>>) -> Result<(Value<'a>, Value<'a>)> {
    <[Value<'a>; 2]>::try_from(args).map(|[a, b]| (a, b)).map_err(|_| no_overload())
}

fn add<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    Ok(match pair(args)? {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_add(b).ok_or_else(overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_add(b).ok_or_else(unsigned)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a + b),
        (Value::String(a), Value::String(b)) => {
            bounded(a.len() + b.len())?;
            Value::string([&*a, &*b].concat())
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            bounded(a.len() + b.len())?;
            Value::Bytes([&*a, &*b].concat().into())
        }
        (Value::List(a), Value::List(b)) => Value::List(a.join(b)?),
        (Value::Duration(a), Value::Duration(b)) => {
            Value::Duration(a.checked_add(b).ok_or_else(duration_overflow)?)
        }
        (Value::Timestamp(at), Value::Duration(by)) | (Value::Duration(by), Value::Timestamp(at)) => {
            Value::Timestamp(time::shift(at, i128::from(by)).ok_or_else(timestamp_overflow)?)
        }
        _ => return Err(no_overload()),
    })
}

fn subtract<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    Ok(match pair(args)? {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_sub(b).ok_or_else(overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_sub(b).ok_or_else(unsigned)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a - b),
        (Value::Duration(a), Value::Duration(b)) => {
            Value::Duration(a.checked_sub(b).ok_or_else(duration_overflow)?)
        }
        (Value::Timestamp(at), Value::Duration(by)) => {
            Value::Timestamp(time::shift(at, -i128::from(by)).ok_or_else(timestamp_overflow)?)
        }
        (Value::Timestamp(a), Value::Timestamp(b)) => {
            let nanos = a.as_nanosecond() - b.as_nanosecond();
            Value::Duration(i64::try_from(nanos).map_err(|_| duration_overflow())?)
        }
        _ => return Err(no_overload()),
    })
}

fn multiply<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    Ok(match pair(args)? {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_mul(b).ok_or_else(overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_mul(b).ok_or_else(unsigned)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a * b),
        _ => return Err(no_overload()),
    })
}

fn divide<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    Ok(match pair(args)? {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            return Err(EvalError::new("division by zero"));
        }
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_div(b).ok_or_else(overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a / b),
        (Value::Double(a), Value::Double(b)) => Value::Double(a / b),
        _ => return Err(no_overload()),
    })
}

fn modulo<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    Ok(match pair(args)? {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            return Err(EvalError::new("modulus by zero"));
        }
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_rem(b).ok_or_else(overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a % b),
        _ => return Err(no_overload()),
    })
}

fn negate<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    match args.as_slice() {
        [Value::Int(value)] => value.checked_neg().map(Value::Int).ok_or_else(overflow),
        [Value::Double(value)] => Ok(Value::Double(-value)),
        _ => Err(no_overload()),
    }
}

fn contains<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    Ok(Value::Bool(match pair(args)? {
        (item, Value::List(list)) => lists::position(&list, &item)?.is_some(),
        (key, Value::Map(map)) => map.find_key(&key).is_some(),
        _ => return Err(no_overload()),
    }))
}

fn size<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let size = match args.as_slice() {
        [Value::String(text)] => text.chars().count() as u64,
        [Value::Bytes(bytes)] => bytes.len() as u64,
        [Value::List(list)] => list.len(),
        [Value::Map(map)] => map.len(),
        _ => return Err(no_overload()),
    };
    Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
}

/// `cel.@mapInsert(map, key, value)` and `cel.@mapInsert(map, entries)`.
fn insert<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let mut args = args.into_iter();
    let (Some(Value::Map(map)), Some(first), second) = (args.next(), args.next(), args.next()) else {
        return Err(no_overload());
    };
    let added = match (first, second) {
        (key, Some(value)) => vec![(key, value)],
        (Value::Map(entries), None) => entries.entries()?,
        _ => return Err(no_overload()),
    };
    let mut owned = match map {
        Map::Owned(owned) => owned,
        other => {
            let mut owned = OwnedMap::default();
            for (key, value) in other.entries()? {
                owned.insert(key, value)?;
            }
            Arc::new(owned)
        }
    };
    let target = Arc::make_mut(&mut owned);
    for (key, value) in added {
        let shown = key.clone();
        if !target.insert(key, value)? {
            let key = super::text(&shown).unwrap_or_default();
            return Err(EvalError::new(format!("insert failed: key {key} already exists")));
        }
    }
    Ok(Value::Map(Map::Owned(owned)))
}

fn of_non_zero<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let Some(value) = args.into_iter().next() else { return Err(no_overload()) };
    let zero = match &value {
        Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) | Value::Duration(0) => true,
        Value::Double(value) => *value == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        Value::Optional(None) => true,
        _ => false,
    };
    Ok(Value::optional((!zero).then_some(value)))
}

fn value<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    match args.as_slice() {
        [Value::Optional(Some(value))] => Ok((**value).clone()),
        [Value::Optional(None)] => Err(EvalError::new("optional.none() dereference")),
        _ => Err(no_overload()),
    }
}

fn has_value<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    match args.as_slice() {
        [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
        _ => Err(no_overload()),
    }
}

fn unwrap<'a>(context: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let items = lists::items(context, args.first())?;
    let present = items.into_iter().filter_map(|item| match item {
        Value::Optional(None) => None,
        Value::Optional(Some(value)) => Some((*value).clone()),
        other => Some(other),
    });
    Ok(Value::list(present.collect()))
}

fn escape_key<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    match args.as_slice() {
        [Value::String(key)] => Ok(Value::string(key.replace('~', "~0").replace('/', "~1"))),
        _ => Err(no_overload()),
    }
}
