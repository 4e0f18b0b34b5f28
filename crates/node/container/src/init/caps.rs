//! Capabilities: names, the default set, and giving up the rest.

use crate::config::Capabilities;
use crate::error::{Error, Result};

/// Names by number, without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

pub(crate) const DAC_READ_SEARCH: u8 = 2;
pub(crate) const SYS_MODULE: u8 = 16;
pub(crate) const SYS_RAWIO: u8 = 17;
pub(crate) const SYS_CHROOT: u8 = 18;
pub(crate) const SYS_PTRACE: u8 = 19;
pub(crate) const SYS_PACCT: u8 = 20;
pub(crate) const SYS_ADMIN: u8 = 21;
pub(crate) const SYS_BOOT: u8 = 22;
pub(crate) const SYS_NICE: u8 = 23;
pub(crate) const SYS_TIME: u8 = 25;
pub(crate) const SYS_TTY_CONFIG: u8 = 26;
pub(crate) const SYSLOG: u8 = 34;
pub(crate) const PERFMON: u8 = 38;
pub(crate) const BPF: u8 = 39;

/// Every capability.
pub(crate) const ALL: u64 = (1 << NAMES.len()) - 1;
/// What a container has unless it says otherwise: Docker's set. By number: chown, dac_override, fowner, fsetid, kill,
/// setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
pub(crate) const DEFAULT: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 10
    | 1 << 13
    | 1 << 18
    | 1 << 27
    | 1 << 29
    | 1 << 31;

/// The set that a container gets: the default, less `drop`, plus `add`; `ALL` is handled first, as Docker does.
pub(crate) fn resolve(privileged: bool, changes: &Capabilities) -> Result<u64> {
    if privileged {
        return Ok(ALL);
    }
    let (mut add, mut drop, mut add_all, mut drop_all) = (0, 0, false, false);
    for (names, set, all) in
        [(&changes.add, &mut add, &mut add_all), (&changes.drop, &mut drop, &mut drop_all)]
    {
        for name in names {
            if name.eq_ignore_ascii_case("ALL") {
                *all = true;
            } else {
                *set |= bit(name)?;
            }
        }
    }
    let start = match (add_all, drop_all) {
        (true, _) => ALL,
        (false, true) => 0,
        (false, false) => DEFAULT,
    };
    Ok((start & !drop) | add)
}

fn bit(name: &str) -> Result<u64> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let number = NAMES.iter().position(|known| *known == short);
    number.map(|number| 1 << number).ok_or_else(|| Error::Invalid(format!("unknown capability {name:?}")))
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

/// Takes every other capability out of the bounding set: nothing executed later can gain it.
pub(crate) fn limit_bounding(keep: u64) -> Result<()> {
    for number in 0..64_u8 {
        if keep & (1 << number) != 0 {
            continue;
        }
        match crate::sys::prctl(libc::PR_CAPBSET_DROP, u64::from(number)) {
            // The kernel knows no more capabilities.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(Error::os(format!("drop capability {number}"), error)),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Sets the process's own sets; nothing is inheritable or ambient. What this process itself lacks is left out.
pub(crate) fn set(wanted: u64) -> Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: header and data have the layout of version 3.
    if unsafe { libc::syscall(libc::SYS_capget, &header, data.as_mut_ptr()) } < 0 {
        return Err(Error::last_os("read capabilities"));
    }
    for (half, wanted) in data.iter_mut().zip([wanted as u32, (wanted >> 32) as u32]) {
        let permitted = half.permitted & wanted;
        *half = Data { effective: permitted, permitted, inheritable: 0 };
    }
    // SAFETY: as above.
    if unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) } < 0 {
        return Err(Error::last_os("set capabilities"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{ALL, DEFAULT, bit, resolve};
    use crate::config::Capabilities;

    fn changed(add: &[&str], drop: &[&str]) -> u64 {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        resolve(false, &Capabilities { add: names(add), drop: names(drop) }).unwrap()
    }

    #[test]
    fn add_and_drop_combine_as_docker_does() {
        assert_eq!(changed(&[], &[]), DEFAULT);
        assert_eq!(DEFAULT, 0xa804_25fb);
        assert_eq!(changed(&["NET_ADMIN"], &[]), DEFAULT | 1 << 12);
        assert_eq!(changed(&["CAP_NET_BIND_SERVICE"], &["ALL"]), 1 << 10);
        assert_eq!(changed(&["ALL"], &["net_raw"]), ALL & !(1 << 13));
        assert_eq!(resolve(true, &Capabilities::default()).unwrap(), ALL);
        assert!(bit("NOT_ONE").unwrap_err().to_string().contains("NOT_ONE"));
    }
}
