//! Field selectors: `metadata.name=web,status.phase!=Running`, over the few fields that each kind offers.

use serde_json::Value;

use crate::kinds::{Resource, SelectableField};
use crate::status::{Status, go_quote};

/// A selector of more terms is refused.
const MAX_TERMS: usize = 1000;

const NAME: SelectableField =
    SelectableField { label: "metadata.name", paths: &["metadata.name"], absent: "" };
const NAMESPACE: SelectableField =
    SelectableField { label: "metadata.namespace", paths: &["metadata.namespace"], absent: "" };

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    field: SelectableField,
    equal: bool,
    value: String,
}

/// A conjunction of comparisons. The default one selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

impl FieldSelector {
    /// Selects everything.
    pub fn everything() -> FieldSelector {
        FieldSelector::default()
    }

    /// Reads the query parameter `fieldSelector` for objects of the resource; empty selects everything.
    pub fn parse(resource: &Resource, text: &str) -> Result<FieldSelector, Status> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            if terms.len() == MAX_TERMS {
                return Err(Status::bad_request(format!("invalid selector: more than {MAX_TERMS} terms")));
            }
            let (label, equal, value) = split_term(part).ok_or_else(|| {
                Status::bad_request(format!("invalid selector: '{text}'; can't understand '{part}'"))
            })?;
            let value = unescape(value).map_err(Status::bad_request)?;
            terms.push(Term { field: find(resource, label)?, equal, value });
        }
        Ok(FieldSelector { terms })
    }

    /// Whether a stored object meets every comparison.
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|term| (value_of(&term.field, object) == term.value) == term.equal)
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that a field must have, when the selector says one: `metadata.name` makes a list into a get.
    pub fn exact(&self, label: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field.label == label).map(|t| t.value.as_str())
    }

    /// Whether only objects are selected that have something in a field.
    pub fn some(&self, label: &str) -> bool {
        let some = |term: &Term| !term.equal && term.value.is_empty() && term.field.absent.is_empty();
        self.terms.iter().any(|term| term.field.label == label && some(term))
    }
}

impl std::fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let (comma, sign) = (if index > 0 { "," } else { "" }, if term.equal { "=" } else { "!=" });
            write!(f, "{comma}{}{sign}{}", term.field.label, escape(&term.value))?;
        }
        Ok(())
    }
}

fn find(resource: &Resource, label: &str) -> Result<SelectableField, Status> {
    let all = [NAME, NAMESPACE];
    let own = resource.fields.iter().chain(&all).find(|f| f.label == label).copied();
    own.ok_or_else(|| {
        Status::bad_request(if resource.fields.is_empty() {
            let label = go_quote(label);
            format!("{label} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        } else {
            format!("field label not supported: {label}")
        })
    })
}

/// What the object has in that field, as text.
fn value_of(field: &SelectableField, object: &Value) -> String {
    let found = field.paths.iter().find_map(|path| {
        let mut at = object;
        for name in path.split('.') {
            at = at.get(name)?;
        }
        match at {
            Value::String(text) if text.is_empty() => None,
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            _ => None,
        }
    });
    found.unwrap_or_else(|| field.absent.to_owned())
}

/// Splits at commas that no backslash precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut out, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                out.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

/// Splits at the first sign: label, whether equal, value.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for at in 0..term.len() {
        let Some(rest) = term.get(at..) else { continue };
        for (sign, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(sign) {
                return Some((&term[..at], equal, value));
            }
        }
    }
    None
}

/// Undoes the escapes `\\`, `\,` and `\=`; others, and bare `,` and `=`, are errors.
fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(format!("invalid field selector: invalid escape sequence: \\{c}")),
                None => return Err("invalid field selector: invalid escape sequence: \\".to_owned()),
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped rune in value: {c}")),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\\' | ',' | '=') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::by_path;

    fn pods(text: &str) -> Result<FieldSelector, Status> {
        FieldSelector::parse(by_path("", "v1", "pods").unwrap(), text)
    }

    #[test]
    fn terms_compare() {
        let pod = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"nodeName": ""}, "status": {"phase": "Running"}});
        for (text, expected) in [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==a,metadata.namespace=n", true),
            ("metadata.name!=a", false),
            ("spec.nodeName=", true),
            ("spec.nodeName!=", false),
            ("status.phase=Running,", true),
            ("spec.hostNetwork=false", true),
            ("status.phase=Pending", false),
        ] {
            assert_eq!(pods(text).unwrap().matches(&pod), expected, "{text}");
        }
        assert_eq!(pods("metadata.name=a").unwrap().exact("metadata.name"), Some("a"));
        assert_eq!(pods("metadata.name!=a").unwrap().exact("metadata.name"), None);
        for (text, some) in
            [("spec.nodeName!=", true), ("spec.nodeName!=n", false), ("spec.nodeName=", false), ("", false)]
        {
            assert_eq!(pods(text).unwrap().some("spec.nodeName"), some, "{text}");
        }
    }

    #[test]
    fn numbers_and_flags_have_texts() {
        let rc = by_path("", "v1", "replicationcontrollers").unwrap();
        let none = FieldSelector::parse(rc, "status.replicas=0").unwrap();
        assert!(none.matches(&json!({"status": {"replicas": 0}})) && none.matches(&json!({})));
        let nodes = by_path("", "v1", "nodes").unwrap();
        let out = FieldSelector::parse(nodes, "spec.unschedulable=true").unwrap();
        assert!(out.matches(&json!({"spec": {"unschedulable": true}})));
    }

    #[test]
    fn events_fall_back_to_the_reporter() {
        let events = by_path("", "v1", "events").unwrap();
        let source = FieldSelector::parse(events, "source=kubelet").unwrap();
        assert!(source.matches(&json!({"source": {"component": "kubelet"}})));
        assert!(source.matches(&json!({"source": {}, "reportingComponent": "kubelet"})));
    }

    #[test]
    fn bad_ones_are_told() {
        assert_eq!(pods("spec.foo=1").unwrap_err().message, "field label not supported: spec.foo");
        assert_eq!(pods("what").unwrap_err().message, "invalid selector: 'what'; can't understand 'what'");
        assert!(pods(r"metadata.name=a\x").unwrap_err().message.contains("invalid escape sequence"));
        assert_eq!(
            pods("metadata.name=a=b").unwrap_err().message,
            "invalid field selector: unescaped rune in value: ="
        );
        let cm = by_path("", "v1", "configmaps").unwrap();
        assert!(
            FieldSelector::parse(cm, "data=1").unwrap_err().message.contains("is not a known field selector")
        );
        assert_eq!(pods(r"metadata.name=a\,b").unwrap().exact("metadata.name"), Some("a,b"));
        assert_eq!(pods(r"metadata.name=a\,b").unwrap().to_string(), r"metadata.name=a\,b");
    }
}
