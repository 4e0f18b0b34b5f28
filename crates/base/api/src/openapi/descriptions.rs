//! The prose about types and fields.

#[cfg(feature = "descriptions")]
mod upstream;

use serde_json::{Map, Value};

/// Descriptions by type and field; empty when the crate is built without them.
#[derive(Default)]
pub(super) struct Descriptions {
    types: Map<String, Value>,
}

impl Descriptions {
    /// Gathers them; they take megabytes, so they are kept no longer than a document is built.
    #[cfg(feature = "descriptions")]
    pub(super) fn load() -> Descriptions {
        Descriptions { types: upstream::definitions() }
    }

    /// There are none in this build.
    #[cfg(not(feature = "descriptions"))]
    pub(super) fn load() -> Descriptions {
        Descriptions::default()
    }

    /// What a type is, by its OpenAPI name.
    pub(super) fn of_type(&self, name: &str) -> Option<&str> {
        self.types.get(name)?.get("description")?.as_str()
    }

    /// What a member is.
    pub(super) fn of_field(&self, name: &str, field: &str) -> Option<&str> {
        self.types.get(name)?.get("properties")?.get(field)?.get("description")?.as_str()
    }
}
