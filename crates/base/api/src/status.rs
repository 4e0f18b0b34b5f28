//! `metav1.Status`: what a Kubernetes API answers when it refuses, with the exact reasons, codes, details
//! and sentences that clients parse and people know.

mod constructors;
mod field;
mod names;

use serde_json::{Map, Value, json};

pub use self::field::{Causes, ErrorKind, FieldError, FieldPath, aggregate};
pub use self::names::{GroupKind, GroupResource, go_quote};

/// A machine-readable part of [`Details`]: one field (or one reason) that caused the refusal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cause {
    /// The kind of cause, `FieldValueRequired` for example; empty when there is none.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// The path of the field, `spec.containers[0].name` for example; empty when no field is meant.
    pub field: String,
}

/// The `details` of a [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Details {
    /// The object's name.
    pub name: String,
    /// The API group.
    pub group: String,
    /// The resource (plural), or for `Invalid` the kind.
    pub kind: String,
    /// The object's UID.
    pub uid: String,
    /// Every cause.
    pub causes: Vec<Cause>,
    /// Seconds after which the client may try again; 0 for none.
    pub retry_after_seconds: i32,
}

/// A refusal (or, by [`Status::success`], the answer to a delete) as `metav1.Status`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason, `NotFound` for example; empty for success.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// More about the reason; boxed to keep results small.
    pub details: Option<Box<Details>>,
    /// The continue token in the list metadata: only an expired list sets it.
    pub continue_token: Option<String>,
}

impl Status {
    /// A failure with the code, the reason and the message, without details.
    pub fn new(code: u16, reason: impl Into<String>, message: impl Into<String>) -> Status {
        let (reason, message) = (reason.into(), message.into());
        Status { code, reason, message, details: None, continue_token: None }
    }

    /// The answer to a delete that removed the object at once.
    pub fn success<'a>(resource: impl Into<GroupResource<'a>>, name: &str, uid: &str) -> Status {
        let resource = resource.into();
        let details = Details {
            name: name.to_owned(),
            group: resource.group.into_owned(),
            kind: resource.resource.into_owned(),
            uid: uid.to_owned(),
            ..Details::default()
        };
        Status::new(200, "", "").with_details(details)
    }

    /// Puts the details in place.
    #[must_use]
    pub fn with_details(mut self, details: Details) -> Status {
        self.details = Some(Box::new(details));
        self
    }

    /// Adds a cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Status {
        let cause = Cause { reason: reason.to_owned(), message: message.to_owned(), field: field.to_owned() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// Says after how many seconds to try again.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: i32) -> Status {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// Seconds after which the client may try again, for the `Retry-After` header.
    pub fn retry_after(&self) -> Option<i32> {
        self.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0)
    }

    /// Whether the code says success.
    pub fn is_success(&self) -> bool {
        self.code < 400
    }

    /// Whether the reason is this one.
    pub fn is(&self, reason: &str) -> bool {
        self.reason == reason
    }

    /// The object as it goes over the wire.
    pub fn to_value(&self) -> Value {
        let mut out = Map::new();
        out.insert("kind".into(), "Status".into());
        out.insert("apiVersion".into(), "v1".into());
        out.insert(
            "metadata".into(),
            self.continue_token.as_ref().map_or_else(|| json!({}), |token| json!({ "continue": token })),
        );
        out.insert("status".into(), if self.is_success() { "Success" } else { "Failure" }.into());
        put(&mut out, "message", &self.message);
        put(&mut out, "reason", &self.reason);
        if let Some(details) = &self.details {
            out.insert("details".into(), details.to_value());
        }
        if !self.is_success() {
            out.insert("code".into(), self.code.into());
        }
        Value::Object(out)
    }

    /// The object's bytes as they go over the wire, ended by a newline as Kubernetes does.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.to_value().to_string().into_bytes();
        out.push(b'\n');
        out
    }

    /// Reads a `Status` object that came over the wire; what is missing stays empty.
    pub fn from_value(value: &Value) -> Option<Status> {
        if value.get("kind")?.as_str()? != "Status" {
            return None;
        }
        let failed = text(value, "status") == "Failure";
        let code = value.get("code").and_then(Value::as_u64).and_then(|c| u16::try_from(c).ok());
        let mut status = Status::new(
            code.unwrap_or(if failed { 500 } else { 200 }),
            text(value, "reason"),
            text(value, "message"),
        );
        status.details = value.get("details").map(|d| Box::new(Details::from_value(d)));
        status.continue_token =
            value.pointer("/metadata/continue").and_then(Value::as_str).map(str::to_owned);
        Some(status)
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut out = Map::new();
        put(&mut out, "name", &self.name);
        put(&mut out, "group", &self.group);
        put(&mut out, "kind", &self.kind);
        put(&mut out, "uid", &self.uid);
        if !self.causes.is_empty() {
            out.insert("causes".into(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after_seconds != 0 {
            out.insert("retryAfterSeconds".into(), self.retry_after_seconds.into());
        }
        Value::Object(out)
    }

    fn from_value(value: &Value) -> Details {
        let causes = value.get("causes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let retry = value.get("retryAfterSeconds").and_then(Value::as_i64);
        Details {
            name: text(value, "name").to_owned(),
            group: text(value, "group").to_owned(),
            kind: text(value, "kind").to_owned(),
            uid: text(value, "uid").to_owned(),
            causes: causes.iter().map(Cause::from_value).collect(),
            retry_after_seconds: retry.and_then(|s| i32::try_from(s).ok()).unwrap_or_default(),
        }
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut out = Map::new();
        put(&mut out, "reason", &self.reason);
        put(&mut out, "message", &self.message);
        put(&mut out, "field", &self.field);
        Value::Object(out)
    }

    fn from_value(value: &Value) -> Cause {
        Cause {
            reason: text(value, "reason").to_owned(),
            message: text(value, "message").to_owned(),
            field: text(value, "field").to_owned(),
        }
    }
}

/// Inserts the text unless it is empty, as Go's `omitempty` does.
fn put(out: &mut Map<String, Value>, key: &str, text: &str) {
    if !text.is_empty() {
        out.insert(key.into(), text.into());
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests;
