//! OpenAPI documents, version 2 and 3, built from the registry and the schema facts when a client first asks.
//!
//! Facts (types, list and map semantics, merge keys) are always there. The prose that `kubectl explain` shows comes
//! from k8s-openapi's own schemas when the crate is built with the feature `descriptions`.

mod custom;
mod descriptions;
mod operations;
mod paths;
mod published;
mod schemas;

use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

pub use self::custom::{v2 as v2_with, v3 as v3_custom};
use self::descriptions::Descriptions;
use crate::kinds;

/// The title and version in every document.
const TITLE: &str = "Kubernetes";
const VERSION: &str = "v1.37.0";

/// A document and its entity tag.
#[derive(Debug, Clone)]
pub struct Document {
    /// The JSON, as a rule.
    pub bytes: Bytes,
    /// A hash of the content in hexadecimal: the `hash` in the index, and the ETag (without quotes).
    pub etag: String,
}

impl Document {
    /// A document that was put together elsewhere.
    pub fn of(value: &Value) -> Document {
        Document::new(value)
    }

    fn new(value: &Value) -> Document {
        Document::of_bytes(value.to_string())
    }

    /// A document in another form than JSON.
    pub fn of_bytes(bytes: impl Into<Bytes>) -> Document {
        let bytes = bytes.into();
        let etag = hash(&bytes);
        Document { bytes, etag }
    }
}

/// Which dialect is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

/// The whole API as OpenAPI 2 in JSON (`/openapi/v2`).
pub fn v2() -> &'static Document {
    static DOCUMENT: OnceLock<Document> = OnceLock::new();
    DOCUMENT.get_or_init(|| Document::new(&whole()))
}

/// What documents of version 3 there are (`/openapi/v3`).
pub fn v3_index() -> &'static Document {
    static INDEX: OnceLock<Document> = OnceLock::new();
    INDEX.get_or_init(|| {
        let descriptions = Descriptions::load();
        let entries = group_versions().into_iter().map(|(path, group, version)| {
            // Only the hash is kept: most clients then ask for one document or none.
            let etag = Document::new(&one(group, version, &descriptions)).etag;
            (path.clone(), json!({ "serverRelativeURL": format!("/openapi/v3/{path}?hash={etag}") }))
        });
        Document::new(&json!({ "paths": entries.collect::<Map<String, Value>>() }))
    })
}

/// One document of version 3 by its name in the index: `api/v1` or `apis/apps/v1` (`/openapi/v3/NAME`).
pub fn v3(name: &str) -> Option<&'static Document> {
    static DOCUMENTS: OnceLock<Vec<OnceLock<Document>>> = OnceLock::new();
    let all = group_versions();
    let index = all.iter().position(|(path, _, _)| path == name)?;
    let (_, group, version) = all.get(index)?;
    let slot = DOCUMENTS.get_or_init(|| all.iter().map(|_| OnceLock::new()).collect()).get(index)?;
    Some(slot.get_or_init(|| Document::new(&one(group, version, &Descriptions::load()))))
}

/// Every group and version with its name in the index.
fn group_versions() -> Vec<(String, &'static str, &'static str)> {
    let pairs = kinds::groups().iter().flat_map(|(group, versions)| versions.iter().map(|v| (*group, *v)));
    pairs
        .map(|(group, version)| {
            let path =
                if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            (path, group, version)
        })
        .collect()
}

/// The document of one group and version.
fn one(group: &str, version: &str, descriptions: &Descriptions) -> Value {
    let resources = || kinds::resources().iter().filter(|r| r.group == group && r.version == version);
    let paths: Map<String, Value> = resources().flat_map(|r| paths::of(r, Dialect::V3)).collect();
    let bodies = resources().flat_map(schemas::bodies);
    json!({
        "openapi": "3.0.0",
        "info": { "title": TITLE, "version": VERSION },
        "paths": paths,
        "components": {
            "schemas": schemas::reachable(bodies, Dialect::V3, descriptions),
            "securitySchemes": { "BearerToken": security() },
        },
    })
}

/// Everything in one document of version 2.
fn whole() -> Value {
    let paths: Map<String, Value> =
        kinds::resources().iter().flat_map(|r| paths::of(r, Dialect::V2)).collect();
    let bodies = kinds::resources().iter().flat_map(schemas::bodies);
    json!({
        "swagger": "2.0",
        "info": { "title": TITLE, "version": VERSION },
        "paths": paths,
        "definitions": schemas::reachable(bodies, Dialect::V2, &Descriptions::load()),
        "securityDefinitions": { "BearerToken": security() },
    })
}

fn security() -> Value {
    json!({ "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header" })
}

/// FNV-1a over the content, in two directions: 128 bits tell versions of a document apart; nobody attacks it.
fn hash(bytes: &[u8]) -> String {
    const PRIME: u64 = 0x0100_0000_01b3;
    const START: u64 = 0xcbf2_9ce4_8422_2325;
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(PRIME);
    format!("{:016X}{:016X}", bytes.iter().fold(START, step), bytes.iter().rev().fold(START, step))
}

#[cfg(test)]
mod tests;
