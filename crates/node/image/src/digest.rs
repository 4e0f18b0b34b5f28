//! Content digests and readers and writers that compute them on the way.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest, written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of a file's content.
    pub(crate) fn of_file(path: &std::path::Path) -> crate::Result<Self> {
        let mut file = std::fs::File::open(path).map_err(crate::Error::io("open", path))?;
        let (mut hasher, mut buffer) = (Hasher::default(), vec![0; 64 << 10]);
        loop {
            match file.read(&mut buffer).map_err(crate::Error::io("read", path))? {
                0 => return Ok(hasher.finish()),
                read => hasher.update(&buffer[..read]),
            }
        }
    }

    /// The 64 hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            text.push(HEX[usize::from(byte >> 4)] as char);
            text.push(HEX[usize::from(byte & 15)] as char);
        }
        text
    }

    /// The first 12 hex digits, as people know them from image ids.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }

    pub(crate) fn from_hex(hex: &str) -> Option<Self> {
        let hex = hex.as_bytes();
        if hex.len() != 64 {
            return None;
        }
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut out = [0u8; 32];
        for (index, pair) in hex.chunks_exact(2).enumerate() {
            out[index] = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(out))
    }

    /// The chain id of a layer on top of a parent chain, as OCI defines it.
    pub(crate) fn chain(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
        match parent {
            None => *diff_id,
            Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_prefix("sha256:")
            .and_then(Digest::from_hex)
            .ok_or_else(|| format!("{text:?} is not sha256: and 64 lower-case hex digits"))
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// Hashes bytes as they come.
#[derive(Clone, Default)]
pub(crate) struct Hasher {
    state: Sha256,
    bytes: u64,
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(self.state.finalize().into())
    }
}

/// Bytes that are hashed at once, and how many such blocks there are.
const BLOCK: usize = 1 << 20;
const BLOCKS: usize = 4;

/// A reader that hashes what passes through; what is longer than a block, on a thread of its own.
pub(crate) struct HashReader<R> {
    inner: R,
    block: Arc<Vec<u8>>,
    /// How much of the block was handed on.
    at: usize,
    /// Blocks that were read before, the oldest first.
    used: VecDeque<Arc<Vec<u8>>>,
    /// What came after the block.
    error: Option<io::Error>,
    side: Side,
}

enum Side {
    Here(Hasher),
    There { blocks: SyncSender<Arc<Vec<u8>>>, thread: JoinHandle<Hasher> },
}

impl<R: Read> HashReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            block: Arc::default(),
            at: 0,
            used: VecDeque::with_capacity(BLOCKS),
            error: None,
            side: Side::Here(Hasher::default()),
        }
    }

    /// What passed (and what was read ahead), and the source.
    pub(crate) fn finish(self) -> (Digest, R) {
        let hasher = match self.side {
            Side::Here(hasher) => hasher,
            Side::There { blocks, thread } => {
                drop(blocks);
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
        };
        (hasher.finish(), self.inner)
    }

    fn fill(&mut self) -> io::Result<()> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        // The thread has let go of the oldest block when it took the one after the next.
        let spare = if self.used.len() < BLOCKS - 1 { None } else { self.used.pop_front() };
        let mut block = spare.and_then(Arc::into_inner).unwrap_or_default();
        block.resize(BLOCK, 0);
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.error = Some(error);
                    break;
                }
            }
        }
        if filled == 0
            && let Some(error) = self.error.take()
        {
            return Err(error);
        }
        block.truncate(filled);
        let block = Arc::new(block);
        self.used.push_back(std::mem::replace(&mut self.block, block));
        self.at = 0;
        self.hash();
        Ok(())
    }

    fn hash(&mut self) {
        if let Side::Here(here) = &mut self.side {
            if self.block.len() < BLOCK {
                return here.update(&self.block);
            }
            let mut hasher = here.clone();
            let (blocks, receiver) = mpsc::sync_channel::<Arc<Vec<u8>>>(1);
            let work = move || {
                for block in receiver {
                    hasher.update(&block);
                }
                hasher
            };
            match std::thread::Builder::new().name("hash".into()).spawn(work) {
                Ok(thread) => self.side = Side::There { blocks, thread },
                // No thread to be had: then here.
                Err(_) => return here.update(&self.block),
            }
        }
        if let Side::There { blocks, .. } = &self.side {
            // It goes away only by panicking, which `finish` passes on.
            let _ = blocks.send(self.block.clone());
        }
    }
}

impl<R: Read> Read for HashReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() {
            self.fill()?;
        }
        let read = (&self.block[self.at..]).read(buf)?;
        self.at += read;
        Ok(read)
    }
}

/// A writer that hashes what passes through.
pub(crate) struct HashWriter<W> {
    pub(crate) inner: W,
    pub(crate) hasher: Hasher,
}

impl<W> HashWriter<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::default() }
    }
}

impl<W: Write> Write for HashWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buf)?;
        self.hasher.update(&buf[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        let digest = Digest::of(b"");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse::<Digest>().unwrap(), digest);
        for bad in ["", "sha256:", "sha512:00", "sha256:E3b0", &text.to_uppercase(), &format!("{text}0")] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    /// Gives few bytes at a time, and an error at the end.
    struct Drip(Vec<u8>, usize);

    impl Read for Drip {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.0.len() == self.1 {
                return Err(io::Error::other("it broke"));
            }
            let want = buf.len().min(70_001);
            let read = (&self.0[self.1..]).read(&mut buf[..want])?;
            self.1 += read;
            Ok(read)
        }
    }

    #[test]
    fn hashes_what_passes() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 9 * BLOCK + 17] {
            let bytes: Vec<u8> = (0..length).map(|at| (at * at / 7) as u8).collect();
            let mut reader = HashReader::new(bytes.as_slice());
            let mut out = Vec::new();
            reader.read_to_end(&mut out).unwrap();
            assert!(out == bytes);
            assert_eq!(reader.finish().0, Digest::of(&bytes), "{length}");
            // What came before an error is handed on first.
            let mut reader = HashReader::new(Drip(bytes.clone(), 0));
            let mut out = Vec::new();
            assert_eq!(reader.read_to_end(&mut out).unwrap_err().to_string(), "it broke");
            assert!(out == bytes);
            assert_eq!(reader.finish().0, Digest::of(&bytes), "{length}");
        }
    }
}
