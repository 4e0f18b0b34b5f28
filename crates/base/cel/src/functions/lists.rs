//! Lists and sets.

use std::cmp::Ordering;

use super::{Context, Implementation};
use crate::{
    error::EvalError,
    eval::no_overload,
    value::{List, Value, compare},
};

type Result<T> = std::result::Result<T, EvalError>;

pub(super) fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "isSorted" => is_sorted,
        "sum" => sum,
        "min" => |context, args| extreme(context, &args, "min", Ordering::Less),
        "max" => |context, args| extreme(context, &args, "max", Ordering::Greater),
        "slice" => slice,
        "flatten" => flatten,
        "lists.range" => range,
        "reverse" => reverse,
        "distinct" => distinct,
        "sort" => |context, args| sort(context, args.first(), args.first()),
        "@sortByAssociatedKeys" => |context, args| sort(context, args.first(), args.get(1)),
        "first" => |_, args| end(&args, |_| 0),
        "last" => |_, args| end(&args, |len| len.wrapping_sub(1)),
        "sets.contains" => |context, args| sets(context, &args, holds_all),
        "sets.equivalent" => {
            |context, args| sets(context, &args, |a, b| Ok(holds_all(a, b)? && holds_all(b, a)?))
        }
        "sets.intersects" => |context, args| sets(context, &args, holds_any),
        _ => return None,
    })
}

/// Every element of a list that is not longer than what may still be spent.
pub(super) fn items<'a>(context: &Context<'_>, list: Option<&Value<'a>>) -> Result<Vec<Value<'a>>> {
    let Some(Value::List(list)) = list else { return Err(no_overload()) };
    if list.len() > context.left.max(1 << 20) {
        return Err(EvalError::CostLimit);
    }
    list.iter().collect()
}

/// Where in a list a value is.
pub(super) fn position(list: &List<'_>, item: &Value<'_>) -> Result<Option<u64>> {
    for index in 0..list.len() {
        let Some(element) = list.get(index) else { break };
        if compare::try_equal(&element?, item)? {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// The first and last place of a value, for `indexOf` and `lastIndexOf`.
pub(super) fn index_of<'a>(context: &Context<'_>, args: &[Value<'a>], last: bool) -> Result<Value<'a>> {
    let [list, item] = args else { return Err(no_overload()) };
    let items = items(context, Some(list))?;
    let mut found = -1;
    for (index, element) in items.iter().enumerate() {
        if compare::try_equal(element, item)? {
            found = i64::try_from(index).unwrap_or(-1);
            if !last {
                break;
            }
        }
    }
    Ok(Value::Int(found))
}

fn is_sorted<'a>(context: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let items = items(context, args.first())?;
    for pair in items.windows(2) {
        match compare::order(&pair[0], &pair[1]) {
            Some(Ordering::Greater) => return Ok(Value::Bool(false)),
            Some(_) => {}
            None => return Err(no_overload()),
        }
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(context: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let add = super::find("_+_").ok_or_else(no_overload)?;
    let mut items = items(context, args.first())?.into_iter();
    let Some(first) = items.next() else { return Ok(Value::Int(0)) };
    items.try_fold(first, |sum, item| add(context, vec![sum, item]))
}

fn extreme<'a>(context: &Context<'_>, args: &[Value<'a>], name: &str, wanted: Ordering) -> Result<Value<'a>> {
    let mut items = items(context, args.first())?.into_iter();
    let Some(mut best) = items.next() else {
        return Err(EvalError::new(format!("{name} called on empty list")));
    };
    for item in items {
        match compare::order(&item, &best) {
            Some(order) if order == wanted => best = item,
            Some(_) => {}
            None => return Err(no_overload()),
        }
    }
    Ok(best)
}

fn slice<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = args.as_slice() else {
        return Err(no_overload());
    };
    let (Ok(from), Ok(to)) = (u64::try_from(*start), u64::try_from(*end)) else {
        return Err(EvalError::new(format!("cannot slice({start}, {end}), negative indexes not supported")));
    };
    if from > to {
        let message =
            format!("cannot slice({start}, {end}), start index must be less than or equal to end index");
        return Err(EvalError::new(message));
    }
    if to > list.len() {
        return Err(EvalError::new(format!("cannot slice({start}, {end}), list is length {}", list.len())));
    }
    if to - from > 1 << 20 {
        return Err(EvalError::CostLimit);
    }
    let items = (from..to).filter_map(|index| list.get(index)).collect::<Result<_>>()?;
    Ok(Value::list(items))
}

fn flatten<'a>(context: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let depth = match args.get(1) {
        Some(Value::Int(depth)) => *depth,
        _ => 1,
    };
    if depth < 0 {
        return Err(EvalError::new("level must be non-negative"));
    }
    let mut flat = Vec::new();
    for item in items(context, args.first())? {
        flatten_into(&mut flat, item, depth.min(256))?;
    }
    Ok(Value::list(flat))
}

fn flatten_into<'a>(flat: &mut Vec<Value<'a>>, item: Value<'a>, depth: i64) -> Result<()> {
    match item {
        Value::List(list) if depth > 0 => {
            for item in list.iter() {
                flatten_into(flat, item?, depth - 1)?;
            }
            Ok(())
        }
        _ if flat.len() > 1 << 20 => Err(EvalError::CostLimit),
        item => {
            flat.push(item);
            Ok(())
        }
    }
}

fn range<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    match args.as_slice() {
        [Value::Int(count)] => Ok(Value::list((0..*count).map(Value::Int).collect())),
        _ => Err(no_overload()),
    }
}

fn reverse<'a>(context: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let mut items = items(context, args.first())?;
    items.reverse();
    Ok(Value::list(items))
}

fn distinct<'a>(context: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let mut known: Vec<Value<'a>> = Vec::new();
    for item in items(context, args.first())? {
        if !known.iter().any(|other| compare::equal(other, &item)) {
            known.push(item);
        }
    }
    Ok(Value::list(known))
}

fn sort<'a>(context: &Context<'_>, list: Option<&Value<'a>>, keys: Option<&Value<'a>>) -> Result<Value<'a>> {
    let (items, keys) = (items(context, list)?, items(context, keys)?);
    if items.len() != keys.len() {
        let (list, keys) = (items.len(), keys.len());
        let message = format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {list} and \
             {keys} elements respectively"
        );
        return Err(EvalError::new(message));
    }
    let comparable = |key: &Value<'_>| keys.first().is_some_and(|first| compare::order(first, key).is_some());
    if !keys.iter().all(comparable) {
        return Err(EvalError::new("list elements must have the same type"));
    }
    let mut pairs: Vec<_> = keys.into_iter().zip(items).collect();
    pairs.sort_by(|(a, _), (b, _)| compare::order(a, b).unwrap_or(Ordering::Equal));
    Ok(Value::list(pairs.into_iter().map(|(_, item)| item).collect()))
}

fn end<'a>(args: &[Value<'a>], index: fn(u64) -> u64) -> Result<Value<'a>> {
    match args {
        [Value::List(list)] => Ok(Value::optional(list.get(index(list.len())).transpose()?)),
        _ => Err(no_overload()),
    }
}

type Test = fn(&[Value<'_>], &[Value<'_>]) -> Result<bool>;

fn sets<'a>(context: &Context<'_>, args: &[Value<'a>], test: Test) -> Result<Value<'a>> {
    let [a, b] = args else { return Err(no_overload()) };
    Ok(Value::Bool(test(&items(context, Some(a))?, &items(context, Some(b))?)?))
}

fn holds(list: &[Value<'_>], item: &Value<'_>) -> Result<bool> {
    for known in list {
        if compare::try_equal(known, item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn holds_all(list: &[Value<'_>], items: &[Value<'_>]) -> Result<bool> {
    for item in items {
        if !holds(list, item)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn holds_any(list: &[Value<'_>], items: &[Value<'_>]) -> Result<bool> {
    for item in items {
        if holds(list, item)? {
            return Ok(true);
        }
    }
    Ok(false)
}
