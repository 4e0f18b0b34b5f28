//! Reads a packed content: chunks from packs, decompressed and checked, and compressed again where a part says so.

use std::{io, ops::Range, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use futures::{StreamExt, stream};

use super::{
    bits::Writer,
    deflate::{again, guess::WINDOW},
    recipe::{Chunk, Lane, Part, Recipe},
    zstandard::Writing,
};
use crate::{
    digest::Digest,
    objects::{ByteStream, Objects, Shared},
};

/// Bytes of a pack that are read at once, and about what is sent at once.
const RUN: u32 = 1 << 20;

/// Key of a pack.
pub(crate) fn pack_key(pack: u32) -> String {
    format!("packs/{pack:08x}")
}

/// A part of a packed content.
pub(crate) fn stream(objects: Shared, recipe: Arc<Recipe>, range: Range<u64>) -> ByteStream {
    let mut reader = Reader {
        objects,
        recipe,
        lanes: Default::default(),
        part: 0,
        taken: 0,
        state: Compressor::default(),
        skip: range.start,
        left: range.end - range.start,
    };
    reader.seek();
    stream::try_unfold(
        reader,
        |mut reader| async move { Ok(reader.next().await?.map(|bytes| (bytes, reader))) },
    )
    .boxed()
}

/// What compressing goes on with.
#[derive(Default)]
struct Compressor {
    writer: Writer,
    /// What the next part may refer to.
    history: Vec<u8>,
    /// Of Zstandard, everything.
    frame: Option<Writing>,
}

/// Bytes of a lane that were read and not used, and the next chunk to read.
#[derive(Default)]
struct Ready {
    chunk: usize,
    bytes: BytesMut,
}

struct Reader {
    objects: Shared,
    recipe: Arc<Recipe>,
    lanes: [Ready; 3],
    part: usize,
    /// Plain bytes used of a raw part.
    taken: u64,
    state: Compressor,
    /// Bytes of the content that nobody asked for.
    skip: u64,
    left: u64,
}

impl Reader {
    /// Where everything is raw, chunks before the range need not be read.
    fn seek(&mut self) {
        if !matches!(self.recipe.parts[..], [Part::Raw(_)]) {
            return;
        }
        let ready = &mut self.lanes[Lane::Plain as usize];
        let chunks = &self.recipe.lanes[Lane::Plain as usize];
        while let Some(chunk) = chunks.get(ready.chunk).filter(|c| u64::from(c.plain) <= self.skip) {
            self.skip -= u64::from(chunk.plain);
            self.taken += u64::from(chunk.plain);
            ready.chunk += 1;
        }
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        while self.left > 0 {
            let Some(mut bytes) = self.produce().await? else {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the recipe is too short"));
            };
            let skipped = self.skip.min(bytes.len() as u64);
            bytes.advance(skipped as usize);
            self.skip -= skipped;
            bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len()));
            if !bytes.is_empty() {
                self.left -= bytes.len() as u64;
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// The next bytes of the content.
    async fn produce(&mut self) -> io::Result<Option<Bytes>> {
        let recipe = self.recipe.clone();
        let Some(part) = recipe.parts.get(self.part) else { return Ok(None) };
        match *part {
            Part::Raw(length) => {
                let left = length - self.taken;
                if left == 0 {
                    (self.part, self.taken) = (self.part + 1, 0);
                    return Ok(Some(Bytes::new()));
                }
                self.fill(Lane::Plain, 1).await?;
                let plain = &mut self.lanes[Lane::Plain as usize].bytes;
                let now = usize::try_from(left).unwrap_or(usize::MAX).min(plain.len());
                self.taken += now as u64;
                Ok(Some(plain.split_to(now).freeze()))
            }
            Part::Deflate { first, family, plain, packed, errors, tables } => {
                let [plain, errors, tables] = self.take_all([plain, errors, tables]).await?;
                let mut state = std::mem::take(&mut self.state);
                if first {
                    state = Compressor::default();
                }
                self.compress(packed, move || {
                    let Compressor { mut writer, history: mut text, .. } = state;
                    let start = text.len();
                    text.extend_from_slice(&plain);
                    let output = again(&mut writer, &text, start, family, &errors, &tables)?;
                    text.drain(..text.len().saturating_sub(WINDOW));
                    Some((output, Compressor { writer, history: text, frame: None }))
                })
                .await
            }
            Part::Zstandard { window, family, plain, packed, errors, tables } => {
                let [plain, errors, tables] = self.take_all([plain, errors, tables]).await?;
                let frame = match window {
                    Some(window) => Writing::new(family, window as usize),
                    None => self.state.frame.take(),
                };
                self.compress(packed, move || {
                    let mut frame = frame?;
                    let output = frame.part(&plain, &errors, &tables)?;
                    Some((output, Compressor { frame: Some(frame), ..Compressor::default() }))
                })
                .await
            }
        }
    }

    /// Compress a part on a thread of its own.
    async fn compress(
        &mut self,
        packed: u32,
        work: impl FnOnce() -> Option<(Vec<u8>, Compressor)> + Send + 'static,
    ) -> io::Result<Option<Bytes>> {
        self.part += 1;
        let (output, state) = tokio::task::spawn_blocking(work)
            .await
            .map_err(io::Error::other)?
            .filter(|(output, _)| output.len() == packed as usize)
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "a part cannot be compressed as it was")
            })?;
        self.state = state;
        Ok(Some(output.into()))
    }

    /// What a part needs of each lane.
    async fn take_all(&mut self, counts: [u32; 3]) -> io::Result<[Bytes; 3]> {
        Ok([
            self.take(Lane::Plain, counts[0]).await?,
            self.take(Lane::Errors, counts[1]).await?,
            self.take(Lane::Tables, counts[2]).await?,
        ])
    }

    async fn take(&mut self, lane: Lane, count: u32) -> io::Result<Bytes> {
        self.fill(lane, count as usize).await?;
        Ok(self.lanes[lane as usize].bytes.split_to(count as usize).freeze())
    }

    /// Have at least so many bytes of a lane.
    async fn fill(&mut self, lane: Lane, wanted: usize) -> io::Result<()> {
        let (ready, chunks) = (&mut self.lanes[lane as usize], &self.recipe.lanes[lane as usize]);
        while ready.bytes.len() < wanted {
            let rest = chunks.get(ready.chunk..).unwrap_or_default();
            let run = run_length(rest);
            let chunks = rest[..run].to_vec();
            if chunks.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the recipe has too few chunks"));
            }
            let bytes = read_run(&self.objects, chunks).await?;
            ready.bytes.extend_from_slice(&bytes);
            ready.chunk += run;
        }
        Ok(())
    }
}

/// How many of the first chunks lie one after the other in a pack, up to a bound.
fn run_length(chunks: &[Chunk]) -> usize {
    let (mut count, mut bytes) = (0, 0);
    while let Some(chunk) = chunks.get(count) {
        let follows = count == 0 || {
            let last = &chunks[count - 1];
            last.pack == chunk.pack && last.offset.checked_add(last.packed) == Some(chunk.offset)
        };
        if !follows || (count > 0 && bytes + chunk.packed > RUN) {
            break;
        }
        bytes += chunk.packed;
        count += 1;
    }
    count
}

/// Read, decompress and check chunks that lie one after the other.
pub(crate) async fn read_run(objects: &Objects, chunks: Vec<Chunk>) -> io::Result<Vec<u8>> {
    let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else { return Ok(Vec::new()) };
    let range = u64::from(first.offset)..u64::from(last.offset) + u64::from(last.packed);
    let base = first.offset;
    let pack = first.pack;
    let lost = || io::Error::new(io::ErrorKind::InvalidData, format!("pack {pack:08x} is missing"));
    let bytes = objects.read(&pack_key(pack), range).await?.ok_or_else(lost)?;
    let work = move || {
        let mut plain = Vec::with_capacity(chunks.iter().map(|c| c.plain as usize).sum());
        for chunk in &chunks {
            let start = (chunk.offset - base) as usize;
            let packed = bytes.get(start..start + chunk.packed as usize).unwrap_or_default();
            let part = zstd::bulk::decompress(packed, chunk.plain as usize)?;
            if Digest::of(&part).bytes()[..16] != chunk.hash {
                let message = format!("a chunk of pack {:08x} at {} is damaged", chunk.pack, chunk.offset);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            plain.extend_from_slice(&part);
        }
        Ok(plain)
    };
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
