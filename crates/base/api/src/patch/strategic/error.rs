//! What can be wrong with a strategic merge patch, in upstream's words.

use serde_json::{Map, Value};

use crate::status::{Details, Status};

/// Why a patch cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PatchError {
    #[error("invalid patch format of primitive list")]
    PrimitiveListFormat,
    #[error("invalid patch format of retainKeys")]
    RetainKeysFormat,
    #[error("invalid patch format of setElementOrder list")]
    OrderFormat,
    #[error("lists of lists are not supported")]
    ListOfLists,
    #[error("unknown patch type: {0} in map: {1}")]
    Directive(String, String),
    #[error("map: {0} does not contain declared merge key: {1}")]
    NoKey(String, String),
    #[error("merging lists cannot yet be specified in the patch")]
    MergeInList,
    #[error("cannot merge lists of objects without a merge key")]
    NoMergeKey,
    #[error("list element types are not identical: {0}")]
    Mixed(String),
    #[error("expected a list, but got: {0}")]
    NotAList(String),
    #[error("The order in patch list:\n{0}\n doesn't match $setElementOrder list:\n{1}\n")]
    Order(String, String),
}

impl PatchError {
    pub(super) fn bad_directive(directive: &Value, patch: &Map<String, Value>) -> PatchError {
        PatchError::Directive(go_value(directive), go_map(patch))
    }

    pub(super) fn no_key(item: &Value, key: &str) -> PatchError {
        PatchError::NoKey(go_value(item), key.to_owned())
    }

    pub(super) fn not_a_list(value: &Value) -> PatchError {
        PatchError::NotAList(go_value(value))
    }

    pub(super) fn into_status(self) -> Status {
        match self {
            PatchError::ListOfLists => {
                let message =
                    format!("the server rejected our request due to an error in our request: {self}");
                Status::new(422, "Invalid", message).with_details(Details::default())
            }
            other => Status::bad_request(other.to_string()),
        }
    }
}

/// Messages show at most so many bytes of a value.
const SHOWN: usize = 512;

/// A value as Go's `%v` prints it.
pub(crate) fn go_value(value: &Value) -> String {
    let mut out = String::new();
    print(value, &mut out);
    out
}

fn go_map(members: &Map<String, Value>) -> String {
    let mut out = String::new();
    print_map(members, &mut out);
    out
}

/// Several values as Go prints a slice.
pub(super) fn go_list(items: &[Value]) -> String {
    let mut out = String::new();
    print_list(items, &mut out);
    out
}

fn print(value: &Value, out: &mut String) {
    if out.len() > SHOWN {
        return;
    }
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::String(text) => out.push_str(text),
        Value::Array(items) => print_list(items, out),
        Value::Object(members) => print_map(members, out),
        other => out.push_str(&other.to_string()),
    }
}

fn print_list(items: &[Value], out: &mut String) {
    out.push('[');
    for (index, item) in items.iter().enumerate() {
        if out.len() > SHOWN {
            out.push_str("...");
            break;
        }
        if index > 0 {
            out.push(' ');
        }
        print(item, out);
    }
    out.push(']');
}

fn print_map(members: &Map<String, Value>, out: &mut String) {
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_unstable_by_key(|(name, _)| *name);
    out.push_str("map[");
    for (index, (name, value)) in sorted.into_iter().enumerate() {
        if out.len() > SHOWN {
            out.push_str("...");
            break;
        }
        if index > 0 {
            out.push(' ');
        }
        out.push_str(name);
        out.push(':');
        print(value, out);
    }
    out.push(']');
}
