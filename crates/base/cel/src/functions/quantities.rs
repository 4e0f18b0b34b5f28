//! Quantities, semantic versions, formats and URLs.

use std::cmp::Ordering;

use sampan_api::quantity::Quantity;

use super::{Context, Implementation, format, semver::Semver, url::Url};
use crate::{
    error::EvalError,
    eval::no_overload,
    value::{OwnedMap, Value, opaque::Inner},
};

type Result<T> = std::result::Result<T, EvalError>;

pub(super) fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "quantity" => |_, args| quantity(&args),
        "isQuantity" => |_, args| Ok(Value::Bool(Quantity::parse(word(&args)?).is_ok())),
        "sign" => |_, args| Ok(Value::Int(i64::from(one(&args)?.sign()))),
        "asApproximateFloat" => |_, args| Ok(Value::Double(one(&args)?.to_f64())),
        "asInteger" => as_integer,
        "isInteger" => |_, args| Ok(Value::Bool(integer(&one(&args)?).is_some())),
        "isGreaterThan" => |_, args| Ok(Value::Bool(order(&args)?.is_gt())),
        "isLessThan" => |_, args| Ok(Value::Bool(order(&args)?.is_lt())),
        "compareTo" => |_, args| Ok(Value::Int(order(&args)? as i64)),
        "add" => |_, args| combine(&args, |a, b| a + b),
        "sub" => |_, args| combine(&args, |a, b| a - b),
        "semver" => |_, args| Ok(Value::opaque(Inner::Semver(version(&args)?))),
        "isSemver" => is_semver,
        "major" => |_, args| number(&args, 0),
        "minor" => |_, args| number(&args, 1),
        "patch" => |_, args| number(&args, 2),
        "format.named" => named,
        "validate" => validate,
        "url" => |_, args| Ok(Value::opaque(Inner::Url(Url::parse(word(&args)?)?))),
        "isURL" => |_, args| Ok(Value::Bool(Url::read(word(&args)?).is_ok())),
        "getScheme" => |_, args| Ok(Value::string(url(&args)?.scheme.as_str())),
        "getHost" => |_, args| Ok(Value::string(url(&args)?.host.as_str())),
        "getHostname" => |_, args| Ok(Value::string(url(&args)?.hostname())),
        "getPort" => |_, args| Ok(Value::string(url(&args)?.port())),
        "getEscapedPath" => |_, args| Ok(Value::string(url(&args)?.path.as_str())),
        "getQuery" => query,
        name => return constant_format(name),
    })
}

/// `format.dns1123Label()` and its like.
fn constant_format(name: &str) -> Option<Implementation> {
    macro_rules! formats {
        ($($key:literal),*) => {
            match name {
                $(concat!("format.", $key) => |_, _| format_value($key),)*
                _ => return None,
            }
        };
    }
    Some(formats!(
        "dns1123Label",
        "dns1123Subdomain",
        "dns1035Label",
        "qualifiedName",
        "dns1123LabelPrefix",
        "dns1123SubdomainPrefix",
        "dns1035LabelPrefix",
        "labelValue",
        "uri",
        "uuid",
        "byte",
        "date",
        "datetime"
    ))
}

fn format_value<'a>(key: &str) -> Result<Value<'a>> {
    format::named(key).map(|format| Value::opaque(Inner::Format(format))).ok_or_else(no_overload)
}

fn word<'v>(args: &'v [Value<'_>]) -> Result<&'v str> {
    args.first().and_then(Value::as_str).ok_or_else(no_overload)
}

fn inner<'v>(args: &'v [Value<'_>], at: usize) -> Result<&'v Inner> {
    match args.get(at) {
        Some(Value::Opaque(inner)) => Ok(inner),
        _ => Err(no_overload()),
    }
}

fn quantity<'a>(args: &[Value<'_>]) -> Result<Value<'a>> {
    match Quantity::parse(word(args)?) {
        Ok(quantity) => Ok(Value::opaque(Inner::Quantity(quantity))),
        Err(error) => Err(EvalError::new(error.to_string())),
    }
}

fn one(args: &[Value<'_>]) -> Result<Quantity> {
    match inner(args, 0)? {
        Inner::Quantity(quantity) => Ok(*quantity),
        _ => Err(no_overload()),
    }
}

fn integer(quantity: &Quantity) -> Option<i64> {
    quantity.is_whole().then(|| quantity.to_units())
}

fn as_integer<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    integer(&one(&args)?).map(Value::Int).ok_or_else(|| EvalError::new("cannot convert value to integer"))
}

fn order(args: &[Value<'_>]) -> Result<Ordering> {
    match (inner(args, 0)?, inner(args, 1)?) {
        (Inner::Quantity(a), Inner::Quantity(b)) => Ok(a.cmp(b)),
        (Inner::Semver(a), Inner::Semver(b)) => Ok(a.compare(b)),
        _ => Err(no_overload()),
    }
}

fn combine<'a>(args: &[Value<'_>], how: fn(Quantity, Quantity) -> Quantity) -> Result<Value<'a>> {
    let other = match args.get(1) {
        Some(Value::Int(units)) => Quantity::from_units(*units),
        _ => one(args.get(1..).unwrap_or(&[]))?,
    };
    Ok(Value::opaque(Inner::Quantity(how(one(args)?, other))))
}

fn version(args: &[Value<'_>]) -> Result<Semver> {
    match args.get(1) {
        Some(Value::Bool(true)) => Semver::normalize(word(args)?),
        _ => Semver::parse(word(args)?),
    }
}

fn is_semver<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    word(&args)?;
    Ok(Value::Bool(version(&args).is_ok()))
}

fn number<'a>(args: &[Value<'_>], at: usize) -> Result<Value<'a>> {
    match inner(args, 0)? {
        Inner::Semver(version) => Ok(Value::Int(i64::try_from(version.numbers[at]).unwrap_or(i64::MAX))),
        _ => Err(no_overload()),
    }
}

fn named<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let format = format::named(word(&args)?);
    Ok(Value::optional(format.map(|format| Value::opaque(Inner::Format(format)))))
}

fn validate<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let (Inner::Format(format), Some(text)) = (inner(&args, 0)?, args.get(1).and_then(Value::as_str)) else {
        return Err(no_overload());
    };
    let wrong = (format.validate)(text);
    let wrong = wrong.into_iter().map(Value::string).collect::<Vec<_>>();
    Ok(Value::optional((!wrong.is_empty()).then(|| Value::list(wrong))))
}

fn url<'v>(args: &'v [Value<'_>]) -> Result<&'v Url> {
    match inner(args, 0)? {
        Inner::Url(url) => Ok(url),
        _ => Err(no_overload()),
    }
}

fn query<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let mut map = OwnedMap::default();
    for (name, values) in url(&args)?.parameters() {
        map.insert(Value::string(name), Value::list(values.into_iter().map(Value::string).collect()))?;
    }
    Ok(map.into())
}
