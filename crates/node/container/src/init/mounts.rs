//! Everything mounted inside a container's root.
//!
//! Sources on the host are opened as detached copies before the root is entered; from then on only paths inside the
//! container are resolved, so no link in an image or a volume can lead out of it.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use nix::sys::stat::{Mode, SFlag, mknodat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use crate::cgroup::CgroupPlan;
use crate::config::{ContainerConfig, Device, Mount, MountSource, Propagation};
use crate::error::{Error, Result};
use crate::sys::{self, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};

const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const STRICT: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
/// Most device nodes copied into a privileged container.
const MAX_NODES: usize = 4096;
/// Most links without a target that are followed, as in the kernel.
const MAX_LINKS: usize = 40;

/// A device node to make.
struct Node {
    /// Relative to `/dev`.
    path: PathBuf,
    kind: SFlag,
    mode: u32,
    device: u64,
    owner: (u32, u32),
}

/// What was opened on the host.
pub(super) struct Sources {
    shm: Option<OwnedFd>,
    cgroups: Vec<(Option<String>, OwnedFd)>,
    /// One for each mount of the configuration; `None` for a memory file system.
    binds: Vec<Option<(OwnedFd, bool)>>,
    nodes: Vec<Node>,
}

/// Opens everything of the host's that the container will show.
pub(super) fn open_sources(
    config: &ContainerConfig,
    cgroup: &CgroupPlan,
    shm: Option<OwnedFd>,
) -> Result<Sources> {
    let mut cgroups = Vec::new();
    for (name, dir) in cgroup.visible() {
        let tree = match sys::clone_tree(&dir, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other
                .map_err(|error| Error::os(format!("open cgroup {} for mounting", dir.display()), error))?,
        };
        let access = if config.privileged { 0 } else { MOUNT_ATTR_RDONLY };
        sys::set_attributes(&tree, STRICT | access, MsFlags::MS_PRIVATE.bits(), false)
            .map_err(|error| Error::os("protect the cgroup mount", error))?;
        cgroups.push((name, tree));
    }
    let binds = config.mounts.iter().map(open_bind).collect::<Result<_>>()?;
    let mut nodes = default_nodes();
    if config.privileged {
        host_nodes(Path::new("/dev"), Path::new(""), &mut nodes);
    }
    for device in &config.devices {
        nodes.push(device_node(device)?);
    }
    Ok(Sources { shm, cgroups, binds, nodes })
}

/// A detached copy of what a bind mount shows, and whether it is a directory.
fn open_bind(mount: &Mount) -> Result<Option<(OwnedFd, bool)>> {
    let MountSource::Bind { path, sub_path } = &mount.source else { return Ok(None) };
    let what = || match sub_path {
        Some(sub) => format!("open mount source {} subPath {}", path.display(), sub.display()),
        None => format!("open mount source {}", path.display()),
    };
    let open = || -> io::Result<(OwnedFd, bool)> {
        let tree = match sub_path {
            None => sys::clone_tree(path, true)?,
            Some(sub) => {
                let volume = OwnedFd::from(std::fs::File::open(path)?);
                let inside = sys::open_in_root(&volume, sub, libc::O_PATH, 0)?;
                sys::clone_tree_at(&inside, true)?
            }
        };
        let propagation = match mount.propagation {
            Propagation::Private => MsFlags::MS_PRIVATE.bits(),
            Propagation::HostToContainer => MsFlags::MS_SLAVE.bits(),
            Propagation::Bidirectional => 0,
        };
        if propagation != 0 {
            sys::set_attributes(&tree, 0, propagation, true)?;
        }
        if mount.read_only {
            sys::set_attributes(&tree, MOUNT_ATTR_RDONLY, 0, mount.recursive_read_only)?;
        }
        let directory = nix::sys::stat::fstat(&tree)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
        Ok((tree, directory))
    };
    open().map(Some).map_err(|error| Error::os(what(), error))
}

fn default_nodes() -> Vec<Node> {
    let node = |(name, major, minor): (&str, u32, u32)| Node {
        path: PathBuf::from(name),
        kind: SFlag::S_IFCHR,
        mode: 0o666,
        device: libc::makedev(major, minor),
        owner: (0, 0),
    };
    let all =
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    all.into_iter().map(node).collect()
}

fn node_of(meta: &std::fs::Metadata, path: PathBuf) -> Option<Node> {
    let kind = meta.file_type();
    let kind = match (kind.is_char_device(), kind.is_block_device()) {
        (true, _) => SFlag::S_IFCHR,
        (_, true) => SFlag::S_IFBLK,
        _ => return None,
    };
    let mode = meta.permissions().mode() & 0o7777;
    Some(Node { path, kind, mode, device: meta.rdev(), owner: (meta.uid(), meta.gid()) })
}

/// Every device of the host, for a privileged container.
fn host_nodes(dir: &Path, relative: &Path, nodes: &mut Vec<Node>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = relative.join(entry.file_name());
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            let own = ["pts", "shm", "mqueue", ".lxc"].iter().any(|name| path == Path::new(name));
            if !own && relative.components().count() < 4 {
                host_nodes(&entry.path(), &path, nodes);
            }
        } else if nodes.len() < MAX_NODES
            && !nodes.iter().any(|known| known.path == path)
            && path != Path::new("console")
            && path != Path::new("ptmx")
        {
            nodes.extend(node_of(&meta, path));
        }
    }
}

fn device_node(device: &Device) -> Result<Node> {
    let path = &device.host_path;
    let meta = std::fs::metadata(path)
        .map_err(|error| Error::os(format!("look up device {}", path.display()), error))?;
    let target = device.container_path.strip_prefix("/dev").map_err(|_| {
        Error::Invalid(format!("device path {} is not below /dev", device.container_path.display()))
    })?;
    node_of(&meta, target.to_owned())
        .ok_or_else(|| Error::Invalid(format!("{} is not a device", path.display())))
}

/// Mounts everything, in this process's root.
pub(super) fn mount_all(config: &ContainerConfig, sources: Sources) -> Result<()> {
    let root = open_root()?;
    let Sources { shm, cgroups, binds, nodes } = sources;
    attach_new(&root, "/proc", c"proc", &[], STRICT)?;
    let dev: &[(&str, Option<&[u8]>)] = &[("mode", Some(b"755")), ("size", Some(b"65536k"))];
    attach_new(&root, "/dev", c"tmpfs", dev, MOUNT_ATTR_NOSUID)?;
    fill_dev(&root, &nodes)?;
    let pts: &[(&str, Option<&[u8]>)] =
        &[("newinstance", None), ("ptmxmode", Some(b"0666")), ("mode", Some(b"0620")), ("gid", Some(b"5"))];
    attach_new(&root, "/dev/pts", c"devpts", pts, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)?;
    attach_new(&root, "/dev/mqueue", c"mqueue", &[], STRICT)?;
    if let Some(shm) = shm {
        attach(&root, "/dev/shm", &shm, true)?;
    }
    let access = if config.privileged { 0 } else { MOUNT_ATTR_RDONLY };
    attach_new(&root, "/sys", c"sysfs", &[], STRICT | access)?;
    mount_cgroups(&root, cgroups, access)?;
    for (mount, bind) in config.mounts.iter().zip(binds) {
        mount_one(&root, mount, bind)?;
    }
    hide(&root, config)
}

fn open_root() -> Result<OwnedFd> {
    let root = sys::open_in_root(
        &std::fs::File::open("/").map_err(|e| Error::os("open /", e))?,
        Path::new("/"),
        libc::O_PATH,
        0,
    );
    root.map_err(|error| Error::os("open /", error))
}

fn attach_new(
    root: &OwnedFd,
    path: &str,
    kind: &CStr,
    options: &[(&str, Option<&[u8]>)],
    attributes: u64,
) -> Result<()> {
    let mount = sys::new_mount(kind, options, attributes)
        .map_err(|error| Error::os(format!("mount {} on {path}", kind.to_string_lossy()), error))?;
    attach(root, path, &mount, true)
}

/// Attaches a mount at a path inside the container, which is made when missing.
fn attach(root: &OwnedFd, path: impl AsRef<Path>, mount: &OwnedFd, directory: bool) -> Result<()> {
    let path = path.as_ref();
    let target = mount_point(root, path, directory)?;
    sys::attach(mount, &target).map_err(|error| {
        let hint = match error.raw_os_error() {
            Some(libc::ENOTDIR) => " (hint: one of source and destination is a file, the other a directory)",
            _ => "",
        };
        Error::os(format!("mount on {}{hint}", path.display()), error)
    })
}

/// Opens a mount point, and makes it first when it is missing.
fn mount_point(root: &OwnedFd, path: &Path, directory: bool) -> Result<OwnedFd> {
    let failed = |error: io::Error| Error::os(format!("make mount point {}", path.display()), error);
    match sys::open_in_root(root, path, libc::O_PATH, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        other => return other.map_err(failed),
    }
    if directory {
        return directory_at(root, path, MAX_LINKS).map_err(failed);
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    directory_at(root, parent, MAX_LINKS).map_err(failed)?;
    drop(sys::open_in_root(root, path, libc::O_CREAT | libc::O_RDONLY, 0o644).map_err(failed)?);
    sys::open_in_root(root, path, libc::O_PATH, 0).map_err(failed)
}

/// Opens a directory inside the container, making what is missing of it; also where a link in the image points to.
fn directory_at(root: &OwnedFd, path: &Path, links: usize) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    match sys::open_in_root(root, path, libc::O_PATH | libc::O_DIRECTORY, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        other => return other,
    }
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from_raw_os_error(libc::ENOENT));
    };
    let parent = directory_at(root, above, links)?;
    match nix::sys::stat::mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) => sys::open_in_root(&parent, Path::new(name), libc::O_PATH | libc::O_DIRECTORY, 0),
        // There, and yet not found: a link whose target is missing.
        Err(nix::Error::EEXIST) => {
            let target = nix::fcntl::readlinkat(&parent, name)?;
            let Some(links) = links.checked_sub(1) else {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            };
            directory_at(root, &above.join(target), links)
        }
        Err(error) => Err(error.into()),
    }
}

fn fill_dev(root: &OwnedFd, nodes: &[Node]) -> Result<()> {
    let failed = |what: &Path, error: io::Error| Error::os(format!("make /dev/{}", what.display()), error);
    let dev = sys::open_in_root(root, Path::new("/dev"), libc::O_PATH | libc::O_DIRECTORY, 0)
        .map_err(|error| failed(Path::new(""), error))?;
    for node in nodes {
        let name = node.path.file_name().unwrap_or_default();
        let parent = node.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let made = parent
            .map(|parent| directory_at(&dev, parent, MAX_LINKS))
            .transpose()
            .map_err(|error| failed(&node.path, error))?;
        let parent = made.as_ref().unwrap_or(&dev);
        let mode = Mode::from_bits_truncate(node.mode);
        match mknodat(parent, name, node.kind, mode, node.device) {
            Ok(()) => {}
            // Given twice, or one of the default ones again.
            Err(nix::Error::EEXIST) => continue,
            Err(error) => return Err(failed(&node.path, error.into())),
        }
        if node.owner != (0, 0) {
            let (uid, gid) = node.owner;
            let owner = (Some(uid.into()), Some(gid.into()));
            nix::unistd::fchownat(parent, name, owner.0, owner.1, nix::fcntl::AtFlags::empty())
                .map_err(|error| failed(&node.path, error.into()))?;
        }
    }
    let links = [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("/proc/kcore", "core"),
        ("pts/ptmx", "ptmx"),
    ];
    for (target, name) in links {
        let _ = unlinkat(&dev, name, UnlinkatFlags::NoRemoveDir);
        symlinkat(target, &dev, name).map_err(|error| failed(Path::new(name), error.into()))?;
    }
    Ok(())
}

fn mount_cgroups(root: &OwnedFd, cgroups: Vec<(Option<String>, OwnedFd)>, access: u64) -> Result<()> {
    const PLACE: &str = "/sys/fs/cgroup";
    if let Some((_, tree)) = cgroups.iter().find(|(name, _)| name.is_none()) {
        return attach(root, PLACE, tree, true);
    }
    let options: &[(&str, Option<&[u8]>)] = &[("mode", Some(b"755"))];
    attach_new(root, PLACE, c"tmpfs", options, STRICT)?;
    for (name, tree) in &cgroups {
        let name = name.as_deref().unwrap_or_default();
        attach(root, Path::new(PLACE).join(name), tree, true)?;
        // Controllers that are mounted together have a link for each name.
        for part in name.split(',').filter(|part| *part != name) {
            let _ = std::os::unix::fs::symlink(name, Path::new(PLACE).join(part));
        }
    }
    if access != 0 {
        let failed = |error| Error::os(format!("make {PLACE} read-only"), error);
        let place = sys::open_in_root(root, Path::new(PLACE), libc::O_PATH, 0).map_err(failed)?;
        sys::set_attributes(&place, MOUNT_ATTR_RDONLY, 0, false).map_err(failed)?;
    }
    Ok(())
}

fn mount_one(root: &OwnedFd, mount: &Mount, bind: Option<(OwnedFd, bool)>) -> Result<()> {
    if let Some((tree, directory)) = bind {
        return attach(root, &mount.destination, &tree, directory);
    }
    let MountSource::Tmpfs { size, mode } = &mount.source else { return Ok(()) };
    let mode = format!("{:o}", mode.unwrap_or(0o1777));
    let size = size.map(|size| size.to_string());
    let mut options: Vec<(&str, Option<&[u8]>)> = vec![("mode", Some(mode.as_bytes()))];
    options.extend(size.as_ref().map(|size| ("size", Some(size.as_bytes()))));
    let access = if mount.read_only { MOUNT_ATTR_RDONLY } else { 0 };
    let what = format!("mount tmpfs on {}", mount.destination.display());
    let tree = sys::new_mount(c"tmpfs", &options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | access)
        .map_err(|error| Error::os(what, error))?;
    attach(root, &mount.destination, &tree, true)
}

/// Hides masked paths and makes others read-only.
fn hide(root: &OwnedFd, config: &ContainerConfig) -> Result<()> {
    let defaults = |paths: &[&str]| -> Vec<String> {
        if config.privileged { Vec::new() } else { paths.iter().map(|path| (*path).to_owned()).collect() }
    };
    let read_only = config.readonly_paths.clone().unwrap_or_else(|| defaults(&READ_ONLY));
    let masked = config.masked_paths.clone().unwrap_or_else(|| defaults(&MASKED));
    let present = |path: &str| match sys::open_in_root(root, Path::new(path), libc::O_PATH, 0) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(error) => Err(Error::os(format!("open {path}"), error)),
    };
    for path in &read_only {
        let Some(target) = present(path)? else { continue };
        let failed = |error| Error::os(format!("make {path} read-only"), error);
        let copy = sys::clone_tree_at(&target, true).map_err(failed)?;
        sys::set_attributes(&copy, MOUNT_ATTR_RDONLY, 0, true).map_err(failed)?;
        sys::attach(&copy, &target).map_err(failed)?;
    }
    let mut empty = None;
    for path in &masked {
        let Some(target) = present(path)? else { continue };
        let failed = |error| Error::os(format!("mask {path}"), error);
        let directory =
            nix::sys::stat::fstat(&target).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR);
        let cover = match (directory, &empty) {
            (false, _) => sys::clone_tree(Path::new("/dev/null"), false).map_err(failed)?,
            // The first one is attached; copies of an attached mount work on every kernel.
            (true, Some(first)) => sys::clone_tree_at(first, false).map_err(failed)?,
            (true, None) => sys::new_mount(c"tmpfs", &[("size", Some(b"0"))], STRICT | MOUNT_ATTR_RDONLY)
                .map_err(failed)?,
        };
        sys::attach(&cover, &target).map_err(failed)?;
        if directory && empty.is_none() {
            empty = Some(cover);
        }
    }
    Ok(())
}

/// Shows the container's terminal as `/dev/console`.
pub(super) fn mount_console(slave: &OwnedFd) -> Result<()> {
    let failed = |error| Error::os("mount the terminal on /dev/console", error);
    let tree = sys::clone_tree_at(slave, false).map_err(failed)?;
    attach(&open_root()?, "/dev/console", &tree, false)
}
