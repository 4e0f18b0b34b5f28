//! Packing: contents that lie idle are cut into chunks by what is in them, and each chunk is kept once.
//!
//! One round at a time. Chunks that are new go, compressed, into packs of about 16 MiB; beside each pack lies an index
//! of its chunks. When the packs are durable the recipes are written, each content is read back through its recipe and
//! checked against its digest, and only then its plain object goes. A crash at any moment leaves plain objects as they
//! are, and packs that nothing refers to, which [`super::super::gc`] removes.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use fastcdc::v2020::FastCDC;
use futures::TryStreamExt;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::{
    Contents,
    alike::{Alike, Refused, Sketch},
    apart::Apart,
    blob_key,
    recipe::{Chunk, Lane, Recipe},
    recipe_key,
    unpack::pack_key,
};
use crate::{
    digest::Digest,
    error::ApiResult,
    meta::{Change, Content, keys},
};

/// Smallest, usual and largest chunk of each lane.
const CHUNK: [(usize, usize, usize); 3] =
    [(16 << 10, 64 << 10, 256 << 10), (2 << 10, 8 << 10, 32 << 10), (2 << 10, 8 << 10, 32 << 10)];
/// Bytes of a pack, about.
const PACK: usize = 16 << 20;
/// zstd level of chunks: packing is not in anybody's way.
const LEVEL: i32 = 9;
/// What packing must save of a content, in hundredths.
const GAIN: i64 = 5;
/// The same where a compressed one is taken apart: what it costs at first is won when its next version comes. When one
/// that is like it has come, both together must save as much as others; see [`super::alike`].
const GAIN_APART: i64 = -10;

type Hash = [u8; 16];

/// Key of the index beside a pack.
pub(crate) fn index_key(pack: u32) -> String {
    format!("packs/{pack:08x}.idx")
}

/// The pack that a key is about, and whether the key is that of its index.
pub(crate) fn pack_of_key(key: &str) -> Option<(u32, bool)> {
    let name = key.strip_prefix("packs/")?;
    let (number, index) = name.strip_suffix(".idx").map_or((name, false), |number| (number, true));
    Some((u32::from_str_radix(number, 16).ok()?, index))
}

/// What a round did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Packed {
    pub(crate) contents: u64,
    /// Bytes of their plain objects, which are gone.
    pub(crate) before: u64,
    /// Bytes of new packs and recipes.
    pub(crate) after: u64,
}

/// One round of packing.
pub(crate) struct Round {
    contents: Arc<Contents>,
    cancel: CancellationToken,
    seen: Seen,
    open: Pack,
    /// Contents that were refused, and are worth another look now.
    reopened: Vec<Digest>,
    /// Contents whose chunks are not durable yet.
    waiting: Vec<(Digest, Content, Recipe)>,
    /// The number that the open pack will have.
    number: u32,
    /// The number of the next other pack.
    next: u32,
    pub(crate) done: Packed,
}

/// What is known of all contents while a round lasts.
#[derive(Default)]
struct Seen {
    chunks: HashMap<Hash, Chunk>,
    refused: Refused,
}

/// A pack that is being filled.
#[derive(Default)]
struct Pack {
    bytes: Vec<u8>,
    chunks: Vec<Chunk>,
}

impl Round {
    /// Reads the indexes of all packs: some 50 bytes of memory for each chunk, while the round lasts.
    pub(crate) async fn begin(
        contents: Arc<Contents>,
        cancel: CancellationToken,
        refused: Refused,
    ) -> ApiResult<Self> {
        let mut chunks = HashMap::new();
        let mut last = 0;
        for found in contents.objects.list("packs").await? {
            let Some((pack, is_index)) = pack_of_key(&found.key) else { continue };
            last = last.max(pack);
            if !is_index {
                continue;
            }
            let bytes = contents.objects.read_all(&found.key).await?.unwrap_or_default();
            let mut input = &bytes[..];
            while let Some(chunk) = Chunk::decode(&mut input) {
                chunks.insert(chunk.hash, chunk);
            }
        }
        Ok(Self {
            contents,
            cancel,
            seen: Seen { chunks, refused },
            open: Pack::default(),
            reopened: Vec::new(),
            waiting: Vec::new(),
            number: last + 1,
            next: last + 2,
            done: Packed::default(),
        })
    }

    /// Cut one content up. It counts when [`Round::finish`] returns.
    pub(crate) async fn add(&mut self, digest: &Digest, content: Content) -> ApiResult<()> {
        let Some(file) = self.local_copy(digest, content.size).await? else { return Ok(()) };
        let seen = std::mem::take(&mut self.seen);
        let open = std::mem::take(&mut self.open);
        let temporary = self.contents.temporary();
        let fresh =
            Fresh { number: self.next, temporary, pack: Pack::default(), sealed: Vec::new(), bytes: 0 };
        let (number, cancel, of) = (self.number, self.cancel.clone(), (digest.clone(), content.size));
        let work = move || cut(file, of, seen, (number, open), fresh, &cancel);
        let cut = tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?;
        (self.seen, self.open) = (cut.seen, cut.open);
        let (recipe, sealed, alike) = match cut.outcome {
            Ok(Outcome::Worth(recipe, sealed, alike)) => (recipe, sealed, alike),
            Ok(Outcome::Costly(sketch)) => {
                self.leave(digest, &sketch).await?;
                self.seen.refused.add(digest.clone(), content.size, &sketch);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for other in alike {
            self.seen.refused.forget(&other.digest);
            self.reopened.push(other.digest);
        }
        self.done.after += recipe.encode()?.len() as u64;
        for (pack, path, chunks) in sealed {
            self.next = self.next.max(pack + 1);
            self.store_index(pack, &chunks).await?;
            self.done.after += tokio::fs::metadata(&path).await?.len();
            self.contents.objects.put_file(&pack_key(pack), &path).await?;
        }
        self.waiting.push((digest.clone(), content, recipe));
        if self.open.bytes.len() >= PACK {
            self.seal().await?;
        }
        Ok(())
    }

    /// One that was refused, now or long ago, and may be worth it by what was added since.
    pub(crate) fn reopened(&mut self) -> Option<Digest> {
        self.reopened.pop()
    }

    /// Packing brings nothing: do not try again, unless something comes that is like it.
    async fn leave(&self, digest: &Digest, sketch: &Sketch) -> ApiResult<()> {
        let _lock = self.contents.lock(digest).await;
        if let Some((content, revision)) = self.contents.meta.content(digest).await? {
            let mut change = Change::default();
            let content = Content { plain: true, ..content };
            let value = [content.encode(), sketch.encode()].concat();
            change.at(keys::content(digest), revision).put(keys::content(digest), value);
            self.contents.meta.commit(change).await?;
        }
        Ok(())
    }

    async fn store_index(&self, pack: u32, chunks: &[Chunk]) -> ApiResult<()> {
        let mut index = Vec::with_capacity(chunks.len() * Chunk::BYTES);
        for chunk in chunks {
            chunk.encode(&mut index);
        }
        self.contents.objects.put(&index_key(pack), index.into()).await
    }

    /// The open pack becomes durable, and with it the contents that wait for it.
    async fn seal(&mut self) -> ApiResult<()> {
        let pack = std::mem::take(&mut self.open);
        if !pack.bytes.is_empty() {
            let number = self.number;
            self.done.after += pack.bytes.len() as u64;
            self.contents.objects.put(&pack_key(number), pack.bytes.into()).await?;
            self.store_index(number, &pack.chunks).await?;
            (self.number, self.next) = (self.next, self.next + 1);
        }
        for (digest, content, recipe) in std::mem::take(&mut self.waiting) {
            self.swap(&digest, content, recipe).await?;
        }
        Ok(())
    }

    /// Write the recipe, read the content back through it, and drop the plain object if it is the same.
    async fn swap(&mut self, digest: &Digest, content: Content, recipe: Recipe) -> ApiResult<()> {
        let contents = self.contents.clone();
        let written = contents.replace_recipe(digest, &recipe).await?;
        drop(recipe);
        // By what was written, as every reader will.
        let read = tokio::task::spawn_blocking(move || Recipe::decode(&written));
        let same = match read.await.map_err(io::Error::other)? {
            Ok(recipe) => {
                let (objects, recipe) = (contents.objects.clone(), Arc::new(recipe));
                contents.verify(digest, super::unpack::stream(objects, recipe, 0..content.size)).await?
            }
            Err(why) => {
                tracing::warn!(%digest, "its recipe {why}");
                false
            }
        };
        if !same {
            tracing::warn!(%digest, "cannot be put together again from its chunks; it stays as it is");
            contents.objects.delete(&recipe_key(digest)).await?;
            return self.leave(digest, &Sketch::default()).await;
        }
        let _lock = contents.lock(digest).await;
        let Some((now, revision)) = contents.meta.content(digest).await? else {
            // It was collected meanwhile.
            return contents.objects.delete(&recipe_key(digest)).await;
        };
        let mut change = Change::default();
        let packed = Content { packed: true, plain: false, ..now };
        change.at(keys::content(digest), revision).put(keys::content(digest), packed.encode());
        if contents.meta.commit(change).await? {
            contents.objects.delete(&blob_key(digest)).await?;
            self.done.contents += 1;
            self.done.before += content.size;
        }
        Ok(())
    }

    /// Make the rest durable.
    pub(crate) async fn finish(mut self) -> ApiResult<Packed> {
        self.seal().await?;
        Ok(self.done)
    }

    async fn local_copy(&self, digest: &Digest, size: u64) -> ApiResult<Option<File>> {
        let path = self.contents.temporary();
        if !self.contents.objects.is_remote() {
            // Opened below the lock's notice: if it goes meanwhile, the record says so in the end.
            let plain = self.contents.local_plain(digest);
            return Ok(File::open(plain).ok());
        }
        let Some(mut stream) = self.contents.objects.stream(&blob_key(digest), 0..size).await? else {
            return Ok(None);
        };
        let mut file = tokio::fs::File::create_new(&path).await?;
        while let Some(bytes) = stream.try_next().await? {
            file.write_all(&bytes).await?;
        }
        file.flush().await?;
        let file = File::open(&path)?;
        // It lives as long as it is open.
        tokio::fs::remove_file(&path).await?;
        Ok(Some(file))
    }
}

impl Contents {
    fn local_plain(&self, digest: &Digest) -> PathBuf {
        // The directory for unfinished work lies beside the blobs.
        self.temporary.with_file_name(blob_key(digest))
    }
}

type Sealed = Vec<(u32, PathBuf, Vec<Chunk>)>;

struct Cut {
    seen: Seen,
    open: Pack,
    outcome: io::Result<Outcome>,
}

/// What came of cutting up.
enum Outcome {
    /// The recipe, packs that were filled, and contents that were refused before and are like it.
    Worth(Recipe, Sealed, Vec<Alike>),
    /// It brings nothing as long as nothing like it is there.
    Costly(Sketch),
}

/// Cut up one content. A small number of new chunks goes into the open pack, many into packs of their own.
fn cut(
    file: File,
    (digest, size): (Digest, u64),
    mut seen: Seen,
    (number, mut open): (u32, Pack),
    mut fresh: Fresh,
    cancel: &CancellationToken,
) -> Cut {
    let mut recipe = Recipe { size, ..Recipe::default() };
    let mut added: Vec<Hash> = Vec::new();
    let mut apart = Apart::new(file);
    let mut keep = |lane: Lane, data: &[u8]| -> io::Result<()> {
        if cancel.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut hash = [0; 16];
        hash.copy_from_slice(&Digest::of(data).bytes()[..16]);
        let chunk = match seen.chunks.get(&hash) {
            Some(chunk) => *chunk,
            None => {
                let chunk = fresh.push(hash, data)?;
                seen.chunks.insert(hash, chunk);
                added.push(hash);
                chunk
            }
        };
        recipe.lanes[lane as usize].push(chunk);
        Ok(())
    };
    let outcome = cut_all(&mut apart, &mut keep).and_then(|()| {
        recipe.parts = std::mem::take(&mut apart.parts);
        let encoded = match recipe.encode() {
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                return Ok(Outcome::Costly(Sketch::default()));
            }
            other => other?.len() as u64,
        };
        let cost = fresh.bytes + encoded;
        let apart = recipe.is_taken_apart();
        let alike = seen.refused.like(&digest, recipe.lanes[Lane::Plain as usize].iter());
        tracing::debug!(size, cost, apart, alike = alike.len(), "cut up");
        let gain = if apart { GAIN_APART } else { GAIN };
        if !saves(cost, size, gain) && !alike.first().is_some_and(|other| worth_both(cost, size, other)) {
            return Ok(Outcome::Costly(Sketch::of(recipe.lanes[Lane::Plain as usize].iter())));
        }
        if fresh.sealed.is_empty() {
            fresh.join(number, &mut open, &mut seen.chunks, &mut recipe);
        } else {
            fresh.seal()?;
        }
        Ok(Outcome::Worth(recipe, std::mem::take(&mut fresh.sealed), alike))
    });
    if !matches!(outcome, Ok(Outcome::Worth(..))) {
        // What will not be there must not be found.
        for hash in added {
            seen.chunks.remove(&hash);
        }
        for (_, path, _) in &fresh.sealed {
            let _ = std::fs::remove_file(path);
        }
    }
    Cut { seen, open, outcome }
}

/// Whether `cost` instead of `size` bytes save so many hundredths.
fn saves(cost: u64, size: u64, hundredths: i64) -> bool {
    i128::from(cost) * 100 <= i128::from(size) * i128::from(100 - hundredths)
}

/// Whether this content and the other one save enough together: of the other that will be kept which is not shared.
fn worth_both(cost: u64, size: u64, other: &Alike) -> bool {
    let (whole, own) = (u128::from(cost) * u128::from(other.size), u128::from(100 - other.shared));
    let rest = whole * own / 100 / u128::from(size.max(1));
    saves(cost.saturating_add(u64::try_from(rest).unwrap_or(u64::MAX)), size.saturating_add(other.size), GAIN)
}

/// Everything that a content is made of, in chunks.
fn cut_all(apart: &mut Apart, keep: &mut impl FnMut(Lane, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut cutters = [Lane::Plain, Lane::Errors, Lane::Tables].map(Cutter::new);
    while let Some(piece) = apart.next()? {
        for (cutter, bytes) in cutters.iter_mut().zip([piece.plain, piece.errors, piece.tables]) {
            cutter.push(&bytes, keep)?;
        }
    }
    cutters.into_iter().try_for_each(|mut cutter| cutter.cut(0, keep))
}

/// Cuts a lane where its content says so.
struct Cutter {
    lane: Lane,
    bytes: Vec<u8>,
}

impl Cutter {
    /// Bytes that are looked at together.
    const BATCH: usize = 1 << 20;

    fn new(lane: Lane) -> Self {
        Self { lane, bytes: Vec::new() }
    }

    fn push(&mut self, bytes: &[u8], keep: &mut impl FnMut(Lane, &[u8]) -> io::Result<()>) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        let (_, _, largest) = CHUNK[self.lane as usize];
        // Where a chunk ends is known when there is as much as the largest has.
        if self.bytes.len() >= Self::BATCH { self.cut(largest, keep) } else { Ok(()) }
    }

    /// Cut until less than `rest` is left.
    fn cut(&mut self, rest: usize, keep: &mut impl FnMut(Lane, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let (least, usual, largest) = CHUNK[self.lane as usize];
        let (mut at, cutter) = (0, FastCDC::new(&self.bytes, least, usual, largest));
        while at < self.bytes.len() && self.bytes.len() - at >= rest {
            let (_, end) = cutter.cut(at, self.bytes.len() - at);
            keep(self.lane, &self.bytes[at..end])?;
            at = end;
        }
        self.bytes.drain(..at);
        Ok(())
    }
}

/// New chunks of one content.
struct Fresh {
    /// The number of the pack that is filled.
    number: u32,
    temporary: PathBuf,
    pack: Pack,
    sealed: Sealed,
    bytes: u64,
}

impl Fresh {
    fn push(&mut self, hash: Hash, data: &[u8]) -> io::Result<Chunk> {
        let packed = zstd::bulk::compress(data, LEVEL)?;
        let chunk = Chunk {
            hash,
            pack: self.number,
            offset: self.pack.bytes.len() as u32,
            packed: packed.len() as u32,
            plain: data.len() as u32,
        };
        self.pack.bytes.extend_from_slice(&packed);
        self.pack.chunks.push(chunk);
        self.bytes += packed.len() as u64;
        if self.pack.bytes.len() >= PACK {
            self.seal()?;
        }
        Ok(chunk)
    }

    fn seal(&mut self) -> io::Result<()> {
        let pack = std::mem::take(&mut self.pack);
        if pack.bytes.is_empty() {
            return Ok(());
        }
        let path = self.temporary.with_extension(format!("{:08x}", self.number));
        let written = File::create_new(&path).and_then(|mut file| file.write_all(&pack.bytes));
        self.sealed.push((self.number, path, pack.chunks));
        self.number += 1;
        written
    }

    /// They move into the open pack, which has this number.
    fn join(&mut self, to: u32, open: &mut Pack, known: &mut HashMap<Hash, Chunk>, recipe: &mut Recipe) {
        let pack = std::mem::take(&mut self.pack);
        let shift = open.bytes.len() as u32;
        let from = self.number;
        let moved = |chunk: &mut Chunk| {
            if chunk.pack == from {
                (chunk.pack, chunk.offset) = (to, chunk.offset + shift);
            }
        };
        open.bytes.extend_from_slice(&pack.bytes);
        for mut chunk in pack.chunks {
            moved(&mut chunk);
            known.insert(chunk.hash, chunk);
            open.chunks.push(chunk);
        }
        recipe.chunks_mut().for_each(moved);
    }
}
