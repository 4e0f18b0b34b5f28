//! The processes beside the main one: the zygote, and a shim for each pod.
//!
//! The **zygote** is this executable started anew, with one thread and nothing in its memory but what the dynamic linker
//! put there. It forks the shims: these share its pages, so a large executable costs its relocations once and not for
//! each pod. It ends when the main process does, holds no secret, and is started again when it died; shims survive it.
//!
//! A **shim** is a pod's pause process, the parent of its containers, their log writer and the end of a unix socket
//! through which the main process (also a later one) talks to it. It is one thread around `epoll`; no async runtime.

mod container;
mod exec;
mod log;
mod pod;
mod request;
mod server;
mod stdio;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::channel::{self, Inbox};
use crate::error::Error;
use crate::sys;
use crate::wire::{Call, Failure, Message, Request, Response};

/// First argument of a process that is to be the zygote. Standard input is then its socket.
pub const ZYGOTE_ARGUMENT: &str = "sampan-container-zygote";

/// Becomes the zygote if this process was started as one, and then never returns. Call it before anything else in
/// `main`: no thread may run yet, and nothing may be in memory that a container must not see.
pub fn dispatch() {
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new(ZYGOTE_ARGUMENT)) {
        main()
    }
}

/// The zygote itself.
pub fn main() -> ! {
    prepare_zygote();
    // SAFETY: standard input is open (it is the socket), and stays so.
    let socket = unsafe { BorrowedFd::borrow_raw(0) };
    let mut inbox = Inbox::default();
    let code = match serve(socket, &mut inbox) {
        Ok(()) => 0,
        Err(_) => 1,
    };
    std::process::exit(code)
}

fn prepare_zygote() {
    // SAFETY: the calls touch only this process's own session and signals.
    unsafe {
        libc::setsid();
        // Dead shims vanish by themselves.
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::prctl(libc::PR_SET_NAME, c"sampan-zygote".as_ptr());
        libc::umask(0o077);
        // Small heaps: give freed memory back early, one arena.
        #[cfg(target_env = "gnu")]
        {
            libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 10);
            libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
        }
    }
}

fn serve(socket: BorrowedFd<'_>, inbox: &mut Inbox) -> io::Result<()> {
    loop {
        while let Some(call) = inbox.take::<Call>()? {
            let mut fds = inbox.take_fds(call.fds)?;
            let result = match (call.request, fds.pop()) {
                (Request::Fork { dir }, Some(theirs)) => {
                    // SAFETY: the zygote has one thread.
                    match unsafe { sys::clone3(0, None) } {
                        Ok(0) => server::run(&dir, UnixStream::from(theirs)),
                        Ok(pid) => Ok(Response::Forked { pid: pid as u32 }),
                        Err(error) => Err(Error::os("fork a shim", error)),
                    }
                }
                _ => Err(Error::Invalid("the zygote only forks".to_owned())),
            };
            let reply = Message::Reply { id: call.id, fds: 0, result: result.map_err(Failure::from) };
            let frame = channel::encode(&reply)?;
            let mut sent = 0;
            while sent < frame.len() {
                sent += channel::send(&socket, &frame[sent..], &[])?;
            }
        }
        match inbox.receive(&socket) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Leaves everything of the zygote's behind but standard error and one socket.
fn leave_zygote(keep: UnixStream) -> io::Result<UnixStream> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    let keep = OwnedFd::from(keep);
    // SAFETY: this process owns its descriptor table and has one thread; what is closed here has no owner that lives on,
    // and 3 becomes the only copy of the socket.
    unsafe {
        libc::setsid();
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        libc::prctl(libc::PR_SET_NAME, c"sampan-shim".as_ptr());
        let high = libc::fcntl(keep.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 64);
        if high < 0 || libc::dup2(null.as_raw_fd(), 0) < 0 || libc::dup2(null.as_raw_fd(), 1) < 0 {
            return Err(io::Error::last_os_error());
        }
        std::mem::forget((keep, null));
        if libc::dup3(high, 3, libc::O_CLOEXEC) < 0
            || libc::syscall(libc::SYS_close_range, 4, u32::MAX, 0) < 0
            || libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0
        {
            return Err(io::Error::last_os_error());
        }
        Ok(UnixStream::from_raw_fd(3))
    }
}
