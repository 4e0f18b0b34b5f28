//! A smaller image that does the same: one layer with what is needed, and a report of what is not.

mod categories;
mod elf;
mod languages;
mod reach;
mod trim;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use categories::Cause;

use languages::Languages;

use crate::analyze::visible;
use crate::build::context::covers;
use crate::build::output::write_image;
use crate::build::stage::commit;
use crate::compress::Format;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layers::meta;
use crate::layers::tree::{Node, Tree};
use crate::oci::{self, ConfigJson, HistoryEntry, ImageConfig};
use crate::packages::Packages;
use crate::reference::Reference;
use crate::service::{ImageSummary, Inner};

/// Directories of a report.
const SHOWN: usize = 40;

/// What is to be made smaller, and how.
#[derive(Clone, Debug, Default)]
pub struct SlimOptions {
    /// The image.
    pub image: String,
    /// Patterns of paths that stay, as `.dockerignore` has them.
    pub keep: Vec<String>,
    /// Commands that must work too: health checks, warm-ups.
    pub commands: Vec<Vec<String>>,
    /// Files that a running container was seen to open, when one was watched. They stand for what would be guessed
    /// from packages and from paths that programs name.
    pub seen: Option<Vec<PathBuf>>,
    /// Languages whose translations and formats stay, besides English and those of the image's `LANG` and `LC_*`.
    pub languages: Vec<String>,
}

/// What stays and what goes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SlimPlan {
    /// The image's name.
    pub image: String,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Layers that it has.
    pub layers: usize,
    /// Bytes of it as stored.
    pub compressed: u64,
    /// Bytes of the files of all layers.
    pub bytes: u64,
    /// Bytes that stay.
    pub kept_bytes: u64,
    /// Files that stay.
    pub kept_files: usize,
    /// Files and bytes that go, by cause.
    pub causes: BTreeMap<Cause, Removed>,
    /// Directories that lose most, the largest first.
    pub directories: Vec<RemovedDirectory>,
    /// What stays, by whose it is, the largest first.
    pub remaining: Vec<Remaining>,
    /// Every file that goes.
    pub removed: Vec<RemovedFile>,
    /// Every file of which a part goes.
    pub trimmed: Vec<TrimmedFile>,
    /// Languages that formats stay of, where files are trimmed by them.
    #[serde(skip)]
    languages: Option<Languages>,
    /// Everything that stays.
    #[serde(skip)]
    keep: BTreeSet<PathBuf>,
}

/// A sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What stays of a package, or of a directory that no package brought.
#[derive(Clone, Debug, Serialize)]
pub struct Remaining {
    /// `manager:package`, or a directory.
    pub of: String,
    /// Its files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// A directory and what goes of it.
#[derive(Clone, Debug, Serialize)]
pub struct RemovedDirectory {
    /// The directory.
    pub path: PathBuf,
    /// What goes.
    #[serde(flatten)]
    pub removed: Removed,
    /// Whether all of it goes.
    pub whole: bool,
}

/// A file that goes.
#[derive(Clone, Debug, Serialize)]
pub struct RemovedFile {
    /// Its path.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// Why.
    pub cause: Cause,
}

/// A file of which a part goes.
#[derive(Clone, Debug, Serialize)]
pub struct TrimmedFile {
    /// Its path.
    pub path: PathBuf,
    /// Bytes that go.
    pub bytes: u64,
    /// Bytes that stay.
    pub kept: u64,
    /// What goes.
    pub cause: Cause,
}

/// Decide what stays. Nothing is changed.
pub(crate) fn plan(inner: &Inner, options: &SlimOptions) -> Result<SlimPlan> {
    let target = inner.require(&options.image)?;
    let info = inner.store.info(&target.digest)?;
    let lease = inner.store.lease()?;
    inner.store.protect(&lease, info.content())?;
    let snapshots = inner.ensure_snapshots(&info)?;
    let lowers = lowers(inner, &snapshots);
    let tree = Tree::read(&lowers, inner.store.options.limits.entries)?;
    let packages = Packages::read(&tree)?;
    let reached = reached(&tree, &packages, &info.config, options)?;
    let patterns = covers(&options.keep).map_err(|reason| Error::archive("--keep", reason))?;
    let spoken = Languages::of(&info.config.env, &options.languages);
    let seen = options.seen.iter().flatten().filter_map(|path| Some(tree.resolve(path, true)?.0)).collect();
    let mut decision = Decision { tree: &tree, reached, seen, keep: BTreeSet::new(), removed: Vec::new() };
    for (path, node) in &tree.nodes {
        let owned = packages.owner.contains_key(path);
        decision.decide(path, node, owned, patterns.ignored(path) || spoken.speak(path));
    }
    let (mut keep, mut removed) = (decision.keep, decision.removed);
    complete(&tree, &mut keep);
    licences(&tree, &packages, &mut keep);
    removed.retain(|file| !keep.contains(&file.path));
    // Guesses keep what an application may say; a trace is believed.
    let languages = options.seen.is_some().then_some(spoken);
    let trimmable = keep.iter().filter(|path| !patterns.ignored(path));
    let trimmed = trimmed(&tree, trimmable, languages.as_ref())?;
    let stored: u64 = snapshots.iter().filter_map(|hex| inner.store.snapshot_bytes(hex)).sum();
    let mut causes: BTreeMap<Cause, Removed> = BTreeMap::new();
    for file in &removed {
        let sum = causes.entry(file.cause).or_default();
        sum.files += 1;
        sum.bytes += file.bytes;
    }
    for file in &trimmed {
        causes.entry(file.cause).or_default().bytes += file.bytes;
    }
    let hidden = stored.saturating_sub(visible(&tree));
    if hidden > 0 {
        causes.entry(Cause::Hidden).or_default().bytes = hidden;
    }
    let remaining = remaining(&tree, &packages, &keep, &trimmed);
    Ok(SlimPlan {
        image: target.reference,
        digest: info.digest,
        layers: info.manifest.layers.len(),
        compressed: info.manifest.layers.iter().map(|layer| layer.size).sum(),
        bytes: stored,
        kept_bytes: remaining.iter().map(|what| what.bytes).sum(),
        kept_files: remaining.iter().map(|what| what.files).sum(),
        remaining,
        causes,
        directories: directories(&tree, &keep, &removed),
        removed,
        trimmed,
        languages,
        keep,
    })
}

/// Directories of an image's layers, top first.
fn lowers(inner: &Inner, snapshots: &[String]) -> Vec<PathBuf> {
    snapshots.iter().rev().map(|hex| inner.store.snapshot_dir(hex).join("fs")).collect()
}

fn remaining(
    tree: &Tree,
    packages: &Packages,
    keep: &BTreeSet<PathBuf>,
    trimmed: &[TrimmedFile],
) -> Vec<Remaining> {
    let gone: HashMap<&Path, u64> = trimmed.iter().map(|file| (file.path.as_path(), file.bytes)).collect();
    let mut links = BTreeSet::new();
    let mut sums: BTreeMap<String, Removed> = BTreeMap::new();
    for path in keep {
        let Some(node) = tree.get(path).filter(|node| node.metadata.is_file()) else { continue };
        let of = match packages.owner.get(path) {
            Some(at) => format!("{}:{}", packages.all[*at].manager, packages.all[*at].name),
            None => {
                let dirs: Vec<&Path> = path.ancestors().skip(1).collect();
                dirs[dirs.len().saturating_sub(4)].display().to_string()
            }
        };
        let sum = sums.entry(of).or_default();
        sum.files += 1;
        if node.identity().is_none_or(|file| links.insert(file)) {
            sum.bytes += node.size().saturating_sub(gone.get(path.as_path()).copied().unwrap_or_default());
        }
    }
    let mut all: Vec<Remaining> =
        sums.into_iter().map(|(of, sum)| Remaining { of, files: sum.files, bytes: sum.bytes }).collect();
    all.sort_by(|left, right| right.bytes.cmp(&left.bytes).then_with(|| left.of.cmp(&right.of)));
    all
}

/// What can be cut out of files that stay. Names of the same file are cut once, by the first.
fn trimmed<'a>(
    tree: &Tree,
    keep: impl Iterator<Item = &'a PathBuf>,
    languages: Option<&Languages>,
) -> Result<Vec<TrimmedFile>> {
    let mut found = Vec::new();
    let mut links = BTreeSet::new();
    for path in keep {
        let Some(node) = tree.get(path).filter(|node| node.metadata.is_file()) else { continue };
        if node.identity().is_some_and(|file| !links.insert(file)) {
            continue;
        }
        if let Some((bytes, cause)) = trim::file(&node.place, languages)? {
            let kept = bytes.len() as u64;
            found.push(TrimmedFile {
                path: path.clone(),
                bytes: node.size().saturating_sub(kept),
                kept,
                cause,
            });
        }
    }
    Ok(found)
}

/// Licences stay with what they are for: those of packages of which anything stays, and the texts that they refer to.
fn licences(tree: &Tree, packages: &Packages, keep: &mut BTreeSet<PathBuf>) {
    let left: BTreeSet<usize> = keep.iter().filter_map(|path| packages.owner.get(path).copied()).collect();
    for at in left {
        let package = &packages.all[at];
        for place in [
            format!("/usr/share/doc/{}/copyright", package.name),
            format!("/usr/share/licenses/{}", package.name),
        ] {
            let Some((end, links)) = tree.resolve(Path::new(&place), true) else { continue };
            keep.extend(tree.below(&end).map(|(path, _)| path.clone()));
            keep.extend(links);
            keep.insert(end);
            keep.extend(tree.below(Path::new("/usr/share/common-licenses")).map(|(path, _)| path.clone()));
        }
    }
    complete(tree, keep);
}

/// Everything that leads from what runs.
fn reached(
    tree: &Tree,
    packages: &Packages,
    config: &ImageConfig,
    options: &SlimOptions,
) -> Result<BTreeSet<PathBuf>> {
    let path = config.env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or_default();
    let mut reach = reach::Reach::new(tree, packages, path, options.seen.as_deref())?;
    let cwd = PathBuf::from(&config.working_dir);
    reach.command(&[config.entrypoint.clone(), config.cmd.clone()].concat(), &cwd);
    for argv in options.commands.iter().chain(health(config).as_ref()) {
        reach.command(argv, &cwd);
    }
    if let Some(shell) = &config.shell {
        reach.command(shell, &cwd);
    }
    for dir in config.volumes.iter().map(Path::new).chain([cwd.as_path()]) {
        if dir != Path::new("/") {
            reach.add_all(dir);
        }
    }
    for path in options.seen.iter().flatten() {
        reach.add(path);
        // Python opens the compiled file of a module, and will not without its source.
        if let Some(source) = source(path) {
            reach.add(&source);
        }
    }
    for (path, node) in &tree.nodes {
        let mine = !packages.owner.contains_key(path) && node.metadata.is_file();
        if mine && categories::never_needed(path, false).is_none() && !compiled(path) {
            reach.add(path);
        }
    }
    reach.run()?;
    Ok(std::mem::take(&mut reach.keep))
}

/// The command of a health check.
pub fn health(config: &ImageConfig) -> Option<Vec<String>> {
    let test = &config.healthcheck.as_ref()?.test;
    match test.split_first() {
        Some((kind, rest)) if kind == "CMD" => Some(rest.to_vec()),
        Some((kind, rest)) if kind == "CMD-SHELL" => {
            let shell = || vec!["/bin/sh".to_owned(), "-c".into()];
            Some([config.shell.clone().unwrap_or_else(shell), rest.to_vec()].concat())
        }
        _ => None,
    }
}

/// Where the source of a compiled file of Python is.
fn source(path: &Path) -> Option<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str()).filter(|_| compiled(path))?;
    let stem = name.split('.').next().unwrap_or_default();
    path.parent().and_then(Path::parent).map(|dir| dir.join(format!("{stem}.py")))
}

/// Python's compiled files go with their sources.
fn compiled(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "pyc")
        && path.parent().is_some_and(|dir| dir.ends_with("__pycache__"))
}

struct Decision<'a> {
    tree: &'a Tree,
    reached: BTreeSet<PathBuf>,
    /// What was opened, as it is called in the tree.
    seen: BTreeSet<PathBuf>,
    keep: BTreeSet<PathBuf>,
    removed: Vec<RemovedFile>,
}

impl Decision<'_> {
    fn decide(&mut self, path: &Path, node: &Node, owned: bool, wanted: bool) {
        let is_dir = node.metadata.is_dir();
        if wanted {
            self.keep.insert(path.to_owned());
            return;
        }
        if let Some(cause) = categories::never_needed(path, is_dir) {
            // Nobody needs it, as a rule: here somebody did. What was written to logs is no part of the image.
            if self.seen.contains(path) && cause != Cause::Temporary && !is_dir {
                self.keep.insert(path.to_owned());
                return;
            }
            return self.remove(path, node, cause);
        }
        if is_dir {
            // Directories that hold nothing are waited for by somebody, those that were opened too; the others come
            // with their files.
            let empty = self.tree.below(path).next().is_none();
            if empty || !path.starts_with("/usr") || self.reached.contains(path) {
                self.keep.insert(path.to_owned());
            }
            return;
        }
        let stays = match source(path) {
            Some(source) => self.reached.contains(&source),
            // Configuration is small, and who reads it is not always known.
            None => !owned || path.starts_with("/etc") || self.reached.contains(path),
        };
        // A link stays when what it means does.
        let dangling = node.link.is_some() && !self.reached.contains(path) && {
            match self.tree.resolve(path, true) {
                Some((end, _)) => {
                    !self.tree.is_dir(&end) && !self.reached.contains(&end) && end.starts_with("/usr")
                }
                None => false,
            }
        };
        if stays && !dangling {
            self.keep.insert(path.to_owned());
        } else {
            self.remove(path, node, Cause::Unreachable);
        }
    }

    fn remove(&mut self, path: &Path, node: &Node, cause: Cause) {
        if !node.metadata.is_dir() {
            self.removed.push(RemovedFile { path: path.to_owned(), bytes: node.size(), cause });
        }
    }
}

/// What is kept needs the directories above it, and links need what they mean.
fn complete(tree: &Tree, keep: &mut BTreeSet<PathBuf>) {
    let mut todo: Vec<PathBuf> = keep.iter().cloned().collect();
    while let Some(path) = todo.pop() {
        let mut more: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
        if tree.get(&path).is_some_and(|node| node.link.is_some())
            && let Some((end, links)) = tree.resolve(&path, true)
        {
            more.push(end);
            more.extend(links);
        }
        for path in more {
            if path != Path::new("/") && keep.insert(path.clone()) {
                todo.push(path);
            }
        }
    }
}

fn directories(tree: &Tree, keep: &BTreeSet<PathBuf>, removed: &[RemovedFile]) -> Vec<RemovedDirectory> {
    let mut sums: BTreeMap<&Path, Removed> = BTreeMap::new();
    for file in removed {
        // The highest directory that goes as a whole, else the third level.
        let dirs: Vec<&Path> = file.path.ancestors().skip(1).filter(|dir| *dir != Path::new("/")).collect();
        let whole = dirs.iter().rev().find(|dir| !keep.contains(**dir));
        let third = dirs.iter().rev().nth(2.min(dirs.len().saturating_sub(1)));
        let Some(dir) = whole.or(third) else { continue };
        let sum = sums.entry(dir).or_default();
        sum.files += 1;
        sum.bytes += file.bytes;
    }
    let mut found: Vec<RemovedDirectory> = sums
        .into_iter()
        .map(|(path, removed)| {
            let whole = !keep.contains(path) && tree.is_dir(path);
            RemovedDirectory { path: path.to_owned(), removed, whole }
        })
        .collect();
    found.sort_by(|left, right| {
        right.removed.bytes.cmp(&left.removed.bytes).then_with(|| left.path.cmp(&right.path))
    });
    found.truncate(SHOWN);
    found
}

/// Make the image that a plan describes.
pub(crate) fn write(inner: &Inner, plan: &SlimPlan, name: &str) -> Result<ImageSummary> {
    let name = Reference::parse(name)?;
    let lease = inner.store.lease()?;
    let original = inner.store.info(&plan.digest)?;
    inner.store.protect(&lease, original.content())?;
    // As they are now: a layer may have been unpacked anew since the plan was made.
    let snapshots = inner.ensure_snapshots(&original)?;
    let tree = Tree::read(&lowers(inner, &snapshots), inner.store.options.limits.entries)?;
    let upper = lease.scratch_dir("slim")?;
    copy(&tree, plan, &upper)?;
    let layer = commit(inner, &lease, &upper, Format::ZstdHigh, None)?;
    let mut file = original.file.clone();
    let config: &mut ConfigJson = file.config.get_or_insert_default();
    config.labels.get_or_insert_default().insert("io.sampan.slim.from".into(), plan.digest.to_string());
    // One layer, made of all: the instructions stay as a record.
    for entry in file.history.iter_mut().flatten() {
        entry.empty_layer = true;
    }
    file.history.get_or_insert_default().push(HistoryEntry {
        created: file.created.clone(),
        created_by: Some("sampan image slim".into()),
        comment: None,
        empty_layer: layer.is_none(),
    });
    file.rootfs.diff_ids = layer.iter().map(|layer| layer.diff_id).collect();
    let layers: Vec<oci::Descriptor> = layer.iter().map(|layer| layer.descriptor.clone()).collect();
    let snapshots: Vec<String> = layer.iter().map(|layer| layer.diff_id.hex()).collect();
    let info = write_image(inner, &lease, file, layers, Path::new(&plan.image))?;
    inner.store.sync_snapshots(&snapshots)?;
    let named = crate::import::name_image(&inner.store, &info, None, &[name])?;
    named.into_iter().next().ok_or_else(|| Error::NotPresent { name: plan.image.clone() })
}

/// Copy what stays, with links between names of the same file.
fn copy(tree: &Tree, plan: &SlimPlan, upper: &Path) -> Result<()> {
    let trimmed: BTreeSet<&Path> = plan.trimmed.iter().map(|file| file.path.as_path()).collect();
    let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut dirs = Vec::new();
    for path in &plan.keep {
        let Some(node) = tree.get(path) else { continue };
        let place = upper.join(path.strip_prefix("/").unwrap_or(path));
        if node.metadata.is_dir() {
            fs::create_dir(&place).map_err(Error::io("create", &place))?;
            dirs.push((place, node));
            continue;
        }
        if let Some(file) = node.identity() {
            if let Some(first) = links.get(&file) {
                fs::hard_link(first, &place).map_err(Error::io("link", &place))?;
                continue;
            }
            links.insert(file, place.clone());
        }
        if let Some(target) = &node.link {
            std::os::unix::fs::symlink(target, &place).map_err(Error::io("create", &place))?;
        } else if trimmed.contains(path.as_path())
            && let Some((bytes, _)) = trim::file(&node.place, plan.languages.as_ref())?
        {
            fs::write(&place, bytes).map_err(Error::io("write", &place))?;
        } else if node.metadata.is_file() {
            fs::copy(&node.place, &place).map_err(Error::io("copy to", &place))?;
        } else {
            let kind = nix::sys::stat::SFlag::from_bits_truncate(node.metadata.mode())
                & nix::sys::stat::SFlag::S_IFMT;
            let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
            nix::sys::stat::mknod(&place, kind, mode, node.metadata.rdev())
                .map_err(Error::errno("create", &place))?;
        }
        meta::copy(&node.place, &node.metadata, &place, None)
            .map_err(Error::io("set metadata of", &place))?;
    }
    // Times of directories last: what is made in them changes them.
    for (place, node) in dirs.iter().rev() {
        meta::copy(&node.place, &node.metadata, place, None).map_err(Error::io("set metadata of", place))?;
    }
    Ok(())
}
