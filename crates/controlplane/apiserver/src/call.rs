//! One request to a resource, ready to be carried out.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use sampan_api::{
    decode::{self, FieldValidation, Format, Parsed},
    kinds::Gvk,
    status::Status,
};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    encode::Form,
    endpoint::Endpoint,
    negotiate::Accepted,
    protobuf,
    request::{Query, Target},
    user::UserInfo,
};

/// What a handler knows of its request.
pub(crate) struct Call {
    /// The path as the client wrote it.
    pub(crate) path: String,
    /// The query as the client wrote it.
    pub(crate) raw_query: String,
    pub(crate) user: UserInfo,
    pub(crate) method: Method,
    pub(crate) verb: &'static str,
    pub(crate) target: Target,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    /// In what form the client takes the answer.
    pub(crate) accepted: Accepted,
    pub(crate) body: Bytes,
    /// The place among the long-running requests, for a watch or a stream to keep.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    /// The connection after a switch of protocols.
    pub(crate) upgrade: Option<hyper::upgrade::OnUpgrade>,
    /// What is told besides the answer.
    pub(crate) notes: Notes,
}

/// Warnings for the client and annotations for the audit log, gathered while a request is carried out.
#[derive(Debug, Default)]
pub(crate) struct Notes(Mutex<Noted>);

/// Warnings, and annotations by name.
type Noted = (Vec<String>, Vec<(String, String)>);

/// Warnings and annotations of one request that are kept; more are dropped.
const MOST_NOTES: usize = 64;

impl Notes {
    /// Warns the client, once, whatever becomes of the request.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let (warnings, _) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.len() < MOST_NOTES && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Notes something for the audit log; the first value of a key stays.
    pub(crate) fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        let key = key.into();
        let (_, annotations) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if annotations.len() < MOST_NOTES && !annotations.iter().any(|(known, _)| *known == key) {
            annotations.push((key, value.into()));
        }
    }

    /// The warnings so far.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// The annotations so far.
    pub(crate) fn annotations(&self) -> Vec<(String, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

impl Call {
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.target.namespace.as_deref()
    }

    /// As what the client wants objects.
    pub(crate) fn form(&self) -> Result<Form, Status> {
        self.accepted.form(&self.query)
    }

    pub(crate) fn name(&self) -> &str {
        self.target.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn validation(&self) -> Result<FieldValidation, Status> {
        let text = self.query.get("fieldValidation").unwrap_or_default();
        FieldValidation::parse(text).ok_or_else(|| {
            let error = sampan_api::status::FieldError::not_supported(
                "fieldValidation",
                text,
                &["Ignore", "Strict", "Warn"],
            );
            Status::invalid(("meta.k8s.io", "CreateOptions"), "", &[error])
        })
    }

    /// The media type of the body, without parameters.
    pub(crate) fn content_type(&self) -> &str {
        let value = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        value.and_then(|value| value.split(';').next()).unwrap_or_default().trim()
    }

    /// The body as what it says of itself, in any of the forms that are read.
    fn parse(&self) -> Result<Parsed, Status> {
        match self.content_type() {
            protobuf::CONTENT_TYPE => protobuf::decode(&self.body).map(Parsed::from),
            "" | "application/json" => decode::parse_json(&self.body),
            "application/yaml" | "application/x-yaml" | "text/yaml" => decode::parse_yaml(&self.body),
            _ => {
                let known = ["application/json", "application/yaml", protobuf::CONTENT_TYPE];
                Err(Status::unsupported_media_type(&known))
            }
        }
    }

    /// The body as an object of a kind, with the warnings that earns.
    pub(crate) fn decode(&self, kind: Gvk) -> Result<(Value, Vec<String>), Status> {
        let validation = self.validation()?;
        if self.endpoint.custom.is_some() && kind == self.endpoint.resource.gvk() {
            return self.endpoint.decode(self.parse()?, validation);
        }
        match self.content_type() {
            "" | "application/json" => decode::body_of(kind, Format::Json, &self.body, validation),
            "application/yaml" => decode::body_of(kind, Format::Yaml, &self.body, validation),
            _ => decode::decode_kind(kind, self.parse()?, validation),
        }
    }

    /// The kind of the bodies of this request.
    pub(crate) fn body_kind(&self) -> Gvk {
        let resource = self.endpoint.resource;
        let sub = self.target.subresource.as_deref().and_then(|name| resource.subresource(name));
        sub.map_or_else(|| resource.gvk(), sampan_api::kinds::Subresource::gvk)
    }

    /// The body as `DeleteOptions`; an empty one is none.
    pub(crate) fn delete_options(&self) -> Result<Value, Status> {
        if self.body.is_empty() {
            return Ok(Value::Object(serde_json::Map::new()));
        }
        let kind = Gvk { group: "", version: "v1", kind: "DeleteOptions" };
        let mut parsed = self.parse()?;
        // Clients name the group of the object to delete; the options are the same in each.
        if let Some(object) = parsed.value.as_object_mut()
            && object.get("kind").is_none_or(|kind| kind == "DeleteOptions")
        {
            object.shift_remove("apiVersion");
        }
        decode::decode_kind(kind, parsed, FieldValidation::Ignore).map(|(options, _)| options)
    }
}

/// Checks that the object is for the place that the path says, and puts it there.
pub(crate) fn place(call: &Call, object: &mut Value) -> Result<(), Status> {
    let metadata = metadata(object)?;
    let said = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default().to_owned();
    match call.namespace().filter(|_| call.endpoint.resource.namespaced) {
        Some(namespace) => {
            if !said.is_empty() && said != namespace {
                return Err(Status::bad_request(if call.verb == "create" {
                    "the namespace of the provided object does not match the namespace sent on the request"
                        .to_owned()
                } else {
                    format!(
                        "the namespace of the object ({said}) does not match the namespace on the request ({namespace})"
                    )
                }));
            }
            metadata.insert("namespace".to_owned(), namespace.into());
        }
        None if call.endpoint.resource.namespaced => {
            return Err(Status::bad_request("an empty namespace may not be set during creation"));
        }
        None => {}
    }
    Ok(())
}

/// Checks that the name in the body is the one in the path; fills it in when the body has none.
pub(crate) fn check_name(call: &Call, object: &mut Value) -> Result<(), Status> {
    let metadata = metadata(object)?;
    let said = metadata.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    if said.is_empty() {
        metadata.insert("name".to_owned(), call.name().into());
    } else if said != call.name() {
        return Err(Status::bad_request(format!(
            "the name of the object ({said}) does not match the name on the URL ({})",
            call.name()
        )));
    }
    Ok(())
}

/// The object's metadata, made when it has none.
pub(crate) fn metadata(object: &mut Value) -> Result<&mut serde_json::Map<String, Value>, Status> {
    object
        .as_object_mut()
        .and_then(|object| {
            object.entry("metadata").or_insert_with(|| Value::Object(serde_json::Map::new())).as_object_mut()
        })
        .ok_or_else(|| Status::bad_request("metadata must be an object"))
}

/// A text in an object, under names that have no `~` and are no indices; empty when absent.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    // Many times a request: [`Value::pointer`] makes two texts of each name on the way.
    let mut at = Some(object);
    for name in pointer.split('/').skip(1) {
        at = at.and_then(|object| object.get(name));
    }
    at.and_then(Value::as_str).unwrap_or_default()
}
