//! From the bytes of a request to an object of the kind that the path says: JSON or YAML, duplicate and unknown
//! members, types, formats, with the messages that Kubernetes gives.

mod go_types;
mod json;
mod walk;
mod yaml;

use serde_json::Value;

pub(crate) use self::walk::Words;
use crate::kinds::{self, Gvk, Resource};
use crate::schema;
use crate::status::{Status, go_quote};

pub use walk::MAX_PROBLEMS;

/// What to do about unknown and duplicate fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Refuse the request.
    Strict,
    /// Drop them and warn; what a request gets that does not say.
    #[default]
    Warn,
    /// Drop them silently.
    Ignore,
}

impl FieldValidation {
    /// The value of the query parameter `fieldValidation`; empty means the default.
    pub fn parse(text: &str) -> Option<FieldValidation> {
        match text {
            "" | "Warn" => Some(FieldValidation::Warn),
            "Strict" => Some(FieldValidation::Strict),
            "Ignore" => Some(FieldValidation::Ignore),
            _ => None,
        }
    }
}

/// The form of a request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
}

/// A body that has been read, before anything is known of its kind.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parsed {
    /// The body. Of duplicate members the last one counts.
    pub value: Value,
    /// The paths of members that came twice, at most [`MAX_PROBLEMS`].
    pub duplicates: Vec<String>,
}

impl From<Value> for Parsed {
    fn from(value: Value) -> Self {
        Parsed { value, duplicates: Vec::new() }
    }
}

/// Reads JSON. Nesting is bounded (127 levels).
pub fn parse_json(bytes: &[u8]) -> Result<Parsed, Status> {
    json::parse(bytes)
        .map_err(|why| Status::bad_request(format!("couldn't get version/kind; json parse error: {why}")))
}

/// Reads one YAML document. Nesting is bounded (127 levels), aliases cannot blow it up.
pub fn parse_yaml(bytes: &[u8]) -> Result<Parsed, Status> {
    yaml::parse(bytes).map_err(|why| Status::bad_request(format!("error converting YAML to JSON: {why}")))
}

/// Writes JSON as YAML; nothing when it is no JSON.
pub fn to_yaml(json: &[u8]) -> Option<String> {
    yaml::write(json)
}

/// Reads a body and decodes it as the resource's kind: [`parse_json`] or [`parse_yaml`], then [`decode`].
pub fn body(
    resource: &Resource,
    format: Format,
    bytes: &[u8],
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    body_of(resource.gvk(), format, bytes, validation)
}

/// Like [`body`], for the kind of a subresource or for `DeleteOptions`.
pub fn body_of(
    kind: Gvk,
    format: Format,
    bytes: &[u8],
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let parsed = match format {
        Format::Json => parse_json(bytes),
        Format::Yaml => parse_yaml(bytes),
    };
    let parsed = parsed.map_err(|status| unrecognized(kind.kind, &status.message, bytes))?;
    if !parsed.value.is_object() {
        let why = format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct {{ \
             APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
            walk::json_type(&parsed.value)
        );
        return Err(unrecognized(kind.kind, &why, bytes));
    }
    decode_kind(kind, parsed, validation)
}

/// Makes an object of the resource's kind out of a body: checks apiVersion and kind (filled in when absent), types and
/// formats; drops unknown members and nulls. The second part is the warnings that the client gets.
pub fn decode(
    resource: &Resource,
    body: impl Into<Parsed>,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    decode_kind(resource.gvk(), body.into(), validation)
}

/// Like [`decode`], for the kind of a subresource or for `DeleteOptions`.
pub fn decode_kind(
    kind: Gvk,
    parsed: Parsed,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let Parsed { mut value, duplicates } = parsed;
    check_kind(&kind, &mut value)?;
    let mut found = walk::Problems::new(duplicates);
    let schema = schema::get();
    if let Some(id) = schema.by_kind(&kind) {
        walk::object(schema, schema.type_of(id), &mut value, Words::Decoder, &mut found)
            .map_err(|why| cannot_be_handled(kind.kind, kind.version, kind.kind, &why))?;
    }
    let problems = found.into_sentences();
    match validation {
        _ if problems.is_empty() => Ok((value, Vec::new())),
        FieldValidation::Ignore => Ok((value, Vec::new())),
        FieldValidation::Warn => Ok((value, problems)),
        FieldValidation::Strict => {
            let why = format!("strict decoding error: {}", problems.join(", "));
            Err(cannot_be_handled(kind.kind, kind.version, kind.kind, &why))
        }
    }
}

/// Puts the metadata of an object whose kind no table describes in shape: types, formats, nothing unknown. `Ok` are the
/// sentences about unknown fields, whose paths begin with `prefix`; `Err` is Go's message about the first wrong type.
pub(crate) fn metadata_of(value: &mut Value, prefix: &str) -> Result<Vec<String>, String> {
    walk::metadata(value, prefix)
}

/// What is wrong with an object after a patch, without the frame that request bodies get: `Err` is the bare sentence.
pub(crate) fn check_patched(
    kind: Gvk,
    parsed: Parsed,
    validation: FieldValidation,
    words: Words,
) -> Result<(Value, Vec<String>), String> {
    let Parsed { mut value, duplicates } = parsed;
    check_kind(&kind, &mut value).map_err(|status| status.message)?;
    let mut found = walk::Problems::new(duplicates);
    let schema = schema::get();
    if let Some(id) = schema.by_kind(&kind) {
        walk::object(schema, schema.type_of(id), &mut value, words, &mut found)?;
    }
    let problems = found.into_sentences();
    match validation {
        FieldValidation::Strict if !problems.is_empty() => {
            Err(format!("strict decoding error: {}", problems.join(", ")))
        }
        FieldValidation::Warn => Ok((value, problems)),
        _ => Ok((value, Vec::new())),
    }
}

/// Fills in apiVersion and kind, and refuses those of another kind.
fn check_kind(expected: &Gvk, value: &mut Value) -> Result<(), Status> {
    let Value::Object(members) = value else {
        let why = format!(
            "json: cannot unmarshal {} into Go value of type {}",
            walk::json_type(value),
            go_types::of(expected)
        );
        return Err(cannot_be_handled(expected.kind, expected.version, expected.kind, &why));
    };
    let said = |name: &str| match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(Status::bad_request(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go struct field .{name} of \
             type string",
            walk::json_type(other)
        ))),
    };
    let (said_version, said_kind) = (said("apiVersion")?, said("kind")?);
    let expected_version = expected.api_version();
    let api_version = said_version.as_deref().unwrap_or(&expected_version);
    let kind = said_kind.as_deref().unwrap_or(expected.kind);
    // Clients name DeleteOptions by the group that they delete in, `apps/v1` for example.
    let in_any_group = kind == "DeleteOptions" && expected.kind == kind;
    if !in_any_group && (api_version != expected_version || kind != expected.kind) {
        return Err(wrong_kind(expected, api_version, kind));
    }
    if said_version.is_none() || said_kind.is_none() {
        let rest = std::mem::take(members);
        members.insert("kind".into(), expected.kind.into());
        members.insert("apiVersion".into(), expected_version.into());
        for (name, value) in rest {
            if name != "kind" && name != "apiVersion" {
                members.insert(name, value);
            }
        }
    }
    Ok(())
}

fn wrong_kind(expected: &Gvk, api_version: &str, kind: &str) -> Status {
    if api_version.matches('/').count() > 1 {
        return Status::bad_request(format!("unexpected GroupVersion string: {api_version}"));
    }
    let (group, version) = kinds::split_api_version(api_version);
    match kinds::known(group, version, kind) {
        Some(_) if kind == expected.kind => Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            expected.api_version()
        )),
        Some(said) => {
            let why = format!(
                "converting ({}) to ({}): unknown conversion",
                go_types::of(&said),
                go_types::internal(expected)
            );
            cannot_be_handled(kind, version, expected.kind, &why)
        }
        None => {
            let why = {
                let (kind, version) = (go_quote(kind), go_quote(api_version));
                format!("no kind {kind} is registered for version {version} in scheme \"sampan\"")
            };
            cannot_be_handled(kind, version, expected.kind, &why)
        }
    }
}

pub(crate) fn cannot_be_handled(kind: &str, version: &str, expected: &str, why: &str) -> Status {
    let version = go_quote(version);
    Status::bad_request(format!("{kind} in version {version} cannot be handled as a {expected}: {why}"))
}

fn unrecognized(kind: &str, why: &str, bytes: &[u8]) -> Status {
    let start = summary(bytes);
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): {why} ({start})"
    ))
}

/// The start of a body, for the message: as text when it looks like JSON, else in hexadecimal.
fn summary(bytes: &[u8]) -> String {
    const SHOWN: usize = 30;
    let dots = if bytes.len() > SHOWN { " ..." } else { "" };
    let head = &bytes[..bytes.len().min(SHOWN)];
    match bytes.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{dots}", String::from_utf8_lossy(head)),
        Some(_) => format!("{}{dots}", head.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

#[cfg(test)]
mod tests;
