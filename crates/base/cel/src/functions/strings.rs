//! Text: the language's own functions, cel-go's string extension, and regular expressions.

use std::borrow::Cow;

use ::regex::Regex;

use super::{Context, Implementation, bounded, lists, printf, regex::compile};
use crate::{error::EvalError, eval::no_overload, value::Value};

type Result<T> = std::result::Result<T, EvalError>;

pub(super) fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "contains" => |_, args| test(&args, |text, part| text.contains(part)),
        "startsWith" => |_, args| test(&args, |text, part| text.starts_with(part)),
        "endsWith" => |_, args| test(&args, |text, part| text.ends_with(part)),
        "matches" => matches,
        "charAt" => char_at,
        "indexOf" => |context, args| index_of(context, &args, false),
        "lastIndexOf" => |context, args| index_of(context, &args, true),
        "lowerAscii" => |_, args| Ok(Value::string(word(&args, 0)?.to_ascii_lowercase())),
        "upperAscii" => |_, args| Ok(Value::string(word(&args, 0)?.to_ascii_uppercase())),
        "replace" => replace,
        "split" => split,
        "substring" => substring,
        "trim" => |_, args| Ok(Value::string(word(&args, 0)?.trim())),
        "format" => printf::format,
        "strings.quote" => |_, args| Ok(Value::string(quote(word(&args, 0)?))),
        "join" => join,
        "find" => find_first,
        "findAll" => find_all,
        _ => return None,
    })
}

fn word<'v>(args: &'v [Value<'_>], at: usize) -> Result<&'v str> {
    args.get(at).and_then(Value::as_str).ok_or_else(no_overload)
}

/// An optional number.
fn number(args: &[Value<'_>], at: usize) -> Result<Option<i64>> {
    match args.get(at) {
        None => Ok(None),
        Some(Value::Int(value)) => Ok(Some(*value)),
        Some(_) => Err(no_overload()),
    }
}

fn test<'a>(args: &[Value<'_>], holds: fn(&str, &str) -> bool) -> Result<Value<'a>> {
    Ok(Value::Bool(holds(word(args, 0)?, word(args, 1)?)))
}

fn pattern<'r>(context: &Context<'r>, args: &[Value<'_>]) -> Result<Cow<'r, Regex>> {
    match context.regex {
        Some(regex) => Ok(Cow::Borrowed(regex)),
        None => compile(word(args, 1)?).map(Cow::Owned),
    }
}

fn matches<'a>(context: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    Ok(Value::Bool(pattern(context, &args)?.is_match(word(&args, 0)?)))
}

fn find_first<'a>(context: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let regex = pattern(context, &args)?;
    Ok(Value::string(regex.find(word(&args, 0)?).map_or("", |found| found.as_str())))
}

fn find_all<'a>(context: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let regex = pattern(context, &args)?;
    let count = number(&args, 2)?.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let found = regex.find_iter(word(&args, 0)?).take(count);
    Ok(Value::list(found.map(|found| Value::string(found.as_str())).collect()))
}

fn out_of_range(index: i64) -> EvalError {
    EvalError::new(format!("index out of range: {index}"))
}

/// The byte at which a character begins; the end counts as one.
fn byte_of(text: &str, index: i64) -> Result<usize> {
    let wanted = usize::try_from(index).map_err(|_| out_of_range(index))?;
    let mut starts = text.char_indices().map(|(at, _)| at).chain(std::iter::once(text.len()));
    starts.nth(wanted).ok_or_else(|| out_of_range(index))
}

fn char_at<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let (text, index) = (word(&args, 0)?, number(&args, 1)?.ok_or_else(no_overload)?);
    let rest = &text[byte_of(text, index)?..];
    Ok(Value::string(rest.chars().next().map(String::from).unwrap_or_default()))
}

fn index_of<'a>(context: &Context<'_>, args: &[Value<'a>], last: bool) -> Result<Value<'a>> {
    if let Some(Value::List(_)) = args.first() {
        return lists::index_of(context, args, last);
    }
    let (text, part, offset) = (word(args, 0)?, word(args, 1)?, number(args, 2)?);
    let characters = |bytes: usize| i64::try_from(text[..bytes].chars().count()).unwrap_or(i64::MAX);
    let length = characters(text.len());
    if !last {
        let from = match offset {
            Some(offset) if offset < 0 => return Err(out_of_range(offset)),
            Some(offset) if offset > length => return Ok(Value::Int(-1)),
            offset => byte_of(text, offset.unwrap_or(0))?,
        };
        return Ok(Value::Int(text[from..].find(part).map_or(-1, |at| characters(from + at))));
    }
    match offset {
        Some(offset) if offset < 0 || (offset >= length && !part.is_empty()) => Err(out_of_range(offset)),
        Some(offset) if part.is_empty() => Ok(Value::Int(offset.min(length))),
        Some(offset) => {
            let last = byte_of(text, offset)?;
            let found = overlapping(text, part, last);
            Ok(Value::Int(found.map_or(-1, characters)))
        }
        None => Ok(Value::Int(text.rfind(part).map_or(-1, characters))),
    }
}

/// The last place, at most at `last`, where the part begins.
fn overlapping(text: &str, part: &str, last: usize) -> Option<usize> {
    let end = text.len().min(last + part.len());
    let mut end = end;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].rfind(part)
}

fn replace<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let (text, from, to) = (word(&args, 0)?, word(&args, 1)?, word(&args, 2)?);
    let count = number(&args, 3)?.unwrap_or(-1);
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let places = if from.is_empty() { text.len() + 1 } else { text.len() / from.len() };
    bounded(text.len().saturating_add(places.min(most).saturating_mul(to.len())))?;
    Ok(Value::string(text.replacen(from, to, most)))
}

fn split<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let (text, separator) = (word(&args, 0)?, word(&args, 1)?);
    let most = match number(&args, 2)? {
        None => usize::MAX,
        Some(0) => return Ok(Value::list(Vec::new())),
        Some(count) => usize::try_from(count).unwrap_or(usize::MAX),
    };
    if most == 1 {
        return Ok(Value::list(vec![Value::string(text)]));
    }
    if !separator.is_empty() {
        return Ok(Value::list(text.splitn(most, separator).map(Value::string).collect()));
    }
    // Between all characters, the rest in one piece.
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if parts.len() + 1 == most {
            break;
        }
        parts.push(Value::string(first.to_string()));
        rest = &rest[first.len_utf8()..];
    }
    if !rest.is_empty() {
        parts.push(Value::string(rest));
    }
    Ok(Value::list(parts))
}

fn substring<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let (text, start) = (word(&args, 0)?, number(&args, 1)?.ok_or_else(no_overload)?);
    let end = number(&args, 2)?;
    if let Some(end) = end.filter(|end| start > *end) {
        return Err(EvalError::new(format!("invalid substring range. start: {start}, end: {end}")));
    }
    let from = byte_of(text, start)?;
    let to = end.map_or(Ok(text.len()), |end| byte_of(text, end))?;
    Ok(Value::string(&text[from..to]))
}

fn join<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let Some(Value::List(list)) = args.first() else { return Err(no_overload()) };
    let separator = args.get(1).map_or(Ok(""), |value| value.as_str().ok_or_else(no_overload))?;
    let mut joined = String::new();
    for (index, item) in list.iter().enumerate() {
        let item = item?;
        let item = item.as_str().ok_or_else(no_overload)?;
        bounded(joined.len() + separator.len() + item.len())?;
        if index > 0 {
            joined.push_str(separator);
        }
        joined.push_str(item);
        // Empty ones are counted, too.
        bounded(index)?;
    }
    Ok(Value::string(joined))
}

/// Between quotes, with what is special escaped.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
