//! Which devices a container may use: the `devices` controller of version 1, a BPF program on version 2.

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{CgroupPlan, set};
use crate::config::Device;
use crate::error::{Error, Result};

/// Allows access to a device, or to many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    /// A block device, not a character device.
    pub(crate) block: bool,
    /// `None` is any.
    pub(crate) major: Option<u32>,
    /// `None` is any.
    pub(crate) minor: Option<u32>,
    /// Of `r`, `w`, `m`.
    pub(crate) access: String,
}

impl Rule {
    fn new(block: bool, major: Option<u32>, minor: Option<u32>, access: &str) -> Self {
        Self { block, major, minor, access: access.to_owned() }
    }

    /// What every container may use: make any node, and use the harmless ones.
    pub(crate) fn defaults() -> Vec<Self> {
        let mut rules = vec![Self::new(false, None, None, "m"), Self::new(true, None, None, "m")];
        // null, zero, full, random, urandom, tty, console, ptmx.
        for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
            rules.push(Self::new(false, Some(major), Some(minor), "rwm"));
        }
        rules.push(Self::new(false, Some(136), None, "rwm"));
        rules
    }

    /// A rule for a device of the host.
    pub(crate) fn for_device(device: &Device) -> Result<Self> {
        let path = &device.host_path;
        let meta = fs::metadata(path).map_err(|source| Error::File {
            what: "look up device",
            path: path.clone(),
            source,
        })?;
        let kind = meta.file_type();
        if !kind.is_block_device() && !kind.is_char_device() {
            return Err(Error::Invalid(format!("{} is not a device", path.display())));
        }
        let rdev = meta.rdev();
        let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
        Ok(Self::new(kind.is_block_device(), Some(libc::major(rdev)), Some(libc::minor(rdev)), access))
    }

    fn line(&self) -> String {
        let number = |part: Option<u32>| part.map_or_else(|| "*".to_owned(), |number| number.to_string());
        let kind = if self.block { 'b' } else { 'c' };
        format!("{kind} {}:{} {}", number(self.major), number(self.minor), self.access)
    }
}

impl CgroupPlan {
    /// Forbids every device that no rule allows.
    pub(super) fn confine_devices(&self, rules: &[Rule]) -> Result<()> {
        if let Some((dir, false)) = self.controller("devices") {
            set(&dir.join("devices.deny"), "a")?;
            let path = dir.join("devices.allow");
            let failed = |error| Error::os(format!("write to {}", path.display()), error);
            let mut allow = fs::OpenOptions::new().write(true).open(&path).map_err(failed)?;
            // One rule a write, as the kernel wants it.
            return rules.iter().try_for_each(|rule| allow.write_all(rule.line().as_bytes()).map_err(failed));
        }
        match &self.layout.v2 {
            Some(root) => attach(&root.join(&self.path), &program(rules)),
            None => Ok(()),
        }
    }
}

/// One instruction of an eBPF program: opcode, registers, offset, immediate.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn op(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers, offset, immediate }
}

/// The program: r2 device type, r3 access, r4 major, r5 minor; 1 in r0 allows.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    const LOAD_WORD: u8 = 0x61;
    const AND: u8 = 0x57;
    const SHIFT_RIGHT: u8 = 0x77;
    const MOVE: u8 = 0xb7;
    const COPY: u8 = 0xbf;
    const JUMP_NOT_EQUAL: u8 = 0x55;
    const EXIT: u8 = 0x95;
    let mut code = vec![
        op(LOAD_WORD, 0x12, 0, 0),
        op(AND, 2, 0, 0xffff),
        op(LOAD_WORD, 0x13, 0, 0),
        op(SHIFT_RIGHT, 3, 0, 16),
        op(LOAD_WORD, 0x14, 4, 0),
        op(LOAD_WORD, 0x15, 8, 0),
    ];
    for rule in rules {
        let mut checks = vec![(2, if rule.block { 1 } else { 2 })];
        checks.extend(rule.major.map(|major| (4, major as i32)));
        checks.extend(rule.minor.map(|minor| (5, minor as i32)));
        let bit = |c: char, bit: i32| if rule.access.contains(c) { bit } else { 0 };
        let forbidden = 7 & !(bit('m', 1) | bit('r', 2) | bit('w', 4));
        // Copy the access, mask what the rule does not give: anything left means another rule must decide.
        let mut block = vec![op(COPY, 0x31, 0, 0), op(AND, 1, 0, forbidden)];
        checks.push((1, 0));
        let length = block.len() + checks.len() + 2;
        for (register, value) in checks {
            let skip = length - block.len() - 1;
            block.push(op(JUMP_NOT_EQUAL, register, skip as i16, value));
        }
        block.extend([op(MOVE, 0, 0, 1), op(EXIT, 0, 0, 0)]);
        code.extend(block);
    }
    code.extend([op(MOVE, 0, 0, 0), op(EXIT, 0, 0, 0)]);
    code
}

#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn attach(dir: &Path, program: &[Instruction]) -> Result<()> {
    const PROG_LOAD: i32 = 5;
    const PROG_ATTACH: i32 = 8;
    const CGROUP_DEVICE_PROGRAM: u32 = 15;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let cgroup = fs::File::open(dir).map_err(|error| Error::os(format!("open {}", dir.display()), error))?;
    let load = LoadAttributes {
        kind: CGROUP_DEVICE_PROGRAM,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..LoadAttributes::default()
    };
    // SAFETY: program and license live during the call, and the size is the structure's.
    let loaded = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &load, size_of::<LoadAttributes>()) };
    if loaded < 0 {
        return Err(Error::last_os("load the device filter"));
    }
    // SAFETY: the kernel just made this descriptor for us.
    let loaded: std::os::fd::OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(loaded as i32) };
    let attach = AttachAttributes {
        target: cgroup.as_raw_fd() as u32,
        program: loaded.as_raw_fd() as u32,
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the structure is valid for its size.
    let attached =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &attach, size_of::<AttachAttributes>()) };
    match attached {
        0.. => Ok(()),
        _ => Err(Error::last_os(format!("attach the device filter to {}", dir.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::{Rule, program};

    #[test]
    fn rules_read_as_the_kernel_wants_them() {
        let lines: Vec<String> = Rule::defaults().iter().map(Rule::line).collect();
        assert_eq!(lines[0], "c *:* m");
        assert_eq!(lines[1], "b *:* m");
        assert!(lines.contains(&"c 1:3 rwm".to_owned()));
        assert!(lines.contains(&"c 136:* rwm".to_owned()));
    }

    #[test]
    fn every_jump_of_the_program_lands_after_its_rule() {
        let code = program(&Rule::defaults());
        for (index, instruction) in code.iter().enumerate().filter(|(_, i)| i.code == 0x55) {
            let target = index + 1 + instruction.offset as usize;
            assert_eq!(code[target - 1].code, 0x95, "jump at {index} does not land behind an exit");
        }
    }
}
