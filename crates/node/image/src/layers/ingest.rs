//! One pass over a layer: store its bytes, decompress, verify both digests, unpack. No temporary copies.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::fixup;
use super::unpack::{Unpacked, stream_error, unpack};
use crate::compress::{Decoder, Format};
use crate::digest::{Digest, HashReader, Hasher};
use crate::error::{Error, Result};
use crate::store::Store;
use crate::store::blob::Partial;
use crate::store::lease::Lease;
use crate::tar::{TarError, TarReader};

/// A reader that stores and hashes what passes, and that can begin with what was stored before.
pub(crate) struct Tee<R, W> {
    earlier: Option<std::fs::File>,
    source: R,
    sink: W,
    hasher: Hasher,
    limit: u64,
    name: String,
}

impl<R: Read, W: Write> Tee<R, W> {
    pub(crate) fn new(source: R, sink: W, limit: u64, name: &str) -> Self {
        Self { earlier: None, source, sink, hasher: Hasher::default(), limit, name: name.to_owned() }
    }

    /// Pass these bytes first; they are in the sink already.
    pub(crate) fn after(mut self, earlier: std::fs::File) -> Self {
        self.earlier = Some(earlier);
        self
    }

    /// What passed: its digest and length, and the sink.
    fn end(self) -> (Digest, u64, W) {
        let size = self.hasher.bytes();
        (self.hasher.finish(), size, self.sink)
    }

    fn over(&self) -> io::Error {
        let what = format!("layer {}", self.name);
        io::Error::other(Error::Limit { what, limit: self.limit, unit: "bytes" })
    }
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(earlier) = &mut self.earlier {
            let read = earlier.read(buf)?;
            if read > 0 {
                self.hasher.update(&buf[..read]);
                return Ok(read);
            }
            self.earlier = None;
        }
        let read = self.source.read(buf)?;
        if self.hasher.bytes() + read as u64 > self.limit {
            return Err(self.over());
        }
        self.hasher.update(&buf[..read]);
        self.sink.write_all(&buf[..read])?;
        Ok(read)
    }
}

/// A layer that is unpacked in a scratch directory.
pub(crate) struct Streamed<W> {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) diff_id: Digest,
    pub(crate) format: Format,
    pub(crate) sink: W,
    /// The tar had its end marker.
    pub(crate) ended: bool,
    pub(crate) staged: Staged,
}

/// Files of a layer that are not shown yet.
pub(crate) struct Staged {
    dir: PathBuf,
    unpacked: Unpacked,
}

/// What a layer must turn out to be.
#[derive(Clone, Copy, Default)]
pub(crate) struct Expected<'a> {
    pub(crate) digest: Option<&'a Digest>,
    pub(crate) diff_id: Option<&'a Digest>,
}

/// Run a layer through.
pub(crate) fn stream<R: Read, W: Write>(
    store: &Store,
    lease: &Lease,
    mut tee: Tee<R, W>,
    expected: Expected<'_>,
    cancel: &CancellationToken,
) -> Result<Streamed<W>> {
    let name = tee.name.clone();
    let dir = lease.scratch_dir("snapshot")?;
    let files = dir.join("fs");
    std::fs::create_dir(&files).map_err(Error::io("create", &files))?;
    let outcome = unpack_stream(store, &mut tee, &files, &name, cancel);
    let (unpacked, diff_id, format, ended) = match outcome {
        Ok(parts) => parts,
        Err(error) => {
            let _ = std::fs::remove_dir_all(&dir);
            return Err(blame(error, tee, expected, &name));
        }
    };
    let (digest, size, sink) = tee.end();
    check(&format!("layer {name}"), expected.digest, digest)?;
    check(&format!("layer {name} (uncompressed)"), expected.diff_id, diff_id)?;
    Ok(Streamed { digest, size, diff_id, format, sink, ended, staged: Staged { dir, unpacked } })
}

fn unpack_stream<R: Read, W: Write>(
    store: &Store,
    tee: &mut Tee<R, W>,
    files: &Path,
    name: &str,
    cancel: &CancellationToken,
) -> Result<(Unpacked, Digest, Format, bool)> {
    let failed = |error| stream_error(name, "(stream)", TarError::Io(error));
    let decoder = Decoder::new(tee).map_err(failed)?;
    let format = decoder.format();
    if !format.is_for_layers() {
        let hint = "(hint: recompress it with gzip or zstd)";
        return Err(Error::archive(name, format!("a layer in {format:?} cannot be carried {hint}")));
    }
    let mut tar = TarReader::new(HashReader::new(decoder));
    let unpacked = unpack(&mut tar, files, name, &store.options.limits, cancel)?;
    let ended = tar.ended();
    let mut hashed = tar.into_inner();
    drain(&mut hashed, store.options.limits.unpacked_bytes, name).map_err(failed)?;
    let HashReader { hasher, .. } = &mut hashed;
    let diff_id = std::mem::take(hasher).finish();
    hashed.into_inner().finish().map_err(failed)?;
    Ok((unpacked, diff_id, format, ended))
}

/// Bytes behind the end marker count for the digest, but not without bound.
fn drain(reader: &mut impl Read, limit: u64, name: &str) -> io::Result<()> {
    let copied = io::copy(&mut reader.by_ref().take(limit), &mut io::sink())?;
    if copied == limit {
        let what = format!("bytes behind the end of layer {name}");
        return Err(io::Error::other(Error::Limit { what, limit, unit: "bytes" }));
    }
    Ok(())
}

/// A stream that cannot be unpacked may simply be corrupt: then say so.
fn blame<R: Read, W: Write>(error: Error, mut tee: Tee<R, W>, expected: Expected<'_>, name: &str) -> Error {
    let content = matches!(error, Error::Layer { .. });
    if !content || expected.digest.is_none() || io::copy(&mut tee, &mut io::sink()).is_err() {
        return error;
    }
    let (digest, ..) = tee.end();
    check(&format!("layer {name}"), expected.digest, digest).err().unwrap_or(error)
}

fn check(what: &str, expected: Option<&Digest>, actual: Digest) -> Result<()> {
    match expected {
        Some(expected) if *expected != actual => {
            Err(Error::DigestMismatch { what: what.to_owned(), expected: *expected, actual })
        }
        _ => Ok(()),
    }
}

/// An archive by itself has nothing below that its hard links could mean.
pub(crate) fn refuse_dangling(unpacked: &Unpacked, archive: &Path) -> Result<()> {
    match unpacked.dangling.first() {
        None => Ok(()),
        Some(link) => Err(Error::Layer {
            layer: archive.display().to_string(),
            entry: String::from_utf8_lossy(&link.path).into_owned(),
            reason: "a hard link to something that is not in the archive".into(),
        }),
    }
}

/// A layer's place in its image.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) diff_id: &'a Digest,
    pub(crate) chain_id: &'a Digest,
    /// Files of the layers below, top first.
    pub(crate) lowers: &'a [PathBuf],
}

/// Show a staged layer as a snapshot; all layers below are shown already. Gives its name.
pub(crate) fn show(store: &Store, lease: &Lease, staged: Staged, place: Place<'_>) -> Result<String> {
    // The bottom layer has nothing below that could matter.
    let alone = place.lowers.is_empty() && staged.unpacked.dangling.is_empty();
    let hex = if alone || !staged.unpacked.needs_parents() {
        place.diff_id.hex()
    } else {
        fixup::apply(&staged.dir.join("fs"), &staged.unpacked, place.lowers, &place.diff_id.to_string())?;
        place.chain_id.hex()
    };
    store.commit_snapshot(lease, &staged.dir, &hex, staged.unpacked.bytes)?;
    Ok(hex)
}

/// Unpack a layer whose blob is here.
pub(crate) fn unpack_blob(
    store: &Store,
    lease: &Lease,
    digest: &Digest,
    place: Place<'_>,
    cancel: &CancellationToken,
) -> Result<String> {
    let tee = Tee::new(store.open_blob(digest)?, io::sink(), u64::MAX, &digest.to_string());
    let expected = Expected { digest: Some(digest), diff_id: Some(place.diff_id) };
    let streamed = stream(store, lease, tee, expected, cancel)?;
    show(store, lease, streamed.staged, place)
}

/// Store and stage a blob of known digest from a stream, unless it is here. `None`: it was.
pub(crate) fn stage_blob<R: Read>(
    store: &Store,
    lease: &Lease,
    source: R,
    mut partial: Partial,
    expected: (&Digest, u64, &Digest),
    cancel: &CancellationToken,
) -> Result<Staged> {
    let (digest, size, diff_id) = expected;
    let earlier = if partial.len()? > 0 { Some(partial.reader()?) } else { None };
    partial.seek_end()?;
    let mut tee = Tee::new(source, &mut partial, size, &digest.to_string());
    if let Some(earlier) = earlier {
        tee = tee.after(earlier);
    }
    let expected = Expected { digest: Some(digest), diff_id: Some(diff_id) };
    match stream(store, lease, tee, expected, cancel) {
        Ok(Streamed { staged, .. }) => {
            partial.commit(store, digest)?;
            Ok(staged)
        }
        // Interrupted transfers keep what came; wrong content is thrown away.
        Err(error) if matches!(error, Error::Cancelled { .. } | Error::Registry { .. }) => Err(error),
        Err(error) => {
            partial.discard();
            Err(error)
        }
    }
}
