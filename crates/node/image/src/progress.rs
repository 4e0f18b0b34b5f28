//! What a long operation tells its caller while it runs.

use std::sync::Arc;

use crate::digest::Digest;

/// Receives progress. Called from any thread; must return quickly.
pub type ProgressFn = Arc<dyn Fn(Progress) + Send + Sync>;

/// One step of a pull or an import.
#[derive(Clone, Debug)]
pub enum Progress {
    /// The manifest is known.
    Resolved {
        /// The normalised name.
        reference: String,
        /// Digest of the manifest.
        digest: Digest,
        /// How many layers it has.
        layers: usize,
        /// Their bytes as transferred.
        bytes: u64,
    },
    /// One layer moved on.
    Layer {
        /// Digest of the layer as it is transferred.
        digest: Digest,
        /// Bytes done.
        done: u64,
        /// Bytes in all, when known.
        total: Option<u64>,
        /// What is being done.
        state: LayerState,
    },
}

/// What is being done with a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// Bytes arrive.
    Downloading,
    /// Bytes leave.
    Uploading,
    /// Being written as files.
    Unpacking,
    /// Ready.
    Done,
    /// Was there already.
    Exists,
}

pub(crate) fn report(progress: Option<&ProgressFn>, event: Progress) {
    if let Some(progress) = progress {
        progress(event);
    }
}
