//! The few system calls that neither std nor nix wrap.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::libc;

/// A C string of a path.
pub(crate) fn cstring(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a name holds a NUL byte"))
}

fn check(result: impl TryInto<i64>) -> io::Result<usize> {
    match result.try_into() {
        Ok(value) if value >= 0 => Ok(usize::try_from(value).unwrap_or_default()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Set an extended attribute without following a symlink at the end of the path.
pub(crate) fn set_xattr(path: &CStr, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: both strings end in NUL and `value` is valid for its length; all outlive the call.
    let result =
        unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    check(result).map(drop)
}

/// Set an extended attribute of an open file.
pub(crate) fn set_xattr_fd(fd: &impl AsFd, name: &CStr, value: &[u8]) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed for the call; name ends in NUL and `value` is valid for its length.
    let result = unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    check(result).map(drop)
}

/// One extended attribute, or `None` when it is absent or the file system has none.
pub(crate) fn get_xattr(path: &CStr, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0u8; 256];
    loop {
        // SAFETY: both strings end in NUL; `value` is writable for the length that is passed.
        let result =
            unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        match check(result) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::ERANGE) if value.len() < 1 << 16 => value.resize(1 << 16, 0),
                Some(libc::ENODATA | libc::EOPNOTSUPP) => return Ok(None),
                _ => return Err(error),
            },
        }
    }
}

/// Names of all extended attributes of a path, without following a symlink.
pub(crate) fn list_xattrs(path: &CStr) -> io::Result<Vec<CString>> {
    let mut names = vec![0u8; 1 << 16];
    // SAFETY: the path ends in NUL; `names` is writable for the length that is passed.
    let result = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    match check(result) {
        Ok(length) => {
            names.truncate(length);
            Ok(names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).flat_map(cstring).collect())
        }
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Write everything of the file system that holds this directory to its disk.
pub(crate) fn sync_fs(dir: &Path) -> io::Result<()> {
    let dir = std::fs::File::open(dir)?;
    // SAFETY: the descriptor is open for the call.
    check(unsafe { libc::syncfs(dir.as_raw_fd()) }).map(drop)
}

/// Let the disk begin with what was written to a file, so that a later sync has less to wait for.
pub(crate) fn write_out(file: &std::fs::File) {
    // SAFETY: the descriptor is open for the call. Failures show at the sync.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// A path below an open directory that system calls without a directory argument can take.
pub(crate) fn fd_path(dir: &OwnedFd, name: &[u8]) -> io::Result<CString> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    cstring(&path)
}

/// A path as a C string.
pub(crate) fn path_cstring(path: &Path) -> io::Result<CString> {
    cstring(path.as_os_str().as_bytes())
}
