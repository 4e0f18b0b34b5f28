//! `string.format(list)`.

use super::{Context, bounded, strings::quote, text};
use crate::{
    error::EvalError,
    eval::{no_overload, type_name},
    value::{Map, Value},
};

type Result<T> = std::result::Result<T, EvalError>;

/// Digits behind the point that a clause may ask for.
const MAX_PRECISION: usize = 1000;
/// How deep lists and maps are shown.
const MAX_DEPTH: usize = 64;

pub(super) fn format<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let [Value::String(pattern), Value::List(values)] = args.as_slice() else { return Err(no_overload()) };
    let mut out = String::new();
    let mut rest = pattern.chars().peekable();
    let mut index = 0;
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if rest.peek() == Some(&'%') {
            rest.next();
            out.push('%');
            continue;
        }
        let Some(value) = values.get(index) else {
            return Err(EvalError::new(format!("index {index} out of range")));
        };
        index += 1;
        let mut precision = None;
        if rest.peek() == Some(&'.') {
            rest.next();
            let mut digits = String::new();
            while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            let wrong = || {
                EvalError::new("error while parsing precision: error while converting precision to integer")
            };
            precision = Some(digits.parse().ok().filter(|p| *p <= MAX_PRECISION).ok_or_else(wrong)?);
        }
        let Some(clause) = rest.next() else { return Err(EvalError::new("unexpected end of string")) };
        clause_into(&mut out, clause, precision, &value?)?;
        bounded(out.len())?;
    }
    Ok(Value::string(out))
}

fn clause_into(out: &mut String, clause: char, precision: Option<usize>, value: &Value<'_>) -> Result<()> {
    let wrong = |what: &str, types: &str| {
        let ty = type_name(value);
        EvalError::new(format!(
            "error during formatting: {what} clause can only be used on {types}, was given {ty}"
        ))
    };
    let digits = precision.unwrap_or(6);
    let formatted = match (clause, value) {
        ('s', value) => return show(out, value, false, 0),
        ('d', Value::Int(value)) => value.to_string(),
        ('d', Value::Uint(value)) => value.to_string(),
        ('d', _) => return Err(wrong("decimal", "integers")),
        ('f', Value::Double(value)) => format!("{value:.digits$}"),
        ('f', _) => return Err(wrong("fixed-point", "doubles")),
        ('e', Value::Double(value)) => scientific(*value, digits),
        ('e', _) => return Err(wrong("scientific", "doubles")),
        ('b', Value::Int(value)) => match value {
            value if *value < 0 => format!("-{:b}", value.unsigned_abs()),
            value => format!("{value:b}"),
        },
        ('b', Value::Uint(value)) => format!("{value:b}"),
        ('b', Value::Bool(value)) => u8::from(*value).to_string(),
        ('b', _) => return Err(wrong("binary", "integers and bools")),
        ('x' | 'X', value) => {
            let hex =
                hexadecimal(value).ok_or_else(|| wrong("hex", "integers, byte buffers, and strings"))?;
            if clause == 'X' { hex.to_ascii_uppercase() } else { hex }
        }
        ('o', Value::Int(value)) => match value {
            value if *value < 0 => format!("-{:o}", value.unsigned_abs()),
            value => format!("{value:o}"),
        },
        ('o', Value::Uint(value)) => format!("{value:o}"),
        ('o', _) => return Err(wrong("octal", "integers")),
        (other, _) => {
            let message =
                format!("could not parse formatting clause: unrecognized formatting clause \"{other}\"");
            return Err(EvalError::new(message));
        }
    };
    out.push_str(&formatted);
    Ok(())
}

fn scientific(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, number) = exponent.strip_prefix('-').map_or(('+', exponent), |number| ('-', number));
    format!("{mantissa}e{sign}{number:0>2}")
}

fn hexadecimal(value: &Value<'_>) -> Option<String> {
    let bytes = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    Some(match value {
        Value::Int(value) if *value < 0 => format!("-{:x}", value.unsigned_abs()),
        Value::Int(value) => format!("{value:x}"),
        Value::Uint(value) => format!("{value:x}"),
        Value::String(text) => bytes(text.as_bytes()),
        Value::Bytes(value) => bytes(value),
        _ => return None,
    })
}

/// `%s` of anything; inside of lists and maps, text is quoted.
fn show(out: &mut String, value: &Value<'_>, inside: bool, depth: usize) -> Result<()> {
    bounded(out.len())?;
    if depth > MAX_DEPTH {
        return Err(EvalError::CostLimit);
    }
    match value {
        Value::List(list) => {
            out.push('[');
            for (index, item) in list.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                show(out, &item?, true, depth + 1)?;
            }
            out.push(']');
        }
        Value::Map(map) => show_map(out, map, depth)?,
        Value::Null => out.push_str("null"),
        Value::String(text) if inside => out.push_str(&quote(text)),
        Value::Duration(_) if inside => out.push_str(&format!("duration({})", quote(&plain(value)?))),
        Value::Timestamp(_) if inside => out.push_str(&format!("timestamp({})", quote(&plain(value)?))),
        Value::Double(number) if inside => out.push_str(&format!("{number:.6}")),
        value => out.push_str(&plain(value)?),
    }
    Ok(())
}

fn plain(value: &Value<'_>) -> Result<String> {
    text(value).ok_or_else(|| {
        let ty = type_name(value);
        let types = "strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps";
        EvalError::new(format!(
            "error during formatting: string clause can only be used on {types}, was given {ty}"
        ))
    })
}

fn show_map(out: &mut String, map: &Map<'_>, depth: usize) -> Result<()> {
    let mut pairs = Vec::new();
    for (key, value) in map.entries()? {
        let mut shown_key = String::new();
        show(&mut shown_key, &key, true, depth + 1)?;
        let mut shown = String::new();
        show(&mut shown, &value, true, depth + 1)?;
        bounded(out.len() + shown.len())?;
        pairs.push((shown_key, shown));
    }
    pairs.sort();
    let pairs: Vec<String> = pairs.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
    out.push('{');
    out.push_str(&pairs.join(", "));
    out.push('}');
    Ok(())
}
