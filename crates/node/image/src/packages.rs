//! What package managers know of an image: packages, and whose each file is. Read from their own records.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::layers::tree::Tree;

/// Bytes of one record that are read.
const MAX_RECORD: u64 = 64 << 20;
/// Packages of one image.
const MAX_PACKAGES: usize = 100_000;

/// An installed package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Package {
    /// Its manager: `dpkg`, `apk`, `python` or `node`.
    pub manager: &'static str,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Bytes of its files.
    pub bytes: u64,
}

/// All packages, and owners of files.
#[derive(Default)]
pub(crate) struct Packages {
    pub(crate) all: Vec<Package>,
    /// Package by file, both of system packages; paths without symlinks on the way.
    pub(crate) owner: BTreeMap<PathBuf, usize>,
    /// Files by package.
    pub(crate) files: Vec<Vec<PathBuf>>,
}

impl Packages {
    pub(crate) fn read(tree: &Tree) -> Result<Self> {
        let mut packages = Self::default();
        packages.dpkg(tree)?;
        packages.apk(tree)?;
        // Only system packages own files: what languages' managers install is the application's.
        packages.python(tree)?;
        packages.node(tree)?;
        Ok(packages)
    }

    fn add(&mut self, manager: &'static str, name: &str, version: &str) -> Result<usize> {
        if self.all.len() >= MAX_PACKAGES {
            let limit = MAX_PACKAGES as u64;
            return Err(Error::Limit { what: "packages of the image".into(), limit, unit: "packages" });
        }
        let (name, version) = (name.to_owned(), version.to_owned());
        self.all.push(Package { manager, name, version, bytes: 0 });
        self.files.push(Vec::new());
        Ok(self.all.len() - 1)
    }

    /// A file that a package says it brought, as it is called in the tree.
    fn own(&mut self, tree: &Tree, package: usize, path: &Path) {
        let Some((path, _)) = tree.resolve(path, false) else { return };
        let Some(node) = tree.get(&path).filter(|node| !node.metadata.is_dir()) else { return };
        self.all[package].bytes += node.size();
        self.owner.insert(path.clone(), package);
        self.files[package].push(path);
    }

    fn dpkg(&mut self, tree: &Tree) -> Result<()> {
        let mut records = read_text(tree, Path::new("/var/lib/dpkg/status"))?.unwrap_or_default();
        let parts = Path::new("/var/lib/dpkg/status.d");
        let parts: Vec<PathBuf> = tree.below(parts).map(|(path, _)| path.clone()).collect();
        for path in parts {
            // Beside each record lie its checksums; a name may have a dot itself.
            if path.extension().is_none_or(|end| end != "md5sums") {
                records.push_str("\n\n");
                records.push_str(&read_text(tree, &path)?.unwrap_or_default());
            }
        }
        let mut by_name = BTreeMap::new();
        for record in records.split("\n\n") {
            let field = |name: &str| record.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let (Some(name), Some(version)) = (field("Package:"), field("Version:")) else { continue };
            // Distroless images have no status lines.
            if field("Status:").is_some_and(|status| !status.ends_with(" installed")) {
                continue;
            }
            let at = self.add("dpkg", name, version)?;
            by_name.insert(name.to_owned(), at);
        }
        let lists: Vec<PathBuf> =
            tree.below(Path::new("/var/lib/dpkg/info")).map(|(path, _)| path.clone()).collect();
        for path in lists {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let Some(name) = name.strip_suffix(".list") else { continue };
            let name = name.split(':').next().unwrap_or_default();
            let Some(&at) = by_name.get(name) else { continue };
            for line in read_text(tree, &path)?.unwrap_or_default().lines() {
                self.own(tree, at, Path::new(line));
            }
        }
        Ok(())
    }

    fn apk(&mut self, tree: &Tree) -> Result<()> {
        let old = read_text(tree, Path::new("/lib/apk/db/installed"))?;
        let new = || read_text(tree, Path::new("/usr/lib/apk/db/installed"));
        let text = old.map_or_else(new, |text| Ok(Some(text)))?.unwrap_or_default();
        for record in text.split("\n\n") {
            let field = |name: &str| record.lines().find_map(|line| line.strip_prefix(name));
            let (Some(name), Some(version)) = (field("P:"), field("V:")) else { continue };
            let at = self.add("apk", name, version)?;
            let mut dir = PathBuf::from("/");
            for line in record.lines() {
                if let Some(name) = line.strip_prefix("F:") {
                    dir = Path::new("/").join(name);
                } else if let Some(name) = line.strip_prefix("R:") {
                    self.own(tree, at, &dir.join(name));
                }
            }
        }
        Ok(())
    }

    fn python(&mut self, tree: &Tree) -> Result<()> {
        let found: Vec<PathBuf> = tree
            .nodes
            .keys()
            .filter(|path| {
                let info = path.parent().and_then(Path::extension);
                let file = path.file_name().and_then(|name| name.to_str());
                matches!(
                    (info.and_then(|end| end.to_str()), file),
                    (Some("dist-info"), Some("METADATA")) | (Some("egg-info"), Some("PKG-INFO"))
                )
            })
            .filter(|path| !self.owner.contains_key(*path))
            .cloned()
            .collect();
        for path in found {
            let text = read_text(tree, &path)?.unwrap_or_default();
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let (Some(name), Some(version)) = (field("Name:"), field("Version:")) else { continue };
            let at = self.add("python", name, version)?;
            let record = path.with_file_name("RECORD");
            let base = path.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
            for line in read_text(tree, &record)?.unwrap_or_default().lines() {
                let file = line.split(',').next().unwrap_or_default().trim_matches('"');
                let node = tree.resolve(&base.join(file), true).and_then(|(path, _)| tree.get(&path));
                self.all[at].bytes += node.map_or(0, |node| node.size());
            }
        }
        Ok(())
    }

    fn node(&mut self, tree: &Tree) -> Result<()> {
        #[derive(serde::Deserialize)]
        struct Manifest {
            name: Option<String>,
            version: Option<String>,
        }
        let found: Vec<PathBuf> = tree
            .nodes
            .keys()
            .filter(|path| {
                let mut above = path.iter().rev().skip(2);
                let first = above.next().and_then(|name| name.to_str()).unwrap_or_default();
                let second = above.next().and_then(|name| name.to_str()).unwrap_or_default();
                path.ends_with("package.json")
                    && (first == "node_modules" || (first.starts_with('@') && second == "node_modules"))
            })
            .filter(|path| !self.owner.contains_key(*path))
            .cloned()
            .collect();
        for path in found {
            let text = read_text(tree, &path)?.unwrap_or_default();
            let Ok(Manifest { name: Some(name), version: Some(version) }) = serde_json::from_str(&text)
            else {
                continue;
            };
            let at = self.add("node", &name, &version)?;
            let dir = path.parent().unwrap_or(Path::new("/"));
            // Modules below it are packages of their own.
            let own = tree.below(dir).filter(|(path, _)| {
                path.strip_prefix(dir).is_ok_and(|rest| !rest.iter().any(|part| part == "node_modules"))
            });
            self.all[at].bytes = own.map(|(_, node)| node.size()).sum();
        }
        Ok(())
    }
}

/// A text file of the image; `None` when there is none.
pub(crate) fn read_text(tree: &Tree, path: &Path) -> Result<Option<String>> {
    use std::io::Read as _;
    let Some((path, _)) = tree.resolve(path, true) else { return Ok(None) };
    let Some(node) = tree.get(&path).filter(|node| node.metadata.is_file()) else { return Ok(None) };
    let mut bytes = Vec::new();
    let file = fs::File::open(&node.place).map_err(Error::io("open", &node.place))?;
    file.take(MAX_RECORD).read_to_end(&mut bytes).map_err(Error::io("read", &node.place))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
