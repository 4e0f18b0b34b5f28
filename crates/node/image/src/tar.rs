//! Reading and writing tar streams: ustar, GNU and PAX, with bounds on everything a stream controls.
//!
//! Not the `tar` crate, because binary xattr values (file capabilities may hold a newline), sparse maps, skipping
//! by seek and limits on header sizes are needed here.

pub(crate) mod pax;
pub(crate) mod reader;
pub(crate) mod sparse;
pub(crate) mod writer;

use std::io;

pub(crate) use reader::TarReader;
pub(crate) use writer::TarWriter;

/// Bytes of a block.
pub(crate) const BLOCK: usize = 512;

/// Why a stream cannot be read.
#[derive(Debug)]
pub(crate) enum TarError {
    Io(io::Error),
    Bad(String),
}

impl From<io::Error> for TarError {
    fn from(error: io::Error) -> Self {
        TarError::Io(error)
    }
}

impl std::fmt::Display for TarError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TarError::Io(error) => write!(f, "{error}"),
            TarError::Bad(reason) => f.write_str(reason),
        }
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Char,
    Block,
    Dir,
    Fifo,
    Other(u8),
}

/// One entry of a tar stream; its data follows from the reader.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Bytes of data in the stream.
    pub(crate) size: u64,
    pub(crate) mtime: (i64, u32),
    pub(crate) link: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: Option<sparse::Map>,
}

impl Entry {
    /// The path for messages.
    pub(crate) fn name(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}
