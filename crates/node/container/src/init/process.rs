//! The process itself: limits, identity, privileges, and the program.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::path::Path;

use crate::config::Rlimit;
use crate::error::{Error, Result};
use crate::wire::Privileges;
use crate::{seccomp, sys};

use super::caps;
use super::user::Identity;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Right after the fork: dies with the shim, handles no signal, leads a session, shows nothing of itself.
pub(super) fn prepare() -> Result<()> {
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)
        .map_err(|error| Error::os("set the death signal", error))?;
    // Until the program runs, nothing in the container may look into this process.
    sys::prctl(libc::PR_SET_DUMPABLE, 0).map_err(|error| Error::os("hide the process", error))?;
    // SAFETY: these calls touch only this process's own signal state.
    unsafe {
        // Exec keeps ignored signals ignored; these are the ones that Rust and the shim change.
        for signal in [libc::SIGPIPE, libc::SIGCHLD, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM]
        {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        libc::setsid();
        libc::umask(0);
    }
    Ok(())
}

/// Sets the OOM score; lowering it needs a capability that may be missing, then it stays.
pub(super) fn set_oom_score(score: Option<i32>) -> Result<()> {
    let Some(score) = score else { return Ok(()) };
    match std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => {
            Err(Error::os(format!("set oom_score_adj to {score}"), error))
        }
        _ => Ok(()),
    }
}

fn resource(name: &str) -> Option<libc::__rlimit_resource_t> {
    let upper = name.to_ascii_uppercase();
    Some(match upper.strip_prefix("RLIMIT_").unwrap_or(&upper) {
        "AS" => libc::RLIMIT_AS,
        "CORE" => libc::RLIMIT_CORE,
        "CPU" => libc::RLIMIT_CPU,
        "DATA" => libc::RLIMIT_DATA,
        "FSIZE" => libc::RLIMIT_FSIZE,
        "LOCKS" => libc::RLIMIT_LOCKS,
        "MEMLOCK" => libc::RLIMIT_MEMLOCK,
        "MSGQUEUE" => libc::RLIMIT_MSGQUEUE,
        "NICE" => libc::RLIMIT_NICE,
        "NOFILE" => libc::RLIMIT_NOFILE,
        "NPROC" => libc::RLIMIT_NPROC,
        "RSS" => libc::RLIMIT_RSS,
        "RTPRIO" => libc::RLIMIT_RTPRIO,
        "RTTIME" => libc::RLIMIT_RTTIME,
        "SIGPENDING" => libc::RLIMIT_SIGPENDING,
        "STACK" => libc::RLIMIT_STACK,
        _ => return None,
    })
}

/// Refuses limits that do not exist.
pub(super) fn check_rlimits(limits: &[Rlimit]) -> Result<()> {
    for limit in limits {
        if resource(&limit.name).is_none() || limit.soft > limit.hard {
            let text = format!(
                "resource limit {:?} ({} of {}) is unknown or its soft part is above the hard one",
                limit.name, limit.soft, limit.hard
            );
            return Err(Error::Invalid(text));
        }
    }
    Ok(())
}

/// Sets limits; raising a hard one needs a capability that may be missing, then as much as may be is set.
pub(super) fn set_rlimits(limits: &[Rlimit]) -> Result<()> {
    for limit in limits {
        let Some(resource) = resource(&limit.name) else { continue };
        let wanted = libc::rlimit { rlim_cur: limit.soft, rlim_max: limit.hard };
        let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the structures are valid for the calls.
        unsafe {
            if libc::setrlimit(resource, &wanted) == 0 {
                continue;
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EPERM) || libc::getrlimit(resource, &mut old) != 0 {
                return Err(Error::os(format!("set resource limit {}", limit.name), error));
            }
            let hard = limit.hard.min(old.rlim_max);
            let possible = libc::rlimit { rlim_cur: limit.soft.min(hard), rlim_max: hard };
            libc::setrlimit(resource, &possible);
        }
    }
    Ok(())
}

/// A program about to run.
pub(super) struct Program<'a> {
    pub args: &'a [String],
    pub env: Vec<String>,
    pub working_dir: &'a str,
    pub user: Identity,
    pub privileges: &'a Privileges,
    pub tty: bool,
}

impl Program<'_> {
    /// Gives up every privilege that it shall not have and becomes the program.
    pub(super) fn run(self) -> Result<Infallible> {
        let directory = if self.working_dir.is_empty() { "/" } else { self.working_dir };
        enter_directory(directory)?;
        self.own_streams();
        // SAFETY: sets the mask of this process only.
        unsafe { libc::umask(0o022) };
        let filter = seccomp::unhex(&self.privileges.seccomp)
            .ok_or_else(|| Error::Invalid("the system call filter is not valid hex".to_owned()))?;
        caps::limit_bounding(self.privileges.capabilities)?;
        if self.privileges.no_new_privs {
            sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(|error| Error::os("set no_new_privs", error))?;
        } else {
            // Without no_new_privs the filter needs a capability that is about to go.
            install_filter(&filter)?;
        }
        self.become_user()?;
        if self.privileges.no_new_privs {
            install_filter(&filter)?;
        }
        // A change of identity cleared it.
        sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)
            .map_err(|error| Error::os("set the death signal", error))?;
        let env = environment(&self.env, self.user.home.as_deref(), self.tty);
        execute(self.args, &env)
    }

    /// Streams are opened again through `/dev/stdout` by programs that run as somebody else.
    fn own_streams(&self) {
        if self.user.uid == 0 {
            return;
        }
        for fd in 0..3 {
            // SAFETY: stat is plain data that the kernel fills.
            unsafe {
                let mut stat: libc::stat = std::mem::zeroed();
                if libc::fstat(fd, &mut stat) != 0 {
                    continue;
                }
                let terminal =
                    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && libc::major(stat.st_rdev) == 136;
                if terminal || stat.st_mode & libc::S_IFMT == libc::S_IFIFO {
                    // A stream that cannot be given away can still be used.
                    libc::fchown(fd, self.user.uid, u32::MAX);
                }
            }
        }
    }

    fn become_user(&self) -> Result<()> {
        let Identity { uid, gid, groups, .. } = &self.user;
        // SAFETY: the list is valid for its length; the calls change only this process.
        unsafe {
            // The plain system calls: the wrappers would look for other threads.
            if libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) < 0 {
                return Err(Error::last_os(format!("set supplementary groups {groups:?}")));
            }
            if libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid) < 0 {
                return Err(Error::last_os(format!("set group id {gid}")));
            }
            if libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid) < 0 {
                return Err(Error::last_os(format!("set user id {uid}")));
            }
        }
        // Another user than root has lost all capabilities by this; bounding limits what it can gain.
        caps::set(self.privileges.capabilities)
    }
}

fn enter_directory(path: &str) -> Result<()> {
    let failed = |error: io::Error| Error::Start {
        exit_code: 128,
        message: format!("chdir to cwd ({path:?}): {error}"),
    };
    if let Err(error) = std::env::set_current_dir(path) {
        if error.kind() != io::ErrorKind::NotFound {
            return Err(failed(error));
        }
        let made = std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o755)
            .recursive(true)
            .create(path);
        made.and_then(|()| std::env::set_current_dir(path)).map_err(failed)?;
    }
    Ok(())
}

fn install_filter(filter: &[u8]) -> Result<()> {
    if filter.is_empty() {
        return Ok(());
    }
    if !filter.len().is_multiple_of(8) || filter.len() / 8 > usize::from(u16::MAX) {
        return Err(Error::Invalid("the system call filter is not a BPF program".to_owned()));
    }
    // Eight bytes an instruction, but they may lie unaligned.
    let instructions: Vec<u64> =
        filter.chunks_exact(8).map(|chunk| chunk.try_into().map(u64::from_ne_bytes).unwrap_or(0)).collect();
    let program = libc::sock_fprog {
        len: instructions.len() as u16,
        filter: instructions.as_ptr().cast_mut().cast::<libc::sock_filter>(),
    };
    const SET_MODE_FILTER: libc::c_long = 1;
    // SAFETY: the program lives during the call; a sock_filter is 8 bytes.
    match unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, 0, &program) } {
        0.. => Ok(()),
        _ => Err(Error::last_os("install the system call filter")),
    }
}

/// The environment: later values replace earlier ones, and what every program expects is filled in.
fn environment(given: &[String], home: Option<&str>, tty: bool) -> Vec<String> {
    let mut all: Vec<String> = Vec::with_capacity(given.len() + 3);
    let name = |variable: &str| variable.split('=').next().unwrap_or("").to_owned();
    for variable in given {
        let wanted = name(variable);
        match all.iter_mut().find(|old| name(old) == wanted) {
            Some(old) => *old = variable.clone(),
            None => all.push(variable.clone()),
        }
    }
    let defaults =
        [("PATH", Some(DEFAULT_PATH)), ("HOME", Some(home.unwrap_or("/"))), ("TERM", tty.then_some("xterm"))];
    for (variable, value) in defaults {
        if let Some(value) = value.filter(|_| all.iter().all(|old| name(old) != variable)) {
            all.push(format!("{variable}={value}"));
        }
    }
    all
}

fn execute(args: &[String], env: &[String]) -> Result<Infallible> {
    let strings = |list: &[String]| -> io::Result<Vec<CString>> {
        list.iter().map(|text| sys::c_string(text.as_bytes())).collect()
    };
    let failed = |error| Error::os("prepare the arguments", error);
    let (args_c, env_c) = (strings(args).map_err(failed)?, strings(env).map_err(failed)?);
    sys::close_on_exec_from(3).map_err(|error| Error::os("mark descriptors", error))?;
    let program = &args[0];
    let attempt = |path: &str| -> Result<io::Error> {
        let path = sys::c_string(path.as_bytes()).map_err(failed)?;
        let Err(error) = nix::unistd::execve(&path, &args_c, &env_c);
        Ok(error.into())
    };
    if program.contains('/') {
        let error = attempt(program)?;
        // A file that is there and yet not found lacks its interpreter.
        let there = Path::new(program).exists();
        return Err(not_executed(program, there, &error));
    }
    let path = env.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut denied = None;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = format!("{directory}/{program}");
        let error = attempt(&candidate)?;
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) if !Path::new(&candidate).exists() => {}
            Some(libc::EACCES) => denied = Some(error),
            _ => return Err(not_executed(program, true, &error)),
        }
    }
    match denied {
        Some(error) => Err(not_executed(program, true, &error)),
        None => {
            let message = format!("exec: {program:?}: executable file not found in $PATH");
            Err(Error::Start { exit_code: 127, message })
        }
    }
}

fn not_executed(program: &str, there: bool, error: &io::Error) -> Error {
    let reason = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) if !there => {
            let message = format!("exec: {program:?}: stat {program}: no such file or directory");
            return Error::Start { exit_code: 127, message };
        }
        Some(libc::ENOENT) => {
            "no such file or directory (hint: its interpreter or dynamic linker is missing)".to_owned()
        }
        Some(libc::EACCES) => "permission denied".to_owned(),
        Some(libc::ENOEXEC) => "exec format error (hint: the image is for another architecture)".to_owned(),
        Some(libc::EISDIR) => "is a directory".to_owned(),
        Some(libc::E2BIG) => "argument list too long".to_owned(),
        _ => error.to_string(),
    };
    Error::Start { exit_code: 126, message: format!("exec: {program:?}: {reason}") }
}

#[cfg(test)]
mod tests {
    use super::{check_rlimits, environment};
    use crate::config::Rlimit;

    #[test]
    fn later_variables_replace_earlier_ones() {
        let given = ["A=1".to_owned(), "PATH=/x".to_owned(), "A=2".to_owned()];
        assert_eq!(environment(&given, Some("/root"), true), ["A=2", "PATH=/x", "HOME=/root", "TERM=xterm"]);
    }

    #[test]
    fn unknown_limits_are_refused() {
        let limit = |name: &str, soft, hard| [Rlimit { name: name.to_owned(), soft, hard }];
        assert!(check_rlimits(&limit("RLIMIT_NOFILE", 10, 20)).is_ok());
        assert!(check_rlimits(&limit("nofile", 30, 20)).is_err());
        assert!(check_rlimits(&limit("nothing", 1, 2)).is_err());
    }
}
