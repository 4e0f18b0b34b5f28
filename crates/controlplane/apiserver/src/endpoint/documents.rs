//! OpenAPI documents of what is served: those of built-in kinds, and those of custom kinds beside them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use sampan_api::{
    custom::Kind,
    openapi::{self, Document},
};
use serde_json::Value;

use super::Served;
use crate::protobuf;

/// Documents, each made when first asked for.
#[derive(Default)]
pub(crate) struct Documents {
    v2: OnceLock<Document>,
    v2_protobuf: OnceLock<Document>,
    index: OnceLock<Document>,
    v3: Mutex<HashMap<String, Arc<Document>>>,
}

impl Served {
    fn customs(&self) -> Vec<&Kind> {
        self.endpoints.iter().filter_map(|endpoint| endpoint.custom.as_deref()).collect()
    }

    /// Everything as OpenAPI 2.
    pub(crate) fn openapi_v2(&self) -> &Document {
        let kinds = self.customs();
        if kinds.is_empty() {
            return openapi::v2();
        }
        self.openapi.v2.get_or_init(|| openapi::v2_with(&kinds))
    }

    /// The same in protobuf.
    pub(crate) fn openapi_v2_protobuf(&self) -> &Document {
        static BUILT_IN: OnceLock<Document> = OnceLock::new();
        let cell = if self.customs().is_empty() { &BUILT_IN } else { &self.openapi.v2_protobuf };
        cell.get_or_init(|| {
            let json: Value = serde_json::from_slice(&self.openapi_v2().bytes).unwrap_or_default();
            Document::of_bytes(protobuf::openapi::document(&json))
        })
    }

    /// Which documents of version 3 there are.
    pub(crate) fn openapi_v3_index(&self) -> &Document {
        let kinds = self.customs();
        if kinds.is_empty() {
            return openapi::v3_index();
        }
        self.openapi.index.get_or_init(|| {
            let built_in = openapi::v3_index();
            let mut index: Value = serde_json::from_slice(&built_in.bytes).unwrap_or_default();
            for kind in kinds {
                let path = format!("apis/{}", kind.resource().api_version());
                if let Some(document) = self.openapi_v3(&path) {
                    let url = format!("/openapi/v3/{path}?hash={}", document.etag);
                    index["paths"][&path] = serde_json::json!({ "serverRelativeURL": url });
                }
            }
            Document::of(&index)
        })
    }

    /// One document of version 3 by its name in the index.
    pub(crate) fn openapi_v3(&self, path: &str) -> Option<Arc<Document>> {
        if let Some(document) = openapi::v3(path) {
            return Some(Arc::new(document.clone()));
        }
        let mut known = self.openapi.v3.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(document) = known.get(path) {
            return Some(document.clone());
        }
        let version = path.strip_prefix("apis/")?;
        let kinds: Vec<&Kind> =
            self.customs().into_iter().filter(|kind| kind.resource().api_version() == version).collect();
        if kinds.is_empty() {
            return None;
        }
        let document = Arc::new(openapi::v3_custom(&kinds));
        known.insert(path.to_owned(), document.clone());
        Some(document)
    }
}
