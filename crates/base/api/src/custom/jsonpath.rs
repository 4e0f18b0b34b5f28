//! The JSON paths of printer columns: fields, indices, slices, wildcards, filters, as kubectl's own dialect has them.

use serde_json::Value;

/// Steps of one path at most.
const MAX_STEPS: usize = 64;

/// Values that one step may lead to; the rest is not looked at.
const MAX_VALUES: usize = 10_000;

/// A parsed path.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    /// Elements from, to (exclusive), each.
    Slice(Option<i64>, Option<i64>, i64),
    Index(i64),
    All,
    /// Everything below, itself included.
    Deep,
    Union(Vec<Step>),
    Filter(Vec<Step>, Compare, Operand),
    /// The filter `?(@.path)`: it is there.
    Has(Vec<Step>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Literal(Value),
    Path(Vec<Step>),
}

impl JsonPath {
    /// Reads a path, `.spec.containers[0].image` for example.
    pub fn parse(text: &str) -> Option<JsonPath> {
        let mut rest = text.trim();
        if let Some(after) = rest.strip_prefix('$') {
            rest = after;
        }
        steps(rest).map(JsonPath)
    }

    /// The values that the path leads to.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        follow(&self.0, value)
    }

    /// The names of the path when it is nothing but fields.
    pub fn fields(&self) -> Option<Vec<&str>> {
        self.0
            .iter()
            .map(|step| match step {
                Step::Field(name) => Some(name.as_str()),
                _ => None,
            })
            .collect()
    }
}

fn steps(text: &str) -> Option<Vec<Step>> {
    let mut out = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if out.len() >= MAX_STEPS {
            return None;
        }
        if let Some(after) = rest.strip_prefix("..") {
            out.push(Step::Deep);
            rest = if after.starts_with('[') { after } else { field(after, &mut out)? };
        } else if let Some(after) = rest.strip_prefix('.') {
            if after.is_empty() {
                return out.is_empty().then_some(out);
            }
            rest = if after.starts_with('[') { after } else { field(after, &mut out)? };
        } else if rest.starts_with('[') {
            let end = closing(rest)?;
            out.push(bracket(rest.get(1..end)?)?);
            rest = &rest[end + 1..];
        } else {
            // A path may begin without the dot.
            if !out.is_empty() {
                return None;
            }
            rest = field(rest, &mut out)?;
        }
    }
    Some(out)
}

/// Reads a name up to the next dot or bracket; a backslash takes the next character as it is.
fn field<'a>(text: &'a str, out: &mut Vec<Step>) -> Option<&'a str> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.push(chars.next()?.1),
            '.' | '[' => {
                end = at;
                break;
            }
            '{' | '}' | ']' | '(' | ')' | ' ' => return None,
            c => name.push(c),
        }
    }
    if name.is_empty() {
        return None;
    }
    out.push(if name == "*" { Step::All } else { Step::Field(name) });
    Some(&text[end..])
}

/// Where the bracket that opens the text closes, outside of quotes.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

fn bracket(inner: &str) -> Option<Step> {
    let inner = inner.trim();
    if inner == "*" {
        return Some(Step::All);
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        return condition(filter);
    }
    if let Some(name) = quoted(inner) {
        return Some(Step::Field(name));
    }
    if inner.contains(',') {
        let parts = inner.split(',').map(|part| bracket(part.trim())).collect::<Option<Vec<_>>>()?;
        return Some(Step::Union(parts));
    }
    if inner.contains(':') {
        let mut parts = inner.split(':').map(|p| {
            let p = p.trim();
            if p.is_empty() { Some(None) } else { p.parse::<i64>().ok().map(Some) }
        });
        let (from, to) = (parts.next()??, parts.next()??);
        let each = parts.next().unwrap_or(Some(None))?.unwrap_or(1);
        return (parts.next().is_none() && each > 0).then_some(Step::Slice(from, to, each));
    }
    inner.parse().ok().map(Step::Index)
}

fn quoted(text: &str) -> Option<String> {
    let inner = |q: char| text.strip_prefix(q)?.strip_suffix(q).filter(|t| !t.contains(q));
    inner('\'').or_else(|| inner('"')).map(str::to_owned)
}

fn condition(text: &str) -> Option<Step> {
    const SIGNS: [(&str, Compare); 6] = [
        ("==", Compare::Equal),
        ("!=", Compare::NotEqual),
        ("<=", Compare::LessOrEqual),
        (">=", Compare::GreaterOrEqual),
        ("<", Compare::Less),
        (">", Compare::Greater),
    ];
    let text = text.trim();
    let found = SIGNS.iter().filter_map(|(sign, compare)| Some((text.find(sign)?, *sign, *compare)));
    let first = found.min_by_key(|(at, sign, _)| (*at, std::cmp::Reverse(sign.len())));
    let path = |text: &str| steps(text.trim().strip_prefix('@')?);
    let Some((at, sign, compare)) = first else { return path(text).map(Step::Has) };
    let right = text[at + sign.len()..].trim();
    let operand = if right.starts_with('@') {
        Operand::Path(path(right)?)
    } else if let Some(text) = quoted(right) {
        Operand::Literal(text.into())
    } else {
        Operand::Literal(serde_json::from_str(right).ok()?)
    };
    Some(Step::Filter(path(&text[..at])?, compare, operand))
}

fn follow<'a>(steps: &[Step], value: &'a Value) -> Vec<&'a Value> {
    let mut now = vec![value];
    for step in steps {
        let mut next = Vec::new();
        for value in now {
            apply(step, value, &mut next);
            if next.len() > MAX_VALUES {
                next.truncate(MAX_VALUES);
                break;
            }
        }
        now = next;
    }
    now
}

fn apply<'a>(step: &Step, value: &'a Value, out: &mut Vec<&'a Value>) {
    let place = |index: i64, size: usize| {
        let at = if index < 0 { index.checked_add_unsigned(size as u64)? } else { index };
        usize::try_from(at).ok()
    };
    match (step, value) {
        (Step::Field(name), Value::Object(members)) => out.extend(members.get(name)),
        // A field of a list is that of each element.
        (Step::Index(index), Value::Array(items)) => {
            out.extend(place(*index, items.len()).and_then(|at| items.get(at)));
        }
        (Step::Slice(from, to, each), Value::Array(items)) => {
            let from = from.map_or(Some(0), |f| place(f, items.len())).unwrap_or(0);
            let to = to.map_or(Some(items.len()), |t| place(t, items.len())).unwrap_or(0).min(items.len());
            let each = usize::try_from(*each).unwrap_or(1);
            out.extend(items.get(from..to).unwrap_or_default().iter().step_by(each));
        }
        (Step::All, Value::Array(items)) => out.extend(items),
        (Step::All, Value::Object(members)) => out.extend(members.values()),
        (Step::Union(parts), value) => parts.iter().for_each(|part| apply(part, value, out)),
        (Step::Deep, value) => deep(value, out),
        (Step::Has(path), Value::Array(items)) => {
            out.extend(items.iter().filter(|item| !follow(path, item).is_empty()));
        }
        (Step::Filter(path, compare, operand), Value::Array(items)) => {
            out.extend(items.iter().filter(|item| holds(path, *compare, operand, item)));
        }
        _ => {}
    }
}

fn deep<'a>(value: &'a Value, out: &mut Vec<&'a Value>) {
    if out.len() > MAX_VALUES {
        return;
    }
    out.push(value);
    match value {
        Value::Object(members) => members.values().for_each(|v| deep(v, out)),
        Value::Array(items) => items.iter().for_each(|v| deep(v, out)),
        _ => {}
    }
}

fn holds(path: &[Step], compare: Compare, operand: &Operand, item: &Value) -> bool {
    let left = follow(path, item);
    let Some(left) = left.first() else { return false };
    let found;
    let right = match operand {
        Operand::Literal(value) => value,
        Operand::Path(path) => {
            found = follow(path, item);
            match found.first() {
                Some(value) => *value,
                None => return false,
            }
        }
    };
    let order = match (left, right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (a, b) if *a == b => Some(std::cmp::Ordering::Equal),
        _ => None,
    };
    match compare {
        Compare::Equal => order.is_some_and(|o| o.is_eq()),
        Compare::NotEqual => !order.is_some_and(|o| o.is_eq()),
        Compare::Less => order.is_some_and(|o| o.is_lt()),
        Compare::LessOrEqual => order.is_some_and(|o| o.is_le()),
        Compare::Greater => order.is_some_and(|o| o.is_gt()),
        Compare::GreaterOrEqual => order.is_some_and(|o| o.is_ge()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_values() {
        let object = json!({
            "spec": {"a": 1, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}], "a.b": "dot"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        for (path, expected) in [
            (".spec.a", json!([1])),
            ("spec.a", json!([1])),
            (".spec.list[1].n", json!(["y"])),
            (".spec.list[-1].n", json!(["y"])),
            (".spec.list[*].v", json!([1, 2])),
            (".spec.list[0:1].v", json!([1])),
            (".spec['a.b']", json!(["dot"])),
            (r".spec.a\.b", json!(["dot"])),
            (r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"])),
            (".status.conditions[?(@.type=='No')].status", json!([])),
            (".spec.list[?(@.v>1)].n", json!(["y"])),
            ("..n", json!(["x", "y"])),
            (".none.at.all", json!([])),
        ] {
            let found = JsonPath::parse(path).unwrap().find(&object);
            assert_eq!(json!(found), expected, "{path}");
        }
        for bad in [".a[", ".a[x]", ".a b", "a{"] {
            assert_eq!(JsonPath::parse(bad), None, "{bad}");
        }
    }
}
