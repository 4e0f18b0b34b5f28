//! System calls that neither `libc` nor `nix` wraps as needed here.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `openat2`: resolve everything as if the directory were the root; never through magic links.
pub(crate) const RESOLVE_IN_ROOT: u64 = 0x10;
const RESOLVE_NO_MAGICLINKS: u64 = 0x02;

pub(crate) const OPEN_TREE_CLONE: u32 = 1;
pub(crate) const AT_RECURSIVE: u32 = 0x8000;
const AT_EMPTY_PATH: u32 = 0x1000;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;

pub(crate) const MOUNT_ATTR_RDONLY: u64 = 0x01;
pub(crate) const MOUNT_ATTR_NOSUID: u64 = 0x02;
pub(crate) const MOUNT_ATTR_NODEV: u64 = 0x04;
pub(crate) const MOUNT_ATTR_NOEXEC: u64 = 0x08;

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn own(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check(result)? as RawFd;
    // SAFETY: the kernel just made this descriptor for us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A path or name as C wants it.
pub(crate) fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "name contains a NUL byte"))
}

fn c_path(path: &Path) -> io::Result<CString> {
    c_string(path.as_os_str().as_bytes())
}

/// Makes reads and writes of a descriptor return at once.
pub(crate) fn set_nonblocking(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: F_GETFL and F_SETFL touch no memory of ours.
    unsafe {
        let flags = check(libc::fcntl(fd.as_raw_fd(), libc::F_GETFL).into())? as i32;
        check(libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK).into())?;
    }
    Ok(())
}

/// Forks with namespace flags, into a v2 cgroup when given. Returns the child's pid, and 0 in the child.
///
/// # Safety
/// The process must have one thread only.
pub(crate) unsafe fn clone3(flags: u64, cgroup: Option<&OwnedFd>) -> io::Result<libc::pid_t> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut args = CloneArgs { flags, exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: the structure is valid for its size; without CLONE_VM the child has its own copy of everything.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &args, size_of::<CloneArgs>()) };
    Ok(check(pid)? as libc::pid_t)
}

/// Opens a path below a directory; no symbolic link in it leads outside.
pub(crate) fn open_in_root(root: &impl AsFd, path: &Path, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let how = OpenHow {
        flags: (flags | libc::O_CLOEXEC) as u64,
        mode: u64::from(mode),
        resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
    };
    // A rename on the way makes the kernel say EAGAIN: try again, within a bound.
    for _ in 0..64 {
        // SAFETY: path and structure are valid for the call.
        let result = unsafe {
            let root = root.as_fd().as_raw_fd();
            libc::syscall(libc::SYS_openat2, root, path.as_ptr(), &how, size_of::<OpenHow>())
        };
        match own(result) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            other => return other,
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// A detached copy of the mount at a path.
pub(crate) fn clone_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32 | if recursive { AT_RECURSIVE } else { 0 };
    let path = c_path(path)?;
    // SAFETY: the path is valid for the call.
    own(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// A detached copy of the mount that a descriptor lies on.
pub(crate) fn clone_tree_at(fd: &impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    let flags =
        OPEN_TREE_CLONE | libc::O_CLOEXEC as u32 | AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: an empty C string is valid for the call.
    own(unsafe { libc::syscall(libc::SYS_open_tree, fd.as_fd().as_raw_fd(), c"".as_ptr(), flags) })
}

/// Changes attributes and propagation of a mount; `recursive` reaches every mount below it.
pub(crate) fn set_attributes(
    mount: &impl AsFd,
    set: u64,
    propagation: u64,
    recursive: bool,
) -> io::Result<()> {
    let attr = MountAttr { set, propagation, ..MountAttr::default() };
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: path and structure are valid for the call.
    let result = unsafe {
        let fd = mount.as_fd().as_raw_fd();
        libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, &attr, size_of::<MountAttr>())
    };
    check(result).map(drop)
}

/// Attaches a detached mount on top of what a descriptor shows.
pub(crate) fn attach(mount: &impl AsFd, target: &impl AsFd) -> io::Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    let (from, to) = (mount.as_fd().as_raw_fd(), target.as_fd().as_raw_fd());
    // SAFETY: empty C strings are valid for the call.
    check(unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, c"".as_ptr(), flags) })
        .map(drop)
}

/// A new file system, not yet attached. Options without a value are flags.
pub(crate) fn new_mount(
    kind: &CStr,
    options: &[(&str, Option<&[u8]>)],
    attributes: u64,
) -> io::Result<OwnedFd> {
    // SAFETY: the name is valid for the call.
    let context = own(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
    let fd = context.as_raw_fd();
    // What mount tables show as the source.
    let source = [("source", Some(kind.to_bytes()))];
    for (key, value) in source.iter().chain(options) {
        let key = c_string(key.as_bytes())?;
        let result = match value {
            Some(value) => {
                let value = c_string(value)?;
                // SAFETY: both strings are valid for the call.
                unsafe {
                    libc::syscall(
                        libc::SYS_fsconfig,
                        fd,
                        FSCONFIG_SET_STRING,
                        key.as_ptr(),
                        value.as_ptr(),
                        0,
                    )
                }
            }
            // SAFETY: the key is valid for the call.
            None => unsafe {
                libc::syscall(
                    libc::SYS_fsconfig,
                    fd,
                    FSCONFIG_SET_FLAG,
                    key.as_ptr(),
                    std::ptr::null::<u8>(),
                    0,
                )
            },
        };
        check(result).map_err(|error| explain(&context, error))?;
    }
    let none = std::ptr::null::<u8>();
    // SAFETY: no pointers are passed.
    let created = unsafe { libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, none, none, 0) };
    check(created).map_err(|error| explain(&context, error))?;
    // SAFETY: no pointers are passed.
    own(unsafe { libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, attributes as u32) })
}

/// The kernel leaves the reason why a mount failed in its context.
fn explain(context: &OwnedFd, error: io::Error) -> io::Error {
    let mut text = [0; 512];
    match nix::unistd::read(context, &mut text) {
        Ok(count) if count > 2 => {
            let text = String::from_utf8_lossy(&text[2..count]).trim().to_owned();
            io::Error::new(error.kind(), format!("{error}: {text}"))
        }
        _ => error,
    }
}

/// A descriptor of a process, readable once it ended.
pub(crate) fn pidfd_open(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Marks every descriptor from `first` on to be closed by exec.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: no pointers are passed.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Sets one of a process's own attributes.
pub(crate) fn prctl(option: i32, argument: u64) -> io::Result<()> {
    // SAFETY: only options that take plain numbers are passed.
    check(unsafe { libc::prctl(option, argument, 0, 0, 0) }.into()).map(drop)
}
