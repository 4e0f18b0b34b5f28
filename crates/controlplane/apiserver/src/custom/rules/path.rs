//! `fieldPath` of a rule: `.spec.ports` or `.labels['a.b']`, which has to lead through the schema.

use sampan_api::status::FieldPath;
use serde_json::Value;

use super::object;

/// The path as errors show it. Nothing when it leads nowhere.
pub(super) fn normalize(path: &str, schema: &Value) -> Option<String> {
    let (mut rest, mut at, mut out) = (path, schema, FieldPath::default());
    while !rest.is_empty() {
        let (name, left) = step(rest)?;
        rest = left;
        if let Some(properties) = object(at, "properties") {
            at = properties.get(&name)?;
            out = out.child(&name);
        } else {
            at = object(at, "additionalProperties")?;
            out = out.key(&name);
        }
    }
    Some(out.to_string())
}

/// The first name, and what comes after it.
fn step(path: &str) -> Option<(String, &str)> {
    if let Some(rest) = path.strip_prefix('.') {
        let end = rest.find(['.', '[', ']']).unwrap_or(rest.len());
        let (name, left) = rest.split_at(end);
        return (!name.is_empty()).then(|| (name.to_owned(), left));
    }
    quoted(path.strip_prefix("['")?)
}

/// Up to the closing quote and bracket.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\'' => return Some((name, text.get(at + 1..)?.strip_prefix(']')?)),
            '\\' => name.push(match characters.next()?.1 {
                'a' => '\u{7}',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\u{b}',
                same @ ('\'' | '\\') => same,
                _ => return None,
            }),
            other => name.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_through_the_schema() {
        let schema = json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"a.b": {"type": "string"}, "c": {"type": "integer"}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        }});
        let shown = |path: &str| normalize(path, &schema);
        assert_eq!(shown(".spec.c").as_deref(), Some("spec.c"));
        assert_eq!(shown(".spec['a.b']").as_deref(), Some("spec.a.b"));
        assert_eq!(shown(".labels['it\\'s']").as_deref(), Some("labels[it's]"));
        for wrong in ["spec", ".spec.", ".no", ".spec.c.d", ".spec['c'", ".spec[0]", ".labels['\\q']"] {
            assert_eq!(shown(wrong), None, "{wrong}");
        }
    }
}
