//! Layers as directories in overlayfs form.

pub(crate) mod lookup;
