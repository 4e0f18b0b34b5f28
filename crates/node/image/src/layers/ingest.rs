//! One pass over a layer: decompress, verify both digests, unpack, and keep its bytes. No temporary copies.
//!
//! What is compressed is stored as it came. What is not is kept as its files and what lies between their data
//! (see `store::kept`): such a layer is written once.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::unpack::{Unpack, Unpacked, stream_error, unpack};
use super::{clone, fixup};
use crate::compress::{Decoder, Format};
use crate::digest::{Digest, HashReader, Hasher};
use crate::error::{Error, Result};
use crate::store::Store;
use crate::store::blob::Partial;
use crate::store::kept::{Assembled, LAYER, REPLACED_DIR, Recorder};
use crate::store::lease::{Lease, remove_tree};
use crate::store::snapshot::{Contents, Leans};
use crate::tar::{TarError, TarReader};

/// A reader that stores and hashes what passes, and that can begin with what was stored before.
pub(crate) struct Tee<R, W> {
    earlier: Option<std::fs::File>,
    source: R,
    sink: W,
    storing: bool,
    hashing: bool,
    hasher: Hasher,
    passed: u64,
    limit: u64,
    name: String,
}

impl<R: Read, W: Write> Tee<R, W> {
    pub(crate) fn new(source: R, sink: W, limit: u64, name: &str) -> Self {
        Self {
            earlier: None,
            source,
            sink,
            storing: true,
            hashing: true,
            hasher: Hasher::default(),
            passed: 0,
            limit,
            name: name.to_owned(),
        }
    }

    /// Pass these bytes first; they are in the sink already.
    pub(crate) fn after(mut self, earlier: std::fs::File) -> Self {
        self.earlier = Some(earlier);
        self
    }

    pub(crate) fn into_sink(self) -> W {
        self.sink
    }
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut read = match &mut self.earlier {
            Some(earlier) => earlier.read(buf)?,
            None => 0,
        };
        let stored = read > 0;
        if !stored {
            self.earlier = None;
            read = self.source.read(buf)?;
        }
        self.passed += read as u64;
        if self.passed > self.limit {
            let what = format!("layer {}", self.name);
            return Err(io::Error::other(Error::Limit { what, limit: self.limit, unit: "bytes" }));
        }
        if self.hashing {
            self.hasher.update(&buf[..read]);
        }
        if self.storing && !stored {
            self.sink.write_all(&buf[..read])?;
        }
        Ok(read)
    }
}

/// What a layer must turn out to be.
#[derive(Clone, Copy, Default)]
pub(crate) struct Expected<'a> {
    pub(crate) digest: Option<&'a Digest>,
    pub(crate) diff_id: Option<&'a Digest>,
}

/// A layer's way into the store.
#[derive(Clone, Copy)]
pub(crate) struct Ingest<'a> {
    pub(crate) store: &'a Store,
    pub(crate) lease: &'a Lease,
    pub(crate) expected: Expected<'a>,
    pub(crate) cancel: &'a CancellationToken,
}

/// A layer that is unpacked in a scratch directory.
pub(crate) struct Ingested {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) diff_id: Digest,
    pub(crate) format: Format,
    /// The tar had its end marker.
    pub(crate) ended: bool,
    /// Its bytes are in the scratch directory, and not in the sink.
    pub(crate) kept: bool,
    pub(crate) unpacked: Unpacked,
    dir: PathBuf,
}

/// Files of a layer that are not shown yet.
pub(crate) struct Staged {
    /// `None`: they are shown under the layer's own name.
    dir: Option<PathBuf>,
    unpacked: Unpacked,
}

/// Why a layer did not come in, and where that lies of it which can be used for the next attempt.
pub(crate) struct Failed {
    error: Error,
    rest: Option<PathBuf>,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        if let Some(dir) = failed.rest {
            remove_tree(&dir);
        }
        failed.error
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed { error, rest: None }
    }
}

impl Ingest<'_> {
    /// Run a layer through. With `keep`, what is not compressed does not go to the sink.
    pub(crate) fn run<R: Read, W: Write>(&self, tee: &mut Tee<R, W>, keep: bool) -> Result<Ingested, Failed> {
        let dir = self.lease.scratch_dir("snapshot")?;
        let outcome = self.unpack(tee, keep, &dir);
        if outcome.as_ref().is_err_and(|failed| failed.rest.is_none()) {
            remove_tree(&dir);
        }
        outcome
    }

    fn unpack<R: Read, W: Write>(
        &self,
        tee: &mut Tee<R, W>,
        keep: bool,
        dir: &Path,
    ) -> Result<Ingested, Failed> {
        let name = tee.name.clone();
        let failed = |error| stream_error(&name, "(stream)", TarError::Io(error));
        let files = dir.join("fs");
        std::fs::create_dir(&files).map_err(Error::io("create", &files))?;
        let mut decoder = Decoder::new(&mut *tee).map_err(failed)?;
        let format = decoder.format();
        if !format.is_for_layers() {
            let hint = "(hint: recompress it with gzip or zstd)";
            return Err(
                Error::archive(&name, format!("a layer in {format:?} cannot be carried {hint}")).into()
            );
        }
        if let Decoder::Plain(source) = &mut decoder {
            let tee = source.get_mut();
            tee.hashing = false;
            tee.storing &= !keep;
        }
        let kept = keep && format == Format::Plain;
        let (layer, replaced) = (dir.join(LAYER), dir.join(REPLACED_DIR));
        let recorder = Recorder::new(HashReader::new(decoder), kept.then_some(layer.as_path()))?;
        let mut tar = TarReader::new(recorder);
        let (limits, sync) = (&self.store.options.limits, self.store.options.sync);
        let replaced = kept.then_some(replaced.as_path());
        let how = Unpack { dir: &files, replaced, layer: &name, sync, limits, cancel: self.cancel };
        let unpacked = unpack(&mut tar, how);
        let ended = tar.ended();
        let mut recorder = tar.into_inner();
        let unpacked = match unpacked {
            Ok(unpacked) => unpacked,
            Err(error) if kept && is_interruption(&error) => {
                recorder.finish().map_err(Error::io("write", &layer))?;
                return Err(Failed { error, rest: Some(dir.to_owned()) });
            }
            // A stream that cannot be unpacked may simply be corrupt: then say so.
            Err(error @ Error::Layer { .. }) if self.expected.digest.is_some() => {
                // What is compressed is read to its end as it came: decompressed it has no bound here.
                let plain = format == Format::Plain;
                let whole = plain && io::copy(&mut recorder, &mut io::sink()).is_ok();
                let (diff_id, _) = recorder.finish().map_err(failed)?.finish();
                if whole {
                    check(&format!("layer {name}"), self.expected.digest, diff_id)?;
                } else if !plain && io::copy(tee, &mut io::sink()).is_ok() {
                    let digest = std::mem::take(&mut tee.hasher).finish();
                    check(&format!("layer {name}"), self.expected.digest, digest)?;
                }
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        };
        drain(&mut recorder, limits.unpacked_bytes, &name).map_err(failed)?;
        let (diff_id, decoder) = recorder.finish().map_err(failed)?.finish();
        decoder.finish().map_err(failed)?;
        let digest = if format == Format::Plain { diff_id } else { std::mem::take(&mut tee.hasher).finish() };
        check(&format!("layer {name}"), self.expected.digest, digest)?;
        check(&format!("layer {name} (uncompressed)"), self.expected.diff_id, diff_id)?;
        let (size, dir) = (tee.passed, dir.to_owned());
        Ok(Ingested { digest, size, diff_id, format, ended, kept, dir, unpacked })
    }

    /// Show a kept layer under its own name. `Some`: files were there already, but not the layer's bytes, which are
    /// still to be stored.
    pub(crate) fn keep(&self, ingested: &Ingested) -> Result<Option<Assembled>> {
        let Ingested { digest, size, dir, unpacked, .. } = ingested;
        let contents = Contents { bytes: unpacked.bytes, leans: unpacked.leans(), layer: Some(*size) };
        if self.store.commit_snapshot(self.lease, dir, &digest.hex(), contents)?
            || self.store.has_blob(digest, *size)
        {
            return Ok(None);
        }
        Assembled::open(dir).map(Some)
    }
}

impl Ingested {
    /// What [`show`] shows.
    pub(crate) fn staged(self) -> Staged {
        if self.kept {
            // Gone where it was shown; left where others were faster.
            remove_tree(&self.dir);
        }
        Staged { dir: (!self.kept).then_some(self.dir), unpacked: self.unpacked }
    }
}

fn is_interruption(error: &Error) -> bool {
    matches!(error, Error::Cancelled { .. } | Error::Registry { .. })
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
    let Staged { dir, unpacked } = staged;
    let by_diff = place.diff_id.hex();
    let mut contents = Contents { bytes: unpacked.bytes, ..Contents::default() };
    let dir = match dir {
        Some(dir) => dir,
        None => match store.find_snapshot(place.diff_id, place.chain_id) {
            Some(hex) => return Ok(hex),
            None => {
                let dir = lease.scratch_dir("snapshot")?;
                clone::tree(&store.snapshot_dir(&by_diff).join("fs"), &dir.join("fs"))?;
                contents.bytes = 0;
                dir
            }
        },
    };
    // The bottom layer has nothing below that could matter.
    let alone = place.lowers.is_empty() && unpacked.dangling.is_empty();
    let hex = if alone || unpacked.leans() == Leans::OnNothing {
        contents.leans = unpacked.leans();
        by_diff
    } else {
        fixup::apply(&dir.join("fs"), &unpacked, place.lowers, &place.diff_id.to_string())?;
        place.chain_id.hex()
    };
    if !store.commit_snapshot(lease, &dir, &hex, contents)? {
        remove_tree(&dir);
    }
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
    let mut tee = Tee::new(store.open_blob(digest)?, io::sink(), u64::MAX, &digest.to_string());
    let expected = Expected { digest: Some(digest), diff_id: Some(place.diff_id) };
    let ingested = Ingest { store, lease, expected, cancel }.run(&mut tee, false)?;
    show(store, lease, ingested.staged(), place)
}

/// Store and stage a blob of known digest from a stream.
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
    let ingest = Ingest { store, lease, expected, cancel };
    match ingest.run(&mut tee, true) {
        Ok(ingested) if ingested.kept => {
            match ingest.keep(&ingested)? {
                None => partial.discard(),
                Some(layer) => {
                    partial.fill(layer)?;
                    partial.commit(store, digest)?;
                }
            }
            Ok(ingested.staged())
        }
        Ok(ingested) => {
            partial.commit(store, digest)?;
            Ok(ingested.staged())
        }
        // Interrupted transfers keep what came; wrong content is thrown away.
        Err(failed) if is_interruption(&failed.error) => {
            if let Some(dir) = &failed.rest {
                partial.fill(Assembled::interrupted(dir)?)?;
            }
            Err(failed.into())
        }
        Err(failed) => {
            partial.discard();
            Err(failed.into())
        }
    }
}
