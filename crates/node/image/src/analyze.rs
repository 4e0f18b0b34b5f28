//! Where an image's bytes are, and which of them nobody needs.

mod layers;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::digest::Digest;
use crate::error::Result;
use crate::layers::tree::Tree;
use crate::packages::{Package, Packages};
use crate::service::Inner;

/// Directories, and groups of the same files, that are named.
const SHOWN: usize = 50;
/// Files smaller than this are not looked for twice.
const SMALL: u64 = 4096;

/// What was found in one or more images.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Analysis {
    /// Each image.
    pub images: Vec<ImageAnalysis>,
    /// Layers that several of them have: stored once.
    pub shared_layers: Vec<SharedLayer>,
    /// Packages that several of them hold in layers of their own: a common base image would hold them once.
    pub repeated_packages: Vec<RepeatedPackage>,
    /// Bytes of these packages beyond the first.
    pub repeated_bytes: u64,
}

/// One image.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageAnalysis {
    /// Its name.
    pub image: String,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Bytes as stored and transferred.
    pub compressed: u64,
    /// Bytes of the files of all layers.
    pub bytes: u64,
    /// Bytes that a container sees.
    pub visible: u64,
    /// Files that a container sees.
    pub files: usize,
    /// Layers, bottom first.
    pub layers: Vec<LayerAnalysis>,
    /// Bytes by directory, the largest first.
    pub directories: Vec<DirectoryBytes>,
    /// Files that later layers overwrite or delete, the largest first.
    pub wasted: Vec<WastedFile>,
    /// Their bytes.
    pub wasted_bytes: u64,
    /// Files with the same content, the largest first.
    pub duplicates: Vec<DuplicateFiles>,
    /// Bytes of these beyond the first.
    pub duplicate_bytes: u64,
    /// Packages, the largest first.
    pub packages: Vec<Package>,
}

/// One layer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerAnalysis {
    /// Digest as transferred.
    pub digest: Digest,
    /// Bytes as transferred.
    pub compressed: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// How many.
    pub files: usize,
    /// Bytes of it that later layers overwrite or delete.
    pub wasted: u64,
    /// The instruction that made it.
    pub created_by: String,
}

/// A directory with everything below it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectoryBytes {
    /// Its path.
    pub path: PathBuf,
    /// Bytes below it.
    pub bytes: u64,
    /// Files below it.
    pub files: usize,
}

/// A file that is stored and not seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WastedFile {
    /// Its path.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// The layer that has it, from 0.
    pub layer: usize,
    /// The layer that hides it.
    pub by: usize,
    /// Whether it is deleted there, and not replaced.
    pub deleted: bool,
}

/// Files with the same content.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DuplicateFiles {
    /// Bytes of one.
    pub bytes: u64,
    /// All of them.
    pub paths: Vec<PathBuf>,
}

/// A layer of several images.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedLayer {
    /// Digest as transferred.
    pub digest: Digest,
    /// Bytes as transferred.
    pub compressed: u64,
    /// Names of the images.
    pub images: Vec<String>,
}

/// A package of several images.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepeatedPackage {
    /// The package, as in the first.
    pub package: Package,
    /// Names of the images.
    pub images: Vec<String>,
    /// Bytes beyond the first.
    pub bytes: u64,
}

pub(crate) fn analyze(inner: &Inner, references: &[String]) -> Result<Analysis> {
    let mut images = Vec::new();
    let lease = inner.store.lease()?;
    for reference in references {
        let target = inner.require(reference)?;
        let info = inner.store.info(&target.digest)?;
        inner.store.protect(&lease, info.content())?;
        let snapshots = inner.ensure_snapshots(&info)?;
        images.push(image(inner, &target.reference, &info, &snapshots)?);
    }
    let shared_layers = shared(&images);
    let repeated_packages = repeated(&images, &shared_layers);
    let repeated_bytes = repeated_packages.iter().map(|package| package.bytes).sum();
    Ok(Analysis { images, shared_layers, repeated_packages, repeated_bytes })
}

fn image(
    inner: &Inner,
    name: &str,
    info: &crate::store::info::ImageInfo,
    snapshots: &[String],
) -> Result<ImageAnalysis> {
    let dirs: Vec<PathBuf> = snapshots.iter().map(|hex| inner.store.snapshot_dir(hex).join("fs")).collect();
    let limit = inner.store.options.limits.entries;
    let seen = layers::walk(&dirs, limit)?;
    let lowers: Vec<PathBuf> = dirs.iter().rev().cloned().collect();
    let tree = Tree::read(&lowers, limit)?;
    let mut made = info.file.history.iter().flatten().filter(|entry| !entry.empty_layer);
    let layers =
        info.manifest.layers.iter().zip(&seen.layers).enumerate().map(|(at, (layer, seen_layer))| {
            let wasted = seen.wasted.iter().filter(|file| file.layer == at).map(|file| file.bytes).sum();
            let created_by = made.next().and_then(|entry| entry.created_by.clone()).unwrap_or_default();
            LayerAnalysis {
                digest: layer.digest,
                compressed: layer.size,
                bytes: seen_layer.bytes,
                files: seen_layer.files,
                wasted,
                created_by,
            }
        });
    let layers: Vec<LayerAnalysis> = layers.collect();
    let mut packages = Packages::read(&tree)?.all;
    packages.sort_by(|left, right| right.bytes.cmp(&left.bytes).then_with(|| left.cmp(right)));
    let duplicates = duplicates(&tree)?;
    let mut wasted = seen.wasted;
    wasted.sort_by(|left, right| right.bytes.cmp(&left.bytes).then_with(|| left.path.cmp(&right.path)));
    let files = tree.nodes.values().filter(|node| node.metadata.is_file());
    Ok(ImageAnalysis {
        image: name.to_owned(),
        digest: info.digest,
        compressed: info.manifest.layers.iter().map(|layer| layer.size).sum(),
        bytes: layers.iter().map(|layer| layer.bytes).sum(),
        visible: visible(&tree),
        files: files.count(),
        layers,
        directories: directories(&tree),
        wasted_bytes: wasted.iter().map(|file| file.bytes).sum(),
        wasted,
        duplicate_bytes: duplicates.iter().map(|group| group.bytes * (group.paths.len() as u64 - 1)).sum(),
        duplicates,
        packages,
    })
}

/// Bytes of all files, each counted once however many names it has.
pub(crate) fn visible(tree: &Tree) -> u64 {
    let mut seen = BTreeSet::new();
    tree.nodes
        .values()
        .filter(|node| node.identity().is_none_or(|file| seen.insert(file)))
        .map(|node| node.size())
        .sum()
}

fn directories(tree: &Tree) -> Vec<DirectoryBytes> {
    let mut sums: BTreeMap<&Path, (u64, usize)> = BTreeMap::new();
    for (path, node) in tree.nodes.iter().filter(|(_, node)| node.metadata.is_file()) {
        for dir in path.ancestors().skip(1).filter(|dir| dir.components().count() <= 4) {
            let sum = sums.entry(dir).or_default();
            sum.0 += node.size();
            sum.1 += 1;
        }
    }
    let mut found: Vec<DirectoryBytes> = sums
        .into_iter()
        .map(|(path, (bytes, files))| DirectoryBytes { path: path.to_owned(), bytes, files })
        .collect();
    found.sort_by(|left, right| right.bytes.cmp(&left.bytes).then_with(|| left.path.cmp(&right.path)));
    found.truncate(SHOWN);
    found
}

/// Files of the same size are compared by digest.
fn duplicates(tree: &Tree) -> Result<Vec<DuplicateFiles>> {
    let mut by_size: HashMap<u64, Vec<&PathBuf>> = HashMap::new();
    let mut links = BTreeSet::new();
    for (path, node) in &tree.nodes {
        if node.size() >= SMALL && node.identity().is_none_or(|file| links.insert(file)) {
            by_size.entry(node.size()).or_default().push(path);
        }
    }
    let mut found = Vec::new();
    for (bytes, paths) in by_size.into_iter().filter(|(_, paths)| paths.len() > 1) {
        let mut same: BTreeMap<Digest, Vec<PathBuf>> = BTreeMap::new();
        for path in paths {
            if let Some(node) = tree.get(path) {
                same.entry(Digest::of_file(&node.place)?).or_default().push(path.clone());
            }
        }
        found.extend(same.into_values().filter(|paths| paths.len() > 1).map(|mut paths| {
            paths.sort();
            DuplicateFiles { bytes, paths }
        }));
    }
    let waste = |group: &DuplicateFiles| group.bytes * (group.paths.len() as u64 - 1);
    found.sort_by(|left, right| waste(right).cmp(&waste(left)).then_with(|| left.paths.cmp(&right.paths)));
    Ok(found)
}

fn shared(images: &[ImageAnalysis]) -> Vec<SharedLayer> {
    let mut layers: BTreeMap<Digest, SharedLayer> = BTreeMap::new();
    for image in images {
        for layer in &image.layers {
            let shared = layers.entry(layer.digest).or_insert_with(|| SharedLayer {
                digest: layer.digest,
                compressed: layer.compressed,
                images: Vec::new(),
            });
            if shared.images.last() != Some(&image.image) {
                shared.images.push(image.image.clone());
            }
        }
    }
    layers.into_values().filter(|layer| layer.images.len() > 1).collect()
}

/// Images with the package that each has.
type Holders<'a> = Vec<(&'a ImageAnalysis, &'a Package)>;

/// Images that share a layer may have a package from there: only those whose first layers differ count.
fn repeated(images: &[ImageAnalysis], shared: &[SharedLayer]) -> Vec<RepeatedPackage> {
    let base = |image: &ImageAnalysis| {
        let first = image.layers.first().map(|layer| layer.digest);
        first.filter(|digest| shared.iter().any(|layer| layer.digest == *digest))
    };
    let mut bases: BTreeMap<Digest, &ImageAnalysis> = BTreeMap::new();
    let mut apart: Vec<&ImageAnalysis> = Vec::new();
    for image in images {
        match base(image) {
            Some(digest) if bases.contains_key(&digest) => {}
            Some(digest) => {
                bases.insert(digest, image);
                apart.push(image);
            }
            None => apart.push(image),
        }
    }
    let mut found: BTreeMap<(&str, &str, &str), Holders<'_>> = BTreeMap::new();
    for image in apart {
        for package in &image.packages {
            let key = (package.manager, package.name.as_str(), package.version.as_str());
            let holders = found.entry(key).or_default();
            if holders.last().is_none_or(|(other, _)| other.image != image.image) {
                holders.push((image, package));
            }
        }
    }
    let mut repeated: Vec<RepeatedPackage> = found
        .into_values()
        .filter(|holders| holders.len() > 1)
        .map(|holders| RepeatedPackage {
            package: holders[0].1.clone(),
            images: holders.iter().map(|(image, _)| image.image.clone()).collect(),
            bytes: holders[1..].iter().map(|(_, package)| package.bytes).sum(),
        })
        .collect();
    repeated
        .sort_by(|left, right| right.bytes.cmp(&left.bytes).then_with(|| left.package.cmp(&right.package)));
    repeated
}
