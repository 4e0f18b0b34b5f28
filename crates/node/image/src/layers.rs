//! Layers as directories in overlayfs form: from a tar stream, to a tar stream, and read as a stack.

pub(crate) mod clone;
pub(crate) mod diff;
pub(crate) mod fixup;
pub(crate) mod ingest;
pub(crate) mod lookup;
pub(crate) mod meta;
pub(crate) mod tree;
pub(crate) mod unpack;

/// Prefix of a file that deletes its namesake in lower layers.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// Marks a directory whose lower content is hidden.
pub(crate) const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";
/// Prefix of files that old layers carry for their own use.
pub(crate) const WHITEOUT_META: &[u8] = b".wh..wh.";
/// overlayfs' mark of an opaque directory.
pub(crate) const OPAQUE_XATTR: &std::ffi::CStr = c"trusted.overlay.opaque";
/// Attributes that belong to overlayfs and never to an image.
pub(crate) const OVERLAY_XATTRS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Whether a file is overlayfs' whiteout: a character device 0:0.
pub(crate) fn is_whiteout(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}
