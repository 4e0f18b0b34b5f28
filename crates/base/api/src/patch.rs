//! Patches: JSON patch, JSON merge patch, strategic merge patch. Each takes the object as it is and gives the object
//! as it should be; [`checked`] then decodes the result as upstream does for patches.

mod json;
mod merge;
mod strategic;

use serde_json::Value;

use crate::decode::{FieldValidation, Parsed, Words, check_patched, parse_json};
use crate::kinds::{Gvk, Resource};
use crate::status::{FieldError, Status};

pub use json::MAX_OPERATIONS;
pub(crate) use strategic::go_value;

/// Applies a JSON patch (RFC 6902): at most [`MAX_OPERATIONS`], copies bounded.
pub fn json(object: &Value, patch: &[u8]) -> Result<Value, Status> {
    json::apply(object, patch)
}

/// Applies a JSON merge patch (RFC 7386).
pub fn merge(object: &Value, patch: &Value) -> Result<Value, Status> {
    merge::apply(object, patch)
}

/// Applies a strategic merge patch for the resource's kind.
pub fn strategic(resource: &Resource, object: &Value, patch: &Value) -> Result<Value, Status> {
    strategic_of(resource.gvk(), object, patch)
}

/// Like [`strategic`], for the kind of a subresource (`Scale`).
pub fn strategic_of(kind: Gvk, object: &Value, patch: &Value) -> Result<Value, Status> {
    strategic::apply(kind, object, patch)
}

/// Reads the body of a merge or strategic merge patch; the duplicates in it are for [`checked`].
pub fn parse(bytes: &[u8]) -> Result<Parsed, Status> {
    let parsed = parse_json(bytes).map_err(|e| {
        let why = e.message.rsplit("json parse error: ").next().unwrap_or_default();
        Status::bad_request(format!("error decoding patch: {why}"))
    })?;
    if parsed.value.is_object() { Ok(parsed) } else { Err(Status::bad_request("invalid JSON document")) }
}

/// Decodes the result of a patch: types, formats, unknown fields. A problem is `Invalid` (422) on the field `patch`, as
/// upstream has it. `duplicates` are those found in the patch's own body.
pub fn checked(
    kind: Gvk,
    patched: Value,
    duplicates: Vec<String>,
    patch_bytes: &[u8],
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let parsed = Parsed { value: patched, duplicates };
    check_patched(kind, parsed, validation, Words::Decoder).map_err(|why| unfit(patch_bytes, why))
}

/// Like [`checked`], for a strategic merge patch, whose result upstream converts where it decodes that of others.
pub fn checked_strategic(
    kind: Gvk,
    patched: Value,
    duplicates: Vec<String>,
    patch_bytes: &[u8],
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let parsed = Parsed { value: patched, duplicates };
    check_patched(kind, parsed, validation, Words::Converter).map_err(|why| unfit(patch_bytes, why))
}

fn unfit(patch: &[u8], why: String) -> Status {
    const SHOWN: usize = 4096;
    let shown = String::from_utf8_lossy(&patch[..patch.len().min(SHOWN)]).into_owned();
    Status::invalid(("", ""), "", &[FieldError::invalid("patch", shown, why)])
}

#[cfg(test)]
mod tests;
