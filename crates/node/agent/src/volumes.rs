//! Volumes of pods: planned from the spec and its references, then made on disk.
//!
//! Planning is pure ([`plan`]); making is synchronous file work ([`make`]) for a blocking thread. Files that come from
//! the API are written by [`atomic`], so that a reader sees either all old files or all new ones.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{HostPathVolumeSource, Pod, PodSpec, Volume};
use nix::mount::{MntFlags, MsFlags};

pub mod atomic;
pub mod claims;
pub mod host_path;
pub mod owner;
pub mod payload;
pub mod subpath;

use atomic::Payload;
use claims::{Claims, Kind};
pub use payload::{Sources, TokenKey, token_requests};

use crate::pod::spec;

/// Why a volume cannot be made; shown in a `FailedMount` event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {reason}")]
pub struct VolumeError {
    /// Name of the volume in the pod.
    pub volume: String,
    /// What is wrong.
    pub reason: String,
}

/// What has to be on disk for one volume.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name of the volume in the pod.
    pub name: String,
    /// What it is.
    pub kind: PlanKind,
    /// Group that owns the files, with write permission.
    pub fs_group: Option<u32>,
    /// Files are given to the group only where the top is not the group's yet.
    pub on_mismatch: bool,
    /// Never writable, whatever the mount says.
    pub read_only: bool,
}

/// Kinds of volumes.
#[derive(Debug, Clone)]
pub enum PlanKind {
    /// A directory that lives as long as the pod.
    EmptyDir {
        /// In memory.
        memory: bool,
        /// Size limit, honoured in memory.
        size: Option<u64>,
    },
    /// A path of the host.
    HostPath(HostPathVolumeSource),
    /// Files from the API, kept up to date.
    Files(Payload),
    /// What a claim is bound to.
    Claimed(Kind),
    /// What an image holds: its layers, uppermost first; of no account once it is mounted.
    Image(Vec<PathBuf>),
}

/// A volume that is ready to be mounted into containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Where it is on the host.
    pub path: PathBuf,
    /// Never writable, whatever the mount says.
    pub read_only: bool,
    /// Directories for sub-paths may be made in it.
    pub makes_sub_paths: bool,
    /// It is a block device, for `volumeDevices`.
    pub is_device: bool,
}

/// Work out what every volume of a pod needs.
pub fn plan(pod: &Pod, sources: &Sources<'_>, claims: &Claims) -> Result<Vec<Plan>, VolumeError> {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let fs_group = spec.security_context.as_ref().and_then(|context| context.fs_group);
    let fs_group = fs_group.and_then(|group| u32::try_from(group).ok());
    let policy = spec.security_context.as_ref().and_then(|c| c.fs_group_change_policy.as_deref());
    let on_mismatch = policy == Some("OnRootMismatch");
    let mut plans = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        let error = |reason: String| VolumeError { volume: volume.name.clone(), reason };
        let claimed = claims.get(&volume.name);
        let kind = match claimed {
            Some(claimed) => claimed.kind().map(PlanKind::Claimed),
            None => kind(pod, volume, sources),
        };
        let kind = kind.map_err(error)?;
        let read_only = claimed.is_some_and(|claimed| claimed.read_only);
        plans.push(Plan { name: volume.name.clone(), kind, fs_group, on_mismatch, read_only });
    }
    Ok(plans)
}

fn kind(pod: &Pod, volume: &Volume, sources: &Sources<'_>) -> Result<PlanKind, String> {
    if let Some(empty) = &volume.empty_dir {
        let size = empty.size_limit.as_ref().and_then(spec::units).and_then(|size| u64::try_from(size).ok());
        return Ok(PlanKind::EmptyDir { memory: empty.medium.as_deref() == Some("Memory"), size });
    }
    if let Some(host) = &volume.host_path {
        return Ok(PlanKind::HostPath(host.clone()));
    }
    if volume.image.is_some() {
        let layers = sources.images.get(&volume.name).cloned();
        return layers.map(PlanKind::Image).ok_or_else(|| "its image is not here".to_owned());
    }
    if let Some(payload) = payload::payload(pod, volume, sources)? {
        return Ok(PlanKind::Files(payload));
    }
    Err("this kind of volume is not supported by this node (hint: persistentVolumeClaim, ephemeral, \
         emptyDir, hostPath, configMap, secret, projected, downwardAPI and image are)"
        .to_owned())
}

/// Make every volume below `dir` (the pod's own directory). Making again what is there changes nothing.
pub fn make(dir: &Path, plans: Vec<Plan>) -> Result<BTreeMap<String, Ready>, VolumeError> {
    let mut ready = BTreeMap::new();
    for plan in plans {
        let made =
            make_one(dir, &plan).map_err(|reason| VolumeError { volume: plan.name.clone(), reason })?;
        ready.insert(plan.name, made);
    }
    Ok(ready)
}

fn make_one(dir: &Path, plan: &Plan) -> Result<Ready, String> {
    let text = |error: std::io::Error| error.to_string();
    let path = volume_dir(dir, &plan.name);
    let at =
        |path| Ready { path, read_only: plan.read_only, makes_sub_paths: !plan.read_only, is_device: false };
    match &plan.kind {
        PlanKind::EmptyDir { memory, size } => {
            make_dir(&path, 0o777).map_err(text)?;
            if *memory {
                mount_tmpfs(&path, *size).map_err(text)?;
            }
            own(&path, plan.fs_group).map_err(text)?;
            Ok(at(path))
        }
        PlanKind::HostPath(source) => {
            host_path(source)?;
            Ok(at(PathBuf::from(&source.path)))
        }
        PlanKind::Files(payload) => {
            make_dir(&path, 0o755).map_err(text)?;
            if payload.sensitive {
                mount_tmpfs(&path, None).map_err(text)?;
            }
            atomic::write(&path, payload, plan.fs_group).map_err(text)?;
            Ok(Ready { path, read_only: true, makes_sub_paths: false, is_device: false })
        }
        PlanKind::Image(layers) => {
            // Where it is mounted, the directory is the image's own, and cannot be changed.
            if !is_mounted(&path).map_err(text)? {
                make_dir(&path, 0o755).map_err(text)?;
                mount_layers(&path, layers).map_err(text)?;
            }
            Ok(Ready { path, read_only: true, makes_sub_paths: false, is_device: false })
        }
        PlanKind::Claimed(kind) => {
            let path = make_claimed(kind)?;
            let given = matches!(kind, Kind::Made(_) | Kind::Local(_)) && !plan.read_only;
            if let Some(group) = plan.fs_group.filter(|_| given) {
                owner::give(&path, group, plan.on_mismatch).map_err(text)?;
            }
            Ok(Ready { is_device: matches!(kind, Kind::Device(_)), ..at(path) })
        }
    }
}

fn make_claimed(kind: &Kind) -> Result<PathBuf, String> {
    match kind {
        Kind::Host(path, type_) => {
            let type_ = Some(type_.clone());
            host_path(&HostPathVolumeSource { path: path.display().to_string(), type_ })?;
            Ok(path.clone())
        }
        Kind::Made(path) => {
            if !path.exists() {
                make_dir(path, 0o777).map_err(|error| error.to_string())?;
            }
            Ok(path.clone())
        }
        Kind::Local(path) | Kind::Device(path) => {
            let found = std::fs::metadata(path);
            let found =
                found.map_err(|error| format!("path {} of the local volume: {error}", path.display()))?;
            let is_device = found.file_type().is_block_device();
            match (matches!(kind, Kind::Device(_)), is_device) {
                (true, false) => {
                    Err(format!("{} is no block device, as volumeMode Block asks for", path.display()))
                }
                (false, true) => Err(format!(
                    "{} is a block device (hint: mount its file system on the node and name that directory, or use \
                     volumeMode: Block)",
                    path.display()
                )),
                _ => Ok(path.clone()),
            }
        }
    }
}

/// Unmount and remove everything below the pod's directory.
pub fn remove(dir: &Path) -> std::io::Result<()> {
    let volumes = dir.join("volumes");
    if let Ok(entries) = std::fs::read_dir(&volumes) {
        for entry in entries.flatten() {
            // Not being a mount point is the usual case.
            let _ = nix::mount::umount2(&entry.path(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        }
    }
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where a volume of the pod at `dir` is.
#[must_use]
pub fn volume_dir(dir: &Path, name: &str) -> PathBuf {
    dir.join("volumes").join(name)
}

fn make_dir(path: &Path, mode: u32) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    // The umask does not apply to an explicit change.
    let current = std::fs::metadata(path)?.permissions().mode() & 0o777;
    if current != mode {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn is_mount(path: &Path) -> std::io::Result<bool> {
    let parent = path.parent().unwrap_or(path);
    Ok(std::fs::metadata(path)?.dev() != std::fs::metadata(parent)?.dev())
}

fn mount_tmpfs(path: &Path, size: Option<u64>) -> std::io::Result<()> {
    if is_mount(path)? {
        return Ok(());
    }
    let mode = std::fs::metadata(path)?.permissions().mode() & 0o7777;
    let mut data = format!("mode={mode:o}");
    if let Some(size) = size {
        data.push_str(&format!(",size={size}"));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(data.as_str()))?;
    Ok(())
}

/// Show the layers of an image, uppermost first, as one read-only tree.
fn mount_layers(path: &Path, layers: &[PathBuf]) -> std::io::Result<()> {
    let none = None::<&str>;
    if let [only] = layers {
        nix::mount::mount(Some(only), path, none, MsFlags::MS_BIND, none)?;
    } else {
        sampan_container::mount_overlay(layers, None, path).map_err(std::io::Error::other)?;
    }
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(nix::mount::mount(none, path, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags, none)?)
}

/// Whether something is mounted exactly there, be it from the same file system.
pub(crate) fn is_mounted(path: &Path) -> std::io::Result<bool> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let path = path.display().to_string().replace(' ', "\\040");
    Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(path.as_str())))
}

/// Give a directory to a group, so that files made in it belong to the group too.
fn own(path: &Path, group: Option<u32>) -> std::io::Result<()> {
    let Some(group) = group else { return Ok(()) };
    std::os::unix::fs::chown(path, None, Some(group))?;
    let mode = std::fs::metadata(path)?.permissions().mode() & 0o7777;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | 0o2770))
}

fn host_path(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let io = |error: std::io::Error| error.to_string();
    match kind {
        "DirectoryOrCreate" if !path.exists() => return make_dir(path, 0o755).map_err(io),
        "FileOrCreate" if !path.exists() => {
            std::fs::write(path, b"").map_err(io)?;
            return std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).map_err(io);
        }
        // Upstream's runtime makes a missing directory when no type is asked for.
        "" if !path.exists() => return make_dir(path, 0o755).map_err(io),
        _ => {}
    }
    let found = std::fs::metadata(path).map(|found| found.file_type());
    let (fits, what) = match kind {
        "Directory" | "DirectoryOrCreate" => (found.as_ref().is_ok_and(|kind| kind.is_dir()), "directory"),
        "File" | "FileOrCreate" => (found.as_ref().is_ok_and(std::fs::FileType::is_file), "file"),
        "Socket" => (found.as_ref().is_ok_and(FileTypeExt::is_socket), "socket file"),
        "CharDevice" => (found.as_ref().is_ok_and(FileTypeExt::is_char_device), "character device"),
        "BlockDevice" => (found.as_ref().is_ok_and(FileTypeExt::is_block_device), "block device"),
        _ => return Ok(()),
    };
    if fits { Ok(()) } else { Err(format!("hostPath type check failed: {} is not a {what}", source.path)) }
}

#[cfg(test)]
#[path = "volumes/tests.rs"]
mod tests;
