//! Steps that were done before: a small file per step, by a digest of everything that its result depends on.

use std::fs;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::error::Result;
use crate::layers::ingest::{Place, unpack_blob};
use crate::oci::Descriptor;
use crate::store::Store;
use crate::store::lease::Lease;

/// A layer that a step made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NewLayer {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: Digest,
}

/// A step's result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    /// `None`: it changed no file.
    pub(crate) layer: Option<NewLayer>,
    pub(crate) created: String,
}

/// What an earlier run of the step gave, if all of it is still here.
pub(crate) fn get(store: &Store, lease: &Lease, key: &Digest, cancel: &CancellationToken) -> Option<Step> {
    let path = store.path("cache").join(key.hex());
    let step: Step = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
    if let Some(layer) = &step.layer {
        let (digest, diff_id) = (&layer.descriptor.digest, &layer.diff_id);
        store.protect(lease, [*digest, *diff_id]).ok()?;
        if !store.has_blob(digest, layer.descriptor.size) {
            return None;
        }
        if store.find_snapshot(diff_id, diff_id).is_none() {
            unpack_blob(store, lease, digest, place(diff_id), cancel).ok()?;
        }
    }
    // Steps that are used stay; a failure only makes this one look older.
    let _ = fs::File::open(&path).and_then(|file| file.set_modified(std::time::SystemTime::now()));
    Some(step)
}

/// Layers that were built describe all their directories: they do not lean on what is below.
pub(crate) fn place(diff_id: &Digest) -> Place<'_> {
    Place { diff_id, chain_id: diff_id, lowers: &[] }
}

/// Remember a step.
pub(crate) fn put(store: &Store, key: &Digest, step: &Step) -> Result<()> {
    let bytes = serde_json::to_vec(step).unwrap_or_default();
    store.replace_file(&store.path("cache").join(key.hex()), &bytes, false)
}
