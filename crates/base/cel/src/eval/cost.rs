//! What calls cost when they run: as cel-go and Kubernetes count it.

use crate::{
    estimate::{LIST, REGEX, STRUCT, TRAVERSAL, calls, times},
    value::{Value, opaque::Inner},
};

/// The size of a value, as functions see it; one for what has none.
fn size(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => text.chars().count() as u64,
        Value::Bytes(bytes) => bytes.len() as u64,
        Value::List(list) => list.len(),
        Value::Map(map) => map.len(),
        Value::Optional(Some(inner)) => size(inner),
        Value::Opaque(inner) => match &**inner {
            Inner::Ip(ip) | Inner::Cidr(ip, _) => {
                if ip.is_ipv4() {
                    4
                } else {
                    16
                }
            }
            _ => 1,
        },
        _ => 1,
    }
}

/// What going through a value to its last leaf costs; no further than to what is left.
fn traversal(value: &Value<'_>, left: u64) -> u64 {
    let each = |sum: u64, value: &Value<'_>| {
        if sum > left { sum } else { sum.saturating_add(traversal(value, left - sum)) }
    };
    match value {
        Value::String(text) => (text.len() as f64 * TRAVERSAL) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * TRAVERSAL) as u64,
        // Long lists cost more than there is.
        Value::List(list) if list.len() > left => list.len(),
        Value::List(list) => {
            list.iter().fold(0, |sum, item| item.map_or(sum.saturating_add(1), |item| each(sum, &item)))
        }
        Value::Map(map) => {
            let entries = map.entries().unwrap_or_default();
            entries.iter().fold(0, |sum, (key, value)| each(each(sum, key), value))
        }
        _ => 1,
    }
}

fn regex(text: u64, pattern: u64) -> u64 {
    times(text.saturating_add(1), TRAVERSAL).saturating_mul(times(pattern, REGEX))
}

/// The cost of a call, as far as its arguments tell.
pub(super) fn before(function: &str, overload: Option<&str>, args: &[Value<'_>]) -> u64 {
    let of = |at: usize| args.get(at).map_or(1, size);
    let overload = overload.unwrap_or("");
    match function {
        "check" => calls::CHECK,
        "fieldSelector" | "labelSelector" => {
            let requirements = times(times(of(1), 0.5), (LIST + STRUCT) as f64);
            LIST + times(of(1), TRAVERSAL) + requirements
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
            args.first().map_or(0, |value| traversal(value, crate::limits::PER_CALL_LIMIT))
        }
        "url"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "jsonpatch.escapeKey"
        | "cidr"
        | "isIP"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver" => times(of(0), TRAVERSAL),
        "ip" if overload != "cidr_ip" => times(of(0), TRAVERSAL),
        "replace" | "split" | "ip.isCanonical" => times(of(0), 2.0 * TRAVERSAL),
        // What they yield counts.
        "join" | "slice" | "reverse" => 0,
        "find" | "findAll" => regex(of(0), of(1)),
        "containsIP" | "containsCIDR" => addresses(function, overload, of(0), of(1)),
        "validate" => match args.first() {
            Some(Value::Opaque(inner)) => match &**inner {
                Inner::Format(format) => regex(of(1), format.size),
                _ => 1,
            },
            _ => 1,
        },
        "lists.range" => match args.first() {
            Some(Value::Int(count)) => u64::try_from(*count).unwrap_or(0).saturating_add(1 + LIST),
            _ => 1,
        },
        "flatten" => {
            let depth = match args.get(1) {
                Some(Value::Int(depth)) => u64::try_from(*depth).unwrap_or(0),
                _ => 1,
            };
            of(0).saturating_mul(depth).saturating_add(1 + LIST)
        }
        "distinct" | "sort" => compared_with_itself(args.first()),
        "@sortByAssociatedKeys" => compared_with_itself(args.get(1)),
        "sets.contains" | "sets.intersects" => of(0).saturating_mul(of(1)).saturating_add(1),
        "sets.equivalent" => of(0).saturating_mul(of(1)).saturating_mul(2).saturating_add(1),
        "_==_" if matches!(args.first(), Some(Value::Opaque(_))) => 1,
        "matches" => regex(of(0), of(1)),
        _ => standard(overload, of),
    }
}

fn standard(overload: &str, of: impl Fn(usize) -> u64) -> u64 {
    match overload {
        "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string"
        | "strings_quote" | "string_format" => times(of(0), TRAVERSAL),
        "in_list" => of(1),
        "add_string" | "add_bytes" => times(of(0).saturating_add(of(1)), TRAVERSAL),
        "contains_string" => times(of(0), TRAVERSAL).saturating_mul(times(of(1), TRAVERSAL)),
        id if calls::compared(id) => times(of(0).min(of(1)), TRAVERSAL),
        _ => 1,
    }
}

fn addresses(function: &str, overload: &str, network: u64, other: u64) -> u64 {
    let mut cost = times(network * 2, TRAVERSAL);
    if function == "containsCIDR" {
        cost += times(network, TRAVERSAL) + 1;
    }
    if overload.ends_with("_string") {
        cost += times(other, TRAVERSAL);
    }
    cost
}

fn compared_with_itself(list: Option<&Value<'_>>) -> u64 {
    let Some(Value::List(list)) = list else { return 1 };
    let text = matches!(list.get(0), Some(Ok(Value::String(_) | Value::Bytes(_))));
    let factor = if text { 2.0 + TRAVERSAL } else { 2.0 };
    let size = list.len();
    ((size.saturating_mul(size)) as f64 * factor) as u64 + 1 + LIST
}

/// The cost of a call that its result tells.
pub(super) fn after(function: &str, result: &Value<'_>) -> u64 {
    match function {
        "join" => times(size(result), 2.0 * TRAVERSAL),
        "slice" | "reverse" => size(result).saturating_add(1 + LIST),
        _ => 0,
    }
}
