//! What can be wrong with a value of a type, in upstream's words.

use std::fmt;

use serde_json::Value;

use crate::patch::go_value;
use crate::status::go_quote;

/// At most so many problems are told.
const MAX_PROBLEMS: usize = 32;

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    path: String,
    message: String,
}

/// Problems, at most [`MAX_PROBLEMS`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    pub(crate) fn one(message: impl Into<String>) -> Problems {
        Problems(vec![Problem { path: String::new(), message: message.into() }])
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds those of a child.
    pub(crate) fn absorb(&mut self, child: Problems, at: impl fmt::Display) {
        let room = MAX_PROBLEMS.saturating_sub(self.0.len());
        if room == 0 || child.is_empty() {
            return;
        }
        let at = at.to_string();
        let placed = |p: Problem| Problem { path: format!("{at}{}", p.path), message: p.message };
        self.0.extend(child.0.into_iter().take(room).map(placed));
    }

    /// Adds those of the same place.
    pub(crate) fn add(&mut self, more: Problems) {
        let room = MAX_PROBLEMS.saturating_sub(self.0.len());
        self.0.extend(more.0.into_iter().take(room));
    }

    pub(crate) fn into_result(self) -> Result<(), Problems> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [one] = self.0.as_slice() {
            return one.fmt(f);
        }
        f.write_str("errors:")?;
        self.0.iter().try_for_each(|p| write!(f, "\n  {p}"))
    }
}

/// A value as Go prints the wrapper of one (`%v`).
pub(crate) fn wrapped(value: &Value) -> String {
    format!("&{{{}}}", go_value(value))
}

/// The same with names of Go's types (`%#v`).
pub(crate) fn wrapped_long(value: &Value) -> String {
    let inner = match value {
        Value::String(text) => go_quote(text),
        Value::Array(_) => format!("[]interface {{}}{{{}}}", go_value(value).trim_matches(['[', ']'])),
        Value::Object(_) => {
            format!("map[string]interface {{}}{{{}}}", go_value(value).trim_start_matches("map"))
        }
        other => go_value(other),
    };
    format!("&value.valueUnstructured{{Value:{inner}}}")
}

/// The name of Go's type of a value.
pub(crate) fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
