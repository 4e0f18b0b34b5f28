//! What a manifest says: OCI image manifests and indexes, and Docker's schema 2 manifests and lists.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{
    digest::Digest,
    error::{ApiError, ApiResult},
};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// All of them, for `Accept`.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.artifact.manifest.v1+json";

/// Where something else is.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) digest: Digest,
    pub(crate) size: i64,
    #[serde(default)]
    pub(crate) media_type: String,
    #[serde(default)]
    pub(crate) urls: Vec<String>,
}

/// A manifest that was understood.
#[derive(Clone, Debug)]
pub(crate) struct Parsed {
    pub(crate) media_type: &'static str,
    /// Config and layers; not those that are elsewhere.
    pub(crate) blobs: Vec<Descriptor>,
    pub(crate) manifests: Vec<Descriptor>,
    pub(crate) subject: Option<Digest>,
    pub(crate) artifact_type: String,
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u32>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

fn known(media_type: &str) -> Option<&'static str> {
    [OCI_MANIFEST, OCI_INDEX, OCI_ARTIFACT, DOCKER_MANIFEST, DOCKER_LIST]
        .into_iter()
        .find(|k| *k == media_type)
}

impl Parsed {
    /// `content_type`: as the client sent it.
    pub(crate) fn parse(content_type: &str, bytes: &[u8], most: usize) -> ApiResult<Self> {
        let invalid = ApiError::manifest_invalid;
        let document: Document = serde_json::from_slice(bytes)
            .map_err(|error| invalid(format!("the manifest cannot be read: {error}")))?;
        if document.schema_version == Some(1) {
            return Err(invalid(
                "schema 1 manifests are not supported (hint: push with a newer client)".into(),
            ));
        }
        let content_type = content_type.split(';').next().unwrap_or_default().trim();
        let said = document.media_type.as_deref().filter(|said| !said.is_empty());
        if let Some(said) = said.filter(|said| !content_type.is_empty() && *said != content_type) {
            return Err(invalid(format!(
                "the manifest says it is {said:.200} and was sent as {content_type:.200}"
            )));
        }
        let name = said.unwrap_or(content_type);
        let media_type = known(name)
            .ok_or_else(|| invalid(format!("manifests of type {name:.200?} are not supported")))?;
        if document.schema_version != Some(2) && media_type != OCI_ARTIFACT {
            return Err(invalid("schemaVersion must be 2".into()));
        }
        let has_image = document.config.is_some() || document.layers.is_some();
        let (blobs, manifests, config_type) = match media_type {
            OCI_INDEX | DOCKER_LIST => {
                // A document that is both could be read in two ways.
                if has_image || document.blobs.is_some() {
                    return Err(invalid("an index has no config and no layers".into()));
                }
                let list = document.manifests.ok_or_else(|| invalid("an index needs manifests".into()))?;
                (Vec::new(), list, String::new())
            }
            OCI_ARTIFACT => (document.blobs.unwrap_or_default(), Vec::new(), String::new()),
            _ => {
                if document.manifests.is_some() {
                    return Err(invalid("an image manifest has no manifests".into()));
                }
                let config =
                    document.config.ok_or_else(|| invalid("an image manifest needs a config".into()))?;
                let config_type = config.media_type.clone();
                let mut blobs = vec![config];
                blobs
                    .extend(document.layers.ok_or_else(|| invalid("an image manifest needs layers".into()))?);
                (blobs, Vec::new(), config_type)
            }
        };
        if blobs.len() + manifests.len() > most {
            return Err(invalid(format!("a manifest may refer to at most {most} others")));
        }
        if blobs.iter().chain(&manifests).any(|descriptor| descriptor.size < 0) {
            return Err(invalid("a size is negative".into()));
        }
        let foreign = |d: &Descriptor| {
            !d.urls.is_empty()
                || d.media_type.contains(".nondistributable.")
                || d.media_type.contains(".foreign.")
        };
        let subject = document.subject.map(|subject| subject.digest);
        Ok(Self {
            media_type,
            blobs: blobs.into_iter().filter(|descriptor| !foreign(descriptor)).collect(),
            manifests,
            artifact_type: document.artifact_type.filter(|kind| !kind.is_empty()).unwrap_or(config_type),
            // Only the list of referrers shows them.
            annotations: if subject.is_some() {
                document.annotations.unwrap_or_default()
            } else {
                BTreeMap::new()
            },
            subject,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(content_type: &str, value: &serde_json::Value) -> ApiResult<Parsed> {
        Parsed::parse(content_type, value.to_string().as_bytes(), 10)
    }

    #[test]
    fn images_indexes_and_artifacts() {
        let blob = json!({ "digest": Digest::of(b"x"), "size": 1, "mediaType": "a/b" });
        let foreign = json!({ "digest": Digest::of(b"y"), "size": 1, "urls": ["https://elsewhere"] });
        let image = json!({ "schemaVersion": 2, "config": blob, "layers": [blob, foreign], "subject": blob });
        let parsed = parse(OCI_MANIFEST, &image).unwrap();
        assert_eq!((parsed.blobs.len(), parsed.artifact_type.as_str()), (2, "a/b"));
        assert_eq!(parsed.subject, Some(Digest::of(b"x")));
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [blob] });
        assert_eq!(parse(OCI_INDEX, &index).unwrap().manifests.len(), 1);
        let refused = [
            (OCI_MANIFEST, index.clone()),
            (OCI_MANIFEST, json!({ "schemaVersion": 2, "manifests": [], "config": blob, "layers": [] })),
            (OCI_INDEX, json!({ "schemaVersion": 2, "manifests": [], "layers": [] })),
            (OCI_MANIFEST, json!({ "schemaVersion": 1 })),
            (OCI_MANIFEST, json!({ "schemaVersion": 2, "layers": [] })),
            (
                OCI_MANIFEST,
                json!({ "schemaVersion": 2, "config": { "digest": "sha256:1", "size": 1 }, "layers": [] }),
            ),
            (OCI_INDEX, json!({ "schemaVersion": 2, "manifests": vec![blob.clone(); 11] })),
            (
                OCI_INDEX,
                json!({ "schemaVersion": 2, "manifests": [{ "digest": Digest::of(b""), "size": -1 }] }),
            ),
            ("text/plain", json!({ "schemaVersion": 2 })),
        ];
        for (content_type, value) in refused {
            assert_eq!(parse(content_type, &value).unwrap_err().code, "MANIFEST_INVALID", "{value}");
        }
    }
}
