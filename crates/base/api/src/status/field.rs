//! One error of one field, worded as Kubernetes words it.

use std::fmt;

use serde_json::Value;

use super::{Cause, go_quote};

/// All the errors of one object, in the order they were found.
pub type Causes = Vec<FieldError>;

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A reference names something that does not exist.
    NotFound,
    /// The field has to be there.
    Required,
    /// The value occurs twice where it has to be unique.
    Duplicate,
    /// The value breaks a rule.
    Invalid,
    /// The value is none of the listed ones.
    NotSupported,
    /// The field may not be there, or may not be changed.
    Forbidden,
    /// The text is too long.
    TooLong,
    /// The list has too many items.
    TooMany,
    /// The value is of another JSON type.
    TypeInvalid,
    /// The server failed while it looked.
    Internal,
}

impl ErrorKind {
    /// The machine-readable name that goes into a cause.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::Invalid => "FieldValueInvalid",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::TypeInvalid => "FieldValueTypeInvalid",
            ErrorKind::Internal => "InternalError",
        }
    }

    fn words(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "Not found",
            ErrorKind::Required => "Required value",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::Invalid | ErrorKind::TypeInvalid => "Invalid value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooMany => "Too many",
            ErrorKind::Internal => "Internal error",
        }
    }
}

/// One error of one field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: ErrorKind,
    /// The path of the field, `spec.containers[0].name` for example.
    pub field: String,
    /// The value as it is (not printed for required, forbidden and too long ones).
    pub bad: Value,
    /// More words; may be empty.
    pub detail: String,
    /// Whether the message shows the value.
    shown: bool,
}

impl FieldError {
    fn new(kind: ErrorKind, field: impl Into<String>, bad: Value, detail: impl Into<String>) -> FieldError {
        let shown = !matches!(
            kind,
            ErrorKind::Required | ErrorKind::Forbidden | ErrorKind::TooLong | ErrorKind::Internal
        );
        FieldError { kind, field: field.into(), bad, detail: detail.into(), shown }
    }

    /// `Required value`, with a detail or none.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> FieldError {
        FieldError::new(ErrorKind::Required, field, Value::String(String::new()), detail)
    }

    /// `Invalid value: "x": <detail>`.
    pub fn invalid(field: impl Into<String>, bad: impl Into<Value>, detail: impl Into<String>) -> FieldError {
        FieldError::new(ErrorKind::Invalid, field, bad.into(), detail)
    }

    /// `Invalid value: <detail>` without the value, where it would say nothing.
    pub fn invalid_unshown(field: impl Into<String>, detail: impl Into<String>) -> FieldError {
        let mut error = FieldError::new(ErrorKind::Invalid, field, Value::Null, detail);
        error.shown = false;
        error
    }

    /// `Invalid value` for a JSON type that does not fit.
    pub fn type_invalid(
        field: impl Into<String>,
        bad: impl Into<Value>,
        detail: impl Into<String>,
    ) -> FieldError {
        FieldError::new(ErrorKind::TypeInvalid, field, bad.into(), detail)
    }

    /// `Unsupported value: "x": supported values: "A", "B"`; the values come in the order given.
    pub fn not_supported(field: impl Into<String>, bad: impl Into<Value>, supported: &[&str]) -> FieldError {
        let quoted: Vec<String> = supported.iter().map(|s| go_quote(s)).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        FieldError::new(ErrorKind::NotSupported, field, bad.into(), detail)
    }

    /// `Duplicate value: "x"`.
    pub fn duplicate(field: impl Into<String>, bad: impl Into<Value>) -> FieldError {
        FieldError::new(ErrorKind::Duplicate, field, bad.into(), "")
    }

    /// `Not found: "x"`.
    pub fn not_found(field: impl Into<String>, bad: impl Into<Value>) -> FieldError {
        FieldError::new(ErrorKind::NotFound, field, bad.into(), "")
    }

    /// `Forbidden: <detail>`.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> FieldError {
        FieldError::new(ErrorKind::Forbidden, field, Value::String(String::new()), detail)
    }

    /// `Too long: may not be more than <max> bytes`.
    pub fn too_long(field: impl Into<String>, max: usize) -> FieldError {
        let unit = if max == 1 { "byte" } else { "bytes" };
        let detail = format!("may not be more than {max} {unit}");
        FieldError::new(ErrorKind::TooLong, field, Value::String(String::new()), detail)
    }

    /// `Too many: <actual>: must have at most <max> items`.
    pub fn too_many(field: impl Into<String>, actual: usize, max: usize) -> FieldError {
        let unit = if max == 1 { "item" } else { "items" };
        FieldError::new(ErrorKind::TooMany, field, actual.into(), format!("must have at most {max} {unit}"))
    }

    /// `Internal error: <detail>`.
    pub fn internal(field: impl Into<String>, detail: impl Into<String>) -> FieldError {
        FieldError::new(ErrorKind::Internal, field, Value::Null, detail)
    }

    /// The message without the field's path.
    pub fn body(&self) -> String {
        let mut out = self.kind.words().to_owned();
        if self.shown {
            out.push_str(": ");
            out.push_str(&printed(&self.bad));
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }

    pub(super) fn to_cause(&self) -> Cause {
        Cause { reason: self.kind.reason().to_owned(), message: self.body(), field: self.field.clone() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for FieldError {}

/// Strings as Go's `%q`, everything else as JSON.
fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => go_quote(text),
        other => other.to_string(),
    }
}

/// Several messages in one, as Kubernetes' aggregate prints them: one bare, more in brackets, none twice.
pub fn aggregate(messages: impl IntoIterator<Item = String>) -> String {
    let mut seen: Vec<String> = Vec::new();
    for message in messages {
        if !seen.contains(&message) {
            seen.push(message);
        }
    }
    match seen.len() {
        0 => String::new(),
        1 => seen.swap_remove(0),
        _ => format!("[{}]", seen.join(", ")),
    }
}

/// A path of fields that is cheap to extend: `path.child("spec").child("containers").index(0)`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldPath(String);

impl FieldPath {
    /// A path that begins with this field; empty for the object itself.
    pub fn new(field: &str) -> FieldPath {
        FieldPath(field.to_owned())
    }

    /// The field below; several at once joined by dots.
    #[must_use]
    pub fn child(&self, field: &str) -> FieldPath {
        if self.0.is_empty() {
            return FieldPath::new(field);
        }
        // Made for every field of every object that is checked: formatting would show in each create.
        let mut path = String::with_capacity(self.0.len() + 1 + field.len());
        path.push_str(&self.0);
        path.push('.');
        path.push_str(field);
        FieldPath(path)
    }

    /// The item of a list.
    #[must_use]
    pub fn index(&self, index: usize) -> FieldPath {
        FieldPath(format!("{}[{index}]", self.0))
    }

    /// The entry of a map.
    #[must_use]
    pub fn key(&self, key: &str) -> FieldPath {
        FieldPath(format!("{}[{key}]", self.0))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&FieldPath> for String {
    fn from(path: &FieldPath) -> String {
        path.0.clone()
    }
}

impl From<FieldPath> for String {
    fn from(path: FieldPath) -> String {
        path.0
    }
}
