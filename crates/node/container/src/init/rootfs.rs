//! Entering a container's root file system.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use crate::config::{ContainerConfig, Rootfs};
use crate::error::{Error, Result};
use crate::sys;

/// The kernel's bound on one value given to `fsconfig`.
const MAX_VALUE: usize = 255;

/// Mounts the root file system and makes it this process's root. Nothing of the host's tree stays reachable.
/// `point` is any directory; in this private mount namespace it serves as mount point.
pub(super) fn enter(rootfs: &Rootfs, point: &Path) -> Result<()> {
    let none = None::<&str>;
    // Before anything is mounted: nothing may travel to the host.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|error| Error::os("make mounts private", error.into()))?;
    let what = format!("mount the root file system {}", describe(rootfs));
    match rootfs {
        Rootfs::Directory(path) => {
            let tree = sys::clone_tree(path, true).map_err(|error| Error::os(&what, error))?;
            sys::set_attributes(&tree, 0, MsFlags::MS_PRIVATE.bits(), true)
                .map_err(|error| Error::os(&what, error))?;
            attach_at(&tree, point)?;
        }
        Rootfs::Overlay { lower, upper, work, options } => {
            let layers = Layers { lower, upper: upper.as_deref().zip(work.as_deref()), options };
            layers.mount(point, what)?;
        }
    }
    let failed = |what: &'static str| move |error: nix::Error| Error::os(what, error.into());
    chdir(point).map_err(failed("enter the root file system"))?;
    // The old root ends up on top of the new one; then it is taken away.
    pivot_root(".", ".").map_err(failed("pivot_root into the root file system"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(failed("unmount the host's root"))?;
    chdir("/").map_err(failed("enter the root file system"))
}

/// Mount directories over each other, top first, on a directory. What is written goes to the first directory of `upper`,
/// with the second, its work directory, beside it; without them nothing can be written, and `lower` has at least two.
///
/// # Errors
/// The kernel refuses, most likely for a directory that is not there or lies on a file system that cannot be an upper one.
pub fn mount_overlay(lower: &[PathBuf], upper: Option<(&Path, &Path)>, point: &Path) -> Result<()> {
    let layers = Layers { lower, upper, options: &[] };
    layers.mount(point, format!("mount an overlay on {}", point.display()))
}

fn describe(rootfs: &Rootfs) -> String {
    match rootfs {
        Rootfs::Directory(path) => path.display().to_string(),
        Rootfs::Overlay { lower, upper, .. } => {
            let first = lower.first().map(|path| path.display().to_string()).unwrap_or_default();
            let upper = upper.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string());
            format!("overlay of {} layers (first {first}, upper {upper})", lower.len())
        }
    }
}

fn attach_at(tree: &OwnedFd, point: &Path) -> Result<()> {
    let failed = |error| Error::os(format!("attach the root file system at {}", point.display()), error);
    let target = std::fs::File::open(point).map_err(failed)?;
    sys::attach(tree, &target).map_err(failed)
}

struct Layers<'a> {
    lower: &'a [PathBuf],
    upper: Option<(&'a Path, &'a Path)>,
    options: &'a [String],
}

impl Layers<'_> {
    fn mount(&self, point: &Path, what: String) -> Result<()> {
        match self.new_mount() {
            Ok(tree) => attach_at(&tree, point),
            // Kernels before 6.8 do not take layers one by one, and values are short.
            Err(first) if matches!(first.raw_os_error(), Some(libc::EINVAL) | None) => {
                self.classic_mount(point).map_err(|_| Error::os(what, first))
            }
            Err(error) => Err(Error::os(what, error)),
        }
    }

    fn new_mount(&self) -> std::io::Result<OwnedFd> {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let mut options: Vec<(&str, Option<Vec<u8>>)> =
            self.lower.iter().map(|path| ("lowerdir+", Some(bytes(path)))).collect();
        if let Some((upper, work)) = self.upper {
            options.push(("upperdir", Some(bytes(upper))));
            options.push(("workdir", Some(bytes(work))));
        }
        for option in self.options {
            match option.split_once('=') {
                Some((key, value)) => options.push((key, Some(value.as_bytes().to_vec()))),
                None => options.push((option, None)),
            }
        }
        if options.iter().any(|(_, value)| value.as_ref().is_some_and(|value| value.len() > MAX_VALUE)) {
            return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
        }
        let options: Vec<(&str, Option<&[u8]>)> =
            options.iter().map(|(key, value)| (*key, value.as_deref())).collect();
        sys::new_mount(c"overlay", &options, 0)
    }

    fn classic_mount(&self, point: &Path) -> std::io::Result<()> {
        let escape = |path: &Path, data: &mut Vec<u8>| {
            for byte in path.as_os_str().as_bytes() {
                if matches!(byte, b':' | b',' | b'\\') {
                    data.push(b'\\');
                }
                data.push(*byte);
            }
        };
        let mut data = b"lowerdir=".to_vec();
        for (index, path) in self.lower.iter().enumerate() {
            if index > 0 {
                data.push(b':');
            }
            escape(path, &mut data);
        }
        if let Some((upper, work)) = self.upper {
            data.extend(b",upperdir=");
            escape(upper, &mut data);
            data.extend(b",workdir=");
            escape(work, &mut data);
        }
        for option in self.options {
            data.push(b',');
            data.extend(option.as_bytes());
        }
        let data = sys::c_string(&data)?;
        let overlay: &CStr = c"overlay";
        Ok(mount(Some(overlay), point, Some(overlay), MsFlags::empty(), Some(data.as_c_str()))?)
    }
}

/// The last touch: read-only, when asked for.
pub(super) fn finish(config: &ContainerConfig) -> Result<()> {
    if !config.read_only_rootfs {
        return Ok(());
    }
    let root = std::fs::File::open("/").map_err(|error| Error::os("open /", error))?;
    sys::set_attributes(&root, sys::MOUNT_ATTR_RDONLY, 0, false)
        .map_err(|error| Error::os("make the root file system read-only", error))
}
