//! What objects of kinds that are defined here have in common.

use serde::{Deserialize, Serialize};

/// Makes a struct with the fields `api_version`, `kind` and `metadata` an object of the API. The first two are read with
/// `#[serde(default = "api_version")]` and `#[serde(default = "kind")]`.
macro_rules! object {
    ($type:ident: $group:literal, $version:literal, $kind:literal, $plural:literal, $scope:ident) => {
        fn api_version() -> String {
            concat!($group, "/", $version).to_owned()
        }

        fn kind() -> String {
            $kind.to_owned()
        }

        impl k8s_openapi::Resource for $type {
            const API_VERSION: &'static str = concat!($group, "/", $version);
            const GROUP: &'static str = $group;
            const KIND: &'static str = $kind;
            const VERSION: &'static str = $version;
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = k8s_openapi::$scope;
        }

        impl k8s_openapi::Metadata for $type {
            type Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

            fn metadata(&self) -> &Self::Ty {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut Self::Ty {
                &mut self.metadata
            }
        }
    };
}

pub(crate) use object;

/// A condition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True` or `False`.
    pub status: String,
    /// In one word.
    pub reason: String,
    /// In a sentence.
    pub message: String,
    /// Since when.
    pub last_transition_time: String,
}

impl Condition {
    /// The condition after those of before: since then, or since now if it is another state.
    pub(crate) fn after(
        old: &[Self],
        kind: &str,
        (state, reason, message): (bool, &str, String),
        now: impl ToString,
    ) -> Self {
        let status = if state { "True" } else { "False" };
        let since = old.iter().find(|c| c.kind == kind && c.status == status);
        Self {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: since.map_or_else(|| now.to_string(), |c| c.last_transition_time.clone()),
        }
    }
}
