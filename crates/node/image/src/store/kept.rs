//! Layers that are kept once: as their files, and what of the tar stream is none of their data.
//!
//! An uncompressed layer says nothing that its unpacked files do not hold, but for headers, padding and what later
//! entries replaced. Beside the files lies `layer`, which has that and says where the files' data comes in; together
//! they give the blob bit for bit (the idea of Vincent Batts' tar-split). So such a layer is written once and takes
//! its room once.
//!
//! `layer` is a zstd stream of records: [`INLINE`] with a length (u32) and bytes; [`FILE`] with a path (u16 length,
//! bytes, relative to `fs`) and a length (u64); [`REPLACED`] with a path and a number (u32): from here on what was at
//! that path lies in `replaced/<number>`. Numbers are little-endian.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use crate::error::{Error, Result};
use crate::tar::reader::Source;

/// The file beside `fs`.
pub(crate) const LAYER: &str = "layer";
/// The directory beside `fs` with what later entries of the same layer replaced.
pub(crate) const REPLACED_DIR: &str = "replaced";

const INLINE: u8 = 1;
const FILE: u8 = 2;
const REPLACED: u8 = 3;
/// Bytes of one inline record.
const MAX_INLINE: usize = 64 << 10;

/// Passes a tar stream on, and writes down what of it is no data of files if it was told to.
pub(crate) struct Recorder<R> {
    inner: R,
    record: Option<Record>,
    /// Bytes to come that are data of a file.
    data: u64,
}

struct Record {
    out: zstd::stream::write::Encoder<'static, BufWriter<File>>,
    inline: Vec<u8>,
}

impl<R: Read> Recorder<R> {
    /// Without a path nothing is written down.
    pub(crate) fn new(inner: R, path: Option<&Path>) -> Result<Self> {
        let record = path
            .map(|path| -> Result<Record> {
                let file = File::create_new(path).map_err(Error::io("create", path))?;
                let out = zstd::stream::write::Encoder::new(BufWriter::new(file), 1)
                    .map_err(Error::io("write", path))?;
                Ok(Record { out, inline: Vec::with_capacity(MAX_INLINE) })
            })
            .transpose()?;
        Ok(Self { inner, record, data: 0 })
    }

    /// Write down what is left, and give the source back.
    pub(crate) fn finish(self) -> io::Result<R> {
        if let Some(mut record) = self.record {
            record.flush()?;
            record.out.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        }
        Ok(self.inner)
    }
}

impl Record {
    fn flush(&mut self) -> io::Result<()> {
        if !self.inline.is_empty() {
            self.out.write_all(&[INLINE])?;
            self.out.write_all(&u32::try_from(self.inline.len()).unwrap_or_default().to_le_bytes())?;
            self.out.write_all(&self.inline)?;
            self.inline.clear();
        }
        Ok(())
    }

    fn inline(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let fits = bytes.len().min(MAX_INLINE - self.inline.len());
            self.inline.extend_from_slice(&bytes[..fits]);
            bytes = &bytes[fits..];
            if self.inline.len() == MAX_INLINE {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn path(&mut self, kind: u8, path: &[u8], number: &[u8]) -> io::Result<()> {
        self.flush()?;
        self.out.write_all(&[kind])?;
        self.out.write_all(&u16::try_from(path.len()).map_err(io::Error::other)?.to_le_bytes())?;
        self.out.write_all(path)?;
        self.out.write_all(number)
    }
}

impl<R: Read> Read for Recorder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        if let Some(record) = &mut self.record {
            let data = usize::try_from(self.data).unwrap_or(usize::MAX).min(read);
            self.data -= data as u64;
            record.inline(&buf[data..read])?;
        }
        Ok(read)
    }
}

impl<R: Read> Source for Recorder<R> {
    fn data_lies_in(&mut self, path: &[u8], bytes: u64) -> io::Result<()> {
        match &mut self.record {
            Some(record) if bytes > 0 => {
                self.data = bytes;
                record.path(FILE, path, &bytes.to_le_bytes())
            }
            _ => Ok(()),
        }
    }

    fn replaced(&mut self, path: &[u8], number: u32) -> io::Result<()> {
        match &mut self.record {
            Some(record) => record.path(REPLACED, path, &number.to_le_bytes()),
            None => Ok(()),
        }
    }
}

/// Reads a kept layer bit for bit.
pub(crate) struct Assembled {
    records: Records,
    dir: PathBuf,
    root: OwnedFd,
    replaced: HashMap<Vec<u8>, Vec<(u64, u32)>>,
    /// Records that were read.
    at: u64,
    part: Part,
    /// What was interrupted ends where the data ends; what is whole does not.
    cut: bool,
}

enum Part {
    Next,
    Inline(u64),
    Data { file: File, left: u64, path: Vec<u8> },
    End,
}

type Records = BufReader<zstd::stream::read::Decoder<'static, BufReader<File>>>;

impl Assembled {
    /// The layer in a directory that has `fs` and `layer`.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let mut layer = Self::start(dir)?;
        if dir.join(REPLACED_DIR).exists() {
            layer.find_replaced().map_err(Error::io("read", &dir.join(LAYER)))?;
            layer = Self { replaced: layer.replaced, ..Self::start(dir)? };
        }
        Ok(layer)
    }

    /// As much of a layer as was unpacked when the transfer was interrupted.
    pub(crate) fn interrupted(dir: &Path) -> Result<Self> {
        Ok(Self { cut: true, ..Self::open(dir)? })
    }

    fn start(dir: &Path) -> Result<Self> {
        let path = dir.join(LAYER);
        let io = Error::io("open", &path);
        let decoder = File::open(&path).and_then(zstd::stream::read::Decoder::new).map_err(io)?;
        let files = dir.join("fs");
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root =
            nix::fcntl::open(&files, flags, Mode::empty()).map_err(Error::errno("open", files.as_path()))?;
        Ok(Self {
            records: BufReader::new(decoder),
            dir: dir.to_owned(),
            root,
            replaced: HashMap::new(),
            at: 0,
            part: Part::Next,
            cut: false,
        })
    }

    /// Where a file lies now: what was replaced first took along what was below it.
    fn place(&self, path: &[u8]) -> io::Result<File> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let moved = ends
            .chain([path.len()])
            .filter_map(|end| {
                let moves = self.replaced.get(&path[..end])?;
                let next = moves.partition_point(|(at, _)| *at <= self.at);
                moves.get(next).map(|(at, number)| (*at, *number, end))
            })
            .min();
        match moved {
            None => beneath(&self.root, path),
            Some((_, number, end)) => {
                let mut path = path[end..].to_vec();
                path.splice(..0, number.to_string().into_bytes());
                let dir = self.dir.join(REPLACED_DIR);
                beneath(&OwnedFd::from(File::open(&dir)?), &path)
            }
        }
    }

    fn find_replaced(&mut self) -> io::Result<()> {
        while let Some(kind) = self.kind()? {
            match kind {
                INLINE => {
                    let length = self.number::<4>().map(u32::from_le_bytes)?;
                    io::copy(&mut self.records.by_ref().take(length.into()), &mut io::sink())?;
                }
                FILE => drop((self.path()?, self.number::<8>()?)),
                REPLACED => {
                    let (path, number) = (self.path()?, u32::from_le_bytes(self.number()?));
                    self.replaced.entry(path).or_default().push((self.at, number));
                }
                other => return Err(unknown(other)),
            }
        }
        Ok(())
    }

    fn kind(&mut self) -> io::Result<Option<u8>> {
        let mut kind = [0];
        let read = self.records.read(&mut kind)?;
        self.at += 1;
        Ok((read > 0).then_some(kind[0]))
    }

    fn number<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.records.read_exact(&mut bytes).map(|()| bytes)
    }

    fn path(&mut self) -> io::Result<Vec<u8>> {
        let length = self.number().map(u16::from_le_bytes)?;
        let mut path = vec![0; length.into()];
        self.records.read_exact(&mut path).map(|()| path)
    }

    fn next(&mut self) -> io::Result<Part> {
        Ok(match self.kind()? {
            None => Part::End,
            Some(INLINE) => Part::Inline(u32::from_le_bytes(self.number()?).into()),
            Some(FILE) => {
                let (path, left) = (self.path()?, u64::from_le_bytes(self.number()?));
                let file = self.place(&path).map_err(|error| self.lost(&path, &error.to_string()))?;
                Part::Data { file, left, path }
            }
            Some(REPLACED) => {
                drop((self.path()?, self.number::<4>()?));
                Part::Next
            }
            Some(other) => return Err(unknown(other)),
        })
    }

    fn lost(&self, path: &[u8], reason: &str) -> io::Error {
        let path = self.dir.join("fs").join(std::ffi::OsStr::new(&*String::from_utf8_lossy(path)));
        let reason = format!(
            "the layer's data cannot be read from it: {reason} (hint: remove the image and pull or load it again)"
        );
        io::Error::other(Error::Corrupt { path, reason })
    }
}

fn unknown(kind: u8) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unknown record {kind}"))
}

fn beneath(dir: &OwnedFd, path: &[u8]) -> io::Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(File::from(openat2(dir, path, how)?))
}

impl Read for Assembled {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let read = match &mut self.part {
                Part::End => return Ok(0),
                Part::Inline(left) if *left > 0 => {
                    let read = self.records.by_ref().take(*left).read(buf)?;
                    *left -= read as u64;
                    read
                }
                Part::Data { file, left, .. } if *left > 0 => {
                    let read = Read::by_ref(file).take(*left).read(buf)?;
                    *left -= read as u64;
                    read
                }
                Part::Next | Part::Inline(_) | Part::Data { .. } => {
                    self.part = self.next()?;
                    continue;
                }
            };
            if read > 0 {
                return Ok(read);
            }
            match std::mem::replace(&mut self.part, Part::End) {
                _ if self.cut => return Ok(0),
                Part::Data { path, .. } => return Err(self.lost(&path, "it is shorter than it was")),
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}
