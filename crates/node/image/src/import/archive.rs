//! Archives as a set of named members, whether a directory or a tar file, read at any place without copying.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::tar::{Kind, TarReader};

/// Members that an image archive may have; a root file system has more.
const MAX_MEMBERS: usize = 200_000;

/// An archive whose members can be opened by name.
pub(crate) struct Archive {
    path: PathBuf,
    source: Source,
}

enum Source {
    Dir,
    Tar { file: Arc<File>, members: HashMap<String, Member> },
}

#[derive(Clone, Debug)]
enum Member {
    Data { offset: u64, size: u64 },
    Link(String),
}

impl Archive {
    pub(crate) fn directory(path: &Path) -> Self {
        Self { path: path.to_owned(), source: Source::Dir }
    }

    /// Index a tar file by skipping from header to header.
    pub(crate) fn tar(path: &Path, file: File) -> Result<Self> {
        let bad = |error: crate::tar::TarError| Error::archive(path, error.to_string());
        let size = file.metadata().map_err(Error::io("read", path))?.len();
        let file = Arc::new(file);
        let mut reader = TarReader::new(Section { file: file.clone(), offset: 0, end: size });
        let mut members = HashMap::new();
        while let Some(entry) = reader.next_entry().map_err(bad)? {
            let name = clean(&entry.name());
            let member = match entry.kind {
                Kind::File => Member::Data { offset: reader.position(), size: entry.size },
                Kind::Symlink | Kind::HardLink => {
                    let target = String::from_utf8_lossy(&entry.link).into_owned();
                    let parent = if entry.kind == Kind::Symlink { Path::new(&name).parent() } else { None };
                    Member::Link(clean(&parent.unwrap_or(Path::new("")).join(target).to_string_lossy()))
                }
                _ => continue,
            };
            if let Member::Data { offset, size: length } = member
                && offset.checked_add(length).is_none_or(|end| end > size)
            {
                return Err(Error::archive(path, format!("the archive ends inside {name:?} (truncated)")));
            }
            members.insert(name, member);
            if members.len() > MAX_MEMBERS {
                break;
            }
        }
        Ok(Self { path: path.to_owned(), source: Source::Tar { file, members } })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        match &self.source {
            Source::Dir => self.path.join(name).is_file(),
            Source::Tar { members, .. } => members.contains_key(name),
        }
    }

    /// Open a member; the size comes with it.
    pub(crate) fn open(&self, name: &str) -> Result<(Section, u64)> {
        let missing = || Error::archive(&self.path, format!("it lacks {name:?}"));
        match &self.source {
            Source::Dir => {
                let path = self.path.join(clean(name));
                let file = match File::open(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
                    opened => opened.map_err(Error::io("open", &path))?,
                };
                let size = file.metadata().map_err(Error::io("read", &path))?.len();
                Ok((Section { file: Arc::new(file), offset: 0, end: size }, size))
            }
            Source::Tar { file, members } => {
                let mut name = clean(name);
                for _ in 0..8 {
                    match members.get(&name) {
                        Some(Member::Data { offset, size }) => {
                            return Ok((
                                Section { file: file.clone(), offset: *offset, end: offset + size },
                                *size,
                            ));
                        }
                        Some(Member::Link(target)) => name.clone_from(target),
                        None => break,
                    }
                }
                Err(missing())
            }
        }
    }

    /// A small member as a whole.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let (section, size) = self.open(name)?;
        if size > limit {
            let what = format!("{name} in {}", self.path.display());
            return Err(Error::Limit { what, limit, unit: "bytes" });
        }
        let mut bytes = Vec::new();
        section.take(limit).read_to_end(&mut bytes).map_err(Error::io("read", &self.path))?;
        Ok(bytes)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// A part of a file.
pub(crate) struct Section {
    file: Arc<File>,
    offset: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = buf.len().min(usize::try_from(self.end - self.offset).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buf[..want], self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl crate::tar::reader::Source for Section {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        // The last padding may be missing; what lies in the data is checked by the caller.
        self.offset = self.offset.saturating_add(bytes).min(self.end);
        Ok(())
    }
}

/// A member's name without `.`, `..` and leading slashes.
fn clean(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
