//! Equality and order. Numbers of different types compare as numbers.

use std::cmp::Ordering;

use super::{List, Map, Value, collection::same_keys};
use crate::{declare::ListType, error::EvalError, types::Type};

/// Pairs that one comparison looks at before it is given up.
const MAX_PAIRS: u32 = 2_000_000;

/// `==`; values of different types are not equal.
///
/// # Errors
/// There is too much to compare.
pub(crate) fn try_equal(a: &Value<'_>, b: &Value<'_>) -> Result<bool, EvalError> {
    let mut left = MAX_PAIRS;
    let equal = same(a, b, &mut left);
    if left == 0 { Err(EvalError::CostLimit) } else { Ok(equal) }
}

/// `==` of what is small, or whose size was seen to.
pub(crate) fn equal(a: &Value<'_>, b: &Value<'_>) -> bool {
    same(a, b, &mut { MAX_PAIRS })
}

fn same(a: &Value<'_>, b: &Value<'_>, left: &mut u32) -> bool {
    *left = left.saturating_sub(1);
    if *left == 0 {
        return false;
    }
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::String(a), Value::String(b)) => **a == **b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::List(a), Value::List(b)) => lists(a, b, left),
        (Value::Map(a), Value::Map(b)) => maps(a, b, left),
        (Value::Optional(None), Value::Optional(None)) => true,
        (Value::Optional(Some(a)), Value::Optional(Some(b))) => same(a, b, left),
        (Value::Type(a), Value::Type(b)) => types(a, b),
        (Value::Opaque(a), Value::Opaque(b)) => a.same(b),
        _ => numbers(a, b) == Some(Ordering::Equal),
    }
}

/// Values of types are without parameters.
fn types(a: &Type, b: &Type) -> bool {
    a.name() == b.name()
}

fn lists(a: &List<'_>, b: &List<'_>, left: &mut u32) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match a.list_type() {
        ListType::Atomic => {
            a.iter().zip(b.iter()).all(|pair| matches!(pair, (Ok(a), Ok(b)) if same(&a, &b, left)))
        }
        ListType::Set => {
            let known: Vec<_> = a.iter().filter_map(Result::ok).collect();
            b.iter().all(|item| item.is_ok_and(|item| known.iter().any(|known| same(known, &item, left))))
        }
        ListType::Map(keys) => {
            let known: Vec<_> = a.iter().filter_map(Result::ok).collect();
            b.iter().all(|item| {
                item.is_ok_and(|item| {
                    known
                        .iter()
                        .find(|known| same_keys(known, &item, keys))
                        .is_some_and(|known| same(known, &item, left))
                })
            })
        }
    }
}

fn maps(a: &Map<'_>, b: &Map<'_>, left: &mut u32) -> bool {
    if a.len() != b.len() {
        return false;
    }
    if let (Some((a, Some(object))), Some((b, Some(_)))) = (a.json(), b.json()) {
        // Fields that the schema does not declare are compared as they are.
        return a.iter().all(|(name, value)| match (object_field(object, name), b.get(name)) {
            (Some(field), Some(other)) => {
                match (Value::read(value, &field.declared), Value::read(other, &field.declared)) {
                    (Ok(a), Ok(b)) => same(&a, &b, left),
                    _ => value == other,
                }
            }
            (Some(_), None) => value.is_null(),
            (None, Some(other)) => value == other,
            (None, None) => true,
        });
    }
    a.keys().iter().all(
        |key| matches!((a.find_key(key), b.find_key(key)), (Some(Ok(a)), Some(Ok(b))) if same(&a, &b, left)),
    )
}

fn object_field<'o>(object: &'o crate::declare::ObjectType, json: &str) -> Option<&'o crate::declare::Field> {
    object.fields.get(json).or_else(|| object.fields.get(&crate::escape::escape(json)?))
}

/// The order of two numbers, of whatever types; nothing for what is no number.
fn numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Double(a), b) => float(*a, whole(b)?),
        (a, Value::Double(b)) => float(*b, whole(a)?).map(Ordering::reverse),
        (a, b) => Some(whole(a)?.cmp(&whole(b)?)),
    }
}

fn whole(value: &Value<'_>) -> Option<i128> {
    match value {
        Value::Int(value) => Some(i128::from(*value)),
        Value::Uint(value) => Some(i128::from(*value)),
        _ => None,
    }
}

fn float(a: f64, b: i128) -> Option<Ordering> {
    if a.is_nan() {
        return None;
    }
    let truncated = a.clamp(-1e20, 1e20).trunc() as i128;
    Some(truncated.cmp(&b).then_with(|| a.fract().partial_cmp(&0.0).unwrap_or(Ordering::Equal)))
}

/// The order of two values that have one.
pub(crate) fn order(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
        (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
        _ => numbers(a, b),
    }
}

/// Whether the two are numbers of which one is not a number.
pub(crate) fn nan(a: &Value<'_>, b: &Value<'_>) -> bool {
    [a, b].iter().any(|v| matches!(v, Value::Double(v) if v.is_nan()))
}
