//! A CustomResourceDefinition as the server works with it: every version compiled, and how one becomes another.

use std::sync::Arc;

use serde_json::{Value, json};

use super::columns::Column;
use super::schema::{Compiler, SchemaError};
use super::{JsonPath, Kind, ScalePaths};
use crate::apply;
use crate::kinds::intern::{self, Row};

/// A compiled definition.
#[derive(Debug)]
pub struct Definition {
    /// The name of the definition, `<plural>.<group>`.
    pub name: String,
    /// The API group.
    pub group: String,
    /// The name in the path.
    pub plural: String,
    /// Every version, in the order of the definition.
    pub versions: Vec<Version>,
    /// How objects of one version become objects of another.
    pub conversion: Conversion,
}

/// A version of a definition.
#[derive(Debug, Clone)]
pub struct Version {
    /// What it does with its objects.
    pub kind: Arc<Kind>,
    /// Whether clients may use it.
    pub served: bool,
    /// Whether objects are stored in it.
    pub storage: bool,
}

/// How objects of one version become objects of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conversion {
    /// Only the apiVersion changes.
    None,
    /// A webhook does it.
    Webhook(Webhook),
}

/// Who converts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Where it is, as a `WebhookClientConfig`.
    pub client: Value,
    /// The versions of ConversionReview that it understands, the best first.
    pub reviews: Vec<String>,
}

/// Why a definition cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// A schema is too large.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// Too many kinds came and went.
    #[error("more than {rows} distinct kinds were defined since the server started (hint: restart it)", rows = intern::MAX_ROWS)]
    TooManyKinds,
}

impl Definition {
    /// Compiles a definition (with its defaults). The names are those that were accepted.
    ///
    /// # Errors
    /// A schema is too large, or too many kinds came and went.
    pub fn compile(definition: &Value) -> Result<Definition, DefinitionError> {
        let text = |pointer: &str| definition.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let spec = definition.get("spec").unwrap_or(&Value::Null);
        let mut compiler = Compiler::default();
        let mut versions = Vec::new();
        for version in spec.get("versions").and_then(Value::as_array).into_iter().flatten() {
            let flag = |name: &str| version.get(name).and_then(Value::as_bool).unwrap_or(false);
            let kind = Arc::new(kind(definition, version, &mut compiler)?);
            versions.push(Version { kind, served: flag("served"), storage: flag("storage") });
        }
        Ok(Definition {
            name: text("/metadata/name").to_owned(),
            group: text("/spec/group").to_owned(),
            plural: text("/spec/names/plural").to_owned(),
            versions,
            conversion: conversion(spec.get("conversion").unwrap_or(&Value::Null)),
        })
    }

    /// The version in which objects are stored.
    pub fn storage(&self) -> Option<&Version> {
        self.versions.iter().find(|v| v.storage)
    }

    /// The version of that name, served or not.
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|v| v.kind.resource().version == name)
    }
}

fn kind(definition: &Value, version: &Value, compiler: &mut Compiler) -> Result<Kind, DefinitionError> {
    let text = |pointer: &str| definition.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let name = |what: &str| {
        let accepted = text(&format!("/status/acceptedNames/{what}"));
        let asked = text(&format!("/spec/names/{what}"));
        (if accepted.is_empty() { asked } else { accepted }).to_owned()
    };
    let names = |what: &str| {
        // What others have already taken is not served; the accepted names say so once they are there.
        let accepted =
            definition.pointer("/status/acceptedNames").filter(|n| n.get("plural").is_some_and(|p| p != ""));
        let from = accepted.or_else(|| definition.pointer("/spec/names")).and_then(|n| n.get(what));
        let list = from.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let subresources = version.get("subresources").unwrap_or(&Value::Null);
    let fields = version.get("selectableFields").and_then(Value::as_array).into_iter().flatten();
    let fields = fields
        .filter_map(|f| f.get("jsonPath")?.as_str())
        .filter_map(|path| Some(JsonPath::parse(path)?.fields()?.join(".")));
    let version_name = version.get("name").and_then(Value::as_str).unwrap_or_default();
    let row = Row {
        group: text("/spec/group").to_owned(),
        version: version_name.to_owned(),
        kind: name("kind"),
        list_kind: name("listKind"),
        plural: text("/spec/names/plural").to_owned(),
        singular: name("singular"),
        short_names: names("shortNames"),
        categories: names("categories"),
        namespaced: text("/spec/scope") == "Namespaced",
        status: subresources.get("status").is_some(),
        scale: subresources.get("scale").is_some(),
        fields: fields.collect(),
    };
    let resource = intern::resource(&row).ok_or(DefinitionError::TooManyKinds)?;
    let preserve =
        definition.pointer("/spec/preserveUnknownFields").and_then(Value::as_bool).unwrap_or(false);
    let published = version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_else(|| json!({}));
    let mut schema = compiler.schema(&published)?;
    schema.preserve |= preserve;
    let deprecated = version.get("deprecated").and_then(Value::as_bool).unwrap_or(false);
    let own_warning = version.get("deprecationWarning").and_then(Value::as_str);
    let warning = own_warning
        .map_or_else(|| format!("{} {} is deprecated", resource.api_version(), resource.kind), str::to_owned);
    Ok(Kind {
        resource,
        apply: apply::Root::structural(&published, preserve),
        schema,
        columns: Column::all(version.get("additionalPrinterColumns")),
        scale: subresources.get("scale").and_then(ScalePaths::parse),
        warning: deprecated.then_some(warning),
        published,
    })
}

fn conversion(from: &Value) -> Conversion {
    let Some(webhook) = from.get("webhook").filter(|_| from.get("strategy").is_some_and(|s| s == "Webhook"))
    else {
        return Conversion::None;
    };
    let client = webhook.get("clientConfig").cloned().unwrap_or_default();
    let reviews = webhook.get("conversionReviewVersions").and_then(Value::as_array).into_iter().flatten();
    Conversion::Webhook(Webhook {
        client,
        reviews: reviews.filter_map(Value::as_str).map(str::to_owned).collect(),
    })
}
