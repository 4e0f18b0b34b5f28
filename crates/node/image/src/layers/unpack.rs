//! Unpacking a layer: a tar stream becomes a directory in overlayfs form.
//!
//! The stream is hostile until proven otherwise. Every operation is relative to a directory descriptor that
//! `openat2(RESOLVE_BENEATH)` gave, so neither `..`, absolute names, symlinks nor hard links reach outside.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{self, Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::unistd::{self, Gid, LinkatFlags, Uid, UnlinkatFlags};
use tokio_util::sync::CancellationToken;

use super::{OPAQUE_WHITEOUT, OPAQUE_XATTR, OVERLAY_XATTRS, WHITEOUT, WHITEOUT_META};
use crate::error::{Error, Result};
use crate::options::Limits;
use crate::store::snapshot::Leans;
use crate::sys;
use crate::tar::reader::Source;
use crate::tar::{Entry, Kind, TarError, TarReader};

const BUFFER: usize = 256 << 10;
const MAX_PATH: usize = 4096;
/// Files from this size on go to the disk while the next are unpacked.
const WRITE_OUT: u64 = 256 << 10;

/// What came out of a layer.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    /// Bytes of file data.
    pub(crate) bytes: u64,
    /// Directories that the stream used but did not describe: lower layers decide what they are.
    pub(crate) implicit: Vec<Vec<u8>>,
    /// Hard links whose target is not in this layer.
    pub(crate) dangling: Vec<Dangling>,
}

/// A hard link to a file of a lower layer.
#[derive(Debug)]
pub(crate) struct Dangling {
    pub(crate) path: Vec<u8>,
    pub(crate) target: Vec<u8>,
}

impl Unpacked {
    /// What the files take from the layers below.
    pub(crate) fn leans(&self) -> Leans {
        match (self.implicit.is_empty(), self.dangling.is_empty()) {
            (_, false) => Leans::Links,
            (false, true) => Leans::Directories,
            (true, true) => Leans::OnNothing,
        }
    }
}

/// Where and how a layer is unpacked.
#[derive(Clone, Copy)]
pub(crate) struct Unpack<'a> {
    /// An existing, empty directory.
    pub(crate) dir: &'a Path,
    /// A directory for what later entries of the layer replace; with it, the source is told where data lies.
    pub(crate) replaced: Option<&'a Path>,
    /// Names the layer in errors.
    pub(crate) layer: &'a str,
    /// Whether all will be synced at the end.
    pub(crate) sync: bool,
    pub(crate) limits: &'a Limits,
    pub(crate) cancel: &'a CancellationToken,
}

/// Unpack all entries of `tar`.
pub(crate) fn unpack<R: Source>(tar: &mut TarReader<R>, how: Unpack<'_>) -> Result<Unpacked> {
    let Unpack { dir, replaced, layer, sync, limits, cancel } = how;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(dir, flags, Mode::empty()).map_err(Error::errno("open", dir))?;
    let mut unpacker = Unpacker {
        keeper: replaced.map(|dir| Keeper::new(dir, &root)).transpose()?,
        root: Rc::new(root),
        layer,
        sync,
        limits,
        parent: None,
        implicit: HashSet::new(),
        dir_times: Vec::new(),
        entries: 0,
        out: Unpacked::default(),
        buffer: vec![0; BUFFER],
    };
    loop {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled { what: format!("unpacking {layer}") });
        }
        let entry = match tar.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(error) => return Err(unpacker.stream_error("(header)", error)),
        };
        unpacker.count(&entry)?;
        unpacker.entry(&entry, tar)?;
    }
    unpacker.tell(tar, None).map_err(|error| unpacker.stream_error("(end)", TarError::Io(error)))?;
    unpacker.finish()
}

struct Unpacker<'a> {
    root: Rc<OwnedFd>,
    keeper: Option<Keeper<'a>>,
    layer: &'a str,
    sync: bool,
    limits: &'a Limits,
    /// The directory of the last entry: neighbours share it.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    implicit: HashSet<Vec<u8>>,
    /// Times of directories are set last, because making files changes them.
    dir_times: Vec<(Vec<u8>, (i64, u32))>,
    entries: u64,
    out: Unpacked,
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    fn error(&self, entry: &Entry, reason: impl Into<String>) -> Error {
        Error::Layer { layer: self.layer.to_owned(), entry: shorten(&entry.name()), reason: reason.into() }
    }

    fn stream_error(&self, entry: &str, error: TarError) -> Error {
        stream_error(self.layer, entry, error)
    }

    fn count(&mut self, entry: &Entry) -> Result<()> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(self.limit("entries of", self.limits.entries, "entries"));
        }
        let real = entry.sparse.as_ref().map_or(entry.size, |map| map.real_size);
        self.out.bytes = self.out.bytes.saturating_add(entry.size);
        if self.out.bytes > self.limits.unpacked_bytes || real > self.limits.unpacked_bytes {
            return Err(self.limit("unpacked bytes of", self.limits.unpacked_bytes, "bytes"));
        }
        Ok(())
    }

    fn limit(&self, what: &str, limit: u64, unit: &'static str) -> Error {
        Error::Limit { what: format!("{what} layer {}", self.layer), limit, unit }
    }

    fn entry<R: Source>(&mut self, entry: &Entry, tar: &mut TarReader<R>) -> Result<()> {
        let path = clean(&entry.path).map_err(|reason| self.error(entry, reason))?;
        let Some((dir, name)) = split(&path) else {
            return self.root_entry(entry);
        };
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(entry, dir, name, hidden);
        }
        let parent = self.parent(entry, dir)?;
        match entry.kind {
            Kind::File => self.file(entry, &parent, name, tar),
            Kind::Dir => self.directory(entry, &parent, name, &path),
            Kind::Symlink => self.symlink(entry, &parent, name),
            Kind::HardLink => self.hard_link(entry, &parent, name, &path),
            Kind::Char => self.node(entry, &parent, name, SFlag::S_IFCHR),
            Kind::Block => self.node(entry, &parent, name, SFlag::S_IFBLK),
            Kind::Fifo => self.node(entry, &parent, name, SFlag::S_IFIFO),
            Kind::Other(flag) => {
                Err(self.error(entry, format!("unknown tar entry type {:?}", char::from(flag))))
            }
        }
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Dir {
            return Err(self.error(entry, "the root of a layer must be a directory"));
        }
        let root = self.root.clone();
        self.metadata(entry, &root, b".")?;
        self.dir_times.push((b".".to_vec(), entry.mtime));
        Ok(())
    }

    /// The directory that holds an entry, made if the stream did not describe it.
    fn parent(&mut self, entry: &Entry, dir: &[u8]) -> Result<Rc<OwnedFd>> {
        if dir.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some((path, fd)) = &self.parent
            && path == dir
        {
            return Ok(fd.clone());
        }
        let fd = match beneath(&self.root, dir, OFlag::O_PATH) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => self.make_parents(entry, dir)?,
            Err(errno) => return Err(self.walk_error(entry, dir, errno)),
        };
        let fd = Rc::new(fd);
        self.parent = Some((dir.to_vec(), fd.clone()));
        Ok(fd)
    }

    fn make_parents(&mut self, entry: &Entry, dir: &[u8]) -> Result<OwnedFd> {
        let mut ends: Vec<usize> =
            dir.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).collect();
        ends.push(dir.len());
        let mut above: Option<OwnedFd> = None;
        for end in ends {
            let path = &dir[..end];
            let opened = match beneath(&self.root, path, OFlag::O_PATH) {
                Ok(fd) => fd,
                Err(Errno::ENOENT) => {
                    let name = split(path).map_or(path, |(_, name)| name);
                    let parent = above.as_ref().unwrap_or(&self.root);
                    stat::mkdirat(parent, name, Mode::from_bits_truncate(0o755))
                        .map_err(|errno| self.walk_error(entry, path, errno))?;
                    stat::fchmodat(
                        parent,
                        name,
                        Mode::from_bits_truncate(0o755),
                        stat::FchmodatFlags::FollowSymlink,
                    )
                    .map_err(|errno| self.walk_error(entry, path, errno))?;
                    self.implicit.insert(path.to_vec());
                    self.entries += 1;
                    beneath(&self.root, path, OFlag::O_PATH)
                        .map_err(|errno| self.walk_error(entry, path, errno))?
                }
                Err(errno) => return Err(self.walk_error(entry, path, errno)),
            };
            above = Some(opened);
        }
        above.ok_or_else(|| self.error(entry, "it has no name"))
    }

    fn walk_error(&self, entry: &Entry, dir: &[u8], errno: Errno) -> Error {
        let dir = String::from_utf8_lossy(dir);
        let reason = match errno {
            Errno::EXDEV | Errno::ELOOP => {
                format!("its directory {dir:?} goes through a symlink that leaves the layer (refused)")
            }
            Errno::ENOTDIR => format!("its directory {dir:?} is not a directory in this layer"),
            Errno::ENOSPC | Errno::EDQUOT => return Error::errno("create", Path::new(&*dir))(errno),
            errno => format!("its directory {dir:?}: {}", errno.desc()),
        };
        self.error(entry, reason)
    }

    /// Run `make`; when the name exists, remove what is there and try once more.
    fn create<T>(
        &mut self,
        entry: &Entry,
        parent: &OwnedFd,
        name: &[u8],
        make: impl Fn() -> nix::Result<T>,
    ) -> Result<T> {
        match make() {
            Err(Errno::EEXIST) => {
                self.remove(entry, parent, name)?;
                make()
            }
            result => result,
        }
        .map_err(|errno| self.failed(entry, errno))
    }

    fn failed(&self, entry: &Entry, errno: Errno) -> Error {
        match errno {
            Errno::ENOSPC | Errno::EDQUOT => Error::errno("create", shorten(&entry.name()))(errno),
            Errno::EPERM => {
                self.error(entry, format!("{} (hint: unpacking layers needs root)", errno.desc()))
            }
            errno => self.error(entry, errno.desc()),
        }
    }

    fn remove(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> Result<()> {
        // Directories below what is removed may be the remembered one.
        self.parent = None;
        if let Some(keeper) = &mut self.keeper
            && keeper.take(parent, name).map_err(|error| self.failed(entry, errno_of(&error)))?
        {
            return Ok(());
        }
        match unistd::unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => {
                let path = format!("/proc/self/fd/{}", parent.as_raw_fd());
                let path = Path::new(&path).join(std::ffi::OsStr::from_bytes(name));
                std::fs::remove_dir_all(&path).map_err(|error| self.error(entry, error.to_string()))
            }
            result => result.map_err(|errno| self.failed(entry, errno)),
        }
    }

    fn file<R: Source>(
        &mut self,
        entry: &Entry,
        parent: &OwnedFd,
        name: &[u8],
        tar: &mut TarReader<R>,
    ) -> Result<()> {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = self
            .create(entry, parent, name, || openat(parent, name, flags, Mode::from_bits_truncate(0o600)))?;
        let mut file = File::from(fd);
        let io = Error::io("write", shorten(&entry.name()));
        if entry.sparse.is_none() {
            self.tell(tar, Some((parent, name)))
                .map_err(|error| self.stream_error(&entry.name(), TarError::Io(error)))?;
        }
        match &entry.sparse {
            Some(map) => {
                for (offset, length) in map.segments.clone() {
                    self.copy(entry, tar, length, |at, data| file.write_all_at(data, offset + at))?;
                }
                file.set_len(map.real_size).map_err(io)?;
            }
            None => self.copy(entry, tar, entry.size, |_, data| file.write_all(data))?,
        }
        if self.sync && entry.size >= WRITE_OUT {
            sys::write_out(&file);
        }
        self.file_metadata(entry, &file)
    }

    /// Tell the source what was replaced since, and where the data to come will lie.
    fn tell<R: Source>(
        &mut self,
        tar: &mut TarReader<R>,
        file: Option<(&OwnedFd, &[u8])>,
    ) -> std::io::Result<()> {
        let Some(keeper) = &mut self.keeper else { return Ok(()) };
        for (path, number) in keeper.taken.drain(..) {
            tar.replaced(&path, number)?;
        }
        match file.and_then(|(parent, name)| keeper.path(parent, name)) {
            Some(path) => tar.data_lies_in(&path),
            None => Ok(()),
        }
    }

    fn copy<R: Source>(
        &mut self,
        entry: &Entry,
        tar: &mut TarReader<R>,
        length: u64,
        mut write: impl FnMut(u64, &[u8]) -> std::io::Result<()>,
    ) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut done = 0;
        while done < length {
            let want = buffer.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
            let read = tar
                .read_data(&mut buffer[..want])
                .map_err(|error| self.stream_error(&entry.name(), TarError::Io(error)))?;
            if read == 0 {
                return Err(self.error(entry, "its data is shorter than its size"));
            }
            write(done, &buffer[..read]).map_err(Error::io("write", shorten(&entry.name())))?;
            done += read as u64;
        }
        self.buffer = buffer;
        Ok(())
    }

    fn owner(&self, entry: &Entry) -> Result<(u32, u32)> {
        match (u32::try_from(entry.uid), u32::try_from(entry.gid)) {
            (Ok(uid), Ok(gid)) if uid != u32::MAX && gid != u32::MAX => Ok((uid, gid)),
            _ => Err(self.error(entry, format!("owner {}:{} is out of range", entry.uid, entry.gid))),
        }
    }

    fn file_metadata(&self, entry: &Entry, file: &File) -> Result<()> {
        let (uid, gid) = self.owner(entry)?;
        // Order matters: a change of owner clears setuid bits and file capabilities.
        if (uid, gid) != (0, 0) {
            unistd::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|errno| self.failed(entry, errno))?;
        }
        stat::fchmod(file, Mode::from_bits_truncate(entry.mode))
            .map_err(|errno| self.failed(entry, errno))?;
        self.xattrs(entry, |name, value| sys::set_xattr_fd(file, name, value))?;
        let time = timespec(entry.mtime);
        stat::futimens(file, &time, &time).map_err(|errno| self.failed(entry, errno))
    }

    /// Owner, mode and attributes of what is no regular file.
    fn metadata(&self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> Result<()> {
        let (uid, gid) = self.owner(entry)?;
        let failed = |errno| self.failed(entry, errno);
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        unistd::fchownat(parent, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed)?;
        if entry.kind != Kind::Symlink {
            // The name was just made (or is a directory) and is no symlink; nothing else writes here.
            let mode = Mode::from_bits_truncate(entry.mode);
            stat::fchmodat(parent, name, mode, stat::FchmodatFlags::FollowSymlink).map_err(failed)?;
        }
        let path = sys::fd_path(parent, name).map_err(|error| self.error(entry, error.to_string()))?;
        self.xattrs(entry, |name, value| sys::set_xattr(&path, name, value))
    }

    fn xattrs(
        &self,
        entry: &Entry,
        set: impl Fn(&std::ffi::CStr, &[u8]) -> std::io::Result<()>,
    ) -> Result<()> {
        for (name, value) in &entry.xattrs {
            if OVERLAY_XATTRS.iter().any(|prefix| name.starts_with(prefix)) {
                continue;
            }
            let key = sys::cstring(name).map_err(|error| self.error(entry, error.to_string()))?;
            match set(&key, value) {
                Ok(()) => {}
                // Labels of security modules that are not here; capabilities must arrive.
                Err(error)
                    if name != b"security.capability"
                        && matches!(
                            error.raw_os_error(),
                            Some(nix::libc::EOPNOTSUPP | nix::libc::EPERM | nix::libc::EINVAL)
                        ) => {}
                Err(error) => {
                    let name = String::from_utf8_lossy(name);
                    return Err(self.error(entry, format!("attribute {name}: {error}")));
                }
            }
        }
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<()> {
        let make = || stat::mkdirat(parent, name, Mode::from_bits_truncate(0o700));
        match make() {
            Ok(()) => {}
            Err(Errno::EEXIST) => {
                let old = stat::fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)
                    .map_err(|errno| self.failed(entry, errno))?;
                let kind = SFlag::from_bits_truncate(old.st_mode) & SFlag::S_IFMT;
                if kind != SFlag::S_IFDIR {
                    self.remove(entry, parent, name)?;
                    make().map_err(|errno| self.failed(entry, errno))?;
                }
                if kind == SFlag::S_IFCHR && old.st_rdev == 0 {
                    self.opaque(entry, parent, name)?;
                }
            }
            Err(errno) => return Err(self.failed(entry, errno)),
        }
        self.implicit.remove(path);
        self.metadata(entry, parent, name)?;
        self.dir_times.push((path.to_vec(), entry.mtime));
        Ok(())
    }

    fn symlink(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> Result<()> {
        if entry.link.is_empty() {
            return Err(self.error(entry, "a symlink without a target"));
        }
        // The text of a link is never followed here, so it may say anything; containers resolve it in their root.
        self.parent = None;
        self.create(entry, parent, name, || unistd::symlinkat(entry.link.as_slice(), parent, name))?;
        self.metadata(entry, parent, name)?;
        let time = timespec(entry.mtime);
        stat::utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)
            .map_err(|errno| self.failed(entry, errno))
    }

    fn hard_link(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<()> {
        let target =
            clean(&entry.link).map_err(|reason| self.error(entry, format!("hard link target: {reason}")))?;
        let Some((dir, target_name)) = split(&target) else {
            return Err(self.error(entry, "a hard link to the root directory"));
        };
        if target == path {
            return Ok(());
        }
        let missing = Dangling { path: path.to_vec(), target: target.clone() };
        let from = if dir.is_empty() {
            beneath(&self.root, b".", OFlag::O_PATH)
        } else {
            beneath(&self.root, dir, OFlag::O_PATH)
        };
        let from = match from {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => {
                self.out.dangling.push(missing);
                return Ok(());
            }
            Err(errno) => return Err(self.walk_error(entry, dir, errno)),
        };
        match stat::fstatat(&from, target_name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => {
                self.out.dangling.push(missing);
                return Ok(());
            }
            Err(errno) => return Err(self.failed(entry, errno)),
            Ok(_) => {}
        }
        self.create(entry, parent, name, || {
            unistd::linkat(&from, target_name, parent, name, LinkatFlags::empty())
        })
    }

    fn node(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8], kind: SFlag) -> Result<()> {
        let device = stat::makedev(u64::from(entry.device.0), u64::from(entry.device.1));
        let device = if kind == SFlag::S_IFIFO { 0 } else { device };
        let mode = Mode::from_bits_truncate(0o600);
        self.create(entry, parent, name, || stat::mknodat(parent, name, kind, mode, device))?;
        self.metadata(entry, parent, name)?;
        let time = timespec(entry.mtime);
        stat::utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)
            .map_err(|errno| self.failed(entry, errno))
    }

    fn opaque(&self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> Result<()> {
        sys::fd_path(parent, name)
            .and_then(|path| sys::set_xattr(&path, OPAQUE_XATTR, b"y"))
            .map_err(|error| self.error(entry, format!("marking an opaque directory: {error}")))
    }

    fn whiteout(&mut self, entry: &Entry, dir: &[u8], name: &[u8], hidden: &[u8]) -> Result<()> {
        let parent = self.parent(entry, dir)?;
        if name == OPAQUE_WHITEOUT {
            return self.opaque(entry, &parent, b".");
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(self.error(entry, "a whiteout without a name"));
        }
        match stat::fstatat(&*parent, hidden, AtFlags::AT_SYMLINK_NOFOLLOW) {
            // A whiteout concerns lower layers only: what this layer brings itself stays.
            Ok(old) if SFlag::from_bits_truncate(old.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR => {
                self.opaque(entry, &parent, hidden)
            }
            Ok(_) => Ok(()),
            Err(Errno::ENOENT) => stat::mknodat(&*parent, hidden, SFlag::S_IFCHR, Mode::empty(), 0)
                .map_err(|errno| self.failed(entry, errno)),
            Err(errno) => Err(self.failed(entry, errno)),
        }
    }

    fn finish(mut self) -> Result<Unpacked> {
        for (path, mtime) in &self.dir_times {
            // A later entry may have replaced the directory; then there is nothing to set.
            if let Ok(dir) = beneath(&self.root, path, OFlag::O_RDONLY | OFlag::O_NOFOLLOW) {
                let time = timespec(*mtime);
                stat::futimens(&dir, &time, &time)
                    .map_err(Error::errno("set times of", String::from_utf8_lossy(path).as_ref()))?;
            }
        }
        self.out.implicit = self.implicit.drain().collect();
        self.out.implicit.sort();
        Ok(self.out)
    }
}

/// Keeps what later entries replace: a layer's bytes are read from its files.
struct Keeper<'a> {
    root: Vec<u8>,
    dir: &'a Path,
    count: u32,
    /// Path and number of what was replaced and not yet told.
    taken: Vec<(Vec<u8>, u32)>,
}

impl<'a> Keeper<'a> {
    fn new(dir: &'a Path, root: &OwnedFd) -> Result<Self> {
        let root = real_path(root).map_err(Error::io("read", dir))?;
        Ok(Self { root, dir, count: 0, taken: Vec::new() })
    }

    /// The path below the root without symlinks; `None` when it is too long for the kernel to say.
    fn path(&self, parent: &OwnedFd, name: &[u8]) -> Option<Vec<u8>> {
        let real = real_path(parent).ok()?;
        let mut path = real.strip_prefix(self.root.as_slice())?.to_vec();
        path.extend_from_slice(b"/");
        path.extend_from_slice(name);
        path.remove(0);
        Some(path)
    }

    /// Move something out of the way. False when no data can be known to lie there.
    fn take(&mut self, parent: &OwnedFd, name: &[u8]) -> std::io::Result<bool> {
        let Some(path) = self.path(parent, name) else { return Ok(false) };
        if self.count == 0 {
            std::fs::create_dir(self.dir)?;
        }
        let to = self.dir.join(self.count.to_string());
        nix::fcntl::renameat(parent, name, nix::fcntl::AT_FDCWD, &to)?;
        self.taken.push((path, self.count));
        self.count += 1;
        Ok(true)
    }
}

fn real_path(dir: &OwnedFd) -> std::io::Result<Vec<u8>> {
    std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()))
        .map(|path| path.into_os_string().into_vec())
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO))
}

/// Turn an error of the tar stream into one that names the layer.
pub(crate) fn stream_error(layer: &str, entry: &str, error: TarError) -> Error {
    match error {
        // Errors that the sources of this crate raise travel through `io::Error`.
        TarError::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<Error>()) => {
            match error.into_inner().map(|inner| inner.downcast::<Error>()) {
                Some(Ok(inner)) => *inner,
                _ => Error::archive(layer, "unreadable"),
            }
        }
        TarError::Io(error) if error.raw_os_error().is_some() => {
            Error::Io { action: "read", path: layer.into(), source: error }
        }
        error => Error::Layer { layer: layer.to_owned(), entry: shorten(entry), reason: error.to_string() },
    }
}

/// Open a directory below `root`, following only symlinks that stay below it.
pub(crate) fn beneath(root: &OwnedFd, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

/// The path without `.` and double slashes; names that climb are refused. Empty for the root.
pub(crate) fn clean(path: &[u8]) -> Result<Vec<u8>, String> {
    if path.starts_with(b"/") {
        return Err("an absolute path (refused)".into());
    }
    if path.len() > MAX_PATH {
        return Err(format!("a path longer than {MAX_PATH} bytes"));
    }
    let mut out = Vec::with_capacity(path.len());
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("a path that climbs with \"..\" (refused)".into()),
            _ => {
                if !out.is_empty() {
                    out.push(b'/');
                }
                out.extend_from_slice(part);
            }
        }
    }
    Ok(out)
}

/// Directory and name; `None` for the root.
pub(crate) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => Some((&path[..at], &path[at + 1..])),
        None => Some((b"", path)),
    }
}

pub(crate) fn timespec((seconds, nanos): (i64, u32)) -> TimeSpec {
    TimeSpec::new(seconds, i64::from(nanos))
}

/// Hostile names may be a megabyte long; messages are not.
fn shorten(name: &str) -> String {
    if name.chars().count() <= 200 {
        name.to_owned()
    } else {
        name.chars().take(200).chain(['…']).collect()
    }
}
